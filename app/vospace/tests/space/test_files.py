"""Bytes over HTTP: ranges, conditions, checksums, and nothing half-written."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os

import pytest
from starlette.requests import ClientDisconnect

pytestmark = pytest.mark.parametrize("metadata", ["xattrs", "sidecar"], indirect=True, scope="session")
"""Whichever way properties are kept."""

BODY = bytes(range(256)) * 5000
EACH_SIZE = pytest.mark.parametrize("other", [b"other", BODY[::-1]], ids=["small", "large"])
DIGEST = "md5=" + base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()


@pytest.fixture
async def file(client, ada, box):
    answer = await client.put(
        f"/files{box}/f.bin", content=BODY, headers=ada | {"Content-Type": "image/fits"}
    )
    assert (answer.status_code, answer.headers["digest"]) == (201, DIGEST)
    return f"/files{box}/f.bin"


async def test_get_and_head(client, ada, file):
    for method in ("GET", "HEAD"):
        answer = await client.request(method, file, headers=ada)
        assert answer.status_code == 200
        assert answer.content == (BODY if method == "GET" else b"")
        headers = answer.headers
        assert (headers["content-length"], headers["digest"]) == (str(len(BODY)), DIGEST)
        assert (headers["content-type"], headers["accept-ranges"]) == ("image/fits", "bytes")
        assert headers["content-disposition"] == 'inline; filename="f.bin"'
        assert "content-encoding" not in headers


async def test_the_headers_of_a_private_file(client, ada, bob, box, file, document):
    """Who may read its container may see them, as Cavern has it: the node's document says the same. Not the bytes."""
    public = document("ContainerNode", properties={"ivo://ivoa.net/vospace/core#ispublic": "true"})
    for who in (bob, {}):
        assert (await client.head(file, headers=who)).status_code == 403
    await client.post(f"/nodes{box}", content=public, headers=ada)
    own = await client.head(file, headers=ada)
    for who in (bob, {}):
        answer = await client.head(file, headers=who)
        assert (answer.status_code, answer.content) == (200, b"")
        for name in ("content-length", "content-type", "digest", "etag", "last-modified"):
            assert answer.headers[name] == own.headers[name]
        refused = await client.get(file, headers=who | {"Range": "bytes=0-0"})
        assert (refused.status_code, refused.text.partition(":")[0]) == (403, "PermissionDenied")


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-99999999", 5, None)],
)
async def test_ranges(client, ada, file, value, start, end):
    answer = await client.get(file, headers=ada | {"Range": value})
    assert (answer.status_code, answer.content) == (206, BODY[start:end])
    assert answer.headers["content-range"].endswith(f"/{len(BODY)}")
    assert answer.headers["digest"] == DIGEST


async def test_ranges_that_do_not_apply(client, ada, file):
    assert (await client.get(file, headers=ada | {"Range": f"bytes={len(BODY)}-"})).status_code == 416
    for value in ("bytes=0-1,5-6", "lines=1-2", "bytes=x-", "bytes=9-5"):
        assert (await client.get(file, headers=ada | {"Range": value})).status_code == 200
    tag = (await client.head(file, headers=ada)).headers["etag"]
    for condition, status in ((tag, 206), ('"other"', 200)):
        answer = await client.get(file, headers=ada | {"Range": "bytes=0-0", "If-Range": condition})
        assert answer.status_code == status


async def test_conditions(client, ada, file):
    headers = (await client.head(file, headers=ada)).headers
    for condition, status in (
        ({"If-None-Match": headers["etag"]}, 304),
        ({"If-None-Match": '"x", *'}, 200),
        ({"If-Modified-Since": headers["last-modified"]}, 304),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": headers["etag"]}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
        ({"If-Unmodified-Since": headers["last-modified"]}, 200),
    ):
        answer = await client.get(file, headers=ada | condition)
        assert answer.status_code == status, condition
        if status == 412:
            assert answer.text.startswith(f"PreconditionFailed: {next(iter(condition))}: the file is there")


async def test_conditional_writes(client, ada, box, root, file):
    headers = (await client.head(file, headers=ada)).headers
    for condition in (
        {"If-Match": '"x"'},
        {"If-Match": f"W/{headers['etag']}"},
        {"If-None-Match": "*"},
        {"If-None-Match": headers["etag"]},
        {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ):
        refused = await client.put(file, content=b"other", headers=ada | condition)
        assert (refused.status_code, next(iter(condition)) in refused.text) == (412, True), refused.text
        assert (await client.get(file, headers=ada)).content == BODY
    absent = await client.put(f"/files{box}/new", content=b"x", headers=ada | {"If-Match": "*"})
    assert (absent.status_code, os.listdir(root / box[1:])) == (412, ["f.bin"])
    for condition, path in (
        ({"If-Match": headers["etag"]}, file),
        ({"If-Unmodified-Since": "Thu, 01 Jan 2099 00:00:00 GMT"}, file),
        ({"If-None-Match": "*"}, f"/files{box}/new"),
        ({"If-None-Match": headers["etag"]}, file),
    ):
        written = await client.put(path, content=b"other", headers=ada | condition)
        assert written.status_code == 201, (condition, written.text)
        assert written.headers["etag"] == (await client.head(path, headers=ada)).headers["etag"]


async def test_empty_files(client, ada, box):
    assert (await client.put(f"/files{box}/e", content=b"", headers=ada)).status_code == 201
    assert (await client.get(f"/files{box}/e", headers=ada)).status_code == 204
    answer = await client.head(f"/files{box}/e", headers=ada)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "0")


@EACH_SIZE
async def test_a_wrong_digest_leaves_what_was_there(client, ada, box, root, file, other):
    for path, left in ((file, BODY), (f"/files{box}/new", None)):
        answer = await client.put(path, content=other, headers=ada | {"Digest": DIGEST})
        assert (answer.status_code, "checksum mismatch" in answer.text) == (412, True)
        disk = root / path.removeprefix("/files/")
        assert (disk.read_bytes() if disk.exists() else None) == left
    answer = await client.put(file, content=b"x", headers=ada | {"Digest": "md5=nonsense"})
    assert answer.status_code == 400
    assert sorted(os.listdir(root / box[1:])) == ["f.bin"]


async def test_a_broken_upload_leaves_what_was_there(client, ada, box, root, file):
    async def breaking():
        yield b"half"
        raise ClientDisconnect

    answer = await client.put(file, content=breaking(), headers=ada)
    assert answer.status_code == 400
    assert (root / file.removeprefix("/files/")).read_bytes() == BODY
    assert sorted(os.listdir(root / box[1:])) == ["f.bin"]


async def test_refusals_make_nothing(client, ada, bob, box, root):
    for headers in ({}, bob):
        assert (await client.put(f"/files{box}/f", content=b"x", headers=headers)).status_code == 403
    assert (await client.put(f"/files{box}/none/f", content=b"x", headers=ada)).status_code == 404
    assert (await client.put(f"/files{box}", content=b"x", headers=ada)).status_code == 400
    assert (await client.get(f"/files{box}", headers=ada)).status_code == 400
    assert (await client.get(f"/files{box}/none", headers=ada)).text.startswith("NodeNotFound: vos://")
    assert (await client.post(f"/files{box}/f", content=b"x", headers=ada)).status_code == 405
    assert os.listdir(root / box[1:]) == []


@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_concurrent_writers_leave_one_whole_file(client, ada, box, root, size):
    bodies = [bytes([n]) * size for n in range(12)]
    puts = [client.put(f"/files{box}/f", content=body, headers=ada) for body in bodies]
    gets = [client.get(f"/files{box}/f", headers=ada) for _ in range(12)]
    answers = await asyncio.gather(*puts, *gets)
    assert {answer.status_code for answer in answers[:12]} == {201}
    for answer in answers[12:]:
        assert answer.status_code == 404 or answer.content in bodies
    assert (root / box[1:] / "f").read_bytes() in bodies


async def test_the_announcement_of_a_very_large_file_touches_nothing(client, ada, file, root):
    headers = ada | {"x-put-txn-op": "start", "x-total-length": str(6 << 30)}
    answer = await client.put(file, content=b"", headers=headers)
    assert answer.status_code == 201
    assert (root / file.removeprefix("/files/")).read_bytes() == BODY


async def test_a_new_file_keeps_the_owner_of_the_old(client, ada, bob, box, document, root, stored):
    await client.put(f"/files{box}/f", content=b"1", headers=ada)
    grant = {"ivo://ivoa.net/vospace/core#groupwrite": "ivo://opencadc.org/gms?team"}
    await client.post(f"/nodes{box}", content=document("ContainerNode", properties=grant), headers=ada)
    await client.post(
        f"/nodes{box}/f", content=document("DataNode", properties=grant | {"note": "kept"}), headers=ada
    )
    assert (await client.put(f"/files{box}/f", content=b"2", headers=bob)).status_code == 201
    assert (root / box[1:] / "f").stat().st_uid == 10001
    assert stored(root / box[1:] / "f")["note"] == "kept"


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [
        (errno.ENOSPC, 413, "QuotaExceeded: No space left on device\n"),
        (errno.EIO, 500, "InternalFault: writing failed: Input/output error\n"),
    ],
)
@EACH_SIZE
async def test_a_disk_that_fails_is_the_answer(
    client, ada, file, root, monkeypatch, number, status, text, other
):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("vospace.storage.sinks.os.write", fail)
        answer = await client.put(file, content=other, headers=ada)
    assert (answer.status_code, answer.text) == (status, text)
    kept = root / file.removeprefix("/files/")
    assert kept.read_bytes() == BODY
    assert os.listdir(kept.parent) == ["f.bin"]


async def test_small_files_and_nodes_take_one_turn_of_a_thread(client, ada, box, document, monkeypatch):
    """More of them would take longer than all else of such a request."""
    loop = asyncio.get_running_loop()
    run, turns = loop.run_in_executor, 0

    def count(*arguments):
        nonlocal turns
        turns += 1
        return run(*arguments)

    monkeypatch.setattr(loop, "run_in_executor", count)
    container, xml = document("ContainerNode"), {"Content-Type": "text/xml"}
    for method, path, body, headers in (
        ("PUT", f"/files{box}/f", b"small", {}),
        ("PUT", f"/files{box}/f", b"again", {"Digest": "adler32=05e90201"}),
        ("GET", f"/files{box}/f", None, {}),
        ("HEAD", f"/files{box}/f", None, {}),
        ("PUT", f"/nodes{box}/c", container, xml),
        ("GET", f"/nodes{box}/c", None, {}),
        ("GET", f"/nodes{box}", None, {}),
        ("DELETE", f"/nodes{box}/c", None, {}),
    ):
        turns = 0
        answer = await client.request(method, path, content=body, headers=ada | headers)
        assert answer.is_success, answer.text
        assert turns == 1, (method, path)


async def test_a_body_that_waits_for_leave_or_is_nobodys_is_refused_before_it_is_read(client, bob, box):
    async def body():
        raise AssertionError("the body was asked for")
        yield b""

    for headers in (bob | {"Expect": "100-continue"}, {}):
        answer = await client.put(f"/files{box}/f", content=body(), headers=headers | {"Content-Length": "5"})
        assert answer.status_code == 403
