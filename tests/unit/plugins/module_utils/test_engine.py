# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine's API over its socket, and the choice of how to start the Engine."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine


class _Engine(http.server.BaseHTTPRequestHandler):
    body = json.dumps({"Version": "26.1.5", "ApiVersion": "1.45"}).encode()
    container = json.dumps(
        {
            "Mounts": [
                {"Destination": "/srv/cavern", "Source": "/var/lib/docker/volumes/x/_data"},
                {"Destination": "/srv/cavern/data/rse_data", "Source": "/host_mnt/Users/ada/rse_data"},
            ]
        }
    ).encode()

    def do_GET(self) -> None:
        found = self.path in ("/version", "/containers/beside/json")
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.container if self.path.startswith("/containers/") and found else self.body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with socketserver.UnixStreamServer(path, _Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_answering_engine_tells_its_versions(engine: str) -> None:
    assert _engine.ask(engine) == _engine.Answer("26.1.5", "1.45")


def test_no_socket_and_dead_socket_are_no_answer(tmp_path: Path) -> None:
    assert _engine.ask(str(tmp_path / "none")) is None
    dead = str(tmp_path / "dead")
    with socketserver.UnixStreamServer(dead, _Engine):
        pass
    assert _engine.ask(dead) is None


def test_stranger_on_the_socket_is_no_answer(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Engine, "body", b"<html>")
    assert _engine.ask(engine) is None


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/srv/cavern", "/var/lib/docker/volumes/x/_data"),
        ("/srv/cavern/state/config/core", "/var/lib/docker/volumes/x/_data/state/config/core"),
        ("/srv/cavern/data/rse_data", "/host_mnt/Users/ada/rse_data"),
        ("/srv/cavern-two", None),
        ("/etc/ssl/certs/ca-certificates.crt", None),
    ],
)
def test_paths_of_a_container_are_found_where_the_engine_has_them(
    engine: str, monkeypatch: pytest.MonkeyPatch, path: str, there: str | None
) -> None:
    assert _engine.places(engine).find(path) == path
    monkeypatch.setenv(_engine.PLACE, "beside")
    assert _engine.places(engine).find(path) == there
    monkeypatch.setenv(_engine.PLACE, "unknown")
    with pytest.raises(_engine.EngineError, match="knows nothing of unknown"):
        _engine.places(engine)


@pytest.mark.parametrize(
    ("version", "minimum", "enough"), [("1.45", "1.41", True), ("1.41", "1.41", True), ("1.9", "1.41", False)]
)
def test_api_versions_compare_as_numbers(version: str, minimum: str, enough: bool) -> None:
    assert _engine.api_at_least(_engine.Answer("x", version), minimum) is enough


def test_ways_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd, script = tmp_path / "systemd", tmp_path / "docker"
    monkeypatch.setattr(_engine, "SYSTEMD", systemd)
    monkeypatch.setattr(_engine, "INIT_SCRIPT", script)
    assert _engine.starters() == ["dockerd"]
    script.touch()
    assert _engine.starters() == ["init script", "dockerd"]
    systemd.mkdir()
    assert _engine.starters() == ["systemd"]


def _program(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_engine, "SYSTEMD", tmp_path / "no-systemd")
    monkeypatch.setattr(_engine, "INIT_SCRIPT", tmp_path / "init")
    monkeypatch.setattr(_engine, "LOG_FILE", tmp_path / "dockerd.log")
    monkeypatch.setattr(_engine, "PID_FILE", tmp_path / "docker.pid")
    monkeypatch.setattr(_engine, "_path", lambda: f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_daemon_is_started_where_the_init_script_gives_up(without_systemd: Path) -> None:
    socket = without_systemd / "docker.sock"
    _program(without_systemd, "init", "echo 'ulimit: cannot modify limit' >&2; exit 1")
    server = without_systemd / "server.py"
    server.write_text(
        "import http.server, json, socketserver, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(json.dumps({'Version': '1', 'ApiVersion': '1.41'}).encode())\n"
        "    def address_string(self): return ''\n"
        f"socketserver.UnixStreamServer({str(socket)!r}, H).handle_request()\n"
    )
    _program(without_systemd, "dockerd", f"exec python3 {server}")
    assert _engine.start(str(socket), 20) == ("dockerd", _engine.Answer("1", "1.41"))


def test_failed_start_tells_every_way_and_the_log(without_systemd: Path) -> None:
    _program(without_systemd, "init", "echo 'ulimit: cannot modify limit' >&2; exit 1")
    _program(without_systemd, "dockerd", "echo 'no space left' >&2; exit 3")
    with pytest.raises(_engine.EngineError) as raised:
        _engine.start(str(without_systemd / "docker.sock"), 20)
    assert "ulimit: cannot modify limit" in str(raised.value)
    assert "dockerd: ended with code 3: no space left" in str(raised.value)
