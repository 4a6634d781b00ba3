"""Client of Rucio: which files a DID stands for, what is known of them, and which RSEs have them."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import httpx
import jwt
from prepare_data_client.did import DID
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from voservice.problems import Forbidden, Invalid, Problem, TooLarge, Unavailable
from voservice.storage_elements.credentials import (
    CredentialRefused,
    CredentialUnavailable,
    Exchanged,
    Given,
    Granted,
    Grantee,
)
from voservice.texts import legible

from preparer.config import PreparerSettings

TOKEN = "X-Rucio-Auth-Token"  # noqa: S105 - a header's name
PART = 1000
"""DIDs of one request."""
LONGEST = 1 << 20
"""Bytes of one line of an answer."""
MOST_TOLD = 500
"""Characters of what Rucio says of a refusal."""
AVAILABLE = "AVAILABLE"
ACTIVE = "ACTIVE"
BACK = {"Retry-After": "10"}
logger = logging.getLogger(__name__)


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


class _Account(BaseModel):
    """The line of `GET /accounts/{account}`, as far as it is needed."""

    account: str
    status: str


class _Name(BaseModel):
    """A line of `GET /dids/{scope}/{name}/files`."""

    scope: str
    name: str

    @property
    def did(self) -> DID:
        return DID(self.scope, self.name)


class _Kind(_Name):
    """A line of `POST /dids/bulkmeta`."""

    did_type: Literal["FILE", "DATASET", "CONTAINER"]


# What is not known may be empty or null.
_Sum = BeforeValidator(lambda value: value or None)
_Map = BeforeValidator(lambda value: {} if value is None else value)


class _Replicas(_Name):
    """A line of `POST /replicas/list`."""

    bytes: int | None = Field(None, ge=0, le=2**63 - 1)
    md5: Annotated[str | None, _Sum] = Field(None, pattern=r"^[0-9a-fA-F]{32}$")
    adler32: Annotated[str | None, _Sum] = Field(None, pattern=r"^[0-9a-fA-F]{1,8}$")
    rses: Annotated[dict[str, list[str]], _Map] = {}
    states: Annotated[dict[str, str], _Map] = {}

    def replica(self) -> Replica:
        urls = {rse: urls for rse, urls in self.rses.items() if self.states.get(rse, AVAILABLE) == AVAILABLE}
        return Replica(self.did, self.bytes, self.md5, self.adler32, urls)


L = TypeVar("L", bound=BaseModel)


class Refused(Exception):
    """Rucio's answer is none that helps; *status* is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        """Keep what Rucio says."""
        super().__init__(detail)
        self.status = status


class Rucio:
    """Asks as the service's own account, or with the token of the user where there is none."""

    def __init__(
        self, settings: PreparerSettings, session: aiohttp.ClientSession, client: httpx.AsyncClient
    ) -> None:
        """Ask the server of *settings*, and the issuer by *client*. Raises OSError for unreadable authorities."""
        self._url = settings.preparer_rucio_url
        self._tokens = _tokens(settings, client)
        self._client_id = settings.service_client_id
        self._audience, self._scope = settings.preparer_rucio_audience, settings.preparer_rucio_scope
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
        """Raise `Forbidden` unless Rucio knows the user, by an active account of the same name.

        Any answer but one that says so is a refusal.
        """
        try:
            path = f"/accounts/{quote(username, safe='')}"
            found = [account async for account in self._lines(_Account, "GET", path, token)]
        except Refused as exc:
            if exc.status == 404:
                raise Forbidden(f"Rucio has no account {username}") from exc
            raise _problem(exc) from exc
        if [account.account for account in found] != [username]:
            raise Unavailable(
                f"Rucio was asked for the account {username} and tells of another", headers=BACK
            )
        if found[0].status != ACTIVE:
            raise Forbidden(f"Rucio's account {username} is {found[0].status}")

    async def kinds(self, dids: Sequence[DID], token: str) -> dict[str, str]:
        """Return FILE, DATASET or CONTAINER for each of *dids* that Rucio knows."""
        found: dict[str, str] = {}
        for start in range(0, len(dids), PART):
            document = {"dids": [_document(did) for did in dids[start : start + PART]]}
            try:
                async for line in self._lines(_Kind, "POST", "/dids/bulkmeta", token, document):
                    found[str(line.did)] = line.did_type
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
                async for line in self._lines(_Replicas, "POST", "/replicas/list", token, document):
                    yield line.replica()
            except Refused as exc:
                raise _problem(exc) from exc

    async def content(self, did: DID, token: str, most: int) -> list[DID]:
        """Return the files of a dataset or container. Raises `TooLarge` for more than *most*."""
        found: dict[str, DID] = {}
        path = f"/dids/{quote(did.scope, safe='')}/{quote(did.name, safe='')}/files"
        try:
            async with aclosing(self._lines(_Name, "GET", path, token)) as lines:
                async for line in lines:
                    found[str(line.did)] = line.did
                    if len(found) > most:
                        raise TooLarge(
                            f"{did} has more than {most} files (preparer_max_items); request parts of it"
                        )
        except Refused as exc:
            raise _problem(exc) from exc
        return list(found.values())

    async def _lines(
        self, model: type[L], method: str, path: str, token: str, document: Any = None
    ) -> AsyncGenerator[L]:
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
                    if answer.status == 401 and (self._account or self._tokens) and not last:
                        self._forget(token)
                        continue
                    if answer.status != 200:
                        text = legible(answer.headers.get("ExceptionMessage") or f"HTTP {answer.status}")
                        if answer.status == 401 and self._tokens is not None:
                            raise self._refusal(text[:MOST_TOLD], proof)
                        raise Refused(answer.status, text[:MOST_TOLD])
                    async for line in _split(answer.content):
                        yield model.model_validate_json(line)
                    return
            except ValidationError as exc:
                first = exc.errors(include_input=False, include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "a line"
                raise Unavailable(
                    f"Rucio's answer to {method} {path.split('/')[1]} cannot be read: {where}: {first['msg']}",
                    headers=BACK,
                ) from exc
            except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
                raise Unavailable(f"Rucio does not answer: {type(exc).__name__}", headers=BACK) from exc

    def _refusal(self, text: str, proof: str) -> Problem:
        """Return the problem that Rucio takes no token of the issuer's, which is the user's own if it was exchanged."""
        claims = _claims(proof)
        told = {name: legible(str(claims.get(name)))[:MOST_TOLD] for name in ("iss", "sub", "aud", "scope")}
        logger.warning("Rucio refuses a token of the issuer", extra={"fields": {"detail": text, **told}})
        reason = lacking(claims, self._audience, self._scope)
        if self._account:
            return Unavailable(
                f"Rucio refuses the token that the client {self._client_id} of this service has from the issuer:"
                f" {text}; {reason}",
                headers=BACK,
            )
        return Forbidden(f"Rucio refuses the token that the issuer exchanged for yours: {text}; {reason}")

    def _forget(self, token: str) -> None:
        """Get another proof the next time."""
        self._token = ""
        if self._tokens is not None:
            self._tokens.forget(token)

    async def _proof(self, token: str) -> str:
        if self._tokens is not None:
            try:
                return await self._tokens.token(token)
            except CredentialRefused as exc:
                raise Forbidden(f"no token for Rucio: {exc}") from exc
            except CredentialUnavailable as exc:
                raise Unavailable(f"no token for Rucio: {exc}", headers=BACK) from exc
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


def _tokens(settings: PreparerSettings, client: httpx.AsyncClient) -> Granted | None:
    """Return where tokens for Rucio come from, if they are neither those of users nor Rucio's own."""
    audience, scope = settings.preparer_rucio_audience, settings.preparer_rucio_scope
    if settings.preparer_rucio_username or not (settings.preparer_rucio_account or audience or scope):
        return None
    kind = Granted if settings.preparer_rucio_account else Exchanged
    secret = Given(settings.service_client_secret.get_secret_value())
    return kind(Grantee(settings.oidc_issuer, settings.service_client_id, secret, audience, scope), client)


def _claims(token: str) -> dict[str, Any]:
    """Return what a token says of itself, unverified: that is Rucio's. Nothing, if it is no JSON web token."""
    try:
        found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return {}
    return found


def lacking(claims: dict[str, Any], audience: str, scope: str) -> str:
    """Return what Rucio may miss in a token with *claims* that was asked for with *audience* and *scope*."""
    found = claims.get("aud", [])
    audiences = [str(one) for one in (found if isinstance(found, list) else [found])]
    if claims and audience and audience not in audiences:
        said = legible(", ".join(audiences))[:MOST_TOLD] or "none"
        return (
            f"its audience is {said}, without {audience} (preparer_rucio_audience), which the issuer has to add"
            " to the tokens of this client"
        )
    scopes = str(claims.get("scope", "")).split()
    if claims and (missing := [one for one in scope.split() if one not in scopes]):
        return f"its scope is without {' '.join(missing)} (preparer_rucio_scope)"
    return (
        "Rucio's expected_audience and expected_scope have to be what it is asked for with"
        " (preparer_rucio_audience, preparer_rucio_scope), and its issuer and subject an identity of an account"
    )


def path_below(root: str, url: str) -> str | None:
    """Return the path of a replica's *url* below an RSE's *root*, whatever the protocol; None if it is elsewhere."""
    try:
        base, found = urlsplit(root).path.strip("/"), urlsplit(url).path.lstrip("/")
    except ValueError:
        return None
    if not base:
        return found or None
    return found.removeprefix(f"{base}/") if found.startswith(f"{base}/") else None


def _document(did: DID) -> dict[str, str]:
    return {"scope": did.scope, "name": did.name}


def _problem(refused: Refused) -> Problem:
    if refused.status in (401, 403):
        return Forbidden(f"Rucio refuses: {refused}")
    if refused.status == 404:
        return Invalid(f"Rucio: {refused}")
    return Unavailable(f"Rucio: {refused}", headers=BACK)


async def _split(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines that are not blank."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST:
            raise ValueError("a line is too long")
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        yield rest
