"""Rates, durations, and what is shown where there is no terminal."""

from __future__ import annotations

import io

import pytest
from prepare_data_client import Task
from prepare_data_client.progress import Meter, Rate, duration
from rich.console import Console

from .conftest import task


def test_rate_is_that_of_the_window() -> None:
    rate = Rate(window=10)
    assert rate.per_second() == 0
    for moment in range(100):
        rate.add(moment, 1000 + moment * (1 if moment < 80 else 5))
    assert rate.per_second() == pytest.approx(5)


def test_rate_begins_anew_after_a_retry() -> None:
    rate = Rate()
    rate.add(0, 100)
    rate.add(1, 200)
    rate.add(2, 0)
    assert rate.per_second() == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.4, "59s"), (90, "1m30s"), (3599.9, "1h00m"), (7500, "2h05m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 20.0])
    monkeypatch.setattr("prepare_data_client.progress.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    with Meter(Console(file=out, width=200)) as meter:
        for done, state in ((0, "RUNNING"), (1, "RUNNING"), (2, "RUNNING"), (10, "SUCCEEDED")):
            document = task(state, files=10, files_done=done, bytes_done=done * 1000, bytes_total=10_000)
            meter.show(Task.load(document))
    assert out.getvalue().splitlines() == [
        "running: 0/10 files, 0 bytes/10.0 kB",
        "succeeded: 10/10 files, 10.0 kB/10.0 kB",
    ]


def test_bar_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("prepare_data_client.progress.time.monotonic", lambda: next(clock))
    meter = Meter(Console(file=io.StringIO(), force_terminal=True, width=200))
    for done in (0, 4):
        meter.show(
            Task.load(task("RUNNING", files=10, files_done=done, bytes_done=done * 500, bytes_total=5000))
        )
    assert meter._progress is not None
    assert meter._progress.tasks[0].fields["facts"] == "4/10 files, 2.0 kB/5.0 kB, 1.0 kB/s, 3s left"
