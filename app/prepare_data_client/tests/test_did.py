"""DIDs, Rucio's deterministic paths, and paths that must stay where they are."""

from __future__ import annotations

import pytest
from prepare_data_client.did import DID, InvalidDID, InvalidPath, destination, relative

# The first three are paths of public files in SKA's data lake.
VECTORS = [
    ("testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt"),
    ("chocolate:pi24_run_1_cleaned_reupload.fits", "chocolate/da/56/pi24_run_1_cleaned_reupload.fits"),
    (
        "wallaby:WALLABY_J102418-264830_Hydra_TR2_mom0.fits",
        "wallaby/cc/b8/WALLABY_J102418-264830_Hydra_TR2_mom0.fits",
    ),
    ("user.jdoe:a.fits", "user/jdoe/0d/bf/a.fits"),
    ("group.phys.x:a/b.fits", "group/phys/x/c3/24/a/b.fits"),
]


@pytest.mark.parametrize(("did", "path"), VECTORS)
def test_hash_layout(did: str, path: str) -> None:
    assert DID.parse(did).path() == path


@pytest.mark.parametrize(
    ("did", "path"),
    [("testing:a.txt", "testing/a.txt"), ("user.jdoe:a.fits", "user/jdoe/a.fits"), ("x.y:a/b", "x.y/a/b")],
)
def test_identity_layout(did: str, path: str) -> None:
    assert DID.parse(did).path("identity") == path


@pytest.mark.parametrize("scope", ["users_x.y", "groupie.z"])
def test_scope_prefix_is_literal(scope: str) -> None:
    assert DID.parse(f"{scope}:a").path("identity") == f"{scope.replace('.', '/')}/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noscope",
        ":name",
        "scope:",
        "a:b:c",
        "sc ope:x",
        "scope:na me",
        "scope:a%2e",
        "s" * 26 + ":x",
        "scope:" + "n" * 251,
        "..:x",
        "scope:../x",
        "scope:a/../b",
        "scope:a//b",
        "scope:-x",
        "scope:x\n",
        "scöpe:x",
    ],
)
def test_malformed_did_is_named(text: str) -> None:
    with pytest.raises(InvalidDID) as refused:
        DID.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a?b",
        "a#b",
        "a/%2e%2E/b",
        "a%2Fb",
        "a\0b",
    ],
)
def test_path_may_not_leave(text: str) -> None:
    with pytest.raises(InvalidPath):
        relative(text)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("./testing", ("testing",)),
        ("testing/", ("testing",)),
        ("./a/b", ("a", "b")),
        (".", ()),
        ("./", ()),
    ],
)
def test_destination(text: str, segments: tuple[str, ...]) -> None:
    assert destination(text) == segments


@pytest.mark.parametrize("text", ["", " ", "/home/x", "..", "./../x", "a/../../b", "/"])
def test_destination_may_not_leave(text: str) -> None:
    with pytest.raises(InvalidPath):
        destination(text)
