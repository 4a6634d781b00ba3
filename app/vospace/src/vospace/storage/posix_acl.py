"""POSIX access control lists in the format of Linux's `system.posix_acl_*` attributes (acl(5))."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from vospace.models.errors import InvalidArgument

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

READ, WRITE, EXECUTE = 4, 2, 1

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def remove(descriptor: int, name: str) -> None:
    """Remove a list, if there is one."""
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


def write(descriptor: int, name: str, acl: Acl) -> None:
    """Set a list. Raises InvalidArgument if the file system has no ACLs, or no space for this one."""
    try:
        os.setxattr(descriptor, name, acl.encode())
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG, errno.ERANGE):
            raise InvalidArgument(f"permissions of groups cannot be stored: {error.strerror}") from error
        raise


def read(descriptor: int, name: str) -> bytes | None:
    """Return a list as it is stored, None if there is none."""
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return None


@dataclass(frozen=True, slots=True)
class Acl:
    """Permission bits; `groups` are those of named groups by gid, already masked on reading."""

    user: int
    group: int
    other: int
    groups: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of_mode(cls, mode: int) -> Acl:
        return cls(mode >> 6 & 7, mode >> 3 & 7, mode & 7)

    @classmethod
    def decode(cls, raw: bytes) -> Acl:
        """Raises ValueError for anything but a list of version 2."""
        if len(raw) < _HEADER.size or _HEADER.unpack_from(raw)[0] != _VERSION or (len(raw) - 4) % _ENTRY.size:
            raise ValueError("not a POSIX ACL of version 2")
        user = group = other = 0
        mask = 7
        groups: dict[int, int] = {}
        for tag, permissions, qualifier in _ENTRY.iter_unpack(raw[_HEADER.size :]):
            match tag:
                case 0x01:
                    user = permissions
                case 0x04:
                    group = permissions
                case 0x08:
                    groups[qualifier] = permissions
                case 0x10:
                    mask = permissions
                case 0x20:
                    other = permissions
        return cls(user, group & mask, other, {gid: bits & mask for gid, bits in groups.items()})

    def encode(self) -> bytes:
        entries = [(_USER_OBJ, self.user, _NO_ID), (_GROUP_OBJ, self.group, _NO_ID)]
        entries += [(_GROUP, bits, gid) for gid, bits in sorted(self.groups.items())]
        if self.groups:
            mask = self.group
            for bits in self.groups.values():
                mask |= bits
            entries.append((_MASK, mask, _NO_ID))
        entries.append((_OTHER, self.other, _NO_ID))
        return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)

    @property
    def mode(self) -> int:
        """The nine permission bits; with named groups the middle three are the mask."""
        group = self.group
        for bits in self.groups.values():
            group |= bits
        return self.user << 6 | group << 3 | self.other
