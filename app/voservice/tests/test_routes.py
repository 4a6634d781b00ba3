"""Routes of handlers that read the request themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.testclient import TestClient
from voservice.routes import RequestRoute


class Refused(Exception):
    pass


async def caller(request: Request) -> str:
    if "authorization" not in request.headers:
        raise Refused
    return request.headers["authorization"]


Caller = Annotated[str, Depends(caller)]


async def greet(request: Request, caller: Caller) -> Response:
    """Greet whoever asks."""
    return PlainTextResponse(f"{caller} at {request.path_params['path']}")


@pytest.fixture
def client() -> TestClient:
    router = APIRouter(route_class=RequestRoute)
    router.get("/greet/{path:path}", summary="Greet", description="A greeting")(greet)
    app = FastAPI()
    app.include_router(router, prefix="/service")

    @app.exception_handler(Refused)
    async def refused(_: Request, _error: Refused) -> Response:
        return PlainTextResponse("who asks?", 401)

    return TestClient(app)


def test_a_handler_has_what_its_dependency_makes_of_the_request(client: TestClient) -> None:
    answer = client.get("/service/greet/the/door", headers={"Authorization": "ada"})
    assert (answer.status_code, answer.text) == (200, "ada at the/door")


def test_what_a_dependency_raises_is_answered_by_the_application(client: TestClient) -> None:
    answer = client.get("/service/greet/the/door")
    assert (answer.status_code, answer.text) == (401, "who asks?")


def test_the_route_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/service/greet/{path}"]["get"]
    assert (described["summary"], described["description"]) == ("Greet", "A greeting")


async def untyped(request) -> Response:  # type: ignore[no-untyped-def]  # that is what is refused
    return PlainTextResponse("")


async def parsed(request: Request, number: int) -> Response:
    return PlainTextResponse(str(number))


def in_a_thread(request: Request) -> Response:
    return PlainTextResponse("")


async def friend(request: Request, caller: Caller) -> str:
    return caller


async def of_a_friend(request: Request, friend: Annotated[str, Depends(friend)]) -> Response:
    return PlainTextResponse(friend)


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (untyped, "untyped: request is neither the request nor made of it"),
        (parsed, "parsed: number is neither the request nor made of it"),
        (in_a_thread, "in_a_thread is not a coroutine function"),
        (of_a_friend, "of_a_friend: what friend depends on has a dependency of its own"),
    ],
)
def test_a_handler_that_needs_the_framework_is_refused(handler: Callable[..., Any], fault: str) -> None:
    router = APIRouter(route_class=RequestRoute)
    with pytest.raises(TypeError, match=fault):
        router.get("/")(handler)


def test_no_dependency_of_a_router_or_a_route_is_passed_over_in_silence() -> None:
    for router, options in (
        (APIRouter(route_class=RequestRoute, dependencies=[Depends(caller)]), {}),
        (APIRouter(route_class=RequestRoute), {"dependencies": [Depends(caller)]}),
    ):
        with pytest.raises(TypeError, match="greet: dependencies of a route or router are not called"):
            router.get("/", **options)(greet)
