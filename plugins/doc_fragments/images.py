# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and their sources: options of the module images, and of converge below the option of that name."""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.plugin_utils._nested import nested_fragment


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket:
    description: Socket of Docker Engine.
    type: path
    default: /var/run/docker.sock
  images:
    description: Full names of the needed images.
    type: list
    elements: str
    required: true
  source:
    description: Source of images with a recipe.
    type: str
    choices: [build, pull, load]
    default: build
  prefix:
    description: Prefix of the names of images with a recipe, up to the last slash.
    type: str
    default: cavern
  tag:
    description: Tag of images with a recipe.
    type: str
    default: local
  recipes:
    description: How each image is built, by the last part of its name.
    type: dict
    default: {}
    suboptions:
      from:
        description: Recipe of the image to build on. Without it, the image is created from Debian packages.
        type: str
      directory:
        description:
          - Directory with a Dockerfile on the machine that runs Ansible, in place of O(recipes.from) and
            O(recipes.files).
          - Its C(.dockerignore) says what is no part of the context. The image is rebuilt when any other file changes.
        type: path
      dockerfile:
        description: Path of the Dockerfile in O(recipes.directory).
        type: str
      target:
        description: Stage of the Dockerfile in O(recipes.directory) that is the image.
        type: str
      stages:
        description: Recipes of images to copy from, by the build argument that holds the image's name.
        type: dict
      files:
        description:
          - Build context, as paths in it with the file or directory of the collection for each.
          - For an image without O(recipes.from), files that are added before its packages are configured.
        type: dict
      version:
        description: The C(pyproject.toml) whose version the image carries as a label.
        type: str
      packages:
        description: Debian packages of an image without O(recipes.from).
        type: list
        elements: str
      users:
        description: Users of an image without O(recipes.from), as names with the uid of each.
        type: dict
      arguments:
        description: Build arguments.
        type: dict
      ca_bundle:
        description: Whether the context needs O(ca_bundle) as C(ca-bundle.crt).
        type: bool
  updates:
    description:
      - Check Debian's archive of security updates for newer versions of the images' packages, and rebuild the images
        that lack them. If the archive is unreachable, a warning says so and nothing else changes.
    type: bool
    default: false
  sbom_dir:
    description:
      - Directory for a software bill of materials of each image (CycloneDX), with its Debian and Python packages.
    type: path
  debian_suite:
    description: Debian release to build from.
    type: str
    default: trixie
  debian_mirror:
    description: Mirror of Debian's packages.
    type: str
    default: http://deb.debian.org/debian
  debian_security_mirror:
    description: Mirror of Debian's security updates.
    type: str
    default: http://deb.debian.org/debian-security
  pip_index_url:
    description: Index of Python packages; PyPI if empty.
    type: str
    default: ""
  proxy:
    description:
      - Proxy for the downloads of a build, by the usual names C(http_proxy), C(https_proxy) and C(no_proxy). It is not
        kept in the images. Pulls go through the Engine, which has settings of its own.
    type: dict
    default: {}
  ca_bundle:
    description: File on the target host with CA certificates for the downloads of a build. Images do not trust them.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  bundle:
    description:
      - Archive of images on the target host, which O(source=load) reads and O(state=saved) writes.
      - Its checksum is the file with C(.sha256) after its name.
    type: path
  rebuild:
    description: Build or pull even what is up to date, for example for Debian's security updates.
    type: bool
    default: false
  parallel:
    description: Number of concurrent builds.
    type: int
    default: 2
  timeout:
    description: Seconds for each request to the Engine, and to wait for package locks.
    type: int
    default: 600
  state:
    description:
      - V(saved) writes the needed images into O(bundle), for hosts without a network.
      - V(absent) deletes the images of O(recipes); those in use stay, with a warning.
    type: str
    choices: [present, saved, absent]
    default: present
"""

    # Annotated, since ansible-test takes what a plain assignment has for a text.
    NESTED: str = nested_fragment("images", DOCUMENTATION)
