"""A site's own issuer: Keycloak beside the deployment, with what docs/operator.md has people register there."""

from __future__ import annotations

import html
import json
import re
import secrets
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jwt
import keycloak
import pytest
import requests
from deployment import INVENTORY, ROOT, Deployment, playbook
from keycloak import REALM, Keycloak
from prepare_data_client.did import DID
from tasks import ended, submit
from user_space import Space
from vospace_client.terms import CORE

# Keycloak is assembled, and the deployment made over, before the first of them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PATIENCE = 90
"""Seconds for which what takes its time is waited for, such as a new key: services ask for keys twice a minute."""
PASSWORD = secrets.token_urlsafe(16)
SAME = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Site:
    """The deployment and its issuer."""

    stack: Deployment
    issuer: Keycloak
    settings: dict[str, Any]
    ids: dict[str, str]
    """Keycloak's own ids of clients, by their names."""
    users: dict[str, str] = field(default_factory=dict)
    """Names of users of this run, by what tests call them."""

    @property
    def bundle(self) -> str:
        """What the services trust."""
        return str(self.stack.state / "certs/ca-bundle.pem")

    def token(self, user: str, client: str = "site-cli") -> str:
        """Return an access token of a user, as *client* gets one."""
        return self.issuer.token(self.users[user], PASSWORD, client)

    def session(self, token: str) -> requests.Session:
        """Return an HTTP session with a token."""
        session = self.stack.session()
        session.headers["Authorization"] = f"Bearer {token}"
        return session

    def space(self, user: str) -> Space:
        """Return the space as a user sees it."""
        return Space(self.stack, self.users[user], bearer=self.token(user))

    def ask(self, token: str) -> requests.Response:
        """Ask core for the tasks of whom a token names."""
        with self.session(token) as http:
            return http.get(f"{self.stack.url}/prepare-data/v1/tasks", timeout=60)

    def refusals(self, token: str) -> list[str]:
        """Return what each service answers to a token that is none of a user of theirs."""
        found = []
        with self.session(token) as http:
            for path in ("prepare-data/v1/tasks", "src/cavern/nodes?limit=0", "src/posix-mapper/uid"):
                answer = http.get(f"{self.stack.url}/{path}", timeout=60)
                assert answer.status_code == 401, answer.text
                found.append(answer.headers["WWW-Authenticate"])
        return found


def deploy(settings: dict[str, Any], *playbooks: str) -> str:
    """Run playbooks with the site's settings; returns what they print."""
    return playbook(*(playbooks or ("site.yml",)), "-e", json.dumps(settings)).stdout


@pytest.fixture(scope="module")
def site(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Keycloak at the host's side of the deployment's bridge, and the deployment with it for an issuer."""
    run = uuid.uuid4().hex[:8]
    gateway = str(next(ip_network(stack.network["subnet"]).hosts()))
    with keycloak.keycloak(gateway, 8443) as issuer:
        settings, ids = issuer.register(stack.url, [f"survey-{run}"])
        for name, lifetime in {"short-cli": 5, "other-cli": 300}.items():
            ids[name] = issuer.tests_client(name, lifetime)
        found = Site(stack, issuer, settings, ids)
        for name, groups in {"ada": (f"survey-{run}",), "bob": (f"survey-{run}",), "eve": ()}.items():
            found.users[name] = f"{name}-{run}"
            issuer.user(found.users[name], PASSWORD, *groups)
        scopes = issuer.administer("GET", f"/{REALM}/clients/{ids['other-cli']}/default-client-scopes")
        scope = next(scope["id"] for scope in scopes if scope["name"] == "groups")
        issuer.administer("DELETE", f"/{REALM}/clients/{ids['other-cli']}/default-client-scopes/{scope}")
        try:
            deploy(settings)
            yield found
        finally:
            playbook("site.yml", "-e", "deployment_prune=true")
            stack.forget()


def test_a_file_is_staged_and_shared_with_a_group(site: Site, rse: Callable[[str, bytes], Path]) -> None:
    did = f"testing:{uuid.uuid4().hex}.dat"
    content = did.encode() * 1000
    rse(DID.parse(did).path(), content)
    with site.session(site.token("ada")) as http:
        task = ended(http, submit(http, site.stack.url, files=[{"did": did}], destination="run"))
    assert (task["state"], task["items"][0]["state"]) == ("SUCCEEDED", "STAGED"), task
    file = task["items"][0]["target"]
    ada, bob, eve = (site.space(name) for name in ("ada", "bob", "eve"))
    assert ada.get(f"/files{file}").content == content
    run = ada.user.removeprefix("ada-")
    assert bob.get(f"/files{file}").status_code == 403
    for path, kind in ((file, "DataNode"), (f"/home/{ada.user}/run", ""), (f"/home/{ada.user}", "")):
        shared = {f"{CORE}groupread": f"{ada.groups}survey-{run}"}
        assert ada.change(path, shared, kind=kind or "ContainerNode").status_code == 200
    assert bob.get(f"/files{file}").content == content
    assert eve.get(f"/files{file}").status_code == 403


def test_tokens_for_others_and_of_yesterday_are_refused(site: Site) -> None:
    other = site.token("ada", "other-cli")
    assert all("meant for another audience" in told for told in site.refusals(other))
    assert "REFUSES it: The token is meant for another audience" in check_token(other)
    short = site.token("ada", "short-cli")
    assert site.ask(short).status_code == 200
    wait_until(lambda: site.ask(short).status_code == 401)
    assert all("has expired" in told for told in site.refusals(short))


def test_a_task_outlives_the_token_of_its_user(site: Site, rse: Callable[[str, bytes], Path]) -> None:
    did = f"testing:{uuid.uuid4().hex}.dat"
    rse(DID.parse(did).path(), b"content")
    token = site.token("ada", "short-cli")
    with site.stack.paused("rse-web"):
        with site.session(token) as http:
            url = submit(http, site.stack.url, files=[{"did": did}], destination="late")
        wait_until(lambda: site.ask(token).status_code == 401)
    with site.session(site.token("ada")) as http:
        task = ended(http, url)
    assert task["state"] == "SUCCEEDED", task


def check_token(token: str) -> str:
    """Return what `make check-token` says of a token, or of the issuer alone."""
    command = ("make", "--silent", "check-token", f"INVENTORY={INVENTORY}")
    done = subprocess.run(command, input=token, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not token or token not in done.stdout + done.stderr
    return done.stdout


def test_check_token_says_what_services_make_of_it(site: Site) -> None:
    told = check_token(site.token("ada"))
    for service in ("core", "cavern", "posix_mapper"):
        assert re.search(rf"^{service} +accepts it as {site.users['ada']}, in groups survey-", told, re.M), (
            told
        )
    assert re.search(r"^ +exchanges it for one of \d{5} s$", told, re.M), told
    for client in ("prepare-data", "cavern"):
        assert re.search(rf"^ +is the client {client}, as service-account-{client} for \d+ s$", told, re.M), (
            told
        )


def test_the_smoke_test_is_that_of_a_user(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No file was staged" in deploy(site.settings, "playbooks/smoke.yml")
    monkeypatch.setenv("CAVERN_TOKEN", site.token("eve"))
    assert "Smoke test passed" in deploy(site.settings, "playbooks/smoke.yml")


def test_users_sign_in_and_out_at_the_page(site: Site) -> None:
    page = f"{site.stack.url}/prepare-data/ui"
    with requests.Session() as browser:
        browser.trust_env = False
        browser.verify = site.bundle
        browser.headers["Accept"] = "text/html"
        form = browser.get(f"{page}/sign-in?next=/tasks", timeout=60)
        assert form.url.startswith(site.issuer.issuer), form.text
        action = re.search(r'<form[^>]* action="([^"]+)"', form.text)
        assert action, form.text
        shown = browser.post(
            html.unescape(action[1]),
            data={"username": site.users["ada"], "password": PASSWORD},
            timeout=60,
        )
        assert (shown.url, shown.status_code) == (f"{page}/tasks", 200), shown.text
        assert site.users["ada"] in shown.text
        cookies = browser.cookies.copy()
        out = browser.post(f"{page}/sign-out", headers={**SAME, "Origin": site.stack.url}, timeout=60)
        assert out.url == f"{page}/"
        # The issuer has been told, and asks for the password again.
        again = browser.get(f"{page}/sign-in", timeout=60)
        assert again.url.startswith(site.issuer.issuer), again.url
        assert 'name="password"' in again.text
        browser.cookies = cookies
        assert browser.get(f"{page}/tasks", timeout=60).url.startswith(f"{page}/?next=")


def test_a_new_key_needs_no_restart(site: Site) -> None:
    token = site.token("ada")
    assert site.ask(token).status_code == 200
    started = {
        name: container.attrs["State"]["StartedAt"] for name, container in site.stack.containers().items()
    }
    site.issuer.administer(
        "POST",
        f"/{REALM}/components",
        {
            "name": "new",
            "providerId": "ecdsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"]},
        },
    )
    realm = site.issuer.administer("GET", f"/{REALM}")
    site.issuer.administer("PUT", f"/{REALM}", {**realm, "defaultSignatureAlgorithm": "ES256"})
    fresh = site.token("ada")
    assert jwt.get_unverified_header(fresh)["alg"] == "ES256"
    wait_until(lambda: site.ask(fresh).status_code == 200)
    wait_until(lambda: site.session(fresh).get(f"{site.stack.url}/src/cavern/nodes", timeout=60).ok)
    # An issuer that is away hinders nobody whose token it has issued.
    site.issuer.stop()
    another = site.ask(fresh)
    site.issuer.start()
    assert another.status_code == 200, another.text
    assert site.ask(site.token("bob")).status_code == 200
    now = {name: container.attrs["State"]["StartedAt"] for name, container in site.stack.containers().items()}
    assert now == started


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)
