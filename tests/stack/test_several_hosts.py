"""Several hosts in one inventory: what cannot be is refused before a service starts, and what can be is deployed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import ROOT, Deployment, playbook


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    """Two names of this machine, and so of one engine, with services on both."""
    groups: dict[str, Any] = {"deployment": {"hosts": {"first": {}, "second": {}}}}
    groups |= {"rse_web": {"hosts": {"second": {}}}}
    settings = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "deployment_project": "several",
        "deployment_project_dir": f"{tmp_path}/site",
        "deployment_network": {"name": "several44", "subnet": "172.28.44.0/24", "encrypted": False},
        "deployment_restrict_connections": False,
    }
    directory = tmp_path / "inventory"
    directory.mkdir()
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups, "vars": settings}}))
    (directory / "services.yml").write_text("plugin: skasrc.cavern.services\n")
    return str(directory)


@pytest.mark.usefixtures("stack")
def test_an_engine_that_is_named_twice_is_refused(inventory: str, stack: Deployment) -> None:
    before = stack.containers().keys()
    # The engine has what the phase `host` brings about.
    done = playbook("site.yml", "--tags=rse_web", inventory=inventory, check=False)
    assert done.returncode != 0
    assert "second: its Docker Engine is that of first; name each machine once" in done.stdout
    assert stack.containers().keys() == before
    refused = playbook(
        "site.yml", "-e", "deployment_restrict_connections=true", inventory=inventory, check=False
    )
    assert "deployment_restrict_connections: what containers open in the network of several" in refused.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
def test_three_hosts_stage_files_and_go_on_when_one_is_lost() -> None:
    """The scenario has three machines of its own; it takes the images that this machine's engine has."""
    directory = ROOT / ".venv/collections/ansible_collections/skasrc/cavern"
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["molecule", "test", "-s", "hosts"], cwd=directory, check=True, env=os.environ | {"PATH": programs}
    )
