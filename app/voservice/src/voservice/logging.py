"""Structured logs: one JSON object per line on standard output, with the fields of the current request."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any


def _in_any_form(word: str) -> str:
    """Pattern of a word whose characters may be percent-encoded, any number of times."""
    forms = ({character.lower(), character.upper()} for character in word)
    codes = ("|".join(f"{ord(form):02x}" for form in sorted(both)) for both in forms)
    return "".join(
        f"(?:{re.escape(character)}|%(?:25)*(?:{code}))" for character, code in zip(word, codes, strict=True)
    )


# A pre-authorised URL has its credential in the path.
_SECRET = re.compile(_in_any_form("preauth:") + r"[\w.~%-]+", re.IGNORECASE | re.ASCII)
# Characters that JSON does not escape but that terminals may interpret or readers take for line breaks.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

_fields: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default=MappingProxyType({}))


def masked(text: str) -> str:
    """Return a text without the credentials of pre-authorised URLs."""
    # The pattern takes longer than all else of a line, and matches nothing without one of these.
    return _SECRET.sub("preauth:...", text) if "%" in text or "preauth:" in text.casefold() else text


def bind(**fields: Any) -> None:
    """Add *fields* to every line logged from here on in this task."""
    _fields.set({**_fields.get(), **fields})


def field(name: str) -> Any:
    """Return the value bound to the log field *name* in this context, or None."""
    return _fields.get().get(name)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add *fields* to every line logged inside the block."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


LOGGED = "logged with its request"
"""Note of an error that was logged where its request was known."""


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether an error reported by the server was not logged already, with the request's id."""
    error = record.exc_info[1] if record.exc_info else None
    return LOGGED not in getattr(error, "__notes__", ())


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object that names *service*."""

    def __init__(self, service: str) -> None:
        """Format records of *service*."""
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service": self.service,
            **_fields.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=str, ensure_ascii=False)
        return masked(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def configure(service: str, level: str = "INFO") -> None:
    """Send all logs of the process to standard output as JSON."""
    # Nothing of this is in a line, and finding it out takes longer than writing the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "alembic", "sqlalchemy.engine", "uvicorn.access", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
