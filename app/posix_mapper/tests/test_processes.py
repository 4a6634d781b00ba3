"""Several server processes on one database, asked by many at once, as a deployment with replicas is."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

pytest_plugins = ["voservice.testing"]

PATH = "/src/posix-mapper"
GMS = "ivo://opencadc.org/gms"
TSV = {"Accept": "text/tab-separated-values"}
SEED = 20260722


class Issuer:
    """An issuer of tokens that other processes can reach."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        documents: dict[str, object] = {"/jwks": {"keys": [{**jwk, "kid": "k", "use": "sig"}]}}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        documents["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        claims = {
            "iss": self.url,
            "sub": "cavernadmin",
            "aud": "https://vo.example",
            "exp": int(time.time()) + 3600,
            "preferred_username": "cavernadmin",
        }
        self.token = jwt.encode(claims, key, "RS256", headers={"kid": "k"})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever)
    thread.start()
    yield issuer
    issuer.server.shutdown()
    thread.join()
    issuer.server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def replicas(
    database_url: str, issuer: Issuer, tmp_path: Path
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of two replicas with two server processes each, that began at the same moment on an empty database."""
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "OIDC_ISSUER": issuer.url,
        "OIDC_AUDIENCES": "https://vo.example",
        "PUBLIC_URL": "https://vo.example",
        "POSIX_MAPPER_RESERVED_USERS": "cavernadmin:9999",
        "WORKERS": "2",
    }
    begin = "import sys; from posix_mapper.__main__ import main; main(int(sys.argv.pop()))"
    ports = [free_port(), free_port()]
    servers = []
    with (tmp_path / "log").open("wb") as log:
        for port in ports:
            arguments = [sys.executable, "-c", begin, "serve", str(port)]
            servers.append(
                await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=log, stderr=log)
            )
    clients = [
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}{PATH}",
            headers=TSV | {"Authorization": f"Bearer {issuer.token}"},
            timeout=120,
            limits=httpx.Limits(max_connections=40),
        )
        for port in ports
    ]
    try:
        async with asyncio.timeout(120):
            for client, server in zip(clients, servers, strict=True):
                while True:
                    try:
                        await client.get("/availability?detail=min")
                        break
                    except httpx.TransportError:
                        assert server.returncode is None, (tmp_path / "log").read_text()
                        await asyncio.sleep(0.05)
        yield clients
    finally:
        for client in clients:
            await client.aclose()
        for server in servers:
            if server.returncode is None:
                server.terminate()
            await server.wait()
    assert '"ERROR"' not in (tmp_path / "log").read_text()


async def test_replicas_agree(replicas: list[httpx.AsyncClient]) -> None:
    """The same and other users and groups, alone and several in a request, in any order, from everywhere at once: each
    has one number, and each number one owner. And what an operator sets in one process is known in all."""
    chance = random.Random(SEED)
    users = [f"user{n}" for n in range(40)]
    groups = [f"{GMS}?group{n}" for n in range(40)]
    numbers: dict[str, set[str]] = {}

    async def ask(client: httpx.AsyncClient, field: str, names: list[str]) -> None:
        path = "/uid" if field == "user" else "/gid"
        answer = await client.get(path, params=[(field, name) for name in names])
        assert answer.status_code == 200, answer.text
        lines = [line.split("\t") for line in answer.text.splitlines()]
        assert sorted(line[0] for line in lines) == sorted(names)
        for name, number, *own in lines:
            assert own == ([number] if field == "user" else [])
            numbers.setdefault(name, set()).add(number)

    requests = [
        ask(chance.choice(replicas), field, chance.sample(names, chance.choice([1, 1, 1, 2, 5, 20])))
        for field, names in (("user", users), ("group", groups))
        for _ in range(200)
    ]
    chance.shuffle(requests)
    await asyncio.gather(*requests)
    assert all(len(given) == 1 for given in numbers.values())
    uids = [next(iter(numbers[name])) for name in users if name in numbers]
    gids = [next(iter(numbers[name])) for name in groups if name in numbers]
    assert len(uids) + len(gids) > 70  # nearly all were asked for
    # A gid that is also a user's own would open that user's files to the group.
    assert Counter(uids + gids).most_common(1)[0][1] == 1
    for client in replicas:
        listed = (await client.get("/uid")).text.splitlines()
        assert len(listed) == len(uids) + 1
        assert {line.split("\t")[1] for line in listed} == {*uids, "9999"}
        listed = (await client.get("/gid")).text.splitlines()
        assert len(listed) == len(uids) + len(gids) + 1  # users' own groups are among them

    first, second = replicas
    answer = await first.post("/logControl", data={"level": "DEBUG", "package": "posix_mapper.storage"})
    assert answer.status_code == 303
    for client in (first, second) * 4:
        assert "posix_mapper.storage DEBUG" in (await client.get("/logControl")).text.splitlines()
