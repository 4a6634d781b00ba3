#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: images
short_description: The images that the deployment's containers run
version_added: 0.1.0
description:
  - Brings the needed images to the host. Those with a recipe are built from Debian and PyPI packages, pulled
    from a registry, or loaded from a bundle; others are pulled unless present, or loaded from the bundle.
  - An image is built again only if its inputs changed, which are the recipe with its files and all that it
    builds on. A label keeps their digest.
  - The base image is made by mmdebstrap on the host deployed to, which therefore must run Debian for
    O(source=build).
author:
  - Cavern deployment team (@skasrc)
options:
  images:
    description: Full names of the needed images.
    type: list
    elements: str
    required: true
  source:
    description: Where images with a recipe come from.
    type: str
    choices: [build, pull, load]
    default: build
  prefix:
    description: What the names of images with a recipe begin with, up to the last slash.
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
        description: Recipe of the image to build on. The one without is made from Debian packages.
        type: str
      files:
        description: Build context, as paths in it with the file or directory of the collection for each.
        type: dict
      packages:
        description: Debian packages of an image without O(recipes.from).
        type: list
        elements: str
      users:
        description: Users of an image without O(recipes.from), as names with the number of each.
        type: dict
      arguments:
        description: Build arguments.
        type: dict
      ca_bundle:
        description: Whether the context needs O(ca_bundle) as C(ca-bundle.crt).
        type: bool
  debian_suite:
    description: Debian release to build from.
    type: str
    default: trixie
  debian_mirror:
    description: Where Debian's packages come from.
    type: str
    default: http://deb.debian.org/debian
  debian_security_mirror:
    description: Where Debian's security updates come from.
    type: str
    default: http://deb.debian.org/debian-security
  pip_index_url:
    description: Index of Python packages; PyPI if empty.
    type: str
    default: ""
  ca_bundle:
    description: File on the host deployed to with the certificates that downloads of a build trust.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  bundle:
    description: Archive of images, for O(source=load) to read and for O(state=saved) to write.
    type: path
  rebuild:
    description: Build or pull even what is up to date, for example for Debian's security updates.
    type: bool
    default: false
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
requirements:
  - Python package docker >= 5
attributes:
  action:
    support: full
    description: Recipes and sources are read on the controller.
  check_mode:
    support: full
    description: Tells which images would be built, pulled, loaded or deleted and why.
  diff_mode:
    support: full
    description: Shows the list of actions.
"""

EXAMPLES = r"""
- name: The images of the proxy and of VOSpace
  skasrc.cavern.images:
    images: [cavern/haproxy:local, cavern/vospace:local]
    recipes: "{{ images_recipes }}"
"""

RETURN = r"""
actions:
  description: What was done (in check mode, would be done), and why.
  returned: always
  type: list
  elements: dict
  sample: [{object: image, name: "cavern/haproxy:local", action: build, reasons: ["its inputs changed"]}]
images:
  description: Id of each needed image that is present.
  returned: always
  type: dict
  sample: {"cavern/haproxy:local": "sha256:0f1e"}
"""

import io
import subprocess
import tarfile
import threading
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _files, _images

try:
    import docker
    from docker.errors import APIError, DockerException, ImageNotFound
except ImportError:
    DOCKER_ERROR: str | None = traceback.format_exc()
else:
    DOCKER_ERROR = None

BUILD_THREADS = 2
# Documentation and translations are of no use in a container; licences stay.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
)


class ImagesError(Exception):
    """An image cannot be had; the message says which, why, and what to do."""


def connect(timeout: int) -> Any:
    """A client of the Engine. Each thread has its own."""
    return docker.from_env(version="auto", timeout=timeout).api


class Images:
    """Compares the Engine's images with the needed ones."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.options = module.params
        self.recipes: dict[str, Any] = self.options["recipes"]
        self.api = connect(self.options["timeout"])
        self.actions: list[dict[str, Any]] = []
        self.to_build: list[str] = []

    def reference(self, name: str) -> str:
        return f"{self.options['prefix']}/{name}:{self.options['tag']}"

    def converge(self) -> None:
        if self.options["source"] == "build":
            self._plan_builds()
            self._build()
        others = [image for image in self.options["images"] if image not in self._built()]
        wanted = [image for image in others if self.options["rebuild"] or self._inspect(image) is None]
        if wanted and self.options["source"] == "load":
            self._load(wanted)
        else:
            for image in wanted:
                self._pull(image)

    def save(self) -> None:
        bundle = Path(self._bundle())
        missing = [image for image in self.options["images"] if self._inspect(image) is None]
        if missing:
            raise ImagesError(f"images: {', '.join(missing)} cannot be saved: not present")
        self._act(str(bundle), "save", f"{len(self.options['images'])} images")
        if self.module.check_mode:
            return
        staged = bundle.with_name(f".{bundle.name}.new")
        _files.make_directory(bundle.parent)
        try:
            with staged.open("wb") as stream:
                # The client's own method saves one image; the API takes several, which then share their layers.
                response = self.api._get(
                    self.api._url("/images/get"), params={"names": self.options["images"]}, stream=True
                )
                self.api._raise_for_status(response)
                for chunk in response.iter_content(1 << 20):
                    stream.write(chunk)
            staged.replace(bundle)
        finally:
            staged.unlink(missing_ok=True)

    def remove(self) -> None:
        for name in reversed(_images.closure(self.recipes, list(self.recipes))):
            image = self.reference(name)
            if self._inspect(image) is None:
                continue
            self._act(image, "remove", "state is absent")
            if self.module.check_mode:
                continue
            try:
                self.api.remove_image(image)
            except APIError as error:
                if error.status_code != 409:
                    raise
                self.actions.pop()
                self.module.warn(f"{image} stays: {error.explanation}")
        if not self.module.check_mode:
            self._prune()

    def present(self) -> dict[str, str]:
        found = {image: self._inspect(image) for image in self.options["images"]}
        return {image: details["Id"] for image, details in found.items() if details}

    def _built(self) -> list[str]:
        return [self.reference(name) for name in self.recipes] if self.options["source"] == "build" else []

    def _plan_builds(self) -> None:
        stale: set[str] = set()
        for name, recipe in self.recipes.items():
            reason = self._reason(name, recipe)
            if reason is None and recipe.get("from") in stale:
                reason = f"{recipe['from']} is built"
            if reason:
                stale.add(name)
                self.to_build.append(name)
                self._act(self.reference(name), "build", reason)

    def _reason(self, name: str, recipe: dict[str, Any]) -> str | None:
        present = self._inspect(self.reference(name))
        if present is None:
            return "missing"
        if self.options["rebuild"]:
            return "asked for"
        labels = present["Config"].get("Labels") or {}
        return None if labels.get(_images.LABEL) == recipe["inputs"] else "its inputs changed"

    def _build(self) -> None:
        contexts = [name for name in self.to_build if self.recipes[name].get("context")]
        if self.module.check_mode or len(contexts) < len(self.to_build):
            # The action plugin brings the contexts in a second run.
            return
        pending, running = list(self.to_build), dict[Future[None], str]()
        with ThreadPoolExecutor(BUILD_THREADS) as pool:
            while pending or running:
                for name in _images.next_builds(self.recipes, pending, {*pending, *running.values()}):
                    if len(running) < BUILD_THREADS:
                        pending.remove(name)
                        running[pool.submit(self._build_one, name)] = name
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    running.pop(job)
                    job.result()
        self._prune()

    def _build_one(self, name: str) -> None:
        build = self._build_from if self.recipes[name].get("from") else self._bootstrap
        build(name, connect(self.options["timeout"]))

    def _prune(self) -> None:
        """Delete build stages, and images that a newer one has replaced and no container uses."""
        for label in (_images.STAGE_LABEL, _images.LABEL):
            self.api.prune_images(filters={"dangling": True, "label": label})

    def _bootstrap(self, name: str, api: Any) -> None:
        """Make the image from Debian packages, and take it over only when all of it has arrived."""
        self._need_mmdebstrap()
        recipe = self.recipes[name]
        staged = f"{self.reference(name)}-new"
        users = [
            f"--customize-hook=chroot $1 sh -c 'groupadd --gid {number} {user} && useradd --uid {number} "
            f"--gid {number} --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {user}'"
            for user, number in (recipe.get("users") or {}).items()
        ]
        suite, mirror = self.options["debian_suite"], self.options["debian_mirror"]
        security = self.options["debian_security_mirror"]
        process = subprocess.Popen(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(recipe.get('packages') or [])}",
                *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
                *users,
                suite,
                "-",
                f"deb {mirror} {suite} main",
                f"deb {mirror} {suite}-updates main",
                f"deb {security} {suite}-security main",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # It signals its whole process group when it ends.
            start_new_session=True,
        )
        errors: list[bytes] = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
        reader.start()
        refusal = None
        try:
            api.import_image_from_stream(
                process.stdout,
                repository=staged.rsplit(":", 1)[0],
                tag=staged.rsplit(":", 1)[1],
                changes=[f"LABEL {_images.LABEL}={recipe['inputs']}"],
            )
        except APIError as error:
            # What the archive lacks, mmdebstrap explains better.
            refusal = error
        finally:
            process.stdout.close()
            reader.join()
            code = process.wait()
        if code:
            raise ImagesError(f"{self.reference(name)}: mmdebstrap failed: {errors[0].decode()[-2000:]}")
        if refusal:
            raise refusal
        api.tag(staged, f"{self.options['prefix']}/{name}", self.options["tag"])
        api.remove_image(staged, noprune=True)

    def _build_from(self, name: str, api: Any) -> None:
        recipe = self.recipes[name]
        arguments = {"FROM": self.reference(recipe["from"]), **(recipe.get("arguments") or {})}
        if self.options["pip_index_url"]:
            arguments["PIP_INDEX_URL"] = self.options["pip_index_url"]
        log: list[str] = []
        for message in api.build(
            fileobj=self._context(recipe),
            custom_context=True,
            tag=self.reference(name),
            labels={_images.LABEL: recipe["inputs"]},
            buildargs=arguments,
            nocache=self.options["rebuild"],
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if "error" in message:
                raise ImagesError(f"{self.reference(name)}: {message['error']}\n{''.join(log)[-3000:]}")
            log.append(message.get("stream", ""))

    def _context(self, recipe: dict[str, Any]) -> io.BytesIO:
        """The context from the controller, with this host's certificates where the recipe wants them."""
        content = Path(recipe["context"]).read_bytes()
        if not recipe.get("ca_bundle"):
            return io.BytesIO(content)
        bundle = _files.read_bytes(Path(self.options["ca_bundle"]))
        if bundle is None:
            raise ImagesError(f"ca_bundle: {self.options['ca_bundle']} does not exist on this host")
        buffer = io.BytesIO(content)
        with tarfile.open(fileobj=buffer, mode="a") as archive:
            member = tarfile.TarInfo("ca-bundle.crt")
            member.size = len(bundle)
            archive.addfile(member, io.BytesIO(bundle))
        buffer.seek(0)
        return buffer

    def _need_mmdebstrap(self) -> None:
        if self.module.get_bin_path("mmdebstrap"):
            return
        if not _apt.available():
            raise ImagesError("source: this host cannot build (it is no Debian); choose pull or load")
        packages = ["mmdebstrap", "debian-archive-keyring"]
        _apt.update(self.options["timeout"])
        _apt.install(packages, self.options["timeout"])

    def _pull(self, image: str) -> None:
        self._act(image, "pull", "asked for" if self._inspect(image) else "missing")
        if self.module.check_mode:
            return
        for message in self.api.pull(image, stream=True, decode=True):
            if "error" in message:
                raise ImagesError(f"{image}: {message['error']}")

    def _load(self, wanted: list[str]) -> None:
        bundle = self._bundle()
        for image in wanted:
            self._act(image, "load", f"missing; taken from {bundle}")
        if self.module.check_mode:
            return
        try:
            with Path(bundle).open("rb") as stream:
                for message in self.api.load_image(stream):
                    if "error" in message:
                        raise ImagesError(f"bundle: {bundle}: {message['error']}")
        except FileNotFoundError as error:
            raise ImagesError(f"bundle: {bundle} does not exist on this host") from error
        missing = [image for image in wanted if self._inspect(image) is None]
        if missing:
            raise ImagesError(f"bundle: {bundle} has no {', '.join(missing)}")

    def _bundle(self) -> str:
        if not self.options["bundle"]:
            raise ImagesError("bundle: needed with source=load and state=saved")
        bundle: str = self.options["bundle"]
        return bundle

    def _inspect(self, image: str) -> dict[str, Any] | None:
        try:
            details: dict[str, Any] = self.api.inspect_image(image)
        except ImageNotFound:
            return None
        return details

    def _act(self, name: str, action: str, reason: str) -> None:
        kind = "bundle" if action == "save" else "image"
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": [reason]})


def bare_engine(module: AnsibleModule) -> dict[str, Any]:
    """What check mode says of a host whose Engine the same run would have installed."""
    action = {"build": "build", "pull": "pull", "load": "load"}[module.params["source"]]
    actions = [
        {"object": "image", "name": image, "action": action, "reasons": ["missing"]}
        for image in module.params["images"]
    ]
    return {"changed": bool(actions), "actions": actions, "images": {}}


def main() -> None:
    module = AnsibleModule(
        argument_spec=_images.ARGUMENT_SPEC,
        supports_check_mode=True,
    )
    if DOCKER_ERROR:
        if module.check_mode:
            module.exit_json(**bare_engine(module))
        module.fail_json(msg=missing_required_lib("docker"), exception=DOCKER_ERROR)
    try:
        images = Images(module)
    except DockerException as error:
        if module.check_mode:
            module.exit_json(**bare_engine(module))
        module.fail_json(msg=f"Docker Engine cannot be reached: {error}")
    run = {"present": images.converge, "saved": images.save, "absent": images.remove}[module.params["state"]]
    try:
        run()
        present = images.present()
    except (ImagesError, _images.RecipeError, _apt.AptError, DockerException, OSError) as error:
        module.fail_json(msg=str(error), actions=images.actions)
    lines = [f"{a['action']} {a['name']}: {'; '.join(a['reasons'])}\n" for a in images.actions]
    module.exit_json(
        changed=bool(images.actions),
        actions=images.actions,
        images=present,
        to_build=images.to_build,
        diff={"before": "", "after": "".join(lines)},
    )


if __name__ == "__main__":
    main()
