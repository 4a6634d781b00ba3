"""Transfers over HTTP, by a service in a process of its own and a real source."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import tarfile
import zipfile
import zlib
from collections import Counter

import httpx
import pytest
from lxml import etree

VOS = "http://www.ivoa.net/xml/VOSpace/v2.0"
UWS = "http://www.ivoa.net/xml/UWS/v1.0"
ROOT = "vos://opencadc.org~cavern"
CORE = "ivo://ivoa.net/vospace/core#"
BODY = bytes(range(256)) * 8000
OLD = b"what was there before" * 1000
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()

SEED = int(os.environ.get("TEST_SEED", "1"))
"""Of the points at which the service is killed."""


def document(
    target: str | list[str],
    direction: str,
    *protocols: tuple[str, str | None, str | None],
    keep: str | None = None,
    params: dict[str, str] | None = None,
    view: str = "",
) -> str:
    targets = [target] if isinstance(target, str) else target
    parts = [f"<vos:target>{t}</vos:target>" for t in targets] + [
        f"<vos:direction>{direction}</vos:direction>"
    ]
    if view:
        parts.append(view)
    for uri, endpoint, method in protocols:
        inner = f"<vos:endpoint>{endpoint}</vos:endpoint>" if endpoint else ""
        inner += f'<vos:securityMethod uri="{method}"/>' if method else ""
        parts.append(f'<vos:protocol uri="{CORE}{uri}">{inner}</vos:protocol>')
    if keep:
        parts.append(f"<vos:keepBytes>{keep}</vos:keepBytes>")
    parts += [f'<vos:param uri="{uri}">{value}</vos:param>' for uri, value in (params or {}).items()]
    return f'<vos:transfer xmlns:vos="{VOS}" version="2.1">{"".join(parts)}</vos:transfer>'


def pull(source, path: str = "/d/f", target: str = f"{ROOT}/box/f", **params: str) -> str:
    return document(target, "pullToVoSpace", ("httpget", source.url(path), None), params=params)


@pytest.fixture
async def box(service, source):
    await service.container("/box")
    source.files["/d/f"] = BODY
    return service


async def test_a_pull_brings_the_bytes_and_their_checksums(box, source):
    expected = {f"{CORE}length": str(len(BODY)), f"{CORE}MD5": MD5}
    expected["ivo://skao.int/vospace/core#adler32"] = f"{zlib.adler32(BODY):08x}"
    job = await box.submit(
        document(f"{ROOT}/box/f", "pullToVoSpace", ("httpget", source.url("/d/f"), None), params=expected)
    )
    assert await box.ended(job) == "COMPLETED"
    assert box.file("box/f").read_bytes() == BODY
    assert box.file("box/f").stat().st_uid == 10001
    node = (await box.client.get(f"{box.url}/nodes/box/f", headers=box.as_user("ada"))).text
    assert MD5 in node
    assert f"{zlib.adler32(BODY):08x}" in node
    page = etree.fromstring((await box.client.get(job, headers=box.as_user("ada"))).content)
    results = {
        r.get("id"): r.get("{http://www.w3.org/1999/xlink}href") for r in page.iter(f"{{{UWS}}}result")
    }
    assert results["dataNode"] == f"{ROOT}/box/f"
    details = await box.client.get(results["transferDetails"], headers=box.as_user("ada"))
    assert source.url("/d/f") in details.text
    assert box.leftovers() == []


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({f"{CORE}MD5": "0" * 32}, "ChecksumMismatch"),
        ({f"{CORE}length": "17"}, "SizeMismatch"),
        ({f"{CORE}length": "many"}, "InvalidArgument"),
        ({f"{CORE}MD5": "no"}, "InvalidArgument"),
    ],
)
async def test_bytes_that_are_not_as_asked_leave_nothing(box, source, params, fault):
    job = await box.submit(pull(source, **params))
    assert await box.ended(job) == "ERROR"
    assert (await box.error(job)).startswith(fault)
    assert not box.file("box/f").exists()
    assert box.leftovers() == []


async def test_a_failed_pull_leaves_the_old_file(box, source):
    await box.put("/box/f", b"old")
    job = await box.submit(pull(source, **{f"{CORE}MD5": "0" * 32}))
    assert await box.ended(job) == "ERROR"
    assert box.file("box/f").read_bytes() == b"old"
    assert await box.ended(await box.submit(pull(source))) == "COMPLETED"
    assert box.file("box/f").read_bytes() == BODY


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1/d/f", "http://169.254.169.254/d/f", "file:///etc/passwd"]
)
async def test_other_sources_are_refused(box, source, endpoint):
    job = await box.submit(document(f"{ROOT}/box/f", "pullToVoSpace", ("httpget", endpoint, None)))
    assert await box.ended(job) == "ERROR"
    assert (await box.error(job)).startswith("InvalidArgument")
    assert source.requests == []


async def test_a_redirect_to_elsewhere_is_refused(box, source):
    source.script = [f"redirect:{source.base}/secret"]
    source.files["/secret"] = b"secret"
    job = await box.submit(pull(source))
    assert await box.ended(job) == "ERROR"
    assert not box.file("box/f").exists()


async def test_endpoints_are_tried_in_turn(box, source):
    protocols = [("httpget", source.url(path), None) for path in ("/d/none", "/d/missing", "/d/f")]
    job = await box.submit(document(f"{ROOT}/box/f", "pullToVoSpace", *protocols))
    assert await box.ended(job) == "COMPLETED"
    assert box.file("box/f").read_bytes() == BODY


@pytest.mark.parametrize(
    ("target", "user", "fault"),
    [
        (f"{ROOT}/nowhere/f", "ada", "ContainerNotFound"),
        (f"{ROOT}/box/f", "bob", "PermissionDenied"),
        (f"{ROOT}/box", "ada", "InvalidArgument"),
        ("vos://elsewhere.org~cavern/box/f", "ada", "InvalidURI"),
        (f"{ROOT}/box/../../etc/f", "ada", "InvalidURI"),
    ],
)
async def test_targets_that_cannot_be(box, source, target, user, fault):
    job = await box.submit(pull(source, target=target), user)
    assert await box.ended(job, user) == "ERROR"
    assert (await box.error(job, user)).startswith(fault)
    assert source.requests == []


async def test_abort_stops_the_fetch_and_leaves_nothing(box, source, eventually):
    source.script = ["stall:100000"]
    job = await box.submit(pull(source))
    await eventually(lambda: source.requests)
    answer = await box.client.post(f"{job}/phase", data={"phase": "ABORT"}, headers=box.as_user("ada"))
    assert answer.status_code == 303
    assert await box.ended(job) == "ABORTED"
    await eventually(
        lambda: source.requests[0].transport is None or source.requests[0].transport.is_closing()
    )
    assert not box.file("box/f").exists()
    assert box.leftovers() == []


async def test_a_quota_is_kept(box, source):
    os.setxattr(box.file("box"), f"user.{CORE}quota", b"100000")
    job = await box.submit(pull(source))
    assert await box.ended(job) == "ERROR"
    assert await box.error(job) == "QuotaExceeded" or (await box.error(job)).startswith("QuotaExceeded")
    assert not box.file("box/f").exists()


async def test_push_to_another_server(box, source):
    await box.put("/box/f", BODY)
    job = await box.submit(
        document(f"{ROOT}/box/f", "pushFromVoSpace", ("httpput", source.url("/up/x"), None))
    )
    assert await box.ended(job) == "COMPLETED"
    assert source.uploads == {"/up/x": BODY}
    job = await box.submit(
        document(f"{ROOT}/box/f", "pushFromVoSpace", ("httpput", source.url("/d/x"), None))
    )
    assert await box.ended(job) == "ERROR"


async def test_move_rename_and_into_a_container(box):
    await box.put("/box/f", BODY)
    await box.container("/box/sub")
    job = await box.submit(document(f"{ROOT}/box/f", f"{ROOT}/box/g", keep="false"))
    assert await box.ended(job) == "COMPLETED"
    job = await box.submit(document("vos://opencadc.org!cavern/box/g", f"{ROOT}/box/sub", keep="false"))
    assert await box.ended(job) == "COMPLETED"
    assert box.file("box/sub/g").read_bytes() == BODY
    page = (await box.client.get(f"{job}/results", headers=box.as_user("ada"))).text
    assert f"{ROOT}/box/sub/g" in page
    for source, target, fault in (
        ("/box", "/box/sub", "InvalidArgument"),
        ("/box/none", "/box/x", "NodeNotFound"),
        ("/box/sub", "/home", "PermissionDenied"),
    ):
        job = await box.submit(document(ROOT + source, ROOT + target, keep="false"))
        assert await box.ended(job) == "ERROR"
        assert (await box.error(job)).startswith(fault)
    job = await box.submit(document(f"{ROOT}/box", f"{ROOT}/box/sub/new", keep="false"))
    assert await box.ended(job) == "ERROR"
    page = (await box.client.get(job, headers=box.as_user("ada"))).text
    # OpenCADC's own tests look for it.
    assert (
        "Cannot move container node into its descendants: source path /box in resolved path /box/sub<" in page
    )
    await box.put("/box/h", b"h")
    job = await box.submit(document(f"{ROOT}/box/sub/g", f"{ROOT}/box/h", keep="false"))
    assert await box.ended(job) == "ERROR"
    assert (await box.error(job)).startswith("DuplicateNode")
    assert box.file("box/h").read_bytes() == b"h"


async def test_a_link_is_there_wherever_it_leads(box):
    """A move replaces no link, not even one that leads to nothing; into the container that one leads to is another
    matter."""
    await box.put("/box/f", BODY)
    await box.container("/box/sub")
    os.symlink("none", box.file("box/dangling"))
    os.symlink("sub", box.file("box/inside"))
    for keep in ("false", "true"):
        job = await box.submit(document(f"{ROOT}/box/f", f"{ROOT}/box/dangling", keep=keep))
        assert await box.ended(job) == "ERROR"
        assert await box.error(job) == f"DuplicateNode: {ROOT}/box/dangling"
    job = await box.submit(document(f"{ROOT}/box/f", f"{ROOT}/box/inside", keep="false"))
    assert await box.ended(job) == "COMPLETED"
    assert box.file("box/sub/f").read_bytes() == BODY


async def test_a_move_keeps_the_quota_of_its_destination(box):
    for name in ("small", "box/tree"):
        await box.container(f"/{name}")
    os.setxattr(box.file("small"), f"user.{CORE}quota", b"100000")
    await box.put("/box/f", BODY)
    await box.put("/box/tree/f", BODY)
    await box.put("/box/fits", b"x" * 60_000)
    for name, phase in (("f", "ERROR"), ("tree", "ERROR"), ("fits", "COMPLETED")):
        job = await box.submit(document(f"{ROOT}/box/{name}", f"{ROOT}/small", keep="false"))
        assert await box.ended(job) == phase, name
        if phase == "ERROR":
            assert await box.error(job) == "QuotaExceeded"
    assert os.listdir(box.file("small")) == ["fits"]
    job = await box.submit(document(f"{ROOT}/small/fits", f"{ROOT}/small/renamed", keep="false"))
    assert await box.ended(job) == "COMPLETED"


async def test_containers_that_are_moved_into_each_other(box):
    """Whichever comes first, neither is lost: the second move is refused, or is a renaming by then."""
    names = [f"{name}{number}" for number in range(10) for name in "ab"]
    for name in names:
        await box.container(f"/box/{name}")
        await box.put(f"/box/{name}/f", name.encode())
    jobs = [
        await box.submit(document(f"{ROOT}/box/{one}{number}", f"{ROOT}/box/{other}{number}", keep="false"))
        for number in range(10)
        for one, other in (("a", "b"), ("b", "a"))
    ]
    for job in jobs:
        if await box.ended(job) != "COMPLETED":
            assert (await box.error(job)).startswith(("InvalidArgument", "NodeNotFound", "ContainerNotFound"))
    assert sorted(path.read_text() for path in box.file("box").rglob("f")) == sorted(names)


async def test_copy_of_a_file_and_of_a_tree(box):
    await box.container("/box/sub")
    await box.container("/box/sub/deep")
    await box.put("/box/sub/deep/f", BODY)
    job = await box.submit(document(f"{ROOT}/box/sub", f"{ROOT}/box/copy"))
    assert await box.ended(job) == "COMPLETED", await box.error(job)
    assert box.file("box/copy/deep/f").read_bytes() == BODY
    job = await box.submit(document(f"{ROOT}/box/copy/deep/f", f"{ROOT}/box/f2", keep="true"))
    assert await box.ended(job) == "COMPLETED", await box.error(job)
    assert box.file("box/f2").read_bytes() == BODY
    assert sorted(os.listdir(box.file("box"))) == ["copy", "f2", "sub"]


async def negotiate(service, content: str, user: str = "ada"):
    """Follow the redirects by hand, as the Python client does."""
    headers = {"Content-Type": "text/xml", **service.as_user(user)}
    answer = await service.client.post(f"{service.url}/synctrans", content=content, headers=headers)
    while answer.status_code == 303:
        url = answer.headers["location"]
        answer = await service.client.get(url, headers=service.as_user(user))
    assert answer.status_code == 200
    job = url.replace("xfer", "transfers")
    phase = await service.client.get(f"{job}/phase", headers=service.as_user(user))
    endpoints = [e.text for e in etree.fromstring(answer.content).iter(f"{{{VOS}}}endpoint")]
    return endpoints, phase.text, job


async def test_negotiated_push_and_pull(box):
    token = "vos://cadc.nrc.ca~vospace/CADC/std/Auth#token-1.0"
    content = document(
        f"{ROOT}/box/new", "pushToVoSpace", ("httpsput", None, token), ("httpsput", None, None)
    )
    endpoints, phase, _ = await negotiate(box, content)
    assert phase == "EXECUTING"
    assert endpoints[0] == f"{box.url}/files/box/new"
    assert "/files/preauth:" in endpoints[1]
    assert box.file("box/new").read_bytes() == b""  # there from now on, its owner's
    assert box.file("box/new").stat().st_uid == 10001
    answer = await box.client.put(endpoints[1], content=BODY)
    assert answer.status_code == 201
    assert (await box.client.put(endpoints[1].replace("/box/new", "/box/other"))).status_code == 403
    for method in ("GET", "HEAD"):
        assert (await box.client.request(method, endpoints[1])).status_code == 403
    content = document(f"{ROOT}/box/new", "pullFromVoSpace", ("httpsget", None, None))
    endpoints, phase, _ = await negotiate(box, content)
    assert (await box.client.get(endpoints[0])).content == BODY
    assert (await box.client.put(endpoints[0], content=b"x")).status_code == 403


@pytest.mark.parametrize(
    ("target", "direction", "user", "error"),
    [
        ("/box/none", "pullFromVoSpace", "ada", "NodeNotFound"),
        ("/box", "pullFromVoSpace", "ada", "InvalidArgument: target is not a data node"),
        ("/box/f", "pushToVoSpace", "bob", "PermissionDenied"),
        ("/none/f", "pushToVoSpace", "ada", "ContainerNotFound: /none"),
    ],
)
async def test_a_failed_negotiation_is_a_document_without_endpoints(box, target, direction, user, error):
    uri = "httpsget" if direction.startswith("pull") else "httpsput"
    content = document(ROOT + target, direction, (uri, None, "ivo://ivoa.net/sso#token"))
    endpoints, phase, job = await negotiate(box, content, user)
    assert (endpoints, phase) == ([], "ERROR")
    assert await box.error(job, user) == error


async def test_a_negotiated_push_makes_a_node_only_where_it_may_succeed(box):
    await box.put("/box/old", OLD)
    token = "ivo://ivoa.net/sso#token"
    for target, protocol, user in (
        ("/box/f", ("httpsput", None, token), "bob"),
        ("/box/f", ("ftpput", None, token), "ada"),
        ("/none/f", ("httpsput", None, token), "ada"),
        ("/box/old", ("httpsput", None, token), "bob"),
    ):
        endpoints, phase, _ = await negotiate(box, document(ROOT + target, "pushToVoSpace", protocol), user)
        assert (endpoints, phase) == ([], "ERROR")
    anonymous = await box.client.post(
        f"{box.url}/synctrans",
        content=document(f"{ROOT}/box/f", "pushToVoSpace", ("httpsput", None, None)),
        headers={"Content-Type": "text/xml"},
    )
    assert (anonymous.status_code, anonymous.text.split(":")[0]) == (403, "PermissionDenied")
    os.symlink("behind", box.file("box/link"))
    for target in ("/box/old", "/box/link"):
        content = document(ROOT + target, "pushToVoSpace", ("httpsput", None, token))
        endpoints, phase, job = await negotiate(box, content)
        assert phase == "EXECUTING"
    assert endpoints == [f"{box.url}/files/box/behind"]
    results = (await box.client.get(f"{job}/results", headers=box.as_user("ada"))).text
    assert f'"dataNode" xlink:type="simple" xlink:href="{ROOT}/box/behind"' in results
    assert f'"linkNode" xlink:type="simple" xlink:href="{ROOT}/box/link"' in results
    assert box.file("box/old").read_bytes() == OLD
    assert sorted(os.listdir(box.file("box"))) == ["behind", "link", "old"]


async def test_parameters_redirect_to_the_endpoint(box):
    await box.put("/box/f", BODY)
    parameters = {"target": f"{ROOT}/box/f", "Direction": "pullFromVoSpace", "PROTOCOL": f"{CORE}httpsget"}
    answer = await box.client.get(f"{box.url}/synctrans", params=parameters, headers=box.as_user("ada"))
    assert answer.status_code == 303
    assert (await box.client.get(answer.headers["location"])).content == BODY
    answer = await box.client.post(f"{box.url}/synctrans", data=parameters, headers=box.as_user("bob"))
    assert (answer.status_code, answer.text.split(":")[0]) == (403, "PermissionDenied")
    answer = await box.client.get(f"{box.url}/synctrans", params={"TARGET": "x"}, headers=box.as_user("ada"))
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["application/x-tar", "application/zip"])
async def test_package(box, kind):
    await box.container("/box/sub")
    await box.put("/box/sub/a b", BODY)
    await box.put("/box/f", b"f")
    view = (
        '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0">'
        f'<vos:param uri="{CORE}format">{kind}</vos:param></vos:view>'
    )
    targets = [
        f"{ROOT}/box/sub",
        f"{ROOT}/box/none",
        f"{ROOT}/nowhere/none",
        f"{ROOT}/home/bob/f",
        f"{ROOT}/box/f",
    ]
    content = document(targets, "pullFromVoSpace", view=view)
    headers = {"Content-Type": "text/xml", **box.as_user("ada")}
    answer = await box.client.post(f"{box.url}/synctrans", content=content, headers=headers)
    assert answer.status_code == 303
    run = answer.headers["location"]
    assert (await box.client.get(run, headers=box.as_user("bob"))).status_code == 403
    answer = await box.client.get(run, headers=box.as_user("ada"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    if kind.endswith("tar"):
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            names = archive.getnames()
            member = archive.extractfile("sub/a b")
            assert member is not None
            assert member.read() == BODY
    else:
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            names = [name.rstrip("/") for name in archive.namelist()]
            assert archive.read("sub/a b") == BODY
    assert sorted(names) == ["f", "sub", "sub/a b"]
    job = run.replace("/pkg/", "/transfers/").removesuffix("/run")
    assert await box.ended(job) == "COMPLETED"
    assert (await box.client.get(run, headers=box.as_user("ada"))).status_code == 400


async def test_a_package_tells_nothing_of_what_may_not_be_read(box):
    for path, public in (("/open", True), ("/open/closed", False), ("/open/shared", True)):
        await box.container(path, public=public)
    await box.put("/open/closed/f", b"x")
    view = '<vos:view uri="vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0"/>'
    for target, user, names in (
        ("/box", "bob", []),
        ("/open/closed", "bob", []),
        ("/open", "bob", ["open", "open/shared"]),
        ("/open", "", ["open", "open/shared"]),
        ("/open/closed", "", None),
    ):
        caller = box.as_user(user)
        answer = await box.client.post(
            f"{box.url}/synctrans",
            content=document(ROOT + target, "pullFromVoSpace", view=view),
            headers={"Content-Type": "text/xml"} | caller,
        )
        if names is None:  # of callers without a name nothing is kept that leads to nothing
            assert answer.status_code == 403
            continue
        packed = (await box.client.get(answer.headers["location"], headers=caller)).content
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            assert archive.getnames() == names
        assert names or packed == bytes(1024)


async def test_recursive_delete(box):
    await box.container("/box/sub")
    for number in range(20):
        await box.put(f"/box/sub/{number}", b"x")
    answer = await box.client.post(
        f"{box.url}/async-delete",
        data={"target": "vos://opencadc.org!cavern/box/sub", "RunId": "my run"},
        headers=box.as_user("ada"),
    )
    assert answer.status_code == 303
    job = answer.headers["location"]
    assert (
        await box.client.post(f"{job}/phase", data={"phase": "RUN"}, headers=box.as_user("ada"))
    ).status_code == 303
    assert await box.ended(job) == "COMPLETED"
    page = (await box.client.get(job, headers=box.as_user("ada"))).text
    assert 'id="successcount"' in page
    assert "final:21" in page
    assert "errorcount" not in page
    assert "<uws:runId>my run</uws:runId>" in page
    assert not box.file("box/sub").exists()


async def recursive(box, path: str, user: str, **request) -> tuple[str, dict[str, str]]:
    """A recursive job's phase and results."""
    url = f"{box.url}/{path}?PHASE=RUN"
    answer = await box.client.post(url, headers=box.as_user(user), **request)
    assert answer.status_code == 303, answer.text
    job = answer.headers["location"]
    phase = await box.ended(job, user)
    page = (await box.client.get(f"{job}/results", headers=box.as_user(user))).content
    href = "{http://www.w3.org/1999/xlink}href"
    return phase, {r.get("id"): r.get(href) for r in etree.fromstring(page)}


async def change(box, path: str, kind: str, **properties: str) -> None:
    inner = "".join(f'<vos:property uri="{key}">{value}</vos:property>' for key, value in properties.items())
    content = (
        f'<vos:node xmlns:vos="{VOS}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        f' xsi:type="vos:{kind}"><vos:properties>{inner}</vos:properties></vos:node>'
    )
    answer = await box.client.post(f"{box.url}/nodes{path}", content=content, headers=box.as_user("ada"))
    assert answer.status_code == 200, answer.text


TEAM = "ivo://opencadc.org/gms?team"
LOCK = "ivo://cadc.nrc.ca/vospace/core#islocked"


async def test_what_cannot_be_deleted_is_counted_once(box):
    """What stays because something in it stays is no failure of its own, as Cavern counts."""
    for path in ("/box/top", "/box/top/sub", "/box/top/sub/deep"):
        await box.container(path)
    for path in ("/box/top/a", "/box/top/sub/b", "/box/top/sub/deep/c"):
        await box.put(path, b"x")
    await change(box, "/box/top/sub/deep", "ContainerNode", **{LOCK: "true"})
    target = {"target": f"{ROOT}/box/top"}
    phase, results = await recursive(box, "async-delete", "ada", data=target)
    assert (phase, results) == ("ABORTED", {"successcount": "final:2", "errorcount": "final:1"})
    assert [path.name for path in box.file("box/top").rglob("*")] == ["sub", "deep", "c"]
    assert await recursive(box, "async-delete", "ada", data=target) == ("ERROR", {})
    await change(box, "/box/top/sub/deep", "ContainerNode", **{LOCK: "false"})
    assert await recursive(box, "async-delete", "ada", data=target) == (
        "COMPLETED",
        {"successcount": "final:4"},
    )


async def test_a_member_deletes_what_the_group_may(box):
    """Not what another has in a container into which the group may write."""
    for path in ("/box/top", "/box/top/private"):
        await box.container(path)
    for path in ("/box/top/a", "/box/top/kept", "/box/top/private/b"):
        await box.put(path, b"x")
    for path, kind in (
        ("/box", "ContainerNode"),
        ("/box/top", "ContainerNode"),
        ("/box/top/a", "DataNode"),
    ):
        await change(box, path, kind, **{f"{CORE}groupwrite": TEAM})
    phase, results = await recursive(box, "async-delete", "bob", data={"target": f"{ROOT}/box/top"})
    assert (phase, results) == ("ABORTED", {"successcount": "final:1", "errorcount": "final:2"})
    assert sorted(os.listdir(box.file("box/top"))) == ["kept", "private"]
    assert box.file("box/top/private/b").exists()


async def test_a_member_moves_what_the_group_may(box):
    """And it stays whose it was."""
    await box.put("/box/shared", b"x")
    await box.put("/box/private", b"x")
    await change(box, "/box", "ContainerNode", **{f"{CORE}groupwrite": TEAM})
    await change(box, "/box/shared", "DataNode", **{f"{CORE}groupwrite": TEAM})
    job = await box.submit(document(f"{ROOT}/box/shared", f"{ROOT}/box/new", keep="false"), "bob")
    assert await box.ended(job, "bob") == "COMPLETED"
    assert box.file("box/new").stat().st_uid == 10001
    for source in ("/box/private", "/box"):
        job = await box.submit(document(ROOT + source, f"{ROOT}/box/taken", keep="false"), "bob")
        assert await box.ended(job, "bob") == "ERROR"
    job = await box.submit(document(f"{ROOT}/box/private", f"{ROOT}/box/taken", keep="false"), "bob")
    assert await box.ended(job, "bob") == "ERROR"
    assert await box.error(job, "bob") == "PermissionDenied"
    assert sorted(os.listdir(box.file("box"))) == ["new", "private"]


async def test_locks_are_for_bytes_and_names_alone(box):
    await box.container("/box/sub")
    await box.put("/box/sub/f", b"x")
    for path, kind in (("/box/sub/f", "DataNode"), ("/box/sub", "ContainerNode")):
        await change(box, path, kind, **{LOCK: "true"})
        await change(box, path, kind, note="changed all the same")
    for refused in (
        await box.client.put(f"{box.url}/files/box/sub/f", content=b"y", headers=box.as_user("ada")),
        await box.client.put(f"{box.url}/files/box/sub/g", content=b"y", headers=box.as_user("ada")),
        await box.client.delete(f"{box.url}/nodes/box/sub/f", headers=box.as_user("ada")),
    ):
        assert (refused.status_code, refused.text) == (423, "NodeLocked\n")
    assert box.file("box/sub/f").read_bytes() == b"x"


async def test_a_quota_is_not_set_recursively(box):
    content = (
        f'<vos:node xmlns:vos="{VOS}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="{ROOT}"'
        f' xsi:type="vos:ContainerNode"><vos:properties><vos:property uri="{CORE}quota">5</vos:property>'
        "</vos:properties><vos:nodes/></vos:node>"
    )
    headers = {"Content-Type": "text/xml"} | box.as_user("cavernadmin")
    answer = await box.client.post(f"{box.url}/async-setprops?PHASE=RUN", content=content, headers=headers)
    job = answer.headers["location"]
    assert await box.ended(job, "cavernadmin") == "ERROR"
    assert "not set recursively" in await box.error(job, "cavernadmin")


async def test_recursive_properties(box):
    await box.container("/box/sub")
    await box.put("/box/sub/f", b"x")
    content = (
        f'<vos:node xmlns:vos="{VOS}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" uri="{ROOT}/box"'
        ' xsi:type="vos:ContainerNode"><vos:properties>'
        f'<vos:property uri="{CORE}ispublic">true</vos:property>'
        f'<vos:property uri="{CORE}groupread">ivo://opencadc.org/gms?team</vos:property>'
        "</vos:properties><vos:nodes/></vos:node>"
    )
    answer = await box.client.post(
        f"{box.url}/async-setprops?PHASE=RUN", content=content, headers=box.as_user("ada")
    )
    assert answer.status_code == 303, answer.text
    assert await box.ended(answer.headers["location"]) == "COMPLETED"
    assert (await box.client.get(f"{box.url}/files/box/sub/f")).content == b"x"
    page = (await box.client.get(f"{box.url}/nodes/box/sub/f", headers=box.as_user("bob"))).text
    assert "ivo://opencadc.org/gms?team" in page


async def test_single_values_of_a_job(box, source):
    job = await box.submit(pull(source), run=False)
    ada = box.as_user("ada")

    async def get(field: str, user: str = "ada"):
        return await box.client.get(f"{job}/{field}", headers=box.as_user(user))

    assert (await get("phase")).text == "PENDING"
    assert (await get("PHASE")).text == "PENDING"
    assert (await get("owner")).text == "ada"
    assert (await get("error")).status_code == 404
    assert (await get("phase", "bob")).status_code == 403
    assert (await get("nothing")).status_code == 404
    answer = await box.client.post(f"{job}/executionduration", data={"EXECUTIONDURATION": "60"}, headers=ada)
    assert answer.status_code == 303
    assert (await get("executionduration")).text == "60"
    assert (await box.client.post(f"{job}/phase", data={"PHASE": "JUMP"}, headers=ada)).status_code == 400
    answer = await box.client.post(f"{job}/destruction", data={"DESTRUCTION": "2001-01-01"}, headers=ada)
    assert answer.status_code == 303
    assert (await get("destruction")).text == "2001-01-01T00:00:00.000Z"
    listing = await box.client.get(f"{box.url}/transfers?phase=PENDING&LAST=5", headers=ada)
    assert job.rsplit("/", 1)[1] in listing.text
    assert (await box.client.get(f"{box.url}/transfers")).status_code == 403
    assert (
        (await box.client.post(job, data={"ACTION": "DELETE"}, headers=ada))
        .headers["location"]
        .endswith("/transfers")
    )
    assert (await get("phase")).status_code == 404


@pytest.mark.parametrize(
    "body", ["", "<x/>", "not xml", f'<t:transfer xmlns:t="{VOS}"><t:direction>x</t:direction></t:transfer>',
             f'<!DOCTYPE a [<!ENTITY b "c">]><t:transfer xmlns:t="{VOS}"><t:target>&b;</t:target></t:transfer>']
)  # fmt: skip
async def test_bad_documents_are_refused_at_once(box, body):
    for path in ("transfers", "synctrans"):
        headers = {"Content-Type": "text/xml", **box.as_user("ada")}
        answer = await box.client.post(f"{box.url}/{path}", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.text.startswith("InvalidArgument: ")


async def upload(service, path: str, body: bytes) -> str:
    """A client's PUT in small pieces: `stored`, or `interrupted` if the service went away."""

    async def pieces():
        for start in range(0, len(body), len(body) // 16):
            yield body[start : start + len(body) // 16]
            await asyncio.sleep(0.004)

    headers = service.as_user("ada") | {"Content-Length": str(len(body))}
    try:
        answer = await service.client.put(f"{service.url}/files{path}", content=pieces(), headers=headers)
    except httpx.TransportError:
        return "interrupted"
    assert answer.status_code == 201, answer.text
    return "stored"


async def round_of_transfers(service, source, eventually, number: int, chance: random.Random) -> list[str]:
    """One kill during a pull, a move, a copy and pushes in either direction; how the client saw his two uploads end."""
    box = f"/box{number}"
    await service.container(box)
    await service.put(f"{box}/old", BODY)
    await service.put(f"{box}/replaced", OLD)
    await service.container(f"{box}/tree")
    await service.put(f"{box}/tree/f", BODY)
    source.files["/d/f"] = BODY
    sent = f"/up/{number}"
    jobs = [
        await service.submit(pull(source, target=f"{ROOT}{box}/pulled"), run=False),
        await service.submit(document(f"{ROOT}{box}/old", f"{ROOT}{box}/moved", keep="false"), run=False),
        await service.submit(document(f"{ROOT}{box}/tree", f"{ROOT}{box}/copy"), run=False),
        await service.submit(
            document(f"{ROOT}{box}/tree/f", "pushFromVoSpace", ("httpput", source.url(sent), None)), run=False
        ),
    ]
    uploads = [
        asyncio.create_task(upload(service, f"{box}/{name}", BODY)) for name in ("uploaded", "replaced")
    ]
    for job in jobs:
        await service.client.post(f"{job}/phase", data={"PHASE": "RUN"}, headers=service.as_user("ada"))
    await asyncio.sleep(chance.uniform(0, 0.12))
    await service.kill()
    new, replaced = await asyncio.gather(*uploads)
    await service.start()
    for job in jobs:
        assert await service.ended(job) == "COMPLETED", await service.error(job)
    for name in ("pulled", "moved", "copy/f", "tree/f"):
        assert service.file(f"{box}/{name}").read_bytes() == BODY
    assert source.uploads[sent] == BODY
    # What a kill left is swept beside what the service does.
    await eventually(lambda: not service.leftovers())
    found = set(os.listdir(service.file(box)))
    assert found - {"uploaded"} == {"copy", "moved", "pulled", "replaced", "tree"}
    assert "uploaded" in found or new == "interrupted"
    if "uploaded" in found:
        assert service.file(f"{box}/uploaded").read_bytes() == BODY
    there = service.file(f"{box}/replaced").read_bytes()
    assert there == BODY or (replaced == "interrupted" and there == OLD)
    return [new, replaced]


async def test_kill_during_transfers(mortal, source, eventually):
    chance = random.Random(SEED)
    for number in range(4):
        await round_of_transfers(mortal, source, eventually, number, chance)
    assert mortal.leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_kill_during_transfers_100_times(mortal, source, eventually, record_property):
    chance = random.Random(SEED)
    ends: Counter[str] = Counter()
    for number in range(100):
        ends.update(await round_of_transfers(mortal, source, eventually, number, chance))
    record_property("uploads", dict(ends))
    print(f"100 kills, {dict(ends)} uploads")
    assert min(ends["stored"], ends["interrupted"]) > 0
    assert mortal.leftovers() == []
