# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of images for machines without a network. Private to the collection.

A bundle is what `docker save` writes, with one more file in front that lists the images, so that it can be read
without reading the rest; `docker load` takes it as it is. Beside it lies its checksum as `sha256sum` writes it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _files

CONTENTS = "cavern-images.json"
_CHUNK = 1 << 20


class BundleError(Exception):
    """A bundle cannot be used; the message names the file and says why."""


def write(path: Path, contents: dict[str, Any], stream: Iterable[bytes]) -> None:
    """Write bundle and checksum; an older bundle stays until the new one is complete."""
    _files.make_directory(path.parent)
    staged = path.with_name(f".{path.name}.new")
    digest = hashlib.sha256()
    try:
        with staged.open("wb") as target:
            for chunk in itertools.chain([_leading_member(contents)], stream):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        _files.take_ownership(staged, _files.owner_of(path.parent))
        # A checksum without its bundle refuses it, a bundle without its checksum would not be checked.
        _files.write_atomic(checksum_path(path), f"{digest.hexdigest()}  {path.name}\n".encode(), 0o644)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def contents(path: Path) -> dict[str, Any] | None:
    """Return the list of images, None for an archive without one."""
    try:
        with tarfile.open(path, "r|*") as archive:
            member = archive.next()
            content = archive.extractfile(member) if member and member.name == CONTENTS else None
            found: dict[str, Any] | None = json.load(content) if content else None
            return found
    except FileNotFoundError as error:
        raise BundleError(f"bundle: {path} does not exist on this host") from error
    except (tarfile.TarError, ValueError) as error:
        raise BundleError(f"bundle: {path} is no archive of images: {error}") from error


def verify(path: Path) -> None:
    """Verify the bundle by the checksum beside it, if there is one. Raises BundleError."""
    recorded = _files.read_bytes(checksum_path(path))
    if recorded is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != recorded.decode("ascii", "replace").split(" ")[0]:
        raise BundleError(f"bundle: {path} differs from {checksum_path(path).name}: copy it again")


def checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _leading_member(contents: dict[str, Any]) -> bytes:
    data = (json.dumps(contents, indent=2, sort_keys=True) + "\n").encode()
    member = tarfile.TarInfo(CONTENTS)
    member.size = len(data)
    # Without the mark of an archive's end: the other files follow.
    return member.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)
