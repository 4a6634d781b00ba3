# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Document options that one module takes at the top level and another below an option. Private to the collection."""

from __future__ import annotations

import re
import textwrap


def nested_fragment(name: str, documentation: str, module: str = "") -> str:
    """Return the documentation of the option *name* with the options of *module* (by default of the same name)."""
    inner = textwrap.indent(documentation.removeprefix("\noptions:\n"), "    ")
    inner = re.sub(r"\bO\(", f"O({name}.", inner)
    return f"""
options:
  {name}:
    description: What M(skasrc.cavern.{module or name}) takes.
    type: dict
    suboptions:
{inner}"""
