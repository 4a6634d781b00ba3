"""``cavern_api_approach``: Cavern pulls each file from the RSE; where it cannot, the worker relays.

What a Cavern can do is found out by asking: its bulk pull by its capabilities, its pull by the first try.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial

import aiohttp
from voservice.auth import AuthenticationError, ClientCredentials
from voservice.digests import Digester

from preparer.approaches.base import (
    Approach,
    Job,
    Removal,
    StagingError,
    logger,
    side_by_side,
    until_final,
)
from preparer.approaches.bulk import BulkPull
from preparer.cavern import (
    ADLER32,
    CORE,
    ENCODING,
    LENGTH,
    Cavern,
    CavernError,
    Node,
    PullNotImplemented,
    Row,
)
from preparer.config import PreparerSettings
from preparer.faults import TransferError
from preparer.ledger import File, FileState, Outcome, Task
from preparer.rse import Rse, RseError, Sending


class CavernApproach(Approach):
    """Stages through Cavern's API."""

    def __init__(
        self,
        settings: PreparerSettings,
        cavern: Cavern,
        session: aiohttp.ClientSession,
        credentials: ClientCredentials | None,
    ) -> None:
        """Use *cavern*; *credentials* are the administrator's, for users' areas that do not exist yet."""
        self.settings = settings
        self.cavern = cavern
        self.rse = Rse(settings, session)
        self.credentials = credentials
        self.bulk = BulkPull(settings, cavern, self.row)

    # -- the user's area -------------------------------------------------------------------------------------

    def home(self, username: str) -> str:
        """Path of a user's area."""
        return f"{self.settings.preparer_home}/{username}"

    async def _administrator(self) -> str:
        token = self.settings.cavern_api_token.get_secret_value()
        if token:
            return token
        if self.credentials is None:
            raise StagingError("PermissionDenied", "No credential of Cavern's administrator is configured")
        try:
            return await self.credentials.token()
        except AuthenticationError as exc:
            raise StagingError("NotAuthenticated", exc.description, transient=True) from exc

    async def _ensure_home(self, task: Task, token: str) -> Node | None:
        """Make the user's area, an allocation, if this is the user's first file."""
        home = self.home(task.username)
        logger.info("Ensuring user directory %s", home)
        node = await self.cavern.node(home, token)
        if node is None:
            await self.cavern.create_container(
                home, await self._administrator(), {f"{CORE}creator": task.username}
            )
            node = await self.cavern.node(home, token)
        return node

    async def admit(self, job: Job, pages: AsyncIterator[Sequence[File]]) -> None:
        """Refuse a set of files that does not fit into what is left of the user's quota, as far as can be told."""
        try:
            home = await self._ensure_home(job.task, job.token)
            room = home.room if home else None
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
                f"the files need {needed} bytes, and {room} are left of the quota of {self.home(job.task.username)}",
            )

    async def _sizes(self, job: Job, files: Sequence[File]) -> list[int]:
        """Sizes as asked for, or as the RSE tells them; what it does not tell counts nothing."""
        limit = asyncio.Semaphore(self.settings.preparer_file_concurrency)

        async def size(file: File) -> int:
            if file.size is not None:
                return int(file.size)
            async with limit:
                if job.cancelled.is_set():
                    return 0
                with suppress(RseError):
                    found = await self.rse.head(self.row(file).source)
                    return (found and found.size) or 0
            return 0

        return await asyncio.gather(*map(size, files))

    async def _ensure_containers(self, files: Sequence[File], token: str) -> None:
        """Make the directories of *files*, each once, the outer ones first."""
        wanted = {parent for file in files for parent in self._parents(file.target)}
        for path in sorted(wanted, key=lambda path: (path.count("/"), path)):
            await self.cavern.create_container(path, token)

    def _parents(self, target: str) -> list[str]:
        parts = target.split("/")
        # Below the user's area: /home/<user> itself is there by now.
        depth = self.settings.preparer_home.count("/") + 2
        return ["/".join(parts[:end]) for end in range(depth + 1, len(parts))]

    def row(self, file: File) -> Row:
        """What is asked of Cavern for one file."""
        return Row(self.rse.url(file.path), self.cavern.uri(file.target), file.size, file.md5, file.adler32)

    # -- staging ---------------------------------------------------------------------------------------------

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Stage by bulk pull, by single pulls or by relay, as the Cavern at hand allows."""
        try:
            bulk_pull = await self.cavern.bulk_pull_url()
            if bulk_pull is not None:
                files = await self.bulk.stage(job, bulk_pull, files)
            if not files:
                return
            await self._ensure_containers(files, job.token)
        except CavernError as exc:
            raise StagingError.of(exc) from exc
        await side_by_side(files, self.settings.preparer_file_concurrency, partial(self._one, job))

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Follow the bulk job of this task that was begun before, by an earlier worker or by this one."""
        try:
            return await self.bulk.resume(job, files)
        except CavernError as exc:
            raise StagingError.of(exc) from exc

    async def abandon(self, bulk: str, token: str) -> bool:
        """End a bulk job that goes on, or would once it can, after its task has ended."""
        try:
            await self.cavern.abort(bulk, token)
        except CavernError as exc:
            if exc.transient:
                return False
            logger.warning("The job %s cannot be ended: %s", bulk, exc)
        return True

    async def _one(self, job: Job, file: File) -> None:
        if job.cancelled.is_set():
            return
        job.begin(self.row(file).source, file)
        await until_final(job, file, self.settings, partial(self._transfer, job, file))

    async def _transfer(self, job: Job, file: File) -> Outcome:
        present = await self._present(file, job.token)
        if present is not None:
            return present
        if self.cavern.can_pull:
            try:
                await self.cavern.pull(self.row(file), job.token, job.patience(self.settings))
                return await self._verify(file, job.token)
            except PullNotImplemented:
                pass
        return await self._relay(job, file)

    async def _present(self, file: File, token: str) -> Outcome | None:
        """Outcome of a file that is there already and provably the one asked for.

        By its MD5 alone: OpenCADC's Cavern keeps that up to date, and leaves an Adler-32 that ours wrote as it was.
        """
        if file.size is None or file.md5 is None:
            return None
        node = await self.cavern.node(file.target, token)
        if node is None or node.number(LENGTH) != file.size or node.md5 != file.md5:
            return None
        return Outcome(file.number, FileState.PRESENT, file.size, node.md5)

    async def _verify(self, file: File, token: str) -> Outcome:
        """Compare what Cavern stored with what was asked for."""
        node = await self.cavern.node(file.target, token)
        if node is None:
            raise CavernError(
                "TransferFailed", "Cavern reported success, but the file is not there", transient=True
            )
        size, md5, adler32 = node.number(LENGTH), node.md5, node.properties.get(ADLER32)
        if size is None or (file.md5 and not md5) or (file.adler32 and not adler32):
            measured = await self._read_back(file, token)
            size, md5, adler32 = measured.size, measured.md5, measured.adler32
        try:
            _compare(file, size, md5, adler32)
        except CavernError:
            await self.cavern.delete(file.target, token)
            raise
        return Outcome(file.number, FileState.STAGED, size, md5, adler32)

    async def _read_back(self, file: File, token: str) -> Digester:
        """Size and checksums of what Cavern has, where it does not tell them: OpenCADC's keeps no Adler-32."""
        measured = Digester()
        async for chunk in self.cavern.read(file.target, token):
            await asyncio.to_thread(measured.update, chunk)
        return measured

    async def _relay(self, job: Job, file: File) -> Outcome:
        """Stream the file from the RSE into Cavern under a temporary name, and move it into place."""
        directory, _, name = file.target.rpartition("/")
        # The same name at each try: one that a killed worker left is overwritten by the next.
        start = name.encode()[:200].decode(errors="ignore")
        temporary = f"{directory}/.{start}.{job.task.id.hex[:8]}-{file.number}.part"
        async with self.rse.opened(self.row(file).source, file.size) as sending:
            # Whatever Cavern does now: it is there.
            job.patience(self.settings).answered("RSE")
            try:
                measured = await self._stream(job, sending, temporary)
                _compare_stated(sending, measured)
                _compare(file, measured.size, measured.md5, measured.adler32)
                if sending.encoding is not None:
                    await self.cavern.update(temporary, {ENCODING: sending.encoding}, job.token)
                await self._make_room(file, job.token)
                await self.cavern.move(temporary, file.target, job.token)
            except BaseException:
                await asyncio.shield(self._clean(temporary, job.token))
                raise
        return Outcome(file.number, FileState.STAGED, measured.size, measured.md5, measured.adler32)

    async def _stream(self, job: Job, sending: Sending, target: str) -> Digester:
        """Write what the RSE is *sending* to *target*; raises ``TransferError`` where not all of it arrives."""
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

    async def _make_room(self, file: File, token: str) -> None:
        """Delete what a move would find in its place, which is refused; a directory is nobody's to replace."""
        node = await self.cavern.node(file.target, token)
        if node is not None and node.kind == "ContainerNode":
            raise CavernError("DuplicateNode", f"{file.target} is a container")
        if node is not None:
            await self.cavern.delete(file.target, token)

    async def _clean(self, path: str, token: str) -> None:
        try:
            await self.cavern.delete(path, token)
        except CavernError:
            # The user sees a hidden .part file; the failure that led here is the one to report.
            return

    # -- removal ---------------------------------------------------------------------------------------------

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> Removal:
        """Delete staged copies, several at a time; one that the user changed since is the user's own and stays."""
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
                        logger.warning("The copy %s stays: %s", file.target, exc)

        await asyncio.gather(*map(one, files))
        return removal

    async def _unchanged(self, file: File, node: Node, token: str) -> bool:
        if node.number(LENGTH) != file.bytes:
            return False
        # Without an MD5 it was changed by another way than Cavern, or Cavern keeps none.
        md5 = node.md5 or (await self._read_back(file, token)).md5
        return not file.found_md5 or md5 == file.found_md5


def _compare_stated(sending: Sending, measured: Digester) -> None:
    """Raise ``CavernError`` where bytes have another checksum than the RSE states of them."""
    for name, of_rse, found in zip(
        ("md5", "adler32"), sending.stated, (measured.md5, measured.adler32), strict=True
    ):
        if of_rse is not None and of_rse != found:
            raise CavernError("ChecksumMismatch", f"{name} is {found}, the RSE says {of_rse}", transient=True)


def _compare(file: File, size: int | None, md5: str | None, adler32: str | None) -> None:
    """Raise ``CavernError`` where something that is known of the file is not what was asked for."""
    for name, wanted, found in [
        ("size", file.size, size),
        ("md5", file.md5, md5),
        ("adler32", file.adler32, adler32),
    ]:
        if wanted is not None and wanted != found:
            kind = "SizeMismatch" if name == "size" else "ChecksumMismatch"
            raise CavernError(kind, f"{name} is {found}, not {wanted}")
