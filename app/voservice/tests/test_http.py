"""What services do with requests: whom they believe, what they log, how they tell of errors."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send
from voservice import problems
from voservice.access import AccessLog
from voservice.auth import AuthenticationError, IssuerUnavailable
from voservice.logging import bind, configure
from voservice.problems import Forbidden, Invalid
from voservice.proxy import PROVEN, TOLD, ProvenProxy, client_address, client_certificate, common_name
from voservice.vosi import TOKEN, Capability, availability, capabilities

PROXY = "172.26.0.2"


def certificate(*names: str) -> str:
    """Base64 of a certificate with these common names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def request(peer: str, *headers: tuple[str, str], proven: bool = True) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "headers": raw, "client": (peer, 1), PROVEN: proven})


# -- the proxy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "proofs", "proven"),
    [
        (PROXY, ["secret"], True),
        (PROXY, [], False),
        (PROXY, [""], False),
        (PROXY, ["Secret"], False),
        (PROXY, ["secret", "guess"], False),
        (PROXY, ["s\u00e9cret"], False),
        ("172.26.0.9", ["secret"], False),
    ],
)
async def test_only_the_proxy_speaks_of_clients(peer: str, proofs: list[str], proven: bool) -> None:
    seen: list[Request] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(Request(scope))

    told = [(name.decode(), "told") for name in sorted(TOLD)]
    sent = request(peer, *told, *(("X-Proxy-Proof", proof) for proof in proofs), ("Accept", "x"))
    await ProvenProxy(app, [PROXY], "secret")(sent.scope, sent.receive, no_answer)
    assert seen[0].headers.items() == [*(told if proven else []), ("accept", "x")]
    assert seen[0].scope[PROVEN] is proven


@pytest.mark.parametrize(
    ("peer", "proven"),
    [
        ("10.244.1.7", True),
        ("10.245.0.1", False),
        ("fd00::7", True),
        ("fd01::7", False),
        ("", False),
        ("haproxy", False),
    ],
)
async def test_a_proxy_may_be_anywhere_in_a_network(peer: str, proven: bool) -> None:
    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        assert scope[PROVEN] is proven

    sent = request(peer, ("X-Proxy-Proof", "secret"))
    await ProvenProxy(app, ["10.244.0.0/16", "fd00::/64"], "secret")(sent.scope, sent.receive, no_answer)


async def test_a_service_without_a_proof_believes_no_proxy() -> None:
    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        assert scope["headers"] == []

    for proof in ("", "secret"):
        sent = request(PROXY, ("X-Client-Certificate", "x"), ("X-Proxy-Proof", proof))
        await ProvenProxy(app, [PROXY], "")(sent.scope, sent.receive, no_answer)


async def no_answer(message: Message) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize(
    ("proven", "forwarded", "address"),
    [
        (True, ["10.1.1.1"], "10.1.1.1"),
        (True, ["6.6.6.6, 10.1.1.1"], "10.1.1.1"),
        (True, ["6.6.6.6", "10.1.1.1"], "10.1.1.1"),
        (True, [""], PROXY),
        (False, ["10.1.1.1"], PROXY),
    ],
)
def test_only_the_proxy_s_word_for_the_client_s_address_counts(
    proven: bool, forwarded: list[str], address: str
) -> None:
    headers = [("X-Forwarded-For", value) for value in forwarded]
    assert client_address(request(PROXY, *headers, proven=proven)) == address


def test_a_certificate_that_the_proxy_hands_on() -> None:
    found = client_certificate(request(PROXY, ("X-Client-Certificate", certificate("ada"))))
    assert found is not None
    assert common_name(found) == "ada"


@pytest.mark.parametrize(
    "made", [request(PROXY, ("X-Client-Certificate", certificate("ada")), proven=False), request(PROXY),
             request(PROXY, ("X-Client-Certificate", ""))]
)  # fmt: skip
def test_no_certificate(made: Request) -> None:
    assert client_certificate(made) is None


@pytest.mark.parametrize("values", [["not base64!"], ["aGVsbG8="], [certificate("ada"), certificate("eve")]])
def test_certificates_that_cannot_be_relied_on_make_nobody_anonymous(values: list[str]) -> None:
    headers = [("X-Client-Certificate", value) for value in values]
    with pytest.raises(AuthenticationError):
        client_certificate(request(PROXY, *headers))


@pytest.mark.parametrize("names", [(), ("ada", "eve")])
def test_a_subject_with_one_name_is_needed(names: tuple[str, ...]) -> None:
    made = x509.load_der_x509_certificate(base64.b64decode(certificate(*names)))
    assert common_name(made) == ""


# -- logs and errors -----------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a service writes to its log."""
    root = logging.getLogger()
    before = root.handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr(sys, "stdout", written)
        configure("probe", "INFO")
    yield written
    root.handlers[:] = before


@pytest.fixture
async def http(log: io.StringIO) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(AccessLog, quiet=("/health",))

    @app.get("/health")
    async def health() -> str:
        bind(user="ada")
        logging.getLogger("probe").info("inside")
        return "ok"

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        return number

    @app.get("/files/{path:path}")
    async def files(path: str) -> str:
        return path

    @app.get("/raise/{what}")
    async def fail(what: str) -> None:
        raise {
            "forbidden": Forbidden("no", headers={"X-Why": "because"}, hint="ask"),
            "invalid": Invalid("wrong", pointer="/files/0/did"),
            "token": AuthenticationError("The token has expired"),
            "issuer": IssuerUnavailable("The issuer does not answer"),
            "bug": RuntimeError("secret detail"),
        }[what]

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "members"),
    [
        ("/raise/forbidden", 403, {"title": "Not permitted", "detail": "no", "hint": "ask"}),
        ("/raise/invalid", 422, {"detail": "wrong", "pointer": "/files/0/did"}),
        ("/raise/token", 401, {"detail": "The token has expired"}),
        ("/raise/issuer", 503, {"detail": "The issuer does not answer"}),
        ("/nothing", 404, {"detail": "Not Found"}),
        ("/number/x", 422, {"title": "Invalid request"}),
    ],
)
async def test_errors_are_problem_documents(
    http: httpx.AsyncClient, path: str, status: int, members: dict[str, str]
) -> None:
    answer = await http.get(path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json().items() >= {"status": status, "type": "about:blank", **members}.items()


async def test_headers_of_errors(http: httpx.AsyncClient) -> None:
    assert (await http.get("/raise/forbidden")).headers["X-Why"] == "because"
    assert 'error="invalid_token"' in (await http.get("/raise/token")).headers["WWW-Authenticate"]
    assert (await http.get("/raise/issuer")).headers["Retry-After"] == "10"
    assert "GET" in (await http.post("/health")).headers["Allow"]


def lines(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_a_bug_is_told_to_the_log_alone(http: httpx.AsyncClient, log: io.StringIO) -> None:
    answer = await http.get("/raise/bug", headers={"X-Request-ID": "request-1"})
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "request-1"
    assert "request-1" in answer.json()["detail"]
    assert "secret detail" not in answer.text
    logged = [line for line in lines(log) if "exception" in line]
    assert "secret detail" in str(logged[0]["exception"])
    assert logged[0]["request_id"] == "request-1"


async def test_a_bug_is_logged_once(http: httpx.AsyncClient, log: io.StringIO) -> None:
    """The server passes on what it answered with 500, and tells of it once more where nobody has."""
    await http.get("/raise/bug")
    try:
        raise RuntimeError("of the server itself")
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("news")
    transport = httpx.ASGITransport(app=vars(http)["_transport"].app)
    async with httpx.AsyncClient(transport=transport, base_url="https://vo.example") as direct:
        try:
            await direct.get("/raise/bug")
        except RuntimeError:
            logging.getLogger("uvicorn.error").exception("known already")
    told = [line["message"] for line in lines(log) if "exception" in line]
    assert told == ["unexpected error", "news", "unexpected error"]


async def test_a_request_is_one_line_with_what_was_bound(http: httpx.AsyncClient, log: io.StringIO) -> None:
    answer = await http.get("/number/7", headers={"X-Request-ID": "request-2", "Authorization": "Bearer abc"})
    assert answer.headers["X-Request-ID"] == "request-2"
    (line,) = lines(log)
    assert (
        line.items()
        >= {"method": "GET", "path": "/number/7", "status": 200, "request_id": "request-2"}.items()
    )
    assert str(line["time"]).endswith("Z")
    assert "abc" not in json.dumps(line)


async def test_health_checks_that_pass_are_not_logged(http: httpx.AsyncClient, log: io.StringIO) -> None:
    assert (await http.get("/health")).headers["X-Request-ID"]
    (line,) = lines(log)
    assert line["message"] == "inside"
    assert line["user"] == "ada"


@pytest.mark.parametrize(
    "prefix",
    ["preauth:", "preauth%3A", "preauth%3a", "preauth%253A", "PreAuth:", "%70reauth%3A", "pre%2561uth:"],
)
async def test_what_authorises_is_not_logged(http: httpx.AsyncClient, log: io.StringIO, prefix: str) -> None:
    assert (await http.get(f"/files/{prefix}s3cr3t.x_y-z/home/ada?token=abc")).status_code == 200
    (line,) = lines(log)
    assert line["path"] == "/files/preauth:.../home/ada"


async def test_what_authorises_is_masked_in_whatever_is_logged(log: io.StringIO) -> None:
    url = "https://vo.example/files/preauth%3As3cr3t%2Ex_y-z%2Fhome"
    try:
        raise ValueError(url)
    except ValueError:
        logging.getLogger("probe").exception("cannot fetch %s", url, extra={"fields": {"source": [url]}})
    assert "s3cr3t" not in log.getvalue()
    (line,) = lines(log)
    assert line["source"] == ["https://vo.example/files/preauth:..."]


async def test_nobody_writes_lines_into_the_log(http: httpx.AsyncClient, log: io.StringIO) -> None:
    await http.get("/files/a%0A%7B%22level%22:%22x%22%7D", headers={"X-Request-ID": "x" * 500})
    (line,) = lines(log)
    assert line["path"] == '/files/a\n{"level":"x"}'
    assert re.fullmatch("[0-9a-f]{32}", str(line["request_id"]))


async def test_nothing_that_is_logged_moves_a_terminal(http: httpx.AsyncClient, log: io.StringIO) -> None:
    await http.get("/files/a%1B%5B2J%7F%C2%9B2J%E2%80%A8%E2%80%AEx%C3%A9")
    written = log.getvalue()
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    (line,) = lines(log)
    assert line["path"] == "/files/a\x1b[2J\x7f\x9b2J\u2028\u202ex\u00e9"


# -- VOSI ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "comment"),
    [
        ("172.26.0.1", "<!--<clientip>172.26.0.1</clientip>-->"),
        ("2001:db8::1", "<!--<clientip>2001:db8::1</clientip>-->"),
        ("", ""),
        ("--><evil/>", ""),
    ],
)
def test_availability_says_where_the_client_is(client: str, comment: str) -> None:
    """In a comment, as OpenCADC's services do; what is no address is left out."""
    document = availability(True, "fine", client).decode()
    assert re.findall("<!--.*-->", document) == ([comment] if comment else [])
    assert "evil" not in document


def test_availability() -> None:
    document = availability(False, "a < b & c").decode()
    assert "<vosi:available>false</vosi:available>" in document
    assert "<vosi:note>a &lt; b &amp; c</vosi:note>" in document


def test_capabilities() -> None:
    document = capabilities(
        [Capability("ivo://x/std/Y", "https://vo.example/y?a=1&b=2", use="base")]
    ).decode()
    assert 'standardID="ivo://x/std/Y"' in document
    assert '<accessURL use="base">https://vo.example/y?a=1&amp;b=2</accessURL>' in document
    # The anonymous method comes first and has no identifier.
    assert document.index("<securityMethod/>") < document.index(f'<securityMethod standardID="{TOKEN}"/>')
