"""Identities of callers, and the names, uids and gids of users and groups.

Callers authenticate with a bearer token of the configured issuer or an X.509 certificate of the deployment. uids and
gids come from the POSIX mapper, which is queried with the service's own credential, so that anonymous readers see
owners' names too. Groups come from the token, or from the group service if the token does not contain them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any
from urllib.parse import quote

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
from voservice.certificates import ClientCertificates
from voservice.proxy import client_certificate, common_name

from vospace.models.caller import ANONYMOUS, Caller

USER_MAPPING = "http://www.opencadc.org/std/posix#user-mapping-0.1"
GROUP_MAPPING = "http://www.opencadc.org/std/posix#group-mapping-0.1"
GROUP_SEARCH = "ivo://ivoa.net/std/GMS#search-1.0"
TSV = "text/tab-separated-values"

LONGEST_QUERY = 5000
"""Characters: Tomcat accepts 8 KiB of request line and headers together, including the token."""
QUESTIONS = 4
"""Concurrent requests to the POSIX mapper if one request cannot hold all names."""
MEMBERSHIP_AGE = 300.0
ENDPOINT_AGE = 600.0
CACHED = 100_000

logger = logging.getLogger(__name__)

Parameters = list[tuple[str, str]]
_PLAIN = ":/?@"
"""Characters that a query may contain unencoded (RFC 3986 section 3.4), and that identifiers of groups consist of."""


class MappingUnavailable(Exception):
    """The POSIX mapper or the registry is unavailable, so uids and gids cannot be determined."""


class NotRegistered(MappingUnavailable):
    """The registry is available, and there is no such service."""


class Registry:
    """Finds the URL of a capability by its service's resource identifier or base URL."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        """Use the registry at *url*."""
        self.url = url
        self.client = client
        self._known: dict[tuple[str, str], tuple[float, str]] = {}

    async def endpoint(self, service: str, standard: str) -> str:
        """Return the access URL of the capability *standard* of *service*. Raises `MappingUnavailable`."""
        key = (service, standard)
        known = self._known.get(key)
        if known and time.monotonic() - known[0] < ENDPOINT_AGE:
            return known[1]
        try:
            url = await self._look_up(service, standard)
        except (httpx.HTTPError, etree.XMLSyntaxError, LookupError) as exc:
            if known:
                return known[1]
            kind = NotRegistered if isinstance(exc, LookupError) else MappingUnavailable
            raise kind(f"{service} cannot be found: {exc}") from exc
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
    """Turns credentials into callers, and names into uids and gids and back."""

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
        certificates: ClientCertificates | None,
        client: httpx.AsyncClient,
    ) -> None:
        """Use *posix_mapper* and *group_service*, each a resource identifier or a base URL; the latter, if
        *groups_delegated*, also for the groups of callers without a token."""
        self.verifier = verifier
        self.credentials = credentials
        self.registry = registry
        self.posix_mapper = posix_mapper
        self.group_service = group_service
        self.groups_delegated = groups_delegated
        self.certificates = certificates
        self.client = client
        self._root_name, self._root_uid, self._root_gid = root_owner
        self._root_further: frozenset[int] | None = None
        # An assigned uid or gid never changes, so cached ones stay valid.
        self._accounts: dict[str, tuple[int, int]] = {}
        self._names: dict[int, str | None] = {}
        self._gids: dict[str, int] = {}
        self._groups: dict[int, str | None] = {}
        self._members: dict[str, tuple[float, frozenset[str]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    # -- callers ---------------------------------------------------------------------------------------------

    async def caller(self, request: Request) -> Caller:
        """Return the caller; anonymous without a credential. Raises AuthenticationError for an invalid one."""
        token = bearer(request.headers.getlist("authorization"))
        if token is not None:
            identity = await self.verifier.verify(token)
            return await self._caller(identity, token)
        certificate = client_certificate(request)
        if certificate is None or self.certificates is None:
            return ANONYMOUS
        self.certificates.verify(certificate)
        name = common_name(certificate)
        if not USERNAME.match(name):
            raise AuthenticationError("The certificate's common name is not a user name")
        identity = Identity(name, certificate.subject.rfc4514_string(), "", method="certificate")
        return await self._caller(identity, None)

    async def _caller(self, identity: Identity, token: str | None) -> Caller:
        uid, gid = await self.account(identity.username)
        groups = await self._membership(identity, token)
        # An issuer may have groups of any name; nodes can be shared only with these.
        numbers = await self.gids([group for group in groups if GROUP.match(group)])
        further = await self._further() if identity.username == self._root_name else frozenset()
        return Caller(identity.username, uid, gid, numbers | {gid}, groups, identity.method, further)

    async def _further(self) -> frozenset[int]:
        """Return uids of the root owner besides that in the settings.

        OpenCADC's POSIX mapper assigns one at the first request, as to any user without one.
        """
        if self._root_further is None:
            try:
                found = {uid for name, uid, _ in await self._users("user", self._root_name)}
            except MappingUnavailable as exc:
                logger.warning("%s may have another number: %s", self._root_name, exc)
                return frozenset()
            self._root_further = frozenset(found - {self._root_uid})
            for uid in self._root_further:
                logger.warning("%s is %s, and %s to the POSIX mapper", self._root_name, self._root_uid, uid)
        return self._root_further

    async def _membership(self, identity: Identity, token: str | None) -> frozenset[str]:
        """Return identifiers of the caller's groups, from the token or else the group service."""
        if not self.group_service:
            return frozenset()
        if token is not None and any(claim in identity.claims for claim in GROUP_CLAIMS):
            return self._of_service(identity.groups)
        if token is None and not self.groups_delegated:
            return frozenset()
        known = self._members.get(identity.username)
        if known and time.monotonic() - known[0] < MEMBERSHIP_AGE:
            return known[1]
        try:
            url = await self.registry.endpoint(self.group_service, GROUP_SEARCH)
            found = await self._search(url, identity.username, token)
        except NotRegistered as exc:
            # A site whose issuer tells groups need not have one, and leaves the claim out for who is in none.
            logger.info("%s has no groups: %s", identity.username, exc)
            found = frozenset()
        except (httpx.HTTPError, MappingUnavailable, AuthenticationError) as exc:
            # Without the group service, callers can access their own nodes but no group's.
            logger.warning(
                "The group service is unavailable for the groups of %s: %s", identity.username, exc
            )
            return known[1] if known else frozenset()
        self._remember(self._members, identity.username, (time.monotonic(), found))
        return found

    async def _search(self, url: str, username: str, token: str | None) -> frozenset[str]:
        """Query the group service with the user's token, or with ours for a user without one."""
        headers = {"Authorization": f"Bearer {token or await self.credentials.token()}"}
        parameters = {"user": username} if token is None else {}
        answer = await self.client.get(url, params=parameters, headers=headers)
        lines = (line.strip() for line in answer.raise_for_status().text.splitlines())
        return self._of_service(line for line in lines if line)

    def _of_service(self, names: Iterable[str]) -> frozenset[str]:
        """Return full identifiers of groups of our group service. Groups of other services are ignored, whoever names
        them: their membership cannot be verified. Users' own groups are among those."""
        groups = (name if "://" in name else f"{self.group_service}?{name}" for name in names)
        return frozenset(group for group in groups if self.is_local(group))

    def is_local(self, group: str) -> bool:
        """Return whether the full identifier is of a group of our group service."""
        return bool(self.group_service) and group.partition("?")[0] == self.group_service

    # -- users and groups ------------------------------------------------------------------------------------

    async def account(self, username: str) -> tuple[int, int]:
        """Return uid and gid of a user, assigned now if new."""
        if username == self._root_name:
            return self._root_uid, self._root_gid
        if username not in self._accounts:
            async with self._locks.setdefault(f"user {username}", asyncio.Lock()):
                if username not in self._accounts:
                    for name, uid, gid in await self._users("user", username):
                        self._remember(self._accounts, name, (uid, gid))
                        self._remember(self._names, uid, name)
        try:
            return self._accounts[username]
        except KeyError:
            raise MappingUnavailable(f"The POSIX mapper assigns no uid to {username}") from None

    async def name(self, uid: int) -> str | None:
        """Return the name of the user with that uid, or None if nobody has it."""
        if uid == self._root_uid:
            return self._root_name
        if uid not in self._names:
            found = await self._users("uid", str(uid))
            if not found:
                return None
            self._remember(self._names, uid, found[0][0])
        return self._names[uid]

    async def gids(self, groups: Collection[str]) -> frozenset[int]:
        """Return gids of groups by their full identifiers, assigned now to new ones."""
        known = {group: self._gids[group] for group in groups if group in self._gids}
        if unknown := sorted(set(groups) - known.keys()):
            known |= await self._ask_gids(unknown)
        if missing := set(groups) - known.keys():
            raise MappingUnavailable(f"The POSIX mapper assigns no gid to the group {min(missing)}")
        return frozenset(known.values())

    async def _ask_gids(self, groups: list[str]) -> dict[str, int]:
        """Query many groups with as few requests as possible."""
        turn = asyncio.Semaphore(QUESTIONS)

        async def ask(some: list[str]) -> list[tuple[str, int]]:
            async with turn:
                return await self._group_lines([("group", group) for group in some])

        answers = await asyncio.gather(*(ask(some) for some in _portions(groups)))
        found = dict(line for lines in answers for line in lines)
        for uri, gid in found.items():
            self._remember(self._gids, uri, gid)
            self._remember(self._groups, gid, uri)
        return found

    async def group(self, gid: int) -> str | None:
        """Return the identifier of the group with that gid, or None if there is none."""
        if gid not in self._groups:
            found = await self._group_lines([("gid", str(gid))])
            if not found:
                return None
            self._remember(self._groups, gid, found[0][0])
        return self._groups[gid]

    async def _users(self, parameter: str, value: str) -> list[tuple[str, int, int]]:
        lines = await self._ask(USER_MAPPING, [(parameter, value)])
        return [(name, int(uid), int(gid)) for name, uid, gid in lines]

    async def _group_lines(self, parameters: Parameters) -> list[tuple[str, int]]:
        return [(uri, int(gid)) for uri, gid in await self._ask(GROUP_MAPPING, parameters)]

    async def _ask(self, standard: str, parameters: Parameters) -> list[list[str]]:
        try:
            url = await self.registry.endpoint(self.posix_mapper, standard)
            headers = {"Accept": TSV, "Authorization": f"Bearer {await self.credentials.token()}"}
            query = "&".join(f"{name}={quote(value, safe=_PLAIN)}" for name, value in parameters)
            answer = await self.client.get(f"{url}?{query}", headers=headers)
            return [line.split("\t") for line in answer.raise_for_status().text.splitlines()]
        except (httpx.HTTPError, AuthenticationError) as exc:
            raise MappingUnavailable(f"The POSIX mapper is unavailable: {exc}") from exc

    @staticmethod
    def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
        if len(cache) >= CACHED:
            cache.pop(next(iter(cache)))
        cache[key] = value


def _portions(groups: list[str]) -> Iterator[list[str]]:
    """Split groups into portions that fit into a request."""
    portion: list[str] = []
    length = 0
    for group in groups:
        length += len(group) + len("&group=")
        if length > LONGEST_QUERY:
            yield portion
            portion, length = [], len(group) + len("&group=")
        portion.append(group)
    yield portion
