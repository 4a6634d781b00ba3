# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate a deployment's settings by the roles' argument specs. Private to the collection.

Ansible checks a value as it coerces it, and then the roles use it as it was given: the text https://x passes for a
list, and would be joined letter by letter. Lists and dictionaries must therefore be given as such, at every depth. A
single value may be text, as `-e name=value` gives it: roles use booleans and numbers through the filters bool, int and
float alone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _schema

Spec = dict[str, Any]

CONTAINERS: dict[str, type] = {"list": list, "dict": dict}
# Settings of services that a variable gives, since more than the service goes by it.
GIVEN_BY: dict[str, dict[str, str]] = {
    "deployment_common_settings": {
        "public_url": "deployment_public_url",
        "oidc_issuer": "deployment_issuer",
        "traces_endpoint": "deployment_traces_endpoint",
    },
    "cavern_settings": {
        "vospace_resource_id": "cavern_resource_id",
        "vospace_aliases": "cavern_aliases",
        "vospace_operators": "cavern_operators",
        "vospace_metadata": "cavern_metadata",
        "vospace_root_owner": "cavern_root_owner",
        "vospace_root_owner_uid": "cavern_root_owner_uid",
        "vospace_root_owner_gid": "cavern_root_owner_uid",
        "vospace_allocation_parents": "cavern_allocation_parents",
        "vospace_default_quota_bytes": "cavern_default_quota_bytes",
        "vospace_pull_sources": "cavern_pull_sources",
        "vospace_rses": "core_rses",
        "vospace_push_destinations": "cavern_push_destinations",
    },
    "core_settings": {
        "prepare_data_approach": "core_approach",
        "supported_approaches": "core_supported_approaches",
        "cavern_api_url": "core_cavern_api_url",
        "abs_url_rse_root": "core_rse_url",
        "preparer_rses": "core_rses",
        "preparer_rucio_url": "core_rucio_url",
        "preparer_rucio_ca_file": "core_rucio_ca_file",
        "preparer_rucio_account": "core_rucio_account",
        "preparer_rucio_username": "core_rucio_username",
        "preparer_rucio_audience": "core_rucio_audience",
        "preparer_rucio_scope": "core_rucio_scope",
        "abs_path_rse_root": "core_rse_mount",
        "abs_path_user_area_root": "core_home_path",
        "preparer_vos_uri": "cavern_vos_uri",
        "preparer_sources": "cavern_pull_sources",
        "preparer_callback_hosts": "core_callback_hosts",
    },
    "posix_mapper_settings": {
        "posix_mapper_uid_start": "posix_mapper_uid_start",
        "posix_mapper_gid_start": "posix_mapper_gid_start",
        "posix_mapper_reserved_users": "cavern_root_owner",
    },
}
# Variables that have another name now.
RENAMED: dict[str, str] = {
    "cavern_catalogue": "<role>_services in the role of each service; what differs is deployment_service_overrides",
    "cavern_services": "deployment_catalogue",
    "cavern_audiences": "deployment_audiences",
    "cavern_authority": "deployment_authority",
    "cavern_build_ca_bundle": "deployment_build_ca_bundle",
    "cavern_ca_file": "deployment_ca_file",
    "cavern_catalogue_overrides": "deployment_service_overrides",
    "cavern_certificates_dir": "deployment_certificates_dir",
    "cavern_common_settings": "deployment_common_settings",
    "cavern_config_dir": "deployment_config_dir",
    "cavern_container_prefix": "deployment_container_prefix",
    "cavern_data_dir": "deployment_data_dir",
    "cavern_debian_mirror": "deployment_debian_mirror",
    "cavern_debian_suite": "deployment_debian_suite",
    "cavern_flavour": "deployment_flavour",
    "cavern_health_interval": "deployment_health_interval",
    "cavern_health_timeout": "deployment_health_timeout",
    "cavern_hosts_address": "deployment_hosts_address",
    "cavern_http_port": "deployment_http_port",
    "cavern_https_port": "deployment_https_port",
    "cavern_image_prefix": "deployment_image_prefix",
    "cavern_image_source": "deployment_image_source",
    "cavern_image_tag": "deployment_image_tag",
    "cavern_issuer": "deployment_issuer",
    "cavern_issuer_is_local": "deployment_issuer_is_local",
    "cavern_log_level": "deployment_log_level",
    "cavern_logs_dir": "deployment_logs_dir",
    "cavern_monitors": "deployment_monitors",
    "cavern_network": "deployment_network",
    "cavern_other_variables": "deployment_other_variables",
    "cavern_pip_index_url": "deployment_pip_index_url",
    "cavern_project": "deployment_project",
    "cavern_project_dir": "deployment_project_dir",
    "cavern_prune": "deployment_prune",
    "cavern_public_name": "deployment_public_name",
    "cavern_public_url": "deployment_public_url",
    "cavern_publish_address": "deployment_publish_address",
    "cavern_restrict_connections": "deployment_restrict_connections",
    "cavern_service_user": "deployment_service_user",
    "cavern_state_dir": "deployment_state_dir",
    "cavern_takeover": "deployment_takeover",
    "core_cavern_api_token": "cavern_administrator_token",
    "host_engine_socket": "deployment_engine_socket",
}
# Variables that were, and the setting of a service that does what each of them did.
FORMER: dict[str, str] = {
    "cavern_body_pace": "deployment_common_settings.body_pace",
    "cavern_body_patience": "deployment_common_settings.body_patience",
    "cavern_gms_delegated": "cavern_settings.vospace_gms_delegated",
    "cavern_job_retention": "cavern_settings.vospace_job_retention",
    "cavern_preauth_seconds": "cavern_settings.vospace_preauth_seconds",
    "cavern_pull_max_bytes": "cavern_settings.vospace_pull_max_bytes",
    "cavern_root_writers": "cavern_settings.vospace_root_writers",
    "cavern_self_allocate": "cavern_settings.vospace_self_allocate",
    "cavern_self_allocate_groups": "cavern_settings.vospace_self_allocate_groups",
    "cavern_workers": "cavern_settings.workers",
    "core_file_attempts": "core_settings.preparer_file_attempts",
    "core_file_concurrency": "core_settings.preparer_file_concurrency",
    "core_max_active": "core_settings.preparer_max_active",
    "core_max_body": "core_settings.preparer_max_body",
    "core_max_items": "core_settings.preparer_max_items",
    "core_max_rate": "core_settings.preparer_max_rate",
    "core_operator_groups": "core_settings.preparer_operator_groups",
    "core_outage": "core_settings.preparer_outage",
    "core_path_algorithm": "core_settings.preparer_path_algorithm",
    "core_path_check": "core_settings.preparer_path_check",
    "core_site_tasks": "core_settings.preparer_site_tasks",
    "core_user_tasks": "core_settings.preparer_user_tasks",
    "iam_max_lifetime": "iam_settings.iam_max_lifetime",
    "posix_mapper_operators": "posix_mapper_settings.posix_mapper_operators",
    "posix_mapper_registrars": "posix_mapper_settings.posix_mapper_registrars",
    "posix_mapper_workers": "posix_mapper_settings.workers",
}

# Names of variables, and not of the attributes of their values.
_WORDS = re.compile(r"(?<![\w.])[A-Za-z_]\w*")

NAMES = (
    (bool, "a truth value"),
    (str, "text"),
    (list, "a list"),
    (dict, "a dictionary"),
    (type(None), "nothing"),
)


def specs(root: Path) -> dict[str, dict[str, Spec]]:
    """Return the specification of every setting of the collection at *root*, by role and name."""
    return {
        file.parent.parent.name: yaml_load(file.read_bytes())["argument_specs"]["main"]["options"]
        for file in sorted(root.glob("roles/*/meta/argument_specs.yml"))
    }


def schemas(root: Path) -> dict[str, _schema.Schema]:
    """Return the JSON schema of each variable that holds the settings of a service, or another structured value."""
    return {file.stem: json.loads(file.read_bytes()) for file in sorted(root.glob("roles/*/files/*.json"))}


def unfit(name: str, schema: _schema.Schema, value: Any, resolve: Callable[[Any], Any]) -> Iterator[str]:
    """Yield what is invalid in the settings of a service."""
    if isinstance(value, dict):
        given_by = {**GIVEN_BY["deployment_common_settings"], **GIVEN_BY.get(name, {})}
        for key in sorted(set(value) & set(given_by)):
            yield f"{name}.{key}: is given by {given_by[key]}"
    yield from _schema.invalid(name, schema, value, resolve)


def unknown(given: Iterable[str], roles: dict[str, dict[str, Spec]]) -> Iterator[str]:
    """Yield which of the *given* names begin like a setting of a role but are unknown."""
    known = {name for options in roles.values() for name in options}
    beginnings = tuple(f"{role}_" for role in roles)
    for name in sorted(set(given) - known):
        if name in RENAMED | FORMER:
            yield f"{name}: is {(RENAMED | FORMER)[name]} now"
        elif name.startswith(beginnings):
            near = difflib.get_close_matches(name, sorted(known), n=1)
            yield f"{name}: there is no such setting" + (f"; is it {near[0]}?" if near else "")


def outdated(given: Mapping[str, Any]) -> Iterator[str]:
    """Tell which of the *given* variables' templates name a variable that has another name now."""
    for name, value in sorted(given.items()):
        for former in sorted(
            {found for text in _templates(value) for found in _WORDS.findall(text)} & RENAMED.keys()
        ):
            yield f"{name}: {former} in its value is {RENAMED[former]} now"


def _templates(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _templates(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _templates(item)


def misshapen(name: str, spec: Spec, value: Any, resolve: Callable[[Any], Any]) -> Iterator[str]:
    """Yield where a value is not the list or dictionary that it must be, or is one where it must not be.

    Templates are resolved by *resolve*, which raises LookupError where that is not possible yet.
    """
    try:
        value = resolve(value)
    except LookupError:
        return
    kind = spec.get("type", "str")
    if kind in CONTAINERS and not isinstance(value, CONTAINERS[kind]):
        yield f"{name}: {_what(value)} where a {kind} is wanted{_example(name, kind, value)}"
    elif kind == "list":
        inner = spec | {"type": spec.get("elements", "raw")}
        for place, item in enumerate(value):
            yield from misshapen(f"{name}[{place}]", inner, item, resolve)
    elif kind == "dict":
        for key, option in (spec.get("options") or {}).items():
            if value.get(key) is not None:
                yield from misshapen(f"{name}.{key}", option, value[key], resolve)
    elif kind != "raw" and isinstance(value, (list, dict)):
        yield f"{name}: {_what(value)} where a single value is wanted"
    elif kind not in ("raw", "bool") and isinstance(value, bool):
        text = kind in ("str", "path")
        yield f"{name}: {_what(value)} where {'text is wanted; put it into quotes' if text else 'a number is wanted'}"


def _what(value: Any) -> str:
    # Without the value, which may be a secret.
    return next((words for base, words in NAMES if isinstance(value, base)), "a number")


def _example(name: str, kind: str, value: Any) -> str:
    if kind != "list" or not isinstance(value, str) or not name.isidentifier():
        return ""
    items = [part.strip() for part in value.split(",") if part.strip()]
    return f": [{', '.join(items)}] in an inventory, -e '{json.dumps({name: items})}' on the command line"
