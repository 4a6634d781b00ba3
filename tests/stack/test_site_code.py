"""Code of the site's own in place of core and worker: built from a directory, with the names that upstream gives."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import ROOT, Deployment, playbook

SOURCE = ROOT / "tests/support/site_preparer"
# The broker's password stays in its file, and out of what `docker inspect` shows.
BROKER = "export CELERY_BROKER_URL=amqp://{user}:$(cat /config/secrets/celery_broker_password)@{host}:5672//; exec "


@pytest.fixture
def settings(stack: Deployment, tmp_path: Path) -> dict[str, Any]:
    """Overrides of an inventory that has its own checkout, here in a temporary directory."""
    checkout = tmp_path / "ska-src-dm-local-data-preparer"
    shutil.copytree(SOURCE, checkout)
    services = stack.services
    broker = BROKER.format(user="preparer", host=services["rabbitmq"]["alias"])
    results = {"type": "bind", "source": str(stack.logs / "celery_results"), "target": "/results"}
    environment = {
        "ABS_URL_RSE_ROOT": f"http://{services['rse_web']['alias']}:80/rse/deterministic",
        "ABS_PATH_CELERY_RESULTS": "/results",
        "CAVERN_API_URL": f"{stack.url}{services['cavern']['route']}",
    }

    def own(target: str, command: str, **options: Any) -> dict[str, Any]:
        return {
            "build": {"directory": str(checkout), "target": target, "images": {"PYTHON": "python"}},
            "options": {"command": ["sh", "-c", broker + command], "environment": environment} | options,
        }

    celery = "celery -A src.prepare_data.tasks"
    worker = own(
        "celery-worker",
        f"{celery} worker --loglevel=info -c 1",
        health={"test": ["CMD", "sh", "-c", f"{broker}{celery} inspect ping --timeout 5"], "timeout": 20},
    )
    core = own("core", "uvicorn src.prepare_data.main:app --host 0.0.0.0 --port 8000", mounts=[results])
    # The results are for the worker's user alone to read.
    user = services["celery_worker"]["user"]
    return {"core": core | {"user": user}, "celery_worker": worker, "checkout": str(checkout)}


@pytest.mark.slow
def test_the_sites_own_core_and_worker_are_built_and_stage_a_file(
    stack: Deployment,
    user: str,
    http: requests.Session,
    rse: Callable[[str, bytes], Path],
    settings: dict[str, Any],
) -> None:
    checkout = Path(settings.pop("checkout"))
    site = ("site.yml", "--extra-vars", json.dumps({"deployment_service_overrides": settings}))
    content = b"staged by the site's own code\n"
    rse("testing/84/1c/prepare_data_test.txt", content)
    try:
        playbook(*site)
        image = stack.container("ska-src-local-data-preparer-core").attrs["Config"]["Image"]
        assert "/site-core-" in image
        asked = http.post(
            f"{stack.url}/prepare-data/",
            json=[["testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt", "./testing"]],
            timeout=30,
        )
        task = asked.json()["task_id"]
        deadline = time.monotonic() + 60
        while (told := http.get(f"{stack.url}/prepare-data/{task}", timeout=30).json())[
            "status"
        ] == "PENDING":
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
        assert told == {"status": "SUCCESS", "info": "Data provisioning successful"}
        placed = stack.data / f"cavern_data/cavern/home/{user}/testing/prepare_data_test.txt"
        assert placed.read_bytes() == content
        # What the image leaves out changes nothing, what is in it does.
        (checkout / "README.md").write_text("no part of the image\n")
        assert "changed=0" in playbook(*site).stdout
        main = checkout / "src/prepare_data/main.py"
        main.write_text(main.read_text().replace('"ok"', '"changed"'))
        foreseen = playbook(*site, "--check", "--diff").stdout
        assert "src/prepare_data/main.py changed" in foreseen
        playbook(*site)
        health = http.get(f"{stack.url}/prepare-data/health", timeout=30)
        assert health.json() == {"status": "changed"}
    finally:
        playbook("site.yml")
        for image in stack.engine.images.list(filters={"reference": "*/site-*"}):
            stack.engine.images.remove(image.id, force=True)


def test_a_directory_without_a_dockerfile_is_refused_by_name(stack: Deployment, tmp_path: Path) -> None:
    overrides = {"core": {"build": {"directory": str(tmp_path)}}}
    done = playbook(
        "site.yml", "--extra-vars", json.dumps({"deployment_service_overrides": overrides}), check=False
    )
    assert done.returncode
    assert f"{tmp_path}/Dockerfile does not exist on the machine that runs Ansible" in done.stdout
    assert stack.container("ska-src-local-data-preparer-core").status == "running"
