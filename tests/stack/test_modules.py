"""The collection's service modules against the deployed stack: each playbook asserts what it is about."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from deployment import ROOT, Deployment, playbook
from prepare_data_client.did import DID

PLAYBOOKS = sorted((ROOT / "tests/stack/modules").glob("*.yml"))


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_module(stack: Deployment, user: str, rse: Callable[[str, bytes], Path], path: Path) -> None:
    run = uuid.uuid4().hex[:8]
    dids = [f"moduletest:{run}/{number}" for number in range(3)]
    for did in dids:
        rse(DID.parse(did).path(), did.encode() * 100)
    variables = {
        "user": user,
        "dids": dids,
        "wanted": [{"did": did} for did in dids],
        "missing_did": f"moduletest:{run}/missing",
    }
    done = playbook(str(path), "--extra-vars", json.dumps(variables))
    assert "failed=0" in done.stdout
    for token in stack.secrets.values():
        assert token not in done.stdout
