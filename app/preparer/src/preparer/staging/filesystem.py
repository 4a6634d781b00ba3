"""`copy_to_user_area` and `symbolic_link`, for sites that mount the RSE and the users' areas in the worker.

Every path is opened component by component without following symbolic links, so that a link planted in a user's area
has no effect. The user must have an area already: a mounted file system creates no allocations.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path

from voservice.content import Content
from voservice.digests import Digester
from vospace_client.errors import TransferError

from preparer.config import PreparerSettings
from preparer.ledger import File, FileState, Outcome, Task, expected
from preparer.staging.approach import (
    Approach,
    Job,
    Removal,
    StagingError,
    side_by_side,
    until_final,
)

CHUNK = 4 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FAULTS = {FileNotFoundError: "SourceNotFound", PermissionError: "PermissionDenied"}
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Errors of a network file system whose server, the RSE's or that of the users' areas, is unavailable.
_AWAY = {
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ESHUTDOWN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}
# Errors that may be transient.
_PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY}


@contextmanager
def directory(root: Path, parts: Sequence[str], owner: tuple[int, int] | None = None) -> Iterator[int]:
    """Open a directory below *root*; with *owner* (uid, gid), create missing ones for them. Yields its descriptor."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if owner is not None:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o770, dir_fd=current)
                    os.chown(part, *owner, dir_fd=current, follow_symlinks=False)
            following = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def same_bytes(parent: int, name: str, content: Content) -> bool:
    """Whether *name* in the directory *parent* is a regular file of this content; False if no checksum is known."""
    if not content.has_checksum:
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or content.size not in (None, status.st_size):
            return False
        found = Digester()
        while chunk := stream.read(CHUNK):
            found.update(chunk)
    return content.differs(found.content) is None


class FilesystemApproach(Approach):
    """Base of both approaches: paths, the user's area, and a thread for each file."""

    def __init__(self, settings: PreparerSettings) -> None:
        """Use the mounts that *settings* name."""
        self.settings = settings
        self.source = settings.abs_path_rse_root
        self.areas = settings.abs_path_user_area_root
        self.home = settings.preparer_home

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Stage every file, several at a time."""
        owner = await asyncio.to_thread(self._owner, job.task.username)

        async def one(file: File) -> None:
            if not job.cancelled.is_set():
                job.begin(file.path, file)
                await until_final(job, file, self.settings, partial(self._once, job, file, owner))

        await side_by_side(files, self.settings.preparer_file_concurrency, one)

    async def _once(self, job: Job, file: File, owner: tuple[int, int]) -> Outcome:
        try:
            return await asyncio.to_thread(self._stage, job, file, owner)
        except OSError as exc:
            raise _failure(file, exc) from exc

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        """Remove staged copies that the user has not changed."""
        removal = Removal()
        for file in files:
            try:
                if await asyncio.to_thread(self._remove, file):
                    removal.gone.append(file.number)
            except OSError:
                removal.later.append(file.number)
        return removal

    def _owner(self, username: str) -> tuple[int, int]:
        try:
            with directory(self.areas, [username]) as area:
                status = os.fstat(area)
        except OSError as exc:
            raise StagingError(
                "ContainerNotFound",
                f"{username} has no area on this site: {exc.strerror}",
                transient=exc.errno in _AWAY | _PASSING,
            ) from exc
        return status.st_uid, status.st_gid

    def _parts(self, target: str) -> list[str]:
        """Return the segments of a target below the mounted areas."""
        return target.removeprefix(self.home + "/").split("/")

    def _open_source(self, file: File) -> FileIO:
        # A name that begins with a slash has two of them before it, which are one to a file system.
        *parents, name = filter(None, file.path.split("/"))
        with directory(self.source, parents) as parent:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return FileIO(descriptor)

    def _remove(self, file: File) -> bool:
        """Remove a copy; False if the user has changed it. Raises `OSError`."""
        *parents, name = self._parts(file.target)
        try:
            with directory(self.areas, parents) as parent:
                if not self._ours(file, parent, name):
                    return False
                os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        return True

    @abstractmethod
    def _stage(self, job: Job, file: File, owner: tuple[int, int]) -> Outcome:
        """Stage one file for *owner* (uid, gid). Raises `OSError` and `TransferError`."""

    @abstractmethod
    def _ours(self, file: File, parent: int, name: str) -> bool:
        """Whether the target is unchanged since it was staged. Raises `FileNotFoundError`."""


def measure(job: Job, source: FileIO, copy: int | None = None) -> Digester:
    """Measure *source*, and write it to the descriptor *copy*. Raises `TransferError` on cancellation."""
    measured = Digester()
    while chunk := source.read(CHUNK):
        if job.cancelled.is_set():
            raise TransferError("Cancelled", "Cancelled while it was read")
        measured.update(chunk)
        view = memoryview(chunk)
        while copy is not None and view:
            view = view[os.write(copy, view) :]
    return measured


def _failure(file: File, exc: OSError) -> TransferError:
    fault = next((name for kind, name in _FAULTS.items() if isinstance(exc, kind)), "InternalFault")
    if exc.errno in _FULL:
        fault = "QuotaExceeded"
    return TransferError(
        fault,
        f"{file.path}: {exc.strerror}",
        transient=exc.errno in _PASSING,
        away="RSE" if exc.errno in _AWAY else None,
    )


def checked(file: File, found: Digester) -> Outcome:
    """Return the outcome for bytes that were read, compared with what the request states."""
    if (mismatch := expected(file).differs(found.content)) is not None:
        return Outcome(file.number, FileState.FAILED, fault=mismatch.fault, detail=mismatch.detail)
    return Outcome(file.number, FileState.STAGED, found.size, found.md5, found.adler32)


@contextmanager
def placing(job: Job, parent: int, name: str) -> Iterator[str]:
    """Yield a temporary name beside *name*; what a killed worker left there is removed before, the rest afterwards."""
    temporary = f".{name[:200]}.{job.task.id.hex[:8]}.part"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=parent)
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)


class CopyApproach(FilesystemApproach):
    """`copy_to_user_area`: copies a file to a temporary name, verifies it, and renames it into place."""

    def _stage(self, job: Job, file: File, owner: tuple[int, int]) -> Outcome:
        *parents, name = self._parts(file.target)
        with self._open_source(file) as source, directory(self.areas, parents, owner) as parent:
            if same_bytes(parent, name, expected(file)):
                return Outcome(file.number, FileState.PRESENT, file.size, file.md5, file.adler32)
            with placing(job, parent, name) as temporary:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                copy = os.open(temporary, flags, 0o660, dir_fd=parent)
                try:
                    outcome = checked(file, measure(job, source, copy))
                    os.fchown(copy, *owner)
                    os.fsync(copy)
                finally:
                    os.close(copy)
                if outcome.state == FileState.STAGED:
                    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                    os.fsync(parent)
            return outcome

    def _ours(self, file: File, parent: int, name: str) -> bool:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        return same_bytes(parent, name, Content(file.bytes, file.found_md5, file.found_adler32))


class LinkApproach(FilesystemApproach):
    """`symbolic_link`: links to the file on the RSE, after reading it once to verify it."""

    def _stage(self, job: Job, file: File, owner: tuple[int, int]) -> Outcome:
        *parents, name = self._parts(file.target)
        with self._open_source(file) as source:
            outcome = checked(file, measure(job, source))
        if outcome.state == FileState.STAGED:
            with directory(self.areas, parents, owner) as parent, placing(job, parent, name) as temporary:
                os.symlink(self.source / file.path, temporary, dir_fd=parent)
                os.chown(temporary, *owner, dir_fd=parent, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                os.fsync(parent)
        return outcome

    def _ours(self, file: File, parent: int, name: str) -> bool:
        try:
            return os.readlink(name, dir_fd=parent) == str(self.source / file.path)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # no link
                return False
            raise
