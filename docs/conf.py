"""The documentation as a site: `bin/docs` copies the sources of its pages together and builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx

_collection = yaml.safe_load((Path(__file__).parents[1] / "galaxy.yml").read_text(encoding="utf-8"))
# What the pages of modules, plugins and roles refer to in Ansible's own documentation.
ANSIBLE = "https://docs.ansible.com/projects/ansible-core/devel"
ANSIBLE_LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_collections.ansible.builtin.template_lookup": "collections/ansible/builtin/template_lookup.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "callback_plugins": "plugins/callback.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}

project = "Cavern and prepare-data"
author = ", ".join(_collection["authors"])
release = _collection["version"]
# Its text is the first page.
exclude_patterns = ["README.md"]
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 4
# As Git servers do, which show the same files.
myst_enable_extensions = ["linkify"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False


def _ansible(
    _app: Sphinx, _environment: Any, node: nodes.Element, content: nodes.TextElement
) -> nodes.reference | None:
    """Link a label of Ansible's documentation; any other that is missing stays an error."""
    page = ANSIBLE_LABELS.get(node["reftarget"])
    return page and nodes.reference("", "", content, internal=False, refuri=f"{ANSIBLE}/{page}")


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", _ansible)
