"""Permissions of nodes, stored as POSIX ACLs."""

from __future__ import annotations

from vospace.models.node import Change
from vospace.storage.posix_acl import EXECUTE, READ, WRITE, Acl
from vospace.storage.tree import Kind, Status


def readers(acl: Acl) -> frozenset[int]:
    """Return the groups that may only read."""
    return frozenset(gid for gid, bits in acl.groups.items() if bits & (READ | WRITE) == READ)


def writers(acl: Acl) -> frozenset[int]:
    """Return the groups that may write."""
    return frozenset(gid for gid, bits in acl.groups.items() if bits & WRITE)


def acl_for(status: Status, change: Change) -> Acl:
    """Return the ACL of a node after a change; fields that it does not mention stay unchanged."""
    container = status.kind is Kind.CONTAINER
    reading = readers(status.acl) if change.read_gids is None else change.read_gids
    writing = writers(status.acl) if change.write_gids is None else change.write_gids
    public = status.public if change.public is None else change.public
    execute = EXECUTE if container else 0
    kept = 0 if container else status.acl.user & EXECUTE
    full = READ | WRITE | execute
    return Acl(
        user=full | kept,
        group=full,
        other=(READ | execute) if public else 0,
        groups=dict.fromkeys(reading, READ | execute) | dict.fromkeys(writing, full),
    )
