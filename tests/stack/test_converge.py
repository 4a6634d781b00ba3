"""The module converge against a real engine: whatever is done to a deployment by hand is found, told and undone."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import ConvergeError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.project import Converger
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.upgrade import Upgrader
from ansible_collections.skasrc.cavern.plugins.modules import converge
from deployment import Deployment

PROJECT = "converge-test"
SECRET = "never-to-be-shown"
OTHER = "converge-test-other"
GOOD, NEWER, BROKEN = (f"{PROJECT}:{tag}" for tag in ("good", "newer", "broken"))


class Site:
    """A deployment of two small services."""

    def __init__(self, client: Any, root: Path) -> None:
        """Keep its files below *root*."""
        self.client = client
        self.root = root
        service: dict[str, Any] = {
            "image": GOOD,
            "command": ["sleep", "infinity"],
            "init": True,
            "memory": "64m",
            "environment": {"COLOUR": "blue"},
            "stop_timeout": 1,
            "health": {"test": ["CMD", "test", "-e", "/etc/healthy"], "interval": 1},
        }
        self.services: dict[str, dict[str, Any]] = {
            "base": service
            | {
                "name": "base",
                "container": f"{PROJECT}-base",
                "address": "172.30.0.2",
                "files": [
                    {"path": "plain", "content": "wanted\n"},
                    {"path": "secrets/key", "secret_content": SECRET, "mode": "0400"},
                ],
            },
            "user": service
            | {
                "name": "user",
                "container": f"{PROJECT}-user",
                "address": "172.30.0.3",
                "depends_on": ["base"],
            },
        }
        self.network = {"name": PROJECT, "subnet": "172.30.0.0/24", "bridge": "cvtest0"}

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module's work, and return what it would return."""
        services = copy.deepcopy(list(self.services.values()))
        wanted = {
            "project": PROJECT,
            "network": self.network,
            "config_dir": str(self.root),
            "catalogue": list(self.services),
            "services": services,
            "timeout": 20,
            **options,
        }
        validator: Any = ArgumentSpecValidator
        checked = validator(converge.ARGUMENTS).validate(wanted)
        assert not checked.error_messages
        parameters: dict[str, Any] = checked.validated_parameters
        how = Upgrader if parameters["strategy"] == "one_by_one" else Converger
        run = how(self.client, parameters, check)
        if parameters["state"] == "present":
            run.plan()
            if not check:
                run.apply()
        else:
            run.stop(remove=True)
        result: dict[str, Any] = run.result()
        assert SECRET not in str(result)
        return result

    def converge(self, **options: Any) -> list[tuple[str, str, str]]:
        """Run to the wanted state: check mode told it before, and nothing is left to do after."""
        told = self.run(check=True, **options)
        done = self.run(**options)
        assert told["actions"] == done["actions"]
        assert told["diff"] == done["diff"]
        assert self.run(**(options | {"recreate": []}))["actions"] == []
        return [(action["object"], Path(action["name"]).name, action["action"]) for action in done["actions"]]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        found: dict[str, Any] = self.client.inspect_container(f"{PROJECT}-{service}")
        return found


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The engine, with three small images made from one of the deployment's."""
    client = docker.APIClient(version="auto")
    base = Deployment.of().image("base")
    if not client.images(base):
        request.getfixturevalue("stack")
    for tag, healthy in {
        GOOD: "touch /etc/healthy",
        NEWER: "touch /etc/healthy /etc/newer",
        BROKEN: "true",
    }.items():
        recipe = io.BytesIO(f"FROM {base}\nUSER 0\nRUN {healthy}\n".encode())
        log = list(client.build(fileobj=recipe, tag=tag, rm=True, decode=True))
        assert client.images(tag), log
    yield client
    for tag in (GOOD, NEWER, BROKEN):
        client.remove_image(tag, force=True)


@pytest.fixture
def site(client: Any, tmp_path: Path) -> Iterator[Site]:
    """Such a deployment, up; taken away afterwards with all that is its own."""
    site = Site(client, tmp_path)
    try:
        site.converge()
        yield site
    finally:
        site.run(state="absent", services=[], remove_network=True, remove_volumes=True)


def _recreated_with(site: Site, **changes: Any) -> None:
    """Make the container of `base` anew as somebody would who edits it."""
    name = site.services["base"]["container"]
    before = site.services["base"]
    site.services["base"] = before | changes
    site.run()
    site.services["base"] = before
    assert site.client.inspect_container(name)


def _second_network(site: Site) -> None:
    site.client.create_network(OTHER)
    site.client.connect_container_to_network(f"{PROJECT}-base", OTHER)


@pytest.fixture
def second_network(client: Any) -> Iterator[None]:
    yield
    for network in client.networks(names=[OTHER]):
        client.remove_network(network["Id"])


BASE = f"{PROJECT}-base"
MISHAPS: dict[str, tuple[Callable[[Site], object], list[tuple[str, str, str]]]] = {
    "removed": (
        lambda site: site.client.remove_container(BASE, force=True),
        [("container", BASE, "create")],
    ),
    "killed": (lambda site: site.client.kill(BASE), [("container", BASE, "start")]),
    "stopped": (lambda site: site.client.stop(BASE), [("container", BASE, "start")]),
    "paused": (lambda site: site.client.pause(BASE), [("container", BASE, "unpause")]),
    "memory": (
        lambda site: site.client.update_container(BASE, mem_limit="96m", memswap_limit="96m"),
        [("container", BASE, "recreate")],
    ),
    "restart policy": (
        lambda site: site.client.update_container(BASE, restart_policy={"Name": "no"}),
        [("container", BASE, "recreate")],
    ),
    "environment": (
        lambda site: _recreated_with(site, environment={"COLOUR": "red"}),
        [("container", BASE, "recreate")],
    ),
    "another variable": (
        lambda site: _recreated_with(site, environment={"COLOUR": "blue", "MORE": "1"}),
        [("container", BASE, "recreate")],
    ),
    "address": (
        lambda site: _recreated_with(site, address="172.30.0.9"),
        [("container", BASE, "recreate")],
    ),
    "image": (lambda site: _recreated_with(site, image=NEWER), [("container", BASE, "recreate")]),
    "another network": (_second_network, [("container", BASE, "recreate")]),
    "file edited": (
        lambda site: (site.root / "base/plain").write_text("by hand\n"),
        [("file", "plain", "update"), ("container", BASE, "restart")],
    ),
    "file removed": (
        lambda site: (site.root / "base/plain").unlink(),
        [("file", "plain", "create"), ("container", BASE, "restart")],
    ),
    "secret edited": (
        lambda site: (site.root / "base/secrets/key").write_text("by hand, " + SECRET),
        [("file", "key", "update"), ("container", BASE, "restart")],
    ),
    "file opened to all": (
        lambda site: (site.root / "base/secrets/key").chmod(0o644),
        [("file", "key", "update"), ("container", BASE, "restart")],
    ),
    "file added": (
        lambda site: (site.root / "base/more").write_text("by hand\n"),
        [("file", "more", "remove")],
    ),
}


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.usefixtures("second_network")
def test_what_is_done_by_hand_is_undone(site: Site, mishap: str) -> None:
    happen, expected = MISHAPS[mishap]
    other = site.inspect("user")["Id"]
    happen(site)
    assert site.converge() == expected
    assert site.inspect("base")["State"]["Running"]
    assert not site.inspect("base")["State"]["Paused"]
    assert site.inspect("user")["Id"] == other


def test_a_difference_names_what_is_and_what_should_be(site: Site) -> None:
    _recreated_with(site, environment={"COLOUR": "red"})
    (action,) = site.run(check=True)["actions"]
    assert action["reasons"] == ["environment.COLOUR changed"]


def test_a_paused_container_whose_file_changes_goes_on(site: Site) -> None:
    site.client.pause(BASE)
    (site.root / "base/plain").write_text("by hand\n")
    assert site.converge() == [("file", "plain", "update"), ("container", BASE, "restart")]
    assert not site.inspect("base")["State"]["Paused"]


def test_a_missing_network_comes_back_with_its_containers(site: Site) -> None:
    for name in site.services:
        site.client.remove_container(f"{PROJECT}-{name}", force=True)
    site.client.remove_network(PROJECT)
    assert sorted(site.converge()) == [
        ("container", f"{PROJECT}-base", "create"),
        ("container", f"{PROJECT}-user", "create"),
        ("network", PROJECT, "create"),
    ]


def test_another_subnet_moves_everything(site: Site) -> None:
    site.network = site.network | {"subnet": "172.30.0.0/25"}
    assert sorted(site.converge()) == [
        ("container", f"{PROJECT}-base", "recreate"),
        ("container", f"{PROJECT}-user", "recreate"),
        ("network", PROJECT, "recreate"),
    ]


def test_prune_takes_only_what_is_owned(site: Site) -> None:
    stranger = site.client.create_container(GOOD, ["sleep", "infinity"], name=OTHER)
    try:
        del site.services["user"]
        assert site.converge() == []
        assert site.converge(prune=True) == [("container", f"{PROJECT}-user", "remove")]
        assert site.client.inspect_container(OTHER)["Id"] == stranger["Id"]
    finally:
        site.client.remove_container(OTHER, force=True)


def test_a_stranger_with_a_name_of_ours_is_left_alone(site: Site) -> None:
    site.client.remove_container(BASE, force=True)
    site.client.create_container(GOOD, ["sleep", "infinity"], name=BASE)
    try:
        with pytest.raises(ConvergeError, match="is not of this deployment"):
            site.run()
    finally:
        site.client.remove_container(BASE, force=True)


def test_an_upgrade_changes_one_service_after_the_other(site: Site) -> None:
    for service in site.services.values():
        service["image"] = NEWER
    assert sorted(site.converge(strategy="one_by_one")) == [
        ("container", f"{PROJECT}-base", "recreate"),
        ("container", f"{PROJECT}-user", "recreate"),
    ]
    started = [site.inspect(name)["State"]["StartedAt"] for name in ("base", "user")]
    assert started == sorted(started)
    names = {name for c in site.client.containers(all=True) for name in c["Names"] if PROJECT in name}
    assert names == {f"/{PROJECT}-base", f"/{PROJECT}-user"}
    assert not (site.root / ".former/base").exists()


def test_a_service_that_fails_its_upgrade_gets_back_what_it_had(site: Site) -> None:
    before = site.inspect("user")["Id"]
    site.services["base"]["image"] = NEWER
    site.services["user"]["image"] = BROKEN
    with pytest.raises(ConvergeError) as failed:
        site.run(strategy="one_by_one", timeout=2)
    message = str(failed.value)
    assert message.startswith("user: the container converge-test-user is not healthy after 2 s")
    assert "Rolled back: it runs its former image and configuration again and is healthy." in message
    assert "Upgraded before it and kept: base." in message
    assert site.inspect("user")["Id"] == before
    assert site.inspect("user")["State"]["Running"]


def test_its_configuration_comes_back_with_it_and_the_rest_is_not_reached(site: Site) -> None:
    config = site.root / "base"
    before = {path: (path.read_bytes(), path.stat()) for path in config.rglob("*") if path.is_file()}
    container = site.inspect("base")["Id"]
    site.services["base"]["files"][0]["content"] = "newer\n"
    site.services["base"]["image"] = BROKEN
    site.services["user"]["image"] = NEWER
    user = site.inspect("user")["Id"]
    with pytest.raises(ConvergeError, match="Not reached: user"):
        site.run(strategy="one_by_one", timeout=2)
    for path, (content, status) in before.items():
        assert path.read_bytes() == content
        now = path.stat()
        assert (now.st_mode, now.st_uid, now.st_gid) == (status.st_mode, status.st_uid, status.st_gid)
    assert site.inspect("base")["Id"] == container
    assert site.inspect("user")["Id"] == user
    site.services["base"]["files"][0]["content"] = "wanted\n"
    for service in site.services.values():
        service["image"] = GOOD
    assert site.run()["actions"] == []


def _volume_of(site: Site, former: int) -> Path:
    """Give `base` a volume with a file of *former*'s, and one of somebody else's."""
    site.services["base"]["user"] = f"{former}:{former}"
    site.services["base"]["mounts"] = [{"type": "volume", "source": f"{PROJECT}-data", "target": "/store"}]
    site.converge()
    place = Path(site.client.inspect_volume(f"{PROJECT}-data")["Mountpoint"])
    (place / "old").mkdir()
    (place / "old/file").touch()
    (place / "other").touch()
    for path in (place, place / "old", place / "old/file"):
        os.chown(path, former, former)
    os.chown(place / "other", 26, 26)
    return place


def _owners(place: Path) -> dict[str, int]:
    return {path.name: path.stat().st_uid for path in (place, *place.rglob("*"))}


def test_a_volume_goes_to_the_new_user_of_its_service(site: Site) -> None:
    place = _volume_of(site, 8001)
    site.services["base"]["user"] = "8003:8003"
    site.services["base"]["mounts"][0] |= {"owner": 8003, "former_owners": [8001]}
    assert site.converge() == [("volume", f"{PROJECT}-data", "update"), ("container", BASE, "recreate")]
    assert _owners(place) == {"_data": 8003, "old": 8003, "file": 8003, "other": 26}
    # Whom nobody named keeps it: it may be the data of another image.
    os.chown(place, 26, 26)
    assert site.converge() == []


def test_a_volume_goes_back_with_a_service_that_fails_its_upgrade(site: Site) -> None:
    place = _volume_of(site, 8001)
    before = site.inspect("base")["Id"]
    site.services["base"] |= {"user": "8003:8003", "image": BROKEN}
    site.services["base"]["mounts"][0] |= {"owner": 8003, "former_owners": [8001]}
    with pytest.raises(ConvergeError, match="Rolled back"):
        site.run(strategy="one_by_one", timeout=2)
    assert _owners(place) == {"_data": 8001, "old": 8001, "file": 8001, "other": 26}
    assert site.inspect("base")["Id"] == before
