"""Callbacks: the outcome of a finished task is posted to the URL of its request, signed, on allowed hosts only."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from urllib.parse import urlsplit

import aiohttp
from voservice.sources import reason

from preparer.ledger import Task
from preparer.ledger.documents import task_document

ATTEMPTS = 8
PRINTABLE = re.compile("[!-~]{1,2000}")
SIGNATURE = "X-Prepare-Data-Signature"


class CallbackRefused(ValueError):
    """The URL is not allowed; the message says why."""


def check(url: str, hosts: list[str]) -> str:
    """Return *url* if it is allowed. Raises `CallbackRefused`."""
    if not PRINTABLE.fullmatch(url):
        raise CallbackRefused("callback: percent-encode what is not printable ASCII; at most 2000 characters")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError as exc:
        raise CallbackRefused(f"callback: {exc}") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CallbackRefused("callback: give an http or https URL")
    if parts.username or parts.password:
        raise CallbackRefused("callback: the URL must not hold credentials")
    if parts.hostname not in hosts and parts.netloc not in hosts:
        allowed = ", ".join(hosts) or "none"
        raise CallbackRefused(f"callback: {parts.hostname} is not an allowed host; allowed: {allowed}")
    return url


def sign(key: str, timestamp: int, body: bytes) -> str:
    """Sign a callback: HMAC-SHA256 over the timestamp (epoch seconds), a dot and the body."""
    digest = hmac.new(key.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


async def send(session: aiohttp.ClientSession, task: Task, key: str, hosts: list[str]) -> tuple[str, bool]:
    """Post the outcome of *task*, which has a callback; returns the status and whether it is final."""
    assert task.callback is not None
    try:
        check(task.callback, hosts)
    except CallbackRefused as exc:
        return str(exc), True
    body = json.dumps(task_document(task)).encode()
    headers = {"Content-Type": "application/json", SIGNATURE: sign(key, int(time.time()), body)}
    try:
        async with session.post(
            task.callback,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=15),
        ) as answer:
            status = f"{answer.status} {answer.reason or ''}".strip()
            delivered = answer.status < 300
    except (aiohttp.ClientError, TimeoutError) as exc:
        status, delivered = reason(exc), False
    return status, delivered or task.callback_attempts >= ATTEMPTS
