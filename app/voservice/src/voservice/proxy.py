"""Headers in which HAProxy describes a client, accepted only from HAProxy.

HAProxy authenticates with a secret of the deployment that it adds to each request. Without the secret, the headers are
removed, whatever address a request comes from.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection
from ipaddress import ip_address, ip_network

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
"""Headers in which a proxy describes a client."""
PROVEN = "voservice.proven"
"""Key in a request's scope: whether the proxy has set these headers."""


class ProvenProxy:
    """ASGI middleware: removes headers that only the proxy may set, unless the request has the proxy's secret.

    The secret itself is always removed.
    """

    def __init__(self, app: ASGIApp, proxies: Collection[str], proof: str) -> None:
        """Wrap *app*: the proxy is in one of the networks *proxies* and knows *proof*; without one none is trusted."""
        self._app = app
        self._proxies = [ip_network(proxy) for proxy in proxies]
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
            len(given) == 1
            and len(self._proof) > 0
            and hmac.compare_digest(given[0], self._proof)
            and self._is_proxy(peer)
        )

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


def client_address(request: Request) -> str:
    """Return the client's address: the last hop stated by the proxy, or the peer of the connection."""
    peer = request.client.host if request.client else ""
    if not request.scope.get(PROVEN):
        return peer
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    return forwarded.split(",")[-1].strip() or peer


def client_certificate(request: Request) -> x509.Certificate | None:
    """Return the client certificate that the proxy forwards as base64 of its DER, if any.

    Raises ``AuthenticationError`` if it is not a certificate.
    """
    headers = [text for text in request.headers.getlist("x-client-certificate") if text]
    if not headers or not request.scope.get(PROVEN):
        return None
    if len(headers) > 1:
        # The proxy replaces headers of clients; if there are two, it does not.
        raise AuthenticationError("More than one client certificate", "invalid_request")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(headers[0], validate=True))
    except (binascii.Error, ValueError) as exc:
        raise AuthenticationError("The client certificate cannot be read", "invalid_request") from exc


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the certificate's subject, or an empty string if it has none or several."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
