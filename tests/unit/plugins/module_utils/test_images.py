# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From recipes to builds: what is needed, in which order, and what makes an image stale."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes as _images
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COLLECTION = Path(__file__).parents[4]
SETTINGS = {"debian_suite": "trixie"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in {
        "files/proxy/Dockerfile": "FROM x",
        "app/one/src/one.py": "1",
        "app/two/src/two.py": "2",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.fixture
def recipes() -> dict[str, Any]:
    return {
        "base": {"packages": ["curl"], "users": {"cavern": 8000}},
        "proxy": {"from": "base", "files": {".": "files/proxy"}},
        "python": {"from": "base", "arguments": {"A": "1"}},
        "build": {"from": "base", "arguments": {"B": "1"}},
        "one": {"from": "python", "stages": {"BUILD": "build"}, "files": {"app/one": "app/one"}},
        "two": {"from": "python", "files": {"app/two": "app/two"}},
    }


def _parts(
    recipes: dict[str, Any], root: Path, settings: dict[str, str] = SETTINGS
) -> dict[str, dict[str, str]]:
    return _images.parts(recipes, _images.closure(recipes, list(recipes)), root, settings)


def _stale(
    recipes: dict[str, Any],
    root: Path,
    before: dict[str, dict[str, str]],
    settings: dict[str, str] = SETTINGS,
) -> set[str]:
    after = _parts(recipes, root, settings)
    return {name for name in before if _images.digest(after[name]) != _images.digest(before[name])}


@pytest.fixture
def before(recipes: dict[str, Any], root: Path) -> dict[str, dict[str, str]]:
    return _parts(recipes, root)


def test_closure_has_parents_first_and_nothing_else(recipes: dict[str, Any]) -> None:
    assert _images.closure(recipes, ["two", "proxy"]) == ["base", "python", "two", "proxy"]
    assert _images.closure(recipes, ["one"]) == ["base", "python", "build", "one"]


def test_circle_and_missing_parent_are_told(recipes: dict[str, Any]) -> None:
    recipes["base"]["from"] = "python"
    with pytest.raises(_images.RecipeError, match="python -> base -> python go round in a circle"):
        _images.closure(recipes, ["python"])
    recipes["base"]["from"] = "nothing"
    with pytest.raises(_images.RecipeError, match="base builds on nothing, for which there is no recipe"):
        _images.closure(recipes, ["base"])


def test_builds_that_others_wait_for_come_first(recipes: dict[str, Any]) -> None:
    pending = ["base", "proxy", "python", "one", "two"]
    assert _images.next_builds(recipes, pending, set(pending)) == ["base"]
    assert _images.next_builds(recipes, pending[1:], set(pending[1:])) == ["python", "proxy"]
    assert _images.next_builds(recipes, ["one", "two"], {"one", "two", "python"}) == []
    assert _images.next_builds(recipes, ["one", "two"], {"one", "two", "build"}) == ["two"]


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        ("files/proxy/Dockerfile", {"proxy"}),
        ("app/one/src/one.py", {"one"}),
        ("app/one/src/new.py", {"one"}),
        ("app/one/tests/test_one.py", set()),
        ("app/one/src/__pycache__/one.cpython-313.pyc", set()),
    ],
)
def test_only_images_with_a_changed_file_are_stale(
    recipes: dict[str, Any], root: Path, before: dict[str, dict[str, str]], path: str, stale: set[str]
) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("changed")
    assert _stale(recipes, root, before) == stale


def test_change_of_a_parent_reaches_its_children(
    recipes: dict[str, Any], root: Path, before: dict[str, dict[str, str]]
) -> None:
    recipes["python"]["arguments"] = {"A": "2"}
    assert _stale(recipes, root, before) == {"python", "one", "two"}
    recipes["python"]["arguments"] = {"A": "1"}
    recipes["build"]["arguments"] = {"B": "2"}
    assert _stale(recipes, root, before) == {"build", "one"}


def test_what_changed_is_told(recipes: dict[str, Any], root: Path, before: dict[str, dict[str, str]]) -> None:
    label = json.dumps(before["one"])
    (root / "app/one/src/one.py").write_text("2")
    (root / "app/one/src/new.py").touch()
    recipes["python"]["arguments"] = {}
    assert _images.changes(label, _parts(recipes, root)["one"]) == [
        "app/one/src/new.py is new",
        "app/one/src/one.py changed",
        "image python changed",
    ]
    (root / "app/one/src/one.py").unlink()
    assert "app/one/src/one.py is gone" in _images.changes(label, _parts(recipes, root)["one"])
    base = _parts(recipes, root, {"debian_suite": "bookworm"})["base"]
    assert _images.changes(json.dumps(before["base"]), base) == ["debian_suite changed"]


@pytest.mark.parametrize("label", [None, "", "no JSON"])
def test_an_image_that_does_not_tell_its_inputs_is_stale_all_the_same(label: str | None) -> None:
    assert _images.changes(label, {"app/one": "1"}) == ["its inputs changed"]


def test_version_is_that_of_the_distribution(root: Path) -> None:
    (root / "pyproject.toml").write_text('[project]\nname = "one"\nversion = "1.2.3"\n')
    assert _images.version({"version": "pyproject.toml"}, root) == "1.2.3"


def test_suite_packages_and_users_reach_everything(
    recipes: dict[str, Any], root: Path, before: dict[str, dict[str, str]]
) -> None:
    assert _stale(recipes, root, before, {"debian_suite": "bookworm"}) == set(before)
    recipes["base"]["packages"] = ["curl", "python3"]
    assert _stale(recipes, root, before) == set(before)
    recipes["base"] = {"packages": ["curl"], "users": {"cavern": 1234}}
    assert _stale(recipes, root, before) == set(before)


def test_executable_bit_counts_but_time_does_not(
    recipes: dict[str, Any], root: Path, before: dict[str, dict[str, str]]
) -> None:
    (root / "files/proxy/Dockerfile").touch()
    (root / "files/proxy/Dockerfile").chmod(0o664)
    assert _stale(recipes, root, before) == set()
    (root / "files/proxy/Dockerfile").chmod(0o755)
    assert _stale(recipes, root, before) == {"proxy"}


def test_context_is_a_reproducible_archive(recipes: dict[str, Any], root: Path) -> None:
    (root / "app/one/src/run").write_text("#!/bin/sh")
    (root / "app/one/src/run").chmod(0o700)
    content = _images.context("one", recipes["one"], root)
    (root / "app/one/src/one.py").touch()
    assert _images.context("one", recipes["one"], root) == content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {member.name: member.mode for member in archive} == {
            "app/one/src/one.py": 0o644,
            "app/one/src/run": 0o755,
        }


def test_missing_source_is_told(recipes: dict[str, Any], root: Path) -> None:
    recipes["one"]["files"] = {"app/one": "app/none"}
    with pytest.raises(_images.RecipeError, match="one needs app/none, which does not exist"):
        _parts(recipes, root)


def test_locked_requirements_serve_every_distribution() -> None:
    """A dependency that is not pinned would be missing in the images; run bin/lock-images after adding one."""
    locked = (COLLECTION / "roles/images/files/python-build/requirements.txt").read_text()
    pinned = {canonicalize_name(line.split("==")[0]): line for line in locked.splitlines() if "==" in line}
    projects = [
        tomllib.loads(path.read_text())["project"] for path in (COLLECTION / "app").glob("*/pyproject.toml")
    ]
    own = {canonicalize_name(project["name"]) for project in projects}
    for project in projects:
        for text in [*project["dependencies"], *project.get("optional-dependencies", {}).get("service", [])]:
            needed = Requirement(text)
            name = canonicalize_name(needed.name)
            if name not in own:
                version = pinned[name].split("==")[1].split()[0]
                assert needed.specifier.contains(version), (
                    f"{project['name']} needs {text}, {version} is pinned"
                )


def test_a_directory_with_a_dockerfile_is_its_own_context(recipes: dict[str, Any], tmp_path: Path) -> None:
    """What `.dockerignore` names is no part of it; links stay links."""
    for path, text in {
        "Dockerfile.site": "FROM x",
        ".dockerignore": "# notes\n*.md\nnotes/\n",
        "README.md": "a",
        "notes/a": "a",
        "src/run": "#!/bin/sh",
        "src/tests/data": "part of it, whatever it is called",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "src/run").chmod(0o700)
    (tmp_path / "src/link").symlink_to("run")
    site = {
        "directory": str(tmp_path),
        "dockerfile": "Dockerfile.site",
        "target": "",
        "stages": {"PYTHON": "python"},
    }
    recipes["site"] = site
    names = _images.closure(recipes, ["site"])
    assert names == ["base", "python", "site"]
    with tarfile.open(fileobj=io.BytesIO(_images.context("site", site, tmp_path / "none"))) as archive:
        found = {member.name: (member.mode, member.linkname) for member in archive}
    assert found == {
        ".dockerignore": (0o644, ""),
        "Dockerfile.site": (0o644, ""),
        "src/link": (0o777, "run"),
        "src/run": (0o755, ""),
        "src/tests/data": (0o644, ""),
    }

    def own() -> dict[str, str]:
        return _images.parts(recipes, names, tmp_path / "none", SETTINGS)["site"]

    before = own()
    (tmp_path / "README.md").write_text("b")
    assert own() == before
    (tmp_path / "src/run").write_text("#!/bin/bash")
    assert _images.changes(json.dumps(before), own()) == ["src/run changed"]
    site["target"] = "worker"
    assert "target is new" in _images.changes(json.dumps(before), own())
    site["dockerfile"] = "Dockerfile"
    with pytest.raises(_images.RecipeError, match=f"site: {tmp_path}/Dockerfile does not exist"):
        own()


def test_names_and_lists_of_any_bytes_in_a_directory(tmp_path: Path) -> None:
    """A name that is no UTF-8 is part of the context; a list that is none is refused by name."""
    (tmp_path / "Dockerfile").write_text("FROM x")
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / odd).write_text("x")
    (tmp_path / "link").symlink_to(odd)
    recipes = {"site": {"directory": str(tmp_path), "dockerfile": "Dockerfile"}}
    assert odd in _images.parts(recipes, ["site"], tmp_path, SETTINGS)["site"]
    with tarfile.open(fileobj=io.BytesIO(_images.context("site", recipes["site"], tmp_path))) as archive:
        assert {member.name for member in archive} == {"Dockerfile", odd, "link"}
    (tmp_path / ".dockerignore").write_bytes(b"caf\xe9")
    with pytest.raises(_images.RecipeError, match="dockerignore is not UTF-8 text"):
        _images.parts(recipes, ["site"], tmp_path, SETTINGS)
