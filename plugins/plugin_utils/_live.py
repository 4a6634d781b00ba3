# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow a module while it runs, and print what it tells. Private to the collection."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from ansible_collections.skasrc.cavern.plugins.module_utils import _progress
from ansible_collections.skasrc.cavern.plugins.module_utils._logs import printable

VIEW = "CAVERN_PROGRESS_VIEW"
"""Set by the callback `concise` in its own environment: V(terminal) if there is one, V(lines) otherwise."""
TERMINAL, LINES = "terminal", "lines"
# Seconds between two looks at the file, and between two drawings of the line that says what is going on.
LOOK, DRAW = 0.1, 0.5
CLEAR = "\r\x1b[K"


@contextmanager
def followed(action: Any) -> Iterator[None]:
    """Print what the modules tell that *action*, an action plugin, runs meanwhile.

    Only where the callback wants it, and where module and controller share the disk.
    """
    if os.environ.get(VIEW) is None or action._connection.transport != "local":
        yield
        return
    descriptor, path = tempfile.mkstemp(prefix="cavern-progress-")
    os.close(descriptor)
    before = action._task.environment
    action._task.environment = [*(before or []), {_progress.VARIABLE: path}]
    follower = Follower(Path(path), os.environ[VIEW] == TERMINAL)
    follower.start()
    try:
        yield
    finally:
        action._task.environment = before
        follower.end()
        Path(path).unlink(missing_ok=True)


class Follower(threading.Thread):
    """Prints each event on a line of its own and, on a terminal, below them a line of what is going on."""

    def __init__(self, path: Path, terminal: bool) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._terminal = terminal
        self._display = Display()
        self._read = 0
        self._going_on: dict[tuple[str, str], tuple[str, float]] = {}
        self._over = threading.Event()
        self._drawn = False

    def run(self) -> None:
        """Follow until `end` is called."""
        drawn = 0.0
        while not self._over.wait(LOOK):
            self._print_events()
            if self._terminal and self._going_on and time.monotonic() - drawn > DRAW:
                self._draw()
                drawn = time.monotonic()

    def end(self) -> None:
        """Print what is left, and remove the line of what is going on."""
        self._over.set()
        self.join()
        self._print_events()
        self._clear()

    def _print_events(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                *lines, _rest = file.read().split(b"\n")
        except OSError:
            # Cleaned away meanwhile; the module's result says what was done.
            return
        for line in lines:
            self._read += len(line) + 1
            # One that was cut off on a full disk says nothing.
            with suppress(ValueError, KeyError, TypeError):
                self._print(json.loads(line))

    def _print(self, event: dict[str, Any]) -> None:
        key = (event["object"], event["name"])
        seconds = event.get("seconds")
        known = self._going_on.pop(key, None)
        if seconds is None:
            self._going_on[key] = (event["state"], known[1] if known else time.monotonic())
            # On a terminal the line below says so; elsewhere a line for each step would be too many.
            if self._terminal or known:
                return
        took = "" if seconds is None else f"{seconds:6.1f} s"
        self._clear()
        self._display.display(
            f"  {printable(' '.join(key)):<60} {printable(event['state']):<12} {took}".rstrip()
        )

    def _draw(self) -> None:
        now = time.monotonic()
        text = ", ".join(
            f"{name} {state} {now - since:.0f} s" for (_kind, name), (state, since) in self._going_on.items()
        )
        width = shutil.get_terminal_size().columns - 1
        line = f"  {printable(text)}"
        self._display.display(
            f"{CLEAR}{line if len(line) <= width else line[: width - 1] + '…'}", newline=False
        )
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._display.display(CLEAR, newline=False)
            self._drawn = False
