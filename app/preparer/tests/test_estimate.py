"""What an estimate makes of the files in place and of the tasks before."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from preparer.api.estimate import Source, in_place, predict
from preparer.ledger import NewFile
from vospace_client.documents import Node
from vospace_client.terms import ADLER32, DATE, LENGTH, MD5

STAGED = datetime(2026, 11, 24, 12, tzinfo=UTC)
PROPERTIES = {LENGTH: "3", MD5: "m" * 32, ADLER32: "a" * 8, DATE: "2026-11-24T12:00:00.000"}
NODE = Node("DataNode", PROPERTIES)
OLDER = Source(3, datetime(2026, 11, 24, 11, tzinfo=UTC))
NEWER = Source(3, datetime(2026, 11, 24, 13, tzinfo=UTC))


def file(md5: str | None = None, adler32: str | None = None) -> NewFile:
    return NewFile("a:b", "p", "/home/u/b", None, md5, adler32)


@pytest.mark.parametrize(
    ("wanted", "source", "node", "there"),
    [
        (file(), OLDER, NODE, True),
        (file(), Source(3, STAGED), NODE, True),
        (file(), NEWER, NODE, False),
        (file(), Source(3), NODE, False),
        (file(), Source(4, OLDER.modified), NODE, False),
        (file(), OLDER, None, False),
        (file(), OLDER, Node("ContainerNode", PROPERTIES), False),
        (file(), OLDER, Node("DataNode", {LENGTH: "3"}), False),
        (file("m" * 32), NEWER, NODE, True),
        (file("m" * 32, "a" * 8), Source(3), NODE, True),
        (file("m" * 32, "b" * 8), OLDER, NODE, False),
        (file("n" * 32), OLDER, NODE, False),
        (file("m" * 32), OLDER, Node("DataNode", {LENGTH: "3", DATE: PROPERTIES[DATE]}), False),
    ],
)
def test_in_place(wanted: NewFile, source: Source, node: Node | None, there: bool) -> None:
    assert in_place(wanted, source, node) is there


def test_prediction_finds_what_a_task_a_file_and_a_byte_cost() -> None:
    shapes = [(1, 1000), (1, 2_000_000_000), (100, 10_000), (20_000, 340_000), (50, 500_000_000)]
    history = [(n, b, 0.8 + 0.0007 * n + 5e-9 * b) for n, b in shapes * 10]
    assert predict(history, 5000, 10**9) == pytest.approx(0.8 + 3.5 + 5, rel=0.02)
    assert predict(history, 0, 0) == 0


def test_prediction_from_small_tasks_alone_is_never_negative() -> None:
    history = [(1, 1000, 1.0), (2, 100, 0.4), (3, 5000, 0.9), (1, 10, 2.0)]
    found = predict(history, 1, 1)
    assert found is not None
    assert 0 < found < 2
    assert predict([], 1, 1) is None
