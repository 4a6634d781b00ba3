# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine as a program of the host: query its API without a library, and start it. Private to the collection."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = "/var/run/docker.sock"
PID_FILE = Path("/var/run/docker.pid")
LOG_FILE = Path("/var/log/dockerd.log")
INIT_SCRIPT = Path("/etc/init.d/docker")
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
INTERFACES = Path("/sys/class/net")
PLACE = "CAVERN_ENGINE_HOST"
"""Environment variable of the container beside an Engine that the connection plugin `engine` runs: its name."""


class EngineError(Exception):
    """Docker Engine cannot be reached or started; the message says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """Versions that the API reports."""

    version: str
    api_version: str


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    path: str, method: str, target: str, document: Any = None, timeout: float = 10.0
) -> tuple[int, Any] | None:
    """Send a request to the API behind a Unix socket; return status and document, None if nothing answers.

    Needs no library, unlike `_docker`. Raises EngineError if this user has no access to the socket.
    """
    connection = _SocketConnection(path, timeout)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    except PermissionError as error:
        raise EngineError(
            f"this user may not talk to {path}: use become, or add the user to the group docker"
        ) from error
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def ask(path: str, timeout: float = 10.0) -> Answer | None:
    """Return the version of the Engine behind a Unix socket, None if nothing answers.

    Raises EngineError if this user has no access to the socket.
    """
    answer = request(path, "GET", "/version", timeout=timeout)
    try:
        return answer and Answer(answer[1]["Version"], answer[1]["ApiVersion"])
    except (KeyError, TypeError):
        return None


def api_at_least(answer: Answer, minimum: str) -> bool:
    """Whether the API version, such as 1.41, is at least the minimum."""
    return _numbers(answer.api_version) >= _numbers(minimum)


def unsuitable(version: dict[str, Any], information: dict[str, Any]) -> str | None:
    """Return why no deployment works with an Engine that answers this to /version and /info, None if one does."""
    components = {component.get("Name") for component in version.get("Components") or []}
    if "Podman Engine" in components:
        return (
            "Podman answers in place of Docker Engine, which it resembles in part alone: install docker.io or Docker's "
            "own packages, and name that engine's socket in deployment_engine_socket"
        )
    if _has_option(information, "userns"):
        return (
            "Docker Engine maps the users of containers to others (userns-remap), so that files would have other "
            "owners than services and users: remove userns-remap from /etc/docker/daemon.json, or use an engine "
            "without it"
        )
    return None


def elsewhere(information: dict[str, Any], bridge: dict[str, Any]) -> str | None:
    """Return what keeps an Engine's network and files from being this machine's, None if nothing does.

    *bridge* is the Engine's own network as it answers to /networks/bridge.
    """
    system = str(information.get("OperatingSystem"))
    if "Docker Desktop" in system:
        return f"{system} runs Docker Engine in a virtual machine"
    if _has_option(information, "rootless"):
        return "Docker Engine is rootless"
    name = (bridge.get("Options") or {}).get("com.docker.network.bridge.name")
    if name and not (INTERFACES / name).exists():
        return f"Docker Engine runs on another machine, {information.get('Name')}: this one has no interface {name}"
    return None


def _has_option(information: dict[str, Any], name: str) -> bool:
    options = information.get("SecurityOptions") or []
    return any(option.split(",")[0] == f"name={name}" for option in options)


@dataclass(frozen=True)
class Places:
    """Where the Engine finds what this process finds at a path: elsewhere, if the process runs in a container."""

    mounts: tuple[tuple[str, str], ...] | None = None
    """Directories in the container, the deepest first, with what each is on the Engine's machine; None without one."""

    def find(self, path: str) -> str | None:
        """Return the path on the Engine's machine, None for a file that only the container has."""
        if self.mounts is None:
            return path
        for target, source in self.mounts:
            if path == target or path.startswith(f"{target}/"):
                return source + path[len(target) :]
        return None


HERE = Places()


def places(socket_path: str) -> Places:
    """Return where the Engine finds the files of this process. Raises EngineError."""
    container = os.environ.get(PLACE)
    if not container:
        return HERE
    answer = request(socket_path, "GET", f"/containers/{container}/json")
    if answer is None or answer[0] != http.client.OK:
        raise EngineError(f"{socket_path} knows nothing of {container}, in which this runs")
    mounts = [(mount["Destination"], mount["Source"]) for mount in answer[1]["Mounts"]]
    return Places(tuple(sorted(mounts, key=lambda mount: -len(mount[0]))))


def installed() -> bool:
    return _dockerd() is not None


def starters() -> list[str]:
    """Return the ways to start the Engine on this host, in the order to try them."""
    if SYSTEMD.is_dir():
        return ["systemd"]
    # Debian's script stops where the open files limit cannot be raised, hence the daemon itself after it.
    return ["init script", "dockerd"] if INIT_SCRIPT.exists() else ["dockerd"]


def start(path: str, timeout: float) -> tuple[str, Answer]:
    """Start the Engine and wait until its API answers; return the way that succeeded, and the answer."""
    deadline = time.monotonic() + timeout
    failures = []
    for starter in starters():
        try:
            process = _START[starter]()
            return starter, _await_answer(path, deadline, process)
        except EngineError as error:
            failures.append(f"{starter}: {error}")
    raise EngineError("; ".join(failures))


def _await_answer(path: str, deadline: float, process: subprocess.Popen[Any] | None) -> Answer:
    pause = 0.05
    while True:
        answer = ask(path)
        if answer:
            return answer
        if process and process.poll() is not None:
            raise EngineError(f"ended with code {process.returncode}: {_tail(LOG_FILE)}")
        if time.monotonic() > deadline:
            raise EngineError(f"{path} did not answer in time: {_log()}")
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _start_systemd() -> None:
    # A unit that failed too often refuses to start until it is reset.
    subprocess.run(
        ["systemctl", "reset-failed", "docker.service", "docker.socket"], capture_output=True, check=False
    )
    _run(["systemctl", "enable", "--now", "docker.service"])


def _start_init_script() -> None:
    _run([str(INIT_SCRIPT), "start"])


def _start_dockerd() -> subprocess.Popen[Any]:
    program = _dockerd()
    if program is None:
        raise EngineError("dockerd is not installed")
    # The daemon outlives this module: a session of its own, and no descriptor of ours.
    with LOG_FILE.open("ab") as log:
        return subprocess.Popen(
            [program, "--pidfile", str(PID_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=os.environ | {"PATH": _path()},
        )


_START = {"systemd": _start_systemd, "init script": _start_init_script, "dockerd": _start_dockerd}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": _path()}
        )
    except OSError as error:
        raise EngineError(str(error)) from error
    if done.returncode:
        detail = (done.stderr or done.stdout).strip()[-1000:]
        raise EngineError(f"{' '.join(command)} failed with code {done.returncode}: {detail}")


def _path() -> str:
    # Daemon and firewall tools are in sbin, which the PATH of a plain user lacks even after sudo -E.
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=_path())


def _log() -> str:
    if SYSTEMD.is_dir():
        done = subprocess.run(
            ["journalctl", "--unit", "docker", "--lines", "10", "--no-pager", "--output", "cat"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()
    return _tail(LOG_FILE)


def _tail(path: Path, size: int = 2000) -> str:
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except OSError:
        return f"no log in {path}"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
