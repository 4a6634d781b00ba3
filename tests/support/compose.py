"""The deployed stack, run by docker-compose from the Compose file that it renders."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from deployment import Deployment, playbook

PATIENCE = 180


class Compose:
    """The same deployment, run by docker-compose."""

    def __init__(self, stack: Deployment, run: Callable[[str], Any] = playbook) -> None:
        """Use the Compose file that the deployment renders when its playbook is *run*."""
        run("playbooks/compose.yml")
        self.project = f"{stack.project}-compose"
        self.file = stack.state / "docker-compose.yml"
        self.engine = stack.engine

    def __call__(self, *arguments: str) -> str:
        """Run a command of docker-compose and return what it printed."""
        command = ["docker-compose", "--project-name", self.project, "--file", str(self.file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def up(self) -> None:
        """Start everything and wait until all containers are healthy."""
        self("up", "--detach")
        waiting = self("ps", "--quiet").split()
        deadline = time.monotonic() + PATIENCE
        while waiting:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not healthy after {PATIENCE} s: {waiting}")
            states = {name: self.engine.api.inspect_container(name)["State"] for name in waiting}
            waiting = [name for name, state in states.items() if state["Health"]["Status"] != "healthy"]
            time.sleep(0.1)

    def forget_images(self) -> None:
        """Remove containers and images."""
        self.down()
        for image in {
            service["image"] for service in yaml.safe_load(self.file.read_text())["services"].values()
        }:
            self.engine.images.remove(image, force=True)

    def load(self, archive: Path) -> None:
        """Load images from an archive."""
        with archive.open("rb") as content:
            self.engine.images.load(content)

    def down(self) -> None:
        """Remove the containers; network and volumes belong to the deployment."""
        self("down")
