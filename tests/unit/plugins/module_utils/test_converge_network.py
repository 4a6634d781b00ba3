# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of several hosts: one makes it, the others wait, and nothing local takes its place in silence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import network as networks
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.network import Network
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.report import Report

pytest.importorskip("docker")

OURS = {"int.skao.src.cavern.project": "cavern"}
WANTED = {"name": "net", "subnet": "198.51.100.0/24", "ip_range": "198.51.100.192/26", "driver": "overlay"}


def made(driver: str, **fields: Any) -> dict[str, Any]:
    config = {"Subnet": WANTED["subnet"], "IPRange": WANTED["ip_range"]}
    return {
        "Id": driver,
        "Name": "net",
        "Driver": driver,
        "Attachable": True,
        "IPAM": {"Config": [config]},
        "Options": {},
        "Labels": OURS,
    } | fields


class Client:
    """An Engine's networks; it has no containers."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = list(found)
        self.created: list[dict[str, Any]] = []

    def networks(self) -> list[dict[str, Any]]:
        return self.found

    def containers(self, **_options: Any) -> list[dict[str, Any]]:
        return []

    def inspect_network(self, key: str) -> dict[str, Any]:
        return next(one for one in self.found if key in (one["Id"], one["Name"]))

    def remove_network(self, key: str) -> None:
        self.found = [one for one in self.found if one["Id"] != key]

    def create_network(self, name: str, **options: Any) -> None:
        self.created.append({"name": name} | options)


def converge(client: Client, **wanted: Any) -> list[tuple[str, str]]:
    report = Report()
    network = Network(Engine(client, "cavern"), report, WANTED | wanted, check_mode=False)
    network.plan()
    network.apply()
    return [(action["action"], reason) for action in report.actions for reason in action["reasons"]]


def test_the_host_that_makes_it_makes_an_attachable_overlay() -> None:
    client = Client()
    assert converge(client, mtu=1460, encrypted=True) == [("create", "missing")]
    [created] = client.created
    assert (created["driver"], created["attachable"], created["scope"]) == ("overlay", True, "swarm")
    assert created["options"] == {"com.docker.network.driver.mtu": "1460", "encrypted": ""}
    [pool] = created["ipam"]["Config"]
    assert pool["IPRange"] == WANTED["ip_range"]


def test_one_that_is_as_wanted_stays() -> None:
    client = Client(made("overlay"))
    assert converge(client) == []
    assert client.created == []


def test_the_others_wait_and_make_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_PATIENCE", 0.3)
    client = Client()
    with pytest.raises(ConvergeError, match="network net: the host that creates it has not done so within"):
        converge(client, creates=False)
    assert client.created == []


def test_a_bridge_of_an_earlier_run_makes_room() -> None:
    client = Client(made("bridge"), made("overlay"))
    assert ("recreate", "driver: bridge -> overlay") in converge(client, creates=False)
    assert [one["Driver"] for one in client.found] == ["overlay"]
    assert client.created == []


def test_somebody_elses_network_is_refused() -> None:
    with pytest.raises(
        ConvergeError, match=r"does not belong to this deployment and differs .driver: bridge"
    ):
        converge(Client(made("bridge", Labels={})))
    with pytest.raises(ConvergeError, match=r"differs .attachable: False"):
        converge(Client(made("overlay", Labels={}, Attachable=False)))


def test_addresses_of_swarm_itself_are_nobodys_containers() -> None:
    member = {"Name": "net-endpoint", "IPv4Address": "198.51.100.194/24"}
    client = Client(made("overlay", Containers={"lb-net": member}))
    network = Network(Engine(client, "cavern"), Report(), WANTED, check_mode=False)
    network.plan()
    assert network.members() == []
