# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Determine which images are needed, and the inputs of each, from their recipes. Private to the collection.

A recipe names the image it builds on, the images it takes files from, the files of its build context (paths in the
context to paths below the collection) and build arguments. A recipe from outside the collection names a directory
with a Dockerfile instead. An image is as new as its inputs: all of these, and its parents' inputs. Their digest is kept
in one label, and a short digest of each in another, to tell what changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _engine

exclude_paths: Callable[..., set[str]] | None
try:
    from docker.utils.build import exclude_paths
except ImportError:
    exclude_paths = None

LABEL = "int.skao.src.cavern.inputs"
PARTS_LABEL = "int.skao.src.cavern.inputs.parts"
# The updates that a build was to bring, so that one which could not have them is not repeated for ever.
UPDATES_LABEL = "int.skao.src.cavern.updates"
VERSION_LABEL = "org.opencontainers.image.version"
# On what a build leaves behind that is no image of its own.
STAGE_LABEL = "int.skao.src.cavern.stage"
# What tools leave behind, and tests, are no part of an image.
IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "tests", "build", "dist"}

# Shared by the module and by the action plugin that runs on the controller.
ARGUMENT_SPEC: dict[str, Any] = {
    "socket": {"type": "path", "default": _engine.SOCKET},
    "images": {"type": "list", "elements": "str", "required": True},
    "source": {"type": "str", "choices": ["build", "pull", "load"], "default": "build"},
    "prefix": {"type": "str", "default": "cavern"},
    "tag": {"type": "str", "default": "local"},
    "recipes": {"type": "dict", "default": {}},
    "debian_suite": {"type": "str", "default": "trixie"},
    "debian_mirror": {"type": "str", "default": "http://deb.debian.org/debian"},
    "debian_security_mirror": {"type": "str", "default": "http://deb.debian.org/debian-security"},
    # An index's address may hold credentials.
    "pip_index_url": {"type": "str", "default": "", "no_log": True},
    "proxy": {"type": "dict", "default": {}},
    "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
    "bundle": {"type": "path"},
    "rebuild": {"type": "bool", "default": False},
    "updates": {"type": "bool", "default": False},
    "sbom_dir": {"type": "path"},
    "parallel": {"type": "int", "default": 2},
    "timeout": {"type": "int", "default": 600},
    "state": {"type": "str", "choices": ["present", "saved", "absent"], "default": "present"},
}


class RecipeError(Exception):
    """A recipe is invalid; the message names it."""


def parents(recipe: dict[str, Any]) -> list[str]:
    """Return the recipes that must be built first: the base image, and those of the stages to copy files from."""
    own = [recipe["from"]] if recipe.get("from") else []
    return [*own, *(recipe.get("stages") or {}).values()]


def closure(recipes: dict[str, Any], names: list[str]) -> list[str]:
    """Return the named recipes and all that they build on, parents first. Raises RecipeError."""
    ordered: list[str] = []

    def visit(name: str, children: tuple[str, ...]) -> None:
        if name in children:
            raise RecipeError(f"recipes: {' -> '.join((*children, name))} go round in a circle")
        if name not in recipes:
            raise RecipeError(f"recipes: {children[-1]} builds on {name}, for which there is no recipe")
        for parent in parents(recipes[name]):
            visit(parent, (*children, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        visit(name, ())
    return ordered


def next_builds(recipes: dict[str, Any], pending: list[str], unfinished: set[str]) -> list[str]:
    """Return the pending builds whose parents are finished, those that most others wait for first."""
    ready = [name for name in pending if not unfinished & set(parents(recipes[name]))]
    return sorted(ready, key=lambda name: -sum(name in parents(recipes[other]) for other in pending))


def ancestors(recipes: dict[str, Any], name: str) -> set[str]:
    """Return the recipes of an image's base images, without those that it only copies from."""
    found: set[str] = set()
    while (parent := recipes[name].get("from")) and parent in recipes:
        found.add(parent)
        name = parent
    return found


def parts(
    recipes: dict[str, Any], names: list[str], root: Path, settings: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Return each input of each image with its digest.

    `names` is a closure; `settings` are those that all images without a parent depend on, by the option's name.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        recipe = recipes[name]
        own = {f"image {parent}": digest(found[parent]) for parent in parents(recipe)}
        if not recipe.get("from") and not recipe.get("directory"):
            own |= {option: _short(value.encode()) for option, value in settings.items()}
        for key in ("arguments", "dockerfile", "packages", "stages", "target", "users", "version"):
            if recipe.get(key):
                own[key] = _short(json.dumps(recipe[key], sort_keys=True).encode())
        for target, path in _files(name, recipe, root):
            content = os.fsencode(f"{target}\0{_mode(path):o}\0") + _bytes(path)
            own[target if recipe.get("directory") else str(path.relative_to(root))] = _short(content)
        found[name] = own
    return found


def digest(own: dict[str, str]) -> str:
    """Return the digest of the inputs of one image."""
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def changes(before: str | None, own: dict[str, str]) -> list[str]:
    """Return how the inputs differ from the label of an image that was built earlier."""
    try:
        old = json.loads(before or "")
    except ValueError:
        return ["its inputs changed"]
    names = sorted(name for name in old.keys() | own.keys() if old.get(name) != own.get(name))
    return [
        f"{name} {'changed' if name in old and name in own else 'is new' if name in own else 'is gone'}"
        for name in names
    ] or ["its inputs changed"]


def version(recipe: dict[str, Any], root: Path) -> str:
    """Return the version of the distribution that the recipe names by its `version`."""
    with (root / recipe["version"]).open("rb") as stream:
        return str(tomllib.load(stream)["project"]["version"])


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def context(name: str, recipe: dict[str, Any], root: Path) -> bytes:
    """Return the build context as a reproducible tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for target, path in _files(name, recipe, root):
            member = tarfile.TarInfo(target)
            member.mode = _mode(path)
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(member)
                continue
            member.size = path.stat().st_size
            with path.open("rb") as stream:
                archive.addfile(member, stream)
    return buffer.getvalue()


def _bytes(path: Path) -> bytes:
    return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()


def _mode(path: Path) -> int:
    if path.is_symlink():
        return 0o777
    return 0o755 if path.stat().st_mode & 0o111 else 0o644


def _files(name: str, recipe: dict[str, Any], root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file of the context with its path there, in a fixed order."""
    if recipe.get("directory"):
        yield from _directory(name, recipe)
        return
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


def _directory(name: str, recipe: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield what Docker takes of a directory with a Dockerfile, by its `.dockerignore`."""
    directory, dockerfile = Path(recipe["directory"]), recipe["dockerfile"]
    if not (directory / dockerfile).is_file():
        raise RecipeError(
            f"recipes: {name}: {directory / dockerfile} does not exist on the machine that runs Ansible"
        )
    if exclude_paths is None:
        raise RecipeError(f"recipes: {name} needs the Python package docker on the machine that runs Ansible")
    ignored = directory / ".dockerignore"
    try:
        lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.is_file() else []
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipes: {name}: {ignored} is not UTF-8 text") from error
    patterns = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    for target in sorted(exclude_paths(str(directory), patterns, dockerfile=dockerfile)):
        path = directory / target
        if path.is_symlink() or path.is_file():
            yield target, path
        elif not path.is_dir():
            raise RecipeError(
                f"recipes: {name}: {path} is neither a file nor a directory; name it in .dockerignore"
            )
