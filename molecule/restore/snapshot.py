"""Print what a restore must bring back: every node with its attributes, and every row of every database."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DATABASES = {"srcnodedb": ["cavern", "prepare_data"], "postgres_posixmapper": ["mapping"]}
TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""


def nodes(root: Path) -> Iterator[str]:
    """Owner, mode, time to the nanosecond (checksums rely on it), content or target, ACL and properties."""
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        owner = f"{status.st_uid}:{status.st_gid}"
        yield f"{path} {owner} {status.st_mode:o} {status.st_mtime_ns} {content} {attributes}"


def query(container: str, database: str, statement: str) -> list[str]:
    command = ["docker", "exec", container, "psql", "-At", "--dbname", database, "--command", statement]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def rows() -> Iterator[str]:
    for container, databases in DATABASES.items():
        for database in databases:
            for table in query(container, database, TABLES):
                yield f"{database}.{table}"
                yield from sorted(query(container, database, f"TABLE {table}"))


def main() -> None:
    print(*nodes(Path(sys.argv[1])), *rows(), sep="\n")


if __name__ == "__main__":
    main()
