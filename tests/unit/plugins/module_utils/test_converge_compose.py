# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same containers as a Compose file."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._converge import compose
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.errors import PlanError

NETWORK = {"name": "net", "subnet": "172.30.0.0/24", "gateway": None, "bridge": None, "mtu": None}
DATABASE: dict[str, Any] = {
    "name": "db",
    "container": "x-db",
    "image": "x/db:local",
    "address": "172.30.0.3",
    "mounts": [{"type": "volume", "source": "x-db", "target": "/var/lib/db"}],
    "restart_policy": "no",
}
WEB: dict[str, Any] = {
    "name": "web",
    "container": "x-web",
    "image": "x/web:local",
    "address": "172.30.0.2",
    "aliases": ["web"],
    "command": ["sh", "-c", "echo $HOME"],
    "environment": {"PRICE": "5$"},
    "ports": [{"host_address": "127.0.0.1", "host_port": 8443, "container_port": 443}],
    "mounts": [{"type": "tmpfs", "target": "/tmp", "tmpfs_size": "64m"}],
    "files": [{"path": "secrets/key", "secret_content": "hunter2"}],
    "config_target": "/config",
    "extra_hosts": {"vo.example": "172.30.0.9"},
    "memory": "256m",
    "stop_timeout": 7,
    "health": {"test": ["CMD", "true"], "interval": 10, "timeout": 5, "retries": 3, "start_period": 60},
    "depends_on": ["db", "elsewhere"],
}


def rendered(*services: dict[str, Any]) -> dict[str, Any]:
    return compose.to_compose(list(services), "x", NETWORK, "/state/config")


def test_a_service_has_the_same_options() -> None:
    assert rendered(WEB, DATABASE)["services"]["web"] == {
        "image": "x/web:local",
        "container_name": "x-web",
        "hostname": "x-web",
        "networks": {"net": {"ipv4_address": "172.30.0.2", "aliases": ["web"]}},
        "depends_on": {"db": {"condition": "service_healthy"}},
        "environment": {"PRICE": "5$$"},
        "volumes": [
            {"type": "bind", "source": "/state/config/web", "target": "/config", "read_only": True},
        ],
        "tmpfs": ["/tmp:mode=1777,size=67108864"],
        "ports": ["127.0.0.1:8443:443/tcp"],
        "extra_hosts": ["vo.example:172.30.0.9"],
        "read_only": False,
        "init": False,
        "restart": "no",
        "command": ["sh", "-c", "echo $$HOME"],
        "mem_limit": "256m",
        "memswap_limit": "256m",
        "stop_grace_period": "7s",
        "healthcheck": {
            "test": ["CMD", "true"],
            "retries": 3,
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        },
    }


def test_network_and_volumes_are_those_of_the_deployment() -> None:
    file = rendered(WEB, DATABASE)
    assert file["networks"] == {"net": {"external": True, "name": "net"}}
    assert file["volumes"] == {"x-db": {"external": True, "name": "x-db"}}


def test_no_secret_gets_into_the_file() -> None:
    assert "hunter2" not in str(rendered(WEB))


def test_what_is_not_selected_is_not_waited_for() -> None:
    assert "depends_on" not in rendered(WEB)["services"]["web"]


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(PlanError, match="is not a size"):
        rendered(DATABASE | {"memory": "much"})
