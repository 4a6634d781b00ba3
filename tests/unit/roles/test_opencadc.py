# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenCADC's services are given, for the default inventory and for a second site, file by file and key by key.

``golden`` holds every rendered file as it should be. After a wanted change, ``GOLDEN=write pytest`` with this file
writes them anew, for whoever reads the difference.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rendering", reason="ansible-test runs these files without the playbooks' environment")

import rendering
from rendering import ROOT, Done

GOLDEN = Path(__file__).parent / "golden"
SERVICES = ["reg", "posix_mapper", "cavern"]
# What even images that start as root may not do.
KEPT_FROM = ["MKNOD", "NET_RAW", "SETFCAP", "SYS_CHROOT"]
# Those that have OpenCADC's image only where they ask for it.
DEVELOPMENT = ["haproxy", "postgres_posixmapper", "srcnodedb"]


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

FLAVOUR = "deployment_flavour=opencadc"


def render(site: str, output: Path, *settings: str) -> Done:
    """Write the specifications of a site's services, in OpenCADC's flavour."""
    return rendering.render(output, FLAVOUR, *settings, inventory=SITES[site].inventory)


def check(site: str, *settings: str, times: int = 1) -> Done:
    """Let the roles refuse wrong settings of a site, in OpenCADC's flavour."""
    return rendering.check(FLAVOUR, *settings, inventory=SITES[site].inventory, times=times)


@cache
def rendered(site: str, *development: str) -> dict[str, Any]:
    """Specifications of a site's services by name, with OpenCADC's images for *development* too."""
    output = ROOT / f"build/rendered-{'-'.join((site, *development))}.json"
    output.parent.mkdir(exist_ok=True)
    own = yaml.safe_load((ROOT / SITES[site].inventory / "group_vars/all/main.yml").read_text()) or {}
    overrides = own.get("deployment_service_overrides", {})
    chosen = {name: overrides.get(name, {}) | {"flavour": "opencadc"} for name in development}
    done = render(site, output, json.dumps({"deployment_service_overrides": overrides | chosen}))
    assert done.returncode == 0, done.stdout + done.stderr
    specs = json.loads(output.read_text())
    output.unlink()
    return {spec["name"]: spec for spec in specs}


def specification(site: str, service: str) -> Any:
    """A service's specification, with OpenCADC's image of it."""
    return rendered(site, *(DEVELOPMENT if service in DEVELOPMENT else ()))[service]


def contents(spec: dict[str, Any]) -> dict[str, str]:
    return {item["path"]: item.get("content", item.get("secret_content", "")) for item in spec["files"]}


def files(site: str, service: str) -> dict[str, str]:
    return contents(specification(site, service))


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
@pytest.mark.parametrize("service", SERVICES + DEVELOPMENT)
def test_every_file_is_as_it_should_be(site: str, service: str) -> None:
    directory = GOLDEN / site / service
    # Certificates are copied on the host deployed to, from where they were made.
    found = {path: text for path, text in files(site, service).items() if not path.endswith(".pem")}
    if os.environ.get("GOLDEN") == "write":
        for path, text in found.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
    kept = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    assert sorted(kept) == sorted(found)
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
    databases = json.loads(contents(rendered(site)["srcnodedb"])["databases.json"])
    assert "uws" in next(entry for entry in databases if entry["database"] == database)["schemas"]

    connections, role, database = SITES[site].mapper_pool
    mapper = properties(files(site, "posix_mapper")["catalina.properties"])
    assert {key: value for key, value in mapper.items() if "posix.mapper" in key} == {
        "org.opencadc.posix.mapper.maxActive": [connections],
        "org.opencadc.posix.mapper.username": [role],
        "org.opencadc.posix.mapper.password": ["posix_mapper_db_password"],
        "org.opencadc.posix.mapper.url": [f"jdbc:postgresql://postgres_posixmapper:5432/{database}"],
    }
    (entry,) = json.loads(contents(rendered(site)["postgres_posixmapper"])["databases.json"])
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
def test_a_new_signing_key_asks_for_new_containers(site: str, service: str) -> None:
    """They keep the issuer's keys for ten minutes, and refuse every token that a newer one has signed."""
    local = SITES[site].issuer == f"https://{SITES[site].name}/iam"
    digest = hashlib.sha256(b"iam_signing_key").hexdigest()
    assert (digest in files(site, service)["registered"]) is local
    assert ("iam" in rendered(site)[service]["depends_on"]) is local


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
        assert (spec["read_only"], spec["cap_drop"], spec["security_opt"]) == (False, KEPT_FROM, [])
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
    ready = f"http-status 127.0.0.1 8080 '{expected.cavern}/nodes?limit=0' 200"
    assert ready in start
    assert ready in files(site, "cavern")["healthy"]
    assert rendered(site)["cavern"]["health"]["test"][-1] == "/config/healthy"


@pytest.mark.parametrize("site", SITES)
def test_a_cavern_is_warmed_up_as_the_administrator_before_it_is_ready(site: str) -> None:
    expected, found = SITES[site], files(site, "cavern")
    assert "bash /config/warm-up\n  : >/tmp/ready" in found["start"]
    assert f"for path in '' {' '.join(expected.parents)}; do" in found["warm-up"]
    secrets = {path for path in found if path.startswith("secrets/")}
    if expected.issuer == f"https://{expected.name}/iam":
        assert secrets == {"secrets/client_secret"}
        clients = json.loads(files(site, "iam")["iam.json"])["clients"]
        (cavern,) = [client for client in clients if client["client_id"] == "cavern"]
        assert cavern["username"] == expected.owner[0]
    else:
        # Another issuer's clients are not this deployment's: the token comes with the settings.
        assert secrets == {"secrets/administrator_token"}
        assert "/token" not in found["warm-up"]


def test_nobody_warms_up_without_a_token_of_the_administrator(tmp_path: Path) -> None:
    output = tmp_path / "rendered.json"
    opened = json.dumps({"cavern_opencadc_public_parents": []})
    done = render("second", output, "cavern_administrator_token=", opened)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {spec["name"]: contents(spec) for spec in json.loads(output.read_text())}["cavern"]
    assert not [path for path in found if path == "warm-up" or path.startswith("secrets/")]
    assert "warm-up" not in found["start"]


@pytest.mark.parametrize("site", SITES)
def test_the_heap_leaves_room_in_the_container(site: str) -> None:
    for service in SERVICES:
        memory = int(rendered(site)[service]["memory"].removesuffix("g")) * 1024
        (heap,) = re.findall(r"-Xmx(\d+)m", files(site, service)["tomcat.conf"])
        assert int(heap) == memory * 5 // 8
    assert f"-Xmx{SITES[site].heap}m" in files(site, "cavern")["tomcat.conf"]


@pytest.mark.parametrize("site", SITES)
def test_images_for_development_are_asked_for_one_by_one(site: str) -> None:
    plain, chosen = rendered(site), rendered(site, *DEVELOPMENT)
    for name in DEVELOPMENT:
        assert plain[name]["image"].startswith("cavern/")
        assert chosen[name]["image"].startswith("images.opencadc.org/dev-only/cadc-")
        assert chosen[name]["user"] == "0:0"
        assert (chosen[name]["read_only"], chosen[name]["cap_drop"]) == (False, KEPT_FROM)
    # Nothing else is any different for it: the services keep their accounts.
    others = set(plain) - set(DEVELOPMENT)
    assert {name: plain[name] for name in others} == {name: chosen[name] for name in others}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("service", "catalogs", "schemas"), [("srcnodedb", 1, "vospace"), ("postgres_posixmapper", 3, "mapping")]
)
def test_databases_of_the_image_for_development(site: str, service: str, catalogs: int, schemas: str) -> None:
    _, role, database = SITES[site].pool if service == "srcnodedb" else SITES[site].mapper_pool
    spec, found = specification(site, service), files(site, service)
    lines = [line for line in found["init-content-schemas.sh"].splitlines() if not line.startswith("#")]
    # The image makes the schema uws in each by itself.
    assert lines == [f'CATALOGS="{database}"', f'SCHEMAS="{schemas}"']
    statements = found["secrets/databases.sql"]
    for schema in {schemas, "uws"} if service == "srcnodedb" else {schemas}:
        # Whoever owns a schema may grant on it, which OpenCADC's services do.
        assert f'ALTER SCHEMA "{schema}" OWNER TO "{role}";' in statements
    if service == "srcnodedb":
        # The staging ledger, of which the image knows nothing.
        assert 'CREATE DATABASE "prepare_data"' in statements
        assert 'ALTER DATABASE "prepare_data" OWNER TO "preparer";' in statements
    # Accounts with published passwords log in nowhere, and nothing is open to the host.
    assert "NOLOGIN" in statements
    assert not spec.get("ports")
    (item,) = [item for item in spec["files"] if item["path"] == "secrets/databases.sql"]
    assert (item["mode"], item["owner"], item["secret"]) == ("0400", 0, True)
    mounts = {mount["target"]: mount["source"] for mount in spec["mounts"] if mount["type"] == "volume"}
    # One volume for either image, each of which refuses the other's layout; neither is lost unseen.
    own = [mount for mount in rendered(site)[service]["mounts"] if mount["type"] == "volume"]
    assert mounts == {
        "/var/lib/pgsql/17/data": own[0]["source"],
        "/logs": f"{own[0]['source']}-logs",
    }
    assert spec["entrypoint"] == ["/bin/bash", "/config/start"]
    assert spec["health"]["test"] == ["CMD", "bash", "/config/healthy"]
    assert spec["environment"] == {"PGUSER": "postgres"}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("service", SERVICES)
def test_opencadcs_services_are_not_told_the_proof_of_haproxy(site: str, service: str) -> None:
    assert "haproxy_proof" not in json.dumps(specification(site, service))


@pytest.mark.parametrize("site", SITES)
def test_haproxy_of_the_image_for_development(site: str) -> None:
    spec, found = specification(site, "haproxy"), files(site, "haproxy")
    assert sorted(found) == [
        "cacerts/client-ca.pem",
        "client-crl.pem",
        "haproxy.cfg",
        "http-status",
        "secrets/proof.map",
        "server-cert.pem",
    ]
    settings = found["haproxy.cfg"]
    # Its output goes to a file without bounds; what it reports on is Docker's.
    assert "log stderr format raw" in settings
    assert "log stdout" not in settings
    (bind,) = [line for line in settings.splitlines() if "bind *:443" in line]
    assert "ssl crt /config/server-cert.pem" in bind
    # The deployment's CA alone, not the bundle of all: certificates stand for users.
    assert bind.endswith(
        "ca-file /config/cacerts/client-ca.pem crl-file /config/client-crl.pem verify optional"
    )
    assert 'set-header X-Client-Certificate "%[ssl_c_der,base64]"' in settings
    assert "server cavern" in settings
    # Services that do not ask who tells of a client are not told by what HAProxy proves it.
    assert re.findall(
        r"(?m)^backend (\S+)\n(?:    .*\n)*?    http-request set-header X-Proxy-Proof", settings
    ) == [
        "core",
        "core-streamed",
        *(["iam", "iam-streamed"] if site == "local" else []),
    ]
    # The image starts HAProxy itself, and has no curl for sure.
    assert not spec.get("command")
    assert not spec.get("entrypoint")
    assert not spec.get("reload")
    assert spec["health"]["test"][:2] == ["CMD", "bash"]
    assert {mount["target"] for mount in spec["mounts"]} == {"/tmp", "/logs"}
    assert {port["container_port"] for port in spec["ports"]} == {80, 443}


def test_passwords_are_escaped_as_java_reads_properties(tmp_path: Path) -> None:
    """``java.util.Properties.load``: Latin-1 with ``\\uXXXX``, and a backslash before any other character drops out."""
    # One password for all kinds of characters, since each takes a run of Ansible.
    written = {"=:#!": "=:#!", '"': '\\"', "a\\b": "a\\\\b", "ü€😀": "\\u00fc\\u20ac\\ud83d\\ude00"}
    password, escaped = "".join(written), "".join(written.values())
    output = tmp_path / "rendered.json"
    done = render("local", output, with_password(password))
    assert done.returncode == 0, done.stdout + done.stderr
    specs = {spec["name"]: contents(spec) for spec in json.loads(output.read_text())}
    line = f".password={escaped}\n"
    assert f"org.opencadc.cavern.uws{line}" in specs["cavern"]["catalina.properties"]
    assert f"org.opencadc.posix.mapper{line}" in specs["posix_mapper"]["catalina.properties"]
    # The database is given the same password, as it is.
    assert specs["srcnodedb"]["secrets/cavern_password"] == password


def test_a_password_that_tomcat_would_take_for_itself_is_refused(tmp_path: Path) -> None:
    done = render("local", tmp_path / "rendered.json", with_password("a${user.home}b"))
    assert done.returncode != 0
    text = " ".join((done.stdout + done.stderr).split())
    assert re.search(r"secrets_overrides\.\w+_db_password: Tomcat puts something else", text)
    assert "user.home" not in text


def test_a_run_may_have_several_playbooks() -> None:
    """As `make up` has: what one has included is not taken for a setting in the next."""
    done = check("local", times=2)
    assert done.returncode == 0, done.stdout + done.stderr


def with_password(password: str) -> str:
    """Setting that gives both database accounts a password."""
    names = yaml.safe_load((Path(__file__).parent / "render.yml").read_text())[0]["vars"]["secret_names"]
    passwords = dict.fromkeys(("cavern_db_password", "posix_mapper_db_password"), password)
    return json.dumps({"deployment_secrets": {name: name for name in names} | passwords})


Wrong = tuple[dict[str, Any], str]
"""Settings, and what is said of them."""

# What the roles state to be wrong is all said at once.
FAULTS: list[Wrong] = [
    ({"deployment_https_port": "8443"}, "deployment_https_port: 8443"),
    ({"cavern_root_owner": ""}, "cavern_root_owner, cavern_root_owner_uid"),
    ({"cavern_root_owner": "operator@example.org"}, "cavern_root_owner, cavern_root_owner_uid"),
    ({"cavern_root_owner_uid": "0"}, "cavern_root_owner, cavern_root_owner_uid"),
    ({"cavern_root_owner_uid": "20000"}, "cavern_root_owner, cavern_root_owner_uid"),
    ({"posix_mapper_gid_start": "100"}, "posix_mapper_gid_start"),
    ({"cavern_allocation_parents": ["/home/users"]}, "cavern_allocation_parents"),
    ({"cavern_administrator_token": ""}, "cavern_administrator_token: missing"),
    ({"deployment_public_name": "my_site.example"}, "deployment_public_name: my_site.example"),
    ({"deployment_authority": "second.example/x"}, "deployment_authority: second.example/x"),
    ({"deployment_issuer": "issuer.second.example"}, "deployment_issuer: issuer.second.example"),
    ({"cavern_allocation_parents": [""]}, "cavern_allocation_parents"),
    ({"cavern_opencadc_public_parents": ["/elsewhere"]}, "cavern_opencadc_public_parents: /elsewhere"),
    ({"cavern_opencadc_self_allocate_groups": ["staff"]}, "cavern_opencadc_self_allocate_groups: staff"),
    ({"cavern_opencadc_connections": "0"}, "cavern_opencadc_connections: a pool"),
    ({"cavern_opencadc_quota_plugin": "NoQuotaPlugin"}, "cavern_default_quota_bytes: 268435456000"),
    ({"cavern_database": "a b"}, "cavern_database: a name"),
    (
        {"reg_extra_resources": [{"id": "ivo://second.example/vo/space", "url": "https://a.example/"}]},
        "ivo://second.example/vo/space is registered twice",
    ),
    (
        {"deployment_service_overrides": {"reg": {"route": "/registry"}}},
        "deployment_service_overrides.reg.route",
    ),
    ({"deployment_service_overrides": {"cavern": {"port": 80}}}, "deployment_service_overrides.cavern.port"),
    (
        {"deployment_service_overrides": {"cavern": {"user": 8000}}},
        "deployment_service_overrides.cavern.user",
    ),
    (
        {"deployment_service_overrides": {"haproxy": {"flavour": "opencadc", "port": 8443}}},
        "deployment_service_overrides.haproxy.port",
    ),
    (
        {"core_database": "Ledger", "deployment_service_overrides": {"srcnodedb": {"flavour": "opencadc"}}},
        "core_database: OpenCADC's image of PostgreSQL",
    ),
]
# What keeps the catalogue from being composed is said by itself, and some faults change what is said of others.
ALONE: list[Wrong] = [
    ({"cavern_resource_id": "second.example/cavern"}, "cavern_resource_id: second.example/cavern"),
    ({"cavern_default_quota_bytes": "-1"}, "cavern_default_quota_bytes: -1 is negative"),
    ({"cavern_aliases": ["ivo://a.example/b=c"]}, "cavern_aliases: ivo://a.example/b=c"),
    (
        {"reg_extra_resources": [{"id": "ivo://a.example/b", "url": "https://a.example/?x=y"}]},
        "https://a.example/?x=y: an identifier",
    ),
    (
        {"deployment_service_overrides": {"cavern": {"route": "/a b"}}},
        "deployment_service_overrides.cavern.route",
    ),
    (
        {"deployment_service_overrides": {"posix_mapper": {"enabled": False}}},
        "does not start without posix_mapper",
    ),
    ({"cavern_opencadc_quota_plugin": "None"}, "cavern_opencadc_quota_plugin"),
    (
        {"deployment_service_overrides": {"reg": {"flavour": "openstack"}}},
        "deployment_service_overrides.reg.flavour",
    ),
    (
        {"deployment_service_overrides": {"reg": {"image": "reg:1.2.1"}}},
        "deployment_service_overrides.reg.image",
    ),
    (
        {"deployment_service_overrides": {"reg": {"image": "a/reg@sha256:12"}}},
        "deployment_service_overrides.reg.image",
    ),
    (
        {"deployment_service_overrides": {"cavern": {"memory": "256m"}}},
        "deployment_service_overrides.cavern.memory",
    ),
]


def merged(some: dict[str, Any], others: dict[str, Any]) -> dict[str, Any] | None:
    """Return both settings in one, None if they have different values for one."""
    both = some | others
    for name in some.keys() & others.keys():
        inner = merged(some[name], others[name]) if isinstance(some[name], dict) else None
        if inner is None:
            return None
        both[name] = inner
    return both


def packed(cases: list[Wrong]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return as few settings as bring about all faults, each with what is said: a run of Ansible takes two seconds."""
    packs: list[tuple[dict[str, Any], list[str]]] = []
    for settings, message in cases:
        for number, (found, messages) in enumerate(packs):
            both = merged(found, settings)
            if both is not None and message not in messages:
                packs[number] = (both, [*messages, message])
                break
        else:
            packs.append((settings, [message]))
    return packs


@pytest.mark.parametrize(
    ("settings", "messages"), packed(FAULTS) + [(wrong, [said]) for wrong, said in ALONE]
)
def test_wrong_settings_are_named(settings: dict[str, Any], messages: list[str]) -> None:
    done = check("second", json.dumps(settings))
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert [message for message in messages if message not in said] == []
