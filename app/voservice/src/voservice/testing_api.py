"""Checks of an OpenAPI document, and of the service against it, for the tests of all services."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import fastapi.dependencies.utils
import fastapi.routing
import httpx
import uvicorn
from fastapi import FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.concurrency import run_in_threadpool

from voservice.auth import AuthenticationError, Identity, TokenVerifier

EXAMPLES = 10
"""Requests to each operation, besides those at the edges of each parameter."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


def check(document: dict[str, Any]) -> None:
    """Fail unless an OpenAPI document is valid, all its references resolve, and it states who may call what."""
    OpenAPIV31SpecValidator(document).validate()
    assert document["paths"]
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    schemes = document["components"]["securitySchemes"]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            named = {name for requirement in operation["security"] for name in requirement}
            assert named <= schemes.keys(), f"{method} {path}"
            assert operation["responses"]["default"]["content"], f"{method} {path}"


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _references(one)


async def verify(_: TokenVerifier, token: str) -> Identity:
    """Stand in for `TokenVerifier.verify`: knows Ada, whose token is her name."""
    if token != "ada":  # noqa: S105 - a name
        raise AuthenticationError("Not a token of this issuer")
    return Identity(username="ada", subject="ada", issuer="http://issuer")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application at the URL that is returned."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done(), "the application does not start"
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def answers_as_described(app: FastAPI, path: str, headers: Mapping[str, str]) -> None:
    """Fail unless the document at *path* is valid and the application behaves as described.

    Schemathesis sends requests that match the document and requests that do not, the same in every run.
    """
    async with served(app) as url, httpx.AsyncClient() as client:
        document = f"{url}{path}"
        check((await client.get(document)).json())
        with _on_the_event_loop():
            await _explore(document, headers)


@contextmanager
def _on_the_event_loop() -> Iterator[None]:
    """Fail if FastAPI runs a dependency or a handler in a thread, which costs more than most requests do otherwise."""
    called: set[str] = set()

    async def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        called.add(getattr(function, "__qualname__", repr(function)))
        return await run_in_threadpool(function, *arguments, **options)

    with ExitStack() as patches:
        for module in (fastapi.routing, fastapi.dependencies.utils):
            patches.enter_context(patch.object(module, "run_in_threadpool", run))
        yield
    assert not called, f"not a coroutine: {', '.join(sorted(called))}"


async def _explore(document: str, headers: Mapping[str, str]) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", document, "--no-color", "--warnings=off"),
        *(
            "--phases=examples,coverage,fuzzing,stateful",
            f"--checks={','.join(CHECKS)}",
            f"--max-examples={EXAMPLES}",
        ),
        *("--generation-deterministic", "--continue-on-failure"),
        *(f"--header={name}: {value}" for name, value in headers.items()),
    ]
    with TemporaryDirectory() as directory:  # where it leaves its own files
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
