# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to Docker Engine by the Python library docker. Private to the collection."""

from __future__ import annotations

from typing import Any

try:
    import docker
except ImportError:
    docker = None


def connect(socket: str, timeout: float, **options: Any) -> Any:
    """Client of the Engine behind a Unix socket. Errors: DockerException."""
    client = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=timeout, **options)
    # All images that a build takes are on the host. The library would send it the credentials of every registry that
    # the user has, and fail where the program that keeps them is missing.
    client._set_auth_headers = lambda _headers: None
    return client


def pull(client: Any, image: str) -> Any:
    """Messages of a pull, with the user's credentials for the registry where they can be had. Errors: APIError."""
    try:
        return client.pull(image, stream=True, decode=True)
    except docker.errors.APIError:
        raise
    except docker.errors.DockerException:
        # The program that the user's configuration names for them is missing, or fails.
        return client.pull(image, stream=True, decode=True, auth_config={})
