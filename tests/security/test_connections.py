"""A compromised service can connect only to its dependencies."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from deployment import CATALOGUE, Deployment, playbook

KEYS = list(CATALOGUE)
# Nothing listens there, and services must not be able to find that out.
UNUSED = 4444
# Results of a connection: a timeout if packets are dropped, a refusal if nothing listens.
OPENED, REFUSED, NOTHING = "opened", "refused", "nothing"
ATTEMPTS = """
import asyncio, json, sys

async def attempt(address, port, patience):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), patience)
    except TimeoutError:
        return "nothing"
    except ConnectionRefusedError:
        return "refused"
    writer.close()
    return "opened"

async def main():
    return await asyncio.gather(*(attempt(*target) for target in json.loads(sys.argv[1])))

print(json.dumps(asyncio.run(main())))
"""


def attempts(container: Any, targets: dict[tuple[str, int], float]) -> dict[tuple[str, int], str]:
    """Return the results of connections that a container tries to open, each for so many seconds."""
    wanted = json.dumps([[*target, patience] for target, patience in targets.items()])
    done = container.exec_run(["python3", "-c", ATTEMPTS, wanted])
    assert done.exit_code == 0, done.output.decode()
    outcomes: list[str] = json.loads(done.output)
    return dict(zip(targets, outcomes, strict=True))


def attempt(container: Any, address: str, port: int, patience: float = 2) -> str:
    return attempts(container, {(address, port): patience})[address, port]


@dataclass
class Listener:
    """A TCP port, and a UDP port of the same number, on an address of the host."""

    address: str
    port: int = 0
    datagrams: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Listener:
        self.stream = socket.create_server((self.address, self.port), backlog=64)
        self.port = self.stream.getsockname()[1]
        self.datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram.bind((self.address, self.port))
        self.receiver = threading.Thread(target=self._receive, daemon=True)
        self.receiver.start()
        return self

    def _receive(self) -> None:
        while data := self.datagram.recv(64):
            self.datagrams.append(data)

    def __exit__(self, *_exception: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", (self.address, self.port))
        self.receiver.join()
        self.stream.close()
        self.datagram.close()


@pytest.fixture(scope="module")
def gateway(stack: Deployment) -> str:
    """The host's address in the deployment's network."""
    (network,) = stack.container("haproxy").attrs["NetworkSettings"]["Networks"].values()
    return str(network["Gateway"])


@pytest.fixture(scope="module")
def elsewhere(stack: Deployment) -> str:
    """An address of the host beyond the deployment's network."""
    subnet = ipaddress.ip_network(stack.network["subnet"])
    listed = subprocess.run(["ip", "-4", "-json", "address"], capture_output=True, check=True).stdout
    addresses = [
        entry["local"]
        for link in json.loads(listed)
        for entry in link["addr_info"]
        if entry["scope"] == "global"
    ]
    return next(str(address) for address in addresses if ipaddress.ip_address(address) not in subnet)


def of(stack: Deployment, key: str) -> Any:
    return stack.engine.containers.get(stack.services[key]["container"])


@pytest.mark.parametrize("key", KEYS)
def test_a_service_reaches_only_its_dependencies(stack: Deployment, key: str) -> None:
    """On every port on which any of them listens, and on one on which none does."""
    service = stack.services[key]
    known = {UNUSED} | {port for other in stack.services.values() for port in other["ports"]}
    known |= {other["metrics"] for other in stack.services.values() if "metrics" in other}
    allowed = {
        (stack.services[other]["address"], port)
        for other in service["depends_on"]
        for port in stack.services[other]["ports"]
    }
    others = [other for other in stack.services if other != key]
    denied = {(stack.services[other]["address"], port) for other in others for port in known} - allowed
    found = attempts(of(stack, key), dict.fromkeys(allowed, 10.0) | dict.fromkeys(denied, 2.0))
    assert {target: found[target] for target in allowed} == dict.fromkeys(allowed, OPENED)
    assert {target: found[target] for target in denied} == dict.fromkeys(denied, NOTHING)


def test_the_host_reaches_every_port(stack: Deployment) -> None:
    """Otherwise the test above would prove nothing: the host can connect to every port."""
    for service in stack.services.values():
        for port in {*service["ports"], *([service["metrics"]] if service["key"] == "celery_worker" else [])}:
            socket.create_connection((service["address"], port), timeout=5).close()


@pytest.mark.parametrize("key", KEYS)
def test_a_service_reaches_neither_the_host_nor_another_machine(
    stack: Deployment, gateway: str, elsewhere: str, key: str
) -> None:
    with Listener(gateway) as here, Listener(elsewhere) as there:
        targets = {
            (here.address, here.port): 2.0,
            (there.address, there.port): 2.0,
            ("169.254.169.254", 80): 2.0,
        }
        assert attempts(of(stack, key), targets) == dict.fromkeys(targets, NOTHING)


@pytest.mark.parametrize("key", KEYS)
def test_only_dns_queries_leave_the_network(stack: Deployment, gateway: str, key: str) -> None:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "[s.sendto(b'%d' % int(port), (sys.argv[1], int(port))) for port in sys.argv[2:]]"
    )
    with Listener(gateway, 53) as names, Listener(gateway) as other:
        # Its arrival shows that earlier packets have arrived too, or never will.
        ports = [str(other.port), "53"]
        done = of(stack, key).exec_run(["python3", "-c", program, gateway, *ports])
        assert done.exit_code == 0, done.output.decode()
        assert attempt(of(stack, key), gateway, 53) == OPENED
        assert (names.datagrams, other.datagrams) == ([b"53"], [])


@pytest.mark.parametrize("key", KEYS)
def test_services_have_no_ipv6_address(stack: Deployment, key: str) -> None:
    done = of(stack, key).exec_run(["cat", "/proc/net/if_inet6"])
    assert [line for line in done.output.decode().splitlines() if not line.endswith(" lo")] == []


@contextmanager
def network_with(**settings: Any) -> Iterator[None]:
    """Apply the network's rules with other settings in the block; containers stay unchanged."""
    playbook("site.yml", "--tags", "network", "-e", json.dumps(settings))
    try:
        yield
    finally:
        playbook("site.yml", "--tags", "network")


def test_an_endpoint_in_a_setting_is_reachable_by_its_service_only(
    stack: Deployment, gateway: str, elsewhere: str
) -> None:
    with Listener(gateway) as here, Listener(elsewhere) as there, Listener(elsewhere) as other:
        named = [f"http://files.example:{there.port}/in", f"http://{gateway}:{here.port}/in"]
        with network_with(cavern_push_destinations=named):
            targets = {(listener.address, listener.port): 2.0 for listener in (here, there, other)}
            assert list(attempts(of(stack, "cavern"), targets).values()) == [OPENED, OPENED, NOTHING]
            assert set(attempts(of(stack, "core"), targets).values()) == {NOTHING}
        assert set(attempts(of(stack, "cavern"), targets).values()) == {NOTHING}


@pytest.fixture
def guest(stack: Deployment) -> Iterator[Any]:
    """A container in the deployment's network that does not belong to the deployment."""
    container = stack.engine.containers.run(
        stack.services["iam"]["image"],
        ["sleep", "infinity"],
        network=stack.network["name"],
        detach=True,
        init=True,
    )
    container.reload()
    yield container
    container.remove(force=True)


def test_a_foreign_container_reaches_only_haproxy(stack: Deployment, guest: Any, elsewhere: str) -> None:
    targets = {
        (service["address"], port): 2.0 for service in stack.services.values() for port in service["ports"]
    }
    proxy = stack.services["haproxy"]["address"]
    found = attempts(guest, targets)
    assert {address for (address, _port), outcome in found.items() if outcome == OPENED} == {proxy}
    assert {outcome for (address, _port), outcome in found.items() if address != proxy} == {NOTHING}
    # Its other connections are not restricted.
    with Listener(elsewhere) as there:
        assert attempt(guest, there.address, there.port) == OPENED


def test_a_monitor_reaches_only_metrics(stack: Deployment, guest: Any) -> None:
    (network,) = guest.attrs["NetworkSettings"]["Networks"].values()
    core, worker, database = (
        stack.services[key]["address"] for key in ("core", "celery_worker", "srcnodedb")
    )
    targets = {(core, 8000): 2.0, (worker, 9000): 2.0, (database, 5432): 2.0}
    with network_with(deployment_monitors=[network["IPAddress"]]):
        assert list(attempts(guest, targets).values()) == [OPENED, OPENED, NOTHING]
    assert set(attempts(guest, targets).values()) == {NOTHING}


def test_restrictions_can_be_disabled_and_enabled(stack: Deployment) -> None:
    core, database = of(stack, "core"), stack.services["postgres_posixmapper"]["address"]
    with network_with(deployment_restrict_connections=False):
        assert attempt(core, database, 5432) == OPENED
    assert attempt(core, database, 5432) == NOTHING
    assert "changed=0 " in playbook("site.yml", "--tags", "network").stdout


def test_clients_reach_the_public_address(stack: Deployment, anonymous: requests.Session) -> None:
    assert anonymous.get(f"{stack.url}/reg/resource-caps", timeout=10).status_code == 200
