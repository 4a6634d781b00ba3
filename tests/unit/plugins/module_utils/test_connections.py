# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _connections
from ansible_collections.skasrc.cavern.plugins.module_utils._connections import Connections, ConnectionsError

NETWORK = {"name": "net", "subnet": "172.30.0.0/24", "bridge": None}
WANTED: dict[str, Any] = {
    "restrict": True,
    "members": ["172.30.0.10", "172.30.0.2"],
    "rules": [
        {"comment": "web to db", "source": "172.30.0.2", "destination": "172.30.0.10", "ports": [5432, 80]},
        {"comment": 'all"; drop', "source": None, "destination": "172.30.0.2", "ports": [443]},
        {"comment": "web elsewhere", "source": "172.30.0.2", "destination": None, "ports": []},
    ],
}


class Filter:
    """A packet filter: what was asked of it, and what it lists; *kernel* is what one that cannot has to say."""

    def __init__(self, kernel: str = "") -> None:
        self.listed: str | None = None
        self.kernel = kernel
        self.commands: list[str] = []

    def run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        if command[0] == "unshare":
            return subprocess.CompletedProcess(command, bool(self.kernel), text, self.kernel)
        if "list" in command:
            missing = self.listed is None
            return subprocess.CompletedProcess(
                command, missing, self.listed or "", "Error: No such file or directory" if missing else ""
            )
        self.commands.append(" ".join(command) if command[0] != "nft" else text)
        if command[0] == "nft":
            self.listed = text.split("\n", 2)[2] if text.startswith("table") else None
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host with systemd and the bridge of the network."""
    for name, attribute in {"units": "UNITS", "run": "SYSTEMD", "net": "INTERFACES"}.items():
        (tmp_path / name).mkdir()
        monkeypatch.setattr(_connections, attribute, tmp_path / name)
    (tmp_path / "net/net").mkdir()
    monkeypatch.setattr(_connections.shutil, "which", lambda name: f"/usr/sbin/{name}")
    return tmp_path


@pytest.fixture
def packet_filter(monkeypatch: pytest.MonkeyPatch) -> Filter:
    found = Filter()
    monkeypatch.setattr(_connections, "_run", found.run)
    return found


def converge(wanted: dict[str, Any] | None = WANTED) -> list[tuple[str, str]]:
    """What a run does; the next one finds nothing to do."""
    run = Connections("a-b", NETWORK, wanted)
    run.plan()
    run.apply()
    again = Connections("a-b", NETWORK, wanted)
    again.plan()
    assert again.actions == again.diffs == []
    return [(action["object"], action["action"]) for action in run.actions]


def test_each_pair_is_one_line_that_names_it() -> None:
    lines = [line.strip() for line in _connections.table("p", "172.30.0.0/24", WANTED).splitlines()]
    assert (
        'ip saddr 172.30.0.2 ip daddr 172.30.0.10 tcp dport { 80, 5432 } accept comment "web to db"' in lines
    )
    assert 'ip saddr != @services ip daddr 172.30.0.2 tcp dport { 443 } accept comment "all drop"' in lines
    assert (
        'ip saddr 172.30.0.2 ip daddr != 172.30.0.0/24 ip protocol tcp accept comment "web elsewhere"'
        in lines
    )
    assert "type ipv4_addr; elements = { 172.30.0.2, 172.30.0.10 }" in lines
    # Only the deployment's own packets are looked at; what nothing allows is dropped.
    assert "ip saddr 172.30.0.0/24 goto opened" in lines
    assert lines[-3] == "counter drop"


def test_no_two_projects_have_one_table() -> None:
    names = {_connections.table_name(project) for project in ("a-b", "a_b", "a.b", "ab", "a_2d_b")}
    assert len(names) == 5
    assert all(name.replace("_", "").isalnum() and name.isascii() for name in names)


@pytest.mark.parametrize("rule", [{"source": "web"}, {"destination": "172.30.0.0/24"}])
def test_an_address_that_is_none_is_refused(rule: dict[str, str]) -> None:
    wanted = WANTED | {"rules": [WANTED["rules"][0] | rule]}
    with pytest.raises(ConnectionsError, match=r"^network\.connections: "):
        Connections("p", NETWORK, wanted)


def test_rules_come_and_go_with_their_unit(host: Path, packet_filter: Filter) -> None:
    assert converge() == [("connections", "create"), ("unit", "create")]
    unit = host / "units/cavern_a_2d_b-connections.service"
    assert (host / "units/multi-user.target.wants" / unit.name).readlink() == unit
    (encoded,) = [line for line in unit.read_text().splitlines() if line.startswith("StandardInputData=")]
    # At the start of the machine it brings about what this run did.
    assert base64.b64decode(encoded.partition("=")[2]).decode() == packet_filter.commands[0]
    assert packet_filter.commands[0].startswith(
        "table bridge cavern_a_2d_b\ndelete table bridge cavern_a_2d_b\n"
    )

    fewer = WANTED | {"rules": WANTED["rules"][:1]}
    assert converge(fewer) == [("connections", "update"), ("unit", "update")]
    assert converge(fewer | {"restrict": False}) == [("connections", "remove"), ("unit", "remove")]
    assert packet_filter.commands[-2] == "delete table bridge cavern_a_2d_b\n"
    assert list((host / "units").rglob("*.service")) == []
    assert converge(None) == []


def test_what_was_changed_by_hand_is_told_and_undone(host: Path, packet_filter: Filter) -> None:
    converge()
    assert packet_filter.listed
    packet_filter.listed = packet_filter.listed.replace("\t\tcounter drop\n", "")
    run = Connections("a-b", NETWORK, WANTED)
    run.plan()
    assert [action["reasons"] for action in run.actions] == [["+ counter drop"]]
    assert converge() == [("connections", "update")]
    (host / "units/multi-user.target.wants/cavern_a_2d_b-connections.service").unlink()
    assert converge() == [("unit", "update")]


def test_a_machine_without_systemd_has_no_unit(host: Path, packet_filter: Filter) -> None:
    (host / "run").rmdir()
    assert converge() == [("connections", "create")]
    assert list((host / "units").iterdir()) == []


def test_an_engine_elsewhere_is_refused(host: Path, packet_filter: Filter) -> None:
    (host / "net/net").rmdir()
    run = Connections("a-b", NETWORK, WANTED)
    run.plan()
    with pytest.raises(ConnectionsError, match=r"Docker Desktop.*deployment_restrict_connections: false"):
        run.apply()
    assert packet_filter.commands == []


def test_a_kernel_that_cannot_is_refused_before_anything_changes(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packet_filter = Filter(kernel="Error: Could not process rule: Operation not supported")
    monkeypatch.setattr(_connections, "_run", packet_filter.run)
    with pytest.raises(
        ConnectionsError, match=r"Operation not supported; set deployment_restrict_connections: false"
    ):
        Connections("a-b", NETWORK, WANTED).plan()
    # Without rules such a machine is fine.
    assert converge({**WANTED, "restrict": False}) == []


def test_nft_is_installed_where_it_is_missing(
    host: Path, packet_filter: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: set[str] = set()
    monkeypatch.setattr(
        _connections.shutil, "which", lambda name: f"/usr/sbin/{name}" if name in programs else None
    )
    monkeypatch.setattr(_apt, "available", lambda: False)
    run = Connections("a-b", NETWORK, WANTED)
    run.plan()
    assert [action["action"] for action in run.actions] == ["create", "create"]
    with pytest.raises(
        ConnectionsError, match=r"install nftables, or set deployment_restrict_connections: false"
    ):
        run.apply()
    monkeypatch.setattr(_apt, "available", lambda: True)
    monkeypatch.setattr(_apt, "update", lambda timeout: None)
    monkeypatch.setattr(_apt, "install", lambda packages, timeout: programs.add("nft"))
    assert converge() == [("connections", "create"), ("unit", "create")]
