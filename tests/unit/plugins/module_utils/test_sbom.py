# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._images import sbom as _sbom

DIGEST = "0123456789abcdef" * 4
DETAILS = {"Id": f"sha256:{DIGEST}", "Created": "2026-11-29T19:12:03.123456789Z"}
FOUND: dict[str, Any] = {
    "release": {"ID": "debian", "VERSION_ID": "13", "DEBIAN_VERSION_FULL": "13.8"},
    "debian": [
        ["apt", "3.0.4", "amd64", "apt", "3.0.4", DIGEST],
        ["bsdutils", "1:2.41.5-0+deb13u1", "amd64", "util-linux", "2.41.5-0+deb13u1", None],
        ["libstdc++6", "14.2.0-19", "amd64", "gcc-14", "14.2.0-19", DIGEST],
    ],
    "python": [["MarkupSafe", "3.0.4", DIGEST], ["zope.interface", "7.1+local", None]],
}


@pytest.fixture
def bill() -> dict[str, Any]:
    return _sbom.document("registry.example.org:5000/cavern/nginx:local", DETAILS, FOUND)


def test_it_is_cyclonedx_as_the_schema_has_it(bill: dict[str, Any]) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="ansible-test has no such library")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(_sbom.text(bill).decode()) is None
    assert validator.validate_str(_sbom.text(bill | {"version": "one"}).decode()) is not None


def test_package_urls_are_read_as_they_are_meant(bill: dict[str, Any]) -> None:
    packageurl = pytest.importorskip("packageurl", reason="ansible-test has no such library")
    urls = [packageurl.PackageURL.from_string(c["purl"]) for c in bill["components"] if "purl" in c]
    assert [(url.type, url.namespace, url.name, url.version) for url in urls] == [
        ("deb", "debian", "apt", "3.0.4"),
        ("deb", "debian", "bsdutils", "1:2.41.5-0+deb13u1"),
        ("deb", "debian", "libstdc++6", "14.2.0-19"),
        ("pypi", None, "markupsafe", "3.0.4"),
        ("pypi", None, "zope-interface", "7.1+local"),
    ]
    assert urls[1].qualifiers == {
        "arch": "amd64",
        "distro": "debian-13",
        "upstream": "util-linux@2.41.5-0+deb13u1",
    }


def test_it_says_which_image_it_is_of_and_nothing_of_the_moment(bill: dict[str, Any]) -> None:
    assert bill["metadata"]["component"]["name"] == "registry.example.org:5000/cavern/nginx"
    assert bill["metadata"]["timestamp"] == "2026-11-29T19:12:03Z"
    assert _sbom.image_of(_sbom.text(bill)) == DETAILS["Id"]
    assert bill == _sbom.document("registry.example.org:5000/cavern/nginx:local", DETAILS, FOUND)
    other = _sbom.document("registry.example.org:5000/cavern/reg:local", DETAILS, FOUND)
    assert bill["serialNumber"] != other["serialNumber"]


def test_packages_are_read_back(bill: dict[str, Any]) -> None:
    assert _sbom.packages(json.loads(_sbom.text(bill))) == [
        ("apt", "3.0.4", "amd64"),
        ("bsdutils", "1:2.41.5-0+deb13u1", "amd64"),
        ("libstdc++6", "14.2.0-19", "amd64"),
    ]


@pytest.mark.parametrize("written", [None, b"", b"{", b"[]", b'{"metadata": {}}'])
def test_what_is_no_document_is_of_no_image(written: bytes | None) -> None:
    assert _sbom.image_of(written) is None
