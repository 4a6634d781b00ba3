"""Prometheus metrics of the worker."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

FILES = Counter("prepare_data_files_total", "Files by final state and fault", ["state", "fault"])
BYTES = Counter("prepare_data_bytes_total", "Bytes staged")
RETRIES = Counter("prepare_data_retries_total", "Tries of files that failed and are made again", ["fault"])
RUNNING = Gauge("prepare_data_running_tasks", "Tasks that this worker stages")
TASK_SECONDS = Histogram(
    "prepare_data_task_seconds",
    "From a task's start to its end",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200),
)
WAIT_SECONDS = Histogram(
    "prepare_data_wait_seconds",
    "From submission to a task's start",
    buckets=(0.05, 0.1, 0.5, 1, 5, 10, 60, 300),
)
