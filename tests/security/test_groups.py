"""The groups in a token give access to nodes shared with them, and to nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from deployment import Deployment
from user_space import ADMINISTRATOR, Space
from vospace_client.terms import CORE

DEFAULT = "ivo://default-group-should-be-ignored.opencadc.org/default-group?"
MANY = 1200
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def ada(stack: Deployment) -> Iterator[Space]:
    """A user with a public area and a private file."""
    ada = Space(stack, f"ada{uuid.uuid4().hex[:12]}")
    home = f"/home/{ada.user}"
    assert ada.make(home, {f"{CORE}ispublic": "true"}).status_code == 201
    assert ada.put(f"{home}/private", b"ada's").status_code == 201
    yield ada
    ada.delete_tree(home)
    Space(stack, ADMINISTRATOR).delete(home)


def test_another_users_own_group_gives_no_access(stack: Deployment, ada: Space) -> None:
    path = f"/home/{ada.user}/private"
    eve = Space(
        stack, f"eve{uuid.uuid4().hex[:12]}", [DEFAULT + ada.user, f"{ada.groups}x?{DEFAULT}{ada.user}"]
    )
    assert eve.get(f"/files{path}").status_code == 403
    assert eve.put(path, b"eve's").status_code == 403
    assert eve.change(path, {f"{CORE}ispublic": "true"}, kind="DataNode").status_code == 403
    assert ada.get(f"/files{path}").content == b"ada's"


def test_a_group_of_another_service_gives_no_access(stack: Deployment, ada: Space) -> None:
    """Nodes cannot be shared with it, and a claim of it is ignored for nodes shared with it before."""
    path = f"/home/{ada.user}/private"
    foreign = f"ivo://elsewhere.example/gms?{uuid.uuid4().hex[:8]}"
    for group in (foreign, DEFAULT + ada.user):
        shared = ada.change(path, {f"{CORE}groupread": group}, kind="DataNode")
        assert (shared.status_code, "non-local groups" in shared.text) == (400, True)
    eve = Space(stack, f"eve{uuid.uuid4().hex[:12]}", [foreign])
    assert eve.get(f"/files{path}").status_code == 403


def test_a_member_of_many_groups_is_authenticated(stack: Deployment) -> None:
    """The first request of a user with unknown groups; a few queries to the POSIX mapper cover all of them."""
    start = uuid.uuid4().int % (36**4 - MANY)
    names = [
        "".join(DIGITS[number // 36**place % 36] for place in range(4))
        for number in range(start, start + MANY)
    ]
    mapper = stack.container("src-posix-mapper")
    before = mapper.logs().count(b"/gid")
    ada = Space(stack, f"ada{uuid.uuid4().hex[:12]}", names)
    assert ada.get("/nodes?limit=0").headers["X-VO-Authenticated"] == ada.user
    assert mapper.logs().count(b"/gid") - before < 40
    home = f"/home/{ada.user}"
    assert ada.make(home).status_code == 201
    try:
        assert ada.put(f"{home}/f", b"ada's").status_code == 201
        # Her permissions fit into a URL.
        parameters = {"DIRECTION": "pullFromVoSpace", "PROTOCOL": f"{CORE}httpsget"}
        asked = ada.http.get(
            f"{ada.url}/synctrans",
            params={"TARGET": f"{ada.root}{home}/f", **parameters},
            timeout=60,
            allow_redirects=False,
        )
        assert "/preauth:" in asked.headers["Location"]
        with stack.session() as anonymous:
            assert anonymous.get(asked.headers["Location"], timeout=60).content == b"ada's"
    finally:
        ada.delete_tree(home)
        Space(stack, ADMINISTRATOR).delete(home)
