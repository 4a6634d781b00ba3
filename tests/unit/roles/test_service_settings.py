"""Every setting of every service can be given by an inventory, and is what the service then goes by."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _settings

pytest.importorskip("rendering", reason="ansible-test runs these files without the playbooks' environment")

from iam.config import IamSettings
from posix_mapper.config import PosixMapperSettings
from preparer.config import PreparerSettings
from rendering import render
from voservice.config import ServiceSettings, load
from voservice.storage_elements import StorageElement
from vospace.config import Settings

ROOT = Path(__file__).parents[3]
SCHEMAS = _settings.schemas(ROOT)
SERVICES: dict[str, tuple[str, type[ServiceSettings]]] = {
    "core": ("core_settings", PreparerSettings),
    "celery_worker": ("core_settings", PreparerSettings),
    "cavern": ("cavern_settings", Settings),
    "iam": ("iam_settings", IamSettings),
    "posix_mapper": ("posix_mapper_settings", PosixMapperSettings),
}
RSES = [
    {
        "name": "A",
        "url": "https://rse.example:1094/data",
        "ca_file": "/etc/grid/ca.pem",
        "credential": "token_file",
        "credential_file": "/run/tokens/a/token",
    },
    {
        "name": "B",
        "url": "https://other.example",
        "layout": "none",
        "credential": "client_credentials",
        "credential_file": "/etc/b",
        "client_id": "b",
        "rate": 5,
    },
]

RUCIO = {
    "core_rucio_url": "https://rucio.example",
    "core_rucio_ca_file": "/etc/grid/rucio.pem",
    "core_rucio_account": "site",
    "core_rucio_username": "site-user",
    "core_rucio_password": "a password",
}

TRACES = {
    "deployment_traces_endpoint": "https://collector.example:4318/otlp",
    "deployment_traces_token": "a token",
}


# Of settings that not every text is a value of.
VALUES: dict[str, Any] = {"trusted_proxies": ["172.26.0.2", "10.244.0.0/16"]}


def another(field: dict[str, Any]) -> Any:
    """Return a value of a setting that is not its default, where that is easily told."""
    default = field.get("default")
    if field["type"] == "boolean":
        return not default
    if "enum" in field:
        return next(choice for choice in reversed(field["enum"]) if choice != default)
    if field["type"] in ("integer", "number"):
        return default + 1 if default + 1 <= field.get("maximum", default + 1) else default - 1
    if field["type"] == "array":
        return list(reversed(default)) if default else ["given"]
    return default if default is not None else "given"


def given(variable: str) -> dict[str, Any]:
    """Return other values for all settings that no variable of the deployment gives."""
    elsewhere = {**_settings.GIVEN_BY["deployment_common_settings"], **_settings.GIVEN_BY.get(variable, {})}
    return {
        name: VALUES[name] if name in VALUES else another(field)
        for name, field in SCHEMAS[variable]["properties"].items()
        if name not in elsewhere
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the services' containers are made of, where an inventory gives all settings."""
    output = tmp_path_factory.mktemp("rendered") / "services.json"
    variables = (
        {variable: given(variable) for variable, _model in SERVICES.values()}
        | {"core_rses": RSES}
        | RUCIO
        | TRACES
    )
    done: subprocess.CompletedProcess[str] = render(output, json.dumps(variables))
    assert done.returncode == 0, done.stdout + done.stderr
    return {service["name"]: service for service in json.loads(output.read_text())}


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_reaches_its_service(
    rendered: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    variable, model = SERVICES[service]
    files = {file["path"]: file for file in rendered[service]["files"]}
    (tmp_path / "secrets").mkdir()
    for path, file in files.items():
        if path.startswith("secrets/"):
            assert file["mode"] == "0400"
            (tmp_path / path).write_text(file["secret_content"])
    (tmp_path / "settings.yml").write_text(files["settings.yml"]["content"])
    monkeypatch.setenv("SETTINGS_FILE", str(tmp_path / "settings.yml"))
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))
    settings = load(model).model_dump(mode="json")
    assert {name: settings[name] for name in given(variable)} == given(variable)
    # No secret is told in a file that may be shown.
    assert not set(SCHEMAS[variable]["x-secrets"]) & set(yaml.safe_load(files["settings.yml"]["content"]))


def test_a_service_goes_by_its_own_where_all_have_another(tmp_path: Path) -> None:
    output = tmp_path / "services.json"
    variables = {
        "deployment_common_settings": {"log_level": "ERROR", "oidc_require_audience": False},
        "iam_settings": {"log_level": "DEBUG"},
    }
    assert render(output, json.dumps(variables)).returncode == 0
    found = {
        service["name"]: yaml.safe_load(file["content"])
        for service in json.loads(output.read_text())
        for file in service["files"]
        if file["path"] == "settings.yml"
    }
    assert {name: settings["log_level"] for name, settings in found.items()} == {
        "core": "ERROR",
        "celery_worker": "ERROR",
        "cavern": "ERROR",
        "posix_mapper": "ERROR",
        "iam": "DEBUG",
    }
    assert not any(settings["oidc_require_audience"] for settings in found.values())


def test_what_is_wrong_is_refused_before_anything_starts(tmp_path: Path) -> None:
    output = tmp_path / "services.json"
    variables = {"core_settings": {"preparer_max_item": 1}, "cavern_settings": {"workers": "none"}}
    refused = render(output, json.dumps(variables), "core_max_items=5")
    said = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "core_settings.preparer_max_item: there is no such setting; is it preparer_max_items?" in said
    assert "cavern_settings.workers: give a whole number" in said
    assert "core_max_items: is core_settings.preparer_max_items now" in said
    assert not output.exists()


def test_rucio_reaches_the_api(rendered: dict[str, dict[str, Any]]) -> None:
    files = {file["path"]: file for file in rendered["core"]["files"]}
    settings = yaml.safe_load(files["settings.yml"]["content"])
    assert settings["preparer_rucio_url"] == "https://rucio.example"
    assert (settings["preparer_rucio_account"], settings["preparer_rucio_username"]) == ("site", "site-user")
    assert settings["preparer_rucio_ca_file"] == "/config/rucio-ca.pem"
    assert files["rucio-ca.pem"]["source"] == "/etc/grid/rucio.pem"
    assert files["secrets/preparer_rucio_password"]["secret_content"] == "a password"


@pytest.mark.parametrize("service", ["core", "celery_worker", "cavern", "posix_mapper", "iam"])
def test_every_service_of_our_own_knows_the_collector(
    rendered: dict[str, dict[str, Any]], service: str
) -> None:
    files = {file["path"]: file for file in rendered[service]["files"]}
    settings = yaml.safe_load(files["settings.yml"]["content"])
    assert settings["traces_endpoint"] == "https://collector.example:4318/otlp"
    assert files["secrets/traces_key"]["secret_content"] == "trace_key"
    assert files["secrets/traces_token"]["secret_content"] == "a token"


def test_a_collectors_address_is_a_url(tmp_path: Path) -> None:
    output = tmp_path / "services.json"
    done = render(output, json.dumps({"deployment_traces_endpoint": "collector:4318"}))
    assert done.returncode != 0
    assert "collector:4318 is not the base URL of a collector" in done.stdout + done.stderr


def test_a_collectors_token_does_not_go_in_the_clear(tmp_path: Path) -> None:
    clear = {"deployment_traces_endpoint": "http://collector:4318", "deployment_traces_token": "a token"}
    done = render(tmp_path / "services.json", json.dumps(clear))
    assert done.returncode != 0
    assert "it would go to http://collector:4318 in the clear" in " ".join(
        (done.stdout + done.stderr).split()
    )


@pytest.mark.parametrize("service", ["core", "celery_worker", "cavern"])
def test_storage_elements_reach_the_services_that_ask_them(
    rendered: dict[str, dict[str, Any]], service: str
) -> None:
    container = rendered[service]
    files = {file["path"]: file for file in container["files"]}
    settings = yaml.safe_load(files["settings.yml"]["content"])
    name = "vospace_rses" if service == "cavern" else "preparer_rses"
    first, second = (StorageElement.model_validate(rse) for rse in settings[name])
    assert (first.ca_file, first.credential_file) == ("/config/rses/A/ca.pem", "/rses/A/token")
    assert (second.credential_file, second.rate) == ("/config/rses/B/secret", 5)
    assert files["rses/A/ca.pem"]["source"] == "/etc/grid/ca.pem"
    assert {name: files["rses/B/secret"][name] for name in ("source", "mode", "secret")} == {
        "source": "/etc/b",
        "mode": "0400",
        "secret": True,
    }
    mount = {"type": "bind", "source": "/run/tokens/a", "target": "/rses/A", "read_only": True}
    assert mount in container["mounts"]
