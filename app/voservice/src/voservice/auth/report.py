"""Report on how a service evaluates its issuer and a token, for operators who connect their own issuer.

Run in the service's container, ``python -m voservice.auth.report vospace.config:Settings`` reads an optional token from
standard input and prints a JSON object. It never prints the token.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

import httpx
import jwt

from voservice.auth.client import ClientCredentials
from voservice.auth.errors import AuthenticationError
from voservice.auth.identity import Identity
from voservice.auth.issuer import ALGORITHMS
from voservice.auth.verifier import TokenVerifier
from voservice.config import ServiceSettings, load

SHOWN = ("iss", "aud", "sub", "preferred_username", "scope", "typ", "groups", "wlcg.groups")
"""Claims included in the report: those that determine the result."""


async def report(settings: ServiceSettings, client: httpx.AsyncClient, token: str = "") -> dict[str, Any]:
    """Query the issuer, and verify *token* as the service does.

    Returns
    -------
    dict
        ``issuer``: its URL, ``ok``, and ``problem`` or its endpoints and the ids of usable keys by algorithm.
        ``expected``: the audiences and algorithms that the service accepts.
        ``token``, if one is given: ``accepted``, with ``username``, ``groups`` and ``seconds_left``, or ``problem``;
        and ``claims`` and ``header`` of the token, verified or not.
        ``client``, if the service has one at the issuer: ``id``, and ``problem`` or ``username``, ``groups`` and
        ``seconds_left`` of the token that it gets for itself.
        ``exchanged``, if the service exchanges users' tokens and accepts this one: the same of what it gets for it.
    """
    verifier = TokenVerifier.of(settings, client)
    found: dict[str, Any] = {
        "issuer": await _issuer(verifier, settings),
        "expected": {
            "audiences": settings.oidc_audiences,
            "audience_required": settings.oidc_require_audience,
            "algorithms": settings.oidc_algorithms,
        },
    }
    if token:
        found["token"] = await _token(verifier, token)
    if found["issuer"]["ok"] and settings.service_client_id:
        secret = settings.service_client_secret.get_secret_value()
        own = ClientCredentials(settings.oidc_issuer, settings.service_client_id, secret, client=client)
        # Whoever is asked with it knows the client, by its id if the issuer gives it no user name.
        client_verifier = TokenVerifier.of(settings, client, [settings.service_client_id])
        found["client"] = {"id": settings.service_client_id, **await _obtained(client_verifier, own.token())}
        lifetime = settings.exchanged_lifetime
        if lifetime is not None and found.get("token", {}).get("accepted"):
            found["exchanged"] = await _obtained(verifier, own.exchange(token, lifetime))
    printable: dict[str, Any] = _printable(found)
    return printable


def _printable(value: Any) -> Any:
    """Return *value* without control characters and line breaks: the text of issuers and tokens is untrusted."""
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "?" for character in value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


async def _issuer(verifier: TokenVerifier, settings: ServiceSettings) -> dict[str, Any]:
    issuer = verifier.issuer
    try:
        metadata = await issuer.fetch()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        return {"url": issuer.url, "ok": False, "problem": str(exc) or type(exc).__name__}
    keys = {
        algorithm: [key.kid for key in issuer.keys if key.fits(algorithm)]
        for algorithm in ALGORITHMS
        if algorithm in settings.oidc_algorithms
    }
    return {
        "url": issuer.url,
        "ok": any(keys.values()),
        "problem": None if any(keys.values()) else "none of its keys is for an algorithm that is accepted",
        "keys": {algorithm: ids for algorithm, ids in keys.items() if ids},
        "token_endpoint": metadata.token_endpoint,
        "userinfo_endpoint": metadata.userinfo_endpoint,
    }


async def _token(verifier: TokenVerifier, token: str) -> dict[str, Any]:
    document: dict[str, Any] = {"accepted": False, "header": {}, "claims": {}}
    try:
        document["header"] = {
            name: value
            for name, value in jwt.get_unverified_header(token).items()
            if name in ("alg", "kid", "typ")
        }
        claims = jwt.decode(token, options={"verify_signature": False})
        document["claims"] = {name: claims[name] for name in SHOWN if name in claims}
    except (jwt.PyJWTError, ValueError, RecursionError):
        # The result below reports it in the service's own words.
        pass
    try:
        identity = await verifier.verify(token)
    except AuthenticationError as exc:
        return document | {"problem": exc.description}
    return document | {"accepted": True, **_accepted(identity)}


async def _obtained(verifier: TokenVerifier, grant: Awaitable[str]) -> dict[str, Any]:
    try:
        return _accepted(await verifier.verify(await grant))
    except AuthenticationError as exc:
        return {"problem": exc.description}


def _accepted(identity: Identity) -> dict[str, Any]:
    left = round(identity.expires.timestamp() - time.time()) if identity.expires else None
    return {"username": identity.username, "groups": sorted(identity.groups), "seconds_left": left}


async def _main(settings: ServiceSettings, token: str) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        print(json.dumps(await report(settings, client, token)))


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    asyncio.run(_main(load(getattr(importlib.import_module(module), name)), sys.stdin.read().strip()))
