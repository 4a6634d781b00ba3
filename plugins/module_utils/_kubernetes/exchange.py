# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a pod: passes a program's input or output on, and tells its SHA-256. Private to the collection.

A connection to a pod ends in the same way when all has come and when something broke. So what was sent and what arrived
is compared, and a program that reads gets the last of its input when all of it is known to be right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from typing import Any, BinaryIO

BLOCK = 1 << 18
DIGEST = hashlib.sha256().digest_size * 2
"""Characters of a checksum."""
MARK = "exchange: "
"""Begins the last line on standard error, which tells the outcome in JSON."""


def outgoing(command: list[str], target: BinaryIO) -> dict[str, Any]:
    """Run a program, copy its output, and return its exit code `rc`, `bytes` and `sha256`."""
    digest, size = hashlib.sha256(), 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        while block := program.stdout.read(BLOCK):  # type: ignore[union-attr]  # a pipe, as was asked for
            digest.update(block)
            size += len(block)
            target.write(block)
        target.flush()
    return {"rc": program.returncode, "bytes": size, "sha256": digest.hexdigest()}


def incoming(command: list[str], size: int, source: BinaryIO) -> dict[str, Any]:
    """Run a program with *size* bytes, which a checksum follows, as its input; return `rc`, `bytes` and `sha256`.

    The program is killed, and `rc` is None, where they are not those that were sent.
    """
    digest, left, held = hashlib.sha256(), size, b""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as program:
        pipe: Any = program.stdin
        reads = True

        def give(block: bytes) -> bool:
            try:
                pipe.write(block)
            except BrokenPipeError:
                # It has ended or has read enough; its exit code tells which. The rest is awaited all the same.
                return False
            return True

        while left and (block := source.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
            reads = reads and give(held)
            held = block
        whole = not left and source.read(DIGEST).decode(errors="replace") == digest.hexdigest()
        if not whole:
            program.kill()
        elif reads:
            give(held)
        with contextlib.suppress(BrokenPipeError):  # as above
            pipe.close()
    return {
        "rc": program.returncode if whole else None,
        "bytes": size - left,
        "sha256": digest.hexdigest(),
    }


def main(arguments: list[str]) -> None:
    """Take `out COMMAND…` or `in SIZE COMMAND…`."""
    if arguments[0] == "out":
        told = outgoing(arguments[1:], sys.stdout.buffer)
    else:
        told = incoming(arguments[2:], int(arguments[1]), sys.stdin.buffer)
    sys.stderr.write(f"\n{MARK}{json.dumps(told)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
