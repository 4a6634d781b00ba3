# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images lack updates, against an engine whose containers answer from a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._images import contents as _image_contents
from ansible_collections.skasrc.cavern.plugins.module_utils._images import recipes as _images
from ansible_collections.skasrc.cavern.plugins.module_utils._images.contents import (
    Archive,
    ContentsError,
    Update,
)
from ansible_collections.skasrc.cavern.plugins.module_utils._images.upkeep import Upkeep

BASE, PROXY, SERVICE = (f"cavern/{name}:local" for name in ("base", "proxy", "service"))
INSTALLED = {
    BASE: {"libc6": "2.41-12", "openssl": "3.5.1-1"},
    PROXY: {"libc6": "2.41-12", "openssl": "3.5.1-1", "haproxy": "3.0.11-1"},
    SERVICE: {"libc6": "2.41-12", "openssl": "3.5.1-1"},
}


class Engine:
    """Runs the two programs: `available` are the archive's versions, `fault` what it says if it cannot be asked."""

    def __init__(self) -> None:
        self.generation = 1
        self.available: dict[str, str] = {}
        self.fault = ""
        self.asked: list[tuple[str, list[Any]]] = []
        self.scanned: list[str] = []
        self.removed = 0
        self.body: dict[str, Any] = {}

    def inspect(self, image: str) -> dict[str, Any] | None:
        if image not in INSTALLED:
            return None
        return {
            "Id": f"sha256:{hash(image) & 0xFF:032x}{self.generation:032x}",
            "Created": "2026-11-29T19:12:03.5Z",
        }

    def create_container_from_config(self, body: dict[str, Any]) -> dict[str, str]:
        self.body = body
        return {"Id": body["Image"]}

    def start(self, container: str) -> None:
        """Nothing happens before the answer is asked for."""

    def wait(self, container: str, timeout: int) -> dict[str, int]:
        return {"StatusCode": int(bool(self.fault) and self.body["HostConfig"]["NetworkMode"] != "none")}

    def logs(self, container: str, stdout: bool, stderr: bool) -> bytes:
        if stderr:
            return self.fault.encode()
        if self.body["HostConfig"]["NetworkMode"] == "none":
            self.scanned.append(container)
            debian = [
                [name, version, "amd64", name, version, None]
                for name, version in INSTALLED[container].items()
            ]
            return json.dumps({"release": {"ID": "debian"}, "debian": debian, "python": []}).encode()
        asked = json.loads(self.body["Cmd"][-1])
        self.asked.append((container, asked))
        return json.dumps(
            [[*package, self.available[package[0]]] for package in asked[-1] if package[0] in self.available]
        ).encode()

    def remove_container(self, container: str, force: bool) -> None:
        self.removed += 1


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def upkeep(engine: Engine, tmp_path: Path) -> Upkeep:
    options = {name: spec.get("default") for name, spec in _images.ARGUMENT_SPEC.items()} | {
        "images": [PROXY, SERVICE, "registry.example.org/reg:1.2"],
        "recipes": {
            "base": {},
            "proxy": {"from": "base"},
            "python": {"from": "base"},
            "service": {"from": "python"},
        },
        "sbom_dir": str(tmp_path / "sbom"),
        "ca_bundle": str(tmp_path / "none.crt"),
    }
    return Upkeep(engine, options, engine.inspect)


def test_what_comes_with_an_ancestor_is_no_update_of_the_image_itself(engine: Engine, upkeep: Upkeep) -> None:
    engine.available = {"openssl": "3.5.1-1+deb13u1", "haproxy": "3.0.11-1+deb13u2"}
    openssl = Update("openssl", "3.5.1-1", "3.5.1-1+deb13u1")
    haproxy = Update("haproxy", "3.0.11-1", "3.0.11-1+deb13u2")
    found = upkeep.updates()
    assert found == {BASE: [openssl], PROXY: [haproxy, openssl], SERVICE: [openssl]}
    assert upkeep.own(found) == {"base": [openssl], "proxy": [haproxy]}
    # One container asks for all images at once, each package once.
    ((_image, asked),) = engine.asked
    assert len(asked[-1]) == 3
    assert asked[0] == [
        "deb http://deb.debian.org/debian-security trixie-security main",
        "deb http://deb.debian.org/debian trixie-updates main",
    ]
    assert engine.removed == 4


def test_containers_that_look_can_do_nothing_else(engine: Engine, upkeep: Upkeep) -> None:
    upkeep.updates()
    assert engine.body["User"] == "65534:65534"
    host = engine.body["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges"],
    )
    assert "Binds" not in host


def test_an_archive_that_cannot_be_asked_is_told(engine: Engine, upkeep: Upkeep) -> None:
    engine.fault = "E: Temporary failure resolving 'deb.debian.org'"
    with pytest.raises(ContentsError, match=r"cavern/base:local: E: Temporary failure resolving"):
        upkeep.updates()


def test_documents_are_written_once_for_each_image(engine: Engine, upkeep: Upkeep, tmp_path: Path) -> None:
    directory = tmp_path / "sbom"
    expected = {
        directory / f"{name}.cdx.json": (f"cavern/{name}:local", "missing")
        for name in ("base", "proxy", "service")
    }
    assert upkeep.stale_bills(set()) == expected
    assert upkeep.write([BASE, PROXY, SERVICE], lambda: engine) == []
    assert upkeep.stale_bills(set()) == {}
    engine.scanned.clear()
    upkeep.updates()
    assert engine.scanned == []
    # In check mode, what a build would change; otherwise what it has changed.
    assert upkeep.stale_bills({PROXY}) == {directory / "proxy.cdx.json": (PROXY, "the image changed")}
    engine.generation += 1
    assert {why for _image, why in upkeep.stale_bills(set()).values()} == {"the image changed"}
    (directory / "gone.cdx.json").write_text("{}")
    assert upkeep.stale_bills(set())[directory / "gone.cdx.json"] == (None, "no such image is needed")


def test_the_archive_is_that_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    archive = Archive.of(
        {
            "debian_suite": "bookworm",
            "debian_mirror": "https://mirror/debian",
            "debian_security_mirror": "https://mirror/security",
            "proxy": {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": None},
            "ca_bundle": str(tmp_path / "ca.crt"),
            "socket": "/var/run/docker.sock",
        }
    )
    assert archive.sources[0] == "deb https://mirror/security bookworm-security main"
    assert (archive.proxy, archive.ca_bundle) == (
        {"https_proxy": "http://proxy:3128"},
        str(tmp_path / "ca.crt"),
    )


@pytest.mark.parametrize("program", [_image_contents.SCAN, _image_contents.UPDATES])
def test_the_programs_are_python(program: str) -> None:
    compile(program, "program", "exec")
