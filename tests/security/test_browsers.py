"""Pages and files on the origin of the API cannot act on behalf of a user who views them."""

from __future__ import annotations

import pytest
import requests
from deployment import Deployment
from lxml import etree

XML = "text/xml"
PACKAGE = "vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0"
NODE = (
    '<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vs:ContainerNode"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vs="http://www.ivoa.net/xml/VOSpace/v2.0"/>'
)
TRANSFER = (
    '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"><vos:target>{target}</vos:target>'
    "<vos:direction>{direction}</vos:direction><vos:keepBytes>false</vos:keepBytes></vos:transfer>"
)


@pytest.fixture
def home(stack: Deployment, http: requests.Session, user: str) -> str:
    """Path of the user's area, which contains a page made by the user."""
    path = f"home/{user}"
    url = f"{stack.url}/src/cavern"
    http.put(f"{url}/nodes/{path}", data=NODE, headers={"Content-Type": XML}, timeout=30).raise_for_status()
    page = "<script>fetch('/src/cavern/transfers', {method: 'POST'})</script>"
    headers = {"Content-Type": "text/html"}
    http.put(f"{url}/files/{path}/page.html", data=page, headers=headers, timeout=30).raise_for_status()
    return path


def test_a_user_s_page_runs_no_script(stack: Deployment, http: requests.Session, home: str) -> None:
    shown = http.get(f"{stack.url}/src/cavern/files/{home}/page.html", timeout=30)
    assert shown.headers["Content-Type"] == "text/html"
    assert shown.headers["Content-Security-Policy"] == "sandbox"
    assert shown.headers["X-Content-Type-Options"] == "nosniff"


def test_a_package_runs_no_script(stack: Deployment, http: requests.Session, home: str) -> None:
    target = f"{_root(stack, http)}/{home}/page.html"
    asked = TRANSFER.format(target=target, direction="pullFromVoSpace").replace(
        "<vos:keepBytes>false</vos:keepBytes>", f'<vos:view uri="{PACKAGE}"/>'
    )
    answer = http.post(
        f"{stack.url}/src/cavern/synctrans", data=asked, headers={"Content-Type": XML}, timeout=60
    )
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_pages_of_other_sites_change_nothing(
    stack: Deployment, http: requests.Session, home: str, headers: dict[str, str]
) -> None:
    service = f"{stack.url}/src/cavern"
    uri = f"{_root(stack, http)}/{home}"
    form = {"target": uri}
    for method, path, options in (
        ("POST", f"{service}/async-delete?PHASE=RUN", {"data": form}),
        ("POST", f"{service}/availability", {"data": {"state": "Offline"}}),
        ("DELETE", f"{service}/nodes/{home}/page.html", {}),
        ("POST", f"{stack.url}/src/posix-mapper/logControl", {"data": {"level": "DEBUG"}}),
        ("POST", f"{stack.url}/prepare-data/", {"json": []}),
        ("POST", f"{stack.url}/iam/token", {"data": {}}),
    ):
        answer = http.request(method, path, headers=headers, timeout=30, allow_redirects=False, **options)
        assert answer.status_code == 403, path
        assert "a page of another site" in answer.text
    assert http.get(f"{service}/nodes/{home}", timeout=30).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_content_types_that_any_page_can_send_are_rejected(
    stack: Deployment, http: requests.Session, home: str, kind: str
) -> None:
    service = f"{stack.url}/src/cavern"
    headers = {"Content-Type": kind}
    uri = f"{_root(stack, http)}/{home}"
    move = TRANSFER.format(target=f"{uri}/page.html", direction=f"{uri}/moved.html")
    change = NODE.replace("<node ", f'<node uri="{uri}" ')
    for path, document in (
        ("/transfers?PHASE=RUN", move),
        ("/synctrans", move),
        (f"/nodes/{home}", change),
        ("/async-setprops", change),
        ("/bulk-pull", '{"rows": []}'),
    ):
        answer = http.post(service + path, data=document, headers=headers, timeout=60, allow_redirects=False)
        assert answer.status_code == 415, path
        assert "Content-Type" in answer.text
    told = http.post(f"{stack.url}/prepare-data/", data="[]", headers=headers, timeout=30)
    assert told.status_code == 415
    assert http.get(f"{service}/files/{home}/page.html", timeout=30).status_code == 200


def _root(stack: Deployment, http: requests.Session) -> str:
    told = http.get(f"{stack.url}/src/cavern/nodes?limit=0", timeout=30)
    return str(etree.fromstring(told.content).get("uri"))
