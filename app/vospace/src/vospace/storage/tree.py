"""The tree of directories and files below the root of the space.

Every step uses the descriptor of a directory and never follows a symbolic link of the file system: links are read and
resolved against the root of the space (VOSpace 2.1 section 3.4). So nothing outside can be reached, whatever users who
mount the file system place or change there at the same time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path as FilePath

from vospace.models.errors import (
    ContainerNotFound,
    DuplicateNode,
    ExternalLink,
    InvalidArgument,
    UnreadableLinkTarget,
)
from vospace.models.uri import STAGING_PREFIX, Path
from vospace.storage import posix_acl
from vospace.storage.attributes import Properties
from vospace.storage.posix_acl import Acl
from vospace.storage.system_calls import closed_on_error, is_gone

MAX_LINKS = 20
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Kind(StrEnum):
    CONTAINER = "ContainerNode"
    DATA = "DataNode"
    LINK = "LinkNode"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Status:
    """Kind, owner and permissions of a node."""

    kind: Kind
    stat: os.stat_result
    acl: Acl

    @property
    def public(self) -> bool:
        return bool(self.acl.other & posix_acl.READ)

    @classmethod
    def of(cls, descriptor: int, found: os.stat_result | None = None) -> Status:
        """Return the status of an open file or directory, of which *found* may be known."""
        found = os.fstat(descriptor) if found is None else found
        try:
            acl = Acl.decode(os.getxattr(descriptor, posix_acl.ACCESS))
        except (OSError, ValueError):
            acl = Acl.of_mode(found.st_mode)
        return cls(_kind(found.st_mode), found, acl)

    @classmethod
    def of_link(cls, found: os.stat_result) -> Status:
        """Return the status of a link: everyone may see it, only its owner may change it."""
        return cls(_kind(found.st_mode), found, Acl(6, 0, 4))


class Directory:
    """An open directory; closes itself at the end of a `with` block."""

    def __init__(self, descriptor: int, path: Path, properties: Properties) -> None:
        """Take over the *descriptor*. `properties`: those of the directory and of its nodes."""
        self.descriptor = descriptor
        self.path = path
        self.properties = properties

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @cached_property
    def status(self) -> Status:
        """Its status; read once."""
        return Status.of(self.descriptor)

    @cached_property
    def default_acl(self) -> Acl | None:
        """The ACL that new nodes inherit, None without inheritance; read once."""
        try:
            return Acl.decode(os.getxattr(self.descriptor, posix_acl.DEFAULT))
        except (OSError, ValueError):
            return None

    def stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def kind(self, name: str) -> Kind | None:
        found = self.stat(name)
        return None if found is None else _kind(found.st_mode)

    def open_directory(self, name: str) -> Directory:
        """Raises NotADirectoryError (also for a link) or FileNotFoundError."""
        try:
            descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a link", name) from error
            raise
        return Directory(descriptor, (*self.path, name), self.properties)

    def open_file(self, name: str, flags: int = 0) -> int:
        """Return a descriptor of a regular file. Raises FileNotFoundError; InvalidArgument for anything else."""
        found = self.stat(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument("not a data node")
        descriptor = os.open(name, _OPEN_FILE | flags, dir_fd=self.descriptor)
        with closed_on_error(descriptor):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgument("not a data node")
        return descriptor

    def link_text(self, name: str) -> str:
        return os.readlink(name, dir_fd=self.descriptor)

    def names(self) -> Iterator[str]:
        """Yield names of nodes in no order, without files being staged and names that are not Unicode."""
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(STAGING_PREFIX):
                    continue
                try:
                    name.encode("utf-8")
                except UnicodeEncodeError:
                    continue
                yield name

    @contextmanager
    def taking_away(self, name: str) -> Iterator[None]:
        """Remove the properties of the node of that name, if any, when the block removes or replaces it."""
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        except FileNotFoundError:
            yield
            return
        with self.properties.of_removed(descriptor):
            yield

    def sync(self) -> None:
        """Make names durable."""
        os.fsync(self.descriptor)


class Tree:
    """The space's root directory."""

    def __init__(self, root: FilePath, properties: Properties) -> None:
        """Raises ValueError if the file system does not support the property store."""
        self.root = root
        self.properties = properties
        self._descriptor = os.open(root, _OPEN_DIRECTORY)
        with closed_on_error(self._descriptor):
            properties.store.check(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def top(self) -> Directory:
        return Directory(os.dup(self._descriptor), (), self.properties)

    def link_target(self, parent: Path, text: str) -> Path:
        """Return the path that a link with `text` in container `parent` leads to. Raises ExternalLink if outside."""
        if text.startswith("/"):
            root = str(self.root).rstrip("/")
            if text != root and not text.startswith(root + "/"):
                raise ExternalLink(f"link to external resource: file://{text[:200]}")
            text, steps = text[len(root) :], []
        else:
            steps = list(parent)
        for name in text.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                if not steps:
                    raise ExternalLink(f"link to external resource: {text[:200]}")
                steps.pop()
            else:
                steps.append(name)
        return tuple(steps)

    def link_text(self, parent: Path, target: Path) -> str:
        """Return the text of a link in container `parent` that leads to `target`: relative, so that the space can be
        mounted anywhere."""
        common = 0
        while common < min(len(parent), len(target)) and parent[common] == target[common]:
            common += 1
        return "/".join([".."] * (len(parent) - common) + list(target[common:])) or "."


def not_of(uid: int, descriptor: int, path: Path) -> Iterator[tuple[Path, Status]]:
    """Yield path and status of every node below an open container that does not belong to that user, regardless of
    permissions, without nodes being staged. Nodes removed in the meantime are omitted."""
    # Containers on the path down, each with the names still to be visited.
    pending = [(os.dup(descriptor), path, iter(os.listdir(descriptor)))]
    try:
        while pending:
            container, above, names = pending[-1]
            name = next(names, None)
            if name is None:
                pending.pop()
                os.close(container)
                continue
            if name.startswith(STAGING_PREFIX):
                continue
            try:
                found = os.stat(name, dir_fd=container, follow_symlinks=False)
                kind = _kind(found.st_mode)
                if kind is Kind.DATA and found.st_uid == uid:
                    continue
                if kind not in (Kind.CONTAINER, Kind.DATA):
                    if found.st_uid != uid:
                        yield (*above, name), Status.of_link(found)
                    continue
                opened = os.open(name, _OPEN_FILE, dir_fd=container)
                with closed_on_error(opened):
                    status = Status.of(opened)
                    below = os.listdir(opened) if status.kind is Kind.CONTAINER else None
            except OSError as error:
                if not is_gone(error):
                    raise
                continue
            if below is None:
                os.close(opened)
            else:
                pending.append((opened, (*above, name), iter(below)))
            if status.stat.st_uid != uid:
                yield (*above, name), status
    finally:
        for container, _, _ in pending:
            os.close(container)


Check = Callable[[Directory], None]
"""Called with every container on the path; raises to deny access."""


class Walk:
    """One resolution of a path, step by step, with a check at each container."""

    def __init__(self, tree: Tree, check: Check) -> None:
        self._tree = tree
        self._check = check
        self._links = 0

    def parent(self, path: Path, *, follow_leaf: bool) -> tuple[Directory, str]:
        """Return the node's open container and its name there, following links on the path (and, if requested, at the
        end); the node itself may be missing. Raises NodeNotFound, UnreadableLinkTarget, ExternalLink, and what the
        check raises."""
        if not path:
            raise InvalidArgument("the root has no container")
        directory = self._container(path[:-1])
        name = path[-1]
        try:
            if follow_leaf and directory.kind(name) is Kind.LINK:
                target = self._follow(directory, name)
                if not target:
                    raise UnreadableLinkTarget("a link leads to the root, which is no data node")
                directory.close()
                return self.parent(target, follow_leaf=True)
        except BaseException:
            directory.close()
            raise
        return directory, name

    def container(self, path: Path) -> Directory:
        """Return the open container of that path, following links; it must be readable itself."""
        return self._container(path)

    def _container(self, path: Path) -> Directory:
        directory = self._tree.top()
        steps = list(path)
        index = 0
        try:
            self._check(directory)
            while index < len(steps):
                name = steps[index]
                try:
                    below = directory.open_directory(name)
                except FileNotFoundError:
                    raise ContainerNotFound("/" + "/".join(steps[: index + 1])) from None
                except NotADirectoryError:
                    if directory.kind(name) is not Kind.LINK:
                        raise ContainerNotFound("/" + "/".join(steps[: index + 1])) from None
                    steps = [*self._follow(directory, name), *steps[index + 1 :]]
                    index = 0
                    directory.close()
                    directory = self._tree.top()
                    continue
                directory.close()
                directory = below
                self._check(directory)
                index += 1
        except BaseException:
            directory.close()
            raise
        return directory

    def _follow(self, directory: Directory, name: str) -> Path:
        self._links += 1
        if self._links > MAX_LINKS:
            raise UnreadableLinkTarget("too many links, or a cycle of links")
        return self._tree.link_target(directory.path, directory.link_text(name))


def make_directory(parent: Directory, name: str) -> Directory:
    """Create a directory; the file system sets what it inherits. Raises DuplicateNode."""
    mode = 0o777 if parent.default_acl is not None else 0o770
    try:
        os.mkdir(name, mode, dir_fd=parent.descriptor)
    except FileExistsError:
        raise DuplicateNode("/" + "/".join((*parent.path, name))) from None
    return parent.open_directory(name)


def _kind(mode: int) -> Kind:
    if stat.S_ISDIR(mode):
        return Kind.CONTAINER
    if stat.S_ISREG(mode):
        return Kind.DATA
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER
