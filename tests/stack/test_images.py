"""What the images hold, how they start when a start before was broken off, and how they travel."""

from __future__ import annotations

import json
import re
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment, playbook

IMAGES = ["haproxy", "nginx", "postgres", "rabbitmq", "iam", "posix-mapper", "vospace", "preparer"]
PYTHON_IMAGES = {"iam": "iam", "posix-mapper": "posix_mapper", "vospace": "vospace", "preparer": "preparer"}


def _look(stack: Deployment, image: str, script: str) -> str:
    """Output of a shell script in a new container of an image, as root but without a network."""
    output: bytes = stack.engine.containers.run(
        stack.image(image), ["-c", script], entrypoint="sh", user="0:0", network_mode="none", remove=True
    )
    return output.decode()


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_of_the_build_stays(stack: Deployment, image: str) -> None:
    """Tools, caches and the certificates that this site's downloads need."""
    script = """
        find / -xdev -type f '(' -path '/build/*' -o -path '/src/*' -o -path '/image/*' -o -path '/root/*' \
            -o -path '/var/lib/apt/lists/?*' -o -path '/var/cache/apt/*' -o -name ca-bundle.crt ')' -size +0
        command -v gcc cc make pip pip3 uv || true"""
    allowed = {"/root/.bashrc", "/root/.profile"}
    assert set(_look(stack, image, script).split()) <= allowed


@pytest.mark.parametrize("image", IMAGES)
def test_images_run_unprivileged(stack: Deployment, image: str) -> None:
    """Unless a deployment says otherwise, as it does for the VOSpace."""
    assert re.fullmatch(
        r"800[012]:800[012]", stack.engine.images.get(stack.image(image)).attrs["Config"]["User"]
    )


@pytest.mark.parametrize(("image", "package"), PYTHON_IMAGES.items())
def test_python_code_is_compiled_and_its_version_told(stack: Deployment, image: str, package: str) -> None:
    script = f"import importlib.metadata, {package} as p; print(importlib.metadata.version('{image}'), p.__cached__)"
    version, compiled = _look(stack, image, f'python -c "{script}" && :').split()
    assert stack.engine.images.get(stack.image(image)).labels["org.opencontainers.image.version"] == version
    assert _look(stack, image, f"test -s {compiled} && echo compiled") == "compiled\n"


@pytest.fixture
def database(stack: Deployment, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Starts a PostgreSQL on a volume of its own."""
    name = f"cavern-test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/superuser_password").write_text("super")
    (tmp_path / "secrets/owner_password").write_text("it's a \\ password")
    entry = {
        "database": "orders",
        "role": "owner",
        "password_file": "/config/secrets/owner_password",
        "schemas": ["things"],
    }
    (tmp_path / "databases.json").write_text(json.dumps([entry]))
    for path in (tmp_path, tmp_path / "secrets"):
        path.chmod(0o755)
    containers = []

    def start() -> Any:
        containers.append(
            stack.engine.containers.run(
                stack.image("postgres"),
                detach=True,
                init=True,
                read_only=True,
                cap_drop=["ALL"],
                network_mode="none",
                tmpfs={"/tmp": ""},
                volumes={
                    name: {"bind": "/var/lib/postgresql"},
                    str(tmp_path): {"bind": "/config", "mode": "ro"},
                },
            )
        )
        return containers[-1]

    yield start
    for container in containers:
        container.remove(force=True)
    stack.engine.volumes.get(name).remove()


def _query(container: Any, statement: str) -> str:
    """Answer to the role `owner`, who logs in with the password; an error's text if it cannot."""
    done = container.exec_run(
        ["psql", "--host=127.0.0.1", "--username=owner", "--dbname=orders", "-Atc", statement],
        environment={"PGPASSWORD": "it's a \\ password"},
    )
    answer: str = done.output.decode().strip()
    return answer


def _await(container: Any, statement: str, answer: str) -> None:
    deadline = time.monotonic() + 60
    while (found := _query(container, statement)) != answer:
        assert time.monotonic() < deadline, f"{found}\n{container.logs().decode()[-3000:]}"
        time.sleep(0.1)


SCHEMAS = "select nspname from pg_namespace where nspname = 'things'"


@pytest.mark.parametrize(
    "moment",
    ["creating subdirectories", "running bootstrap script", "syncing data", "ready to accept connections"],
)
def test_postgres_comes_up_after_a_kill_in_its_first_start(database: Callable[[], Any], moment: str) -> None:
    container = database()
    log = ""
    for chunk in container.logs(stream=True, follow=True):
        log += chunk.decode()
        if moment in log:
            break
    container.kill()
    container.start()
    _await(container, SCHEMAS, "things")


def test_postgres_refuses_a_volume_in_use(database: Callable[[], Any]) -> None:
    first = database()
    _await(first, SCHEMAS, "things")
    second = database()
    assert second.wait(timeout=60)["StatusCode"] == 1
    assert "another container uses this volume" in second.logs().decode()
    assert _query(first, SCHEMAS) == "things"


@pytest.mark.slow
def test_bundle_holds_every_image(stack: Deployment, tmp_path: Path) -> None:
    bundle = tmp_path / "images.tar"
    playbook("playbooks/images_save.yml", "-e", f"images_bundle={bundle}")
    with tarfile.open(bundle) as archive:
        contents, manifest = (
            json.loads(file.read())
            for name in ("cavern-images.json", "manifest.json")
            if (file := archive.extractfile(name))
        )
    names = set(map(stack.image, IMAGES))
    assert set(contents["images"]) == names
    assert {tag for image in manifest for tag in image["RepoTags"]} == names
    for name in names:
        assert contents["images"][name]["id"] == stack.engine.images.get(name).id
    again = playbook("playbooks/images_save.yml", "-e", f"images_bundle={bundle}")
    assert "changed=0" in again.stdout
