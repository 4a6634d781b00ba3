# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles: an archive with its contents in front and its checksum beside it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._images import bundle as _bundle

CONTENTS = {"architecture": "amd64", "images": {"cavern/proxy:local": {"id": "sha256:1", "inputs": "2"}}}


def _saved() -> bytes:
    """An archive as the Engine writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"[]"))
    return buffer.getvalue()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "new/directory/images.tar"
    saved = _saved()
    _bundle.write(path, CONTENTS, iter([saved[:700], saved[700:]]))
    return path


def test_contents_come_first_and_the_engines_files_follow(bundle: Path) -> None:
    assert _bundle.contents(bundle) == CONTENTS
    with tarfile.open(bundle) as archive:
        assert archive.getnames() == [_bundle.CONTENTS, "manifest.json"]
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["images.tar", "images.tar.sha256"]


def test_compressed_bundle_is_read_as_well(bundle: Path) -> None:
    gzip = shutil.which("gzip")
    assert gzip
    subprocess.run([gzip, bundle], check=True)
    assert _bundle.contents(bundle.with_suffix(".tar.gz")) == CONTENTS


def test_checksum_is_that_of_sha256sum(bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "images.tar.sha256"], cwd=bundle.parent, check=True)
    _bundle.verify(bundle)


def test_damaged_bundle_is_refused(bundle: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[1000] ^= 1
    bundle.write_bytes(data)
    with pytest.raises(
        _bundle.BundleError, match=r"images\.tar differs from images\.tar\.sha256: copy it again"
    ):
        _bundle.verify(bundle)


def test_bundle_without_checksum_is_taken(bundle: Path) -> None:
    _bundle.checksum_path(bundle).unlink()
    _bundle.verify(bundle)


def test_archive_of_other_origin_has_no_contents(tmp_path: Path) -> None:
    (tmp_path / "other.tar").write_bytes(_saved())
    assert _bundle.contents(tmp_path / "other.tar") is None


def test_missing_and_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(_bundle.BundleError, match=r"images\.tar does not exist on this host"):
        _bundle.contents(tmp_path / "images.tar")
    (tmp_path / "images.tar").write_text("no archive")
    with pytest.raises(_bundle.BundleError, match=r"images\.tar is no archive of images"):
        _bundle.contents(tmp_path / "images.tar")


def test_broken_transfer_leaves_the_older_bundle(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.parent.iterdir()}

    def ends_early() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        _bundle.write(bundle, CONTENTS, ends_early())
    assert {path.name: path.read_bytes() for path in bundle.parent.iterdir()} == before
