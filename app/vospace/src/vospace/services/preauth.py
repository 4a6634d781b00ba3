"""Pre-authorised URLs: a signed, short-lived right to read one data node, or to write it, as a certain caller.

A token is `BODY.MAC`, both base64url: BODY is JSON with the path, the mode, the expiry and the caller's uid and gids,
MAC its HMAC-SHA256. It is in the URL as in OpenCADC's services: `/files/preauth:TOKEN/path`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import replace
from typing import Literal

from vospace.models.caller import Caller
from vospace.models.errors import PermissionDenied
from vospace.models.uri import Path

Mode = Literal["read", "write"]
PREFIX = "preauth:"


class Preauth:
    """Creates and verifies tokens."""

    def __init__(self, key: bytes, seconds: int) -> None:
        if len(key) < 32:
            raise ValueError("vospace_preauth_key: at least 32 bytes are needed")
        self._key = key
        self._seconds = seconds

    def token(self, caller: Caller, path: Path, mode: Mode) -> str:
        """Return a token for one node, valid for a limited time."""
        content = {
            "path": path,
            "mode": mode,
            "until": int(time.time()) + self._seconds,
            # Permissions depend on uids and gids only; the names of a thousand groups would not fit into a URL.
            "as": replace(caller, groups=frozenset()).record(),
        }
        body = _encode(json.dumps(content, separators=(",", ":")).encode())
        return f"{body}.{_encode(self._mac(body))}"

    def caller(self, token: str, path: Path, mode: Mode) -> Caller:
        """Return the caller that the token authorises.

        Raises PermissionDenied if it is invalid, expired, or for another node or mode.
        """
        body, _, mac = token.partition(".")
        try:
            given = _decode(mac)
            genuine = hmac.compare_digest(given, self._mac(body))
            content = json.loads(_decode(body)) if genuine else None
        except (binascii.Error, ValueError):
            content = None
        if content is None:
            raise PermissionDenied("the pre-authorised URL is invalid")
        if content["until"] < time.time():
            raise PermissionDenied("the pre-authorised URL has expired")
        if tuple(content["path"]) != path or content["mode"] != mode:
            raise PermissionDenied("the pre-authorised URL is for another node or operation")
        return Caller.from_record(content["as"])

    def _mac(self, body: str) -> bytes:
        return hmac.new(self._key, body.encode(), hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
