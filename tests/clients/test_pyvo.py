"""pyvo and cadcutils as independent readers of our registry, capabilities and jobs."""

from __future__ import annotations

from typing import Any

import requests

SESSION = """
import os, requests
from pyvo.auth import authsession
session = requests.Session()
session.verify = os.environ["SSL_CERT_FILE"]
session.headers["Authorization"] = "Bearer " + os.environ["TOKEN"]
"""


def test_the_registry_leads_to_the_service(shell: Any) -> None:
    printed = shell.python(
        "from cadcutils.net import wscapabilities, ws, Subject\n"
        "import os\n"
        f"client = ws.BaseWsClient('ivo://{shell.stack.authority}/cavern', Subject(), 'test/1.0',"
        " host=os.environ['LOCAL_VOSPACE_WEBSERVICE'])\n"
        "print(client._get_url(('ivo://ivoa.net/std/VOSpace/v2.0#nodes', None)))\n"
        "print(client.is_available())\n"
    )
    assert printed.split() == [f"{shell.stack.url}/src/cavern/nodes", "True"]


def test_the_registry_answers_as_opencadc_s(stack: Any, anonymous: requests.Session) -> None:
    """GET alone for the lists; the documents about the service itself answer HEAD too."""
    base = f"{stack.url}/reg"
    for path in ("resource-caps", "applications"):
        listed = anonymous.get(f"{base}/{path}", timeout=10)
        assert (listed.status_code, listed.headers["Content-Type"]) == (200, "text/plain")
        entries = [line.split(" = ") for line in listed.text.splitlines() if not line.startswith("#")]
        assert all(len(entry) == 2 and entry[0].startswith("ivo://") for entry in entries)
        assert len({entry[0] for entry in entries}) == len(entries) > 0
    for method, path, allowed in (
        ("HEAD", "resource-caps", "GET"),
        ("POST", "resource-caps", "GET"),
        ("DELETE", "applications", "GET"),
        ("POST", "capabilities", "GET, HEAD"),
    ):
        refused = anonymous.request(method, f"{base}/{path}", timeout=10)
        assert (refused.status_code, refused.headers["Allow"]) == (405, allowed)
        assert refused.text == ("" if method == "HEAD" else f"unsupported: HTTP {method}\n")
    for path in ("availability", "capabilities"):
        assert anonymous.head(f"{base}/{path}", timeout=10).headers["Content-Type"] == "text/xml"
    alive = anonymous.get(f"{base}/availability?detail=min", timeout=10)
    assert (alive.status_code, alive.content) == (200, b"")
    assert anonymous.get(f"{base}/none", timeout=10).status_code == 404


def test_vosi_documents_are_read(shell: Any) -> None:
    printed = shell.python(
        SESSION
        + "from pyvo.io import vosi\n"
        + f"base = '{shell.stack.url}/src/cavern'\n"
        + "from io import BytesIO\n"
        + "caps = vosi.parse_capabilities(BytesIO(session.get(base + '/capabilities').content))\n"
        + "print(*(c.standardid for c in caps))\n"
        + "avail = vosi.parse_availability(BytesIO(session.get(base + '/availability').content))\n"
        + "print(avail.available)\n"
    )
    assert "ivo://ivoa.net/std/VOSpace/v2.0#nodes" in printed
    assert "ivo://skao.int/std/VOSpace#bulk-pull-1.0" in printed
    assert printed.split()[-1] == "True"


def test_a_job_is_driven_from_beginning_to_end(shell: Any, home: str) -> None:
    target = f"vos://{shell.stack.authority}~cavern/home/{shell.user}"
    printed = shell.python(
        SESSION
        + "from pyvo.dal import AsyncTAPJob\n"
        + f"base = '{shell.stack.url}/src/cavern'\n"
        + f"answer = session.post(base + '/async-delete', data={{'target': '{target}/box'}}, allow_redirects=False)\n"
        + "job = AsyncTAPJob(answer.headers['location'], session=session)\n"
        + "print(job.phase, job.execution_duration)\n"
        + "job.execution_duration = 60\n"
        + "job.run()\n"
        + "job.wait(phases={'COMPLETED', 'ERROR', 'ABORTED'}, timeout=30)\n"
        + "print(job.phase, job.execution_duration)\n"
        + "print(job._job.errorsummary.message.content)\n"
        + "job.delete()\n"
        + "print(session.get(answer.headers['location']).status_code)\n"
    )
    lines = printed.splitlines()
    assert lines[0].split()[0] == "PENDING"
    assert lines[1].split() == ["ERROR", "60.0"] or lines[1].split() == ["ERROR", "60"]
    assert "NodeNotFound" in lines[2]
    assert lines[3] == "404"
