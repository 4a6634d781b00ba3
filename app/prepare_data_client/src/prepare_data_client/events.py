"""Server-sent events (WHATWG HTML section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event: its kind, its data, and the last id the stream has named."""

    kind: str
    data: str
    id: str


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        rest += piece
        *complete, rest = rest.split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode()


def parse(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield events as blank lines complete them; comments, which keep the connection alive, are ignored."""
    kind, last = "message", ""
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield Event(kind, "\n".join(data), last)
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last = value
