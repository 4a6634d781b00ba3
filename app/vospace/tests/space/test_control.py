"""What operators may do while the service runs, and who they are."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from lxml import etree

ADMIN = {"Authorization": "Bearer cavernadmin"}
VOSI = "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def set_state(client: httpx.AsyncClient, state: str, headers: dict[str, str] = ADMIN) -> httpx.Response:
    return await client.post("/availability", content=f"state={state}", headers=FORM | headers)


async def available(client: httpx.AsyncClient) -> tuple[str, str]:
    root = etree.fromstring((await client.get("/availability")).content)
    return root.findtext(f"{VOSI}available"), root.findtext(f"{VOSI}note")


@pytest.fixture
async def operated(client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    yield client
    await set_state(client, "ReadWrite")
    await client.post("/logControl", content="level=INFO", headers=FORM | ADMIN)


async def test_read_only_refuses_changes_and_nothing_else(operated, ada, box, document):
    client = operated
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    answer = await set_state(client, "ReadOnly")
    assert (answer.status_code, answer.headers["location"]) == (303, "http://space/src/cavern/availability")
    assert await available(client) == ("true", "service is in read-only mode for maintenance")
    assert (await client.get(f"/files{box}/f", headers=ada)).text == "text"
    assert (await client.get(f"/nodes{box}", headers=ada)).status_code == 200
    refused = [
        await client.put(f"/nodes{box}/x", content=document("ContainerNode"), headers=ada),
        await client.post(f"/nodes{box}", content=document("ContainerNode"), headers=ada),
        await client.delete(f"/nodes{box}/f", headers=ada),
        await client.put(f"/files{box}/f", content=b"new", headers=ada),
        await client.post("/async-delete", content="target=vos://opencadc.org~cavern/x", headers=FORM | ada),
        await client.post("/bulk-pull", json={"rows": []}, headers=ada),
        await client.get(
            "/synctrans?target=vos://opencadc.org~cavern/x&direction=pushToVoSpace&protocol=p", headers=ada
        ),
    ]
    for answer in refused:
        assert (answer.status_code, answer.text.split(":")[0]) == (503, "ServiceBusy"), answer.request.url
        assert int(answer.headers["retry-after"]) > 0
    await set_state(client, "readwrite")
    assert (await client.put(f"/files{box}/f", content=b"new", headers=ada)).status_code == 201


async def test_offline_answers_only_vosi_and_operators(operated, ada, box):
    client = operated
    await set_state(client, "Offline")
    assert await available(client) == ("false", "service is offline for maintenance")
    assert (await client.get("/availability?detail=min")).status_code == 200
    assert (await client.get("/capabilities")).status_code == 200
    assert (await client.get("/logControl", headers=ADMIN)).status_code == 200
    for path in (f"/nodes{box}", "/nodes", "/transfers"):
        assert (await client.get(path, headers=ada)).status_code == 503
    await set_state(client, "ReadWrite")
    assert (await client.get(f"/nodes{box}", headers=ada)).status_code == 200


async def test_jobs_wait_for_the_end_of_maintenance(operated, ada, box):
    client = operated
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    made = await client.post(
        "/async-delete", content=f"target=vos://opencadc.org~cavern{box}", headers=FORM | ada
    )
    job = made.headers["location"].removeprefix("http://space/src/cavern")
    await set_state(client, "ReadOnly")
    await client.post(f"{job}/phase", content="PHASE=RUN", headers=FORM | ada)
    assert (await client.get(f"{job}/phase", headers=ada)).text == "QUEUED"
    assert (await client.get(f"/nodes{box}/f", headers=ada)).status_code == 200
    told = (await client.get("http://space/metrics")).text.splitlines()
    assert 'vospace_jobs{kind="async-delete",phase="QUEUED"} 1.0' in told
    assert 'vospace_mode{mode="ReadOnly"} 1.0' in told
    assert "service_ready 1.0" in told
    await set_state(client, "ReadWrite")
    while (await client.get(f"{job}/phase", headers=ada)).text in ("QUEUED", "EXECUTING"):
        await client.get(f"{job}?WAIT=5", headers=ada)
    assert (await client.get(f"{job}/phase", headers=ada)).text == "COMPLETED"


async def test_levels_of_logs(operated):
    client = operated
    try:
        answer = await client.post(
            "/logControl", content="level=debug&package=vospace.uws", headers=FORM | ADMIN
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "http://space/src/cavern/logControl")
        assert logging.getLogger("vospace.uws").level == logging.DEBUG
        listed = await client.get("/logControl", headers=ADMIN)
        assert listed.headers["content-type"] == "text/plain"
        assert "vospace.uws DEBUG" in listed.text.splitlines()
        await client.post("/logControl?level=WARN", headers=ADMIN)
        levels = dict(
            line.split() for line in (await client.get("/logControl", headers=ADMIN)).text.splitlines()
        )
        assert set(levels.values()) == {"WARN"}
        assert {"vospace", "voservice", "vospace.uws"} <= levels.keys()
        wrong = await client.post("/logControl", content="level=loud", headers=FORM | ADMIN)
        assert (wrong.status_code, "unrecognised value for level" in wrong.text) == (400, True)
        assert (
            await client.post("/logControl", content="package=x", headers=FORM | ADMIN)
        ).status_code == 400
    finally:
        await client.post("/logControl?level=INFO", headers=ADMIN)


async def test_who_operates(operated, ada, bob):
    client = operated
    for headers in ({}, bob):
        assert (await client.get("/logControl", headers=headers)).status_code == 403
        assert (await client.post("/logControl?level=DEBUG", headers=headers)).status_code == 403
        assert (await set_state(client, "Offline", headers)).status_code == 403
    assert await available(client) == ("true", "service is accepting requests")
    assert (await client.get("/logControl", headers=ada)).status_code == 200
    assert (await set_state(client, "sideways", ada)).status_code == 400
    assert (await client.post("/availability", headers=ada)).status_code == 400


async def test_every_process_hears_of_it(operated, second, ada, box):
    await set_state(operated, "ReadOnly")
    for _ in range(500):
        answer = await second.put(f"/files{box}/f", content=b"x", headers=ada)
        if answer.status_code == 503:
            break
    assert answer.status_code == 503


async def test_without_its_database_files_are_served_and_jobs_have_to_wait(client, cut_off, ada, box):
    await client.put(f"/files{box}/f", content=b"text", headers=ada)
    assert (await cut_off.get(f"/files{box}/f", headers=ada)).text == "text"
    answer = await cut_off.get("/transfers", headers=ada)
    assert (answer.status_code, answer.text) == (503, "ServiceBusy: the database does not answer\n")
    assert int(answer.headers["retry-after"]) > 0
