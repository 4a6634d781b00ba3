# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine as one project sees it. Private to the collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.labels import PROJECT

Document = dict[str, Any]


class Engine:
    """A client of the Engine, and the objects of one project.

    Without a client, as in check mode on a machine that has no Engine, nothing exists.
    """

    def __init__(self, client: Any, project: str) -> None:
        """Look at what has the label of *project*."""
        self.client = client
        self.project = project

    def _find(self, method: str, *arguments: Any, **options: Any) -> Any:
        return (
            None if self.client is None else _docker.find(getattr(self.client, method), *arguments, **options)
        )

    @property
    def filters(self) -> dict[str, str]:
        """Filter of the API for objects of the project."""
        return {"label": f"{PROJECT}={self.project}"}

    def owns(self, labels: dict[str, str] | None) -> bool:
        """Whether an object with these labels belongs to the project."""
        return (labels or {}).get(PROJECT) == self.project

    def containers(self) -> list[Document]:
        """Return all containers of the project, running or not."""
        return self._find("containers", all=True, filters=self.filters) or []

    def container(self, name: str) -> Document | None:
        """Return an inspected container."""
        found: Document | None = self._find("inspect_container", name)
        return found

    def image(self, name: str) -> Document | None:
        """Return an inspected image."""
        found: Document | None = self._find("inspect_image", name)
        return found

    def volume(self, name: str) -> Document | None:
        """Return an inspected volume."""
        found: Document | None = self._find("inspect_volume", name)
        return found

    def network(self, name: str) -> Document | None:
        """Return an inspected network."""
        found: Document | None = self._find("inspect_network", name)
        return found

    def networks(self) -> list[Document]:
        """Return all networks, of whichever project."""
        return self._find("networks") or []

    def publisher(self, port: int) -> str | None:
        """Return the name of the running container that has published a port of the host."""
        for container in self._find("containers") or []:
            if any(binding.get("PublicPort") == port for binding in container.get("Ports") or []):
                return container_name(container)
        return None

    def logs(self, container: str, tail: int) -> str:
        """Return the last lines of a container's log."""
        output: bytes = self._find("logs", container, tail=tail) or b""
        return output.decode(errors="replace").strip()

    def remove(self, container: str) -> None:
        """Stop and remove a container, if it exists."""
        self._find("stop", container)
        self._find("remove_container", container, force=True)


def container_name(container: Document) -> str:
    """Return the name of a listed container."""
    return str(container["Names"][0]).lstrip("/")
