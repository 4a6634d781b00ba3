# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which directory a deployment belongs to, by what an engine has of it; the engine is a double behind a real socket."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _owner
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError

PROJECT = "example"


class Engine:
    """The volumes and containers of an engine, each with its labels."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.volumes: dict[str, dict[str, str]] = {}
        self.containers: list[dict[str, Any]] = []

    def volume(self, name: str, **labels: str) -> None:
        """Make a volume of the project."""
        self.volumes[name] = {_owner.PROJECT: PROJECT, **labels}

    def container(self, config: Path) -> None:
        """Make a container of the project whose configuration comes from a directory."""
        mount = {"Type": "bind", "Source": str(config), "Destination": "/config"}
        self.containers.append({"Labels": {_owner.PROJECT: PROJECT}, "Mounts": [mount]})


class _Handler(http.server.BaseHTTPRequestHandler):
    engine: Engine

    def _answer(self, status: int, document: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        (label,) = json.loads(parse_qs(url.query)["filters"][0])["label"]
        name, _, value = label.partition("=")
        if url.path == "/volumes":
            listed = [{"Name": key, "Labels": labels} for key, labels in self.engine.volumes.items()]
            self._answer(200, {"Volumes": [item for item in listed if item["Labels"].get(name) == value]})
        else:
            found = [item for item in self.engine.containers if item["Labels"].get(name) == value]
            self._answer(200, found)

    def do_POST(self) -> None:
        volume = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # As the engine does, which leaves a volume as it is that exists already.
        self.engine.volumes.setdefault(volume["Name"], volume["Labels"])
        self._answer(201, volume)

    def do_DELETE(self) -> None:
        del self.engine.volumes[self.path.rpartition("/")[2]]
        self.send_response(204)
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(str(tmp_path / "docker.sock"))
    handler = type("Bound", (_Handler,), {"engine": engine})
    with socketserver.ThreadingUnixStreamServer(engine.socket, handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield engine
        server.shutdown()
        thread.join()


@pytest.fixture
def options(engine: Engine, tmp_path: Path) -> dict[str, Any]:
    return _options(engine, tmp_path / "mine")


def _options(engine: Engine, directory: Path) -> dict[str, Any]:
    directory.mkdir()
    return {
        "project": PROJECT,
        "directory": str(directory),
        "config_dir": str(directory / "state/config"),
        "data_dir": str(directory / "data"),
        "takeover": False,
        "socket": engine.socket,
    }


def _refused(options: dict[str, Any]) -> str:
    with pytest.raises(PhaseError) as refused:
        _owner.check(options)
    with pytest.raises(PhaseError):
        _owner.claim(options, check_mode=False)
    message = str(refused.value)
    assert options["directory"] in message
    assert "another deployment_project" in message
    assert "deployment_takeover" in message
    return message


def test_nothing_there_is_nobodys_and_is_claimed_once(engine: Engine, options: dict[str, Any]) -> None:
    _owner.check(options)
    told = _owner.claim(options, check_mode=True)
    assert not engine.volumes
    assert _owner.claim(options, check_mode=False) == told
    assert [(action["object"], action["action"]) for action in told] == [("volume", "create")]
    assert engine.volumes == {
        "example-owner": {_owner.PROJECT: PROJECT, _owner.DIRECTORY: options["directory"]}
    }
    assert _owner.claim(options, check_mode=False) == []


def test_a_deployment_of_another_directory_is_refused_by_both_names(
    engine: Engine, options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = _options(engine, tmp_path / "theirs")
    _owner.claim(theirs, check_mode=False)
    before = dict(engine.volumes)
    assert f"belongs to {theirs['directory']}; this run is that of {options['directory']}" in _refused(
        options
    )
    assert engine.volumes == before


def test_a_directory_that_is_gone_is_named_as_such(
    engine: Engine, options: dict[str, Any], tmp_path: Path
) -> None:
    engine.volume("example-owner", **{_owner.DIRECTORY: str(tmp_path / "gone")})
    assert f"belongs to {tmp_path}/gone, which no longer exists;" in _refused(options)


def test_a_takeover_that_is_meant_is_recorded(
    engine: Engine, options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = _options(engine, tmp_path / "theirs")
    _owner.claim(theirs, check_mode=False)
    (action,) = _owner.claim(options | {"takeover": True}, check_mode=False)
    assert action["reasons"] == [f"taken over from {theirs['directory']}"]
    assert _owner.claim(options, check_mode=False) == []
    assert options["directory"] in _refused(theirs)


def test_a_directory_is_the_same_by_another_path(
    engine: Engine, options: dict[str, Any], tmp_path: Path
) -> None:
    _owner.claim(options, check_mode=False)
    link = tmp_path / "link"
    link.symlink_to(options["directory"])
    assert _owner.claim(options | {"directory": str(link)}, check_mode=False) == []


def test_a_deployment_from_before_is_known_by_its_containers(
    engine: Engine, options: dict[str, Any], tmp_path: Path
) -> None:
    engine.container(tmp_path / "mine/state/config/haproxy")
    engine.volume("example-database")
    theirs = _options(engine, tmp_path / "theirs")
    assert f"belongs to {options['directory']}; this run" in _refused(theirs)
    assert len(_owner.claim(options, check_mode=False)) == 1


@pytest.mark.parametrize("trace", ["state/config", "data/cavern_data/cavern"])
def test_volumes_from_before_are_known_by_what_lies_in_their_directory(
    engine: Engine, options: dict[str, Any], trace: str
) -> None:
    engine.volume("example-database")
    assert "left the volumes example-database without its name" in _refused(options)
    Path(options["directory"], trace).mkdir(parents=True)
    _owner.check(options)


def test_other_projects_do_not_count(engine: Engine, options: dict[str, Any]) -> None:
    engine.volumes["other-owner"] = {_owner.PROJECT: "other", _owner.DIRECTORY: "/theirs"}
    _owner.check(options)


def test_without_an_engine_there_is_nothing_to_refuse(options: dict[str, Any], tmp_path: Path) -> None:
    assert _owner.check(options | {"socket": str(tmp_path / "none")}) is None
