"""A role from outside of the collection and a line of an inventory add a service: it is deployed, routed and shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import requests
import yaml
from deployment import ROOT, Deployment, playbook

TOY = """
toy_services:
  toy:
    container: toy
    number: 40
    port: 8080
    image: base
    route: /toy
    strip_route: true
    memory: 64m
    summary: a toy
    probe: {path: /}

toy_containers:
  toy:
    command: [python3, -m, http.server, --directory, /config/site, "{{ deployment_catalogue.toy.port }}"]
    files:
      - {path: site/index.html, content: "{{ lookup('skasrc.cavern.render', 'toy/templates/index.html.j2') }}"}
    health:
      test: [CMD, curl, --fail, --silent, --output, /dev/null, "http://127.0.0.1:{{ deployment_catalogue.toy.port }}/"]
"""


@pytest.fixture
def inventory(stack: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Arguments by which an inventory has the toy besides; afterwards it is taken away."""
    role = tmp_path / "roles/toy"
    for path, text in {"vars/main.yml": TOY, "templates/index.html.j2": "a toy of {{ project }}\n"}.items():
        (role / path).parent.mkdir(parents=True)
        (role / path).write_text(text.replace("{{ project }}", stack.project))
    (tmp_path / "services.yml").write_text("plugin: skasrc.cavern.services\nextra_services: [toy]\n")
    monkeypatch.setenv("ANSIBLE_ROLES_PATH", str(tmp_path / "roles"))
    yield ["-i", str(tmp_path / "services.yml")]
    playbook("site.yml", "-e", "deployment_prune=true")
    assert "toy" not in stack.containers()


def started(stack: Deployment) -> dict[str, str]:
    """When each container but the toy began."""
    return {
        name: container.attrs["State"]["StartedAt"]
        for name, container in stack.containers().items()
        if name != "toy"
    }


@pytest.fixture
def render_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that draws the documentation's picture."""
    spec = spec_from_loader("render_docs", SourceFileLoader("render_docs", str(ROOT / "bin/render-docs")))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "render_docs", module)
    spec.loader.exec_module(module)
    return module


def test_a_service_is_added_by_a_role_and_a_line(
    stack: Deployment,
    anonymous: requests.Session,
    inventory: list[str],
    render_docs: ModuleType,
    tmp_path: Path,
) -> None:
    before = started(stack)
    playbook("site.yml", *inventory)
    assert started(stack) == before
    again = playbook("site.yml", *inventory).stdout
    assert re.findall(r"changed=(\d+)", again) == ["0"]

    assert anonymous.get(f"{stack.url}/toy/", timeout=10).text == f"a toy of {stack.project}\n"
    assert f"{stack.url}/toy  a toy" in anonymous.get(f"{stack.url}/", timeout=10).text

    told = playbook(
        "playbooks/status.yml",
        *inventory,
        *("-e", "status_json=true", "-e", "status_updates=false"),
        callback="skasrc.cavern.messages",
    ).stdout
    toy = json.loads(told)["services"]["toy"]
    assert (toy["healthy"], toy["url"], {check["name"] for check in toy["checks"]}) == (
        True,
        f"{stack.url}/toy",
        {"container", "answer"},
    )

    file = tmp_path / "docker-compose.yml"
    playbook("playbooks/compose.yml", *inventory, "-e", f"compose_file={file}")
    composed = yaml.safe_load(file.read_text())["services"]
    assert set(composed) > {"toy", "haproxy"}
    assert composed["toy"]["container_name"] == f"{stack.prefix}toy"

    catalogue = render_docs.catalogue() | yaml.safe_load(TOY)["toy_services"]
    assert "a toy</text>" in render_docs.picture(catalogue)
