"""``cavern_api_approach``: Cavern pulls each file from the RSE; where it cannot, the worker relays.

What a Cavern can do is found out by asking: its bulk pull by its capabilities, its pull by the first try.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from voservice.auth import AuthenticationError, ClientCredentials

from preparer.approaches.base import Approach, Job, StagingError, logger
from preparer.cavern import (
    ACTIVE_PHASES,
    ADLER32,
    CORE,
    Cavern,
    CavernError,
    JobVanished,
    PullNotImplemented,
    Row,
)
from preparer.config import PreparerSettings
from preparer.ledger.store import File, Outcome, Task
from preparer.ledger.tables import FileState

CHUNK = 1 << 20


@dataclass
class Measured:
    """Size and checksums of bytes on their way."""

    size: int = 0
    adler: int = 1

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.digest = hashlib.md5(usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        """Count a chunk."""
        self.size += len(chunk)
        self.digest.update(chunk)
        self.adler = zlib.adler32(chunk, self.adler)

    @property
    def md5(self) -> str:
        """MD5 as 32 hexadecimal digits."""
        return self.digest.hexdigest()

    @property
    def adler32(self) -> str:
        """Adler-32 as 8 hexadecimal digits."""
        return f"{self.adler:08x}"


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
        self.session = session
        self.credentials = credentials

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

    async def _ensure_home(self, task: Task, token: str) -> None:
        """Make the user's area, an allocation, if this is the user's first file."""
        home = self.home(task.username)
        logger.info("Ensuring user directory %s", home)
        if await self.cavern.node(home, token) is not None:
            return
        await self.cavern.create_container(
            home, await self._administrator(), {f"{CORE}creator": task.username}
        )

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
        source = f"{self.settings.abs_url_rse_root}/{quote(file.path)}"
        return Row(source, self.cavern.uri(file.target), file.size, file.md5, file.adler32)

    # -- staging ---------------------------------------------------------------------------------------------

    async def stage(self, job: Job, files: Sequence[File]) -> None:
        """Stage by bulk pull, by single pulls or by relay, as the Cavern at hand allows."""
        try:
            await self._ensure_home(job.task, job.token)
            url = await self.cavern.bulk_pull_url()
            if url is not None:
                files = await self._bulk(job, url, files)
            if not files:
                return
            await self._ensure_containers(files, job.token)
        except CavernError as exc:
            raise StagingError(exc.fault, exc.detail, transient=exc.transient) from exc
        await self._singly(job, files)

    async def resume(self, job: Job, files: Sequence[File]) -> bool:
        """Follow the bulk job that an earlier worker of this task started."""
        if not job.task.job:
            return False
        try:
            await self._follow(job, job.task.job, job.task.job_event, self._by_target(files))
            await job.remember(None, 0)
        except JobVanished:
            await job.remember(None, 0)
        except CavernError as exc:
            raise StagingError(exc.fault, exc.detail, transient=exc.transient) from exc
        return True

    async def _bulk(self, job: Job, url: str, files: Sequence[File]) -> Sequence[File]:
        """Stage by bulk pull; returns the files for which Cavern, replaced by another, no longer has it."""
        for start in range(0, len(files), self.settings.preparer_batch):
            if job.cancelled.is_set():
                return []
            part = files[start : start + self.settings.preparer_batch]
            rows = [self.row(file) for file in part]
            try:
                bulk = await self.cavern.start_bulk_pull(
                    url, rows, self.settings.preparer_file_concurrency, job.token
                )
            except PullNotImplemented:
                return files[start:]
            for file, row in zip(part, rows, strict=True):
                job.begin(row.source, file)
            await job.remember(bulk, 0)
            await self._follow(job, bulk, 0, self._by_target(part))
        return []

    def _by_target(self, files: Sequence[File]) -> dict[str, File]:
        """Cavern counts its rows from zero in each job, but both sides know a file by its target."""
        return {self.cavern.uri(file.target): file for file in files}

    async def _follow(self, job: Job, bulk: str, event: int, by_target: dict[str, File]) -> None:
        """Take the results of a bulk job until it ends; a broken stream is taken up where it broke."""
        failures = 0
        while True:
            abort = asyncio.create_task(self._abort_when_cancelled(job, bulk))
            try:
                async for batch in _batches(self.cavern.bulk_results(bulk, event, job.token)):
                    failures = 0
                    event = batch[-1]["event"]
                    await self._take(job, batch, by_target)
                    await job.remember(bulk, event)
                if await self.cavern.phase(bulk, job.token, wait=1) not in ACTIVE_PHASES:
                    return
            except JobVanished:
                raise
            except CavernError as exc:
                failures += 1
                if not exc.transient or failures > self.settings.preparer_file_attempts:
                    raise
                await asyncio.sleep(self._delay(failures, exc.retry_after))
            finally:
                abort.cancel()

    async def _abort_when_cancelled(self, job: Job, bulk: str) -> None:
        await job.cancelled.wait()
        while True:
            try:
                await self.cavern.abort(bulk, job.token)
            except CavernError as exc:
                if not exc.transient:
                    return
                await asyncio.sleep(self._delay(1, exc.retry_after))
            else:
                return

    async def _take(self, job: Job, batch: list[dict[str, Any]], by_target: dict[str, File]) -> None:
        ended, again = [], []
        for result in batch:
            file = by_target.get(result["target"])
            outcome = _outcome(file.number, result) if file else None
            if file is None or outcome is None:
                continue
            retry = outcome.state == FileState.FAILED and result.get("transient")
            if (
                retry
                and file.attempts + 1 < self.settings.preparer_file_attempts
                and not job.cancelled.is_set()
            ):
                again.append(outcome)
            else:
                ended.append((file, outcome))
        await job.end(ended)
        await job.retried(again)

    async def _singly(self, job: Job, files: Sequence[File]) -> None:
        """One transfer for each file, several at a time."""
        limit = asyncio.Semaphore(self.settings.preparer_file_concurrency)

        async def one(file: File) -> None:
            async with limit:
                if not job.cancelled.is_set():
                    await self._one(job, file)

        async with asyncio.TaskGroup() as group:
            for file in files:
                group.create_task(one(file))

    async def _one(self, job: Job, file: File) -> None:
        job.begin(self.row(file).source, file)
        for attempt in range(file.attempts + 1, self.settings.preparer_file_attempts + 1):
            try:
                outcome = await self._transfer(job, file)
            except CavernError as exc:
                if job.cancelled.is_set():
                    # Whatever broke it off: the file is cancelled with its task.
                    return
                outcome = Outcome(file.number, FileState.FAILED, fault=exc.fault, detail=exc.detail)
                if exc.transient and attempt < self.settings.preparer_file_attempts:
                    await job.retried([outcome])
                    await asyncio.sleep(self._delay(attempt, exc.retry_after))
                    continue
            await job.end([(file, outcome)])
            return

    async def _transfer(self, job: Job, file: File) -> Outcome:
        present = await self._present(file, job.token)
        if present is not None:
            return present
        if self.cavern.can_pull:
            try:
                await self.cavern.pull(self.row(file), job.token, job.cancelled.is_set)
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
        if node is None or node.number(f"{CORE}length") != file.size:
            return None
        md5 = node.properties.get(f"{CORE}MD5", "").removeprefix("md5:").lower()
        return Outcome(file.number, FileState.PRESENT, file.size, md5) if md5 == file.md5 else None

    async def _verify(self, file: File, token: str) -> Outcome:
        """Compare what Cavern stored with what was asked for."""
        node = await self.cavern.node(file.target, token)
        if node is None:
            raise CavernError(
                "TransferFailed", "Cavern reported success, but the file is not there", transient=True
            )
        size = node.number(f"{CORE}length")
        md5 = node.properties.get(f"{CORE}MD5", "").removeprefix("md5:").lower() or None
        adler = node.properties.get(ADLER32) or None
        await self._check(file, size, md5, adler, token)
        return Outcome(file.number, FileState.STAGED, size, md5, adler)

    async def _check(
        self, file: File, size: int | None, md5: str | None, adler: str | None, token: str
    ) -> None:
        pairs = [("size", file.size, size), ("md5", file.md5, md5), ("adler32", file.adler32, adler)]
        for name, wanted, found in pairs:
            if wanted is not None and found is not None and wanted != found:
                await self.cavern.delete(file.target, token)
                kind = "SizeMismatch" if name == "size" else "ChecksumMismatch"
                raise CavernError(kind, f"{name} is {found}, not {wanted}")

    async def _relay(self, job: Job, file: File) -> Outcome:
        """Stream the file from the RSE into Cavern under a temporary name, and move it into place."""
        directory, _, name = file.target.rpartition("/")
        # The same name at each try: one that a killed worker left is overwritten by the next.
        temporary = f"{directory}/.{name[:200]}.{job.task.id.hex[:8]}.part"
        measured = Measured()
        source = self.row(file).source
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        try:
            async with self.session.get(
                source, timeout=timeout, allow_redirects=False, headers={"Accept-Encoding": "identity"}
            ) as answer:
                if answer.status == 404:
                    raise CavernError("SourceNotFound", f"{source} does not exist on the RSE")
                if answer.status != 200:
                    raise CavernError(
                        "TransferFailed", f"the RSE answered {answer.status}", transient=answer.status >= 500
                    )
                size = answer.content_length

                async def chunks() -> AsyncIterator[bytes]:
                    async for chunk in answer.content.iter_chunked(CHUNK):
                        if job.cancelled.is_set():
                            raise CavernError("Cancelled", "Cancelled while it was relayed")
                        measured.add(chunk)
                        yield chunk

                stored = await self.cavern.put(temporary, chunks(), size, job.token)
            if size is not None and measured.size != size:
                raise CavernError(
                    "TransferFailed", f"{measured.size} of {size} bytes arrived", transient=True
                )
            if stored is not None and stored != measured.md5:
                raise CavernError(
                    "ChecksumMismatch", f"Cavern stored {stored}, sent was {measured.md5}", transient=True
                )
            pairs = [("md5", file.md5, measured.md5), ("adler32", file.adler32, measured.adler32)]
            for kind, wanted, found in [("size", file.size, measured.size), *pairs]:
                if wanted is not None and wanted != found:
                    word = "SizeMismatch" if kind == "size" else "ChecksumMismatch"
                    raise CavernError(word, f"{kind} is {found}, not {wanted}")
            await self.cavern.delete(file.target, job.token)
            await self.cavern.move(temporary, file.target, job.token)
        except (aiohttp.ClientError, TimeoutError) as exc:
            await self._clean(temporary, job.token)
            raise CavernError(
                "TransferFailed", f"the RSE: {exc or type(exc).__name__}", transient=True
            ) from exc
        except BaseException:
            await asyncio.shield(self._clean(temporary, job.token))
            raise
        return Outcome(file.number, FileState.STAGED, measured.size, measured.md5, measured.adler32)

    async def _clean(self, path: str, token: str) -> None:
        try:
            await self.cavern.delete(path, token)
        except CavernError:
            # The user sees a hidden .part file; the failure that led here is the one to report.
            return

    def _delay(self, attempt: int, asked: float | None = None) -> float:
        longest = self.settings.preparer_retry_delay_max
        delay = min(longest, self.settings.preparer_retry_delay * 2 ** (attempt - 1))
        # Full jitter, so that many files that failed at once do not come back at once.
        return max(min(asked or 0.0, longest), random.uniform(0, delay))  # noqa: S311 - no secret

    # -- removal ---------------------------------------------------------------------------------------------

    async def remove(self, task: Task, token: str, files: Sequence[File]) -> list[int]:
        """Delete staged copies; one that the user changed since is the user's own and stays."""
        gone = []
        for file in files:
            try:
                node = await self.cavern.node(file.target, token)
                if node is not None and self._unchanged(file, node.properties):
                    await self.cavern.delete(file.target, token)
            except CavernError as exc:
                if exc.transient or exc.fault == "NotAuthenticated":
                    continue
            gone.append(file.number)
        return gone

    @staticmethod
    def _unchanged(file: File, properties: dict[str, str]) -> bool:
        if properties.get(f"{CORE}length") != str(file.bytes):
            return False
        md5 = properties.get(f"{CORE}MD5", "").removeprefix("md5:").lower()
        return not md5 or not file.found_md5 or md5 == file.found_md5


def _outcome(number: int, result: dict[str, Any]) -> Outcome | None:
    states = {"COMPLETED": FileState.STAGED, "SKIPPED": FileState.PRESENT, "ERROR": FileState.FAILED}
    state = states.get(result["state"])
    if state is None:
        # An aborted row stays pending: it is cancelled with the task, or tried again.
        return None
    return Outcome(
        number,
        state,
        result.get("bytes"),
        result.get("md5"),
        result.get("adler32"),
        result.get("fault"),
        result.get("detail"),
    )


async def _batches(
    results: AsyncIterator[dict[str, Any]], size: int = 1000, seconds: float = 0.25
) -> AsyncIterator[list[dict[str, Any]]]:
    """Gather results that come quickly, so that the ledger is written a few times a second."""
    queue: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue(maxsize=4 * size)

    async def pump() -> None:
        try:
            async for result in results:
                await queue.put(result)
        except Exception as exc:
            await queue.put(exc)
        else:
            await queue.put(None)

    task = asyncio.create_task(pump())
    try:
        ended = False
        while not ended:
            first = await queue.get()
            batch: list[dict[str, Any]] = []
            item: dict[str, Any] | BaseException | None = first
            loop = asyncio.get_running_loop()
            until = loop.time() + seconds
            while isinstance(item, dict):
                batch.append(item)
                if len(batch) >= size:
                    break
                try:
                    async with asyncio.timeout_at(until):
                        item = await queue.get()
                except TimeoutError:
                    break
            if batch:
                yield batch
            if item is None:
                ended = True
            elif isinstance(item, BaseException):
                raise item
    finally:
        task.cancel()
