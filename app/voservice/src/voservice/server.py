"""Runs a service under uvicorn."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from voservice import logging as logs
from voservice.boundaries import RequestBoundaries
from voservice.config import ServiceSettings
from voservice.proxy import ProvenProxy


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 as every service speaks it, whatever its application does.

    No body becomes another's request, and nobody but the proxy speaks for it.
    """

    def __init__(
        self, *arguments: Any, proxies: Collection[str] = (), proof: str = "", **options: Any
    ) -> None:
        """Serve one connection."""
        super().__init__(*arguments, **options)
        self.app = RequestBoundaries(ProvenProxy(self.app, proxies, proof))


def serve(app: str, service: str, settings: ServiceSettings, port: int = 8080, root_path: str = "") -> None:
    """Serve the application factory *app* (``package.module:factory``) on *port* of all addresses.

    *root_path* is the path that a proxy in front takes away.
    """
    logs.configure(service, settings.log_level)
    proof = settings.proxy_proof.get_secret_value()
    protocol: Any = partial(Protocol, proxies=settings.trusted_proxies, proof=proof)
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
        # Of the supervisor for a process that begins: on a machine that has much else to do, 5 s (the default) are too
        # few for Python's start, and each process would be killed for the next one to be no faster.
        timeout_worker_healthcheck=60,
    )
