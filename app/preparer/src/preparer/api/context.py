"""State that the API's handlers share, created when the application starts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import Request
from voservice.auth import (
    AuthenticationError,
    ClientCredentials,
    Identity,
    IssuerUnavailable,
    TokenVerifier,
    bearer,
)
from voservice.logging import bind
from voservice.problems import NotFound, TooMany, Unauthorized
from vospace_client.client import Cavern

from preparer.api.body import Arrivals, read_json
from preparer.broker import Outbox
from preparer.config import PreparerSettings
from preparer.ledger import Ledger, Task
from preparer.ledger.credentials import Vault
from preparer.rucio import Rucio
from preparer.staging.rse import Rses

ASKING = 32
HOW = "Send a token of {issuer}: Authorization: Bearer <token>"


@dataclass
class Context:
    """Settings, stores and clients of one process."""

    settings: PreparerSettings
    ledger: Ledger
    vault: Vault
    verifier: TokenVerifier
    credentials: ClientCredentials | None
    outbox: Outbox
    cavern: Cavern
    rses: Rses
    arrivals: Arrivals
    rucio: Rucio | None = None
    # Requests about files to the RSE, of all estimates.
    asking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASKING))
    # Users whose estimate is being made.
    estimating: set[str] = field(default_factory=set)
    # Users about whose request Rucio is being asked.
    resolving: set[str] = field(default_factory=set)
    # Event streams that are open, by user.
    following: Counter[str] = field(default_factory=Counter)
    recent: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    # By the digest of a caller's token: when it was exchanged, for what, and when that ends.
    exchanged: dict[bytes, tuple[float, str, datetime | None]] = field(default_factory=dict)

    def limit(self, username: str, what: str = "requests", most: int | None = None) -> None:
        """Raise `TooMany` if the user has made more requests within a minute than the site allows."""
        most = self.settings.preparer_max_rate if most is None else most
        now, moments = time.monotonic(), self.recent[username, what]
        while moments and now - moments[0] > 60:
            moments.popleft()
        if len(moments) >= most:
            raise TooMany(
                f"At most {most} {what} a minute; put more files into one request",
                headers={"Retry-After": str(int(60 - (now - moments[0])) + 1)},
            )
        moments.append(now)

    async def read_json(self, request: Request, who: Caller) -> Any:
        """Read the JSON body of a request, and count the request against the user's rate limit."""
        username, settings = who.identity.username, self.settings
        self.limit(username)
        return await read_json(
            request, self.arrivals, username, settings.preparer_max_body, settings.preparer_max_items
        )


@dataclass(frozen=True)
class Caller:
    """An authenticated user and their token."""

    identity: Identity
    token: str
    operator: bool

    @property
    def owner(self) -> str | None:
        """User whose tasks the caller may see; None means everybody's."""
        return None if self.operator else self.identity.username


def context(request: Request) -> Context:
    """Return the process's context."""
    found: Any = request.app.state.context
    assert isinstance(found, Context)
    return found


async def caller(request: Request) -> Caller:
    """Verify the request's token. Raises `Unauthorized`."""
    shared = context(request)
    how = HOW.format(issuer=shared.settings.oidc_issuer)
    try:
        token = bearer(request.headers.getlist("authorization"))
        if token is None:
            raise Unauthorized(how, headers={"WWW-Authenticate": "Bearer"})
        identity = await shared.verifier.verify(token)
    except IssuerUnavailable:
        raise
    except AuthenticationError as exc:
        raise Unauthorized(f"{exc.description}. {how}", headers={"WWW-Authenticate": exc.challenge}) from exc
    bind(user=identity.username)
    return Caller(identity, token, bool(identity.groups & set(shared.settings.preparer_operator_groups)))


async def find(request: Request, task_id: str, who: Caller) -> Task:
    """Return the task of that id. Raises `NotFound` if there is none, or none that the caller may see."""
    try:
        number = uuid.UUID(task_id)
    except ValueError as exc:
        raise NotFound(f"{task_id!r} is no task id") from exc
    task = await context(request).ledger.task(number, who.owner)
    if task is None:
        raise NotFound(f"There is no task {task_id} of yours")
    return task
