"""A stand-in for Cavern and an RSE, for unit tests of staging."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote
from xml.sax.saxutils import escape, quoteattr

from aiohttp import web
from lxml import etree
from voservice.uris import encode_node_path
from vospace_client.terms import BULK_PULL, CORE

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def path_of(uri: str) -> str:
    """Path of a node by its URI."""
    return unquote(uri.partition("~cavern")[2])


class CavernDouble:
    """A Cavern and an RSE in one, with the functions that staging needs, without bulk pull.

    ``content`` contains the RSE's files by the last part of their path.
    """

    def __init__(self, content: Mapping[str, bytes], pulls: bool) -> None:
        """With or without pullToVoSpace."""
        self.content = content
        self.pulls = pulls
        self.nodes: dict[str, bytes | None] = {"/home": None}
        self.made: list[str] = []
        self.jobs: dict[str, tuple[str, str]] = {}
        self.failures: dict[str, int] = {}
        self.failure = 500
        self.damage: set[str] = set()
        self.relayed = 0
        self.bulk = False
        self.quota: int | None = None
        self.digests: dict[str, str] = {}
        # Requests to Cavern, as method and path.
        self.requests: list[tuple[str, str]] = []
        # Properties by node, other than those of its bytes.
        self.properties: dict[str, dict[str, str]] = {}
        # Nodes that others create while a file is written.
        self.meanwhile: dict[str, bytes | None] = {}
        self.duplicates: set[str] = set()
        # Containers that must not be created.
        self.forbidden: set[str] = set()
        # Containers that the administrator alone creates, and whose token created each container.
        self.administered: set[str] = set()
        self.makers: dict[str, str] = {}
        # Files whose checksum Cavern does not know, since they were changed without it.
        self.unknown: set[str] = set()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26, middlewares=[self.count])
        application.add_routes(
            [
                web.get("/rse/{path:.*}", self.source),
                web.get("/cavern/capabilities", self.capabilities),
                web.get("/cavern/nodes/{path:.*}", self.get_node),
                web.put("/cavern/nodes/{path:.*}", self.put_node),
                web.post("/cavern/nodes/{path:.*}", self.post_node),
                web.delete("/cavern/nodes/{path:.*}", self.delete_node),
                web.get("/cavern/files/{path:.*}", self.get_file),
                web.put("/cavern/files/{path:.*}", self.put_file),
                web.post("/cavern/transfers", self.transfer),
                web.post("/cavern/synctrans", self.synchronous),
                web.post("/cavern/transfers/{job}/phase", self.run),
                web.get("/cavern/transfers/{job}", self.job),
                web.get("/cavern/transfers/{job}/error", self.error),
            ]
        )
        return application

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/cavern/"):
            self.requests.append((request.method, request.path.removeprefix("/cavern")))
        return await handler(request)

    async def source(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            return web.Response(status=self.failure)
        if name not in self.content:
            return web.Response(status=404)
        digest = {"Digest": self.digests[name]} if name in self.digests else {}
        return web.Response(
            body=self.content[name], headers=digest if "Want-Digest" in request.headers else {}
        )

    async def capabilities(self, request: web.Request) -> web.Response:
        listed = f'<capability standardID="{BULK_PULL}"><accessURL>{request.url.origin()}/cavern/bulk-pull</accessURL>'
        text = f"<capabilities>{listed}</capability></capabilities>" if self.bulk else "<capabilities/>"
        return web.Response(text=text, content_type="text/xml")

    async def get_node(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        if path not in self.nodes:
            return web.Response(status=404, text=f"NodeNotFound: {path}")
        content = self.nodes[path]
        kind = "ContainerNode" if content is None else "DataNode"
        entries = ""
        if path == "/home/ada" and self.quota is not None:
            used = sum(len(found) for found in self.nodes.values() if found is not None)
            entries = (
                f'<v:property uri="{CORE}quota">{self.quota}</v:property>'
                f'<v:property uri="{CORE}length">{used}</v:property>'
            )
        if content is not None:
            entries = f'<v:property uri="{CORE}length">{len(content)}</v:property>'
            if path not in self.unknown:
                digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
                entries += f'<v:property uri="{CORE}MD5">{digest}</v:property>'
        entries += "".join(
            f'<v:property uri="{uri}">{value}</v:property>'
            for uri, value in self.properties.get(path, {}).items()
        )
        inside = [name for name in self.nodes if name.rpartition("/")[0] == path]
        listed = "" if request.query.get("limit") == "0" else "".join(map(self._child, inside))
        return web.Response(
            text=f'<v:node xmlns:v="http://www.ivoa.net/xml/VOSpace/v2.0" '
            f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="v:{kind}">'
            f"<v:properties>{entries}</v:properties><v:nodes>{listed}</v:nodes></v:node>",
            content_type="text/xml",
        )

    def _child(self, path: str) -> str:
        content = self.nodes[path]
        kind = "ContainerNode" if content is None else "DataNode"
        size = f'<v:property uri="{CORE}length">{len(content or b"")}</v:property>'
        uri = escape(encode_node_path(path))
        return (
            f'<v:node uri="vos://opencadc.org~cavern{uri}" xsi:type="v:{kind}">'
            f"<v:properties>{size}</v:properties></v:node>"
        )

    async def get_file(self, request: web.Request) -> web.Response:
        content = self.nodes["/" + request.match_info["path"]]
        return web.Response(body=content) if content else web.Response(status=204)

    async def put_node(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        maker = request.headers["Authorization"].removeprefix("Bearer ")
        if path in self.forbidden or (path in self.administered and maker != "administrator"):
            return web.Response(status=403, text=f"PermissionDenied: {path}")
        if path in self.nodes:
            return web.Response(status=409, text=f"DuplicateNode: {path}")
        if path.rpartition("/")[0] not in self.nodes:
            return web.Response(status=404, text="ContainerNotFound: parent")
        self.nodes[path] = None
        self.made.append(path)
        self.makers[path] = maker
        return web.Response(status=201)

    async def post_node(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        if path not in self.nodes:
            return web.Response(status=404, text=f"NodeNotFound: {path}")
        root = etree.fromstring(await request.read())
        assert path_of(str(root.get("uri"))) == path
        for entry in root.iterfind("{*}properties/{*}property"):
            self.properties.setdefault(path, {})[str(entry.get("uri"))] = str(entry.text)
        return web.Response(status=200)

    async def delete_node(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        if self.nodes.pop(path, b"-") == b"-":
            return web.Response(status=404, text=f"NodeNotFound: {path}")
        return web.Response(status=204)

    async def put_file(self, request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        content = await request.read()
        self.relayed += 1
        self.nodes.update(self.meanwhile)
        self.meanwhile = {}
        if any(path.startswith(start) for start in self.damage):
            content = b"damaged"
        self.nodes[path] = content
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        return web.Response(status=201, headers={"Digest": f"md5={digest}"})

    async def transfer(self, request: web.Request) -> web.Response:
        root = etree.fromstring(await request.read())
        job = uuid.uuid4().hex
        source = root.findtext(".//{*}endpoint") or "move:" + str(root.findtext("{*}target"))
        target = str(root.findtext("{*}target" if source.startswith("http") else "{*}direction"))
        self.jobs[job] = (source, path_of(target))
        return web.Response(
            status=303, headers={"Location": f"{request.url.origin()}/cavern/transfers/{job}"}
        )

    async def synchronous(self, request: web.Request) -> web.Response:
        made = await self.transfer(request)
        self.carry_out(made.headers["Location"].rpartition("/")[2])
        made.headers["Location"] += "/results/transferDetails"
        return made

    async def run(self, request: web.Request) -> web.Response:
        self.carry_out(request.match_info["job"])
        return web.Response(status=200)

    def carry_out(self, job: str) -> None:
        """Carry out a job."""
        source, target = self.jobs[job]
        if source.startswith("move:"):
            if self.nodes.get(target) is not None:
                self.duplicates.add(job)
                return
            if target in self.nodes:
                target = f"{target}/{source.rpartition('/')[2]}"
                self.jobs[job] = (source, target)
            self.nodes[target] = self.nodes.pop(path_of(source))
            self.properties[target] = self.properties.pop(path_of(source), {})
        elif self.pulls and (name := source.rpartition("/")[2]) in self.content:
            self.nodes[target] = self.content[name]

    def _failed(self, job: str) -> str | None:
        source, _ = self.jobs[job]
        if source.startswith("move:"):
            return f"DuplicateNode: {source}" if job in self.duplicates else None
        if not self.pulls:
            return "pullToVoSpace not implemented"
        return None if source.rpartition("/")[2] in self.content else "SourceNotFound: 404"

    async def job(self, request: web.Request) -> web.Response:
        phase = "ERROR" if self._failed(request.match_info["job"]) else "COMPLETED"
        source, target = self.jobs[request.match_info["job"]]
        uri = quoteattr(f"vos://opencadc.org~cavern{encode_node_path(target)}")
        moved = (
            f'<results><result id="destination" x:href={uri}/></results>'
            if source.startswith("move:")
            else ""
        )
        return web.Response(
            text=f'<job xmlns:x="http://www.w3.org/1999/xlink"><phase>{phase}</phase>{moved}</job>',
            content_type="text/xml",
        )

    async def error(self, request: web.Request) -> web.Response:
        return web.Response(text=self._failed(request.match_info["job"]) or "")
