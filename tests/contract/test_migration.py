"""One space, one database and one set of users under either flavour, and under any mixture of the two."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from contract_site import Site
from lxml import etree
from vospace_client.terms import CORE, INHERIT

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
CUSTOM = "ivo://contract.example/properties#run"
GROUP = "ivo://contract.example/gms?survey"
DOCUMENT = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:{kind}" '
    'uri="vos://contract.example~cavern{path}"><vos:properties>{properties}</vos:properties>{rest}</vos:node>'
)
# Which services are OpenCADC's, in the order in which the site goes through them.
MIXTURES: dict[str, dict[str, Any]] = {
    "all": {},
    "none": {"contract_flavour": "embedded"},
    "only cavern": {"contract_reg": "embedded", "contract_posix_mapper": "embedded"},
    "all but cavern": {"contract_cavern": "embedded"},
    "all again": {},
}
MIXED = ("only cavern", "all but cavern")


class Area:
    """A user's own area."""

    def __init__(self, site: Site, http: requests.Session) -> None:
        """Speak for the session's user."""
        self.http = http
        self.url = f"{site.url}/src/cavern"

    def send(self, method: str, path: str, kind: str = "ContainerNode", **properties: str) -> None:
        entries = "".join(
            f'<vos:property uri="{key}">{value}</vos:property>' for key, value in properties.items()
        )
        rest = "<vos:nodes/>" if kind == "ContainerNode" else ""
        document = DOCUMENT.format(kind=kind, path=path, properties=entries, rest=rest)
        answer = self.http.request(
            method, f"{self.url}/nodes{path}", data=document, headers={"Content-Type": "text/xml"}, timeout=60
        )
        assert answer.ok, answer.text

    def put(self, path: str, content: bytes) -> None:
        answer = self.http.put(
            f"{self.url}/files{path}", data=content, headers={"Content-Type": "text/plain"}, timeout=60
        )
        assert answer.status_code == 201, answer.text

    def read(self, path: str) -> tuple[str, dict[str, str]]:
        answer = self.http.get(f"{self.url}/nodes{path}", params={"limit": "0"}, timeout=60)
        assert answer.status_code == 200, answer.text
        root = etree.fromstring(answer.content)
        listed = root.iterfind(f"{VOS}properties/{VOS}property")
        kind = root.get("{http://www.w3.org/2001/XMLSchema-instance}type", "")
        return kind.partition(":")[2], {entry.get("uri", ""): (entry.text or "").strip() for entry in listed}

    def content(self, path: str) -> bytes:
        answer = self.http.get(f"{self.url}/files{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.content


def on_disk(site: Site) -> dict[str, Any]:
    """Owner, mode, ACL and properties of everything in the area."""
    top = site.data / "cavern_data/cavern/home/ada"
    return {
        str(path.relative_to(top)): (
            path.stat().st_uid,
            path.stat().st_gid,
            path.stat().st_mode,
            {name: os.getxattr(path, name) for name in os.listxattr(path)},
        )
        for path in [top, *top.rglob("*")]
    }


@pytest.fixture(scope="module")
def numbers(site: Site) -> dict[str, str]:
    """Numbers that the POSIX mapper has given, by user and group."""
    return {}


@pytest.fixture(scope="module")
def made(site: Site) -> dict[str, bytes]:
    """Files that were stored so far, by path."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def administrator_with_two_numbers(site: Site) -> Iterator[int]:
    """As OpenCADC's POSIX mapper gave him one before the settings' was reserved; returns it."""
    database = ("postgres_posixmapper", "mapping")
    given = site.sql(
        *database,
        "UPDATE mapping.users SET uid = nextval('mapping.users_uid_seq1')"
        " WHERE username = 'cavernadmin' RETURNING uid",
    )
    own_group = (
        "UPDATE mapping.groups SET gid = (SELECT uid FROM mapping.users WHERE username = 'cavernadmin')"
        " WHERE groupuri LIKE '%?cavernadmin'"
    )
    site.sql(*database, own_group)
    yield int(given)
    site.sql(*database, "UPDATE mapping.users SET uid = 9999 WHERE username = 'cavernadmin'")
    site.sql(*database, own_group)


@pytest.mark.parametrize(
    "mixture",
    # A deployment's whole way there and back shows the kind; the mixtures that few run are left to a longer run.
    [pytest.param(mixture, marks=pytest.mark.slow if mixture in MIXED else ()) for mixture in MIXTURES],
)
def test_files_and_users_carry_over(
    site: Site,
    mixture: str,
    made: dict[str, bytes],
    numbers: dict[str, str],
    administrator_with_two_numbers: int,
) -> None:
    before = on_disk(site) if made else None
    ours = mixture == "all but cavern"
    if mixture != "all":
        site.run(**MIXTURES[mixture])
    # Nothing on disk is rewritten for the other flavour.
    assert before is None or on_disk(site) == before
    site.run(book="playbooks/status.yml", **MIXTURES[mixture])
    with (
        site.session("ada") as http,
        site.session("cavernadmin") as administrator,
        site.session() as anonymous,
    ):
        ada = Area(site, http)
        if mixture == "all":
            Area(site, administrator).send("PUT", "/home/ada", **{f"{CORE}creator": "ada"})
            Area(site, administrator).send("PUT", "/projects/his")
            his = site.data / "cavern_data/cavern/projects/his"
            assert his.stat().st_uid == administrator_with_two_numbers
        # What he made with either number stays his.
        Area(site, administrator).send("POST", "/projects/his", **{CUSTOM: mixture})
        Area(site, administrator).send("POST", "/projects", **{CUSTOM: mixture})
        mapper = f"{site.url}/src/posix-mapper"
        for url, parameters in ((f"{mapper}/uid", {"user": "ada"}), (f"{mapper}/gid", {"group": GROUP})):
            answer = http.get(url, params=parameters, timeout=60)
            assert numbers.setdefault(str(parameters), answer.text) == answer.text

        # What every flavour so far has stored is as it was.
        for path, content in made.items():
            kind, properties = ada.read(path)
            assert (kind, properties[f"{CORE}length"]) == ("DataNode", str(len(content)))
            assert properties[f"{CORE}creator"] == "ada"
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            # Ours gives no checksum of bytes that another has written over its own: it cannot know who it was.
            unknown = ours and path == next(iter(made))
            assert properties.get(f"{CORE}MD5", "").removeprefix("md5:") == ("" if unknown else md5)
            assert properties[f"{CORE}type"] == "text/plain"
            assert properties[CUSTOM] == path
            assert ada.content(path) == content
            assert anonymous.get(f"{site.url}/src/cavern/files{path}", timeout=60).status_code == 403
            _, container = ada.read(path.rpartition("/")[0])
            assert container[f"{CORE}groupread"] == GROUP
            assert container[INHERIT] == "true"

        # And this one stores something of its own, and overwrites something of the others.
        directory = f"/home/ada/{mixture.replace(' ', '-')}"
        ada.send("PUT", directory, **{f"{CORE}groupread": GROUP, INHERIT: "true"})
        for path in [f"{directory}/file.txt", *list(made)[:1]]:
            ada.put(path, f"stored by {mixture}".encode())
            ada.send("POST", path, "DataNode", **{CUSTOM: path})
            made[path] = f"stored by {mixture}".encode()
