# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a module as objects, from which its argument spec and its documentation are derived.

Private to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Argument:
    """An option of a module, or a key of one of its dictionaries; the fields are those of Ansible's argument spec."""

    name: str
    description: str | list[str]
    type: str = "str"
    elements: str | None = None
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    no_log: bool | None = None
    options: tuple[Argument, ...] = ()

    def _common(self) -> dict[str, Any]:
        fields = {
            "type": self.type,
            "elements": self.elements,
            "required": self.required or None,
            "default": self.default,
            "choices": list(self.choices) or None,
        }
        return {key: value for key, value in fields.items() if value is not None}

    def specification(self) -> dict[str, Any]:
        """Return the option's entry in the argument spec."""
        spec = self._common()
        if self.no_log is not None:
            spec["no_log"] = self.no_log
        if self.options:
            spec["options"] = argument_spec(self.options)
        return spec

    def documentation(self) -> dict[str, Any]:
        """Return the option's entry in the documentation."""
        entry = {"description": self.description} | self._common()
        if self.options:
            entry["suboptions"] = documentation(self.options)
        return entry


def argument_spec(arguments: Iterable[Argument]) -> dict[str, Any]:
    """Return the argument spec of several options."""
    return {argument.name: argument.specification() for argument in arguments}


def documentation(arguments: Iterable[Argument]) -> dict[str, Any]:
    """Return the documentation of several options, as it stands below `options` in DOCUMENTATION."""
    return {argument.name: argument.documentation() for argument in arguments}
