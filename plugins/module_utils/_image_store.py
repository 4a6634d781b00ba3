# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of the engine, brought to what is needed: built, pulled, loaded, saved or deleted.

Private to the collection.
"""

from __future__ import annotations

import datetime
import fcntl
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import (
    _apt,
    _bundle,
    _docker,
    _files,
    _images,
    _mmdebstrap,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._image_contents import ContentsError, Update
from ansible_collections.skasrc.cavern.plugins.module_utils._image_upkeep import Upkeep, digest
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

CA_BUNDLE = "ca-bundle.crt"


class ImagesError(Exception):
    """An image cannot be had; the message says which, why, and what to do."""


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

    def __init__(self, module: AnsibleModule, options: dict[str, Any]) -> None:
        self.module = module
        self.options = options
        self.recipes: dict[str, Any] = self.options["recipes"]
        # None where check mode finds no Engine, and with it no images; the same run would have installed it.
        self.api = self._connect()
        self.upkeep = Upkeep(self.api, options, self._inspect)
        # Updates of Debian that wait for what each recipe's own image brings.
        self.waiting: dict[str, list[Update]] = {}
        self.actions: list[dict[str, Any]] = []
        self.before: dict[str, str] = {}
        # What is stale, and whether its contexts are here, which the action plugin brings in a second run.
        self.to_build: list[str] = []
        self.has_contexts = any(recipe.get("context") for recipe in self.recipes.values())

    def _connect(self) -> Any:
        if self.module.check_mode and _docker.LIBRARY_ERROR:
            return None
        try:
            return self._client()
        except _docker.DockerException as error:
            if self.module.check_mode:
                return None
            raise ImagesError(f"Docker Engine cannot be reached: {error}") from error

    def _client(self) -> Any:
        """Return a client of the Engine; each thread needs its own."""
        return _docker.connect(self.options["socket"], self.options["timeout"])

    def reference(self, name: str) -> str:
        return f"{self.options['prefix']}/{name}:{self.options['tag']}"

    def converge(self) -> None:
        source, needed = self.options["source"], self.options["images"]
        if self.options["updates"]:
            self._look_for_updates()
        if source == "build":
            if self.has_contexts and not self.module.check_mode:
                # A run that waited here finds built what the other one has built.
                with alone(self.options["timeout"]):
                    self._plan_builds()
                    self._build()
            else:
                self._plan_builds()
                if self.waits_for_contexts():
                    return
            needed = [image for image in needed if image not in map(self.reference, self.recipes)]
        if source == "load":
            self._load(needed)
        else:
            self._pull(needed)
        self._write_bills()

    def waits_for_contexts(self) -> bool:
        return bool(self.to_build) and not self.has_contexts and not self.module.check_mode

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
            except _docker.APIError as error:
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

    def _look_for_updates(self) -> None:
        """Find out what waits; where the archive cannot be asked, a run goes on as if nothing did."""
        try:
            found = self.upkeep.updates()
        except ContentsError as error:
            self.module.warn(f"whether updates of Debian wait for the images is unknown: {error}")
            return
        if self.options["source"] == "build":
            self.waiting = self.upkeep.own(found)
        elif lacking := [f"{image} ({len(updates)})" for image, updates in found.items() if updates]:
            self.module.warn(f"updates of Debian wait for {', '.join(lacking)}: bring images that have them")

    def _write_bills(self) -> None:
        """Keep a document of what each image holds."""
        check_mode = self.module.check_mode
        changing = {action["name"] for action in self.actions} if check_mode else set()
        to_write = []
        for file, (image, reason) in self.upkeep.stale_bills(changing).items():
            action = "remove" if image is None else "update" if file.exists() else "create"
            self._act(str(file), action, reason, kind="sbom")
            if image is not None:
                to_write.append(image)
            elif not check_mode:
                file.unlink()
        if to_write and not check_mode:
            for said in self.upkeep.write(to_write, self._client):
                self.module.warn(said)

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
        if self._inputs(present) != recipe["inputs"]:
            return _images.changes(self._labels(present).get(_images.PARTS_LABEL), recipe["parts"])
        waiting = self.waiting.get(name)
        if not waiting:
            return []
        listed = f"updates of Debian wait: {', '.join(map(str, waiting))}"
        if self._labels(present).get(_images.UPDATES_LABEL) != digest(waiting):
            return [listed]
        self.module.warn(
            f"{self.reference(name)}: {listed}; it was built for them before, but the mirror had them not"
        )
        return []

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
        build(name, self._client())

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
        labels = [f"LABEL {key}={json.dumps(value)}" for key, value in self._new_labels(name).items()]
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
            labels=self._new_labels(name),
            # The Engine knows the names of proxies and keeps their values out of the image.
            buildargs=arguments | self._proxy(),
            nocache=self.options["rebuild"] or name in self.waiting,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if "error" in message:
                raise ImagesError(f"{self.reference(name)}: {message['error']}\n{''.join(log)[-3000:]}")
            log.append(message.get("stream", ""))

    def _new_labels(self, name: str) -> dict[str, str]:
        recipe = self.recipes[name]
        labels = {
            _images.LABEL: recipe["inputs"],
            _images.PARTS_LABEL: json.dumps(recipe["parts"], sort_keys=True, separators=(",", ":")),
        }
        if name in self.waiting:
            labels[_images.UPDATES_LABEL] = digest(self.waiting[name])
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
                for message in _docker.pull(self.api, f"{bare}{at}{digest}"):
                    if "error" in message:
                        raise ImagesError(f"{image} cannot be pulled: {message['error']}")
            except _docker.APIError as error:
                raise ImagesError(f"{image} cannot be pulled: {_docker.explain(error)}") from error
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
            if wanted and self.api and contents["architecture"] != self._architecture():
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
        if self.api is None:
            return None
        details: dict[str, Any] | None = _docker.find(self.api.inspect_image, image)
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
            "before_header": "images",
            "after_header": "images",
            "before": "".join(f"{name}: {self.before.get(name, '')[:19]}\n" for name in names),
            "after": "".join(
                f"{action['name']}: {action['action']} ({'; '.join(action['reasons'])})\n"
                for action in self.actions
            ),
        }


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Bring the images to the wanted state; `to_build` names those whose contexts are yet to be brought."""
    if _docker.LIBRARY_ERROR and not module.check_mode:
        raise PhaseError(missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    actions: list[dict[str, Any]] = []
    try:
        images = Images(module, options)
        actions = images.actions
        {"present": images.converge, "saved": images.save, "absent": images.remove}[options["state"]]()
        present = images.present()
    except (
        ImagesError,
        _images.RecipeError,
        _apt.AptError,
        _bundle.BundleError,
        _docker.DockerException,
        OSError,
    ) as error:
        raise PhaseError(str(error), actions=actions) from error
    return {
        "changed": bool(actions),
        "actions": actions,
        "images": present,
        "to_build": images.to_build if images.waits_for_contexts() else [],
        "diff": [images.diff()] if actions else [],
    }
