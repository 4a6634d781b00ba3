"""Parse lists of files to stage.

A file holds one of three forms, told apart by its first character:

- text, a file on each line: `scope:name`, then, if wanted, words such as `path=… to=… size=… md5=… adler32=…`;
  `#` at the beginning of a word begins a comment;
- JSON: an array whose elements are DIDs, `[DID, path, destination]` or objects with `did`, `path`,
  `destination`, `size`, `md5`, `adler32`;
- JSON lines: such an object on each line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from prepare_data_client.did import Algorithm
from prepare_data_client.errors import InvalidItem
from prepare_data_client.models import Item

WORDS = {"path": "path", "to": "destination", "size": "size", "md5": "md5", "adler32": "adler32"}
KEYS = {"did", *WORDS.values()}
# Other blanks, and other ends of lines, may be in names.
BLANKS = re.compile(r"[ \t]+")
COMMENT = re.compile(r"(^|[ \t])#.*")


def from_words(words: list[str], algorithm: Algorithm) -> Item:
    """Return the item of a line's words: a DID and `key=value` pairs."""
    did, *rest = words
    options: dict[str, Any] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or key not in WORDS:
            raise InvalidItem(f"{word!r} is not one of {', '.join(f'{name}=…' for name in WORDS)}")
        if key == "size":
            if not value.isdecimal():
                raise InvalidItem(f"{did}: size must be a whole number of bytes, not {value!r}")
            options["size"] = int(value)
        else:
            options[WORDS[key]] = value
    return Item.of(did, algorithm=algorithm, **options)


def from_json(value: Any, algorithm: Algorithm) -> Item:
    """Return the item of a JSON value: a DID, a triple or an object."""
    if isinstance(value, str):
        return Item.of(value, algorithm=algorithm)
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value):
        return Item.of(value[0], path=value[1], destination=value[2], algorithm=algorithm)
    if isinstance(value, dict) and isinstance(value.get("did"), str):
        unknown = sorted(set(value) - KEYS)
        if unknown:
            raise InvalidItem(
                f"{value['did']}: unknown {', '.join(unknown)}; known are {', '.join(sorted(KEYS))}"
            )
        for key in KEYS - {"size"}:
            if value.get(key) is not None and not isinstance(value[key], str):
                raise InvalidItem(f"{value['did']}: {key} must be text, not {value[key]!r}")
        return Item.of(value["did"], algorithm=algorithm, **{k: v for k, v in value.items() if k != "did"})
    raise InvalidItem("neither a DID, nor [DID, path, destination], nor an object with a did")


def read(stream: TextIO, name: str, algorithm: Algorithm = "hash") -> Iterator[Item]:
    """Yield the items of a file called *name*; InvalidItem says in which line or element one is wrong."""
    # Editors of some systems put a byte order mark in front.
    text = stream.read().removeprefix("\ufeff")
    start = text.lstrip()[:1]
    for place, value in _array(text, name) if start == "[" else _lines(text, name, as_json=start == "{"):
        try:
            yield (
                from_words(BLANKS.split(value), algorithm)
                if start not in {"[", "{"}
                else from_json(value, algorithm)
            )
        except InvalidItem as exc:
            raise InvalidItem(f"{name}, {place}: {exc}") from exc


def _array(text: str, name: str) -> Iterator[tuple[str, Any]]:
    try:
        values = json.loads(text)
    except ValueError as exc:
        raise InvalidItem(f"{name}: not JSON: {exc}") from exc
    for number, value in enumerate(values):
        yield f"element {number}", value


def _lines(text: str, name: str, as_json: bool) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        stripped = (line if as_json else COMMENT.sub("", line)).strip(" \t\r")
        if not stripped:
            continue
        try:
            yield f"line {number}", json.loads(stripped) if as_json else stripped
        except ValueError as exc:
            raise InvalidItem(f"{name}, line {number}: not JSON: {exc}") from exc


def collect(dids: Iterable[str], files: Iterable[str], stdin: TextIO, algorithm: Algorithm) -> list[Item]:
    """Return the items of DIDs and of files, where `-` is standard input; at least one is needed."""
    items = [Item.of(did, algorithm=algorithm) for did in dids]
    for name in files:
        if name == "-":
            items.extend(read(stdin, "standard input", algorithm))
            continue
        try:
            with Path(name).open(encoding="utf-8") as stream:
                items.extend(read(stream, name, algorithm))
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidItem(f"{name}: {getattr(exc, 'strerror', None) or exc}") from exc
    if not items:
        raise InvalidItem("no files to stage: give DIDs, or a file of them with --from")
    return items
