"""Users cannot take over other users' nodes in a shared container or at the top level."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from deployment import Deployment
from user_space import ADMINISTRATOR, Space
from vospace_client.terms import CORE, HTTP_GET

REFUSED = ("ERROR", "PermissionDenied")


class People(NamedTuple):
    """Two members of a group, and the administrator."""

    ada: Space
    bob: Space
    admin: Space
    group: str


@pytest.fixture
def people(stack: Deployment) -> Iterator[People]:
    """Users with their own areas; ada's is readable by the group."""
    name = f"g{uuid.uuid4().hex[:12]}"
    ada, bob = (Space(stack, f"{who}{uuid.uuid4().hex[:12]}", [name]) for who in ("ada", "bob"))
    admin = Space(stack, ADMINISTRATOR)
    group = ada.groups + name
    assert ada.make(f"/home/{ada.user}", {f"{CORE}groupread": group}).status_code == 201
    assert bob.make(f"/home/{bob.user}").status_code == 201
    yield People(ada, bob, admin, group)
    for who in (ada, bob):
        # The administrator removes an allocation, and has no rights in it.
        who.delete_tree(f"/home/{who.user}")
        admin.delete(f"/home/{who.user}")
        who.http.close()


@pytest.fixture
def shared(people: People) -> str:
    """A container of ada's that the group may write, with nodes in it that only she may write."""
    ada, path = people.ada, f"/home/{people.ada.user}/shared"
    writable = {f"{CORE}groupwrite": people.group}
    assert ada.make(path, writable).status_code == 201
    assert ada.make(f"{path}/open", writable).status_code == 201
    assert ada.make(f"{path}/closed").status_code == 201
    for name in ("file", "open/file", "closed/file"):
        assert ada.put(f"{path}/{name}", b"ada's").status_code == 201
    assert ada.make(f"{path}/link", kind="LinkNode", target=f"{path}/file").status_code == 201
    return path


def seen(who: Space, path: str) -> list[object]:
    """Return everything visible of the shared container and its content."""
    names = ("file", "link", "open", "open/file", "closed", "closed/file")
    documents = [who.get(f"/nodes{path}/{name}?limit=0").content for name in names]
    return [*documents, *(who.get(f"/files{path}/{name}").content for name in names if "file" in name)]


def pull_over(bob: Space, path: str, _: str) -> bool:
    """Overwrite by bulk pull; return whether the row was rejected."""
    rows = [{"source": "http://rse-web:80/rse/deterministic/x", "target": f"{bob.root}{path}/file"}]
    job = bob.start("bulk-pull", json={"rows": rows, "if_exists": "replace"})
    assert bob.end(job)[0] == "ERROR"
    return '"PermissionDenied"' in bob.http.get(f"{job}/results/files", timeout=60).text


ATTACKS: dict[str, Callable[[Space, str, str], object]] = {
    "delete a file": lambda bob, path, home: bob.delete(f"{path}/file").status_code,
    "delete a link": lambda bob, path, home: bob.delete(f"{path}/link").status_code,
    "delete an empty container": lambda bob, path, home: bob.delete(f"{path}/closed").status_code,
    "delete a tree": lambda bob, path, home: bob.delete_tree(path)[0] in ("ERROR", "ABORTED"),
    "move a file": lambda bob, path, home: bob.move(f"{path}/file", f"{home}/file"),
    "rename a file": lambda bob, path, home: bob.move(f"{path}/file", f"{path}/renamed"),
    "move a link": lambda bob, path, home: bob.move(f"{path}/link", f"{home}/link"),
    "rename a link": lambda bob, path, home: bob.move(f"{path}/link", f"{path}/renamed"),
    "move a container": lambda bob, path, home: bob.move(f"{path}/closed", f"{home}/closed"),
    "move a container that the group may write": lambda bob, path, home: bob.move(
        f"{path}/open", f"{home}/open"
    ),
    "move the whole container": lambda bob, path, home: bob.move(path, f"{home}/all"),
    "write over a file": lambda bob, path, home: bob.put(f"{path}/file", b"bob's").status_code,
    "move over a file": lambda bob, path, home: bob.move(f"{home}/own", f"{path}/file")[0],
    "copy over a file": lambda bob, path, home: bob.transfer(
        f"{home}/own", f"{bob.root}{path}/file", keep=True
    )[0],
    "fetch over a file": lambda bob, path, home: bob.transfer(
        f"{path}/file",
        "pullToVoSpace",
        (HTTP_GET, "http://rse-web:80/rse/x"),
    ),
    "pull over a file": pull_over,
    "change a file": lambda bob, path, home: (
        bob.change(f"{path}/file", {f"{CORE}ispublic": "true"}, kind="DataNode").status_code
    ),
    "change a tree": lambda bob, path, home: bob.change_tree(f"{path}/closed", {f"{CORE}ispublic": "true"})[
        0
    ],
}


def test_members_cannot_take_others_nodes_in_a_shared_container(people: People, shared: str) -> None:
    home = f"/home/{people.bob.user}"
    people.bob.put(f"{home}/own", b"bob's own")
    before = seen(people.ada, shared)
    for name, attack in ATTACKS.items():
        outcome = attack(people.bob, shared, home)
        assert outcome in (True, 403, "ERROR", REFUSED), name
        assert seen(people.ada, shared) == before, name
        assert people.bob.get(f"/files{home}/own").content == b"bob's own", name
        for taken in ("file", "open", "all", "closed", "link"):
            assert people.bob.get(f"/nodes{home}/{taken}").status_code == 404, name


def test_renaming_keeps_the_owner(people: People, shared: str) -> None:
    change = people.ada.change(f"{shared}/file", {f"{CORE}groupwrite": people.group}, kind="DataNode")
    assert change.status_code == 200
    assert people.bob.move(f"{shared}/file", f"{shared}/renamed") == ("COMPLETED", "")
    assert people.ada.properties(f"{shared}/renamed")[f"{CORE}creator"] == people.ada.user


def test_a_slow_upload_does_not_replace_a_newer_node(stack: Deployment, people: People, shared: str) -> None:
    """The name was the uploader's when it began, and is another's at its end."""
    ada, bob, path = people.ada, people.bob, f"{shared}/mine"
    also_bob = Space(stack, bob.user, [people.group.partition("?")[2]])
    assert bob.put(path, b"bob's").status_code == 201
    begun, go_on, answers = threading.Event(), threading.Event(), []

    def body() -> Iterator[bytes]:
        # More than all buffers on the way hold: the service reads, so it has seen what is there.
        for _ in range(32):
            yield b"x" * (1 << 20)
        begun.set()
        go_on.wait(30)
        yield b"y"

    upload = threading.Thread(target=lambda: answers.append(bob.put(path, body()).status_code))
    upload.start()
    assert begun.wait(60)
    assert also_bob.delete(path).status_code == 200
    assert ada.put(path, b"ada's").status_code == 201
    go_on.set()
    upload.join()
    assert ada.get(f"/files{path}").content == b"ada's"
    assert answers == [403]


# At the top level.


@pytest.fixture
def top(people: People) -> Iterator[str]:
    """A top-level container that the administrator created for ada, writable by the group."""
    path = f"/t{uuid.uuid4().hex[:12]}"
    given = {f"{CORE}creator": people.ada.user, f"{CORE}groupwrite": people.group}
    assert people.admin.make(path, given).status_code == 201
    assert people.ada.put(f"{path}/file", b"ada's").status_code == 201
    yield path
    people.ada.delete_tree(path)


def test_only_the_administrator_creates_nodes_at_the_root(people: People) -> None:
    ada, name = people.ada, f"/t{uuid.uuid4().hex[:12]}"
    try:
        assert ada.make(name).status_code == 403
        assert ada.put(name, b"x").status_code == 403
        assert ada.make(name, kind="LinkNode", target=f"/home/{ada.user}").status_code == 403
        assert ada.make(f"/home/{ada.user}/box").status_code == 201
        assert ada.move(f"/home/{ada.user}/box", name) == REFUSED
        assert ada.get(f"/nodes{name}").status_code == 404
    finally:
        ada.delete_tree(name)


def test_members_cannot_take_others_top_level_nodes(people: People, top: str) -> None:
    bob = people.bob
    assert bob.delete(f"{top}/file").status_code == 403
    assert bob.move(top, f"/home/{bob.user}/taken") == REFUSED
    assert bob.move(top, f"{top}x") == REFUSED
    assert bob.delete_tree(top)[0] == "ERROR"
    assert people.ada.get(f"/files{top}/file").content == b"ada's"
    assert people.ada.delete(f"{top}/file").status_code == 200
    assert bob.delete(top).status_code == 403
    assert people.admin.move(top, f"{top}x") == ("COMPLETED", "")
    assert people.ada.properties(f"{top}x")[f"{CORE}creator"] == people.ada.user
    assert people.ada.delete(f"{top}x").status_code == 200


@pytest.mark.parametrize("parent", ["/home", "/projects"])
def test_parents_of_allocations_cannot_be_moved_or_removed(people: People, parent: str) -> None:
    elsewhere = f"/t{uuid.uuid4().hex[:12]}"
    try:
        for who in (people.bob, people.admin):
            for wanted in (elsewhere, f"/home/{people.bob.user}{elsewhere}"):
                assert who.move(parent, wanted)[0] == "ERROR"
            assert who.delete(parent).status_code in (400, 403)
        assert people.ada.get(f"/nodes/home/{people.ada.user}").status_code == 200
    finally:
        people.bob.move(elsewhere, parent)
