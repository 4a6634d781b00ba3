"""Authentication of callers: neither an address nor a forged header is sufficient."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from deployment import CATALOGUE, Deployment, playbook
from strangers import Held, forged, self_signed

PATH = "/src/cavern/nodes/"
PYTHON = ["cavern", "core", "iam", "posix_mapper"]
"""Services that accept HAProxy's headers about clients."""


def header(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def issued(stack: Deployment, user: str) -> x509.Certificate:
    """Return a valid certificate of the user."""
    playbook("playbooks/client_certificate.yml", "-e", f"user={user}")
    return x509.load_pem_x509_certificate((stack.state / f"certs/clients/{user}.pem").read_bytes())


def authority(stack: Deployment, name: str) -> Held:
    """Return one of the deployment's CAs with its key, as if stolen."""
    return Held.read(stack.state / f"certs/{name}.pem", stack.state / f"certs/{name}.key")


def inside(stack: Deployment, name: str, path: str) -> str:
    known = CATALOGUE[name]
    return f"http://{stack.address(known['container'])}:{known['port']}{path}"


def from_haproxy(stack: Deployment, url: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Return status and headers of the response to a request sent from HAProxy's own address."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", '{"status": %{http_code}, "headers": %{header_json}}']
    command += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    status, output = stack.container("haproxy").exec_run([*command, url])
    assert status == 0, output
    told = json.loads(output)
    return told["status"], {name: values[-1] for name, values in told["headers"].items()}


# -- headers of the proxy -------------------------------------------------------------------------------------


def test_a_forwarded_certificate_requires_haproxys_secret(
    stack: Deployment, anonymous: requests.Session, user: str
) -> None:
    """A valid certificate, sent from another address and from HAProxy's own."""
    url = inside(stack, "cavern", PATH)
    told = {"X-Client-Certificate": header(issued(stack, user))}
    for proof in ({}, {"X-Proxy-Proof": "guess"}, {"X-Proxy-Proof": ""}):
        answer = anonymous.get(url, headers={**told, **proof}, timeout=30)
        assert "x-vo-authenticated" not in answer.headers, proof
        _, headers = from_haproxy(stack, url, {**told, **proof})
        assert "x-vo-authenticated" not in headers, proof
    # With HAProxy's secret the same request authenticates the user, but only from HAProxy's address.
    proof = {"X-Proxy-Proof": stack.secrets["haproxy_proof"]}
    assert from_haproxy(stack, url, {**told, **proof})[1]["x-vo-authenticated"] == user
    assert "x-vo-authenticated" not in anonymous.get(url, headers={**told, **proof}, timeout=30).headers


def test_haproxy_removes_clients_forwarding_headers(
    stack: Deployment, anonymous: requests.Session, user: str
) -> None:
    said = {
        "X-Client-Certificate": header(issued(stack, user)),
        "X-Proxy-Proof": stack.secrets["haproxy_proof"],
        "X-Forwarded-For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
    }
    answer = anonymous.get(f"{stack.url}{PATH}", headers=said, timeout=30)
    assert "x-vo-authenticated" not in answer.headers
    available = anonymous.get(f"{stack.url}/src/cavern/availability", headers=said, timeout=30)
    assert "192.0.2.1" not in available.text


@pytest.mark.parametrize("name", PYTHON)
def test_a_request_id_is_accepted_only_from_haproxy(stack: Deployment, name: str) -> None:
    path = CATALOGUE[name]["route"] if not CATALOGUE[name].get("strip_route") else ""
    url = inside(stack, name, f"{path}/docs")
    given = {"X-Request-ID": "another-tasks-identifier"}
    assert from_haproxy(stack, url, given)[1]["x-request-id"] != given["X-Request-ID"]
    proof = {"X-Proxy-Proof": stack.secrets["haproxy_proof"]}
    assert from_haproxy(stack, url, {**given, **proof})[1]["x-request-id"] == given["X-Request-ID"]


def test_the_proxys_secret_is_not_exposed(stack: Deployment) -> None:
    """It is only in files of the services that send and check it, not in logs, environments or command lines."""
    proof = stack.secrets["haproxy_proof"]
    with_it = set()
    for service in (stack.state / "config").iterdir():
        for file in service.rglob("*"):
            if file.is_file() and proof.encode() in file.read_bytes():
                assert file.stat().st_mode & 0o077 == 0, file
                with_it.add(service.name)
    assert with_it == {"haproxy", *PYTHON}
    for name, container in stack.containers().items():
        assert proof not in json.dumps(container.attrs), name
        assert proof.encode() not in container.logs(), name


# -- verification of certificates --------------------------------------------------------------------------------

BAD: dict[str, Callable[[Held, str], Held]] = {
    "self-signed": lambda _, user: self_signed(user),
    "of another authority of the same name": lambda users, user: forged(
        Held(users.certificate, self_signed("x").key), user
    ),
    "expired": lambda users, user: forged(users, user, days=-1),
    "not yet valid": lambda users, user: forged(users, user, begin=1),
    "of an organization that is not its authority's": lambda users, user: forged(
        users, user, organization="another"
    ),
    "for servers": lambda users, user: forged(users, user, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
    "for nothing": lambda users, user: forged(users, user, purpose=None),
    "an authority's": lambda users, _: users,
}


@pytest.mark.parametrize("kind", BAD)
def test_vospace_verifies_forwarded_certificates_itself(stack: Deployment, kind: str, user: str) -> None:
    """VOSpace verifies CA, validity and purpose itself."""
    users = authority(stack, "client-ca")
    told = {
        "X-Client-Certificate": header(BAD[kind](users, user).certificate),
        "X-Proxy-Proof": stack.secrets["haproxy_proof"],
    }
    status, headers = from_haproxy(stack, inside(stack, "cavern", PATH), told)
    assert status == 401
    assert "x-vo-authenticated" not in headers
    good = {**told, "X-Client-Certificate": header(forged(users, user).certificate)}
    assert from_haproxy(stack, inside(stack, "cavern", PATH), good)[1]["x-vo-authenticated"] == user


@pytest.mark.parametrize("kind", BAD)
def test_haproxy_rejects_invalid_certificates(
    stack: Deployment, anonymous: requests.Session, tmp_path: Path, kind: str, user: str
) -> None:
    users = authority(stack, "client-ca")
    held = tmp_path / "held.pem"
    held.write_bytes(BAD[kind](users, user).pem)
    anonymous.cert = str(held)
    try:
        answer = anonymous.get(f"{stack.url}{PATH}", timeout=30)
    except requests.exceptions.ConnectionError:
        return
    # A certificate without purposes is valid for any of them in TLS, but not in VOSpace.
    assert (kind, answer.status_code) == ("for nothing", 401)


def test_the_server_ca_cannot_issue_user_certificates(
    stack: Deployment, anonymous: requests.Session, tmp_path: Path, user: str
) -> None:
    """Except in deployments of earlier versions, while they still trust that CA for users."""
    servers = authority(stack, "ca")
    if servers.certificate in x509.load_pem_x509_certificates(
        (stack.state / "certs/client-ca.pem").read_bytes()
    ):
        playbook("site.yml", "-e", json.dumps({"certificates_rotate": ["previous"]}))
    made = forged(servers, user)
    told = {
        "X-Client-Certificate": header(made.certificate),
        "X-Proxy-Proof": stack.secrets["haproxy_proof"],
    }
    assert from_haproxy(stack, inside(stack, "cavern", PATH), told)[0] == 401
    held = tmp_path / "held.pem"
    held.write_bytes(made.pem)
    anonymous.cert = str(held)
    with pytest.raises(requests.exceptions.ConnectionError):
        anonymous.get(f"{stack.url}{PATH}", timeout=30)


def test_the_client_ca_cannot_issue_server_certificates(stack: Deployment) -> None:
    """Clients that trust the deployment's servers do not trust it, and it cannot name hosts."""
    users = authority(stack, "client-ca").certificate
    assert users.extensions.get_extension_for_class(x509.NameConstraints).critical
    purposes = users.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for name in ("ca.pem", "ca-bundle.pem"):
        trusted = x509.load_pem_x509_certificates((stack.state / "certs" / name).read_bytes())
        assert users not in trusted, name


# -- revoked certificates -------------------------------------------------------------------------------------


def started(stack: Deployment) -> dict[str, str]:
    return {name: container.attrs["State"]["StartedAt"] for name, container in stack.containers().items()}


def test_a_revoked_certificate_is_rejected(stack: Deployment, tmp_path: Path, user: str) -> None:
    """It is rejected by HAProxy, by VOSpace and on open connections, without effect on other users."""
    lost, other = tmp_path / "lost.pem", tmp_path / "other.pem"
    for path, name in ((lost, user), (other, f"{user}x")):
        playbook("playbooks/client_certificate.yml", "-e", f"user={name}")
        path.write_bytes((stack.state / f"certs/clients/{name}.pem").read_bytes())
    # A newer one of the user is revoked too.
    playbook("playbooks/client_certificate.yml", "-e", f"user={user}", "-e", "certificate_renewed=true")
    newer = tmp_path / "newer.pem"
    newer.write_bytes((stack.state / f"certs/clients/{user}.pem").read_bytes())
    assert newer.read_bytes() != lost.read_bytes()
    before = started(stack)
    with stack.session() as open_one, stack.session() as bystander:
        open_one.cert, bystander.cert = str(lost), str(other)
        assert open_one.get(f"{stack.url}{PATH}", timeout=30).headers["x-vo-authenticated"] == user
        assert bystander.get(f"{stack.url}{PATH}", timeout=30).headers["x-vo-authenticated"] == f"{user}x"
        assert "changed=0" not in playbook("playbooks/revoke.yml", "-e", f"user={user}").stdout
        for session, path in ((open_one, lost), (stack.session(), lost), (stack.session(), newer)):
            session.cert = str(path)
            try:
                assert session.get(f"{stack.url}{PATH}", timeout=30).status_code == 401
            except requests.exceptions.ConnectionError:
                continue
        assert bystander.get(f"{stack.url}{PATH}", timeout=30).headers["x-vo-authenticated"] == f"{user}x"
    for path in (lost, newer):
        told = {
            "X-Client-Certificate": header(Held.read(path, path).certificate),
            "X-Proxy-Proof": stack.secrets["haproxy_proof"],
        }
        assert from_haproxy(stack, inside(stack, "cavern", PATH), told)[0] == 401
    assert started(stack) == before
    assert "changed=0" in playbook("playbooks/revoke.yml", "-e", f"user={user}").stdout
    assert "changed=0" in playbook("site.yml").stdout
    # Certificates issued afterwards are valid.
    playbook("playbooks/client_certificate.yml", "-e", f"user={user}")
    with stack.session() as session:
        session.cert = str(stack.state / f"certs/clients/{user}.pem")
        assert session.get(f"{stack.url}{PATH}", timeout=30).headers["x-vo-authenticated"] == user
