# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull images from a registry; load them from a bundle, and save them into one. Private to the collection."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._images import bundle
from ansible_collections.skasrc.cavern.plugins.module_utils._images.store import (
    Document,
    ImagesError,
    Store,
    inputs,
)


def pull(store: Store, images: list[str]) -> None:
    """Pull images that are missing, or all of them if that was asked for. Raises ImagesError."""
    ours = {store.reference(name) for name in store.recipes}
    prefix = store.options["prefix"]
    host, _slash, path = prefix.partition("/")
    if ours & set(images) and not (path and ("." in host or ":" in host or host == "localhost")):
        raise ImagesError(
            f"prefix: {prefix!r} names no registry to pull from: give its host as well, "
            "for example registry.example.org/cavern"
        )
    for image in images:
        present = store.inspect(image)
        if present and not store.options["rebuild"]:
            continue
        store.note(image, "pull", "asked for" if present else "missing")
        if store.check_mode:
            continue
        _pull(store.api, image)
        if present and store.image_id(image) == present["Id"]:
            store.actions.pop()


def _pull(api: Any, image: str) -> None:
    # With a digest, the tag before it says nothing to the Engine.
    name, at, digest = image.partition("@")
    bare = name.rsplit("/", 1)[0] + "/" + name.rsplit("/", 1)[-1].split(":")[0] if at else name
    try:
        for message in _docker.pull(api, f"{bare}{at}{digest}"):
            if "error" in message:
                raise ImagesError(f"{image} cannot be pulled: {message['error']}")
    except _docker.APIError as error:
        raise ImagesError(f"{image} cannot be pulled: {_docker.explain(error)}") from error


def bundle_path(options: dict[str, Any]) -> Path:
    """Return the path of the bundle. Raises ImagesError if none is given."""
    if not options["bundle"]:
        raise ImagesError("bundle: needed with source=load and state=saved")
    return Path(options["bundle"])


def load(store: Store, images: list[str]) -> None:
    """Load images that are missing, or differ from those in the bundle. Raises ImagesError, BundleError."""
    path = bundle_path(store.options)
    found = {image: store.inspect(image) for image in images}
    missing = [image for image, details in found.items() if details is None]
    if not missing and not path.exists():
        return
    contents = bundle.contents(path)
    listed = contents["images"] if contents else {}
    rebuild = store.options["rebuild"]
    wanted = [image for image, details in found.items() if rebuild or _differs(details, listed.get(image))]
    if contents:
        _check_contents(store, path, contents, wanted)
    for image in wanted:
        store.note(image, "load", "missing" if image in missing else f"differs from {path}")
    if not wanted or store.check_mode:
        return
    _load(store.api, path)
    absent = [image for image in wanted if store.inspect(image) is None]
    if absent:
        raise ImagesError(f"bundle: {path} has no {', '.join(absent)}")
    store.prune()


def _differs(details: Document | None, listed: Document | None) -> bool:
    """Whether an image is missing, or was built from other inputs than the one in the bundle."""
    return details is None or (listed or {}).get("inputs") not in (None, inputs(details))


def _check_contents(store: Store, path: Path, contents: dict[str, Any], wanted: list[str]) -> None:
    """Refuse a bundle that lacks an image, or is for another architecture."""
    listed = contents["images"]
    absent = [image for image in wanted if image not in listed]
    if absent:
        raise ImagesError(f"bundle: {path} has no {', '.join(absent)}; it has {', '.join(sorted(listed))}")
    if wanted and store.api and contents["architecture"] != store.architecture():
        raise ImagesError(
            f"bundle: {path} is for {contents['architecture']}, this Engine for {store.architecture()}"
        )


def _load(api: Any, path: Path) -> None:
    bundle.verify(path)
    with path.open("rb") as stream:
        for message in api.load_image(stream):
            if "error" in message:
                raise ImagesError(f"bundle: {path}: {message['error']}")


def save(store: Store) -> None:
    """Write the images into a bundle, unless it holds these very images. Raises ImagesError."""
    path = bundle_path(store.options)
    listed = _list(store)
    present = bundle.contents(path) if path.exists() else None
    if present and present["images"] == listed and not store.options["rebuild"]:
        return
    store.note(str(path), "save", "its images changed" if present else "missing", kind="bundle")
    if store.check_mode:
        return
    # The client's own method saves one image; the API takes several, which then share their layers.
    response = store.api.get(
        f"{store.api.base_url}/v{store.api.api_version}/images/get",
        params={"names": list(listed)},
        stream=True,
        timeout=store.options["timeout"],
    )
    response.raise_for_status()
    contents = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "architecture": store.architecture(),
        "images": listed,
    }
    bundle.write(path, contents, response.iter_content(1 << 20))


def _list(store: Store) -> dict[str, Document]:
    """Return what a bundle says of the images that it holds."""
    found = {image: store.inspect(image) for image in store.options["images"]}
    missing = [image for image, details in found.items() if details is None]
    if missing:
        raise ImagesError(f"images: {', '.join(missing)} cannot be saved: not present")
    pinned = [image for image in found if "@" in image]
    if pinned:
        raise ImagesError(f"images: {', '.join(pinned)}: a bundle keeps tags, not digests; name it by a tag")
    return {
        image: {"id": details["Id"], "inputs": inputs(details), "bytes": details["Size"]}
        for image, details in found.items()
        if details
    }
