# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Kubernetes calls things. Private to the collection."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.target import size
from ansible_collections.skasrc.cavern.plugins.module_utils._kubernetes.template import (
    Document,
    KubernetesError,
)

VOLUMES = ("config", "state", "shm")
"""Volumes of pods that are no claims of several services."""
PART_OF = "skasrc-cavern"
NAME = "app.kubernetes.io/name"
GROUP = "app.kubernetes.io/part-of"


def label(name: str) -> str:
    """Return a service's name as a DNS label (RFC 1123). Raises KubernetesError."""
    text = name.lower().replace("_", "-").replace(".", "-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise KubernetesError(
            f"container: {name!r} is no name of a service in Kubernetes, which is a DNS label"
        )
    return text


def check_claim(name: str) -> None:
    """Refuse a key of a claim that is no name of a volume and in expressions of a chart. Raises KubernetesError."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,61}", name) or name in VOLUMES:
        raise KubernetesError(
            f"kubernetes_claims.{name}: is no name for it, which has small letters and digits and is none of "
            f"{', '.join(VOLUMES)}; what it is called in the cluster is kubernetes_values.claims.<name>.name"
        )


def quantity(text: str) -> str:
    """Return a size of memory such as 256m in bytes' units of Kubernetes. Raises KubernetesError."""
    try:
        count = size(text)
    except PlanError as error:
        raise KubernetesError(f"memory: {error}") from error
    for unit, bits in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if count and count % (1 << bits) == 0:
            return f"{count >> bits}{unit}"
    return str(count)


def selector(name: str) -> Document:
    """Return the labels that a service's pods have and no others."""
    return {NAME: name}


def metadata(name: str, **more: Any) -> Document:
    """Return an object's metadata."""
    return {"name": name, "labels": {NAME: name, GROUP: PART_OF}, **more}
