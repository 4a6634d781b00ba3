"""The deployment itself: repeatable, truthful in check mode, and repairing what was disturbed, and only that."""

from __future__ import annotations

import re
import ssl
import time

import httpx
import pytest
import requests
from deployment import CATALOGUE, Deployment, playbook
from voservice.testing_docs import shown_api

SERVICES = list(CATALOGUE)
CONTAINER = """<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode"/>"""
KILLED = {"rabbitmq", "srcnodedb", "rse_web", "cavern", "core", "celery_worker"}
"""Services that test_faults.py kills."""
PHASES = ["host", "secrets", "certificates", "hosts_entries", "images", "network", "postgres"]


def changed(output: str) -> int:
    """Number of changed tasks in the recap."""
    counts = re.findall(r"changed=(\d+)", output)
    assert counts, output
    return sum(map(int, counts))


def started(stack: Deployment) -> dict[str, str]:
    """When each container of the deployment was started."""
    return {name: container.attrs["State"]["StartedAt"] for name, container in stack.containers().items()}


def wait_until_healthy(stack: Deployment) -> None:
    """Wait for the whole deployment by its own status playbook."""
    playbook("playbooks/status.yml", "-e", "health_timeout=120")
    assert stack.container("haproxy").status == "running"


def test_second_run_changes_nothing(stack: Deployment) -> None:
    before = started(stack)
    assert changed(playbook("site.yml").stdout) == 0
    assert started(stack) == before


def test_check_mode_reports_no_change(stack: Deployment) -> None:
    before = started(stack)
    assert changed(playbook("site.yml", "--check", "--diff").stdout) == 0
    assert started(stack) == before


@pytest.mark.parametrize(
    "tag",
    # Those of services differ in a name.
    [
        *PHASES,
        "haproxy",
        *(pytest.param(key, marks=pytest.mark.slow) for key in SERVICES if key != "haproxy"),
    ],
)
def test_each_tag_works_alone(stack: Deployment, tag: str) -> None:
    assert changed(playbook("site.yml", "--tags", tag).stdout) == 0


def test_a_run_repairs_one_container_alone(stack: Deployment) -> None:
    """One that is gone; test_converge.py has the other mishaps."""
    before = started(stack)
    stack.container("reg").remove(force=True)
    predicted = playbook("site.yml", "--check").stdout
    assert changed(predicted) == 1
    assert changed(playbook("site.yml").stdout) == 1
    after = started(stack)
    before.pop("reg")
    assert after.pop("reg")
    assert after == before
    wait_until_healthy(stack)


def test_a_run_repairs_a_file_edited_by_hand(stack: Deployment) -> None:
    before = started(stack)
    file = stack.state / "config/rse_web/nginx.conf"
    good = file.read_text()
    file.write_text(good.replace("server_tokens off", "server_tokens on"))
    checked = playbook("site.yml", "--check", "--diff")
    assert "server_tokens" in checked.stdout
    assert changed(playbook("site.yml").stdout) == 1
    assert file.read_text() == good
    after = started(stack)
    assert after.pop("rse-web") > before.pop("rse-web")
    assert after == before


@pytest.mark.parametrize(
    "name", [entry["container"] for key, entry in CATALOGUE.items() if key not in KILLED]
)
def test_the_stack_survives_a_restart_of_any_container(stack: Deployment, name: str) -> None:
    user = "restart"
    with stack.session(user) as http:
        uid = http.get(f"{stack.url}/src/posix-mapper/uid", params={"user": user}, timeout=30).text
        stack.container(name).restart()
        wait_until_healthy(stack)
        deadline = time.monotonic() + 60
        while (
            answer := http.get(f"{stack.url}/src/posix-mapper/uid", params={"user": user}, timeout=30)
        ).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.5)
        assert answer.text == uid


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("deployment_flavour=openstack", "deployment_flavour"),
        ('{"deployment_network": {"name": "docker26", "subnet": "172.26.0.0/99"}}', "subnet"),
        ('{"deployment_network": {"name": "docker26"}}', "subnet"),
        ("deployment_https_port=https", "deployment_https_port"),
        ('{"deployment_service_overrides": {"haproxy": {"number": 3}}}', "is also that of haproxy"),
        ("haproxy_client_certificates=perhaps", "haproxy_client_certificates"),
        ("deployment_publish_address=0.0.0.0", "iam_beyond_this_machine"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_changes(
    stack: Deployment, setting: str, message: str
) -> None:
    before = started(stack)
    refused = playbook("site.yml", "-e", setting, check=False)
    assert refused.returncode != 0
    assert message in refused.stdout + refused.stderr
    assert changed(refused.stdout) == 0
    assert started(stack) == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_an_expectation_without_a_body_is_answered_whole(
    stack: Deployment, http: requests.Session, user: str, method: str
) -> None:
    """OpenCADC's Python client sends ``Expect: 100-continue`` with every request."""
    home = f"{stack.url}/src/cavern/nodes/home/{user}"
    http.put(home, data=CONTAINER, headers={"Content-Type": "text/xml"}, timeout=10).raise_for_status()
    url = f"{home.replace('/nodes/', '/files/')}/file"
    http.put(url, data=b"content", timeout=10).raise_for_status()
    target = url.replace("/files/", "/nodes/") if method == "DELETE" else url
    answer = http.request(method, target, headers={"Expect": "100-continue"}, timeout=10)
    assert answer.ok, answer.text
    if method == "GET":
        assert answer.content == b"content"


@pytest.mark.parametrize("service", ["cavern", "core", "iam", "posix_mapper"])
async def test_each_service_shows_its_api_without_other_sites(stack: Deployment, service: str) -> None:
    trust = ssl.create_default_context(cafile=stack.ca)
    async with httpx.AsyncClient(verify=trust) as client:
        await shown_api(client, httpx.URL(f"{stack.url}{CATALOGUE[service]['route']}/docs"))
