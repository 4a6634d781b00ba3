# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.modules import smoke

NODE, FILE = "/src/cavern/nodes/home/ada/testing", "/src/cavern/files/home/ada/testing/prepare_data_test.txt"
CONTAINER = "/src/cavern/nodes/test_container"
SUCCESS = {"status": "SUCCESS", "info": "Data provisioning successful"}
STEPS = [
    "Query the registry",
    "Read the root node",
    "Try to create a container without a token",
    "Create a container as the administrator",
    "Query the POSIX mapper",
    "Write the test file to the RSE",
    "Stage it through HAProxy",
    "Compare the staged bytes",
    "Stage it again from inside the network",
    "Remove what the test made",
]


class Site:
    """A deployment that stages by copying, and what it was asked from inside."""

    def __init__(self, service: Any, root: Path) -> None:
        self.service = service
        self.rse, self.space = root / "rse", root / "space"
        self.rse.mkdir()
        self.source = self.rse / "testing/84/1c/prepare_data_test.txt"
        self.staged = self.space / "home/ada/testing/prepare_data_test.txt"
        self.damage = b""
        self.task: Any = SUCCESS
        self.modes: list[int] = []
        self.inside: list[tuple[list[str], dict[str, str]]] = []
        capabilities = f"ivo://cavern = {service.url}/src/cavern/capabilities"
        service.on("GET", "/reg/resource-caps", service.reply(capabilities))
        service.on("GET", "/src/cavern/nodes/", service.reply("<node xsi:type='vos:ContainerNode'/>"))
        service.on("GET", CONTAINER, service.reply("", 404))
        service.on("PUT", CONTAINER, self.create)
        service.on("DELETE", CONTAINER, service.reply("", 204))
        service.on("GET", "/src/posix-mapper/uid", service.reply("ada\t10001\t10001\n"))
        service.on("POST", "/prepare-data/", lambda _request: service.document(self.stage()))
        service.on("GET", "/prepare-data/7", lambda _request: service.document(self.task))
        service.on("GET", FILE, lambda _request: service.reply(self.staged.read_bytes()))
        service.on("DELETE", f"{NODE}/prepare_data_test.txt", service.reply("", 204))
        service.on("DELETE", NODE, service.reply("", 204))

    def create(self, request: Any) -> Any:
        if "authorization" not in request.headers:
            return self.service.reply("no token", 403)
        return self.service.reply("<node/>", 201)

    def stage(self) -> dict[str, str]:
        self.modes = [path.stat().st_mode & 0o777 for path in (self.source.parent.parent, self.source)]
        self.staged.parent.mkdir(parents=True, exist_ok=True)
        self.staged.write_bytes(self.source.read_bytes() + self.damage)
        return {"task_id": "7"}

    def execute(
        self, _client: Any, _container: str, command: list[str], environment: dict[str, str]
    ) -> tuple[int, str]:
        self.inside.append((command, environment))
        return 0, json.dumps(self.task if command[-1].endswith("/7") else self.stage())

    def run(self, run_module: Any, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = run_module(
            smoke,
            url=self.service.url,
            token="hers",
            user="ada",
            routes={
                "reg": "/reg",
                "cavern": "/src/cavern",
                "posix_mapper": "/src/posix-mapper",
                "core": "/prepare-data",
            },
            rse_dir=str(self.rse),
            space_dir=str(self.space),
            inside={"container": "haproxy", "url": "http://core:8000"},
            logs=["core"],
            **{"administrator_token": "theirs"} | options,
        )
        return result

    def removed(self) -> list[str]:
        return [request.path for request in self.service.requests if request.method == "DELETE"]


@pytest.fixture
def site(service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    deployed = Site(service, tmp_path)
    engine = SimpleNamespace(logs=lambda _name, tail: b"first\nlast\n")
    monkeypatch.setattr(smoke._docker, "connect", lambda *_arguments: engine)
    monkeypatch.setattr(smoke._docker, "execute", deployed.execute)
    return deployed


def test_each_step_is_reported_and_nothing_is_left(run_module: Any, site: Site) -> None:
    result = site.run(run_module)
    assert [step["step"] for step in result["steps"]] == STEPS
    assert all(step["ms"] >= 0 for step in result["steps"])
    assert (result["changed"], result["size"]) == (False, site.staged.stat().st_size)
    assert list(site.rse.iterdir()) == []
    assert site.removed()[-3:] == [f"{NODE}/prepare_data_test.txt", NODE, CONTAINER]
    asked = site.service.asked("POST", "/prepare-data/")[0]
    assert asked.json() == [
        ["testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt", "./testing"]
    ]
    for command, environment in site.inside:
        assert environment == {"SKA_IAM_TOKEN": "hers"}
        assert not any("hers" in word for word in command)


def test_a_file_and_a_container_that_were_there_stay(run_module: Any, site: Site) -> None:
    site.source.parent.mkdir(parents=True)
    site.source.write_bytes(b"theirs")
    site.service.on("GET", CONTAINER, site.service.reply("<node/>"))
    site.service.on("PUT", CONTAINER, site.service.reply("DuplicateNode", 409))
    assert site.run(run_module)["size"] == len(b"theirs")
    assert site.source.read_bytes() == b"theirs"
    assert CONTAINER not in site.removed()


def test_without_the_administrator_all_else_is_tried(run_module: Any, site: Site) -> None:
    result = site.run(run_module, administrator_token=None)
    assert [step["step"] for step in result["steps"]] == [step for step in STEPS if "container" not in step]
    assert not [request for request in site.service.requests if request.path == CONTAINER]


def test_the_rse_can_read_the_file_whatever_the_umask(run_module: Any, site: Site) -> None:
    before = os.umask(0o077)
    try:
        assert "msg" not in site.run(run_module)
    finally:
        os.umask(before)
    assert site.modes == [0o755, 0o644]


def test_a_directory_that_is_exchanged_for_a_link_is_nobodys(
    run_module: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the RSE's directory would get what the link leads to."""
    target = tmp_path / "of-another"
    target.mkdir(mode=0o700)
    monkeypatch.setattr(Path, "mkdir", lambda path, *_mode: path.symlink_to(target))
    assert site.run(run_module)["msg"].startswith(f"Smoke test failed in: {STEPS[5]}: ")
    assert target.stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_too_large_is_refused(run_module: Any, site: Site) -> None:
    site.source.parent.mkdir(parents=True)
    site.source.touch()
    os.truncate(site.source, 64 * 2**20 + 1)
    assert f"path: {site.source} has 67108865 bytes; name a file of at most" in site.run(run_module)["msg"]


@pytest.mark.parametrize("document", [[], {}, "SUCCESS", None])
def test_a_status_that_is_none_is_told(run_module: Any, site: Site, document: Any) -> None:
    site.task = document
    assert f"{STEPS[6]}: prepare-data returned no status: {document}" in site.run(run_module)["msg"]


@pytest.mark.parametrize(
    ("path", "reply", "step", "why"),
    [
        ("/reg/resource-caps", ("", 200), STEPS[0], "does not name"),
        ("/reg/resource-caps", ("", 503), STEPS[0], "answered 503: Service Unavailable"),
        ("/src/cavern/nodes/", ("<html/>", 200), STEPS[1], "is no container node: <html/>"),
        ("/src/posix-mapper/uid", ("bob\t1\t1\n", 200), STEPS[4], "names no uid: bob"),
    ],
)
def test_the_service_that_fails_is_named(
    run_module: Any, site: Site, path: str, reply: tuple[str, int], step: str, why: str
) -> None:
    site.service.on("GET", path, site.service.reply(*reply))
    result = site.run(run_module)
    assert result["msg"].startswith(f"Smoke test failed in: {step}: {site.service.url}{path}")
    assert why in result["msg"]
    assert result["logs"] == {"core": ["first", "last"]}


def test_a_container_that_anybody_creates_fails_the_test(run_module: Any, site: Site) -> None:
    site.service.on("PUT", CONTAINER, site.service.reply("<node/>", 201))
    assert STEPS[2] in site.run(run_module)["msg"]
    assert site.removed() == [CONTAINER]


def test_a_task_that_fails_is_told_and_what_was_made_is_removed(run_module: Any, site: Site) -> None:
    site.task = {"status": "FAILURE", "info": "the RSE answered 404"}
    result = site.run(run_module)
    assert (
        result["msg"]
        == f"Smoke test failed in: {STEPS[6]}: the task 7 ended in FAILURE: the RSE answered 404"
    )
    assert result["steps"][-1] == {"step": STEPS[6]}
    assert list(site.rse.iterdir()) == []
    assert site.removed() == [f"{NODE}/prepare_data_test.txt", NODE, CONTAINER]


def test_other_bytes_than_the_rses_fail_the_test(run_module: Any, site: Site) -> None:
    site.damage = b"!"
    message = site.run(run_module)["msg"]
    assert message.startswith(f"Smoke test failed in: {STEPS[7]}: the staged bytes on disk (")
    assert "differ from the RSE's" in message


def test_what_cannot_be_removed_fails_the_test_and_leaves_the_rest_removed(
    run_module: Any, site: Site
) -> None:
    site.service.on("DELETE", NODE, site.service.reply("busy", 500))
    message = site.run(run_module)["msg"]
    assert message == f"Smoke test failed in: {STEPS[9]}: {site.service.url}{NODE} answered 500: busy"
    assert site.removed()[-1] == CONTAINER
    assert list(site.rse.iterdir()) == []
