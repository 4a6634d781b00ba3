# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Software bill of materials (CycloneDX 1.6) of an image. Private to the collection."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import quote

# A package as dpkg names it: name, version, architecture.
Package = tuple[str, str, str]

NAMESPACE = uuid.UUID("5d3c2c1e-0f0b-4b0a-9a57-6a3f5f0d7c11")
HASHED = "int.skao.src.cavern:hashed"
# Of what is installed there is no archive left to hash, but a list of its files with their digests.
LISTS = {"deb": "dpkg's list of the package's files with their MD5", "pypi": "RECORD of the distribution"}


def document(reference: str, details: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the bill of materials of an image from its inspected *details*, and what was *found* in it.

    It is reproducible: the same for the same image.
    """
    digest = details["Id"].removeprefix("sha256:")
    name, _colon, tag = reference.rpartition(":")
    release = found["release"]
    system = f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', '')}".rstrip("-")
    components = [
        {
            "type": "operating-system",
            "bom-ref": f"os:{system}",
            "name": release.get("ID", "linux"),
            "version": release.get("DEBIAN_VERSION_FULL") or release.get("VERSION_ID") or "unknown",
        },
        *(_debian(entry, release, system) for entry in found["debian"]),
        *(_python(entry) for entry in found["python"]),
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, f'{reference}@{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": moment(details["Created"]),
            "tools": {"components": [{"type": "application", "name": "skasrc.cavern"}]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": name,
                "version": tag,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": components,
    }


def moment(created: str) -> str:
    """Return the Engine's time without fractions, which JSON Schema's date-time and old readers reject."""
    return re.sub(r"\.\d+", "", created)


def _debian(entry: list[Any], release: dict[str, str], system: str) -> dict[str, Any]:
    name, version, architecture, source, source_version, digest = entry
    qualifiers = f"arch={architecture}&distro={quote(system)}"
    if (source, source_version) != (name, version):
        qualifiers += f"&upstream={quote(f'{source}@{source_version}', safe='')}"
    purl = (
        f"pkg:deb/{release.get('ID', 'debian')}/{quote(name, safe='')}@{quote(version, safe='')}?{qualifiers}"
    )
    return _library(purl, name, version, digest, "deb")


def _python(entry: list[Any]) -> dict[str, Any]:
    name, version, digest = entry
    # As package URLs spell them.
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return _library(f"pkg:pypi/{plain}@{quote(version, safe='')}", name, version, digest, "pypi")


def _library(purl: str, name: str, version: str, digest: str | None, kind: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        component["properties"] = [{"name": HASHED, "value": LISTS[kind]}]
    return component


def text(bill: dict[str, Any]) -> bytes:
    """Return the document as it is written to a file."""
    return json.dumps(bill, indent=1, ensure_ascii=False).encode() + b"\n"


def image_of(written: bytes | None) -> str | None:
    """Return the ID of the image that a written document describes, None if it is invalid."""
    try:
        return f"sha256:{json.loads(written or b'')['metadata']['component']['hashes'][0]['content']}"
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def packages(bill: dict[str, Any]) -> list[Package]:
    """Return the Debian packages in a document."""
    found = []
    for component in bill["components"]:
        match = re.match(r"pkg:deb/.*\?arch=([^&]+)", component.get("purl", ""))
        if match:
            found.append((component["name"], component["version"], match[1]))
    return found
