"""Registry look-ups, OpenID Connect and the POSIX mapper, as the Java clients do them."""

from __future__ import annotations

import getpass
import hashlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
import jwt
from lxml import etree
from starlette.requests import Request

from standin.settings import ConfigurationError, Properties, System, local_authority
from standin.trust import BUNDLE
from standin.web import TOKEN, XSI, Fault

# {java.io.tmpdir}/{user.name}/…
CACHE = Path("/var/cache/tomcat/temp") / getpass.getuser()
CACHE_AGE = 600.0
OPENID = "ivo://ivoa.net/sso#OpenID"
GMS = "ivo://ivoa.net/std/GMS#search-1.0"
USER_MAPPING = "http://www.opencadc.org/std/posix#user-mapping-0.1"
GROUP_MAPPING = "http://www.opencadc.org/std/posix#group-mapping-0.1"
STANDARD_MANAGER = "org.opencadc.auth.StandardIdentityManager"


@dataclass(frozen=True)
class Caller:
    """Who asks; the numbers come from the POSIX mapper."""

    token: str
    name: str | None
    uid: int | None = None


class Lookups:
    """Fetches over TLS with the image's trust anchors, kept in files for ten minutes, or longer if need be."""

    def __init__(self) -> None:
        if not BUNDLE.is_file() or not BUNDLE.read_bytes():
            # Java's own anchors stay, and know nothing of a private CA.
            self.trust = ssl.create_default_context()
        else:
            self.trust = ssl.create_default_context(cafile=str(BUNDLE))

    async def fetch(self, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(verify=self.trust, timeout=30, trust_env=False) as client:
            return await client.get(url, headers=headers)

    async def cached(self, url: str) -> str:
        """Text behind a URL; what could not be fetched anew is answered from an expired copy."""
        library = "cadc-gms-1.0" if "/.well-known/" in url or "jwks" in url else "cadc-registry-1.5"
        kept = CACHE / library / hashlib.sha256(url.encode()).hexdigest()
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists() and time.time() - kept.stat().st_mtime < CACHE_AGE:
            return kept.read_text()
        try:
            answer = await self.fetch(url)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            if kept.exists():
                return kept.read_text()
            raise RuntimeError(f"{url}: {error}") from error
        kept.write_text(answer.text)
        return answer.text

    async def capabilities_url(self, resource: str) -> str | None:
        """Where a resource identifier is registered; None if it is not."""
        bases = Properties("cadc-registry.properties").all("ca.nrc.cadc.reg.client.RegistryClient.baseURL")
        if not bases:
            raise ConfigurationError("cadc-registry.properties: no baseURL of a registry")
        listed = await self.cached(f"{bases[0]}/resource-caps")
        found = [
            line.partition("=")[2].strip()
            for line in listed.splitlines()
            if line.strip() and line[0] not in "#!" and line.partition("=")[0].strip() == resource
        ]
        if len(found) > 1:
            raise RuntimeError(f"{resource} is registered {len(found)} times")
        return found[0] if found else None

    async def access_url(self, provider: str, standard: str, method: str | None = None) -> str:
        """Access URL of a capability of a resource identifier, or of a service's base URL, for a security method."""
        if provider.startswith("https:"):
            answer = await self.fetch(f"{provider}/capabilities")
            document = answer.raise_for_status().text
        else:
            url = await self.capabilities_url(provider)
            if url is None:
                raise RuntimeError(f"{provider} is not registered")
            document = await self.cached(url)
        root = etree.fromstring(document.encode())
        for capability in root.iterfind("capability"):
            if capability.get("standardID") != standard:
                continue
            for interface in capability.iterfind("interface"):
                if interface.get(f"{{{XSI}}}type", "").rpartition(":")[2] != "ParamHTTP":
                    continue
                # One without any counts as one for everybody.
                methods = [item.get("standardID") for item in interface.iterfind("securityMethod")] or [None]
                if method in methods:
                    return str(interface.findtext("accessURL")).strip()
        raise RuntimeError(f"{provider} has no capability {standard} for {method or 'anonymous callers'}")


class IdentityManager:
    """OpenID Connect: callers are anonymous or show a bearer token."""

    def __init__(self, system: System, lookups: Lookups) -> None:
        self.enabled = system.values.get("ca.nrc.cadc.auth.IdentityManager", "")
        if self.enabled not in ("", STANDARD_MANAGER):
            raise ConfigurationError(f"catalina.properties: no such IdentityManager: {self.enabled}")
        self.lookups = lookups

    async def caller(self, request: Request) -> Caller | None:
        """Who asks, or None for nobody in particular."""
        values = request.headers.getlist("authorization")
        if not self.enabled:
            if values:
                raise Fault(401, "unhandled auth")
            return None
        authority = local_authority()
        issuer = authority.get(OPENID)
        if issuer is None:
            raise RuntimeError("OpenID Connect Issuer URI is required.")
        # A registered group service has to answer; one that nobody registered is not asked for.
        if GMS in authority and (url := await self.lookups.capabilities_url(authority[GMS])) is not None:
            await self.lookups.cached(url)
        if not values:
            return None
        if len(values) > 1:
            raise unauthorised("several tokens")
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorised(f"unhandled auth: {scheme}")
        return await self._verified(issuer, token.strip())

    async def _verified(self, issuer: str, token: str) -> Caller:
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return await self._user_info(issuer, token)
        if claims.get("iss") != issuer:
            raise unauthorised(f"Token from untrusted issuer: {claims.get('iss')} ignored")
        metadata = await self._metadata(issuer)
        keys = jwt.PyJWKSet.from_json(await self.lookups.cached(metadata["jwks_uri"]))
        key = next(
            (key for key in keys.keys if key.key_id == jwt.get_unverified_header(token).get("kid")), None
        )
        if key is None:
            raise unauthorised("Invalid JWT token")
        try:
            # Neither audience nor scope is looked at.
            claims = jwt.decode(token, key, issuer=issuer, options={"require": ["exp"], "verify_aud": False})
        except jwt.ExpiredSignatureError as error:
            raise unauthorised("Token has expired") from error
        except jwt.PyJWTError as error:
            raise unauthorised("Invalid JWT token") from error
        return Caller(token, claims.get("preferred_username"))

    async def _metadata(self, issuer: str) -> dict[str, str]:
        # Plain concatenation: a trailing slash of the issuer stays in the path.
        found: dict[str, str] = httpx.Response(
            200, text=await self.lookups.cached(f"{issuer}/.well-known/openid-configuration")
        ).json()
        return found

    async def _user_info(self, issuer: str, token: str) -> Caller:
        metadata = await self._metadata(issuer)
        answer = await self.lookups.fetch(metadata["userinfo_endpoint"], {"Authorization": f"Bearer {token}"})
        if answer.status_code != 200:
            raise unauthorised("Cannot validate token using user info endpoint")
        info = answer.json()
        return Caller(token, info.get("preferred_username") or info.get("name"))


def unauthorised(text: str) -> Fault:
    """The answer to a credential that is no good."""
    return Fault(401, text, {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{text}"'})


class MapperClient:
    """Numbers of users and groups, asked for with the caller's own token."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups

    async def locate(self) -> None:
        """Find the group mapping, or fail; that there is one of users is taken for granted."""
        await self.lookups.access_url(local_authority()[GROUP_MAPPING], GROUP_MAPPING)

    async def users(self, query: str, token: str) -> list[tuple[str, int, int]]:
        """Name, uid and gid of users: ``user=NAME`` or ``uid=NUMBER``."""
        rows = [line.split() for line in await self._ask(USER_MAPPING, query, token)]
        if any(len(row) != 3 for row in rows):
            raise RuntimeError(f"the POSIX mapper answered {rows}")
        return [(name, int(uid), int(gid)) for name, uid, gid in rows]

    async def groups(self, query: str, token: str) -> list[tuple[str, int]]:
        """URI and gid of groups: ``group=URI`` or ``gid=NUMBER``."""
        rows = [line.split() for line in await self._ask(GROUP_MAPPING, query, token)]
        if any(len(row) != 2 for row in rows):
            raise RuntimeError(f"the POSIX mapper answered {rows}")
        return [(uri, int(gid)) for uri, gid in rows]

    async def _ask(self, standard: str, query: str, token: str) -> list[str]:
        url = await self.lookups.access_url(local_authority()[standard], standard, TOKEN)
        answer = await self.lookups.fetch(
            f"{url}?{query}", {"Authorization": f"Bearer {token}", "Accept": "text/tab-separated-values"}
        )
        if answer.status_code != 200:
            raise RuntimeError(f"the POSIX mapper answered {answer.status_code}: {answer.text}")
        return answer.text.splitlines()


class GroupClient:
    """Membership in groups, asked of the service that a group's own URI names, with the caller's token."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups

    async def member(self, group: str, token: str) -> bool:
        """Whether the caller is in the group; a service that cannot be asked is an error, not a no."""
        provider, _, name = group.partition("?")
        url = await self.lookups.access_url(provider, GMS, TOKEN)
        answer = await self.lookups.fetch(
            f"{url}?{urlencode({'group': name})}", {"Authorization": f"Bearer {token}"}
        )
        if answer.status_code != 200:
            raise RuntimeError(f"{provider} answered {answer.status_code}: {answer.text}")
        return name in [line.strip() for line in answer.text.splitlines()]
