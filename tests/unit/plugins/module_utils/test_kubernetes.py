# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same services as objects of Kubernetes, and as a chart."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import re
from typing import Any

import pytest
import yaml
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes import names, objects, values
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Digest,
    KubernetesError,
    Part,
    Value,
    canonical,
    evaluate,
)
from ansible_collections.skasrc.cavern.plugins.plugin_utils import _manifests as chart

Document = dict[str, Any]

SHARED: Document = {
    "config_target": "/config",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "stop_timeout": 10,
}


def health(*test: str) -> Document:
    return {"test": ["CMD", *test], "interval": 10, "timeout": 5, "retries": 3, "start_period": 60}


def spec(name: str, alias: str, **more: Any) -> Document:
    return SHARED | {
        "name": name,
        "aliases": [alias],
        "image": f"x/{name}:1",
        "user": "8001:8001",
        "memory": "256m",
        "mounts": [{"type": "tmpfs", "target": "/tmp"}],
        "files": [],
        "health": health("true"),
        **more,
    }


SERVICES: list[Document] = [
    spec(
        "haproxy",
        "haproxy",
        files=[
            {"path": "haproxy.cfg", "content": "server web web:8080\n"},
            {"path": "haproxy.pem", "source": "/state/certs/haproxy.pem", "secret": True},
            {"path": "ca.pem", "source": "/state/certs/client-ca.pem"},
        ],
        health=health("curl", "--fail", "http://127.0.0.1:8404/health"),
    ),
    spec(
        "web",
        "the_web",
        command=["serve"],
        environment={"B": 2, "A": "1"},
        user="0:0",
        cap_add=["CHOWN"],
        shm_size="128m",
        stop_timeout=20,
        mounts=[{"type": "bind", "source": "/data/space/part", "target": "/data", "read_only": True}],
        files=[
            {"path": "settings.yml", "content": "url: https://vo.example\n"},
            {"path": "secrets/key", "secret_content": "hunter2", "secret": True},
            {"path": "ca-bundle.pem", "source": "/state/certs/ca-bundle.pem"},
            {"path": "rses/a/ca.pem", "source": "/etc/a.pem"},
            {"path": "rses/a/secret", "source": "/etc/a", "secret": True},
        ],
        health=health("curl", "--fail", "http://127.0.0.1:8080/health?detail=min"),
    ),
    spec("db", "db", mounts=[{"type": "volume", "source": "x-db", "target": "/var/lib/db"}]),
]


def entry(key: str, *depends: str, **more: Any) -> Document:
    return {"key": key, "role": key, "ports": [], "depends_on": list(depends), **more}


CATALOGUE: Document = {
    "haproxy": entry("haproxy", "web", ports=[80, 443], replicas=2),
    "web": entry("web", "db", "haproxy", ports=[8080], metrics=9000, cpu="100m"),
    "db": entry("db", ports=[5432], state="10g"),
}
CLAIMS: Document = {
    "space": {"source": "/data/space", "access": "ReadWriteMany", "size": "1t"},
    "unused": {"source": "/data/other", "access": "ReadWriteMany", "size": "1g"},
}
FURTHER: dict[str, list[Document]] = {
    "web": [
        {"service": None, "destination": None, "ports": [443]},
        {"service": None, "destination": "192.0.2.7", "ports": []},
        {"service": None, "destination": "2001:db8::7", "ports": []},
    ]
}
SITE: Document = {
    "publicName": "vo.example",
    "podNetwork": "10.244.0.0/16",
    "image": {"pullPolicy": "Always", "pullSecrets": []},
    "hostAliases": [],
    "entry": {"clusterIP": "", "type": "LoadBalancer", "annotations": {}},
    "ingress": {"className": "", "tlsSecret": ""},
    "gateway": {"parentRefs": []},
    "monitoring": {"enabled": False, "labels": {}, "interval": "30s"},
    "tls": {"secret": "haproxy-tls"},
    "trust": {"configMap": "authorities"},
    "networkPolicy": {"enabled": True, "entry": [], "monitors": [], "destinations": []},
}


def whole(services: list[Document] = SERVICES, **more: Any) -> objects.Deployment:
    arguments: Document = {
        "catalogue": CATALOGUE,
        "claims": CLAIMS,
        "further": FURTHER,
        "public_name": "vo.example",
        "authorities": "/state/certs",
        "smoke": {},
    }
    return objects.deployment(services, **(arguments | more))


def site(deployment: objects.Deployment, **overrides: Any) -> Document:
    return objects.site_values(deployment, SITE, "", overrides)


def rendered(deployment: objects.Deployment | None = None, **overrides: Any) -> dict[str, Document]:
    """Objects by kind and name."""
    found = deployment or whole()
    return {
        part.name: part.document for part in evaluate(objects.objects(found), site(found, **overrides), "vo")
    }


def pod(name: str, **overrides: Any) -> Document:
    spec: Document = rendered(**overrides)[name]["spec"]["template"]["spec"]
    return spec


def changed(number: int, **more: Any) -> list[Document]:
    services = copy.deepcopy(SERVICES)
    services[number] |= more
    return services


def test_each_service_has_its_objects() -> None:
    assert sorted(rendered()) == [
        "ConfigMap/haproxy",
        "ConfigMap/the-web",
        "Deployment/haproxy",
        "Deployment/the-web",
        "NetworkPolicy/db",
        "NetworkPolicy/haproxy",
        "NetworkPolicy/the-web",
        "PersistentVolumeClaim/space",
        "PodDisruptionBudget/haproxy",
        "PodDisruptionBudget/the-web",
        "Service/db",
        "Service/haproxy",
        "Service/haproxy-public",
        "Service/the-web",
        "StatefulSet/db",
    ]


def test_a_container_has_the_options_that_it_has_on_docker() -> None:
    spec = pod("Deployment/the-web")
    container = spec["containers"][0]
    assert container["image"] == "x/web:1"
    assert container["args"] == ["serve"]
    assert "command" not in container
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container["resources"] == {
        "limits": {"memory": "256Mi"},
        "requests": {"memory": "256Mi", "cpu": "100m"},
    }
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert spec["terminationGracePeriodSeconds"] == 25
    assert [port["containerPort"] for port in container["ports"]] == [8080, 9000]


def test_an_ordinary_pod_meets_the_restricted_standard() -> None:
    spec = pod("Deployment/haproxy")
    security = spec["containers"][0]["securityContext"]
    assert security["runAsNonRoot"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {kind for volume in spec["volumes"] for kind in volume} - {"name"} == {"projected", "emptyDir"}
    # It may have the ports below 1024 all the same.
    assert spec["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


def test_an_image_that_needs_more_privileges_has_them() -> None:
    deployment = whole(changed(1, security_opt=[], cap_drop=["NET_RAW", "MKNOD"], entrypoint=["/bin/start"]))
    container = rendered(deployment)["Deployment/the-web"]["spec"]["template"]["spec"]["containers"][0]
    assert container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"]["drop"] == ["MKNOD", "NET_RAW"]
    assert container["command"] == ["/bin/start"]


def test_a_health_check_over_http_that_others_may_ask_is_one_for_the_kubelet() -> None:
    web, haproxy = pod("Deployment/the-web")["containers"][0], pod("Deployment/haproxy")["containers"][0]
    assert web["readinessProbe"] == {
        "httpGet": {"path": "/health?detail=min", "port": 8080},
        "timeoutSeconds": 5,
        "periodSeconds": 10,
        "failureThreshold": 3,
    }
    assert web["startupProbe"]["failureThreshold"] * web["startupProbe"]["periodSeconds"] == 180
    assert web["livenessProbe"]["tcpSocket"] == {"port": 8080}
    # Nobody else reaches the port of HAProxy's.
    assert haproxy["readinessProbe"]["exec"] == {
        "command": ["curl", "--fail", "http://127.0.0.1:8404/health"]
    }


def test_files_come_from_the_configuration_the_secret_and_the_site() -> None:
    config = rendered()["ConfigMap/the-web"]["data"]
    assert config == {"settings.yml": "url: https://vo.example\n"}
    volume = pod("Deployment/the-web", services={"web": {"secret": "mine"}})["volumes"][0]["projected"]
    assert volume["defaultMode"] == 0o440
    assert volume["sources"] == [
        {"configMap": {"name": "the-web", "items": [{"key": "settings.yml", "path": "settings.yml"}]}},
        {
            "secret": {
                "name": "mine",
                "items": [
                    {"key": "secrets.key", "path": "secrets/key"},
                    {"key": "rses.a.secret", "path": "rses/a/secret"},
                ],
            }
        },
        {
            "configMap": {
                "name": "authorities",
                "items": [
                    {"key": "ca-bundle.pem", "path": "ca-bundle.pem"},
                    {"key": "rses.a.ca.pem", "path": "rses/a/ca.pem"},
                ],
            }
        },
    ]


def test_the_certificate_is_that_of_a_secret_of_type_tls() -> None:
    sources = pod("Deployment/haproxy", tls={"secret": "issued"})["volumes"][0]["projected"]["sources"]
    assert sources[1] == {
        "secret": {
            "name": "issued",
            "items": [
                {"key": "tls.crt", "path": "haproxy.pem"},
                {"key": "tls.key", "path": "haproxy.pem.key"},
            ],
        }
    }


def test_pods_are_new_when_their_configuration_is() -> None:
    def digest(services: list[Document]) -> str:
        template = rendered(whole(services))["Deployment/the-web"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    other = changed(1, files=[{"path": "settings.yml", "content": "url: https://other.example\n"}])
    assert digest(SERVICES) == digest(copy.deepcopy(SERVICES)) != digest(other)


def test_shared_directories_are_claims() -> None:
    web = pod("Deployment/the-web", claims={"space": {"name": "cephfs", "create": False}})
    assert {"name": "space", "persistentVolumeClaim": {"claimName": "cephfs", "readOnly": True}} in web[
        "volumes"
    ]
    mounts = {mount["mountPath"]: mount for mount in web["containers"][0]["volumeMounts"]}
    assert mounts["/data"] == {"name": "space", "mountPath": "/data", "readOnly": True, "subPath": "part"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}} in web["volumes"]
    claim = rendered()["PersistentVolumeClaim/space"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1024Gi"}},
    }
    assert "PersistentVolumeClaim/cephfs" not in rendered(
        claims={"space": {"name": "cephfs", "create": False}}
    )


def test_a_claim_is_read_only_where_nothing_writes_to_it() -> None:
    parts = [
        {"type": "bind", "source": f"/data/space/{name}", "target": f"/{name}", "read_only": read_only}
        for name, read_only in (("a", False), ("b", True))
    ]
    for mounts in (parts, parts[::-1]):
        volumes = rendered(whole(changed(1, mounts=mounts)))["Deployment/the-web"]["spec"]["template"][
            "spec"
        ]["volumes"]
        assert {"name": "space", "persistentVolumeClaim": {"claimName": "space"}} in volumes


@pytest.mark.parametrize(
    "name", ["my_claim", "rse-data", "config", "state", "shm", "memory-0", "A", "a" * 63, "1a"]
)
def test_a_claim_has_a_name_that_volumes_and_expressions_may_have(name: str) -> None:
    with pytest.raises(KubernetesError, match=rf"kubernetes_claims\.{name}: is no name for it"):
        whole(claims={name: CLAIMS["space"]})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"claims": {"space": {"name": "my_claim"}}},
            r"kubernetes_values\.claims\.space\.name: 'my_claim' does not",
        ),
        ({"claims": {"space": {"name": "a..b"}}}, r"claims\.space\.name"),
        ({"services": {"web": {"secret": "-x"}}}, r"services\.web\.secret"),
        ({"services": {"web": {"secret": "x\n"}}}, r"services\.web\.secret"),
        ({"services": {"web": {"replicas": True}}}, r"services\.web\.replicas: True"),
        ({"tls": {"secret": "a" * 254}}, r"tls\.secret"),
        (
            {"tls": {"secret": "the-web"}},
            r"tls\.secret: the-web is the name of services\.web\.secret already",
        ),
        ({"podNetwork": "fd00::/64"}, "podNetwork"),
        ({"entry": {"type": "ExternalName"}}, r"entry\.type: 'ExternalName'"),
    ],
)
def test_values_that_the_cluster_would_refuse_are_refused(overrides: Document, message: str) -> None:
    with pytest.raises(KubernetesError, match=message):
        site(whole(), **overrides)


@pytest.mark.parametrize(
    "issuer", ["https://iam.example:8443/realms/x", "https://iam.example:8443", "https://iam.example/"]
)
def test_an_issuer_may_have_a_port(issuer: str) -> None:
    values.check({"issuer": issuer})
    with pytest.raises(KubernetesError, match="issuer"):
        values.check({"issuer": issuer.replace("https", "http")})


def test_two_files_do_not_share_a_key() -> None:
    files = [{"path": path, "content": "x"} for path in ("rses/a.pem", "rses.a.pem")]
    with pytest.raises(
        KubernetesError, match=r"web: the files rses/a\.pem and rses\.a\.pem have the same key"
    ):
        rendered(whole(changed(1, files=files)))
    # Of two services in the one ConfigMap of the site.
    services = changed(0, files=[*SERVICES[0]["files"], {"path": "rses/a/ca.pem", "source": "/etc/b.pem"}])
    deployment = whole(services)
    with pytest.raises(
        KubernetesError, match=r"/etc/a\.pem is another file than that which another service has"
    ):
        objects.secrets(deployment, site(deployment), lambda path: (KEY + CERTIFICATE + path).encode())


def test_the_smoke_test_runs_beside_an_api_of_roots() -> None:
    services = [*SERVICES, spec("core", "core", user="0:0")]
    catalogue = CATALOGUE | {"core": entry("core", ports=[8000], route="/prepare-data")}
    smoke = {"script": "x", "issuer": "https://vo.example/iam", "credentials": {"token": "token"}}
    deployment = whole(services, catalogue=catalogue, smoke=smoke)
    more = dict.fromkeys(("secret", "user", "did", "path", "destination"), "x")
    given = objects.site_values(deployment, SITE | {"smoke": more}, "", {})
    found = {part.name: part.document for part in evaluate(objects.objects(deployment), given, "vo")}
    assert found["Job/smoke"]["spec"]["template"]["spec"]["securityContext"] == {}


def test_what_keeps_state_has_a_volume_of_its_own() -> None:
    spec = rendered()["StatefulSet/db"]["spec"]
    assert spec["volumeClaimTemplates"] == [
        {
            "metadata": {"name": "state"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
        }
    ]
    assert {"name": "state", "mountPath": "/var/lib/db"} in spec["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]


def test_connections_are_those_that_services_need() -> None:
    web, db = (rendered()[f"NetworkPolicy/{name}"]["spec"] for name in ("the-web", "db"))
    assert web["policyTypes"] == ["Ingress", "Egress"]
    assert web["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "haproxy"}}}],
            "ports": [{"protocol": "TCP", "port": 8080}],
        }
    ]
    names_of = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert web["egress"] == [
        names_of,
        {
            "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "db"}}}],
            "ports": [{"protocol": "TCP", "port": 5432}],
        },
        {
            "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "haproxy"}}}],
            "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 443}],
        },
        {
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "10.244.0.0/16"]}}],
            "ports": [{"protocol": "TCP", "port": 443}],
        },
        {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]},
        {"to": [{"ipBlock": {"cidr": "2001:db8::7/128"}}]},
    ]
    assert db["egress"] == [names_of]


def test_a_service_that_settings_name_is_asked_on_that_port() -> None:
    further = {"haproxy": [{"service": "db", "destination": None, "ports": [5433]}]}
    found = rendered(whole(further=further))
    egress = found["NetworkPolicy/haproxy"]["spec"]["egress"][-1]
    assert egress["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "db"}}}]
    assert [port["port"] for port in egress["ports"]] == [5433]
    ingress = found["NetworkPolicy/db"]["spec"]["ingress"]
    assert [
        (rule["from"][0]["podSelector"]["matchLabels"], rule["ports"][0]["port"]) for rule in ingress
    ] == [
        ({"app.kubernetes.io/name": "the-web"}, 5432),
        ({"app.kubernetes.io/name": "haproxy"}, 5433),
    ]


def test_a_rule_without_peers_would_be_for_everybody_and_is_none() -> None:
    found = rendered()
    assert "NetworkPolicy/the-web-metrics" not in found
    assert "NetworkPolicy/entry" not in found
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    found = rendered(networkPolicy={"monitors": peers})
    assert found["NetworkPolicy/the-web-metrics"]["spec"]["ingress"] == [
        {"from": peers, "ports": [{"protocol": "TCP", "port": 9000}]}
    ]


PEERS: list[Document] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]


@pytest.mark.parametrize(
    ("way", "objects_of_it"),
    [
        ("LoadBalancer", {"Service/haproxy-public"}),
        ("NodePort", {"Service/haproxy-public"}),
        ("Ingress", {"Ingress/haproxy"}),
        ("HTTPRoute", {"HTTPRoute/haproxy", "BackendTLSPolicy/haproxy"}),
        ("ClusterIP", set()),
    ],
)
def test_there_is_one_way_in(way: str, objects_of_it: set[str]) -> None:
    parents = [{"name": "public", "namespace": "gateways"}]
    found = rendered(entry={"type": way, "annotations": {"a": "b"}}, gateway={"parentRefs": parents})
    ways = {"Service/haproxy-public", "Ingress/haproxy", "HTTPRoute/haproxy", "BackendTLSPolicy/haproxy"}
    assert ways & set(found) == objects_of_it
    plain = rendered(entry={"type": way}, gateway={"parentRefs": parents})
    assert not any("annotations" in plain[name]["metadata"] for name in objects_of_it)
    if way == "HTTPRoute":
        route = found["HTTPRoute/haproxy"]
        assert route["metadata"]["annotations"] == {"a": "b"}
        assert route["spec"] == {
            "parentRefs": parents,
            "hostnames": ["vo.example"],
            "rules": [{"backendRefs": [{"name": "haproxy", "port": 443}], "timeouts": {"request": "0s"}}],
        }
        tls = found["BackendTLSPolicy/haproxy"]["spec"]
        assert tls["targetRefs"][0]["sectionName"] in {
            port["name"] for port in found["Service/haproxy"]["spec"]["ports"]
        }
        assert tls["validation"]["hostname"] == "vo.example"


SCALED: Document = CATALOGUE | {"web": CATALOGUE["web"] | {"scales": True, "replicas": 2}}


def test_the_load_sets_the_number_of_pods_or_the_site_does() -> None:
    deployment = whole(catalogue=SCALED)
    fixed = rendered(deployment)
    assert fixed["Deployment/the-web"]["spec"]["replicas"] == 2
    assert "HorizontalPodAutoscaler/the-web" not in fixed
    found = rendered(deployment, services={"web": {"scaling": {"by": "cpu", "max": 5, "cpu": 60}}})
    assert "replicas" not in found["Deployment/the-web"]["spec"]
    scaler = found["HorizontalPodAutoscaler/the-web"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "the-web"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)
    assert scaler["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 60}
    template = chart.chart(objects.objects(deployment), site(deployment), {}, "1")["templates/the-web.yaml"]
    assert (
        '{{- if (has .Values.services.web.scaling.by (list "fixed")) }}\n'
        "  replicas: {{ .Values.services.web.replicas | toJson }}\n{{- end }}\n"
    ) in template


WORKERS: Document = CATALOGUE | {
    "core": entry("core", ports=[8000], metrics=8000, route="/prepare-data"),
    "celery_worker": entry("celery_worker", metrics=9000, scales=True, replicas=2),
}


def test_workers_follow_the_unfinished_tasks() -> None:
    smoke = {"script": "x", "issuer": "https://vo.example/iam", "credentials": {"token": "token"}}
    services = [*SERVICES, spec("core", "core"), spec("celery_worker", "worker")]
    deployment = whole(services, catalogue=WORKERS, smoke=smoke)
    more = {"smoke": dict.fromkeys(("secret", "user", "did", "path", "destination"), "x")}

    def given(**scaling: Any) -> Document:
        overrides = {
            "services": {"celery_worker": {"scaling": scaling}},
            "networkPolicy": {"monitors": PEERS},
        }
        return objects.site_values(deployment, SITE | more, "", overrides)

    values_of_site = given(by="tasks", tasks=3)
    found = {part.name: part.document for part in evaluate(objects.objects(deployment), values_of_site, "vo")}
    assert "replicas" not in found["Deployment/worker"]["spec"]
    assert "HorizontalPodAutoscaler/worker" not in found
    scaler = found["ScaledObject/worker"]["spec"]
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (2, 8)
    assert scaler["advanced"]["scalingModifiers"] == {
        "formula": "queued + running",
        "target": "3",
        "metricType": "AverageValue",
    }
    assert [trigger["name"] for trigger in scaler["triggers"]] == ["queued", "running"]
    assert scaler["triggers"][0]["metadata"] == {
        "url": "http://core.vo:8000/metrics",
        "format": "prometheus",
        "valueLocation": 'prepare_data_tasks{state="QUEUED"}',
        "targetValue": "1",
    }
    template = chart.chart(objects.objects(deployment), values_of_site, {}, "1")["templates/worker.yaml"]
    assert "url: http://core.{{ .Release.Namespace }}:8000/metrics\n" in template
    assert "target: {{ .Values.services.celery_worker.scaling.tasks | toString | toJson }}\n" in template
    with pytest.raises(KubernetesError, match=r"celery_worker\.scaling\.max: 1 is less than min, 2"):
        given(by="tasks", max=1)


def test_workers_without_an_api_that_counts_tasks_do_not_follow_them() -> None:
    deployment = whole([*SERVICES, spec("celery_worker", "worker")], catalogue=WORKERS)
    scaling = {
        "services": {"celery_worker": {"scaling": {"by": "tasks"}}},
        "networkPolicy": {"monitors": PEERS},
    }
    with pytest.raises(
        KubernetesError, match=r"scaling\.by: tasks are counted by core, which is not deployed"
    ):
        objects.site_values(deployment, SITE, "", scaling)


def test_metrics_are_collected_by_those_that_the_site_names() -> None:
    assert not any(name.startswith("PodMonitor/") for name in rendered())
    given: Document = {"enabled": True, "labels": {"release": "x", "app.kubernetes.io/name": "y"}}
    found = rendered(monitoring=given, networkPolicy={"monitors": PEERS})
    assert [name for name in found if name.startswith("PodMonitor/")] == ["PodMonitor/the-web"]
    monitor = found["PodMonitor/the-web"]
    assert monitor["metadata"]["labels"] == {
        "app.kubernetes.io/name": "the-web",
        "app.kubernetes.io/part-of": "skasrc-cavern",
        "release": "x",
    }
    assert monitor["spec"]["podMetricsEndpoints"] == [
        {"port": "port-9000", "path": "/metrics", "interval": "30s"}
    ]
    ports = found["Deployment/the-web"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {"containerPort": 9000, "name": "port-9000"} in ports
    assert found["NetworkPolicy/the-web-metrics"]["spec"]["ingress"][0]["from"] == PEERS


RULED: list[tuple[Document, str]] = [
    ({"entry": {"type": "HTTPRoute"}}, "gateway.parentRefs"),
    ({"monitoring": {"enabled": True}}, "networkPolicy.monitors"),
]


@pytest.mark.parametrize(("overrides", "field"), RULED)
def test_a_list_that_other_values_need_is_not_empty(overrides: Document, field: str) -> None:
    with pytest.raises(KubernetesError, match=re.escape(f"kubernetes_values.{field}: is empty, but ")):
        site(whole(), **overrides)
    # The schema says the same to those who use the chart.
    rule = next(rule for rule in values.RULES if rule.needs == field and rule.applies(site(whole())))
    assert rule.schema() in json.loads(charted()["values.schema.json"])["allOf"]
    if field == "networkPolicy.monitors":
        site(whole(), **overrides, networkPolicy={"enabled": False})


def test_without_policies_there_is_none() -> None:
    """Of one alone, pods could do nothing else."""
    given = {"enabled": False, "entry": PEERS, "monitors": PEERS, "destinations": PEERS}
    assert [name for name in rendered(networkPolicy=given) if name.startswith("Network")] == []
    assert (
        "{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.entry }}"
        in (charted()["templates/entry.yaml"])
    )


def test_those_who_need_it_reach_what_a_site_names_in_the_cluster() -> None:
    found = rendered(networkPolicy={"entry": PEERS, "destinations": PEERS})
    for name, pods in {"entry": ["smoke", "the-web"], "destinations": ["the-web"]}.items():
        assert found[f"NetworkPolicy/{name}"]["spec"] == {
            "podSelector": {
                "matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": pods}]
            },
            "policyTypes": ["Egress"],
            "egress": [{"to": PEERS}],
        }


def test_an_external_service_has_no_objects_and_is_still_asked() -> None:
    catalogue = CATALOGUE | {"db": CATALOGUE["db"] | {"external": True, "ports": [6432]}}
    found = rendered(whole(catalogue=catalogue))
    assert not any(name.endswith("/db") for name in found)
    assert found["NetworkPolicy/the-web"]["spec"]["egress"][1] == {
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}],
        "ports": [{"protocol": "TCP", "port": 6432}],
    }


@pytest.mark.parametrize(
    ("services", "options", "overrides", "message"),
    [
        (
            changed(1, mounts=[{"type": "bind", "source": "/srv/a", "target": "/a"}]),
            {},
            {},
            "kubernetes_claims",
        ),
        (changed(1, aliases=["9web"]), {}, {}, "'9web' is no name"),
        (changed(1, memory="much"), {}, {}, "memory: 'much'"),
        (
            SERVICES,
            {"claims": {"space": {"source": "/data/space", "size": "1g"}}},
            {},
            "space.access: is missing",
        ),
        (SERVICES[1:], {}, {}, "deployment_service_overrides.haproxy"),
        (
            SERVICES,
            {"catalogue": CATALOGUE | {"db": entry("db", ports=[5432])}},
            {},
            "deployment_service_overrides.db.state",
        ),
        (
            SERVICES,
            {"catalogue": CATALOGUE | {"db": CATALOGUE["db"] | {"replicas": 2}}},
            {},
            "deployment_service_overrides.db.replicas",
        ),
        (SERVICES, {}, {"ingres": {}}, "kubernetes_values.ingres: there is no such value"),
        (
            SERVICES,
            {},
            {"services": {"web": {"replica": 1}}},
            "kubernetes_values.services.web.replica: there",
        ),
        (SERVICES, {}, {"services": {"web": 3}}, "kubernetes_values.services.web: give a dictionary"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    services: list[Document], options: Document, overrides: Document, message: str
) -> None:
    with pytest.raises(KubernetesError, match=message.replace(".", r"\.")):
        rendered(whole(services, **options), **overrides)


def test_values_that_are_objects_of_kubernetes_take_any_field() -> None:
    spec = {"volumeName": "rse", "accessModes": ["ReadOnlyMany"]}
    found = rendered(claims={"space": {"spec": spec}})["PersistentVolumeClaim/space"]["spec"]
    assert found == {**spec, "resources": {"requests": {"storage": "1024Gi"}}}


def pem(label: str, content: str) -> str:
    """Return a block as RFC 7468 has it, with nothing real in it."""
    return f"-----BEGIN {label}-----\n{content}\n-----END {label}-----\n"


KEY, CERTIFICATE = pem("PRIVATE KEY", "k"), pem("CERTIFICATE", "c")


def test_secrets_are_apart_from_the_objects() -> None:
    deployment = whole()
    sources = {
        "/state/certs/haproxy.pem": CERTIFICATE + KEY + CERTIFICATE,
        "/state/certs/client-ca.pem": "clients\n",
        "/state/certs/ca-bundle.pem": "bundle\n",
        "/etc/a.pem": "a\n",
        "/etc/a": "credential",
    }
    found = objects.secrets(deployment, site(deployment), lambda path: sources[path].encode())
    secrets = {part.name: part.document for part in found}

    def text(name: str, key: str) -> str:
        return base64.b64decode(secrets[name]["data"][key]).decode()

    assert sorted(secrets) == ["ConfigMap/authorities", "Secret/haproxy-tls", "Secret/the-web"]
    assert text("Secret/the-web", "secrets.key") == "hunter2"
    assert text("Secret/the-web", "rses.a.secret") == "credential"
    assert text("Secret/haproxy-tls", "tls.key") == KEY
    assert text("Secret/haproxy-tls", "tls.crt") == CERTIFICATE + CERTIFICATE
    assert secrets["ConfigMap/authorities"]["data"] == {
        "client-ca.pem": "clients\n",
        "ca-bundle.pem": "bundle\n",
        "rses.a.ca.pem": "a\n",
    }
    assert "hunter2" not in json.dumps(rendered())


def test_a_certificate_without_its_key_is_refused() -> None:
    deployment = whole()
    with pytest.raises(KubernetesError, match=r"/state/certs/haproxy\.pem: has not one key"):
        objects.secrets(deployment, site(deployment), lambda _path: CERTIFICATE.encode())


def test_a_gateway_finds_the_authority_of_haproxys_certificate() -> None:
    deployment = whole()
    given = site(deployment, entry={"type": "HTTPRoute"}, gateway={"parentRefs": [{"name": "public"}]})
    found = objects.secrets(deployment, given, lambda path: (KEY + CERTIFICATE + path).encode())
    trusted = {part.name: part.document for part in found}["ConfigMap/authorities"]["data"]
    assert trusted["ca.crt"] == trusted["ca-bundle.pem"]


def test_a_directory_for_kustomize_names_all_that_is_in_it() -> None:
    deployment = whole()
    files = chart.manifests(objects.objects(deployment), site(deployment), "vo")
    kustomization = yaml.safe_load(files["kustomization.yaml"])
    assert kustomization["namespace"] == "vo"
    assert sorted([*kustomization["resources"], "kustomization.yaml"]) == sorted(files)
    space = yaml.safe_load(files["namespace.yaml"])
    assert space["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "baseline"}


# The chart.


def charted(markers: dict[str, str] | None = None) -> dict[str, str]:
    deployment = whole()
    marks = {"vo.example": "publicName"} if markers is None else markers
    return chart.chart(objects.objects(deployment), site(deployment), marks, "1.2.3")


def test_the_chart_has_the_files_of_one() -> None:
    files = charted()
    assert yaml.safe_load(files["Chart.yaml"])["version"] == "1.2.3"
    assert yaml.safe_load(files["values.yaml"]) == site(whole())
    schema = json.loads(files["values.schema.json"])
    assert (
        schema["properties"]["services"]["properties"]["web"]["properties"]["replicas"]["type"] == "integer"
    )
    assert schema["additionalProperties"] is False
    assert "| `services.db.state` |" in files["README.md"]


def test_values_are_places_in_the_templates() -> None:
    files = charted()
    web = files["templates/the-web.yaml"]
    assert "  replicas: {{ .Values.services.web.replicas | toJson }}\n" in web
    assert (
        'checksum/config: {{ printf "%s\\n" (include "skasrc-cavern.config.the-web" .)'
        " | fromYaml | toJson | sha256sum | quote }}\n"
    ) in web
    assert (
        '{{- define "skasrc-cavern.config.the-web" -}}\nsettings.yml: |\n  url: https://{{ .Values.publicName }}\n'
        in (files["templates/_config.tpl"])
    )
    assert "{{- if .Values.claims.space.create }}\n---\n" in files["templates/claims.yaml"]
    assert "host: {{ .Values.publicName | toJson }}\n" in files["templates/entry.yaml"]


def test_braces_of_a_configuration_are_no_expressions() -> None:
    services = changed(1, files=[{"path": "a", "content": "x {{ y }}\n"}])
    deployment = whole(services)
    files = chart.chart(objects.objects(deployment), site(deployment), {}, "1")
    assert 'x {{ "{{" }} y }}' in files["templates/_config.tpl"]


def test_a_value_that_reaches_no_object_is_refused() -> None:
    with pytest.raises(KubernetesError, match="authority is nowhere in the objects"):
        charted({"authority.values.invalid": "authority"})


def test_what_is_made_from_a_marker_is_refused() -> None:
    services = changed(1, files=[{"path": "a", "content": "PUBLICNAME.values.invalid\n"}])
    deployment = whole(services)
    with pytest.raises(KubernetesError, match=r"PUBLICNAME\.values\.invalid is made from the marker"):
        chart.chart(
            objects.objects(deployment), site(deployment), {"publicname.values.invalid": "publicName"}, "1"
        )


def test_every_value_is_described() -> None:
    assert "services.web.secret" in values.leaves(site(whole()))
    with pytest.raises(KeyError, match="odd: has no description"):
        values.leaves({"odd": 1})


def test_texts_that_a_block_would_change_are_quoted() -> None:
    for text in ("a\nb\n", "a\n\n", "\na\n", " a\nb\n", "a\nb", "a \nb\n", "5", "x: y\n"):
        assert yaml.safe_load(chart.dump({"text": text})) == {"text": text}
    assert chart.dump({"text": "a\nb\n"}) == "text: |\n  a\n  b\n"


# What Go's readers of YAML, 1.1 with some of 1.2, take for something else than a text; by their rules, since only their
# first characters may begin one.
GO_NUMBER = re.compile(
    r"[-+]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))"
    r"|\.(nan|NaN|NAN)|[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"
)
GO_WORDS = {"", "~", "<<", "=", "y", "n", "yes", "no", "on", "off", "true", "false", "null"}
AMBIGUOUS = [
    *(
        "1e3",
        "0o17",
        "1234e56",
        "1_000",
        "0x1F",
        "0b11",
        "017",
        "+1",
        "-1",
        ".5",
        "5.",
        "1_0.5",
        "-.inf",
        ".NaN",
        "+.INF",
    ),
    *(
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        "null",
        "Null",
        "~",
        "true",
        "FALSE",
        "nan",
        "Infinity",
        "",
        "=",
        "<<",
        "-",
        "?",
    ),
    *(
        "2026-01-01",
        "2026-1-1 10:00:00",
        "2026-01-01T00:00:00Z",
        "190:20:30",
        "1:1",
        "22:22",
        "12e03",
        "1E+2",
        "_1",
    ),
]


def go_text(scalar: str) -> bool:
    return scalar.lower() not in GO_WORDS and not GO_NUMBER.fullmatch(scalar.replace("_", ""))


def scalars(text: str) -> list[Any]:
    return [token for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]


def assert_texts(text: str) -> None:
    written = chart.dump({text: [text]})
    assert yaml.safe_load(written) == {text: [text]}
    assert all(go_text(token.value) for token in scalars(written) if token.plain), written


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_a_text_is_one_for_every_reader(text: str) -> None:
    assert_texts(text)


def test_any_text_is_one_for_every_reader() -> None:
    alphabet = "0123456789abefinouxyEINOXTZ_+-.:~ "
    chance = random.Random(20_261_130)
    for _ in range(5000):
        assert_texts("".join(chance.choices(alphabet, k=chance.randint(1, 8))))


def test_ordinary_texts_are_plain() -> None:
    assert chart.dump({"path": "/config/a", "image": "x/web:1"}) == "path: /config/a\nimage: x/web:1\n"


def test_a_text_of_a_site_is_no_place_for_a_value() -> None:
    text = "__value__publicName__ and __digest__the-web__\n"
    deployment = whole(changed(1, files=[{"path": "a", "content": text}]))
    assert (
        text in chart.chart(objects.objects(deployment), site(deployment), {}, "1")["templates/_config.tpl"]
    )


def test_digests_are_of_what_helm_writes() -> None:
    assert canonical({"b": "<é&>\n", "a": "\u2028"}) == '{"a":"\\u2028","b":"\\u003cé\\u0026\\u003e\\n"}'
    part = Part("x", {"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}})
    other = Part("x", {"kind": "Deployment", "metadata": {"name": Value("name")}, "at": [Digest("x")]})
    found = evaluate([part, other], {"name": "y"}, "vo")[1].document
    assert found["metadata"] == {"name": "y"}
    assert found["at"] == [hashlib.sha256(b'{"a":"b"}').hexdigest()]
    with pytest.raises(KubernetesError, match="values: name is missing"):
        evaluate([other, part], {}, "vo")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("256m", "256Mi"), ("1g", "1Gi"), ("1t", "1024Gi"), ("1536k", "1536Ki"), ("100", "100")],
)
def test_sizes_are_quantities(size: str, expected: str) -> None:
    assert names.quantity(size) == expected
