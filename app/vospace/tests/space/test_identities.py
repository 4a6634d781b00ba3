"""Groups of callers, over a POSIX mapper and a group service that answer as OpenCADC's do."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from voservice import vosi
from voservice.auth import Identity
from vospace.models.caller import ANONYMOUS, Caller
from vospace.services.identities import (
    GROUP_MAPPING,
    GROUP_SEARCH,
    USER_MAPPING,
    Identities,
    MappingUnavailable,
    Registry,
)

GMS = "ivo://opencadc.org/gms"


class Services(httpx.AsyncBaseTransport):
    """Registry, POSIX mapper and group service at one address; `members` are lines of the last."""

    def __init__(self) -> None:
        self.members = ""
        self.administrator: str | None = None
        self.asked: list[str] = []
        self.requests: list[httpx.URL] = []

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
            case "/uid" if self.administrator is not None and query["user"] == "cavernadmin":
                return httpx.Response(200, text=self.administrator)
            case "/uid":
                return httpx.Response(200, text=f"{query['user']}\t10001\t10001\n")
            case "/gid":
                self.requests.append(request.url)
                lines = []
                for group in query.get_list("group"):
                    self.asked.append(group)
                    lines.append(f"{group}\t{900_000 + len(self.asked)}\n")
                return httpx.Response(200, text="".join(lines))
            case "/search":
                return httpx.Response(200, text=self.members)
        return httpx.Response(404)


class OneToken:
    """Stands in for the issuer: whoever comes is ada, or whom `name` says, with these claims."""

    def __init__(self) -> None:
        self.name = "ada"
        self.claims: dict[str, list[str]] = {}

    async def verify(self, _: str) -> Identity:
        return Identity(
            self.name, self.name, "", frozenset(self.claims.get("groups", [])), claims=self.claims
        )

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
        verifier=issuer,  # a double
        credentials=issuer,  # the same double
        registry=Registry("http://vo/reg", client),
        posix_mapper="http://vo/mapper",
        group_service=GMS,
        groups_delegated=False,
        root_owner=("cavernadmin", 9999, 9999),
        certificates=None,
        client=client,
    )


REQUEST = Request({"type": "http", "headers": [(b"authorization", b"Bearer x")], "client": None})


OWN_GROUP = "ivo://default-group-should-be-ignored.opencadc.org/default-group?bob"


async def test_groups_of_a_token(identities: Identities, issuer: OneToken, services: Services) -> None:
    """Those that no node can be shared with do no harm."""
    odd = ["two words", "k\u00f6nige", "x" * 300, GMS, f"{GMS}?team?{OWN_GROUP}"]
    issuer.claims = {"groups": ["team", "/iam/sub", f"{GMS}?by/full/name", *odd]}
    caller = await identities.caller(REQUEST)
    usable = {f"{GMS}?team", f"{GMS}?/iam/sub", f"{GMS}?by/full/name"}
    assert set(services.asked) == usable
    assert caller.gids == {10001, 900_001, 900_002, 900_003}
    assert usable < caller.groups


FOREIGN = [
    OWN_GROUP,
    "ivo://other.org/gms?team",
    "ivo://opencadc.org/gms2?team",
    "ivo://opencadc.org/gms/x?team",
    "IVO://opencadc.org/gms?team",
    "https://opencadc.org/gms?team",
    f"?{OWN_GROUP}",
]


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_token_opens_no_group_of_another_service(
    identities: Identities, issuer: OneToken, services: Services, name: str
) -> None:
    issuer.claims = {"groups": [name]}
    caller = await identities.caller(REQUEST)
    assert (caller.gids, services.asked) == ({10001}, [])
    assert name not in caller.groups


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_group_service_speaks_for_itself_alone(
    identities: Identities, services: Services, name: str
) -> None:
    services.members = f"{name}\nteam\n"
    caller = await identities.caller(REQUEST)
    assert (caller.gids, services.asked) == ({10001, 900_001}, [f"{GMS}?team"])
    assert name not in caller.groups


async def test_many_groups_take_few_requests(
    identities: Identities, issuer: OneToken, services: Services
) -> None:
    """None of them longer than what Tomcat takes, which OpenCADC's mapper runs in; and none at the next request."""
    issuer.claims = {"groups": [f"group/of/many-{number}" for number in range(1200)]}
    caller = await identities.caller(REQUEST)
    assert len(caller.gids) == 1201
    assert sorted(services.asked) == sorted(caller.groups)
    assert len(services.requests) < 15
    assert max(len(str(url)) for url in services.requests) < 6000
    asked = len(services.requests)
    assert (await identities.caller(REQUEST)).gids == caller.gids
    assert len(services.requests) == asked


async def test_groups_of_a_group_service(identities: Identities, services: Services) -> None:
    """One name a line, whatever is in it."""
    services.members = "team\ntwo words\r\n\n"
    caller = await identities.caller(REQUEST)
    assert caller.groups == {f"{GMS}?team", f"{GMS}?two words"}
    assert services.asked == [f"{GMS}?team"]


async def test_a_site_without_a_group_service_is_not_asked_for_it_at_each_request(
    identities: Identities, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    identities.group_service = "ivo://elsewhere.example/gms"
    asked = []

    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return await known(request)

    known, services.handle_async_request = services.handle_async_request, handle
    for _ in range(3):
        assert (await identities.caller(REQUEST)).groups == frozenset()
    assert asked.count("/reg/resource-caps") == 1
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_a_group_without_a_number_is_named(identities: Identities, services: Services) -> None:
    async def nothing(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200) if request.url.path == "/gid" else await known(request)

    known, services.handle_async_request = services.handle_async_request, nothing
    with pytest.raises(MappingUnavailable, match=r"gms\?team"):
        await identities.gids([f"{GMS}?team"])


async def test_the_administrator_owns_by_name_what_the_mapper_s_number_owns(
    identities: Identities, issuer: OneToken, services: Services
) -> None:
    """OpenCADC's POSIX mapper has numbered him, and what he made with it has that number."""
    issuer.name, issuer.claims = "cavernadmin", {"groups": []}
    services.administrator = "cavernadmin\t10000\t10000\n"
    caller = await identities.caller(REQUEST)
    assert (caller.ids, caller.further) == ((9999, 9999), {10000})
    assert caller.owns(9999, None)
    assert caller.owns(10000, None)
    assert caller.owns(10001, 10000)
    assert not caller.owns(10001, None)
    assert Caller.from_record(caller.record()) == caller
    assert await identities.account("cavernadmin") == (9999, 9999)


async def test_who_has_one_number_owns_nothing_else(
    identities: Identities, issuer: OneToken, services: Services
) -> None:
    services.administrator = "cavernadmin\t9999\t9999\n"
    issuer.name, issuer.claims = "cavernadmin", {"groups": []}
    assert (await identities.caller(REQUEST)).further == frozenset()
    issuer.name = "ada"
    ada = await identities.caller(REQUEST)
    assert (ada.further, ada.owns(10001), ada.owns(9999)) == (frozenset(), True, False)
    assert not ANONYMOUS.owns(None)


async def test_the_administrator_needs_no_mapper(identities: Identities, issuer: OneToken) -> None:
    issuer.name, issuer.claims = "cavernadmin", {"groups": []}
    identities.posix_mapper = "http://vo/nowhere"
    caller = await identities.caller(REQUEST)
    assert (caller.ids, caller.further) == ((9999, 9999), frozenset())


def test_a_record_of_an_older_version() -> None:
    record = Caller("ada", 10001, 10001).record()
    del record["further"]
    assert Caller.from_record(record) == Caller("ada", 10001, 10001)
