"""The rules by which tokens are judged, one test a rule: signature, algorithm, issuer, audience, times, names."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from voservice.auth import USERNAME, AuthenticationError, Identity, IssuerUnavailable, TokenVerifier, bearer
from voservice.auth import issuer as issuer_module
from voservice.auth import verifier as verifier_module

URL = "https://issuer.example/realm"
AUDIENCE = "https://vo.example"

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())


def published(key: Any, kid: str | None, **members: Any) -> dict[str, Any]:
    """Return the public half of *key* as a JSON Web Key."""
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "use": "sig", **({"kid": kid} if kid else {}), **members}


class FakeIssuer(httpx.AsyncBaseTransport):
    """An issuer whose documents and failures a test decides; it counts what it is asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [published(RSA, "rsa"), published(EC, "ec")]
        self.metadata: dict[str, Any] = {
            "issuer": URL,
            "jwks_uri": f"{URL}/jwks",
            "userinfo_endpoint": f"{URL}/userinfo",
        }
        self.userinfo: Any = {"sub": "s-1", "preferred_username": "ada"}
        self.userinfo_status = 200
        self.failure: Exception | int | None = None
        self.granted: dict[str, Any] = {}
        """Answers of the token endpoint, by the grant."""
        self.asked: list[str] = []
        self.authorization: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/realm")
        self.asked.append(path)
        await asyncio.sleep(0)
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure:
            return httpx.Response(self.failure)
        if path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if path == "/jwks":
            return httpx.Response(200, json={"keys": self.keys})
        if path == "/token":
            grant = dict(parse_qsl(request.content.decode()))["grant_type"]
            answer = self.granted.get(grant)
            return httpx.Response(200 if answer else 400, json=answer or {"error": "unauthorized_client"})
        assert path == "/userinfo"
        self.authorization = request.headers["Authorization"]
        return httpx.Response(self.userinfo_status, json=self.userinfo)


class Clock:
    """Stands for the monotonic clock by which keys age."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(issuer_module, "monotonic", made)
    return made


@pytest.fixture
def fake(clock: Clock) -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def make(fake: FakeIssuer) -> Callable[..., TokenVerifier]:
    def verifier(**options: Any) -> TokenVerifier:
        client = httpx.AsyncClient(transport=fake)
        return TokenVerifier(options.pop("issuer", URL), [AUDIENCE], client=client, **options)

    return verifier


@pytest.fixture
def verifier(make: Callable[..., TokenVerifier]) -> TokenVerifier:
    return make()


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good token with *changes*; a change to None takes a claim away."""
    now = int(time.time())
    good = {
        "iss": URL,
        "sub": "s-1",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "preferred_username": "ada",
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(
    key: Any = RSA, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    # Signed as it is: PyJWT's own encode() would refuse some of the claims that are to be refused here.
    payload = json.dumps(claims(**changes)).encode()
    return jwt.api_jws.encode(payload, key, algorithm, {"kid": "rsa"} if headers is None else headers)


def handmade(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def refused(verifier: TokenVerifier, text: str) -> str:
    """Description with which the token is refused as not good."""
    with pytest.raises(AuthenticationError) as caught:
        await verifier.verify(text)
    assert not isinstance(caught.value, IssuerUnavailable), caught.value
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"].startswith(
        'Bearer error="invalid_token", error_description="'
    )
    assert text not in caught.value.challenge
    return caught.value.description


# -- what is accepted ----------------------------------------------------------------------------------------


async def test_a_good_token_names_its_user(verifier: TokenVerifier) -> None:
    expires = int(time.time()) + 300
    identity = await verifier.verify(token(exp=expires, groups=["/astro", "staff", 7]))
    assert identity == Identity(
        "ada", "s-1", URL, frozenset({"astro", "staff"}), "token", datetime.fromtimestamp(expires, UTC)
    )
    assert identity.claims["aud"] == AUDIENCE


async def test_a_token_is_verified_once_and_ends_all_the_same(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = token()
    with monkeypatch.context() as once:
        first = await verifier.verify(made)
        once.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
        assert await verifier.verify(made) is first
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 300 + verifier_module.EXPIRY_LEEWAY)
    assert "expired" in await refused(verifier, made)


async def test_a_token_is_verified_again_by_new_keys(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    made = token()
    await verifier.verify(made)
    fake.keys = [published(OTHER, "rsa")]
    clock.now += issuer_module.REFRESH_AGE + 1
    # The first after that age begins the renewal and does not wait for it.
    await verifier.verify(made)
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))
    assert "signature" in await refused(verifier, made)


@pytest.mark.parametrize(
    ("key", "algorithm", "entry"),
    [
        (RSA, "RS256", {"kid": "a"}),
        (RSA, "PS512", {"kid": "a"}),
        (EC, "ES256", {"kid": "a"}),
        (EC384, "ES384", {"kid": "a"}),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA", {"kid": "a"}),
    ],
)
async def test_public_key_algorithms(
    make: Callable[..., TokenVerifier], fake: FakeIssuer, key: Any, algorithm: str, entry: dict[str, str]
) -> None:
    fake.keys = [published(key, "a")]
    identity = await make(algorithms=[algorithm]).verify(token(key, algorithm, entry))
    assert identity.username == "ada"


async def test_the_only_fitting_key_needs_no_id(verifier: TokenVerifier) -> None:
    assert (await verifier.verify(token(headers={}))).username == "ada"


async def test_among_several_keys_a_token_must_name_its_own(
    verifier: TokenVerifier, fake: FakeIssuer
) -> None:
    fake.keys.append(published(OTHER, "other"))
    assert "does not publish" in await refused(verifier, token(headers={}))


async def test_an_issuer_with_a_slash_at_its_end(
    make: Callable[..., TokenVerifier], fake: FakeIssuer
) -> None:
    fake.metadata["issuer"] = f"{URL}/"
    assert (await make(issuer=f"{URL}/").verify(token(iss=f"{URL}/"))).issuer == f"{URL}/"


# -- signature and algorithm ---------------------------------------------------------------------------------


async def test_a_signature_of_another_key(verifier: TokenVerifier) -> None:
    assert "signature" in await refused(verifier, token(OTHER))


async def test_a_changed_payload(verifier: TokenVerifier) -> None:
    head, _, signature = token().split(".")
    body = token(preferred_username="eve").split(".")[1]
    assert "signature" in await refused(verifier, f"{head}.{body}.{signature}")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "HS256", "rs256", 256, None, ["RS256"], {}])
async def test_algorithms_outside_the_list(verifier: TokenVerifier, name: Any) -> None:
    message = await refused(verifier, handmade({"alg": name, "kid": "rsa", "typ": "JWT"}, claims()))
    assert "algorithm" in message or "not a JSON web token" in message


async def test_the_public_key_is_no_shared_secret(verifier: TokenVerifier) -> None:
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = handmade({"alg": "HS256", "kid": "rsa"}, claims()).rpartition(".")[0]
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(mac.sign(head.encode(), public)).rstrip(b"=").decode()
    assert "algorithm" in await refused(verifier, f"{head}.{signature}")


@pytest.mark.parametrize("algorithms", [["HS256"], ["none"], ["RS256", "HS512"], ["RS1"]])
def test_such_algorithms_cannot_be_configured(
    make: Callable[..., TokenVerifier], algorithms: list[str]
) -> None:
    with pytest.raises(ValueError, match="not a public-key signature algorithm"):
        make(algorithms=algorithms)


async def test_a_list_without_algorithms_accepts_none(make: Callable[..., TokenVerifier]) -> None:
    assert "algorithm" in await refused(make(algorithms=[]), token())


async def test_a_key_serves_algorithms_of_its_own_kind_alone(verifier: TokenVerifier) -> None:
    assert "does not publish" in await refused(verifier, token(EC, "ES256", {"kid": "rsa"}))
    assert "does not publish" in await refused(verifier, token(RSA, "RS256", {"kid": "ec"}))


async def test_a_key_published_for_one_algorithm_serves_no_other(
    make: Callable[..., TokenVerifier], fake: FakeIssuer
) -> None:
    fake.keys = [published(RSA, "rsa", alg="RS256")]
    assert "does not publish" in await refused(make(algorithms=["RS256", "RS512"]), token(RSA, "RS512"))


async def test_the_curve_must_be_the_algorithm_s(
    make: Callable[..., TokenVerifier], fake: FakeIssuer
) -> None:
    fake.keys = [published(EC384, "ec")]
    head, body, _ = token(EC, "ES256", {"kid": "ec"}).split(".")
    assert "does not publish" in await refused(make(), f"{head}.{body}.{'A' * 86}")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_short_key_proves_nothing(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    fake.keys = [published(SHORT, "rsa")]
    assert "not valid" in await refused(verifier, token(SHORT))


async def test_keys_for_encryption_do_not_count(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    fake.keys = [published(RSA, "rsa", use="enc"), published(EC, "ec")]
    assert "does not publish" in await refused(verifier, token())


async def test_keys_of_unknown_kinds_are_passed_over(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    fake.keys = [
        {"kty": "RSA", "kid": "broken", "use": "sig"},
        {"kty": "EC", "kid": "strange", "crv": "P-1", "x": "AA", "y": "AA"},
        published(OTHER, "oaep", alg="RSA-OAEP"),
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kid": "no type"},
        *fake.keys,
    ]
    assert (await verifier.verify(token())).username == "ada"


async def test_header_parameters_that_must_be_understood(verifier: TokenVerifier) -> None:
    made = token(headers={"kid": "rsa", "crit": ["x-new"], "x-new": 1})
    await refused(verifier, made)


@pytest.mark.parametrize(
    "text",
    [
        "opaque",
        "a.b",
        "a.b.c",
        "....",
        "é.é.é",
        handmade({"alg": "RS256", "kid": 7}, {}),
        handmade({"alg": "RS256", "kid": ["rsa"]}, {}),
        base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".e30.",
        base64.urlsafe_b64encode(b'"text"').decode() + ".e30.",
    ],
)
async def test_what_is_no_token(verifier: TokenVerifier, text: str) -> None:
    assert "not a JSON web token" in await refused(verifier, text)


async def test_a_token_longer_than_any_proxy_lets_through(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    assert "longer than" in await refused(verifier, token(padding="x" * 20_000))
    assert fake.asked == []


async def test_a_payload_that_is_no_object(verifier: TokenVerifier) -> None:
    made = jwt.api_jws.encode(b"[1]", RSA, "RS256", headers={"kid": "rsa"})
    assert "not valid" in await refused(verifier, made)


# -- kinds of tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["at+jwt", "application/at+jwt", "AT+JWT", "JWT", "jwt", None])
async def test_access_tokens_by_their_type(verifier: TokenVerifier, kind: str | None) -> None:
    """PyJWT leaves the type out where it is told so, as INDIGO IAM does."""
    assert (await verifier.verify(token(headers={"kid": "rsa", "typ": kind}))).username == "ada"


@pytest.mark.parametrize(
    "kind", ["id+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "at", "", 1, ["at+jwt"]]
)
async def test_tokens_of_other_types(verifier: TokenVerifier, kind: Any) -> None:
    payload = json.dumps(claims()).encode()
    header = json.dumps({"alg": "RS256", "kid": "rsa", "typ": kind}).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    signature = RSA.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    made = f"{signed.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert await refused(verifier, made) == "The token's type (typ) is not that of an access token"


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "n"},
        {"at_hash": "h"},
        {"c_hash": "h"},
        {"s_hash": "h"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": 1},
        {"token_use": "id"},
    ],
)
async def test_an_id_token_is_no_access_token(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    assert await refused(verifier, token(**changes)) == "The token is not an access token"


@pytest.mark.parametrize(
    "changes",
    [{"typ": "Bearer", "nonce": "n"}, {"token_use": "access"}, {"client_id": "c", "scope": "openid"}],
)
async def test_access_tokens_that_say_so_by_a_claim(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    assert (await verifier.verify(token(**changes))).username == "ada"


async def test_the_type_of_an_access_token_settles_it(verifier: TokenVerifier) -> None:
    made = token(headers={"kid": "rsa", "typ": "at+jwt"}, nonce="n")
    assert (await verifier.verify(made)).username == "ada"


# -- issuer and audience -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer", [f"{URL}/", URL.upper(), URL[:-1], f"{URL}/x", "https://issuer.example", "", 7, [URL]]
)
async def test_the_issuer_is_compared_exactly(verifier: TokenVerifier, issuer: Any) -> None:
    assert ("not from" in (message := await refused(verifier, token(iss=issuer)))) or "not valid" in message


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["https://other.example", AUDIENCE]])
async def test_one_of_the_audiences_suffices(verifier: TokenVerifier, audience: Any) -> None:
    assert (await verifier.verify(token(aud=audience))).username == "ada"


@pytest.mark.parametrize(
    "audience",
    [
        "https://other.example",
        AUDIENCE.upper(),
        AUDIENCE + "/",
        AUDIENCE[:-1],
        ["https://other.example"],
        [],
        "",
        {AUDIENCE: 1},
        [{"a": 1}],
        7,
    ],
)
@pytest.mark.parametrize("required", [True, False])
async def test_another_audience_is_refused_whether_or_not_one_is_required(
    make: Callable[..., TokenVerifier], audience: Any, required: bool
) -> None:
    made = token(aud=audience)
    assert "another audience" in await refused(make(require_audience=required), made)


async def test_a_token_without_audience_needs_the_setting(make: Callable[..., TokenVerifier]) -> None:
    assert "lacks the claim aud" in await refused(make(), token(aud=None))
    assert (await make(require_audience=False).verify(token(aud=None))).username == "ada"


# -- times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "good"), [(1, True), (-2, True), (-8, False), (-3600, False)])
async def test_a_token_ends_with_hardly_any_grace(verifier: TokenVerifier, seconds: int, good: bool) -> None:
    made = token(exp=int(time.time()) + seconds)
    if good:
        assert (await verifier.verify(made)).username == "ada"
    else:
        assert await refused(verifier, made) == "The token has expired"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize(("seconds", "good"), [(-10, True), (50, True), (70, False)])
async def test_a_token_may_begin_a_minute_ahead_of_our_clock(
    verifier: TokenVerifier, claim: str, seconds: int, good: bool
) -> None:
    made = token(**{claim: int(time.time()) + seconds})
    if good:
        assert (await verifier.verify(made)).username == "ada"
    else:
        assert await refused(verifier, made) == "The token is not valid yet"


@pytest.mark.parametrize("claim", ["exp", "iss", "sub"])
async def test_required_claims(verifier: TokenVerifier, claim: str) -> None:
    assert await refused(verifier, token(**{claim: None})) == f"The token lacks the claim {claim}"


@pytest.mark.parametrize(
    "value", ["soon", "9999999999", True, [], {}, 1e30, -1e30, float("inf"), float("nan")]
)
async def test_an_expiry_that_is_no_moment(verifier: TokenVerifier, value: Any) -> None:
    assert "expir" in await refused(verifier, token(exp=value))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("value", ["soon", [], {}, float("inf"), float("nan")])
async def test_a_beginning_that_is_no_moment(verifier: TokenVerifier, claim: str, value: Any) -> None:
    assert "not valid" in await refused(verifier, token(**{claim: value}))


# -- names and groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "ada", "Ada.Lovelace", "a_b-c", "ada@example.org", "0day", "x" * 64])
def test_names_that_can_own_files(name: str) -> None:
    assert USERNAME.match(name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden", "-rf", "_x", "@x", "a/b", "/a", "a\\b", "a..b", "a b", "a\n", "\na", "a\0", "a\x7f",
        "é", "a%2fb", "a?b", "a#b", "a:b", "a;b", "x" * 65,
    ],
)  # fmt: skip
async def test_names_that_cannot(verifier: TokenVerifier, fake: FakeIssuer, name: str) -> None:
    fake.userinfo = {"sub": "s-1", "preferred_username": name}
    assert "names no user" in await refused(verifier, token(preferred_username=name))


@pytest.mark.parametrize("name", [7, ["ada"], {"ada": 1}, True])
async def test_a_name_is_text(verifier: TokenVerifier, name: Any) -> None:
    assert "names no user" in await refused(verifier, token(preferred_username=name))


@pytest.mark.parametrize("subject", ["", 7, ["s-1"]])
async def test_a_subject_is_text(verifier: TokenVerifier, subject: Any) -> None:
    await refused(verifier, token(sub=subject))


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ({"groups": ["a", "b"]}, {"a", "b"}),
        ({"wlcg.groups": ["/a", "/a/b"]}, {"a", "a/b"}),
        ({"groups": ["a"], "wlcg.groups": ["/b"]}, {"a"}),
        ({"groups": []}, set()),
        ({"groups": "admin"}, set()),
        ({"groups": 7}, set()),
        ({"groups": {"admin": 1}}, set()),
        ({"groups": [7, None, ["admin"], "a"]}, {"a"}),
    ],
)
async def test_groups(verifier: TokenVerifier, given: dict[str, Any], groups: set[str]) -> None:
    assert (await verifier.verify(token(**given))).groups == groups


# -- userinfo ------------------------------------------------------------------------------------------------


async def test_userinfo_tells_the_name_that_the_token_leaves_out(
    verifier: TokenVerifier, fake: FakeIssuer
) -> None:
    fake.userinfo["groups"] = ["astro"]
    made = token(preferred_username=None)
    for _ in range(3):
        identity = await verifier.verify(made)
        assert (identity.username, identity.groups) == ("ada", {"astro"})
    assert fake.asked.count("/userinfo") == 1
    assert fake.authorization == f"Bearer {made}"
    await verifier.verify(token(preferred_username=None, jti="another"))
    assert fake.asked.count("/userinfo") == 2


async def test_a_token_as_indigo_iam_makes_it(make: Callable[..., TokenVerifier], fake: FakeIssuer) -> None:
    """The issuer has a slash at its end, and the token neither audience nor name nor type."""
    fake.metadata["issuer"] = f"{URL}/"
    del fake.keys[1]["use"]
    made = token(
        EC,
        "ES256",
        {"kid": "ec", "typ": None},
        iss=f"{URL}/",
        aud=None,
        preferred_username=None,
        client_id="2a1b8f7e-5d62-4e4b-9d39-6a1f0f2f8d11",
        **{"wlcg.ver": "1.0", "wlcg.groups": ["/survey", "/survey/staff"]},
    )
    identity = await make(issuer=f"{URL}/", require_audience=False).verify(made)
    assert (identity.username, identity.groups) == ("ada", {"survey", "survey/staff"})


@pytest.mark.parametrize("claim", ["client_id", "azp"])
async def test_a_client_that_acts_as_itself_needs_no_name(
    make: Callable[..., TokenVerifier], fake: FakeIssuer, claim: str
) -> None:
    fake.userinfo_status = 401
    own = token(preferred_username=None, sub="cavern", **{claim: "cavern"})
    assert (await make(clients=["cavern"]).verify(own)).username == "cavern"
    assert fake.asked.count("/userinfo") == 0
    assert "does not say" in await refused(make(clients=["other"]), own)
    # A user's token that the client was granted is that user's.
    users = token(preferred_username=None, **{claim: "cavern"})
    assert "does not say" in await refused(make(clients=["cavern"]), users)


async def test_userinfo_is_not_asked_without_need(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    await verifier.verify(token())
    assert "/userinfo" not in fake.asked


async def test_the_subject_never_stands_in_for_the_name(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    del fake.userinfo["preferred_username"]
    assert "names no user" in await refused(verifier, token(preferred_username=None))


async def test_an_issuer_without_userinfo(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    del fake.metadata["userinfo_endpoint"]
    assert "names no user" in await refused(verifier, token(preferred_username=None))


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (200, {"sub": "s-2", "preferred_username": "eve"}, "another user"),
        (200, {"preferred_username": "eve"}, "another user"),
        (200, ["ada"], "does not say"),
        (401, {"error": "invalid_token"}, "does not say"),
        (302, {"sub": "s-1", "preferred_username": "ada"}, "does not say"),
    ],
)
async def test_userinfo_that_does_not_count(
    verifier: TokenVerifier, fake: FakeIssuer, status: int, answer: Any, message: str
) -> None:
    fake.userinfo_status, fake.userinfo = status, answer
    assert message in await refused(verifier, token(preferred_username=None))


@pytest.mark.parametrize("failure", [httpx.ConnectError("down"), 503, 429])
async def test_userinfo_that_is_away_says_nothing_of_the_token(
    verifier: TokenVerifier, fake: FakeIssuer, failure: Any
) -> None:
    await verifier.verify(token())
    fake.failure = failure
    with pytest.raises(IssuerUnavailable) as caught:
        await verifier.verify(token(preferred_username=None))
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "10"})


async def test_userinfo_s_name_is_checked_as_well(verifier: TokenVerifier, fake: FakeIssuer) -> None:
    fake.userinfo["preferred_username"] = "../root"
    assert "names no user" in await refused(verifier, token(preferred_username=None))


# -- the issuer's keys ---------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_for_many_first_requests(
    verifier: TokenVerifier, fake: FakeIssuer
) -> None:
    identities = await asyncio.gather(*(verifier.verify(token()) for _ in range(50)))
    assert len(identities) == 50
    assert fake.asked == ["/.well-known/openid-configuration", "/jwks"]


async def test_keys_are_renewed_by_age_while_nobody_waits(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    await verifier.verify(token())
    clock.now += issuer_module.REFRESH_AGE - 1
    await verifier.verify(token())
    assert fake.asked.count("/jwks") == 1
    clock.now += 2
    await asyncio.gather(*(verifier.verify(token()) for _ in range(5)))
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))
    assert fake.asked.count("/jwks") == 2


async def test_keys_stay_good_for_two_days_while_the_issuer_is_away(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    await verifier.verify(token())
    fake.failure = httpx.ConnectError("down")
    for hours in (7, 24, 47):
        clock.now = 1000 + hours * 3600
        assert (await verifier.verify(token())).username == "ada"
    clock.now = 1000 + 48 * 3600 + 1
    for _ in range(2):  # nor are they used while the next attempt has to wait
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token())
    fake.failure = None
    clock.now += issuer_module.RETRY_INTERVAL
    assert (await verifier.verify(token())).username == "ada"


async def test_a_new_key_is_found_and_the_old_one_is_gone(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    await verifier.verify(token())
    fake.keys = [published(OTHER, "new")]
    clock.now += issuer_module.REFRESH_INTERVAL
    assert (await verifier.verify(token(OTHER, headers={"kid": "new"}))).username == "ada"
    assert "does not publish" in await refused(verifier, token())


async def test_a_key_that_is_rotated_is_dropped_at_once(
    make: Callable[..., TokenVerifier], fake: FakeIssuer, clock: Clock
) -> None:
    """Who is told of the new key believes the old one no longer, although the issuer still publishes it."""
    told = make(key_ids=["new"])
    with pytest.raises(IssuerUnavailable):
        await told.verify(token())
    fake.keys = [published(OTHER, "new"), published(RSA, "rsa")]
    clock.now += issuer_module.RETRY_INTERVAL
    assert (await told.verify(token(OTHER, headers={"kid": "new"}))).username == "ada"
    assert "does not publish" in await refused(told, token())


async def test_made_up_key_ids_do_not_hammer_the_issuer(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    await verifier.verify(token())
    for second in range(60):
        clock.now = 1000 + second
        assert "does not publish" in await refused(verifier, token(OTHER, headers={"kid": f"k{second}"}))
    assert fake.asked.count("/jwks") == 2


@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectError("down"), httpx.ReadTimeout("slow"), 500, 404, 302],
)
async def test_without_keys_nothing_is_said_of_the_token(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock, failure: Any
) -> None:
    fake.failure = failure
    outcomes = await asyncio.gather(*(verifier.verify(token()) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {IssuerUnavailable}
    assert len(fake.asked) == 1
    fake.failure = None
    clock.now += issuer_module.RETRY_INTERVAL
    assert (await verifier.verify(token())).username == "ada"


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"issuer": f"{URL}/"},
        {"jwks_uri": "http://issuer.example/realm/jwks"},
        {"userinfo_endpoint": "http://issuer.example/realm/userinfo"},
        {"jwks_uri": None},
        {"jwks_uri": "https://issuer.example:port/jwks"},
        {"jwks_uri": 7},
    ],
)
async def test_metadata_that_is_not_believed(
    verifier: TokenVerifier, fake: FakeIssuer, changes: dict[str, Any]
) -> None:
    fake.metadata.update(changes)
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token())


@pytest.mark.parametrize("keys", [[], "keys", None, ["key"], [{"kty": "oct", "k": "AAAA"}]])
async def test_key_sets_that_hold_no_key(verifier: TokenVerifier, fake: FakeIssuer, keys: Any) -> None:
    fake.keys = keys
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token())


async def test_a_bad_answer_does_not_take_good_keys_away(
    verifier: TokenVerifier, fake: FakeIssuer, clock: Clock
) -> None:
    await verifier.verify(token())
    fake.keys = []
    clock.now += issuer_module.REFRESH_INTERVAL
    assert "does not publish" in await refused(verifier, token(OTHER, headers={"kid": "new"}))
    assert (await verifier.verify(token())).username == "ada"


# -- the header ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "found"),
    [([], None), (["Bearer abc"], "abc"), (["bearer abc"], "abc"), (["BEARER  abc "], "abc")],
)
def test_the_token_of_a_request(headers: list[str], found: str | None) -> None:
    assert bearer(headers) == found


@pytest.mark.parametrize(
    "headers", [["Bearer a", "Bearer b"], ["Basic YTpi"], ["Bearer"], ["Bearer  "], ["abc"], [""]]
)
def test_headers_that_carry_no_token(headers: list[str]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        bearer(headers)
    assert caught.value.error == "invalid_request"


def test_the_challenge_is_one_line_of_allowed_characters() -> None:
    error = AuthenticationError('a "quoted" \\ line\r\nSet-Cookie: x=é')
    assert error.challenge == (
        "Bearer error=\"invalid_token\", error_description=\"a 'quoted' ' line''Set-Cookie: x='\""
    )
    assert AuthenticationError("Caller is not authenticated.", "").challenge == "Bearer"
