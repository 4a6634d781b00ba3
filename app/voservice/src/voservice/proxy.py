"""Headers in which HAProxy describes a client, accepted from HAProxy alone.

It proves itself by a secret of the deployment that it adds to each request. What comes without that is taken as if it
said nothing of a client, whatever address it comes from.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection

from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from voservice.auth.errors import AuthenticationError

PROOF = b"x-proxy-proof"
TOLD = frozenset({
    b"forwarded",
    b"x-client-certificate",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-request-id",
})  # fmt: skip
"""Headers by which a proxy tells of a client."""
PROVEN = "voservice.proven"
"""Key of a request's scope: whether such headers are the proxy's."""


class ProvenProxy:
    """ASGI middleware: takes away what nobody but the proxy may say, unless it comes with the proxy's proof.

    The proof itself goes no further in either case.
    """

    def __init__(self, app: ASGIApp, proxies: Collection[str], proof: str) -> None:
        """Wrap *app*: the proxy is at one of the addresses *proxies* and knows *proof*; without one there is none."""
        self._app = app
        self._proxies = frozenset(proxies)
        self._proof = proof.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope[PROVEN] = proven = self._proves(scope)
            refused = {PROOF} if proven else {PROOF, *TOLD}
            scope["headers"] = [header for header in scope["headers"] if header[0] not in refused]
        await self._app(scope, receive, send)

    def _proves(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == PROOF]
        peer = scope["client"][0] if scope.get("client") else ""
        return (
            peer in self._proxies
            and len(given) == 1
            and len(self._proof) > 0
            and hmac.compare_digest(given[0], self._proof)
        )


def client_address(request: Request) -> str:
    """Address of the client: the last hop, of which the proxy tells, or who has connected."""
    peer = request.client.host if request.client else ""
    if not request.scope.get(PROVEN):
        return peer
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    return forwarded.split(",")[-1].strip() or peer


def client_certificate(request: Request) -> x509.Certificate | None:
    """Client certificate that the proxy hands on as base64 of its DER, if there is one.

    Raises ``AuthenticationError`` if what the proxy hands on is no certificate.
    """
    headers = [text for text in request.headers.getlist("x-client-certificate") if text]
    if not headers or not request.scope.get(PROVEN):
        return None
    if len(headers) > 1:
        # The proxy replaces what clients send; two mean that it does not.
        raise AuthenticationError("More than one client certificate", "invalid_request")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(headers[0], validate=True))
    except (binascii.Error, ValueError) as exc:
        raise AuthenticationError("The client certificate cannot be read", "invalid_request") from exc


def common_name(certificate: x509.Certificate) -> str:
    """Common name of the certificate's subject, or an empty string if it has none or several."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
