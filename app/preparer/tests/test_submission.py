"""What a request must be like, and the credential that its task goes on with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from preparer.api import legacy
from preparer.api.submission import Item, Submission, content_hash
from preparer.config import PreparerSettings
from preparer.ledger import TaskState
from preparer.staging.rse import Rses
from pydantic import ValidationError
from voservice.auth import AuthenticationError
from voservice.problems import Invalid, TooLarge

DID = "testing:prepare_data_test.txt"
PATH = "testing/84/1c/prepare_data_test.txt"


class Issuer:
    """Exchanges tokens, or refuses."""

    def __init__(self, answer: str | None) -> None:
        """Answer with that token; None refuses."""
        self.answer = answer
        self.asked: list[str] = []

    async def exchange(self, token: str, lifetime: int) -> str:
        self.asked.append(token)
        if self.answer is None:
            raise AuthenticationError("unsupported_grant_type")
        return self.answer


def submission(issuer: Issuer | None = None, **settings: Any) -> Submission:
    shared: Any = SimpleNamespace(settings=PreparerSettings(**settings), credentials=issuer, exchanged={})
    return Submission(shared)


def caller(bearer: str = "own") -> Any:
    expires = datetime.now(UTC) + timedelta(hours=1)
    return SimpleNamespace(token=bearer, identity=SimpleNamespace(username="ada", expires=expires))


def test_the_seeds_request() -> None:
    (file,) = submission().check(caller(), [Item(DID, PATH, "./testing")], "")
    assert (file.did, file.path, file.target) == (DID, PATH, "/home/ada/testing/prepare_data_test.txt")


def test_checksums_are_brought_into_one_form() -> None:
    (file,) = submission().check(caller(), [Item(DID, None, ".", 1, "A" * 32, "ABC")], "/files")
    assert (file.path, file.md5, file.adler32) == (PATH, "a" * 32, "00000abc")


@pytest.mark.parametrize(
    ("item", "pointer", "words"),
    [
        (Item("nocolon", None, "."), "/files/1/did", "is not scope:name"),
        (Item("s:../x", None, "."), "/files/1/did", ".."),
        (Item(7, None, "."), "/files/1/did", "must be a string"),
        (Item("s:x", "s/00/00/x", "."), "/files/1/path", "is not where s:x lies"),
        (Item("s:x", "/etc/passwd", "."), "/files/1/path", "must be relative"),
        (Item("s:x", "s/../../x", "."), "/files/1/path", "segments"),
        (Item("s:x", None, "/absolute"), "/files/1/destination", "relative"),
        (Item("s:x", None, "a/../../b"), "/files/1/destination", "segments"),
        (Item("s:x", None, ".", 1, "xyz"), "/files/1/md5", "32 hexadecimal"),
        (Item("s:x", None, ".", 1, None, "123456789"), "/files/1/adler32", "8 hexadecimal"),
        (Item(DID, None, "."), "/files/1/did", "is the same file as item 0"),
        (Item("other:prepare_data_test.txt", None, "."), "/files/1/did", "same place as item 0"),
    ],
)
def test_every_wrong_item_is_named(item: Item, pointer: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        submission().check(caller(), [Item(DID, None, "."), item, Item("bad", None, ".")], "/files")
    first, second = refused.value.members["errors"]
    assert first["pointer"] == pointer
    assert words in first["detail"]
    assert second["pointer"] == "/files/2/did"


def test_too_many_and_none() -> None:
    with pytest.raises(TooLarge, match="2 files; a request may have 1"):
        submission(preparer_max_items=1).check(caller(), [Item("s:a", None, "."), Item("s:b", None, ".")], "")
    with pytest.raises(Invalid, match="names no file"):
        submission().check(caller(), [], "")


def test_order_does_not_matter_and_everything_else_does() -> None:
    files = submission().check(caller(), [Item("s:a", None, "."), Item("s:b", None, ".", 5)], "")
    same = content_hash(files, "cavern_api_approach", None, None)
    assert content_hash(files[::-1], "cavern_api_approach", None, None) == same
    others = {
        content_hash(files[:1], "cavern_api_approach", None, None),
        content_hash(files, "symbolic_link", None, None),
        content_hash(files, "cavern_api_approach", "https://h/x", None),
        content_hash(files, "cavern_api_approach", None, 60),
    }
    assert len(others | {same}) == 5


def test_a_request_without_an_rse_is_the_same_as_for_earlier_releases() -> None:
    """Its unfinished task may be in the ledger since before the upgrade."""
    files = submission().check(caller(), [Item("s:a", None, "."), Item("s:b", None, ".", 5)], "")
    lines = sorted(json.dumps([f.did, f.path, f.target, f.size, f.md5, f.adler32]) for f in files)
    head = json.dumps(["cavern_api_approach", None, None])
    before = hashlib.sha256("\n".join([head, *lines]).encode()).hexdigest()
    assert content_hash(files, "cavern_api_approach", None, None) == before
    named = [replace(file, rse="A") for file in files]
    assert content_hash(named, "cavern_api_approach", None, None) != before


async def test_one_exchange_serves_a_tokens_further_requests() -> None:
    end = int(datetime.now(UTC).timestamp()) + 604_800
    long = jwt.encode({"exp": end}, "k" * 32, algorithm="HS256")
    issuer = Issuer(long)
    chosen = submission(issuer)
    for _ in range(3):
        assert await chosen.credential(caller()) == (long, datetime.fromtimestamp(end, UTC))
    await chosen.credential(caller("another"))
    assert issuer.asked == ["own", "another"]


@pytest.mark.parametrize(
    ("issuer", "token"), [(None, "own"), (Issuer(None), "own"), (Issuer("opaque"), "opaque")]
)
async def test_without_an_exchange_the_callers_own_end_counts(issuer: Issuer | None, token: str) -> None:
    who = caller()
    assert await submission(issuer).credential(who) == (token, who.identity.expires)


RSES = [
    {"name": "A", "url": "https://a.example/d"},
    {"name": "B", "url": "https://b.example/d", "layout": "identity"},
    {"name": "C", "url": "https://c.example/d", "layout": "none"},
]
HERE: dict[str, Any] = {"preparer_rses": RSES}


def test_a_request_may_name_rses() -> None:
    def check(rse: str | None, path: str | None = None) -> Any:
        return submission(**HERE).check(caller(), [Item(DID, path, ".")], "/files", rse)[0]

    assert (check(None).rse, check(None).path) == ("A,B", PATH)
    assert (check("B").rse, check("B").path) == ("B", DID.replace(":", "/"))
    assert (check("B,A").rse, check("C", "odd/place").path) == ("B,A", "odd/place")
    # One that has no layout may have it anywhere, those with one have it there alone.
    assert (check(None, "odd/place").rse, check(None, "odd/place").path) == ("C", "odd/place")
    assert (check("A,C,B", "odd/place").rse, check("A,C,B").rse) == ("C", "A,B")
    # It has no layout by which a path could be another.
    assert check(None, DID.replace(":", "/")).path == DID.replace(":", "/")
    assert check("A,B", DID.replace(":", "/")).path == PATH
    for rse, path, words in (
        ("D", None, "/rse: 'D': this site has A, B, C"),
        ("", None, "this site has A, B, C"),
        ("A,A", None, "this site has A, B, C"),
        ("C", None, "/files/0/path: is needed: C has no layout"),
        ("A,B", "odd/place", "is not where testing:prepare_data_test.txt lies"),
    ):
        with pytest.raises(Invalid, match=words):
            check(rse, path)


def test_an_rse_without_a_layout_switches_no_check_off_for_the_mounted_one() -> None:
    site = submission(**HERE)
    assert site.check(caller(), [Item(DID, PATH, ".")], "/files", mounted=True)[0].rse is None
    with pytest.raises(Invalid, match="/files/0/path: 'odd/place' is not where"):
        site.check(caller(), [Item(DID, "odd/place", ".")], "/files", mounted=True)
    off = submission(**HERE, preparer_path_check="off")
    (file,) = off.check(caller(), [Item(DID, "odd/place", ".")], "/files")
    assert (file.rse, file.path) == (None, "odd/place")


@pytest.mark.parametrize(
    ("algorithm", "layouts", "path"),
    [
        ("hash", ["identity", "hash"], PATH),
        ("identity", ["hash", "identity"], DID.replace(":", "/")),
        # The site has no RSE that is laid out so.
        ("hash", ["none", "identity"], DID.replace(":", "/")),
    ],
)
def test_the_mounted_rse_has_a_layout_of_its_own(algorithm: str, layouts: list[str], path: str) -> None:
    rses = [
        {"name": f"R{number}", "url": f"https://r{number}.example", "layout": layout}
        for number, layout in enumerate(layouts)
    ]
    site = submission(preparer_rses=rses, preparer_path_algorithm=algorithm)
    for given in (None, PATH if "hash" in layouts else path):
        assert site.check(caller(), [Item(DID, given, ".")], "/files", mounted=True)[0].path == path


async def test_the_worker_asks_no_rse_with_a_layout_for_a_path_of_none() -> None:
    """Whatever is in the ledger by now."""
    odd: Any = SimpleNamespace(did=DID, path="odd/place", rse=None)
    usual: Any = SimpleNamespace(did=DID, path=PATH, rse="B,C")
    for check, names in (("strict", ["C"]), ("off", ["A", "B", "C"])):
        async with Rses(PreparerSettings(**HERE, preparer_path_check=check)) as rses:
            assert [rse.name for rse in rses.of(odd)] == names
            sources = [rse.source(usual) for rse in rses.of(usual)]
        assert sources == [f"https://b.example/d/{DID.replace(':', '/')}", f"https://c.example/d/{PATH}"]


async def test_waiting_for_a_free_connection_is_no_answer_overdue() -> None:
    async with Rses(PreparerSettings(**HERE)) as rses:
        for rse in rses.all:
            timeout = rse.element._session.timeout
            assert (timeout.total, timeout.connect) == (None, None)
            assert timeout.sock_connect
            assert timeout.sock_read


def test_the_mounted_rse_has_no_name() -> None:
    known = submission(supported_approaches=["cavern_api_approach", "symbolic_link"])
    assert known.approach("symbolic_link") == "symbolic_link"
    with pytest.raises(Invalid, match="/rse: symbolic_link takes files from the RSE that is mounted"):
        known.approach("symbolic_link", "default")


def test_rucio_is_asked_by_https() -> None:
    assert PreparerSettings(preparer_rucio_url="https://rucio.example/").preparer_rucio_url == (
        "https://rucio.example"
    )
    with pytest.raises(ValidationError, match="must be https, since secrets are sent there"):
        PreparerSettings(preparer_rucio_url="http://rucio.example/")


def test_the_seeds_setting_names_a_single_rse() -> None:
    (only,) = PreparerSettings(
        abs_url_rse_root="http://rse-web/rse/",
        preparer_sources=["http://pool/"],
        preparer_path_algorithm="identity",
    ).rses
    assert (only.name, only.url, only.redirects, only.layout, only.credential) == (
        "default",
        "http://rse-web/rse",
        ["http://pool/"],
        "identity",
        "none",
    )


async def test_a_task_that_waits_for_tape_has_begun_for_the_seeds_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = SimpleNamespace(
        state=TaskState.QUEUED, info="Waiting for files on tape", files=3, files_done=2, not_before=None
    )

    async def find(*_arguments: Any) -> Any:
        return task

    monkeypatch.setattr(legacy, "find", find)
    nothing: Any = None
    assert (await legacy.status(nothing, "id", nothing))["status"] == "PENDING"
    task.not_before = datetime.now(UTC)
    assert await legacy.status(nothing, "id", nothing) == {
        "status": "STARTED",
        "info": "2 of 3 files staged; Waiting for files on tape",
    }
