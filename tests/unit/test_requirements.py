# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is fetched from a package index is known by its hash, the installer and the build system included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKED = [
    *sorted((ROOT / "requirements").glob("*.txt")),
    *sorted((ROOT / "roles/images/files").rglob("*.txt")),
]
INSTALLERS = [ROOT / "bin/environment", *sorted((ROOT / "roles/images/files").rglob("Dockerfile"))]


def requirements(file: Path) -> list[str]:
    """The entries of a locked file, each with its options on one line."""
    joined = file.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("file", LOCKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_requirement_has_a_version_and_a_hash(file: Path) -> None:
    found = requirements(file)
    assert found
    assert [line for line in found if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


@pytest.mark.parametrize("file", INSTALLERS, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_installed_without_its_hash(file: Path) -> None:
    """Of this project's own sources there is no hash to know, but nothing may come along with them."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    script = "\n".join(lines).replace("\\\n", " ")
    for command in re.findall(r"\bpip\b[^&|\n]* install [^&|\n]*", script):
        known = "--require-hashes" in command or {"--no-deps", "--no-build-isolation"} <= set(command.split())
        assert known, command


def test_the_installer_is_the_one_that_is_locked() -> None:
    versions = {line.split()[0] for file in LOCKED for line in requirements(file) if line.startswith("uv==")}
    assert len(versions) == 1
