"""Properties beside the space: they go with their node, whoever moves it, and with nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from lxml import etree
from vospace.__main__ import main
from vospace.config import Settings
from vospace.space.space import open_tree
from vospace.storage import identity as identities
from vospace.storage import property_store, transport
from vospace.storage.property_store import Sidecar

pytestmark = pytest.mark.parametrize("metadata", ["sidecar"], indirect=True, scope="session")

VOS = "{http://www.ivoa.net/xml/VOSpace/v2.0}"
CORE = "ivo://ivoa.net/vospace/core#"
ROOT = "vos://opencadc.org~cavern"
MOVE = (
    '<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1"><vos:target>{}</vos:target>'
    "<vos:direction>{}</vos:direction><vos:keepBytes>{}</vos:keepBytes></vos:transfer>"
)


@pytest.fixture
async def noted(client, ada, box, document) -> str:
    """Path of a data node with a property, in a container with one."""
    own = document("ContainerNode", properties={"of": "container"})
    assert (await client.post(f"/nodes{box}", content=own, headers=ada)).status_code == 200
    await client.put(f"/files{box}/a", content=b"text", headers=ada)
    answer = await client.post(
        f"/nodes{box}/a", content=document("DataNode", properties={"of": "a"}), headers=ada
    )
    assert answer.status_code == 200
    return f"{box}/a"


@pytest.fixture
def of(client, ada):
    """The property `of` of a node."""

    async def of(path: str) -> str | None:
        answer = await client.get(f"/nodes{path}?limit=0", headers=ada)
        assert answer.status_code == 200, answer.text
        return etree.fromstring(answer.content).findtext(f".//{VOS}property[@uri='of']")

    return of


async def transfer(client, ada, source: str, target: str, keep: str) -> None:
    headers = ada | {"Content-Type": "text/xml"}
    document = MOVE.format(f"{ROOT}{source}", f"{ROOT}{target}", keep)
    job = (await client.post("/transfers?PHASE=RUN", content=document, headers=headers)).headers["location"]
    async with asyncio.timeout(30):
        while (phase := (await client.get(f"{job}/phase?WAIT=20", headers=ada)).text) in (
            "QUEUED",
            "EXECUTING",
        ):
            pass
    assert phase == "COMPLETED", (await client.get(f"{job}/error", headers=ada)).text


def records(settings: Settings) -> set[str]:
    return {path.name for path in (settings.vospace_base_dir / property_store.NAME).glob("*/*")}


async def test_a_reader_whom_a_writer_overtakes_gets_the_new_file_whole(
    client, ada, box, noted, settings, monkeypatch
):
    """Between opening a file and looking its properties up, another takes its name, and they are gone."""
    await client.put(f"/files{box}/b", content=b"other", headers=ada | {"Content-Type": "text/x-other"})
    directory = settings.root / box.strip("/")
    load = Sidecar.load

    def overtaken(self: Sidecar, descriptor: int) -> dict[str, bytes]:
        if os.path.samestat(os.fstat(descriptor), os.stat(directory / "a")) and (directory / "b").exists():
            (directory / "b").rename(directory / "a")
            self.record(descriptor).unlink()
        return load(self, descriptor)

    monkeypatch.setattr(Sidecar, "load", overtaken)
    answer = await client.get(f"/files{noted}", headers=ada)
    assert (answer.status_code, answer.text) == (200, "other")
    assert answer.headers["content-type"] == "text/x-other"
    assert (
        answer.headers["digest"]
        == "md5=" + base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    )


async def test_a_move_takes_them_along_and_a_copy_has_its_own(client, ada, box, noted, of, names, settings):
    other = f"/{names()}"
    before = records(settings)
    await transfer(client, ada, box, other, "false")
    assert (await of(other), await of(f"{other}/a")) == ("container", "a")
    assert records(settings) == before
    copy = f"/{names()}"
    await transfer(client, ada, other, copy, "true")
    assert (await of(copy), await of(f"{copy}/a")) == ("container", "a")
    for path in (f"{other}/a", other):
        assert (await client.delete(f"/nodes{path}", headers=ada)).status_code == 200
    assert (await of(copy), await of(f"{copy}/a")) == ("container", "a")
    for path in (f"{copy}/a", copy):
        assert (await client.delete(f"/nodes{path}", headers=ada)).status_code == 200
    assert records(settings) < before


async def test_nothing_is_left_of_what_was_replaced_deleted_or_never_came(
    client, ada, box, noted, of, settings
):
    before = records(settings)
    assert (await client.put(f"/files{noted}", content=b"other", headers=ada)).status_code == 201
    assert await of(noted) == "a"
    wrong = ada | {"Digest": "md5=1B2M2Y8AsgTpgAmY7PhCfg=="}
    assert (await client.put(f"/files{box}/b", content=b"no", headers=wrong)).status_code == 412
    assert len(records(settings)) == len(before)
    assert (await client.delete(f"/nodes{noted}", headers=ada)).status_code == 200
    await client.put(f"/files{noted}", content=b"new", headers=ada)
    assert await of(noted) is None


async def test_they_are_no_nodes(client, ada, box, noted, root):
    listed = await client.get("/nodes", headers=ada)
    assert property_store.NAME not in listed.text
    assert os.listdir(root / box[1:]) == ["a"]
    assert (await client.get(f"/nodes/{property_store.NAME}", headers=ada)).status_code == 400


async def test_what_is_done_by_hand(client, ada, box, noted, of, root):
    here = root / box[1:]
    (here / "a").rename(here / "renamed")
    assert await of(f"{box}/renamed") == "a"
    here.rename(root / f"{box[1:]}-by-hand")
    assert (await of(f"{box}-by-hand"), await of(f"{box}-by-hand/renamed")) == ("container", "a")
    here = root / f"{box[1:]}-by-hand"
    inode = (here / "renamed").stat().st_ino
    for _ in range(1000):  # until the inode is used again, where the file system does that at all
        (here / "renamed").unlink()
        (here / "renamed").write_bytes(b"another")
        if (here / "renamed").stat().st_ino == inode:
            break
    assert await of(f"{box}-by-hand/renamed") is None
    shutil.copy2(here / "renamed", here / "copied")
    assert await of(f"{box}-by-hand/copied") is None


async def test_prune_forgets_what_is_gone_alone(client, ada, box, noted, of, root, settings, monkeypatch):
    before = records(settings)
    (root / noted[1:]).unlink()
    tree = open_tree(settings)
    keeper = tree.properties.store
    assert isinstance(keeper, Sidecar)
    assert transport.prune(tree, keeper) == 0  # it may be about to get its name
    monkeypatch.setattr(transport, "GRACE", -1)
    assert transport.prune(tree, keeper) >= 1
    tree.close()
    assert records(settings) < before
    assert await of(box) == "container"


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command, on the space with properties kept in one way."""

    def run(action: str, where: str, given: str = "") -> str:
        for name, value in {
            "DATABASE_URL": settings.database_url,
            "VOSPACE_BASE_DIR": str(settings.vospace_base_dir),
            "VOSPACE_PREAUTH_KEY": settings.vospace_preauth_key.get_secret_value(),
            "PUBLIC_URL": settings.public_url,
            "VOSPACE_METADATA": where,
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["vospace", "properties", action])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        capsys.readouterr()
        main()
        return capsys.readouterr().out

    return run


async def test_they_outlive_an_archive_by_export_and_import(client, ada, box, noted, of, root, run):
    exported = run("export", "sidecar")
    archive = root / f"{box[1:]}-archive"
    shutil.copytree(root / box[1:], archive, copy_function=shutil.copy2)
    shutil.rmtree(root / box[1:])
    archive.rename(root / box[1:])
    for path, _, files in os.walk(root / box[1:]):
        for name in [".", *files]:
            os.chown(Path(path) / name, 10001, 10001)
    assert (await of(box), await of(noted)) == (None, None)
    assert "nodes have their properties" in run("import", "sidecar", exported)
    assert (await of(box), await of(noted)) == ("container", "a")
    digest = (await client.get(f"/files{noted}", headers=ada)).headers["digest"]
    assert digest.startswith("md5=")


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        '{"path": ["a"]}',
        '{"path": ["..", "etc"], "properties": {}}',
        '{"path": 1, "properties": {}}',
    ],
)
def test_what_is_no_export_is_refused(run, line):
    with pytest.raises(SystemExit, match="line 1: not a node's path and properties"):
        run("import", "sidecar", line)


def test_prune_is_for_sidecars(run, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="prune is for vospace_metadata=sidecar"):
        run("prune", "xattrs")


def test_a_file_system_without_attributes_asks_for_a_sidecar(run):
    with pytest.raises(
        SystemExit, match=r"vospace_metadata: xattrs at .*: the file system has no extended attributes"
    ):
        run("export", "xattrs")


def test_a_damaged_record_is_told_and_written_anew(settings, tmp_path, caplog):
    keeper = Sidecar(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    keeper.save(descriptor, {"a": b"1", "b": b"2"})
    (record,) = tmp_path.glob(f"{property_store.NAME}/*/*")
    record.write_bytes(b'{"a": ')
    assert keeper.load(descriptor) == {}
    assert f"the properties in {record} cannot be read" in caplog.text
    keeper.save(descriptor, {"c": b"3"})
    assert keeper.load(descriptor) == {"c": b"3"}
    keeper.save(descriptor, {"c": None})
    assert list(tmp_path.glob(f"{property_store.NAME}/*/*")) == []
    os.close(descriptor)


@pytest.fixture(params=["birth", "handle"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "handle":
        monkeypatch.setattr(identities, "_birth", lambda _: None)


def test_identities(way, tmp_path):
    """The same for one file under any name, another for each file after it."""

    def found(path: Path) -> str:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return identities.identity(descriptor)
        finally:
            os.close(descriptor)

    try:
        (tmp_path / "a").write_bytes(b"1")
        first = found(tmp_path / "a")
    except identities.NoIdentity as error:
        pytest.skip(f"{tmp_path}: {error}")
    (tmp_path / "a").write_bytes(b"2")
    (tmp_path / "a").rename(tmp_path / "b")
    assert found(tmp_path / "b") == first
    seen = {first}
    for number in range(50):
        (tmp_path / "b").unlink()
        (tmp_path / "b").write_bytes(b"3")
        seen.add(found(tmp_path / "b"))
        assert len(seen) == number + 2


def test_a_file_system_that_tells_no_file_from_the_next_is_refused(tmp_path, monkeypatch):
    def unknown(_: int) -> str:
        raise identities.NoIdentity(95, "the file system provides neither birth times nor file handles")

    monkeypatch.setattr(property_store, "identity", unknown)
    with pytest.raises(ValueError, match="neither birth times nor file handles"):
        Sidecar(tmp_path).check(0)
