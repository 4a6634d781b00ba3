#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node
short_description: Create, change or delete a node of a VOSpace
version_added: 0.1.0
description:
  - Creates, changes and deletes containers, links and data nodes with their properties and permissions, and
    allocations with their quota.
  - Only given options are compared and changed. A property that the service ignores is an error.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
  - skasrc.cavern.connection.user
options:
  service_url:
    description: URL of Cavern. The path V(/src/cavern) below O(url) if omitted.
    type: str
  path:
    description: Path of the node, such as V(/home/ada/run1).
    type: str
    required: true
  kind:
    description:
      - Kind of the node. It is used when the node is created, and must match that of an existing node.
      - A missing data node is created as an empty file.
    type: str
    choices: [container, data, link]
    default: container
  state:
    description: Whether the node exists.
    type: str
    choices: [present, absent]
    default: present
  parents:
    description: Whether to create missing parent containers.
    type: bool
    default: false
  recursive:
    description: Whether O(state=absent) deletes a container with all its content.
    type: bool
    default: false
  target:
    description:
      - Target of a link, a path that begins with a slash or a C(vos:) URI.
      - A link with another target is replaced. Required with O(kind=link) and O(state=present).
    type: str
  public:
    description: Whether everybody may read the node.
    type: bool
  group_read:
    description: URIs of the groups that may read the node. An empty list revokes the permission of all groups.
    type: list
    elements: str
  group_write:
    description: URIs of the groups that may write the node. An empty list revokes the permission of all groups.
    type: list
    elements: str
  inherit_permissions:
    description: Whether new nodes in the container inherit its permissions.
    type: bool
  properties:
    description:
      - Values by the properties' URIs. A name without a colon, such as V(title), is a standard property of VOSpace.
      - A null deletes the property.
    type: dict
  quota:
    description:
      - Bytes that an allocation may hold, optionally with a unit, such as V(500M) or V(2T) (powers of 1024).
      - Only the administrator of the space can set it.
    type: str
  owner:
    description: Owner of an allocation. Only the administrator of the space can set it, at its creation.
    type: str
  timeout:
    description: Longest wait for a recursive deletion, in seconds.
    type: float
    default: 600
attributes:
  check_mode:
    support: full
    description: Reports what would change, without asking the service whether the user may.
  diff_mode:
    support: full
    description: Shows the kind, the target and those properties that the task sets, before and after.
"""

EXAMPLES = r"""
- name: Create an allocation of 200 GiB for ada
  skasrc.cavern.node:
    url: https://haproxy.cadc.dao.nrc.ca
    ca_path: state/certs/ca.pem
    token: "{{ cavernadmin.token }}"
    path: /home/ada
    owner: ada
    quota: 200G

- name: Create a container that a group may write
  skasrc.cavern.node:
    url: https://haproxy.cadc.dao.nrc.ca
    token: "{{ ada.token }}"
    path: /home/ada/survey/images
    parents: true
    public: true
    group_write: ["ivo://opencadc.org/gms?survey"]
    inherit_permissions: true
    properties:
      title: Images of the survey

- name: Create a link to it
  skasrc.cavern.node:
    url: https://haproxy.cadc.dao.nrc.ca
    token: "{{ ada.token }}"
    path: /home/ada/images
    kind: link
    target: /home/ada/survey/images

- name: Delete the survey
  skasrc.cavern.node:
    url: https://haproxy.cadc.dao.nrc.ca
    token: "{{ ada.token }}"
    path: /home/ada/survey
    state: absent
    recursive: true
"""

RETURN = r"""
node:
  description: The node after the run, or in check mode as it would be. Null if there is none.
  returned: success
  type: dict
  contains:
    path:
      description: Path of the node.
      type: str
      returned: always
    uri:
      description: URI of the node.
      type: str
      returned: always
    kind:
      description: Kind of the node.
      type: str
      returned: always
    target:
      description: URI of a link's target.
      type: str
      returned: for links
    properties:
      description: Values by the properties' URIs.
      type: dict
      returned: always
  sample:
    path: /home/ada/run1
    uri: vos://opencadc.org~cavern/home/ada/run1
    kind: container
    properties: {"ivo://ivoa.net/vospace/core#creator": ada, "ivo://ivoa.net/vospace/core#ispublic": "false"}
created:
  description: Paths of the nodes that were created, the outermost first.
  returned: success
  type: list
  elements: str
  sample: [/home/ada/survey, /home/ada/survey/images]
"""

from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.common.text.formatters import human_to_bytes
from ansible_collections.skasrc.cavern.plugins.module_utils import _http, _vospace
from ansible_collections.skasrc.cavern.plugins.module_utils._vospace import Node, NodeError, Space

KINDS = {"container": "ContainerNode", "data": "DataNode", "link": "LinkNode"}
NAMES = {value: key for key, value in KINDS.items()}
GROUPS = {"group_read": _vospace.READERS, "group_write": _vospace.WRITERS}


@dataclass(frozen=True)
class Wanted:
    """Node that the options describe, with the properties to set and, as None, to delete."""

    path: str
    kind: str
    properties: dict[str, str | None]
    target: str | None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else to_text(value).strip()


def wanted_properties(params: dict[str, Any]) -> dict[str, str | None]:
    """Return the options as properties. Raises NodeError for an invalid one."""
    properties: dict[str, str | None] = {}
    for name, value in (params["properties"] or {}).items():
        uri = name if ":" in name else f"{_vospace.CORE}{name}"
        _vospace.check_property(uri)
        properties[uri] = None if value is None else _text(value)
    if params["public"] is not None:
        properties[_vospace.PUBLIC] = _text(params["public"])
    if params["inherit_permissions"] is not None:
        properties[_vospace.INHERIT] = _text(params["inherit_permissions"])
    for option, uri in GROUPS.items():
        if params[option] is not None:
            for group in params[option]:
                if not group.startswith("ivo://") or any(character.isspace() for character in group):
                    raise NodeError(
                        f"{option}: {group!r} is no URI of a group such as ivo://opencadc.org/gms?name"
                    )
            properties[uri] = " ".join(dict.fromkeys(params[option])) or None
    if params["quota"] is not None:
        try:
            properties[_vospace.QUOTA] = str(human_to_bytes(params["quota"]))
        except ValueError as error:
            raise NodeError(f"quota: {params['quota']!r} is no number of bytes such as 500M") from error
    if params["owner"] is not None:
        properties[_vospace.CREATOR] = params["owner"]
    return properties


def same(uri: str, wanted: str | None, found: str | None) -> bool:
    """Whether a property has the wanted value; groups are unordered, and false inheritance is not reported."""
    if uri in GROUPS.values():
        return set((wanted or "").split()) == set((found or "").split())
    if uri in {_vospace.PUBLIC, _vospace.INHERIT}:
        return (wanted or "false") == (found or "false")
    return wanted == found


def differing(wanted: Wanted, node: Node) -> dict[str, str | None]:
    """Return the wanted properties that the node does not have."""
    return {
        uri: value
        for uri, value in wanted.properties.items()
        if not same(uri, value, node.properties.get(uri))
    }


class Manager:
    """Bring one node to the wanted state."""

    def __init__(self, module: AnsibleModule, space: Space) -> None:
        """Keep the options, without having changed anything."""
        self.module, self.params, self.space = module, module.params, space
        self.changed = False
        self.created: list[str] = []

    def wanted(self) -> Wanted:
        """Return the node that the options describe."""
        params = self.params
        target = params["target"]
        if target is not None and target.startswith("/"):
            target = self.uri(_vospace.check_path(target))
        return Wanted(
            _vospace.check_path(params["path"]), KINDS[params["kind"]], wanted_properties(params), target
        )

    def uri(self, path: str) -> str:
        """Return a node's URI."""
        return self.space.root_uri() + _vospace.encode(path)

    def present(self) -> tuple[Node | None, Node]:
        """Create or change the node; return it before and after."""
        wanted = self.wanted()
        before = self.space.get(wanted.path)
        if before is None:
            self._create_parents(wanted.path)
            return None, self._create(wanted)
        if before.kind != wanted.kind:
            raise NodeError(
                f"{wanted.path} is a {NAMES[before.kind]} node, not a {NAMES[wanted.kind]} node; remove it first"
            )
        if wanted.kind == "LinkNode":
            return before, before if _vospace.same_uri(before.target, wanted.target) else self._relink(
                wanted, before
            )
        changes = differing(wanted, before)
        return before, self._update(wanted, before, changes) if changes else before

    def _create_parents(self, path: str) -> None:
        missing: list[str] = []
        parent = path.rpartition("/")[0]
        while parent and self.space.get(parent) is None:
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        if missing and not self.params["parents"]:
            raise NodeError(f"{missing[0]} does not exist; create it first, or say parents: true")
        for container in reversed(missing):
            self._create(Wanted(container, "ContainerNode", {}, None))

    def _create(self, wanted: Wanted) -> Node:
        properties = {uri: value for uri, value in wanted.properties.items() if value is not None}
        uri = self.uri(wanted.path)
        self.changed = True
        self.created.append(wanted.path)
        if self.module.check_mode:
            return Node(uri, wanted.kind, properties, wanted.target)
        document = _vospace.write_node(uri, wanted.kind, properties, wanted.target)
        return self._verify(wanted, self.space.create(wanted.path, document))

    def _update(self, wanted: Wanted, before: Node, changes: dict[str, str | None]) -> Node:
        self.changed = True
        if self.module.check_mode:
            properties = {**before.properties, **changes}
            return Node(before.uri, before.kind, {k: v for k, v in properties.items() if v is not None})
        document = _vospace.write_node(before.uri, before.kind, changes)
        return self._verify(wanted, self.space.update(wanted.path, document))

    def _relink(self, wanted: Wanted, before: Node) -> Node:
        self.changed = True
        if self.module.check_mode:
            return Node(before.uri, before.kind, before.properties, wanted.target)
        document = _vospace.write_node(before.uri, wanted.kind, None, wanted.target)
        self.space.delete(wanted.path)
        return self.space.create(wanted.path, document)

    def _verify(self, wanted: Wanted, node: Node) -> Node:
        """Warn of properties that the service ignored, which it does without an error."""
        ignored = differing(wanted, node)
        if ignored:
            names = ", ".join(f"{uri} (is {node.properties.get(uri)!r})" for uri in sorted(ignored))
            raise NodeError(
                f"{wanted.path}: the service did not take {names}; it may be for the administrator to set"
            )
        return node

    def absent(self) -> tuple[Node | None, None]:
        """Delete the node; return it as it was."""
        path = _vospace.check_path(self.params["path"])
        before = self.space.get(path)
        if before is None:
            return None, None
        filled = before.kind == "ContainerNode" and not self.space.is_empty(path)
        if filled and not self.params["recursive"]:
            raise NodeError(
                f"{path} is a container that is not empty; say recursive: true to remove all in it"
            )
        self.changed = True
        if self.module.check_mode:
            return before, None
        try:
            if not filled:
                self.space.delete(path)
        except _http.ServiceError as error:
            # To who may not read a container it looks empty.
            filled = self.params["recursive"] and error.status == 400
            if not filled:
                raise
        if filled:
            self.space.delete_all(self.uri(path), self.params["timeout"])
        return before, None


def shown(path: str, node: Node | None) -> dict[str, Any] | None:
    """Return a node as a result."""
    if node is None:
        return None
    found = {"path": path, "uri": node.uri, "kind": NAMES[node.kind], "properties": dict(node.properties)}
    return found | ({"target": node.target} if node.kind == "LinkNode" else {})


def side(node: Node | None, uris: set[str]) -> dict[str, Any]:
    """Return one side of the diff."""
    if node is None:
        return {"state": "absent"}
    found: dict[str, Any] = {"state": "present", "kind": NAMES[node.kind]}
    if node.target is not None:
        found["target"] = node.target
    return found | {uri: value for uri, value in node.properties.items() if uri in uris}


def check_options(params: dict[str, Any]) -> None:
    """Refuse options that exclude each other. Raises NodeError."""
    if params["target"] is not None and params["kind"] != "link":
        raise NodeError("target: only a link leads anywhere; say kind: link")
    if params["kind"] == "link" and params["state"] == "present":
        for option in (
            "public",
            "group_read",
            "group_write",
            "inherit_permissions",
            "properties",
            "quota",
            "owner",
        ):
            if params[option] is not None:
                raise NodeError(f"{option}: a link has neither properties nor permissions of its own")
    if params["kind"] == "data":
        for option in ("inherit_permissions", "quota", "owner"):
            if params[option] is not None:
                raise NodeError(f"{option}: only a container has it")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_http.CONNECTION_SPEC,
            **_http.TOKEN_SPEC,
            "service_url": {"type": "str"},
            "path": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": list(KINDS), "default": "container"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "parents": {"type": "bool", "default": False},
            "recursive": {"type": "bool", "default": False},
            "target": {"type": "str"},
            "public": {"type": "bool"},
            "group_read": {"type": "list", "elements": "str"},
            "group_write": {"type": "list", "elements": "str"},
            "inherit_permissions": {"type": "bool"},
            "properties": {"type": "dict"},
            "quota": {"type": "str"},
            "owner": {"type": "str"},
            "timeout": {"type": "float", "default": 600},
        },
        required_one_of=[("url", "service_url")],
        mutually_exclusive=[("token", "token_file")],
        supports_check_mode=True,
    )
    params, manager = module.params, None
    try:
        check_options(params)
        if params["kind"] == "link" and params["state"] == "present" and not params["target"]:
            raise NodeError("target: say what the link leads to")
        base = _http.check_url("service_url", params["service_url"]) if params["service_url"] else None
        url = base or _http.check_url("url", params["url"]) + "/src/cavern"
        _http.check_ca(params["ca_path"])
        token = _http.read_token(params)
        space = Space(
            _http.Client(params["ca_path"], params["request_timeout"], token, params["use_proxy"]), url
        )
        manager = Manager(module, space)
        path = _vospace.check_path(params["path"])
        before, after = manager.present() if params["state"] == "present" else manager.absent()
        uris = set(wanted_properties(params))
    except (ValueError, _http.ServiceError) as error:
        module.fail_json(msg=str(error), changed=manager is not None and manager.changed)
    module.exit_json(
        changed=manager.changed,
        node=shown(path, after),
        created=manager.created,
        diff={
            "before_header": path,
            "after_header": path,
            "before": side(before, uris),
            "after": side(after, uris),
        },
    )


if __name__ == "__main__":
    main()
