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
    return docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=timeout, **options)
