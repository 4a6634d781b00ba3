"""Two hosts in one inventory: HAProxy's makes the CA, and the other has its public part before a service starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import Deployment, playbook

TAGS = "--tags=host,certificates,rse_web"


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[str]:
    """Two hosts, both on this machine's engine, with directories of their own; purged afterwards."""
    groups: dict[str, Any] = {"haproxy": {"hosts": {"first": {}}}, "rse_web": {"hosts": {"second": {}}}}
    settings = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "deployment_project": "several",
        # The two share an engine, and so the directory that the deployment on it belongs to.
        "deployment_project_dir": str(tmp_path),
        **{
            f"deployment_{name}_dir": f"{tmp_path}/{{{{ inventory_hostname }}}}/{name}"
            for name in ("state", "data", "logs")
        },
        "secrets_file": f"{tmp_path}/secrets.yml",
        "host_program_dir": f"{tmp_path}/bin",
        "deployment_public_name": "cavern.several.example",
        "deployment_publish_address": "127.0.0.44",
        "deployment_container_prefix": "several-",
        "deployment_network": {"name": "several44", "subnet": "172.28.44.0/24"},
    }
    path = tmp_path / "hosts.yml"
    path.write_text(
        yaml.safe_dump({"all": {"children": {"deployment": {"children": groups}}, "vars": settings}})
    )
    # Two real machines have an engine each; here the network is there before both want to make it.
    playbook("site.yml", "--tags=network", "--limit=first", inventory=str(path))
    yield str(path)
    playbook("playbooks/purge.yml", "-e", "purge_data=true", "--forks=1", inventory=str(path))


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
def test_all_hosts_trust_the_one_ca(inventory: str, tmp_path: Path, stack: Deployment) -> None:
    before = stack.containers().keys()
    playbook("site.yml", TAGS, inventory=inventory)
    first, second = (tmp_path / host / "state/certs" for host in ("first", "second"))
    for name in ("ca.pem", "ca-bundle.pem"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    public = ["authorities.pem", "ca-bundle.pem", "ca.pem", "client-ca.pem", "client-crl.pem"]
    assert sorted(path.name for path in second.iterdir()) == public
    assert (first / "ca.key").stat().st_mode & 0o777 == 0o600
    again = playbook("site.yml", TAGS, inventory=inventory).stdout
    assert re.findall(r"changed=(\d+)", again) == ["0", "0"]
    assert stack.containers().keys() == before
