# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration files: compared, written whole, and removed when nobody wants them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import network
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.files import apply_files, plan_files


def spec(*files: dict[str, Any]) -> dict[str, Any]:
    return {"name": "web", "files": [{"owner": os.getuid(), "group": os.getgid(), **file} for file in files]}


def test_files_are_written_once_and_then_left_alone(tmp_path: Path) -> None:
    wanted = spec(
        {"path": "a/b.conf", "content": "one\n"}, {"path": "secrets/s", "secret_content": "x", "mode": "0400"}
    )
    plan = plan_files(wanted, str(tmp_path), check_mode=False)
    assert [(change.action, change.reasons) for change in plan.changes] == [("create", ["missing"])] * 2
    apply_files(plan, str(tmp_path))
    assert (tmp_path / "web/a/b.conf").read_text() == "one\n"
    assert (tmp_path / "web/secrets/s").stat().st_mode & 0o777 == 0o400
    assert plan_files(wanted, str(tmp_path), check_mode=False).changes == []


def test_an_edit_by_hand_is_shown_and_undone(tmp_path: Path) -> None:
    wanted = spec({"path": "x.conf", "content": "good\n", "on_change": "reload"})
    apply_files(plan_files(wanted, str(tmp_path), check_mode=False), str(tmp_path))
    file = tmp_path / "web/x.conf"
    file.chmod(0o666)
    file.write_text("bad\n")
    (change,) = plan_files(wanted, str(tmp_path), check_mode=True).changes
    assert (change.before, change.after, change.effect) == ("bad\n", "good\n", "reload")
    assert change.reasons == ["content", "mode: 0666 -> 0444"]
    assert file.read_text() == "bad\n"


def test_a_source_that_is_to_be_made_anew_changes_its_copy(tmp_path: Path) -> None:
    source = tmp_path / "ca.pem"
    source.write_text("old")
    wanted = spec({"path": "ca.pem", "source": str(source), "on_change": "reload"})
    apply_files(plan_files(wanted, str(tmp_path), check_mode=False), str(tmp_path))
    assert plan_files(wanted, str(tmp_path), check_mode=True).changes == []
    (change,) = plan_files(wanted, str(tmp_path), check_mode=True, renewed=frozenset({str(source)})).changes
    assert (change.reasons, change.effect) == (["content"], "reload")
    assert (change.before, change.after) == ("old", "(the new ca.pem)\n")


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    plan = plan_files(
        spec({"path": "secrets/s", "secret_content": "hunter2"}), str(tmp_path), check_mode=True
    )
    assert "hunter2" not in plan.changes[0].after + plan.changes[0].before


def test_what_nobody_wants_is_removed(tmp_path: Path) -> None:
    apply_files(plan_files(spec({"path": "old", "content": "x"}), str(tmp_path), False), str(tmp_path))
    plan = plan_files(spec(), str(tmp_path), check_mode=False)
    assert [(change.path.name, change.action) for change in plan.changes] == [("old", "remove")]
    apply_files(plan, str(tmp_path))
    assert not (tmp_path / "web/old").exists()


@pytest.mark.parametrize("path", ["../other/x", "/etc/passwd", "a/../../x"])
def test_files_stay_below_their_service(tmp_path: Path, path: str) -> None:
    with pytest.raises(PlanError, match="must lie below"):
        plan_files(spec({"path": path, "content": ""}), str(tmp_path), check_mode=False)


def test_a_missing_source_is_an_error_except_in_check_mode(tmp_path: Path) -> None:
    wanted = spec({"path": "ca.pem", "source": str(tmp_path / "nowhere.pem")})
    assert plan_files(wanted, str(tmp_path), check_mode=True).changes[0].reasons == ["missing"]
    with pytest.raises(PlanError, match="does not exist"):
        plan_files(wanted, str(tmp_path), check_mode=False)


def test_an_overlapping_network_is_named() -> None:
    known = [{"Name": "other", "IPAM": {"Config": [{"Subnet": "10.99.0.0/16"}]}}]
    assert network.overlap("10.99.5.0/24", known, "mine", "mine") == "the Docker network other (10.99.0.0/16)"
    assert network.overlap("10.99.5.0/24", known, "other", "mine") is None


def test_routes_that_lead_nowhere_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        "* 0005630A 00000000 0200 0 0 9999 00FFFFFF 0 0 0\n"  # unreachable 10.99.5.0/24
        "* 0006630A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"  # blackhole 10.99.6.0/24
        "eth7 0007630A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"  # 10.99.7.0/24
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **options: lines)
    assert network.overlap("10.99.5.0/24", [], "mine", "mine") is None
    assert network.overlap("10.99.6.0/24", [], "mine", "mine") is None
    assert network.overlap("10.99.0.0/16", [], "mine", "mine") == "the host's interface eth7 (10.99.7.0/24)"
