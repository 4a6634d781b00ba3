# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container beside an engine: when it is made and when replaced; with a program in the place of docker."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.playbook.play_context import PlayContext
from ansible_collections.skasrc.cavern.plugins.connection.engine import LABEL, Connection

# Keeps the container as Docker does, and writes down what it was asked.
DOCKER = """\
#!/usr/bin/env python3
import json, os, pathlib, sys
home = pathlib.Path(os.environ["DOUBLE"])
arguments = sys.argv[1:]
with (home / "asked").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
container, image = home / "container", home / "image"
def known(file, text):
    if file.exists():
        print(file.read_text())
    else:
        sys.exit(f"Error: No such {text}")
match arguments[0]:
    case "container":
        known(container, "container: x")
    case "image":
        known(image, "image: x")
    case "info":
        print((home / "info").read_text())
    case "version":
        print((home / "version").read_text())
    case "build":
        image.write_text('"sha256:0"')
    case "rm":
        container.unlink()
    case "start":
        container.write_text(container.read_text().replace("false", "true"))
    case "run":
        labels = dict(a.removeprefix("--label=").split("=", 1) for a in arguments if a.startswith("--label="))
        container.write_text(json.dumps({"Config": {"Labels": labels}, "State": {"Running": True}}))
    case "exec":
        at = arguments.index("x-engine-host")
        os.execvp(arguments[at + 1], arguments[at + 1:])
"""
INFORMATION: dict[str, Any] = {
    "Name": "docker-desktop",
    "OperatingSystem": "Docker Desktop",
    "ServerVersion": "28.0.4",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    (tmp_path / "info").write_text(json.dumps(INFORMATION))
    (tmp_path / "version").write_text("{}")
    monkeypatch.setenv("DOUBLE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def connect(home: Path, **options: Any) -> Connection:
    connection = Connection(PlayContext())
    given = {
        "remote_addr": "x-engine-host",
        "remote_user": "root",
        "base_image": "debian:trixie-slim",
        "mirror": "http://deb.debian.org/debian",
        "directory": "/srv/x",
        "mounts": [{"source": str(home / "shared"), "target": "/srv/x/shared"}],
        "owner": str(home / "state"),
        "takeover": False,
        **options,
    }
    connection.get_option = lambda name, hostvars=None: given[name]
    return connection._connect()


def mount(kind: str, source: str, target: str) -> str:
    return f"--mount=type={kind},source={source},target={target}"


def asked(home: Path) -> list[list[str]]:
    return [json.loads(line) for line in (home / "asked").read_text().splitlines()]


def test_the_container_is_made_once(home: Path) -> None:
    connect(home)
    (run,) = (arguments for arguments in asked(home) if arguments[0] == "run")
    assert {"--network=host", mount("bind", "/var/run/docker.sock", "/var/run/docker.sock")} < set(run)
    assert {
        mount("volume", "x-engine-host", "/srv/x"),
        mount("bind", f"{home}/shared", "/srv/x/shared"),
    } < set(run)
    assert "--env=CAVERN_ENGINE_HOST=x-engine-host" in run
    # By who deploys: the engine would make it root's.
    assert (home / "shared").is_dir()
    (home / "asked").unlink()
    connect(home)
    assert [arguments[:2] for arguments in asked(home)] == [["container", "inspect"]]


def test_a_container_that_stopped_is_started(home: Path) -> None:
    connect(home)
    container = home / "container"
    container.write_text(container.read_text().replace("true", "false"))
    connect(home)
    assert asked(home)[-1] == ["start", "x-engine-host"]


@pytest.mark.parametrize(
    "change", [{"base_image": "debian:forky-slim"}, {"mounts": []}, {"directory": "/srv/y"}]
)
def test_a_container_of_other_settings_is_replaced(home: Path, change: dict[str, Any]) -> None:
    connect(home)
    connect(home, **change)
    assert [arguments[0] for arguments in asked(home)][-2:] == ["rm", "run"]


def test_a_strangers_container_is_left_alone(home: Path) -> None:
    (home / "container").write_text(json.dumps({"Config": {"Labels": {}}, "State": {"Running": True}}))
    with pytest.raises(AnsibleConnectionFailure, match="not of this collection"):
        connect(home)
    assert len(asked(home)) == 1


def test_the_container_of_another_checkout_is_left_alone(home: Path) -> None:
    connect(home)
    (home / "asked").unlink()
    there = {"owner": str(home / "elsewhere"), "mounts": []}
    with pytest.raises(
        AnsibleConnectionFailure, match=rf"with its secrets in {home}/state; this one has them in"
    ):
        connect(home, **there)
    assert [arguments[:2] for arguments in asked(home)] == [["container", "inspect"]]
    connect(home, takeover=True, **there)
    connect(home, **there)
    with pytest.raises(AnsibleConnectionFailure, match=rf"with its secrets in {home}/elsewhere"):
        connect(home)


def test_a_directory_may_have_any_name(home: Path) -> None:
    odd = home / 'a:b,"c'
    connect(home, mounts=[{"source": str(odd), "target": "/srv/x/odd", "read_only": True}])
    (option,) = (argument for argument in asked(home)[-1] if "odd" in argument)
    (fields,) = csv.reader([option.removeprefix("--mount=")])
    assert fields == ["type=bind", f"source={odd}", "target=/srv/x/odd", "readonly"]


def test_an_archive_with_a_password_is_refused(home: Path) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="deployment_debian_mirror: has a name") as refused:
        connect(home, mirror="http://me:hunter2@deb.example/debian")
    assert "hunter2" not in str(refused.value)
    assert not any(arguments[0] == "build" for arguments in asked(home))


@pytest.mark.parametrize(
    ("file", "answer", "message"),
    [
        ("version", {"Components": [{"Name": "Podman Engine"}]}, "Podman answers"),
        ("info", INFORMATION | {"SecurityOptions": ["name=userns"]}, "userns-remap"),
    ],
)
def test_an_engine_that_does_not_work_is_refused(home: Path, file: str, answer: Any, message: str) -> None:
    (home / file).write_text(json.dumps(answer))
    with pytest.raises(AnsibleConnectionFailure, match=message):
        connect(home)
    assert not (home / "container").exists()


def test_the_socket_of_a_rootless_engine_is_in_the_users_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "info").write_text(json.dumps(INFORMATION | {"SecurityOptions": ["name=rootless"]}))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    connect(home)
    assert mount("bind", "/run/user/1000/docker.sock", "/var/run/docker.sock") in asked(home)[-1]


def test_a_machine_without_docker_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(AnsibleConnectionFailure, match="no command `docker`"):
        connect(home)


def test_commands_and_files_go_through_the_container(home: Path) -> None:
    connection = connect(home)
    assert connection.exec_command("cat; exit 3", b"in") == (3, b"in", b"")
    source, there, back = (home / name for name in ("source", "there", "back"))
    source.write_bytes(b"\0\xff" * 100)
    connection.put_file(str(source), str(there))
    connection.fetch_file(str(there), str(back))
    assert there.read_bytes() == back.read_bytes() == source.read_bytes()
    with pytest.raises(AnsibleConnectionFailure, match="cannot be read"):
        connection.fetch_file(str(home / "none"), str(back))


def test_the_label_tells_a_container_of_this_collection() -> None:
    assert LABEL.startswith("int.skao.src.cavern.")
