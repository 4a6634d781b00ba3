"""Who a caller is, and the names and numbers of users and groups.

A caller is known by a bearer token of the configured issuer or by an X.509 certificate that HAProxy verified. The
numbers come from the POSIX mapper, which is asked with the service's own credential, so that an owner's name is known
to anonymous readers too. Groups come from the token, or from the group service where the token says nothing of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
from lxml import etree
from starlette.requests import Request
from voservice.auth import (
    GROUP,
    GROUP_CLAIMS,
    USERNAME,
    AuthenticationError,
    ClientCredentials,
    Identity,
    TokenVerifier,
    bearer,
)
from voservice.proxy import client_certificate, common_name

from vospace.models.caller import ANONYMOUS, Caller
from vospace.models.errors import InvalidArgument

USER_MAPPING = "http://www.opencadc.org/std/posix#user-mapping-0.1"
GROUP_MAPPING = "http://www.opencadc.org/std/posix#group-mapping-0.1"
GROUP_SEARCH = "ivo://ivoa.net/std/GMS#search-1.0"
TSV = "text/tab-separated-values"

MEMBERSHIP_AGE = 300.0
ENDPOINT_AGE = 600.0
CACHED = 100_000

logger = logging.getLogger(__name__)


class MappingUnavailable(Exception):
    """The POSIX mapper or the registry cannot be asked, so that nobody's numbers can be known."""


class NoGroup(InvalidArgument):
    """The text is no identifier of a group to which the POSIX mapper could give a number."""


class Registry:
    """Finds the URL of a capability by its service's resource identifier or base URL."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        """Ask the registry at *url*."""
        self.url = url
        self.client = client
        self._known: dict[tuple[str, str], tuple[float, str]] = {}

    async def endpoint(self, service: str, standard: str) -> str:
        """Access URL of the capability *standard* of *service*."""
        key = (service, standard)
        known = self._known.get(key)
        if known and time.monotonic() - known[0] < ENDPOINT_AGE:
            return known[1]
        try:
            url = await self._look_up(service, standard)
        except (httpx.HTTPError, etree.XMLSyntaxError, LookupError) as exc:
            if known:
                return known[1]
            raise MappingUnavailable(f"{service} cannot be found: {exc}") from exc
        self._known[key] = (time.monotonic(), url)
        return url

    async def _look_up(self, service: str, standard: str) -> str:
        capabilities = service.rstrip("/") + "/capabilities"
        if service.startswith("ivo:"):
            listing = (await self.client.get(f"{self.url}/resource-caps")).raise_for_status().text
            lines = [line.partition("=") for line in listing.splitlines() if not line.startswith("#")]
            urls = {key.strip(): value.strip() for key, _, value in lines}
            if service not in urls:
                raise LookupError(f"{service} is not registered at {self.url}")
            capabilities = urls[service]
        document = (await self.client.get(capabilities)).raise_for_status().content
        root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))
        for capability in root.iter("{*}capability"):
            if capability.get("standardID") == standard:
                url = capability.findtext(".//{*}accessURL")
                if url:
                    return str(url.strip())
        raise LookupError(f"{capabilities} offers no {standard}")


class Identities:
    """Turns credentials into callers, and names into numbers and back."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        credentials: ClientCredentials,
        registry: Registry,
        posix_mapper: str,
        group_service: str,
        groups_delegated: bool,
        root_owner: tuple[str, int, int],
        trusted_proxies: list[str],
        client: httpx.AsyncClient,
    ) -> None:
        """Ask *posix_mapper* and *group_service*, each a resource identifier or a base URL; the latter, if
        *groups_delegated*, for the groups of callers without a token too."""
        self.verifier = verifier
        self.credentials = credentials
        self.registry = registry
        self.posix_mapper = posix_mapper
        self.group_service = group_service
        self.groups_delegated = groups_delegated
        self.trusted_proxies = trusted_proxies
        self.client = client
        name, uid, gid = root_owner
        # A number, once given, stays; so what is known is known for good.
        self._accounts: dict[str, tuple[int, int]] = {name: (uid, gid)}
        self._names: dict[int, str | None] = {uid: name}
        self._gids: dict[str, int] = {}
        self._groups: dict[int, str | None] = {}
        self._members: dict[str, tuple[float, frozenset[str]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    # -- callers ---------------------------------------------------------------------------------------------

    async def caller(self, request: Request) -> Caller:
        """Caller of a request; anonymous without a credential, an ``AuthenticationError`` with a bad one."""
        token = bearer(request.headers.getlist("authorization"))
        if token is not None:
            identity = await self.verifier.verify(token)
            return await self._caller(identity, token)
        certificate = client_certificate(request, self.trusted_proxies)
        if certificate is None:
            return ANONYMOUS
        name = common_name(certificate)
        if not USERNAME.match(name):
            raise AuthenticationError("The certificate's common name is no user name")
        identity = Identity(name, certificate.subject.rfc4514_string(), "", method="certificate")
        return await self._caller(identity, None)

    async def _caller(self, identity: Identity, token: str | None) -> Caller:
        uid, gid = await self.account(identity.username)
        groups = await self._membership(identity, token)
        gids = {gid}
        for group in groups:
            try:
                gids.add(await self.gid(group))
            except (
                NoGroup
            ) as exc:  # an issuer may have groups of any name; no node can be shared with such a one
                logger.debug("%s: %s", identity.username, exc)
        return Caller(identity.username, uid, gid, frozenset(gids), groups, identity.method)

    async def _membership(self, identity: Identity, token: str | None) -> frozenset[str]:
        """Identifiers of the groups of a caller: as the token says, or else the group service."""
        if not self.group_service:
            return frozenset()
        if token is not None and any(claim in identity.claims for claim in GROUP_CLAIMS):
            return frozenset(self.group_uri(name) for name in identity.groups)
        if token is None and not self.groups_delegated:
            return frozenset()
        known = self._members.get(identity.username)
        if known and time.monotonic() - known[0] < MEMBERSHIP_AGE:
            return known[1]
        try:
            url = await self.registry.endpoint(self.group_service, GROUP_SEARCH)
            found = await self._search(url, identity.username, token)
        except (httpx.HTTPError, MappingUnavailable, AuthenticationError) as exc:
            # Without the group service a caller has what is the caller's own, and no group's.
            logger.warning(
                "The group service cannot be asked for the groups of %s: %s", identity.username, exc
            )
            return known[1] if known else frozenset()
        self._remember(self._members, identity.username, (time.monotonic(), found))
        return found

    async def _search(self, url: str, username: str, token: str | None) -> frozenset[str]:
        """Ask with the user's own token, or for a user without one with ours."""
        headers = {"Authorization": f"Bearer {token or await self.credentials.token()}"}
        parameters = {"user": username} if token is None else {}
        answer = await self.client.get(url, params=parameters, headers=headers)
        lines = (line.strip() for line in answer.raise_for_status().text.splitlines())
        return frozenset(self.group_uri(name) for name in lines if name)

    def group_uri(self, name: str) -> str:
        """Full identifier of a group of our group service."""
        return name if name.startswith("ivo://") else f"{self.group_service}?{name}"

    # -- users and groups ------------------------------------------------------------------------------------

    async def account(self, username: str) -> tuple[int, int]:
        """uid and gid of a user, who gets them now if new."""
        if username not in self._accounts:
            async with self._locks.setdefault(f"user {username}", asyncio.Lock()):
                if username not in self._accounts:
                    for name, uid, gid in await self._users({"user": username}):
                        self._remember(self._accounts, name, (uid, gid))
                        self._remember(self._names, uid, name)
        try:
            return self._accounts[username]
        except KeyError:
            raise MappingUnavailable(f"The POSIX mapper gives {username} no number") from None

    async def name(self, uid: int) -> str | None:
        """Name of the user with that number, or None if nobody has it."""
        if uid not in self._names:
            found = await self._users({"uid": str(uid)})
            if not found:
                return None
            self._remember(self._names, uid, found[0][0])
        return self._names[uid]

    async def gid(self, group: str) -> int:
        """Number of a group, which gets it now if new. Raises NoGroup."""
        if not GROUP.match(group):
            raise NoGroup(f"not a group: {group[:120]}")
        if group not in self._gids:
            for uri, gid in await self._group_lines({"group": group}):
                self._remember(self._gids, uri, gid)
                self._remember(self._groups, gid, uri)
        try:
            return self._gids[group]
        except KeyError:
            raise MappingUnavailable(f"The POSIX mapper gives the group {group} no number") from None

    async def group(self, gid: int) -> str | None:
        """Identifier of the group with that number, or None if there is none."""
        if gid not in self._groups:
            found = await self._group_lines({"gid": str(gid)})
            if not found:
                return None
            self._remember(self._groups, gid, found[0][0])
        return self._groups[gid]

    async def _users(self, parameters: dict[str, str]) -> list[tuple[str, int, int]]:
        lines = await self._ask(USER_MAPPING, parameters)
        return [(name, int(uid), int(gid)) for name, uid, gid in lines]

    async def _group_lines(self, parameters: dict[str, str]) -> list[tuple[str, int]]:
        return [(uri, int(gid)) for uri, gid in await self._ask(GROUP_MAPPING, parameters)]

    async def _ask(self, standard: str, parameters: dict[str, str]) -> list[list[str]]:
        try:
            url = await self.registry.endpoint(self.posix_mapper, standard)
            headers = {"Accept": TSV, "Authorization": f"Bearer {await self.credentials.token()}"}
            answer = await self.client.get(url, params=parameters, headers=headers)
            return [line.split("\t") for line in answer.raise_for_status().text.splitlines()]
        except (httpx.HTTPError, AuthenticationError) as exc:
            raise MappingUnavailable(f"The POSIX mapper cannot be asked: {exc}") from exc

    @staticmethod
    def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
        if len(cache) >= CACHED:
            cache.pop(next(iter(cache)))
        cache[key] = value
