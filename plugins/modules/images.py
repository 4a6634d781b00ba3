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
  - An image is built again only if its inputs changed, which are the recipe with its files, the images that it
    builds on and the Debian release and mirrors. Labels keep their digests, so that a build tells its cause.
  - The base image is made by mmdebstrap on the host deployed to, which therefore must run Debian or a descendant
    for O(source=build). Docker's API does the rest; no command line client or BuildKit is needed.
  - A bundle is an archive that C(docker load) reads, with a list of its images in front and its checksum beside it.
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
      stages:
        description: Recipes of images to copy from, by the build argument that holds the image's name.
        type: dict
      files:
        description:
          - Build context, as paths in it with the file or directory of the collection for each.
          - Of an image without O(recipes.from), files to lay into it before its packages are configured.
        type: dict
      version:
        description: The C(pyproject.toml) whose version the image carries as a label.
        type: str
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
  proxy:
    description:
      - What downloads of a build need to reach the network, by the usual names C(http_proxy), C(https_proxy) and
        C(no_proxy). The images do not keep it. Pulls go through the Engine, which has settings of its own.
    type: dict
    default: {}
  ca_bundle:
    description: File on the host deployed to with the certificates that downloads of a build trust. Images do not.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  bundle:
    description:
      - Archive of images on the host deployed to, for O(source=load) to read and for O(state=saved) to write.
      - Its checksum is the file with C(.sha256) after its name.
    type: path
  rebuild:
    description: Build or pull even what is up to date, for example for Debian's security updates.
    type: bool
    default: false
  parallel:
    description: Builds at a time.
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
    description: Shows the images before and after, with the reason of each change.
"""

EXAMPLES = r"""
- name: The images of the proxy and of VOSpace
  skasrc.cavern.images:
    images: [cavern/haproxy:local, cavern/vospace:local]
    recipes: "{{ images_recipes }}"

- name: The same on a machine that has neither a network nor Debian
  skasrc.cavern.images:
    images: [cavern/haproxy:local, cavern/vospace:local]
    source: load
    bundle: /srv/cavern/images.tar

- name: The same from a registry
  skasrc.cavern.images:
    images: [registry.example.org/cavern/haproxy:1.2.0]
    source: pull
    prefix: registry.example.org/cavern
    tag: 1.2.0
"""

RETURN = r"""
actions:
  description: What was done (in check mode, would be done), and why.
  returned: always
  type: list
  elements: dict
  sample: [{object: image, name: "cavern/haproxy:local", action: build, reasons: ["base is built"]}]
images:
  description: Id of each needed image that is present.
  returned: always
  type: dict
  sample: {"cavern/haproxy:local": "sha256:0f1e"}
"""

import datetime
import fcntl
import io
import json
import os
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _bundle, _files, _images, _mmdebstrap

try:
    import docker
    from docker.errors import APIError, DockerException, ImageNotFound
except ImportError:
    DOCKER_ERROR: str | None = traceback.format_exc()
else:
    DOCKER_ERROR = None

CA_BUNDLE = "ca-bundle.crt"


class ImagesError(Exception):
    """An image cannot be had; the message says which, why, and what to do."""


def connect(timeout: int) -> Any:
    """A client of the Engine. Each thread has its own."""
    return docker.from_env(version="auto", timeout=timeout).api


@contextmanager
def alone(timeout: float) -> Iterator[None]:
    """Wait until no other run builds: the one that ends first would delete stages that the other still needs."""
    user = os.geteuid()
    path = Path(tempfile.gettempdir() if user else "/run", f"cavern-images-{user}.lock")
    deadline = time.monotonic() + timeout
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ImagesError(f"another run has been building images for {timeout} s") from error
                time.sleep(0.5)
        yield
    finally:
        os.close(lock)


class Images:
    """Compares the Engine's images with the needed ones."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.options = module.params
        self.recipes: dict[str, Any] = self.options["recipes"]
        self.api = connect(self.options["timeout"])
        self.actions: list[dict[str, Any]] = []
        self.before: dict[str, str] = {}
        self.to_build: list[str] = []

    def reference(self, name: str) -> str:
        return f"{self.options['prefix']}/{name}:{self.options['tag']}"

    def converge(self) -> None:
        source, needed = self.options["source"], self.options["images"]
        if source == "build":
            # The action plugin brings the contexts in a second run.
            if not self.module.check_mode and any(recipe.get("context") for recipe in self.recipes.values()):
                # A run that waited here finds built what the other one has built.
                with alone(self.options["timeout"]):
                    self._plan_builds()
                    self._build()
            else:
                self._plan_builds()
            needed = [image for image in needed if image not in map(self.reference, self.recipes)]
        if source == "load":
            self._load(needed)
        else:
            self._pull(needed)

    def save(self) -> None:
        bundle = self._bundle()
        found = {image: self._inspect(image) for image in self.options["images"]}
        missing = [image for image, details in found.items() if details is None]
        if missing:
            raise ImagesError(f"images: {', '.join(missing)} cannot be saved: not present")
        pinned = [image for image in found if "@" in image]
        if pinned:
            raise ImagesError(
                f"images: {', '.join(pinned)}: a bundle keeps tags, not digests; name it by a tag"
            )
        listed = {
            image: {"id": details["Id"], "inputs": self._inputs(details), "bytes": details["Size"]}
            for image, details in found.items()
            if details
        }
        present = _bundle.contents(bundle) if bundle.exists() else None
        if present and present["images"] == listed and not self.options["rebuild"]:
            return
        self._act(str(bundle), "save", "its images changed" if present else "missing", kind="bundle")
        if self.module.check_mode:
            return
        # The client's own method saves one image; the API takes several, which then share their layers.
        response = self.api.get(
            f"{self.api.base_url}/v{self.api.api_version}/images/get",
            params={"names": list(listed)},
            stream=True,
            timeout=self.options["timeout"],
        )
        response.raise_for_status()
        contents = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "architecture": self._architecture(),
            "images": listed,
        }
        _bundle.write(bundle, contents, response.iter_content(1 << 20))

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
            with alone(self.options["timeout"]):
                self._prune()

    def present(self) -> dict[str, str]:
        found = {image: self._inspect(image) for image in self.options["images"]}
        return {image: details["Id"] for image, details in found.items() if details}

    def _plan_builds(self) -> None:
        stale: set[str] = set()
        for name, recipe in self.recipes.items():
            reasons = self._reasons(name, recipe)
            if not reasons:
                reasons = [f"{parent} is built" for parent in _images.parents(recipe) if parent in stale]
            if reasons:
                stale.add(name)
                self.to_build.append(name)
                self._act(self.reference(name), "build", *reasons)

    def _reasons(self, name: str, recipe: dict[str, Any]) -> list[str]:
        present = self._inspect(self.reference(name))
        if present is None:
            return ["missing"]
        if self.options["rebuild"]:
            return ["asked for"]
        if self._inputs(present) == recipe["inputs"]:
            return []
        return _images.changes(self._labels(present).get(_images.PARTS_LABEL), recipe["parts"])

    def _build(self) -> None:
        late = [name for name in self.to_build if not self.recipes[name].get("context")]
        if late:
            raise ImagesError(
                f"{', '.join(late)} went or changed while this run began to build: run it again"
            )
        at_once = self.options["parallel"]
        pending, running = list(self.to_build), dict[Future[None], str]()
        with ThreadPoolExecutor(at_once) as pool:
            while pending or running:
                for name in _images.next_builds(self.recipes, pending, {*pending, *running.values()}):
                    if len(running) < at_once:
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
        suite, mirror = self.options["debian_suite"], self.options["debian_mirror"]
        command = _mmdebstrap.command(
            suite,
            [
                f"deb {mirror} {suite} main",
                f"deb {mirror} {suite}-updates main",
                f"deb {self.options['debian_security_mirror']} {suite}-security main",
            ],
            recipe.get("packages") or [],
            recipe.get("users") or {},
            Path(recipe["context"]),
        )
        repository, staged = f"{self.options['prefix']}/{name}", f"{self.options['tag']}-new"
        labels = [f"LABEL {key}={json.dumps(value)}" for key, value in self._new_labels(recipe).items()]
        try:
            with _mmdebstrap.archive(command, self._proxy()) as archive:
                api.import_image_from_stream(archive, repository=repository, tag=staged, changes=labels)
            api.tag(f"{repository}:{staged}", repository, self.options["tag"])
        except _mmdebstrap.MmdebstrapError as error:
            raise ImagesError(f"{self.reference(name)}: {error}") from error
        finally:
            if self._inspect(f"{repository}:{staged}"):
                api.remove_image(f"{repository}:{staged}", noprune=True)

    def _build_from(self, name: str, api: Any) -> None:
        recipe = self.recipes[name]
        stages = {key: self.reference(stage) for key, stage in (recipe.get("stages") or {}).items()}
        arguments = {"FROM": self.reference(recipe["from"]), **stages, **(recipe.get("arguments") or {})}
        if self.options["pip_index_url"]:
            arguments["PIP_INDEX_URL"] = self.options["pip_index_url"]
        log: list[str] = []
        for message in api.build(
            fileobj=self._context(recipe),
            custom_context=True,
            tag=self.reference(name),
            labels=self._new_labels(recipe),
            # The Engine knows the names of proxies and keeps their values out of the image.
            buildargs=arguments | self._proxy(),
            nocache=self.options["rebuild"],
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if "error" in message:
                raise ImagesError(f"{self.reference(name)}: {message['error']}\n{''.join(log)[-3000:]}")
            log.append(message.get("stream", ""))

    def _new_labels(self, recipe: dict[str, Any]) -> dict[str, str]:
        labels = {
            _images.LABEL: recipe["inputs"],
            _images.PARTS_LABEL: json.dumps(recipe["parts"], sort_keys=True, separators=(",", ":")),
        }
        return labels | ({_images.VERSION_LABEL: recipe["version"]} if recipe.get("version") else {})

    def _proxy(self) -> dict[str, str]:
        """Programs look for either spelling."""
        values = {key.lower(): str(value) for key, value in self.options["proxy"].items() if value}
        return values | {key.upper(): value for key, value in values.items()}

    def _context(self, recipe: dict[str, Any]) -> io.BytesIO:
        """The context from the controller, with this host's certificates where the recipe wants them."""
        buffer = io.BytesIO(Path(recipe["context"]).read_bytes())
        if not recipe.get("ca_bundle"):
            return buffer
        bundle = _files.read_bytes(Path(self.options["ca_bundle"]))
        if bundle is None:
            raise ImagesError(f"ca_bundle: {self.options['ca_bundle']} does not exist on this host")
        with tarfile.open(fileobj=buffer, mode="a") as archive:
            member = tarfile.TarInfo(CA_BUNDLE)
            member.size = len(bundle)
            archive.addfile(member, io.BytesIO(bundle))
        buffer.seek(0)
        return buffer

    def _need_mmdebstrap(self) -> None:
        if os.geteuid() != 0:
            raise ImagesError(
                "source: to build the base image needs root (become: true); or choose pull or load"
            )
        if self.module.get_bin_path("mmdebstrap"):
            return
        if not _apt.available():
            raise ImagesError("source: this host cannot build (it is no Debian); choose pull or load")
        packages = ["mmdebstrap", "debian-archive-keyring"]
        _apt.update(self.options["timeout"])
        _apt.install(packages, self.options["timeout"])

    def _pull(self, images: list[str]) -> None:
        ours = {self.reference(name) for name in self.recipes}
        host, _slash, path = self.options["prefix"].partition("/")
        if ours & set(images) and not (path and ("." in host or ":" in host or host == "localhost")):
            raise ImagesError(
                f"prefix: {self.options['prefix']!r} names no registry to pull from: give its host as well, "
                "for example registry.example.org/cavern"
            )
        for image in images:
            present = self._inspect(image)
            if present and not self.options["rebuild"]:
                continue
            self._act(image, "pull", "asked for" if present else "missing")
            if self.module.check_mode:
                continue
            # With a digest, the tag before it says nothing to the Engine.
            name, at, digest = image.partition("@")
            bare = name.rsplit("/", 1)[0] + "/" + name.rsplit("/", 1)[-1].split(":")[0] if at else name
            try:
                for message in self.api.pull(f"{bare}{at}{digest}", stream=True, decode=True):
                    if "error" in message:
                        raise ImagesError(f"{image} cannot be pulled: {message['error']}")
            except APIError as error:
                raise ImagesError(f"{image} cannot be pulled: {error.explanation or error}") from error
            if present and self._id(image) == present["Id"]:
                self.actions.pop()

    def _load(self, images: list[str]) -> None:
        bundle = self._bundle()
        found = {image: self._inspect(image) for image in images}
        missing = [image for image, details in found.items() if details is None]
        if not missing and not bundle.exists():
            return
        contents = _bundle.contents(bundle)
        listed = contents["images"] if contents else {}
        wanted = [
            image
            for image, details in found.items()
            if details is None
            or self.options["rebuild"]
            or (listed.get(image, {}).get("inputs") not in (None, self._inputs(details)))
        ]
        if contents:
            absent = [image for image in wanted if image not in listed]
            if absent:
                raise ImagesError(
                    f"bundle: {bundle} has no {', '.join(absent)}; it has {', '.join(sorted(listed))}"
                )
            if wanted and contents["architecture"] != self._architecture():
                raise ImagesError(
                    f"bundle: {bundle} is for {contents['architecture']}, this Engine for {self._architecture()}"
                )
        for image in wanted:
            self._act(image, "load", "missing" if image in missing else f"differs from {bundle}")
        if not wanted or self.module.check_mode:
            return
        _bundle.verify(bundle)
        with bundle.open("rb") as stream:
            for message in self.api.load_image(stream):
                if "error" in message:
                    raise ImagesError(f"bundle: {bundle}: {message['error']}")
        absent = [image for image in wanted if self._inspect(image) is None]
        if absent:
            raise ImagesError(f"bundle: {bundle} has no {', '.join(absent)}")
        self._prune()

    def _bundle(self) -> Path:
        if not self.options["bundle"]:
            raise ImagesError("bundle: needed with source=load and state=saved")
        return Path(self.options["bundle"])

    def _architecture(self) -> str:
        return str(self.api.version()["Arch"])

    def _inspect(self, image: str) -> dict[str, Any] | None:
        try:
            details: dict[str, Any] = self.api.inspect_image(image)
        except ImageNotFound:
            return None
        return details

    def _id(self, image: str) -> str:
        details = self._inspect(image)
        return details["Id"] if details else "absent"

    def _labels(self, details: dict[str, Any]) -> dict[str, str]:
        return (details.get("Config") or {}).get("Labels") or {}

    def _inputs(self, details: dict[str, Any]) -> str | None:
        return self._labels(details).get(_images.LABEL)

    def _act(self, name: str, action: str, *reasons: str, kind: str = "image") -> None:
        if kind == "image":
            self.before[name] = self._id(name)
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": list(reasons)})

    def diff(self) -> dict[str, str]:
        names = [action["name"] for action in self.actions]
        return {
            "before": "".join(f"{name}: {self.before.get(name, '')[:19]}\n" for name in names),
            "after": "".join(
                f"{action['name']}: {action['action']} ({'; '.join(action['reasons'])})\n"
                for action in self.actions
            ),
        }


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
    except (
        ImagesError,
        _images.RecipeError,
        _apt.AptError,
        _bundle.BundleError,
        DockerException,
        OSError,
    ) as error:
        module.fail_json(msg=str(error), actions=images.actions)
    module.exit_json(
        changed=bool(images.actions),
        actions=images.actions,
        images=present,
        to_build=images.to_build,
        diff=images.diff(),
    )


if __name__ == "__main__":
    main()
