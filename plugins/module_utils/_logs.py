# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines of several containers as one story. Private to the collection."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(\d+)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, order=True)
class Line:
    """One line; *time* is UTC with nine digits after the second, so that texts sort as times do."""

    time: str
    service: str
    text: str


def seconds(duration: str) -> int:
    """Seconds of a duration such as ``90``, ``90s``, ``15m``, ``2h`` or ``1d``. Errors: ValueError."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is no duration: give a number of seconds, or one with s, m, h or d")
    return int(match[1]) * _SECONDS[match[2]]


def parse(service: str, output: bytes) -> list[Line]:
    """Lines as the engine gives them with time stamps (RFC 3339, its fraction as short as it can be)."""
    lines = []
    for raw in output.decode(errors="replace").splitlines():
        stamp, _space, text = raw.partition(" ")
        moment, _dot, fraction = stamp.rstrip("Z").partition(".")
        lines.append(Line(f"{moment}.{fraction:0<9}Z", service, text))
    return lines


def interleave(logs: Iterable[list[Line]], contains: str = "") -> list[Line]:
    """All lines that contain *contains*, in the order of their times."""
    ordered = (sorted(log) for log in logs)
    return [line for line in heapq.merge(*ordered) if contains in line.text]


def readable(text: str) -> str:
    """A JSON line as a person reads it: level, message, then the other fields; any other line as it is."""
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError:
        return text
    if not isinstance(fields, dict):
        return text
    for known in ("time", "service", "logger"):
        fields.pop(known, None)
    level = str(fields.pop("level", "")).upper()
    message = fields.pop("message", None) or fields.pop("msg", None) or ""
    others = [f"{key}={value}" for key, value in fields.items() if value not in ("", None)]
    return " ".join(part for part in (level, str(message), *others) if part)
