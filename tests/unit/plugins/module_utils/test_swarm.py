# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where other hosts reach this one, and what a node does with what its Engine answers."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine, _swarm
from ansible_collections.skasrc.cavern.plugins.modules import swarm

PROJECT = {"int.skao.src.cavern.project": "cavern"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("127.0.0.1", "swarm_address: 127.0.0.1 is this host to itself alone"),
        ("lo", "swarm_address: 127.0.0.1 is this host to itself alone"),
        ("203.0.113.7", "swarm_address: no interface of this host has the address 203.0.113.7"),
        ("localhost", r"swarm_address: localhost is 127\.0\.0\.1, none of which other hosts reach"),
        ("no such.name", "swarm_address: no such.name is neither an interface"),
    ],
)
def test_an_address_that_others_do_not_reach_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(_swarm.SwarmError, match=message):
        _swarm.place(wanted)


def test_an_interface_tells_its_address_and_its_largest_packet() -> None:
    assert _swarm._interface_address("lo") == "127.0.0.1"
    assert _swarm._interface_mtu("lo") == 65536
    assert _swarm._interface_address("none") is None


class Engine:
    """The answers of an Engine, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.answers = {"GET /version": {"Version": "20.10.24", "ApiVersion": "1.41"}} | answers
        self.asked: list[tuple[str, Any]] = []
        monkeypatch.setattr(_engine, "request", self._request)

    def _request(
        self, _path: str, method: str, target: str, document: Any = None, timeout: float = 0
    ) -> tuple[int, Any]:
        name = f"{method} {target}"
        if method != "GET":
            self.asked.append((name, document))
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer()
        return answer if isinstance(answer, tuple) else (200, answer)


def member(manager: bool = True, project: dict[str, str] = PROJECT) -> dict[str, Any]:
    cluster = {"ID": "one", "Spec": {"Labels": project}} if manager else None
    return {
        "ID": "engine",
        "ServerVersion": "20.10.24",
        "Architecture": "x86_64",
        "Swarm": {
            "NodeID": "this",
            "NodeAddr": "192.0.2.1",
            "LocalNodeState": "active",
            "ControlAvailable": manager,
            "Cluster": cluster,
        },
    }


ALONE = {"Swarm": {"LocalNodeState": "inactive"}}
NODE = _swarm.Node("/socket", "cavern")


def converge(check_mode: bool = False, **options: Any) -> list[str]:
    given = {
        "state": "present",
        "address": "192.0.2.1",
        "manager": None,
        "token": None,
        "forget": [],
        "node": None,
    }
    return [one["action"] for one in swarm.converge(NODE, given | options, check_mode)]


def test_a_host_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(
        monkeypatch,
        **{
            "GET /info": member(),
            "GET /nodes": (503, {"message": "rpc error: no leader"}),
            "GET /networks": [
                {"Name": "net", "Driver": "overlay", "Scope": "swarm", "Attachable": True, "Labels": PROJECT},
                {"Name": "other", "Driver": "bridge"},
            ],
            "GET /containers/json?all=1": [
                {
                    "Names": ["/web"],
                    "Labels": None,
                    "NetworkSettings": {
                        "Networks": {"net": {"IPAddress": "", "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}
                    },
                }
            ],
        },
    )
    monkeypatch.setattr(_swarm, "place", lambda _wanted: _swarm.Place("192.0.2.1", 1500))
    found = NODE.describe("", "net", False)
    assert found is not None
    assert found["swarm"] == {
        "state": "active",
        "address": "192.0.2.1",
        "manager": True,
        "cluster": "one",
        "project": "cavern",
        "problem": "no leader",
    }
    [network] = found["networks"]
    assert (network["driver"], network["attachable"], network["project"]) == ("overlay", True, "cavern")
    assert found["containers"] == [{"name": "web", "project": "", "service": "", "address": "10.0.0.9"}]


def test_a_swarm_is_begun_once_and_named_after_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, **{"GET /info": ALONE})
    assert converge(check_mode=True) == ["create"]
    assert engine.asked == []
    assert converge() == ["create"]
    [(name, document)] = engine.asked
    assert (name, document["Spec"]) == ("POST /swarm/init", {"Labels": PROJECT})
    engine.answers["GET /info"] = member()
    assert converge() == []


def test_a_manager_that_is_not_reached_is_named_with_the_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, **{"GET /info": ALONE})
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(_swarm, "PORT", port)
    with pytest.raises(
        _swarm.SwarmError, match=rf"127.0.0.1:{port} cannot be reached from 192.0.2.1.*open TCP"
    ):
        converge(manager="127.0.0.1", token="a token")


def test_a_former_manager_is_demoted_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"Role": "manager", "Availability": "active"}
    nodes = [
        {"ID": key, "Version": {"Index": 7}, "Spec": spec, "Status": {"Addr": address}}
        for key, address in (("old", "192.0.2.2"), ("kept", "192.0.2.1"))
    ]
    engine = Engine(monkeypatch, **{"GET /info": member(), "GET /nodes": nodes})
    # After a new beginning, a manager may no longer be counted.
    engine.answers["POST /nodes/old/update?version=7"] = (404, {"message": "not in raft memberlist"})
    assert converge(forget=["192.0.2.2"]) == ["forget"]
    assert engine.asked == [
        ("POST /nodes/old/update?version=7", spec | {"Role": "worker"}),
        ("DELETE /nodes/old?force=1", None),
    ]


@pytest.mark.parametrize(
    ("information", "networks", "left"),
    [
        (member(), [{"Name": "ingress", "Scope": "swarm", "Ingress": True}], True),
        (member(), [{"Name": "another", "Scope": "swarm"}], False),
        (member(project={}), [], False),
        (ALONE, [], False),
    ],
)
def test_a_swarm_is_left_if_it_is_the_projects_alone(
    monkeypatch: pytest.MonkeyPatch, information: Any, networks: list[Any], left: bool
) -> None:
    engine = Engine(monkeypatch, **{"GET /info": information, "GET /networks": networks})
    assert converge(state="absent") == (["leave"] if left else [])
    assert [name for name, _document in engine.asked] == (
        ["POST /swarm/leave?force=1", "DELETE /networks/docker_gwbridge"] if left else []
    )


def leaderless() -> dict[str, Any]:
    """What a manager tells without the others: of the Swarm, nothing."""
    information = member()
    information["Swarm"]["Cluster"] = {"ID": "", "Spec": {"Labels": None}}
    return information


NO_LEADER = (503, {"message": "rpc error: The swarm does not have a leader."})


def test_an_engine_that_was_asked_before_the_others_left_leaves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, **{"GET /info": member(), "GET /networks": []})
    absent = NODE, {"state": "absent", "node": None}
    [decided] = swarm.converge(*absent, True)
    assert engine.asked == []
    engine.answers |= {"GET /info": leaderless(), "GET /nodes": NO_LEADER, "GET /networks": NO_LEADER}
    assert converge(state="absent") == []
    assert converge(state="absent", node="another") == []
    assert converge(state="absent", node=decided["node"]) == ["leave"]
    assert engine.asked[0] == ("POST /swarm/leave?force=1", None)


def test_an_engine_that_stays_because_nobody_knows_whose_its_swarm_is_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(monkeypatch, **{"GET /info": leaderless(), "GET /nodes": NO_LEADER})
    assert (
        "does not have a leader.); if it was the deployment's: docker swarm leave --force"
        in swarm._warning(NODE)
    )
    for information in (member(project={}), ALONE):
        engine.answers |= {"GET /info": information, "GET /nodes": []}
        assert swarm._warning(NODE) == ""
