# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build images from their recipes. Private to the collection."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _files, _progress
from ansible_collections.skasrc.cavern.plugins.module_utils._images import mmdebstrap, recipes
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import Update
from ansible_collections.skasrc.cavern.plugins.module_utils._images.store import (
    ImagesError,
    Store,
    inputs,
    labels,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._images.upkeep import digest

CA_BUNDLE = "ca-bundle.crt"
# As Docker Engine announces the steps of a Dockerfile.
STEP = re.compile(r"Step (\d+/\d+) :")


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


class Builder:
    """Finds out which images are stale, and builds them."""

    def __init__(self, store: Store, updates: dict[str, list[Update]]) -> None:
        """Build into *store*; *updates* of Debian wait for what each recipe's own image brings."""
        self.store = store
        self.options = store.options
        self.recipes = store.recipes
        self.updates = updates
        # What is stale, and whether its contexts are here, which the action plugin brings in a second run.
        self.to_build: list[str] = []
        self.has_contexts = any(recipe.get("context") for recipe in self.recipes.values())

    def converge(self) -> None:
        """Build what is stale, if the contexts are here, and otherwise find out what that is."""
        if self.has_contexts and not self.store.check_mode:
            # A run that waited here finds built what the other one has built.
            with alone(self.options["timeout"]):
                self._plan()
                self._build()
        else:
            self._plan()

    def waits_for_contexts(self) -> bool:
        """Whether another run must bring the contexts of what is stale."""
        return bool(self.to_build) and not self.has_contexts and not self.store.check_mode

    def _plan(self) -> None:
        stale: set[str] = set()
        for name, recipe in self.recipes.items():
            reasons = self._reasons(name, recipe)
            if not reasons:
                reasons = [f"{parent} is built" for parent in recipes.parents(recipe) if parent in stale]
            if reasons:
                stale.add(name)
                self.to_build.append(name)
                self.store.note(self.store.reference(name), "build", *reasons)

    def _reasons(self, name: str, recipe: dict[str, Any]) -> list[str]:
        present = self.store.inspect(self.store.reference(name))
        if present is None:
            return ["missing"]
        if self.options["rebuild"]:
            return ["asked for"]
        if inputs(present) != recipe["inputs"]:
            return recipes.changes(labels(present).get(recipes.PARTS_LABEL), recipe["parts"])
        updates = self.updates.get(name)
        if not updates:
            return []
        listed = f"updates of Debian wait: {', '.join(map(str, updates))}"
        if labels(present).get(recipes.UPDATES_LABEL) != digest(updates):
            return [listed]
        self.store.module.warn(
            f"{self.store.reference(name)}: {listed}; it was built for them before, but the mirror had them not"
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
                for name in recipes.next_builds(self.recipes, pending, {*pending, *running.values()}):
                    if len(running) < at_once:
                        pending.remove(name)
                        running[pool.submit(self._build_one, name)] = name
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    running.pop(job)
                    job.result()
        self.store.prune()

    def _build_one(self, name: str) -> None:
        recipe = self.recipes[name]
        build = self._build_from if recipe.get("from") or recipe.get("directory") else self._bootstrap
        with _progress.step("image", self.store.reference(name), "building", "built"):
            build(name, self.store.client())

    def _bootstrap(self, name: str, api: Any) -> None:
        """Create the image from Debian packages; it replaces the former one when it is complete."""
        self._need_mmdebstrap()
        recipe = self.recipes[name]
        suite, mirror = self.options["debian_suite"], self.options["debian_mirror"]
        command = mmdebstrap.command(
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
        changes = [f"LABEL {key}={json.dumps(value)}" for key, value in self._new_labels(name).items()]
        try:
            with mmdebstrap.archive(command, self._proxy()) as archive:
                api.import_image_from_stream(archive, repository=repository, tag=staged, changes=changes)
            api.tag(f"{repository}:{staged}", repository, self.options["tag"])
        except mmdebstrap.MmdebstrapError as error:
            raise ImagesError(f"{self.store.reference(name)}: {error}") from error
        finally:
            if self.store.inspect(f"{repository}:{staged}"):
                api.remove_image(f"{repository}:{staged}", noprune=True)

    def _build_from(self, name: str, api: Any) -> None:
        """Build the image from that of another recipe, or as the Dockerfile of a directory says."""
        recipe, reference = self.recipes[name], self.store.reference
        stages = {key: reference(stage) for key, stage in (recipe.get("stages") or {}).items()}
        parent = {"FROM": reference(recipe["from"])} if recipe.get("from") else {}
        arguments = parent | stages | (recipe.get("arguments") or {})
        if self.options["pip_index_url"]:
            arguments["PIP_INDEX_URL"] = self.options["pip_index_url"]
        log: list[str] = []
        for message in api.build(
            fileobj=self._context(recipe),
            custom_context=True,
            dockerfile=recipe.get("dockerfile"),
            target=recipe.get("target"),
            tag=reference(name),
            labels=self._new_labels(name),
            # The Engine knows the names of proxies and keeps their values out of the image.
            buildargs=arguments | self._proxy(),
            nocache=self.options["rebuild"] or name in self.updates,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            if "error" in message:
                raise ImagesError(f"{reference(name)}: {message['error']}\n{''.join(log)[-3000:]}")
            log.append(message.get("stream", ""))
            if step := STEP.match(log[-1]):
                _progress.tell("image", reference(name), f"building, step {step[1]}")

    def _new_labels(self, name: str) -> dict[str, str]:
        recipe = self.recipes[name]
        new = {
            recipes.LABEL: recipe["inputs"],
            recipes.PARTS_LABEL: json.dumps(recipe["parts"], sort_keys=True, separators=(",", ":")),
        }
        if name in self.updates:
            new[recipes.UPDATES_LABEL] = digest(self.updates[name])
        return new | ({recipes.VERSION_LABEL: recipe["version"]} if recipe.get("version") else {})

    def _proxy(self) -> dict[str, str]:
        """Return the proxy's variables in both spellings that programs read."""
        values = {key.lower(): str(value) for key, value in self.options["proxy"].items() if value}
        return values | {key.upper(): value for key, value in values.items()}

    def _context(self, recipe: dict[str, Any]) -> io.BytesIO:
        """Return the context from the controller, with this host's certificates where the recipe wants them."""
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
        if self.store.module.get_bin_path("mmdebstrap"):
            return
        if not _apt.available():
            raise ImagesError("source: this host cannot build (it is no Debian); choose pull or load")
        packages = ["mmdebstrap", "debian-archive-keyring"]
        _apt.update(self.options["timeout"])
        _apt.install(packages, self.options["timeout"])
