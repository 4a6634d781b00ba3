"""Rendering of the roles' output for given settings, without changing anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def render(
    output: Path, *settings: str, inventory: str = "inventory/local"
) -> subprocess.CompletedProcess[str]:
    """Write the containers of an inventory's services, with further settings, into a file as JSON."""
    extra = [word for setting in (f"output={output}", *settings) for word in ("-e", setting)]
    return subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            inventory,
            *extra,
            "tests/unit/roles/render.yml",
        ],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
