"""Names are taken as they are, once: what one check admits, all admit, and nothing reads a name twice."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prepare_data_client.did import DID, UNPRINTABLE, InvalidDID, InvalidPath, destination
from prepare_data_client.items import from_json
from preparer.api.submission import Item, Submission
from preparer.config import PreparerSettings
from preparer.ledger import NewFile
from preparer.staging.rse import Rse
from vospace.models.uri import Naming, check_name
from vospace_client.client import Cavern

NAMES = (
    st.one_of(st.text(min_size=1, max_size=40), st.text("%+?#;&= \"'<>é\u0301~.", min_size=1, max_size=12))
    .map(lambda text: UNPRINTABLE.sub("", text).replace("/", ""))
    .filter(lambda name: name.strip() and name not in {".", ".."})
)
DIDS = st.builds(
    "{}:{}".format,
    st.from_regex(r"[A-Za-z0-9_.-]{1,25}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9/][A-Za-z0-9_./-]{0,30}", fullmatch=True),
)
WHO: Any = SimpleNamespace(identity=SimpleNamespace(username="ada"))


def submitted(item: Item, **settings: Any) -> NewFile:
    shared: Any = SimpleNamespace(settings=PreparerSettings(**settings))
    (file,) = Submission(shared).check(WHO, [item], "/files")
    return file


@given(names=st.lists(NAMES, min_size=1, max_size=4))
@example(names=["a%41"])
@example(names=["%2e%2e", "%2F", "%"])
@example(names=[" x "])
@example(names=["e\u0301", "é"])
def test_any_name_of_a_directory_lands_under_that_name(names: list[str]) -> None:
    for text in ("./" + "/".join(names), "/".join(names) + "/"):
        assert destination(text) == tuple(names)
        file = submitted(Item("s:f", None, text))
        assert file.target == "/".join(["/home/ada", *names, "f"])
    cavern = Cavern("http://cavern", "vos://opencadc.org~cavern", session=None)
    path = tuple(file.target[1:].split("/"))
    # What the service makes of it.
    assert Naming("ivo://opencadc.org/cavern").path(cavern.uri(file.target)) == path
    for made in (cavern.node_url(file.target), cavern.file_url(file.target)):
        raw = urlsplit(str(made))
        assert (raw.query, raw.fragment) == ("", "")
        assert unquote(raw.path).partition("/home/")[2] == file.target.removeprefix("/home/")
        assert ";" not in raw.path
    for name in names:
        if not name.startswith(".vospace-"):
            assert check_name(name) == name


@given(did=DIDS)
@example(did="scope:/lead/c.fits")
@example(did="user.ada:/c.fits")
@example(did="scope://c.fits")
@example(did="scope:/")
@example(did="scope:a/")
@example(did="scope:a//b")
def test_what_one_check_of_a_did_admits_all_admit(did: str) -> None:
    try:
        parsed = DID.parse(did)
    except InvalidDID:
        with pytest.raises(Exception, match="did"):
            submitted(Item(did, None, "."))
        return
    for path in (None, parsed.path(), parsed.path().removesuffix(parsed.name) + parsed.name.lstrip("/")):
        assert submitted(Item(did, path, ".")).path == parsed.path()
        assert submitted(Item(did, path, "."), preparer_path_check="off").path == (path or parsed.path())
        assert from_json({"did": did, "path": path}, "hash").path == (path or parsed.path())
        json.dumps(from_json([did, path or parsed.path(), "."], "hash").document())
    assert submitted(Item(did, None, ".")).target == f"/home/ada/{parsed.name.lstrip('/')}"


def test_the_path_of_a_name_that_begins_with_a_slash_is_rucios() -> None:
    did = DID.parse("scope:/lead/c.fits")
    assert did.path("identity") == "scope//lead/c.fits"
    assert did.path().startswith("scope/")
    assert did.path().endswith("//lead/c.fits")
    nothing: Any = None
    rse = Rse(PreparerSettings(abs_url_rse_root="http://rse/d").rses[0], nothing)
    assert rse.url(did.path()) == f"http://rse/d/{did.path()}"
    for wrong in ("scope//x/c.fits", "scope/..//lead/c.fits", "//lead/c.fits", "/lead/c.fits"):
        with pytest.raises(InvalidPath):
            did.check(wrong)


@pytest.mark.parametrize("character", ["\\", "\x00", "\x1f", "\x7f", "\x85", "\ud800", "\uffff"])
def test_what_no_name_can_hold_is_refused(character: str) -> None:
    with pytest.raises(InvalidPath, match="must not hold"):
        destination(f"./a{character}b")
