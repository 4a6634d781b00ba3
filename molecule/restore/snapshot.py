"""Print what a restore must bring back: all nodes, what is known of them, and every row of every database."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SIDECARS = ".vospace-properties"
"""Records named by inodes, which are others after a restore: what they say is seen as properties."""
DATABASES = {"srcnodedb": ["cavern", "prepare_data"], "postgres_posixmapper": ["mapping"]}
TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""


def nodes(root: Path) -> Iterator[str]:
    """Owner, mode, time to the nanosecond (checksums rely on it), content or target, ACL and attributes."""
    for path in sorted([root, *root.rglob("*")]):
        if SIDECARS in path.parts:
            continue
        status = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        owner = f"{status.st_uid}:{status.st_gid}"
        yield f"{path} {owner} {status.st_mode:o} {status.st_mtime_ns} {content} {attributes}"


def lines_of(container: str, *command: str) -> list[str]:
    done = subprocess.run(["docker", "exec", container, *command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def query(container: str, database: str, statement: str) -> list[str]:
    return lines_of(container, "psql", "-At", "--dbname", database, "--command", statement)


def properties() -> list[str]:
    """What the service knows of each node, wherever it keeps that."""
    return sorted(lines_of("src-cavern", "vospace", "properties", "export"))


def rows() -> Iterator[str]:
    for container, databases in DATABASES.items():
        for database in databases:
            for table in query(container, database, TABLES):
                yield f"{database}.{table}"
                yield from sorted(query(container, database, f"TABLE {table}"))


def main() -> None:
    print(*nodes(Path(sys.argv[1])), *properties(), *rows(), sep="\n")


if __name__ == "__main__":
    main()
