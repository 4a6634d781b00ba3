# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images that a deployment needs: built, pulled, loaded, saved or removed. Private to the collection."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes, transfer
from ansible_collections.skasrc.cavern.plugins.module_utils._images.build import Builder, alone
from ansible_collections.skasrc.cavern.plugins.module_utils._images.bundle import BundleError
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import ContentsError, Update
from ansible_collections.skasrc.cavern.plugins.module_utils._images.store import ImagesError, Store
from ansible_collections.skasrc.cavern.plugins.module_utils._images.upkeep import Upkeep
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result


def _converge(store: Store) -> list[str]:
    """Bring the images to the host; return what is to be built once its contexts are here."""
    source, needed = store.options["source"], store.options["images"]
    upkeep = Upkeep(store.api, store.options, store.inspect)
    updates = _updates(store, upkeep) if store.options["updates"] else {}
    if source == "build":
        builder = Builder(store, updates)
        builder.converge()
        if builder.waits_for_contexts():
            return builder.to_build
        needed = [image for image in needed if image not in map(store.reference, store.recipes)]
    if source == "load":
        transfer.load(store, needed)
    else:
        transfer.pull(store, needed)
    _write_sboms(store, upkeep)
    return []


def _updates(store: Store, upkeep: Upkeep) -> dict[str, list[Update]]:
    """Return the updates of Debian by recipe; where the archive cannot be asked, a run goes on without them."""
    warn = store.module.warn
    try:
        found = upkeep.updates()
    except ContentsError as error:
        warn(f"whether updates of Debian wait for the images is unknown: {error}")
        return {}
    if store.options["source"] == "build":
        return upkeep.own(found)
    lacking = [f"{image} ({len(updates)})" for image, updates in found.items() if updates]
    if lacking:
        warn(f"updates of Debian wait for {', '.join(lacking)}: bring images that have them")
    return {}


def _write_sboms(store: Store, upkeep: Upkeep) -> None:
    """Keep a document of what each image holds."""
    changing = {action["name"] for action in store.actions} if store.check_mode else set()
    to_write = []
    for file, (image, reason) in upkeep.stale_bills(changing).items():
        action = "remove" if image is None else "update" if file.exists() else "create"
        store.note(str(file), action, reason, kind="sbom")
        if image is not None:
            to_write.append(image)
        elif not store.check_mode:
            file.unlink()
    if to_write and not store.check_mode:
        for message in upkeep.write(to_write, store.client):
            store.module.warn(message)


def _save(store: Store) -> list[str]:
    transfer.save(store)
    return []


def _remove(store: Store) -> list[str]:
    """Remove the images with a recipe, unless a container uses them."""
    for name in reversed(recipes.closure(store.recipes, list(store.recipes))):
        image = store.reference(name)
        if store.inspect(image) is None:
            continue
        store.note(image, "remove", "state is absent")
        if store.check_mode:
            continue
        try:
            store.api.remove_image(image)
        except _docker.APIError as error:
            if error.status_code != 409:
                raise
            store.actions.pop()
            store.module.warn(f"{image} stays: {error.explanation}")
    if not store.check_mode:
        with alone(store.options["timeout"]):
            store.prune()
    return []


_STATES = {"present": _converge, "saved": _save, "absent": _remove}


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Bring the images to the wanted state; `to_build` names those whose contexts are yet to be brought."""
    if _docker.LIBRARY_ERROR and not module.check_mode:
        raise PhaseError(missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    actions: list[dict[str, Any]] = []
    try:
        store = Store(module, options)
        actions = store.actions
        to_build = _STATES[options["state"]](store)
        present = {image: store.inspect(image) for image in options["images"]}
    except (
        ImagesError,
        recipes.RecipeError,
        _apt.AptError,
        BundleError,
        _docker.DockerException,
        OSError,
    ) as error:
        raise PhaseError(str(error), actions=actions) from error
    return {
        "changed": bool(actions),
        "actions": actions,
        "images": {image: details["Id"] for image, details in present.items() if details},
        "to_build": to_build,
        "diff": [store.diff()] if actions else [],
    }
