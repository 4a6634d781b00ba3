# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install packages on a Debian host with apt-get. Private to the collection."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from ansible_collections.skasrc.cavern.plugins.module_utils import _progress


class AptError(Exception):
    """apt-get failed; the message holds the end of its output."""


def available() -> bool:
    return shutil.which("apt-get") is not None


def known(packages: list[str]) -> list[str]:
    """Return those of the packages that a configured archive offers."""
    if not packages:
        return []
    done = subprocess.run(
        ["apt-cache", "policy", *packages], capture_output=True, text=True, check=False, env=_environment()
    )
    offered = []
    name = ""
    for line in done.stdout.splitlines():
        if not line.startswith(" "):
            name = line.rstrip(":").split(":")[0]
        elif line.strip().startswith("Candidate:") and not line.rstrip().endswith("(none)"):
            offered.append(name)
    return offered


def update(timeout: float) -> None:
    """Update the package lists, waiting while another process does the same."""
    _apt(["update"], timeout)


def install(packages: list[str], timeout: float) -> None:
    """Install packages without recommended ones, waiting for dpkg's lock."""
    with _progress.step("package", " ".join(packages), "installing", "installed"):
        _apt(["install", "--yes", "--no-install-recommends", *packages], timeout)


def _apt(arguments: list[str], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    # DPkg::Lock::Timeout does not cover the lock of the lists, hence the loop.
    command = ["apt-get", "--quiet", f"--option=DPkg::Lock::Timeout={int(timeout)}", *arguments]
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode == 0:
            return
        locked = "Could not get lock" in done.stderr or "Unable to lock" in done.stderr
        if not locked or time.monotonic() > deadline:
            raise AptError(
                f"apt-get {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-2000:]}"
            )
        time.sleep(1)


def _environment() -> dict[str, str]:
    return os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_MODE": "l"}
