# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _vospace
from ansible_collections.skasrc.cavern.plugins.modules import node

ROOT = "vos://opencadc.org~cavern"
NODES = "/src/cavern/nodes"
CORE = _vospace.CORE


class Space:
    """Nodes by path, behind the wire forms of Cavern."""

    def __init__(self, service: Any, ignored: tuple[str, ...] = ()) -> None:
        self.service, self.ignored = service, ignored
        self.nodes: dict[str, _vospace.Node] = {}
        self.put("", "ContainerNode")
        service.fallback = self.answer

    def put(self, path: str, kind: str, target: str | None = None, **properties: str) -> None:
        named = {f"{CORE}{name}": value for name, value in properties.items()}
        self.nodes[path] = _vospace.Node(ROOT + path, kind, named, target)

    def paths(self) -> list[str]:
        return sorted(path for path in self.nodes if path)

    def answer(self, request: Any) -> Any:
        if request.path == "/src/cavern/async-delete":
            (target,) = parse_qs(request.body.decode())["target"]
            for path in [path for path in self.nodes if f"{ROOT}{path}".startswith(target)]:
                del self.nodes[path]
            return self.service.reply(status=303, Location=f"{self.service.url}/src/cavern/async-delete/1")
        path = unquote(request.path.removeprefix(NODES)).rstrip("/")
        found = self.nodes.get(path)
        if request.method == "PUT":
            assert found is None
            assert path.rpartition("/")[0] in self.nodes
            return self.store(path, _vospace.read_node(request.body), {}, 201)
        if found is None:
            return self.service.reply(b"NodeNotFound: x\n", 404)
        if request.method == "POST":
            return self.store(
                path, _vospace.read_node(request.body), dict(found.properties), 200, request.body
            )
        if request.method == "DELETE":
            del self.nodes[path]
            return self.service.reply()
        document = _vospace.write_node(found.uri, found.kind, found.properties, found.target)
        below = [child for child in self.nodes if child.rpartition("/")[0] == path and child]
        if request.query.get("limit") != ["0"]:
            children = b"".join(b'<vos:node uri="%s"/>' % f"{ROOT}{child}".encode() for child in below)
            document = document.replace(b"<vos:nodes />", b"<vos:nodes>" + children + b"</vos:nodes>")
        return self.service.reply(document)

    def store(
        self, path: str, given: _vospace.Node, properties: dict[str, str], status: int, body: bytes = b""
    ) -> Any:
        for uri in list(properties):
            if b'uri="%s" xsi:nil="true"' % uri.encode() in body:
                del properties[uri]
        properties |= {uri: value for uri, value in given.properties.items() if uri not in self.ignored}
        self.nodes[path] = _vospace.Node(given.uri, given.kind, properties, given.target)
        document = _vospace.write_node(given.uri, given.kind, properties, given.target)
        return self.service.reply(document, status)


@pytest.fixture
def space(service: Any) -> Space:
    """A space with the home of ada."""
    made = Space(service)
    made.put("/home", "ContainerNode")
    made.put("/home/ada", "ContainerNode", creator="ada")
    job = "/src/cavern/async-delete/1"
    service.on("POST", f"{job}/phase", service.reply(status=303, Location=f"{service.url}{job}"))
    service.on("GET", f"{job}/phase", service.reply(b"EXECUTING"), service.reply(b"COMPLETED"))
    return made


@pytest.fixture
def run(run_module: Any, space: Space) -> Any:
    """Run the module on the space."""

    def on_space(**options: Any) -> dict[str, Any]:
        return dict(run_module(node, url=space.service.url, token="a.b.c", **options))

    return on_space


def test_check_mode_foretells_the_run_which_is_idempotent(run: Any, space: Space) -> None:
    options = {
        "path": "/home/ada/x y/z",
        "parents": True,
        "public": True,
        "group_read": ["ivo://o/gms?b", "ivo://o/gms?a"],
        "properties": {"title": "<Ü> & co", "ivo://example.org/a#b": 17},
    }
    foretold = run(check=True, **options)
    assert space.paths() == ["/home", "/home/ada"]
    done = run(**options)
    for key in ("changed", "created", "diff"):
        assert foretold[key] == done[key]
    assert done["created"] == ["/home/ada/x y", "/home/ada/x y/z"]
    assert done["node"]["properties"][f"{CORE}title"] == "<Ü> & co"
    assert done["node"]["properties"]["ivo://example.org/a#b"] == "17"
    again = run(**{**options, "group_read": ["ivo://o/gms?a", "ivo://o/gms?b"]})
    assert again["changed"] is False
    assert again["diff"]["before"] == again["diff"]["after"]


def test_only_what_differs_is_sent(run: Any, space: Space) -> None:
    space.put("/home/ada/x", "ContainerNode", ispublic="false", title="old", description="kept")
    options = {"path": "home/ada/x/", "public": False, "properties": {"title": None, "subject": "new"}}
    foretold = run(check=True, **options)
    result = run(**options)
    assert result["changed"]
    assert foretold["diff"] == result["diff"]
    (request,) = space.service.asked("POST", f"{NODES}/home/ada/x")
    assert b"description" not in request.body
    assert b"ispublic" not in request.body
    assert result["diff"]["before"] == {"state": "present", "kind": "container", f"{CORE}title": "old"} | {
        f"{CORE}ispublic": "false"
    }
    assert f"{CORE}title" not in result["node"]["properties"]
    assert result["node"]["properties"][f"{CORE}description"] == "kept"
    assert run(**options)["changed"] is False


def test_rights_are_taken_away(run: Any, space: Space) -> None:
    space.put("/home/ada/x", "ContainerNode", groupwrite="ivo://o/gms?a")
    assert run(path="/home/ada/x", group_write=[])["changed"]
    assert f"{CORE}groupwrite" not in space.nodes["/home/ada/x"].properties
    assert run(path="/home/ada/x", group_write=[], inherit_permissions=False)["changed"] is False


def test_allocation(run: Any, space: Space) -> None:
    result = run(path="/home/eve", owner="eve", quota="1.5K")
    assert result["node"]["properties"] == {f"{CORE}creator": "eve", f"{CORE}quota": "1536"}
    assert run(path="/home/eve", owner="eve", quota="1536")["changed"] is False


def test_what_the_service_passes_over_is_an_error(run: Any, space: Space) -> None:
    space.ignored = (f"{CORE}quota",)
    result = run(path="/home/ada", quota="1G", properties={"title": "t"})
    assert result["failed"]
    assert result["changed"]
    assert f"the service did not take {CORE}quota (is None)" in result["msg"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("vos://O.org!cavern/a b", "vos://o.org~cavern/a%20b/", True),
        ("vos://o.org~cavern/a", "vos://o.org~cavern/b", False),
        ("file:///a", "vos://o.org~cavern/a", False),
        (None, "vos://o.org~cavern/a", False),
        (None, None, True),
    ],
)
def test_same_uri(one: str | None, other: str | None, same: bool) -> None:
    assert _vospace.same_uri(one, other) is same


def test_link(run: Any, space: Space) -> None:
    options = {"path": "/home/ada/l", "kind": "link", "target": "/home/ada/a b"}
    assert run(**options)["node"]["target"] == f"{ROOT}/home/ada/a%20b"
    assert run(**options)["changed"] is False
    moved = run(**{**options, "target": f"{ROOT}/home"})
    assert moved["diff"]["before"]["target"] == f"{ROOT}/home/ada/a%20b"
    assert moved["diff"]["after"]["target"] == f"{ROOT}/home"
    assert space.nodes["/home/ada/l"].target == f"{ROOT}/home"


def test_data_node(run: Any, space: Space) -> None:
    assert run(path="/home/ada/f", kind="data", properties={"type": "text/plain"})["changed"]
    assert space.nodes["/home/ada/f"].kind == "DataNode"
    wrong = run(path="/home/ada/f")
    assert wrong["msg"] == "/home/ada/f is a data node, not a container node; remove it first"


def test_absent(run: Any, space: Space) -> None:
    space.put("/home/ada/f", "DataNode")
    assert run(check=True, path="/home/ada/f", state="absent")["changed"]
    assert "/home/ada/f" in space.nodes
    assert run(path="/home/ada/f", state="absent")["diff"]["before"]["kind"] == "data"
    assert "/home/ada/f" not in space.nodes
    assert run(path="/home/ada/f", state="absent")["changed"] is False


def test_absent_with_all_that_is_in_it(run: Any, space: Space) -> None:
    space.put("/home/ada/f", "DataNode")
    assert "is not empty; say recursive: true" in run(path="/home/ada", state="absent")["msg"]
    assert run(path="/home/ada", state="absent", recursive=True)["changed"]
    assert space.paths() == ["/home"]


def test_recursive_removal_that_fails(run: Any, space: Space) -> None:
    space.put("/home/ada/f", "DataNode")
    job = "/src/cavern/async-delete/1"
    space.service.on("GET", f"{job}/phase", space.service.reply(b"ERROR"))
    space.service.on("GET", f"{job}/error", space.service.reply(b"PermissionDenied"))
    result = run(path="/home/ada", state="absent", recursive=True)
    assert "ended in phase ERROR: PermissionDenied" in result["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "/"}, "path: the root node is managed by the service itself"),
        ({"path": "/a/../b"}, "path: '/a/../b' must not have the segments"),
        ({"path": "/a?b"}, "path: '/a?b' holds a character"),
        ({"path": "/nowhere/x"}, "/nowhere does not exist; create it first, or say parents: true"),
        ({"path": "/x", "target": "/y"}, "target: only a link leads anywhere"),
        ({"path": "/x", "kind": "link"}, "target: say what the link leads to"),
        ({"path": "/x", "kind": "link", "target": "/y", "public": True}, "public: a link has neither"),
        ({"path": "/x", "kind": "data", "quota": "1G"}, "quota: only a container has it"),
        ({"path": "/x", "quota": "much"}, "quota: 'much' is no number of bytes"),
        ({"path": "/x", "properties": {"a b:c": 1}}, "properties: 'a b:c' is no URI"),
        ({"path": "/x", "group_read": ["staff"]}, "group_read: 'staff' is no URI of a group"),
    ],
)
def test_bad_options(run: Any, space: Space, options: dict[str, Any], message: str) -> None:
    before = dict(space.nodes)
    result = run(**options)
    assert result["failed"]
    assert message in result["msg"]
    assert space.nodes == before


def test_refusal_of_the_service(run: Any, space: Space) -> None:
    service = space.service
    service.on("PUT", f"{NODES}/home/x", service.reply(b"PermissionDenied: vos://x\n", 403))
    result = run(path="/home/x")
    assert result["failed"]
    assert result["msg"].endswith("/nodes/home/x answered 403: PermissionDenied: vos://x")


@pytest.mark.parametrize("document", [b"<html/>", b"nonsense", b"<!DOCTYPE x><x/>"])
def test_an_answer_that_is_no_node(run: Any, space: Space, document: bytes) -> None:
    space.service.on("GET", f"{NODES}/home/x", space.service.reply(document))
    assert "no node document" in run(path="/home/x")["msg"]
