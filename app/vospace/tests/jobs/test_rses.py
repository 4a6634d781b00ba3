"""Several RSEs: the next is asked where one is away or lacks a file. Credentials are used for prepare-data alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prepare_data_client.did import DID
from preparer.config import PreparerSettings
from preparer.ledger import FileState, Outcome
from preparer.staging.rse import Rses
from preparer.staging.vospace import CavernApproach
from staging_run import limit_to, stage
from storage_double import Authority, StorageDouble, redirect
from voservice.storage_elements import CredentialRefused, credentials
from vospace_client.client import Cavern

PROOF = "p" * 32
WAYS = pytest.mark.parametrize("way", ["bulk", "pull", "relay"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def storages(authority: Authority) -> AsyncIterator[dict[str, StorageDouble]]:
    """A wants a token; B has another layout."""
    found = {name: StorageDouble(authority) for name in "AB"}
    for storage in found.values():
        await storage.start()
    found["A"].answer = lambda request: (
        None if request.headers.get("Authorization") == "Bearer A's" else web.Response(status=401)
    )
    yield found
    for storage in found.values():
        await storage.stop()


@pytest.fixture
def rses(storages: dict[str, StorageDouble], authority: Authority, tmp_path: Path) -> list[dict[str, Any]]:
    """Settings of both."""
    (tmp_path / "token").write_text("A's")
    credential = {"credential": "token_file", "credential_file": str(tmp_path / "token")}
    return [
        {"name": "A", "url": f"{storages['A'].url}/d", "ca_file": str(authority.file), **credential}
        | {"redirects": [f"{storages['A'].url}/pool"]},
        {"name": "B", "url": f"{storages['B'].url}/d", "ca_file": str(authority.file), "layout": "identity"},
    ]


Staging = Callable[..., Any]


@pytest.fixture
async def staging(make_service: Any, rses: list[dict[str, Any]]) -> Staging:
    """How files are staged, by their names; those with a colon are on the named RSEs alone."""
    service = await make_service(
        VOSPACE_RSES=json.dumps(rses), VOSPACE_PULL_PROOF=PROOF, VOSPACE_PULL_ATTEMPTS="2", WORKERS="1"
    )

    async def run(
        way: str, *names: str, proof: str = PROOF, awaited: list[Outcome] | None = None, **more: Any
    ) -> list[Outcome]:
        settings = PreparerSettings.model_validate(
            {
                "cavern_api_url": service.url,
                "preparer_rses": rses,
                "cavern_api_token": "cavernadmin",
                "preparer_retry_delay": 0.01,
                "preparer_file_attempts": 2,
            }
            | more
        )
        files: list[Any] = []
        for number, text in enumerate(names):
            name, _, rse = text.partition(":")
            fields = {"size": None, "md5": None, "adler32": None, "attempts": 0, "rse": rse or None}
            path = DID.parse(f"s:{name}").path()
            files.append(
                SimpleNamespace(
                    number=number, did=f"s:{name}", path=path, target=f"/home/ada/{name}", **fields
                )
            )
        async with aiohttp.ClientSession() as session, Rses(settings) as known:
            cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session, proof)
            limit_to(cavern, way)
            outcomes = await stage(CavernApproach(settings, cavern, known, None), files, awaited)
        return [outcomes[file.number] for file in files]

    run.service = service
    return run


def has(storage: StorageDouble, *names: str, layout: Any = "hash") -> None:
    for name in names:
        storage.files["/d/" + DID.parse(f"s:{name}").path(layout)] = f"{name} of it".encode()


def told(outcomes: list[Outcome]) -> list[tuple[str, str | None]]:
    return [(str(outcome.state), outcome.rse or outcome.fault) for outcome in outcomes]


@WAYS
async def test_each_file_comes_from_the_first_that_has_it(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    has(storages["A"], "both", "first")
    has(storages["B"], "both", "second", layout="identity")
    outcomes = await staging(way, "both", "first", "second", "none", "chosen:B", "both2:B,A")
    has(storages["B"], "chosen", layout="identity")
    assert told(outcomes[:4]) == [
        ("STAGED", "A"),
        ("STAGED", "A"),
        ("STAGED", "B"),
        ("FAILED", "SourceNotFound"),
    ]
    assert told(outcomes[4:]) == [("FAILED", "SourceNotFound")] * 2
    (chosen,) = await staging(way, "chosen:B")
    assert told([chosen]) == [("STAGED", "B")]
    assert staging.service.file("/home/ada/chosen").read_bytes() == b"chosen of it"
    assert set(storages["B"].tokens) == {None}


@WAYS
async def test_where_one_is_away_the_next_is_asked(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    names = [f"f{number}" for number in range(20)]
    has(storages["B"], *names, layout="identity")
    await storages["A"].stop()
    outcomes = await staging(way, *names)
    assert told(outcomes) == [("STAGED", "B")] * len(names)
    # Whoever names one waits for it.
    with pytest.raises(Exception, match=r"[Cc]annot connect|refused"):
        async with asyncio.timeout(20):
            await staging(way, "f0:A", preparer_outage=0.1)


@WAYS
async def test_one_that_lacks_a_file_does_not_end_the_wait_for_another(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    busy = [1, 2, 3]
    inner = storages["A"].answer
    has(storages["A"], "late")

    def answer(request: web.Request) -> web.StreamResponse | None:
        if busy and request.method == "GET":
            busy.pop()
            return web.Response(status=503)
        return inner(request)

    storages["A"].answer = answer
    assert told(await staging(way, "late")) == [("STAGED", "A")]
    assert busy == []


@WAYS
async def test_a_damaged_replica_is_passed_over(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    inner = storages["A"].answer
    storages["A"].answer = lambda request: (
        inner(request) or (web.Response(body=b"damaged", headers={"Digest": "adler32=00000001"}))
    )
    has(storages["B"], "f", layout="identity")
    assert told(await staging(way, "f")) == [("STAGED", "B")]


def bring_from_tape(storage: StorageDouble, times: int) -> None:
    """Answer so many times that a file is on its way, and then with it."""
    inner, left = storage.answer, [times]

    def answer(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") and left[0]:
            left[0] -= 1
            return web.Response(status=202, headers={"Retry-After": "0"})
        return inner(request)

    storage.answer = answer


@WAYS
async def test_a_file_on_tape_is_waited_for(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    has(storages["A"], "f")
    bring_from_tape(storages["A"], 3)
    awaited: list[Outcome] = []
    # More often than a file is tried that fails.
    assert told(await staging(way, "f", awaited=awaited)) == [("STAGED", "A")]
    assert [outcome.fault for outcome in awaited] == ["StagingFromTape"] * 3
    assert {"bringing it from tape; Retry-After: 0" in str(outcome.detail) for outcome in awaited} == {True}


@WAYS
async def test_a_replica_on_disk_comes_before_one_on_tape(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    has(storages["B"], "f", layout="identity")
    bring_from_tape(storages["A"], 100)
    assert told(await staging(way, "f")) == [("STAGED", "B")]


@WAYS
async def test_a_file_on_tape_is_not_waited_for_without_end(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    bring_from_tape(storages["A"], 100)
    assert told(await staging(way, "f", preparer_tape_wait=0)) == [("FAILED", "StagingFromTape")]


@WAYS
async def test_an_address_that_is_good_once_is_asked_for_again(
    staging: Staging, storages: dict[str, StorageDouble], way: str
) -> None:
    """As dCache's doors give them: what a pool could not serve begins anew at the door."""
    content = bytes(range(256)) * 4000
    tickets: list[str] = []
    inner = storages["A"].answer

    def answer(request: web.Request) -> web.StreamResponse | None:
        ticket = request.query.get("ticket")
        if ticket is None:
            refused = inner(request)
            return refused or redirect(f"{storages['A'].url}/pool?ticket={len(tickets) + 1}")
        if ticket in tickets:
            return web.Response(status=403)
        tickets.append(ticket)
        return web.Response(status=503) if ticket == "1" else web.Response(body=content)

    storages["A"].answer = answer
    assert told(await staging(way, "f:A")) == [("STAGED", "A")]
    assert tickets == ["1", "2"]
    assert staging.service.file("/home/ada/f").read_bytes() == content


@WAYS
async def test_no_ticket_of_a_redirect_is_told(
    staging: Staging,
    storages: dict[str, StorageDouble],
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a pool's answer is none, what is told of it names the pool, and not what would open it."""
    inner = storages["A"].answer

    def answer(request: web.Request) -> web.StreamResponse | None:
        if not request.path.startswith("/pool"):
            return inner(request) or redirect(f"{storages['A'].url}/pool/f?ticket=s3cret&authz=s3cret#s3cret")
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nLocation: /pool?ticket=s3cret\x00\r\n\r\n")
        request.transport.close()
        return web.Response()

    storages["A"].answer = answer
    with caplog.at_level("DEBUG"):
        (outcome,) = await staging(way, "f:A")
    assert (outcome.state, outcome.fault) == (FileState.FAILED, "TransferFailed")
    assert "400 " in str(outcome.detail)
    # The double's own log has what is asked of it.
    logged = [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]
    assert "s3cret" not in f"{outcome.detail} {logged} {staging.service.log.read_text()}"


async def test_cavern_uses_a_credential_for_prepare_data_alone(
    staging: Staging, storages: dict[str, StorageDouble]
) -> None:
    has(storages["A"], "f")
    for proof in ("", "q" * 32):
        (outcome,) = await staging("bulk", "f:A", proof=proof)
        assert (outcome.state, outcome.fault) == (FileState.FAILED, "TransferFailed")
        assert "401" in str(outcome.detail)
    assert storages["A"].tokens == [None, None]
    assert told(await staging("bulk", "f:A")) == [("STAGED", "A")]
    log = staging.service.log.read_text()
    assert "A's" not in log
    assert PROOF not in log


async def own_credential(
    make_service: Any, rses: list[dict[str, Any]], monkeypatch: Any, token: Callable[..., Any]
) -> Callable[..., Any]:
    """How ada's file is staged where A wants a token exchanged for the user's, which *token* returns."""
    monkeypatch.setattr(credentials.Exchanged, "token", token)
    service = await make_service(VOSPACE_PULL_PROOF=PROOF, VOSPACE_RSES=json.dumps(rses[1:]))
    own = rses[0] | {"credential": "token_exchange", "client_id": "x"}
    fields = {"size": None, "md5": None, "adler32": None, "attempts": 0, "rse": None}
    path = DID.parse("s:f").path()
    file = SimpleNamespace(number=0, did="s:f", path=path, target="/home/ada/f", **fields)

    async def run(*others: dict[str, Any]) -> tuple[Outcome, Any, list[bool]]:
        settings = PreparerSettings.model_validate(
            {
                "cavern_api_url": service.url,
                "preparer_rses": [own, *others],
                "cavern_api_token": "cavernadmin",
                "preparer_retry_delay": 0.01,
            }
        )
        async with aiohttp.ClientSession() as session, Rses(settings) as known:
            cavern = Cavern(settings.cavern_api_url, settings.preparer_vos_uri, session, PROOF)
            (outcome,) = (await stage(CavernApproach(settings, cavern, known, None), [file])).values()
            return outcome, service, [rse.element.away for rse in known.all]

    return run


async def test_a_users_own_token_for_an_rse_stays_with_the_worker(
    make_service: Any, storages: dict[str, StorageDouble], rses: list[dict[str, Any]], monkeypatch: Any
) -> None:
    """Files that are asked for with an exchanged token are relayed, whatever Cavern can do."""

    async def token(_self: Any, user: str | None) -> str:
        assert user == "ada"
        return "A's"

    has(storages["A"], "f")
    run = await own_credential(make_service, rses, monkeypatch, token)
    outcome, service, _ = await run()
    assert told([outcome]) == [("STAGED", "A")]
    assert service.file("/home/ada/f").read_bytes() == b"f of it"


async def test_a_users_refused_token_ends_that_users_file_and_is_no_outage(
    make_service: Any, storages: dict[str, StorageDouble], rses: list[dict[str, Any]], monkeypatch: Any
) -> None:
    async def token(_self: Any, user: str | None) -> str:
        raise CredentialRefused("The issuer refused it: 400 invalid_grant")

    run = await own_credential(make_service, rses, monkeypatch, token)
    async with asyncio.timeout(20):
        outcome, _, away = await run()
    assert told([outcome]) == [("FAILED", "NotAuthenticated")]
    assert outcome.detail == (
        "your token was not exchanged for one for A: The issuer refused it: 400 invalid_grant;"
        " sign in again, or ask who may read there"
    )
    assert away == [False]
    has(storages["B"], "f", layout="identity")
    outcome, _, away = await run(rses[1])
    assert told([outcome]) == [("STAGED", "B")]
    assert away == [False, False]
