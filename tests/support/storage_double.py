"""A storage element with TLS, for tests: it records requests and requires credentials."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Issues certificates for 127.0.0.1, and for clients."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        """Create the CA; its certificate is in `file`."""
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(self._subject, self._key, authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(address, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str) -> Path:
        """Write a certificate and its key to one file, replaced atomically as in a renewal."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = self._certificate(subject, key).public_bytes(serialization.Encoding.PEM)
        file = self.directory / f"{name}.pem"
        file.write_bytes(public + private)
        return file

    def server(self) -> ssl.SSLContext:
        """Return the TLS context of a server that requests client certificates."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.file))
        context.load_cert_chain(self.issue("server"))
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class StorageDouble:
    """One storage element with `files` by path; `answer` may override responses."""

    def __init__(self, authority: Authority | None) -> None:
        """Create the server without starting it."""
        self.authority = authority
        self.files: dict[str, bytes] = {}
        self.answer: Callable[[web.Request], web.StreamResponse | None] = lambda _request: None
        self.delay = 0.0
        self.url = ""
        self.tokens: list[str | None] = []
        self.names: list[str | None] = []
        self.asked: list[web.Request] = []
        self.open = self.most_open = 0

    async def start(self) -> None:
        """Listen."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        context = self.authority.server() if self.authority else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        scheme = "https" if self.authority else "http"
        self.url = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop the server."""
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.tokens.append(request.headers.get("Authorization"))
        peer: Any = request.get_extra_info("peercert")
        subject = dict(pair for part in peer["subject"] for pair in part) if peer else {}
        self.names.append(subject.get("commonName"))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await asyncio.sleep(self.delay)
            found = self.answer(request)
            if found is not None:
                return found
            if request.path not in self.files:
                return web.Response(status=404)
            return web.Response(body=self.files[request.path])
        finally:
            self.open -= 1


def redirect(to: str) -> web.Response:
    """Return a redirect."""
    return web.Response(status=307, headers={"Location": to})
