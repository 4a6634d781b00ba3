"""Stand-in for Cavern's jobs: transfers that negotiate, move or end in "not implemented", packages, recursive work.

Jobs are rows of ``uws.job``; their work is kept in memory alone, so that a restart leaves phases as they were.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import string
import tarfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from lxml import etree
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from standin.disk import CORE, Node
from standin.identity import Caller
from standin.web import TOKEN, VOS, XML, XSI, Fault, shown, valid

if TYPE_CHECKING:
    from standin.cavern import Cavern

UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
PKG = "vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0"
PUSH, PULL, BOTH_WAYS = "pushToVoSpace", "pullFromVoSpace", "ivo://cadc.nrc.ca/vospace#biDirectional"
VIEWS = {"", f"{CORE}defaultview", "ivo://cadc.nrc.ca/vospace/view#data"}
FORMATS = {"application/x-tar": "tar", "application/zip": "zip"}
# What becomes of a document whose media type is not exactly text/xml.
NO_TRANSFER = "could not create Transfer from request"
WORKERS, MOST_ERRORS, LONGEST_WAIT = 6, 100, 60
TABLES = """
CREATE TABLE IF NOT EXISTS uws.modelversion (
    model varchar(32) PRIMARY KEY, version varchar(32), lastmodified timestamp
);
CREATE TABLE IF NOT EXISTS uws.job (
    jobid varchar(16) PRIMARY KEY, ownerid varchar(128), executionphase varchar(16), error_summarymessage text,
    requestpath text, jobinfo_content text[], jobinfo_contenttype varchar(128), deletedbyuser integer DEFAULT 0
);
CREATE TABLE IF NOT EXISTS uws.jobdetail (
    jobid varchar(16) REFERENCES uws.job, type char(1), name varchar(128), value text
);
INSERT INTO uws.modelversion VALUES ('UWS', '1.3.0', now()) ON CONFLICT DO NOTHING;
"""

Row = dict[str, Any]
Work = Callable[[Row, Caller | None], Awaitable[str]]


class Jobs:
    """Jobs of one Cavern."""

    def __init__(self, cavern: Cavern) -> None:
        self.cavern = cavern
        self.limits = {
            name: asyncio.Semaphore(WORKERS) for name in ("transfers", "async-delete", "async-setprops")
        }
        self.running: set[asyncio.Task[None]] = set()

    def routes(self, path: str) -> list[Route]:
        """What is served below *path*."""
        lists = {
            "transfers": (self._post_transfer, self._transfer),
            "async-delete": (self._post_deletion, self._delete_tree),
            "async-setprops": (self._post_properties, self._update_tree),
        }
        found = [
            Route(f"{path}/synctrans", self.synchronous, methods=["GET", "POST"]),
            Route(f"{path}/xfer/{{job}}", self.details),
            Route(f"{path}/pkg/{{job}}/run", self.package),
        ]
        for name, (create, work) in lists.items():
            below = f"{path}/{name}"
            found += [
                Route(below, self._list(name, create), methods=["GET", "POST"]),
                Route(f"{below}/{{job}}", self.one, methods=["GET", "POST", "DELETE"]),
                Route(f"{below}/{{job}}/phase", self._run(name, work), methods=["POST"]),
                Route(f"{below}/{{job}}/results/{{result}}", self.result),
                Route(f"{below}/{{job}}/{{field}}", self.field),
            ]
        return found

    # -- rows --------------------------------------------------------------------------------------------------

    async def _database(self, statement: str, *values: object) -> list[Row]:
        async with self.cavern.pool.connection() as connection:
            return [dict(row) for row in await connection.fetch(statement, *values)]

    async def _make(
        self, name: str, kind: str, document: str, caller: Caller | None, phase: str = "PENDING"
    ) -> str:
        letters = string.ascii_lowercase
        job = secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(15))
        await self._database(
            "INSERT INTO uws.job (jobid, ownerid, executionphase, requestpath, jobinfo_content, "
            "jobinfo_contenttype) VALUES ($1, $2, $3, $4, $5, $6)",
            job,
            str(caller.uid) if caller else None,
            phase,
            f"{self.cavern.path}/{name}",
            [document],
            kind,
        )
        return job

    async def _row(self, request: Request, caller: Caller | None) -> Row:
        name = request.path_params["job"]
        rows = await self._database("SELECT * FROM uws.job WHERE jobid = $1 AND deletedbyuser = 0", name)
        if not rows:
            raise Fault(404, f"not found: {name}")
        if rows[0]["ownerid"] not in (None, str(caller.uid) if caller else None):
            raise Fault(403, "permission denied")
        return rows[0]

    async def _phase(self, job: str, phase: str, error: str | None = None) -> None:
        await self._database(
            "UPDATE uws.job SET executionphase = $2, error_summarymessage = $3 "
            "WHERE jobid = $1 AND executionphase <> 'ABORTED'",
            job,
            phase,
            error,
        )

    async def _results(self, job: str, results: dict[str, str] | None = None) -> dict[str, str]:
        for name, value in (results or {}).items():
            await self._database(
                "INSERT INTO uws.jobdetail (jobid, type, name, value) VALUES ($1, 'R', $2, $3)",
                job,
                name,
                value,
            )
        rows = await self._database(
            "SELECT name, value FROM uws.jobdetail WHERE jobid = $1 AND type = 'R' ORDER BY name", job
        )
        return {row["name"]: row["value"] for row in rows}

    # -- UWS ---------------------------------------------------------------------------------------------------

    def _list(self, name: str, create: Callable[[Request, Caller | None], Awaitable[str]]) -> Any:
        async def serve(request: Request) -> Response:
            caller = await self.cavern.caller(request)
            if request.method == "GET":
                return await self._jobs(name, caller)
            document = await create(request, caller)
            job = await self._make(name, _kind(request), document, caller)
            return RedirectResponse(f"{self.cavern.url}/{name}/{job}", 303, headers=shown(caller))

        return serve

    async def _jobs(self, name: str, caller: Caller | None) -> Response:
        if caller is None:
            raise Fault(403, "permission denied")
        rows = await self._database(
            "SELECT * FROM uws.job WHERE ownerid = $1 AND requestpath = $2 AND deletedbyuser = 0",
            str(caller.uid),
            f"{self.cavern.path}/{name}",
        )
        root = etree.Element(f"{{{UWS}}}jobs", {"version": "1.1"}, nsmap={"uws": UWS, "xlink": XLINK})
        for row in rows:
            reference = etree.SubElement(root, f"{{{UWS}}}jobref", id=row["jobid"])
            etree.SubElement(reference, f"{{{UWS}}}phase").text = row["executionphase"]
        return _xml(root)

    def _run(self, name: str, work: Work) -> Any:
        async def serve(request: Request) -> Response:
            caller = await self.cavern.caller(request)
            row = await self._row(request, caller)
            phase = parse_qs((await request.body()).decode()).get("PHASE", [""])[0]
            if phase == "ABORT":
                await self._phase(row["jobid"], "ABORTED")
            elif phase != "RUN":
                raise Fault(400, f"invalid phase: {phase}")
            elif row["executionphase"] != "PENDING":
                raise RuntimeError("the job is not PENDING")
            else:
                await self._phase(row["jobid"], "QUEUED")
                task = asyncio.create_task(self._execute(self.limits[name], work, row, caller))
                self.running.add(task)
                task.add_done_callback(self.running.discard)
            return RedirectResponse(f"{self.cavern.url}/{name}/{row['jobid']}", 303, headers=shown(caller))

        return serve

    async def _execute(self, limit: asyncio.Semaphore, work: Work, row: Row, caller: Caller | None) -> None:
        async with limit:
            await self._phase(row["jobid"], "EXECUTING")
            try:
                phase = await work(row, caller)
            except Fault as fault:
                await self._phase(row["jobid"], "ERROR", fault.text)
            except Exception as error:
                await self._phase(row["jobid"], "ERROR", f"{type(error).__name__}:{error}")
            else:
                await self._phase(row["jobid"], phase)

    async def one(self, request: Request) -> Response:
        """A job's document, or its removal from sight."""
        caller = await self.cavern.caller(request)
        row = await self._row(request, caller)
        above = request.url.path.rpartition("/")[0].removeprefix(self.cavern.path)
        if request.method == "POST" and parse_qs((await request.body()).decode()).get("ACTION") != ["DELETE"]:
            raise Fault(400, "invalid action")
        if request.method != "GET":
            await self._database("UPDATE uws.job SET deletedbyuser = 1 WHERE jobid = $1", row["jobid"])
            return RedirectResponse(f"{self.cavern.url}{above}", 303)
        if "WAIT" in request.query_params:
            row = await self._wait(request, row, caller)
        return await self._document(row)

    async def _wait(self, request: Request, row: Row, caller: Caller | None) -> Row:
        """Until the phase changes, which is looked at after 1, 2, 4, 8 and then every 8 s."""
        try:
            left = float(int(request.query_params["WAIT"]))
        except ValueError as error:
            raise Fault(400, f"invalid WAIT: {request.query_params['WAIT']}") from error
        left = LONGEST_WAIT if not 0 <= left <= LONGEST_WAIT else left
        pause, before = 1.0, row["executionphase"]
        while left > 0 and row["executionphase"] == before and before in ("PENDING", "QUEUED", "EXECUTING"):
            await asyncio.sleep(pause)
            left, pause = left - pause, min(8.0, pause * 2)
            row = await self._row(request, caller)
        return row

    async def _document(self, row: Row) -> Response:
        root = etree.Element(
            f"{{{UWS}}}job", {"version": "1.1"}, nsmap={"uws": UWS, "xlink": XLINK, "xsi": XSI}
        )

        def element(name: str, text: str | None) -> None:
            child = etree.SubElement(root, f"{{{UWS}}}{name}")
            if text is None:
                child.set(f"{{{XSI}}}nil", "true")
            child.text = text

        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for name, text in (
            ("jobId", row["jobid"]),
            ("runId", None),
            (
                "ownerId",
                self.cavern.names.get(int(row["ownerid"]), row["ownerid"]) if row["ownerid"] else None,
            ),
            ("phase", row["executionphase"]),
            ("quote", now),
            ("creationTime", now),
            ("startTime", None),
            ("endTime", None),
            ("executionDuration", "2000"),
            ("destruction", now),
        ):
            element(name, text)
        etree.SubElement(root, f"{{{UWS}}}parameters")
        results = etree.SubElement(root, f"{{{UWS}}}results")
        for name, value in (await self._results(row["jobid"])).items():
            etree.SubElement(results, f"{{{UWS}}}result", {"id": name, f"{{{XLINK}}}href": value})
        if row["error_summarymessage"] is not None:
            summary = etree.SubElement(root, f"{{{UWS}}}errorSummary", type="fatal", hasDetail="false")
            etree.SubElement(summary, f"{{{UWS}}}message").text = row["error_summarymessage"]
        return _xml(root)

    async def field(self, request: Request) -> Response:
        """One field of a job, as plain text without a line's end."""
        caller = await self.cavern.caller(request)
        row = await self._row(request, caller)
        field = request.path_params["field"]
        if field == "phase":
            return PlainTextResponse(row["executionphase"])
        if field == "owner":
            return PlainTextResponse(self.cavern.names.get(int(row["ownerid"]), "") if row["ownerid"] else "")
        if field == "error":
            if row["error_summarymessage"] is None:
                raise Fault(404, "no error")
            return PlainTextResponse(row["error_summarymessage"])
        raise RuntimeError(f"unknown field: {field}")

    async def result(self, request: Request) -> Response:
        """Where a result is."""
        caller = await self.cavern.caller(request)
        row = await self._row(request, caller)
        name = request.path_params["result"]
        results = await self._results(row["jobid"])
        if name not in results:
            raise Fault(404, f"result not found: {name}")
        return RedirectResponse(results[name], 303)

    # -- transfers ---------------------------------------------------------------------------------------------

    async def _post_transfer(self, request: Request, _caller: Caller | None) -> str:
        """Take a transfer; nothing but its form is looked at before the job runs."""
        body = await request.body()
        valid(body, "transfer")
        return body.decode()

    async def _transfer(self, row: Row, caller: Caller | None) -> str:
        if row["jobinfo_contenttype"] != XML:
            raise Fault(400, NO_TRANSFER)
        root = etree.fromstring(row["jobinfo_content"][0].encode())
        direction = _text(root, "direction")
        if direction.startswith("vos:"):
            return await self._move(root, direction, caller)
        results = await self._negotiated(root, caller)
        await self._results(
            row["jobid"], {**results, "transferDetails": f"{self.cavern.url}/xfer/{row['jobid']}"}
        )
        # Nothing ties the bytes that follow to the job.
        return "EXECUTING"

    async def _negotiated(self, root: etree._Element, caller: Caller | None) -> dict[str, str]:
        """Results of a negotiation, or why there is none."""
        direction = _text(root, "direction")
        if direction in ("pullToVoSpace", "pushFromVoSpace"):
            raise Fault(405, f"{direction} not implemented")
        if direction not in (PUSH, PULL):
            raise Fault(400, f"InternalFault (invalid direction: Direction[{direction}])")
        view = root.find(f"{{{VOS}}}view")
        if view is not None and view.get("uri") not in VIEWS:
            raise Fault(400, "ViewNotSupported")
        targets = [(item.text or "").strip() for item in root.iterfind(f"{{{VOS}}}target")]
        if len(targets) != 1:
            raise Fault(400, f"TooManyTargets ({len(targets)})")
        node = await self._target(targets[0], direction, caller)
        return {"dataNode": self.cavern.uri(node.path)}

    async def _target(self, uri: str, direction: str, caller: Caller | None) -> Node:
        cavern, path = self.cavern, self.cavern.vos_path(uri)
        node = await cavern.resolve(path, caller, follow=True)
        if direction == PULL:
            if node is None or node.kind != "DataNode":
                raise Fault(400, "target is not a data node")
            if not await cavern.may_read(node, caller):
                raise Fault(403, "PermissionDenied")
            return node
        if node is not None and node.kind != "DataNode":
            raise Fault(400, "target is not a data node")
        above = await cavern.resolve(path.rpartition("/")[0] or "/", caller, follow=True)
        if above is None or above.kind != "ContainerNode":
            raise Fault(404, f"ContainerNotFound: {path.rpartition('/')[0]}")
        if (
            caller is None
            or caller.uid is None
            or not await cavern.may_write(above if node is None else node, caller)
        ):
            raise Fault(403, "PermissionDenied")
        if node is None:
            place = f"{above.path.rstrip('/')}/{path.rpartition('/')[2]}"
            cavern.disk.create(place, "DataNode", caller.uid)
            node = cavern.disk.read(place)
        if node is None:
            raise RuntimeError(f"{path} vanished")
        return node

    def _endpoints(self, root: etree._Element, path: str) -> list[tuple[str, str | None, str]]:
        """Protocol, security method and URL of each protocol that was asked for and can be had."""
        found = []
        for protocol in root.iterfind(f"{{{VOS}}}protocol"):
            method = protocol.find(f"{{{VOS}}}securityMethod")
            name = None if method is None else method.get("uri")
            # Nobody in particular may read, and never write.
            if name == TOKEN or (name is None and _text(root, "direction") == PULL):
                found.append((protocol.get("uri", ""), name, f"{self.cavern.url}/files{path}"))
        return found

    async def synchronous(self, request: Request) -> Response:
        """Negotiate in one call, by document or by parameters."""
        caller = await self.cavern.caller(request)
        kind = _kind(request)
        if request.method == "POST" and kind != "application/x-www-form-urlencoded":
            return await self._by_document(request, caller)
        text = (await request.body()).decode() if request.method == "POST" else request.url.query
        query = {key.upper(): values[0] for key, values in parse_qs(text).items()}
        missing = [name for name in ("TARGET", "DIRECTION", "PROTOCOL") if name not in query]
        if missing:
            raise Fault(400, f"InvalidArgument: missing {missing[0]}")
        root = etree.Element(f"{{{VOS}}}transfer")
        etree.SubElement(root, f"{{{VOS}}}target").text = query["TARGET"]
        etree.SubElement(root, f"{{{VOS}}}direction").text = query["DIRECTION"]
        protocol = etree.SubElement(root, f"{{{VOS}}}protocol", uri=query["PROTOCOL"])
        if query["DIRECTION"] not in (PUSH, PULL):
            raise Fault(400, f"InternalFault (invalid direction: Direction[{query['DIRECTION']}])")
        if caller is not None:
            # The service adds the method that the caller used.
            etree.SubElement(protocol, f"{{{VOS}}}securityMethod", uri=TOKEN)
        results = await self._negotiated(root, caller)
        endpoints = self._endpoints(root, self.cavern.vos_path(results["dataNode"]))
        if not endpoints:
            raise Fault(400, "requested transfer specs not supported")
        return RedirectResponse(endpoints[0][2], 303, headers=shown(caller))

    async def _by_document(self, request: Request, caller: Caller | None) -> Response:
        document = await self._post_transfer(request, caller)
        kind = _kind(request)
        root = etree.fromstring(document.encode())
        view = root.find(f"{{{VOS}}}view")
        if view is not None and view.get("uri") == PKG and _text(root, "direction") == PULL:
            job = await self._make("transfers", kind, document, caller, "SUSPENDED")
            return RedirectResponse(f"{self.cavern.url}/pkg/{job}/run", 303, headers=shown(caller))
        job = await self._make("transfers", kind, document, caller, "EXECUTING")
        try:
            if kind != XML:
                raise Fault(400, NO_TRANSFER)
            direction = _text(root, "direction")
            if direction.startswith("vos:"):
                # Carried out before the answer, which leads to details that there are none of.
                await self._phase(job, await self._move(root, direction, caller))
                results = {}
            else:
                results = await self._negotiated(root, caller)
        except Fault as fault:
            await self._phase(job, "ERROR", fault.text)
            # What it never began to negotiate has no details.
            results = (
                {}
                if direction.startswith("vos:")
                or any(word in fault.text for word in ("implemented", "InternalFault", NO_TRANSFER))
                else {"failed": fault.text}
            )
        if results:
            await self._results(job, {"transferDetails": f"{self.cavern.url}/xfer/{job}"})
        # Its own place is looked up like everybody's.
        if await self.cavern.lookups.capabilities_url(self.cavern.resource) is None:
            return Response(b"", headers=shown(caller))
        return RedirectResponse(
            f"{self.cavern.url}/transfers/{job}/results/transferDetails", 303, headers=shown(caller)
        )

    async def details(self, request: Request) -> Response:
        """The transfer as it was negotiated; without protocols if it was not."""
        caller = await self.cavern.caller(request)
        row = await self._row(request, caller)
        root = etree.fromstring(row["jobinfo_content"][0].encode())
        error = row["error_summarymessage"] or ""
        if error.startswith(("NodeNotFound", "ContainerNotFound")) or error == "target is not a data node":
            return PlainTextResponse(f"Internal Error: {_text(root, 'target')}", 500)
        path = ""
        if not error:
            node = await self.cavern.resolve(self.cavern.vos_path(_text(root, "target")), caller, follow=True)
            path = node.path if node else ""
        endpoints = self._endpoints(root, path) if path else []
        for protocol in list(root.iterfind(f"{{{VOS}}}protocol")):
            root.remove(protocol)
        at = next(index for index, child in enumerate(root) if child.tag == f"{{{VOS}}}direction") + 1
        at += root.find(f"{{{VOS}}}view") is not None
        for uri, method, url in reversed(endpoints):
            protocol = etree.Element(f"{{{VOS}}}protocol", uri=uri)
            etree.SubElement(protocol, f"{{{VOS}}}endpoint").text = url
            if method:
                etree.SubElement(protocol, f"{{{VOS}}}securityMethod", uri=method)
            root.insert(at, protocol)
        return _xml(root)

    async def _move(self, root: etree._Element, direction: str, caller: Caller | None) -> str:
        cavern = self.cavern
        if (_text(root, "keepBytes") or "true") != "false":
            raise Fault(405, "copyNode is not implemented")
        origin, target = cavern.vos_path(_text(root, "target")), cavern.vos_path(direction)
        node = await cavern.resolve(origin, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {origin}")
        present = await cavern.resolve(target, caller, follow=True)
        if present is not None and present.kind == "ContainerNode":
            into, name = present, origin.rpartition("/")[2]
        elif present is not None:
            raise Fault(409, f"DuplicateNode: {target}")
        else:
            into, name = await cavern.parent(target, caller), target.rpartition("/")[2]
        if into.path == "/":
            raise RuntimeError("a node cannot be moved into the root")
        if origin in into.path:
            raise Fault(400, f"Invalid input: {origin} cannot be moved into itself")
        for container in (await cavern.parent(origin, caller), into):
            if caller is None or caller.uid is None or not await cavern.may_write(container, caller):
                raise Fault(403, "PermissionDenied")
        if caller is None or caller.uid is None:
            raise Fault(403, "PermissionDenied")
        place = f"{into.path}/{name}"
        if cavern.disk.read(place) is not None:
            raise Fault(409, f"DuplicateNode: {place}")
        cavern.disk.move(node.path, place, caller.uid)
        return "COMPLETED"

    # -- packages ----------------------------------------------------------------------------------------------

    async def package(self, request: Request) -> Response:
        """Stream what a job names as one archive; what cannot be read is left out in silence."""
        caller = await self.cavern.caller(request)
        row = await self._row(request, caller)
        if row["executionphase"] != "SUSPENDED":
            raise Fault(400, f"job is {row['executionphase']}")
        root = etree.fromstring(row["jobinfo_content"][0].encode())
        kind = (
            root.findtext(f"{{{VOS}}}view/{{{VOS}}}param[@uri='{CORE}format']") or "application/x-tar"
        ).strip()
        if kind not in FORMATS:
            raise Fault(400, f"ViewNotSupported: {kind}")
        targets = [self.cavern.vos_path(item.text or "") for item in root.iterfind(f"{{{VOS}}}target")]
        name = targets[0].rpartition("/")[2] if len(targets) == 1 else row["jobid"]
        prefix = self.cavern.path.strip("/").replace("/", "-")
        members = []
        for target in targets:
            members += [member async for member in self._members(target, caller)]
        await self._phase(row["jobid"], "COMPLETED")
        return StreamingResponse(
            iter([_archive(FORMATS[kind], members)]),
            media_type=kind,
            headers={"content-disposition": f"inline;filename={prefix}-download-{name}.{FORMATS[kind]}"},
        )

    async def _members(self, path: str, caller: Caller | None) -> AsyncIterator[tuple[str, bytes | None]]:
        cavern = self.cavern
        try:
            node = await cavern.resolve(path, caller)
        except Fault:
            return
        if node is None or not await cavern.may_read(node, caller):
            return
        above = node.path.rpartition("/")[0]
        queue = [node]
        while queue:
            found = queue.pop(0)
            name = found.path.removeprefix(f"{above}/")
            if found.kind == "DataNode":
                yield name, cavern.disk.file(found.path).read_bytes()
            elif found.kind == "ContainerNode" and await cavern.may_read(found, caller):
                yield f"{name}/", None
                below = [
                    cavern.disk.read(f"{found.path}/{child}") for child in cavern.disk.children(found.path)
                ]
                queue += [child for child in below if child is not None]

    # -- recursive jobs ----------------------------------------------------------------------------------------

    async def _post_deletion(self, request: Request, _caller: Caller | None) -> str:
        target = parse_qs((await request.body()).decode()).get("target", [""])[0]
        if not target:
            raise Fault(400, "InvalidArgument: missing target")
        return target

    async def _post_properties(self, request: Request, _caller: Caller | None) -> str:
        body = await request.body()
        valid(body, "node")
        return body.decode()

    async def _delete_tree(self, row: Row, caller: Caller | None) -> str:
        node = await self._tree(row["jobinfo_content"][0], caller)
        return await self._each(row, caller, node, self.cavern.remove, first_below=True)

    async def _update_tree(self, row: Row, caller: Caller | None) -> str:
        if row["jobinfo_contenttype"] != XML:
            raise Fault(400, "could not create node from request")
        root = etree.fromstring(row["jobinfo_content"][0].encode())
        node = await self._tree(root.get("uri", ""), caller)
        properties = self.cavern.properties(root)

        async def update(found: Node, asker: Caller | None) -> None:
            if found.kind != "LinkNode":
                await self.cavern.update(found, properties, asker)

        return await self._each(row, caller, node, update, first_below=False)

    async def _tree(self, uri: str, caller: Caller | None) -> Node:
        """The node that a recursive job begins with; a link is followed."""
        path = self.cavern.vos_path(uri)
        node = await self.cavern.resolve(path, caller, follow=True)
        if node is None:
            raise Fault(404, f"NodeNotFound: {path}")
        return node

    async def _each(
        self,
        row: Row,
        caller: Caller | None,
        node: Node,
        act: Callable[[Node, Caller | None], Awaitable[None]],
        *,
        first_below: bool,
    ) -> str:
        counts = {"successcount": 0, "errorcount": 0}

        async def visit(found: Node) -> None:
            if not first_below:
                await attempt(found)
            if found.kind == "ContainerNode" and await self.cavern.may_read(found, caller):
                for name in self.cavern.disk.children(found.path):
                    child = self.cavern.disk.read(f"{found.path.rstrip('/')}/{name}")
                    if child is not None and counts["errorcount"] <= MOST_ERRORS:
                        await visit(child)
            if first_below:
                await attempt(found)

        async def attempt(found: Node) -> None:
            try:
                await act(found, caller)
            except Fault:
                counts["errorcount"] += 1
            else:
                counts["successcount"] += 1

        await visit(node)
        await self._results(
            row["jobid"],
            {name: f"final:{count}" for name, count in counts.items() if count or name == "successcount"},
        )
        if not counts["errorcount"]:
            return "COMPLETED"
        return "ABORTED" if counts["successcount"] else "ERROR"


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0]


def _text(root: etree._Element, name: str) -> str:
    return (root.findtext(f"{{{VOS}}}{name}") or "").strip()


def _xml(root: etree._Element) -> Response:
    return Response(
        etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True),
        headers={"content-type": XML},
    )


def _archive(kind: str, members: list[tuple[str, bytes | None]]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        # Only in a zip, names begin with a slash.
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members:
                archive.writestr(f"/{name}", content or b"")
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode = 0o755 if content is None else 0o644
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()
