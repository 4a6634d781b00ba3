"""Helm, and the parts of a cluster."""

from __future__ import annotations

from pathlib import Path

import kubernetes_programs
import pytest


@pytest.fixture(scope="session")
def helm() -> Path:
    """Return Helm."""
    return kubernetes_programs.built("helm")


@pytest.fixture(scope="session")
def built_kube() -> Path:
    """Return the directory that has the API server."""
    return kubernetes_programs.built("kube").parent


@pytest.fixture(scope="session")
def programs() -> Path:
    """Return the directory with all programs of a cluster."""
    return kubernetes_programs.directory()
