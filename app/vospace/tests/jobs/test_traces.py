"""Traces of jobs: one that goes on in another process is in the same trace, from the request to the files in place."""

from __future__ import annotations

import asyncio
import hashlib

from voservice import tracing
from voservice.config import ServiceSettings
from voservice.testing_traces import Found, collecting

KEY = "of the deployment"
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROOT = "vos://opencadc.org~cavern"


def headers_of_a_worker(collector: str) -> dict[str, str]:
    """Return the headers by which a worker's request continues its trace."""
    settings = ServiceSettings(traces_endpoint=collector, traces_key=KEY)
    tracing.configure("prepare-data-worker", settings)
    made = tracing.recording()
    assert made is not None
    proof = made.proof(CONTEXT)
    tracing.close()
    return {"traceparent": CONTEXT, "tracestate": f"skasrc={proof}"}


async def test_a_job_that_outlives_its_process_stays_in_its_trace(make_service, source, eventually):
    with collecting() as collector:
        service = await make_service(
            TRACES_ENDPOINT=collector.url, TRACES_KEY=KEY, VOSPACE_JOB_LEASE="1", VOSPACE_BULK_CONCURRENCY="1"
        )
        content = b"what is pulled"
        source.files = {"/d/one": content, "/d/two": content}
        # The second is under way when the process dies.
        source.script = ["serve", "stall:3"]
        rows = [
            {
                "source": source.url(f"/d/{name}"),
                "target": f"{ROOT}/box/{name}",
                "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            }
            for name in ("one", "two")
        ]
        headers = headers_of_a_worker(collector.url)
        asked = await service.client.post(
            f"{service.url}/bulk-pull?PHASE=RUN",
            json={"rows": rows},
            headers=headers | service.as_user("ada"),
        )
        job = asked.headers["location"]

        def named(name: str) -> list[Found]:
            return [span for span in collector.spans() if span.name == name]

        await eventually(lambda: named("commit"))
        await eventually(lambda: len(source.requests) == 2)
        await service.kill()
        source.gate.set()
        await service.start()
        assert await service.ended(job) == "COMPLETED"
        await eventually(lambda: named("run bulk-pull"))
        await eventually(lambda: len(named("fetch")) == 2)

        trace = CONTEXT.split("-")[1]
        (post,) = named("POST /bulk-pull")
        assert (post.trace, post.parent) == (trace, CONTEXT.split("-")[2])
        # The first run ended with its process.
        (run,) = named("run bulk-pull")
        assert (run.trace, run.parent) == (trace, post.id)
        assert run.attributes["phase"] == "COMPLETED"
        for name in ("fetch", "verify", "write", "commit"):
            first, second = named(name)
            assert (first.trace, second.trace) == (trace, trace), name
        assert named("fetch")[1].parent == run.id
        # The one that was interrupted may have been told of.
        assert named("GET")[-1].parent == named("verify")[1].parent == named("fetch")[1].id
        assert named("commit")[1].attributes["files"] == 1
        assert all("traceparent" not in request.headers for request in source.requests)
        log = await asyncio.to_thread(service.log.read_text)
        assert f'"trace_id": "{trace}"' in log
        assert "traces" not in log
