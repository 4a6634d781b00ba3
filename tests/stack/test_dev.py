"""A service that runs code of a checkout, here of a copy, and reloads it on change; then its own code again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from deployment import ROOT, Deployment, playbook

SERVICE, CONTAINER = "posix_mapper", "src-posix-mapper"


@pytest.fixture
def code(stack: Deployment, tmp_path: Path) -> Iterator[Path]:
    """A copy of the services' code, which the service runs; afterwards it runs its image's again."""
    copy = tmp_path / "app"
    shutil.copytree(ROOT / "app", copy, ignore=shutil.ignore_patterns("tests", "__pycache__", "*.egg-info"))
    # The engine mounts it for a user who may not enter the directory above.
    copy.chmod(0o755)
    playbook("playbooks/dev.yml", "-e", f"dev_service={SERVICE}", "-e", f"dev_source_dir={copy}")
    yield copy
    playbook("site.yml", "--tags", SERVICE)
    assert not any(mount["Destination"] == "/src" for mount in stack.container(CONTAINER).attrs["Mounts"])


def _note(stack: Deployment, http: requests.Session) -> str:
    answer = http.get(f"{stack.url}{stack.services[SERVICE]['route']}/availability", timeout=10)
    return answer.text if answer.ok else ""


def _await(stack: Deployment, http: requests.Session, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in _note(stack, http):
        assert time.monotonic() < deadline, stack.container(CONTAINER).logs(tail=20).decode()
        time.sleep(0.2)


def test_a_change_of_the_code_is_reloaded_and_no_other_service_is_touched(
    stack: Deployment, http: requests.Session, code: Path
) -> None:
    before = {name: container.id for name, container in stack.containers().items()}
    source = code / "voservice/src/voservice/vosi.py"
    text = source.read_text()
    assert "is accepting requests" in text
    source.write_text(text.replace("is accepting requests", "was changed"))
    _await(stack, http, "was changed")
    # One that cannot even be read ends the service, and the next change brings it back.
    source.write_text("(")
    source.write_text(text)
    _await(stack, http, "is accepting requests")
    assert {name: container.id for name, container in stack.containers().items()} == before


@pytest.mark.parametrize("service", ["rabbitmq", "nothing", ""])
def test_services_without_code_of_the_checkout_are_refused(stack: Deployment, service: str) -> None:
    done = playbook("playbooks/dev.yml", "-e", f"dev_service={service}", check=False)
    assert "choose from cavern, celery_worker, core, iam, posix_mapper" in done.stdout.replace("\n", " ")
