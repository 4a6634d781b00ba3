# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory states hosts; the groups of services follow from the catalogue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
# ansible-test runs these files without the playbooks' environment.
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/collections").is_dir(),
    reason="runs ansible-inventory, which needs the checkout's .venv",
)
SERVICES = {
    *("haproxy", "reg", "posix_mapper", "postgres_posixmapper", "cavern", "srcnodedb", "rabbitmq", "core"),
    *("celery_worker", "rse_web", "iam"),
}
CONFIG = "plugin: skasrc.cavern.services\n"


def listed(directory: Path, hosts: str, config: str = CONFIG) -> dict[str, Any]:
    """What an inventory of the two files comes to."""
    (directory / "hosts.yml").write_text(hosts)
    (directory / "services.yml").write_text(config)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(directory), "--list"],
        cwd=ROOT,
        env=os.environ
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(directory / "roles")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split()))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_one_host_runs_every_service(tmp_path: Path) -> None:
    found = listed(tmp_path, "deployment: {hosts: {here: {}}}")
    assert {group: found[group]["hosts"] for group in SERVICES} == {key: ["here"] for key in SERVICES}
    assert set(found["deployment"]["children"]) == SERVICES


def test_a_service_moves_by_a_group_of_its_name(tmp_path: Path) -> None:
    found = listed(tmp_path, "deployment: {hosts: {here: {}, there: {}}}\nrabbitmq: {hosts: {there: {}}}")
    assert found["rabbitmq"]["hosts"] == ["there"]
    assert all(found[group]["hosts"] == ["here"] for group in SERVICES - {"rabbitmq"})


def test_an_inventory_with_all_groups_stays_as_it_is(tmp_path: Path) -> None:
    groups = ", ".join(
        f"{group}: {{hosts: {{{'b' if group == 'core' else 'a'}: {{}}}}}}" for group in SERVICES
    )
    found = listed(tmp_path, f"all: {{children: {{deployment: {{children: {{{groups}}}}}}}}}")
    assert {group: found[group]["hosts"] for group in SERVICES} == {
        group: ["b" if group == "core" else "a"] for group in SERVICES
    }


def test_a_role_from_elsewhere_has_its_groups_too(tmp_path: Path) -> None:
    states = tmp_path / "roles/toy/vars/main.yml"
    states.parent.mkdir(parents=True)
    states.write_text("toy_services: {toy: {}, toy_store: {}}")
    found = listed(tmp_path, "deployment: {hosts: {here: {}}}", CONFIG + "extra_services: [toy]")
    assert (found["toy"]["hosts"], found["toy_store"]["hosts"]) == (["here"], ["here"])
    assert found["_meta"]["hostvars"]["here"]["deployment_extra_services"] == ["toy"]


@pytest.mark.parametrize(
    ("hosts", "config", "message"),
    [
        ("all: {hosts: {here: {}}}", CONFIG, "the group deployment has no host; name one"),
        (
            "deployment: {hosts: {here: {}}}",
            CONFIG + "extra_services: [none]",
            "none: no role of this name in",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, hosts: str, config: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        listed(tmp_path, hosts, config)
