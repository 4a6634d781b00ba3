# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection, the distributions of its services and the chart are released together."""

from __future__ import annotations

import tomllib

import yaml
from documents import ROOT


def test_all_that_is_released_has_one_version() -> None:
    released = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    found = {
        path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
        for path in (ROOT / "app").glob("*/pyproject.toml")
    }
    assert len(found) == 7
    chart = yaml.safe_load((ROOT / "roles/kubernetes/defaults/main.yml").read_text(encoding="utf-8"))
    found["chart"] = chart["kubernetes_chart_version"]
    assert found == dict.fromkeys(found, released)
