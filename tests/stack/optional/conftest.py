"""One deployment with all of these settings, since each would otherwise be deployed and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment, playbook

APPROACHES = ["cavern_api_approach", "copy_to_user_area", "symbolic_link"]
RSES = [
    # Nobody listens there.
    {"name": "AWAY", "url": "http://rse-web:81/rse/deterministic", "layout": "identity"},
    {"name": "SITE", "url": "{{ rse_web_url }}", "connections": 4, "rate": 200},
]
MEMBER = "groupmember"
OPERATOR = "olga"


@pytest.fixture(scope="package")
def approaches() -> list[str]:
    """The approaches that the deployment offers."""
    return APPROACHES


@pytest.fixture(scope="package")
def member() -> str:
    """A user who is in the group `team`, as the issuer knows."""
    return MEMBER


@pytest.fixture(scope="package")
def operator() -> str:
    """A user who is an operator, of prepare-data and of the VOSpace."""
    return OPERATOR


@pytest.fixture(scope="package")
def gateway(stack: Deployment) -> str:
    """The host's address on the deployment's network."""
    (network,) = stack.container("haproxy").attrs["NetworkSettings"]["Networks"].values()
    return str(network["Gateway"])


@pytest.fixture(scope="package", autouse=True)
def asked(stack: Deployment, gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The deployment with these settings, and with Prometheus beside its services."""
    services = tmp_path_factory.mktemp("services") / "services.yml"
    services.write_text("plugin: skasrc.cavern.services\nextra_services: [skasrc.cavern.prometheus]\n")
    settings: dict[str, Any] = {
        "core_supported_approaches": APPROACHES,
        "core_callback_hosts": [gateway],
        "core_rses": RSES,
        "iam_users": {MEMBER: {"groups": ["team"]}, OPERATOR: {"groups": ["operators"]}},
        "core_settings": {"preparer_operator_groups": ["operators"]},
        "cavern_operators": [OPERATOR],
        "prometheus_scrape_interval": "2s",
    }
    playbook("site.yml", "-i", str(services), "-e", json.dumps(settings))
    try:
        yield
    finally:
        playbook("site.yml", "-e", "deployment_prune=true")
