# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the module converge. Private to the collection."""

from __future__ import annotations


class PlanError(Exception):
    """The specification of a service is invalid."""


class ConvergeError(Exception):
    """The wanted state cannot be reached; the message says what failed and why."""
