"""A user's actions leave no permanent and no world-readable traces."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import requests
from deployment import Deployment
from user_space import ADMINISTRATOR, Space
from vospace_client.terms import CORE


def test_queries_add_no_names_to_the_mapping(stack: Deployment, user: str) -> None:
    asker = Space(stack, user)
    stranger, group = f"x{uuid.uuid4().hex[:12]}", f"{asker.groups}{uuid.uuid4().hex[:12]}"
    mapper = f"{stack.url}/src/posix-mapper"
    for path, parameters in (("uid", {"user": stranger}), ("gid", {"group": group})):
        answer = asker.http.get(f"{mapper}/{path}", params=parameters, timeout=30)
        assert (answer.status_code, answer.text) == (200, "")
        assert stranger not in asker.http.get(f"{mapper}/{path}", timeout=30).text
        assert group.partition("?")[2] not in asker.http.get(f"{mapper}/{path}", timeout=30).text
    own = asker.http.get(f"{mapper}/uid", params={"user": user}, timeout=30).text
    assert own.startswith(f"{user}:x:")


def test_a_rejected_change_adds_no_group_to_the_mapping(stack: Deployment, user: str) -> None:
    asker, admin = Space(stack, user), Space(stack, ADMINISTRATOR)
    group = f"{asker.groups}{uuid.uuid4().hex[:12]}"
    shared = {f"{CORE}groupread": group}
    assert asker.change("/home", shared).status_code == 403
    assert asker.make(f"/home/{user}x", shared).status_code == 403
    asker.http.post(
        f"{asker.url}/async-setprops",
        asker.document("ContainerNode", "/home", shared),
        headers={"Content-Type": "text/xml"},
        timeout=60,
        allow_redirects=False,
    )
    listed = admin.http.get(f"{stack.url}/src/posix-mapper/gid", timeout=30).text
    assert group.partition("?")[2] not in listed


def test_receipts_are_not_world_readable(
    stack: Deployment, user: str, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    rse("testing/84/1c/prepare_data_test.txt", b"x")
    body = [["testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt", "./traces"]]
    task = http.post(f"{stack.url}/prepare-data/", json=body, timeout=60).json()["task_id"]
    with http.get(f"{stack.url}/prepare-data/v1/tasks/{task}/events", timeout=60) as events:
        assert "SUCCEEDED" in events.text
    receipt = stack.receipt(task)
    assert json.loads(receipt.read_text())["username"] == user  # readable by the user who deployed
    for path in (receipt, receipt.parent):
        assert path.stat().st_mode & 0o007 == 0
