"""A chart with a site's values is what is rendered for that site, object by object."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_site import Written, by_name, write

# The first run compiles what the fixtures use.
pytestmark = pytest.mark.timeout(3600)
VERSION = "1.34.4"

# Another site's, of which only values differ: services and their settings are the same.
OTHER: dict[str, Any] = {
    "deployment_public_name": "vo.other.example",
    "deployment_authority": "other.example",
    "deployment_image_prefix": "cavern",
    "deployment_image_tag": "local",
    "deployment_service_overrides": {},
    "kubernetes_pod_network": "10.244.0.0/16",
    "kubernetes_cluster_ip": "",
    "kubernetes_storage_class": "",
    "kubernetes_values": {},
}
# A site with an issuer and a database of its own.
OWN: dict[str, Any] = {
    "deployment_issuer": "https://iam.site.example/",
    "cavern_administrator_token": "administrator-of-the-site",
    "deployment_service_overrides": {"iam": {"enabled": False}, "core": {"replicas": 3}},
    "kubernetes_external": {"srcnodedb": {"host": "db.site.example", "port": 6432}},
    "kubernetes_values": {
        "smoke": {"secret": "tokens"},
        "entry": {"type": "HTTPRoute"},
        "gateway": {"parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}]},
        "services": {"celery_worker": {"scaling": {"by": "cpu"}}},
    },
}
OTHERS_OWN: dict[str, Any] = OTHER | {
    "deployment_issuer": "https://issuer.other.example/realms/vo",
    "cavern_administrator_token": "administrator-of-the-other",
    "deployment_service_overrides": {"iam": {"enabled": False}},
    "kubernetes_external": {"srcnodedb": {"host": "postgres.other.example", "port": 6432}},
}


def template(helm: Path, chart: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Render a chart."""
    return subprocess.run(
        [helm, "template", "x", chart, "--namespace=cavern", f"--kube-version={VERSION}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", params=["local", "own"])
def sites(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Written, Written]:
    """Return what two sites come to: with the local issuer and database, and with their own."""
    first, second = ({}, OTHER) if request.param == "local" else (OWN, OTHERS_OWN)
    return write(tmp_path_factory.mktemp("site"), first), write(tmp_path_factory.mktemp("other"), second)


def test_the_chart_with_a_sites_values_is_that_sites_objects(
    helm: Path, sites: tuple[Written, Written]
) -> None:
    site, other = sites
    done = template(helm, other.chart, "-f", str(site.chart / "values.yaml"))
    assert done.returncode == 0, done.stderr
    found = by_name([done.stdout])
    assert sorted(found) == sorted(site.objects)
    for name, document in found.items():
        assert document == site.objects[name], name


def test_a_sites_own_chart_needs_no_values(helm: Path, sites: tuple[Written, Written]) -> None:
    for written in sites:
        assert by_name([template(helm, written.chart).stdout]) == written.objects


def test_the_templates_know_no_site(sites: tuple[Written, Written]) -> None:
    first, second = (
        {path.name: path.read_text() for path in site.chart.glob("templates/*")} for site in sites
    )
    assert first == second


# What Argo CD renders again and again, without a cluster to look things up in.
FUNCTIONS = {
    "and",
    "define",
    "dict",
    "end",
    "fromYaml",
    "has",
    "if",
    "include",
    "indent",
    "list",
    "merge",
    "printf",
    "quote",
}
FUNCTIONS |= {"sha256sum", "toJson", "toString"}


def test_nothing_in_the_templates_asks_a_cluster_the_clock_or_chance(sites: tuple[Written, Written]) -> None:
    used: set[str] = set()
    for path in sites[0].chart.glob("templates/*"):
        for expression in re.findall(r"\{\{-?(.*?)-?\}\}", path.read_text()):
            plain = re.sub(r'"(?:[^"\\]|\\.)*"|\.Values\.[\w.]+|\.Release\.Namespace', " ", expression)
            used |= set(re.findall(r"[.$]?\w+", plain)) - {"2"}
    assert used <= FUNCTIONS


def test_an_upgrade_is_rendered_as_an_installation_is(helm: Path, sites: tuple[Written, Written]) -> None:
    first, again = (template(helm, sites[0].chart, *more) for more in ((), ("--is-upgrade",)))
    assert first.stdout == again.stdout
    hooks = {
        name: annotations["helm.sh/hook"]
        for name, document in by_name([first.stdout]).items()
        if "helm.sh/hook" in (annotations := document["metadata"].get("annotations") or {})
    }
    # Only what somebody asks for is a hook: Argo CD has none for tests, and all else is applied as it stands.
    assert set(hooks.values()) == {"test"}
    assert {name.partition("/")[2] for name in hooks} == {"smoke"}


def test_neither_holds_a_secret(sites: tuple[Written, Written]) -> None:
    for written in sites:
        texts = [*written.texts, *(path.read_text() for path in written.chart.rglob("*") if path.is_file())]
        assert len(written.secrets) > 10
        for name, secret in written.secrets.items():
            lines = [line for line in secret.splitlines() if not line.startswith("-----")]
            assert not any(line in text for line in lines for text in texts), name


def test_helm_accepts_the_chart_and_no_other_values(helm: Path, sites: tuple[Written, Written]) -> None:
    chart = sites[0].chart
    subprocess.run([helm, "lint", "--strict", chart], check=True, capture_output=True)
    for wrong, field in (
        ("publicNames=x", "publicNames"),
        ("services.core.replicas=many", "replicas"),
        ("publicName=a b", "publicName"),
        ("monitoring.enabled=perhaps", "enabled"),
        # There is one way in, and a value for each of two would be one too many.
        ("ingress.enabled=true", "enabled"),
        ("entry.type=Both", "type"),
        ("services.core.scaling.by=tasks", "by"),
    ):
        done = template(helm, chart, "--set", wrong)
        assert done.returncode != 0, wrong
        assert field in done.stderr


def test_what_a_chart_says_of_its_values_is_whole(sites: tuple[Written, Written]) -> None:
    chart = sites[0].chart
    values, readme = yaml.safe_load((chart / "values.yaml").read_text()), (chart / "README.md").read_text()
    schema = json.loads((chart / "values.schema.json").read_text())
    assert set(schema["properties"]) == {*values, "global"}
    assert all(f"| `{name}" in readme for name in values)
