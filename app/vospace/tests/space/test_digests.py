"""Digests in HTTP: what a request states is compared before anything is placed, and an answer tells what is wanted."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib

import pytest

BODY = bytes(range(256)) * 9000
OTHER = b"other"


def digest(algorithm: str, body: bytes) -> bytes:
    if algorithm == "adler32":
        return zlib.adler32(body).to_bytes(4)
    return hashlib.new(algorithm, body, usedforsecurity=False).digest()


def coded(algorithm: str, body: bytes) -> str:
    return base64.b64encode(digest(algorithm, body)).decode()


def stating(body: bytes) -> dict[str, dict[str, str]]:
    """Header fields that state a body's digest, each way."""
    adler32 = digest("adler32", body).hex()
    return {
        "Content-MD5": {"Content-MD5": coded("md5", body)},
        "md5": {"Digest": f"md5={coded('md5', body)}"},
        "MD5": {"Digest": f"MD5={coded('md5', body)}"},
        "adler32": {"Digest": f"adler32={adler32}"},
        "ADLER32 without leading zeros": {"Digest": f"ADLER32={adler32.lstrip('0').upper()}"},
        "sha": {"Digest": f"SHA={coded('sha1', body)}"},
        "sha-256": {"Digest": f"SHA-256={coded('sha256', body)}"},
        "sha-512": {"Digest": f"sha-512={coded('sha512', body)}"},
        "several": {"Digest": f"unixsum=30637, md5={coded('md5', body)},adler32={adler32}"},
        "Repr-Digest": {"Repr-Digest": f"sha-256=:{coded('sha256', body)}:"},
        "Repr-Digest sha-512": {"Repr-Digest": f"sha-512=:{coded('sha512', body)}:;of=1"},
        "Repr-Digest md5": {"Repr-Digest": f"crc32c=:AAAAAA==:, md5=:{coded('md5', body)}:"},
        "Repr-Digest adler": {"Repr-Digest": f'note="a, b", adler=:{coded("adler32", body)}:'},
        "Content-Digest": {"Content-Digest": f"sha-256=:{coded('sha256', body)}:"},
    }


WAYS = pytest.mark.parametrize("way", sorted(stating(b"")))


@pytest.fixture
async def file(client, ada, box) -> str:
    answer = await client.put(f"/files{box}/f", content=BODY, headers=ada)
    assert answer.status_code == 201
    return f"/files{box}/f"


@WAYS
async def test_a_right_digest_is_taken(client, ada, file, way):
    for body in (BODY[:-1], b"", OTHER):
        answer = await client.put(file, content=body, headers=ada | stating(body)[way])
        assert answer.status_code == 201, answer.text
        assert (await client.get(file, headers=ada)).content == body


@WAYS
async def test_a_wrong_digest_leaves_what_was_there(client, ada, box, root, stored, file, way):
    before = (root / file.removeprefix("/files/")).stat(), stored(root / file.removeprefix("/files/"))
    for path in (file, f"/files{box}/new"):
        answer = await client.put(path, content=OTHER, headers=ada | stating(BODY)[way])
        assert (answer.status_code, "checksum mismatch" in answer.text) == (412, True)
    assert os.listdir(root / box[1:]) == ["f"]
    there = root / file.removeprefix("/files/")
    assert there.read_bytes() == BODY
    assert (there.stat().st_ino, there.stat().st_mtime_ns) == (before[0].st_ino, before[0].st_mtime_ns)
    assert stored(there) == before[1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": coded("md5", OTHER), "Digest": f"md5={coded('md5', BODY)}"},
        {"Digest": f"md5={coded('md5', OTHER)}, adler32=00000001"},
        {"Repr-Digest": f"sha-256=:{coded('sha256', OTHER)}:, adler=:{coded('adler32', BODY)}:"},
        {"Repr-Digest": "sha-256=:AAAA:"},
    ],
)
async def test_every_digest_must_be_right(client, ada, file, headers):
    assert (await client.put(file, content=OTHER, headers=ada | headers)).status_code == 412


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Content-MD5": "nonsense"}, "Content-MD5"),
        ({"Content-MD5": ""}, "Content-MD5"),
        ({"Digest": "md5=AAAA"}, "Digest: md5"),
        ({"Digest": "sha-256=" + coded("md5", OTHER)}, "Digest: sha-256"),
        ({"Digest": "adler32=no"}, "Digest: adler32"),
        ({"Digest": "adler32=-1"}, "Digest: adler32"),
    ],
)
async def test_what_cannot_be_read_is_named(client, ada, root, file, headers, field):
    answer = await client.put(file, content=OTHER, headers=ada | headers)
    assert answer.status_code == 400
    assert field in answer.text
    assert (root / file.removeprefix("/files/")).read_bytes() == BODY


@pytest.mark.parametrize(
    "headers",
    [
        {"Digest": "crc32c=AAAAAA=="},
        {"Digest": "unixsum=1, nonsense"},
        {"Repr-Digest": "crc32c=:AAAAAA==:"},
        {"Repr-Digest": "sha-256=:AAAA"},
        {"Repr-Digest": "SHA-256=:AAAA:"},
        {"Repr-Digest": "sha-256=7"},
        {"Content-Digest": "\xff"},
    ],
)
async def test_the_rfcs_pass_over_what_is_unknown_and_what_is_no_structured_field(client, ada, file, headers):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    assert (await client.put(file, content=OTHER, headers=ada | headers)).status_code == 201


MD5, ADLER32 = coded("md5", BODY), digest("adler32", BODY).hex()
FIELDS = ("Digest", "Repr-Digest", "Content-Digest")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, {"Digest": f"md5={MD5}"}),
        ({"Want-Digest": "adler32"}, {"Digest": f"adler32={ADLER32}"}),
        ({"Want-Digest": "md5;q=0.3, ADLER32;q=1, sha-256"}, {"Digest": f"adler32={ADLER32}, md5={MD5}"}),
        ({"Want-Digest": "md5;q=0, adler32; q=0.1"}, {"Digest": f"adler32={ADLER32}"}),
        ({"Want-Digest": "sha-256"}, {"Digest": None}),
        ({"Want-Digest": "md5;q=nonsense"}, {"Digest": None}),
        ({}, {"Repr-Digest": f"md5=:{MD5}:, adler=:{coded('adler32', BODY)}:"}),
        ({"Want-Repr-Digest": "adler=1"}, {"Repr-Digest": f"adler=:{coded('adler32', BODY)}:"}),
        (
            {"Want-Repr-Digest": "md5=2, adler=9, sha-256=10"},
            {"Repr-Digest": f"adler=:{coded('adler32', BODY)}:, md5=:{MD5}:"},
        ),
        ({"Want-Repr-Digest": "md5=0, sha-512=10"}, {"Repr-Digest": None}),
        ({"Want-Repr-Digest": "no field"}, {"Repr-Digest": f"md5=:{MD5}:, adler=:{coded('adler32', BODY)}:"}),
        ({}, {"Content-Digest": None}),
        ({"Want-Content-Digest": "md5=1"}, {"Content-Digest": f"md5=:{MD5}:"}),
        (
            {"Want-Content-Digest": "md5=1", "Range": "bytes=1-"},
            {"Content-Digest": None, "Digest": f"md5={MD5}"},
        ),
    ],
)
async def test_an_answer_tells_what_is_wanted(client, ada, file, asked, told):
    for method in ("GET", "HEAD"):
        headers = (await client.request(method, file, headers=ada | asked)).headers
        assert {name: headers.get(name) for name in told} == told


async def test_an_upload_is_answered_as_wanted(client, ada, file):
    for asked, told in (({}, f"md5={MD5}"), ({"Want-Digest": "adler32"}, f"adler32={ADLER32}")):
        answer = await client.put(file, content=BODY, headers=ada | asked)
        assert (answer.status_code, answer.headers["digest"]) == (201, told)


async def test_nothing_is_told_of_a_file_whose_checksums_are_unknown(client, ada, box, root):
    there = root / box[1:] / "planted"
    there.write_bytes(OTHER)
    os.chown(there, *[(root / box[1:]).stat().st_uid] * 2)
    os.setxattr(there, "user.ivo://ivoa.net/vospace/core#MD5", b"nonsense")
    answer = await client.get(f"/files{box}/planted", headers=ada | {"Want-Content-Digest": "md5=1"})
    assert answer.status_code == 200
    assert not [name for name in FIELDS if name in answer.headers]
