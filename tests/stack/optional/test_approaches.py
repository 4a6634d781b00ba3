"""The approaches of a worker that mounts both file systems, as a site that chooses them gets them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import requests
from deployment import Deployment
from prepare_data_client.did import DID
from tasks import ended, submit


def test_copies_and_links(
    stack: Deployment,
    http: requests.Session,
    user: str,
    rse: Callable[[str, bytes], Path],
    approaches: list[str],
) -> None:
    """Each owned by the user, who has an area since a first file came by Cavern; copies go as they came."""
    run = uuid.uuid4().hex[:8]
    dids = {approach: f"testing:{run}_{approach}.dat" for approach in approaches}
    for did in dids.values():
        rse(DID.parse(did).path(), did.encode())
    tasks = {}
    for approach, did in dids.items():
        submitted = {"files": [{"did": did}], "destination": run, "approach": approach, "lifetime": 3600}
        tasks[approach] = ended(http, submit(http, stack.url, **submitted))
        assert tasks[approach]["state"] == "SUCCEEDED", tasks[approach]

    area = stack.data / "cavern_data/cavern/home" / user / run
    paths = {approach: area / did.partition(":")[2] for approach, did in dids.items()}
    owner = paths["cavern_api_approach"].stat().st_uid
    assert owner >= 10_000
    assert {path.lstat().st_uid for path in paths.values()} == {owner}
    assert paths["copy_to_user_area"].read_bytes() == dids["copy_to_user_area"].encode()
    copied = f"{stack.url}/src/cavern/files/home/{user}/{run}/{paths['copy_to_user_area'].name}"
    assert http.get(copied, timeout=30).content == dids["copy_to_user_area"].encode()
    link = f"/rse_data/deterministic/{DID.parse(dids['symbolic_link']).path()}"
    assert str(paths["symbolic_link"].readlink()) == link

    for approach in approaches[1:]:
        release = f"{stack.url}/prepare-data/v1/tasks/{tasks[approach]['id']}/release"
        assert http.post(release, timeout=30).status_code == 202
    deadline = time.monotonic() + 60
    while (left := [path.name for path in area.iterdir()]) != [paths["cavern_api_approach"].name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_without_an_area_nothing_is_written(
    stack: Deployment, http: requests.Session, user: str, rse: Callable[[str, bytes], Path]
) -> None:
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), b"content")
    task = ended(http, submit(http, stack.url, files=[{"did": did}], approach="copy_to_user_area"))
    assert task["state"] == "FAILED"
    assert f"{user} has no area on this site" in task["info"]
    assert not (stack.data / "cavern_data/cavern/home" / user).exists()


def test_what_a_site_does_not_offer_is_refused(stack: Deployment, http: requests.Session) -> None:
    body = {"files": [{"did": "testing:a"}], "approach": "read_only_bind_mounts"}
    answer = http.post(f"{stack.url}/prepare-data/v1/tasks", json=body, timeout=30)
    assert answer.status_code == 422
    assert (
        "/approach: 'read_only_bind_mounts' is not offered here; choose one of cavern_api_approach"
        in (answer.json()["detail"])
    )
