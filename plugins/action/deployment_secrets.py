# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import is_encrypted
from ansible.plugins.action import ActionBase
from ansible_collections.skasrc.cavern.plugins.module_utils import _files, _owner, _secrets

HEADER = """\
# The secrets of this deployment, generated. Keep this file out of version control; back it up with the data.
# Single values can be given by the variable secrets_overrides instead, say from Ansible Vault.
"""


class _Dumper(yaml.SafeDumper):
    """Write multi-line texts, such as PEM, as block scalars."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent_text)


class ActionModule(ActionBase):
    """Run on the controller: the secrets file belongs to the operator, not to the host that is deployed to."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "overrides": {"type": "dict", "default": {}, "no_log": True},
                "rotate": {"type": "list", "elements": "str", "default": []},
                "owner": {"type": "dict", "options": _owner.ARGUMENT_SPEC},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            }
        )
        if not _secrets.HAS_CRYPTOGRAPHY:
            raise AnsibleActionFail(
                f"{sys.executable} lacks the Python library cryptography: install it there"
            )
        path = Path(options["path"]).absolute()
        # Vault-encrypted and templated values arrive as subclasses of str that YAML could not write.
        overrides = {str(name): value for name, value in (options["overrides"] or {}).items()}
        try:
            if options["state"] == "absent":
                return self._remove(path)
            _secrets.check_names(overrides, "overrides")
            _secrets.check(overrides, "overrides")
            _secrets.check_names(set(options["rotate"]) - {"all"}, "rotate")
            # Nothing is written for another's deployment, not even a lock.
            if options["owner"] is not None and (options["rotate"] or self._missing(path, overrides)):
                found: dict[str, Any] = self._execute_module(
                    module_name="skasrc.cavern.deployment_owner",
                    module_args=options["owner"],
                    task_vars=task_vars,
                )
                if found.get("failed"):
                    return found
            return self._converge(path, overrides, options["rotate"])
        except _secrets.SecretError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(f"path: {path}: {error.strerror}") from error

    def _converge(self, path: Path, overrides: dict[str, str], rotate: list[str]) -> dict[str, Any]:
        check_mode = self._task.check_mode
        with contextlib.nullcontext() if check_mode else _locked(path):
            present = self._read(path)
            rotated = [n for n in _secrets.SECRETS if n in present and (n in rotate or "all" in rotate)]
            rotated = [name for name in rotated if name not in overrides]
            missing = [n for n in _secrets.SECRETS if n not in present and n not in overrides]
            new = {name: _secrets.SECRETS[name].generate() for name in (*rotated, *missing)}
            mode = _files.mode_of(path)
            loose = mode is not None and mode & 0o077
            if new and not check_mode:
                content = HEADER + yaml.dump(present | new, Dumper=_Dumper, sort_keys=True, width=1000)
                _files.write_atomic(path, content.encode(), 0o600)
            elif loose and not check_mode:
                path.chmod(0o600)
        secrets = present | new | {name: str(value) for name, value in overrides.items()}
        return {
            "changed": bool(new or loose),
            "path": str(path),
            "created": missing,
            "rotated": rotated,
            "overridden": sorted(overrides),
            "ephemeral": sorted(new) if check_mode else [],
            "secrets": secrets,
            "issuer_key_id": _secrets.key_id(secrets["iam_signing_key"]),
            # Callbacks show nothing of a result that succeeded; errors, which hold no value, are shown.
            "_ansible_no_log": True,
        }

    def _missing(self, path: Path, overrides: dict[str, str]) -> list[str]:
        present = self._read(path)
        return [name for name in _secrets.SECRETS if name not in present and name not in overrides]

    def _remove(self, path: Path) -> dict[str, Any]:
        present = [file for file in (path, _lock(path)) if file.exists()]
        if not self._task.check_mode:
            for file in present:
                file.unlink()
            if present:
                # Whatever else is in there stays, and so does the directory.
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
        return {"changed": bool(present), "path": str(path)}

    def _read(self, path: Path) -> dict[str, str]:
        content = _files.read_bytes(path)
        if content is None:
            return {}
        if is_encrypted(content):
            raise AnsibleActionFail(
                f"path: {path} is encrypted with Ansible Vault, so that no secret can be added to it. Leave "
                "it as it is generated, and give the values that you keep in a vault as "
                "secrets_overrides"
            )
        try:
            values = yaml.safe_load(content)
        except yaml.YAMLError as error:
            # The parser's own message quotes the line, and with it perhaps a secret.
            mark = getattr(error, "problem_mark", None)
            place = f" near line {mark.line + 1}" if mark else ""
            raise AnsibleActionFail(f"path: {path} is not valid YAML{place}") from None
        return _secrets.check({} if values is None else values, str(path))


def _lock(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock beside the file, so that two runs do not generate two sets of secrets."""
    _files.make_directory(path.parent, 0o700)
    descriptor = os.open(_lock(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
