# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a service's container to the pods that run it. Private to the collection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.names import (
    GROUP,
    PART_OF,
    label,
    metadata,
    quantity,
    selector,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Chosen,
    Digest,
    Document,
    KubernetesError,
    Part,
    Value,
)

FIXED = "fixed"
"""Way of scaling of what has the number of pods that a site states."""
# What a pod that leaves waits for, so that nobody is sent to it any more (s).
DRAIN = 5
# Over which a service that is slow to start may do so beyond what its health check allows (s).
PATIENCE = 120
_PERIOD = 2


@dataclass(frozen=True)
class Claim:
    """A directory that several services share: that of the host on Docker, a claim on Kubernetes."""

    name: str
    source: str


@dataclass(frozen=True)
class Workload:
    """A service: its entry in the catalogue, and its container as converge takes it."""

    entry: Document
    spec: Document
    claims: tuple[Claim, ...]
    authorities: str
    """Directory of the certificates, whose files come from the site's Secret and ConfigMap."""

    @property
    def key(self) -> str:
        """Key in the catalogue, and below `services` in the values."""
        return str(self.spec["name"])

    @property
    def name(self) -> str:
        """Name of all of its objects."""
        return label(self.spec["aliases"][0])

    @property
    def ports(self) -> list[int]:
        """Ports on which it serves others."""
        return list(self.entry["ports"])

    @property
    def metrics(self) -> tuple[int, str] | None:
        """Port and path of its metrics."""
        port = self.entry.get("metrics")
        return (int(port), "/metrics") if port else None

    @property
    def scales(self) -> bool:
        """Whether the number of its pods may follow its load."""
        return bool(self.entry.get("scales"))

    @property
    def own_state(self) -> list[Document]:
        """Its mounts that nobody shares."""
        return [mount for mount in self.spec["mounts"] if mount["type"] == "volume"]

    def value(self, name: str) -> Value:
        """Return one of its values."""
        return Value(f"services.{self.key}.{name}")

    # Files.

    def _is_certificate(self, item: Document) -> bool:
        """Whether a file is the server's certificate with its key, which are in a Secret of type TLS."""
        source = item.get("source")
        return bool(item.get("secret")) and source is not None and self._is_authority(source)

    def _is_authority(self, source: str) -> bool:
        return PurePosixPath(source).parent == PurePosixPath(self.authorities)

    def _stated(self, secret: bool) -> dict[str, Document]:
        """Files of the service's own by their keys in its ConfigMap or Secret."""
        return self._by_key(
            (_key(item), item)
            for item in self.spec["files"]
            if bool(item.get("secret")) == secret
            and not self._is_certificate(item)
            and (secret or item.get("source") is None)
        )

    def _by_key(self, items: Iterable[tuple[str, Document]]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        for key, item in items:
            if key in found:
                raise KubernetesError(
                    f"{self.key}: the files {found[key]['path']} and {item['path']} have the same key in a Secret or "
                    f"ConfigMap, {key}: give one of them another path"
                )
            found[key] = item
        return found

    def trusted(self) -> dict[str, Document]:
        """Return the files that are the site's and no secret, such as authorities, by their keys in its ConfigMap."""
        return self._by_key(
            (PurePosixPath(item["source"]).name if self._is_authority(item["source"]) else _key(item), item)
            for item in self.spec["files"]
            if item.get("source") is not None and not item.get("secret")
        )

    def certificates(self) -> list[Document]:
        """Return the files that are the server's certificate with its key."""
        return [item for item in self.spec["files"] if self._is_certificate(item)]

    def config(self) -> dict[str, str]:
        """Return the data of its ConfigMap."""
        return {key: str(item["content"]) for key, item in self._stated(False).items()}

    def secrets(self) -> dict[str, Document]:
        """Return the files of its Secret by their keys."""
        return self._stated(True)

    def _projections(self) -> list[Document]:
        sources: list[Document] = []
        if config := self._stated(False):
            sources.append({"configMap": {"name": self.name, "items": _items(config)}})
        if secret := self.secrets():
            sources.append({"secret": {"name": self.value("secret"), "items": _items(secret)}})
        for item in self.certificates():
            # HAProxy reads the key from beside the certificate, under the name that this has.
            keys = {"tls.crt": item["path"], "tls.key": f"{item['path']}.key"}
            pairs = [{"key": key, "path": path} for key, path in keys.items()]
            sources.append({"secret": {"name": Value("tls.secret"), "items": pairs}})
        if trusted := self.trusted():
            sources.append({"configMap": {"name": Value("trust.configMap"), "items": _items(trusted)}})
        return sources

    # Volumes.

    def _claim(self, mount: Document) -> tuple[Claim, str]:
        """Return the claim that has a directory of the host, and where in it."""
        source = PurePosixPath(mount["source"])
        for claim in self.claims:
            if source == PurePosixPath(claim.source) or PurePosixPath(claim.source) in source.parents:
                below = str(source.relative_to(claim.source))
                return claim, "" if below == "." else below
        raise KubernetesError(
            f"{self.key}: {mount['target']} is a directory of the host, {mount['source']}, and none of "
            f"kubernetes_claims has it: add one with that source (there are "
            f"{', '.join(claim.name for claim in self.claims) or 'none'})"
        )

    def used_claims(self) -> list[str]:
        """Return the names of the claims that it mounts."""
        return [self._claim(mount)[0].name for mount in self.spec["mounts"] if mount["type"] == "bind"]

    def _volumes(self) -> tuple[list[Document], list[Document]]:
        """Return volumes, and where each is mounted."""
        volumes: dict[str, Document] = {}
        mounts: list[Document] = []
        written: set[str] = set()

        def mounted(name: str, target: str, **options: Any) -> None:
            mounts.append({"name": name, "mountPath": target, **options})

        if sources := self._projections():
            volumes["config"] = {"projected": {"defaultMode": 0o440, "sources": sources}}
            mounted("config", self.spec["config_target"], readOnly=True)
        for number, mount in enumerate(self.spec["mounts"]):
            if mount["type"] == "tmpfs":
                limit = {"sizeLimit": quantity(mount["tmpfs_size"])} if mount.get("tmpfs_size") else {}
                volumes[f"memory-{number}"] = {"emptyDir": {"medium": "Memory", **limit}}
                mounted(f"memory-{number}", mount["target"])
            elif mount["type"] == "volume":
                mounted("state", mount["target"], **_below(mount, self.own_state))
            else:
                claim, below = self._claim(mount)
                read_only = bool(mount.get("read_only"))
                written = written | (set() if read_only else {claim.name})
                source: Document = {"claimName": Value(f"claims.{claim.name}.name")}
                volumes[claim.name] = {"persistentVolumeClaim": source}
                if claim.name not in written:
                    source["readOnly"] = True
                mounted(
                    claim.name, mount["target"], readOnly=read_only, **({"subPath": below} if below else {})
                )
        if self.spec.get("shm_size"):
            volumes["shm"] = {"emptyDir": {"medium": "Memory", "sizeLimit": quantity(self.spec["shm_size"])}}
            mounted("shm", "/dev/shm")  # noqa: S108 - where the image looks for it
        return [{"name": name, **source} for name, source in volumes.items()], mounts

    # Containers and pods.

    def _probes(self) -> Document:
        health = self.spec["health"]
        probe = {**_probe(health["test"], self.ports), "timeoutSeconds": health["timeout"]}
        start = (int(health["start_period"]) + PATIENCE) // _PERIOD
        probes = {
            "startupProbe": {**probe, "periodSeconds": _PERIOD, "failureThreshold": start},
            "readinessProbe": {
                **probe,
                "periodSeconds": health["interval"],
                "failureThreshold": health["retries"],
            },
        }
        if self.ports:
            # Whoever does not even accept connections is dead; what else is wrong, a restart does not mend.
            probes["livenessProbe"] = {
                "tcpSocket": {"port": self.ports[0]},
                "periodSeconds": 20,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            }
        return probes

    def _user(self) -> tuple[int, int]:
        user, _colon, group = str(self.spec["user"]).partition(":")
        return int(user), int(group or user)

    def _security(self) -> Document:
        user, group = self._user()
        added = sorted(self.spec.get("cap_add") or [])
        return {
            "runAsUser": user,
            "runAsGroup": group,
            "runAsNonRoot": user != 0,
            "readOnlyRootFilesystem": bool(self.spec["read_only"]),
            "allowPrivilegeEscalation": "no-new-privileges" not in (self.spec.get("security_opt") or []),
            "capabilities": {"drop": sorted(self.spec["cap_drop"]), **({"add": added} if added else {})},
            "seccompProfile": {"type": "RuntimeDefault"},
        }

    def container(self, mounts: list[Document]) -> Document:
        """Return its only container."""
        container: Document = {
            "name": self.name,
            "image": self.spec["image"],
            "imagePullPolicy": Value("image.pullPolicy"),
            "env": [
                {"name": name, "value": str(text)}
                for name, text in sorted((self.spec.get("environment") or {}).items())
            ],
            "ports": [{"containerPort": port, "name": port_name(port)} for port in self.all_ports],
            "resources": self.value("resources"),
            "securityContext": self._security(),
            **self._probes(),
            "volumeMounts": mounts,
        }
        # Docker's entrypoint is Kubernetes' command, and Docker's command its arguments.
        for name, given in (("command", "entrypoint"), ("args", "command")):
            if self.spec.get(given):
                container[name] = [str(word) for word in self.spec[given]]
        if self.ports and not self.own_state:
            container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(DRAIN)]}}}
        return {key: item for key, item in container.items() if item not in ([], {})}

    @property
    def all_ports(self) -> list[int]:
        """Ports that its containers have open, that for metrics among them."""
        return sorted({*self.ports, *([self.metrics[0]] if self.metrics else [])})

    def pod(self) -> Document:
        """Return its pods' specification."""
        volumes, mounts = self._volumes()
        user, group = self._user()
        security: Document = {"fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"} if group else {}
        if user and any(port < 1024 for port in self.ports):
            security["sysctls"] = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
        return {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": int(self.spec["stop_timeout"]) + DRAIN,
            "imagePullSecrets": Value("image.pullSecrets"),
            "hostAliases": Value("hostAliases"),
            "securityContext": security,
            "containers": [self.container(mounts)],
            "volumes": volumes,
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{state}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 30,
                }
                for state in ("not-ready", "unreachable")
            ],
            "topologySpreadConstraints": [self._spread()],
        }

    def _spread(self) -> Document:
        """Return that its pods are on as many nodes as there are."""
        spread: Document = {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(self.name)},
        }
        if not self.own_state:
            # Beside the pods that they replace, new ones would all be on one node once those are gone.
            spread["matchLabelKeys"] = ["pod-template-hash"]
        return spread

    # Objects.

    def _replicas(self) -> Value:
        """Return the number of pods, which is stated where nothing else sets it."""
        when = Chosen(self.value("scaling.by").path, (FIXED,)) if self.scales else None
        return Value(self.value("replicas").path, when=when)

    def _controller(self) -> Document:
        matching = selector(self.name)
        annotations = {"annotations": {"checksum/config": Digest(self.name)}} if self._stated(False) else {}
        template = {
            "metadata": {"labels": {**matching, GROUP: PART_OF}, **annotations},
            "spec": self.pod(),
        }
        spec: Document = {
            "replicas": self._replicas(),
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": matching},
            "template": template,
        }
        kind = "Deployment"
        if self.own_state:
            kind = "StatefulSet"
            claim = {"metadata": {"name": "state"}, "spec": self.value("state")}
            spec |= {"serviceName": self.name, "volumeClaimTemplates": [claim]}
        else:
            spec["strategy"] = {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            }
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata(self.name), "spec": spec}

    def parts(self) -> list[Part]:
        """Return its objects but the network's."""
        found: list[Document] = []
        if config := self.config():
            found.append(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(self.name), "data": config}
            )
        found.append(self._controller())
        if self.ports:
            ports = [
                {"name": port_name(port), "port": port, "targetPort": port, "protocol": "TCP"}
                for port in self.ports
            ]
            spec: Document = {"selector": selector(self.name), "ports": ports}
            if self.entry["role"] == "haproxy":
                spec["clusterIP"] = Value("entry.clusterIP")
            found.append(
                {"apiVersion": "v1", "kind": "Service", "metadata": metadata(self.name), "spec": spec}
            )
        if not self.own_state:
            spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector(self.name)}}
            meta = metadata(self.name)
            found.append(
                {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}
            )
        return [Part(self.name, document) for document in found]


def _below(mount: Document, mounts: list[Document]) -> Document:
    """Return where a volume of several lies on the one that all of a service's state is on."""
    first = mounts[0]["source"]
    return {} if mount["source"] == first else {"subPath": PurePosixPath(mount["target"]).name}


def _key(item: Document) -> str:
    return str(item["path"]).replace("/", ".")


def _items(files: dict[str, Document]) -> list[Document]:
    return [{"key": key, "path": item["path"]} for key, item in files.items()]


def _probe(test: list[str], ports: list[int]) -> Document:
    """Return a health check as a probe: over HTTP where it is a request to a port that others reach too."""
    url = urlsplit(test[-1]) if "curl" in test[:2] else urlsplit("")
    if url.scheme == "http" and url.port in {*ports, None} and (url.port or 80) in ports:
        path = url.path + (f"?{url.query}" if url.query else "")
        return {"httpGet": {"path": path or "/", "port": url.port or 80}}
    command = test[1:] if test[0] == "CMD" else ["sh", "-c", *test[1:]]
    return {"exec": {"command": [str(word) for word in command]}}


def port_name(port: int) -> str:
    """Return a port's name; proxies tell by it what is spoken there."""
    return {80: "http", 443: "https"}.get(port, f"port-{port}")
