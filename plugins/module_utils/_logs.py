# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge the log lines of several containers by time. Private to the collection."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(\d+)([smhd]?)")
_SEVERAL = re.compile(r'[ "=]')
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, order=True)
class Line:
    """Log line; *time* is UTC with nine digits after the second, so that texts sort by time."""

    time: str
    service: str
    text: str


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as ``90``, ``90s``, ``15m``, ``2h`` or ``1d``. Raises ValueError."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is no duration: give a number of seconds, or one with s, m, h or d")
    return int(match[1]) * _SECONDS[match[2]]


def parse(service: str, output: bytes) -> list[Line]:
    """Parse a log with the Engine's time stamps (RFC 3339, without trailing zeros of the fraction)."""
    lines = []
    # By line feeds alone, which the engine ends lines with: what else may break a line was written by somebody.
    for raw in output.decode(errors="replace").split("\n"):
        if not raw:
            continue
        stamp, _space, text = raw.partition(" ")
        moment, _dot, fraction = stamp.rstrip("Z").partition(".")
        lines.append(Line(f"{moment}.{fraction:0<9}Z", service, text))
    return lines


def interleave(logs: Iterable[list[Line]], contains: str = "") -> list[Line]:
    """Return all lines that contain *contains*, by time."""
    ordered = (sorted(log) for log in logs)
    return [line for line in heapq.merge(*ordered) if contains in line.text]


def printable(text: str) -> str:
    """Escape all unprintable characters, so that a text cannot control the terminal or begin a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _value(value: Any) -> str:
    """Return a field's value, quoted where it could be taken for several fields."""
    if not isinstance(value, str):
        return printable(json.dumps(value, ensure_ascii=False))
    text = printable(value)
    return json.dumps(text, ensure_ascii=False) if _SEVERAL.search(text) else text


def readable(text: str) -> str:
    """Return a JSON line in readable form: level, message, then the other fields; any other line as it is.

    It may contain text of clients, which must not control the terminal or imitate a line or a field.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return printable(text)
    if not isinstance(fields, dict):
        return printable(text)
    for known in ("time", "service", "logger"):
        fields.pop(known, None)
    level = str(fields.pop("level", "")).upper()
    message = fields.pop("message", None) or fields.pop("msg", None) or ""
    others = [f"{_value(key)}={_value(value)}" for key, value in fields.items() if value not in ("", None)]
    return " ".join(part for part in (printable(level), printable(str(message)), *others) if part)
