"""Client of Rucio: which files a DID stands for, what is known of them, and which RSEs have them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from prepare_data_client.did import DID
from voservice.problems import Forbidden, Invalid, Problem, TooLarge, Unavailable

from preparer.config import PreparerSettings

TOKEN = "X-Rucio-Auth-Token"  # noqa: S105 - a header's name
PART = 1000
"""DIDs of one request."""
LONGEST = 1 << 20
"""Bytes of one line of an answer."""
AVAILABLE = "AVAILABLE"
BACK = {"Retry-After": "10"}


@dataclass(frozen=True)
class Replica:
    """A file as Rucio knows it: size in bytes, checksums in hexadecimal, and its URLs by the names of the RSEs.

    RSEs on which it is not in the state AVAILABLE are left out.
    """

    did: DID
    size: int | None
    md5: str | None
    adler32: str | None
    urls: dict[str, list[str]] = field(default_factory=dict)


class Refused(Exception):
    """Rucio's answer is none that helps; *status* is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        """Keep what Rucio says."""
        super().__init__(detail)
        self.status = status


class Rucio:
    """Asks as the service's own account, or with the token of the user where there is none."""

    def __init__(self, settings: PreparerSettings, session: aiohttp.ClientSession) -> None:
        """Ask the server of *settings*. Raises OSError for authorities that cannot be read."""
        self._url = settings.preparer_rucio_url
        self._account = settings.preparer_rucio_account
        self._user = settings.preparer_rucio_username
        self._password = settings.preparer_rucio_password.get_secret_value()
        self._session = session
        self._tls: dict[str, Any] = {}
        if settings.preparer_rucio_ca_file:
            self._tls = {"ssl": ssl.create_default_context(cafile=settings.preparer_rucio_ca_file)}
        self._token = ""
        self._lock = asyncio.Lock()

    async def check_user(self, username: str, token: str) -> None:
        """Raise `Forbidden` unless Rucio knows the user, by an active account of the same name."""
        try:
            async for account in self._lines("GET", f"/accounts/{quote(username, safe='')}", token):
                if account.get("status") == "ACTIVE":
                    return
                raise Forbidden(f"Rucio's account {username} is {account.get('status')}")
        except Refused as exc:
            if exc.status == 404:
                raise Forbidden(f"Rucio has no account {username}") from exc
            raise _problem(exc) from exc

    async def kinds(self, dids: Sequence[DID], token: str) -> dict[str, str]:
        """Return FILE, DATASET or CONTAINER for each of *dids* that Rucio knows."""
        found: dict[str, str] = {}
        for start in range(0, len(dids), PART):
            document = {"dids": [_document(did) for did in dids[start : start + PART]]}
            try:
                async for line in self._lines("POST", "/dids/bulkmeta", token, document):
                    found[f"{line['scope']}:{line['name']}"] = str(line["did_type"])
            except Refused as exc:
                if exc.status != 404:
                    raise _problem(exc) from exc
        return found

    async def files(self, dids: Sequence[DID], token: str) -> AsyncIterator[Replica]:
        """Yield the files *dids* with their replicas."""
        for start in range(0, len(dids), PART):
            document = {
                "dids": [_document(did) for did in dids[start : start + PART]],
                "schemes": ["https", "davs", "http", "root"],
            }
            try:
                async for line in self._lines("POST", "/replicas/list", token, document):
                    yield _replica(line)
            except Refused as exc:
                raise _problem(exc) from exc

    async def content(self, did: DID, token: str, most: int) -> list[DID]:
        """Return the files of a dataset or container. Raises `TooLarge` for more than *most*."""
        found: dict[str, DID] = {}
        path = f"/dids/{quote(did.scope, safe='')}/{quote(did.name, safe='')}/files"
        try:
            async for line in self._lines("GET", path, token):
                inner = DID(str(line["scope"]), str(line["name"]))
                found[str(inner)] = inner
                if len(found) > most:
                    raise TooLarge(
                        f"{did} has more than {most} files (preparer_max_items); request parts of it"
                    )
        except Refused as exc:
            raise _problem(exc) from exc
        return list(found.values())

    async def _lines(
        self, method: str, path: str, token: str, document: Any = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON documents of an answer, a line each. Raises `Refused`, and `Unavailable`."""
        for last in (False, True):
            proof = await self._proof(token)
            try:
                async with self._session.request(
                    method,
                    f"{self._url}{path}",
                    json=document,
                    headers={TOKEN: proof, "Accept": "application/x-json-stream, application/json"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=60),
                    **self._tls,
                ) as answer:
                    if answer.status == 401 and self._account and not last:
                        self._token = ""
                        continue
                    if answer.status != 200:
                        text = answer.headers.get("ExceptionMessage") or f"HTTP {answer.status}"
                        raise Refused(answer.status, text)
                    async for line in _split(answer.content):
                        yield line
                    return
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as exc:
                raise Unavailable(f"Rucio does not answer: {type(exc).__name__}", headers=BACK) from exc

    async def _proof(self, token: str) -> str:
        if not self._account:
            return token
        async with self._lock:
            if not self._token:
                headers = {
                    "X-Rucio-Account": self._account,
                    "X-Rucio-Username": self._user,
                    "X-Rucio-Password": self._password,
                }
                try:
                    async with self._session.get(
                        f"{self._url}/auth/userpass", headers=headers, allow_redirects=False, **self._tls
                    ) as answer:
                        if answer.status != 200 or TOKEN not in answer.headers:
                            raise Unavailable(
                                f"Rucio refuses the account {self._account} of this service: HTTP {answer.status}",
                                headers=BACK,
                            )
                        self._token = answer.headers[TOKEN]
                except (aiohttp.ClientError, TimeoutError) as exc:
                    raise Unavailable(f"Rucio does not answer: {type(exc).__name__}", headers=BACK) from exc
            return self._token


def path_below(root: str, url: str) -> str | None:
    """Return the path of a replica's *url* below an RSE's *root*, whatever the protocol; None if it is elsewhere."""
    base, found = urlsplit(root).path.strip("/"), urlsplit(url).path.lstrip("/")
    if not base:
        return found or None
    return found.removeprefix(f"{base}/") if found.startswith(f"{base}/") else None


def _document(did: DID) -> dict[str, str]:
    return {"scope": did.scope, "name": did.name}


def _replica(line: dict[str, Any]) -> Replica:
    states = line.get("states") or {}
    urls = {
        str(rse): [str(url) for url in urls]
        for rse, urls in (line.get("rses") or {}).items()
        if states.get(rse, AVAILABLE) == AVAILABLE
    }
    did = DID(str(line["scope"]), str(line["name"]))
    return Replica(did, line.get("bytes"), line.get("md5"), line.get("adler32"), urls)


def _problem(refused: Refused) -> Problem:
    if refused.status in (401, 403):
        return Forbidden(f"Rucio refuses: {refused}")
    if refused.status == 404:
        return Invalid(f"Rucio: {refused}")
    return Unavailable(f"Rucio: {refused}", headers=BACK)


async def _split(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST:
            raise ValueError("a line is too long")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if rest.strip():
        yield json.loads(rest)
