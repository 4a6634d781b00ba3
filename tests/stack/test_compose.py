"""The Compose file of the deployment brings up the same services on the same data."""

from __future__ import annotations

import requests
from compose import Compose
from deployment import Deployment, playbook


def test_the_same_deployment_by_compose(stack: Deployment, http: requests.Session, user: str) -> None:
    number = f"{stack.url}/src/posix-mapper/uid?user={user}"
    before = http.get(number, timeout=30).text
    described = {name: container.attrs for name, container in stack.containers().items()}
    # docker-compose waits for the first of Docker's checks, one service after the other.
    compose = Compose(stack, lambda book: playbook(book, "-e", "deployment_health_interval=2"))
    playbook("playbooks/down.yml")
    try:
        compose.up()
        for name, wanted in described.items():
            found = stack.container(name).attrs
            assert found["Image"] == wanted["Image"], name
            assert sorted(found["Config"]["Env"]) == sorted(wanted["Config"]["Env"]), name
            for key in (
                "Memory",
                "ReadonlyRootfs",
                "CapAdd",
                "CapDrop",
                "SecurityOpt",
                "RestartPolicy",
                "Tmpfs",
            ):
                # An empty list is as good as none.
                assert (found["HostConfig"][key] or None) == (wanted["HostConfig"][key] or None), (name, key)
            addresses = [
                {net: end["IPAddress"] for net, end in attrs["NetworkSettings"]["Networks"].items()}
                for attrs in (found, wanted)
            ]
            assert addresses[0] == addresses[1], name
        playbook("playbooks/smoke.yml")
        assert http.get(number, timeout=30).text == before
    finally:
        compose.down()
        playbook("site.yml")
