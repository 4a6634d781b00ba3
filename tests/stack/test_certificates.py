"""Certificates of the deployed stack: they are rotated while clients come and go, and none of those fails."""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from deployment import Deployment, playbook
from tls_clients import clients, fetch

AREA = """<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="vos:ContainerNode"/>"""


def _told(output: str) -> set[str]:
    """What a run with --diff says of files and containers, without how they read."""
    told = set(re.findall(r"^\+\+\+ after: (.+)$", output, re.MULTILINE))
    assert any(re.fullmatch(r"container \S*haproxy \(reload\)", line) for line in told), output
    return told


@pytest.mark.parametrize("rotate", ["server", "ca"])
def test_rotation_fails_no_client(stack: Deployment, tmp_path: Path, rotate: str) -> None:
    known = tmp_path / "ca.pem"
    known.write_bytes(Path(stack.ca).read_bytes())
    before = fetch(stack, ssl.create_default_context(cafile=known))
    with clients(stack, known) as seen:
        arguments = ("site.yml", "--diff", "--extra-vars", json.dumps({"certificates_rotate": [rotate]}))
        foreseen = _told(playbook(*arguments, "--check").stdout)
        assert _told(playbook(*arguments).stdout) == foreseen
        after = fetch(stack, ssl.create_default_context(cafile=stack.ca))
    assert after != before
    # Only these two were ever served, to clients that trust nothing but what they knew beforehand.
    assert seen == {before, after}
    assert "changed=0" in playbook("site.yml").stdout


def test_rotation_leaves_a_client_in_the_middle_of_its_request(stack: Deployment, user: str) -> None:
    block = b"0123456789abcdef" * 256
    sent = bytearray()
    rotated = threading.Event()
    path = f"/src/cavern/files/home/{user}/rotated.dat"
    with stack.session(user) as http:
        home = f"{stack.url}/src/cavern/nodes/home/{user}"
        http.put(home, data=AREA, headers={"Content-Type": "text/xml"}, timeout=30).raise_for_status()
        context = ssl.create_default_context(cafile=stack.ca)
        connection = HTTPSConnection(stack.public_name, timeout=60, context=context)
        connection.putrequest("PUT", path)
        connection.putheader("Authorization", http.headers["Authorization"])
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()

        def send() -> None:
            while not rotated.wait(1):
                connection.send(b"%x\r\n%s\r\n" % (len(block), block))
                sent.extend(block)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            playbook("site.yml", "--extra-vars", json.dumps({"certificates_rotate": ["server"]}))
        finally:
            rotated.set()
            sending.join()
        connection.send(b"0\r\n\r\n")
        assert connection.getresponse().status == 201
        connection.close()
        assert http.get(f"{stack.url}{path}", timeout=30).content == sent


@pytest.mark.slow
def test_a_certificate_of_the_site_is_taken_up_and_renewed(stack: Deployment, tmp_path: Path) -> None:
    """From the deployment's own to one of another authority, to the next one of that, and back."""
    root = _x509.create_ca("Site", 3650, "ec")
    issuing = _x509.create_ca("Site issuing", 1000, "ec")
    issuing.certificate = _x509.cross_sign(issuing, root)
    certificate, key, chain = (tmp_path / name for name in ("cert.pem", "privkey.pem", "chain.pem"))
    chain.write_bytes(issuing.certificate_pem + root.certificate_pem)

    def issue(name: str) -> None:
        pair = _x509.issue_server(issuing, _x509.Names(name), 90, "ec")
        certificate.write_bytes(pair.certificate_pem)
        key.write_bytes(pair.key_pem)

    told = {"cert": certificate, "key": key, "chain": chain}
    given = {f"certificates_server_{name}": str(path) for name, path in told.items()}
    site = ("site.yml", "--extra-vars", json.dumps(given))
    known = tmp_path / "root.pem"
    known.write_bytes(root.certificate_pem)
    issue(stack.public_name)
    try:
        playbook(*site)
        assert Path(stack.ca).read_bytes() == root.certificate_pem
        # The services verify it too, and stage a file through it.
        playbook("playbooks/smoke.yml", *site[1:])
        before = fetch(stack, ssl.create_default_context(cafile=known))
        with clients(stack, known) as seen:
            issue(stack.public_name)
            playbook(*site)
            after = fetch(stack, ssl.create_default_context(cafile=known))
        assert seen == {before, after}
        assert before != after
        assert "changed=0" in playbook(*site).stdout
        issue("other.example.org")
        refused = playbook(*site, check=False)
        assert refused.returncode
        assert f"is not for the public name {stack.public_name}" in refused.stdout
        assert fetch(stack, ssl.create_default_context(cafile=known)) == after
    finally:
        playbook("site.yml")
    assert fetch(stack, ssl.create_default_context(cafile=stack.ca)) != after
