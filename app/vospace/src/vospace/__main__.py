"""Command line: ``vospace serve``, and ``vospace properties export|import|prune``."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from voservice import database
from voservice.config import load
from voservice.server import serve

from vospace.app import MIGRATIONS
from vospace.config import Settings
from vospace.space.space import open_tree
from vospace.storage import property_store, transport
from vospace.storage.tree import Tree


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="vospace", description="VOSpace 2.1 on a POSIX file system.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="bring the database up to date, then serve")
    properties = commands.add_parser("properties", help="the properties of all nodes")
    properties.add_argument(
        "action",
        choices=["export", "import", "prune"],
        help="write them to standard output; read them from standard input; with vospace_metadata=sidecar,"
        " forget those of nodes that no longer exist",
    )
    arguments = parser.parse_args()
    settings = load(Settings)
    try:
        with closing(open_tree(settings)) as tree:
            if arguments.command == "properties":
                manage(tree, arguments.action)
                return
    except (ValueError, OSError) as error:
        raise SystemExit(f"vospace: {error}") from error
    database.migrate(settings, MIGRATIONS)
    serve("vospace.app:create_app", "vospace", settings)


def manage(tree: Tree, action: str) -> None:
    """Export, import or prune. Raises ValueError for what cannot be read, and for prune without a sidecar."""
    if action == "export":
        for line in transport.export_lines(tree):
            sys.stdout.write(line)
    elif action == "import":
        done, missing = transport.import_lines(tree, sys.stdin)
        print(f"{done} nodes have their properties, {missing} are not there")
    else:
        store = tree.properties.store
        if not isinstance(store, property_store.Sidecar):
            raise ValueError("prune is for vospace_metadata=sidecar: extended attributes go with their nodes")
        print(f"forgot the properties of {transport.prune(tree, store)} nodes")


if __name__ == "__main__":
    main()
