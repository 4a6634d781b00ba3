"""Files that become visible only when complete.

A staged file has no name while it is written (O_TMPFILE), so that nothing is left when the process dies. On file
systems without this feature, it has a reserved name in the target's directory and is locked, as is a file that is about
to replace another. Directories and links are built under a reserved name that is locked before they are there
(`Locks.building`). Leftovers of dead processes are recognised by the free lock.

A file whose bytes come from elsewhere may be kept (`StagedFile.keep`): it gets a reserved name that its job finds again
in another process, and a note of what the bytes are. Such leftovers stay for a day.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from vospace.models.errors import DuplicateNode
from vospace.models.uri import STAGING_PREFIX
from vospace.storage import attributes, posix_acl
from vospace.storage.locks import Locks
from vospace.storage.system_calls import closed_on_error, is_gone, rename_new
from vospace.storage.tree import Directory

logger = logging.getLogger(__name__)
_KEPT = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LEFTOVER = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
KEPT_PREFIX = f"{STAGING_PREFIX}kept-"
KEPT_SECONDS = 86_400.0
"""How long nobody need continue a kept file before it is a leftover like others."""
_NOTE = "user.vospace-kept"
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class _Inherited(NamedTuple):
    """What a file takes over from the one that it replaces."""

    uid: int
    gid: int
    mode: int
    acl: bytes | None
    properties: Mapping[str, str]


class StagedFile:
    """A file being written, open as `descriptor`. Steps: write, `own`, `sync`, `place`; `close` in any case."""

    __slots__ = ("_directory", "_inherited", "_kept", "_temporary", "descriptor", "note")

    def __init__(self, directory: Directory, kept: str | None = None) -> None:
        """`directory` must stay open until the file is placed.

        With the key of a *kept* file that another process has left, it is that file, and `note` says what is in it.
        """
        self._directory = directory
        self._temporary: str | None = None
        self._inherited: _Inherited | None = None
        self._kept = False
        self.note: bytes | None = None
        if kept is not None and self._open_kept(KEPT_PREFIX + kept):
            return
        # With a default ACL on the directory this is a mask on the inherited permissions, otherwise the mode.
        mode = 0o666 if directory.default_acl is not None else 0o660
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.descriptor = os.open(".", flags | os.O_TMPFILE, mode, dir_fd=directory.descriptor)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            self._temporary, self.descriptor = _create_locked(directory.descriptor, flags, mode)

    def _open_kept(self, name: str) -> bool:
        """Take over the file of that name, if there is one that nobody is writing and only this service has made."""
        try:
            descriptor = os.open(name, _KEPT, dir_fd=self._directory.descriptor)
        except OSError:  # none, or a link or directory of somebody else's
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or (found.st_uid, found.st_nlink) != (os.geteuid(), 1):
                raise PermissionError
            self.note = os.getxattr(descriptor, _NOTE)
        except OSError:
            os.close(descriptor)
            return False
        self.descriptor, self._temporary, self._kept = descriptor, name, True
        return True

    def keep(self, key: str, note: bytes) -> None:
        """Let a process that comes after this one continue the file: it finds it by *key*, with this note.

        Where the file system has no extended attributes, or something else has the name, it is not kept.
        """
        name = KEPT_PREFIX + key
        try:
            if self._temporary is None:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX)
                self._link(name)
            elif self._temporary != name:
                directory = self._directory.descriptor
                rename_new(self._temporary, name, source_dir=directory, target_dir=directory)
            self._temporary = name
            os.setxattr(self.descriptor, _NOTE, note)
            self._kept = True
        except OSError as error:
            logger.info("a file that is being fetched is not kept: %s", error.strerror)

    def forget_note(self) -> None:
        """Remove the note, without which nobody continues the file: it is whole, or begun anew."""
        if not self._kept:
            return
        self._kept = False
        try:
            os.removexattr(self.descriptor, _NOTE)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def own(self, uid: int, gid: int, properties: Mapping[str, str | None]) -> None:
        """Set owner and properties."""
        os.fchown(self.descriptor, uid, gid)
        self._directory.properties.write(self.descriptor, properties)

    def inherit(self, name: str, *, properties: bool) -> bool:
        """Copy owner, permissions and, if requested, properties (except those of the content) from the file to be
        replaced; return False if there is none, or if they are as they were at the last copy."""
        try:
            old = self._directory.open_file(name)
        except FileNotFoundError:
            return False
        try:
            return self._inherit(old, properties=properties)
        except OSError as error:
            if not is_gone(error):
                raise
            return False
        finally:
            os.close(old)

    def _inherit(self, old: int, *, properties: bool) -> bool:
        kept, status = self._directory.properties.read(old) if properties else ({}, os.fstat(old))
        found = _Inherited(
            status.st_uid,
            status.st_gid,
            stat.S_IMODE(status.st_mode) & 0o777,
            posix_acl.read(old, posix_acl.ACCESS),
            {key: value for key, value in kept.items() if key not in attributes.OF_CONTENT},
        )
        # Not by the file's times: they are coarse, and properties beside the file do not change them.
        before, self._inherited = self._inherited, found
        if found == before:
            return False
        os.fchown(self.descriptor, found.uid, found.gid)
        if found.acl is None:
            # What it inherited from its directory.
            posix_acl.remove(self.descriptor, posix_acl.ACCESS)
        else:
            os.setxattr(self.descriptor, posix_acl.ACCESS, found.acl)
        os.fchmod(self.descriptor, found.mode)
        gone = before.properties.keys() - found.properties.keys() if before is not None else ()
        self._directory.properties.write(self.descriptor, {**found.properties, **dict.fromkeys(gone)})
        return True

    def sync(self) -> None:
        """Make bytes and attributes durable."""
        os.fsync(self.descriptor)

    @property
    def stamp(self) -> list[int]:
        """Inode, size in bytes and modification time in ns of this file, the same before and after placing."""
        found = os.fstat(self.descriptor)
        return [found.st_ino, found.st_size, found.st_mtime_ns]

    def place(self, name: str) -> None:
        """Give it its name, atomically. Raises DuplicateNode if the name is taken."""
        directory = self._directory.descriptor
        try:
            if self._temporary is None:
                self._link(name)
            else:
                rename_new(self._temporary, name, source_dir=directory, target_dir=directory)
                self._temporary = None
        except FileExistsError:
            raise DuplicateNode("/" + "/".join((*self._directory.path, name))) from None

    def replace(self, name: str) -> None:
        """Replace the file of that name, atomically."""
        directory = self._directory.descriptor
        if self._temporary is None:
            # Locked before it has a name, so that a concurrent sweep does not remove it.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            temporary = temporary_name()
            self._link(temporary)
            self._temporary = temporary
        with self._directory.taking_away(name):
            os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        self._temporary = None

    def _link(self, name: str) -> None:
        source = f"/proc/self/fd/{self.descriptor}"
        os.link(source, name, dst_dir_fd=self._directory.descriptor, follow_symlinks=True)

    def close(self, *, keep: bool = False) -> None:
        """Discard the file unless it was placed, or is to be kept and can be."""
        if self.descriptor < 0:
            return
        if self._temporary is not None and not (keep and self._kept):
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._directory.descriptor)
            self._temporary = None
        try:
            self._directory.properties.of_unnamed(self.descriptor)
        finally:
            os.close(self.descriptor)
            self.descriptor = -1


def is_kept(directory: Directory, key: str) -> bool:
    """Return whether a process has left a file with that key."""
    return directory.stat(KEPT_PREFIX + key) is not None


def make_link(locks: Locks, directory: Directory, name: str, text: str, owner: tuple[int, int]) -> None:
    """Create a symbolic link that has its owner as soon as it is visible; the caller holds the lock on its name. Raises
    FileExistsError."""
    descriptor = directory.descriptor
    with locks.building() as temporary:
        os.symlink(text, temporary, dir_fd=descriptor)
        try:
            os.chown(temporary, *owner, dir_fd=descriptor, follow_symlinks=False)
            rename_new(temporary, name, source_dir=descriptor, target_dir=descriptor)
        except BaseException:
            os.unlink(temporary, dir_fd=descriptor)
            raise


def sweep(locks: Locks, directory: Directory, *, kept: float = KEPT_SECONDS) -> int:
    """Remove leftovers of dead processes in a directory, and files that nobody has continued for *kept* seconds; return
    their number."""
    removed = 0
    with os.scandir(directory.descriptor) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(STAGING_PREFIX)]
    for name in names:
        with locks.unused(name) as dead, suppress(BlockingIOError, FileNotFoundError):
            removed += dead and _remove(directory.descriptor, name, kept)
    return removed


def _remove(directory: int, name: str, kept: float) -> bool:
    """Remove a leftover, but not what nobody stages. Raises BlockingIOError for a file that is being written."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG:
        if name.startswith(KEPT_PREFIX) and time.time() - found.st_mtime < kept:
            return False
        descriptor = os.open(name, _LEFTOVER, dir_fd=directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(descriptor)
    elif kind == stat.S_IFDIR:
        shutil.rmtree(name, dir_fd=directory)
    elif kind == stat.S_IFLNK:
        os.unlink(name, dir_fd=directory)
    else:
        return False
    return True


def _create_locked(directory: int, flags: int, mode: int) -> tuple[str, int]:
    """Create a file under a reserved name and lock it; return the name and the descriptor.

    If `sweep` removes it before it is locked, another one is created.
    """
    while True:
        name = temporary_name()
        descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=directory)
        with closed_on_error(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return name, descriptor
        os.close(descriptor)


def temporary_name() -> str:
    """Return an unused reserved name."""
    return STAGING_PREFIX + secrets.token_hex(12)
