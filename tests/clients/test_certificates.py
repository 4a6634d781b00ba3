"""The file that ``make certificate`` writes, as every kind of client takes it.

`vos` is in test_vos.py.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from deployment import INVENTORY, ROOT, Deployment

JAVA = Path(__file__).parent / "java"
BOUNCY_CASTLE = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcpkix", "bcutil"))


@pytest.fixture
def certificate(stack: Deployment, user: str) -> Iterator[Path]:
    """Certificate of the user, made as an operator makes it."""
    subprocess.run(
        ["make", "--silent", "certificate", f"USER={user}", f"INVENTORY={INVENTORY}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    path = stack.state / f"certs/clients/{user}.pem"
    yield path
    path.unlink()


@pytest.fixture
def url(stack: Deployment) -> str:
    """What tells in a header who has called."""
    return f"{stack.url}/src/cavern/nodes/?limit=0"


def _java(stack: Deployment, certificate: Path, url: str) -> str:
    trusted = str(stack.state / "certs/truststore.p12")
    program = str(JAVA / "WhoAmI.java")
    done = subprocess.run(
        ["java", "-cp", BOUNCY_CASTLE, program, str(certificate), trusted, "changeit", url],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_java_reads_it_as_opencadc_does(stack: Deployment, certificate: Path, url: str, user: str) -> None:
    assert _java(stack, certificate, url) == f"200 {user}"


def test_the_java_reader_misses_a_key_behind_the_certificate(
    stack: Deployment, certificate: Path, url: str, tmp_path: Path
) -> None:
    """So what the test above shows is the order."""
    key, end, rest = certificate.read_text().partition("-----END PRIVATE KEY-----\n")
    other = tmp_path / "other.pem"
    other.write_text(rest + key + end)
    assert _java(stack, other, url) == "200 null"


def test_curl_reads_it(stack: Deployment, certificate: Path, url: str, user: str) -> None:
    quietly = ["--silent", "--show-error", "--fail", "--dump-header", "-", "--output", os.devnull]
    done = subprocess.run(
        ["curl", *quietly, "--cacert", stack.ca, "--cert", str(certificate), url],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert f"x-vo-authenticated: {user}" in done.stdout.lower()


def test_requests_reads_it(stack: Deployment, certificate: Path, url: str, user: str) -> None:
    answer = requests.get(url, cert=str(certificate), verify=stack.ca, timeout=30)
    assert answer.headers["x-vo-authenticated"] == user
