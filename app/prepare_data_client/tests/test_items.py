"""Reading what is to be staged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from prepare_data_client import InvalidItem, Item
from prepare_data_client.items import collect, read

DID = "testing:prepare_data_test.txt"
PATH = "testing/84/1c/prepare_data_test.txt"


def items(text: str) -> list[Item]:
    return list(read(io.StringIO(text), "files"))


def test_lines_with_words_and_comments() -> None:
    md5 = "0123456789ABCDEF0123456789abcdef"
    text = f"# all of them\n\n{DID}\n  {DID} path=a/b to=./x size=12 md5={md5} adler32=0a1b2c3d # one\r\n"
    assert items(text) == [
        Item(DID, PATH),
        Item(DID, "a/b", "./x", 12, md5.lower(), "0a1b2c3d"),
    ]


def test_seed_triples_and_other_json() -> None:
    document = [[DID, PATH, "./testing"], DID, {"did": DID, "size": 0, "destination": "y"}]
    assert items(json.dumps(document)) == [
        Item(DID, PATH, "./testing"),
        Item(DID, PATH),
        Item(DID, PATH, "y", 0),
    ]


def test_json_lines() -> None:
    assert items(f'\n{{"did": "{DID}"}}\n{{"did": "a:b", "path": "c"}}\n') == [
        Item(DID, PATH),
        Item("a:b", "c"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b\nbad\n", "files, line 2: 'bad' is not scope:name"),
        ("a:b path=../x", "files, line 1: a:b: path '../x': a path must not have the segments"),
        ("a:b size=big", "files, line 1: a:b: size must be a whole number of bytes, not 'big'"),
        ("a:b colour=red", "files, line 1: 'colour=red' is not one of path=…"),
        ("a:b md5=12", "files, line 1: a:b: md5 must be 32 hexadecimal digits, not '12'"),
        ("a:b adler32=0000000g", "files, line 1: a:b: adler32 must be 8 hexadecimal digits"),
        ("a:b to=/etc", "files, line 1: a:b: destination '/etc': a path must be relative"),
        ('["a:b", ["a:c"]]', "files, element 1: neither a DID"),
        ('[{"did": "a:b", "sise": 3}]', "files, element 0: a:b: unknown sise"),
        ('[{"did": "a:b", "size": true}]', "files, element 0: a:b: size must be a whole number of bytes"),
        ('[{"did": "a:b", "path": 3}]', "files, element 0: a:b: path must be text"),
        ("[", "files: not JSON"),
        ('{"did": "a:b"}\n{', "files, line 2: not JSON"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidItem) as refused:
        items(text)
    assert str(refused.value).startswith(message)


def test_collect_joins_arguments_files_and_standard_input(tmp_path: Path) -> None:
    listing = tmp_path / "listing"
    listing.write_text("a:2\n")
    found = collect(["a:1"], [str(listing), "-"], io.StringIO("a:3"), "identity")
    assert [item.path for item in found] == ["a/1", "a/2", "a/3"]


@pytest.mark.parametrize("text", [f"{DID}\n", f'["{DID}"]', f'{{"did": "{DID}"}}\n'])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, text: str) -> None:
    listing = tmp_path / "listing"
    listing.write_text(text, encoding="utf-8-sig")
    with listing.open(encoding="utf-8") as standard_input:
        found = collect([], [str(listing), "-"], standard_input, "hash")
    assert found == [Item(DID, PATH)] * 2


def test_nothing_to_stage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidItem, match="no files to stage"):
        collect([], [], io.StringIO(), "hash")
    with pytest.raises(InvalidItem, match="No such file"):
        collect([], [str(tmp_path / "none")], io.StringIO(), "hash")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InvalidItem, match="bytes"):
        collect([], [str(tmp_path / "bytes")], io.StringIO(), "hash")


def test_names_in_lines_are_taken_as_they_are() -> None:
    """A mark within a word begins no comment, and only what a line is written with divides words and lines."""
    text = f"{DID} to=./a#b%41?\u3000c\u2028d\te  \n"
    with pytest.raises(InvalidItem, match="'e' is not one of"):
        items(text)
    (item,) = items(text.replace("\te", "\t#e"))
    assert item.destination == "./a#b%41?\u3000c\u2028d"
    (item,) = items(json.dumps({"did": DID, "destination": "./x\u2028 y"}, ensure_ascii=False))
    assert item.destination == "./x\u2028 y"
