"""Rendering of the roles' output for given settings, without changing anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = "tests/unit/roles/render.yml"
Done = subprocess.CompletedProcess[str]


def render(output: Path, *settings: str, inventory: str = "inventory/local") -> Done:
    """Write the containers of an inventory's services, with further settings, into a file as JSON."""
    return _play(inventory, (f"output={output}", *settings), PLAYBOOK)


def check(*settings: str, inventory: str = "inventory/local", times: int = 1) -> Done:
    """Run the roles alone, which refuse wrong settings, as often in one run as is said."""
    return _play(inventory, settings, "--skip-tags=specifications", *[PLAYBOOK] * times)


def _play(inventory: str, settings: tuple[str, ...], *arguments: str) -> Done:
    extra = [word for setting in settings for word in ("-e", setting)]
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, *extra, *arguments],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
