# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From recipes to builds: what is needed, in which order, and what makes an image stale."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.skasrc.cavern.plugins.module_utils import _images

COLLECTION = Path(__file__).parents[4]
SETTINGS = {"suite": "trixie"}


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
        "one": {"from": "python", "files": {"app/one": "app/one"}},
        "two": {"from": "python", "files": {"app/two": "app/two"}},
    }


def _stale(
    recipes: dict[str, Any], root: Path, before: dict[str, str], settings: dict[str, str] = SETTINGS
) -> set[str]:
    after = _images.inputs(recipes, list(before), root, settings)
    return {name for name in before if after[name] != before[name]}


@pytest.fixture
def before(recipes: dict[str, Any], root: Path) -> dict[str, str]:
    return _images.inputs(recipes, _images.closure(recipes, list(recipes)), root, SETTINGS)


def test_closure_has_parents_first_and_nothing_else(recipes: dict[str, Any]) -> None:
    assert _images.closure(recipes, ["two", "proxy"]) == ["base", "python", "two", "proxy"]


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
    recipes: dict[str, Any], root: Path, before: dict[str, str], path: str, stale: set[str]
) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("changed")
    assert _stale(recipes, root, before) == stale


def test_change_of_a_parent_reaches_its_children(
    recipes: dict[str, Any], root: Path, before: dict[str, str]
) -> None:
    recipes["python"]["arguments"] = {"A": "2"}
    assert _stale(recipes, root, before) == {"python", "one", "two"}


def test_suite_packages_and_users_reach_everything(
    recipes: dict[str, Any], root: Path, before: dict[str, str]
) -> None:
    assert _stale(recipes, root, before, {"suite": "bookworm"}) == set(before)
    recipes["base"]["packages"] = ["curl", "python3"]
    assert _stale(recipes, root, before) == set(before)
    recipes["base"] = {"packages": ["curl"], "users": {"cavern": 1234}}
    assert _stale(recipes, root, before) == set(before)


def test_executable_bit_counts_but_time_does_not(
    recipes: dict[str, Any], root: Path, before: dict[str, str]
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
        _images.inputs(recipes, ["base", "python", "one"], root, SETTINGS)


def test_recipes_of_the_collection_serve_every_image_of_the_catalogue() -> None:
    recipes = yaml.safe_load((COLLECTION / "roles/images/vars/main.yml").read_text())["images_recipes"]
    catalogue = yaml.safe_load((COLLECTION / "roles/catalogue/defaults/main.yml").read_text())[
        "cavern_catalogue"
    ]
    names = _images.closure(recipes, sorted({service["image"] for service in catalogue.values()}))
    assert set(names) == set(recipes)
    assert len(set(_images.inputs(recipes, names, COLLECTION, SETTINGS).values())) == len(names)
