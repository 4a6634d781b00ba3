# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenCADC's services are given, for the default inventory and for a second site, file by file and key by key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ANSIBLE = Path(sys.executable).parent / "ansible-playbook"
SITES = {
    "local": ("inventory/local", "haproxy.cadc.dao.nrc.ca", "opencadc.org"),
    "second": ("molecule/default/inventory", "cavern.molecule.example", "molecule.example"),
}
SERVICES = ["reg", "posix_mapper", "cavern"]

# ansible-test runs these files without the playbooks' environment.
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/collections").is_dir(),
    reason="renders through ansible-playbook, which needs the checkout's .venv",
)


@cache
def rendered(site: str) -> dict[str, Any]:
    """Specifications of all services of a site, in OpenCADC's flavour."""
    output = ROOT / f"build/rendered-{site}.json"
    output.parent.mkdir(exist_ok=True)
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "MOLECULE_EPHEMERAL_DIRECTORY": "/srv",
    }
    done = subprocess.run(
        [
            str(ANSIBLE),
            "-i",
            SITES[site][0],
            "-e",
            f"output={output}",
            "-e",
            "cavern_flavour=opencadc",
            "tests/unit/roles/render.yml",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    specs = json.loads(output.read_text())
    output.unlink()
    return {spec["name"]: spec for spec in specs}


def files(site: str, service: str) -> dict[str, str]:
    return {
        item["path"]: item.get("content", item.get("secret_content", ""))
        for item in rendered(site)[service]["files"]
    }


def properties(text: str) -> dict[str, list[str]]:
    """Read a file as OpenCADC's services do: the first = divides, # and ! begin comments, keys may repeat."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "!")):
            continue
        key, equals, value = line.partition("=")
        assert equals, f"a line without = stops the service: {line!r}"
        found.setdefault(key.strip(), []).append(value.strip())
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", SERVICES)
def test_the_public_side_of_the_proxy(site: str, service: str) -> None:
    found = properties(files(site, service)["catalina.properties"])
    assert {key: value for key, value in found.items() if key.startswith("tomcat.connector.")} == {
        "tomcat.connector.connectionTimeout": ["20000"],
        "tomcat.connector.keepAliveTimeout": ["120000"],
        "tomcat.connector.secure": ["true"],
        "tomcat.connector.scheme": ["https"],
        "tomcat.connector.proxyName": [SITES[site][1]],
        "tomcat.connector.proxyPort": ["443"],
    }


@pytest.mark.parametrize("site", SITES)
def test_cavern_properties(site: str) -> None:
    authority = SITES[site][2]
    prefix = "org.opencadc.cavern"
    assert properties(files(site, "cavern")["cavern.properties"]) == {
        f"{prefix}.resourceID": [f"ivo://{authority}/cavern"],
        f"{prefix}.filesystem.baseDir": ["/data"],
        f"{prefix}.filesystem.subPath": ["cavern"],
        # All three, or they are ignored; the uid below those that the POSIX mapper gives out.
        f"{prefix}.filesystem.rootOwner": ["cavernadmin"],
        f"{prefix}.filesystem.rootOwner.username": ["cavernadmin"],
        f"{prefix}.filesystem.rootOwner.uid": ["9999"],
        f"{prefix}.filesystem.rootOwner.gid": ["9999"],
        f"{prefix}.allocationParent": ["/home", "/projects"],
        f"{prefix}.nodes.QuotaPlugin": ["NoQuotaPlugin"],
    }


@pytest.mark.parametrize("site", SITES)
def test_database_pools(site: str) -> None:
    cavern = properties(files(site, "cavern")["catalina.properties"])
    assert cavern["org.opencadc.cavern.uws.url"] == ["jdbc:postgresql://srcnodedb:5432/cavern"]
    assert cavern["org.opencadc.cavern.uws.username"] == ["cavern"]
    assert cavern["org.opencadc.cavern.uws.password"] == ["cavern_db_password"]
    mapper = properties(files(site, "posix_mapper")["catalina.properties"])
    assert mapper["org.opencadc.posix.mapper.url"] == ["jdbc:postgresql://postgres_posixmapper:5432/mapping"]
    assert mapper["org.opencadc.posix.mapper.password"] == ["posix_mapper_db_password"]
    # The account must own the schema that the service makes its tables in.
    databases = json.loads(files(site, "srcnodedb")["databases.json"])
    assert "uws" in next(entry for entry in databases if entry["role"] == "cavern")["schemas"]
    assert json.loads(files(site, "postgres_posixmapper")["databases.json"])[0]["schemas"] == ["mapping"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", ["posix_mapper", "cavern"])
def test_trusted_services(site: str, service: str) -> None:
    _, name, authority = SITES[site]
    assert properties(files(site, service)["cadc-registry.properties"]) == {
        "ca.nrc.cadc.reg.client.RegistryClient.baseURL": [f"https://{name}/reg"],
        # Exactly the issuer of the tokens: a trailing slash more or less is another issuer.
        "ivo://ivoa.net/sso#OpenID": [f"https://{name}/iam"],
        "ivo://ivoa.net/std/GMS#search-1.0": [f"ivo://{authority}/gms"],
        "http://www.opencadc.org/std/posix#user-mapping-0.1": [f"ivo://{authority}/posix-mapper"],
        "http://www.opencadc.org/std/posix#group-mapping-0.1": [f"ivo://{authority}/posix-mapper"],
    }
    catalina = properties(files(site, service)["catalina.properties"])
    assert catalina["ca.nrc.cadc.auth.IdentityManager"] == ["org.opencadc.auth.StandardIdentityManager"]
    assert catalina["ca.nrc.cadc.auth.PrincipalExtractor.enableClientCertHeader"] == ["true"]


@pytest.mark.parametrize("site", SITES)
def test_posix_mapper_properties(site: str) -> None:
    prefix = "org.opencadc.posix.mapper"
    assert properties(files(site, "posix_mapper")["posix-mapper.properties"]) == {
        f"{prefix}.resourceID": [f"ivo://{SITES[site][2]}/posix-mapper"],
        f"{prefix}.schema": ["mapping"],
        f"{prefix}.uid.start": ["10000"],
        f"{prefix}.gid.start": ["900000"],
    }


@pytest.mark.parametrize("site", SITES)
def test_registry(site: str) -> None:
    _, name, authority = SITES[site]
    found = properties(files(site, "reg")["reg-resource-caps.properties"])
    assert found[f"ivo://{authority}/cavern"] == [f"https://{name}/src/cavern/capabilities"]
    assert found[f"ivo://{authority}/posix-mapper"] == [f"https://{name}/src/posix-mapper/capabilities"]
    # A second value for a key is a failure to the Java client, an equals sign in a URL to the Python one.
    assert all(len(values) == 1 and "=" not in values[0] for values in found.values())


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("service", "line"),
    [
        ("cavern", "mv cavern.war src#cavern.war\n"),
        ("posix_mapper", "mv posix-mapper.war src#posix-mapper.war\n"),
    ],
)
def test_context_paths(site: str, service: str, line: str) -> None:
    assert files(site, service)["war-rename.conf"] == line


@pytest.mark.parametrize("site", SITES)
def test_how_the_images_are_run(site: str) -> None:
    specs = rendered(site)
    # Cavern hands files over to their users; the others must be told to run as the images' own user.
    assert {name: specs[name]["user"] for name in SERVICES} == {
        "cavern": "0:0",
        "posix_mapper": "8675309:8675309",
        "reg": "8675309:8675309",
    }
    for name in SERVICES:
        assert specs[name]["read_only"] is False
        assert specs[name]["image"].startswith("images.opencadc.org/")
        effects = {item["path"]: item.get("on_change", "restart") for item in specs[name]["files"]}
        # The start script appends: a changed file asks for a new container.
        assert effects["catalina.properties"] == "recreate"
        assert effects["cacerts/deployment-ca.pem"] == "recreate"
    assert {"haproxy", "reg", "posix_mapper", "srcnodedb"} <= set(specs["cavern"]["depends_on"])
    assert specs["cavern"]["health"]["test"][-2:] == ["/src/cavern/nodes?limit=0", "200"]
    assert "src-posix-mapper 8080 '/src/posix-mapper/capabilities' 200" in files(site, "cavern")["start"]
    assert specs["core"]["image"].startswith("cavern/")
