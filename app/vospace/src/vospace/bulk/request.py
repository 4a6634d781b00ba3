"""Reading a bulk pull's request as it arrives: JSON of up to 64 MiB with memory for a few rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ijson
from ijson.common import JSONError
from ijson.utils import sendable_list
from voservice.content import parse_adler32, parse_md5

from vospace.bulk.model import IfExists, concurrency, if_exists
from vospace.models.errors import InvalidArgument, RequestTooLarge

MAX_URI = 8192
MAX_VALUE = 256 << 10
_ROW_KEYS = frozenset({"source", "target", "size", "md5", "adler32"})

RowValues = tuple[int, str, str, int | None, str | None, str | None]
"""row, source, target, size, md5, adler32"""


@dataclass(slots=True)
class RequestReader:
    """Feed it the body; `take` gives the rows that are complete. What is wrong is named: `rows[3].md5: ...`."""

    max_rows: int
    if_exists: IfExists = IfExists.VERIFY
    concurrency: int | None = None
    count: int = 0
    _rows: list[RowValues] = field(default_factory=list)
    _events: Any = field(default_factory=sendable_list)
    _parser: Any = None
    _row: dict[str, Any] | None = None
    _key: str | None = None
    _depth: int = 0
    _in_rows: bool = False
    _seen_rows: bool = False
    _silent: int = 0

    def feed(self, chunk: bytes) -> None:
        """Raises InvalidArgument, RequestTooLarge."""
        if chunk:  # the parser takes an empty one for the end
            # It would parse a value again with each further piece of it.
            self._silent = (
                self._silent + len(chunk) if self._parse(lambda parser: parser.send(chunk)) == 0 else 0
            )
            if self._silent > MAX_VALUE:
                raise InvalidArgument(f"the request has a value of more than {MAX_VALUE} bytes")

    def end(self) -> None:
        """Raises InvalidArgument for a request that is not whole."""
        self._parse(lambda parser: parser.close())
        if not self._seen_rows:
            raise InvalidArgument("rows is missing: a list of {source, target}")
        if not self.count:
            raise InvalidArgument("rows is empty")

    @property
    def pending(self) -> int:
        """Complete rows that were not taken yet."""
        return len(self._rows)

    def take(self) -> list[RowValues]:
        rows, self._rows = self._rows, []
        return rows

    def _parse(self, step: Callable[[Any], None]) -> int:
        """Return the number of parser events of the step."""
        if self._parser is None:
            self._parser = ijson.basic_parse_coro(self._events)
        try:
            step(self._parser)
        except (JSONError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"the request is not JSON: {error}") from None
        except (SystemError, ArithmeticError, ValueError):
            # Of the parser's number types, in its C code's own way.
            raise InvalidArgument("the request has a number that is too large") from None
        for event, value in self._events:
            self._on(event, value)
        brought = len(self._events)
        del self._events[:]
        return brought

    def _on(self, event: str, value: Any) -> None:
        if event in ("start_map", "start_array"):
            self._open(event)
        elif event in ("end_map", "end_array"):
            self._depth -= 1
            if self._row is not None:
                self._close_row()
            elif self._in_rows and self._depth == 1:
                self._in_rows = False
        elif event == "map_key":
            self._key = value
        elif self._row is not None:
            if self._key not in _ROW_KEYS:
                raise InvalidArgument(f"rows[{self.count}]: unknown field {(self._key or '')[:40]!r}")
            self._row[self._key] = value
        elif self._depth == 1:
            self._option(self._key or "", value)
        else:
            raise InvalidArgument(
                f"rows[{self.count}] must be an object with source and target"
                if self._in_rows
                else "expected an object"
            )

    def _open(self, event: str) -> None:
        self._depth += 1
        where = (self._depth, event)
        if where == (1, "start_map"):
            return
        if where == (2, "start_array") and self._key == "rows" and not self._seen_rows:
            self._in_rows = self._seen_rows = True
        elif where == (3, "start_map") and self._in_rows:
            self._row = {}
        elif self._row is not None:
            raise InvalidArgument(f"rows[{self.count}].{self._key}: expected a single value")
        elif self._in_rows:
            raise InvalidArgument(f"rows[{self.count}] must be an object with source and target")
        else:
            raise InvalidArgument(f"unexpected {self._key or 'list'}: expected an object with rows")

    def _option(self, key: str, value: Any) -> None:
        match key:
            case "if_exists":
                self.if_exists = if_exists(value)
            case "concurrency":
                self.concurrency = concurrency(value)
            case "rows":
                raise InvalidArgument("rows must be a list of {source, target}")
            case _:
                raise InvalidArgument(
                    f"unknown field {key[:40]!r}: there are rows, if_exists and concurrency"
                )

    def _close_row(self) -> None:
        row, self._row = self._row or {}, None
        number = self.count
        if number >= self.max_rows:
            raise RequestTooLarge(f"more than {self.max_rows} rows: send several bulk pulls")
        texts = []
        for key in ("source", "target"):
            text = row.get(key)
            if not isinstance(text, str) or not text or len(text) > MAX_URI or "\x00" in text:
                raise InvalidArgument(f"rows[{number}].{key}: expected a URI of at most {MAX_URI} characters")
            texts.append(text)
        if not texts[0].split():
            raise InvalidArgument(f"rows[{number}].source: expected URLs, separated by blanks")
        size = row.get("size")
        if size is not None and (type(size) is not int or not 0 <= size < 1 << 63):
            raise InvalidArgument(f"rows[{number}].size: expected a number of bytes")
        md5 = self._checksum(number, row, "md5", parse_md5)
        adler32 = self._checksum(number, row, "adler32", parse_adler32)
        self._rows.append((number, texts[0], texts[1], size, md5, adler32))
        self.count += 1

    @staticmethod
    def _checksum(number: int, row: dict[str, Any], key: str, read: Callable[[str], str]) -> str | None:
        value = row.get(key)
        if value is None:
            return None
        try:
            return read(value if isinstance(value, str) else "")
        except ValueError as error:
            raise InvalidArgument(f"rows[{number}].{key}: {error}") from None
