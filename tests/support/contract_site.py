"""The second deployment with stand-ins for OpenCADC's images, whose flavours its tests change."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from deployment import Deployment, playbook, settings

# Prefix of the first deployment's images, if it is not the usual one.
PREFIX = os.environ.get("CONTRACT_IMAGE_PREFIX", "cavern")


class Site(Deployment):
    """The deployment under test; ``run`` changes flavours."""

    def __init__(self, directory: Path) -> None:
        """Keep all files below *directory*."""
        places = {name: directory / name for name in ("state", "data", "logs")}
        super().__init__(**{**settings("tests/contract/inventory"), **places})
        self.directory = directory

    def run(
        self, *arguments: str, book: str = "site.yml", check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook with further *settings*; ``contract_…`` choose the flavours."""
        chosen = {"deployment_project_dir": str(self.directory), "deployment_image_prefix": PREFIX} | settings
        extra = [word for key, value in chosen.items() for word in ("-e", f"{key}={value}")]
        return playbook(book, *extra, *arguments, inventory="tests/contract/inventory", check=check)

    def started(self) -> dict[str, str]:
        """Return the start time of each container by name."""
        label = {"label": "int.skao.src.cavern.project=contract"}
        return {
            found.name: found.attrs["State"]["StartedAt"]
            for found in self.engine.containers.list(all=True, filters=label)
        }

    def wait_until_healthy(self, name: str, seconds: float = 120) -> None:
        """Wait for Docker's health check of a container."""
        deadline = time.monotonic() + seconds
        while (state := self.container(name).attrs["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline, (state, self.log(name))
            time.sleep(1)

    def log(self, name: str, since: float | None = None) -> str:
        """Return a container's log since a time."""
        return str(self.container(name).logs(since=since).decode(errors="replace"))

    def requests(self, service: str, since: float) -> list[dict[str, Any]]:
        """Return requests that HAProxy forwarded to a service since a time, as fields of its log."""
        lines = self.log("haproxy", since).splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["backend"] == service]


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """Return the number of changed tasks in the play's recap."""
    return sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))
