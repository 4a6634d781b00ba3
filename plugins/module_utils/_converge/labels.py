# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels by which containers, networks and volumes of a deployment are recognised. Private to the collection."""

from __future__ import annotations

LABEL = "int.skao.src.cavern"
PROJECT = f"{LABEL}.project"
SERVICE = f"{LABEL}.service"
DEPENDS = f"{LABEL}.depends_on"
