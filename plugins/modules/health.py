#!/usr/bin/python
# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Check that every service of a deployment is healthy
version_added: 0.1.0
description:
  - Runs a list of checks in parallel and repeats those that fail until they pass or the O(timeout) is reached.
  - Reports which check failed and why.
  - With O(fail=false) the module does not fail; RV(healthy) holds the outcome.
author:
  - Cavern deployment team (@skasrc)
extends_documentation_fragment:
  - skasrc.cavern.connection
  - skasrc.cavern.attributes.read_only
options:
  socket:
    description: Socket of Docker Engine, for checks of the kind V(container).
    type: path
    default: /var/run/docker.sock
  checks:
    description: What to check.
    type: list
    elements: dict
    required: true
    suboptions:
      service:
        description: The service that is checked, for the report.
        type: str
        required: true
      name:
        description: What of the service is checked, for the report. The O(checks[].kind) if omitted.
        type: str
      kind:
        description:
          - V(http) expects O(checks[].status) from O(checks[].url).
          - V(vosi) expects of O(checks[].url) a VOSI availability document in which the service calls itself available.
          - V(tls) expects on O(checks[].host) and O(checks[].port) a certificate that can be verified and does not
            expire within O(checks[].min_days).
          - V(tcp) expects that something accepts connections.
          - V(amqp) expects a broker that begins an AMQP 0-9-1 handshake.
          - V(postgres) expects a PostgreSQL server that accepts sessions, that is, is not starting up or recovering.
          - V(container) expects that O(checks[].container) runs and passes its health test.
        type: str
        required: true
        choices: [http, vosi, tls, tcp, amqp, postgres, container]
      url:
        description: URL, or a path that begins with a slash and follows the module's O(url).
        type: str
      status:
        description: The expected HTTP status.
        type: int
        default: 200
      contains:
        description: Text that the answer's body must contain.
        type: str
      host:
        description: Host name or address.
        type: str
      port:
        description: TCP port.
        type: int
      server_name:
        description: Name that the certificate must be valid for, if it is not O(checks[].host).
        type: str
      min_days:
        description: Minimum number of days until the certificate expires.
        type: int
        default: 14
      container:
        description:
          - Name of a container of the local Docker Engine.
          - Checks of the kinds V(tcp), V(amqp) and V(postgres) that name one are made from inside it, which takes root.
        type: str
      ca_path:
        description: CA certificates for this check, if not the module's O(ca_path).
        type: path
  timeout:
    description: Seconds in which all checks must pass. With V(0) each check is tried once.
    type: float
    default: 60
  fail:
    description: Whether the module fails if a check does.
    type: bool
    default: true
  request_timeout:
    description: Longest wait for one answer, in seconds.
    type: float
    default: 10
requirements:
  - docker (Python package), for checks of the kind V(container)
"""

EXAMPLES = r"""
- name: Wait until Cavern and its database are available
  skasrc.cavern.health:
    url: https://haproxy.cadc.dao.nrc.ca
    ca_path: state/certs/ca.pem
    timeout: 120
    checks:
      - {service: cavern, kind: vosi, url: /src/cavern/availability}
      - {service: haproxy, kind: tls, host: haproxy.cadc.dao.nrc.ca, port: 443, min_days: 30}
      - {service: srcnodedb, kind: postgres, host: 172.26.0.7, port: 5432}
      - {service: rabbitmq, kind: amqp, host: 172.26.0.8, port: 5672}

- name: Check without failing
  skasrc.cavern.health:
    checks:
      - {service: core, kind: container, container: ska-src-local-data-preparer-core}
    timeout: 0
    fail: false
  register: result
"""

RETURN = r"""
healthy:
  description: Whether all checks passed.
  returned: always
  type: bool
  sample: true
checks:
  description: The result of each check, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    service:
      description: As given.
      type: str
      returned: always
    name:
      description: As given.
      type: str
      returned: always
    kind:
      description: As given.
      type: str
      returned: always
    ok:
      description: Whether the check passed.
      type: bool
      returned: always
    message:
      description: What was found, or why the check failed.
      type: str
      returned: always
    tries:
      description: Number of tries.
      type: int
      returned: always
    seconds:
      description: Seconds until the last try ended.
      type: float
      returned: always
    status:
      description: The HTTP status.
      type: int
      returned: for kinds http and vosi, if there was an answer
    note:
      description: Note of the service on its availability.
      type: str
      returned: for kind vosi
    days_left:
      description: Whole days until the certificate expires.
      type: int
      returned: for kind tls, if the certificate could be verified
    not_after:
      description: When the certificate expires, UTC.
      type: str
      returned: for kind tls, if the certificate could be verified
    state:
      description: State of the container.
      type: str
      returned: for kind container
    health:
      description: Health of the container as Docker reports it.
      type: str
      returned: for kind container, if it has a health test
  sample:
    - {service: cavern, name: vosi, kind: vosi, ok: true, message: available, note: available, status: 200,
       tries: 1, seconds: 0.031}
failed:
  description: Whether a check failed and O(fail=true).
  returned: failure
  type: bool
  sample: true
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine, _health, _http

CHECK_SPEC = {
    "service": {"type": "str", "required": True},
    "name": {"type": "str"},
    "kind": {"type": "str", "required": True, "choices": list(_health.KINDS)},
    "url": {"type": "str"},
    "status": {"type": "int", "default": 200},
    "contains": {"type": "str"},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "server_name": {"type": "str"},
    "min_days": {"type": "int", "default": 14},
    "container": {"type": "str"},
    "ca_path": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_http.CONNECTION_SPEC,
            "request_timeout": {"type": "float", "default": 10},
            "socket": {"type": "path", "default": _engine.SOCKET},
            "checks": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": CHECK_SPEC,
                "required_if": [("kind", kind, needed) for kind, needed in _health.KINDS.items()],
            },
            "timeout": {"type": "float", "default": 60},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    for option in ("timeout", "request_timeout"):
        if params[option] < 0:
            module.fail_json(msg=f"{option}: {params[option]:g} is negative")
    try:
        url = _http.check_url("url", params["url"]) if params["url"] else None
    except ValueError as error:
        module.fail_json(msg=str(error))
    for check in params["checks"]:
        check["name"] = check["name"] or check["kind"]
        if (check["url"] or "").startswith("/") and url is None:
            module.fail_json(
                msg=f"checks: {check['service']} {check['name']}: the path {check['url']} needs url"
            )
    results = _health.watch(
        params["checks"],
        _health.Context(url, params["ca_path"], params["socket"], params["use_proxy"]),
        params["timeout"],
        params["request_timeout"] or 10,
    )
    bad = [result for result in results if not result["ok"]]
    report: dict[str, Any] = {"changed": False, "healthy": not bad, "checks": results}
    if bad and params["fail"]:
        lines = [f"{result['service']} ({result['name']}): {result['message']}" for result in bad]
        module.fail_json(msg=f"{len(bad)} of {len(results)} checks failed: " + "; ".join(lines), **report)
    module.exit_json(**report)


if __name__ == "__main__":
    main()
