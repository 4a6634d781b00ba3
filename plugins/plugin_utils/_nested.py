# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of options that one module has at its top and another below an option. Private to the collection."""

from __future__ import annotations

import re
import textwrap


def fragment(options: str) -> str:
    """The documentation fragment of a module that has *options*, which are indented by two spaces, at its top."""
    return f"options:\n{options}"


def nested_fragment(name: str, module: str, options: str) -> str:
    """That of a module which takes all that *module* takes below the option *name*."""
    inner = re.sub(r"\bO\(", f"O({name}.", textwrap.indent(options, "    "))
    return f"options:\n  {name}:\n    description: What M({module}) takes.\n    type: dict\n    suboptions:\n{inner}"
