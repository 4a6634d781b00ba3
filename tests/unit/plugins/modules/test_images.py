# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module against an Engine that keeps images in a dictionary."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._images import build as _build
from ansible_collections.skasrc.cavern.plugins.module_utils._images import bundle as _bundle
from ansible_collections.skasrc.cavern.plugins.module_utils._images import mmdebstrap as _mmdebstrap
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes as _images
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import ContentsError, Update
from ansible_collections.skasrc.cavern.plugins.module_utils._images.store import ImagesError
from ansible_collections.skasrc.cavern.plugins.module_utils._images.upkeep import Upkeep
from ansible_collections.skasrc.cavern.plugins.modules import images
from docker.errors import APIError, ImageNotFound

PROXY, SERVICE, FOREIGN = "cavern/proxy:local", "cavern/service:local", "registry.example.org/reg:1.2"


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file
    return file.read()


class Engine:
    """What the module asks of Docker's API."""

    base_url, api_version = "http+docker://localhost", "1.41"

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.builds: list[dict[str, Any]] = []
        self.pulled: list[str] = []
        self.pruned: list[str] = []
        self.in_use: set[str] = set()
        self.fault: str | None = None
        self.offers: dict[str, dict[str, str]] = {}

    def keep(self, image: str, labels: dict[str, str] | None = None, generation: int = 1) -> None:
        self.images[image] = {"Id": f"sha256:{image}/{generation}", "Size": 1, "Config": {"Labels": labels}}

    def inspect_image(self, image: str) -> dict[str, Any]:
        try:
            return self.images[image]
        except KeyError:
            raise ImageNotFound(image) from None

    def build(
        self, *, fileobj: io.BytesIO, tag: str, labels: dict[str, str], **options: Any
    ) -> Iterator[dict[str, str]]:
        with tarfile.open(fileobj=fileobj) as archive:
            files = {member.name: _content(archive, member.name) for member in archive}
        self.builds.append({"tag": tag, "files": files, **options})
        yield {"stream": "Step 1/2 : RUN something\n"}
        if self.fault:
            yield {"error": self.fault}
            return
        self.keep(tag, labels, len(self.builds))

    def import_image_from_stream(self, stream: Any, *, repository: str, tag: str, changes: list[str]) -> None:
        assert stream.read() == b"root file system"
        labels = dict(change.removeprefix("LABEL ").split("=", 1) for change in changes)
        self.keep(f"{repository}:{tag}", {key: json.loads(value) for key, value in labels.items()})

    def tag(self, image: str, repository: str, tag: str) -> None:
        self.images[f"{repository}:{tag}"] = self.images[image]

    def remove_image(self, image: str, noprune: bool = False) -> None:
        if image in self.in_use:
            raise APIError("", Mock(status_code=409), explanation="image is being used")
        del self.images[image]

    def prune_images(self, filters: dict[str, Any]) -> None:
        self.pruned.append(filters["label"])

    def pull(self, image: str, **_options: Any) -> Iterator[dict[str, str]]:
        if self.fault:
            yield {"error": self.fault}
            return
        self.pulled.append(image)
        self.keep(image)
        yield {"status": "done"}

    def load_image(self, stream: Any) -> Iterator[dict[str, str]]:
        with tarfile.open(fileobj=stream) as archive:
            saved = json.loads(_content(archive, "saved"))
        self.images.update(saved)
        yield {"stream": "done"}

    def version(self) -> dict[str, str]:
        return {"Arch": "amd64"}

    def get(self, url: str, params: dict[str, list[str]], **_options: Any) -> Any:
        assert url == "http+docker://localhost/v1.41/images/get"
        data = json.dumps({name: self.images[name] for name in params["names"]}).encode()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo("saved")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        return Mock(iter_content=lambda _size: iter([buffer.getvalue()]))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    @contextmanager
    def archive(_command: list[str], _environment: dict[str, str]) -> Iterator[io.BytesIO]:
        yield io.BytesIO(b"root file system")

    engine = Engine()
    monkeypatch.setattr(_docker, "connect", lambda _socket, _timeout: engine)
    monkeypatch.setattr(_build.Builder, "_need_mmdebstrap", lambda _self: None)
    monkeypatch.setattr(_mmdebstrap, "archive", archive)
    return engine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("proxy/Dockerfile", "service/Dockerfile", "app/main.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "ca.crt").write_text("the site's certificates")
    return tmp_path


@pytest.fixture
def options(root: Path) -> dict[str, Any]:
    return {
        "images": [PROXY, SERVICE],
        "ca_bundle": str(root / "ca.crt"),
        "bundle": str(root / "out/images.tar"),
    }


def _recipes(root: Path, build: bool = True) -> dict[str, Any]:
    """Recipes as the action plugin hands them over; to build, with contexts."""
    recipes: dict[str, Any] = {
        "base": {"packages": ["curl"]},
        "proxy": {"from": "base", "files": {".": "proxy"}},
        "tools": {"from": "base", "arguments": {"A": "1"}, "ca_bundle": True},
        "service": {
            "from": "base",
            "stages": {"BUILD": "tools"},
            "files": {".": "service", "app": "app"},
            "version": "1.2.3",
        },
    }
    parts = _images.parts(recipes, list(recipes), root, {"debian_suite": "trixie"})
    for name, recipe in recipes.items():
        recipe |= {"inputs": _images.digest(parts[name]), "parts": parts[name]}
        if build:
            context = root / f"{name}.tar"
            context.write_bytes(_images.context(name, recipe, root))
            recipe["context"] = str(context)
    return recipes


@pytest.fixture
def built(engine: Engine, run_module: Any, options: dict[str, Any], root: Path) -> dict[str, Any]:
    result: dict[str, Any] = run_module(images, **options, recipes=_recipes(root))
    return result


def _acts(result: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {action["name"]: (action["action"], action["reasons"]) for action in result["actions"]}


def test_everything_is_built_once(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    assert set(_acts(built)) == {f"cavern/{name}:local" for name in ("base", "proxy", "tools", "service")}
    assert built["changed"]
    assert set(engine.images) == set(_acts(built))
    assert built["images"] == {name: engine.images[name]["Id"] for name in (PROXY, SERVICE)}
    again = run_module(images, **options, recipes=_recipes(root, build=False))
    assert not again["changed"]
    assert again["diff"] == []


def test_parents_are_built_before_their_children(engine: Engine, built: dict[str, Any]) -> None:
    order = [build["tag"] for build in engine.builds]
    assert order.index("cavern/tools:local") < order.index(SERVICE)
    arguments = next(build["buildargs"] for build in engine.builds if build["tag"] == SERVICE)
    assert arguments == {"FROM": "cavern/base:local", "BUILD": "cavern/tools:local"}


def test_certificates_reach_only_the_builds_that_need_them(engine: Engine, built: dict[str, Any]) -> None:
    files = {build["tag"]: build["files"] for build in engine.builds}
    assert files["cavern/tools:local"]["ca-bundle.crt"] == b"the site's certificates"
    assert set(files[SERVICE]) == {"Dockerfile", "app/main.py"}


def test_labels_tell_inputs_and_version(engine: Engine, root: Path, built: dict[str, Any]) -> None:
    labels = engine.images[SERVICE]["Config"]["Labels"]
    assert labels[_images.LABEL] == _recipes(root)["service"]["inputs"]
    assert labels[_images.VERSION_LABEL] == "1.2.3"
    assert json.loads(labels[_images.PARTS_LABEL]).keys() >= {"app/main.py", "image base", "image tools"}


def test_without_contexts_the_module_asks_for_them(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    result = run_module(images, **options, recipes=_recipes(root, build=False))
    assert result["to_build"] == ["base", "proxy", "tools", "service"]
    assert engine.images == {}


def test_changed_file_is_told_and_nothing_else_is_built(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    (root / "app/main.py").write_text("changed")
    engine.builds.clear()
    checked = run_module(images, check=True, **options, recipes=_recipes(root))
    assert engine.builds == []
    assert _acts(checked) == {SERVICE: ("build", ["app/main.py changed"])}
    assert checked["diff"][0]["after"] == f"{SERVICE}: build (app/main.py changed)\n"
    result = run_module(images, **options, recipes=_recipes(root))
    assert result["actions"] == checked["actions"]
    assert [build["tag"] for build in engine.builds] == [SERVICE]
    assert set(engine.pruned) == {_images.LABEL, _images.STAGE_LABEL}


def test_children_of_a_missing_image_are_built_anew(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    del engine.images["cavern/tools:local"]
    result = run_module(images, **options, recipes=_recipes(root))
    assert _acts(result) == {
        "cavern/tools:local": ("build", ["missing"]),
        SERVICE: ("build", ["tools is built"]),
    }


def test_runs_build_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_build, "Path", lambda _directory, name: tmp_path / name)
    with (
        _build.alone(1),
        pytest.raises(ImagesError, match=r"another run has been building images for 0\.1 s"),
        _build.alone(0.1),
    ):
        pytest.fail("two at once")
    with _build.alone(0.1):
        pass


def test_image_that_goes_meanwhile_is_told(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    recipes = _recipes(root, build=False)
    recipes["service"]["context"] = str(root / "service.tar")
    del engine.images[PROXY]
    result = run_module(images, **options, recipes=recipes)
    assert result["msg"] == "proxy went or changed while this run began to build: run it again"


def test_proxy_and_index_reach_the_builds(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    run_module(
        images,
        **options,
        recipes=_recipes(root),
        proxy={"https_proxy": "http://proxy:3128", "no_proxy": ""},
        pip_index_url="https://index.example.org/simple",
    )
    for build in engine.builds:
        assert build["buildargs"]["HTTPS_PROXY"] == build["buildargs"]["https_proxy"] == "http://proxy:3128"
        assert "no_proxy" not in build["buildargs"]
        assert build["buildargs"]["PIP_INDEX_URL"] == "https://index.example.org/simple"


def test_failed_build_tells_its_last_lines(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    engine.fault = "returned a non-zero code: 1"
    result = run_module(images, **options, recipes=_recipes(root))
    assert result["failed"]
    assert "returned a non-zero code: 1\nStep 1/2 : RUN something" in result["msg"]
    assert PROXY not in engine.images


def test_failed_bootstrap_leaves_no_half_image(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def archive(_command: list[str], _environment: dict[str, str]) -> Iterator[io.BytesIO]:
        yield io.BytesIO(b"root file system")
        raise _mmdebstrap.MmdebstrapError("mmdebstrap failed: E: no such mirror")

    monkeypatch.setattr(_mmdebstrap, "archive", archive)
    result = run_module(images, **options, recipes=_recipes(root))
    assert result["msg"] == "cavern/base:local: mmdebstrap failed: E: no such mirror"
    assert engine.images == {}


def test_missing_certificates_are_told(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    (root / "ca.crt").unlink()
    result = run_module(images, **options, recipes=_recipes(root))
    assert result["msg"] == f"ca_bundle: {root}/ca.crt does not exist on this host"


def test_images_without_a_recipe_are_pulled_when_missing(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    options["images"] = [PROXY, FOREIGN]
    result = run_module(images, **options, recipes=_recipes(root))
    assert _acts(result) == {FOREIGN: ("pull", ["missing"])}
    assert not run_module(images, **options, recipes=_recipes(root))["changed"]
    assert engine.pulled == [FOREIGN]


def test_pulling_what_is_up_to_date_changes_nothing(
    engine: Engine, run_module: Any, options: dict[str, Any]
) -> None:
    options |= {"images": [FOREIGN], "source": "pull", "rebuild": True}
    assert run_module(images, **options)["changed"]
    assert not run_module(images, **options)["changed"]
    assert engine.pulled == [FOREIGN, FOREIGN]


def test_digest_is_what_is_pulled(engine: Engine, run_module: Any, options: dict[str, Any]) -> None:
    options |= {"images": ["registry.example.org:5000/a/reg:1.2@sha256:77"], "source": "pull"}
    run_module(images, **options)
    assert engine.pulled == ["registry.example.org:5000/a/reg@sha256:77"]


def test_prefix_without_a_registry_is_refused(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    result = run_module(images, **options, source="pull", recipes=_recipes(root))
    assert result["msg"].startswith("prefix: 'cavern' names no registry to pull from")
    assert engine.pulled == []


def test_what_the_registry_says_is_told(engine: Engine, run_module: Any, options: dict[str, Any]) -> None:
    engine.fault = "manifest unknown"
    options |= {"images": [FOREIGN], "source": "pull"}
    assert run_module(images, **options)["msg"] == f"{FOREIGN} cannot be pulled: manifest unknown"
    engine.pull = Mock(side_effect=APIError("404", Mock(status_code=404), explanation="no such host"))
    assert run_module(images, **options)["msg"] == f"{FOREIGN} cannot be pulled: no such host"


def test_bundle_is_written_once_and_restores_the_images(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    checked = run_module(images, check=True, **options, state="saved")
    assert not Path(options["bundle"]).exists()
    saved = run_module(images, **options, state="saved")
    assert saved["actions"] == checked["actions"]
    assert _acts(saved) == {options["bundle"]: ("save", ["missing"])}
    assert not run_module(images, **options, state="saved")["changed"]

    engine.images.clear()
    checked = run_module(images, check=True, **options, source="load", recipes=_recipes(root))
    assert engine.images == {}
    loaded = run_module(images, **options, source="load", recipes=_recipes(root))
    assert loaded["actions"] == checked["actions"]
    assert _acts(loaded) == {PROXY: ("load", ["missing"]), SERVICE: ("load", ["missing"])}
    assert loaded["images"] == built["images"]
    assert not run_module(images, **options, source="load", recipes=_recipes(root))["changed"]
    Path(options["bundle"]).unlink()
    assert not run_module(images, **options, source="load", recipes=_recipes(root))["changed"]


def test_newer_bundle_replaces_older_images(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    run_module(images, **options, state="saved")
    engine.keep(PROXY, {_images.LABEL: "older"}, 0)
    result = run_module(images, **options, source="load")
    assert _acts(result) == {PROXY: ("load", [f"differs from {options['bundle']}"])}
    assert engine.images[PROXY]["Id"] == built["images"][PROXY]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [PROXY, FOREIGN]}, f"has no {FOREIGN}; it has {PROXY}, {SERVICE}"),
        ({"bundle": "/nowhere/images.tar"}, "bundle: /nowhere/images.tar does not exist on this host"),
        ({"bundle": None}, "bundle: needed with source=load and state=saved"),
    ],
)
def test_bundle_that_cannot_serve_is_refused(
    engine: Engine,
    run_module: Any,
    options: dict[str, Any],
    built: dict[str, Any],
    change: dict[str, Any],
    message: str,
) -> None:
    run_module(images, **options, state="saved")
    engine.images.clear()
    result = run_module(images, **(options | change), source="load")
    assert message in result["msg"]
    assert engine.images == {}


def test_bundle_of_another_architecture_is_refused(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path
) -> None:
    contents = {"architecture": "arm64", "images": {PROXY: {}, SERVICE: {}}}
    _bundle.write(Path(options["bundle"]), contents, iter([b""]))
    result = run_module(images, **options, source="load")
    assert result["msg"] == f"bundle: {options['bundle']} is for arm64, this Engine for amd64"


def test_damaged_bundle_is_not_loaded(
    engine: Engine, run_module: Any, options: dict[str, Any], built: dict[str, Any]
) -> None:
    run_module(images, **options, state="saved")
    with Path(options["bundle"]).open("ab") as bundle:
        bundle.write(b"\0")
    engine.images.clear()
    assert "copy it again" in run_module(images, **options, source="load")["msg"]
    assert engine.images == {}


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        ("cavern/none:local", "cavern/none:local cannot be saved: not present"),
        ("cavern/proxy@sha256:77", "a bundle keeps tags, not digests; name it by a tag"),
    ],
)
def test_what_cannot_be_saved_is_told(
    engine: Engine, run_module: Any, options: dict[str, Any], needed: str, message: str
) -> None:
    engine.keep("cavern/proxy@sha256:77")
    options["images"] = [needed]
    assert message in run_module(images, **options, state="saved")["msg"]
    assert not Path(options["bundle"]).parent.exists()


def test_absent_deletes_all_but_what_is_in_use(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, built: dict[str, Any]
) -> None:
    engine.keep(FOREIGN)
    engine.in_use = {PROXY, "cavern/base:local"}
    result = run_module(images, **options, recipes=_recipes(root), state="absent")
    assert set(engine.images) == {FOREIGN, PROXY, "cavern/base:local"}
    assert set(_acts(result)) == {SERVICE, "cavern/tools:local"}
    assert f"{PROXY} stays: image is being used" in result["warnings"]
    engine.in_use.clear()
    run_module(images, **options, recipes=_recipes(root), state="absent")
    assert set(engine.images) == {FOREIGN}
    assert not run_module(images, **options, recipes=_recipes(root), state="absent")["changed"]


@pytest.mark.usefixtures("built")
def test_images_that_lack_updates_are_built_again_once(
    engine: Engine, run_module: Any, options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [Update("haproxy", "3.0.11-1", "3.0.11-1+deb13u2")]
    monkeypatch.setattr(Upkeep, "updates", lambda _self: {PROXY: waiting})
    # Nobody asks unless told to.
    assert not run_module(images, **options, recipes=_recipes(root, build=False))["changed"]
    options["updates"] = True
    reason = "updates of Debian wait: haproxy 3.0.11-1 -> 3.0.11-1+deb13u2"
    checked = run_module(images, check=True, **options, recipes=_recipes(root, build=False))
    assert _acts(checked) == {PROXY: ("build", [reason])}
    assert run_module(images, **options, recipes=_recipes(root, build=False))["to_build"] == ["proxy"]
    engine.builds.clear()
    assert _acts(run_module(images, **options, recipes=_recipes(root))) == {PROXY: ("build", [reason])}
    # What Docker keeps of the former build must not be taken for this one.
    assert [(build["tag"], build["nocache"]) for build in engine.builds] == [(PROXY, True)]
    # A mirror that lags behind the archive is no reason to build for ever.
    again = run_module(images, **options, recipes=_recipes(root))
    assert not again["changed"]
    assert f"{reason}; it was built for them before" in str(again["warnings"])


@pytest.mark.usefixtures("built")
def test_updates_of_the_base_bring_all_that_is_built_on_it(
    run_module: Any, options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [Update("openssl", "3.5.1-1", "3.5.1-1+deb13u1")]
    monkeypatch.setattr(
        Upkeep, "updates", lambda _self: {"cavern/base:local": waiting, PROXY: waiting, SERVICE: waiting}
    )
    acts = _acts(run_module(images, **options, updates=True, recipes=_recipes(root)))
    assert acts["cavern/base:local"][1] == ["updates of Debian wait: openssl 3.5.1-1 -> 3.5.1-1+deb13u1"]
    assert acts[PROXY] == ("build", ["base is built"])
    assert acts[SERVICE][1] == ["base is built", "tools is built"]


@pytest.mark.usefixtures("built")
def test_without_a_network_a_run_goes_on_as_if_nothing_waited(
    run_module: Any, options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def updates(_self: Upkeep) -> dict[str, list[Update]]:
        raise ContentsError("cavern/base:local: E: Temporary failure resolving")

    monkeypatch.setattr(Upkeep, "updates", updates)
    result = run_module(images, **options, updates=True, recipes=_recipes(root, build=False))
    assert not result["changed"]
    assert "is unknown: cavern/base:local: E: Temporary failure resolving" in str(result["warnings"])


@pytest.mark.usefixtures("built")
def test_images_from_elsewhere_are_told_to_lack_updates(
    run_module: Any, options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upkeep, "updates", lambda _self: {PROXY: [Update("haproxy", "1", "2")], SERVICE: []})
    result = run_module(images, **options, updates=True, recipes=_recipes(root, build=False), source="load")
    assert not result["changed"]
    assert f"updates of Debian wait for {PROXY} (1): bring images that have them" in str(result["warnings"])
