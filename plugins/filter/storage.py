# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From storage elements as an inventory states them to what the containers of services need to reach them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ansible.errors import AnsibleFilterError

# Credentials that others renew: their directory is mounted, since a new file is renamed over the old one.
RENEWED = ("token_file", "x509_proxy")
OF_CREDENTIAL = ("credential", "credential_file", "issuer", "client_id", "audience", "scope")
# Whatever is directly below these is one program's, or one user's, with all that is theirs.
_CROWDED = frozenset({"/dev", "/home", "/run/user", "/usr", "/var", "/var/run/user"})
# So are all directories at the root, and these.
_SHARED = frozenset({
    "/etc/grid-security", "/etc/pki", "/etc/ssl", "/etc/ssl/certs", "/etc/ssl/private",
    "/run/lock", "/run/secrets", "/run/user",
})  # fmt: skip


def mounted_directory(file: PurePosixPath) -> str:
    """Return the directory of a file, which is mounted as a whole. Raises ValueError for one that others use too."""
    directory = file.parent
    if ".." in file.parts:
        raise ValueError("must be a path without ..")
    if len(directory.parts) <= 2 or str(directory) in _SHARED or str(directory.parent) in _CROWDED:
        raise ValueError(
            f"its directory, {directory}, is mounted into containers with all that is in it, so that a renewed file is"
            f" seen; give it a directory of its own, such as /run/tokens/site/{file.name}"
        )
    return str(directory)


def rse_access(rses: list[dict[str, Any]], exchanges: bool = True) -> dict[str, list[Any]]:
    """Return settings of services, files and mounts of their containers, and URLs that they access.

    Files are stated by where they are on the machine, and come to the service where its container has them. A service
    that *exchanges* no tokens of users gets no credential for RSEs that are asked with those.
    """
    access: dict[str, list[Any]] = {"settings": [], "files": [], "mounts": [], "urls": []}
    for stated in rses:
        rse = {name: value for name, value in stated.items() if value is not None}
        name = rse.get("name")
        for option in ("ca_file", "credential_file"):
            if option in rse and not str(rse[option]).startswith("/"):
                raise AnsibleFilterError(
                    f"core_rses: {name}: {option}: {rse[option]!r} is not an absolute path on the machine"
                )
        if rse.get("credential") == "token_exchange" and not exchanges:
            rse = {option: value for option, value in rse.items() if option not in OF_CREDENTIAL}
        access["urls"] += [rse.get("url"), *rse.get("redirects", [])]
        if rse.get("credential") in ("client_credentials", "token_exchange") and "issuer" in rse:
            access["urls"].append(rse["issuer"])
        if "ca_file" in rse:
            path = f"rses/{name}/ca.pem"
            access["files"].append({"path": path, "source": rse["ca_file"]})
            rse["ca_file"] = f"/config/{path}"
        if "credential_file" in rse:
            file = PurePosixPath(rse["credential_file"])
            if rse.get("credential") in RENEWED:
                target = f"/rses/{name}"
                try:
                    source = mounted_directory(file)
                except ValueError as error:
                    raise AnsibleFilterError(f"core_rses: {name}: credential_file: {error}") from error
                access["mounts"].append(
                    {"type": "bind", "source": source, "target": target, "read_only": True}
                )
                rse["credential_file"] = f"{target}/{file.name}"
            else:
                path = f"rses/{name}/secret"
                access["files"].append({"path": path, "source": str(file), "mode": "0400", "secret": True})
                rse["credential_file"] = f"/config/{path}"
        access["settings"].append(rse)
    return access


class FilterModule:
    """Filters over storage elements."""

    def filters(self) -> dict[str, Any]:
        """Name the filters for Ansible."""
        return {"rse_access": rse_access}
