# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prerequisites on a host: Docker Engine, Python libraries, directories and programs. Private to the collection."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pwd
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _acl, _apt, _engine, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._phase import PhaseError, Result

# Where the distribution's packages install Python libraries; a virtual environment has another prefix.
SYSTEM_PREFIX = "/usr"
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


ARGUMENT_SPEC: dict[str, Any] = {
    "socket": {"type": "path", "default": _engine.SOCKET},
    "minimum_api_version": {"type": "str", "default": "1.41"},
    "engine_packages": {
        "type": "list",
        "elements": "str",
        "default": ["docker.io", "docker-cli", "iptables", "ca-certificates"],
    },
    "python_libraries": {"type": "dict", "default": {}},
    "timeout": {"type": "int", "default": 120},
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "mode": {"type": "str"},
            "owner": {"type": "int"},
            "group": {"type": "int"},
            "former_owners": {"type": "list", "elements": "int", "default": []},
            "operator_reads": {"type": "bool", "default": False},
        },
    },
    "programs": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str", "required": True},
        },
    },
    "record": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


class HostError(Exception):
    """The host cannot be brought to the wanted state; the message says why and what to do."""


class Record:
    """Record of what this module created on the host: directories, and programs with the digest of their content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.directories: list[str] = list(content["directories"])
            self.programs: dict[str, str] = dict(content["programs"])
        except FileNotFoundError:
            self.directories, self.programs = [], {}
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"record: {path} is damaged ({error}); delete it to go on") from error
        self._saved = self._content()

    def save(self) -> None:
        """Write the record if it changed."""
        content = self._content()
        if content == self._saved:
            return
        _files.make_directory(self.path.parent, 0o700)
        _files.write_atomic(self.path, content, 0o600)

    def _content(self) -> bytes:
        content = {"directories": self.directories, "programs": self.programs}
        return json.dumps(content, indent=2).encode() + b"\n"


@dataclass(frozen=True)
class Attributes:
    """Wanted owner and permissions of a directory."""

    mode: int | None
    uid: int
    gid: int
    reader: int | None
    """uid of an operator who is to read it, too."""

    @classmethod
    def of(cls, path: Path, wanted: dict[str, Any], mode: int | None) -> Attributes:
        """Return those of a directory that exists; what is not wanted stays as it is."""
        status = path.stat()
        uid = status.st_uid if wanted["owner"] is None else wanted["owner"]
        gid = status.st_gid if wanted["group"] is None else wanted["group"]
        operator, _group = _files.owner_of(path.parent)
        return cls(
            mode, uid, gid, operator if wanted["operator_reads"] and operator not in (0, uid) else None
        )

    def differences(self, path: Path) -> list[str]:
        """Return how the directory differs."""
        status, reasons = path.stat(), []
        if self.mode is not None and status.st_mode & 0o7777 != self.mode:
            reasons.append(f"mode was {status.st_mode & 0o7777:04o}, wanted {self.mode:04o}")
        if (self.uid, self.gid) != (status.st_uid, status.st_gid):
            reasons.append(f"owner was {status.st_uid}:{status.st_gid}, wanted {self.uid}:{self.gid}")
        if self.reader is not None and not _acl.may_read(path, self.reader):
            reasons.append(f"the operator, uid {self.reader}, may not read it")
        return reasons

    def set(self, path: Path, former_owners: list[int]) -> None:
        """Set them, and give what one of the former owners has in the directory to its owner."""
        former = path.stat().st_uid
        if former != self.uid and former in former_owners:
            _files.hand_over(path, former, self.uid)
        os.chown(path, self.uid, self.gid)
        if self.mode is not None:
            path.chmod(self.mode)
        if self.reader is not None and not _acl.may_read(path, self.reader):
            _acl.let_read(path, self.reader)


class Host:
    """Compare the host with what is wanted, and install or create what is missing."""

    def __init__(self, module: AnsibleModule, options: dict[str, Any]) -> None:
        self.module = module
        self.options = options
        self.record = Record(Path(self.options["record"]))
        self.actions: list[dict[str, Any]] = []
        self.lists_are_fresh = False

    def converge(self) -> dict[str, Any]:
        self._check_engine(self.options["socket"])
        self._python_libraries()
        engine = self._engine()
        try:
            for directory in self.options["directories"]:
                self._directory(directory)
            for program in self.options["programs"]:
                self._program(program)
        finally:
            self.record.save()
        return {"engine": engine} if engine else {}

    def remove(self) -> None:
        """Remove the programs, and the directories in the record that are empty."""
        for name, digest in self.record.programs.items():
            path = Path(name)
            content = _files.read_bytes(path)
            if content is None:
                continue
            if _digest(content) != digest:
                self.module.warn(f"{path} stays: it was changed after it was installed")
                continue
            self._act("program", name, "remove", "state is absent")
            if not self.module.check_mode:
                path.unlink()
        if self.record.path.exists():
            self._act("file", str(self.record.path), "remove", "state is absent")
            if not self.module.check_mode:
                self.record.path.unlink()
        removed = {*self.record.programs, str(self.record.path)}
        for name in reversed(self.record.directories):
            path = Path(name)
            if not path.is_dir() or any(str(child) not in removed for child in path.iterdir()):
                continue
            removed.add(name)
            self._act("directory", name, "remove", "created by this module, and empty")
            if not self.module.check_mode:
                path.rmdir()

    def _engine(self) -> dict[str, str] | None:
        path = self.options["socket"]
        answer = _engine.ask(path)
        started_by = None
        if answer is None:
            if not _engine.installed():
                self._install("engine", self.options["engine_packages"], "Docker Engine is not installed")
            self._act("engine", "docker", "start", f"{path} does not answer")
            if self.module.check_mode:
                return None
            # Installing the package may have started it.
            started_by, answer = "package", _engine.ask(path, timeout=2)
            if answer is None:
                self._need_root("start Docker Engine")
                started_by, answer = _engine.start(path, self.options["timeout"])
        if not _engine.api_at_least(answer, self.options["minimum_api_version"]):
            raise HostError(
                f"Docker Engine {answer.version} is too old: its API is {answer.api_version}, "
                f"{self.options['minimum_api_version']} is needed"
            )
        facts = {"version": answer.version, "api_version": answer.api_version}
        return facts | {"started_by": started_by} if started_by else facts

    def _check_engine(self, path: str) -> None:
        """Refuse an Engine, if one answers, with which, or from where this runs, a deployment cannot work."""
        version, information, bridge = (
            (_engine.request(path, "GET", target) or (0, {}))[1]
            for target in ("/version", "/info", "/networks/bridge")
        )
        reason = _engine.unsuitable(version, information)
        if reason:
            raise HostError(reason)
        place = _engine.elsewhere(information, bridge)
        if place and _engine.PLACE not in os.environ:
            raise HostError(
                f"{place}, so that its network and files are not this machine's: deploy with inventory/desktop "
                "(docs/operator.md, Docker Desktop)"
            )

    def _python_libraries(self) -> None:
        missing = {
            name: package
            for name, package in self.options["python_libraries"].items()
            if importlib.util.find_spec(name) is None
        }
        if not missing:
            return
        if sys.prefix != SYSTEM_PREFIX:
            raise HostError(
                f"{sys.executable} lacks {', '.join(missing)}: install them there with "
                f"`{sys.executable} -m pip install {' '.join(missing)}`, or set ansible_python_interpreter "
                "to /usr/bin/python3, for which packages are installed"
            )
        self._install("python", list(missing.values()), f"the interpreter lacks {', '.join(missing)}")

    def _install(self, name: str, packages: list[str], reason: str) -> None:
        self._act("package", name, "install", reason)
        if self.module.check_mode:
            return
        if not _apt.available():
            raise HostError(
                f"{reason}, and this host has no apt-get to install {', '.join(packages)}: do it by hand"
            )
        self._need_root(f"install {', '.join(packages)}")
        timeout = self.options["timeout"]
        if not self.lists_are_fresh:
            _apt.update(timeout)
            self.lists_are_fresh = True
        offered = _apt.known(packages)
        if packages[0] not in offered:
            raise HostError(f"{reason}, and the package archives of this host do not offer {packages[0]}")
        if name == "engine" and APPARMOR.exists() and APPARMOR.read_text(encoding="ascii").strip() == "Y":
            # Without its parser, an Engine on a kernel with AppArmor cannot start a container.
            offered.append("apparmor")
        _apt.install(offered, timeout)

    def _directory(self, wanted: dict[str, Any]) -> None:
        path = Path(wanted["path"])
        mode = int(wanted["mode"], 8) if wanted["mode"] else None
        created = not path.exists()
        if created:
            self._act("directory", str(path), "create", "missing")
            if self.module.check_mode:
                return
            self._note(_files.make_directory(path, 0o755 if mode is None else mode))
        elif not path.is_dir():
            raise HostError(f"directories: {path} exists and is not a directory")
        attributes = Attributes.of(path, wanted, mode)
        reasons = attributes.differences(path)
        if not reasons:
            return
        if not created:
            self._act("directory", str(path), "update", *reasons)
        if not self.module.check_mode:
            attributes.set(path, wanted["former_owners"])

    def _program(self, wanted: dict[str, Any]) -> None:
        path = expand_home(wanted["path"])
        content = wanted["content"].encode()
        present = _files.read_bytes(path)
        noted = self.record.programs.get(str(path))
        if present == content and _files.mode_of(path) == 0o755:
            return
        if present is not None and present != content and noted != _digest(present):
            raise HostError(
                f"programs: {path} exists with other content that this module did not write; move it away"
            )
        self._act(
            "program", str(path), "create" if present is None else "update", _program_reason(present, content)
        )
        if self.module.check_mode:
            return
        self._note(_files.make_directory(path.parent))
        if present != content:
            self.record.programs[str(path)] = _digest(content)
        _files.write_atomic(path, content, 0o755)

    def _note(self, created: list[Path]) -> None:
        self.record.directories += [str(path) for path in created if str(path) not in self.record.directories]

    def _act(self, kind: str, name: str, action: str, *reasons: str) -> None:
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": list(reasons)})

    def _need_root(self, purpose: str) -> None:
        if os.geteuid() != 0:
            raise HostError(f"only root can {purpose}: use become")


def expand_home(path: str) -> Path:
    """Expand `~` to the home of the user who called sudo, or else of the present user."""
    if path != "~" and not path.startswith("~/"):
        return Path(path)
    user = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    home = pwd.getpwnam(user).pw_dir if user else pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home + path[1:])


def _program_reason(present: bytes | None, content: bytes) -> str:
    if present is None:
        return "missing"
    return "not executable for all" if present == content else "content changed"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _diff(actions: list[dict[str, Any]]) -> dict[str, str]:
    lines = [f"{a['action']} {a['object']} {a['name']}: {'; '.join(a['reasons'])}\n" for a in actions]
    return {"before_header": "host", "after_header": "host", "before": "", "after": "".join(lines)}


def run(module: AnsibleModule, options: dict[str, Any]) -> Result:
    """Bring the host to the wanted state."""
    for directory in options["directories"]:
        if directory["mode"] is not None and not re.fullmatch("0?[0-7]{3,4}", directory["mode"]):
            raise PhaseError(
                f"directories: mode {directory['mode']!r} of {directory['path']} is not octal; quote it"
            )
        if directory["operator_reads"] and int(directory["mode"] or "755", 8) & 0o050 != 0o050:
            raise PhaseError(
                f"directories: mode {directory['mode']!r} of {directory['path']} must let a group read and enter,"
                " which is the most that operator_reads can grant"
            )
    facts: dict[str, Any] = {}
    actions: list[dict[str, Any]] = []
    try:
        host = Host(module, options)
        actions = host.actions
        if options["state"] == "present":
            facts = host.converge()
        else:
            host.remove()
    except (HostError, _engine.EngineError, _apt.AptError, OSError) as error:
        raise PhaseError(str(error), actions=actions) from error
    return {
        "changed": bool(actions),
        "actions": actions,
        "diff": [_diff(actions)] if actions else [],
        **facts,
    }
