"""HTTP transport: token, CA, retries, and problem documents as errors."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_environ_proxies

from prepare_data_client.errors import Fault, NotFound, PrepareDataError, Refused, Unauthorized, Unreachable

TokenSource = str | Callable[[], str] | None

# Answers after which the same request may succeed.
TRANSIENT = frozenset({429, 502, 503, 504})
LONGEST_PAUSE = 30.0  # s
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def _is_here(host: str) -> bool:
    """Whether a host name resolves to this machine, which a proxy could not reach."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)


class Bearer(AuthBase):
    """Sends the token (RFC 6750). As an *auth* object it also keeps requests from reading ~/.netrc."""

    def __init__(self, token: TokenSource) -> None:
        """Use a token, or a function that returns a fresh one for each request."""
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        token = self._token() if callable(self._token) else self._token
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


class Transport(AbstractContextManager["Transport"]):
    """Sends requests below one base URL and verifies the server."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        ca: str | Path | None,
        timeout: float,
        attempts: int,
        use_proxy: bool | None = None,
    ) -> None:
        """Check the URL and the CA file; nothing is sent yet."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise PrepareDataError(f"{url!r} is no http(s) URL such as https://host/prepare-data")
        if ca is not None and not Path(ca).is_file():
            raise PrepareDataError(f"{ca}: no such file of CA certificates")
        self.url = url.rstrip("/")
        self._timeout, self._attempts = timeout, attempts
        # Given with each request: what the session holds would yield to REQUESTS_CA_BUNDLE.
        self._verify = str(ca) if ca is not None else os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._session = requests.Session()
        if use_proxy is None:
            use_proxy = not (get_environ_proxies(url) and _is_here(parts.hostname))
        self._session.trust_env = use_proxy
        self._session.auth = Bearer(token)
        self._session.headers.update({"Accept": "application/json", "User-Agent": "prepare-data-client"})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        document: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool = True,
        timeout: float | None = None,
    ) -> tuple[Any, int]:
        """Return the JSON response and its status; *again* says whether the request may be sent more than once."""
        body, sent = None, dict(headers or {})
        if document is not None:
            body = json.dumps(document, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        attempts = self._attempts if again else 1
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            pause = min(LONGEST_PAUSE, 0.25 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            try:
                response = self._send(method, path, body, headers=sent, params=params, timeout=timeout)
            except Unreachable:
                if last:
                    raise
            else:
                if response.status_code not in TRANSIENT or last:
                    return _result(response), response.status_code
                pause = max(pause, retry_after(response.headers))
            time.sleep(pause)
        raise AssertionError("unreachable")

    def form(self, fields: Mapping[str, str], client_id: str, client_secret: str) -> Any:
        """Post a form to the base URL as an OAuth client (RFC 6749 section 2.3.1); a public one has no secret."""
        public = {} if client_secret else {"client_id": client_id}
        auth = HTTPBasicAuth(client_id, client_secret) if client_secret else None
        return _result(
            self._send("POST", "", urlencode({**fields, **public}).encode(), headers=FORM, auth=auth)
        )

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        auth: AuthBase | None = None,
        stream: bool = False,
    ) -> requests.Response:
        longest = timeout or self._timeout
        try:
            return self._session.request(
                method,
                f"{self.url}{path}",
                data=body,
                params=params,
                headers=headers,
                timeout=(min(10.0, longest), longest),
                verify=self._verify,
                auth=auth,
                allow_redirects=False,
                stream=stream,
            )
        except requests.exceptions.SSLError as exc:
            raise Unreachable(f"{self.url}: {_tls(exc)}") from exc
        except (requests.exceptions.RequestException, OSError) as exc:
            raise Unreachable(f"{self.url}: {_cause(exc)}") from exc

    def stream(self, path: str, headers: Mapping[str, str], silence: float) -> Iterator[bytes]:
        """Yield chunks of a streamed response. Raises `Unreachable` after *silence* seconds without one."""
        with self._send("GET", path, headers=headers, timeout=silence, stream=True) as response:
            if response.status_code != requests.codes.ok:
                _result(response)
            try:
                yield from response.iter_content(chunk_size=None if response.raw.chunked else 1)
            except (requests.exceptions.RequestException, OSError) as exc:
                raise Unreachable(f"{self.url}: {_cause(exc)}") from exc


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that the service asks to wait, at most LONGEST_PAUSE; 0 if it does not say."""
    value = headers.get("Retry-After", "")
    return min(LONGEST_PAUSE, float(value)) if value.isdecimal() else 0.0


def _result(response: requests.Response) -> Any:
    if response.ok and response.status_code < requests.codes.multiple_choices:
        try:
            return response.json() if response.content else None
        except ValueError as exc:
            raise Unreachable(
                f"{response.url} answered with something else than JSON; is it prepare-data?"
            ) from exc
    raise problem(response)


def problem(response: requests.Response) -> PrepareDataError:
    """Return the error for a refusal, from its problem document (RFC 9457) or else its body."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"detail": " ".join(response.text.split())[:300]}
    # An OAuth error (RFC 6749 section 5.2) says the same in other words.
    title = str(document.get("title") or document.get("error") or response.reason or "Refused")
    detail = document.get("detail") or document.get("error_description")
    detail = detail if isinstance(detail, str) else ""
    faults = [
        Fault(str(entry.get("pointer") or entry.get("item") or ""), str(entry.get("detail") or ""))
        for entry in document.get("errors") or ()
        if isinstance(entry, dict)
    ]
    status = response.status_code
    if status in {401, 403}:
        return Unauthorized(status, title, detail, faults)
    if status == requests.codes.not_found:
        return NotFound(status, title, detail, faults)
    if status >= requests.codes.server_error or status in TRANSIENT:
        return Unreachable(f"{response.url}: {title} ({status})" + (f": {detail}" if detail else ""))
    if 300 <= status < 400:
        return Refused(status, title, f"the service is at {response.headers.get('Location', 'another URL')}")
    return Refused(status, title, detail, faults)


def _tls(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "not trusted"
        return f"the certificate is not valid: {reason}. Name the deployment's CA with --ca or REQUESTS_CA_BUNDLE"
    return f"TLS failed: {text}"


def _cause(error: BaseException) -> str:
    """Return the innermost reason: requests and urllib3 wrap it in several layers."""
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = str(seen)
    return text.partition(": ")[2] or text or type(seen).__name__
