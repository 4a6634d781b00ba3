#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: images_info
short_description: Report the age of the images and the Debian updates that they lack
version_added: 1.0.0
description:
  - Reports when each image was created, and which of its packages have newer versions in Debian's archive of security
    updates. That takes seconds. If the archive is unreachable, RV(unknown) says why.
  - Takes the options of M(skasrc.cavern.images).
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.images, skasrc.cavern.attributes.read_only]
requirements:
  - Python package docker >= 5
"""

EXAMPLES = r"""
- name: Show the age of the images
  skasrc.cavern.images_info:
    images: [cavern/haproxy:local, cavern/vospace:local]
    recipes: "{{ images_recipes }}"
    updates: true
"""

RETURN = r"""
images:
  description: Each image that is present.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Full name., type: str, sample: "cavern/haproxy:local"}
    id: {description: ID., type: str, sample: "sha256:0f1e"}
    created: {description: When it was created., type: str, sample: "2026-11-29T19:12:03Z"}
    age_days: {description: Whole days since then., type: int, sample: 12}
    updates:
      description:
        - Packages with newer versions. Null without O(updates), and for images without a recipe.
      type: list
      elements: str
      sample: ["openssl 3.5.1-1 -> 3.5.1-1+deb13u1"]
unknown:
  description: Why the pending updates are unknown.
  returned: if O(updates) is set and the archive is unreachable
  type: str
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes, sbom
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import ContentsError, Update
from ansible_collections.skasrc.cavern.plugins.module_utils._images.upkeep import Upkeep


def age_days(created: str) -> int:
    """Return the age of an image in whole days."""
    return (datetime.now(UTC) - datetime.fromisoformat(sbom.moment(created))).days


def report(options: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result. Raises DockerException if the Engine does not answer."""
    api = _docker.connect(options["socket"], options["timeout"])

    def inspect(image: str) -> dict[str, Any] | None:
        details: dict[str, Any] | None = _docker.find(api.inspect_image, image)
        return details

    upkeep = Upkeep(api, options, inspect)
    updates: dict[str, list[Update]] = {}
    result: dict[str, Any] = {}
    if options["updates"]:
        try:
            updates = upkeep.updates()
        except ContentsError as error:
            result["unknown"] = str(error)
    found = [(image, inspect(image)) for image in sorted(options["images"])]
    result["images"] = [
        {
            "name": image,
            "id": details["Id"],
            "created": sbom.moment(details["Created"]),
            "age_days": age_days(details["Created"]),
            "updates": [str(update) for update in updates[image]] if image in updates else None,
        }
        for image, details in found
        if details
    ]
    return result


def main() -> None:
    module = AnsibleModule(recipes.ARGUMENT_SPEC, supports_check_mode=True)
    if _docker.LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    try:
        result = report(module.params)
    except _docker.DockerException as error:
        module.fail_json(msg=f"Docker Engine cannot be reached: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
