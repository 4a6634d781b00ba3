#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: smoke
short_description: Run the smoke test of a deployment
version_added: 1.0.0
description:
  - Asks each service of a deployment once, and stages a file from end to end twice, through HAProxy and from inside the
    Docker network. The staged bytes are compared with the RSE's, on disk and as Cavern returns them.
  - Removes everything that it made, so nothing is changed by it.
  - Runs as root on the host that has the directories of the RSE and of Cavern.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
options:
  token:
    description: Access token of O(user).
    type: str
    required: true
  administrator_token:
    description: Access token of Cavern's administrator, who creates O(container). Without it that step is left out.
    type: str
  user:
    description: The user into whose area the file is staged.
    type: str
    required: true
  routes:
    description: Paths of the services below O(url).
    type: dict
    required: true
    suboptions:
      reg: {description: The registry., type: str, required: true}
      cavern: {description: Cavern., type: str, required: true}
      posix_mapper: {description: The POSIX mapper., type: str, required: true}
      core: {description: Prepare-data., type: str, required: true}
  did:
    description: Data identifier of the file, C(scope:name).
    type: str
    default: testing:prepare_data_test.txt
  path:
    description: Path of the file below O(rse_dir). A file that is there is staged as it is, and stays.
    type: str
    default: testing/84/1c/prepare_data_test.txt
  destination:
    description: Directory in the user's area.
    type: str
    default: ./testing
  container:
    description: Container to create at the top of the space. One that is there stays.
    type: str
    default: /test_container
  rse_dir:
    description: Directory that the RSE serves. Exactly one of this and O(content) is given.
    type: path
  content:
    description: What the file has that is at O(path) of an RSE on another host.
    type: dict
    suboptions:
      size: {description: Size in bytes., type: int, required: true}
      md5: {description: MD5 in hexadecimal digits., type: str, required: true}
  space_dir:
    description:
      - Directory that holds the root node of Cavern's space. Without it, where that is on another host, the staged file
        is compared only as Cavern returns it.
    type: path
  vos_uri:
    description:
      - URI of the root node. The container is then created by a complete node document, as OpenCADC's Cavern requires.
    type: str
  inside:
    description: How the second request is sent.
    type: dict
    required: true
    suboptions:
      container: {description: Container that runs C(curl)., type: str, required: true}
      url: {description: URL of prepare-data in the Docker network., type: str, required: true}
  socket:
    description: Unix socket of the Docker Engine.
    type: path
    default: /var/run/docker.sock
  timeout:
    description: Longest wait for the end of each task, in seconds.
    type: float
    default: 120
  logs:
    description: Containers whose last log lines are returned if the test fails.
    type: list
    elements: str
    default: []
requirements:
  - Python package docker >= 5
attributes:
  check_mode:
    support: none
    description: The test is skipped.
  diff_mode:
    support: none
    description: Nothing is changed.
"""

EXAMPLES = r"""
- name: Stage a file through the deployed stack
  skasrc.cavern.smoke:
    url: https://haproxy.cadc.dao.nrc.ca
    ca_path: state/certs/ca.pem
    user: ada
    token: "{{ ada.token }}"
    administrator_token: "{{ cavern_administrator.token }}"
    routes: {reg: /reg, cavern: /src/cavern, posix_mapper: /src/posix-mapper, core: /prepare-data}
    rse_dir: data/rse_data
    space_dir: data/cavern_data/cavern
    inside: {container: haproxy, url: "http://core:8000"}
  become: true
"""

RETURN = r"""
steps:
  description: The steps in their order. The last one is the one that failed, if one did.
  returned: always
  type: list
  elements: dict
  contains:
    step: {description: What was done., type: str, sample: Stage it through HAProxy}
    ms: {description: Milliseconds that it took. Missing if it failed., type: int, sample: 212}
size:
  description: Size of the staged file in bytes.
  returned: success
  type: int
  sample: 10260
md5:
  description: MD5 of the staged file.
  returned: success
  type: str
  sample: 0cc175b9c0f1b6a831c399e269772661
logs:
  description: Last log lines of the containers in O(logs).
  returned: failure
  type: dict
  sample: {src-cavern: ["INFO GET /nodes"]}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _docker, _http
from ansible_collections.skasrc.cavern.plugins.module_utils._smoke import Smoke, SmokeError

# Lines of each container's log that a failure shows.
LINES = 30


def read_logs(engine: Any, containers: list[str]) -> dict[str, list[str]]:
    """Return the last log lines of containers; what the Engine says of one that has none."""
    found = {}
    for name in containers:
        try:
            found[name] = engine.logs(name, tail=LINES).decode(errors="replace").splitlines()
        except _docker.DockerException as error:
            found[name] = [_docker.explain(error)]
    return found


def main() -> None:
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            **_http.CONNECTION_SPEC,
            "token": {**text, "no_log": True},
            "administrator_token": {"type": "str", "no_log": True},
            "user": text,
            "routes": {
                "type": "dict",
                "required": True,
                "options": {"reg": text, "cavern": text, "posix_mapper": text, "core": text},
            },
            "did": {"type": "str", "default": "testing:prepare_data_test.txt"},
            "path": {"type": "str", "default": "testing/84/1c/prepare_data_test.txt"},
            "destination": {"type": "str", "default": "./testing"},
            "container": {"type": "str", "default": "/test_container"},
            "rse_dir": {"type": "path"},
            "content": {
                "type": "dict",
                "options": {"size": {"type": "int", "required": True}, "md5": text},
            },
            "space_dir": {"type": "path"},
            "vos_uri": {"type": "str"},
            "inside": {"type": "dict", "required": True, "options": {"container": text, "url": text}},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "timeout": {"type": "float", "default": 120},
            "logs": {"type": "list", "elements": "str", "default": []},
        },
        required_one_of=[("rse_dir", "content")],
        mutually_exclusive=[("rse_dir", "content")],
    )
    if _docker.LIBRARY_ERROR is not None:
        module.fail_json(msg=missing_required_lib("docker"), exception=_docker.LIBRARY_ERROR)
    params = module.params
    try:
        _http.check_url("url", params["url"] or "")
        _http.check_ca(params["ca_path"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    engine = None
    test = Smoke(params, engine)
    try:
        engine = test.engine = _docker.connect(params["socket"], params["request_timeout"])
        content = test.run()
    except (SmokeError, _http.ServiceError, _docker.DockerException, OSError) as error:
        step = test.steps[-1]["step"] if test.steps else "Connect to Docker Engine"
        why = _docker.explain(error) if isinstance(error, _docker.DockerException) else str(error)
        module.fail_json(
            msg=f"Smoke test failed in: {step}: {why}",
            steps=test.steps,
            logs=read_logs(engine, params["logs"]) if engine else {},
        )
    module.exit_json(changed=False, steps=test.steps, size=content.size, md5=content.md5)


if __name__ == "__main__":
    main()
