"""Transfers that the client carries out: which endpoints it may use (VOSpace 2.1 sections 3.6.1 and 3.6.2)."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass

from voservice.vosi import CERTIFICATE, TOKEN
from vospace_client.terms import (
    HTTP_GET,
    HTTP_PUT,
    HTTPS_GET,
    HTTPS_PUT,
    LENGTH,
    PULL_FROM,
    PUSH_TO,
    VIEW_DATA,
    VIEW_DEFAULT,
)

from vospace.models.caller import ANONYMOUS, Caller
from vospace.models.errors import (
    DuplicateNode,
    InvalidArgument,
    NodeNotFound,
    PermissionDenied,
    ProtocolNotSupported,
    ViewNotSupported,
)
from vospace.models.sizes import byte_count
from vospace.models.uri import Path, encode_path
from vospace.services.preauth import PREFIX, Mode, Preauth
from vospace.space.space import Space
from vospace.storage.tree import Kind
from vospace.transfers.documents import Protocol, Transfer

_ANONYMOUS = (None, "ivo://ivoa.net/sso#anonymous")
_WITH_CREDENTIAL = frozenset(
    {
        TOKEN,
        CERTIFICATE,
        "vos://cadc.nrc.ca~vospace/CADC/std/Auth#token-1.0",  # the Python client's name for the method
    }
)
_PROTOCOLS = {
    PULL_FROM: frozenset({HTTP_GET, HTTPS_GET}),
    PUSH_TO: frozenset({HTTP_PUT, HTTPS_PUT}),
}


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The result of a negotiation: path and transfer; `link` if the target was a link to it."""

    path: Path
    transfer: Transfer
    link: Path | None = None


class Negotiator:
    """Finds endpoints for one service."""

    def __init__(self, space: Space, preauth: Preauth, service_url: str) -> None:
        self._space = space
        self._preauth = preauth
        self._files = f"{service_url}/files"

    async def negotiate(self, caller: Caller, transfer: Transfer) -> Negotiated:
        """Raises a Fault; ProtocolNotSupported if none of the requested protocols is available."""
        check_view(transfer)
        wanted = self._space.naming.path(single_target(transfer))
        if transfer.direction == PULL_FROM:
            path = await asyncio.to_thread(self._check_pull, caller, wanted)
        else:
            path = await asyncio.to_thread(self._check_push, caller, wanted, _length(transfer))
        protocols = await self._endpoints(caller, transfer, path)
        if not protocols:
            raise ProtocolNotSupported("requested transfer specs not supported")
        if transfer.direction == PUSH_TO:
            await asyncio.to_thread(self._ensure, caller, path)
        return Negotiated(path, transfer.with_protocols(protocols), wanted if wanted != path else None)

    def _check_pull(self, caller: Caller, path: Path) -> Path:
        if not path or self._space.node(caller, self._space.resolve(caller, path)).kind == Kind.CONTAINER:
            raise InvalidArgument("target is not a data node")
        opened = self._space.open(caller, path)
        os.close(opened.descriptor)
        return opened.path

    def _check_push(self, caller: Caller, path: Path, length: int | None) -> Path:
        upload = self._space.upload(caller, path)
        try:
            if length is not None:
                upload.check_quota(length)
            return upload.path
        finally:
            upload.close()

    def _ensure(self, caller: Caller, path: Path) -> None:
        """Create the node, empty until the bytes arrive (VOSpace 2.1 section 3.6.1)."""
        with suppress(DuplicateNode):
            self._space.create_data(caller, path)

    async def _endpoints(self, caller: Caller, transfer: Transfer, path: Path) -> tuple[Protocol, ...]:
        allowed = _PROTOCOLS[transfer.direction]
        mode: Mode = "read" if transfer.direction == PULL_FROM else "write"
        plain = self._files + encode_path(path)
        found: list[Protocol] = []
        for protocol in transfer.protocols:
            if protocol.uri not in allowed:
                continue
            if protocol.security_method in _WITH_CREDENTIAL:
                found.append(Protocol(protocol.uri, plain, protocol.security_method))
            elif protocol.security_method in _ANONYMOUS:
                if not caller.anonymous:
                    token = self._preauth.token(caller, path, mode)
                    signed = f"{self._files}/{PREFIX}{token}{encode_path(path)}"
                    found.append(Protocol(protocol.uri, signed))
                if mode == "read" and await asyncio.to_thread(self._is_public, path):
                    found.append(Protocol(protocol.uri, plain))
        return tuple(found)

    def _is_public(self, path: Path) -> bool:
        try:
            os.close(self._space.open(ANONYMOUS, path).descriptor)
        except (PermissionDenied, NodeNotFound):
            return False
        return True


def single_target(transfer: Transfer) -> str:
    """Raises InvalidArgument."""
    if len(transfer.targets) != 1:
        raise InvalidArgument(f"TooManyTargets ({len(transfer.targets)})")
    return transfer.targets[0]


def check_view(transfer: Transfer) -> None:
    """Raises ViewNotSupported for anything but the bytes as they are."""
    if transfer.view is not None and transfer.view.uri not in (VIEW_DEFAULT, VIEW_DATA):
        raise ViewNotSupported(transfer.view.uri)


def _length(transfer: Transfer) -> int | None:
    text = transfer.param(LENGTH)
    if text is None:
        return None
    size = byte_count(text)
    if size is None:
        raise InvalidArgument(f"param {LENGTH} must be a number of bytes, not {text[:40]!r}")
    return size
