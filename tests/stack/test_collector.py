"""Traces in a real collector: one of a task, from the POST to the files in place; staging goes on where it is away."""

from __future__ import annotations

import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
import requests
import yaml
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from deployment import Deployment, playbook
from go_programs import built
from prepare_data_client.did import DID
from tasks import ended, submit

# The collector is built, and the deployment made over, before the first of them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STRANGER = "0af7651916cd43dd8448eb211c80319c"


@dataclass(frozen=True)
class Span:
    """A span as the collector prints it."""

    service: str
    name: str
    trace: str
    text: str


class Collector:
    """OpenTelemetry's collector, which prints what it gets."""

    def __init__(self, program: Path, directory: Path, address: str, port: int) -> None:
        """Listen at an address, with a certificate of an authority of its own."""
        self.url = f"https://{address}:{port}"
        ca = _x509.create_ca("Collector", 30, "ec")
        server = _x509.issue_server(ca, _x509.Names(address, (), (address,)), 30, "ec")
        self.ca = directory / "ca.pem"
        for name, content in {
            "ca.pem": ca.certificate_pem,
            "server.pem": server.certificate_pem,
            "server.key": server.key_pem,
        }.items():
            (directory / name).write_bytes(content)
        tls = {"cert_file": str(directory / "server.pem"), "key_file": str(directory / "server.key")}
        configuration = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{address}:{port}", "tls": tls}}}},
            "exporters": {"debug": {"verbosity": "detailed"}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}},
            },
        }
        file = directory / "collector.yml"
        file.write_text(yaml.safe_dump(configuration))
        self._command = [str(program), f"--config=file:{file}"]
        self._told = directory / "collector.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it until `stop`."""
        before = len(self.text()) if self._told.exists() else 0
        with self._told.open("ab") as told:
            self._process = process = subprocess.Popen(self._command, stdout=told, stderr=told)

        def ready() -> bool:
            told = self.text()[before:]
            assert process.poll() is None, told
            return "Everything is ready" in told

        wait_until(ready)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def text(self) -> str:
        """Return all that it printed."""
        return self._told.read_text()

    def spans(self) -> list[Span]:
        """Return the spans that it got."""
        found = []
        for resource in re.split(r"^.*ResourceSpans #", self.text(), flags=re.MULTILINE)[1:]:
            service = re.search(r"service\.name: Str\((.*)\)", resource)
            assert service
            for span in re.split(r"^Span #", resource, flags=re.MULTILINE)[1:]:
                trace, name = (
                    re.search(rf"^ *{key} +: ?(.*)$", span, re.MULTILINE) for key in ("Trace ID", "Name")
                )
                assert trace
                assert name
                found.append(Span(service[1], name[1], trace[1], span))
        return found


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def collector(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """The collector at the host's side of the deployment's bridge, and the deployment with it."""
    program = built(Path(__file__).parent / "collector", "collector", ".")
    gateway = str(next(ip_network(stack.network["subnet"]).hosts()))
    found = Collector(program, tmp_path_factory.mktemp("collector"), gateway, 4318)
    found.start()
    settings = {"deployment_traces_endpoint": found.url, "certificates_authorities": [str(found.ca)]}
    try:
        playbook("site.yml", "-e", yaml.safe_dump(settings, default_flow_style=True, width=10_000))
        yield found
    finally:
        found.stop()
        playbook("site.yml")


def staged(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path], **headers: str
) -> str:
    """Stage a file; returns the task's id."""
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), did.encode())
    http.headers.update(headers)
    url = submit(http, stack.url, files=[{"did": did}], destination="traced")
    task = ended(http, url)
    assert (task["state"], task["items"][0]["state"]) == ("SUCCEEDED", "STAGED"), task
    return str(task["id"])


def test_a_task_is_one_trace_across_all_services(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path], collector: Collector
) -> None:
    task = staged(stack, http, rse, traceparent=f"00-{STRANGER}-b7ad6b7169203331-01")

    def traces() -> set[str]:
        return {span.trace for span in collector.spans() if span.name == "stage" and task in span.text}

    wait_until(traces)
    (trace,) = traces()
    assert trace != STRANGER

    def names() -> set[tuple[str, str]]:
        return {(span.service, span.name) for span in collector.spans() if span.trace == trace}

    expected = {
        ("prepare-data-core", "POST /v1/tasks"),
        ("prepare-data-core", "send prepare-data"),
        ("prepare-data-worker", "receive prepare-data"),
        ("prepare-data-worker", "wait"),
        ("prepare-data-worker", "stage"),
        ("prepare-data-worker", "POST"),
        ("vospace", "POST /bulk-pull"),
        ("vospace", "run bulk-pull"),
        ("vospace", "fetch"),
        ("vospace", "GET"),
        ("vospace", "verify"),
        ("vospace", "write"),
        ("vospace", "commit"),
    }
    wait_until(lambda: expected <= names())
    (post,) = [s for s in collector.spans() if (s.trace, s.name) == (trace, "POST /v1/tasks")]
    assert STRANGER in post.text, "the client's trace is linked"
    assert "Parent ID      : \n" in post.text
    for name in ("core", "celery-worker"):
        log = stack.container(f"ska-src-local-data-preparer-{name}").logs(tail=2000).decode()
        assert f'"trace_id": "{trace}"' in log
    secrets = (str(http.headers["Authorization"]).split()[1], *stack.secrets.values())
    assert not [secret for secret in secrets if secret in collector.text()]


def test_staging_goes_on_where_the_collector_is_away(
    stack: Deployment, http: requests.Session, rse: Callable[[str, bytes], Path], collector: Collector
) -> None:
    collector.stop()
    away = staged(stack, http, rse)
    worker = stack.container("ska-src-local-data-preparer-celery-worker")
    wait_until(lambda: "takes no traces" in worker.logs(tail=200).decode())
    collector.start()
    # What waited meanwhile arrives.
    wait_until(lambda: [span for span in collector.spans() if span.name == "stage" and away in span.text])
