# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings that the documentation gives as examples exist, with the types that they have there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from documents import ROOT, blocks

SETTINGS = ROOT / "docs/settings.md"
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md") if path.name != "site.md"
)
KNOWN = set(re.findall(r"^\| `(\w+)` \|", SETTINGS.read_text(encoding="utf-8"), re.MULTILINE))
OTHERS = {
    # Files of an inventory that hold no settings.
    "deployment",
    "plugin",
    "extra_services",
}


def _named(value: dict[str, Any]) -> set[str]:
    """Settings that an example names: variables, and the keys of those that hold a service's settings."""
    inner = [set(keys) for name, keys in value.items() if name.endswith("_settings")]
    return set(value).union(*inner)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_name_settings_that_exist(document: str) -> None:
    for block in blocks(document):
        if block.language != "yaml":
            continue
        for example in yaml.safe_load_all(block.text):
            if isinstance(example, dict):
                assert _named(example) <= KNOWN | OTHERS, f"{document}:{block.line}"


def test_the_settings_are_found() -> None:
    assert {"deployment_project", "preparer_max_items", "core_settings"} <= KNOWN
    assert sum(block.language == "yaml" for document in DOCUMENTS for block in blocks(document)) > 10
