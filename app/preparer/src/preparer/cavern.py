"""Client of Cavern: nodes, transfers, files, and the bulk pull of our own service (VOSpace 2.1, UWS 1.1).

One instance serves a whole worker: connections are kept alive, and what a Cavern can do is asked once and kept.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from xml.sax.saxutils import escape, quoteattr

import aiohttp
from lxml import etree
from voservice.answers import IDENTITY, seconds_asked
from voservice.logging import field
from voservice.uris import encode_node_path
from yarl import URL

from preparer.faults import (
    AWAY_STATUS,
    PASSING_STATUS,
    TransferError,
    is_away,
    tells_of_outage,
)
from preparer.patience import Patience

BULK_PULL = "ivo://skao.int/std/VOSpace#bulk-pull-1.0"
CORE = "ivo://ivoa.net/vospace/core#"
ADLER32 = "ivo://skao.int/vospace/core#adler32"
QUOTA = f"{CORE}quota"
LENGTH = f"{CORE}length"
MD5 = f"{CORE}MD5"
DATE = f"{CORE}date"
ENCODING = f"{CORE}encoding"
PUBLIC = f"{CORE}ispublic"
GROUPS = (f"{CORE}groupread", f"{CORE}groupwrite")
INHERIT = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"
VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
HREF = "{http://www.w3.org/1999/xlink}href"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

CAPABILITIES_AGE = 600.0
ACTIVE_PHASES = {"PENDING", "QUEUED", "EXECUTING", "SUSPENDED", "HELD", "UNKNOWN"}
WAITING_PHASES = {"PENDING", "HELD"}
XML = {"Content-Type": "text/xml"}
MISSING_JOB = {"NodeNotFound", "JobNotFound"}
TRANSIENT_FAULTS = ("NodeBusy", "NodeLocked", "ServiceBusy", "TransientException", "TransferFailed")


class CavernError(TransferError):
    """Cavern refused, or could not be asked. ``fault`` is the standard's word for it."""


class PullNotImplemented(CavernError):
    """This Cavern has no pull by the server."""


class JobVanished(CavernError):
    """The job is no longer known: Cavern lost it."""


@dataclass(frozen=True)
class Row:
    """One file of a bulk pull."""

    source: str
    target: str
    size: int | None = None
    md5: str | None = None
    adler32: str | None = None

    def document(self) -> dict[str, Any]:
        """JSON of the row, without what is unknown."""
        pairs = {
            "source": self.source,
            "target": self.target,
            "size": self.size,
            "md5": self.md5,
            "adler32": self.adler32,
        }
        return {key: value for key, value in pairs.items() if value is not None}


@dataclass(frozen=True)
class Node:
    """What is asked of a node's document."""

    kind: str
    properties: dict[str, str]

    def number(self, uri: str) -> int | None:
        """Value of a numeric property."""
        text = self.properties.get(uri, "")
        return int(text) if text.isdecimal() else None

    @property
    def md5(self) -> str | None:
        """MD5 of a file as 32 hexadecimal digits, where Cavern tells it."""
        return self.properties.get(MD5, "").removeprefix("md5:").lower() or None

    @property
    def inherited(self) -> dict[str, str]:
        """Permissions that a container gives to what is made in it; empty if there is nothing to give."""
        if self.properties.get(INHERIT) != "true":
            return {}
        found = {uri: value for uri in GROUPS if (value := self.properties.get(uri))}
        return found | ({PUBLIC: "true"} if self.properties.get(PUBLIC) == "true" else {})

    @property
    def room(self) -> int | None:
        """Bytes left of an allocation's quota; None without a quota."""
        quota = self.number(QUOTA)
        return None if quota is None else max(quota - (self.number(LENGTH) or 0), 0)


def fault(status: int, body: str, retry_after: str | None = None) -> CavernError:
    """Error of an HTTP answer; its text begins with the fault's name (OpenCADC's convention)."""
    # A proxy's page says no more than its status.
    line = "" if body.lstrip().startswith("<") else body.strip().partition("\n")[0][:500]
    name, colon, detail = line.partition(":")
    # Names of faults begin with a capital, which tells "limit: 0" and the like from them.
    if not colon or " " in name.strip() or not name[:1].isupper():
        defaults = {
            401: "NotAuthenticated",
            403: "PermissionDenied",
            404: "NodeNotFound",
            409: "DuplicateNode",
        }
        defaults |= {412: "ChecksumMismatch", 413: "QuotaExceeded", 423: "NodeLocked"}
        name, detail = defaults.get(status, "InternalFault"), line or f"HTTP {status}"
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
        f"{what}: {exc or type(exc).__name__}",
        transient=True,
        away="Cavern" if is_away(exc, sending=sending) else None,
    )


def _node(element: etree._Element) -> Node:
    listed = element.iterfind(f"{{{VOS}}}properties/{{{VOS}}}property")
    properties = {entry.get("uri", ""): (entry.text or "").strip() for entry in listed}
    return Node(element.get(f"{{{XSI}}}type", "").partition(":")[2], properties)


def _phase(job: etree._Element) -> str:
    return str(job.findtext("{*}phase") or "UNKNOWN").strip()


class Cavern:
    """One Cavern, for any user whose token is given with the call."""

    def __init__(self, url: str, vos_uri: str, session: aiohttp.ClientSession) -> None:
        """Speak to the service at *url* whose root node is *vos_uri*."""
        self.url = url
        self.vos_uri = vos_uri
        self.session = session
        self._capabilities: tuple[float, dict[str, str]] = (float("-inf"), {})
        self._pulls: bool | None = None
        self._first_pull = asyncio.Lock()

    # -- requests ------------------------------------------------------------------------------------------

    @staticmethod
    def _headers(token: str) -> dict[str, str]:
        """Who asks, and for which task: HAProxy and Cavern log it as the request's id."""
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
            if exc.fault in {"NodeNotFound", "ContainerNotFound"}:
                return None
            raise
        return _node(etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True)))

    async def children(self, path: str, token: str) -> dict[str, Node]:
        """What is in a container, by name; nothing if there is no such container."""
        try:
            _, body, _ = await self._request("GET", self.node_url(path), token)
        except CavernError as exc:
            if exc.fault in {"NodeNotFound", "ContainerNotFound"}:
                return {}
            raise
        root = etree.fromstring(
            body, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
        )
        found = root.iterfind(f"{{{VOS}}}nodes/{{{VOS}}}node")
        return {unquote(child.get("uri", "").rpartition("/")[2]): _node(child) for child in found}

    async def create_container(self, path: str, token: str, properties: dict[str, str] | None = None) -> bool:
        """Create a container; False if it was there already."""
        document = self._document("ContainerNode", path, properties or {})
        try:
            await self._request("PUT", self.node_url(path), token, data=document, headers=XML)
        except CavernError as exc:
            if exc.fault == "DuplicateNode":
                return False
            raise
        return True

    async def update(self, path: str, properties: dict[str, str], token: str) -> None:
        """Set properties of a data node; it keeps the others."""
        document = self._document("DataNode", path, properties)
        await self._request("POST", self.node_url(path), token, data=document, headers=XML)

    def _document(self, kind: str, path: str, properties: dict[str, str]) -> bytes:
        entries = "".join(
            f"<vos:property uri={quoteattr(uri)}>{escape(value)}</vos:property>"
            for uri, value in properties.items()
        )
        inside = "<vos:nodes/>" if kind == "ContainerNode" else ""
        return (
            f'<vos:node xmlns:vos="{VOS}" xmlns:xsi="{XSI}" xsi:type="vos:{kind}" uri={quoteattr(self.uri(path))}>'
            f"<vos:properties>{entries}</vos:properties>{inside}</vos:node>"
        ).encode()

    async def delete(self, path: str, token: str) -> None:
        """Delete the node at *path*; that it is gone already is as good."""
        try:
            await self._request("DELETE", self.node_url(path), token)
        except CavernError as exc:
            if exc.fault != "NodeNotFound":
                raise

    # -- what this Cavern can do -----------------------------------------------------------------------------

    async def capabilities(self) -> dict[str, str]:
        """Access URLs by standard identifier."""
        fetched, known = self._capabilities
        if time.monotonic() - fetched < CAPABILITIES_AGE:
            return known
        try:
            async with self.session.get(f"{self.url}/capabilities") as answer:
                answer.raise_for_status()
                root = etree.fromstring(
                    await answer.read(), etree.XMLParser(resolve_entities=False, no_network=True)
                )
        except (aiohttp.ClientError, TimeoutError, etree.XMLSyntaxError) as exc:
            if known:
                return known
            raise broken("Cavern does not say what it can do", exc) from exc
        found = {
            c.get("standardID", ""): (c.findtext(".//{*}accessURL") or "").strip()
            for c in root.iter("{*}capability")
        }
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
        headers = {"Content-Type": "application/json"}
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
            if exc.fault in MISSING_JOB:
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
        return _phase(await self._job(job, token, wait))

    async def _job(self, job: str, token: str, wait: int = 0) -> etree._Element:
        params = {"WAIT": str(wait)} if wait else {}
        timeout = aiohttp.ClientTimeout(total=wait + 60)
        try:
            _, body, _ = await self._request("GET", job, token, params=params, timeout=timeout)
        except CavernError as exc:
            if exc.fault in MISSING_JOB:
                raise JobVanished("JobNotFound", "Cavern no longer knows the job", transient=True) from exc
            raise
        return etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True))

    async def abort(self, job: str, token: str) -> None:
        """Ask a job to end."""
        try:
            await self._request("POST", f"{job}/phase", token, ok=(200, 303), data={"PHASE": "ABORT"})
        except CavernError as exc:
            if exc.fault not in MISSING_JOB:
                raise

    async def error(self, job: str, token: str) -> CavernError:
        """Why a job ended in ERROR."""
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
        )

    # -- one transfer ----------------------------------------------------------------------------------------

    async def pull(self, row: Row, token: str, patience: Patience) -> None:
        """Let Cavern pull one file, and wait for the end of its job (VOSpace 2.1 section 3.6.2).

        A Cavern that goes away meanwhile is waited for with *patience*, and the same job followed when it is back.
        """
        protocol = "httpsget" if row.source.startswith("https:") else "httpget"
        params = [(LENGTH, row.size), (f"{CORE}MD5", row.md5), (ADLER32, row.adler32)]
        document = (
            f'<vos:transfer xmlns:vos="{VOS}" version="2.1"><vos:target>{escape(row.target)}</vos:target>'
            f'<vos:direction>pullToVoSpace</vos:direction><vos:protocol uri="{CORE}{protocol}">'
            f"<vos:endpoint>{escape(row.source)}</vos:endpoint></vos:protocol>"
            + "".join(
                f'<vos:param uri="{uri}">{value}</vos:param>' for uri, value in params if value is not None
            )
            + "</vos:transfer>"
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

    async def _end_of_pull(self, job: str, token: str, patience: Patience, asking: AsyncExitStack) -> str:
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
            if phase not in ACTIVE_PHASES:
                return phase
            if phase == seen == "EXECUTING":
                # Who does not implement it says so as soon as it begins.
                self._pulls = True
                await asking.aclose()
            seen = phase
        raise CavernError("Cancelled", "Cancelled while it was pulled")

    async def _start(self, document: str, token: str) -> str:
        job = await self._make_job("transfers", document, token)
        await self.run(job, token)
        return job

    async def _make_job(self, endpoint: str, document: str, token: str) -> str:
        """URL of a new job at an endpoint for transfers."""
        url = f"{self.url}/{endpoint}"
        _, _, answer = await self._request(
            "POST", url, token, ok=(200, 303), data=document.encode(), headers=XML
        )
        job = urljoin(url, str(answer.get("Location", ""))).removesuffix("/results/transferDetails")
        if job == url or urlsplit(job).netloc != urlsplit(url).netloc:
            raise CavernError("InternalFault", f"{url} leads to no job, but to {job}", transient=True)
        return job

    async def move(self, source: str, target: str, token: str) -> None:
        """Move a node (VOSpace 2.1 section 3.3.2): a synchronous job, which is over when its making is answered."""
        document = (
            f'<vos:transfer xmlns:vos="{VOS}" version="2.1"><vos:target>{escape(self.uri(source))}</vos:target>'
            f"<vos:direction>{escape(self.uri(target))}</vos:direction><vos:keepBytes>false</vos:keepBytes></vos:transfer>"
        )
        # The answer is the same whatever became of it: the job tells.
        job = await self._make_job("synctrans", document, token)
        pause = 0.02
        while _phase(ended := await self._job(job, token)) in ACTIVE_PHASES:
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)
        if _phase(ended) != "COMPLETED":
            error = await self.error(job, token)
            # Something has come into its place meanwhile; who tries again looks what it is.
            error.transient |= error.fault == "DuplicateNode"
            raise error
        ends = [
            result.get(HREF, "") for result in ended.iter("{*}result") if result.get("id") == "destination"
        ]
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
