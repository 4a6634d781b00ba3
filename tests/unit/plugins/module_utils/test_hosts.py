# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The managed block of the hosts file: what is written, what is left alone, what is refused."""

from __future__ import annotations

import pytest
from ansible_collections.skasrc.cavern.plugins.module_utils._hosts import Entry, HostsError, begin, end, plan

NAME = "haproxy.example.org"
WANTED = [Entry("127.0.0.1", (NAME,))]
FOREIGN = "127.0.0.1\tlocalhost  # mine\n\n::1 localhost ip6-localhost\n"
BLOCK = f"{begin('cavern')}\n127.0.0.1 {NAME}\n{end('cavern')}\n"


def test_block_goes_to_the_end_and_other_lines_stay() -> None:
    planned = plan(FOREIGN, "cavern", WANTED)
    assert planned.text == FOREIGN + BLOCK
    assert planned.block == [f"127.0.0.1 {NAME}"]


def test_second_plan_changes_nothing() -> None:
    assert plan(FOREIGN + BLOCK, "cavern", WANTED).text == FOREIGN + BLOCK


def test_block_keeps_its_place_when_its_address_changes() -> None:
    text = FOREIGN + BLOCK + "10.0.0.1 other\n"
    planned = plan(text, "cavern", [Entry("172.26.0.2", (NAME,))])
    assert planned.text == text.replace(f"127.0.0.1 {NAME}", f"172.26.0.2 {NAME}")


def test_copies_of_the_block_go() -> None:
    planned = plan(BLOCK + FOREIGN + BLOCK, "cavern", WANTED)
    assert planned.text == BLOCK + FOREIGN


def test_absent_restores_the_file() -> None:
    assert plan(FOREIGN + BLOCK, "cavern", []).text == FOREIGN
    assert plan(FOREIGN, "cavern", []).text == FOREIGN


def test_last_line_without_newline_is_not_glued_to_the_block() -> None:
    assert plan("127.0.0.1 localhost", "cavern", WANTED).text == "127.0.0.1 localhost\n" + BLOCK


def test_same_mapping_of_a_foreign_line_is_relied_on() -> None:
    text = FOREIGN + f"127.0.0.1 other {NAME.upper()}\n"
    planned = plan(text, "cavern", WANTED)
    assert planned.text == text
    assert [(m.line, m.address) for m in planned.relied_on] == [(4, "127.0.0.1")]


def test_other_mapping_of_a_foreign_line_is_refused_with_its_number() -> None:
    with pytest.raises(
        HostsError, match=r"^line 4 maps haproxy\.example\.org to 10\.0\.0\.9, wanted 127\.0\.0\.1"
    ):
        plan(FOREIGN + f"10.0.0.9 {NAME}\n", "cavern", WANTED)


def test_commented_mapping_does_not_count() -> None:
    text = FOREIGN + f"# 10.0.0.9 {NAME}\n127.0.0.2 x # {NAME}\n"
    assert plan(text, "cavern", WANTED).text == text + BLOCK


def test_other_deployment_with_another_address_is_named() -> None:
    other = f"{begin('second')}\n172.30.0.2 {NAME}\n{end('second')}\n"
    with pytest.raises(HostsError, match="line 5 of the deployment 'second'"):
        plan(FOREIGN + other, "cavern", WANTED)


def test_other_deployment_with_the_same_mapping_is_not_relied_on() -> None:
    other = f"{begin('second')}\n127.0.0.1 {NAME}\n{end('second')}\n"
    planned = plan(other, "cavern", WANTED)
    assert planned.text == other + BLOCK
    assert plan(planned.text, "second", []).text == BLOCK


def test_block_of_another_tool_is_a_plain_line() -> None:
    text = f"# BEGIN ANSIBLE MANAGED BLOCK\n10.0.0.9 {NAME}\n# END ANSIBLE MANAGED BLOCK\n"
    with pytest.raises(HostsError, match="line 2 maps"):
        plan(text, "cavern", WANTED)


def test_missing_end_marker_is_refused() -> None:
    with pytest.raises(HostsError, match="begins on line 4 has no line '# END cavern"):
        plan(FOREIGN + f"{begin('cavern')}\n127.0.0.1 {NAME}\n", "cavern", WANTED)


def test_addresses_compare_by_value() -> None:
    text = f"0:0:0:0:0:0:0:1 {NAME}\n"
    assert plan(text, "cavern", [Entry("::1", (NAME,))]).text == text
