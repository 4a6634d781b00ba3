"""Stand-in for Cavern: nodes, files, and transfers that move or end in "not implemented"."""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import httpx
from lxml import etree
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from standin.disk import CORE, MD5, Disk, Node
from standin.identity import (
    GMS,
    STANDARD_MANAGER,
    USER_MAPPING,
    Caller,
    IdentityManager,
    Lookups,
    MapperClient,
)
from standin.settings import ConfigurationError, Properties, System, local_authority
from standin.web import XSI, Fault, answer_fault, availability, capabilities, connect, own_schema

PREFIX = "org.opencadc.cavern"
VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XML = "text/xml"
INHERIT = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"
READ_ONLY = {
    f"{CORE}{name}"
    for name in ("length", "date", "MD5", "content-date", "availableSpace", "creator", "quota")
}
ELSEWHERE = {f"{CORE}ispublic", f"{CORE}groupread", f"{CORE}groupwrite", INHERIT}
ELSEWHERE.add("ivo://cadc.nrc.ca/vospace/core#islocked")
STANDARD = {
    "title",
    "creator",
    "subject",
    "description",
    "publisher",
    "contributor",
    "date",
    "type",
    "format",
    "identifier",
    "source",
    "language",
    "relation",
    "coverage",
    "rights",
    "availableSpace",
    "runid",
    "quota",
    "content-date",
    "length",
    "encoding",
    "MD5",
    "groupread",
    "groupwrite",
    "ispublic",
}
PLUGINS = ("NoQuotaPlugin", "CephFSQuotaPlugin")
TABLES = """
CREATE TABLE IF NOT EXISTS uws.modelversion (
    model varchar(32) PRIMARY KEY, version varchar(32), lastmodified timestamp
);
CREATE TABLE IF NOT EXISTS uws.job (
    jobid varchar(16) PRIMARY KEY, ownerid varchar(128), executionphase varchar(16), error_summarymessage text,
    requestpath text, jobinfo_content text[], deletedbyuser integer DEFAULT 0
);
INSERT INTO uws.modelversion VALUES ('UWS', '1.3.0', now()) ON CONFLICT DO NOTHING;
"""


class Cavern:
    """One space, its users and its jobs."""

    def __init__(self, system: System, public: str, path: str) -> None:
        self.system = system
        self.url = public + path
        self.path = path
        self.lookups = Lookups()
        self.manager = IdentityManager(system, self.lookups)
        self.mapper = MapperClient(self.lookups)
        self.names: dict[int, str] = {}
        self.failure: str | None = None

    # -- start -----------------------------------------------------------------------------------------------

    async def initialise(self) -> None:
        """Once, in the order of the real one; what fails here fails for as long as the process lives."""
        try:
            await self._initialise()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            print(f"SEVERE: initialisation failed: {self.failure}", flush=True)

    async def _initialise(self) -> None:
        settings = Properties("cavern.properties")
        resource = settings.one(f"{PREFIX}.resourceID")
        if not resource.startswith("ivo://"):
            raise ConfigurationError(f"{PREFIX}.resourceID: {resource} is no resource identifier")
        self.resource = resource
        self.vos = "vos://" + resource.removeprefix("ivo://").replace("/", "~")
        filesystem = f"{PREFIX}.filesystem"
        base, sub = settings.one(f"{filesystem}.baseDir"), settings.one(f"{filesystem}.subPath")
        self.owner = settings.one(f"{filesystem}.rootOwner")
        triple = [settings.all(f"{filesystem}.rootOwner.{key}") for key in ("username", "uid", "gid")]
        if self.manager.enabled != STANDARD_MANAGER:
            raise ConfigurationError("ca.nrc.cadc.auth.IdentityManager is not set")
        self.pool = self.system.pool(f"{PREFIX}.uws")
        plugin = (settings.all(f"{PREFIX}.nodes.QuotaPlugin") or ["NoQuotaPlugin"])[0]
        if plugin not in PLUGINS:
            raise ConfigurationError(f"{PREFIX}.nodes.QuotaPlugin: no such class: {plugin}")
        for value in settings.all(f"{PREFIX}.defaultQuotaGB"):
            float(value)
        self.parents = [f"/{name.strip('/')}" for name in settings.all(f"{PREFIX}.allocationParent")]
        if any(name.count("/") > 1 for name in self.parents):
            raise ConfigurationError(f"{PREFIX}.allocationParent: only top-level names: {self.parents}")
        await self.mapper.locate()
        if not all(triple):
            # Without a credential to ask the POSIX mapper with.
            raise RuntimeError("the POSIX mapper answered 401: Caller is not authenticated.")
        self.owner_uid = int(triple[1][0])
        int(triple[2][0])
        self.names[self.owner_uid] = self.owner
        self.names[0] = "0"
        self.disk = Disk(Path(base) / sub)
        self.disk.make_root()
        self.disk.writable()
        for parent in self.parents:
            node = self.disk.read(parent)
            if node is None:
                self.disk.create(parent, "ContainerNode", self.owner_uid)
            elif node.uid != self.owner_uid:
                raise RuntimeError(f"{parent} belongs to {node.uid}, not to the root owner")
        connection = await connect(self.pool)
        try:
            await own_schema(connection, "uws")
            await connection.execute(TABLES)
            version = await connection.fetchval("SELECT version FROM uws.modelversion WHERE model = 'UWS'")
            if version != "1.3.0":
                raise RuntimeError(f"UWS {version} cannot be upgraded")
        finally:
            await connection.close()

    # -- who asks ----------------------------------------------------------------------------------------------

    async def caller(self, request: Request) -> Caller | None:
        """Who asks, with a number from the POSIX mapper, which makes one at the first contact."""
        if self.failure:
            raise RuntimeError(self.failure)
        caller = await self.manager.caller(request)
        if caller is None or caller.name is None:
            return caller
        ((name, uid, _gid),) = await self.mapper.users(f"user={caller.name}", caller.token)
        self.names.setdefault(uid, name)
        return Caller(caller.token, name, uid)

    async def name(self, uid: int, caller: Caller | None) -> str:
        """Name of a node's owner; whoever is not known yet cannot be asked for without a token."""
        if uid not in self.names:
            if caller is None:
                raise RuntimeError("BUG: did not call PosixMapperClient.augment")
            found = await self.mapper.users(f"uid={uid}", caller.token)
            if not found:
                raise RuntimeError(f"the POSIX mapper knows no uid {uid}")
            self.names[uid] = found[0][0]
        return self.names[uid]

    def is_admin(self, caller: Caller | None) -> bool:
        """The root owner, by name or by number."""
        return caller is not None and (caller.name == self.owner or caller.uid == self.owner_uid)

    def _owns(self, node: Node, caller: Caller | None) -> bool:
        if caller is None or caller.uid is None:
            return False
        return caller.uid == node.uid or (node.uid in (0, self.owner_uid) and self.is_admin(caller))

    def _allocation(self, path: str) -> Node | None:
        parts = path.split("/")
        for parent in self.parents:
            depth = 2 if parent != "/" else 1
            if path.startswith(f"{parent}/") and len(parts) > depth:
                return self.disk.read("/".join(parts[: depth + 1]))
        return None

    def may_write(self, node: Node, caller: Caller | None) -> bool:
        """Public never means writable."""
        if self._owns(node, caller):
            return True
        allocation = self._allocation(node.path)
        return allocation is not None and allocation.uid != self.owner_uid and self._owns(allocation, caller)

    def may_read(self, node: Node, caller: Caller | None) -> bool:
        """Whether the caller may read a node. The test-bed's users are in no group."""
        return node.path == "/" or node.public or self.may_write(node, caller)

    def resolve(self, path: str, caller: Caller | None) -> Node | None:
        """The node at *path*, every container above which the caller may read."""
        parts = [part for part in path.split("/") if part]
        for count in range(len(parts)):
            above = self.disk.read("/" + "/".join(parts[:count]))
            if above is None or above.kind != "ContainerNode":
                return None
            if not self.may_read(above, caller):
                raise Fault(403, f"PermissionDenied: {self.uri(above.path)}")
        return self.disk.read("/" + "/".join(parts))

    def uri(self, path: str) -> str:
        """VOSpace URI of a path."""
        return self.vos + ("" if path == "/" else path)

    def parent(self, path: str, caller: Caller | None) -> Node:
        """The container that a new node goes into."""
        above = self.resolve(path.rpartition("/")[0] or "/", caller)
        if above is None or above.kind != "ContainerNode":
            raise Fault(404, f"ContainerNotFound: {self.uri(path.rpartition('/')[0])}")
        return above

    # -- documents ---------------------------------------------------------------------------------------------

    async def document(self, node: Node, caller: Caller | None, *, children: bool, detail: str) -> Response:
        """A node as XML."""
        root = etree.Element(f"{{{VOS}}}node", nsmap={"vos": VOS, "xsi": XSI})
        await self._fill(root, node, caller, detail)
        if node.kind == "ContainerNode":
            nodes = etree.SubElement(root, f"{{{VOS}}}nodes")
            if children and self.may_read(node, caller):
                for name in self.disk.children(node.path):
                    child = self.disk.read(f"{node.path.rstrip('/')}/{name}")
                    if child is not None:
                        await self._fill(etree.SubElement(nodes, f"{{{VOS}}}node"), child, caller, detail)
        body = etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
        return Response(body, headers={"content-type": XML} | _shown(caller))

    async def _fill(self, element: etree._Element, node: Node, caller: Caller | None, detail: str) -> None:
        element.set("uri", self.uri(node.path))
        element.set(f"{{{XSI}}}type", f"vos:{node.kind}")
        values = dict(node.properties) if node.kind != "LinkNode" else {}
        values[f"{CORE}creator"] = await self.name(node.uid, caller)
        if node.path != "/":
            values[f"{CORE}date"] = node.date
        values[f"{CORE}ispublic"] = str(node.public).lower()
        for key, gids in (("groupread", node.read_gids), ("groupwrite", node.write_gids)):
            if gids and caller is not None:
                found = await self.mapper.groups("&".join(f"gid={gid}" for gid in gids), caller.token)
                values[f"{CORE}{key}"] = " ".join(uri for uri, _ in found)
        if node.kind == "DataNode":
            values[f"{CORE}length"] = str(node.length)
        if node.inherits:
            values[INHERIT] = "true"
        if detail != "min":
            properties = etree.SubElement(element, f"{{{VOS}}}properties")
            for key in sorted(values):
                entry = etree.SubElement(properties, f"{{{VOS}}}property", uri=key)
                entry.text = values[key]
                if key in READ_ONLY:
                    entry.set("readOnly", "true")
        if node.kind == "DataNode":
            element.set("busy", "false")
            etree.SubElement(element, f"{{{VOS}}}accepts")
            etree.SubElement(element, f"{{{VOS}}}provides")
        if node.kind == "LinkNode":
            etree.SubElement(element, f"{{{VOS}}}target").text = node.target

    async def posted(self, request: Request) -> tuple[str, dict[str, str | None]]:
        """Kind and properties of the document in a request, which the schema has to allow."""
        kind = request.headers.get("content-type", "").partition(";")[0]
        body = await request.body()
        if not body or kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
            raise Fault(400, "InvalidArgument: no node document")
        try:
            root = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError as error:
            raise Fault(400, f"InvalidArgument: invalid input: {error}") from error
        wanted = f"{{{VOS}}}node"
        node_kind = root.get(f"{{{XSI}}}type", "").rpartition(":")[2]
        needs = {"ContainerNode": "nodes", "LinkNode": "target", "DataNode": ""}
        missing = root.tag != wanted or not root.get("uri") or node_kind not in needs
        if missing or (needs[node_kind] and root.find(f"{{{VOS}}}{needs[node_kind]}") is None):
            raise Fault(400, "InvalidArgument: invalid input: XML failed schema validation")
        order = ["properties", "accepts", "provides", "capabilities", "nodes", "target"]
        places = [order.index(etree.QName(child).localname) for child in root.iterchildren("*")]
        if places != sorted(places):
            raise Fault(400, "InvalidArgument: invalid input: XML failed schema validation")
        if root.get("uri", "").replace("!", "~").rstrip("/") != self.uri(self.node_path(request)):
            word = "InvalidURI" if request.method == "PUT" else "InvalidArgument"
            raise Fault(400, f"{word}: {root.get('uri')}")
        properties: dict[str, str | None] = {}
        for entry in root.iterfind(f"{{{VOS}}}properties/{{{VOS}}}property"):
            key = entry.get("uri", "")
            if key.startswith("ivo://ivoa.net/vospace") and key.removeprefix(CORE) not in STANDARD:
                raise Fault(400, f"InvalidArgument: {key}")
            nil = entry.get(f"{{{XSI}}}nil") == "true"
            properties[key] = None if nil else (entry.text or "").strip()
        return node_kind, properties

    async def apply(self, node: Node, properties: dict[str, str | None], caller: Caller) -> None:
        """Merge what a document says; what only the service writes is dropped in silence."""
        permissions = False
        for key, value in properties.items():
            if key in (f"{CORE}groupread", f"{CORE}groupwrite"):
                gids = []
                for uri in (value or "").split():
                    if uri.partition("?")[0] != local_authority()[GMS]:
                        raise Fault(400, f"InvalidArgument: non-local groups: {uri}")
                    ((_, gid),) = await self.mapper.groups(f"group={uri}", caller.token)
                    gids.append(gid)
                if key.endswith("groupread"):
                    node.read_gids = gids
                else:
                    node.write_gids = gids
                permissions = True
            elif key == f"{CORE}ispublic":
                node.public, permissions = value == "true", True
            elif key == INHERIT:
                node.inherits, permissions = value == "true", True
            elif key in READ_ONLY or key in ELSEWHERE:
                continue
            elif value is None:
                node.properties.pop(key, None)
            else:
                node.properties[key] = value
        self.disk.write(node, permissions)

    # -- /nodes ------------------------------------------------------------------------------------------------

    @staticmethod
    def node_path(request: Request) -> str:
        """Path of the node that a request is about."""
        return "/" + str(request.path_params.get("path", "")).strip("/")

    async def nodes(self, request: Request) -> Response:
        """Read, create, update or delete a node."""
        caller = await self.caller(request)
        actions = {"GET": self._get, "PUT": self._put, "POST": self._post, "DELETE": self._delete}
        if request.method not in actions:
            raise Fault(405, f"unsupported: HTTP {request.method}", {"Allow": ", ".join(actions)})
        return await actions[request.method](request, self.node_path(request), caller)

    async def _get(self, request: Request, path: str, caller: Caller | None) -> Response:
        query = {key.lower(): value for key, value in request.query_params.items()}
        if query.get("view") == "data":
            return RedirectResponse(f"{self.url}/files{path}", 303)
        limit = query.get("limit", "1")
        if not limit.isdecimal():
            raise Fault(400, "InvalidArgument: value for limit must be a positive integer.")
        if "sort" in query or "order" in query:
            raise Fault(400, "OptionNotSupported")
        if "uri" in query:
            raise Fault(400, "OptionNotSupported: paging")
        node = self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        return await self.document(node, caller, children=limit != "0", detail=query.get("detail", ""))

    async def _put(self, request: Request, path: str, caller: Caller | None) -> Response:
        kind, properties = await self.posted(request)
        above = self.parent(path, caller)
        if self.disk.read(path) is not None:
            raise Fault(409, f"DuplicateNode: {self.uri(path)}")
        allowed = self.may_write(above, caller)
        if above.path in self.parents:
            # Making an allocation: the root owner's right, and nobody's else without a group that may.
            allowed = self.is_admin(caller)
        if not allowed or caller is None or caller.uid is None:
            raise Fault(403, f"PermissionDenied: {self.uri(above.path)}")
        owner = self.owner_uid if self.is_admin(caller) else caller.uid
        creator = properties.get(f"{CORE}creator")
        if creator and self.is_admin(caller):
            ((_, owner, _),) = await self.mapper.users(f"user={creator}", caller.token)
            self.names[owner] = creator
        if kind == "LinkNode":
            raise Fault(400, "the test-bed makes no links")
        self.disk.create(path, kind, owner)
        node = self.disk.read(path)
        if node is None:
            raise RuntimeError(f"{path} vanished")
        if above.inherits:
            node.public, node.inherits = above.public, kind == "ContainerNode"
            node.read_gids, node.write_gids = list(above.read_gids), list(above.write_gids)
            self.disk.write(node, permissions=True)
        await self.apply(node, properties, caller)
        answer = await self.document(node, caller, children=False, detail="")
        answer.status_code = 201
        return answer

    async def _post(self, request: Request, path: str, caller: Caller | None) -> Response:
        kind, properties = await self.posted(request)
        node = self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        if node.kind != kind:
            raise Fault(400, f"InvalidArgument: {self.uri(path)} is a {node.kind}")
        if caller is None or not self.may_write(node, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(path)}")
        await self.apply(node, properties, caller)
        return await self.document(node, caller, children=False, detail="")

    async def _delete(self, _request: Request, path: str, caller: Caller | None) -> Response:
        node = self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        if not self.may_write(self.parent(path, caller), caller):
            raise Fault(403, f"PermissionDenied: {self.uri(path)}")
        if node.kind == "ContainerNode" and self.disk.children(path):
            raise Fault(400, f"container node '{path.rpartition('/')[2]}' is not empty")
        self.disk.delete(path)
        return Response(b"", headers=_shown(caller))

    # -- /files ------------------------------------------------------------------------------------------------

    async def files(self, request: Request) -> Response:
        """Bytes; there is no Range, no condition, and a PUT writes where the reader reads."""
        caller = await self.caller(request)
        path = self.node_path(request)
        if request.method == "PUT":
            return await self._store(request, path, caller)
        node = self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        if node.kind != "DataNode":
            raise Fault(400, f"InvalidArgument: not a data node: {self.uri(path)}")
        headers = {
            "content-type": node.properties.get(f"{CORE}type", "application/octet-stream"),
            "content-disposition": f'inline; filename="{path.rpartition("/")[2]}"',
        } | _shown(caller)
        if stored := node.properties.get(MD5):
            headers["digest"] = "md5=" + base64.b64encode(bytes.fromhex(stored.removeprefix("md5:"))).decode()
        if request.method == "HEAD":
            return Response(headers=headers | {"content-length": str(node.length)})
        if not self.may_read(node, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(path)}")
        if not node.length:
            return Response(status_code=204, headers=headers)
        return Response(self.disk.file(path).read_bytes(), headers=headers)

    async def _store(self, request: Request, path: str, caller: Caller | None) -> Response:
        above = self.parent(path, caller)
        node = self.disk.read(path)
        if node is not None and node.kind != "DataNode":
            raise Fault(400, f"InvalidArgument: not a data node: {self.uri(path)}")
        if node is None:
            if caller is None or caller.uid is None:
                raise RuntimeError("no owner for a new node")
            # Made before the permission is looked at: a refused PUT leaves an empty file.
            self.disk.create(path, "DataNode", caller.uid)
        if caller is None or not self.may_write(above if node is None else node, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(path)}")
        digest = hashlib.md5(usedforsecurity=False)
        with self.disk.file(path).open("wb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
        value = "md5=" + base64.b64encode(digest.digest()).decode()
        asked = request.headers.get("digest")
        if asked is not None and asked != value:
            self.disk.file(path).write_bytes(b"")
            raise Fault(412, f"checksum mismatch: {asked} != {value}")
        stored = self.disk.read(path)
        if stored is None or caller.uid is None:
            raise RuntimeError(f"{path} vanished")
        stored.uid = caller.uid
        stored.properties[MD5] = ("md5:" if MD5 in stored.properties else "") + digest.hexdigest()
        if kind := request.headers.get("content-type"):
            stored.properties[f"{CORE}type"] = kind
        self.disk.write(stored, permissions=False)
        return Response(status_code=201, headers={"digest": value, "content-length": "0"} | _shown(caller))

    # -- /transfers --------------------------------------------------------------------------------------------

    async def submit(self, request: Request) -> Response:
        """Take a transfer; nothing is looked at before the job runs."""
        caller = await self.caller(request)
        if request.headers.get("content-type", "").partition(";")[0] != XML:
            raise Fault(400, "could not create Transfer from request")
        body = (await request.body()).decode()
        try:
            etree.fromstring(body.encode())
        except etree.XMLSyntaxError as error:
            raise Fault(400, f"InvalidArgument: {error}") from error
        letters = string.ascii_lowercase
        job = secrets.choice(letters) + "".join(secrets.choice(letters + string.digits) for _ in range(15))
        await self._database(
            "INSERT INTO uws.job (jobid, ownerid, executionphase, requestpath, jobinfo_content) "
            "VALUES ($1, $2, 'PENDING', $3, $4)",
            job,
            str(caller.uid) if caller else None,
            f"{self.path}/transfers",
            [body],
        )
        return RedirectResponse(f"{self.url}/transfers/{job}", 303, headers=_shown(caller))

    async def run(self, request: Request) -> Response:
        """Start a job."""
        caller = await self.caller(request)
        job = await self._job(request, caller)
        phase = parse_qs((await request.body()).decode()).get("PHASE", [""])[0]
        if phase not in ("RUN", "ABORT"):
            raise Fault(400, f"invalid phase: {phase}")
        if phase == "ABORT":
            await self._phase(job["jobid"], "ABORTED")
        elif job["executionphase"] != "PENDING":
            raise RuntimeError("the job is not PENDING")
        else:
            try:
                phase = self._transfer(job["jobinfo_content"][0], caller)
                await self._phase(job["jobid"], phase)
            except Fault as fault:
                await self._phase(job["jobid"], "ERROR", fault.text)
        return RedirectResponse(f"{self.url}/transfers/{job['jobid']}", 303)

    def _transfer(self, document: str, caller: Caller | None) -> str:
        root = etree.fromstring(document.encode())
        direction = (root.findtext(f"{{{VOS}}}direction") or "").strip()
        source = (root.findtext(f"{{{VOS}}}target") or "").strip()
        if direction in ("pullToVoSpace", "pushFromVoSpace"):
            raise Fault(405, f"{direction} not implemented")
        if not direction.startswith("vos:"):
            raise Fault(400, f"InternalFault (invalid direction: Direction[{direction}])")
        if (root.findtext(f"{{{VOS}}}keepBytes") or "true").strip() != "false":
            raise Fault(405, "copyNode is not implemented")
        paths = []
        for uri in (source, direction):
            path = uri.replace("!", "~").removeprefix(self.vos)
            if not path.startswith("/"):
                raise Fault(400, f"InvalidArgument: {uri}")
            paths.append(path)
        origin, target = paths
        if self.resolve(origin, caller) is None:
            raise Fault(404, f"NodeNotFound: {origin}")
        present = self.disk.read(target)
        if present is not None and present.kind == "ContainerNode":
            target = f"{target}/{origin.rpartition('/')[2]}"
        elif present is not None:
            raise Fault(409, f"DuplicateNode: {target}")
        for path in (origin, target):
            if not self.may_write(self.parent(path, caller), caller):
                raise Fault(403, "PermissionDenied")
        if caller is None or caller.uid is None:
            raise Fault(403, "PermissionDenied")
        self.disk.move(origin, target, caller.uid)
        return "COMPLETED"

    async def job(self, request: Request) -> Response:
        """A job's document, its phase, or its error."""
        caller = await self.caller(request)
        job = await self._job(request, caller)
        field = request.path_params.get("field")
        if field == "phase":
            return PlainTextResponse(job["executionphase"])
        if field == "error":
            if job["error_summarymessage"] is None:
                raise Fault(404, "no error")
            return PlainTextResponse(job["error_summarymessage"])
        if field is not None:
            raise RuntimeError(f"unknown field: {field}")
        root = etree.Element(f"{{{UWS}}}job", {"version": "1.1"}, nsmap={"uws": UWS})
        etree.SubElement(root, f"{{{UWS}}}jobId").text = job["jobid"]
        etree.SubElement(root, f"{{{UWS}}}phase").text = job["executionphase"]
        etree.SubElement(root, f"{{{UWS}}}results")
        if job["error_summarymessage"] is not None:
            summary = etree.SubElement(root, f"{{{UWS}}}errorSummary", type="fatal", hasDetail="false")
            etree.SubElement(summary, f"{{{UWS}}}message").text = job["error_summarymessage"]
        return Response(
            etree.tostring(root, xml_declaration=True, encoding="UTF-8"), headers={"content-type": XML}
        )

    async def _job(self, request: Request, caller: Caller | None) -> dict[str, str]:
        rows = await self._database(
            "SELECT * FROM uws.job WHERE jobid = $1 AND deletedbyuser = 0", request.path_params["job"]
        )
        if not rows:
            raise Fault(404, f"not found: {request.path_params['job']}")
        if rows[0]["ownerid"] not in (None, str(caller.uid) if caller else None):
            raise Fault(403, "permission denied")
        return rows[0]

    async def _phase(self, job: str, phase: str, error: str | None = None) -> None:
        await self._database(
            "UPDATE uws.job SET executionphase = $2, error_summarymessage = $3 WHERE jobid = $1",
            job,
            phase,
            error,
        )

    async def _database(self, statement: str, *values: object) -> list[dict[str, str]]:
        connection = await connect(self.pool)
        try:
            return [dict(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    # -- VOSI --------------------------------------------------------------------------------------------------

    async def available(self, request: Request) -> Response:
        """Neither the database nor the data nor the initialisation are looked at."""
        try:
            await self.manager.caller(request)
        except RuntimeError as error:
            raise Fault(503, str(error)) from error
        if request.query_params.get("detail") == "min":
            return Response(b"")
        if GMS not in local_authority():
            return availability(False, "java.lang.NullPointerException")
        try:
            url = await self.lookups.access_url(
                local_authority()[USER_MAPPING], "ivo://ivoa.net/std/VOSI#availability"
            )
            (await self.lookups.fetch(url)).raise_for_status()
        except (RuntimeError, httpx.HTTPError) as error:
            return availability(False, str(error))
        return availability(True, "service is accepting requests")

    async def capable(self, _request: Request) -> Response:
        """VOSI capabilities, of what the test-bed has."""
        vosi = {
            f"ivo://ivoa.net/std/VOSI#{name}": (f"/{name}", False)
            for name in ("availability", "capabilities")
        }
        return capabilities(
            self.url,
            {
                "ivo://ivoa.net/std/VOSpace/v2.0#nodes": ("/nodes", True),
                "ivo://ivoa.net/std/VOSpace#files-proto": ("/files", True),
                "ivo://ivoa.net/std/VOSpace/v2.0#transfers": ("/transfers", True),
                **vosi,
            },
        )


def _shown(caller: Caller | None) -> dict[str, str]:
    """Who the service took the caller for, on every answer."""
    if caller is None:
        return {"WWW-Authenticate": "Bearer"}
    return {"x-vo-authenticated": caller.name or ""}


def application(system: System, public: str, path: str) -> Starlette:
    """Cavern below *path*."""
    cavern = Cavern(system, public, path)

    @asynccontextmanager
    async def initialise(_application: Starlette) -> AsyncIterator[None]:
        await cavern.initialise()
        yield

    every = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"]
    routes = [
        Route(f"{path}/nodes", cavern.nodes, methods=every),
        Route(f"{path}/nodes/{{path:path}}", cavern.nodes, methods=every),
        Route(f"{path}/files/{{path:path}}", cavern.files, methods=["GET", "HEAD", "PUT"]),
        Route(f"{path}/transfers", cavern.submit, methods=["POST"]),
        Route(f"{path}/transfers/{{job}}", cavern.job, methods=["GET"]),
        Route(f"{path}/transfers/{{job}}/phase", cavern.run, methods=["POST"]),
        Route(f"{path}/transfers/{{job}}/{{field}}", cavern.job, methods=["GET"]),
        Route(f"{path}/availability", cavern.available),
        Route(f"{path}/capabilities", cavern.capable),
    ]
    return Starlette(
        routes=routes, exception_handlers={Fault: answer_fault, Exception: answer_fault}, lifespan=initialise
    )
