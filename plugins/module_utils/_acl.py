# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give one more user access to a directory, by POSIX access control lists (acl(5)). Private to the collection.

Lists are read and written in the form in which Linux keeps them, since the commands of the package acl are not on
every machine.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
READ, READ_AND_ENTER = 4, 5

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF

Entries = dict[tuple[int, int], int]
"""Permissions by tag and number."""


def _of_mode(mode: int) -> Entries:
    return {
        (_USER_OBJ, _NO_ID): mode >> 6 & 7,
        (_GROUP_OBJ, _NO_ID): mode >> 3 & 7,
        (_OTHER, _NO_ID): mode & 7,
    }


def _read(path: Path, name: str) -> Entries | None:
    try:
        raw = os.getxattr(path, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise
    return {(tag, number): bits for tag, bits, number in _ENTRY.iter_unpack(raw[len(_VERSION) :])}


def _wanted(path: Path, uid: int) -> dict[str, Entries]:
    """Return access and default list with entries that let the user read the directory and its future content."""
    access = _read(path, ACCESS) or _of_mode(stat.S_IMODE(path.stat().st_mode))
    default = _read(path, DEFAULT) or _of_mode(0o750)
    for entries in (access, default):
        entries[_USER, uid] = entries.get((_USER, uid), 0) | READ_AND_ENTER
        mask = entries.get((_MASK, _NO_ID), entries[_GROUP_OBJ, _NO_ID])
        entries[_MASK, _NO_ID] = mask | READ_AND_ENTER
    return {ACCESS: access, DEFAULT: default}


def may_read(path: Path, uid: int) -> bool:
    """Whether the user may read the directory and its future content by the lists, or the file system has none."""
    try:
        return all(_read(path, name) == entries for name, entries in _wanted(path, uid).items())
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return True
        raise


def let_read(path: Path, uid: int) -> None:
    """Let the user read the directory and its future content, without extending the access of others."""
    for name, entries in _wanted(path, uid).items():
        parts = [_ENTRY.pack(tag, bits, number) for (tag, number), bits in sorted(entries.items())]
        os.setxattr(path, name, _VERSION + b"".join(parts))
