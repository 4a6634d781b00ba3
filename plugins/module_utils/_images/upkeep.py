# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian updates that images lack, and the SBOMs of images. Private to the collection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _files
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes, sbom
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import (
    Archive,
    Contents,
    ContentsError,
    Update,
)

Inspect = Callable[[str], "dict[str, Any] | None"]


def digest(updates: list[Update]) -> str:
    """Return the digest of updates by which a label records that a build was to bring them."""
    return hashlib.sha256("\n".join(map(str, updates)).encode()).hexdigest()[:16]


class Upkeep:
    """Images with a recipe that a deployment runs, and the base image of all."""

    def __init__(self, api: Any, options: dict[str, Any], inspect: Inspect) -> None:
        """Take the *options* of the module images; *inspect* returns an inspected image."""
        self.options = options
        self.inspect = inspect
        self.api = api
        self.recipes: dict[str, Any] = options["recipes"]
        self.contents = Contents(api, Path(options["sbom_dir"]) if options["sbom_dir"] else None)
        ours = {self.reference(name): name for name in self.recipes}
        # What a directory outside the collection makes may have nothing of Debian.
        ours = {image: name for image, name in ours.items() if not self.recipes[name].get("directory")}
        bases = [image for image, name in ours.items() if not self.recipes[name].get("from")]
        self.images = [image for image in dict.fromkeys([*bases, *options["images"]]) if image in ours]

    def reference(self, name: str) -> str:
        """Return the full name of a recipe's image."""
        return f"{self.options['prefix']}/{name}:{self.options['tag']}"

    def updates(self) -> dict[str, list[Update]]:
        """Return the updates that each image lacks. Raises ContentsError."""
        if self.api is None:
            return {}
        present = {image: self.inspect(image) for image in self.images}
        bills = {image: self.contents.bill(image, details) for image, details in present.items() if details}
        return self.contents.updates(bills, Archive.of(self.options))

    def own(self, found: dict[str, list[Update]]) -> dict[str, list[Update]]:
        """Return by recipe the updates of packages that its own image adds: others come with its base images."""
        by_name = {name: set(found.get(self.reference(name), ())) for name in self.recipes}
        own = {}
        for name, updates in by_name.items():
            inherited = {
                update for parent in recipes.ancestors(self.recipes, name) for update in by_name[parent]
            }
            if updates - inherited:
                own[name] = sorted(updates - inherited)
        return own

    def stale_bills(self, changing: set[str]) -> dict[Path, tuple[str | None, str]]:
        """Return SBOMs to write and to remove, with image and reason; the images *changing* will be replaced."""
        directory = self.contents.directory
        if directory is None:
            return {}
        stale: dict[Path, tuple[str | None, str]] = {}
        kept = set()
        for image in self.images:
            details = self.inspect(image)
            if details is None and image not in changing:
                continue
            file = self.contents.file(image)
            kept.add(file)
            if image in changing or details is None or self.contents.written(image, details) is None:
                stale[file] = (image, "the image changed" if file.exists() else "missing")
        for file in sorted(set(directory.glob("*.cdx.json")) - kept):
            stale[file] = (None, "no such image is needed")
        return stale

    def write(self, images: list[str], connect: Callable[[], Any]) -> list[str]:
        """Write the SBOMs of images, each over its own connection; return what failed."""
        directory = self.contents.directory
        if directory is None:
            return []
        _files.make_directory(directory, 0o755)

        def one(image: str) -> str | None:
            contents, details = Contents(connect(), directory), self.inspect(image)
            try:
                bill = contents.bill(image, details) if details else None
            except ContentsError as error:
                return f"what the image holds cannot be listed: {error}"
            if bill:
                _files.write_atomic(contents.file(image), sbom.text(bill), 0o644)
            return None

        with ThreadPoolExecutor(self.options["parallel"]) as pool:
            return [said for said in pool.map(one, images) if said]
