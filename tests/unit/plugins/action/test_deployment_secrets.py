# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets file: generated once, added to, rotated, overridden, and never shown."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.playbook.task import Task
from ansible_collections.skasrc.cavern.plugins.action.deployment_secrets import ActionModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _secrets
from iam.services.signer import Signer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/secrets.yml"


def run(path: Path, check: bool = False, **options: Any) -> dict[str, Any]:
    task = Task()
    task.action = "skasrc.cavern.deployment_secrets"
    task.args = {"path": str(path), **options}
    task.check_mode = check
    plugin = ActionModule(
        task=task,
        connection=MagicMock(),
        play_context=MagicMock(),
        loader=MagicMock(),
        templar=MagicMock(),
        shared_loader_obj=None,
    )
    result: dict[str, Any] = plugin.run(task_vars={})
    return result


def test_first_run_generates_every_secret_and_the_second_none(path: Path) -> None:
    first = run(path)
    assert first["changed"]
    assert first["created"] == list(_secrets.SECRETS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    content = path.read_bytes()
    again = run(path)
    assert not again["changed"]
    assert again["secrets"] == first["secrets"] == yaml.safe_load(content)
    assert path.read_bytes() == content


def test_none_are_made_for_a_deployment_of_another_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def execute(_action: ActionModule, **options: Any) -> dict[str, Any]:
        asked.append(options["module_args"])
        return {"failed": True, "msg": "it belongs to /theirs"}

    monkeypatch.setattr(ActionModule, "_execute_module", execute)
    owner = {"project": "example", "directory": "/mine", "config_dir": "/mine/state/config"}
    assert run(path, owner=owner)["msg"] == "it belongs to /theirs"
    assert asked[0]["directory"] == "/mine"
    assert not path.parent.exists()
    before = run(path)["secrets"]
    # Where none is made there is nothing to ask.
    assert run(path, owner=owner)["secrets"] == before
    assert len(asked) == 1
    assert run(path, owner=owner, rotate=["all"])["failed"]
    assert run(path)["secrets"] == before


def test_every_generated_secret_passes_its_own_check(path: Path) -> None:
    secrets = run(path)["secrets"]
    assert {name: kind.check(secrets[name]) for name, kind in _secrets.SECRETS.items()} == dict.fromkeys(
        _secrets.SECRETS
    )
    assert len(set(secrets.values())) == len(secrets)


def test_results_are_censored(path: Path) -> None:
    assert run(path)["_ansible_no_log"] is True


def test_only_missing_secrets_are_added(path: Path) -> None:
    secrets = run(path)["secrets"]
    kept = {name: value for name, value in secrets.items() if name != "rabbitmq_password"}
    path.write_text(yaml.safe_dump(kept | {"of_a_later_version": "kept"}))
    result = run(path)
    assert result["created"] == ["rabbitmq_password"]
    assert {name: result["secrets"][name] for name in kept} == kept
    assert yaml.safe_load(path.read_text())["of_a_later_version"] == "kept"


def test_rotation_replaces_what_is_named(path: Path) -> None:
    before = run(path)["secrets"]
    result = run(path, rotate=["iam_user_password", "iam_signing_key"])
    assert result["rotated"] == ["iam_signing_key", "iam_user_password"]
    changed = {name for name in before if before[name] != result["secrets"][name]}
    assert changed == {"iam_signing_key", "iam_user_password"}
    assert yaml.safe_load(path.read_text()) == result["secrets"]
    everything = run(path, rotate=["all"])["secrets"]
    assert not set(everything.values()) & set(result["secrets"].values())


def test_the_issuer_s_key_is_named_as_the_issuer_names_it(path: Path) -> None:
    first = run(path)
    signer = Signer("https://issuer", first["secrets"]["iam_signing_key"])
    assert first["issuer_key_id"] == signer.kid
    assert run(path, rotate=["iam_user_password"])["issuer_key_id"] == signer.kid
    assert run(path, rotate=["iam_signing_key"])["issuer_key_id"] != signer.kid


def test_overrides_win_and_are_not_written(path: Path) -> None:
    result = run(path, overrides={"rabbitmq_password": "mine"})
    assert result["secrets"]["rabbitmq_password"] == "mine"
    assert result["overridden"] == ["rabbitmq_password"]
    assert "rabbitmq_password" not in yaml.safe_load(path.read_text())
    assert not run(path, overrides={"rabbitmq_password": "mine"})["changed"]


def test_check_mode_writes_nothing_and_marks_what_is_thrown_away(path: Path) -> None:
    result = run(path, check=True)
    assert result["changed"]
    assert result["ephemeral"] == sorted(_secrets.SECRETS)
    assert set(result["secrets"]) == set(_secrets.SECRETS)
    assert not path.parent.exists()


def test_check_mode_on_a_complete_file_reports_no_change(path: Path) -> None:
    secrets = run(path)["secrets"]
    result = run(path, check=True)
    assert not result["changed"]
    assert result["ephemeral"] == []
    assert result["secrets"] == secrets


def test_loose_mode_is_repaired(path: Path) -> None:
    run(path)
    path.chmod(0o644)
    assert run(path, check=True)["changed"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert run(path)["changed"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_runs_at_the_same_time_agree(path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(path), range(4)))
    assert [result["changed"] for result in results].count(True) == 1
    assert all(result["secrets"] == results[0]["secrets"] for result in results)


def test_absent_deletes_the_file(path: Path) -> None:
    run(path)
    assert run(path, check=True, state="absent")["changed"]
    assert path.exists()
    assert run(path, state="absent")["changed"]
    assert not path.parent.exists()
    assert not run(path, state="absent")["changed"]


def test_absent_leaves_what_is_not_its_own(path: Path) -> None:
    run(path)
    other = path.with_name("other")
    other.write_text("")
    run(path, state="absent")
    assert list(path.parent.iterdir()) == [other]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not valid YAML near line"),
        ("- a\n", "must be a mapping"),
        ("rabbitmq_password: 12\n", "rabbitmq_password must be a text, not int"),
        ("rabbitmq_password: ''\n", "rabbitmq_password must not be empty"),
        ("preparer_credential_key: abc=\n", "preparer_credential_key must be 32 bytes"),
        ("vospace_preauth_key: abc\n", "vospace_preauth_key must be at least 64 hexadecimal"),
        ("iam_signing_key: abc\n", "iam_signing_key must be an RSA private key"),
        ("$ANSIBLE_VAULT;1.1;AES256\n3031\n", "is encrypted with Ansible Vault"),
    ],
)
def test_unusable_file_is_told_and_left_alone(path: Path, content: str, message: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(AnsibleActionFail, match=message) as raised:
        run(path)
    assert str(path) in str(raised.value)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"no_such": "x"}}, "overrides: unknown secret no_such"),
        (
            {"overrides": {"rabbitmq_password": "a b"}},
            "overrides: rabbitmq_password must not be empty or contain",
        ),
        ({"rotate": ["no_such"]}, "rotate: unknown secret no_such"),
    ],
)
def test_bad_options_name_the_field(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        run(path, **options)
    assert not path.exists()


def test_broken_yaml_does_not_quote_the_secret(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("rabbitmq_password: {hunter2\n")
    with pytest.raises(AnsibleActionFail) as raised:
        run(path)
    assert "hunter2" not in str(raised.value)
