# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of several containers as one."""

from __future__ import annotations

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _logs as logs


def test_lines_are_put_in_the_order_of_their_times() -> None:
    core = logs.parse("core", b"2026-11-24T03:00:00.1Z first\n2026-11-24T03:00:00.100000002Z third\n")
    worker = logs.parse("worker", b"2026-11-24T03:00:00.10000000Z other\n2026-11-24T03:00:01Z last \xff\n")
    told = [(line.service, line.text) for line in logs.interleave([core, worker])]
    assert told == [("core", "first"), ("worker", "other"), ("core", "third"), ("worker", "last \ufffd")]
    assert [line.text for line in logs.interleave([worker, core], "ir")] == ["first", "third"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '{"time": "x", "level": "info", "message": "said", "service": "s", "task": "t"}',
            "INFO said task=t",
        ),
        ('{"level": "warning", "msg": "broker says", "pid": "<0.1>"}', "WARNING broker says pid=<0.1>"),
        ('{"method":"GET","path":"/x","status":200}', "method=GET path=/x status=200"),
        ("[NOTICE] plain", "[NOTICE] plain"),
        ("\x1b[2Jplain\x9b2J\r\u2028", "\\x1b[2Jplain\\x9b2J\\r\\u2028"),
        (
            r'{"level":"info","message":"a\nb","path":"/\u001b[2J\u202e\u0085"}',
            r"INFO a\nb path=/\x1b[2J\u202e\x85",
        ),
        (
            '{"path":"/x status=200 user=\\"root","status":404}',
            r'path="/x status=200 user=\"root" status=404',
        ),
        (r'{"fields":{"a b":["\n"]},"é":"ü"}', r'fields={"a b": ["\n"]} é=ü'),
        ("[" * 100_000, "[" * 100_000),
        ("17", "17"),
    ],
)
def test_a_line_is_readable(text: str, found: str) -> None:
    assert logs.readable(text) == found


def test_nobody_forges_a_line() -> None:
    """Characters that Python takes for ends of lines came from somebody's request."""
    forged = "x{0}2026-11-24T03:00:00.5Z y"
    for end in "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029":
        raw = f"2026-11-24T03:00:00.1Z {forged.format(end)}\n".encode()
        (line,) = logs.parse("core", raw)
        assert line.text == forged.format(end)
        assert logs.readable(line.text).isprintable()


@pytest.mark.parametrize(
    ("text", "found"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, found: int) -> None:
    assert logs.seconds(text) == found


def test_what_is_no_duration_is_named() -> None:
    with pytest.raises(ValueError, match="'1 week' is no duration"):
        logs.seconds("1 week")
