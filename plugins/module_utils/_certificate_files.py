# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory of the certificates: reading, writing, and what is reported of it. Private to the collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _files, _x509

FIRST_IN_CHECK_MODE = ("serial", "fingerprint")


class CertificateDirectory:
    """Compare the files of a directory with wanted content, write what differs, and report it."""

    def __init__(self, module: AnsibleModule, path: Path, rotate: list[str]) -> None:
        """*rotate* names the pairs to replace although they are valid."""
        self.module = module
        self.path = path
        self.rotate = rotate
        self.actions: list[dict[str, Any]] = []
        self.diffs: list[dict[str, str]] = []

    def create(self) -> None:
        """Create the directory if it is missing."""
        if not self.path.is_dir():
            self.note("directory", str(self.path), "create", "missing")
            if not self.module.check_mode:
                _files.make_directory(self.path)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is none."""
        return _files.read_bytes(self.path / name)

    def certificates(self, name: str) -> list[Any]:
        """Return the certificates of a file."""
        return _x509.load_certificates(self.read(name))

    def load(self, name: str) -> _x509.Pair | None:
        """Return a certificate with its key, None if they are missing or invalid."""
        try:
            return _x509.load(self.read(f"{name}.pem"), self.read(f"{name}.key"))
        except ValueError:
            return None

    def pair(
        self, name: str, reason_to_issue: Callable[[_x509.Pair], str | None], issue: Callable[[], _x509.Pair]
    ) -> tuple[_x509.Pair, bool]:
        """Return the pair in the directory, or a new one if there is a reason to replace it, and whether it is new."""
        present = None
        try:
            present = _x509.load(self.read(f"{name}.pem"), self.read(f"{name}.key"))
            reason = "rotation was requested" if name in self.rotate else reason_to_issue(present)
        except ValueError as error:
            reason = str(error)
        if present is not None and reason is None:
            return present, False
        pair = issue()
        self.issued(name, present, pair, str(reason))
        return pair, True

    def issued(self, name: str, present: _x509.Pair | None, pair: _x509.Pair, reason: str) -> None:
        """Report a certificate that this run issues."""
        self.note("certificate", name, "create" if reason == "missing" else "reissue", reason)
        self._differs(name, present and present.certificate, self._text(pair.certificate, True))

    def installed(self, name: str, certificate: Any) -> None:
        """Report a certificate that was issued elsewhere, unless it is here already."""
        present = self.certificates(f"{name}.pem")
        if present != [certificate]:
            before = present[0] if present else None
            action, reason = ("update", "server_cert changed") if before else ("create", "missing")
            self.note("certificate", name, action, reason)
            self._differs(name, before, self._text(certificate, False))

    def _differs(self, name: str, present: Any, after: str) -> None:
        path = str(self.path / f"{name}.pem")
        before = "" if present is None else self._text(present, False)
        self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def remove(self, name: str, reason: str) -> None:
        """Remove a file if there is one."""
        path = self.path / name
        if path.exists():
            self.note("file", name, "remove", reason)
            if not self.module.check_mode:
                path.unlink()

    def derive(self, name: str, content: bytes, mode: int, source: str) -> None:
        """Write a file that is derived from others, if its bytes differ."""
        present = self.read(name)
        if present == content:
            self.write(name, None, mode)
            return
        self.note(
            "file",
            name,
            "create" if present is None else "update",
            "missing" if present is None else f"{source} changed",
        )
        self.write(name, content, mode)

    def write(self, name: str, content: bytes | None, mode: int) -> None:
        """Write new content, or correct the permissions."""
        path = self.path / name
        if content is not None:
            if not self.module.check_mode:
                _files.write_atomic(path, content, mode)
            return
        present = _files.mode_of(path)
        if present is not None and present != mode:
            self.note("file", name, "chmod", f"mode was {present:04o}, wanted {mode:04o}")
            if not self.module.check_mode:
                path.chmod(mode)

    def note(self, kind: str, name: str, action: str, reason: str) -> None:
        """Add an action."""
        self.actions.append({"object": kind, "name": name, "action": action, "reasons": [reason]})

    def facts(self, certificate: Any, new: bool) -> dict[str, Any]:
        """Return the properties of a certificate that are reported to users."""
        facts = _x509.describe(certificate)
        if new and self.module.check_mode:
            # What check mode issued is thrown away: its random parts tell nothing of the certificate to come.
            facts = {key: value for key, value in facts.items() if key not in FIRST_IN_CHECK_MODE}
        return facts

    def _text(self, certificate: Any, new: bool) -> str:
        return "".join(f"{key}: {value}\n" for key, value in self.facts(certificate, new).items())
