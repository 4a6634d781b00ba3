# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers need to reach storage elements."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.skasrc.cavern.plugins.filter.catalogue import connections
from ansible_collections.skasrc.cavern.plugins.filter.storage import rse_access


def test_nothing_is_needed_for_none() -> None:
    assert rse_access([]) == {"settings": [], "files": [], "mounts": [], "urls": []}


def test_what_may_be_asked_is_stated() -> None:
    rse = {
        "name": "A",
        "url": "https://rse.example:1094/data",
        "redirects": ["https://*.pools.example:*/x"],
        "credential": "token_exchange",
        "credential_file": "/etc/secret",
        "issuer": "https://issuer.example/",
        "audience": None,
    }
    access = rse_access([rse])
    assert access["urls"] == [rse["url"], *rse["redirects"], rse["issuer"]]
    assert access["mounts"] == []
    assert "audience" not in access["settings"][0]
    service = {
        "alias": "core",
        "container": "core",
        "address": "10.0.0.2",
        "depends_on": [],
        "ports": [80],
        "role": "core",
    }
    rules = connections({"core": service}, [{"core": access["urls"]}], "public.example", [])["rules"]
    # Some of them may have any port.
    assert [(rule["destination"], rule["ports"]) for rule in rules] == [(None, [])]


def test_one_that_is_a_service_of_the_deployment_may_be_asked_on_its_port() -> None:
    def service(address: str, name: str) -> dict[str, object]:
        return {
            "alias": name,
            "container": f"test-{name}",
            "address": address,
            "depends_on": [],
            "ports": [80, 1094],
            "role": name,
        }

    services = {"core": service("10.0.0.2", "core"), "rse": service("10.0.0.3", "rse-a")}
    urls = [{"core": ["https://rse-a:1094/x", "https://public.example/iam"]}]
    rules = connections(services, urls, "public.example", [])["rules"]
    assert [(rule["comment"], rule["destination"], rule["ports"]) for rule in rules] == [
        ("core to rse", "10.0.0.3", [1094])
    ]


def test_a_file_is_named_by_where_it_is_on_the_machine() -> None:
    with pytest.raises(AnsibleFilterError, match="core_rses: A: ca_file: 'ca' is not an absolute path"):
        rse_access([{"name": "A", "url": "https://rse.example", "ca_file": "ca"}])
