"""What HAProxy says of a client, believed only from HAProxy."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.requests import Request

from voservice.auth.errors import AuthenticationError


def is_trusted(request: Request, proxies: Collection[str]) -> bool:
    """Whether the peer of this connection is a proxy whose headers count."""
    return request.client is not None and request.client.host in proxies


def client_address(request: Request, proxies: Collection[str]) -> str:
    """Address of the client: the last hop that a trusted proxy vouches for."""
    peer = request.client.host if request.client else ""
    if not is_trusted(request, proxies):
        return peer
    forwarded = request.headers.get("x-forwarded-for", "")
    return forwarded.split(",")[-1].strip() or peer


def client_certificate(request: Request, proxies: Collection[str]) -> x509.Certificate | None:
    """Client certificate that a trusted proxy verified and handed on as base64 of its DER, if there is one.

    Raises ``AuthenticationError`` if what the proxy hands on is no certificate.
    """
    headers = [text for text in request.headers.getlist("x-client-certificate") if text]
    if not headers or not is_trusted(request, proxies):
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
