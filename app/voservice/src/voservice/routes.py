"""Routes of handlers that read the request themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.params import Depends
from fastapi.responses import Response
from fastapi.routing import APIRoute

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Coroutines = Callable[..., Coroutine[Any, Any, Any]]


class RequestRoute(APIRoute):
    """A described route whose handler takes the request, and what coroutines make of the request alone.

    FastAPI's own route solves a graph of dependencies for each request, which is half of what the framework costs, and
    of no use where nothing has to be parsed, validated or closed afterwards. Raises TypeError, when the route is made,
    for a handler that needs it, and for dependencies besides the handler's own, which would not be called.
    """

    def get_route_handler(self) -> Handler:
        """Return the handler with what it depends on."""
        handler: Coroutines = self.endpoint
        if self.dependencies:
            raise TypeError(f"{handler.__name__}: dependencies of a route or router are not called")
        takers, made = _parameters(handler)

        async def handle(request: Request) -> Response:
            values: dict[str, Any] = dict.fromkeys(takers, request)
            for name, make, of in made:
                values[name] = await make(**dict.fromkeys(of, request))
            response: Response = await handler(**values)
            return response

        return handle


def _parameters(function: Coroutines) -> tuple[list[str], list[tuple[str, Coroutines, list[str]]]]:
    """Return which parameters are the request, and which are made of it, by what, with its parameters."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__name__} is not a coroutine function")
    takers, made = [], []
    hints = get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        hint = hints.get(name)
        depends = [of for of in getattr(hint, "__metadata__", ()) if isinstance(of, Depends)]
        if hint is Request:
            takers.append(name)
        elif depends and depends[0].dependency is not None:
            of, further = _parameters(depends[0].dependency)
            if further:
                raise TypeError(f"{function.__name__}: what {name} depends on has a dependency of its own")
            made.append((name, depends[0].dependency, of))
        else:
            raise TypeError(f"{function.__name__}: {name} is neither the request nor made of it")
    return takers, made
