# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as the collection that it is, beside those of the environment."""

from __future__ import annotations

import sys
from pathlib import Path

import ansible_collections

ROOT = Path(__file__).resolve().parents[2]
LINKED = ROOT / ".venv/collections/ansible_collections"

# ansible-test knows nothing of pytest's configuration.
sys.path.append(str(ROOT / "tests/support"))
# ansible-test brings a loader of its own, which finds the collection around this directory.
if LINKED.is_dir():
    # A list of its own: the namespace's is made anew, without what was added, when sys.path changes.
    ansible_collections.__path__ = [*ansible_collections.__path__, str(LINKED)]
