"""Progress display: a live bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from prepare_data_client.models import Task

WINDOW = 15.0  # s, over which rates are measured
LINE_EVERY = 5.0  # s


class Rate:
    """Rate of growth of a number, over a sliding window."""

    def __init__(self, window: float = WINDOW) -> None:
        """Start without measurements; *window* is in seconds."""
        self._window = window
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, moment: float, value: float) -> None:
        """Add a measurement, made at *moment* (monotonic seconds)."""
        if self._seen and value < self._seen[-1][1]:
            self._seen.clear()  # the task was retried
        self._seen.append((moment, value))
        while len(self._seen) > 2 and moment - self._seen[0][0] > self._window:
            self._seen.popleft()

    def per_second(self) -> float:
        """Return the growth per second; 0 while nothing can be said."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def duration(seconds: float) -> str:
    """Format seconds for people: `8s`, `1m30s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


class Meter(AbstractContextManager["Meter"]):
    """Shows files, bytes, rate and remaining time of a task on *console*."""

    def __init__(self, console: Console) -> None:
        """Show nothing before the first change."""
        self._console = console
        self._bytes, self._files = Rate(), Rate()
        self._line_at = 0.0
        self._state = ""
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[facts]}"),
                console=console,
                transient=True,
                expand=True,
            )
            self._bar = self._progress.add_task("waiting", total=None, facts="")

    def __enter__(self) -> Meter:
        """Start the display."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display, and restore the terminal."""
        if self._progress is not None:
            self._progress.stop()

    def show(self, task: Task) -> None:
        """Show a change."""
        moment = time.monotonic()
        done = task.files_done + task.files_failed
        self._bytes.add(moment, task.bytes_done)
        self._files.add(moment, done)
        facts = self._facts(task, done)
        if self._progress is not None:
            self._progress.update(
                self._bar,
                description=task.state.lower(),
                total=task.files or None,
                completed=done,
                facts=facts,
            )
        elif task.state != self._state or moment - self._line_at >= LINE_EVERY:
            self._console.print(f"{task.state.lower()}: {facts}", highlight=False, soft_wrap=True)
            self._line_at = moment
        self._state = task.state

    def _facts(self, task: Task, done: int) -> str:
        facts = [f"{done}/{task.files} files"]
        if task.files_failed:
            facts.append(f"{task.files_failed} failed")
        size = decimal(task.bytes_done)
        facts.append(f"{size}/{decimal(task.bytes_total)}" if task.bytes_total else size)
        if not task.final:
            if self._bytes.per_second() > 0:
                facts.append(f"{decimal(round(self._bytes.per_second()))}/s")
            left = self._left(task, done)
            if left is not None:
                facts.append(f"{duration(left)} left")
        return ", ".join(facts)

    def _left(self, task: Task, done: int) -> float | None:
        """Return the remaining seconds, estimated from bytes if all sizes are known, else from files."""
        if task.bytes_total and self._bytes.per_second() > 0:
            return max(0, task.bytes_total - task.bytes_done) / self._bytes.per_second()
        if self._files.per_second() > 0:
            return (task.files - done) / self._files.per_second()
        return None
