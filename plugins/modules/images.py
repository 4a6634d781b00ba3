#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: images
short_description: Build, pull, load, save or remove the images of a deployment
version_added: 0.1.0
description:
  - Brings the needed images to the host. Those with a recipe are built from Debian and PyPI packages, pulled
    from a registry, or loaded from a bundle; others are pulled unless present, or loaded from the bundle.
  - An image is rebuilt only if its inputs changed, which are the recipe with its files, the images that it builds on,
    and the Debian release and mirrors. Labels hold their digests, so that the reasons of a build can be reported.
  - The base image is created by mmdebstrap on the target host, which therefore must run Debian or a derivative for
    O(source=build). The other images are built through Docker's API; no command line client or BuildKit is needed.
  - A bundle is an archive that C(docker load) reads, with a list of its images in front and its checksum beside it.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment: [skasrc.cavern.images]
requirements:
  - Python package docker >= 5
attributes:
  action:
    support: full
    description: Recipes and sources are read on the controller.
  check_mode:
    support: full
    description: Reports which images would be built, pulled, loaded or deleted and why.
  diff_mode:
    support: full
    description: Shows the images before and after, with the reason of each change.
"""

EXAMPLES = r"""
- name: Build the images of the proxy and of VOSpace
  skasrc.cavern.images:
    images: [cavern/haproxy:local, cavern/vospace:local]
    recipes: "{{ images_recipes }}"

- name: Load them on a machine without a network or Debian
  skasrc.cavern.images:
    images: [cavern/haproxy:local, cavern/vospace:local]
    source: load
    bundle: /srv/cavern/images.tar

- name: Pull an image from a registry
  skasrc.cavern.images:
    images: [registry.example.org/cavern/haproxy:1.2.0]
    source: pull
    prefix: registry.example.org/cavern
    tag: 1.2.0
"""

RETURN = r"""
actions:
  description: Actions taken (in check mode, that would be taken), with reasons.
  returned: always
  type: list
  elements: dict
  sample: [{object: image, name: "cavern/haproxy:local", action: build, reasons: ["base is built"]}]
images:
  description: ID of each needed image that is present.
  returned: always
  type: dict
  sample: {"cavern/haproxy:local": "sha256:0f1e"}
"""

from ansible_collections.skasrc.cavern.plugins.module_utils._images import phase, recipes
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import run_alone


def main() -> None:
    run_alone(recipes.ARGUMENT_SPEC, phase.run)


if __name__ == "__main__":
    main()
