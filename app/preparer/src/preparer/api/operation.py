"""Operation of the service: whether it lives and is ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from sqlalchemy.exc import DBAPIError
from voservice import openapi

from preparer.api.context import context
from preparer.ledger import TaskState

router = APIRouter(tags=["operation"])
PATHS = ("/health", "/ready", "/metrics")
"""What is asked every few seconds."""

TASKS = Gauge("prepare_data_tasks", "Tasks by state", ["state"])
OLDEST = Gauge("prepare_data_oldest_seconds", "Age of the oldest unfinished task")

_READY = {"type": "object", "properties": {name: {"type": "boolean"} for name in ("ledger", "broker")}}
OPERATIONS = {
    "GET /ready": openapi.Operation(
        {
            200: openapi.answer("Both answer, or the ledger alone", "application/json", schema=_READY),
            503: openapi.answer("The ledger does not answer", "application/json", schema=_READY),
        }
    ),
    "GET /metrics": openapi.Operation({200: openapi.answer("Metrics", "text/plain")}),
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
        await shared.ledger.counts()
        ledger = True
    except (DBAPIError, OSError):
        ledger = False
    return JSONResponse({"ledger": ledger, "broker": shared.outbox.healthy}, 200 if ledger else 503)


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """Tell how many tasks there are, and how long the oldest has waited."""
    shared = context(request)
    counts = await shared.ledger.counts()
    for state in TaskState:
        TASKS.labels(str(state)).set(counts.get(state, 0))
    OLDEST.set(await shared.ledger.oldest_waiting())
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
