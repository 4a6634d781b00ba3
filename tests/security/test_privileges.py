"""Privileges of a compromised service: no access to other services' files, no changes of its own program."""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from deployment import CATALOGUE, Deployment, settings

CAVERN = "src-cavern"
CAPABILITIES = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER"}
NAMES = [entry["container"] for entry in CATALOGUE.values()]
KEYS = {entry["container"]: key for key, entry in CATALOGUE.items()}
# Listening ports besides that in the catalogue.
FURTHER = {"haproxy": {80, 8405}, "ska-src-local-data-preparer-celery-worker": {9000}}


def status(stack: Deployment, name: str) -> dict[str, str]:
    """Return the kernel's status of a container's first process."""
    lines = Path(f"/proc/{stack.container(name).attrs['State']['Pid']}/status").read_text().splitlines()
    return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}


def user(stack: Deployment, name: str) -> int:
    return int(status(stack, name)["Uid"].split()[0])


def test_every_service_has_its_own_user(stack: Deployment) -> None:
    users = {name: user(stack, name) for name in NAMES}
    assert {name for name, number in users.items() if number == 0} == {CAVERN}
    assert len(set(users.values())) == len(users)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_readable_only_by_its_service(stack: Deployment, name: str) -> None:
    number = user(stack, name)
    found = [path for path in (stack.state / "config" / KEYS[name]).rglob("*") if path.is_file()]
    assert found
    for path in found:
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (number, 0), path
    # Each container has only its own.
    mounted = {
        mount["Source"] for mount in stack.container(name).attrs["Mounts"] if "/config" in mount["Source"]
    }
    assert mounted == {str(stack.state / "config" / KEYS[name])}


@pytest.mark.parametrize("name", NAMES)
def test_services_have_least_privilege(stack: Deployment, name: str) -> None:
    told, host = status(stack, name), stack.container(name).attrs["HostConfig"]
    held = {bit for bit in range(64) if int(told["CapBnd"], 16) >> bit & 1}
    assert {CAPABILITIES.get(bit, bit) for bit in held} == (
        {"CHOWN", "DAC_OVERRIDE", "FOWNER"} if name == CAVERN else set()
    )
    assert told["NoNewPrivs"] == "1"
    assert told["Seccomp"] == "2"
    assert host["ReadonlyRootfs"]
    assert 0 < host["PidsLimit"] <= 512
    assert host["Memory"] > 0
    assert not host["Privileged"]
    assert not any(host[space] for space in ("PidMode", "UTSMode", "UsernsMode"))
    assert host["IpcMode"] == "private"
    assert not [mount for mount in stack.container(name).attrs["Mounts"] if "docker.sock" in mount["Source"]]


def listening(process: int) -> set[int]:
    """Return TCP ports that are reachable from outside the container."""
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] != "0A" or address == "0" * 24 + "01000000":
                continue
            # Of an IPv6 address, the last word is IPv4's, where it is one.
            (last,) = struct.unpack("<I", struct.pack(">I", int(address[-8:], 16)))
            if not IPv4Address(last).is_loopback:
                ports.add(int(port, 16))
    return ports


@pytest.mark.parametrize("name", NAMES)
def test_only_needed_ports_listen(stack: Deployment, name: str) -> None:
    """Including RabbitMQ's management, metrics and distribution ports."""
    port: Any = CATALOGUE[KEYS[name]].get("port")
    allowed = ({port} if port else set()) | FURTHER.get(name, set())
    if name == "haproxy":
        allowed.add(int((re.search(r":(\d+)$", settings()["url"]) or [0, 443])[1]))
    assert listening(stack.container(name).attrs["State"]["Pid"]) == allowed


def test_receipts_are_readable_only_by_the_worker(stack: Deployment) -> None:
    results = (stack.logs / "celery_results").stat()
    assert (results.st_uid, results.st_mode & 0o007) == (
        user(stack, "ska-src-local-data-preparer-celery-worker"),
        0,
    )
    writers = {
        name
        for name in NAMES
        for mount in stack.container(name).attrs["Mounts"]
        if mount["Source"] == str(stack.logs / "celery_results")
    }
    assert writers == {"ska-src-local-data-preparer-celery-worker"}
