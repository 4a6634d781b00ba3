"""The VOSpace itself: bytes, nodes and lists, against nginx and the bare file system on the same machine.

Both sides are asked at their containers' own addresses, so that neither pays for TLS. The service verifies a token,
checks permissions, digests and makes durable what it takes; nginx serves files, ``dd`` writes them and calls fsync.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import Deployment

GIB = 1 << 30
SMALL = 10 << 10
FILES = 500
CLIENTS = 8
CONTAINER = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode"><vos:nodes/></vos:node>'
)
Result = dict[str, Any]


class Bench:
    """One user's container in the space at *service*, and a directory that *peer* serves as nginx."""

    def __init__(self, service: str, token: str, peer: str, directory: Path) -> None:
        self.service, self.peer, self.directory = service, peer, directory
        self.headers = {"Authorization": f"Bearer {token}"}
        self.box = f"/bench-{uuid.uuid4().hex[:8]}"
        self.request("PUT", f"nodes{self.box}", CONTAINER.encode())

    def request(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
        answer = requests.request(
            method, f"{self.service}/{path}", data=body, headers=self.headers, timeout=120
        )
        answer.raise_for_status()
        return answer

    def results(self) -> Iterator[Result]:
        """All measurements; what was made is removed."""
        try:
            yield from self.large()
            yield from self.small()
            yield from self.nodes()
            yield from self.listing()
        finally:
            job = requests.post(
                f"{self.service}/async-delete?PHASE=RUN",
                data={"target": f"vos://opencadc.org~cavern{self.box}"},
                headers=self.headers,
                allow_redirects=False,
                timeout=30,
            )
            job.raise_for_status()

    def large(self) -> Iterator[Result]:
        file = self.directory / "large"
        with file.open("wb") as stream:
            for _ in range(GIB >> 20):
                stream.write(os.urandom(1 << 20))
        url = f"{self.service}/files{self.box}/large"
        bearer = ("-H", f"Authorization: {self.headers['Authorization']}")
        put = best(lambda: curl("-T", str(file), "-H", "Expect:", *bearer, url))
        with tempfile.NamedTemporaryFile(dir=self.directory) as target:
            copy = ["dd", f"if={file}", f"of={target.name}", "bs=1M", "conv=fsync", "status=none"]
            write = best(lambda: timed(lambda: subprocess.run(copy, check=True)))
        yield ratio("PUT of 1 GiB", GIB / put, "dd with fsync", GIB / write, "bytes/s")
        get = best(lambda: curl(*bearer, url))
        peer = best(lambda: curl(f"{self.peer}/large"))
        yield ratio("GET of 1 GiB", GIB / get, "nginx", GIB / peer, "bytes/s")
        file.unlink()

    def small(self) -> Iterator[Result]:
        body = os.urandom(SMALL)
        names = [f"s{number}" for number in range(FILES)]
        put = rate(self._each("PUT", f"files{self.box}", body), names)
        yield {"measurement": "PUT of 10 KiB", "ours": round(put), "unit": "files/s", "clients": CLIENTS}
        for name in names:
            (self.directory / name).write_bytes(body)
        get = rate(self._each("GET", f"files{self.box}"), names)
        peer = rate(sessions(lambda session, name: session.get(f"{self.peer}/{name}", timeout=60)), names)
        yield ratio("GET of 10 KiB", get, "nginx", peer, "files/s")
        for name in names:
            (self.directory / name).unlink()

    def nodes(self) -> Iterator[Result]:
        names = [f"n{number}" for number in range(FILES)]
        for method, body in (("PUT", CONTAINER.encode()), ("GET", None), ("DELETE", None)):
            done = rate(self._each(method, f"nodes{self.box}", body), names)
            yield {
                "measurement": f"node {method}",
                "ours": round(done),
                "unit": "nodes/s",
                "clients": CLIENTS,
            }

    def listing(self) -> Iterator[Result]:
        for number in range(1000 - FILES):
            self.request("PUT", f"files{self.box}/l{number}", b"")
        seconds = best(lambda: timed(lambda: self.request("GET", f"nodes{self.box}")))
        yield {"measurement": "list 1,000 children", "ours": round(seconds * 1000, 1), "unit": "ms"}

    def _each(self, method: str, path: str, body: bytes | None = None) -> Callable[[Iterable[str]], None]:
        return sessions(
            lambda session, name: session.request(
                method, f"{self.service}/{path}/{name}", data=body, headers=self.headers, timeout=60
            )
        )


def sessions(one: Callable[[requests.Session, str], requests.Response]) -> Callable[[Iterable[str]], None]:
    """Do something to many names over one connection."""

    def work(names: Iterable[str]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for name in names:
                one(session, name).raise_for_status()

    return work


def rate(work: Callable[[Iterable[str]], None], names: list[str]) -> float:
    """Names per second with CLIENTS connections at work."""
    shares = [names[start::CLIENTS] for start in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        return len(names) / timed(lambda: list(pool.map(work, shares)))


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def best(work: Callable[[], float], runs: int = 3) -> float:
    """Least of a few measurements, since whatever disturbs only adds."""
    return min(work() for _ in range(runs))


def curl(*arguments: str) -> float:
    """Seconds that a request takes whose answer is thrown away."""
    command = ["curl", "-sS", "--fail", "-o", "/dev/null", *arguments]
    return timed(lambda: subprocess.run(command, check=True))


def ratio(what: str, ours: float, peer: str, theirs: float, unit: str) -> Result:
    """One line of results."""
    return {
        "measurement": what,
        "ours": round(ours),
        "peer": peer,
        "theirs": round(theirs),
        "unit": unit,
        "ratio": round(ours / theirs, 2),
    }


def measure() -> Iterator[Result]:
    """Yield the results; the deployment must stand."""
    stack = Deployment()

    def address(container: str) -> str:
        networks = stack.container(container).attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    directory = stack.data / "rse_data/bench-vospace"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield from Bench(
            f"http://{address('src-cavern')}:8080/src/cavern",
            stack.token("bench"),
            f"http://{address('rse-web')}/rse/deterministic/bench-vospace",
            directory,
        ).results()
    finally:
        directory.rmdir()
