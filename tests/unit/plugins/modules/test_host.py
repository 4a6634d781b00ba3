# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils import _apt, _engine, _host
from ansible_collections.skasrc.cavern.plugins.modules import host

ANSWERS: dict[str, Any] = {}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "ask", lambda path, timeout=10.0: _engine.Answer("26.1.5", "1.45"))
    monkeypatch.setattr(_engine, "request", lambda path, method, target: (200, ANSWERS.get(target, {})))


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "record": str(tmp_path / "state/host.json"),
        "directories": [
            {"path": str(tmp_path / "data/rse_data")},
            {"path": str(tmp_path / "state"), "mode": "0700"},
        ],
        "programs": [{"path": str(tmp_path / "home/bin/tool"), "content": "#!/bin/sh\necho tool\n"}],
    }


def _acts(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(action["action"], action["object"]) for action in result["actions"]]


@pytest.mark.usefixtures("answering")
def test_second_run_changes_nothing(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    result = run_module(host, **options)
    assert result["engine"] == {"version": "26.1.5", "api_version": "1.45"}
    assert _acts(result) == [("create", "directory"), ("create", "directory"), ("create", "program")]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert os.access(tmp_path / "home/bin/tool", os.X_OK)
    assert not run_module(host, **options)["changed"]


@pytest.mark.usefixtures("answering")
def test_check_mode_tells_what_the_run_does(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    checked = run_module(host, check=True, **options)
    assert list(tmp_path.iterdir()) == []
    assert run_module(host, **options)["actions"] == checked["actions"]


@pytest.mark.usefixtures("answering")
def test_absent_leaves_the_host_as_it_was(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    run_module(host, **options)
    checked = run_module(host, check=True, **options, state="absent")
    assert (tmp_path / "home/bin/tool").exists()
    result = run_module(host, **options, state="absent")
    assert result["actions"] == checked["actions"]
    # What was there stays, even if empty.
    assert list(tmp_path.rglob("*")) == [tmp_path / "home"]
    assert not (tmp_path / "data").exists()
    assert not run_module(host, **options, state="absent")["changed"]


@pytest.mark.usefixtures("answering")
def test_absent_keeps_directories_with_content(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run_module(host, **options)
    (tmp_path / "data/rse_data/file").touch()
    (tmp_path / "home/bin/other").touch()
    run_module(host, **options, state="absent")
    assert (tmp_path / "data/rse_data/file").exists()
    assert [path.name for path in (tmp_path / "home/bin").iterdir()] == ["other"]


@pytest.mark.usefixtures("answering")
def test_program_is_updated_but_a_foreign_one_is_not(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run_module(host, **options)
    program = tmp_path / "home/bin/tool"
    newer = options | {"programs": [{"path": str(program), "content": "#!/bin/sh\n"}]}
    assert _acts(run_module(host, **newer)) == [("update", "program")]
    program.write_text("my own")
    result = run_module(host, **options)
    assert "exists with other content that this module did not write" in result["msg"]
    assert program.read_text() == "my own"
    assert "stays: it was changed" in str(run_module(host, **options, state="absent")["warnings"])
    assert program.read_text() == "my own"


@pytest.mark.usefixtures("answering")
def test_operators_mode_of_a_data_directory_is_kept(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run_module(host, **options)
    (tmp_path / "data/rse_data").chmod(0o2775)
    assert not run_module(host, **options)["changed"]
    (tmp_path / "state").chmod(0o755)
    result = run_module(host, **options)
    assert result["actions"][0]["reasons"] == ["mode was 0755, wanted 0700"]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("mode", ["rwx", "9", "448"])
def test_mode_that_is_not_octal_is_refused(
    run_module: Any, options: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    options["directories"][0]["mode"] = mode
    assert "is not octal" in run_module(host, **options)["msg"]
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("answering")
def test_engine_that_is_too_old_is_refused(run_module: Any, options: dict[str, Any]) -> None:
    result = run_module(host, **options, minimum_api_version="1.50")
    assert "Docker Engine 26.1.5 is too old: its API is 1.45, 1.50 is needed" in result["msg"]


@pytest.mark.usefixtures("answering")
def test_damaged_record_is_told(run_module: Any, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/host.json").write_text(json.dumps([]))
    assert f"record: {tmp_path}/state/host.json is damaged" in run_module(host, **options)["msg"]


def test_bare_host_gets_packages_and_a_start(
    run_module: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(_engine, "ask", lambda path, timeout=10.0: None)
    monkeypatch.setattr(_engine, "installed", lambda: False)
    monkeypatch.setattr(_engine, "start", lambda path, timeout: ("systemd", _engine.Answer("26", "1.45")))
    monkeypatch.setattr(_apt, "available", lambda: True)
    monkeypatch.setattr(_apt, "update", lambda timeout: done.append("update"))
    monkeypatch.setattr(_apt, "known", lambda packages: [name for name in packages if name != "docker-cli"])
    monkeypatch.setattr(_apt, "install", lambda packages, timeout: done.append(packages))
    monkeypatch.setattr(_host, "APPARMOR", Path("/nonexistent"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    checked = run_module(host, check=True, **options)
    assert done == []
    result = run_module(host, **options)
    assert done == ["update", ["docker.io", "iptables", "ca-certificates"]]
    assert result["engine"]["started_by"] == "systemd"
    assert result["actions"] == checked["actions"]


@pytest.mark.usefixtures("answering")
def test_library_missing_from_a_virtual_environment_says_what_to_do(
    run_module: Any, options: dict[str, Any]
) -> None:
    result = run_module(host, **options, python_libraries={"no_such_library": "python3-no-such"})
    assert "-m pip install no_such_library" in result["msg"]


@pytest.mark.usefixtures("answering")
def test_home_is_that_of_the_user_behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert _host.expand_home("~/bin") == Path("/root/bin")
    monkeypatch.setenv("SUDO_USER", "daemon")
    assert _host.expand_home("~/bin/tool") == Path("/usr/sbin/bin/tool")
    assert _host.expand_home("/opt/~/tool") == Path("/opt/~/tool")


@pytest.mark.usefixtures("answering")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_a_former_owner_had_goes_with_the_directory(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (results / "old").mkdir(parents=True)
    (results / "old/receipt").touch()
    (results / "own").touch()
    outside = tmp_path / "outside"
    outside.touch()
    (results / "link").symlink_to(outside)
    for path in (results, results / "old", results / "old/receipt", results / "link"):
        os.chown(path, 8000, 8000, follow_symlinks=False)
    entry = {"path": str(results), "owner": 8014, "group": 8000, "mode": "0770", "former_owners": [8000]}
    options["directories"] = [entry]
    checked = run_module(host, check=True, **options)
    assert results.stat().st_uid == 8000
    result = run_module(host, **options)
    assert result["actions"] == checked["actions"]
    assert "owner was 8000:8000, wanted 8014:8000" in str(result["actions"])
    found = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in (results, *results.rglob("*"))}
    assert found == {
        "results": (8014, 8000),
        "old": (8014, 8014),
        "receipt": (8014, 8014),
        "link": (8014, 8014),
        "own": (0, 0),
    }
    assert outside.stat().st_uid == 0
    assert not run_module(host, **options)["changed"]


@pytest.mark.usefixtures("answering")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as others")
def test_the_operator_reads_what_the_worker_keeps_from_others(
    run_module: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """Whoever deploys through sudo; what is there already, and what is written later."""
    checkout = Path("/var/tmp") / f"operator-{tmp_path.name}-{os.getpid()}"
    results = checkout / "logs/results"
    results.mkdir(parents=True)
    try:
        os.chown(checkout / "logs", 1234, 1234)
        entry = {"path": str(results), "owner": 8014, "group": 8000, "mode": "0770", "operator_reads": True}
        options["directories"] = [entry]
        checked = run_module(host, check=True, **options)
        assert "uid 1234, may not read it" in str(checked["actions"])
        assert run_module(host, **options)["actions"] == checked["actions"]
        assert not run_module(host, **options)["changed"]
        assert results.stat().st_mode & 0o7777 == 0o770
        _as(8014, f"umask 077; echo receipt > {results}/a; chmod 0640 {results}/a")
        _as(1234, f"ls {results} && cat {results}/a")
        for uid, command in (
            (1234, f"touch {results}/b"),
            (1234, f"echo >> {results}/a"),
            (1235, f"ls {results}"),
        ):
            with pytest.raises(subprocess.CalledProcessError):
                _as(uid, command)
    finally:
        shutil.rmtree(checkout)


def _as(uid: int, command: str) -> None:
    subprocess.run(
        ["sh", "-c", command], check=True, user=uid, group=uid, extra_groups=[], capture_output=True
    )


@pytest.mark.usefixtures("answering")
def test_an_operator_reads_no_more_than_the_mode_lets(run_module: Any, options: dict[str, Any]) -> None:
    options["directories"] = [{"path": "/nowhere", "mode": "0700", "operator_reads": True}]
    assert "mode '0700' of /nowhere must let a group read" in run_module(host, **options)["msg"]


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"/version": {"Components": [{"Name": "Podman Engine"}]}},
            "Podman answers in place of Docker Engine",
        ),
        (
            {"/info": {"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}},
            "remove userns-remap",
        ),
        ({"/info": {"SecurityOptions": ["name=rootless"]}}, "Docker Engine is rootless, so that"),
        ({"/info": {"OperatingSystem": "Docker Desktop"}}, "in a virtual machine, so that its network"),
        (
            {
                "/info": {"Name": "vm"},
                "/networks/bridge": {"Options": {"com.docker.network.bridge.name": "elsewhere0"}},
            },
            "runs on another machine, vm: this one has no interface elsewhere0",
        ),
    ],
)
def test_engines_that_do_not_work_are_refused_before_anything_is_made(
    run_module: Any,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setitem(globals(), "ANSWERS", answers)
    assert message in run_module(host, **options)["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("answering")
def test_what_runs_beside_an_engine_takes_it_wherever_it_is(
    run_module: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ANSWERS", {"/info": {"OperatingSystem": "Docker Desktop"}})
    monkeypatch.setenv(_engine.PLACE, "cavern-engine-host")
    assert run_module(host, **options)["changed"]
