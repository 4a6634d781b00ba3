"""Node properties in extended attributes `user.<property URI>`, as OpenCADC's Cavern names them.

MD5 and adler32 are only worth something while the bytes are those they were computed of: a private attribute notes
size and time of change then, and both are left out as soon as that no longer fits. Files without the note (written by
another implementation) are believed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress

from vospace.models.errors import InvalidArgument
from vospace.models.uri import XML_SPACE

CORE = "ivo://ivoa.net/vospace/core#"
MD5 = f"{CORE}MD5"
ADLER32 = "ivo://skao.int/vospace/core#adler32"
TYPE = f"{CORE}type"
ENCODING = f"{CORE}encoding"
LOCKED = "ivo://cadc.nrc.ca/vospace/core#islocked"
OF_CONTENT = frozenset({MD5, ADLER32, TYPE, ENCODING})
"""Properties that go with the bytes."""

_PREFIX = "user."
STAMP = "ivo://skao.int/vospace/core#stamp"
_CHECKSUMS = (MD5, ADLER32)


def read(descriptor: int) -> dict[str, str]:
    """All properties of an open file or directory, checksums only if they still hold."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found: dict[str, str] = {}
    for name in names:
        if name.startswith(_PREFIX):
            try:
                found[name[len(_PREFIX) :]] = (
                    os.getxattr(descriptor, name).decode("utf-8", "replace").strip(XML_SPACE)
                )
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    stamp = found.pop(STAMP, None)
    if stamp is not None and stamp != _stamp(os.fstat(descriptor)):
        for key in _CHECKSUMS:
            found.pop(key, None)
    if MD5 in found:
        found[MD5] = found[MD5].removeprefix("md5:")
    return found


def one(descriptor: int, key: str) -> str | None:
    """One property, without regard to the bytes."""
    try:
        return os.getxattr(descriptor, _PREFIX + key).decode("utf-8", "replace").strip(XML_SPACE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def write(descriptor: int, properties: Mapping[str, str | None]) -> None:
    """Set properties, all or none; None removes one. Raises InvalidArgument if the file system has no room for them."""
    before: dict[str, bytes | None] = {}
    # What is removed makes room for what is set.
    for key, value in sorted(properties.items(), key=lambda item: item[1] is not None):
        name = _PREFIX + key
        try:
            before[name] = _get(descriptor, name)
            _put(descriptor, name, None if value is None else value.encode("utf-8"))
        except OSError as error:
            for changed, old in reversed(before.items()):
                with suppress(OSError):
                    _put(descriptor, changed, old)
            if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL, errno.ENOTSUP):
                raise InvalidArgument(
                    f"property {key[:100]} cannot be stored: {os.strerror(error.errno)}"
                ) from error
            raise
    if any(properties.get(key) is not None for key in _CHECKSUMS):
        os.setxattr(descriptor, _PREFIX + STAMP, _stamp(os.fstat(descriptor)).encode())


def _get(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def _put(descriptor: int, name: str, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(descriptor, name, value)
        return
    try:
        os.removexattr(descriptor, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}"
