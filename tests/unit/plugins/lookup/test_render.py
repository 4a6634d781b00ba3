# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.skasrc.cavern.plugins.lookup import render


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Renders a text with ``name: ada`` and what else is given."""
    monkeypatch.setattr(render, "ROLES", tmp_path)
    templar = Templar(loader=DataLoader(), variables={"name": "ada"})
    # Ansible's plugin loader does this when it makes a plugin.
    monkeypatch.setattr(
        render.LookupModule, "set_options", lambda self, var_options, direct: vars(self).update(direct)
    )
    monkeypatch.setattr(render.LookupModule, "get_option", lambda self, name: vars(self).get(name, {}))

    def act(text: str, **options: Any) -> str:
        (tmp_path / "x.j2").write_text(text)
        (answer,) = render.LookupModule(DataLoader(), templar).run(["x.j2"], {}, **options)
        return answer

    return act


def test_text_stays_text(rendered: Any) -> None:
    assert rendered('{"user": "{{ name }}"}\n') == '{"user": "ada"}\n'
    assert rendered("{% if true %}\none\n{% endif %}\n") == "one\n"


def test_variables_are_added_and_rule(rendered: Any) -> None:
    assert rendered("{{ name }} {{ more }}", template_vars={"more": 1, "name": "bob"}) == "bob 1"
    assert rendered("{{ name }}") == "ada"


def test_what_cannot_be_rendered_is_named(rendered: Any) -> None:
    with pytest.raises(AnsibleError, match=r"x\.j2"):
        rendered("{{ unknown }}")
    with pytest.raises(AnsibleError, match=r"nowhere\.j2: cannot be read"):
        render.LookupModule(DataLoader(), Templar(loader=DataLoader())).run(["nowhere.j2"], {})
