"""Every secret of the deployment made anew while it runs, and none lost or left behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import requests
import yaml
from deployment import Deployment, playbook
from prepare_data_client.did import DID


def test_all_secrets_are_rotated(
    stack: Deployment, http: requests.Session, user: str, rse: Callable[[str, bytes], Path]
) -> None:
    number = f"{stack.url}/src/posix-mapper/uid?user={user}"
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), b"content")
    tasks = f"{stack.url}/prepare-data/v1/tasks"
    task = http.post(tasks, json={"files": [{"did": did}]}, timeout=60).json()["id"]
    http.get(f"{tasks}/{task}/events", timeout=60).raise_for_status()
    before, uid = dict(stack.secrets), http.get(number, timeout=30).text

    # Nobody sees them, however much they ask to see.
    output = playbook("site.yml", "--diff", "-vvv", "-e", '{"secrets_rotate": ["all"]}').stdout
    file = stack.state / "secrets.yml"
    after = yaml.safe_load(file.read_text())
    assert after.keys() == before.keys()
    assert not [name for name in before if after[name] == before[name]]
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [name for secrets in (before, after) for name in secrets if secrets[name] in output]
    stack.forget()

    assert http.get(number, timeout=30).status_code == 401, "a token of the old key still passes"
    with stack.session(user) as again:
        assert again.get(number, timeout=30).text == uid
        assert again.get(f"{tasks}/{task}", timeout=30).json()["state"] == "SUCCEEDED"
        assert again.get(f"{stack.url}/src/cavern/files/home/{user}/{DID.parse(did).name}", timeout=30).ok
    playbook("playbooks/smoke.yml")
    assert "changed=0" in playbook("site.yml").stdout
