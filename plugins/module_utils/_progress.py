# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module does, told while it runs: a module cannot print, so it writes to a file. Private to the collection.

The action plugin that runs the module makes the file, names it in the environment, and prints what comes
(`plugin_utils/_live.py`). Each event is a line of JSON: ``object`` (such as image or container), ``name``, ``state``,
and ``seconds`` when a state ended that had begun before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

VARIABLE = "CAVERN_PROGRESS"
# States from which something goes on to another; one that fails is told by the module's result.
FAILED = "failed"


def tell(kind: str, name: str, state: str, seconds: float | None = None) -> None:
    """Write an event, if somebody follows."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    event: dict[str, str | float] = {"object": kind, "name": name, "state": state}
    if seconds is not None:
        event["seconds"] = round(seconds, 1)
    # No work fails because nobody can be told of it.
    with suppress(OSError):
        # Not created: without a reader there is no file. One write is one line, whichever thread writes.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(json.dumps(event).encode() + b"\n")


@contextmanager
def step(kind: str, name: str, doing: str, done: str) -> Iterator[None]:
    """Tell that something begins, and that it is *done* or failed, with its seconds."""
    tell(kind, name, doing)
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        tell(kind, name, FAILED, time.monotonic() - begun)
        raise
    tell(kind, name, done, time.monotonic() - begun)
