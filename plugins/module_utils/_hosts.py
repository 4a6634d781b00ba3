# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Managed block of a hosts file (hosts(5)), as pure functions over its text. Private to the collection."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass


class HostsError(Exception):
    """The file cannot hold the wanted entries; the message names the conflicting line."""


@dataclass(frozen=True)
class Entry:
    """One address and its names."""

    address: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Mapping:
    """One name on one line of the file (numbered from 1)."""

    line: int
    address: str
    name: str
    block: str | None


@dataclass(frozen=True)
class Plan:
    """Wanted text of the file, lines of the block, and lines outside of it that already map wanted names."""

    text: str
    block: list[str]
    relied_on: list[Mapping]


MARKER = re.compile(r"# (?P<edge>BEGIN|END) (?P<project>\S+) \(managed by skasrc\.cavern\.hosts_entries\)\Z")


def begin(project: str) -> str:
    return f"# BEGIN {project} (managed by skasrc.cavern.hosts_entries)"


def end(project: str) -> str:
    return f"# END {project} (managed by skasrc.cavern.hosts_entries)"


def plan(text: str, project: str, entries: list[Entry]) -> Plan:
    """Return the file with exactly one block of `project` that holds `entries`, or none if there are no entries.

    A block keeps its place; copies of it are removed. Raises HostsError if an end marker is missing, or if a line
    elsewhere maps a wanted name to another address.
    """
    lines = text.splitlines(keepends=True)
    spans = _spans(lines, project)
    outside = [m for m in _mappings(lines) if not any(first <= m.line - 1 <= last for first, last in spans)]
    block, relied_on = _block(entries, outside)
    wanted = [begin(project), *block, end(project)] if block else []
    kept: list[str] = []
    place = None
    for index, line in enumerate(lines):
        if any(first <= index <= last for first, last in spans):
            place = len(kept) if place is None else place
            continue
        kept.append(line)
    if wanted and place is None:
        place = len(kept)
    if wanted:
        if kept and place and not kept[place - 1].endswith("\n"):
            kept[place - 1] += "\n"
        kept[place:place] = [f"{line}\n" for line in wanted]
    return Plan("".join(kept), block, relied_on)


def _spans(lines: list[str], project: str) -> list[tuple[int, int]]:
    """Return first and last index of every block of the project."""
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for index, line in enumerate(lines):
        if line.strip() == begin(project):
            if start is not None:
                raise HostsError(
                    f"the block that begins on line {start + 1} has no line '{end(project)}'; add it"
                )
            start = index
        elif line.strip() == end(project) and start is not None:
            spans.append((start, index))
            start = None
    if start is not None:
        raise HostsError(f"the block that begins on line {start + 1} has no line '{end(project)}'; add it")
    return spans


def _mappings(lines: list[str]) -> list[Mapping]:
    """Return every name of the file with its address and, inside a managed block, the block's project."""
    mappings: list[Mapping] = []
    block = None
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].split()
        marker = MARKER.match(line.strip())
        if marker:
            block = marker["project"] if marker["edge"] == "BEGIN" else None
        mappings.extend(Mapping(number, words[0], name, block) for name in words[1:])
    return mappings


def _block(entries: list[Entry], outside: list[Mapping]) -> tuple[list[str], list[Mapping]]:
    """Return the lines of the block, without names that lines outside of it already map as wanted."""
    lines = []
    relied_on = []
    for entry in entries:
        needed = []
        for name in entry.names:
            present = [m for m in outside if m.name.lower() == name.lower()]
            for mapping in present:
                if _address(mapping.address) != _address(entry.address):
                    owner = f"of the deployment '{mapping.block}' " if mapping.block else ""
                    raise HostsError(
                        f"line {mapping.line} {owner}maps {name} to {mapping.address}, wanted {entry.address}"
                        ". Remove the name from that line, or choose another public name or address"
                    )
            # Another deployment's line may go with that deployment, so only unmanaged lines are relied on.
            own = [m for m in present if m.block is None]
            if own:
                relied_on.append(own[0])
            else:
                needed.append(name)
        if needed:
            lines.append(" ".join([entry.address, *needed]))
    return lines, relied_on


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text
