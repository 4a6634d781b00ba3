"""Helm, and the parts of a cluster, built from Go's modules once and kept outside of the checkout."""

from __future__ import annotations

from pathlib import Path

import go_programs

MODULE = Path(__file__).resolve().parents[1] / "kubernetes/cluster"
PACKAGES = {"helm": "helm.sh/helm/v3/cmd/helm", "kube": "./kube", "coredns": "./coredns", "pause": "./pause"}
VERSION = "v1.34.4"
# What a server tells of its version, which a chart asks for.
STAMP = "".join(
    f" -X k8s.io/component-base/version.{name}={value}"
    for name, value in {"gitVersion": VERSION, "gitMajor": "1", "gitMinor": "34"}.items()
)
LINK = f"-ldflags=-s -w{STAMP}"


def built(name: str) -> Path:
    """Return a program of the cluster."""
    return go_programs.built(MODULE, name, PACKAGES[name], LINK)


def directory() -> Path:
    """Return the directory with all programs of a cluster."""
    return {built(name).parent for name in PACKAGES}.pop()
