"""The API of a cluster without nodes: etcd and the API server as processes of this machine."""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Kinds that are not Kubernetes' own: in Go's modules, by their versions and hashes, the files that define them.
DEFINITIONS = {
    "github.com/kedacore/keda/v2": (
        "v2.17.2",
        "h1:xlrcK5TKABJF9PebK79sgL07s/csGjL3H4m72OkZXxk=",
        ["config/crd/bases/keda.sh_scaledobjects.yaml"],
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        ["example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"],
    ),
    "sigs.k8s.io/gateway-api": (
        "v1.4.1",
        "h1:NPxFutNkKNa8UfLd2CMlEuhIPMQgDQ6DXNKG9sHbJU8=",
        [
            f"config/crd/standard/gateway.networking.k8s.io_{kinds}.yaml"
            for kinds in ("httproutes", "backendtlspolicies")
        ],
    ),
}


def definitions() -> list[Path]:
    """Return the files of definitions, which Go's module proxy has; they stay in the cache of modules."""
    found = []
    for module, (version, wanted, paths) in DEFINITIONS.items():
        command = ["go", "mod", "download", "-json", f"{module}@{version}"]
        # Outside of any module, whose own versions would be asked for.
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        told = json.loads(done.stdout or "{}")
        assert done.returncode == 0, told.get("Error") or done.stderr
        assert told["Sum"] == wanted, f"{module}@{version} has another content: {told['Sum']}"
        found += [Path(told["Dir"]) / path for path in paths]
    return found


@dataclass(frozen=True)
class Server:
    """An API server, with the file that has the access to it."""

    program: Path
    kubeconfig: Path

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator."""
        command: list[str | Path] = [self.program, "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return objects."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "-o", "json", *arguments).stdout)[
            "items"
        ]
        return found


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in opened]


def _ready(url: str, authority: Path) -> bool:
    if not authority.exists():
        return False
    try:
        context = ssl.create_default_context(cafile=authority)
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def serve(programs: Path, directory: Path) -> Iterator[Server]:
    """Serve the API on the loopback interface, with the further kinds, until the caller is done."""
    kube = programs / "kube"
    client, peer, port = _free_ports(3)
    key, token = directory / "accounts.key", secrets.token_hex(16)
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    store = f"http://127.0.0.1:{client}"
    commands: dict[str, list[str | Path]] = {
        "etcd": [
            kube, "etcd", f"--data-dir={directory}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        ],
        "apiserver": [
            kube, "kube-apiserver", f"--etcd-servers={store}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            "--advertise-address=127.0.0.1", f"--cert-dir={directory}/certificates",
            f"--token-auth-file={directory}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--profiling=false",
            # Nobody in a pod looks for it.
            "--endpoint-reconciler-type=none",
        ],
    }  # fmt: skip
    url, authority = f"https://127.0.0.1:{port}", directory / "certificates/apiserver.crt"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    server = Server(kube, directory / "kubeconfig")
    server.kubeconfig.write_text(yaml.safe_dump(config))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            with (directory / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env=_plain()))
        end = time.monotonic() + 120
        while not _ready(f"{url}/readyz", authority):
            said = (directory / "apiserver.log").read_text()[-3000:]
            assert all(process.poll() is None for process in started), said
            assert time.monotonic() < end, f"waited 120 s for the API server: {said}"
            time.sleep(0.2)
        files = [f"--filename={path}" for path in definitions()]
        server.kubectl("apply", "--server-side", *files)
        server.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        yield server
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            process.wait(timeout=60)


def _plain() -> dict[str, str]:
    """Return the environment without a proxy, which the loopback interface is not behind."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
