"""Command line: ``python -m bench [NAME …]`` runs measurements and prints a line for each."""

from __future__ import annotations

import argparse
import json

from bench import cluster, deployment, growth, relay, replicas, staging, vospace

MEASUREMENTS = {
    "cluster": cluster.measure,
    "deployment": deployment.measure,
    "staging": staging.measure,
    "growth": growth.measure,
    "relay": relay.measure,
    "replicas": replicas.measure,
    "vospace": vospace.measure,
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*MEASUREMENTS, []], help="measurements; all by default")
    for name in parser.parse_args().name or MEASUREMENTS:
        for result in MEASUREMENTS[name]():
            print(json.dumps(result))


if __name__ == "__main__":
    main()
