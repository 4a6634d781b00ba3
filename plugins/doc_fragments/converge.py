# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the module converge, derived from what its argument spec is derived from."""

from __future__ import annotations

import json

from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import documentation
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.parameters import PARAMETERS


class ModuleDocFragment:
    # JSON is YAML. Annotated, since ansible-test takes what a plain assignment has for a text.
    DOCUMENTATION: str = json.dumps({"options": documentation(PARAMETERS)})
