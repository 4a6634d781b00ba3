"""Tests of what this project deploys, against the deployed stack and the engine below it."""

import ansible_collections
from deployment import ROOT
from fixtures import anonymous, http, rse, stack, user

__all__ = ["anonymous", "http", "rse", "stack", "user"]

# The modules that the checkout's own playbooks use.
# A list of its own: the namespace's is made anew, without what was added, when sys.path changes.
ansible_collections.__path__ = [
    *ansible_collections.__path__,
    str(ROOT / ".venv/collections/ansible_collections"),
]
