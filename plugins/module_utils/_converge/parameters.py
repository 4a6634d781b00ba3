# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the module converge, beside those of the phases that come before the services.

Private to the collection.
"""

from __future__ import annotations

from ansible_collections.skasrc.cavern.plugins.module_utils import _engine
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.arguments import Argument
from ansible_collections.skasrc.cavern.plugins.module_utils._converge.options import SERVICE

_RULE = (
    Argument("source", "Address of a service; without it all other containers."),
    Argument("destination", "Address; without it all addresses of other machines."),
    Argument("ports", "TCP ports; all if there are none.", "list", elements="int", default=[]),
    Argument("comment", "Who connects to whom. It is shown where the rules are listed.", default=""),
)

_CONNECTIONS = (
    Argument(
        "restrict",
        "Whether there are such rules. With V(false), those of an earlier run are removed.",
        "bool",
        default=True,
    ),
    Argument(
        "members",
        "Addresses of all services. Other containers of the network may open connections to all but these.",
        "list",
        elements="str",
        default=[],
    ),
    Argument(
        "rules",
        "Connections that may be opened. All others of the network's containers are dropped.",
        "list",
        elements="dict",
        default=[],
        options=_RULE,
    ),
)

_NETWORK = (
    Argument("name", "Name of the network.", required=True),
    Argument("subnet", "IPv4 subnet.", required=True),
    Argument("gateway", "Address of the host in the network."),
    Argument("bridge", "Name of the bridge interface; that of the network by default."),
    Argument(
        "mtu",
        "Largest packet in bytes. With O(network.driver=overlay), that of the network between the hosts.",
        "int",
    ),
    Argument(
        "driver",
        "V(overlay) spans the engines of a Swarm, of which this one must be a manager.",
        choices=("bridge", "overlay"),
        default="bridge",
    ),
    Argument("ip_range", "Part of the subnet from which addresses are chosen that no container asks for."),
    Argument("encrypted", "Whether an overlay encrypts what goes from host to host.", "bool", default=False),
    Argument(
        "creates",
        "Whether this engine creates the network. Of those that share an overlay one does, and the others wait for it.",
        "bool",
        default=True,
    ),
    Argument("ensure", "Create the network even where no service is selected.", "bool", default=False),
    Argument(
        "connections",
        "Connections that the containers of the network may open, for the host's packet filter. DNS is always allowed. "
        "Without this option the filter is left as it is.",
        "dict",
        options=_CONNECTIONS,
    ),
)

PARAMETERS: tuple[Argument, ...] = (
    Argument("socket", "Socket of Docker Engine.", "path", default=_engine.SOCKET),
    Argument("project", "Name of the deployment.", required=True),
    Argument("network", "The network that all services share.", "dict", required=True, options=_NETWORK),
    Argument(
        "config_dir",
        "Directory below which each service has its configuration files.",
        "path",
        required=True,
    ),
    Argument(
        "catalogue",
        "Keys of every service of the project; containers of others are surplus.",
        "list",
        elements="str",
        default=[],
    ),
    Argument(
        "elsewhere",
        "Services that run on other hosts; their containers are removed.",
        "list",
        elements="str",
        default=[],
    ),
    Argument(
        "state",
        [
            "V(present) means running and healthy.",
            "V(stopped) and V(absent) apply to O(services), or to all of the project where none is given.",
        ],
        choices=("present", "stopped", "absent"),
        default="present",
    ),
    Argument(
        "strategy",
        [
            "V(together) starts services that do not depend on each other side by side.",
            "V(one_by_one) changes one service at a time, in the order of their dependencies. The next one waits until "
            "it and those that depend on it are healthy. If they do not become so, it is rolled back to its former "
            "container, image and configuration, and the run ends.",
        ],
        choices=("together", "one_by_one"),
        default="together",
    ),
    Argument(
        "prune",
        "Also remove containers of the project that are not in the O(catalogue).",
        "bool",
        default=False,
    ),
    Argument(
        "recreate",
        "Services to recreate although nothing differs.",
        "list",
        elements="str",
        default=[],
    ),
    Argument("remove_network", "With O(state=absent), remove the network too.", "bool", default=False),
    Argument(
        "remove_volumes",
        "With O(state=absent), remove the volumes of the project too.",
        "bool",
        default=False,
    ),
    Argument(
        "timeout",
        "Seconds in which everything, or with O(strategy=one_by_one) each service, must be healthy.",
        "int",
        default=300,
    ),
    Argument("threads", "How many services are compared at once.", "int", default=8),
    Argument(
        "services",
        "The services to bring to the wanted state.",
        "list",
        elements="dict",
        default=[],
        options=SERVICE,
    ),
)
