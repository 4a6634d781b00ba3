"""The commands of the Python package vos, each as its users use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deployment import playbook

BIG = 6 << 20
"""Beyond the size up to which the client states the checksum itself."""


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("size", [0, 17, BIG])
def test_vcp_both_ways(
    shell: Any, home: str, make: Callable[[str, int], Path], tmp_path: Path, size: int
) -> None:
    sent = make("sent", size)
    shell.run("vcp", str(sent), f"{home}/file")
    listing = shell.run("vls", "-l", f"{home}/file")
    assert str(size) in listing.split()
    received = tmp_path / "received"
    shell.run("vcp", f"{home}/file", str(received))
    assert received.read_bytes() == sent.read_bytes()
    shell.run("vcp", str(make("sent", size + 1)), f"{home}/file")
    assert str(size + 1) in shell.run("vls", "-l", f"{home}/file").split()


def test_vcp_and_vsync_of_a_directory(
    shell: Any, home: str, make: Callable[[str, int], Path], tmp_path: Path
) -> None:
    for name in ("tree/a", "tree/x/b", "tree/x/y/c"):
        make(name, 1000)
    shell.run("vcp", str(tmp_path / "tree"), f"{home}/")
    (tmp_path / "down").mkdir()
    shell.run("vcp", f"{home}/tree", str(tmp_path / "down"))
    assert tree(tmp_path / "down/tree") == tree(tmp_path / "tree")
    make("tree/x/b", 2000)
    shell.run("vsync", "-r", str(tmp_path / "tree"), home)
    shell.run("vcp", f"{home}/tree/x/b", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "tree/x/b").read_bytes()


def test_vmv(shell: Any, home: str, make: Callable[[str, int], Path], tmp_path: Path) -> None:
    shell.run("vcp", str(make("file", 100)), f"{home}/old")
    shell.run("vmkdir", f"{home}/box")
    shell.run("vmv", f"{home}/old", f"{home}/new")
    shell.run("vmv", f"{home}/new", f"{home}/box")
    assert shell.run("vls", f"{home}/box").split()[-1] == "new"
    shell.run("vmv", f"{home}/none", f"{home}/box", status=2)


def test_vln_vcat_and_vrm(shell: Any, home: str, make: Callable[[str, int], Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("some words")
    shell.run("vcp", str(tmp_path / "text"), f"{home}/file")
    shell.run("vln", f"{home}/file", f"{home}/link")
    assert "link -> " in shell.run("vls", "-l", home)
    shell.run("vcp", "-L", f"{home}/link", str(tmp_path / "through"))
    assert (tmp_path / "through").read_text() == "some words"
    for node in (home, f"{home}/file"):
        shell.run("vchmod", "o+r", node)
    assert "some words" in shell.run("vcat", f"{home}/file", anonymous=True)
    shell.run("vrm", f"{home}/link")
    assert "file" in shell.run("vls", home)
    shell.run("vrm", f"{home}/file")
    shell.run("vrm", f"{home}/file", status=2)


def test_vrmdir_and_recursive_vrm(shell: Any, home: str, make: Callable[[str, int], Path]) -> None:
    shell.run("vmkdir", "-p", f"{home}/a/b/c")
    shell.run("vcp", str(make("file", 10)), f"{home}/a/b/c/file")
    assert "not empty" in shell.run("vrmdir", f"{home}/a", status=255)
    shell.run("vrm", "-R", f"{home}/a")
    assert shell.run("vls", home).split()[-1:] != ["a"]
    shell.run("vmkdir", f"{home}/d")
    shell.run("vrmdir", f"{home}/d")


def test_vchmod_and_vtag(shell: Any, home: str, make: Callable[[str, int], Path]) -> None:
    shell.run("vmkdir", f"{home}/box")
    shell.run("vcp", str(make("file", 10)), f"{home}/box/file")
    shell.run("vtag", f"{home}/box/file", "quality=good")
    assert "good" in shell.run("vtag", f"{home}/box/file", "quality")
    shell.run("vtag", "--remove", f"{home}/box/file", "quality")
    assert "good" not in shell.run("vtag", f"{home}/box/file")
    shell.run("vchmod", "-R", "o+r", f"{home}/box")
    assert "-rw----r--" in shell.run("vls", "-l", f"{home}/box")
    shell.run("vchmod", "-R", "o-r", f"{home}/box")
    assert "-rw-------" in shell.run("vls", "-l", f"{home}/box")


def test_vlock(shell: Any, home: str, make: Callable[[str, int], Path]) -> None:
    shell.run("vcp", str(make("file", 10)), f"{home}/file")
    shell.run("vlock", f"{home}/file", "--lock")
    shell.run("vlock", f"{home}/file")
    assert "NodeLocked" in shell.run("vcp", str(make("other", 20)), f"{home}/file", status=1)
    shell.run("vlock", f"{home}/file", "--unlock")
    shell.run("vcp", str(make("other", 20)), f"{home}/file")


def test_with_a_certificate(shell: Any, home: str, make: Callable[[str, int], Path], tmp_path: Path) -> None:
    """All commands that read and write, as the user whom the certificate names."""
    playbook("playbooks/client_certificate.yml", "-e", f"user={shell.user}")
    certificate = shell.stack.state / f"certs/clients/{shell.user}.pem"
    for size in (17, BIG):
        sent = make("sent", size)
        shell.run("vcp", str(sent), f"{home}/file", certificate=certificate)
        shell.run("vcp", f"{home}/file", str(tmp_path / "received"), certificate=certificate)
        assert (tmp_path / "received").read_bytes() == sent.read_bytes()
        (tmp_path / "received").unlink()
    assert shell.user in shell.run("vls", "-l", home, certificate=certificate)
    shell.run("vmkdir", f"{home}/box", certificate=certificate)
    shell.run("vmv", f"{home}/file", f"{home}/box", certificate=certificate)
    shell.run("vrm", "-R", f"{home}/box", certificate=certificate)
    assert shell.run("vls", home).split() == []


def test_what_is_not_there_and_not_allowed(shell: Any, home: str, make: Callable[[str, int], Path]) -> None:
    assert "NodeNotFound" in shell.run("vls", f"{home}/none", status=2)
    shell.run("vmkdir", home, status=17)
    shell.run("vcp", str(make("file", 10)), f"{home}/file")
    assert shell.run("vls", home, anonymous=True).split() == []
    assert "PermissionDenied" in shell.run("vcat", f"{home}/file", anonymous=True, status=147)


def test_a_long_listing(shell: Any, home: str, stack: Any) -> None:
    """More than one page of our listing, in one piece."""
    session = stack.session(shell.user)
    for number in range(1100):
        url = f"{stack.url}/src/cavern/files/home/{shell.user}/{number:04d}"
        session.put(url, data=b"", timeout=30).raise_for_status()
    assert [word for word in shell.run("vls", home).split() if word.isdigit()] == [
        f"{n:04d}" for n in range(1100)
    ]
