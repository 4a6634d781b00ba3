"""System calls of Linux that Python's os module lacks."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

_libc = ctypes.CDLL(None, use_errno=True)
_NOREPLACE = 1
_RANGE_WRITE = 2


def rename_new(source: str, target: str, *, source_dir: int, target_dir: int) -> None:
    """Rename atomically. Raises FileExistsError instead of replacing an existing file; on file systems that cannot
    do so by themselves, such as NFS and CephFS, it takes the lock on the new name to be sure of it."""
    result = _libc.renameat2(source_dir, os.fsencode(source), target_dir, os.fsencode(target), _NOREPLACE)
    if result == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot
        try:
            os.stat(target, dir_fd=target_dir, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return
        code = errno.EEXIST
    raise OSError(code, os.strerror(code), target)


@contextmanager
def closed_on_error(descriptor: int) -> Iterator[None]:
    """Close the descriptor if the block raises. Even fstat(2) does, see `is_gone`."""
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def is_gone(error: OSError) -> bool:
    """Return whether the file is not there any more. A file system that machines share tells so even of a file that is
    open, when another machine removed it."""
    return error.errno in (errno.ENOENT, errno.ESTALE)


def sync_file_system(descriptor: int) -> None:
    """Make all writes to the descriptor's file system durable. Raises OSError if that failed."""
    if _libc.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def begin_write_out(descriptor: int, offset: int, length: int) -> None:
    """Start writing a range to disk, so that a later fsync has less to write; a hint without guarantee
    (sync_file_range(2))."""
    _libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _RANGE_WRITE)


def bypass_cache(descriptor: int, bypass: bool) -> bool:
    """Enable or disable O_DIRECT for the descriptor; return whether it is enabled."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if bypass else flags & ~os.O_DIRECT)
    except OSError:  # a file system without it
        return False
    return bypass
