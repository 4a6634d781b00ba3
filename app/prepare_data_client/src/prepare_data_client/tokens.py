"""Sources of tokens: the command line, a file, the environment, or an issuer."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prepare_data_client.errors import PrepareDataError, Refused, Unreachable
from prepare_data_client.transport import Transport

VARIABLE = "PREPARE_DATA_TOKEN"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class NoToken(PrepareDataError):
    """No token, or none that can be read."""


def source(token: str | None, token_file: str | None) -> Callable[[], str]:
    """Return a function that gives the token; a file is read anew each time, since something may renew it."""
    if token_file is not None:
        path = Path(token_file)

        def read() -> str:
            try:
                return _clean(path.read_text(encoding="utf-8-sig"), str(path))
            except (OSError, UnicodeDecodeError) as exc:
                raise NoToken(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc

        read()
        return read
    value = token if token is not None else os.environ.get(VARIABLE)
    if value is None:
        raise NoToken(f"no token: give --token-file FILE, --token TOKEN or set {VARIABLE}")
    cleaned = _clean(value, "--token" if token is not None else VARIABLE)
    return lambda: cleaned


def _clean(text: str, where: str) -> str:
    token = text.strip()
    if not token:
        raise NoToken(f"{where}: the token is empty")
    if not token.isascii() or any(character.isspace() for character in token):
        raise NoToken(f"{where}: a token has neither spaces nor characters beyond ASCII")
    return token


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it, for display only."""
    try:
        payload = token.split(".")[1]
        loaded = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError) as exc:
        raise NoToken("the token is no JSON Web Token, so nothing can be read from it") from exc
    if not isinstance(loaded, dict):
        raise NoToken("the token's payload is no JSON object")
    return loaded


@dataclass(frozen=True)
class Issuer:
    """An OpenID Connect issuer and the client that asks it."""

    url: str
    client_id: str
    client_secret: str
    ca: str | None = None
    timeout: float = 30.0

    def password(self, username: str, password: str, **parameters: str) -> dict[str, Any]:
        """Return the answer to a password grant (RFC 6749 section 4.3), which the development issuer offers."""
        fields = {"grant_type": "password", "username": username, "password": password}
        return self._post(self._endpoint("token_endpoint"), fields | parameters)

    def device(self, prompt: Callable[[str, str], None], **parameters: str) -> dict[str, Any]:
        """Return the answer to a device grant (RFC 8628): *prompt* shows the user a URL and a code to enter there."""
        endpoint = self._endpoint("device_authorization_endpoint")
        begun = self._post(endpoint, {"client_id": self.client_id, **parameters})
        prompt(
            str(begun.get("verification_uri_complete") or begun["verification_uri"]), str(begun["user_code"])
        )
        interval = float(begun.get("interval", 5))
        deadline = time.monotonic() + float(begun["expires_in"])
        fields = {"grant_type": DEVICE, "device_code": str(begun["device_code"])}
        while time.monotonic() < deadline:
            time.sleep(interval)
            try:
                return self._post(self._endpoint("token_endpoint"), fields)
            except Refused as exc:
                if exc.title == "slow_down":
                    interval += 5
                elif exc.title != "authorization_pending":
                    raise
        raise NoToken("nobody entered the code in time")

    def _endpoint(self, name: str) -> str:
        """Return an endpoint that the issuer's metadata names (OpenID Connect Discovery 1.0 section 4)."""
        with Transport(self.url, None, self.ca, self.timeout, attempts=3) as transport:
            metadata, _ = transport.call("GET", "/.well-known/openid-configuration")
        if not isinstance(metadata, dict) or metadata.get("issuer") != self.url:
            raise NoToken(f"{self.url}: the issuer's metadata does not name this URL as the issuer")
        if not isinstance(metadata.get(name), str):
            raise NoToken(f"{self.url}: the issuer has no {name}")
        return str(metadata[name])

    def _post(self, url: str, fields: dict[str, str]) -> dict[str, Any]:
        with Transport(url, None, self.ca, self.timeout, attempts=1) as transport:
            answer = transport.form(fields, self.client_id, self.client_secret)
        if not isinstance(answer, dict):
            raise Unreachable(f"{url} answered with something else than a JSON object")
        return answer
