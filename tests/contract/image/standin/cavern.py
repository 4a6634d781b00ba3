"""Stand-in for Cavern: its start, nodes and files. Jobs are in ``jobs``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import NoReturn

import httpx
from lxml import etree
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from standin.database import own_schema
from standin.disk import CORE, MD5, Disk, Node
from standin.identity import (
    GMS,
    STANDARD_MANAGER,
    USER_MAPPING,
    Caller,
    GroupClient,
    IdentityManager,
    Lookups,
    MapperClient,
)
from standin.jobs import PKG, TABLES, Jobs
from standin.settings import ConfigurationError, Properties, System, local_authority
from standin.web import (
    ANONYMOUS,
    BOTH,
    TOKENS,
    VOS,
    XML,
    XSI,
    Fault,
    answer_fault,
    availability,
    capabilities,
    shown,
    valid,
)

PREFIX = "org.opencadc.cavern"
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
MOST_LINKS = 20
LARGEST_DOCUMENT = 32 << 10
# How a failed initialisation looks in the log, and what every further request adds to that: megabytes, after seconds.
FAILED = "init failed"
FRAME = "\tat org.opencadc.cavern.CavernInitAction.doInit(CavernInitAction.java)"
WRAPPED = "Caused by: ca.nrc.cadc.util.InvalidConfigException: failed to load configured IdentityManager"
WRAPPINGS, WRAPPING = 20_000, 3.0


class UnknownOwner(RuntimeError):
    """Nobody with a token has met the owner of a node yet, and the caller has none to ask with."""


class Cavern:
    """One space, its users and its jobs."""

    def __init__(self, system: System, public: str, path: str) -> None:
        self.system = system
        self.url = public + path
        self.path = path
        self.lookups = Lookups()
        self.manager = IdentityManager(system, self.lookups)
        self.mapper = MapperClient(self.lookups)
        self.groups = GroupClient(self.lookups)
        self.jobs = Jobs(self)
        self.names: dict[int, str] = {}
        self.failed = False

    # -- start -----------------------------------------------------------------------------------------------

    async def initialise(self) -> None:
        """Once, in the order of the real one; what fails here fails for as long as the process lives."""
        try:
            await self._initialise()
        except Exception as error:
            self.failed = True
            trace = [FAILED, "java.lang.RuntimeException: INIT FAIL", FRAME, f"Caused by: {error}", FRAME]
            print(*trace, "SEVERE [main] Servlet [NodesServlet] threw load() exception", sep="\n", flush=True)
        print("INFO [main] Server startup in [1234] milliseconds", flush=True)

    @staticmethod
    async def _initialise_again() -> NoReturn:
        """The identity manager has wrapped itself by now, and does so until the memory is full."""
        print(FAILED, "java.lang.OutOfMemoryError: Java heap space", *[WRAPPED, FRAME] * WRAPPINGS, sep="\n")
        await asyncio.sleep(WRAPPING)
        raise RuntimeError("init failed")

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
        self.self_allocators = settings.all(f"{PREFIX}.selfAllocateGroup")
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
        async with self.pool.connection() as connection:
            await own_schema(connection, "uws")
            await connection.execute(TABLES)
            version = await connection.fetchval("SELECT version FROM uws.modelversion WHERE model = 'UWS'")
            if version != "1.3.0":
                raise RuntimeError(f"UWS {version} cannot be upgraded")

    # -- who asks ----------------------------------------------------------------------------------------------

    async def caller(self, request: Request) -> Caller | None:
        """Who asks, with a number from the POSIX mapper, which makes one at the first contact."""
        if self.failed:
            await self._initialise_again()
        caller = await self.manager.caller(request)
        if caller is None or caller.name is None or USER_MAPPING not in local_authority():
            return caller
        ((name, uid, _gid),) = await self.mapper.users(f"user={caller.name}", caller.token)
        self.names.setdefault(uid, name)
        return Caller(caller.token, name, uid)

    async def name(self, uid: int, caller: Caller | None, *, keep: bool = True) -> str:
        """Name of a node's owner; whoever is not known yet cannot be asked for without a token."""
        if uid in self.names:
            return self.names[uid]
        if caller is None:
            raise UnknownOwner(
                "BUG: did not call PosixMapperClient.augment(Subject): no credentials in caller subject"
            )
        found = await self.mapper.users(f"uid={uid}", caller.token)
        if not found:
            raise RuntimeError(f"the POSIX mapper knows no uid {uid}")
        if keep:
            self.names[uid] = found[0][0]
        return found[0][0]

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

    async def _in_group(self, gids: list[int], caller: Caller | None) -> bool:
        """Whether the caller is in one of the groups, which their service is asked with the caller's own token."""
        if not gids or caller is None:
            return False
        found = await self.mapper.groups("&".join(f"gid={gid}" for gid in gids), caller.token)
        return any([await self.groups.member(uri, caller.token) for uri, _ in found])

    async def may_write(self, node: Node, caller: Caller | None) -> bool:
        """Public never means writable."""
        if self._owns(node, caller):
            return True
        allocation = self._allocation(node.path)
        if allocation is not None and allocation.uid != self.owner_uid and self._owns(allocation, caller):
            return True
        return await self._in_group(node.write_gids, caller)

    async def may_read(self, node: Node, caller: Caller | None) -> bool:
        """Whether the caller may read a node."""
        if node.path == "/" or node.public or await self.may_write(node, caller):
            return True
        return await self._in_group(node.read_gids, caller)

    async def resolve(
        self, path: str, caller: Caller | None, *, follow: bool = False, links: int = 0
    ) -> Node | None:
        """The node at *path*, every container above which the caller may read; with *follow* what a link leads to."""
        parts = [part for part in path.split("/") if part]
        node = self.disk.read("/")
        for count, part in enumerate(parts, start=1):
            if node is None or node.kind != "ContainerNode":
                return None
            if not await self.may_read(node, caller):
                raise Fault(403, f"PermissionDenied: {self.uri(node.path)}")
            node = self.disk.read(f"{node.path.rstrip('/')}/{part}")
            if node is not None:
                # Of everything on the way, whoever it belongs to.
                await self.name(node.uid, caller)
            last = count == len(parts)
            if node is not None and node.kind == "LinkNode" and (follow or not last):
                if links >= MOST_LINKS:
                    raise Fault(404, f"UnreadableLinkTarget: {self.uri(path)}")
                target = self.link_path(node)
                if target is None:
                    raise Fault(400, f"InvalidArgument: link to external resource: {self.uri(path)}")
                further = "/".join((target, *parts[count:]))
                return await self.resolve(further, caller, follow=follow, links=links + 1)
        return node

    def link_path(self, node: Node) -> str | None:
        """Path that a link leads to within the space; None outside of it."""
        found = Path(os.path.normpath(self.disk.file(node.path).parent / node.target))
        if not found.is_relative_to(self.disk.root):
            return None
        return f"/{found.relative_to(self.disk.root)}".removesuffix("/.")

    def vos_path(self, uri: str) -> str:
        """Path that a node's URI names, whose authority has to be this service's."""
        text = uri.replace("!", "~")
        if text != self.vos and not text.startswith(f"{self.vos}/"):
            raise Fault(400, f"InvalidURI: {uri}")
        parts = text.removeprefix(self.vos).split("/")
        if any(part in (".", "..") for part in parts):
            raise Fault(400, f"InvalidURI: {uri}")
        return "/" + "/".join(part for part in parts if part)

    def uri(self, path: str) -> str:
        """VOSpace URI of a path."""
        return self.vos + ("" if path == "/" else path)

    async def parent(self, path: str, caller: Caller | None) -> Node:
        """The container that a new node goes into."""
        above = await self.resolve(path.rpartition("/")[0] or "/", caller, follow=True)
        if above is None or above.kind != "ContainerNode":
            raise Fault(404, f"ContainerNotFound: {self.uri(path.rpartition('/')[0])}")
        return above

    # -- documents ---------------------------------------------------------------------------------------------

    async def document(
        self, node: Node, caller: Caller | None, *, children: bool, detail: str, keep: bool = True
    ) -> Response:
        """A node as XML; with *keep* its owner is known from now on."""
        root = etree.Element(f"{{{VOS}}}node", nsmap={"vos": VOS, "xsi": XSI})
        await self._fill(root, node, caller, detail, keep)
        if node.kind == "ContainerNode":
            nodes = etree.SubElement(root, f"{{{VOS}}}nodes")
            if children and await self.may_read(node, caller):
                for name in self.disk.children(node.path):
                    child = self.disk.read(f"{node.path.rstrip('/')}/{name}")
                    if child is None:
                        continue
                    element = etree.Element(f"{{{VOS}}}node")
                    try:
                        await self._fill(element, child, caller, detail)
                    except UnknownOwner:
                        continue
                    nodes.append(element)
        body = etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
        return Response(body, headers={"content-type": XML} | shown(caller))

    async def _fill(
        self, element: etree._Element, node: Node, caller: Caller | None, detail: str, keep: bool = True
    ) -> None:
        element.set("uri", self.uri(node.path))
        element.set(f"{{{XSI}}}type", f"vos:{node.kind}")
        values = dict(node.properties) if node.kind != "LinkNode" else {}
        values[f"{CORE}creator"] = await self.name(node.uid, caller, keep=keep)
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
            target = self.link_path(node)
            etree.SubElement(element, f"{{{VOS}}}target").text = (
                f"file://{node.target}" if target is None else self.uri(target)
            )

    async def posted(self, request: Request) -> tuple[str, dict[str, str | None], str]:
        """Kind, properties and target of the document in a request, which the schema has to allow."""
        kind = request.headers.get("content-type", "").partition(";")[0]
        body = await request.body()
        if not body or kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
            raise Fault(400, "InvalidArgument: no node document")
        if len(body) > LARGEST_DOCUMENT:
            raise RuntimeError("ClassCastException")
        root = valid(body, "node")
        node_kind = root.get(f"{{{XSI}}}type", "").rpartition(":")[2]
        if node_kind in ("StructuredDataNode", "UnstructuredDataNode"):
            node_kind = "DataNode"
        if node_kind not in ("ContainerNode", "DataNode", "LinkNode"):
            raise Fault(400, f"TypeNotSupported: {node_kind}")
        if root.get("uri", "").replace("!", "~").rstrip("/") != self.uri(self.node_path(request)):
            word = "InvalidURI" if request.method == "PUT" else "InvalidArgument"
            raise Fault(400, f"{word}: {root.get('uri')}")
        return node_kind, self.properties(root), (root.findtext(f"{{{VOS}}}target") or "").strip()

    @staticmethod
    def properties(root: etree._Element) -> dict[str, str | None]:
        """Properties of a document; None for those to delete."""
        properties: dict[str, str | None] = {}
        for entry in root.iterfind(f"{{{VOS}}}properties/{{{VOS}}}property"):
            key = entry.get("uri", "")
            if key.startswith("ivo://ivoa.net/vospace") and key.removeprefix(CORE) not in STANDARD:
                raise Fault(400, f"InvalidArgument: {key}")
            nil = entry.get(f"{{{XSI}}}nil") == "true"
            properties[key] = None if nil else (entry.text or "").strip()
        return properties

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
        """Path of the node that a request is about; what may not stand in a URI as it is breaks the service."""
        path = str(request.path_params.get("path", "")).strip("/")
        if any(character <= " " or character in '%^{}|\\"<>`' for character in path):
            raise RuntimeError(f"URISyntaxException: {path}")
        return f"/{path}"

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
        if query.get("accept", XML) not in (XML, "application/json"):
            raise Fault(400, f"InvalidArgument: {query['accept']}")
        node = await self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        return await self.document(node, caller, children=limit != "0", detail=query.get("detail", ""))

    async def _put(self, request: Request, path: str, caller: Caller | None) -> Response:
        kind, properties, target = await self.posted(request)
        above = await self.parent(path, caller)
        path = f"{above.path.rstrip('/')}/{path.rpartition('/')[2]}"
        if self.disk.read(path) is not None:
            raise Fault(409, f"DuplicateNode: {self.uri(path)}")
        owner = await self._owner_of_new(above, path, kind, properties, caller)
        if caller is None:
            raise Fault(403, f"PermissionDenied: {self.uri(above.path)}")
        if kind == "LinkNode":
            self._link(path, target, owner, properties)
        else:
            self.disk.create(path, kind, owner)
        node = self.disk.read(path)
        if node is None:
            raise RuntimeError(f"{path} vanished")
        if kind != "LinkNode":
            if above.inherits:
                node.public, node.inherits = above.public, kind == "ContainerNode"
                node.read_gids, node.write_gids = list(above.read_gids), list(above.write_gids)
                self.disk.write(node, permissions=True)
            await self.apply(node, properties, caller)
        answer = await self.document(node, caller, children=False, detail="", keep=False)
        answer.status_code = 201
        return answer

    async def _owner_of_new(
        self, above: Node, path: str, kind: str, properties: dict[str, str | None], caller: Caller | None
    ) -> int:
        """Who a new node belongs to, if the caller may make it."""
        refused = Fault(403, f"PermissionDenied: {self.uri(above.path)}")
        if caller is None or caller.uid is None:
            raise refused
        if self.is_admin(caller) and (above.uid in (0, self.owner_uid) or above.path in self.parents):
            creator = properties.get(f"{CORE}creator")
            if not creator:
                # Not the number in cavern.properties, but what the POSIX mapper says.
                return caller.uid
            if creator.isdecimal():
                return int(creator)
            ((_, uid, _),) = await self.mapper.users(f"user={creator}", caller.token)
            return uid
        if above.path in self.parents and kind == "ContainerNode":
            # An own allocation: for the members of certain groups, at exactly one place.
            if path != f"/home/{caller.name}":
                raise refused
            allowed = [await self.groups.member(uri, caller.token) for uri in self.self_allocators]
            if not any(allowed):
                raise refused
            return caller.uid
        if not await self.may_write(above, caller):
            raise refused
        return caller.uid

    def _link(self, path: str, target: str, owner: int, properties: dict[str, str | None]) -> None:
        if target.startswith("file:///"):
            text = target.removeprefix("file://")
        elif target.replace("!", "~").startswith(f"{self.vos}/"):
            text = os.path.relpath(
                self.disk.file(self.vos_path(target)), self.disk.file(path.rpartition("/")[0])
            )
        else:
            raise Fault(400, f"InvalidArgument: link to external resource: {target}")
        self.disk.link(path, text, owner)
        if set(properties) - READ_ONLY - ELSEWHERE:
            # The link stays behind.
            raise Fault(400, f"InvalidArgument: failed to put {self.uri(path)}")

    async def _post(self, request: Request, path: str, caller: Caller | None) -> Response:
        kind, properties, _target = await self.posted(request)
        node = await self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        if node.kind != kind:
            raise Fault(400, f"InvalidArgument: {self.uri(path)} is a {node.kind}")
        await self.update(node, properties, caller)
        return await self.document(node, caller, children=False, detail="")

    async def update(self, node: Node, properties: dict[str, str | None], caller: Caller | None) -> None:
        """Change properties of a node, if the caller may write it."""
        if caller is None or not await self.may_write(node, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(node.path)}")
        if node.kind == "LinkNode":
            if set(properties) - READ_ONLY - ELSEWHERE:
                raise Fault(400, f"InvalidArgument: failed to put {self.uri(node.path)}")
            return
        await self.apply(node, properties, caller)

    async def _delete(self, _request: Request, path: str, caller: Caller | None) -> Response:
        node = await self.resolve(path, caller)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        await self.remove(node, caller)
        return Response(b"", headers=shown(caller))

    async def remove(self, node: Node, caller: Caller | None) -> None:
        """Delete a node, which the caller needs its parent for alone; a container has to be empty."""
        above = self.disk.read(node.path.rpartition("/")[0] or "/")
        if above is None or node.path == "/":
            raise RuntimeError("the root cannot be deleted")
        if not await self.may_write(above, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(node.path)}")
        if node.kind == "ContainerNode" and self.disk.children(node.path):
            raise Fault(400, f"container node '{node.path.rpartition('/')[2]}' is not empty")
        self.disk.delete(node.path)

    # -- /files ------------------------------------------------------------------------------------------------

    async def files(self, request: Request) -> Response:
        """Bytes; there is no Range, no condition, and a PUT writes where the reader reads."""
        caller = await self.caller(request)
        path = self.node_path(request)
        if request.method == "PUT":
            return await self._store(request, path, caller)
        node = await self.resolve(path, caller, follow=True)
        if node is None:
            raise Fault(404, f"NodeNotFound: {self.uri(path)}")
        if node.kind != "DataNode":
            raise Fault(400, f"InvalidArgument: not a data node: {self.uri(path)}")
        headers = {
            "content-disposition": f'inline; filename="{path.rpartition("/")[2]}"',
            "last-modified": formatdate(self.disk.file(node.path).stat().st_mtime, usegmt=True),
        } | shown(caller)
        for name, key in (("content-type", "type"), ("content-encoding", "encoding")):
            if value := node.properties.get(f"{CORE}{key}"):
                headers[name] = value
        if stored := node.properties.get(MD5):
            headers["digest"] = "md5=" + base64.b64encode(bytes.fromhex(stored.removeprefix("md5:"))).decode()
        if request.method == "HEAD":
            return Response(headers=headers | {"content-length": str(node.length)})
        if not await self.may_read(node, caller):
            raise Fault(403, f"PermissionDenied: {self.uri(path)}")
        if not node.length:
            return Response(status_code=204, headers=headers)
        return Response(self.disk.file(node.path).read_bytes(), headers=headers)

    async def _store(self, request: Request, path: str, caller: Caller | None) -> Response:
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0] in ("application/x-www-form-urlencoded", "multipart/form-data"):
            raise Fault(400, "InvalidArgument: no input stream")
        above = await self.parent(path, caller)
        path = f"{above.path.rstrip('/')}/{path.rpartition('/')[2]}"
        node = self.disk.read(path)
        if node is not None and node.kind != "DataNode":
            raise Fault(400, f"InvalidArgument: not a data node: {self.uri(path)}")
        if node is None:
            if caller is None or caller.uid is None:
                raise RuntimeError("no owner for a new node")
            # Made before the permission is looked at: a refused PUT leaves an empty file.
            self.disk.create(path, "DataNode", caller.uid)
        if caller is None or not await self.may_write(above if node is None else node, caller):
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
        if kind:
            stored.properties[f"{CORE}type"] = kind
        self.disk.write(stored, permissions=False)
        headers = {"digest": value, "content-length": "0"} | ({"content-type": kind} if kind else {})
        return Response(status_code=201, headers=headers | shown(caller))

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
        """VOSI capabilities, of those methods that the identity manager has."""
        vosi = {
            f"ivo://ivoa.net/std/VOSI#{name}": (f"/{name}", "full", ANONYMOUS)
            for name in ("availability", "capabilities")
        }
        return capabilities(
            self.url,
            {
                "ivo://ivoa.net/std/VOSpace/v2.0#nodes": ("/nodes", "base", BOTH),
                "ivo://ivoa.net/std/VOSpace#files-proto": ("/files", "base", BOTH),
                "ivo://ivoa.net/std/VOSpace/v2.0#transfers": ("/transfers", "full", BOTH),
                "ivo://ivoa.net/std/VOSpace#sync-2.1": ("/synctrans", "full", BOTH),
                PKG: ("/pkg", "full", BOTH),
                "ivo://ivoa.net/std/VOSpace#recursive-nodeprops-proto": ("/async-setprops", "full", TOKENS),
                "ivo://ivoa.net/std/VOSpace#recursive-delete-proto": ("/async-delete", "full", TOKENS),
                **vosi,
            },
        )


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
        *cavern.jobs.routes(path),
        Route(f"{path}/availability", cavern.available),
        Route(f"{path}/capabilities", cavern.capable),
    ]
    return Starlette(
        routes=routes, exception_handlers={Fault: answer_fault, Exception: answer_fault}, lifespan=initialise
    )
