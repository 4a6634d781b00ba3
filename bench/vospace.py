"""The VOSpace itself: bytes, nodes and lists, against nginx and the bare file system on the same machine.

A file of 1 GiB goes through HAProxy and TLS: to the service, and to an nginx that serves and takes (WebDAV) the same
bytes on the same file system behind an HAProxy of the same configuration. The rest is asked at the containers' own
addresses. The service verifies a token, checks permissions, digests and makes durable what it takes; nginx does none of
it, so that ``dd`` with fsync is a second peer of what is written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import requests
from lxml import etree
from vospace_client.documents import node_document
from vospace_client.terms import HTTP_GET, PULL_FROM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from deployment import Deployment
from proxies import second_haproxy

GIB = 1 << 30
SMALL = 10 << 10
FILES = 500
CHILDREN, PAGE = 100_000, 1_000
CLIENTS = 8
CONTAINER = node_document("ContainerNode")
Result = dict[str, Any]
USER = "bench"


class Bench:
    """One user's container in the space at *service*, and a directory that *peer* serves as nginx."""

    def __init__(
        self, service: str, token: str, peer: str, directory: Path, proxied: Proxied, stack: Deployment
    ) -> None:
        self.service, self.peer, self.directory, self.proxied = service, peer, directory, proxied
        self.stack = stack
        self.headers = {"Authorization": f"Bearer {token}"}
        area = f"nodes/home/{USER}"
        if requests.get(f"{service}/{area}?limit=0", headers=self.headers, timeout=120).status_code == 404:
            self.request("PUT", area, CONTAINER)
        self.box = f"/home/{USER}/bench-{uuid.uuid4().hex[:8]}"
        self.request("PUT", f"nodes{self.box}", CONTAINER)

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
            yield from self.long_listing()
            yield from self.jobs()
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
        url = f"{self.proxied.url}/src/cavern/files{self.box}/large"
        ours = ("--cacert", self.proxied.ca, "-H", f"Authorization: {self.headers['Authorization']}", url)
        # HTTP/1.1 on either side, as most clients of large files have it.
        theirs = ("--cacert", self.proxied.ca, *self.proxied.to_peer, f"{self.proxied.url}/src/cavern/large")
        send = ("-T", str(file), "-H", "Expect:", "--http1.1")
        put = best(lambda: curl(*send, *ours))
        peer_put = best(lambda: curl(*send, *theirs))
        yield ratio("PUT of 1 GiB through HAProxy", GIB / put, "nginx", GIB / peer_put, "bytes/s")
        with tempfile.NamedTemporaryFile(dir=self.directory) as target:
            copy = ["dd", f"if={file}", f"of={target.name}", "bs=1M", "conv=fsync", "status=none"]
            write = best(lambda: timed(lambda: subprocess.run(copy, check=True)))
        yield ratio("PUT of 1 GiB through HAProxy", GIB / put, "dd with fsync", GIB / write, "bytes/s")
        get = best(lambda: curl("--http1.1", *ours))
        peer_get = best(lambda: curl("--http1.1", *theirs))
        yield ratio("GET of 1 GiB through HAProxy", GIB / get, "nginx", GIB / peer_get, "bytes/s")
        file.unlink()

    def small(self) -> Iterator[Result]:
        body = os.urandom(SMALL)
        names = [f"s{number}" for number in range(FILES)]
        put = self._burst("PUT", f"files{self.box}", names, body)
        yield {"measurement": "PUT of 10 KiB", "ours": round(put), "unit": "files/s", "clients": CLIENTS}
        for method, sent in (("PUT", body), ("GET", None)):
            done = self._burst(method, f"files{self.box}", names, sent, f"{self.proxied.url}/src/cavern")
            yield {
                "measurement": f"{method} of 10 KiB through HAProxy",
                "ours": round(done),
                "unit": "files/s",
                "clients": CLIENTS,
            }
        for name in names:
            (self.directory / name).write_bytes(body)
        get = self._burst("GET", f"files{self.box}", names)
        peer = burst("GET", [f"{self.peer}/{name}" for name in names])
        yield ratio("GET of 10 KiB", get, "nginx", peer, "files/s")
        for name in names:
            (self.directory / name).unlink()

    def nodes(self) -> Iterator[Result]:
        names = [f"n{number}" for number in range(FILES)]
        for method, body in (("PUT", CONTAINER), ("GET", None), ("DELETE", None)):
            done = self._burst(method, f"nodes{self.box}", names, body, content_type="text/xml")
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

    def long_listing(self) -> Iterator[Result]:
        """A container of many children, page by page as a client reads it; the files come by the file system."""
        box = f"{self.box}/many"
        self.request("PUT", f"nodes{box}", CONTAINER)
        space = self.stack.data / f"cavern_data/cavern{box}"
        for number in range(CHILDREN):
            (space / f"f{number:06d}").touch()
        before, most, seen = self.stack.memory("src-cavern"), 0, set[str]()
        begin, query, pages = time.perf_counter(), f"limit={PAGE}", 0
        while True:
            page = etree.fromstring(self.request("GET", f"nodes{box}?{query}").content)
            uris = [str(child.get("uri")) for nodes in page.iter("{*}nodes") for child in nodes]
            seen.update(uris)
            pages += 1
            if pages % 10 == 0:
                most = max(most, self.stack.memory("src-cavern"))
            if len(uris) < PAGE:
                break
            query = f"limit={PAGE}&uri={quote(uris[-1], safe='')}"
        seconds = time.perf_counter() - begin
        if len(seen) != CHILDREN:
            raise RuntimeError(f"{len(seen)} of {CHILDREN} children were listed")
        yield {
            "measurement": f"list {CHILDREN:,} children in {pages} pages",
            "ours": round(seconds / pages * 1000, 1),
            "unit": "ms/page",
            "memory_before_MiB": before >> 20,
            "memory_MiB": most >> 20,
        }

    def jobs(self) -> Iterator[Result]:
        """Asynchronous transfers, from their creation until the last has its endpoints and waits for the client."""
        self.request("PUT", f"files{self.box}/target", b"")
        transfer = {
            "TARGET": f"vos://opencadc.org~cavern{self.box}/target",
            "DIRECTION": PULL_FROM,
            "PROTOCOL": HTTP_GET,
            "PHASE": "RUN",
        }
        bearer = f"Authorization: {self.headers['Authorization']}"

        def run() -> None:
            burst("POST", [f"{self.service}/transfers"] * FILES, urlencode(transfer).encode(), bearer)
            while self._listed("PHASE=PENDING&PHASE=QUEUED"):
                time.sleep(0.02)

        before = self._listed("PHASE=EXECUTING")
        seconds = timed(run)
        done = self._listed("PHASE=EXECUTING") - before
        if done != FILES:
            raise RuntimeError(f"{done} of {FILES} jobs got endpoints")
        yield {
            "measurement": "transfer jobs",
            "ours": round(FILES / seconds),
            "unit": "jobs/s",
            "clients": CLIENTS,
        }

    def _listed(self, query: str) -> int:
        """Number of jobs of some phases."""
        jobs = etree.fromstring(self.request("GET", f"transfers?{query}").content)
        return sum(1 for _ in jobs.iter("{*}jobref"))

    def _burst(
        self,
        method: str,
        path: str,
        names: list[str],
        body: bytes | None = None,
        service: str = "",
        content_type: str = "application/octet-stream",
    ) -> float:
        bearer = f"Authorization: {self.headers['Authorization']}"
        urls = [f"{service or self.service}/{path}/{name}" for name in names]
        options = ("--cacert", self.proxied.ca, "-H", f"Content-Type: {content_type}")
        return burst(method, urls, body, bearer, options)


def burst(
    method: str,
    urls: list[str],
    body: bytes | None = None,
    header: str = "Accept: */*",
    options: tuple[str, ...] = (),
) -> float:
    """Requests per second with CLIENTS of them under way at a time. By curl, which leaves the cores to the servers."""
    command = [
        "curl",
        "--no-progress-meter",
        "--fail",
        "--http1.1",
        "--parallel",
        "--parallel-max",
        str(CLIENTS),
        "-X",
        method,
    ]
    command += [
        *options,
        "-H",
        header,
        "-H",
        "Expect:",
        *(("--data-binary", "@-") if body is not None else ()),
        *urls,
    ]

    def run() -> None:
        subprocess.run(command, input=body or b"", stdout=subprocess.DEVNULL, check=True)

    return len(urls) / timed(run)


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


@dataclass(frozen=True)
class Proxied:
    """The public URL, and what makes curl reach nginx under the same name."""

    url: str
    ca: str
    to_peer: tuple[str, ...]


NGINX = """
worker_processes 2;
error_log /dev/stderr warn;
pid /tmp/nginx.pid;
events { worker_connections 64; }
http {
    client_body_temp_path /srv/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    client_max_body_size 0;
    access_log off;
    sendfile on;
    server { listen 8080; location /src/cavern/ { alias /srv/files/; dav_methods PUT; } }
}
"""


@contextmanager
def nginx_behind_haproxy(stack: Deployment) -> Iterator[Proxied]:
    """An nginx that serves and takes files on the file system of the space, and a second HAProxy before it."""
    with ExitStack() as cleanup:
        files = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=stack.data / "cavern_data")))
        settings = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        for path in (files / "files", files / "body"):
            path.mkdir()
            os.chown(path, 8000, 8000)
        for path in (files, settings):
            path.chmod(0o755)
        (settings / "nginx.conf").write_text(NGINX)
        nginx = stack.engine.containers.run(
            stack.container("rse-web").attrs["Config"]["Image"],
            ["nginx", "-c", "/config/nginx.conf", "-g", "daemon off;"],
            name=f"{stack.prefix}bench-nginx",
            network=stack.network["name"],
            user="8000:8000",
            volumes={
                str(settings): {"bind": "/config", "mode": "ro"},
                str(files): {"bind": "/srv", "mode": "rw"},
            },
            detach=True,
        )
        cleanup.callback(lambda: nginx.remove(force=True))
        second = cleanup.enter_context(
            second_haproxy(stack, "bench-haproxy", {"src-cavern": f"{stack.address('bench-nginx')}:8080"})
        )
        proxied = Proxied(stack.url, stack.ca, ("--connect-to", f"{stack.public_name}:443:{second}:443"))
        ready(proxied)
        yield proxied


def ready(proxied: Proxied) -> None:
    """Wait until nginx answers through HAProxy."""
    deadline = time.monotonic() + 30
    probe = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", proxied.ca, *proxied.to_peer]
    while True:
        done = subprocess.run(
            [*probe, f"{proxied.url}/src/cavern/none"], capture_output=True, text=True, check=False
        )
        if done.stdout == "404":
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nginx behind HAProxy does not answer: {done.stdout} {done.stderr}")
        time.sleep(0.2)


def measure() -> Iterator[Result]:
    """Yield the results; the deployment must stand."""
    stack = Deployment.of()
    directory = stack.data / "rse_data/bench-vospace"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with nginx_behind_haproxy(stack) as proxied:
            yield from Bench(
                f"http://{stack.address('src-cavern')}:8080/src/cavern",
                stack.token(USER),
                f"http://{stack.address('rse-web')}/rse/deterministic/bench-vospace",
                directory,
                proxied,
                stack,
            ).results()
    finally:
        shutil.rmtree(directory)
