# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until the container of a service is healthy. Private to the collection."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.engine import Engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Service

RESTARTS = 3
"""How often Docker may restart a container before the wait ends."""


def await_health(
    service: Service, engine: Engine, deadline: float, timeout: float, fresh: bool = False
) -> None:
    """Run the health check in the container until it passes: Docker's own first one comes an interval later.

    What Docker knows is enough where nothing was done, unless the answer must be *fresh*. *deadline* is the end of
    *timeout* seconds by time.monotonic. Raises ConvergeError.
    """
    pause, restarts = 0.1, None
    output = ""
    while True:
        inspect = engine.container(service.container)
        if inspect is None:
            raise ConvergeError(f"the container {service.container} has vanished")
        service.inspect = inspect
        if restarts is None:
            restarts = inspect["RestartCount"]
        if service.state.get("Running") and not service.state.get("Restarting"):
            health, output = _check(service, engine, fresh, output)
            if health is not None:
                service.health = health
                return
        if inspect["RestartCount"] >= restarts + RESTARTS or _ended(service):
            raise ConvergeError(_autopsy(service, engine, "does not stay up", output))
        if time.monotonic() > deadline:
            raise ConvergeError(_autopsy(service, engine, f"is not healthy after {timeout} s", output))
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)


def _check(service: Service, engine: Engine, fresh: bool, output: str) -> tuple[str | None, str]:
    """Return the health of a running container, None if it is not healthy, and the output of its last check."""
    test: list[str] | None = (service.spec.get("health") or {}).get("test")
    known: Any = (service.state.get("Health") or {}).get("Status")
    if not test or (known == "healthy" and not (service.action or fresh)):
        return known or "running", output
    try:
        passed, output = _docker.run_health_test(engine.client, service.container, test)
    except _docker.APIError as error:
        return None, _docker.explain(error)
    except ValueError as error:
        raise ConvergeError(str(error)) from error
    return ("healthy" if passed else None), output


def _ended(service: Service) -> bool:
    return service.state.get("Status") in ("exited", "dead") and service.options["restart_policy"] == "no"


def _autopsy(service: Service, engine: Engine, what: str, output: str) -> str:
    parts = [f"the container {service.container} {what}"]
    if output:
        parts.append(f"last health check: {output}")
    parts.append(f"last log lines:\n{engine.logs(service.container, tail=20)}")
    return "; ".join(parts)
