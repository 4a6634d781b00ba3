"""``copy_to_user_area`` and ``symbolic_link``, for sites that mount the RSE and the users' areas in the worker.

Every path is walked by directory descriptors that follow no symbolic link, so that a link planted in a user's area
leads nowhere. The user must have an area already: a mounted file system makes no allocations.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import uuid
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from preparer.approaches.base import Approach, Job, StagingError
from preparer.config import PreparerSettings
from preparer.ledger.store import File, Outcome, Task
from preparer.ledger.tables import FileState

CHUNK = 4 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FAULTS = {FileNotFoundError: "SourceNotFound", PermissionError: "PermissionDenied"}


@contextmanager
def directory(root: Path, parts: Sequence[str], owner: tuple[int, int] | None = None) -> Iterator[int]:
    """Descriptor of a directory below *root*; with *owner*, missing ones are made and given to them."""
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


class FilesystemApproach(Approach):
    """What both have in common: the paths, the user's area, and one file after the other in threads."""

    def __init__(self, settings: PreparerSettings) -> None:
        """Use the two mounts of *settings*."""
        self.source = settings.abs_path_rse_root
        self.areas = settings.abs_path_user_area_root
        self.home = settings.preparer_home
        self.concurrency = settings.preparer_file_concurrency

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Stage every file, several at a time."""
        owner = await asyncio.to_thread(self._owner, job.task.username)
        limit = asyncio.Semaphore(self.concurrency)

        async def one(file: File) -> None:
            async with limit:
                if not job.cancelled.is_set():
                    job.begin(file.path, file)
                    await job.end([(file, await asyncio.to_thread(self._guarded, job, file, owner))])

        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(one(file))

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> list[int]:
        """Remove staged copies that are unchanged since."""
        return [file.number for file in files if await asyncio.to_thread(self._remove, file)]

    def _owner(self, username: str) -> tuple[int, int]:
        try:
            with directory(self.areas, [username]) as area:
                status = os.fstat(area)
        except OSError as exc:
            raise StagingError(
                "ContainerNotFound", f"{username} has no area on this site: {exc.strerror}"
            ) from exc
        return status.st_uid, status.st_gid

    def _parts(self, target: str) -> list[str]:
        """Segments of a target below the mounted areas."""
        return target.removeprefix(self.home + "/").split("/")

    def _guarded(self, job: Job, file: File, owner: tuple[int, int]) -> Outcome:
        try:
            return self._stage(file, owner)
        except OSError as exc:
            fault = next((name for kind, name in _FAULTS.items() if isinstance(exc, kind)), "InternalFault")
            if exc.errno in (28, 122):
                fault = "QuotaExceeded"
            return Outcome(file.number, FileState.FAILED, fault=fault, detail=f"{file.path}: {exc.strerror}")

    def _open_source(self, file: File) -> int:
        *parents, name = file.path.split("/")
        with directory(self.source, parents) as parent:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(2, "not a regular file")
        return descriptor

    @abstractmethod
    def _stage(self, file: File, owner: tuple[int, int]) -> Outcome:
        """Stage one file, which will belong to *owner*."""

    def _remove(self, file: File) -> bool:
        *parents, name = self._parts(file.target)
        try:
            with directory(self.areas, parents) as parent:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode) or status.st_size == file.bytes:
                    os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def checked(file: File, size: int, md5: str, adler32: str) -> Outcome:
    """Outcome of bytes that were read, compared with what was asked for."""
    for name, wanted, found in [
        ("size", file.size, size),
        ("md5", file.md5, md5),
        ("adler32", file.adler32, adler32),
    ]:
        if wanted is not None and wanted != found:
            fault = "SizeMismatch" if name == "size" else "ChecksumMismatch"
            return Outcome(
                file.number, FileState.FAILED, fault=fault, detail=f"{name} is {found}, not {wanted}"
            )
    return Outcome(file.number, FileState.STAGED, size, md5, adler32)


class CopyApproach(FilesystemApproach):
    """``copy_to_user_area``: copies each file to a temporary name, checks it, and renames it into place."""

    def _stage(self, file: File, owner: tuple[int, int]) -> Outcome:
        *parents, name = self._parts(file.target)
        source = self._open_source(file)
        temporary = f".{name[:200]}.{uuid.uuid4().hex[:8]}.part"
        with os.fdopen(source, "rb", buffering=0) as stream, directory(self.areas, parents, owner) as parent:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o660, dir_fd=parent)
            try:
                digest, adler, size = hashlib.md5(usedforsecurity=False), 1, 0
                with os.fdopen(descriptor, "wb", buffering=0) as copy:
                    while chunk := stream.read(CHUNK):
                        digest.update(chunk)
                        adler = zlib.adler32(chunk, adler)
                        size += len(chunk)
                        copy.write(chunk)
                    os.fchown(copy.fileno(), *owner)
                    os.fsync(copy.fileno())
                outcome = checked(file, size, digest.hexdigest(), f"{adler:08x}")
                if outcome.state == FileState.STAGED:
                    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                return outcome
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)


class LinkApproach(FilesystemApproach):
    """``symbolic_link``: links to the file on the RSE, after reading it once to check it."""

    def _stage(self, file: File, owner: tuple[int, int]) -> Outcome:
        *parents, name = self._parts(file.target)
        digest, adler, size = hashlib.md5(usedforsecurity=False), 1, 0
        with os.fdopen(self._open_source(file), "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                adler = zlib.adler32(chunk, adler)
                size += len(chunk)
        outcome = checked(file, size, digest.hexdigest(), f"{adler:08x}")
        if outcome.state == FileState.STAGED:
            temporary = f".{name[:200]}.{uuid.uuid4().hex[:8]}.part"
            with directory(self.areas, parents, owner) as parent:
                os.symlink(self.source / file.path, temporary, dir_fd=parent)
                os.chown(temporary, *owner, dir_fd=parent, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        return outcome
