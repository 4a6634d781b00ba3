"""Identities of files, which stay unique even if a later file gets the same inode number.

An identity is the inode number with the time of birth (statx(2)), or on file systems without the latter the file handle
(name_to_handle_at(2)), which contains the inode's generation. Both stay the same when a file is renamed or written.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH = 0x1000
_STATX_INO, _STATX_BTIME = 0x100, 0x800
_STATX = struct.Struct("=I28xQ40xqI164x")
"""Mask, inode number, and seconds and nanoseconds of birth in struct statx (256 bytes)."""
_HANDLE_BYTES = 128
_HANDLE = struct.Struct("=Ii")
_OF_FUSE = (0x81, 0x82)
"""Types of handles of user-space file systems, which are not valid beyond a mount."""


class NoIdentity(OSError):
    """The file system provides nothing that distinguishes a file from a later one."""


def identity(descriptor: int) -> str:
    """Return the identity as hexadecimal digits. Raises NoIdentity."""
    born = _birth(descriptor)
    known = born if born is not None else _handle(descriptor)
    return hashlib.sha256(known).hexdigest()[:40]


def _birth(descriptor: int) -> bytes | None:
    buffer = ctypes.create_string_buffer(_STATX.size)
    if _libc.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_INO | _STATX_BTIME, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    mask, inode, seconds, nanoseconds = _STATX.unpack(buffer.raw)
    if not mask & _STATX_BTIME or not (seconds or nanoseconds):
        return None
    return f"birth {inode} {seconds} {nanoseconds}".encode()


def _handle(descriptor: int) -> bytes:
    buffer = ctypes.create_string_buffer(_HANDLE.size + _HANDLE_BYTES)
    _HANDLE.pack_into(buffer, 0, _HANDLE_BYTES, 0)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(descriptor, b"", buffer, ctypes.byref(mount), _AT_EMPTY_PATH) != 0:
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.ENOSYS):
            raise NoIdentity(code, "the file system provides neither birth times nor file handles")
        raise OSError(code, os.strerror(code))
    size, kind = _HANDLE.unpack_from(buffer)
    if kind in _OF_FUSE:
        raise NoIdentity(errno.EOPNOTSUPP, "the file system's handles are valid only until it is unmounted")
    return f"handle {kind} ".encode() + buffer.raw[_HANDLE.size : _HANDLE.size + size]
