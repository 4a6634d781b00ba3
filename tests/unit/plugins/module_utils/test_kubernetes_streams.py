# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What passes to and from programs in pods: whole, or not at all. The pods' side runs here, without a cluster."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import connection, exchange

CONTENT = bytes(range(256)) * 3000
SUM = hashlib.sha256(CONTENT).hexdigest()
KEEP = [
    sys.executable,
    "-c",
    "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())",
]


@pytest.mark.parametrize("size", [0, 1, exchange.BLOCK, len(CONTENT)])
def test_a_program_gets_all_of_its_input(tmp_path: Path, size: int) -> None:
    content = CONTENT[:size]
    digest = hashlib.sha256(content).hexdigest()
    told = exchange.incoming([*KEEP, str(tmp_path / "got")], size, io.BytesIO(content + digest.encode()))
    assert told == {"rc": 0, "bytes": size, "sha256": digest}
    assert (tmp_path / "got").read_bytes() == content


@pytest.mark.parametrize(
    "sent", [CONTENT[:-1], CONTENT + b"0" * 64, CONTENT], ids=["short", "other", "unsigned"]
)
def test_a_program_does_not_get_the_last_of_what_is_not_whole(tmp_path: Path, sent: bytes) -> None:
    told = exchange.incoming([*KEEP, str(tmp_path / "got")], len(CONTENT), io.BytesIO(sent))
    assert told["rc"] is None
    assert not (tmp_path / "got").exists()


def test_a_program_that_reads_no_more_ends_as_it_does() -> None:
    told = exchange.incoming(
        [sys.executable, "-c", "raise SystemExit(3)"], len(CONTENT), io.BytesIO(CONTENT + SUM.encode())
    )
    assert told["rc"] == 3


class Socket:
    """A connection to a process of this machine, which speaks as the API server does."""

    def __init__(self, command: list[str], lose: Callable[[bytes], bool] = lambda _data: False) -> None:
        """Start a program; messages that are to be lost do not arrive."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.lose = lose
        self.messages: list[bytes] = []

    def send_binary(self, message: bytes) -> None:
        """Send a message of the program's input."""
        assert message[0] == 0
        self.process.stdin.write(message[1:])

    def recv_data_frame(self, _control: bool) -> tuple[int, Any]:
        """Return the next message; the last one closes the connection."""
        if not self.messages:
            told, said = self.process.communicate()
            status = b"\x03" + json.dumps({"status": "Success"}).encode()
            blocks = [b"\x01" + told[place : place + 50_000] for place in range(0, len(told), 50_000)]
            self.messages = [*blocks, b"\x02" + said[:10], b"\x02" + said[10:], b"\xff\x01", status, b""]
        message = self.messages.pop(0)
        if self.lose(message):
            return self.recv_data_frame(_control)
        return (2 if message else 8), SimpleNamespace(data=message)

    def close(self) -> None:
        """End it."""
        self.process.kill()


def pod(lose: Callable[[bytes], bool] = lambda _data: False) -> Any:
    """Return a pod whose programs are this machine's."""

    def opened(command: list[str], _stdin: bool, _timeout: float) -> Socket:
        return Socket([sys.executable, *command[1:]], lose)

    return SimpleNamespace(open=opened)


def test_output_becomes_a_file_of_its_owner(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    command = ["sh", "-c", f"cat {source}; echo so it is >&2; exit 1"]
    found = connection.save(pod(), command, tmp_path / "dest", 5)
    assert found == connection.Outcome(1, len(CONTENT), SUM, "so it is")
    assert (tmp_path / "dest").read_bytes() == CONTENT
    assert (tmp_path / "dest").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("channel", [1, 2, 3], ids=["output", "outcome", "status"])
def test_output_that_is_not_whole_leaves_no_file(tmp_path: Path, channel: int) -> None:
    (tmp_path / "dest").write_text("former")
    with pytest.raises(connection.StreamError):
        connection.save(
            pod(lambda message: message[:1] == bytes([channel])), ["echo", "x"], tmp_path / "dest", 5
        )
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]
    assert (tmp_path / "dest").read_text() == "former"


def test_a_file_becomes_input(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    found = connection.load(pod(), [*KEEP, str(tmp_path / "got")], source, 5)
    assert found == connection.Outcome(0, len(CONTENT), SUM, "")
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_a_file_that_shrinks_is_not_taken(tmp_path: Path) -> None:
    source, got = tmp_path / "source", tmp_path / "got"
    source.write_bytes(CONTENT)
    opened = pod().open

    def shrinking(*arguments: Any) -> Socket:
        source.write_bytes(CONTENT[:100])
        return opened(*arguments)

    with pytest.raises(connection.StreamError, match="has become shorter"):
        connection.load(SimpleNamespace(open=shrinking), [*KEEP, str(got)], source, 5)
    assert not got.exists()
