# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The issuer for development is kept on this machine unless a setting says otherwise by name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rendering", reason="ansible-test runs these files without the playbooks' environment")

from rendering import check, render

OWN_ISSUER = [
    '{"deployment_service_overrides": {"iam": {"enabled": false}}}',
    "deployment_issuer=https://iam.example.org/",
]


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.7", "::", "127.0.0.1.example", ""])
def test_the_issuer_for_development_is_refused_on_other_addresses(tmp_path: Path, address: str) -> None:
    refused = render(tmp_path / "services.json", f"deployment_publish_address='{address}'")
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    for name in ("deployment_publish_address", "deployment_issuer", "iam_beyond_this_machine: true"):
        assert name in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        ["deployment_publish_address=127.8.0.1"],
        ["deployment_publish_address=::1"],
        ["deployment_publish_address=0.0.0.0", "iam_beyond_this_machine=true"],
        ["deployment_publish_address=0.0.0.0", *OWN_ISSUER],
    ],
)
def test_a_loopback_address_an_issuer_of_ones_own_or_the_setting_will_do(settings: list[str]) -> None:
    done = check(*settings)
    assert done.returncode == 0, done.stdout + done.stderr
