"""Helm, and the parts of a cluster, built from Go's modules once and kept outside of the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path(__file__).parent / "cluster"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skasrc-cavern"
PACKAGES = {"helm": "helm.sh/helm/v3/cmd/helm", "kube": "./kube", "coredns": "./coredns", "pause": "./pause"}
VERSION = "v1.34.4"
# What a server tells of its version, which a chart asks for.
STAMP = "".join(
    f" -X k8s.io/component-base/version.{name}={value}"
    for name, value in {"gitVersion": VERSION, "gitMajor": "1", "gitMinor": "34"}.items()
)
LINK = f"-ldflags=-s -w{STAMP}"


def built(name: str) -> Path:
    """Return a program, which is built where it is not there: minutes of both cores, once for each version."""
    sources = sorted([*MODULE.glob("go.*"), *MODULE.glob("*/*.go")])
    digest = hashlib.sha256(b"".join([LINK.encode(), *(path.read_bytes() for path in sources)])).hexdigest()
    directory = CACHE / f"cluster-{digest[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    with open(directory / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            if not shutil.which("go"):
                pytest.fail("the tests of Kubernetes build Helm and Kubernetes: they need Go 1.24 or newer")
            command = [
                "go",
                "build",
                "-p=2",
                "-trimpath",
                LINK,
                f"-o={program}.new",
                PACKAGES[name],
            ]
            environment = os.environ | {"CGO_ENABLED": "0"}
            subprocess.run(["nice", *command], cwd=MODULE, env=environment, check=True)
            Path(f"{program}.new").rename(program)
    return program


@pytest.fixture(scope="session")
def helm() -> Path:
    """Return Helm."""
    return built("helm")


@pytest.fixture(scope="session")
def built_kube() -> Path:
    """Return the directory that has the API server."""
    return built("kube").parent


@pytest.fixture(scope="session")
def programs() -> Path:
    """Return the directory with all programs of a cluster."""
    return {built(name).parent for name in PACKAGES}.pop()
