# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenCADC's services are given, for the default inventory and for a second site, file by file and key by key.

``golden`` holds every rendered file as it should be. After a wanted change, ``GOLDEN=write pytest`` with this file
writes them anew, for whoever reads the difference.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
ANSIBLE = Path(sys.executable).parent / "ansible-playbook"
SERVICES = ["reg", "posix_mapper", "cavern"]


@dataclass(frozen=True)
class Site:
    """A site, and what its settings must come to."""

    inventory: str
    name: str
    authority: str
    issuer: str
    cavern: str
    resource: str
    posix_mapper: str
    owner: tuple[str, str]
    parents: tuple[str, ...]
    further: dict[str, list[str]]
    pool: tuple[str, str, str]
    mapper_pool: tuple[str, str, str]
    starts: tuple[str, str]
    heap: int
    operators: tuple[str, ...] = ()


SITES = {
    "local": Site(
        inventory="inventory/local",
        name="haproxy.cadc.dao.nrc.ca",
        authority="opencadc.org",
        issuer="https://haproxy.cadc.dao.nrc.ca/iam",
        cavern="/src/cavern",
        resource="ivo://opencadc.org/cavern",
        posix_mapper="/src/posix-mapper",
        owner=("cavernadmin", "9999"),
        parents=("/home", "/projects"),
        further={".nodes.QuotaPlugin": ["NoQuotaPlugin"]},
        pool=("5", "cavern", "cavern"),
        mapper_pool=("8", "posixmapper", "mapping"),
        starts=("10000", "900000"),
        heap=1920,
    ),
    "second": Site(
        inventory="tests/unit/roles/second_site",
        name="space.second.example",
        authority="second.example",
        issuer="https://issuer.second.example/",
        cavern="/vo/space",
        resource="ivo://second.example/vo/space",
        posix_mapper="/vo/users",
        owner=("operator", "5000"),
        parents=("/home", "/projects", "/teams"),
        further={
            ".nodes.QuotaPlugin": ["CephFSQuotaPlugin"],
            ".defaultQuotaGB": ["250.0"],
            ".selfAllocateGroup": ["ivo://second.example/gms?staff"],
        },
        pool=("12", "space", "spaces"),
        mapper_pool=("3", "mapper", "numbers"),
        starts=("20000", "2000000"),
        heap=3840,
        operators=("ada",),
    ),
}

# ansible-test runs these files without the playbooks' environment.
pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/collections").is_dir(),
    reason="renders through ansible-playbook, which needs the checkout's .venv",
)


def render(inventory: str, output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Write the specifications of all services, in OpenCADC's flavour, without touching anything."""
    arguments = [f"output={output}", "cavern_flavour=opencadc", *settings]
    extra = [word for setting in arguments for word in ("-e", setting)]
    return subprocess.run(
        [str(ANSIBLE), "-i", inventory, *extra, "tests/unit/roles/render.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def rendered(site: str) -> dict[str, Any]:
    """Specifications of a site's services by name."""
    output = ROOT / f"build/rendered-{site}.json"
    output.parent.mkdir(exist_ok=True)
    done = render(SITES[site].inventory, output)
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
def test_every_file_is_as_it_should_be(site: str, service: str) -> None:
    directory = GOLDEN / site / service
    # The deployment's CA is copied on the host deployed to, from where it was made.
    found = {path: text for path, text in files(site, service).items() if not path.startswith("cacerts/")}
    if os.environ.get("GOLDEN") == "write":
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in found.items():
            (directory / path).write_text(text)
    assert sorted(path.name for path in directory.iterdir()) == sorted(found)
    for path, text in found.items():
        assert text == (directory / path).read_text(), f"{site}/{service}/{path}"


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", SERVICES)
def test_the_public_side_of_the_proxy(site: str, service: str) -> None:
    found = properties(files(site, service)["catalina.properties"])
    assert {key: value for key, value in found.items() if key.startswith("tomcat.connector.")} == {
        "tomcat.connector.connectionTimeout": ["20000"],
        "tomcat.connector.keepAliveTimeout": ["120000"],
        "tomcat.connector.secure": ["true"],
        "tomcat.connector.scheme": ["https"],
        "tomcat.connector.proxyName": [SITES[site].name],
        "tomcat.connector.proxyPort": ["443"],
    }
    # No key twice: Java takes the last one, and the image's own come before.
    assert all(len(values) == 1 for values in found.values())


@pytest.mark.parametrize("site", SITES)
def test_cavern_properties(site: str) -> None:
    expected = SITES[site]
    prefix = "org.opencadc.cavern"
    name, number = expected.owner
    assert properties(files(site, "cavern")["cavern.properties"]) == {
        f"{prefix}.resourceID": [expected.resource],
        f"{prefix}.filesystem.baseDir": ["/data"],
        f"{prefix}.filesystem.subPath": ["cavern"],
        # All three, or they are ignored; the uid below those that the POSIX mapper gives out.
        f"{prefix}.filesystem.rootOwner": [name],
        f"{prefix}.filesystem.rootOwner.username": [name],
        f"{prefix}.filesystem.rootOwner.uid": [number],
        f"{prefix}.filesystem.rootOwner.gid": [number],
        f"{prefix}.allocationParent": list(expected.parents),
    } | {prefix + key: values for key, values in expected.further.items()}
    assert int(number) < int(expected.starts[0]) < int(expected.starts[1])


@pytest.mark.parametrize("site", SITES)
def test_database_pools(site: str) -> None:
    connections, role, database = SITES[site].pool
    cavern = properties(files(site, "cavern")["catalina.properties"])
    assert {key: value for key, value in cavern.items() if "uws" in key} == {
        "org.opencadc.cavern.uws.maxActive": [connections],
        "org.opencadc.cavern.uws.username": [role],
        "org.opencadc.cavern.uws.password": ["cavern_db_password"],
        "org.opencadc.cavern.uws.url": [f"jdbc:postgresql://srcnodedb:5432/{database}"],
    }
    # The account must own the schema that the service makes its tables in; the name is fixed in its code.
    databases = json.loads(files(site, "srcnodedb")["databases.json"])
    assert "uws" in next(entry for entry in databases if entry["database"] == database)["schemas"]

    connections, role, database = SITES[site].mapper_pool
    mapper = properties(files(site, "posix_mapper")["catalina.properties"])
    assert {key: value for key, value in mapper.items() if "posix.mapper" in key} == {
        "org.opencadc.posix.mapper.maxActive": [connections],
        "org.opencadc.posix.mapper.username": [role],
        "org.opencadc.posix.mapper.password": ["posix_mapper_db_password"],
        "org.opencadc.posix.mapper.url": [f"jdbc:postgresql://postgres_posixmapper:5432/{database}"],
    }
    (entry,) = json.loads(files(site, "postgres_posixmapper")["databases.json"])
    assert (entry["database"], entry["role"], entry["schemas"]) == (database, role, ["mapping"])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", ["posix_mapper", "cavern"])
def test_trusted_services(site: str, service: str) -> None:
    expected = SITES[site]
    common = {
        "ca.nrc.cadc.reg.client.RegistryClient.baseURL": [f"https://{expected.name}/reg"],
        # Exactly the issuer of the tokens: a trailing slash more or less is another issuer.
        "ivo://ivoa.net/sso#OpenID": [expected.issuer],
    }
    mapper = [f"ivo://{expected.authority}/posix-mapper"]
    cavern = {
        # Needed even where there is no group service.
        "ivo://ivoa.net/std/GMS#search-1.0": [f"ivo://{expected.authority}/gms"],
        "http://www.opencadc.org/std/posix#user-mapping-0.1": mapper,
        "http://www.opencadc.org/std/posix#group-mapping-0.1": mapper,
    }
    # The POSIX mapper must not look itself up.
    wanted = common | cavern if service == "cavern" else common
    assert properties(files(site, service)["cadc-registry.properties"]) == wanted
    catalina = properties(files(site, service)["catalina.properties"])
    assert catalina["ca.nrc.cadc.auth.IdentityManager"] == ["org.opencadc.auth.StandardIdentityManager"]
    assert catalina["ca.nrc.cadc.auth.PrincipalExtractor.enableClientCertHeader"] == ["true"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", ["posix_mapper", "cavern"])
def test_who_controls_the_log(site: str, service: str) -> None:
    users = properties(files(site, service)["cadc-log.properties"])["username"]
    assert users == [SITES[site].owner[0], *SITES[site].operators]


@pytest.mark.parametrize("site", SITES)
def test_the_registry_asks_for_no_credential(site: str) -> None:
    assert not [key for key in properties(files(site, "reg")["catalina.properties"]) if ".auth." in key]


@pytest.mark.parametrize("site", SITES)
def test_posix_mapper_properties(site: str) -> None:
    prefix = "org.opencadc.posix.mapper"
    uid, gid = SITES[site].starts
    assert properties(files(site, "posix_mapper")["posix-mapper.properties"]) == {
        f"{prefix}.resourceID": [f"ivo://{SITES[site].authority}/posix-mapper"],
        f"{prefix}.schema": ["mapping"],
        f"{prefix}.uid.start": [uid],
        f"{prefix}.gid.start": [gid],
    }


@pytest.mark.parametrize("site", SITES)
def test_registry(site: str) -> None:
    expected = SITES[site]
    url = f"https://{expected.name}"
    found = properties(files(site, "reg")["reg-resource-caps.properties"])
    assert found[expected.resource] == [f"{url}{expected.cavern}/capabilities"]
    assert found[f"ivo://{expected.authority}/posix-mapper"] == [f"{url}{expected.posix_mapper}/capabilities"]
    # Whoever is registered as group service is asked at each request: only where there is one.
    assert (f"ivo://{expected.authority}/gms" in found) is (expected.issuer == f"{url}/iam")
    # A second value for a key is a failure to the Java client, an equals sign in a URL to the Python one.
    assert all(len(values) == 1 and "=" not in values[0] for values in found.values())
    pages = properties(files(site, "reg")["reg-applications.properties"])
    assert pages[f"ivo://{expected.authority}/cavern-docs"] == [f"{url}{expected.cavern}/"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("service", "war"), [("cavern", "cavern"), ("posix_mapper", "posix-mapper")])
def test_context_paths(site: str, service: str, war: str) -> None:
    route = str(getattr(SITES[site], service)).removeprefix("/").replace("/", "#")
    assert files(site, service)["war-rename.conf"] == f"mv {war}.war {route}.war\n"


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
        spec = specs[name]
        # They append to their own files, and renew the trust anchors by sudo.
        assert (spec["read_only"], spec["cap_drop"], spec["security_opt"]) == (False, [], [])
        assert spec["image"].startswith("images.opencadc.org/")
        effects = {item["path"]: item.get("on_change", "restart") for item in spec["files"]}
        # The start script appends: a changed file asks for a new container. The registry reads its lists each time.
        lists = {"reg-resource-caps.properties", "reg-applications.properties"}
        assert {path for path, effect in effects.items() if effect != "recreate"} == lists & set(effects)
        # Owner and mode of what holds a password.
        for item in spec["files"]:
            assert (item.get("mode"), item.get("secret")) == ("0400", True) or "password" not in item.get(
                "content", ""
            )
    depends = set(specs["cavern"]["depends_on"])
    assert {"haproxy", "reg", "posix_mapper", "srcnodedb"} <= depends
    assert specs["core"]["image"].startswith("cavern/")


@pytest.mark.parametrize("site", SITES)
def test_a_cavern_waits_for_what_it_asks_and_starts_again_when_its_initialisation_failed(site: str) -> None:
    expected = SITES[site]
    start = files(site, "cavern")["start"]
    assert "/dev/tcp/srcnodedb/5432" in start
    assert f"src-posix-mapper 8080 '{expected.posix_mapper}/capabilities' 200" in start
    assert f"{expected.name} 80 '/reg/resource-caps' 308" in start
    # Availability says true even then: only the nodes tell.
    ready = f"{expected.cavern}/nodes?limit=0"
    assert f"http-status 127.0.0.1 8080 '{ready}' 200" in start
    assert rendered(site)["cavern"]["health"]["test"][-2:] == [ready, "200"]


@pytest.mark.parametrize("site", SITES)
def test_the_heap_leaves_room_in_the_container(site: str) -> None:
    for service in SERVICES:
        memory = int(rendered(site)[service]["memory"].removesuffix("g")) * 1024
        (heap,) = re.findall(r"-Xmx(\d+)m", files(site, service)["tomcat.conf"])
        assert int(heap) == memory * 5 // 8
    assert f"-Xmx{SITES[site].heap}m" in files(site, "cavern")["tomcat.conf"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cavern_https_port=8443", "cavern_https_port: 8443"),
        ("cavern_root_owner=", "cavern_root_owner, cavern_root_owner_uid"),
        ("cavern_root_owner=operator@example.org", "cavern_root_owner, cavern_root_owner_uid"),
        ("cavern_root_owner_uid=0", "cavern_root_owner, cavern_root_owner_uid"),
        ("cavern_root_owner_uid=20000", "cavern_root_owner, cavern_root_owner_uid"),
        ("posix_mapper_gid_start=100", "posix_mapper_gid_start"),
        ('{"cavern_allocation_parents": ["/home/users"]}', "cavern_allocation_parents"),
        ("core_cavern_api_token=", "core_cavern_api_token: missing"),
        ("cavern_opencadc_quota_plugin=None", "cavern_opencadc_quota_plugin"),
        ('{"cavern_catalogue_overrides": {"reg": {"flavour": "openstack"}}}', "cavern_catalogue.reg.flavour"),
        ('{"cavern_catalogue_overrides": {"reg": {"image": "reg:1.2.1"}}}', "cavern_catalogue.reg.image"),
        (
            '{"cavern_catalogue_overrides": {"reg": {"image": "a/reg@sha256:12"}}}',
            "cavern_catalogue.reg.image",
        ),
        ('{"cavern_catalogue_overrides": {"cavern": {"memory": "256m"}}}', "cavern_catalogue.cavern.memory"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str, tmp_path: Path) -> None:
    done = render(SITES["second"].inventory, tmp_path / "rendered.json", setting)
    assert done.returncode != 0
    assert message in " ".join((done.stdout + done.stderr).split())
