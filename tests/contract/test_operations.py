"""What an operator does with OpenCADC's services: new secrets, upgrade with a way back, backup and restore, compose."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose import Compose
from contract_site import Site

NEXT, BROKEN = "cavern-contract/cavern:next", "cavern-contract/cavern:broken"
# Images of another version of Cavern, and of one that cannot take over from the one before it.
RECIPES = {
    NEXT: "FROM cavern-contract/cavern:stand-in\nLABEL version=next\n",
    BROKEN: (
        "FROM cavern-contract/cavern:stand-in\n"
        "RUN printf '#!/bin/bash\\necho init failed\\necho Caused by: no way from here to there\\nsleep infinity'"
        " >/usr/bin/cadc-tomcat-start\n"
    ),
}
TABLES = (
    ("postgres_posixmapper", "mapping", "SELECT * FROM mapping.users ORDER BY 1"),
    ("postgres_posixmapper", "mapping", "SELECT * FROM mapping.groups ORDER BY 1"),
    ("postgres_posixmapper", "mapping", "SELECT last_value FROM mapping.users_uid_seq1"),
    ("srcnodedb", "cavern", "SELECT jobid, ownerid, executionphase FROM uws.job ORDER BY 1"),
    ("srcnodedb", "prepare_data", "SELECT id, state FROM tasks ORDER BY 1"),
)


def smoked(site: Site) -> bool:
    return "Smoke test passed" in site.run(book="playbooks/smoke.yml").stdout


def kept(site: Site) -> dict[str, Any]:
    """Everything that a restore has to bring back."""
    root = site.data / "cavern_data"
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        # Cavern looks at each start whether it may write there.
        written = 0 if path.parent == root else status.st_mtime_ns
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(root))] = (
            (status.st_uid, status.st_gid, status.st_mode, written),
            {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
            path.read_bytes() if path.is_file() else None,
        )
    tables = {statement: site.sql(service, database, statement) for service, database, statement in TABLES}
    return found | tables


@pytest.fixture(scope="module")
def versions(site: Site) -> Iterator[None]:
    for name, recipe in RECIPES.items():
        site.engine.images.build(fileobj=io.BytesIO(recipe.encode()), tag=name, rm=True)
    yield
    for name in RECIPES:
        site.engine.images.remove(name, force=True)


def test_tokens_of_a_new_key_are_taken_at_once(site: Site) -> None:
    """The services look the issuer's keys up once in ten minutes."""
    site.run("-e", json.dumps({"secrets_rotate": ["iam_signing_key"]}))
    site.forget()
    with site.session("ada") as http:
        read = http.get(f"{site.url}/src/cavern/nodes/home?limit=0", timeout=30)
        assert (read.status_code, read.headers["x-vo-authenticated"]) == (200, "ada")


def test_new_secrets_and_authorities_are_taken_up_in_one_run(site: Site) -> None:
    site.run("-e", json.dumps({"secrets_rotate": ["all"], "certificates_rotate": ["ca"]}))
    site.forget()
    assert smoked(site)


@pytest.mark.slow
def test_an_upgrade_changes_what_is_another_version_alone(site: Site, versions: None) -> None:
    before = site.started()
    upgraded = site.run(book="playbooks/upgrade.yml", contract_cavern_image=NEXT)
    assert "Smoke test passed" in upgraded.stdout
    after = site.started()
    assert {name for name in before if before[name] != after[name]} == {"contract-src-cavern"}


@pytest.mark.slow
def test_an_upgrade_that_fails_is_taken_back_and_says_why(site: Site, versions: None) -> None:
    failed = site.run(
        book="playbooks/upgrade.yml",
        check=False,
        contract_cavern_image=BROKEN,
        deployment_health_timeout="60",
    )
    assert failed.returncode != 0
    text = " ".join(failed.stdout.split())
    assert "contract-src-cavern is not healthy after 60 s" in text
    assert "Caused by: no way from here to there" in text
    assert "Rolled back: it runs its former image and configuration again and is healthy" in text
    assert site.container("src-cavern").image.tags == [NEXT]
    site.run()


@pytest.mark.slow
def test_a_backup_comes_back_into_an_empty_machine(site: Site, tmp_path: Path) -> None:
    with site.session("ada") as http, site.session("cavernadmin") as administrator:
        area = f"{site.url}/src/cavern/nodes/home/ada"
        document = (
            '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xsi:type="vos:ContainerNode" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="vos://contract.example~cavern/home/ada">'
            '<vos:properties><vos:property uri="ivo://ivoa.net/vospace/core#creator">ada</vos:property>'
            "</vos:properties><vos:nodes/></vos:node>"
        )
        assert administrator.put(area, data=document, timeout=30).status_code in (201, 409)
        stored = http.put(
            f"{site.url}/src/cavern/files/home/ada/saved",
            data=b"to be saved",
            headers={"Content-Type": "text/plain"},
            timeout=30,
        )
        assert stored.status_code == 201, stored.text
        number = http.get(f"{site.url}/src/posix-mapper/uid?user=ada", timeout=30).text
    before = kept(site)
    site.run(book="playbooks/backup.yml", backup_dir=str(tmp_path))
    (backup,) = tmp_path.iterdir()
    site.run(book="playbooks/purge.yml", purge_data="true")
    assert site.started() == {}
    site.run(book="playbooks/restore.yml", backup_source=str(backup))
    assert kept(site) == before
    site.forget()
    with site.session("ada") as http:
        assert http.get(f"{site.url}/src/posix-mapper/uid?user=ada", timeout=30).text == number
        read = http.get(f"{site.url}/src/cavern/files/home/ada/saved", timeout=30)
        assert read.content == b"to be saved"
    assert smoked(site)


@pytest.mark.slow
def test_the_same_services_by_compose(site: Site) -> None:
    images = {name: container.image.id for name, container in site.containers().items()}
    compose = Compose(site, lambda book: site.run(book=book))
    site.run(book="playbooks/down.yml")
    try:
        compose.up()
        assert {name: site.container(name).image.id for name in images} == images
        assert smoked(site)
    finally:
        compose.down()
        site.run()
