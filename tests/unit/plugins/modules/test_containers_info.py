# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from json import loads
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.modules import containers_info


class Engine:
    """An engine with one container that runs, one that has ended, and one that goes while it is looked at."""

    def containers(self, all: bool, filters: dict[str, str]) -> list[dict[str, Any]]:
        assert (all, filters) == (True, {"label": "int.skao.src.cavern.project=here"})
        return [
            {"Id": number, "Labels": {"int.skao.src.cavern.service": name}}
            for number, name in [("1", "cavern"), ("2", "reg"), ("3", "iam")]
        ]

    def inspect_container(self, name: str) -> dict[str, Any]:
        if name == "3":
            raise containers_info._docker.NotFound("gone")
        return {
            "Name": f"/src-{name}",
            "RestartCount": 2,
            "State": {
                "Running": name == "1",
                "Status": "running" if name == "1" else "exited",
                "StartedAt": "2026-11-26T10:00:00.123456789Z",
            },
        }

    def _url(self, path: str, name: str) -> str:
        return path.format(name)

    def _get(self, url: str, params: dict[str, bool]) -> str:
        assert (url, params) == ("/containers/1/stats", {"stream": False, "one-shot": True})
        return '{"memory_stats": {"usage": 5000, "stats": {"inactive_file": 1000}}}'

    def _result(self, answer: str, json: bool) -> Any:
        assert json
        return loads(answer)

    def close(self) -> None:
        """Nothing is open."""


def test_containers_by_service(run_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers_info._docker, "connect", lambda *_arguments: Engine())
    found = run_module(containers_info, project="here")["containers"]
    assert found["cavern"].pop("uptime") > 0
    assert found == {
        "cavern": {"container": "src-1", "state": "running", "restarts": 2, "memory": 4000},
        "reg": {"container": "src-2", "state": "exited", "uptime": None, "restarts": 2, "memory": None},
    }


@pytest.mark.parametrize(
    ("stats", "used"),
    [
        ({"memory_stats": {"usage": 900, "stats": {"total_inactive_file": 100, "inactive_file": 1}}}, 800),
        ({"memory_stats": {"usage": 900, "stats": {"inactive_file": 300}}}, 600),
        ({"memory_stats": {"usage": 900}}, 900),
        ({"memory_stats": {}}, None),
        ({}, None),
    ],
)
def test_memory_without_cached_files(stats: dict[str, Any], used: int | None) -> None:
    assert containers_info.memory(stats) == used
