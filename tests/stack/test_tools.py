"""What an operator has at hand: docker-static-ip, `make token` and client certificates."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
import requests
from deployment import INVENTORY, ROOT, Deployment, playbook, settings
from prepare_data_client.did import DID

# Other deployments may run beside the one under test.
TOOL = (Path.home() / "bin/docker-static-ip", f"--project={settings()['project']}")


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def _make(
    target: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a target for the deployment under test."""
    command = ("make", "--silent", target, f"INVENTORY={INVENTORY}", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)


def _inspected(stack: Deployment) -> dict[str, str]:
    """Static address of every container of the deployment by name, as the engine has it."""
    found = stack.containers().values()
    networks = {container.name: container.attrs["NetworkSettings"]["Networks"] for container in found}
    return {
        name: next(iter(network.values()))["IPAMConfig"]["IPv4Address"] for name, network in networks.items()
    }


def test_static_ip_of_all_containers(stack: Deployment) -> None:
    done = _run(*TOOL)
    assert dict(line.split() for line in done.stdout.splitlines()) == _inspected(stack)


@pytest.mark.parametrize(
    ("name", "container"), [("src-cavern", "src-cavern"), ("cavern", "src-cavern"), ("reg", "reg")]
)
def test_static_ip_of_one(stack: Deployment, name: str, container: str) -> None:
    assert _run(*TOOL, name).stdout == _inspected(stack)[stack.prefix + container] + "\n"


def test_static_ip_of_an_unknown_one_says_what_there_is(stack: Deployment) -> None:
    done = _run(*TOOL, "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no container or service 'nothing'; there are" in done.stderr


def test_another_container_joins_the_environment(stack: Deployment) -> None:
    arguments = _run(*TOOL, "--join").stdout.split()
    done = _run(
        *("docker", "run", "--rm", *arguments, f"--volume={stack.ca}:/ca.pem:ro", "--entrypoint=curl"),
        *(stack.image("base"), "--fail", "--silent", "--cacert", "/ca.pem", f"{stack.url}/reg/resource-caps"),
    )
    assert done.returncode == 0, done.stderr
    assert f"{stack.url}/src/cavern/capabilities" in done.stdout


def test_status_for_programs(stack: Deployment) -> None:
    done = _make("status", "JSON=true")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["healthy"] is True
    services = found["services"].values()
    assert {service["container"]: service["address"] for service in services} == _inspected(stack)
    assert all(service["healthy"] and service["checks"] for service in services)
    assert all(service["state"] == "running" and service["uptime"] >= 0 for service in services)
    assert all(2**20 < service["memory"] < 2**31 for service in services)
    with stack.paused("rse-web"):
        done = _make("status", "JSON=true")
    assert done.returncode != 0
    found = json.loads(done.stdout)
    assert [key for key, service in found["services"].items() if not service["healthy"]] == ["rse_web"]


def test_a_watched_status_is_drawn_again_until_it_is_interrupted(stack: Deployment) -> None:
    """On a terminal, in colour."""
    controller, terminal = pty.openpty()
    watching = subprocess.Popen(
        # Tests that run in the background ignore the signal, and what they start would too.
        ["env", "--default-signal=INT", "make", "status", "WATCH=0.1", f"INVENTORY={INVENTORY}"],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(terminal)
    drawn = b""
    try:
        while drawn.count(b"\x1b[32mhealthy\x1b[0m") < 2 * len(stack.services):
            assert select.select([controller], [], [], 60)[0], drawn
            drawn += os.read(controller, 65536)
    finally:
        os.killpg(watching.pid, signal.SIGINT)
        watching.wait(timeout=120)
        os.close(controller)
    assert watching.returncode != 0


def test_logs_tell_a_task_in_order(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    did = f"testing:{uuid.uuid4().hex}"
    path = DID.parse(did).path()
    rse(path, b"content")
    answer = http.post(f"{stack.url}/prepare-data/", json=[[did, path, "./testing"]], timeout=60)
    task = answer.json()["task_id"]
    http.get(f"{stack.url}/prepare-data/v1/tasks/{task}/events", timeout=60).raise_for_status()
    done = _make("logs", f"TASK={task}", "SINCE=5m")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {"haproxy", "cavern", "core", "celery_worker"} <= {service for _, service, _ in lines}
    times = [when for when, _, _ in lines]
    assert times == sorted(times)
    texts = [text for _, _, text in lines]
    begun = next(at for at, text in enumerate(texts) if "Staging file from" in text)
    ended = next(at for at, text in enumerate(texts) if "Successfully staged file" in text)
    assert begun < ended


def test_haproxy_logs_the_time_at_which_an_answer_ended(stack: Deployment) -> None:
    """Its seconds and its milliseconds are of one moment, whatever second the client came in."""
    host, name = urlsplit(stack.url), uuid.uuid4().hex
    context = ssl.create_default_context(cafile=stack.ca)
    connection = HTTPSConnection(str(host.hostname), host.port or 443, timeout=30, context=context)
    # Come in the second half of one second, answered in the first of the next.
    while not 0.6 < time.time() % 1 < 0.8:
        time.sleep(0.01)
    connection.connect()
    while time.time() % 1 > 0.3:
        time.sleep(0.01)
    before = time.time()
    connection.request("GET", f"/reg/{name}")
    connection.getresponse().read()
    after = time.time()
    connection.close()
    deadline = after + 10
    while not (lines := [line for line in _logged(stack, "haproxy") if name in line]):
        assert time.time() < deadline
    logged = datetime.fromisoformat(json.loads(lines[0])["time"]).timestamp()
    assert before - 0.01 <= logged <= after + 0.01


def _logged(stack: Deployment, name: str) -> list[str]:
    text: bytes = stack.container(name).logs(tail=200)
    return text.decode().splitlines()


def test_make_token_prints_a_token_and_nothing_else(stack: Deployment) -> None:
    done = _make("token", "USER=ada")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert claims["preferred_username"] == "ada"
    answer = requests.get(
        f"{stack.url}/iam/userinfo",
        headers={"Authorization": f"Bearer {done.stdout.strip()}"},
        verify=stack.ca,
        timeout=30,
    )
    assert answer.json()["preferred_username"] == "ada"


@pytest.mark.parametrize("target", ["token", "certificate"])
def test_whom_a_credential_is_for_is_not_who_asks(stack: Deployment, user: str, target: str) -> None:
    """Where neither the shell nor sudo says who runs make, as in a container or a job of CI."""
    bare = {"PATH": os.environ["PATH"], "HOME": str(Path.home())}
    done = _make(target, f"USER={user}", env=bare)
    assert done.returncode == 0, done.stderr or done.stdout
    (stack.state / f"certs/clients/{user}.pem").unlink(missing_ok=True)
    assert not [*ROOT.glob(f"~{user}"), *(ROOT / "playbooks").glob(f"~{user}")]


def test_refused_token_leaves_standard_output_empty(stack: Deployment) -> None:
    done = _make("token", "USER=../ada")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "username" in done.stderr


def test_client_certificate_is_its_user(stack: Deployment, user: str) -> None:
    playbook("playbooks/client_certificate.yml", "--extra-vars", f"user={user}")
    certificate = stack.state / f"certs/clients/{user}.pem"
    assert certificate.stat().st_mode & 0o777 == 0o600
    node = f"{stack.url}/src/cavern/nodes/home/{user}"
    document = (
        '<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:ContainerNode"/>'
    )
    with stack.session() as http:
        http.headers["Content-Type"] = "application/xml"
        assert http.put(node, document, timeout=30).status_code == 403
        http.cert = str(certificate)
        try:
            assert http.put(node, document, timeout=30).status_code == 201
            assert user in http.get(node, timeout=30).text
        finally:
            certificate.unlink()


def test_psql_and_a_shell_open_in_the_containers(stack: Deployment) -> None:
    def opened(target: str, service: str, typed: str) -> str:
        command = ("make", "--silent", target, f"INVENTORY={INVENTORY}", f"SERVICE={service}")
        done = subprocess.run(command, input=typed, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout

    assert "cavern" in opened("psql", "", "select datname from pg_database;")
    assert "mapping" in opened("psql", "postgres_posixmapper", "select datname from pg_database;")
    user = stack.container("src-cavern").attrs["Config"]["User"]
    assert opened("shell", "cavern", "id -u; exit") == f"{user.partition(':')[0]}\n"
    refused = _make("shell", "SERVICE=caverns")
    assert refused.returncode
    assert "SERVICE: caverns; choose from haproxy, " in refused.stdout + refused.stderr


def test_check_token_says_what_each_service_makes_of_it(stack: Deployment) -> None:
    def check(token: str) -> str:
        command = ("make", "--silent", "check-token", f"INVENTORY={INVENTORY}")
        done = subprocess.run(command, input=token, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert not token or token not in done.stdout + done.stderr
        return done.stdout

    services = ("core", "cavern", "posix_mapper")
    issuer = stack.services["iam"]["route"]
    accepted = check(stack.token("ada"))
    assert re.search(rf"^issuer +{re.escape(stack.url + issuer)}$", accepted, re.MULTILINE)
    for service in services:
        assert re.search(rf"^{service} +accepts it as ada, ", accepted, re.MULTILINE), accepted
    header, claims, _ = stack.token("ada").split(".")
    refused = check(f"{header}.{claims}.AAAA")
    for service in services:
        assert re.search(rf"^{service} +REFUSES it: The token's signature", refused, re.MULTILINE), refused
    assert re.search(r"^cavern +accepts tokens for ", check(""), re.MULTILINE)
