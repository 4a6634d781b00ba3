"""Traces (OpenTelemetry): spans of what a service does, in one trace across services, processes and restarts.

Without an endpoint nothing of OpenTelemetry is imported, no header is added, and `span` returns an object that does
nothing. With one, `Recorder` makes the spans, and `Delivery` sends them to the collector.

A trace goes from a service to the next in the headers of a request (W3C Trace Context), and to whoever continues the
work later in a text that is kept with it (`current`, `resumed`). Attributes and names have values of the code's own:
never a URL, a path or the text of an error, which may hold credentials.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx
from starlette.applications import Starlette

from voservice.config import ServiceSettings

if TYPE_CHECKING:
    import aiohttp

    from voservice.tracing.recorder import Recorder

Value = str | bool | int | float
Attributes = Mapping[str, Value]


class Span(Protocol):
    """What takes time, as a part of a trace."""

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""
        ...


class _Nothing:
    """The span where there are none."""

    def set(self, name: str, value: Value) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


NOTHING = _Nothing()
_recorder: Recorder | None = None


def configure(service: str, settings: ServiceSettings) -> None:
    """Record spans of *service* from here on, in this process, if the settings name a collector."""
    global _recorder  # noqa: PLW0603 - one per process, like the root logger
    close()
    if settings.traces_endpoint:
        from voservice.tracing.recorder import Recorder  # noqa: PLC0415 - only where there are traces

        _recorder = Recorder(service, settings)


def close() -> None:
    """Send what is left, for a second at most, and record nothing more."""
    global _recorder  # noqa: PLW0603 - as above
    if _recorder is not None:
        _recorder.close()
    _recorder = None


def recording() -> Recorder | None:
    """Return what records this process's spans, if there is anything."""
    return _recorder


def install(app: Starlette, quiet: Collection[str]) -> None:
    """Record the requests that *app* answers, but those for the paths *quiet*, and send what is left when it ends."""
    if _recorder is not None:
        from voservice.tracing.requests import RequestSpans  # noqa: PLC0415 - only where there are traces

        app.add_middleware(RequestSpans, recorder=_recorder, quiet=quiet)


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Return a span within the current one, or one that does nothing where there is none."""
    return NOTHING if _recorder is None else _recorder.within(name, attributes)


def detail(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Return a span as `span` does, of what may happen thousands of times: only the first ones are recorded."""
    return NOTHING if _recorder is None else _recorder.within(name, attributes, detail=True)


def resumed(
    name: str, context: str | None, attributes: Attributes | None = None, *, since: datetime | None = None
) -> AbstractContextManager[Span]:
    """Return a span of work that was asked for where `current` returned *context*, in this process or another.

    Without *context* it begins a trace. *since*: when the work was asked for; until now it has been waiting.
    """
    return NOTHING if _recorder is None else _recorder.resumed(name, context, attributes, since)


def sent(
    name: str, context: str | None, attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """Return a span of a message that is published for work that *context* asked for."""
    return NOTHING if _recorder is None else _recorder.resumed(name, context, attributes, kind="PRODUCER")


def received(name: str, context: str | None) -> AbstractContextManager[Span]:
    """Return a span of a message that was published within *context*."""
    return NOTHING if _recorder is None else _recorder.resumed(name, context, None, kind="CONSUMER")


def current() -> str | None:
    """Return the current span as a text, for `resumed`: a ``traceparent`` of the W3C; None without a span."""
    return None if _recorder is None else _recorder.current()


def client(**options: Any) -> httpx.AsyncClient:
    """Return a client whose requests are spans."""
    if _recorder is None:
        return httpx.AsyncClient(**options)
    from voservice.tracing.clients import TracedClient  # noqa: PLC0415 - only where there are traces

    return TracedClient(_recorder, **options)


def followed() -> list[aiohttp.TraceConfig] | None:
    """Return `trace_configs` of an aiohttp session whose requests are to be spans."""
    if _recorder is None:
        return None
    from voservice.tracing.sessions import following  # noqa: PLC0415 - only where there are traces

    return [following(_recorder)]
