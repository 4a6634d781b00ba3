"""Find nodes by their paths, and open files for reading."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from vospace.models.caller import Caller
from vospace.models.errors import ContainerNotFound, Fault, InvalidArgument, NodeNotFound, PermissionDenied
from vospace.models.uri import Path
from vospace.space.access import Access, Rules
from vospace.space.usage import Usage
from vospace.storage.system_calls import closed_on_error, is_gone
from vospace.storage.tree import Directory, Kind, Status, Tree, Walk


@dataclass(slots=True)
class Located:
    """A location in the space: an open container, a name in it, and the caller's access there."""

    directory: Directory
    name: str
    access: Access

    @property
    def path(self) -> Path:
        return (*self.directory.path, self.name)

    @property
    def kind(self) -> Kind | None:
        return self.directory.kind(self.name)


@dataclass(slots=True)
class OpenFile:
    """A data node open for reading; the caller must close `descriptor`."""

    path: Path
    descriptor: int
    status: Status
    properties: Mapping[str, str]


class Lookup:
    """Finds nodes; the caller must be able to read the containers above them."""

    def __init__(self, rules: Rules, tree: Tree, usage: Usage) -> None:
        self._rules = rules
        self._tree = tree
        self._usage = usage

    @contextmanager
    def locate(self, caller: Caller, path: Path, *, follow: bool = False) -> Iterator[Located]:
        """Return the location of a node, which may be missing; `follow` a link in the last step. Raises NodeNotFound if
        a container above is missing, PermissionDenied if one is not readable."""
        place = self.place(caller, path, follow=follow)
        try:
            yield place
        finally:
            place.directory.close()

    def place(self, caller: Caller, path: Path, *, follow: bool = False) -> Located:
        """As `locate`; the caller must close the directory."""
        access = Access(self._rules, caller)
        access.edition = self._usage.edition
        directory, name = Walk(self._tree, access).parent(path, follow_leaf=follow)
        return Located(directory, name, access)

    def resolve(self, caller: Caller, path: Path) -> Path:
        """Return the path with all links followed, including the last; the node itself may be missing."""
        if not path:
            return path
        with self.locate(caller, path, follow=True) as place:
            return place.path

    @contextmanager
    def existing(self, caller: Caller, path: Path, *, follow: bool = False) -> Iterator[Located]:
        try:
            place = self.place(caller, path, follow=follow)
        except ContainerNotFound:
            raise NodeNotFound(self._rules.naming.uri(path)) from None
        try:
            if place.kind is None:
                raise NodeNotFound(self._rules.naming.uri(path))
            yield place
        finally:
            place.directory.close()

    @contextmanager
    def found(self, place: Located) -> Iterator[None]:
        """Raise NodeNotFound if the node turns out to be gone, or to be another kind of node, in the block."""
        try:
            yield
        except OSError as error:
            if not is_gone(error) and not isinstance(error, NotADirectoryError):
                raise
            raise NodeNotFound(self._rules.naming.uri(place.path)) from None

    @contextmanager
    def opened(self, place: Located) -> Iterator[int]:
        with self.found(place):
            if place.kind is Kind.CONTAINER:
                with place.directory.open_directory(place.name) as opened:
                    yield opened.descriptor
                return
            descriptor = place.directory.open_file(place.name)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def open_data(self, place: Located) -> OpenFile:
        """Open a data node. If properties are stored beside the files, a file that was replaced after it was opened may
        have lost them: then the new one is opened. To be called in a block of `found`."""
        while True:
            descriptor = place.directory.open_file(place.name)
            try:
                properties, found = self._tree.properties.read(descriptor)
                there = place.directory.stat(place.name) if self._tree.properties.store.beside else found
                if there is not None and os.path.samestat(there, found):
                    return OpenFile(place.path, descriptor, Status.of(descriptor, found), properties)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def open(self, caller: Caller, path: Path, *, read: bool = True) -> OpenFile:
        """Open a data node to read it, following links, or only its metadata, which requires no permission on the node
        itself (like its document, and as in Cavern). Raises NodeNotFound, PermissionDenied,
        InvalidArgument."""
        if not path:
            raise InvalidArgument("not a data node")
        with self.existing(caller, path, follow=True) as place, self.found(place):
            opened = self.open_data(place)
            with closed_on_error(opened.descriptor):
                if read and not place.access.may_read(opened.status):
                    raise PermissionDenied(self._rules.naming.uri(place.path))
            return opened

    def stamp(self, caller: Caller, path: Path) -> list[int]:
        """Return inode, size in bytes and modification time in ns of a node, as `Upload.stamp`."""
        with self.existing(caller, path) as place:
            found = place.directory.stat(place.name)
            if found is None:
                raise NodeNotFound(self._rules.naming.uri(path))
            return [found.st_ino, found.st_size, found.st_mtime_ns]

    def has_stamp(self, caller: Caller, path: Path, stamp: list[int]) -> bool:
        """Return whether the node with that stamp is at that path."""
        try:
            return self.stamp(caller, path) == stamp
        except Fault:
            return False
