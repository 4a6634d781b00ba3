"""Stages a file as a user does: a token, the registry, a request to prepare-data, and the file from the VOSpace.

It runs in the image of the prepare-data API. Where tokens and files come from is in the environment.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import httpx

HERE = Path("/smoke")
URL = os.environ["SMOKE_URL"]
USER = os.environ["SMOKE_USER"]
PATIENCE = 120
"""Seconds for the task."""


def fail(message: str) -> NoReturn:
    """End the test."""
    sys.exit(f"smoke test failed: {message}")


def asked(
    client: httpx.Client, method: str, url: str, good: tuple[int, ...] = (200,), **options: Any
) -> httpx.Response:
    """Send a request and return its answer, which has one of the good statuses."""
    try:
        answer = client.request(method, url, **options)
    except httpx.HTTPError as error:
        fail(f"{method} {url}: {error!r}")
    if answer.status_code not in good:
        fail(f"{method} {url}: {answer.status_code} {answer.text[:300]}")
    return answer


def secret(name: str) -> str:
    """Read a secret that the test was given."""
    return (HERE / name).read_text(encoding="utf-8").strip()


def token(client: httpx.Client) -> str:
    """Return the user's token: one that was given, or one of the local issuer's."""
    if (HERE / "token").exists():
        return secret("token")
    issuer = os.environ["SMOKE_ISSUER"].rstrip("/")
    endpoint = asked(client, "GET", f"{issuer}/.well-known/openid-configuration").json()["token_endpoint"]
    form = {"grant_type": "password", "username": USER, "password": secret("password")}
    answer = asked(client, "POST", endpoint, data=form, auth=("cavern-cli", secret("client_secret")))
    return str(answer.json()["access_token"])


def registered(client: httpx.Client) -> str:
    """Return Cavern's base URL, which the registry has."""
    lines = asked(client, "GET", f"{URL}/reg/resource-caps").text.splitlines()
    urls = [line.split("=", 1)[1].strip() for line in lines if line.split("=")[0].strip().endswith("/cavern")]
    if not urls:
        fail(f"{URL}/reg/resource-caps: names no Cavern")
    return urls[0].removesuffix("/capabilities")


def main() -> None:
    """Run the test."""
    did, path, destination = (os.environ[f"SMOKE_{name}"] for name in ("DID", "PATH", "DESTINATION"))
    with httpx.Client(verify=str(HERE / "ca.pem"), timeout=30) as client:
        headers = {"Authorization": f"Bearer {token(client)}"}
        cavern = registered(client)
        prepare = f"{URL}{os.environ['SMOKE_ROUTE']}/"
        task = asked(
            client, "POST", prepare, (200, 201, 202), json=[[did, path, destination]], headers=headers
        ).json()
        end = time.monotonic() + PATIENCE
        while True:
            status = asked(client, "GET", f"{prepare}{task['task_id']}", headers=headers).json()
            if status["status"] not in ("PENDING", "STARTED"):
                break
            if time.monotonic() > end:
                fail(f"the task has been {status['status']} for {PATIENCE} s")
            time.sleep(0.5)
        if status["status"] != "SUCCESS":
            fail(f"{did}: {status}")
        name = f"home/{USER}/{destination.removeprefix('./').rstrip('/')}/{did.partition(':')[2]}"
        content = asked(
            client, "GET", f"{cavern}/files/{name}", headers=headers, follow_redirects=True
        ).content
        asked(client, "DELETE", f"{cavern}/nodes/{name}", (200, 204), headers=headers)
    print(f"smoke test passed: {did} staged, {len(content)} bytes")


if __name__ == "__main__":
    main()
