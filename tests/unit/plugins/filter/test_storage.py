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


def test_a_secret_goes_to_services_alone_that_use_it() -> None:
    """Cavern exchanges no user's token; what it needs itself it has."""
    own = {"name": "A", "url": "https://a.example/d", "layout": "identity", "ca_file": "/ca.pem"}
    of_client = {"credential_file": "/etc/s", "client_id": "x", "issuer": "https://i.example"}
    of_client |= {"scope": "r", "audience": "a"}
    exchanged = own | of_client | {"credential": "token_exchange"}
    access = rse_access([exchanged], exchanges=False)
    assert access["settings"] == [own | {"ca_file": "/config/rses/A/ca.pem"}]
    assert access["files"] == [{"path": "rses/A/ca.pem", "source": "/ca.pem"}]
    assert access["urls"] == [own["url"]]
    assert len(rse_access([exchanged])["files"]) == 2
    granted = own | of_client | {"credential": "client_credentials"}
    assert rse_access([granted], exchanges=False) == rse_access([granted])


@pytest.mark.parametrize("credential", ["token_file", "x509_proxy"])
def test_a_directory_that_is_mounted_is_the_credentials_own(credential: str) -> None:
    def mounts(file: str) -> list[dict[str, object]]:
        rse = {"name": "A", "url": "https://a.example", "credential": credential, "credential_file": file}
        return rse_access([rse])["mounts"]

    for file in (
        "/token",
        "//token",
        "/etc/token",
        "/root/token",
        "/tmp/x509up_u1000",
        "/run//token",
        "/run/./token",
        "/home/ada/token",
        "/run/user/1000/token",
        "/var/lib/token",
        "/etc/grid-security/proxy.pem",
        "/run/tokens/../token",
    ):
        with pytest.raises(
            AnsibleFilterError, match=r"core_rses: A: credential_file: (its directory|must be)"
        ):
            mounts(file)
    for file, directory in (
        ("/run/tokens/site/token", "/run/tokens/site"),
        ("/run/tokens/token", "/run/tokens"),
        ("/home/ada/tokens/token", "/home/ada/tokens"),
        ("/etc/grid-security/site/proxy.pem", "/etc/grid-security/site"),
    ):
        assert mounts(file) == [{"type": "bind", "source": directory, "target": "/rses/A", "read_only": True}]
