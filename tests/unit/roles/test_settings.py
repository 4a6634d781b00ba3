# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings as an inventory and the command line give them: one that would have no effect, or another, is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
# ansible-test runs these files without the playbooks' environment.
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/collections").is_dir(),
    reason="runs ansible-playbook, which needs the checkout's .venv",
)
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")


def play(
    directory: Path, inventory: dict[str, Any], *arguments: str, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Run a play that names the roles deployment, haproxy and host, and has variables of its own."""
    hosts = {"all": {"hosts": {"here": {"ansible_connection": "local"}}, "vars": inventory}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    roles = [{"role": f"skasrc.cavern.{name}"} for name in ("deployment", "haproxy", "host")]
    book = [{"name": "Look", "hosts": "all", "gather_facts": False, "vars": variables, "roles": roles}]
    (directory / "book.yml").write_text(yaml.safe_dump(book))
    return subprocess.run(
        [str(ANSIBLE), "-i", str(directory / "hosts.yml"), *arguments, str(directory / "book.yml")],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a play printed, on one line."""
    return " ".join((done.stdout + done.stderr).split())


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    inventory = {
        "core_rse_ulr": "http://rse",
        "deployment_audiences": "https://a.example,https://b.example",
        "host_directories": [{"path": ["/a"]}],
        "reg_extra_resources": {"id": "a"},
        "haproxy_transfer_timeout": True,
        "deployment_https_port": False,
        "secrets_overrides": {"iam_user_password": "hunter2"},
    }
    done = play(tmp_path, inventory, "-e", "haproxy_client_certs=false", "-e", "certificates_names=one")
    assert done.returncode != 0
    for wrong in (
        "core_rse_ulr: there is no such setting; is it core_rse_url?",
        "haproxy_client_certs: there is no such setting; is it haproxy_client_certificates?",
        "deployment_audiences: text where a list is wanted: [https://a.example, https://b.example] in an inventory",
        "host_directories[0].path: a list where a single value is wanted",
        "certificates_names: text where a list is wanted: [one]",
        "reg_extra_resources: a dictionary where a list is wanted",
        "haproxy_transfer_timeout: a truth value where text is wanted; put it into quotes",
        "deployment_https_port: a truth value where a number is wanted",
    ):
        assert wrong in said(done)
    assert "hunter2" not in said(done)


def test_a_list_by_the_command_line_is_told_how_it_is_given(tmp_path: Path) -> None:
    done = play(tmp_path, {}, "-e", "deployment_audiences=https://a.example")
    assert """-e '{"deployment_audiences": ["https://a.example"]}' on the command line""" in said(
        done
    ).replace("''", "'")
    given = json.dumps({"deployment_audiences": ["https://a.example"]})
    assert play(tmp_path, {}, "-e", given).returncode == 0


def test_single_values_may_be_text_and_templates_and_others_have_their_names(tmp_path: Path) -> None:
    inventory = {
        "deployment_https_port": "8443",
        "haproxy_client_certificates": "false",
        "deployment_audiences": "{{ ['https://' ~ site_name] }}",
        "core_callback_hosts": "{{ nobody_knows }}",
        "site_name": "a.example",
        "host_contact": "ada",
        "deployment_other_variables": ["host_contact"],
    }
    done = play(tmp_path, inventory, "-e", "deployment_prune=true", core_of_the_play="a")
    assert done.returncode == 0, said(done)


def test_former_names_are_refused_with_the_present_ones(tmp_path: Path) -> None:
    inventory = {
        "cavern_project": "mine",
        "cavern_catalogue_overrides": {"iam": {"enabled": False}},
        "rse_web_data_dir": "{{ cavern_data_dir }}/rse",
        "site_of_mine": ["plain cavern_data_dir", {"a": "{{ cavern_services.core.address }}"}],
    }
    done = play(tmp_path, inventory, "-e", "cavern_https_port=8443", "-e", "core_cavern_api_token=hunter2")
    assert done.returncode != 0
    for wrong in (
        "cavern_project: is deployment_project now",
        "cavern_catalogue_overrides: is deployment_service_overrides now",
        "cavern_https_port: is deployment_https_port now",
        "core_cavern_api_token: is cavern_administrator_token now",
        "rse_web_data_dir: cavern_data_dir in its value is deployment_data_dir now",
        "site_of_mine: cavern_services in its value is deployment_catalogue now",
    ):
        assert wrong in said(done)
    assert "site_of_mine: cavern_data_dir" not in said(done)
    assert "hunter2" not in said(done)


def test_what_a_template_makes_is_looked_at(tmp_path: Path) -> None:
    inventory = {"deployment_audiences": "{{ site_names | join(' ') }}", "site_names": ["a", "b"]}
    assert "deployment_audiences: text where a list is wanted" in said(play(tmp_path, inventory))
