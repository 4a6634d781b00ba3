"""Users cannot evade a quota by moving, removing, recreating or concurrently writing nodes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from deployment import Deployment
from user_space import ADMINISTRATOR, Space
from vospace_client.terms import CORE, QUOTA

REFUSED = ("ERROR", "PermissionDenied")


@pytest.fixture
def admin(stack: Deployment) -> Space:
    return Space(stack, ADMINISTRATOR)


@pytest.fixture
def ada(stack: Deployment, admin: Space) -> Iterator[Space]:
    """A user whose area has a quota set by the administrator."""
    ada = Space(stack, f"ada{uuid.uuid4().hex[:12]}")
    home = f"/home/{ada.user}"
    assert admin.make(home, {f"{CORE}creator": ada.user, QUOTA: "1000"}).status_code == 201
    yield ada
    ada.delete_tree(home)
    admin.delete(home)


def test_recreating_an_area_does_not_evade_the_quota(ada: Space, admin: Space) -> None:
    home = f"/home/{ada.user}"
    assert ada.delete(home).status_code == 403
    for wanted in (f"/home/{ada.user}x", f"/projects/{ada.user}", f"/{ada.user}"):
        assert ada.move(home, wanted) == REFUSED
    assert ada.properties(home)[QUOTA] == "1000"
    assert ada.put(f"{home}/f", b"x" * 1001).status_code == 413


def test_moving_does_not_evade_the_quota(ada: Space, admin: Space) -> None:
    assert ada.make(f"/home/{ada.user}/box").status_code == 201
    try:
        for place in (f"/projects/{ada.user}", f"/{ada.user}"):
            assert ada.make(place).status_code == 403
            assert ada.put(f"{place}f", b"x" * 1001).status_code == 403
            assert ada.move(f"/home/{ada.user}/box", place) == REFUSED
    finally:
        for place in (f"/projects/{ada.user}", f"/{ada.user}"):
            ada.delete_tree(place)


def test_a_new_quota_counts_existing_files(ada: Space, admin: Space) -> None:
    home = f"/home/{ada.user}"
    assert ada.put(f"{home}/a", b"x" * 100).status_code == 201
    assert admin.change(home, {QUOTA: "100000"}).status_code == 200
    assert ada.put(f"{home}/b", b"x" * 5000).status_code == 201
    begun, go_on, answers = threading.Event(), threading.Event(), []

    def body() -> Iterator[bytes]:
        yield b"x" * 2000
        begun.set()
        go_on.wait(30)
        yield b"y"

    upload = threading.Thread(target=lambda: answers.append(ada.put(f"{home}/c", body()).status_code))
    upload.start()
    assert begun.wait(60)
    assert admin.change(home, {QUOTA: "6000"}).status_code == 200
    go_on.set()
    upload.join()
    assert answers == [413]
    assert admin.get(f"/nodes{home}").status_code == 200
    assert ada.get(f"/nodes{home}/c").status_code == 404
