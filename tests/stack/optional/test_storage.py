"""Storage elements of a site's own, as an inventory names them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import requests
from deployment import Deployment
from prepare_data_client.did import DID
from tasks import ended, submit


def test_the_next_rse_is_asked_where_one_is_away(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path]
) -> None:
    run = uuid.uuid4().hex[:8]
    dids = [f"testing:{run}_{number}.dat" for number in range(20)]
    for did in dids:
        rse(DID.parse(did).path(), did.encode())
    task = ended(http, submit(http, stack.url, files=[{"did": did} for did in dids], destination=run))
    assert task["state"] == "SUCCEEDED", task
    assert {file["rse"] for file in task["items"]} == {"SITE"}

    # By the seed's call.
    did = f"testing:{run}_seed.dat"
    rse(DID.parse(did).path(), did.encode())
    body = [[did, DID.parse(did).path(), f"./{run}"]]
    answer = http.post(f"{stack.url}/prepare-data/", params={"rse": "SITE"}, json=body, timeout=30)
    task = ended(http, f"{stack.url}/prepare-data/v1/tasks/{answer.json()['task_id']}")
    assert [(file["state"], file["rse"]) for file in task["items"]] == [("STAGED", "SITE")]
    refused = http.post(f"{stack.url}/prepare-data/", params={"rse": "OTHER"}, json=body, timeout=30)
    assert refused.status_code == 422
    assert "this site has AWAY, SITE" in refused.json()["detail"]

    # One that is named alone is waited for.
    task_url = submit(http, stack.url, files=[{"did": did}], destination="named", rse="AWAY")
    estimate = {"files": [{"did": did}], "destination": "named", "rse": "AWAY"}
    answer = http.post(f"{stack.url}/prepare-data/v1/estimate", json=estimate, timeout=60)
    assert answer.status_code == 503, answer.text
    assert http.get(task_url, timeout=30).json()["state"] in {"QUEUED", "RUNNING"}
    http.post(f"{task_url}/cancel", timeout=30)
    assert ended(http, task_url)["state"] == "CANCELLED"
