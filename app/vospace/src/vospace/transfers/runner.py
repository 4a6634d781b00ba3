"""Transfers as jobs: what the executor runs for each direction (VOSpace 2.1 section 3.6).

The job's row lock makes effect and end of a job atomic, and each run records what it is about to do. So a run that died
is continued correctly: a file already in place is recognised, anything else is started again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from voservice import tracing
from voservice.content import Content, parse_adler32, parse_md5
from vospace_client.terms import (
    ADLER32,
    HTTP_GET,
    HTTP_PUT,
    HTTPS_GET,
    HTTPS_PUT,
    LENGTH,
    MD5,
    PULL_FROM,
    PULL_TO,
    PUSH_FROM,
    PUSH_TO,
    ExecutionPhase,
)

from vospace.models.caller import Caller
from vospace.models.errors import Fault, InvalidArgument, ProtocolNotSupported, TransferFailed
from vospace.models.sizes import byte_count
from vospace.models.uri import Path
from vospace.space.lookup import OpenFile
from vospace.space.receive import Receiver
from vospace.space.space import Space
from vospace.space.write import Upload
from vospace.storage.threads import in_thread
from vospace.transfers.commit import move, place
from vospace.transfers.continuing import kept_key
from vospace.transfers.copying import Copier
from vospace.transfers.documents import Protocol, Transfer, read_transfer, write_transfer
from vospace.transfers.faults import job_failure
from vospace.transfers.fetcher import Fetcher
from vospace.transfers.negotiation import Negotiator, check_view, single_target
from vospace.transfers.sender import Sender
from vospace.uws.executor import Run
from vospace.uws.model import Outcome, Result

_GET = frozenset({HTTP_GET, HTTPS_GET, HTTP_PUT, HTTPS_PUT})
"""The standard's example of a pull names `httpput`; the service uses GET for it too."""
_PUT = frozenset({HTTP_PUT, HTTPS_PUT})


class TransferRunner:
    """Runs transfer jobs."""

    def __init__(
        self, space: Space, negotiator: Negotiator, fetcher: Fetcher, sender: Sender, service_url: str
    ) -> None:
        self._space = space
        self._negotiator = negotiator
        self._fetcher = fetcher
        self._sender = sender
        self._copier = Copier(space)
        self._service_url = service_url

    async def __call__(self, run: Run) -> Outcome | None:
        """Work on one job. Raises JobFailure."""
        try:
            transfer = read_transfer(run.job.job_info or "")
            caller = Caller.from_record(run.job.caller)
            match transfer.direction:
                case d if d in (PUSH_TO, PULL_FROM):
                    return await self.negotiate(run, caller, transfer)
                case d if d == PULL_TO:
                    return await self._pull(run, caller, transfer)
                case d if d == PUSH_FROM:
                    return await self._push(run, caller, transfer)
                case d if d.lower().startswith("vos:"):
                    return await self._internal(run, caller, transfer)
            raise InvalidArgument(f"invalid direction: {transfer.direction[:100]}")
        except Fault as error:
            failure = job_failure(error)
            failure.results = self._details(run)
            raise failure from error

    def _details(self, run: Run) -> tuple[Result, ...]:
        return (Result("transferDetails", f"{self._service_url}/xfer/{run.job.id}"),)

    def data_node(self, path: Path) -> Result:
        return Result("dataNode", self._space.naming.uri(path))

    async def negotiate(self, run: Run, caller: Caller, transfer: Transfer) -> Outcome:
        """Leave the job EXECUTING: the client acts now, and the service does not learn of the end."""
        found = await self._negotiator.negotiate(caller, transfer)
        await run.checkpoint({"details": write_transfer(found.transfer).decode()})
        results = (*self._details(run), self.data_node(found.path))
        if found.link is not None:
            results = (*results, Result("linkNode", self._space.naming.uri(found.link)))
        return Outcome(ExecutionPhase.EXECUTING, results)

    # The service fetches.

    async def _pull(self, run: Run, caller: Caller, transfer: Transfer) -> Outcome | None:
        check_view(transfer)
        target = self._space.naming.path(single_target(transfer))
        expected = _expected(transfer)
        protocols = _usable(transfer, _GET)
        results = (*self._details(run), self.data_node(target))
        if await self._already_there(run, caller):
            return Outcome(results=results)
        await run.announce(*results)
        key = kept_key(run.job.id)
        begin = partial(self._space.upload, caller, target, keep_properties=False, kept=key)
        async with receiving(run, begin, key) as receiver:
            upload, _ = await receiver.open()
            await receiver.announce(expected.size)
            fetched = await self._fetcher.fetch(
                # The first endpoint that delivers (VOSpace 2.1 section 3.6.1).
                [protocol.endpoint or "" for protocol in protocols],
                receiver,
                expected,
                upload.quota_left,
                trusted=caller.trusted,
                leftover=receiver,
            )
            properties = receiver.properties(fetched.media_type, fetched.encoding)
            with tracing.span("write"):
                await in_thread(receiver.stage, properties)
            results = (*self._details(run), self.data_node(upload.path))
            await place(run, upload, Outcome(results=results))
        return None

    async def _already_there(self, run: Run, caller: Caller) -> bool:
        """Return whether an earlier run placed its file and died before reporting it."""
        stamp = run.job.checkpoint.get("stamp")
        if stamp is None:
            return False
        path = tuple(run.job.checkpoint["path"])
        return await asyncio.to_thread(self._space.has_stamp, caller, path, stamp)

    # The service sends.

    async def _push(self, run: Run, caller: Caller, transfer: Transfer) -> Outcome:
        check_view(transfer)
        protocols = _usable(transfer, _PUT)
        source = self._space.naming.path(single_target(transfer))
        with ExitStack() as closing:

            def open_source() -> OpenFile:
                opened = self._space.open(caller, source)
                closing.callback(os.close, opened.descriptor)
                return opened

            opened = await in_thread(open_source)
            results = (*self._details(run), self.data_node(opened.path))
            await run.announce(*results)
            failures: list[TransferFailed] = []
            for protocol in protocols:
                try:
                    await self._sender.send(opened, protocol.endpoint or "")
                    return Outcome(results=results)
                except TransferFailed as failure:
                    failures.append(failure)
        raise next((failure for failure in failures if failure.transient), failures[0])

    # Within the space.

    async def _internal(self, run: Run, caller: Caller, transfer: Transfer) -> Outcome | None:
        source = self._space.naming.path(single_target(transfer))
        wanted = self._space.naming.path(transfer.direction)
        earlier = run.job.checkpoint.get("path")
        if earlier is not None and await self._already_there(run, caller):
            return Outcome(results=(self._destination(tuple(earlier)),))
        act = "copy" if transfer.keeps_bytes else "move"
        final = await asyncio.to_thread(self._space.destination, caller, source, wanted, act)
        outcome = Outcome(results=(self._destination(final),))
        if transfer.keeps_bytes:
            await self._copier.copy(run, caller, source, final, outcome)
            return None
        await move(run, self._space, caller, source, final, outcome)
        return None

    def _destination(self, path: Path) -> Result:
        return Result("destination", self._space.naming.uri(path))


@asynccontextmanager
async def receiving(run: Run, begin: Callable[[], Upload], key: str) -> AsyncIterator[Receiver]:
    """Receive a file that is left to the process that continues the job, if this one is told to stop."""
    receiver = Receiver(begin, key=key)
    keep = False
    try:
        yield receiver
    except asyncio.CancelledError:
        keep = not run.ends
        raise
    finally:
        await receiver.close(keep=keep)


def _usable(transfer: Transfer, uris: frozenset[str]) -> list[Protocol]:
    protocols = [p for p in transfer.protocols if p.uri in uris]
    if not protocols:
        raise ProtocolNotSupported("give a protocol " + " or ".join(sorted(uris)) + " with an endpoint")
    if any(p.endpoint is None for p in protocols):
        raise InvalidArgument("a protocol lacks its endpoint")
    return protocols


def _expected(transfer: Transfer) -> Content:
    """Return the content that the document states. Raises InvalidArgument."""
    length, md5, adler32 = (transfer.param(uri) for uri in (LENGTH, MD5, ADLER32))
    size = None if length is None else byte_count(length)
    if length is not None and size is None:
        raise InvalidArgument(f"param {LENGTH} must be a number of bytes, not {length[:40]!r}")
    try:
        return Content(
            size,
            None if md5 is None else parse_md5(md5),
            None if adler32 is None else parse_adler32(adler32),
        )
    except ValueError as error:
        raise InvalidArgument(f"param: {error}") from None
