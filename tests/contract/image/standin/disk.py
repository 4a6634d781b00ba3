"""Nodes on a POSIX file system, as OpenCADC's Cavern lays them out: owners, modes, ACLs, extended attributes, links."""

from __future__ import annotations

import datetime
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

CORE = "ivo://ivoa.net/vospace/core#"
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, GROUP_OBJ, GROUP, MASK, OTHER = 1, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF
MD5 = f"{CORE}MD5"
CADC = "ivo://cadc.nrc.ca/vospace/core#"
# Never kept as attributes: one that is met is deleted.
KEPT_ELSEWHERE = {f"{CADC}inheritPermissions", f"{CADC}islocked"} | {
    f"{CORE}{name}"
    for name in (
        "length",
        "date",
        "creator",
        "groupread",
        "groupwrite",
        "ispublic",
        "quota",
        "content-date",
        "availableSpace",
    )
}


@dataclass
class Node:
    """One node as it is on disk."""

    path: str
    kind: str
    uid: int
    public: bool
    date: str
    length: int = 0
    read_gids: list[int] = field(default_factory=list)
    write_gids: list[int] = field(default_factory=list)
    inherits: bool = False
    properties: dict[str, str] = field(default_factory=dict)
    target: str = ""


class Disk:
    """The space below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make_root(self) -> None:
        """The root is made if absent and belongs to 0:0 after every start."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chown(self.root, 0, 0)

    def file(self, path: str) -> Path:
        """Where a node's path, with or without slashes around it, is on disk."""
        parts = [part for part in path.split("/") if part]
        if any(part in (".", "..") for part in parts):
            raise ValueError(path)
        return self.root.joinpath(*parts)

    def read(self, path: str) -> Node | None:
        """The node at *path*, without following a link."""
        file = self.file(path)
        try:
            found = file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        date = datetime.datetime.fromtimestamp(found.st_mtime, datetime.UTC)
        path = "/" + "/".join(part for part in path.split("/") if part)
        node = Node(
            path,
            "",
            found.st_uid,
            bool(found.st_mode & stat.S_IROTH),
            date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}",
        )
        if stat.S_ISLNK(found.st_mode):
            node.kind, node.public, node.target = "LinkNode", True, str(file.readlink())
            return node
        if stat.S_ISDIR(found.st_mode):
            node.kind = "ContainerNode"
            node.inherits = any(tag == GROUP for tag, _, _ in _acl(file, DEFAULT))
        elif stat.S_ISREG(found.st_mode):
            node.kind, node.length = "DataNode", found.st_size
        else:
            raise OSError(f"{file} is neither directory, file nor link")
        entries = _acl(file, ACCESS)
        mask = next((bits for tag, bits, _ in entries if tag == MASK), 7)
        for tag, bits, gid in entries:
            if tag == GROUP and bits & mask & 4:
                (node.write_gids if bits & mask & 2 else node.read_gids).append(gid)
        for name in os.listxattr(file):
            if name.startswith("user."):
                key = name.removeprefix("user.")
                if ":" not in key:
                    raise OSError(f"{file}: the attribute {name} is named by no URI")
                if key in KEPT_ELSEWHERE:
                    os.removexattr(file, name)
                    continue
                node.properties[key] = os.getxattr(file, name).decode()
        return node

    def children(self, path: str) -> list[str]:
        """Names in a container, in the directory's order."""
        return os.listdir(self.file(path))

    def create(self, path: str, kind: str, uid: int) -> None:
        """Make an empty node; its owner's group has the owner's number."""
        file = self.file(path)
        if kind == "ContainerNode":
            file.mkdir(mode=0o770)
        else:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o660))
            # What the file system makes of the directory's default ACL is overwritten.
            if ACCESS in os.listxattr(file):
                os.removexattr(file, ACCESS)
            file.chmod(0o660)
        os.chown(file, uid, uid)

    def link(self, path: str, target: str, uid: int) -> None:
        """Make a symbolic link, which its owner has as well."""
        file = self.file(path)
        file.symlink_to(target)
        os.chown(file, uid, uid, follow_symlinks=False)

    def write(self, node: Node, permissions: bool) -> None:
        """Store owner and properties, and the permissions if they changed."""
        file = self.file(node.path)
        os.chown(file, node.uid, node.uid)
        for name in os.listxattr(file):
            if name.startswith("user."):
                os.removexattr(file, name)
        for key, value in node.properties.items():
            os.setxattr(file, f"user.{key}", value.strip().encode())
        if not permissions:
            return
        through = 1 if node.kind == "ContainerNode" else 0
        own = 6 | through
        entries = [(USER_OBJ, own, NOBODY), (GROUP_OBJ, own, NOBODY)]
        entries += [(GROUP, 4 | through, gid) for gid in sorted(node.read_gids)]
        entries += [(GROUP, own, gid) for gid in sorted(node.write_gids)]
        if node.read_gids or node.write_gids:
            entries.append((MASK, own, NOBODY))
        entries.append((OTHER, 4 | through if node.public else 0, NOBODY))
        packed = struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", *entry) for entry in sorted(entries, key=lambda entry: (entry[0], entry[2]))
        )
        os.setxattr(file, ACCESS, packed)
        if node.kind == "ContainerNode" and node.inherits:
            os.setxattr(file, DEFAULT, packed)
        elif node.kind == "ContainerNode" and DEFAULT in os.listxattr(file):
            os.removexattr(file, DEFAULT)

    def delete(self, path: str) -> None:
        """Remove a node; a container has to be empty."""
        file = self.file(path)
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink()

    def move(self, source: str, target: str, uid: int) -> None:
        """Rename, and hand the node itself to the caller."""
        self.file(source).rename(self.file(target))
        os.chown(self.file(target), uid, uid, follow_symlinks=False)

    def writable(self) -> bool:
        """Whether this process may hand files over, which takes root."""
        probe = self.root / ".probe"
        probe.mkdir(exist_ok=True)
        try:
            os.chown(probe, 1, 1)
        finally:
            probe.rmdir()
        return True


def _acl(file: Path, name: str) -> list[tuple[int, int, int]]:
    try:
        packed = os.getxattr(file, name)
    except OSError:
        return []
    return [struct.unpack_from("<HHI", packed, at) for at in range(4, len(packed), 8)]
