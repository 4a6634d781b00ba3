# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files atomically. Private to the collection.

New files and directories belong to the owner of the directory that holds them: a checkout of a user who
deploys through sudo stays that user's.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def owner_of(directory: Path) -> tuple[int, int]:
    """Return uid and gid for a new file in `directory`: those of it or its nearest existing parent."""
    while not directory.exists():
        directory = directory.parent
    status = directory.stat()
    return status.st_uid, status.st_gid


def take_ownership(path: Path, owner: tuple[int, int]) -> None:
    """Set the owner of `path` if this is root; another user's new file is their own already."""
    if os.geteuid() == 0:
        os.chown(path, *owner)


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a file, None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def mode_of(path: Path) -> int | None:
    """Return the permission bits of a file, None if there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def write_atomic(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` in one step: stage beside it, flush to disk, rename."""
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(staged, mode)
        take_ownership(Path(staged), owner_of(path.parent))
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def make_directory(path: Path, mode: int = 0o755) -> list[Path]:
    """Create `path` and its missing parents; return those created, outermost first."""
    missing: list[Path] = []
    ancestor = path
    while not ancestor.exists():
        missing.insert(0, ancestor)
        ancestor = ancestor.parent
    for directory in missing:
        owner = owner_of(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(mode if directory == path else 0o755)
        take_ownership(directory, owner)
    return missing


def hand_over(directory: Path, former: int, owner: int) -> None:
    """Give `owner` what `former` owns below the directory, and last the directory itself, which marks completion."""
    for parent, directories, files in os.walk(directory, topdown=False):
        for name in (*directories, *files):
            _hand_over(os.path.join(parent, name), former, owner)
    _hand_over(str(directory), former, owner)


def _hand_over(path: str, former: int, owner: int) -> None:
    status = os.lstat(path)
    if status.st_uid == former:
        os.lchown(path, owner, owner if status.st_gid == former else -1)
