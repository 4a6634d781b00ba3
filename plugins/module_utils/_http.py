# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP client of the modules of the action group. Private to the collection."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.urls import open_url

# Documented in plugins/doc_fragments/connection.py.
CONNECTION_SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str"},
    "ca_path": {"type": "path"},
    "request_timeout": {"type": "float", "default": 30},
    "use_proxy": {"type": "bool", "default": False},
}
TOKEN_SPEC: dict[str, dict[str, Any]] = {
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path"},
}

USER_AGENT = "skasrc.cavern"
# A message of an unexpected answer shows this much of its text.
EXCERPT = 300


class ServiceError(Exception):
    """A service did not answer, or gave an unexpected answer; the message says which and where."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep the HTTP status, if there was an answer."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """A complete HTTP answer; header names are in lower case."""

    url: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the body's JSON value. Raises ServiceError if it has none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ServiceError(f"{self.url}: the answer is no JSON: {self.excerpt()}", self.status) from error

    def excerpt(self) -> str:
        """Return the beginning of the body on one line."""
        text = " ".join(self.body[: 4 * EXCERPT].decode(errors="replace").split())
        return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"

    def reason(self) -> str:
        """Return why the service refused, from a problem document (RFC 9457), an OAuth error or plain text."""
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        if isinstance(document, dict):
            for key in ("detail", "error_description", "title", "error"):
                if isinstance(document.get(key), str):
                    return str(document[key])
        challenge = self.headers.get("www-authenticate", "") if self.status == 401 else ""
        return self.excerpt() or challenge or http.client.responses.get(self.status, "no reason given")

    def error(self) -> ServiceError:
        """Return the answer as an error."""
        return ServiceError(f"{self.url} answered {self.status}: {self.reason()}", self.status)


@dataclass(frozen=True)
class Client:
    """Send requests with the user's token to servers that are verified."""

    ca_path: str | None = None
    timeout: float = 30.0
    token: str | None = field(default=None, repr=False)
    use_proxy: bool = False

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status. Raises ServiceError if there is none.

        Redirections are not followed: the token must not be sent to another host.
        """
        sent = dict(headers or {})
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            with open_url(
                url,
                method=method,
                data=body,
                headers=sent,
                timeout=timeout or self.timeout,
                ca_path=self.ca_path,
                follow_redirects="none",
                http_agent=USER_AGENT,
                url_username=credentials[0] if credentials else None,
                url_password=credentials[1] if credentials else None,
                force_basic_auth=bool(credentials),
                use_netrc=False,
                use_proxy=self.use_proxy,
            ) as response:
                return Answer(url, response.status, _lowered(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(url, error.code, _lowered(error.headers), error.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServiceError(f"{url}: {explain(error)}") from error


def _lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def explain(error: BaseException) -> str:
    """Describe briefly why a connection failed."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {cause.verify_message}"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def check_url(option: str, url: str) -> str:
    """Return *url* without trailing slashes. Raises ValueError, naming the *option*, if it is no http(s) URL."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"{option}: {url!r} is no http(s) URL without query, such as https://haproxy.cadc.dao.nrc.ca"
        )
    if parts.username or parts.password:
        raise ValueError(f"{option}: credentials do not belong into a URL")
    return url.rstrip("/")


def check_ca(path: str | None) -> None:
    """Refuse an unusable CA file. Raises ValueError."""
    if path is None:
        return
    try:
        ssl.create_default_context(cafile=os.path.expanduser(path))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_path: {path}: {getattr(error, 'strerror', None) or error}") from error


def read_token(params: Mapping[str, Any]) -> str | None:
    """Return the token that the options of the fragment give, or None. Raises ValueError if it is unusable."""
    token, path = params.get("token"), params.get("token_file")
    if path:
        try:
            token = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:
            raise ValueError(f"token_file: {path}: {getattr(error, 'strerror', None) or error}") from error
        if not token:
            raise ValueError(f"token_file: {path} is empty")
    if token and (not token.isascii() or any(character.isspace() for character in token)):
        raise ValueError("token: a token has neither spaces nor characters beyond ASCII")
    return token or None
