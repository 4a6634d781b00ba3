"""OpenCADC's services deployed by the roles: from nothing, again, with what goes wrong around them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import image_registry
import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from contract_site import Site, changed


def document(path: str, **properties: str) -> str:
    """A node document."""
    entries = "".join(
        f'<vos:property uri="ivo://ivoa.net/vospace/core#{key}">{value}</vos:property>'
        for key, value in properties.items()
    )
    return (
        '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode" '
        f'uri="vos://contract.example~cavern{path}"><vos:properties>{entries}</vos:properties><vos:nodes/></vos:node>'
    )


def test_a_wrong_setting_is_named_before_any_container_starts(empty: Site) -> None:
    refused = empty.run(check=False, deployment_https_port="8443")
    assert refused.returncode != 0
    assert "deployment_https_port: 8443" in " ".join(refused.stdout.split())
    assert changed(refused) == 0
    assert empty.started() == {}


def test_a_check_of_what_is_not_there_changes_nothing(empty: Site) -> None:
    checked = empty.run("--check", "--diff")
    assert changed(checked) > 0
    assert empty.started() == {}


def test_a_second_run_and_a_check_change_nothing(site: Site) -> None:
    before = site.started()
    assert len(before) == 11
    assert changed(site.run("--check", "--diff")) == 0
    assert changed(site.run()) == 0
    assert site.started() == before


def test_status_and_smoke_suit_the_flavour(site: Site) -> None:
    begun = time.time()
    site.run(book="playbooks/status.yml")
    smoked = site.run(book="playbooks/smoke.yml")
    assert "Smoke test passed" in smoked.stdout
    # Both of its files came by relay, and only the first was asked to be pulled.
    asked = [(entry["method"], entry["path"], entry["status"]) for entry in site.requests("cavern", begun)]
    assert len([path for method, path, _ in asked if method == "PUT" and path.endswith(".part")]) == 2
    assert len([path for _, path, _ in asked if path.endswith("/error")]) == 1


def test_the_heap_is_smaller_than_the_container(site: Site) -> None:
    for name in ("reg", "src-posix-mapper", "src-cavern"):
        container = site.container(name)
        code, output = container.exec_run(["bash", "-c", ". /etc/tomcat/tomcat.conf && echo $JAVA_OPTS"])
        assert code == 0, output
        heaps = [int(option[4:-1]) for option in output.decode().split() if option.startswith("-Xmx")]
        # Java takes the last one; the first is the image's own.
        assert heaps[-1] << 20 < container.attrs["HostConfig"]["Memory"]


def test_users_reach_what_is_theirs(site: Site) -> None:
    """The parents of allocations were made private, and then opened once by the administrator."""
    for parent in ("home", "projects"):
        assert (site.data / "cavern_data/cavern" / parent).stat().st_uid == 9999
        with site.session() as anonymous:
            answer = anonymous.get(f"{site.url}/src/cavern/nodes/{parent}", timeout=30)
        assert 'ispublic">true<' in answer.text
    with site.session("smoke") as http:
        answer = http.get(f"{site.url}/src/cavern/nodes/home/smoke", timeout=30)
    assert 'creator" readOnly="true">smoke<' in answer.text


def test_the_administrator_has_one_number(site: Site) -> None:
    """That of the settings, which Cavern goes by, is the POSIX mapper's too, and nobody else's."""
    with site.session("cavernadmin") as http:
        answer = http.get(f"{site.url}/src/posix-mapper/uid", params={"user": "cavernadmin"}, timeout=30)
        assert answer.text == "cavernadmin:x:9999:9999:::\n"
        made = http.put(
            f"{site.url}/src/cavern/nodes/projects/own", data=document("/projects/own"), timeout=30
        )
        assert made.status_code == 201, made.text
    assert (site.data / "cavern_data/cavern/projects/own").stat().st_uid == 9999
    own = "SELECT groupuri FROM mapping.groups WHERE gid = 9999"
    assert site.sql("postgres_posixmapper", "mapping", own).endswith("default-group?cavernadmin")


# Serves once by TLS, and asks that as the services ask others; prints the status.
ASKED_BY_TLS = """
import asyncio, http.server, os, pathlib, ssl, threading
from standin.identity import Lookups
pathlib.Path("/tmp/server.pem").write_text(os.environ["SERVER"])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/server.pem")
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.handle_request).start()
print(asyncio.run(Lookups().fetch(f"https://127.0.0.1:{server.server_port}/")).status_code)
"""


@pytest.mark.parametrize("name", ["reg", "src-posix-mapper", "src-cavern"])
def test_authorities_of_the_site_are_trusted(site: Site, further_ca: _x509.Pair, name: str) -> None:
    """Such as that of the site's issuer, beside the deployment's own."""
    server = _x509.issue_server(further_ca, _x509.Names("issuer.example", (), ("127.0.0.1",)), 30, "ec")
    environment = {"SERVER": (server.certificate_pem + server.key_pem).decode()}
    asked = site.container(name).exec_run(
        ["python", "-c", ASKED_BY_TLS], environment=environment, stderr=False
    )
    assert (asked.exit_code, asked.output) == (0, b"200\n")


def test_a_changed_registry_asks_for_new_containers(site: Site) -> None:
    """They keep what they looked up for ten minutes."""
    aliases = json.dumps({"cavern_aliases": ["ivo://other.example/cavern"]})
    checked = site.run("--check", "--diff", "-e", aliases)
    assert changed(checked) == 1
    for service in ("posix_mapper", "cavern"):
        assert f"{service}/registered" in checked.stdout


def test_cavern_waits_for_what_it_asks_at_its_start(site: Site) -> None:
    site.container("src-posix-mapper").stop()
    begun = time.time()
    site.container("src-cavern").restart()
    deadline = time.monotonic() + 60
    while "waiting for src-posix-mapper" not in site.log("src-cavern", begun):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    site.container("src-posix-mapper").start()
    site.wait_until_healthy("src-cavern")
    assert "starting again" not in site.log("src-cavern", begun)


def test_a_cavern_whose_initialisation_failed_says_why_and_starts_again(site: Site) -> None:
    site.sql("srcnodedb", "cavern", "ALTER SCHEMA uws RENAME TO uws_away")
    cavern = site.container("src-cavern")
    try:
        cavern.restart()
        begun = time.time()
        deadline = time.monotonic() + 120
        while site.log("src-cavern", begun).count("starting again") < 3:
            assert time.monotonic() < deadline, site.log("src-cavern", begun)[-5000:]
            time.sleep(0.1)
        log = site.log("src-cavern", begun)
        # The causes come last, and nothing has buried them: nobody has asked again what had failed.
        last = log.rpartition("starting again")[2].splitlines()
        assert last[-1] == 'Caused by: schema "uws" does not exist', last
        assert log.count("init failed") == log.count("starting again")
        assert len(log) < 20_000
        # Docker's check says the same, and status with it.
        status = site.run(book="playbooks/status.yml", check=False)
        assert 'schema "uws" does not exist' in " ".join(status.stdout.split())
    finally:
        site.sql("srcnodedb", "cavern", "ALTER SCHEMA uws_away RENAME TO uws")
    site.wait_until_healthy("src-cavern")
    with site.session() as anonymous:
        assert anonymous.get(f"{site.url}/src/cavern/nodes?limit=0", timeout=30).status_code == 200


@pytest.fixture(scope="module")
def public(site: Site) -> str:
    """An area that everybody may read, with a public file in it."""
    with site.session("cavernadmin") as administrator, site.session("vera") as http:
        url = f"{site.url}/src/cavern"
        kept = {"creator": "vera"}
        for session, method, properties in (
            (administrator, "PUT", kept),
            (http, "POST", {"ispublic": "true"}),
        ):
            body = document("/home/vera", **properties)
            answer = session.request(method, f"{url}/nodes/home/vera", data=body, timeout=30)
            assert answer.ok, answer.text
    return f"{url}/nodes/home/vera"


def test_whoever_comes_without_a_token_is_served_after_every_start(site: Site, public: str) -> None:
    """Cavern learns who an owner's number is from callers with tokens alone, and forgets it when it ends."""
    site.container("src-cavern").restart()
    site.wait_until_healthy("src-cavern")
    with site.session() as anonymous:
        listed = anonymous.get(public.rpartition("/")[0], timeout=30)
        assert "cavern/home/vera" in listed.text
        read = anonymous.get(public, timeout=30)
        assert (read.status_code, "vera<" in read.text) == (200, True), read.text
        refused = anonymous.put(f"{public}/x", data=document("/home/vera/x"), timeout=30)
        assert (refused.status_code, refused.text.partition(":")[0]) == (403, "PermissionDenied")


@pytest.mark.parametrize(
    "services",
    [
        pytest.param([], id="everything"),
        pytest.param(["src-cavern"], marks=pytest.mark.slow, id="Cavern"),
        pytest.param(["src-posix-mapper"], marks=pytest.mark.slow, id="the POSIX mapper"),
        pytest.param(["srcnodedb", "postgres_posixmapper"], marks=pytest.mark.slow, id="the databases"),
    ],
)
def test_the_smoke_test_passes_after_a_restart(site: Site, services: list[str]) -> None:
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda container: container.restart(),
                [site.container(name) for name in services] or site.containers().values(),
            )
        )
    assert "Smoke test passed" in site.run(book="playbooks/smoke.yml").stdout


def edited(text: str, drop: str, instead: str = "") -> str:
    lines = [line for line in text.splitlines() if drop not in line]
    assert len(lines) < len(text.splitlines()), f"no line has {drop!r}"
    return "\n".join([*lines, instead]) + "\n"


@pytest.fixture(scope="module")
def beside(site: Site) -> Iterator[None]:
    """A container beside the deployment's own may open what connections it likes."""
    site.run("--tags", "network", deployment_restrict_connections="false")
    yield
    site.run("--tags", "network")


@pytest.mark.parametrize(
    ("file", "drop", "instead", "serves"),
    [
        ("cavern.properties", "QuotaPlugin", "", True),
        # What the real one finds out when somebody asks for it.
        ("catalina.properties", "proxyName", "", True),
        ("cadc-registry.properties", "user-mapping", "", True),
        ("catalina.properties", "IdentityManager", "", False),
        ("catalina.properties", "uws.password", "", False),
        ("cavern.properties", "resourceID", "", False),
        ("cavern.properties", "rootOwner.username", "", False),
        ("cavern.properties", "allocationParent", "oops", False),
        ("cadc-registry.properties", "baseURL", "", False),
        ("cadc-registry.properties", "group-mapping", "", False),
        ("cacerts/deployment-ca.pem", "", "", False),
    ],
)
def test_the_stand_in_refuses_what_cavern_would(
    site: Site, beside: None, tmp_path: Path, file: str, drop: str, instead: str, serves: bool
) -> None:
    """Otherwise a deployment that passes would prove nothing."""
    config = tmp_path / "config"
    for path in (site.state / "config/cavern").rglob("*"):
        if path.is_file():
            copy = config / path.relative_to(site.state / "config/cavern")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (config / file).write_text(edited((config / file).read_text(), drop, instead))
    container = site.engine.containers.run(
        "cavern-contract/cavern:stand-in",
        detach=True,
        # Whatever becomes of this run, the next one clears it away with the rest.
        labels={"int.skao.src.cavern.project": site.project},
        network="contract43",
        user="0:0",
        extra_hosts={site.public_name: "172.28.43.2"},
        volumes={
            str(config): {"bind": "/config", "mode": "ro"},
            str(tmp_path / "data"): {"bind": "/data", "mode": "rw"},
        },
    )
    ask = ["bash", "/config/http-status", "127.0.0.1", "8080", "/src/cavern/nodes?limit=0", "200"]
    unanswered, refused = 1, 3
    try:
        deadline = time.monotonic() + 30
        while (code := container.exec_run(ask).exit_code) == unanswered:
            assert time.monotonic() < deadline, container.logs().decode()
            time.sleep(0.2)
        assert code == (0 if serves else refused), container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.slow
def test_an_image_pinned_by_its_digest_is_pulled_once_and_stays(site: Site, tmp_path: Path) -> None:
    archive = tmp_path / "reg.tar"
    with archive.open("wb") as saved:
        for chunk in site.engine.images.get("cavern-contract/reg:stand-in").save():
            saved.write(chunk)
    with image_registry.serve(archive, tmp_path / "registry") as (address, digest):
        pinned = f"{address}/core/reg@{digest}"
        other = f"{address}/core/reg@sha256:{'0' * 64}"
        refused = site.run(check=False, contract_reg_image=other)
        assert refused.returncode != 0
        assert f"{other} cannot be pulled" in " ".join(refused.stdout.split())
        assert changed(site.run(contract_reg_image=pinned)) > 0
    try:
        assert pinned in site.container("reg").image.attrs["RepoDigests"]
        # What is there is not asked for: the registry is gone.
        assert changed(site.run("--check", "--diff", contract_reg_image=pinned)) == 0
        assert changed(site.run(contract_reg_image=pinned)) == 0
        # A bundle holds tags, and says so.
        bundle = tmp_path / "images.tar"
        saved_run = site.run(
            book="playbooks/images_save.yml",
            check=False,
            contract_reg_image=pinned,
            images_bundle=str(bundle),
        )
        assert saved_run.returncode != 0
        assert "a bundle keeps tags, not digests" in " ".join(saved_run.stdout.split())
        assert not bundle.exists()
    finally:
        site.run()
        site.engine.images.remove(pinned, force=True)
