# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a service's configuration files on the host with those wanted, and write them. Private to the collection."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError


@dataclass
class FileChange:
    """One file to be written, corrected or removed."""

    path: Path
    action: str
    reasons: list[str]
    effect: str
    secret: bool
    before: str = ""
    after: str = ""
    data: bytes | None = None
    mode: int = 0o444
    owner: int = 0
    group: int = 0


@dataclass
class FilePlan:
    """Changes of one service's files."""

    changes: list[FileChange] = field(default_factory=list)
    newest: dict[str, float] = field(default_factory=dict)
    """Time of the newest file (epoch, s) by what a change of it does to the container."""

    @property
    def effects(self) -> dict[str, list[str]]:
        """Names of the changed files by what the change does to the container."""
        found: dict[str, list[str]] = {}
        for change in self.changes:
            found.setdefault(change.effect, []).append(change.path.name)
        return found


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def content_of(item: dict[str, Any], check_mode: bool) -> bytes | None:
    """Return the wanted content; None in check mode for a source that an earlier phase has yet to create."""
    for name in ("content", "secret_content"):
        if item.get(name) is not None:
            return str(item[name]).encode()
    source = item.get("source")
    if source is None:
        raise PlanError(f"files: {item['path']} has neither content nor secret_content nor source")
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        if check_mode:
            return None
        raise PlanError(f"files: the source {source} of {item['path']} does not exist") from None


def _after(item: dict[str, Any], to_come: bool, data: bytes | None) -> str:
    return f"(the new {Path(item['source']).name})\n" if to_come else _text(data)


def plan_files(
    spec: dict[str, Any], config_dir: str, check_mode: bool, renewed: frozenset[str] = frozenset()
) -> FilePlan:
    """Compare the files below the service's configuration directory with those wanted. Raises PlanError.

    *renewed* are sources that earlier phases would replace in check mode, with content that is not known yet.
    """
    root = Path(config_dir) / spec["name"]
    plan = FilePlan()
    keep: set[Path] = set()
    for item in spec.get("files") or []:
        if ".." in Path(item["path"]).parts or Path(item["path"]).is_absolute():
            raise PlanError(f"files: {item['path']} must lie below the service's own directory")
        path = root / item["path"]
        keep.add(path)
        _plan_file(plan, path, item, check_mode, renewed)
    plan.changes += _surplus(root, keep)
    return plan


def _plan_file(
    plan: FilePlan, path: Path, item: dict[str, Any], check_mode: bool, renewed: frozenset[str]
) -> None:
    """Compare one file, and add what is to be done."""
    effect = item.get("on_change") or "restart"
    secret = bool(item.get("secret")) or item.get("secret_content") is not None
    to_come = item.get("source") in renewed
    data = None if to_come else content_of(item, check_mode)
    mode, owner, group = int(str(item.get("mode") or "0444"), 8), int(item["owner"]), int(item["group"])
    try:
        status = path.lstat()
        current = path.read_bytes() if path.is_file() else None
    except FileNotFoundError:
        status, current = None, None
    reasons = ["missing"]
    if status is not None:
        plan.newest[effect] = max(plan.newest.get(effect, 0.0), status.st_mtime)
        reasons = ["content"] if to_come or (data is not None and current != data) else []
        reasons += _attributes(status, mode, owner, group)
    if not reasons:
        return
    plan.changes.append(
        FileChange(
            path=path,
            action="create" if status is None else "update",
            reasons=reasons,
            effect=effect,
            secret=secret,
            before="" if secret else _text(current),
            after="" if secret else _after(item, to_come, current if data is None else data),
            data=data if data is not None else current,
            mode=mode,
            owner=owner,
            group=group,
        )
    )


def _attributes(status: os.stat_result, mode: int, owner: int, group: int) -> list[str]:
    """Return how permissions and owner differ."""
    reasons = []
    if status.st_mode & 0o7777 != mode:
        reasons.append(f"mode: {status.st_mode & 0o7777:04o} -> {mode:04o}")
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (owner, group):
        reasons.append(f"owner: {status.st_uid}:{status.st_gid} -> {owner}:{group}")
    return reasons


def _surplus(root: Path, keep: set[Path]) -> list[FileChange]:
    """Return the removal of every file below *root* that is not to be kept."""
    changes = []
    for path in sorted(root.rglob("*")) if root.is_dir() else []:
        if path.is_file() and path not in keep:
            secret = "secrets" in path.parts
            before = "" if secret else _text(path.read_bytes())
            changes.append(FileChange(path, "remove", ["no longer wanted"], "none", secret, before=before))
    return changes


def apply_files(plan: FilePlan, config_dir: str) -> None:
    """Carry out the changes: each file is written beside its place and renamed onto it."""
    root = Path(config_dir)
    for change in plan.changes:
        if change.action == "remove":
            change.path.unlink(missing_ok=True)
            continue
        missing = [parent for parent in change.path.parents if root in parent.parents and not parent.exists()]
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            # The service's own user walks in here; the state directory above is closed to others on the host.
            directory.chmod(0o755)
        staged = change.path.with_name(f".{change.path.name}.new")
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(change.data or b"")
            stream.flush()
            os.fsync(stream.fileno())
        if os.geteuid() == 0:
            os.chown(staged, change.owner, change.group)
        os.chmod(staged, change.mode)
        os.replace(staged, change.path)
