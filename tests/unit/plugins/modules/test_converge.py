# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes before the services in one run with them: in order, told truthfully, and up to where it can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import (
    _apt,
    _docker,
    _engine,
    _x509,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.project import Converger
from ansible_collections.skasrc.cavern.plugins.modules import converge

IMAGE = "cavern/proxy:local"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    return {
        "project": "example",
        "network": {"name": "example", "subnet": "203.0.113.0/24"},
        "config_dir": str(tmp_path / "state/config"),
        "host": {
            "record": str(tmp_path / "state/host.json"),
            "directories": [{"path": str(tmp_path / "data")}],
        },
        "certificates": {"directory": str(tmp_path / "state/certs"), "common_name": "a.example"},
        "hosts_entries": {"path": str(hosts), "entries": [{"address": "127.0.0.1", "names": ["a.example"]}]},
    }


@pytest.fixture
def services(tmp_path: Path) -> list[dict[str, Any]]:
    container = {"name": "proxy", "container": "proxy", "image": IMAGE, "address": "203.0.113.2"}
    return [container | {"files": [{"path": "ca.pem", "source": str(tmp_path / "state/certs/ca.pem")}]}]


class Idle:
    """An engine that has nothing of the deployment."""

    def ping(self) -> bool:
        return True

    def containers(self, **_options: Any) -> list[Any]:
        return []

    def inspect_network(self, _name: str) -> None:
        return None

    def inspect_image(self, image: str) -> None:
        raise _docker.NotFound(image)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "ask", lambda _path, timeout=10.0: _engine.Answer("26.1.5", "1.45"))
    monkeypatch.setattr(_docker, "connect", lambda _socket, _timeout, **_options: Idle())


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Docker Engine, and without the Python libraries that come with it."""
    monkeypatch.setattr(_engine, "ask", lambda _path, timeout=10.0: None)
    monkeypatch.setattr(_engine, "installed", lambda: False)
    monkeypatch.setattr(_docker, "LIBRARY_ERROR", "No module named 'docker'")
    monkeypatch.setattr(_x509, "CRYPTOGRAPHY_ERROR", "No module named 'cryptography'")


def _acts(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(action["action"], action["object"]) for action in result["actions"]]


@pytest.mark.usefixtures("answering")
def test_everything_in_order_and_once(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    checked = run_module(converge, check=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts"]
    result = run_module(converge, **options)
    assert result["actions"] == checked["actions"]
    objects = [action["object"] for action in result["actions"]]
    assert objects[:6] == ["directory", "directory", *["certificate"] * 3, "file"]
    assert set(objects[6:]) == {"file"}
    assert result["actions"][-1]["name"] == options["hosts_entries"]["path"]
    assert result["server"]["names"] == ["DNS:a.example", "DNS:localhost", "IP:127.0.0.1"]
    assert not run_module(converge, **options)["changed"]


@pytest.mark.usefixtures("answering")
def test_a_phase_that_fails_is_named_and_what_went_before_is_told(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    options["certificates"]["days"] = 10
    result = run_module(converge, **options)
    assert result["msg"].startswith("certificates: days: 10 must be more than renew_days")
    assert _acts(result) == [("create", "directory")]
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n"


@pytest.mark.usefixtures("answering")
def test_a_wrong_option_of_a_phase_is_named(run_module: Any, options: dict[str, Any]) -> None:
    options["certificates"]["key_type"] = "dsa"
    assert (
        "key_type must be one of: ec, rsa, got: dsa found in certificates"
        in run_module(converge, **options)["msg"]
    )


@pytest.mark.usefixtures("answering")
def test_check_mode_foresees_what_new_certificates_and_images_ask_of_services(
    run_module: Any,
    options: dict[str, Any],
    services: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreseen: list[Any] = []
    monkeypatch.setattr(Converger, "plan", lambda run: foreseen.append(run.renewed))
    recipes = {"proxy": {"inputs": "1", "parts": {}}}
    run_module(
        converge, check=True, **options, images={"images": [IMAGE], "recipes": recipes}, services=services
    )
    certificates = Path(options["certificates"]["directory"])
    assert {str(certificates / name) for name in ("ca.pem", "haproxy.pem", "ca-bundle.pem")} <= foreseen[
        0
    ].files
    assert foreseen[0].images == {IMAGE}


@pytest.mark.usefixtures("bare")
def test_check_mode_of_a_bare_machine_tells_everything(
    run_module: Any, options: dict[str, Any], services: list[dict[str, Any]], tmp_path: Path
) -> None:
    recipe = {"base": {"inputs": "1", "parts": {}}, "proxy": {"from": "base", "inputs": "2", "parts": {}}}
    images = {"images": [IMAGE], "recipes": recipe, "pip_index_url": "https://user:hunter2@pypi.example"}
    result = run_module(converge, check=True, **options, images=images, services=services)
    assert "hunter2" not in json.dumps(result)
    assert "msg" not in result, result["msg"]
    acts = {(a["action"], a["object"], a["name"]) for a in result["actions"]}
    assert acts >= {
        ("install", "package", "engine"),
        ("start", "engine", "docker"),
        ("create", "certificate", "ca"),
        ("build", "image", "cavern/base:local"),
        ("build", "image", IMAGE),
        ("create", "network", "example"),
        ("create", "file", f"{options['config_dir']}/proxy/ca.pem"),
        ("create", "container", "proxy"),
    }
    assert all(action["reasons"] for action in result["actions"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts"]


def test_what_was_installed_is_used_by_another_run(
    run_module: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = _engine.Answer("26.1.5", "1.45")
    monkeypatch.setattr(_engine, "ask", lambda _path, timeout=10.0: None)
    monkeypatch.setattr(_engine, "installed", lambda: False)
    monkeypatch.setattr(_engine, "start", lambda _path, _timeout: ("dockerd", answer))
    for name, act in {"available": lambda: True, "known": list, "update": lambda _: None}.items():
        monkeypatch.setattr(_apt, name, act)
    monkeypatch.setattr(_apt, "install", lambda _packages, _timeout: None)
    result = run_module(converge, **options)
    assert result["again"] == {"done": ["host"], "to_build": []}
    assert ("install", "package") in _acts(result)
    assert not (tmp_path / "state/certs").exists()


@pytest.mark.usefixtures("answering")
def test_contexts_are_asked_for_after_what_comes_before_them(
    run_module: Any, options: dict[str, Any]
) -> None:
    images = {"images": [IMAGE], "recipes": {"proxy": {"inputs": "1", "parts": {}}}}
    result = run_module(converge, **options, images=images)
    assert result["again"] == {"done": ["host", "certificates", "hosts_entries"], "to_build": ["proxy"]}
    assert "image" not in dict(map(reversed, _acts(result)))
