# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to Docker Engine's API by the Python library docker. Private to the collection.

What must work before the library is installed asks the API by `_engine`.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

docker: Any = None
errors: Any = None
LIBRARY_ERROR: str | None = None
"""Why the library cannot be imported, None if it can."""
try:
    docker = importlib.import_module("docker")
    errors = importlib.import_module("docker.errors")
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()


def _error(name: str) -> Any:
    """Return a class of the library's errors; without the library, one that nothing raises."""
    return getattr(errors, name, None) or type(name, (Exception,), {})


DockerException = _error("DockerException")
APIError = _error("APIError")
NotFound = _error("NotFound")


def connect(socket: str, timeout: float, **options: Any) -> Any:
    """Return a client of the Engine behind a Unix socket; each thread needs its own. Raises DockerException."""
    client = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=timeout, **options)
    # All images that a build takes are on the host. The library would send it the credentials of every registry that
    # the user has, and fail where the program that keeps them is missing.
    client._set_auth_headers = lambda _headers: None
    return client


def reach(socket: str, timeout: float, **options: Any) -> Any:
    """Return a client of the Engine, or None if none answers."""
    try:
        client = connect(socket, timeout, **options)
        client.ping()
    except DockerException:
        return None
    return client


def find(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a method of a client; return None if what it is about does not exist. Raises DockerException."""
    try:
        return function(*arguments, **options)
    except NotFound:
        return None


def explain(error: Exception) -> str:
    """Return what the Engine says of an error, without the library's own words where it says something."""
    return str(getattr(error, "explanation", None) or error)


def pull(client: Any, image: str) -> Any:
    """Return the messages of a pull, with the user's credentials for the registry if there are any. Raises APIError."""
    try:
        return client.pull(image, stream=True, decode=True)
    except APIError:
        raise
    except DockerException:
        # The program that the user's configuration names for them is missing, or fails.
        return client.pull(image, stream=True, decode=True, auth_config={})


def execute(
    client: Any, container: str, command: list[str], environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command in a container and return its exit code and output. Raises DockerException."""
    created = client.exec_create(container, command, **({"environment": environment} if environment else {}))
    output = client.exec_start(created["Id"])
    code = client.exec_inspect(created["Id"])["ExitCode"]
    return (1 if code is None else code), output.decode(errors="replace").strip()


def sample(client: Any, container: str) -> dict[str, Any]:
    """Return one sample of what a running container uses, without the second that a rate takes. Raises DockerException.

    The library's own method takes C(one_shot) from version 6.1 on.
    """
    answer = client._get(
        client._url("/containers/{0}/stats", container), params={"stream": False, "one-shot": True}
    )
    found: dict[str, Any] = client._result(answer, json=True)
    return found


def run_health_test(client: Any, container: str, test: list[str]) -> tuple[bool, str]:
    """Run a health test, as `docker inspect` shows it, in its container; return whether it passed, and its output.

    Raises ValueError for a test of another kind than CMD and CMD-SHELL, DockerException.
    """
    kind, *command = test
    if kind not in ("CMD", "CMD-SHELL"):
        raise ValueError(f"health.test must begin with CMD or CMD-SHELL, not {kind!r}")
    code, output = execute(client, container, ["/bin/sh", "-c", *command] if kind == "CMD-SHELL" else command)
    return code == 0, output
