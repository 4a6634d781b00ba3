"""A certificate by ACME (RFC 8555): certbot asks a real authority, Pebble, and HAProxy answers its challenges."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from deployment import ROOT, Deployment, playbook
from tls_clients import clients, fetch

PEBBLE = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3"
# What docs/operator.md gives.
THUMBPRINT = """
import base64, josepy, sys
key = josepy.JWK.json_loads(open(sys.argv[1]).read())
print(base64.urlsafe_b64encode(key.thumbprint()).decode().rstrip("="))
"""


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass
class Authority:
    """A running ACME authority, as its clients see it."""

    directory: str
    ca: Path
    """What its own interface is verified with."""
    root: Path
    """The root of what it issues."""


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    """Pebble, which validates at port 80 as a public authority does."""
    for program, package in (("certbot", "certbot"), ("go", "golang")):
        assert shutil.which(program), f"this test needs {program}: apt-get install {package}"
    programs = ROOT / "build/go"
    if not (programs / "pebble").exists():
        subprocess.run(["go", "install", PEBBLE], env=os.environ | {"GOBIN": str(programs)}, check=True)
    ca = _x509.create_ca("ACME", 30, "ec")
    server = _x509.issue_server(ca, _x509.Names("localhost", (), ("127.0.0.1",)), 30, "ec")
    files = {"ca.pem": ca.certificate_pem, "server.pem": server.certificate_pem, "server.key": server.key_pem}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    acme, management = _free_port(), _free_port()
    configuration = {
        "pebble": {
            "listenAddress": f"127.0.0.1:{acme}",
            "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(tmp_path / "server.pem"),
            "privateKey": str(tmp_path / "server.key"),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
    }
    (tmp_path / "pebble.json").write_text(json.dumps(configuration))
    with (
        (tmp_path / "pebble.log").open("wb") as log,
        subprocess.Popen(
            [programs / "pebble", "-config", tmp_path / "pebble.json"], stdout=log, stderr=log
        ) as running,
    ):
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    url = f"https://127.0.0.1:{management}/roots/0"
                    root = requests.get(url, verify=str(tmp_path / "ca.pem"), timeout=5)
                    break
                except requests.ConnectionError:
                    assert time.monotonic() < deadline, (tmp_path / "pebble.log").read_text()
                    time.sleep(0.1)
            (tmp_path / "root.pem").write_bytes(root.content)
            yield Authority(f"https://127.0.0.1:{acme}/dir", tmp_path / "ca.pem", tmp_path / "root.pem")
        finally:
            running.terminate()


@pytest.mark.slow
def test_certbot_gets_and_renews_a_certificate(
    stack: Deployment, authority: Authority, tmp_path: Path
) -> None:
    directory = tmp_path / "letsencrypt"

    def certbot(*arguments: str) -> None:
        options = ["--non-interactive", "--config-dir", str(directory)]
        options += ["--work-dir", str(tmp_path / "work"), "--logs-dir", str(tmp_path / "logs")]
        done = subprocess.run(
            ["certbot", *arguments, *options],
            env=os.environ | {"REQUESTS_CA_BUNDLE": str(authority.ca)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    server = ("--server", authority.directory)
    certbot("register", *server, "--agree-tos", "--register-unsafely-without-email")
    key = next(directory.glob("accounts/**/private_key.json"))
    command = ["/usr/bin/python3", "-c", THUMBPRINT, str(key)]
    thumbprint = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    settings = {"haproxy_acme_thumbprint": thumbprint}

    def site(*arguments: str) -> str:
        return playbook(*arguments, "--extra-vars", json.dumps(settings)).stdout

    try:
        site("site.yml")
        challenges = f"http://{stack.public_name}/.well-known/acme-challenge"
        answer = requests.get(f"{challenges}/a-token_1", timeout=10)
        assert (answer.status_code, answer.text) == (200, f"a-token_1.{thumbprint}")
        # All else goes where it went before, and comes back to nobody.
        other = requests.get(f"{challenges}/%3Cscript%3E", timeout=10, allow_redirects=False)
        assert other.status_code == 308
        hook = ("--manual", "--manual-auth-hook", "/bin/true", "--preferred-challenges", "http")
        certbot("certonly", *server, *hook, "--domain", stack.public_name)
        live = directory / "live" / stack.public_name
        settings |= {
            "certificates_server_cert": str(live / "fullchain.pem"),
            "certificates_server_key": str(live / "privkey.pem"),
            "certificates_server_chain": str(authority.root),
        }
        site("site.yml")
        site("playbooks/smoke.yml")
        context = ssl.create_default_context(cafile=authority.root)
        before = fetch(stack, context)
        with clients(stack, authority.root) as seen:
            certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
            site("site.yml", "--tags", "certificates")
            after = fetch(stack, context)
        assert before != after
        assert seen == {before, after}
    finally:
        playbook("site.yml")


def test_what_is_no_thumbprint_is_refused_by_name(stack: Deployment) -> None:
    done = playbook("site.yml", "--extra-vars", '{"haproxy_acme_thumbprint": "x\\" deny"}', check=False)
    assert done.returncode
    assert "is no thumbprint of an ACME account" in done.stdout
    assert stack.container("haproxy").status == "running"
