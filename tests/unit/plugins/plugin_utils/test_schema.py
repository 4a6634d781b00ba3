# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of services against the schemas of their models: what is wrong is told by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _settings

ROOT = Path(__file__).parents[4]
SCHEMAS = _settings.schemas(ROOT)


def wrong(name: str, value: Any) -> list[str]:
    """What is wrong with the settings of a service."""

    def resolve(part: Any) -> Any:
        if part == "{{ later }}":
            raise LookupError
        return part

    return list(_settings.unfit(name, SCHEMAS[name], value, resolve))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "core_settings",
            {"preparer_max_item": 1},
            "preparer_max_item: there is no such setting; is it preparer_max_items?",
        ),
        ("core_settings", {"preparer_max_items": 0}, "core_settings.preparer_max_items: 0 is not at least 1"),
        (
            "core_rses",
            [{"name": "a,b", "url": "https://rse.example"}],
            "core_rses[0].name: 'a,b' does not match ^[A-Za-z0-9]",
        ),
        ("core_rses", [{"name": "a"}], "core_rses[0].url: is missing"),
        (
            "core_settings",
            {"preparer_max_items": "0"},
            "core_settings.preparer_max_items: 0 is not at least 1",
        ),
        (
            "core_settings",
            {"preparer_max_items": "many"},
            "core_settings.preparer_max_items: give a whole number",
        ),
        (
            "core_settings",
            {"preparer_max_items": True},
            "core_settings.preparer_max_items: give a whole number",
        ),
        ("core_settings", {"preparer_poll": 0}, "core_settings.preparer_poll: 0.0 is not more than 0"),
        (
            "core_settings",
            {"preparer_operator_groups": "a,b"},
            "preparer_operator_groups: give a list, such as [a, b]",
        ),
        (
            "core_settings",
            {"preparer_operator_groups": [1]},
            "preparer_operator_groups[0]: give text; put it into quotes",
        ),
        (
            "core_settings",
            {"preparer_path_check": "lax"},
            "preparer_path_check: 'lax' is none of strict, off",
        ),
        (
            "core_settings",
            {"preparer_path_check": False},
            "preparer_path_check: give text; put it into quotes",
        ),
        (
            "core_settings",
            {"preparer_callback_hosts": ["a"]},
            "preparer_callback_hosts: is given by core_callback_hosts",
        ),
        (
            "core_settings",
            {"cavern_api_token": "t"},
            "core_settings.cavern_api_token: is a secret; give it by secrets_overrides",
        ),
        ("core_settings", "preparer_max_items=1", "core_settings: give a dictionary"),
        ("cavern_settings", {"workers": 65}, "cavern_settings.workers: 65 is not at most 64"),
        (
            "cavern_settings",
            {"oidc_issuer": "https://x"},
            "cavern_settings.oidc_issuer: is given by deployment_issuer",
        ),
        ("iam_users", {"ada": {"groups": "staff"}}, "iam_users.ada.groups: give a list, such as [a, b]"),
        (
            "iam_users",
            {"ada": {"group": ["staff"]}},
            "iam_users.ada.group: there is no such setting; is it groups?",
        ),
        ("iam_clients", [{"client_id": "a", "grants": []}], "iam_clients[0].secret_file: is missing"),
        ("backup_databases", {"srcnodedb": "cavern"}, "backup_databases.srcnodedb: give a list"),
        ("postgres_settings", {"work_mem": ["1MB"]}, "postgres_settings.work_mem: give a single value"),
        (
            "secrets_overrides",
            {"iam_user_password": 12345},
            "iam_user_password: give text; put it into quotes",
        ),
        (
            "deployment_common_settings",
            {"oidc_require_audience": 2},
            "oidc_require_audience: give true or false",
        ),
        (
            "deployment_common_settings",
            {"vospace_gms": "a"},
            "deployment_common_settings.vospace_gms: there is no such setting",
        ),
    ],
)
def test_what_is_wrong_is_named(name: str, value: Any, message: str) -> None:
    (said,) = wrong(name, value)
    assert message in said
    assert said.startswith(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("core_settings", {}),
        ("core_settings", {"preparer_max_items": "5", "preparer_outage": 7, "preparer_operator_groups": []}),
        ("core_settings", {"preparer_max_items": "{{ later }}"}),
        ("core_settings", "{{ later }}"),
        ("deployment_common_settings", {"oidc_require_audience": "false", "oidc_algorithms": ["RS256"]}),
        ("iam_users", {"ada": {"groups": ["staff"]}, "grace": {}}),
        ("postgres_settings", {"work_mem": "1MB", "max_connections": 50, "jit": False}),
        ("posix_mapper_settings", {"posix_mapper_registrars": ["any"], "log_level": "DEBUG"}),
    ],
)
def test_what_is_right_passes(name: str, value: Any) -> None:
    assert wrong(name, value) == []


def test_every_schema_is_that_of_a_variable() -> None:
    assert set(SCHEMAS) <= {name for options in _settings.specs(ROOT).values() for name in options}


def test_every_former_variable_names_a_setting_that_there_is() -> None:
    for former, now in _settings.FORMER.items():
        variable, key = now.split(".")
        assert key in SCHEMAS[variable]["properties"], former


def test_every_setting_that_a_variable_gives_is_one() -> None:
    known = {name for options in _settings.specs(ROOT).values() for name in options}
    for name, given in _settings.GIVEN_BY.items():
        assert set(given) <= set(SCHEMAS[name]["properties"])
        assert set(given.values()) <= known


def test_every_renamed_setting_has_the_name_of_one_that_there_is() -> None:
    known = {name for options in _settings.specs(ROOT).values() for name in options}
    facts = {"cavern_catalogue", "cavern_services"}
    assert {name for former, name in _settings.RENAMED.items() if former not in facts} <= known
    assert not known & _settings.RENAMED.keys()
