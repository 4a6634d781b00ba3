"""Groups of callers, over a POSIX mapper and a group service that answer as OpenCADC's do."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from voservice import vosi
from voservice.auth import Identity
from vospace.services.identities import (
    GROUP_MAPPING,
    GROUP_SEARCH,
    USER_MAPPING,
    Identities,
    NoGroup,
    Registry,
)

GMS = "ivo://opencadc.org/gms"


class Services(httpx.AsyncBaseTransport):
    """Registry, POSIX mapper and group service at one address; `members` are lines of the last."""

    def __init__(self) -> None:
        self.members = ""
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params
        match request.url.path:
            case "/mapper/capabilities":
                entries = [(USER_MAPPING, "uid"), (GROUP_MAPPING, "gid")]
                document = vosi.capabilities([vosi.Capability(s, f"http://vo/{p}") for s, p in entries])
                return httpx.Response(200, content=document)
            case "/gms/capabilities":
                return httpx.Response(
                    200, content=vosi.capabilities([vosi.Capability(GROUP_SEARCH, "http://vo/search")])
                )
            case "/reg/resource-caps":
                return httpx.Response(200, text=f"{GMS} = http://vo/gms/capabilities\n")
            case "/uid":
                return httpx.Response(200, text=f"{query['user']}\t10001\t10001\n")
            case "/gid":
                self.asked.append(query["group"])
                return httpx.Response(200, text=f"{query['group']}\t{900_000 + len(self.asked)}\n")
            case "/search":
                return httpx.Response(200, text=self.members)
        return httpx.Response(404)


class OneToken:
    """Stands in for the issuer: whoever comes is ada, with these claims."""

    def __init__(self) -> None:
        self.claims: dict[str, list[str]] = {}

    async def verify(self, _: str) -> Identity:
        return Identity("ada", "ada", "", frozenset(self.claims.get("groups", [])), claims=self.claims)

    async def token(self) -> str:
        return "ours"


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def issuer() -> OneToken:
    return OneToken()


@pytest.fixture
def identities(services: Services, issuer: OneToken) -> Identities:
    client = httpx.AsyncClient(transport=services)
    return Identities(
        verifier=issuer,  # type: ignore[arg-type]  # a double
        credentials=issuer,  # type: ignore[arg-type]  # the same double
        registry=Registry("http://vo/reg", client),
        posix_mapper="http://vo/mapper",
        group_service=GMS,
        groups_delegated=False,
        root_owner=("cavernadmin", 9999, 9999),
        trusted_proxies=[],
        client=client,
    )


REQUEST = Request({"type": "http", "headers": [(b"authorization", b"Bearer x")], "client": None})


async def test_groups_of_a_token(identities: Identities, issuer: OneToken, services: Services) -> None:
    """Those that no node can be shared with do no harm."""
    issuer.claims = {
        "groups": ["team", "/iam/sub", "two words", "k\u00f6nige", "x" * 300, "ivo://other.org/gms?them"]
    }
    caller = await identities.caller(REQUEST)
    usable = {f"{GMS}?team", f"{GMS}?/iam/sub", "ivo://other.org/gms?them"}
    assert set(services.asked) == usable
    assert caller.gids == {10001, 900_001, 900_002, 900_003}
    assert usable < caller.groups


async def test_groups_of_a_group_service(identities: Identities, services: Services) -> None:
    """One name a line, whatever is in it."""
    services.members = "team\ntwo words\r\n\n"
    caller = await identities.caller(REQUEST)
    assert caller.groups == {f"{GMS}?team", f"{GMS}?two words"}
    assert services.asked == [f"{GMS}?team"]
    with pytest.raises(NoGroup, match="two words"):
        await identities.gid(f"{GMS}?two words")
