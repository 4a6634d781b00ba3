# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which inventory ``make`` takes where none is named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("system", "information", "inventory"),
    [
        (
            "Linux",
            "Debian GNU/Linux 13 (trixie) [name=seccomp,profile=builtin name=cgroupns]",
            "inventory/local",
        ),
        # No engine yet: the deployment installs one.
        ("Linux", "", "inventory/local"),
        ("Linux", "Docker Desktop [name=seccomp,profile=unconfined name=cgroupns]", "inventory/desktop"),
        ("Linux", "Ubuntu 24.04 LTS [name=seccomp,profile=builtin name=rootless]", "inventory/desktop"),
        ("Darwin", "Docker Desktop []", "inventory/desktop"),
        ("Darwin", "", "inventory/desktop"),
    ],
)
def test_the_inventory_is_that_of_the_engine(
    tmp_path: Path, system: str, information: str, inventory: str
) -> None:
    for name, text in {
        "uname": f"echo {system}",
        "docker": f"echo '{information}'; test '{information}'",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "bin/inventory"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == inventory
    # Whoever gets another than usual is told why.
    assert bool(done.stderr) == (inventory != "inventory/local")
