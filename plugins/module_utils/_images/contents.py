# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inspect images: list what they contain, and which Debian updates they lack. Private to the collection.

Both run in a short-lived container of the image itself, which has Python and apt: apt verifies the archive's lists, and
compares versions as dpkg does.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _engine, _files
from ansible_collections.skasrc.cavern.plugins.module_utils._images import sbom

NOBODY = "65534:65534"
CA_BUNDLE = "/ca-bundle.crt"
SCRATCH = "/tmp"  # noqa: S108 - a file system of the container's own
# Seconds that the archive may take to answer, and the whole program to end.
PATIENCE, TIMEOUT = 10, 120

SCAN = r"""
import hashlib, importlib.metadata, json, pathlib, subprocess, sys
def digest(path):
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
names = ("db:Status-Abbrev", "Package", "Version", "Architecture", "source:Package", "source:Version")
form = "\t".join("${%s}" % name for name in names) + "\n"
listed = subprocess.run(["dpkg-query", "--show", "--showformat", form], capture_output=True, text=True, check=True)
debian, info = [], pathlib.Path("/var/lib/dpkg/info")
for line in listed.stdout.splitlines():
    status, name, version, architecture, *source = line.split("\t")
    if status.strip() == "ii":
        found = digest(info / f"{name}.md5sums") or digest(info / f"{name}:{architecture}.md5sums")
        debian.append([name, version, architecture, *source, found])
places = [str(path) for path in pathlib.Path("/opt/venv").glob("lib/python3*/site-packages")]
python = sorted(
    [found.name, found.version, digest(pathlib.Path(str(found._path), "RECORD"))]
    for found in importlib.metadata.distributions(path=places)
)
release = {}
for line in pathlib.Path("/etc/os-release").read_text().splitlines():
    key, equals, value = line.partition("=")
    if equals:
        release[key] = value.strip('"')
print(json.dumps({"release": release, "debian": debian, "python": python}))
"""

UPDATES = r"""
import json, pathlib, subprocess, sys
sources, proxy, ca, patience, packages = json.loads(sys.argv[1])
home = pathlib.Path("/tmp")
for name in ("lists/partial", "cache"):
    (home / name).mkdir(parents=True)
(home / "sources.list").write_text("".join(f"{line}\n" for line in sources))
settings = {
    "Dir::Etc::SourceList": "/tmp/sources.list", "Dir::Etc::SourceParts": "-", "Dir::State::Lists": "/tmp/lists",
    "Dir::Cache": "/tmp/cache", "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "0",
    "Acquire::http::Timeout": patience, "Acquire::https::Timeout": patience, "APT::Update::Error-Mode": "any",
} | ({"Acquire::https::CAInfo": ca} if ca else {})
(home / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
environment = {"APT_CONFIG": "/tmp/apt.conf", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **proxy}
done = subprocess.run(["apt-get", "--quiet=2", "update"], env=environment, capture_output=True, text=True)
if done.returncode:
    sys.exit((done.stderr or done.stdout).strip())
wanted = {(name, architecture) for name, _version, architecture in packages}
offered = {}
for path in sorted((home / "lists").glob("*_Packages")):
    entry = {}
    for line in [*path.open(encoding="utf-8"), "\n"]:
        key, colon, value = line.partition(": ")
        if colon and key in ("Package", "Version", "Architecture"):
            entry[key] = value.strip()
        elif line == "\n" and entry:
            key = entry["Package"], entry["Architecture"]
            if key in wanted:
                offered.setdefault(key, set()).add(entry["Version"])
            entry = {}
def newer(one, other):
    return subprocess.run(["dpkg", "--compare-versions", one, "gt", other]).returncode == 0
waiting = []
for name, version, architecture in packages:
    best = version
    for other in offered.get((name, architecture), ()):
        if other != best and newer(other, best):
            best = other
    if best != version:
        waiting.append([name, version, architecture, best])
print(json.dumps(waiting))
"""


class ContentsError(Exception):
    """An image cannot be inspected; the message says why."""


@dataclass(frozen=True, order=True)
class Update:
    """Package of an image, and the newer version that Debian offers."""

    name: str
    installed: str
    available: str

    def __str__(self) -> str:
        return f"{self.name} {self.installed} -> {self.available}"


@dataclass(frozen=True)
class Archive:
    """Debian's archive of updates: lines of apt's sources.list, proxy and CA bundle."""

    sources: list[str]
    proxy: dict[str, str]
    ca_bundle: str | None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Archive:
        """Return the archive that the options of the module images name."""
        suite, bundle = options["debian_suite"], Path(options["ca_bundle"])
        # Without one that the Engine can mount, the image's own.
        found = _engine.places(options["socket"]).find(str(bundle)) if bundle.is_file() else None
        values = {key.lower(): str(value) for key, value in options["proxy"].items() if value}
        return cls(
            [
                f"deb {options['debian_security_mirror']} {suite}-security main",
                f"deb {options['debian_mirror']} {suite}-updates main",
            ],
            values,
            found,
        )


class Contents:
    """Contents of images, read from the SBOMs in a directory where these match the present images."""

    def __init__(self, api: Any, directory: Path | None) -> None:
        """Inspect images by *api* that have no valid SBOM in *directory*, which may be None."""
        self.api = api
        self.directory = directory

    def file(self, image: str) -> Path:
        """Return the path of an image's SBOM, by the last part of its name."""
        return (self.directory or Path()) / f"{image.rpartition('/')[2].rpartition(':')[0]}.cdx.json"

    def written(self, image: str, details: dict[str, Any]) -> dict[str, Any] | None:
        """Return the SBOM of an image if it is written, and of this very image."""
        found = _files.read_bytes(self.file(image)) if self.directory else None
        if found is None or sbom.image_of(found) != details["Id"]:
            return None
        bill: dict[str, Any] = json.loads(found)
        return bill

    def bill(self, image: str, details: dict[str, Any]) -> dict[str, Any]:
        """Return the SBOM of an image. Raises ContentsError."""
        return self.written(image, details) or sbom.document(image, details, self._scan(image))

    def _scan(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_run(self.api, image, ["-I", "-c", SCAN], {"NetworkMode": "none"}))
        return found

    def updates(self, bills: dict[str, dict[str, Any]], archive: Archive) -> dict[str, list[Update]]:
        """Return the Debian updates that each image lacks; one of them asks the archive. Raises ContentsError."""
        if not bills:
            return {}
        packages = {image: sbom.packages(bill) for image, bill in bills.items()}
        wanted = sorted({package for found in packages.values() for package in found})
        host: dict[str, Any] = {"NetworkMode": "bridge"}
        if archive.ca_bundle:
            host["Binds"] = [f"{archive.ca_bundle}:{CA_BUNDLE}:ro"]
        asked = [archive.sources, archive.proxy, CA_BUNDLE if archive.ca_bundle else "", PATIENCE, wanted]
        answer = json.loads(_run(self.api, min(bills), ["-I", "-c", UPDATES, json.dumps(asked)], host))
        waiting = {(name, version, arch): Update(name, version, best) for name, version, arch, best in answer}
        return {
            image: sorted(waiting[package] for package in found if package in waiting)
            for image, found in packages.items()
        }


def _run(api: Any, image: str, arguments: list[str], host: dict[str, Any]) -> str:
    """Run the image's Python in a container without privileges, and return its output."""
    body = {
        "Image": image,
        "Entrypoint": ["/usr/bin/python3"],
        "Cmd": arguments,
        "User": NOBODY,
        "Labels": {},
        "HostConfig": {
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Tmpfs": {SCRATCH: "mode=1777"},
            "PidsLimit": 64,
            "Memory": 512 << 20,
            **host,
        },
    }
    try:
        container = api.create_container_from_config(body)["Id"]
        try:
            api.start(container)
            code = api.wait(container, timeout=TIMEOUT)["StatusCode"]
            output = api.logs(container, stdout=True, stderr=False).decode()
            errors = api.logs(container, stdout=False, stderr=True).decode().strip()
        finally:
            with contextlib.suppress(_docker.DockerException, OSError):
                api.remove_container(container, force=True)
    except (_docker.DockerException, OSError) as error:
        raise ContentsError(f"{image}: {_docker.explain(error)}") from error
    if code:
        raise ContentsError(f"{image}: {errors[-500:] or f'ended with {code}'}")
    return str(output)
