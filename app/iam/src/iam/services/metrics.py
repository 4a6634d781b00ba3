"""Prometheus metrics of the issuer."""

from __future__ import annotations

from prometheus_client import Counter

ISSUED = Counter("iam_tokens_issued", "Access tokens issued", ["grant"])
REFUSED = Counter("iam_refusals", "Requests of clients that were refused, by OAuth's error code", ["error"])
