"""Prometheus metrics of what the space fetches."""

from __future__ import annotations

from prometheus_client import Counter

PULLS = Counter(
    "vospace_pulls", "Files fetched from sources, by fault, which is empty where none was", ["fault"]
)
PULLED = Counter("vospace_pulled_bytes", "Bytes of the files that came")
