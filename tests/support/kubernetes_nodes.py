"""A cluster of two nodes, each a container with containerd and the parts of Kubernetes in it."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parents[1] / "kubernetes/cluster"
NETWORK = "cavern-nodes"
SUBNET = "172.29.77"
NODES = ("cavern-node1", "cavern-node2")
PACKAGES = (
    "ca-certificates,iproute2,procps,curl,containerd,runc,containernetworking-plugins,iptables,nftables,conntrack,ethtool,"
    "socat,kmod,util-linux,tini"
)
PAUSE = "cavern-node/pause:local"
SHARED = "cavern-nodes-shared"
IMAGES = ("haproxy", "iam", "nginx", "posix-mapper", "postgres", "preparer", "rabbitmq", "vospace")
"""Images of a deployment."""
STATE = {"srcnodedb": 8001, "postgres-posixmapper": 8003, "ska-src-local-data-preparer-rabbitmq": 8002}
"""What keeps a state of its own, with the users that run it."""
ACCESS = {"space": "ReadWriteMany", "rse": "ReadOnlyMany", "results": "ReadWriteMany"}
CLAIMS = {name: {"spec": {"volumeName": name, "storageClassName": ""}} for name in ACCESS}
"""Values of a site whose claims are for the volumes that `storage` makes."""


def run(*command: str | Path, stdin: bytes | None = None, check: bool = True, timeout: int = 600) -> str:
    """Run a program and return what it printed; what it said is in the error."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout)
    text = done.stdout.decode(errors="replace")
    assert not check or done.returncode == 0, f"{command}: {text}{done.stderr.decode(errors='replace')}"
    return text


def wait(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what becomes true within *seconds*."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found


def node_image() -> str:
    """Return an image of a Debian machine with containerd, which is made where it is not there."""
    recipe = PACKAGES + (HERE / "node-entrypoint").read_text()
    image = f"cavern-node/bookworm:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not run("docker", "images", "--quiet", image):
        entrypoint = 'ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/sbin/node-entrypoint"]'
        script = (
            f"set -o pipefail; setsid --wait mmdebstrap --quiet --variant=minbase --include={PACKAGES} "
            f"--customize-hook='copy-in {HERE}/node-entrypoint /usr/local/sbin' bookworm - "
            f"http://deb.debian.org/debian | docker import --change '{entrypoint}' - {image}"
        )
        run("bash", "-c", script, timeout=1200)
    return image


def pause_image(program: Path) -> None:
    """Make the image that holds a pod's namespaces."""
    layer = BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(program, "pause")
    run("docker", "import", "--change", 'ENTRYPOINT ["/pause"]', "-", PAUSE, stdin=layer.getvalue())


@dataclass(frozen=True)
class Cluster:
    """The cluster, by its first node."""

    def execute(
        self, *command: str, node: str = NODES[0], stdin: str | None = None, check: bool = True
    ) -> str:
        """Run a program on a node."""
        data = None if stdin is None else stdin.encode()
        return run(
            "docker", "exec", *(["-i"] if stdin is not None else []), node, *command, stdin=data, check=check
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator."""
        command = ("/kube/kube", "kubectl", "--kubeconfig=/run/kube/admin.conf", *arguments)
        return self.execute(*command, stdin=stdin, check=check)

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return objects."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "-o", "json", *arguments))["items"]
        return found

    def helm(self, *arguments: str, check: bool = True) -> str:
        """Run Helm as administrator."""
        program = 'HOME=/run/kube exec /kube/helm --kubeconfig=/run/kube/admin.conf "$@" 2>&1'
        return self.execute("sh", "-c", program, "helm", *arguments, check=check)

    def copy(self, source: Path, target: str) -> None:
        """Copy a file or directory to the first node."""
        run("docker", "cp", str(source), f"{NODES[0]}:{target}")


def images() -> list[str]:
    """Return the images of a deployment, which are there already."""
    missing = [name for name in IMAGES if not run("docker", "images", "--quiet", f"cavern/{name}:local")]
    assert not missing, (
        f"the images {', '.join(missing)} are not there: make up, or ansible-playbook site.yml --tags images"
    )
    return [f"cavern/{name}:local" for name in IMAGES]


def storage(cluster: Cluster, namespace: str) -> None:
    """Make the volumes of a deployment, which both nodes see: directories below /srv."""
    cluster.execute("mkdir", "-p", *(f"/srv/{name}" for name in (*ACCESS, *STATE)))
    for name, user in {**STATE, "results": 8014, "rse": 8015}.items():
        cluster.execute("chown", "-R", f"{user}:{user}", f"/srv/{name}")
    claims = [(name, access, name) for name, access in ACCESS.items()]
    claims += [(name, "ReadWriteOnce", f"state-{name}-0") for name in STATE]
    volumes = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": [access],
                "storageClassName": "",
                "hostPath": {"path": f"/srv/{name}"},
                "claimRef": {"namespace": namespace, "name": claim},
            },
        }
        for name, access, claim in claims
    ]
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(volumes))


def volumes() -> Path:
    """Return where the volumes of a deployment are on this machine: a directory for each of them."""
    return Path(run("docker", "volume", "inspect", "--format={{.Mountpoint}}", SHARED).strip())


def kubeconfig(directory: Path) -> Path:
    """Return a file with the administrator's access to the cluster that was started in a directory."""
    token = (directory / "tokens.csv").read_text().partition(",")[0]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": f"https://{SUBNET}.11:6443",
                    "certificate-authority": str(directory / "apiserver/apiserver.crt"),
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def stop() -> None:
    """Remove the cluster."""
    run("docker", "rm", "--force", "--volumes", *NODES, check=False)
    volumes = [f"{node}-{kind}" for node in NODES for kind in ("containerd", "kubelet")]
    run("docker", "volume", "rm", "--force", SHARED, *volumes, check=False)
    run("docker", "network", "rm", NETWORK, check=False)


def start(programs: Path, directory: Path, images: list[str]) -> Cluster:
    """Start two nodes whose containerd has the *images*; *directory* is for what they have in common."""
    stop()
    image = node_image()
    pause_image(programs / "pause")
    run("docker", "network", "create", "--subnet", f"{SUBNET}.0/24", NETWORK)
    groups = {
        "admin": "system:masters",
        "system:kube-proxy": "",
        "system:kube-controller-manager": "",
        "system:kube-scheduler": "",
    }
    groups |= {f"system:node:node{number}": "system:nodes" for number in (1, 2)}
    lines = [f'{secrets.token_hex(16)},{user},{user},"{group}"\n' for user, group in groups.items()]
    (directory / "tokens.csv").write_text("".join(lines))
    run("openssl", "genrsa", "-out", directory / "accounts.key", "2048")
    run("openssl", "rsa", "-in", directory / "accounts.key", "-pubout", "-out", directory / "accounts.pub")
    for number, node in enumerate(NODES, 1):
        run(
            "docker", "run", "--detach", f"--name={node}", f"--hostname=node{number}", f"--network={NETWORK}",
            f"--ip={SUBNET}.1{number}", "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined", "--security-opt=systempaths=unconfined", "--cgroupns=private",
            "--device-cgroup-rule=a *:* rwm", "--tmpfs=/run", "--tmpfs=/run/lock",
            f"--volume={node}-containerd:/var/lib/containerd", f"--volume={node}-kubelet:/var/lib/kubelet",
            f"--volume={programs}:/kube:ro", f"--volume={HERE}/node:/usr/local/sbin/node:ro",
            f"--volume={directory}:/shared", f"--volume={SHARED}:/srv", image, "sleep", "infinity",
        )  # fmt: skip
    started = [
        subprocess.Popen(["docker", "exec", node, "node", str(number), SUBNET])
        for number, node in enumerate(NODES, 1)
    ]
    assert [process.wait() for process in started] == [0, 0]
    archive = directory / "images.tar"
    run("docker", "save", "--output", archive, PAUSE, *images)
    for node in NODES:
        run(
            "docker",
            "exec",
            node,
            "ctr",
            "--namespace=k8s.io",
            "images",
            "import",
            "--no-unpack",
            "/shared/images.tar",
        )
    archive.unlink()
    cluster = Cluster()
    wait(lambda: len(cluster.get("nodes")) == len(NODES), 60, "two nodes")
    cluster.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
    return cluster
