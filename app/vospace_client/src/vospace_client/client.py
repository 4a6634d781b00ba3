"""Client of Cavern: nodes, transfers, files, and the bulk pull of our own service (VOSpace 2.1, UWS 1.1).

One instance serves a whole worker: connections are kept alive, and what a Cavern can do is asked once and kept.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit

import aiohttp
from lxml import etree
from voservice.answers import IDENTITY, seconds_asked
from voservice.content import UNKNOWN, Content
from voservice.logging import field
from voservice.sources import reason
from voservice.uris import encode_node_path
from yarl import URL

from vospace_client.documents import (
    Node,
    job_phase,
    job_result,
    node_document,
    parse,
    read_capabilities,
    read_children,
    read_node,
    transfer_document,
)
from vospace_client.errors import (
    AWAY_STATUS,
    PASSING_STATUS,
    Service,
    TransferError,
    is_away,
    tells_of_outage,
    wait_told,
)
from vospace_client.terms import (
    ADLER32,
    BULK_PULL,
    FAULT_BY_STATUS,
    HTTP_GET,
    HTTPS_GET,
    JOB_MISSING,
    LENGTH,
    MD5,
    NODE_MISSING,
    ON_TAPE,
    PULL_PROOF,
    PULL_TO,
    RECURSIVE_DELETE,
    TRANSIENT_FAULTS,
    UNFINISHED_PHASES,
)

CAPABILITIES_AGE = 600.0
"""Seconds for which a service's capabilities are kept."""
AVAILABILITY_TIMEOUT = aiohttp.ClientTimeout(total=5)
XML = {"Content-Type": "text/xml"}


class CavernError(TransferError):
    """Cavern refused, or could not be asked. ``fault`` is the standard's word for it."""


class PullNotImplemented(CavernError):
    """This Cavern has no pull by the server."""


class JobVanished(CavernError):
    """The job is no longer known: Cavern lost it."""


class Waiting(Protocol):
    """Decides how long a call waits for a service that is unavailable, and when it is cancelled."""

    @property
    def cancelled(self) -> asyncio.Event:
        """Set once nobody waits for the result any more."""
        ...

    def answered(self, *services: Service) -> None:
        """Note that these services answer; all of them without a name."""
        ...

    async def outlast(self, error: TransferError, tries: int) -> bool:
        """Wait before the next of *tries*; False if *error* is no reason to wait, or has lasted for too long."""
        ...


@dataclass(frozen=True)
class Row:
    """One file of a bulk pull: where it comes from, where it goes, and what is known of its bytes.

    Several sources, separated by blanks, are asked in this order.
    """

    source: str
    target: str
    content: Content = UNKNOWN

    def document(self) -> dict[str, Any]:
        """Return the JSON of the row, without what is not known."""
        pairs = {
            "source": self.source,
            "target": self.target,
            "size": self.content.size,
            "md5": self.content.md5,
            "adler32": self.content.adler32,
        }
        return {key: value for key, value in pairs.items() if value is not None}


def fault(status: int, body: str, retry_after: str | None = None) -> CavernError:
    """Error of an HTTP answer; its text begins with the fault's name (OpenCADC's convention)."""
    # A proxy's page says no more than its status.
    line = "" if body.lstrip().startswith("<") else body.strip().partition("\n")[0][:500]
    name, colon, detail = line.partition(":")
    # Names of faults begin with a capital, which tells "limit: 0" and the like from them.
    if not colon or " " in name.strip() or not name[:1].isupper():
        name, detail = FAULT_BY_STATUS.get(status, "InternalFault"), line or f"HTTP {status}"
    return CavernError(
        name.strip(),
        detail.strip(),
        transient=status in PASSING_STATUS,
        away="Cavern" if status in AWAY_STATUS else None,
        retry_after=seconds_asked(retry_after),
    )


def broken(what: str, exc: Exception, *, sending: bool = False) -> CavernError:
    """Error of a request that got no answer, or only a part of one."""
    return CavernError(
        "TransferFailed",
        f"{what}: {reason(exc)}",
        transient=True,
        away="Cavern" if is_away(exc, sending=sending) else None,
    )


async def availability(session: aiohttp.ClientSession, url: str) -> tuple[bool, str]:
    """Return whether the service at *url* is available, and what it says of that (VOSI 1.1). Raises `CavernError`."""
    try:
        async with session.get(f"{url}/availability", timeout=AVAILABILITY_TIMEOUT) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise fault(answer.status, body.decode(errors="replace"))
            found = parse(body)
    except (aiohttp.ClientError, TimeoutError, etree.XMLSyntaxError) as exc:
        raise broken("it does not say whether it is available", exc) from exc
    note = (found.findtext("{*}note") or "").strip()
    return (found.findtext("{*}available") or "").strip() == "true", note


class Cavern:
    """One Cavern, for any user whose token is given with the call."""

    def __init__(self, url: str, vos_uri: str, session: aiohttp.ClientSession, pull_proof: str = "") -> None:
        """Speak to the service at *url* whose root node is *vos_uri*.

        *pull_proof* has it use the credentials of storage elements for our pulls.
        """
        self.url = url
        self.vos_uri = vos_uri
        self.session = session
        self._proof = {PULL_PROOF: pull_proof} if pull_proof else {}
        self._capabilities: tuple[float, dict[str, str]] = (float("-inf"), {})
        self._pulls: bool | None = None
        self._first_pull = asyncio.Lock()

    # -- requests ------------------------------------------------------------------------------------------

    @staticmethod
    def _headers(token: str) -> dict[str, str]:
        """Return headers that name the caller and the task: HAProxy and Cavern log the latter as the request's id."""
        headers = {"Authorization": f"Bearer {token}"}
        if request := field("task") or field("request_id"):
            headers["X-Request-ID"] = request
        return headers

    async def _request(
        self,
        method: str,
        url: str | URL,
        token: str,
        *,
        ok: tuple[int, ...] = (200, 201, 204),
        **options: Any,
    ) -> tuple[int, bytes, Any]:
        headers = self._headers(token) | options.pop("headers", {})
        try:
            async with self.session.request(
                method, url, headers=headers, allow_redirects=False, **options
            ) as answer:
                body = await answer.read()
                if answer.status not in ok:
                    raise fault(
                        answer.status, body.decode(errors="replace"), answer.headers.get("Retry-After")
                    )
                return answer.status, body, answer.headers
        except (aiohttp.ClientError, TimeoutError) as exc:
            sending = isinstance(options.get("data"), AsyncIterator)
            raise broken("Cavern cannot be asked", exc, sending=sending) from exc

    def node_url(self, path: str) -> URL:
        """URL of the node at *path*, which begins with a slash."""
        return self._url("nodes", path)

    def file_url(self, path: str) -> URL:
        """URL of the bytes of the node at *path*."""
        return self._url("files", path)

    def _url(self, endpoint: str, path: str) -> URL:
        # As it is: aiohttp would write some of what is encoded plainly, such as a ';', which ends a name for Tomcat.
        return URL(f"{self.url}/{endpoint}{quote(path)}", encoded=True)

    def uri(self, path: str) -> str:
        """VOSpace URI of the node at *path*."""
        return self.vos_uri + encode_node_path(path)

    @staticmethod
    def path(uri: str) -> str:
        """Path of the node with a VOSpace URI."""
        return unquote("/" + uri.partition("://")[2].partition("/")[2])

    async def node(self, path: str, token: str) -> Node | None:
        """The node at *path* without its children, or None."""
        try:
            _, body, _ = await self._request(
                "GET", self.node_url(path), token, params={"limit": "0", "detail": "max"}
            )
        except CavernError as exc:
            if exc.fault in NODE_MISSING:
                return None
            raise
        return read_node(body)

    async def children(self, path: str, token: str) -> dict[str, Node]:
        """Return the children of a container by name; none if there is no such container."""
        try:
            _, body, _ = await self._request("GET", self.node_url(path), token)
        except CavernError as exc:
            if exc.fault in NODE_MISSING:
                return {}
            raise
        return read_children(body)

    async def listing(
        self, path: str, token: str, limit: int, start: str | None = None
    ) -> tuple[Node, dict[str, Node], str | None]:
        """Return the node at *path*, at most *limit* children by name from *start* on, and where the next ones begin.

        A Cavern that does not page, as OpenCADC's (VOSpace 2.1 section 3.5.1 leaves it open), is asked for all of them.
        """
        url, query = self.node_url(path), {"detail": "max"}
        here = path.rstrip("/")
        paged = (
            query
            | {"limit": str(limit + 1)}
            | ({} if start is None else {"uri": self.uri(f"{here}/{start}")})
        )
        try:
            _, body, _ = await self._request("GET", url, token, params=paged)
        except CavernError as exc:
            if start is None or exc.fault != "OptionNotSupported":
                raise
            _, body, _ = await self._request("GET", url, token, params=query)
        found = read_children(body)
        names = sorted(name for name in found if start is None or name >= start)
        following = names[limit] if len(names) > limit else None
        return read_node(body), {name: found[name] for name in names[:limit]}, following

    async def create_container(self, path: str, token: str, properties: dict[str, str] | None = None) -> bool:
        """Create a container; False if it was there already."""
        document = node_document("ContainerNode", self.uri(path), properties or {})
        try:
            await self._request("PUT", self.node_url(path), token, data=document, headers=XML)
        except CavernError as exc:
            if exc.fault == "DuplicateNode":
                return False
            raise
        return True

    async def update(
        self, path: str, properties: Mapping[str, str | None], token: str, kind: str = "DataNode"
    ) -> None:
        """Set properties of a node, or remove those that are None; it keeps the others."""
        document = node_document(kind, self.uri(path), properties)
        await self._request("POST", self.node_url(path), token, data=document, headers=XML)

    async def delete(self, path: str, token: str) -> None:
        """Delete the node at *path*; that it is gone already is as good."""
        try:
            await self._request("DELETE", self.node_url(path), token)
        except CavernError as exc:
            if exc.fault != "NodeNotFound":
                raise

    async def delete_tree(self, path: str, token: str) -> None:
        """Delete a container with everything in it, by a job of its own, and wait for its end."""
        url = (await self.capabilities()).get(RECURSIVE_DELETE)
        if url is None:
            raise CavernError(
                "OperationNotSupported", "this Cavern deletes no containers with what is in them"
            )
        _, _, answer = await self._request("POST", url, token, ok=(200, 303), data={"target": self.uri(path)})
        job = urljoin(url, str(answer.get("Location", "")))
        if urlsplit(job).netloc != urlsplit(url).netloc:
            raise CavernError("InternalFault", f"{url} leads to no job", transient=True)
        await self.run(job, token)
        pause = 0.02
        while (phase := await self.phase(job, token, wait=10)) in UNFINISHED_PHASES:
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)
        if phase != "COMPLETED":
            raise await self.error(job, token)

    # -- its state -------------------------------------------------------------------------------------------

    async def set_state(self, state: str, token: str) -> None:
        """Set `ReadWrite`, `ReadOnly` or `Offline`, for all who use it."""
        url = f"{self.url}/availability"
        await self._request("POST", url, token, ok=(200, 204, 303), data={"state": state})

    # -- what this Cavern can do -----------------------------------------------------------------------------

    async def capabilities(self) -> dict[str, str]:
        """Access URLs by standard identifier."""
        fetched, known = self._capabilities
        if time.monotonic() - fetched < CAPABILITIES_AGE:
            return known
        try:
            async with self.session.get(f"{self.url}/capabilities") as answer:
                answer.raise_for_status()
                found = read_capabilities(await answer.read())
        except (aiohttp.ClientError, TimeoutError, etree.XMLSyntaxError) as exc:
            if known:
                return known
            raise broken("Cavern does not say what it can do", exc) from exc
        self._capabilities = (time.monotonic(), found)
        return found

    async def bulk_pull_url(self) -> str | None:
        """URL of the bulk pull, where this Cavern has it."""
        return (await self.capabilities()).get(BULK_PULL)

    @property
    def can_pull(self) -> bool:
        """False once this Cavern has said that it does not implement pulling."""
        return self._pulls is not False

    # -- bulk pull -------------------------------------------------------------------------------------------

    async def create_bulk_pull(self, url: str, rows: list[Row], concurrency: int, token: str) -> str:
        """Make a job that pulls *rows* once it is told to `run`; returns its URL.

        Raises ``PullNotImplemented`` where there is none any more: this Cavern may be another one by now.
        """
        body = json.dumps(
            {"rows": [row.document() for row in rows], "if_exists": "verify", "concurrency": concurrency}
        )
        headers = {"Content-Type": "application/json", **self._proof}
        status, _, answer = await self._request(
            "POST", url, token, ok=(303, 404, 405), data=body.encode(), headers=headers
        )
        if status != 303:
            self._capabilities = (float("-inf"), {})
            raise PullNotImplemented("OperationNotSupported", f"{url} answered {status}")
        return urljoin(url, str(answer["Location"]))

    async def run(self, job: str, token: str) -> None:
        """Let a job begin that waits for it. Raises ``JobVanished`` where it is gone."""
        try:
            await self._request("POST", f"{job}/phase", token, ok=(200, 303), data={"PHASE": "RUN"})
        except CavernError as exc:
            if exc.fault in JOB_MISSING:
                raise JobVanished("JobNotFound", "Cavern no longer knows the job", transient=True) from exc
            raise

    async def bulk_results(self, job: str, after: int, token: str) -> AsyncIterator[dict[str, Any]]:
        """Results of a bulk job as they come, beginning after the event *after*.

        They end with the job, and where the connection breaks or nothing comes for a while: the phase tells which.
        """
        headers = self._headers(token) | {"Accept": "application/x-ndjson"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        answered = False
        try:
            async with self.session.get(
                f"{job}/results/files", params={"from": str(after)}, headers=headers, timeout=timeout
            ) as answer:
                if answer.status == 404:
                    raise JobVanished("JobNotFound", "Cavern no longer knows the job", transient=True)
                if answer.status != 200:
                    raise fault(answer.status, await answer.text(), answer.headers.get("Retry-After"))
                answered = True
                async for line in answer.content:
                    if line.strip():
                        yield json.loads(line)
        except ValueError as exc:
            raise CavernError("TransferFailed", f"the results cannot be read: {exc}", transient=True) from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            # Cavern has nothing to say while a large file is under way.
            if not answered:
                raise broken("the results cannot be read", exc) from exc

    async def phase(self, job: str, token: str, wait: int = 0) -> str:
        """Phase of a job; with *wait*, answered when it changes or after so many seconds."""
        return job_phase(await self._job(job, token, wait))

    async def _job(self, job: str, token: str, wait: int = 0) -> etree._Element:
        params = {"WAIT": str(wait)} if wait else {}
        timeout = aiohttp.ClientTimeout(total=wait + 60)
        try:
            _, body, _ = await self._request("GET", job, token, params=params, timeout=timeout)
        except CavernError as exc:
            if exc.fault in JOB_MISSING:
                raise JobVanished("JobNotFound", "Cavern no longer knows the job", transient=True) from exc
            raise
        return parse(body)

    async def abort(self, job: str, token: str) -> None:
        """Ask a job to end."""
        try:
            await self._request("POST", f"{job}/phase", token, ok=(200, 303), data={"PHASE": "ABORT"})
        except CavernError as exc:
            if exc.fault not in JOB_MISSING:
                raise

    async def error(self, job: str, token: str) -> CavernError:
        """Return the error of a job that ended in ERROR."""
        try:
            _, body, _ = await self._request("GET", f"{job}/error", token)
        except CavernError as exc:
            return exc
        text = body.decode(errors="replace").strip()
        if text.endswith("not implemented"):
            return PullNotImplemented("OperationNotSupported", text)
        name, _, detail = text.partition(":")
        known = name.strip() if " " not in name.strip() else "TransferFailed"
        return CavernError(
            known,
            detail.strip() or text,
            transient=known in TRANSIENT_FAULTS,
            away="RSE" if known == "TransferFailed" and tells_of_outage(text) else None,
            retry_after=wait_told(detail) if known == ON_TAPE else None,
        )

    # -- one transfer ----------------------------------------------------------------------------------------

    async def pull(self, row: Row, token: str, patience: Waiting) -> None:
        """Let Cavern pull one file, and wait for the end of its job (VOSpace 2.1 section 3.6.2).

        A Cavern that goes away meanwhile is waited for with *patience*, and the same job followed when it is back.
        """
        protocol = HTTPS_GET if row.source.startswith("https:") else HTTP_GET
        known = row.content
        document = transfer_document(
            row.target,
            PULL_TO,
            [(protocol, row.source)],
            params={LENGTH: known.size, MD5: known.md5, ADLER32: known.adler32},
        )
        async with AsyncExitStack() as asking:
            if self._pulls is None:
                # The others wait for what the first is told: a Cavern that cannot pull is asked once.
                await asking.enter_async_context(self._first_pull)
            if self._pulls is False:
                raise PullNotImplemented("OperationNotSupported", "this Cavern does not pull")
            if patience.cancelled.is_set():
                raise CavernError("Cancelled", "Cancelled before it was pulled")
            job = await self._start(document, token)
            try:
                phase = await self._end_of_pull(job, token, patience, asking)
            except BaseException:
                # Nobody follows it any more. Where Cavern is away, what it does in the end is its own.
                with suppress(CavernError):
                    await asyncio.shield(self.abort(job, token))
                raise
            error = None if phase == "COMPLETED" else await self.error(job, token)
            if error is None or error.away != "Cavern":
                self._pulls = not isinstance(error, PullNotImplemented)
        if error:
            raise error

    async def _end_of_pull(self, job: str, token: str, patience: Waiting, asking: AsyncExitStack) -> str:
        """Final phase of a pull; lets others ask, too, as soon as it is clear that this Cavern pulls."""
        seen, tries = "", 0
        while not patience.cancelled.is_set():
            try:
                phase = await self.phase(job, token, wait=10)
            except CavernError as exc:
                # Others wait for Cavern by themselves.
                await asking.aclose()
                tries += 1
                if not await patience.outlast(exc, tries):
                    raise
                continue
            tries = 0
            patience.answered("Cavern")
            if phase not in UNFINISHED_PHASES:
                return phase
            if phase == seen == "EXECUTING":
                # Who does not implement it says so as soon as it begins.
                self._pulls = True
                await asking.aclose()
            seen = phase
        raise CavernError("Cancelled", "Cancelled while it was pulled")

    async def _start(self, document: bytes, token: str) -> str:
        job = await self._make_job("transfers", document, token)
        await self.run(job, token)
        return job

    async def _make_job(self, endpoint: str, document: bytes, token: str) -> str:
        """URL of a new job at an endpoint for transfers."""
        url = f"{self.url}/{endpoint}"
        _, _, answer = await self._request(
            "POST", url, token, ok=(200, 303), data=document, headers=XML | self._proof
        )
        job = urljoin(url, str(answer.get("Location", ""))).removesuffix("/results/transferDetails")
        if job == url or urlsplit(job).netloc != urlsplit(url).netloc:
            raise CavernError("InternalFault", f"{url} leads to no job, but to {job}", transient=True)
        return job

    async def move(self, source: str, target: str, token: str) -> None:
        """Move a node (VOSpace 2.1 section 3.3.2): a synchronous job, which is over when its making is answered."""
        document = transfer_document(self.uri(source), self.uri(target), keep_bytes=False)
        # The answer is the same whatever became of it: the job tells.
        job = await self._make_job("synctrans", document, token)
        pause = 0.02
        while job_phase(ended := await self._job(job, token)) in UNFINISHED_PHASES:
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)
        if job_phase(ended) != "COMPLETED":
            error = await self.error(job, token)
            # Something has come into its place meanwhile; who tries again looks what it is.
            error.transient |= error.fault == "DuplicateNode"
            raise error
        ends = job_result(ended, "destination")
        for place in map(self.path, ends):
            if place.rpartition("/")[2] != source.rpartition("/")[2]:
                continue
            # A container has come into its place, into which a node is moved under its own name.
            await self.delete(place, token)
            raise CavernError("DuplicateNode", f"{target} is a container")

    async def read(self, path: str, token: str) -> AsyncIterator[bytes]:
        """The bytes of a file as they come, those of one that is coded itself too."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        try:
            async with self.session.get(
                self.file_url(path),
                headers=self._headers(token) | IDENTITY,
                timeout=timeout,
                auto_decompress=False,
            ) as answer:
                if answer.status not in {200, 204}:
                    raise fault(answer.status, await answer.text(), answer.headers.get("Retry-After"))
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise broken("reading back broke off", exc) from exc

    async def put(
        self,
        path: str,
        chunks: AsyncIterator[bytes],
        size: int | None,
        token: str,
        media_type: str | None = None,
    ) -> str | None:
        """Write a file as a stream; returns the hexadecimal MD5 that Cavern says it stored, if it says so."""
        headers = {"Content-Type": media_type or "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
        _, _, answer = await self._request(
            "PUT", self.file_url(path), token, data=chunks, headers=headers, timeout=timeout
        )
        algorithm, _, value = answer.get("Digest", "").partition("=")
        if algorithm.strip().lower() != "md5":
            return None
        return base64.b64decode(value).hex()
