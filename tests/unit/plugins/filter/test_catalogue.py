# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue's filters: what they complete, and what they refuse and how they say so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.skasrc.cavern.plugins.filter.catalogue import (
    build_recipes,
    compose_services,
    connections,
    faults,
    resolve_catalogue,
    select_phases,
    select_services,
)
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

ENTRIES: dict[str, dict[str, Any]] = {
    "proxy": {
        "summary": "entry point",
        "container": "proxy",
        "number": 2,
        "image": "haproxy",
        "memory": "1m",
        "phases": ["certificates"],
    },
    "store": {
        "summary": "files",
        "container": "src-store",
        "number": 6,
        "image": "store",
        "memory": "1m",
        "route": "/src/store",
    },
    "db": {
        "summary": "database",
        "container": "db",
        "number": 7,
        "image": "reg.example/pg:17",
        "memory": "1m",
        "user": 8001,
    },
}
ROLES = {"proxy": "proxy", "store": "mysite.services.store", "db": "postgres"}


def stated(entries: dict[str, dict[str, Any]], **roles: str) -> dict[str, dict[str, Any]]:
    """Return the entries as their roles state them."""
    found: dict[str, dict[str, Any]] = {}
    for key, entry in entries.items():
        found.setdefault((ROLES | roles)[key], {})[key] = entry
    return found


def resolve(
    overrides: dict[str, Any] | None = None,
    subnet: str = "172.26.0.0/16",
    prefix: str = "",
    network: dict[str, str] | None = None,
) -> dict[str, Any]:
    return resolve_catalogue(
        stated(ENTRIES),
        overrides=overrides or {},
        network={"name": "net", "subnet": subnet} | (network or {}),
        prefix=prefix,
        flavour="embedded",
        image_prefix="cavern",
        image_tag="local",
        user=8000,
    )


def test_addresses_follow_the_subnet() -> None:
    services = resolve(subnet="10.1.2.0/24")
    assert {key: service["address"] for key, service in services.items()} == {
        "proxy": "10.1.2.2",
        "store": "10.1.2.6",
        "db": "10.1.2.7",
    }


def test_images_get_prefix_and_tag_unless_they_have_their_own() -> None:
    services = resolve()
    assert services["store"]["image"] == "cavern/store:local"
    assert services["db"]["image"] == "reg.example/pg:17"


def test_a_prefix_names_containers_and_leaves_their_alias() -> None:
    store = resolve(prefix="b-")["store"]
    assert (store["container"], store["alias"]) == ("b-src-store", "src-store")


def test_overrides_reach_single_fields() -> None:
    services = resolve({"store": {"number": 60}})
    assert (services["store"]["address"], services["store"]["route"]) == ("172.26.0.60", "/src/store")


def test_a_disabled_service_is_gone_and_nobody_waits_for_it() -> None:
    services = resolve({"db": {"enabled": False}, "store": {"depends_on": ["db", "proxy"]}})
    assert "db" not in services
    assert services["store"]["depends_on"] == ["proxy"]


@pytest.mark.parametrize(
    ("overrides", "subnet", "message"),
    [
        ({"nobody": {}}, "172.26.0.0/16", "deployment_service_overrides: no such service: nobody"),
        ({"store": {"number": 2}}, "172.26.0.0/16", "'172.26.0.2' is also that of proxy"),
        ({"store": {"container": "proxy"}}, "172.26.0.0/16", "container: 'proxy' is also that of proxy"),
        ({"store": {"number": "six"}}, "172.26.0.0/16", "deployment_service_overrides.store.number: .*six"),
        (
            {"store": {"environment": {"A": "b"}}},
            "172.26.0.0/16",
            "deployment_service_overrides.store.environment: a service has no such field",
        ),
        (
            {"store": {"memroy": "2g"}},
            "172.26.0.0/16",
            "store.memroy: a service has no such field; is it memory?",
        ),
        ({"store": {"probe": {"uri": "/"}}}, "172.26.0.0/16", "store.probe.uri: a service has no such field"),
        ({"store": {"depends_on": "db"}}, "172.26.0.0/16", "store.depends_on: text where a list is wanted"),
        ({"store": {"port": True}}, "172.26.0.0/16", "store.port: a truth value where a number is wanted"),
        (
            {"store": "2g"},
            "172.26.0.0/16",
            "deployment_service_overrides.store: give the fields of the service",
        ),
        ({"store": {"number": 300}}, "10.0.0.0/24", "give a whole number from 2 to 254"),
        ({"store": {"number": 1}}, "10.0.0.0/24", "deployment_service_overrides.store.number: 1"),
        ({"store": {"route": "src/store"}}, "172.26.0.0/16", "must start with a slash"),
        ({"store": {"route": "/src/"}}, "172.26.0.0/16", "not end with one"),
        ({}, "172.26.0.1/16", "deployment_network.subnet: '172.26.0.1/16'"),
        ({}, "docker", "is not an IPv4 subnet such as 172.26.0.0/16"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides: dict[str, Any], subnet: str, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message.replace("(", r"\(")):
        resolve(overrides, subnet)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"toy": {"toy": ENTRIES["db"] | {"memroy": "1g"}}},
            "toy_services.toy.memroy: a service has no such field",
        ),
        ({"my.site.toy": {"toy": {"container": "toy"}}}, "toy_services.toy.number: is missing"),
        ({"toy": {"db": ENTRIES["db"]}}, "toy_services.db: the role postgres has a service of this name too"),
    ],
)
def test_what_a_role_states_wrongly_is_told_by_its_name(roles: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        resolve_catalogue(
            stated(ENTRIES) | roles,
            overrides={},
            network={"name": "net", "subnet": "172.26.0.0/16"},
            prefix="",
            flavour="embedded",
            image_prefix="cavern",
            image_tag="local",
            user=8000,
        )


def test_the_services_stand_in_the_order_of_their_numbers() -> None:
    assert list(resolve({"proxy": {"number": 60}})) == ["proxy", "store", "db"]


def test_checks_of_services_matter_where_they_are_asked_for() -> None:
    checks = [
        {"good": "False", "text": "always"},
        {"good": True, "text": "never"},
        {"good": False, "text": "java", "services": ["store"]},
        {"good": False, "text": "other", "services": ["db"]},
        {"good": False, "text": "always"},
    ]
    assert faults(checks, ["store"]) == ["always", "java"]


def test_text_becomes_what_a_field_is() -> None:
    services = resolve({"store": {"number": "9", "memory": 512}, "db": {"enabled": "false"}})
    assert services["store"]["address"] == "172.26.0.9"
    assert services["store"]["memory"] == "512"
    assert "db" not in services


@pytest.mark.parametrize(
    ("tags", "skip", "expected"),
    [
        (["all"], [], ["proxy", "store"]),
        (["store"], [], ["store"]),
        (["certificates"], [], ["proxy"]),
        (["postgres"], [], []),
        (["images"], [], []),
        (["all"], ["store"], ["proxy"]),
        (["all"], ["images"], ["proxy", "store"]),
    ],
)
def test_tags_select_among_the_services_of_this_host(
    tags: list[str], skip: list[str], expected: list[str]
) -> None:
    groups = ["proxy", "store", "unrelated"]
    assert select_services(resolve(), tags, skip=skip, groups=groups) == expected


@pytest.mark.parametrize(
    ("tags", "skip", "expected"),
    [
        (["all"], [], ["host", "certificates", "hosts_entries", "images", "network"]),
        (["all"], ["images", "host"], ["certificates", "hosts_entries", "network"]),
        (["images", "store"], [], ["images"]),
        (["store"], [], []),
    ],
)
def test_tags_select_among_the_phases(tags: list[str], skip: list[str], expected: list[str]) -> None:
    assert select_phases(tags, skip=skip) == expected


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "-net"}, "deployment_network.name: '-net'"),
        ({"name": ""}, "deployment_network.name: ''"),
        ({"name": "net", "bridge": "longer-than-15-chars"}, "deployment_network.bridge: 'longer"),
        ({"name": "a-name-that-is-long"}, "deployment_network.bridge: 'a-name"),
    ],
)
def test_a_network_that_nothing_can_make_is_refused(network: dict[str, str], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        resolve(network=network)


def test_a_catalogue_without_a_service_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="every service is disabled"):
        resolve({key: {"enabled": False} for key in ENTRIES})


def test_composition_joins_defaults_catalogue_and_role() -> None:
    defaults = {
        "read_only": True,
        "mounts": [{"type": "tmpfs", "target": "/tmp"}],
        "health": {"interval": 10},
    }
    particulars = {
        "store": {
            "command": ["serve"],
            "read_only": False,
            "health": {"test": ["CMD", "true"]},
            "mounts": [{"type": "volume", "source": "v", "target": "/v"}],
            "files": [
                {"path": "a", "content": "text"},
                {"path": "secrets/s", "content": "s", "secret": True},
            ],
        }
    }
    (spec,) = compose_services(["store"], resolve(), particulars, defaults)
    assert spec["command"] == ["serve"]
    assert spec["read_only"] is False
    assert spec["health"] == {"interval": 10, "test": ["CMD", "true"]}
    assert [mount["target"] for mount in spec["mounts"]] == ["/tmp", "/v"]
    assert spec["user"] == "8000:8000"
    assert spec["files"] == [
        {"owner": 8000, "group": 8000, "mode": "0400", "path": "a", "content": "text\n"},
        {
            "owner": 8000,
            "group": 8000,
            "mode": "0400",
            "path": "secrets/s",
            "secret_content": "s",
            "secret": True,
        },
    ]


def test_each_service_of_the_catalogue_has_a_user_of_its_own() -> None:
    """All but Cavern, which hands files over to their users."""
    roles = Path(__file__).parents[4] / "roles"
    first = yaml.safe_load((roles / "deployment/defaults/main.yml").read_text())["deployment_service_user"]
    root = yaml.safe_load((roles / "cavern/defaults/main.yml").read_text())["cavern_root_owner_uid"]
    users = {
        key: int(re.sub(r"\{\{ deployment_service_user \| int \+ (\d+) \}\}", r"80\1", str(entry["user"])))
        for role in _services.own()
        for key, entry in _services.entries(role, roles / role / "vars/main.yml").items()
    }
    assert users.pop("cavern") == 0
    assert len(set(users.values())) == len(users)
    assert all(first < user < root for user in users.values())


def test_a_flavour_changes_the_services_that_have_it_and_no_other() -> None:
    entries = ENTRIES | {
        "store": ENTRIES["store"]
        | {"opencadc": {"image": "images.example/store:1", "user": 0, "memory": "3g"}},
        "db": ENTRIES["db"] | {"flavour": "embedded", "opencadc": {"image": "images.example/pg:1"}},
    }
    services = resolve_catalogue(
        stated(entries),
        overrides={"store": {"memory": "5g"}},
        network={"name": "net", "subnet": "172.26.0.0/16"},
        prefix="",
        flavour="opencadc",
        image_prefix="cavern",
        image_tag="local",
        user=8000,
    )
    store = services["store"]
    assert (store["flavour"], store["image"], store["user"], store["memory"]) == (
        "opencadc",
        "images.example/store:1",
        0,
        "5g",
    )
    assert "opencadc" not in store
    assert services["proxy"]["flavour"] == "embedded"
    assert services["db"]["image"] == "reg.example/pg:17"


def test_a_flavour_that_a_service_lacks_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="there is no OpenCADC image for proxy"):
        resolve({"proxy": {"flavour": "opencadc"}})
    with pytest.raises(AnsibleFilterError, match="'openstack' is none of embedded, opencadc"):
        resolve({"proxy": {"flavour": "openstack"}})


def test_haproxy_depends_on_all_that_have_a_route_and_nobody_waits_for_it() -> None:
    proxy = ENTRIES["proxy"] | {"port": 443, "further_ports": [80, 443]}
    services = resolve_catalogue(
        stated(ENTRIES | {"proxy": proxy}, proxy="haproxy"),
        overrides={"store": {"depends_on": ["db", "proxy"]}},
        network={"name": "net", "subnet": "172.26.0.0/16"},
        prefix="",
        flavour="embedded",
        image_prefix="cavern",
        image_tag="local",
        user=8000,
    )
    found = {key: (service["depends_on"], service["starts_after"]) for key, service in services.items()}
    assert found == {"proxy": (["store"], []), "store": (["db", "proxy"], ["db"]), "db": ([], [])}
    assert services["proxy"]["ports"] == [80, 443]


def test_what_it_waits_for_can_be_said_apart_from_whom_it_asks() -> None:
    store = resolve({"store": {"depends_on": ["db"], "starts_after": ["proxy", "gone"]}})["store"]
    assert (store["depends_on"], store["starts_after"]) == (["db"], ["proxy"])
    (spec,) = compose_services(["store"], {"store": store}, {"store": {}}, {})
    assert spec["depends_on"] == ["proxy"]


def opened(urls: list[str], monitors: list[str] | None = None) -> list[tuple[str, str | None, list[int]]]:
    """Whom the service `store` may open connections to, by the name of the rule."""
    services = resolve({"store": {"depends_on": ["db"], "port": 8080, "metrics": 9000}, "db": {"port": 5432}})
    found = connections(services, [{"store": urls}, {"db": []}], "vo.example", monitors or [])
    assert found["members"] == ["172.26.0.2", "172.26.0.6", "172.26.0.7"]
    return [
        (rule["comment"], rule["destination"], rule["ports"])
        for rule in found["rules"]
        if rule["source"] in ("172.26.0.6", "172.26.0.50")
    ]


def test_a_service_reaches_those_it_depends_on_and_what_its_settings_name_elsewhere() -> None:
    inside = [("store to db", "172.26.0.7", [5432])]
    assert opened(["https://vo.example/iam", "http://src-store:8080/x", "http://172.26.0.7/"]) == inside
    assert opened(["https://iam.example/", "http://rse.example:8443/a", "https://rse.example/"]) == [
        *inside,
        ("store to other machines", None, [443, 8443]),
    ]
    # A bare host may be called on any port, an address is the only one.
    assert opened(["hook.example"]) == [*inside, ("store to other machines", None, [])]
    assert opened(["172.26.0.1", "http://192.0.2.7:81/"]) == [
        *inside,
        ("store to 172.26.0.1", "172.26.0.1", []),
        ("store to 192.0.2.7", "192.0.2.7", [81]),
    ]
    with pytest.raises(AnsibleFilterError, match="'http://a:b/' is not a URL or a host"):
        opened(["http://a:b/"])


def test_a_monitor_reaches_metrics_alone() -> None:
    assert opened([], ["172.26.0.50"])[1:] == [("metrics of store", "172.26.0.6", [9000])]


def test_a_service_that_monitors_reads_the_metrics_of_all_others() -> None:
    services = resolve({"store": {"monitors": True, "metrics": 9090}, "db": {"port": 5432, "metrics": 9000}})
    rules = connections(services, [], "vo.example", [])["rules"]
    assert [(rule["comment"], rule["source"], rule["ports"]) for rule in rules if rule["source"]] == [
        ("metrics of db", "172.26.0.6", [9000])
    ]
    # OpenCADC's image has none.
    assert "metrics" not in resolve({"store": {"metrics": None}})["store"]


def test_a_service_is_built_from_a_directory_of_the_site(tmp_path: Path) -> None:
    build = {"directory": str(tmp_path), "target": "api", "images": {"PYTHON": "python"}}
    services = resolve({"store": {"build": build}})
    (name, recipe), *others = build_recipes(services).items()
    assert not others
    assert re.fullmatch(r"site-store-[0-9a-f]{8}", name)
    assert services["store"]["image"] == f"cavern/{name}:local"
    assert recipe == {
        "directory": str(tmp_path.resolve()),
        "dockerfile": "Dockerfile",
        "target": "api",
        "arguments": {},
        "stages": {"PYTHON": "python"},
    }


@pytest.mark.parametrize("directory", ["", "checkout", "./checkout"])
def test_a_directory_to_build_from_is_absolute(directory: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"store\.build\.directory: .* must be an absolute path"):
        resolve({"store": {"build": {"directory": directory}}})


def test_options_of_a_container_change_what_its_role_states() -> None:
    services = resolve(
        {"store": {"options": {"command": ["b"], "environment": {"B": "2"}, "mounts": [{"target": "/b"}]}}}
    )
    own = {
        "store": {
            "command": ["a", "c"],
            "environment": {"A": "1"},
            "mounts": [{"target": "/a"}],
            "init": False,
        }
    }
    (composed,) = compose_services(["store"], services, own, {"mounts": [{"target": "/tmp"}]})
    assert composed["command"] == ["b"]
    assert composed["environment"] == {"A": "1", "B": "2"}
    assert [mount["target"] for mount in composed["mounts"]] == ["/tmp", "/a", "/b"]
    assert composed["init"] is False


def test_the_same_directory_built_otherwise_is_another_image(tmp_path: Path) -> None:
    """Two deployments of one machine would else take each other's."""
    images = {
        resolve({"store": {"build": {"directory": str(tmp_path)} | further}})["store"]["image"]
        for further in ({}, {"target": "api"}, {"arguments": {"A": "1"}}, {"target": "api"})
    }
    assert len(images) == 3
