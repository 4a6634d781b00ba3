# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of mmdebstrap, and how its output and its failures arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._images import mmdebstrap as _mmdebstrap


@pytest.fixture(autouse=True)
def _as_any_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can mount."""
    monkeypatch.setattr(_mmdebstrap, "_prelude", list)


def test_command_names_release_packages_and_users() -> None:
    command = _mmdebstrap.command(
        "trixie", ["deb m trixie main"], ["curl", "python3"], {"cavern": 8000}, Path("/a b")
    )
    assert command[0] == "mmdebstrap"
    assert command[-3:] == ["trixie", "-", "deb m trixie main"]
    assert "--include=curl,python3" in command
    assert "--essential-hook=tar-in '/a b' /" in command
    assert [option for option in command if "useradd --uid 8000 --gid 8000" in option]


def test_output_arrives_with_the_environment() -> None:
    script = 'test -d "$TMPDIR" && printf %s "$http_proxy"'
    with _mmdebstrap.archive(["sh", "-c", script], {"http_proxy": "http://proxy:3128"}) as stream:
        assert stream.read() == b"http://proxy:3128"


def test_failure_carries_the_last_words() -> None:
    command = ["sh", "-c", "printf half; echo E: no such release >&2; exit 25"]
    with (
        pytest.raises(_mmdebstrap.MmdebstrapError, match="mmdebstrap failed: E: no such release"),
        _mmdebstrap.archive(command, {}) as stream,
    ):
        assert stream.read() == b"half"


def test_end_of_the_reader_ends_the_writer() -> None:
    def break_off() -> None:
        with _mmdebstrap.archive(["yes"], {}) as stream:
            assert stream.read(2) == b"y\n"
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
