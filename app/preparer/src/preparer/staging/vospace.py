"""`cavern_api_approach`: Cavern pulls files from the RSE; the worker relays them where it cannot.

Whether Cavern has a bulk pull is read from its capabilities; whether it can pull single files, from its first answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from voservice.auth import AuthenticationError, ClientCredentials
from voservice.content import Content
from voservice.digests import Digester
from vospace_client.client import Cavern, CavernError, PullNotImplemented, Row
from vospace_client.documents import Node
from vospace_client.errors import TransferError
from vospace_client.terms import ENCODING, LENGTH, ON_TAPE

from preparer.areas import Areas, NoAdministrator
from preparer.config import PreparerSettings
from preparer.ledger import File, FileState, Outcome, Task, expected
from preparer.staging.approach import (
    Approach,
    Job,
    Removal,
    StagingError,
    logger,
    side_by_side,
    until_final,
)
from preparer.staging.bulk import BulkPull
from preparer.staging.rse import Rse, RseError, Rses, Sending, UserRefused

OF_SOURCE = frozenset({"SourceNotFound", "TransferFailed", "SizeMismatch", "ChecksumMismatch", ON_TAPE})
"""Faults that may be those of one RSE alone."""
LOOKUP_AGE = 10.0
"""Seconds for which a lookup of a target stays valid."""


class CavernApproach(Approach):
    """Stages through Cavern's API."""

    def __init__(
        self,
        settings: PreparerSettings,
        cavern: Cavern,
        rses: Rses,
        credentials: ClientCredentials | None,
    ) -> None:
        """Use *cavern* and *rses*; *credentials* are the administrator's, for users' areas."""
        self.settings = settings
        self.cavern = cavern
        self.rses = rses
        self.areas = Areas(settings, cavern, credentials)
        self.bulk = BulkPull(settings, cavern, self.row, rses.name_of)

    async def _ensure_home(self, task: Task, token: str) -> Node | None:
        """Return the user's area, and create it, with its quota, for the user's first file."""
        home = self.settings.home_of(task.username)
        logger.info("Ensuring user directory %s", home)
        node = await self.cavern.node(home, token)
        if node is None:
            try:
                await self.areas.create(task.username, token)
            except NoAdministrator as exc:
                raise StagingError("PermissionDenied", str(exc)) from exc
            except AuthenticationError as exc:
                raise StagingError("NotAuthenticated", exc.description, transient=True) from exc
            node = await self.cavern.node(home, token)
        return node

    async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
        """Raise `StagingError` if the files exceed what is left of the user's quota, by the sizes that are known."""
        try:
            home = await self._ensure_home(job.task, job.token)
            room = home.quota_left if home else None
            if room is None:
                return
            needed = 0
            targets: set[str] = set()
            async for files in pages:
                if job.cancelled.is_set():
                    return
                needed += sum(await self._sizes(job, files))
                targets.update(file.target for file in files)
            if needed <= room:
                return
            # What is there already takes no more room, or gives its own back when it is replaced.
            for container in {target.rpartition("/")[0] for target in targets}:
                for name, node in (await self.cavern.children(container, job.token)).items():
                    if f"{container}/{name}" in targets:
                        needed -= node.number(LENGTH) or 0
        except CavernError as exc:
            raise StagingError.of(exc) from exc
        if needed > room:
            raise StagingError(
                "QuotaExceeded",
                f"the files need {needed} bytes, and {room} are left of the quota of"
                f" {self.settings.home_of(job.task.username)}",
            )

    async def _sizes(self, job: Job, files: Sequence[File]) -> list[int]:
        """Return sizes as the request or else the RSE states them; 0 where neither does."""
        limit = asyncio.Semaphore(self.settings.preparer_file_concurrency)

        async def size(file: File) -> int:
            if file.size is not None:
                return int(file.size)
            async with limit:
                if job.cancelled.is_set():
                    return 0
                with suppress(RseError):
                    found = await self.rses.head(file, job.token)
                    return (found and found.size) or 0
            return 0

        return await asyncio.gather(*map(size, files))

    def row(self, file: File, rse: Rse | None = None) -> Row:
        """Return what Cavern is asked for one file: from one RSE, or from the first that delivers."""
        rses = [rse] if rse else self.rses.of(file)
        return Row(" ".join(each.source(file) for each in rses), self.cavern.uri(file.target), expected(file))

    def _divided(self, files: Sequence[File]) -> tuple[list[File], list[File], list[File]]:
        """Return files that Cavern can pull, those that the worker must relay, and those that no RSE is known for.

        The user's own credential for an RSE is nobody else's, so what may be asked for by it passes through the worker.
        """
        pulled: list[File] = []
        relayed: list[File] = []
        nowhere: list[File] = []
        for file in files:
            rses = self.rses.of(file)
            relay = any(rse.credential_of_user for rse in rses)
            (relayed if relay else pulled if rses else nowhere).append(file)
        return pulled, relayed, nowhere

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Stage by bulk pull, by single pulls or by relay, whichever Cavern and the RSEs support."""
        pulled, relayed, nowhere = self._divided(files)
        await job.end([(file, _nowhere(file)) for file in nowhere])
        try:
            bulk_pull = await self.cavern.bulk_pull_url() if pulled else None
            if bulk_pull is not None:
                pulled = list(await self.bulk.stage(job, bulk_pull, pulled))
        except CavernError as exc:
            raise StagingError.of(exc) from exc
        files = [*pulled, *relayed]
        containers = Containers(self.cavern, self.settings.home_of(job.task.username), job.token)
        await side_by_side(
            files, self.settings.preparer_file_concurrency, partial(self._one, job, containers)
        )

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Follow the bulk job that this or an earlier worker started."""
        try:
            return await self.bulk.resume(job, files)
        except CavernError as exc:
            raise StagingError.of(exc) from exc

    async def abandon(self, bulk: str, token: str) -> bool:
        """Abort the bulk job of a task that has ended; False if that must be tried again."""
        try:
            await self.cavern.abort(bulk, token)
        except CavernError as exc:
            if exc.transient:
                return False
            logger.warning("Cannot end a bulk job", extra={"fields": {"job": bulk, "error": str(exc)}})
        return True

    async def _one(self, job: Job, containers: Containers, file: File) -> None:
        if job.cancelled.is_set():
            return
        await until_final(job, file, self.settings, partial(self._transfer, job, containers, file))

    async def _transfer(self, job: Job, containers: Containers, file: File) -> Outcome:
        await containers.ensure(file.target)
        there = Lookup(self.cavern, file.target, job.token, empty=containers.new(file.target))
        if file.size is not None and file.md5 is not None:
            # By its MD5 alone: OpenCADC's Cavern keeps that up to date, and leaves an Adler-32 that ours wrote.
            node = await there.node()
            if node is not None and Content(file.size, file.md5).differs(node.content) is None:
                return Outcome(file.number, FileState.PRESENT, file.size, node.md5)
        failures: list[TransferError] = []
        for rse in self.rses.of(file):
            job.begin(rse.source(file), file)
            try:
                outcome = await self._from(rse, job, containers, there, file)
            except UserRefused as exc:
                failures.append(exc)
            except TransferError as exc:
                # Another RSE helps only where this one is what failed.
                if exc.away != "RSE" and exc.fault not in OF_SOURCE:
                    raise
                rse.element.note(away=exc.away == "RSE")
                failures.append(exc)
            else:
                return replace(outcome, rse=rse.name)
        # As Cavern chooses: what is on its way is worth waiting for most, then what may pass.
        raise min(failures, key=lambda failure: (failure.fault != ON_TAPE, not failure.transient))

    async def _from(self, rse: Rse, job: Job, containers: Containers, there: Lookup, file: File) -> Outcome:
        """Stage a file from one RSE. Raises `TransferError`."""
        if self.cavern.can_pull and not rse.credential_of_user:
            try:
                await self.cavern.pull(self.row(file, rse), job.token, job.retry_policy(self.settings))
                return await self._verify(file, job.token)
            except PullNotImplemented:
                pass
        return await self._relay(rse, job, containers, there, file)

    async def _verify(self, file: File, token: str) -> Outcome:
        """Compare what Cavern stored with what the request states. Raises `CavernError`."""
        node = await self.cavern.node(file.target, token)
        if node is None:
            raise CavernError(
                "TransferFailed", "Cavern reported success, but the file is not there", transient=True
            )
        found = node.content
        if found.size is None or (file.md5 and not found.md5) or (file.adler32 and not found.adler32):
            found = await self._read_back(file, token)
        try:
            _compare(expected(file), found)
        except CavernError:
            await self.cavern.delete(file.target, token)
            raise
        return Outcome(file.number, FileState.STAGED, found.size, found.md5, found.adler32)

    async def _read_back(self, file: File, token: str) -> Content:
        """Measure a stored file where Cavern does not state its content: OpenCADC's keeps no Adler-32."""
        measured = Digester()
        async for chunk in self.cavern.read(file.target, token):
            await asyncio.to_thread(measured.update, chunk)
        return measured.content

    async def _relay(self, rse: Rse, job: Job, containers: Containers, there: Lookup, file: File) -> Outcome:
        """Stream the file from the RSE into Cavern under a temporary name, and move it into place.

        Each request takes OpenCADC's Cavern about 100 ms. A new file takes four requests, or three in a container that
        the task has created, and one more if it inherits permissions, which that Cavern does not apply to files itself.
        """
        directory, _, name = file.target.rpartition("/")
        # The same name at each try: one that a killed worker left is overwritten by the next.
        start = name.encode()[:200].decode(errors="ignore")
        temporary = f"{directory}/.{start}.{job.task.id.hex[:8]}-{file.number}.part"
        async with rse.opened(rse.source(file), file.size, job.token) as sending:
            # Whatever Cavern does now: it is there.
            job.retry_policy(self.settings).answered("RSE")
            try:
                measured = await self._stream(job, sending, temporary)
                _compare_stated(sending.stated, measured.content)
                _compare(expected(file), measured.content)
                properties = await containers.inherited(directory)
                if sending.encoding is not None:
                    properties |= {ENCODING: sending.encoding}
                if properties:
                    await self.cavern.update(temporary, properties, job.token)
                await there.clear()
                await self.cavern.move(temporary, file.target, job.token)
            except BaseException:
                containers.look_again(directory)
                await asyncio.shield(self._clean(temporary, job.token))
                raise
        return Outcome(file.number, FileState.STAGED, measured.size, measured.md5, measured.adler32)

    async def _stream(self, job: Job, sending: Sending, target: str) -> Digester:
        """Write what the RSE is *sending* to *target*. Raises `TransferError` if not all of it arrives."""
        measured = Digester()
        broken: TransferError | None = None

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal broken
            try:
                async for chunk in sending.chunks():
                    if job.cancelled.is_set():
                        raise CavernError("Cancelled", "Cancelled while it was relayed")
                    await asyncio.to_thread(measured.update, chunk)
                    yield chunk
            except TransferError as exc:
                broken = exc
                raise

        size = sending.size
        try:
            stored = await self.cavern.put(target, chunks(), size, job.token, sending.media_type)
        except CavernError as exc:
            if broken is not None:
                # A request whose body breaks off fails as if it were Cavern's fault.
                raise broken from exc
            raise
        if size is not None and measured.size != size:
            raise CavernError("TransferFailed", f"{measured.size} of {size} bytes arrived", transient=True)
        if stored is not None and stored != measured.md5:
            raise CavernError(
                "ChecksumMismatch", f"Cavern stored {stored}, sent was {measured.md5}", transient=True
            )
        return measured

    async def _clean(self, path: str, token: str) -> None:
        try:
            await self.cavern.delete(path, token)
        except CavernError:
            # The user sees a hidden .part file; the failure that led here is the one to report.
            return

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        """Delete staged copies, several at a time; those that the user has changed stay."""
        removal = Removal()
        limit = asyncio.Semaphore(self.settings.preparer_file_concurrency)

        async def one(file: File) -> None:
            async with limit:
                try:
                    node = await self.cavern.node(file.target, token)
                    if node is not None and not await self._unchanged(file, node, token):
                        return
                    await self.cavern.delete(file.target, token)
                    removal.gone.append(file.number)
                except CavernError as exc:
                    if exc.transient or exc.fault == "NotAuthenticated":
                        removal.later.append(file.number)
                    else:
                        logger.warning(
                            "Cannot remove a staged copy",
                            extra={"fields": {"target": file.target, "error": str(exc)}},
                        )

        await asyncio.gather(*map(one, files))
        return removal

    async def _unchanged(self, file: File, node: Node, token: str) -> bool:
        if node.number(LENGTH) != file.bytes:
            return False
        # Without an MD5 it was changed by another way than Cavern, or Cavern keeps none.
        md5 = node.md5 or (await self._read_back(file, token)).md5
        return not file.found_md5 or md5 == file.found_md5


class Containers:
    """Containers of a task's files: each is created once, and asked once which permissions files inherit from it.

    A failure concerns the files of that container alone.
    """

    def __init__(self, cavern: Cavern, home: str, token: str) -> None:
        """Use containers below *home*, which exists."""
        self._cavern = cavern
        self._home = home
        self._token = token
        self._made = {home}
        self._new: set[str] = set()
        self._inherited: dict[str, dict[str, str]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ensure(self, target: str) -> None:
        """Create the containers above *target*, the outer ones first. Raises `CavernError`."""
        path = self._home
        for name in target.removeprefix(f"{self._home}/").split("/")[:-1]:
            path = f"{path}/{name}"
            async with self._locks[path]:
                if path not in self._made:
                    if await self._cavern.create_container(path, self._token):
                        self._new.add(path)
                    self._made.add(path)

    def new(self, target: str) -> bool:
        """Whether *target* is in a container that this task created: nothing else is expected there."""
        return target.rpartition("/")[0] in self._new

    def look_again(self, path: str) -> None:
        """No longer expect a container to be empty: a transfer into it failed."""
        self._new.discard(path)

    async def inherited(self, path: str) -> dict[str, str]:
        """Return the permissions that a new file in the container at *path* inherits. Raises `CavernError`."""
        async with self._locks[path]:
            if path not in self._inherited:
                node = await self._cavern.node(path, self._token)
                self._inherited[path] = node.inherited if node else {}
            return dict(self._inherited[path])


class Lookup:
    """The node at a target, looked up once unless that was long ago."""

    def __init__(self, cavern: Cavern, path: str, token: str, *, empty: bool) -> None:
        """Look nothing up yet, and not at all for a target that is *empty*."""
        self._cavern = cavern
        self._path = path
        self._token = token
        self._found: Node | None = None
        self._since = time.monotonic() if empty else float("-inf")

    async def node(self) -> Node | None:
        """Return the node, or None."""
        if time.monotonic() - self._since > LOOKUP_AGE:
            self._found = await self._cavern.node(self._path, self._token)
            self._since = time.monotonic()
        return self._found

    async def clear(self) -> None:
        """Delete a file at the target, where a move would be refused. Raises `CavernError` for a container."""
        node = await self.node()
        if node is not None and node.kind == "ContainerNode":
            raise CavernError("DuplicateNode", f"{self._path} is a container")
        if node is not None:
            await self._cavern.delete(self._path, self._token)


def _nowhere(file: File) -> Outcome:
    """Return the outcome of a file that no RSE of the site may be asked for."""
    called = f" is called {file.rse} and" if file.rse else ""
    return Outcome(
        file.number,
        FileState.FAILED,
        fault="SourceNotFound",
        detail=f"no RSE of this site{called} may have {file.path}",
    )


def _compare(wanted: Content, found: Content) -> None:
    """Raise `CavernError` if *found* is not what the request expects."""
    if (mismatch := wanted.differs(found)) is not None:
        raise CavernError(mismatch.fault, mismatch.detail)


def _compare_stated(stated: Content, found: Content) -> None:
    """Raise `CavernError` if *found* is not what the RSE states; it may have been damaged on its way."""
    if (mismatch := stated.differs(found, "the RSE says")) is not None:
        raise CavernError(mismatch.fault, mismatch.detail, transient=True)
