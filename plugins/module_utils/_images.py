# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How images follow from their recipes: which are needed, what goes into each. Private to the collection.

A recipe names the image it builds on, the files of its build context (paths in the context to paths below the
collection) and build arguments. An image is as new as its inputs: the digest of all of these and of its parent's
inputs, kept in a label.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABEL = "int.skao.src.cavern.inputs"
# On what a build leaves behind that is no image of its own.
STAGE_LABEL = "int.skao.src.cavern.stage"
# What tools leave behind, and tests, are no part of an image.
IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "tests", "build", "dist"}

# Shared by the module and by the action plugin that runs on the controller.
ARGUMENT_SPEC: dict[str, Any] = {
    "images": {"type": "list", "elements": "str", "required": True},
    "source": {"type": "str", "choices": ["build", "pull", "load"], "default": "build"},
    "prefix": {"type": "str", "default": "cavern"},
    "tag": {"type": "str", "default": "local"},
    "recipes": {"type": "dict", "default": {}},
    "debian_suite": {"type": "str", "default": "trixie"},
    "debian_mirror": {"type": "str", "default": "http://deb.debian.org/debian"},
    "debian_security_mirror": {"type": "str", "default": "http://deb.debian.org/debian-security"},
    "pip_index_url": {"type": "str", "default": ""},
    "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
    "bundle": {"type": "path"},
    "rebuild": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 600},
    "state": {"type": "str", "choices": ["present", "saved", "absent"], "default": "present"},
}


class RecipeError(Exception):
    """A recipe cannot be followed; the message names it."""


def closure(recipes: dict[str, Any], names: list[str]) -> list[str]:
    """The named recipes and all that they build on, parents first."""
    ordered: list[str] = []

    def visit(name: str, children: tuple[str, ...]) -> None:
        if name in children:
            raise RecipeError(f"recipes: {' -> '.join((*children, name))} go round in a circle")
        if name not in recipes:
            raise RecipeError(f"recipes: {children[-1]} builds on {name}, for which there is no recipe")
        parent = recipes[name].get("from")
        if parent:
            visit(parent, (*children, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        visit(name, ())
    return ordered


def next_builds(recipes: dict[str, Any], pending: list[str], unfinished: set[str]) -> list[str]:
    """Those of the pending builds whose parent is not unfinished, the ones that most others wait for first."""
    ready = [name for name in pending if recipes[name].get("from") not in unfinished]
    return sorted(ready, key=lambda name: -sum(recipes[other].get("from") == name for other in pending))


def inputs(recipes: dict[str, Any], names: list[str], root: Path, settings: dict[str, str]) -> dict[str, str]:
    """Digest of the inputs of each image. `names` is a closure; `settings` are those that all images depend on."""
    digests: dict[str, str] = {}
    for name in names:
        recipe = recipes[name]
        digest = hashlib.sha256(repr(sorted(settings.items())).encode())
        digest.update(digests[recipe["from"]].encode() if recipe.get("from") else b"")
        digest.update(repr(sorted((recipe.get("arguments") or {}).items())).encode())
        digest.update(repr((recipe.get("packages"), recipe.get("users"))).encode())
        for target, path in _files(name, recipe, root):
            digest.update(f"{target}\0{_mode(path):o}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        digests[name] = digest.hexdigest()
    return digests


def context(name: str, recipe: dict[str, Any], root: Path) -> bytes:
    """The build context as a tar archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for target, path in _files(name, recipe, root):
            member = tarfile.TarInfo(target)
            member.size, member.mode = path.stat().st_size, _mode(path)
            with path.open("rb") as stream:
                archive.addfile(member, stream)
    return buffer.getvalue()


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o111 else 0o644


def _files(name: str, recipe: dict[str, Any], root: Path) -> Iterator[tuple[str, Path]]:
    """Each file of the context with its path there, in a fixed order."""
    for target, source in sorted((recipe.get("files") or {}).items()):
        path = root / source
        if path.is_file():
            yield target, path
        elif path.is_dir():
            for child in sorted(path.rglob("*")):
                below = child.relative_to(path)
                if child.is_file() and not IGNORED & set(below.parts) and not below.name.endswith(".pyc"):
                    yield str(Path(target) / below), child
        else:
            raise RecipeError(f"recipes: {name} needs {source}, which does not exist in the collection")
