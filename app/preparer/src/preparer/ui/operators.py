"""What operators look at: health, the queue, workers, dead letters, and Cavern's maintenance mode."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from kombu.exceptions import OperationalError
from voservice.auth import AuthenticationError
from voservice.problems import Invalid, Problem, Unavailable
from vospace_client.client import AVAILABILITY_TIMEOUT, CavernError, availability

from preparer.api.context import Caller, Context, context
from preparer.broker.dead_letters import dead_letters
from preparer.ui.access import Form, Operator, page
from preparer.ui.refusals import refusal
from preparer.ui.shown import STATES, moment, size

router = APIRouter()

LETTERS = 200
"""Dead letters that are looked at."""
MODES = {"ReadWrite": "Open", "ReadOnly": "Read only", "Offline": "Offline"}


@dataclass(frozen=True)
class Health:
    """Whether a service answers, and what it says of itself."""

    name: str
    good: bool
    detail: str = ""


async def _service(shared: Context, name: str, url: str) -> Health:
    try:
        good, note = await availability(shared.cavern.session, url)
    except CavernError as exc:
        return Health(name, False, exc.detail)
    return Health(name, good, note)


async def _registered(shared: Context) -> dict[str, str]:
    """Return the URLs of the services of this site that the registry knows, by their names."""
    registry, own = shared.settings.registry_url, f"{shared.settings.public_url}/"
    found = {"VOSpace": shared.settings.cavern_api_url, "Registry": registry}
    try:
        async with shared.cavern.session.get(
            f"{registry}/resource-caps", timeout=AVAILABILITY_TIMEOUT
        ) as answer:
            lines = (await answer.text()).splitlines() if answer.status == 200 else []
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        # Its own line tells.
        return found
    for line in lines:
        name, _, url = (part.strip() for part in line.partition("="))
        url = url.removesuffix("/capabilities")
        # Others' are not asked: the registry may know services anywhere.
        if not line.startswith("#") and url.startswith(own) and url not in found.values():
            found[name.rpartition("/")[2]] = url
    return found


async def _issuer(shared: Context) -> Health:
    try:
        await shared.verifier.issuer.metadata()
    except AuthenticationError as exc:
        return Health("Issuer", False, exc.description)
    return Health("Issuer", True, shared.settings.oidc_issuer)


async def _health(shared: Context) -> list[Health]:
    """Ask all services of the site, at once."""
    services = await _registered(shared)
    issuer, *others = await asyncio.gather(
        _issuer(shared), *(_service(shared, name, url) for name, url in services.items())
    )
    broker = Health(
        "Broker",
        shared.outbox.healthy,
        "" if shared.outbox.healthy else "requests wait in the ledger until it answers",
    )
    return [Health("Ledger", True), broker, issuer, *others]


@router.get("/operators")
async def overview(request: Request, who: Operator) -> Response:
    """Show how the service is doing."""
    return await _overview(request, who)


async def _overview(request: Request, who: Caller, error: Problem | None = None) -> Response:
    shared = context(request)
    counts = await shared.ledger.counts()
    return page(request).pages.render(
        "operators.html",
        200 if error is None else error.status,
        who=who,
        health=await _health(shared),
        counts=[(word, tone, counts.get(state, 0)) for state, (word, tone) in STATES.items()],
        oldest=(await shared.ledger.oldest())[0],
        workers=await shared.ledger.workers(),
        hours=await shared.ledger.hours(),
        modes=MODES,
        error=error,
        moment=moment,
        size=size,
    )


@router.post("/operators/mode")
async def set_mode(request: Request, who: Operator, fields: Form) -> Response:
    """Set Cavern's mode, which Cavern lets its own operators do."""
    try:
        mode = fields.get("mode", "")
        if mode not in MODES:
            raise Invalid(f"mode: one of {', '.join(MODES)}")
        await context(request).cavern.set_state(mode, who.token)
    except CavernError as exc:
        return await _overview(request, who, refusal(exc))
    except Problem as exc:
        return await _overview(request, who, exc)
    return RedirectResponse(f"{page(request).base}/operators", 303)


@router.get("/operators/dead-letters")
async def letters(request: Request, who: Operator) -> Response:
    """Show the messages that no worker could take."""
    found = await _letters(context(request), replay=False)
    return page(request).pages.render("dead_letters.html", who=who, letters=found, most=LETTERS)


@router.post("/operators/dead-letters")
async def replay(request: Request, _: Operator, __: Form) -> Response:
    """Publish them again."""
    await _letters(context(request), replay=True)
    return RedirectResponse(f"{page(request).base}/operators/dead-letters", 303)


async def _letters(shared: Context, *, replay: bool) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]]:
        return [
            {"task": letter["task"], "history": json.dumps(letter["died"], default=str)}
            for letter in dead_letters(shared.outbox.application, LETTERS, replay=replay)
        ]

    try:
        return await asyncio.to_thread(look)
    except (OperationalError, OSError) as exc:
        raise Unavailable("The broker does not answer", headers={"Retry-After": "10"}) from exc
