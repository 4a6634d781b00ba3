"""What an inventory comes to on Kubernetes, written by the playbooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "tests/kubernetes/site"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Written:
    """What an inventory comes to: its chart, its objects by their names, and its secrets."""

    chart: Path
    objects: dict[str, dict[str, Any]]
    texts: list[str]
    secrets: dict[str, str]


def run_playbook(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ansible-playbook` in the checkout."""
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        [str(BIN / "ansible-playbook"), *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def changes(done: subprocess.CompletedProcess[str]) -> int:
    """Return the number of changes of a run."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"changed=(\d+)", done.stdout)
    assert found is not None
    return int(found[1])


def by_name(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Return the objects of several files, of which no two have one name."""
    found: dict[str, dict[str, Any]] = {}
    for document in (document for text in texts for document in yaml.safe_load_all(text)):
        if document is None or document["kind"] in ("Namespace", "Kustomization"):
            continue
        name = f"{document['kind']}/{document['metadata']['name']}"
        assert name not in found, name
        found[name] = document
    return found


def write(directory: Path, settings: dict[str, Any], *playbooks: str) -> Written:
    """Write what the site of the tests comes to with other *settings*: by default its objects and its chart."""
    shutil.copytree(SITE, directory / "inventory")
    own = settings | {"deployment_controller_dir": str(directory / "state")}
    (directory / "inventory/group_vars/all/test.yml").write_text(yaml.safe_dump(own))
    for playbook in playbooks or ("kubernetes", "chart"):
        done = run_playbook("-i", str(directory / "inventory"), f"playbooks/{playbook}.yml")
        assert done.returncode == 0, done.stdout + done.stderr
    state = directory / "state"
    texts = [path.read_text() for path in sorted(state.glob("kubernetes/base/**/*.yaml"))]
    secrets = yaml.safe_load((state / "secrets.yml").read_text())
    return Written(state / "chart", by_name(texts), texts, secrets)
