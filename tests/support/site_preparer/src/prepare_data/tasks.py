"""The worker of a site's own preparer: it copies each file from the RSE to Cavern, and keeps results in a directory."""

import base64
import json
import os
from pathlib import PurePosixPath

import httpx
from celery import Celery

app = Celery(
    "prepare_data",
    broker=os.environ["CELERY_BROKER_URL"],
    backend=f"file://{os.environ['ABS_PATH_CELERY_RESULTS']}",
)

CONTAINER = """<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode"/>"""


@app.task
def prepare_data(token: str, rows: list[list[str]]) -> str:
    claims = token.split(".")[1]
    user = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["preferred_username"]
    cavern, rse = os.environ["CAVERN_API_URL"], os.environ["ABS_URL_RSE_ROOT"]
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as vospace:
        for did, path, destination in rows:
            directory = PurePosixPath("home", user, destination)
            for container in (directory.parent, directory):
                made = vospace.put(
                    f"{cavern}/nodes/{container}", content=CONTAINER, headers={"Content-Type": "text/xml"}
                )
                if made.status_code != httpx.codes.CONFLICT:
                    made.raise_for_status()
            content = httpx.get(f"{rse}/{path}").raise_for_status().content
            target = directory / did.partition(":")[2]
            vospace.put(f"{cavern}/files/{target}", content=content).raise_for_status()
    return "Data provisioning successful"
