# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services that the collection's roles provide, and the images that they run."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes as _images
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _services

COLLECTION = Path(__file__).parents[4]
SETTINGS = {"debian_suite": "trixie"}
# Roles that an inventory adds, if it wants them.
OPTIONAL = ["prometheus", "rse_xrootd", "rucio"]


def test_recipes_of_the_collection_serve_every_image_of_the_catalogue() -> None:
    recipes = yaml.safe_load((COLLECTION / "roles/images/vars/main.yml").read_text())["images_recipes"]
    roles = [(role, COLLECTION / f"roles/{role}/vars/main.yml") for role in [*_services.own(), *OPTIONAL]]
    catalogue = {key: entry for role, file in roles for key, entry in _services.entries(role, file).items()}
    names = _images.closure(recipes, sorted({service["image"] for service in catalogue.values()}))
    assert set(names) == set(recipes)
    parts = _images.parts(recipes, names, COLLECTION, SETTINGS)
    assert len({_images.digest(own) for own in parts.values()}) == len(names)
