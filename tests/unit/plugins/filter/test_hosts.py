# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment on several hosts: its network, its instances, and what is refused, by host, field and fix."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.skasrc.cavern.plugins.filter.catalogue import health_checks
from ansible_collections.skasrc.cavern.plugins.filter.hosts import (
    place_services,
    placement_faults,
    spread_network,
    status_rows,
    swarm_faults,
    swarm_steps,
)

Host = dict[str, Any]
SUBNET = "172.26.0.0/16"


def service(key: str, number: int, **fields: Any) -> dict[str, Any]:
    address = f"172.26.0.{number}"
    name = key.replace("_", "-")
    place = {"container": f"x-{name}", "alias": name, "address": address, "source": address}
    return {"key": key, "role": key, "number": number} | place | fields


SERVICES = {
    "haproxy": service("haproxy", 2, check="tls"),
    "srcnodedb": service("srcnodedb", 7, port=5432, check="postgres", state="20g"),
    "core": service("core", 9, port=8000, route="/prepare-data", probe={"path": "/health"}),
    "celery_worker": service("celery_worker", 10),
    "cavern": service("cavern", 6),
}
GROUPS = {
    "deployment": ["a", "b", "c"],
    "haproxy": ["a"],
    "srcnodedb": ["b"],
    "core": ["a"],
    "celery_worker": ["b", "c"],
    "cavern": ["a"],
}
NETWORK = spread_network({"name": "net", "subnet": SUBNET}, SERVICES, [])


def host(address: str, **fields: Any) -> Host:
    """Return what a host with an engine in no Swarm answers."""
    alone = {
        "state": "inactive",
        "address": "",
        "manager": False,
        "cluster": "",
        "project": "",
        "problem": "",
    }
    found: Host = {
        "engine": f"id of {address}",
        "version": "20.10.24+dfsg1",
        "architecture": "x86_64",
        "address": address,
        "mtu": 1500,
        "ipsec": None,
        "networks": [],
        "containers": [],
    }
    return found | fields | {"swarm": alone | fields.get("swarm", {})}


def manager(address: str, cluster: str = "one", project: str = "cavern", **fields: Any) -> Host:
    swarm = {
        "state": "active",
        "address": address,
        "manager": True,
        "cluster": cluster,
        "project": project,
    }
    return host(address, **fields, swarm=swarm)


def container(service: str, address: str, project: str = "cavern") -> Host:
    return {"name": f"x-{service}", "project": project, "service": service, "address": address}


def refused(found: dict[str, Host | None], **options: Any) -> list[str]:
    given = {"network": NETWORK, "project": "cavern", "image_source": "build", "secrets": {}} | options
    return swarm_faults(found, SERVICES, GROUPS, **given)


@pytest.mark.parametrize(
    ("subnet", "part"),
    [
        ("172.26.0.0/16", "172.26.255.0/24"),
        ("10.1.2.0/24", "10.1.2.192/26"),
        ("10.1.0.0/20", "10.1.15.0/24"),
    ],
)
def test_swarm_chooses_from_the_end_of_the_subnet(subnet: str, part: str) -> None:
    network = spread_network({"name": "net", "subnet": subnet}, {}, [1500])
    assert network == {"name": "net", "subnet": subnet, "driver": "overlay", "ip_range": part}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"subnet": "10.1.2.0/29"}, "deployment_network.subnet: 10.1.2.0/29 is too small"),
        ({"ip_range": "10.0.0.0/24"}, "deployment_network.ip_range: 10.0.0.0/24 is no part of"),
        ({"ip_range": "172.26.0.0/28"}, "has the address 172.26.0.2 of haproxy: choose another range"),
        ({"ip_range": "many"}, "deployment_network.ip_range: 'many' is not a range such as 172.26.255.0/24"),
    ],
)
def test_a_range_that_cannot_be_is_refused(network: Host, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        spread_network({"name": "net", "subnet": SUBNET} | network, SERVICES, [])


def test_packets_are_as_large_as_the_smallest_interface_carries() -> None:
    network = {"name": "net", "subnet": SUBNET}
    assert "mtu" not in spread_network(network, {}, [1500, 9000])
    assert spread_network(network, {}, [1500, 1460])["mtu"] == 1460
    assert spread_network(network | {"mtu": 9000}, {}, [1500, 1460])["mtu"] == 9000


def test_each_further_host_has_an_instance_of_its_own() -> None:
    first, second = (place_services(SERVICES, name, GROUPS, SUBNET)["celery_worker"] for name in ("b", "c"))
    assert (first["container"], first["address"]) == ("x-celery-worker", "172.26.0.10")
    assert (second["container"], second["alias"]) == ("x-celery-worker-2", "celery-worker-2")
    assert second["address"] == second["source"] == "172.26.0.74"
    assert first["instances"] == second["instances"]
    assert [one["host"] for one in first["instances"]] == ["b", "c"]
    # A host that runs none sees the first.
    elsewhere = place_services(SERVICES, "a", GROUPS, SUBNET)
    assert elsewhere["celery_worker"]["container"] == "x-celery-worker"
    assert "instances" not in elsewhere["core"]


def test_an_instance_whose_address_is_taken_is_refused() -> None:
    services = SERVICES | {"other": service("other", 74)}
    with pytest.raises(
        AnsibleFilterError, match=r"deployment_service_overrides.other.number: 172.26.0.74 is"
    ):
        place_services(services, "a", GROUPS, SUBNET)
    with pytest.raises(AnsibleFilterError, match=r"deployment_network.subnet: 10.1.2.0/26 has no address 74"):
        place_services(SERVICES, "a", GROUPS, "10.1.2.0/26")


def misplaced(groups: dict[str, list[str]], **options: Any) -> list[str]:
    network = {"name": "n", "subnet": SUBNET, "encrypted": True}
    given = {"connections": dict.fromkeys("abc", "ssh"), "network": network, "restricted": False} | options
    return placement_faults(SERVICES, GROUPS | groups, **given)


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ({}, {"restricted": True}, "deployment_restrict_connections: "),
        ({}, {"network": {"name": "n", "subnet": SUBNET}}, "deployment_network.encrypted: "),
        ({"core": []}, {}, "core: the inventory has no group of this name with a host in it"),
        ({"core": ["d"]}, {}, "core: its host d is not in the group deployment"),
        ({"srcnodedb": ["a", "b"]}, {}, "srcnodedb: it is on a, b, but can be on one host alone"),
        (
            {},
            {"connections": {"a": "skasrc.cavern.engine", "b": "ssh", "c": "ssh"}},
            "a: its ansible_connection is",
        ),
    ],
)
def test_an_inventory_that_cannot_be_is_refused(
    groups: dict[str, list[str]], options: Host, message: str
) -> None:
    [fault] = misplaced(groups, **options)
    assert fault.startswith(message)


def test_an_inventory_that_can_be_is_not_refused() -> None:
    assert misplaced({}) == []
    assert misplaced({"core": ["a", "b"], "cavern": ["a", "c"]}) == []


OVERLAY = {
    "driver": "overlay",
    "scope": "swarm",
    "attachable": True,
    "project": "",
    "subnet": SUBNET,
    "ip_range": NETWORK["ip_range"],
}
BRIDGE = OVERLAY | {"driver": "bridge", "scope": "local", "attachable": False, "ip_range": ""}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            host("10.0.0.2", engine="id of 10.0.0.1"),
            "b: its Docker Engine is that of a; name each machine once",
        ),
        (host("10.0.0.2", version="26.1.5"), "b: it has Docker Engine 26.1.5, and a 20.10.24"),
        (host("10.0.0.2", swarm={"state": "locked"}), "b: its Swarm is locked"),
        (host("10.0.0.2", swarm={"state": "active"}), "b: its engine is a worker of a Swarm"),
        (
            manager("10.0.0.2", "two", "other"),
            "b: its engine is in a Swarm (two) that is not this deployment's",
        ),
        (host("10.0.0.2", networks=[BRIDGE]), "b: the network net there is a bridge of this host alone"),
        (
            host("10.0.0.2", networks=[OVERLAY | {"attachable": False}]),
            "b: the overlay net is not attachable",
        ),
        (
            host("10.0.0.2", networks=[OVERLAY | {"subnet": "10.0.0.0/8"}]),
            "b: the overlay net has the subnet 10.",
        ),
        (
            host("10.0.0.2", networks=[OVERLAY | {"ip_range": ""}]),
            "b: the overlay net has the range of its whole",
        ),
        (
            host("10.0.0.2", containers=[container("web", "172.26.0.9", "x")]),
            "b: the container x-web there has the address 172.26.0.9 of core; remove it",
        ),
        (
            host("10.0.0.2", containers=[container("cavern", "172.26.0.6")]),
            "cavern: it is to run on a, but its data is on b, in deployment_data_dir/cavern_data; name b",
        ),
    ],
)
def test_a_host_that_does_not_suit_is_refused(second: Host, message: str) -> None:
    [fault] = refused({"a": host("10.0.0.1"), "b": second})
    assert fault.startswith(message)


def test_data_stays_where_it_is() -> None:
    [fault] = refused({"a": host("10.0.0.1", containers=[container("srcnodedb", "172.26.0.7")])})
    assert fault.startswith(
        "srcnodedb: it is to run on b, but its data is on a, in a volume of its engine; name a"
    )


def test_what_keeps_no_data_moves() -> None:
    assert refused({"c": host("10.0.0.1", containers=[container("core", "172.26.0.9")])}) == []


def test_another_architecture_is_refused_for_a_bundle_of_images_alone() -> None:
    found: dict[str, Host | None] = {"a": host("10.0.0.1"), "b": host("10.0.0.2", architecture="aarch64")}
    assert refused(found) == []
    [fault] = refused(found, image_source="load")
    assert fault.startswith("b: it is aarch64, and a x86_64, but images_bundle has images of one")


def test_all_hosts_have_the_same_secrets() -> None:
    [fault] = refused(
        {"a": host("10.0.0.1")}, secrets={"a": "/state/secrets.yml", "b": "/.cavern/secrets.yml"}
    )
    assert fault.startswith(
        "secrets_file: the hosts have /.cavern/secrets.yml and /state/secrets.yml; give all"
    )
    assert refused({}, secrets={"a": "/s", "b": "/s"}) == []


def test_encryption_needs_kernels_that_do_it() -> None:
    found: dict[str, Host | None] = {"a": host("10.0.0.1", ipsec=True), "b": host("10.0.0.2", ipsec=False)}
    [fault] = refused(found, network=NETWORK | {"encrypted": True})
    assert fault.startswith("b: its kernel does not encrypt packets")


def test_a_swarm_without_a_majority_says_how_to_go_on() -> None:
    alone = manager("10.0.0.1")
    alone["swarm"]["problem"] = "no leader"
    [fault] = refused({"a": alone})
    assert "docker swarm init --force-new-cluster --advertise-addr 10.0.0.1" in fault


def test_hosts_of_the_deployments_own_swarm_suit() -> None:
    ours = OVERLAY | {"project": "cavern", "subnet": "10.0.0.0/8"}
    found: dict[str, Host | None] = {
        "a": host("10.0.0.1"),
        "b": manager("10.0.0.2", networks=[ours]),
        "c": manager("10.0.0.3", containers=[container("celery_worker", "172.26.0.74")]),
    }
    assert refused(found) == []


def test_the_first_host_begins_and_the_others_join() -> None:
    found: dict[str, Host | None] = {"a": host("10.0.0.1"), "b": host("10.0.0.2"), "c": None}
    assert swarm_steps(found) == {
        "begins": "a",
        "manager": "a",
        "address": "10.0.0.1",
        "joining": ["b"],
        "forget": ["10.0.0.2"],
    }


def test_a_host_that_was_set_up_anew_joins_those_that_are_there() -> None:
    steps = swarm_steps({"a": host("10.0.0.1"), "b": manager("10.0.0.2"), "c": manager("10.0.0.3")})
    assert (steps["begins"], steps["manager"], steps["joining"]) == ("", "b", ["a"])
    assert swarm_steps({"a": manager("10.0.0.1")})["joining"] == []
    assert swarm_steps({"a": None})["manager"] == ""


def names(groups: list[str] | None) -> list[tuple[str, str]]:
    checks = health_checks(SERVICES, "https://cavern.example", "/ca.pem", groups)
    return [(check["service"], check["name"]) for check in checks]


def test_each_host_checks_what_it_has_and_the_entry_what_clients_see() -> None:
    assert names(["srcnodedb"]) == [("srcnodedb", "container"), ("srcnodedb", "database")]
    assert names(["haproxy"]) == [("haproxy", "container"), ("haproxy", "certificate"), ("core", "answer")]
    assert set(names(None)) == {*names(["haproxy"]), *names(["srcnodedb", "core", "celery_worker", "cavern"])}
    [_container, database] = health_checks(SERVICES, "https://cavern.example", "/ca.pem", ["srcnodedb"])
    assert database["container"] == "x-srcnodedb"


def test_status_has_a_row_for_each_instance_and_names_silent_hosts() -> None:
    services = place_services(SERVICES, "a", GROUPS, SUBNET)
    passed = {"service": "core", "name": "answer", "ok": True, "message": "answered 200"}
    checks = {"a": [passed], "b": [{"service": "celery_worker", "name": "container", "ok": True}]}
    rows = {
        row["name"]: row
        for row in status_rows(services, GROUPS, checks, {"b": {"celery_worker": {"state": "running"}}})
    }
    assert list(rows) == ["haproxy", "srcnodedb", "core", "celery_worker", "celery_worker@c", "cavern"]
    assert rows["core"]["checks"] == [passed]
    assert rows["celery_worker"]["found"] == {"state": "running"}
    [silent] = rows["celery_worker@c"]["checks"]
    assert (silent["ok"], silent["message"]) == (False, "the host c does not answer")
