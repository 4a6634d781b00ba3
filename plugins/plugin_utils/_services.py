# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles that provide services, and where each states its entries in the catalogue. Private to the collection.

The meta data of the role C(services) lists the collection's own. Further ones are named as Ansible names roles:
C(namespace.collection.role), or the name of a directory on the path of roles.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.module_utils.common.yaml import yaml_load
from ansible.utils.collection_loader._collection_finder import _get_collection_role_path

ROOT = Path(__file__).parents[2]


def own() -> list[str]:
    """Names of the collection's roles that provide services, without the collection's."""
    listed = yaml_load((ROOT / "roles/services/meta/main.yml").read_bytes())["dependencies"]
    return [short(entry["role"]) for entry in listed]


def short(role: str) -> str:
    """Name of a role without its collection; its variables begin with it."""
    return role.rpartition(".")[2]


def search_path(loader: Any) -> list[str]:
    """Return the search path of roles outside collections: beside the playbook, then Ansible's role path."""
    return [str(Path(loader.get_basedir(), "roles")), *C.config.get_config_value("DEFAULT_ROLES_PATH")]


def directory(role: str, path: Iterable[str]) -> Path:
    """Directory of a role of the collection's own, of another collection, or on a *path*."""
    if role in own():
        return ROOT / "roles" / role
    if "." in role:
        found = _get_collection_role_path(role)
        if found:
            return Path(found[1])
    else:
        for place in map(Path, path):
            if (place / role).is_dir():
                return place / role
    raise AnsibleError(f"{role}: no role of this name in {':'.join(path) or 'the collections'}")


def entries(role: str, file: Path) -> dict[str, dict[str, Any]]:
    """Return a role's services from a file, by key, with unrendered templates."""
    stated = (yaml_load(file.read_bytes()) or {}).get(f"{short(role)}_services")
    if not isinstance(stated, dict):
        raise AnsibleError(f"{role}: {short(role)}_services in {file} states no service")
    return stated


def statement(role: str, path: Iterable[str]) -> Path:
    """Return the file in which a role declares C(<role>_services)."""
    file = directory(role, path) / "vars/main.yml"
    if not file.is_file():
        raise AnsibleError(f"{role}: states no service in {file}")
    return file
