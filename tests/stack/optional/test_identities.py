"""Who callers of the VOSpace are: holders of certificates, and members of groups of which their token says nothing."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from deployment import Deployment, playbook
from strangers import self_signed

NODE = (
    '<vos:node xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xsi:type="vos:ContainerNode"><vos:properties>{properties}</vos:properties><vos:nodes/></vos:node>'
)


def certificate(stack: Deployment, user: str) -> Path:
    """Certificate and key of a user, issued as the documentation tells."""
    playbook("playbooks/client_certificate.yml", "-e", f"user={user}")
    return stack.state / f"certs/clients/{user}.pem"


def holder(stack: Deployment, path: Path) -> requests.Session:
    session = stack.session()
    session.cert = str(path)
    return session


def test_the_holder_of_a_certificate_is_its_user(
    stack: Deployment, http: requests.Session, user: str
) -> None:
    with holder(stack, certificate(stack, user)) as session:
        nodes, files = (
            f"{stack.url}/src/cavern/nodes/home/{user}",
            f"{stack.url}/src/cavern/files/home/{user}",
        )
        made = session.put(nodes, data=NODE.format(properties=""), timeout=30)
        assert (made.status_code, made.headers["x-vo-authenticated"]) == (201, user)
        assert session.put(f"{files}/f", data=b"by certificate", timeout=30).status_code == 201
        # The same user with a token: the files are one person's.
        assert http.get(f"{files}/f", timeout=30).content == b"by certificate"
        assert http.put(f"{files}/g", data=b"by token", timeout=30).status_code == 201
        assert session.get(f"{files}/g", timeout=30).content == b"by token"
        assert session.get(f"{stack.url}/src/cavern/transfers", timeout=30).status_code == 200


def test_a_forged_header_makes_nobody(stack: Deployment, anonymous: requests.Session, user: str) -> None:
    path = certificate(stack, user)
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    url = f"{stack.url}/src/cavern/nodes/home/{user}"
    for name in ("X-Client-Certificate", "x-client-certificate"):
        answer = anonymous.put(
            url,
            data=NODE.format(properties=""),
            headers={name: base64.b64encode(der).decode()},
            timeout=30,
        )
        assert answer.status_code == 403
        assert "x-vo-authenticated" not in answer.headers
    # Nor does it for whoever reaches the service without HAProxy.
    direct = anonymous.put(
        f"http://{stack.address('src-cavern')}:8080/src/cavern/nodes/home/{user}",
        data=NODE.format(properties=""),
        headers={"X-Client-Certificate": base64.b64encode(der).decode()},
        timeout=30,
    )
    assert direct.status_code == 403


def test_a_certificate_of_another_authority_is_refused(stack: Deployment, tmp_path: Path, user: str) -> None:
    made = tmp_path / "stranger.pem"
    made.write_bytes(self_signed(user).pem)
    with holder(stack, made) as session, pytest.raises(requests.exceptions.ConnectionError):
        session.get(f"{stack.url}/src/cavern/nodes/", timeout=30)


def test_the_group_service_is_asked_for_what_no_token_tells(
    stack: Deployment, http: requests.Session, user: str, member: str
) -> None:
    nodes, files = f"{stack.url}/src/cavern/nodes/home/{user}", f"{stack.url}/src/cavern/files/home/{user}"
    inherit = (
        '<vos:property uri="ivo://cadc.nrc.ca/vospace/core#inheritPermissions">true</vos:property>'
        + f'<vos:property uri="ivo://ivoa.net/vospace/core#groupread">ivo://{stack.authority}/gms?team</vos:property>'
    )
    assert http.put(nodes, data=NODE.format(properties=inherit), timeout=30).status_code == 201
    assert http.put(f"{files}/f", data=b"for the team", timeout=30).status_code == 201

    for scope in ("openid profile", "openid profile groups"):
        headers = {"Authorization": f"Bearer {stack.token(member, scope=scope)}"}
        search = requests.get(f"{stack.url}/iam/gms/search", headers=headers, verify=stack.ca, timeout=30)
        assert search.text == "team\n"
        with stack.session() as session:
            session.headers.update(headers)
            assert session.get(f"{files}/f", timeout=30).content == b"for the team", scope
            assert session.put(f"{files}/f", data=b"x", timeout=30).status_code == 403
    with holder(stack, certificate(stack, member)) as session:
        assert session.get(f"{files}/f", timeout=30).content == b"for the team"
    with stack.session(f"{user}x") as outsider:
        assert outsider.get(f"{files}/f", timeout=30).status_code == 403
