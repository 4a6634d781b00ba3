"""How tasks, files and sizes are shown to people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prepare_data_client.progress import Rate, duration

from preparer.ledger import ACTIVE, File, FileState, Task, TaskState

STATES = {
    TaskState.QUEUED: ("Waiting", "quiet"),
    TaskState.RUNNING: ("Running", "busy"),
    TaskState.SUCCEEDED: ("Done", "good"),
    TaskState.FAILED: ("Failed", "wrong"),
    TaskState.CANCELLED: ("Cancelled", "quiet"),
    TaskState.LOST: ("Lost", "wrong"),
}
FILE_STATES = {
    FileState.PENDING: ("Waiting", "quiet"),
    FileState.STAGING_FROM_TAPE: ("Coming from tape", "busy"),
    FileState.STAGED: ("Staged", "good"),
    FileState.PRESENT: ("Already there", "good"),
    FileState.FAILED: ("Failed", "wrong"),
    FileState.CANCELLED: ("Cancelled", "quiet"),
    FileState.RELEASED: ("Removed", "quiet"),
}
_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def size(count: int | float | None) -> str:
    """Return a number of bytes for people: `0 B`, `12.3 MB`."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count:.0f} B"
    power = 1
    while power < len(_UNITS) and count >= 999.5 * 1000**power:
        power += 1
    value, unit = count / 1000**power, _UNITS[power - 1]
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def moment(when: datetime | None) -> str:
    """Return a time in UTC, to the minute."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if when else ""


def count(number: int, one: str) -> str:
    """Return `1 file`, `12,345 files`."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


class Pace:
    """Rates of a task, from what was seen of it."""

    def __init__(self) -> None:
        """Begin without having seen anything."""
        self._bytes, self._files = Rate(), Rate()

    def see(self, task: Task, now: float) -> str:
        """Return the rate and the time that is left, after another look at *now* (monotonic seconds)."""
        done = task.files_done + task.files_failed
        self._bytes.add(now, task.bytes_done)
        self._files.add(now, done)
        if task.state != TaskState.RUNNING:
            return ""
        rate, files = self._bytes.per_second(), self._files.per_second()
        parts = [f"{size(rate)}/s"] if rate > 0 else []
        if task.bytes_total and rate > 0:
            parts.append(f"{duration(max(0, task.bytes_total - task.bytes_done) / rate)} left")
        elif files > 0:
            parts.append(f"{duration((task.files - done) / files)} left")
        return ", ".join(parts)


def task_shown(task: Task, pace: str = "") -> dict[str, Any]:
    """Return what the page shows of a task: texts by the names of the elements that show them, and its progress."""
    word, tone = STATES[TaskState(task.state)]
    active = task.state in ACTIVE
    if active and task.cancel:
        word = "Being cancelled"
    amount = f"{task.files_done:,} of {count(task.files, 'file')}"
    if task.files_failed:
        amount += f", {task.files_failed:,} failed"
    volume = size(task.bytes_done)
    if active and task.bytes_total:
        volume += f" of {size(task.bytes_total)}"
    return {
        "id": str(task.id),
        "tone": tone,
        "active": active,
        "value": task.files_done,
        "max": max(task.files, 1),
        "fields": {"state": word, "amount": amount, "volume": volume, "pace": pace, "info": task.info or ""},
    }


def file_shown(file: File) -> dict[str, Any]:
    """Return what the page shows of a file of a task."""
    word, tone = FILE_STATES[file.shown]
    reason = ": ".join(dict.fromkeys(part for part in (file.fault, file.detail) if part))
    bytes_ = file.bytes if file.bytes is not None else file.size
    return {
        "number": file.number,
        "tone": tone,
        "fields": {"state": word, "size": size(bytes_), "reason": reason},
    }
