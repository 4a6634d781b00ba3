# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of Docker Engine, for a user whose configuration names a store of credentials that is not there."""

from __future__ import annotations

import base64
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker


class _Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str]]]

    def _answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        # A kept connection would keep its thread, and the end of the server.
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer({"Version": "26.1.5", "ApiVersion": "1.45"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].rpartition("v1.45")[2]
        self.asked.append((path, dict(self.headers)))
        self._answer({"stream": "done"})

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    path, asked = str(tmp_path / "docker.sock"), list[tuple[str, dict[str, str]]]()
    handler = type("Bound", (_Engine,), {"asked": asked})
    with socketserver.ThreadingUnixStreamServer(path, handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path, asked
        server.shutdown()
        thread.join()


@pytest.fixture
def client(tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "config.json").write_text('{"credsStore": "nowhere"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return _docker.connect(engine[0], timeout=10)


@pytest.mark.filterwarnings("ignore:docker-credential-nowhere")
def test_a_build_asks_for_no_credentials_and_sends_none(client: Any, engine: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with (tmp_path / "Dockerfile").open("rb") as recipe:
        assert list(client.build(fileobj=recipe, decode=True)) == [{"stream": "done"}]
    ((path, headers),) = engine[1]
    assert path == "/build"
    assert "X-Registry-Config" not in headers


@pytest.mark.filterwarnings("ignore:docker-credential-nowhere")
def test_a_pull_goes_on_without_them(client: Any, engine: Any) -> None:
    assert list(_docker.pull(client, "registry.example/image:1")) == [{"stream": "done"}]
    ((path, headers),) = engine[1]
    assert path == "/images/create"
    assert json.loads(base64.b64decode(headers["X-Registry-Auth"])) == {}
