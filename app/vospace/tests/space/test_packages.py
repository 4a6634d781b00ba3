"""Packages as those read them who get them: programs of every kind, as users without privileges."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import httpx
import pytest
from stream_unzip import stream_unzip
from vospace.config import Settings
from vospace.package import handlers, zip_stream

ROOT = "vos://opencadc.org~cavern"
TAR, ZIP = "application/x-tar", "application/zip"
READ_ZIP = Path(__file__).parent / "java/ReadZip.java"
YEAR = 365.25 * 86400
CONTENT = {
    "empty": b"",
    "one": b"1",
    "spät ☄.txt": b"letters of any script",
    "sub/random": os.urandom(300_000),
    "sub/zeros": bytes(70_000),
    "sub/block": os.urandom(65_535),
    "sub/deeper/last": b"last",
}
MTIME = 1_600_000_000

Package = Callable[..., Awaitable[bytes]]


async def ask(
    client: httpx.AsyncClient, *paths: str, kind: str = ZIP, headers: dict[str, str] | None = None
) -> str:
    """URL of the package of some paths."""
    targets = "".join(f"<vos:target>{escape(ROOT + path)}</vos:target>" for path in paths)
    asked = (
        f'<vos:transfer xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" version="2.1">{targets}'
        "<vos:direction>pullFromVoSpace</vos:direction>"
        '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0">'
        f'<vos:param uri="ivo://ivoa.net/vospace/core#format">{kind}</vos:param></vos:view></vos:transfer>'
    )
    sent = {"Content-Type": "text/xml"} | (headers or {})
    answer = await client.post("/synctrans", content=asked, headers=sent)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


@pytest.fixture
def package(client) -> Package:
    """Ask as anybody for a package of some paths, and download it."""

    async def package(*paths: str, kind: str = ZIP) -> bytes:
        answer = await client.get(await ask(client, *paths, kind=kind))
        assert answer.status_code == 200
        return answer.content

    return package


@pytest.fixture
def place(root: Path) -> Iterator[Path]:
    """Directory of the space that everybody may read."""
    made = root / f"package-{time.monotonic_ns()}"
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory of a user without privileges, where archives are unpacked."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    shutil.chown(made, "nobody")
    yield made
    shutil.rmtree(made)


def write(directory: Path, content: dict[str, bytes], mtime: float = MTIME) -> None:
    for name, data in content.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    # From the bottom up, since a new name changes a directory's time. The service's own umask hides all.
    for path in [*sorted(directory.rglob("*"), reverse=True), directory]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (mtime, mtime))


def as_nobody(*command: str | Path, cwd: Path, stdin: bytes | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        check=False,
        user="nobody",
        extra_groups=[],
        umask=0o022,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "America/Vancouver"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def unpack(program: str, packed: bytes, cwd: Path) -> None:
    """Unpack an archive below `cwd` as another user."""
    archive = cwd / "archive"
    archive.write_bytes(packed)
    archive.chmod(0o644)
    if program == "zipfile":
        as_nobody("python3", "-m", "zipfile", "-e", archive, cwd, cwd=cwd)
    elif program == "unzip":
        as_nobody("unzip", "-q", archive, cwd=cwd)
    elif program == "jar":
        as_nobody("jar", "xf", archive, cwd=cwd)
    elif program == "tar":
        as_nobody("tar", "xf", archive, cwd=cwd)
    elif program == "bsdtar":
        as_nobody("bsdtar", "xf", archive, cwd=cwd)
    else:
        as_nobody("bsdtar", "xf", "-", cwd=cwd, stdin=packed)
    archive.unlink()


def found(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(params=["known", "described"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members whose checksums stand before the bytes, and such as of large files, where they come behind."""
    if request.param == "described":
        monkeypatch.setattr(zip_stream, "READ_TWICE", 0)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("program", ["zipfile", "unzip", "jar", "bsdtar", "bsdtar of a stream"])
async def test_every_program_unpacks_a_zip(
    package: Package, place: Path, elsewhere: Path, program: str
) -> None:
    write(place, CONTENT)
    unpack(program, await package(f"/{place.name}"), elsewhere)
    assert found(elsewhere / place.name) == CONTENT


@pytest.mark.parametrize("program", ["tar", "bsdtar", "bsdtar of a stream"])
async def test_every_program_unpacks_a_tar(
    package: Package, place: Path, elsewhere: Path, program: str
) -> None:
    write(place, CONTENT)
    unpack(program, await package(f"/{place.name}", kind=TAR), elsewhere)
    assert found(elsewhere / place.name) == CONTENT


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("reader", ["jdk", "commons", "stream-unzip"])
async def test_every_reader_of_streams_reads_a_zip(package: Package, place: Path, reader: str) -> None:
    write(place, CONTENT)
    packed = await package(f"/{place.name}")
    if reader == "stream-unzip":
        pieces = (packed[start : start + 1000] for start in range(0, len(packed), 1000))
        read = {name.decode(): b"".join(content) for name, _, content in stream_unzip(pieces)}
        members = {name: (zlib.crc32(content), len(content)) for name, content in read.items()}
    else:
        members = java(reader, packed)
    wanted = {f"{place.name}/{name}": (zlib.crc32(data), len(data)) for name, data in CONTENT.items()}
    assert wanted == {name: told for name, told in members.items() if not name.endswith("/")}
    assert {f"{place.name}/", f"{place.name}/sub/", f"{place.name}/sub/deeper/"} <= members.keys()


def java(reader: str, packed: bytes | int) -> dict[str, tuple[int, int]]:
    """Checksums and sizes of the members, as Java reads them."""
    done = subprocess.run(
        ["java", "-cp", "/usr/share/java/commons-compress.jar", str(READ_ZIP), reader],
        **({"stdin": packed} if isinstance(packed, int) else {"input": packed}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split(" ", 2) for line in done.stdout.decode().splitlines()]
    return {name: (int(checksum, 16), int(size)) for checksum, size, name in lines}


@pytest.mark.parametrize(
    ("kind", "program"), [(ZIP, "unzip"), (ZIP, "bsdtar"), (TAR, "tar"), (TAR, "bsdtar")]
)
async def test_modes_and_dates(
    package: Package, place: Path, elsewhere: Path, kind: str, program: str
) -> None:
    """Whose directories cannot be entered has nothing of what is in them."""
    write(place, CONTENT)
    unpack(program, await package(f"/{place.name}", kind=kind), elsewhere)
    made = [elsewhere / place.name, *(elsewhere / place.name).rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o644}
    assert {path.stat().st_mtime for path in made} == {MTIME}


@pytest.mark.parametrize("kind", [ZIP, TAR])
@pytest.mark.parametrize(
    ("mtime", "told"),
    [(-3600, 1980), (0, 1980), (60.5 * YEAR, 2030), (90.5 * YEAR, 2060), (140.5 * YEAR, 2107)],
)
async def test_times_that_the_format_cannot_tell(
    package: Package, place: Path, kind: str, mtime: float, told: int
) -> None:
    """They spoil nothing: the nearest that it can is told."""
    write(place, {"f": b"f"}, mtime)
    packed = await package(f"/{place.name}", kind=kind)
    if kind == ZIP:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            assert {member.date_time[0] for member in archive.infolist()} == {told}
    else:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            assert {member.mtime for member in archive} == {max(int(mtime), 0)}


def listed(packed: bytes, kind: str) -> dict[str, bytes | str]:
    """Content of files, and what links say, by the members' names; no name comes twice."""
    members: list[tuple[str, bytes | str]] = []
    if kind == ZIP:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            for entry in archive.infolist():
                content = archive.read(entry)
                link = entry.external_attr >> 16 & 0o170000 == 0o120000
                # What zipfile makes of a name is not what others make of it.
                members.append((entry.orig_filename, content.decode() if link else content))
    else:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for item in archive:
                content = archive.extractfile(item).read() if item.isfile() else b""
                members.append((item.name, item.linkname if item.issym() else content))
    found = {name.rstrip("/"): content for name, content in members}
    assert len(found) == len(members)
    return found


@pytest.mark.parametrize("kind", [ZIP, TAR])
async def test_members_of_several_packages_have_names_of_their_own(
    package: Package, place: Path, kind: str
) -> None:
    write(place, {"a/data/f": b"a", "b/data/f": b"b", "c/data-2": b"c", "d/f.txt": b"d", "e/f.txt": b"e"})
    (place / "again").symlink_to("a/data")
    targets = ["a/data", "b/data", "c/data-2", "d/f.txt", "e/f.txt", "a/data", "again", "none"]
    packed = await package(*(f"/{place.name}/{target}" for target in targets), kind=kind)
    assert listed(packed, kind) == {
        **{"data": b"", "data/f": b"a", "data-2": b"", "data-2/f": b"b", "data-2-2": b"c"},
        **{"f.txt": b"d", "f-2.txt": b"e"},
    }


@pytest.mark.parametrize("kind", [ZIP, TAR])
async def test_names_that_lead_elsewhere_are_made_harmless(package: Package, place: Path, kind: str) -> None:
    """Where a backslash separates directories, and where drives have letters."""
    names = [
        "..\\..\\evil",
        "a\\b",
        "a_b",
        "a\nb",
        "C:evil",
        "c:\\x\\f",
        "plate 2026-11-29T10:00:00",
        "\\\\host\\f",
    ]
    write(place, {name: name.encode() for name in names})
    (place / "link").symlink_to("a\\b")
    read = listed(await package(f"/{place.name}", kind=kind), kind)
    assert not [name for name in read if "\\" in name or "\n" in name]
    contents = {name.removeprefix(f"{place.name}/"): content for name, content in read.items()}
    link = contents.pop("link")
    assert contents.pop(place.name) == b""
    assert sorted(contents.values()) == sorted(name.encode() for name in names)
    assert contents["a_b"] == b"a_b"
    assert contents["C_evil"] == b"C:evil"
    assert contents["plate 2026-11-29T10:00:00"] == b"plate 2026-11-29T10:00:00"
    assert contents[".._.._evil"] == b"..\\..\\evil"
    assert contents[link] == b"a\\b"


@pytest.mark.parametrize(
    ("kind", "program"), [(ZIP, "unzip"), (ZIP, "bsdtar"), (TAR, "tar"), (TAR, "bsdtar")]
)
async def test_links_lead_to_where_their_targets_are_unpacked(
    package: Package, place: Path, elsewhere: Path, kind: str, program: str
) -> None:
    write(place, {"far/below/a/f": b"f", "b/g": b"g", "outside": b"o", "b/up\\dir/h": b"h"})
    links = {
        "far/below/a/to-b": "../../../b/g",
        "far/below/a/own": "f",
        "far/below/a/self": ".",
        "far/below/a/harmless": "../../../b/up\\dir/h",
        "b/to-a": "../far/below/a",
        "b/outside": "../outside",
        "b/absolute": "/etc/passwd",
        "b/above": "../../../../../../../../etc/passwd",
        "b/top": "..",
    }
    for link, text in links.items():
        (place / link).symlink_to(text)
    packed = await package(f"/{place.name}/far/below/a", f"/{place.name}/b", kind=kind)
    unpack(program, packed, elsewhere)
    assert (elsewhere / "a/to-b").read_bytes() == b"g"
    assert (elsewhere / "a/own").read_bytes() == b"f"
    assert (elsewhere / "a/harmless").read_bytes() == b"h"
    assert (elsewhere / "b/to-a/f").read_bytes() == b"f"
    assert links_below(elsewhere) == {"a/to-b", "a/own", "a/self", "a/harmless", "b/to-a"}


def links_below(directory: Path) -> set[str]:
    """All links; none leads out of the directory."""
    links = {path for path in directory.rglob("*") if path.is_symlink()}
    for link in links:
        assert not PurePosixPath(os.readlink(link)).is_absolute()
        assert link.resolve().is_relative_to(directory)
    return {str(link.relative_to(directory)) for link in links}


@pytest.mark.usefixtures("client")
async def test_one_user_downloads_so_many_packages_at_once(
    settings: Settings,
    running: Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]],
    place: Path,
    ada: dict[str, str],
    bob: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everybody else's are served meanwhile, and those without a name have one part together."""
    write(place, {"f": b"content"})
    going, packed = threading.Event(), handlers.packed

    def held(*arguments: object) -> Iterator[bytes]:
        assert going.wait(60)
        yield from packed(*arguments)

    async with running(settings.model_copy(update={"vospace_user_packages": 2})) as client:

        async def url(caller: dict[str, str]) -> str:
            return await ask(client, f"/{place.name}", headers=caller)

        refused = {"of yours": ada, "of callers without a name": {}}
        monkeypatch.setattr(handlers, "packed", held)
        downloads = []
        for caller in refused.values():
            for _ in range(2):
                location = await url(caller)
                downloads.append(asyncio.create_task(client.get(location, headers=caller)))
                async with asyncio.timeout(30):
                    phase = f"{location.removesuffix('run')}phase"
                    while (await client.get(phase, headers=caller)).text != "EXECUTING":  # noqa: ASYNC110 - HTTP
                        await asyncio.sleep(0.01)
        further = [(await url(caller), caller) for caller in refused.values()]
        for (location, caller), whose in zip(further, refused, strict=True):
            answer = await client.get(location, headers=caller)
            assert answer.status_code == 429
            assert f"2 packages {whose} are on their way: wait for the end of one" in answer.text
        monkeypatch.setattr(handlers, "packed", packed)
        assert (await client.get(await url(bob), headers=bob)).status_code == 200
        going.set()
        assert [answer.status_code for answer in await asyncio.gather(*downloads)] == [200] * 4
        # What was refused can be had afterwards.
        for location, caller in further:
            assert (await client.get(location, headers=caller)).status_code == 200


async def test_a_file_that_changes_while_it_is_read_breaks_the_package(
    package: Package, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no end then, rather than a member with a wrong checksum."""
    write(place, {"f": b"before"})
    pread = os.pread

    def changed(descriptor: int, count: int, position: int) -> bytes:
        content = pread(descriptor, count, position)
        (place / "f").write_bytes(b"behind")
        return content

    monkeypatch.setattr(os, "pread", changed)
    packed = await package(f"/{place.name}")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(packed))


LARGE = {"large": (4 << 30) + 12_345, "behind it": 4}
MANY = 70_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A zip with a member of more than 4 GiB, and one behind it. Almost all of the file are holes."""
    stream = zip_stream.ZipStream()
    archive = tmp_path_factory.mktemp("large") / "large.zip"
    with subprocess.Popen(["cp", "--sparse=always", "/dev/stdin", archive], stdin=subprocess.PIPE) as copy:
        for name, size in LARGE.items():
            for piece in stream.file(name, MTIME, size, functools.partial(zeros, size)):
                copy.stdin.write(piece)
        for piece in stream.end():
            copy.stdin.write(piece)
    yield archive
    archive.unlink()


def zeros(size: int) -> Iterator[bytes]:
    block = bytes(16 * 65_535)
    yield from (block for _ in range(size // len(block)))
    yield block[: size % len(block)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip with more members than the plain format can count."""
    stream = zip_stream.ZipStream()
    archive = tmp_path_factory.mktemp("many") / "many.zip"
    pieces = [piece for number in range(MANY) for piece in stream.link(f"n{number}", "x", MTIME)]
    archive.write_bytes(b"".join([*pieces, *stream.end()]))
    return archive


def told(reader: str, archive: Path) -> dict[str, int]:
    """Sizes of the members by name, as one program reads them; it reads the bytes too."""
    if reader == "zipfile":
        with zipfile.ZipFile(archive) as opened:
            assert opened.testzip() is None
            return {entry.filename: entry.file_size for entry in opened.infolist()}
    if reader == "unzip":
        subprocess.run(["unzip", "-tqq", archive], check=True)
        lines = subprocess.run(["unzip", "-l", archive], capture_output=True, check=True).stdout.decode()
        rows = [line.split(maxsplit=3) for line in lines.splitlines()[3:-2]]
        return {name: int(size) for size, _, _, name in rows}
    if reader in ("jdk", "commons"):
        with archive.open("rb") as source:
            return {name: size for name, (_, size) in java(reader, source.fileno()).items()}
    # All bytes as a stream, what is listed from the end of the file.
    subprocess.run(["sh", "-c", 'cat "$0" | bsdtar -xOf - >/dev/null', archive], check=True)
    lines = subprocess.run(["bsdtar", "-tvf", archive], capture_output=True, check=True).stdout.decode()
    rows = [line.split(maxsplit=8) for line in lines.splitlines()]
    return {row[8].partition(" -> ")[0]: int(row[4]) for row in rows}


READERS = pytest.mark.parametrize("reader", ["zipfile", "unzip", "bsdtar", "jdk", "commons"])


# Writing so much takes 10 s of a core, and reading it as much for each of them.
@pytest.mark.slow
@READERS
def test_members_of_more_than_4_gib(large: Path, reader: str) -> None:
    assert told(reader, large) == LARGE


@READERS
def test_more_than_65535_members(many: Path, reader: str) -> None:
    assert told(reader, many).keys() == {f"n{number}" for number in range(MANY)}
