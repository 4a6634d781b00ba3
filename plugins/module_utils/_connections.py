# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restrict the connections that a deployment's containers may open, by a table of nftables. Private to the collection.

All that a container sends enters the bridge of its network, whether for another container, for the host or for another
machine. A table of the bridge family looks at it there: at the first packet of each connection alone, and at those from
the deployment's own subnet alone. It needs neither the engine's rules nor br_netfilter, and outlives a restart of the
engine; a unit of systemd loads it before the engine where the machine starts anew.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError

UNITS = Path("/etc/systemd/system")
SYSTEMD = Path("/run/systemd/system")
INTERFACES = Path("/sys/class/net")
ANSWERS = "echo-reply, destination-unreachable, time-exceeded, parameter-problem"
# Where clouds tell a machine its credentials.
METADATA = "169.254.0.0/16"
OFF = "set deployment_restrict_connections: false to do without"


class ConnectionsError(PhaseError):
    """The rules cannot be applied; the message says why, and how to do without them."""


def table_name(project: str) -> str:
    """Return the name of a project's table, which is unique to the project."""
    return "cavern_" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", project)


def table(project: str, subnet: str, connections: dict[str, Any]) -> str:
    """Return the table in nft's syntax. Raises ValueError for an invalid address."""
    network = ipaddress.IPv4Network(subnet)
    members = sorted(ipaddress.IPv4Address(address) for address in connections["members"])
    lines = [
        'ip protocol tcp tcp flags & (syn | ack) != syn accept comment "answers, and what goes on"',
        'meta l4proto { tcp, udp } th dport 53 accept comment "names"',
        f"icmp type {{ {ANSWERS} }} accept",
        f'ip saddr @services ip daddr {METADATA} drop comment "credentials of the machine"',
    ]
    for rule in connections["rules"]:
        source, destination, ports = rule["source"], rule["destination"], sorted(set(rule["ports"]))
        lines.append(
            " ".join(
                [
                    f"ip saddr {ipaddress.IPv4Address(source)}" if source else "ip saddr != @services",
                    f"ip daddr {ipaddress.IPv4Address(destination)}"
                    if destination
                    else f"ip daddr != {network}",
                    f"tcp dport {_list(ports)}" if ports else "ip protocol tcp",
                    f'accept comment "{_comment(rule["comment"])}"',
                ]
            )
        )
    lines.append(
        'ip saddr != @services ip daddr != @services accept comment "others among themselves and elsewhere"'
    )
    lines.append("counter drop")
    rules = "".join(f"\t\t{line}\n" for line in lines)
    return (
        f"table bridge {table_name(project)} {{\n"
        f'\tcomment "{_comment(f"what the containers of {project} may open")}"\n'
        f"\tset services {{\n\t\ttype ipv4_addr; {f'elements = {_list(members)}' if members else ''}\n\t}}\n"
        "\tchain sent {\n\t\ttype filter hook prerouting priority filter; policy accept;\n"
        f"\t\tip saddr {network} goto opened\n\t}}\n"
        f"\tchain opened {{\n{rules}\t}}\n}}\n"
    )


def _list(items: list[Any]) -> str:
    return f"{{ {', '.join(map(str, items))} }}"


def _comment(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_ .,:/-]", "", text)[:120]


def unit_name(project: str) -> str:
    """Return the name of the systemd unit that loads a project's table."""
    return f"{table_name(project)}-connections.service"


def unit(project: str, rules: str) -> str:
    """Return the unit, which contains the rules."""
    return f"""\
[Unit]
Description=What the containers of {_comment(project)} may open
Before=docker.service
After=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
StandardInput=data
StandardInputData={base64.b64encode(_replacing(project, rules).encode()).decode()}
ExecStart={shutil.which("nft") or "/usr/sbin/nft"} --file -

[Install]
WantedBy=multi-user.target
"""


def _replacing(project: str, rules: str) -> str:
    """Return commands that replace the table by *rules* in one transaction; empty rules delete it."""
    name = f"table bridge {table_name(project)}"
    return f"{name}\ndelete {name}\n{rules}"


class Connections:
    """Compare a project's rules with those wanted, and apply them."""

    def __init__(self, project: str, network: dict[str, Any], wanted: dict[str, Any] | None) -> None:
        """Take the rules for *network* from *wanted*; without it, or without `restrict`, there are none."""
        self.project = project
        self.bridge = network.get("bridge") or network["name"]
        self.rules: str | None = None
        if wanted and wanted["restrict"]:
            try:
                self.rules = table(project, network["subnet"], wanted)
            except ValueError as exc:
                raise ConnectionsError(f"network.connections: {exc}") from exc
        self.actions: list[dict[str, Any]] = []
        self.diffs: list[dict[str, Any]] = []

    def plan(self) -> None:
        """Compare, and note the actions."""
        present = self._present()
        wanted = self._canonical()
        if present != wanted:
            lines = list(difflib.unified_diff((present or "").splitlines(), (wanted or "").splitlines(), n=0))
            reasons = [re.sub(r"^([+-])\s+", r"\1 ", line) for line in lines[2:] if not line.startswith("@@")]
            if present is None or wanted is None:
                reasons = ["missing" if present is None else "no longer wanted"]
            self._note("connections", table_name(self.project), present, wanted, reasons)
        unit_file = self._unit_file()
        found = _files.read_bytes(unit_file)
        text = unit(self.project, self.rules) if self.rules is not None and SYSTEMD.is_dir() else None
        if (None if found is None else found.decode(errors="replace")) != text or (
            text is not None and not self._enabled().exists()
        ):
            reasons = ["missing" if found is None else "content" if text is not None else "no longer wanted"]
            # It repeats the table.
            self._note("unit", unit_file.name, "" if found else None, "" if text else None, reasons)

    def _note(self, kind: str, name: str, before: str | None, after: str | None, reasons: list[str]) -> None:
        action = "create" if before is None else "remove" if after is None else "update"
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": reasons})
        if kind == "connections":
            header = f"connections {name}"
            self.diffs.append(
                {
                    "before_header": header,
                    "after_header": header,
                    "before": before or "",
                    "after": after or "",
                }
            )

    def apply(self) -> None:
        """Carry out what `plan` found. The network must exist: without its bridge, nothing would be restricted."""
        kinds = {action["object"] for action in self.actions}
        if "connections" in kinds:
            if self.rules is None:
                self._nft(f"delete table bridge {table_name(self.project)}\n")
            else:
                self.check_place()
                self._install()
                self._nft(_replacing(self.project, self.rules))
        if "unit" in kinds:
            self._place_unit()

    def check_place(self) -> None:
        """Refuse an Engine whose bridges are not on this machine."""
        if self.rules is not None and not (INTERFACES / self.bridge).exists():
            raise ConnectionsError(
                f"the bridge {self.bridge} is not an interface of this machine, since Docker Engine runs elsewhere "
                f"(Docker Desktop, rootless Docker), where connections cannot be restricted: {OFF}"
            )

    def _present(self) -> str | None:
        if shutil.which("nft") is None:
            return None
        done = _run(["nft", "--stateless", "list", "table", "bridge", table_name(self.project)])
        if done.returncode == 0:
            return done.stdout
        if "No such file or directory" in done.stderr:
            return None
        if self.rules is None:
            # A machine that cannot have rules has none.
            return None
        raise ConnectionsError(f"nftables cannot be asked: {done.stderr.strip()}; {OFF}")

    def _canonical(self) -> str | None:
        """Return the rules as this version of nft lists them, by loading them into a network namespace of their own."""
        if self.rules is None or shutil.which("nft") is None:
            return self.rules
        listing = f"nft --file - && nft --stateless list table bridge {table_name(self.project)}"
        done = _run(["unshare", "--net", "sh", "-c", listing], self.rules)
        if done.returncode:
            raise ConnectionsError(
                f"this machine's kernel cannot restrict connections: {done.stderr.strip()}; {OFF}"
            )
        return done.stdout

    def _install(self) -> None:
        if shutil.which("nft") is not None:
            return
        if not _apt.available():
            raise ConnectionsError(
                f"restricting connections needs the program nft: install nftables, or {OFF}"
            )
        try:
            _apt.update(120)
            _apt.install(["nftables"], 120)
        except _apt.AptError as exc:
            raise ConnectionsError(f"{exc}; {OFF}") from exc

    def _nft(self, commands: str) -> None:
        done = _run(["nft", "--file", "-"], commands)
        if done.returncode:
            raise ConnectionsError(f"connections cannot be restricted: {done.stderr.strip()}; {OFF}")

    def _unit_file(self) -> Path:
        return UNITS / unit_name(self.project)

    def _enabled(self) -> Path:
        return UNITS / "multi-user.target.wants" / unit_name(self.project)

    def _place_unit(self) -> None:
        file = self._unit_file()
        if self.rules is None or not SYSTEMD.is_dir():
            self._enabled().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        else:
            _files.write_atomic(file, unit(self.project, self.rules).encode(), 0o644)
            self._enabled().parent.mkdir(exist_ok=True)
            if not self._enabled().is_symlink():
                self._enabled().symlink_to(file)
        if SYSTEMD.is_dir():
            _run(["systemctl", "daemon-reload"])


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
