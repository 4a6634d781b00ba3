"""Runs a service under uvicorn."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Collection
from functools import cache, partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from voservice import logging as logs
from voservice import metrics
from voservice.boundaries import RequestBoundaries
from voservice.config import ServiceSettings
from voservice.pace import ResponsePace
from voservice.proxy import ProvenProxy


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with the protections of every service, below its application.

    It prevents request smuggling, accepts the proxy's headers only from the proxy, and aborts slow clients.
    """

    def __init__(
        self,
        *arguments: Any,
        proxies: Collection[str] = (),
        proof: str = "",
        response_patience: float = 600,
        response_pace: int = 0,
        **options: Any,
    ) -> None:
        """Serve one connection."""
        super().__init__(*arguments, **options)
        _settle()
        self.app = RequestBoundaries(ProvenProxy(self.app, proxies, proof))
        self._patience = response_patience
        self._least = response_pace
        self._pace: ResponsePace

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # signature of uvicorn
        """Start serving a client."""
        super().connection_made(transport)
        self._pace = ResponsePace(transport, self.loop, self._patience, self._least)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop serving the client."""
        self._pace.resume()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start a request."""
        self._pace.begin()
        super().on_message_begin()

    def pause_writing(self) -> None:
        """Start waiting for a client that reads too slowly."""
        self._pace.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Continue with a client that has read its data."""
        self._pace.resume()
        super().resume_writing()


@cache
def _settle() -> None:
    """Keep what this process made at its start from the garbage collector, once.

    It lives as long as the process, and walking through it over and over takes a fifth of the time of small requests.
    """
    gc.collect()
    gc.freeze()


def serve(app: str, service: str, settings: ServiceSettings, port: int = 8080, root_path: str = "") -> None:
    """Serve the application factory *app* (``package.module:factory``) on *port* of all addresses.

    *root_path* is the prefix that a proxy in front removes.
    """
    logs.configure(service, settings.log_level)
    proof = settings.proxy_proof.get_secret_value()
    protocol: Any = partial(
        Protocol,
        proxies=settings.trusted_proxies,
        proof=proof,
        response_patience=settings.response_patience,
        response_pace=settings.response_pace,
    )
    with metrics.shared(settings.workers):
        uvicorn.run(
            app,
            factory=True,
            host="0.0.0.0",
            port=port,
            root_path=root_path,
            http=protocol,
            ws="none",
            workers=settings.workers,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=15,
            timeout_keep_alive=75,
            # The supervisor's timeout for a starting process: on a busy machine the default of 5 s is too short for
            # Python's start, and every process would be killed and replaced by one that is no faster.
            timeout_worker_healthcheck=60,
        )
