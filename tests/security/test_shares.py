"""One user, or all anonymous callers, cannot use up shared resources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
import wire
from deployment import Deployment
from user_space import Space
from vospace_client.terms import CORE, VOS

XML = {"Content-Type": "text/xml"}
SUBMISSIONS = 12
"""More than all processes parse concurrently."""


def transfer(target: str, direction: str, protocol: str = "httpsget") -> str:
    return (
        f'<vos:transfer xmlns:vos="{VOS}"><vos:target>{target}</vos:target>'
        f'<vos:direction>{direction}</vos:direction><vos:protocol uri="{CORE}{protocol}"/></vos:transfer>'
    )


@pytest.fixture
def space(stack: Deployment, user: str) -> Space:
    """The space of a user whose area contains a public file."""
    space = Space(stack, user)
    home = f"/home/{user}"
    assert space.make(home, {f"{CORE}ispublic": "true"}).status_code == 201
    assert space.make(f"{home}/public", {f"{CORE}ispublic": "true"}).status_code == 201
    for name in ("public/f", "private"):
        space.http.put(f"{space.url}/files{home}/{name}", data=b"x", timeout=30).raise_for_status()
    assert space.change(f"{home}/public/f", {f"{CORE}ispublic": "true"}, kind="DataNode").status_code == 200
    return space


def test_anonymous_callers_store_nothing(
    stack: Deployment, anonymous: requests.Session, space: Space, user: str
) -> None:
    root = f"{space.root}/home/{user}"
    service = space.url
    for path in ("/transfers", "/synctrans", "/pkg"):
        for document, statuses in (
            (transfer(f"{root}/new", "pushToVoSpace", "httpsput"), {403}),
            (transfer(f"{root}/new", "pullToVoSpace", "httpget"), {403}),
            (transfer(f"{root}/public/f", f"{root}/moved"), {403}),
            (transfer(f"{root}/private", "pullFromVoSpace"), {403}),
            (transfer(f"{root}/none", "pullFromVoSpace"), {404}),
            (transfer(f"{root}/public/f", "pullFromVoSpace") + " " * (4 << 20), {400, 413}),
        ):
            answer = anonymous.post(
                service + path, data=document, headers=XML, timeout=60, allow_redirects=False
            )
            assert answer.status_code in statuses, (path, document[:300], answer.text)
    for path in ("/bulk-pull", "/async-delete", "/async-setprops"):
        answer = anonymous.post(service + path, json={"rows": []}, timeout=30, allow_redirects=False)
        assert answer.status_code in (403, 415), path


def test_anonymous_callers_may_read_public_nodes(
    anonymous: requests.Session, space: Space, user: str
) -> None:
    document = transfer(f"{space.root}/home/{user}/public/f", "pullFromVoSpace")
    answer = anonymous.post(f"{space.url}/synctrans", data=document, headers=XML, timeout=60)
    assert answer.status_code == 200
    assert f"/files/home/{user}/public/f" in answer.text
    created = anonymous.post(
        f"{space.url}/transfers", data=document, headers=XML, timeout=30, allow_redirects=False
    )
    job = created.headers["Location"]
    shown = anonymous.get(job, timeout=30).text
    assert created.status_code == 303
    for data in ({"note": "x" * 500_000}, {"note": "x"}):
        assert anonymous.post(f"{job}/parameters", data=data, timeout=30).status_code in (400, 413)
    later = {"DESTRUCTION": "2100-01-01T00:00:00Z"}
    anonymous.post(f"{job}/destruction", data=later, timeout=30).raise_for_status()
    assert anonymous.get(job, timeout=30).text == shown


@pytest.fixture
def idle(stack: Deployment, user: str) -> Iterator[None]:
    """Submissions of one user that are announced but never sent."""
    token = stack.token(f"{user}x")
    with ExitStack() as closing:
        for _ in range(SUBMISSIONS):
            connection = closing.enter_context(wire.connect_tls(stack))
            head = (
                f"Authorization: Bearer {token}",
                "Content-Type: application/json",
                "Content-Length: 1000000",
            )
            connection.sendall(wire.request(stack, "POST", "/src/cavern/bulk-pull?PHASE=RUN", *head))
            connection.sendall(b'{"rows": [')
        yield


@pytest.mark.usefixtures("idle")
def test_unsent_submissions_do_not_block_others(space: Space, user: str) -> None:
    row = {"source": "http://nowhere.example/x", "target": f"{space.root}/home/{user}/x"}
    # Several, since the start of the others cannot be observed.
    for count in (*[1] * 10, 5_000):
        answer = space.http.post(
            f"{space.url}/bulk-pull", json={"rows": [row] * count}, timeout=60, allow_redirects=False
        )
        assert answer.status_code == 303, answer.text


@pytest.mark.parametrize(
    ("kind", "given", "named"),
    [
        ("bulk-pull", {"concurrency": "5000"}, "concurrency"),
        ("bulk-pull", {"concurrency": "abc"}, "concurrency"),
        ("bulk-pull", {"if_exists": "bogus"}, "if_exists"),
        ("bulk-pull", {"rows": "3"}, "rows"),
        ("async-delete", {"target": "nonsense"}, "target"),
        ("async-delete", {"note": "x"}, "note"),
        ("async-setprops", {"target": "nonsense"}, "target"),
        ("transfers", {"TARGET": "nonsense"}, "TARGET"),
    ],
)
def test_parameters_of_jobs_are_checked(
    space: Space, user: str, kind: str, given: dict[str, str], named: str
) -> None:
    uri = f"{space.root}/home/{user}/private"
    row = {"source": "http://nowhere.example/x", "target": uri}
    requests_by_kind: dict[str, dict[str, Any]] = {
        "bulk-pull": {"json": {"rows": [row]}},
        "async-delete": {"data": {"target": uri}},
        "async-setprops": {"data": space.document("DataNode", f"/home/{user}/private", {}), "headers": XML},
        "transfers": {"data": transfer(uri, "pullFromVoSpace"), "headers": XML},
    }
    made = space.http.post(f"{space.url}/{kind}", timeout=30, allow_redirects=False, **requests_by_kind[kind])
    job = made.headers["Location"]
    for url, data in ((f"{job}/parameters", given), (job, given | {"PHASE": "RUN"})):
        answer = space.http.post(url, data=data, timeout=30, allow_redirects=False)
        assert answer.status_code == 400
        assert named in answer.text
        assert space.http.get(f"{job}/phase", timeout=30).text == "PENDING"


@pytest.mark.parametrize(
    ("path", "data", "named"),
    [
        ("async-delete", {"target": "vos://elsewhere~cavern/x"}, "target"),
        ("async-delete", {"target": "{root}/home/x", "note": "x"}, "note"),
        ("async-delete?PHASE=START", {"target": "{root}/home/x"}, "PHASE"),
        ("async-delete?RUNID=" + "x" * 1000, {"target": "{root}/home/x"}, "RUNID"),
    ],
)
def test_parameters_are_checked_before_there_is_a_job(
    space: Space, path: str, data: dict[str, str], named: str
) -> None:
    given = {name: value.replace("{root}", space.root) for name, value in data.items()}
    answer = space.http.post(f"{space.url}/{path}", data=given, timeout=30, allow_redirects=False)
    assert (answer.status_code, named in answer.text) == (400, True), answer.text
    assert "jobref" not in space.http.get(f"{space.url}/async-delete", timeout=30).text


def test_a_malformed_package_request_is_rejected(space: Space, user: str) -> None:
    view = (
        '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0">'
        f'<vos:param uri="{CORE}format">text/html</vos:param></vos:view><vos:protocol'
    )
    document = transfer(f"{space.root}/home/{user}/private", "pullFromVoSpace")
    answer = space.http.post(
        f"{space.url}/synctrans",
        data=document.replace("<vos:protocol", view),
        headers=XML,
        timeout=30,
        allow_redirects=False,
    )
    assert (answer.status_code, f"{CORE}format" in answer.text) == (400, True)


def test_estimates_are_limited(stack: Deployment, http: requests.Session) -> None:
    url = f"{stack.url}/prepare-data/v1/estimate"
    many = {"files": [{"did": f"testing:f{number}"} for number in range(20_000)]}
    answer = http.post(url, json=many, timeout=120)
    assert (answer.status_code, "20000 files" in answer.text) == (413, True), answer.text
    statuses = [
        http.post(url, json={"files": [{"did": "testing:f", "size": 1}]}, timeout=60).status_code
        for _ in range(150)
    ]
    assert set(statuses) == {200, 429}
