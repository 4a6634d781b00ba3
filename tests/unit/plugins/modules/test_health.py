# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _health
from ansible_collections.skasrc.cavern.plugins.modules import health
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VOSI = (
    b'<a:availability xmlns:a="http://www.ivoa.net/xml/VOSIAvailability/v1.0">'
    b"<a:available>%s</a:available><a:note>%s</a:note></a:availability>"
)
CONNECTION_START = b"\x01\x00\x00\x00\x00\x00\x04" + struct.pack(">HH", 10, 10) + b"\xce"


Converse = Callable[[socket.socket], None]


@pytest.fixture
def listening() -> Iterator[Callable[[Converse], int]]:
    """`listening(converse)`: port of a server that does so with each connection."""
    listeners: list[socket.socket] = []

    def start(converse: Converse) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    converse(connection)

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def speak(listening: Callable[[Converse], int]) -> Callable[[bytes], int]:
    """`speak(answer)`: port of a server that answers the first bytes of each connection so."""

    def start(answer: bytes) -> int:
        def converse(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(answer)

        return listening(converse)

    return start


def certificate(directory: Path, days: int) -> tuple[Path, Path]:
    """Make a self-signed certificate of 127.0.0.1 and localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = directory / "cert.pem", directory / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, private


@pytest.fixture
def tls(listening: Callable[[Converse], int], tmp_path: Path) -> Callable[[int], int]:
    """`tls(days)`: port of a TLS server whose certificate lasts that long; its CA is cert.pem."""

    def start(days: int) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(tmp_path, days))

        def converse(connection: socket.socket) -> None:
            # The client may not like the certificate.
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        return listening(converse)

    return start


def one(run_module: Any, **check: Any) -> dict[str, Any]:
    """Run a single check once and return its result."""
    result = run_module(health, checks=[{"service": "s", **check}], timeout=0, fail=False)
    (found,) = result["checks"]
    assert result["healthy"] == found["ok"]
    assert found["tries"] == 1
    return dict(found)


def test_http(run_module: Any, service: Any) -> None:
    service.on("GET", "/up", service.reply(b"all is well", 203))
    assert one(run_module, kind="http", url=f"{service.url}/up", status=203, contains="well")["ok"]
    wrong = one(run_module, kind="http", url=f"{service.url}/up")
    assert (wrong["ok"], wrong["status"]) == (False, 203)
    assert wrong["message"].endswith("/up answered 203 instead of 200: all is well")
    missing = one(run_module, kind="http", url=f"{service.url}/up", status=203, contains="bad")
    assert missing["message"].endswith("the answer does not contain 'bad': all is well")


def test_path_follows_the_url(run_module: Any, service: Any) -> None:
    service.on("GET", "/base/up", service.reply(b""))
    checks = [{"service": "s", "kind": "http", "url": "/up"}]
    assert run_module(health, url=f"{service.url}/base/", checks=checks, timeout=0)["healthy"]
    assert "the path /up needs url" in run_module(health, checks=checks)["msg"]


@pytest.mark.parametrize(
    ("body", "ok", "message"),
    [
        (VOSI % (b"true", b"fine"), True, "fine"),
        (VOSI % (b" 1 ", b""), True, "available"),
        (VOSI % (b"false", b"no disk"), False, "the service is not available: no disk"),
        (VOSI % (b"false", b""), False, "the service is not available: it gives no reason"),
        (b"<available>true</available>", False, "no VOSI availability document"),
        (b"<html>", False, "not well-formed XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", False, "a document type declaration is not allowed"),
    ],
)
def test_vosi(run_module: Any, service: Any, body: bytes, ok: bool, message: str) -> None:
    service.on("GET", "/availability", service.reply(body))
    found = one(run_module, kind="vosi", url=f"{service.url}/availability")
    assert found["ok"] == ok
    assert message in found["message"]


@pytest.mark.parametrize(
    ("answer", "ok", "message"),
    [
        (CONNECTION_START, True, "the broker offers AMQP 0-9-1"),
        (b"AMQP\x00\x01\x00\x00", False, "does not speak AMQP 0-9-1: it sent AMQP"),
        (b"", False, "it sent nothing"),
    ],
)
def test_amqp(run_module: Any, speak: Callable[[bytes], int], answer: bytes, ok: bool, message: str) -> None:
    found = one(run_module, kind="amqp", host="127.0.0.1", port=speak(answer))
    assert found["ok"] == ok
    assert message in found["message"]


def error(code: str, message: str) -> bytes:
    fields = f"SFATAL\0C{code}\0M{message}\0\0".encode()
    return b"E" + struct.pack(">i", len(fields) + 4) + fields


@pytest.mark.parametrize(
    ("answer", "ok", "message"),
    [
        (b"R" + struct.pack(">ii", 8, 5), True, "asks for authentication"),
        (error("28000", "no pg_hba.conf entry"), True, "takes up sessions"),
        (error("57P03", "the database system is starting up"), False, "the database system is starting up"),
        (error("53300", "too many clients"), False, "too many clients"),
        (b"HTTP/1.1 400", False, "does not speak PostgreSQL's protocol"),
        (b"", False, "does not speak PostgreSQL's protocol"),
    ],
)
def test_postgres(
    run_module: Any, speak: Callable[[bytes], int], answer: bytes, ok: bool, message: str
) -> None:
    found = one(run_module, kind="postgres", host="127.0.0.1", port=speak(answer))
    assert found["ok"] == ok
    assert message in found["message"]


def test_what_a_server_says_moves_no_terminal(run_module: Any, speak: Callable[[bytes], int]) -> None:
    port = speak(error("57P03", "starting\x1b[2J\u202eup"))
    found = one(run_module, kind="postgres", host="127.0.0.1", port=port)
    assert found["message"] == "the server says: starting\\x1b[2J\\u202eup"


def test_tls(run_module: Any, tls: Callable[[int], int], tmp_path: Path) -> None:
    check = {"kind": "tls", "host": "127.0.0.1", "port": tls(30)}
    trusted = {**check, "ca_path": str(tmp_path / "cert.pem")}
    found = one(run_module, **trusted)
    assert (found["ok"], found["days_left"]) == (True, 30)
    soon = one(run_module, **trusted, min_days=31)
    assert (soon["ok"], soon["days_left"]) == (False, 30)
    assert "ends in 30 days" in soon["message"]
    assert "self-signed certificate" in one(run_module, **check)["message"]
    other = one(run_module, **trusted, server_name="other.example")
    assert "Hostname mismatch" in other["message"]
    assert "No such file" in one(run_module, **check, ca_path="/nonexistent")["message"]


def test_tls_expired(run_module: Any, tls: Callable[[int], int], tmp_path: Path) -> None:
    port = tls(-2)
    found = one(run_module, kind="tls", host="127.0.0.1", port=port, ca_path=str(tmp_path / "cert.pem"))
    assert not found["ok"]
    assert "certificate has expired" in found["message"]


def test_nothing_listens(run_module: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert one(run_module, kind="tcp", host="127.0.0.1", port=port)["ok"]
    assert one(run_module, kind="tcp", host="127.0.0.1", port=port)["message"].endswith("Connection refused")


class Engine:
    """An engine with one container."""

    def __init__(self, state: dict[str, Any], test: int = 0) -> None:
        self.state, self.test = state, test

    def inspect_container(self, name: str) -> dict[str, Any]:
        return {"State": self.state, "Config": {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}}}

    def exec_create(self, name: str, command: list[str]) -> dict[str, str]:
        assert command == ["/bin/sh", "-c", "true"]
        return {"Id": "1"}

    def exec_start(self, run: str) -> bytes:
        return b"connection refused\n"

    def exec_inspect(self, run: str) -> dict[str, int]:
        return {"ExitCode": self.test}


@pytest.mark.parametrize(
    ("state", "test", "ok", "message"),
    [
        ({"Status": "running"}, 0, True, "runs"),
        ({"Status": "running", "Health": {"Status": "healthy"}}, 0, True, "runs and is healthy"),
        ({"Status": "running", "Health": {"Status": "starting"}}, 0, True, "passes its health test"),
        ({"Status": "running", "Health": {"Status": "starting"}}, 1, False, "starting: connection refused"),
        (
            {"Status": "running", "Health": {"Status": "unhealthy", "Log": [{"Output": "no\nroom"}]}},
            0,
            False,
            "the container is unhealthy: no room",
        ),
        ({"Status": "exited", "ExitCode": 137}, 0, False, "the container is exited with code 137"),
    ],
)
def test_container(
    run_module: Any,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, Any],
    test: int,
    ok: bool,
    message: str,
) -> None:
    monkeypatch.setattr(_health, "_client", lambda _socket: Engine(state, test))
    found = one(run_module, kind="container", container="c")
    assert (found["ok"], found["state"]) == (ok, state["Status"])
    assert found["message"].endswith(message)


def test_without_the_docker_library(run_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "LIBRARY_ERROR", "No module named 'docker'")
    assert "docker is needed" in one(run_module, kind="container", container="c")["message"]


def test_waits_until_all_pass(run_module: Any, service: Any) -> None:
    service.on("GET", "/late", service.reply(status=503), service.reply(status=503), service.reply())
    service.on("GET", "/up", service.reply())
    checks = [
        {"service": "a", "name": "late", "kind": "http", "url": f"{service.url}/late"},
        {"service": "b", "kind": "http", "url": f"{service.url}/up"},
    ]
    result = run_module(health, checks=checks, timeout=30)
    assert result["healthy"]
    assert [(check["name"], check["tries"]) for check in result["checks"]] == [("late", 3), ("http", 1)]


def test_failure_names_check_and_reason(run_module: Any, service: Any) -> None:
    checks = [
        {"service": "a", "name": "answer", "kind": "http", "url": f"{service.url}/none"},
        {"service": "b", "kind": "http", "url": f"{service.url}/none", "status": 404},
    ]
    result = run_module(health, checks=checks, timeout=2)
    assert result["failed"]
    assert not result["healthy"]
    assert result["msg"].startswith("1 of 2 checks failed: a (answer): ")
    assert "answered 404 instead of 200" in result["msg"]
    assert result["checks"][0]["tries"] > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checks": [{"service": "s", "kind": "http"}]}, "url"),
        ({"checks": [{"service": "s", "kind": "amqp", "host": "h"}]}, "port"),
        ({"checks": [{"service": "s", "kind": "ping"}]}, "value of kind must be one of"),
        ({"checks": [], "timeout": -1}, "timeout: -1 is negative"),
        ({"checks": [], "url": "nonsense"}, "url: 'nonsense' is no http(s) URL"),
    ],
)
def test_bad_options(run_module: Any, options: dict[str, Any], message: str) -> None:
    assert message in run_module(health, **options)["msg"]


def test_changes_nothing_in_check_mode(run_module: Any, service: Any) -> None:
    service.on("GET", "/up", service.reply())
    checks = [{"service": "s", "kind": "http", "url": f"{service.url}/up"}]
    assert run_module(health, check=True, checks=checks)["changed"] is False
