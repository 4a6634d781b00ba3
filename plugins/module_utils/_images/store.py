# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images that the Engine has, and what a run does to them. Private to the collection."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes

Document = dict[str, Any]


class ImagesError(Exception):
    """An image cannot be had; the message says which, why, and what to do."""


class Store:
    """The Engine's images as the options of the module images ask for them."""

    def __init__(self, module: AnsibleModule, options: dict[str, Any]) -> None:
        """Connect to the Engine. Raises ImagesError if none answers outside of check mode."""
        self.module = module
        self.options = options
        self.recipes: dict[str, Any] = options["recipes"]
        self.check_mode: bool = module.check_mode
        # None where check mode finds no Engine, and with it no images; the same run would have installed it.
        self.api = self._connect()
        self.actions: list[dict[str, Any]] = []
        self._before: dict[str, str] = {}

    def _connect(self) -> Any:
        if self.check_mode and _docker.LIBRARY_ERROR:
            return None
        try:
            return self.client()
        except _docker.DockerException as error:
            if self.check_mode:
                return None
            raise ImagesError(f"Docker Engine cannot be reached: {error}") from error

    def client(self) -> Any:
        """Return a client of the Engine; each thread needs its own."""
        return _docker.connect(self.options["socket"], self.options["timeout"])

    def reference(self, name: str) -> str:
        """Return the full name of a recipe's image."""
        return f"{self.options['prefix']}/{name}:{self.options['tag']}"

    def inspect(self, image: str) -> Document | None:
        """Return an inspected image, None if it is not present."""
        details: Document | None = None if self.api is None else _docker.find(self.api.inspect_image, image)
        return details

    def image_id(self, image: str) -> str:
        """Return the ID of an image, or that it is absent."""
        details = self.inspect(image)
        return details["Id"] if details else "absent"

    def architecture(self) -> str:
        """Return the architecture of the Engine."""
        return str(self.api.version()["Arch"])

    def prune(self) -> None:
        """Delete build stages, and images that a newer one has replaced and no container uses."""
        for label in (recipes.STAGE_LABEL, recipes.LABEL):
            self.api.prune_images(filters={"dangling": True, "label": label})

    def note(self, name: str, action: str, *reasons: str, kind: str = "image") -> None:
        """Add an action."""
        if kind == "image":
            self._before[name] = self.image_id(name)
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": list(reasons)})

    def diff(self) -> dict[str, str]:
        """Return the actions as a diff."""
        names = [action["name"] for action in self.actions]
        return {
            "before_header": "images",
            "after_header": "images",
            "before": "".join(f"{name}: {self._before.get(name, '')[:19]}\n" for name in names),
            "after": "".join(
                f"{action['name']}: {action['action']} ({'; '.join(action['reasons'])})\n"
                for action in self.actions
            ),
        }


def labels(details: Document) -> dict[str, str]:
    """Return the labels of an inspected image."""
    return (details.get("Config") or {}).get("Labels") or {}


def inputs(details: Document) -> str | None:
    """Return the digest of the inputs that an inspected image was built from."""
    return labels(details).get(recipes.LABEL)
