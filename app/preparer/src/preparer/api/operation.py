"""Operation of the service: whether it lives and is ready, and what it tells Prometheus of the tasks."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from prometheus_client import Metric
from sqlalchemy.exc import DBAPIError
from voservice import openapi
from voservice.metrics import Collect, gauge

from preparer.api.context import context
from preparer.ledger import Ledger, TaskState

router = APIRouter(tags=["operation"])
PATHS = ("/health", "/ready")
"""What is asked every few seconds."""

_READY = {"type": "object", "properties": {name: {"type": "boolean"} for name in ("ledger", "broker")}}
OPERATIONS = {
    "GET /ready": openapi.Operation(
        {
            200: openapi.answer("Both answer, or the ledger alone", "application/json", schema=_READY),
            503: openapi.answer("The ledger does not answer", "application/json", schema=_READY),
        }
    ),
}


@router.get("/health", summary="Whether the service lives")
async def health() -> dict[str, str]:
    """Answer at once, whatever the ledger does."""
    return {"status": "ok"}


@router.get("/ping", summary="The same")
async def ping() -> dict[str, str]:
    """Answer as SKA's own service does."""
    return {"status": "ok"}


@router.get("/ready", summary="Whether ledger and broker answer")
async def ready(request: Request) -> JSONResponse:
    """Tell what answers. Without the broker requests are still taken: they wait in the ledger."""
    shared = context(request)
    try:
        await shared.ledger.ready()
        ledger = True
    except (DBAPIError, OSError):
        ledger = False
    return JSONResponse({"ledger": ledger, "broker": shared.outbox.healthy}, 200 if ledger else 503)


def certificate(public_url: str) -> Collect:
    """Return the collector that sees the certificate of the public URL as clients see it, who verify it."""
    url = urlsplit(public_url)
    context = ssl.create_default_context()

    async def collect() -> list[Metric]:
        if url.scheme != "https":
            return []
        _, writer = await asyncio.open_connection(url.hostname, url.port or 443, ssl=context)
        try:
            shown = writer.get_extra_info("peercert")
        finally:
            writer.transport.abort()
        end = ssl.cert_time_to_seconds(shown["notAfter"])
        return [
            gauge("public_certificate_end_seconds", "End of its validity, in Unix time", {(): float(end)})
        ]

    return collect


async def tasks(ledger: Ledger) -> list[Metric]:
    """Tell how many tasks there are, and how long the oldest has waited."""
    counts = await ledger.counts()
    states = {(str(state),): float(counts.get(state, 0)) for state in TaskState}
    unfinished, waiting = await ledger.oldest()
    return [
        gauge("prepare_data_tasks", "Tasks by state", states, ["state"]),
        gauge("prepare_data_oldest_seconds", "Age of the oldest unfinished task", {(): unfinished}),
        gauge(
            "prepare_data_oldest_waiting_seconds",
            "How long the task has waited that has waited longest for a worker",
            {(): waiting},
        ),
    ]
