"""The space: nodes found, read, made, changed, moved, copied and removed on behalf of a caller.

All methods are synchronous and thread-safe; the event loop calls them by `asyncio.to_thread`, batches of files in one
thread. A method raises a Fault of models/errors for what a caller did wrong, and leaves everything as it was then.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO

from vospace.config import Settings
from vospace.models.caller import Caller
from vospace.models.errors import (
    ContainerNotFound,
    DuplicateNode,
    ExternalLink,
    Fault,
    InvalidArgument,
    NodeNotFound,
    PermissionDenied,
    TypeNotSupported,
)
from vospace.models.node import Change, Node
from vospace.models.uri import Naming, Path, parse_path
from vospace.services.authorisation import QUOTA, Gate, Rules, require_unlocked
from vospace.services.usage import Usage, measure
from vospace.storage import attributes, posix_acl
from vospace.storage.attributes import Properties
from vospace.storage.keepers import keeper
from vospace.storage.locks import Locks
from vospace.storage.posix_acl import Acl
from vospace.storage.staging import StagedFile, keep, make_link, sweep, temporary_name
from vospace.storage.system_calls import rename_new
from vospace.storage.tree import Directory, Kind, Status, Tree, Walk, make_directory, not_of

COPY_BLOCK = 8 << 20
HOME: Path = ("home",)
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Located:
    """A place in the space: an open container, a name in it, and the caller's gate there."""

    directory: Directory
    name: str
    gate: Gate

    @property
    def path(self) -> Path:
        return (*self.directory.path, self.name)

    @property
    def kind(self) -> Kind | None:
        return self.directory.kind(self.name)


@dataclass(slots=True)
class OpenFile:
    """A data node open for reading; the reader closes `descriptor`."""

    path: Path
    descriptor: int
    status: Status
    properties: Mapping[str, str]


Ids = tuple[int, int]
"""uid and gid of an owner."""
Condition = Callable[[os.stat_result | None], None]


class Upload:
    """A data node being written. Write to `descriptor`, then `commit`; `close` in any case."""

    def __init__(
        self,
        space: Space,
        place: Located,
        *,
        exists: bool,
        replace: bool,
        keep_properties: bool,
        require: Condition | None = None,
        owned: bool = True,
    ) -> None:
        """`owned`: the place's directory is closed with the upload. `require` is asked again when it is placed."""
        self._keep_properties = keep_properties
        self._exists = exists
        self._owned = owned
        self._require = require
        self._reserved: tuple[Path, int] | None = None
        self._space = space
        self._place = place
        self._replace = replace
        self.room = space.room(place)
        self._staged = StagedFile(place.directory)

    @property
    def path(self) -> Path:
        return self._place.path

    @property
    def descriptor(self) -> int:
        return self._staged.descriptor

    @property
    def stamp(self) -> list[int]:
        return self._staged.stamp

    def check_room(self, size: int) -> None:
        """Raises QuotaExceeded if a file of that many bytes does not fit. May have to count, so call it in a thread."""
        if self.room is not None and size > self.room:
            self.room = self._space.room(self._place, size)

    def prepare(
        self, properties: Mapping[str, str | None], *, sync: bool = True, owner: Ids | None = None
    ) -> None:
        """Give it its owner, the caller if no other is given, and properties (an existing node keeps its own) and make
        the bytes durable."""
        if (quota := self._space.quota(self._place)) is not None:
            size = os.fstat(self.descriptor).st_size
            self._space.usage.reserve(*quota, size)
            self._reserved = (quota[0], size)
        caller = self._place.gate.caller
        if self._exists and self._staged.inherit(self._place.name, properties=self._keep_properties):
            self._place.directory.properties.write(self.descriptor, properties)
        else:
            self._staged.own(*(owner or caller.ids), properties)
        if sync:
            self._staged.sync()

    def place(self, *, replace: bool | None = None, sync: bool = True) -> None:
        """Make the node visible. Raises DuplicateNode if there is one and it is not to be replaced, and what
        `Space.upload` raises if what is there has become another since."""
        name = self._place.name
        with self._space.locks.held(self._place.directory, name):
            kind = self._place.kind
            if self._require is not None:
                self._require(self._place.directory.stat(name))
            if not (self._replace if replace is None else replace):
                self._staged.place(name)
            else:
                if kind is not None or self._exists:
                    # What is there now may be another's: the name has been free, or has been given anew, since.
                    self._exists = self._space.check_upload(self._place, replace=True)
                if kind is None:
                    self._staged.place(name)
                else:
                    if self._staged.inherit(name, properties=self._keep_properties):
                        self._staged.sync()
                    self._staged.replace(name)
        self._settle(added=True)
        if sync:
            self._place.directory.sync()

    def _settle(self, *, added: bool) -> None:
        if self._reserved is not None:
            self._space.usage.settle(*self._reserved, added=added)
            self._reserved = None

    def commit(self, properties: Mapping[str, str | None]) -> None:
        """`prepare` and `place`."""
        self.prepare(properties)
        self.place()

    def close(self) -> None:
        self._staged.close()
        self._settle(added=False)
        if self._owned:
            self._place.directory.close()


def open_tree(settings: Settings) -> Tree:
    """The space's directory, made where it is missing. Raises ValueError if properties cannot be kept there as the
    settings say."""
    settings.root.mkdir(parents=True, exist_ok=True)
    where = settings.vospace_metadata
    try:
        return Tree(settings.root, Properties(keeper(where, settings.vospace_base_dir)))
    except ValueError as error:
        raise ValueError(f"VOSPACE_METADATA: {where} at {settings.root}: {error}") from None


class Space:
    """One VOSpace on one directory."""

    def __init__(self, settings: Settings) -> None:
        self.naming = Naming(settings.vospace_resource_id, settings.vospace_aliases)
        parents = [parse_path(path) for path in settings.vospace_allocation_parents]
        self.rules = Rules(
            naming=self.naming,
            root_uid=settings.vospace_root_owner_uid,
            root_writers=frozenset(settings.vospace_root_writers),
            allocation_parents=frozenset(parents),
            home=HOME if HOME in parents else next(iter(parents), None),
            self_allocate=settings.vospace_self_allocate,
            self_allocate_groups=frozenset(settings.vospace_self_allocate_groups),
            default_quota=settings.vospace_default_quota_bytes,
        )
        self._root_ids = (settings.vospace_root_owner_uid, settings.vospace_root_owner_gid)
        self._base = settings.vospace_base_dir
        self.tree = open_tree(settings)
        self.locks = Locks(self._base)
        self.usage = Usage(self._base, self._count)
        self._prepare_root()

    def close(self) -> None:
        self.tree.close()

    def _prepare_root(self) -> None:
        """The root and the allocation parents belong to the root owner and are public, so that users can reach what
        is theirs below; what exists keeps its permissions."""
        with self.tree.top() as top:
            os.fchown(top.descriptor, *self._root_ids)
            os.fchmod(top.descriptor, 0o775)
            for path in sorted(self.rules.allocation_parents):
                if len(path) != 1:
                    raise ValueError(
                        f"an allocation parent must be a top-level container, not /{'/'.join(path)}"
                    )
                try:
                    os.mkdir(path[0], 0o775, dir_fd=top.descriptor)
                except FileExistsError:
                    continue
                with top.open_directory(path[0]) as made:
                    os.fchown(made.descriptor, *self._root_ids)
                    os.fchmod(made.descriptor, 0o775)

    def spool(self) -> IO[bytes]:
        """A file of the service's own on the data volume, gone when it is closed."""
        return TemporaryFile(dir=self._base)

    def sweep(self, stopped: Callable[[], bool]) -> int:
        """Remove what processes that died left of nodes being staged, until told to stop; the number of nodes."""
        removed = 0
        pending: list[Path] = [()]
        while pending and not stopped():
            path = pending.pop()
            try:
                with Walk(self.tree, lambda _: None).container(path) as directory:
                    removed += sweep(directory)
                    pending += [
                        (*path, name) for name in directory.names() if directory.kind(name) is Kind.CONTAINER
                    ]
            except (Fault, OSError) as error:  # moved or removed meanwhile
                logger.info("not swept: /%s: %s", "/".join(path), error)
        return removed

    # Finding.

    @contextmanager
    def locate(self, caller: Caller, path: Path, *, follow: bool = False) -> Iterator[Located]:
        """The place of a node, which may be missing; `follow` a link in the last step. Raises NodeNotFound if a
        container above is missing, PermissionDenied if one is not readable."""
        place = self.place(caller, path, follow=follow)
        try:
            yield place
        finally:
            place.directory.close()

    def place(self, caller: Caller, path: Path, *, follow: bool = False) -> Located:
        """As `locate`; who calls closes the directory."""
        gate = Gate(self.rules, caller)
        gate.edition = self.usage.edition
        directory, name = Walk(self.tree, gate).parent(path, follow_leaf=follow)
        return Located(directory, name, gate)

    def resolve(self, caller: Caller, path: Path) -> Path:
        """The path with all links followed, the last included; the node itself may be missing."""
        if not path:
            return path
        with self.locate(caller, path, follow=True) as place:
            return place.path

    def node(self, caller: Caller, path: Path, *, follow: bool = False) -> Node:
        """Raises NodeNotFound."""
        if not path:
            with self.tree.top() as top:
                return self._describe_directory(top, Gate(self.rules, caller))
        with self._existing(caller, path, follow=follow) as place:
            return self._describe(place)

    def children(
        self, caller: Caller, path: Path, start: str | None = None, limit: int | None = None
    ) -> Iterator[Node]:
        """Nodes of a container by name, from `start` on (inclusive). Raises PermissionDenied without the right to read
        the container."""
        gate = Gate(self.rules, caller)
        with Walk(self.tree, gate).container(path) as directory:
            names = sorted(directory.names())
            allocation, quota = gate.allocation_uid, gate.quota
            count = 0
            for name in names:
                if start is not None and name < start:
                    continue
                if limit is not None and count >= limit:
                    return
                gate.allocation_uid, gate.quota = allocation, quota
                try:
                    node = self._describe(Located(directory, name, gate))
                except (FileNotFoundError, NodeNotFound, TypeNotSupported):
                    continue
                count += 1
                yield node

    @contextmanager
    def _existing(self, caller: Caller, path: Path, *, follow: bool = False) -> Iterator[Located]:
        try:
            place = self.place(caller, path, follow=follow)
        except ContainerNotFound:
            raise NodeNotFound(self.naming.uri(path)) from None
        try:
            if place.kind is None:
                raise NodeNotFound(self.naming.uri(path))
            yield place
        finally:
            place.directory.close()

    def _describe(self, place: Located) -> Node:
        directory, name = place.directory, place.name
        match place.kind:
            case Kind.CONTAINER:
                with directory.open_directory(name) as opened:
                    if opened.path[:-1] in self.rules.allocation_parents:
                        place.gate.allocation_uid = opened.status.stat.st_uid
                    return self._describe_directory(opened, place.gate)
            case Kind.DATA:
                descriptor, properties = self._open_data(place)
                try:
                    status = Status.of(descriptor)
                    return self._describe_open(place.path, status, place.gate, properties)
                finally:
                    os.close(descriptor)
            case Kind.LINK:
                return self._describe_link(place)
            case Kind.OTHER:
                raise TypeNotSupported(self.naming.uri(place.path))
        raise NodeNotFound(self.naming.uri(place.path))

    def _describe_directory(self, directory: Directory, gate: Gate) -> Node:
        default = directory.default_acl
        properties = self.tree.properties.read(directory.descriptor)
        node = self._describe_open(directory.path, directory.status, gate, properties)
        if not directory.path:
            writable = not gate.caller.anonymous and gate.may_create_in(directory, "", container=True)
            return replace(node, public=True, readable=True, writable=writable)
        return replace(node, inherits=default is not None)

    def _describe_open(self, path: Path, status: Status, gate: Gate, properties: dict[str, str]) -> Node:
        groups = status.acl.groups
        return Node(
            path=path,
            kind=status.kind.value,
            uid=status.stat.st_uid,
            length=status.stat.st_size,
            modified_ns=status.stat.st_mtime_ns,
            public=status.public,
            read_gids=frozenset(g for g, bits in groups.items() if bits & 6 == 4),
            write_gids=frozenset(g for g, bits in groups.items() if bits & 2),
            properties=properties,
            readable=gate.may_read(status),
            writable=gate.may_write(status),
        )

    def _describe_link(self, place: Located) -> Node:
        found = place.directory.stat(place.name)
        if found is None:
            raise NodeNotFound(self.naming.uri(place.path))
        text = place.directory.link_text(place.name)
        target: Path | str
        try:
            target = self.tree.link_target(place.directory.path, text)
        except ExternalLink:  # shown as it is
            target = text
        return Node(
            path=place.path,
            kind=Kind.LINK.value,
            uid=found.st_uid,
            length=0,
            modified_ns=found.st_mtime_ns,
            public=True,
            target=target,
            readable=True,
            writable=place.gate.may_write(Status.of_link(found)),
        )

    # Making and changing.

    def require_create(self, caller: Caller, path: Path, *, container: bool) -> None:
        """Raises as making a node at that path would."""
        if not path:
            raise DuplicateNode(self.naming.root)
        with self.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self.naming.uri(path))
            place.gate.require_create(place.directory, place.name, container=container)

    def require_update(self, caller: Caller, path: Path, *, follow: bool = False) -> None:
        """Raises as changing that node would."""
        node = self.node(caller, path, follow=follow)
        if not node.writable and not self._administers(caller, node.path[:-1]):
            raise PermissionDenied(self.naming.uri(path))

    def _administers(self, caller: Caller, container: Path) -> bool:
        """Whether the administrator asks, and for a node of the containers that he looks after."""
        return self.rules.is_admin(caller) and self.rules.is_shared(container)

    def create_container(
        self, caller: Caller, path: Path, change: Change | None = None, owner: Ids | None = None
    ) -> Node:
        """A new container. `owner`: uid and gid of another user, which only the root owner may give. Raises
        DuplicateNode, ContainerNotFound, PermissionDenied."""
        change = change or Change()
        if not path:
            raise DuplicateNode(self.naming.root)
        with self.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self.naming.uri(path))
            place.gate.require_create(place.directory, place.name, container=True)
            self._require_admin(caller, owner)
            above, quota = place.directory.path, self.rules.default_quota
            bound = above in self.rules.allocation_parents or (not above and not self.rules.is_admin(caller))
            if bound and quota and QUOTA not in change.properties:
                change = replace(change, properties={**change.properties, QUOTA: str(quota)})
            self._build(place, owner or caller.ids, change)
            place.directory.sync()
            if change.properties.get(QUOTA) is not None:
                self.usage.changed(place.path)
            return self._describe(place)

    def _require_admin(self, caller: Caller, owner: Ids | None) -> None:
        if owner is not None and not self.rules.is_admin(caller):
            raise PermissionDenied("only the root owner creates nodes for others")

    def _build(self, place: Located, owner: Ids, change: Change) -> None:
        """A directory that is its owner's, with all its properties, from the moment it can be seen."""
        parent, temporary = place.directory, temporary_name()
        try:
            with make_directory(parent, temporary) as made:
                os.fchown(made.descriptor, *owner)
                self._apply(made.descriptor, change)
            rename_new(temporary, place.name, source_dir=parent.descriptor, target_dir=parent.descriptor)
        except BaseException as error:
            with suppress(FileNotFoundError), parent.taking_away(temporary):
                os.rmdir(temporary, dir_fd=parent.descriptor)
            if isinstance(error, FileExistsError):
                raise DuplicateNode(self.naming.uri(place.path)) from None
            raise

    def ensure_container(self, caller: Caller, path: Path) -> None:
        """Make the container and those above it that are missing, each owned by the caller."""
        missing: list[Path] = []
        while path:
            try:
                gate = Gate(self.rules, caller)
                Walk(self.tree, gate).container(path).close()
                break
            except ContainerNotFound:
                missing.append(path)
                path = path[:-1]
        for wanted in reversed(missing):
            try:
                self.create_container(caller, wanted)
            except DuplicateNode:
                with self.locate(caller, wanted, follow=True) as place:
                    if place.kind is not Kind.CONTAINER:
                        raise ContainerNotFound(self.naming.uri(wanted)) from None

    def create_data(
        self, caller: Caller, path: Path, change: Change | None = None, owner: Ids | None = None
    ) -> Node:
        """An empty data node. `owner` as for a container. Raises DuplicateNode."""
        self._require_admin(caller, owner)
        with self.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self.naming.uri(path))
        upload = self.upload(caller, path, replace=False, follow=False)
        try:
            upload.prepare(attributes.OF_EMPTY, sync=False, owner=owner)
            self._apply(upload.descriptor, change or Change())
            os.fsync(upload.descriptor)
            upload.place()
        finally:
            upload.close()
        return self.node(caller, path)

    def create_link(self, caller: Caller, path: Path, target: Path | str, owner: Ids | None = None) -> Node:
        """A link to a path of this space, which need not exist, or to an absolute path of the file system as those see
        it who mount the space; the service itself never follows the latter. `owner` as for a container."""
        self._require_admin(caller, owner)
        if not path:
            raise DuplicateNode(self.naming.root)
        with self.locate(caller, path) as place:
            if place.kind is not None:
                raise DuplicateNode(self.naming.uri(path))
            place.gate.require_create(place.directory, place.name)
            text = target if isinstance(target, str) else self.tree.link_text(place.directory.path, target)
            try:
                make_link(place.directory, place.name, text, owner or caller.ids)
            except FileExistsError:
                raise DuplicateNode(self.naming.uri(path)) from None
            place.directory.sync()
            return self._describe(place)

    def update(self, caller: Caller, path: Path, change: Change) -> Node:
        """Change a container or data node, locked or not, as Cavern does. Raises PermissionDenied, NodeNotFound."""
        if not path:
            if not self.rules.is_admin(caller):
                raise PermissionDenied(self.naming.root)
            with self.tree.top() as top:
                self._apply(top.descriptor, change)
            return self.node(caller, path)
        with self._existing(caller, path) as place:
            if place.kind is Kind.LINK:
                if change != Change():
                    raise InvalidArgument("a link has no properties to change")
                return self._describe(place)
            with self.locks.held(place.directory, place.name), self._opened(place) as descriptor:
                status = Status.of(descriptor)
                above = place.directory.path
                if above in self.rules.allocation_parents:
                    place.gate.allocation_uid = status.stat.st_uid
                if not (place.gate.may_write(status) or self._administers(caller, above)):
                    raise PermissionDenied(self.naming.uri(path))
                if QUOTA in change.properties and not self.rules.is_admin(caller):
                    raise PermissionDenied("only the root owner sets a quota")
                self._apply(descriptor, change)
                os.fsync(descriptor)
                if QUOTA in change.properties:
                    self.usage.changed(place.path)
            return self._describe(place)

    @contextmanager
    def _opened(self, place: Located) -> Iterator[int]:
        if place.kind is Kind.CONTAINER:
            try:
                opened = place.directory.open_directory(place.name)
            except (FileNotFoundError, NotADirectoryError):
                raise NodeNotFound(self.naming.uri(place.path)) from None
            with opened:
                yield opened.descriptor
            return
        try:
            descriptor = place.directory.open_file(place.name)
        except FileNotFoundError:
            raise NodeNotFound(self.naming.uri(place.path)) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _apply(self, descriptor: int, change: Change) -> None:
        self.tree.properties.write(descriptor, change.properties)
        if (change.public, change.read_gids, change.write_gids, change.inherits) == (None,) * 4:
            return
        status = Status.of(descriptor)
        container = status.kind is Kind.CONTAINER
        old = status.acl.groups
        readers = change.read_gids
        if readers is None:
            readers = frozenset(g for g, bits in old.items() if bits & 6 == 4)
        writers = change.write_gids
        if writers is None:
            writers = frozenset(g for g, bits in old.items() if bits & 2)
        public = status.public if change.public is None else change.public
        execute = 1 if container else 0
        groups = dict.fromkeys(readers, 4 | execute) | dict.fromkeys(writers, 6 | execute)
        other = (4 | execute) if public else 0
        kept = 0 if container else status.acl.user & 1
        acl = Acl(6 | execute | kept, 6 | execute, other, groups)
        os.fchmod(descriptor, acl.mode)
        if groups:
            posix_acl.write(descriptor, posix_acl.ACCESS, acl)
        else:
            posix_acl.remove(descriptor, posix_acl.ACCESS)
            os.fchmod(descriptor, acl.mode)
        if container:
            inherits = change.inherits
            if inherits is None:
                inherits = _has(descriptor, posix_acl.DEFAULT)
            if inherits:
                posix_acl.write(descriptor, posix_acl.DEFAULT, acl)
            else:
                posix_acl.remove(descriptor, posix_acl.DEFAULT)

    # Bytes.

    def upload(
        self,
        caller: Caller,
        path: Path,
        *,
        replace: bool = True,
        keep_properties: bool = True,
        follow: bool = True,
        require: Condition | None = None,
    ) -> Upload:
        """Begin to write a data node, or, with `follow`, the one that a link leads to. The containers above must exist;
        an existing node is replaced at the end, or refused by DuplicateNode. `require` raises if what is there, or that
        nothing is, is not what was expected: now and at the end. Raises PermissionDenied, NodeLocked, QuotaExceeded,
        InvalidArgument (no data node)."""
        if not path:
            raise InvalidArgument("the root is not a data node")
        place = self.place(caller, path, follow=follow)
        try:
            exists = self.check_upload(place, replace=replace)
            if require is not None:
                require(place.directory.stat(place.name))
            return Upload(
                self, place, exists=exists, replace=replace, keep_properties=keep_properties, require=require
            )
        except BaseException:
            place.directory.close()
            raise

    def upload_at(self, place: Located, exists: bool) -> Upload:
        """As `upload`, at a place that was checked and whose directory stays the caller's."""
        return Upload(self, place, exists=exists, replace=True, keep_properties=False, owned=False)

    def check_upload(self, place: Located, *, replace: bool) -> bool:
        """Whether there is a node that would be replaced. Raises as `upload` does."""
        match place.kind:
            case None:
                place.gate.require_create(place.directory, place.name)
            case Kind.DATA:
                if not replace:
                    raise DuplicateNode(self.naming.uri(place.path))
                descriptor = place.directory.open_file(place.name)
                try:
                    place.gate.require_write(Status.of(descriptor), place.directory, descriptor, place.path)
                finally:
                    os.close(descriptor)
                return True
            case _:
                raise InvalidArgument(f"not a data node: {self.naming.uri(place.path)}")
        return False

    def room(self, place: Located, size: int = 1) -> int | None:
        """Bytes that may be written there, None without a quota. Raises QuotaExceeded if they are fewer than `size`."""
        quota = self.quota(place)
        return None if quota is None else self.usage.room(*quota, size)

    def quota(self, place: Located) -> tuple[Path, int] | None:
        """The container whose quota binds what is written there, and that quota as it is now."""
        edition = self.usage.edition
        if edition != place.gate.edition:
            gate = Gate(self.rules, place.gate.caller)
            with suppress(Fault):  # moved meanwhile: what it was found under goes on
                Walk(self.tree, gate.note).container(place.directory.path).close()
                place.gate.quota, place.gate.edition = gate.quota, edition
        return place.gate.quota

    def _count(self, path: Path) -> int:
        """Bytes below a container."""
        with Walk(self.tree, lambda _: None).container(path) as directory:
            return measure(directory.descriptor)

    def open(self, caller: Caller, path: Path, *, read: bool = True) -> OpenFile:
        """Open a data node to read it, links followed, or only to see what can be said of it, which takes no right to
        the node itself (as its document, and as Cavern has it). Raises NodeNotFound, PermissionDenied,
        InvalidArgument."""
        if not path:
            raise InvalidArgument("not a data node")
        with self._existing(caller, path, follow=True) as place:
            descriptor, properties = self._open_data(place)
            try:
                status = Status.of(descriptor)
                if read and not place.gate.may_read(status):
                    raise PermissionDenied(self.naming.uri(place.path))
                return OpenFile(place.path, descriptor, status, properties)
            except BaseException:
                os.close(descriptor)
                raise

    def _open_data(self, place: Located) -> tuple[int, dict[str, str]]:
        """A descriptor of a data node, and its properties. Where these are kept beside the files, one that was replaced
        since it was opened may have lost them: then what replaced it is opened. Raises NodeNotFound."""
        while True:
            try:
                descriptor = place.directory.open_file(place.name)
            except FileNotFoundError:
                raise NodeNotFound(self.naming.uri(place.path)) from None
            try:
                properties = self.tree.properties.read(descriptor)
                there = place.directory.stat(place.name)
                if there is not None and os.path.samestat(there, os.fstat(descriptor)):
                    return descriptor, properties
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def stamp(self, caller: Caller, path: Path) -> list[int]:
        """What tells a node from any other, as `Upload.stamp`."""
        with self._existing(caller, path) as place:
            found = place.directory.stat(place.name)
            if found is None:
                raise NodeNotFound(self.naming.uri(path))
            return [found.st_ino, found.st_size, found.st_mtime_ns]

    def has_stamp(self, caller: Caller, path: Path, stamp: list[int]) -> bool:
        """Whether the node with that stamp is at that path."""
        try:
            return self.stamp(caller, path) == stamp
        except Fault:
            return False

    # Removing, moving, copying.

    def delete(self, caller: Caller, path: Path, *, sync: bool = True) -> None:
        """Remove a node; a link, not its target. Raises InvalidArgument for a container that is not empty."""
        if not path:
            raise PermissionDenied("the root cannot be deleted")
        with self._existing(caller, path) as place, self.locks.held(place.directory, place.name):
            self._remove(place)
            if sync:
                place.directory.sync()
            self._forget(place)

    def _remove(self, place: Located) -> None:
        descriptor = place.directory.descriptor
        with self._movable(place) as opened:
            kind = None if opened is None else Status.of(opened).kind
            if opened is not None and kind is Kind.CONTAINER:
                with Directory(os.dup(opened), place.path, self.tree.properties) as container:
                    sweep(container)
        try:
            with place.directory.taking_away(place.name):
                if kind is Kind.CONTAINER:
                    os.rmdir(place.name, dir_fd=descriptor)
                else:
                    os.unlink(place.name, dir_fd=descriptor)
        except FileNotFoundError:
            raise NodeNotFound(self.naming.uri(place.path)) from None
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise InvalidArgument(f"container node '{place.name}' is not empty") from None
            raise

    @contextmanager
    def _movable(self, place: Located) -> Iterator[int | None]:
        """A descriptor of a node that may be taken out of its container, None for what has no properties, such as a
        link. Raises PermissionDenied, NodeLocked, NodeNotFound."""
        gate, directory = place.gate, place.directory
        if place.kind not in (Kind.CONTAINER, Kind.DATA):
            found = directory.stat(place.name)
            if found is None:
                raise NodeNotFound(self.naming.uri(place.path))
            gate.require_remove(directory, place.path, Status.of_link(found), has_quota=False)
            yield None
            return
        with self._opened(place) as descriptor:
            limit = directory.properties.one(descriptor, QUOTA)
            gate.require_remove(directory, place.path, Status.of(descriptor), has_quota=limit is not None)
            require_unlocked(directory, descriptor)
            yield descriptor

    def move(self, caller: Caller, source: Path, final: Path) -> None:
        """Move a node, atomically, to exactly that path (see `destination`), where nothing may be. It stays whose it
        is; who moves a container may write to all that is in it. Raises DuplicateNode, NodeNotFound, PermissionDenied,
        NodeLocked, InvalidArgument."""
        if not source:
            raise PermissionDenied("the root cannot be moved")
        with (
            self._existing(caller, source) as old,
            self.locate(caller, final) as new,
            self.locks.held(old.directory, old.name),
        ):
            self._require_outside(old.path, new.path)
            if new.kind is not None:
                raise DuplicateNode(self.naming.uri(new.path))
            new.gate.require_create(new.directory, new.name)
            with self._movable(old) as descriptor:
                if descriptor is None:
                    self._rename(old, new)
                else:
                    self._require_all_writable(old, descriptor)
                    with self._moved_bytes(old, new, descriptor):
                        self._rename(old, new)
            new.directory.sync()
            if old.directory.path != new.directory.path:
                old.directory.sync()
            self._forget(old)
            self._forget(new)
            self.usage.forget(old.path)
            self.usage.forget(new.path)

    @staticmethod
    def _require_outside(source: Path, target: Path, act: str = "move") -> None:
        """In the words of Cavern, which its clients look for."""
        if len(target) > len(source) and target[: len(source)] == source:
            raise InvalidArgument(
                f"Cannot {act} container node into its descendants:"
                f" source path /{'/'.join(source)} in resolved path /{'/'.join(target[:-1])}"
            )

    def _require_all_writable(self, place: Located, descriptor: int) -> None:
        """Raises PermissionDenied if a container holds what the caller may not write. The administrator looks after
        what is at the root and in the parents of allocations, an allocation's owner may write to all in it."""
        gate, uid = place.gate, place.gate.caller.uid
        if self._administers(gate.caller, place.directory.path):
            return
        if uid is None or gate.allocation_uid == uid or place.kind is not Kind.CONTAINER:
            return
        for path, status in not_of(uid, descriptor, place.path):
            if not gate.may_write(status):
                raise PermissionDenied(self.naming.uri(path))

    @contextmanager
    def _moved_bytes(self, old: Located, new: Located, descriptor: int) -> Iterator[None]:
        """Around a move: what counts anew at its destination is reserved there. Raises QuotaExceeded."""
        quota = self.quota(new)
        if quota is None or quota == self.quota(old):
            yield
            return
        container = old.kind is Kind.CONTAINER
        size = measure(descriptor) if container else os.fstat(descriptor).st_size
        self.usage.reserve(*quota, size)
        added = False
        try:
            yield
            added = True
        finally:
            self.usage.settle(quota[0], size, added=added)

    def _forget(self, place: Located) -> None:
        if place.gate.quota is not None:
            self.usage.forget(place.gate.quota[0])

    def _rename(self, old: Located, new: Located) -> None:
        try:
            if old.kind is Kind.LINK and old.directory.path != new.directory.path:
                self._relink(old, new)
            else:
                rename_new(
                    old.name,
                    new.name,
                    source_dir=old.directory.descriptor,
                    target_dir=new.directory.descriptor,
                )
        except FileExistsError:
            raise DuplicateNode(self.naming.uri(new.path)) from None
        except FileNotFoundError:
            raise NodeNotFound(self.naming.uri(old.path)) from None
        except OSError as error:
            if error.errno == errno.EINVAL:
                # since it was looked, the destination has been moved below the source
                self._require_outside(old.path, (*old.path, new.name))
            raise

    def _relink(self, old: Located, new: Located) -> None:
        """A link that moves keeps its target, so its relative text changes, and its owner."""
        text = old.directory.link_text(old.name)
        found = os.stat(old.name, dir_fd=old.directory.descriptor, follow_symlinks=False)
        if not text.startswith("/"):
            text = self.tree.link_text(new.directory.path, self.tree.link_target(old.directory.path, text))
        make_link(new.directory, new.name, text, (found.st_uid, found.st_gid))
        os.unlink(old.name, dir_fd=old.directory.descriptor)

    def destination(self, caller: Caller, source: Path, wanted: Path, act: str = "move") -> Path:
        """The final path of a move or copy (`act`): below an existing container, or a new name. Raises DuplicateNode if
        that is taken, PermissionDenied, ContainerNotFound, InvalidArgument below the source itself."""
        if not source:
            raise PermissionDenied("the root cannot be moved")
        final: Path = (source[-1],)
        if wanted:
            with self.locate(caller, wanted, follow=True) as place:
                # A link that leads to nothing is there all the same.
                final = (*place.path, source[-1]) if place.kind is Kind.CONTAINER else wanted
        with self.locate(caller, final) as place:
            self._require_outside(source, place.path, act)
            if place.kind is not None:
                raise DuplicateNode(self.naming.uri(place.path))
            place.gate.require_create(place.directory, place.name)
            return place.path

    def copy_container(self, caller: Caller, source: Path, target: Path) -> None:
        """A new empty container with the properties of another."""
        node = self.node(caller, source)
        kept = {key: value for key, value in node.properties.items() if key not in (QUOTA, attributes.LOCKED)}
        self.create_container(caller, target, Change(properties=kept))

    def build_container(self, caller: Caller, source: Path, staging: Path) -> Directory:
        """As `copy_container`, under a reserved name, which is swept away should the process die before it closes what
        is returned."""
        self.copy_container(caller, source, staging)
        with self.locate(caller, staging) as place:
            directory = place.directory.open_directory(place.name)
        keep(directory)
        return directory

    def copy_link(self, caller: Caller, source: Path, target: Path) -> None:
        """A link to the same place; one that leads out of the space is left out."""
        node = self.node(caller, source)
        if isinstance(node.target, tuple):
            self.create_link(caller, target, node.target)

    def copy_file(
        self, caller: Caller, source: Path, target: Path, cancelled: Callable[[], bool]
    ) -> Upload | None:
        """Stage a copy of a data node with its properties, for the caller to `place`; None if `cancelled()` said so."""
        opened = self.open(caller, source)
        try:
            upload = self.upload(caller, target, replace=False)
            try:
                size = opened.status.stat.st_size
                upload.check_room(size)
                done = 0
                while done < size:
                    if cancelled():
                        upload.close()
                        return None
                    count = os.copy_file_range(
                        opened.descriptor, upload.descriptor, min(COPY_BLOCK, size - done)
                    )
                    if count == 0:
                        break
                    done += count
                upload.prepare({k: v for k, v in opened.properties.items() if k != attributes.LOCKED})
                return upload
            except BaseException:
                upload.close()
                raise
        finally:
            os.close(opened.descriptor)

    def walk(self, caller: Caller, path: Path, *, bottom_up: bool = False) -> Iterator[tuple[Path, str]]:
        """Paths and kinds of a node and all below it, containers before or after what they hold. A link in the first
        step is followed, others are not. Memory grows with depth, and with the names of one container at a time.
        What cannot be read is left out."""
        real = self.resolve(caller, path)
        node = self.node(caller, real)
        yield from self._walk(caller, node.path, node.kind, bottom_up)

    def _walk(self, caller: Caller, path: Path, kind: str, bottom_up: bool) -> Iterator[tuple[Path, str]]:
        if kind != Kind.CONTAINER:
            yield path, kind
            return
        # Containers on the way down, each with what is still to be visited in it.
        pending = [(path, self._below(caller, path))]
        if not bottom_up:
            yield path, kind
        while pending:
            here, found = pending[-1]
            for name, below in found:
                there = (*here, name)
                if below is not Kind.CONTAINER:
                    yield there, below.value
                    continue
                if not bottom_up:
                    yield there, below.value
                pending.append((there, self._below(caller, there)))
                break
            else:
                pending.pop()
                if bottom_up:
                    yield here, Kind.CONTAINER.value

    def _below(self, caller: Caller, path: Path) -> Iterator[tuple[str, Kind]]:
        """Names and kinds of nodes in a container, none if that cannot be read."""
        try:
            with Walk(self.tree, Gate(self.rules, caller)).container(path) as directory:
                found = [(name, directory.kind(name)) for name in sorted(directory.names())]
        except (PermissionDenied, NodeNotFound):
            found = []
        return iter([(name, kind) for name, kind in found if kind not in (None, Kind.OTHER)])


def _has(descriptor: int, name: str) -> bool:
    try:
        return bool(os.getxattr(descriptor, name))
    except OSError:
        return False
