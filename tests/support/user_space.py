"""The deployed VOSpace from one user's view, with handwritten requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
from deployment import Deployment
from vospace_client.documents import node_document, parse, read_node, transfer_document
from vospace_client.terms import FINAL_PHASES

ADMINISTRATOR = "cavernadmin"


def token(stack: Deployment, user: str, groups: list[str]) -> str:
    """Return a token of the deployment's issuer with these groups, whatever the user's groups are."""
    known = requests.get(f"{stack.url}/iam/jwks", verify=stack.ca, timeout=30).json()["keys"][0]
    now = int(time.time())
    claims = {
        "iss": f"{stack.url}/iam",
        "sub": str(uuid.uuid5(uuid.NAMESPACE_URL, user)),
        "aud": stack.url,
        "iat": now,
        "exp": now + 3600,
        "jti": str(uuid.uuid4()),
        "client_id": "cavern-cli",
        "preferred_username": user,
        "groups": groups,
    }
    return jwt.encode(
        claims, stack.secrets["iam_signing_key"], "RS256", headers={"kid": known["kid"], "typ": "at+jwt"}
    )


class Space:
    """Nodes, files and jobs, by paths such as ``/home/ada``; rejections are returned, not raised."""

    def __init__(
        self, stack: Deployment, user: str, groups: list[str] | None = None, *, bearer: str = ""
    ) -> None:
        """Act as *user*, a member of *groups*, or with the token *bearer*."""
        self.user = user
        self.url = f"{stack.url}/src/cavern"
        self.http = stack.session()
        self.http.headers["Authorization"] = f"Bearer {bearer or token(stack, user, groups or [])}"
        root = parse(self.get("/nodes?limit=0").content)
        self.root = str(root.get("uri"))
        self.groups = f"ivo://{urlsplit(self.root).netloc.partition('~')[0]}/gms?"

    def get(self, path: str, method: str = "GET") -> requests.Response:
        return self.http.request(method, self.url + path, timeout=60, allow_redirects=False)

    def document(self, kind: str, path: str, properties: Mapping[str, str], target: str = "") -> bytes:
        """Return a node document as sent by clients."""
        return node_document(kind, self.root + path, properties, self.root + target if target else None)

    def make(
        self,
        path: str,
        properties: Mapping[str, str] | None = None,
        *,
        kind: str = "ContainerNode",
        target: str = "",
    ) -> requests.Response:
        content = self.document(kind, path, properties or {}, target)
        return self.http.put(f"{self.url}/nodes{path}", content, timeout=60)

    def change(
        self, path: str, properties: Mapping[str, str], *, kind: str = "ContainerNode"
    ) -> requests.Response:
        return self.http.post(f"{self.url}/nodes{path}", self.document(kind, path, properties), timeout=60)

    def put(self, path: str, content: Any) -> requests.Response:
        return self.http.put(f"{self.url}/files{path}", content, timeout=60)

    def delete(self, path: str) -> requests.Response:
        return self.http.delete(f"{self.url}/nodes{path}", timeout=60)

    def properties(self, path: str) -> dict[str, str]:
        return read_node(self.get(f"/nodes{path}?limit=0").content).properties

    # Jobs: their final phase and error.

    def move(self, path: str, to: str) -> tuple[str, str]:
        return self.transfer(path, self.root + to)

    def transfer(
        self, path: str, direction: str, *protocols: tuple[str, str | None], keep: bool = False
    ) -> tuple[str, str]:
        content = transfer_document(self.root + path, direction, protocols, keep_bytes=keep)
        return self.run("transfers", data=content, headers={"Content-Type": "text/xml"})

    def delete_tree(self, path: str) -> tuple[str, str]:
        return self.run("async-delete", data={"target": self.root + path})

    def change_tree(self, path: str, properties: Mapping[str, str]) -> tuple[str, str]:
        content = self.document("ContainerNode", path, properties)
        return self.run("async-setprops", data=content, headers={"Content-Type": "text/xml"})

    def run(self, kind: str, **request: Any) -> tuple[str, str]:
        return self.end(self.start(kind, **request))

    def start(self, kind: str, **request: Any) -> str:
        """Start a job; return its URL."""
        made = self.http.post(f"{self.url}/{kind}?PHASE=RUN", timeout=60, allow_redirects=False, **request)
        assert made.status_code == 303, made.text
        return str(made.headers["Location"])

    def end(self, job: str) -> tuple[str, str]:
        """Return the final phase of a job and its error."""
        while True:
            phase = self.http.get(f"{job}/phase?WAIT=20", timeout=60).text
            if phase in FINAL_PHASES:
                error = self.http.get(f"{job}/error", timeout=60)
                return phase, error.text if error.status_code == 200 else ""
