# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions and diffs of a run, as the module returns them. Private to the collection."""

from __future__ import annotations

import threading
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.files import FileChange
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.service import Service


class Report:
    """Actions and diffs of a run; in check mode those of the predicted run."""

    def __init__(self) -> None:
        """Begin without actions."""
        self.actions: list[dict[str, Any]] = []
        self.diffs: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def note(self, kind: str, name: str, action: str, reasons: list[str]) -> None:
        """Add an action."""
        with self._lock:
            self.actions.append({"object": kind, "name": name, "action": action, "reasons": reasons})

    def diff(self, header: str, before: str, after: str, after_header: str | None = None) -> None:
        """Add a diff."""
        headers = {"before_header": header, "after_header": after_header or header}
        self.diffs.append({**headers, "before": before, "after": after})

    def service(self, service: Service) -> None:
        """Add what is to be done for a service."""
        for change in service.files.changes:
            self._file(change)
        for name in service.volumes:
            self.note("volume", name, "create", ["missing"])
        for owned in service.owner_changes:
            before, after = f"owner: {owned.former}", f"owner: {owned.owner}"
            self.note("volume", owned.volume, "update", [f"{before} -> {owned.owner}"])
            self.diff(f"volume {owned.volume}", f"{before}\n", f"{after}\n")
        if service.action:
            self._container(service, service.action)

    def _file(self, change: FileChange) -> None:
        self.note("file", str(change.path), change.action, change.reasons)
        before, after = change.before, change.after
        if change.secret:
            before = "(secret)\n" if change.action != "create" else ""
            after = "(another secret)\n" if change.action != "remove" else ""
        if change.reasons not in (["content"], ["missing"], ["no longer wanted"]):
            before, after = before + "\n", after + "\n" + "\n".join(change.reasons) + "\n"
        self.diff(str(change.path), before, after)

    def _container(self, service: Service, action: str) -> None:
        self.note("container", service.container, action, service.reasons)
        before, after = "", ""
        for reason in service.reasons:
            old, arrow, new = reason.partition(" -> ")
            before += f"{old}\n" if arrow else ""
            after += f"{old.partition(':')[0]}: {new}\n" if arrow else f"{old}\n"
        header = f"container {service.container}"
        self.diff(header, before, after, f"{header} ({action})")
