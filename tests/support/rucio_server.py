"""A real Rucio server on PostgreSQL, in a process of its own, for tests."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "build/rucio"
PACKAGES = ("rucio==41.5.1", "psycopg[binary]==3.3.9")
PASSWORD = "a password of tests"

CONFIG = """
[common]
logdir = {directory}
[database]
default = {url}
schema = dev
[bootstrap]
userpass_identity = site
userpass_pwd = {password}
[alembic]
cfg = {directory}/alembic.ini
[policy]
permission = generic
schema = generic
support = tests
[api]
endpoints = accounts, auth, dids, identities, ping, replicas, rses, scopes
[cache]
use_external_cache_at_url =
"""
ALEMBIC = """
[alembic]
script_location = {package}/db/sqla/migrate_repo
version_table_schema = dev
sqlalchemy.url = {url}
[loggers]
keys = root
[handlers]
keys =
[formatters]
keys =
[logger_root]
level = WARN
handlers =
"""


def python() -> Path:
    """Python that has Rucio; it is installed the first time."""
    found = ENVIRONMENT / "bin/python"
    if not (ENVIRONMENT / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(found), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (ENVIRONMENT / "complete").touch()
    return found


def described(name: str, content: bytes) -> dict[str, Any]:
    """What Rucio is told of a file."""
    return {
        "name": name,
        "bytes": len(content),
        "adler32": f"{zlib.adler32(content):08x}",
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }


class Rucio:
    """The server, and what an administrator asks of it."""

    def __init__(
        self, url: str, username: str = "site", password: str = PASSWORD, ca: str | None = None
    ) -> None:
        """Be the account root, at a server that the authority in the file *ca* vouches for."""
        self.url = url
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.verify = ca or True
        headers = {"X-Rucio-Account": "root", "X-Rucio-Username": username, "X-Rucio-Password": password}
        answer = self._http.get(f"{url}/auth/userpass", headers=headers, timeout=30)
        answer.raise_for_status()
        self._http.headers["X-Rucio-Auth-Token"] = answer.headers["X-Rucio-Auth-Token"]

    def ask(self, method: str, path: str, document: Any = None) -> None:
        """Do something, which must succeed."""
        answer = self._http.request(method, f"{self.url}{path}", json=document, timeout=60)
        assert answer.ok, (method, path, answer.status_code, answer.text)

    def add_rse(self, name: str, host: str, port: int, prefix: str, scheme: str = "https") -> None:
        """Add a deterministic storage element that is read by *scheme*."""
        self.ask("POST", f"/rses/{name}", {"deterministic": True})
        operations = {"read": 1, "write": 1, "delete": 1}
        self.ask(
            "POST",
            f"/rses/{name}/protocols/{scheme}",
            {
                "hostname": host,
                "port": port,
                "prefix": prefix,
                "impl": "rucio.rse.protocols.webdav.Default",
                "domains": {"lan": operations, "wan": operations},
            },
        )

    def add_files(self, rse: str, scope: str, files: list[dict[str, Any]], state: str = "A") -> None:
        """Add replicas of files, each with name, bytes, and checksums."""
        entries = [{"scope": scope, "state": state, **file} for file in files]
        self.ask("POST", "/replicas", {"rse": rse, "files": entries, "ignore_availability": True})

    def add_collection(self, scope: str, name: str, kind: str, members: list[tuple[str, str]]) -> None:
        """Add a DATASET or CONTAINER of *members*."""
        self.ask("POST", f"/dids/{scope}/{name}", {"type": kind})
        dids = [{"scope": inner, "name": member} for inner, member in members]
        self.ask("POST", f"/dids/{scope}/{name}/dids", {"dids": dids})


@contextmanager
def rucio(directory: Path, url: str, port: int) -> Iterator[Rucio]:
    """Run a server on the empty database at *url* (``postgresql://…``)."""
    interpreter = python()
    url = url.replace("postgresql:", "postgresql+psycopg:", 1)
    (package,) = ENVIRONMENT.glob("lib/python*/site-packages/rucio")
    (directory / "rucio.cfg").write_text(CONFIG.format(directory=directory, url=url, password=PASSWORD))
    (directory / "alembic.ini").write_text(ALEMBIC.format(package=package, url=url))
    log = directory / "rucio.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(interpreter), str(Path(__file__).with_name("rucio_site.py")), str(port)],
            env={"RUCIO_CONFIG": str(directory / "rucio.cfg"), "PATH": "/usr/bin:/bin"},
            cwd=directory,
            stdout=output,
            stderr=output,
        )
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                requests.get(f"{base}/ping", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield Rucio(base)
    finally:
        server.terminate()
        server.wait(timeout=30)
