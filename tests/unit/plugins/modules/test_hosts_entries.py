# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skasrc.cavern.plugins.modules import hosts_entries

ENTRIES = [{"address": "127.0.0.1", "names": ["haproxy.example.org"]}]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    path.chmod(0o640)
    return path


def test_present_then_absent_restores_the_file(run_module: Any, hosts: Path) -> None:
    assert run_module(hosts_entries, path=str(hosts), entries=ENTRIES)["changed"]
    assert "127.0.0.1 haproxy.example.org\n" in hosts.read_text()
    assert hosts.stat().st_mode & 0o777 == 0o640
    assert not run_module(hosts_entries, path=str(hosts), entries=ENTRIES)["changed"]
    assert run_module(hosts_entries, path=str(hosts), state="absent")["changed"]
    assert hosts.read_text() == "127.0.0.1 localhost\n"
    assert not run_module(hosts_entries, path=str(hosts), state="absent")["changed"]


def test_check_mode_tells_what_the_run_does(run_module: Any, hosts: Path) -> None:
    checked = run_module(hosts_entries, check=True, path=str(hosts), entries=ENTRIES)
    assert checked["changed"]
    assert hosts.read_text() == "127.0.0.1 localhost\n"
    done = run_module(hosts_entries, path=str(hosts), entries=ENTRIES)
    assert checked["diff"] == done["diff"]
    assert done["diff"][0]["after"] == hosts.read_text()
    assert checked["actions"] == done["actions"]
    assert done["actions"][0]["reasons"] == ["the block of cavern is missing"]


def test_link_stays_a_link(run_module: Any, hosts: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(hosts)
    assert run_module(hosts_entries, path=str(link), entries=ENTRIES)["changed"]
    assert link.is_symlink()
    assert "haproxy.example.org" in hosts.read_text()


def test_bytes_that_are_no_text_survive(run_module: Any, hosts: Path) -> None:
    hosts.write_bytes(b"127.0.0.1 localhost # caf\xe9\r\n")
    run_module(hosts_entries, path=str(hosts), entries=ENTRIES)
    assert hosts.read_bytes().startswith(b"127.0.0.1 localhost # caf\xe9\r\n")


def test_conflict_fails_and_changes_nothing(run_module: Any, hosts: Path) -> None:
    hosts.write_text("10.0.0.9 haproxy.example.org\n")
    result = run_module(hosts_entries, path=str(hosts), entries=ENTRIES)
    assert result["failed"]
    assert f"{hosts}: line 1 maps haproxy.example.org to 10.0.0.9" in result["msg"]
    assert hosts.read_text() == "10.0.0.9 haproxy.example.org\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entries": []}, "entries: at least one"),
        ({"entries": [{"address": "127.0.0", "names": ["a"]}]}, "'127.0.0' is not an IP address"),
        ({"entries": [{"address": "127.0.0.1", "names": ["a b"]}]}, "'a b' is not a host name"),
        ({"entries": [{"address": "127.0.0.1", "names": []}]}, "127.0.0.1 has no names"),
        ({"entries": ENTRIES, "project": "a b"}, "project: 'a b'"),
        (
            {"entries": [*ENTRIES, {"address": "10.0.0.1", "names": ["HAPROXY.example.org"]}]},
            "HAPROXY.example.org has two addresses, 127.0.0.1 and 10.0.0.1",
        ),
    ],
)
def test_bad_options_name_the_field(
    run_module: Any, hosts: Path, options: dict[str, Any], message: str
) -> None:
    result = run_module(hosts_entries, path=str(hosts), **options)
    assert message in result["msg"]
    assert hosts.read_text() == "127.0.0.1 localhost\n"
