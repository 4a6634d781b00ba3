# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container should be, what it is, and how a difference is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import options as plan
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import (
    Argument,
    argument_spec,
    documentation,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import waves
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import Target, size

SPEC: dict[str, Any] = {
    "name": "web",
    "container": "x-web",
    "image": "cavern/nginx:local",
    "address": "172.30.0.2",
    "aliases": ["web"],
    "hostname": "web",
    "command": ["nginx", "-g", "daemon off;"],
    "user": "8000:8000",
    "environment": {"A": "1", "B": "two=2"},
    "ports": [{"host_address": "127.0.0.1", "host_port": 8443, "container_port": 443, "protocol": "tcp"}],
    "mounts": [
        {"type": "tmpfs", "target": "/tmp", "tmpfs_size": "64m"},
        {"type": "bind", "source": "/srv/data", "target": "/data", "read_only": True},
        {"type": "volume", "source": "x-db", "target": "/var/lib/db"},
    ],
    "files": [{"path": "nginx.conf", "content": "x"}],
    "config_target": "/config",
    "extra_hosts": {"vo.example": "172.30.0.9"},
    "read_only": True,
    "cap_drop": ["ALL"],
    "cap_add": ["CAP_CHOWN"],
    "security_opt": ["no-new-privileges"],
    "init": True,
    "memory": "256m",
    "pids_limit": 100,
    "ulimits": {"nofile": 1024},
    "stop_timeout": 7,
    "stop_signal": "SIGINT",
    "shm_size": "32m",
    "restart_policy": "unless-stopped",
    "health": {"test": ["CMD", "true"], "interval": 10, "timeout": 5, "retries": 3, "start_period": 60},
    "depends_on": ["db"],
    "log": {"max_size": "10m", "max_file": 3},
}


TARGET = Target(SPEC, "x", "net", "/state/config")


def wanted(**changes: Any) -> dict[str, Any]:
    return plan.wanted(Target(SPEC | changes, "x", "net", "/state/config"))


def inspect(body: dict[str, Any]) -> dict[str, Any]:
    """What `docker inspect` shows of a container that was created with that body."""
    host = body["HostConfig"]
    endpoint = body["NetworkingConfig"]["EndpointsConfig"]["net"]
    return {
        "Id": "0123456789abcdef",
        "Name": "/x-web",
        "Config": {
            **body,
            "Env": ["PATH=/usr/bin", *body["Env"]],
            "Labels": {**body["Labels"], "of.the.image": "1"},
        },
        "HostConfig": host,
        "NetworkSettings": {
            "Networks": {
                "net": {
                    "IPAMConfig": endpoint["IPAMConfig"],
                    "Aliases": [*endpoint["Aliases"], "0123456789ab"],
                }
            }
        },
        "Mounts": [
            {
                "Type": mount["Type"],
                "Name": mount["Source"],
                "Source": mount["Source"],
                "Destination": mount["Target"],
                "RW": not mount["ReadOnly"],
            }
            for mount in host["Mounts"]
        ],
    }


def test_what_was_created_is_found_as_wanted() -> None:
    options = wanted()
    found = plan.active(inspect(plan.creation(TARGET, options)), options)
    assert plan.differences(options, found) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"address": "172.30.0.3"}, "address: '172.30.0.2' -> '172.30.0.3'"),
        ({"environment": {"A": "1", "B": "3"}}, "environment.B changed"),
        ({"environment": {"A": "1", "B": "two=2", "C": "3"}}, "environment.C is new"),
        ({"memory": "1g"}, "memory: 268435456 -> 1073741824"),
        ({"read_only": False}, "read_only: True -> False"),
        ({"cap_add": []}, "cap_add: ['CHOWN'] -> []"),
        ({"user": "0:0"}, "user: '8000:8000' -> '0:0'"),
        ({"restart_policy": "always"}, "restart_policy: 'unless-stopped' -> 'always'"),
        (
            {"extra_hosts": {"vo.example": "172.30.0.8"}},
            "extra_hosts.vo.example: '172.30.0.9' -> '172.30.0.8'",
        ),
        ({"command": ["sleep", "1"]}, "command: ['nginx', '-g', 'daemon off;'] -> ['sleep', '1']"),
    ],
)
def test_a_difference_is_named_as_the_specification_spells_it(changes: dict[str, Any], reason: str) -> None:
    options = wanted(**changes)
    found = plan.active(inspect(plan.creation(TARGET, wanted())), options)
    assert reason in plan.reasons(plan.differences(options, found))


def test_a_variable_that_is_no_longer_wanted_differs_from_one_of_the_image() -> None:
    container = inspect(plan.creation(TARGET, wanted()))
    options = wanted(environment={"A": "1"})
    image = {"Config": {"Env": ["PATH=/usr/bin"]}}
    found = plan.active(container, options, image)
    assert plan.reasons(plan.differences(options, found)) == ["environment.B is gone"]


def test_a_container_moved_to_another_network_differs() -> None:
    options = wanted()
    container = inspect(plan.creation(TARGET, options))
    container["NetworkSettings"]["Networks"] = {"bridge": {}}
    assert {"network", "address"} <= set(plan.differences(options, plan.active(container, options)))


def test_bind_mounts_are_named_as_the_engine_finds_them() -> None:
    places = _engine.Places((("/state", "/volumes/x"),))
    target = Target(SPEC, "x", "net", "/state/config", places)
    options = plan.wanted(target)
    body = plan.creation(target, options)
    assert f"/volumes/x/config/{SPEC['name']}" in {mount["Source"] for mount in body["HostConfig"]["Mounts"]}
    assert plan.differences(options, plan.active(inspect(body), options)) == {}
    assert "mounts" in plan.differences(wanted(), plan.active(inspect(body), wanted()))


def test_an_option_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    argument = Argument("cpus", "Processors that it may use, such as 0-2.")
    added = plan.field(
        argument,
        "HostConfig.CpusetCpus",
        "cpuset",
        wanted=lambda value: value or "",
        active=lambda value: value,
    )
    monkeypatch.setattr(plan, "OPTIONS", (*plan.OPTIONS, added))
    target = Target(SPEC | {"cpus": "0-2"}, "x", "net", "/state/config")
    options = plan.wanted(target)
    body = plan.creation(target, options)
    assert body["HostConfig"]["CpusetCpus"] == plan.composition(target, options)["cpuset"] == "0-2"
    assert plan.differences(options, plan.active(inspect(body), options)) == {}
    found = plan.active(inspect(body | {"HostConfig": body["HostConfig"] | {"CpusetCpus": "0"}}), options)
    assert plan.reasons(plan.differences(options, found)) == ["cpus: '0' -> '0-2'"]


def test_argument_spec_and_documentation_have_the_same_options() -> None:
    def names(entries: dict[str, Any], below: str) -> set[str]:
        return {
            *entries,
            *(f"{key}.{name}" for key, e in entries.items() for name in names(e.get(below, {}), below)),
        }

    assert names(argument_spec(plan.SERVICE), "options") == names(documentation(plan.SERVICE), "suboptions")
    assert {option.name for option in plan.OPTIONS} - names(argument_spec(plan.SERVICE), "options") == {
        "network",
        "tmpfs",
    }


def test_waves_put_dependencies_first() -> None:
    assert waves(
        {"api": ["db", "broker"], "db": [], "broker": [], "web": ["api"], "lone": ["elsewhere"]}
    ) == [
        ["broker", "db", "lone"],
        ["api"],
        ["web"],
    ]


def test_a_circle_of_dependencies_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="circle through a, b"):
        waves({"a": ["b"], "b": ["a"], "c": []})


@pytest.mark.parametrize(
    ("text", "expected"), [("256m", 268_435_456), ("1G", 1_073_741_824), ("10", 10), (None, 0)]
)
def test_sizes(text: Any, expected: int) -> None:
    assert size(text) == expected


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(PlanError, match="'lots' is not a size such as 256m"):
        size("lots")
