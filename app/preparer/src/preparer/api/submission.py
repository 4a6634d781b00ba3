"""Submission: a request is validated as a whole before its task is written to the ledger."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from prepare_data_client.did import DID, InvalidDID, InvalidPath, destination
from voservice.auth import AuthenticationError
from voservice.problems import Conflict, Invalid, TooLarge, TooMany
from voservice.storage_elements import StorageElement

from preparer.api.context import Caller, Context
from preparer.ledger import KeyReused, NewFile, NewTask, Task
from preparer.staging.callbacks import CallbackRefused, check

MD5 = re.compile(r"[0-9a-fA-F]{32}")
logger = logging.getLogger(__name__)
# Seconds for which an exchanged token serves further requests with the same token, and how many are kept.
EXCHANGE_AGE = 300.0
EXCHANGE_COUNT = 10_000
ADLER32 = re.compile(r"[0-9a-fA-F]{1,8}")


RSE = "RSE to take the files from, or several, separated by commas, in the order of preference; the site's by default"


class BadItem(Exception):
    """An item of a request is invalid; the pointer says where, the detail why."""

    def __init__(self, pointer: str, detail: str) -> None:
        """Point into the request (JSON Pointer, RFC 6901)."""
        super().__init__(detail)
        self.pointer, self.detail = pointer, detail


@dataclass(frozen=True)
class Item:
    """A file as requested, not validated yet. `pointers` are the names of its fields in errors.

    `rse` names the RSEs that have it, where Rucio told, and `place` its number in the request, if that is another.
    """

    did: Any
    path: Any
    destination: Any
    size: int | None = None
    md5: str | None = None
    adler32: str | None = None
    pointers: tuple[str, str, str] = ("did", "path", "destination")
    rse: str | None = None
    place: int | None = None


class Submission:
    """Validates requests and writes them to the ledger."""

    def __init__(self, context: Context) -> None:
        """Use the process's context."""
        self.context = context
        self.settings = context.settings

    def check(
        self,
        caller: Caller,
        items: Sequence[Item],
        prefix: str,
        rse: str | None = None,
        *,
        mounted: bool = False,
    ) -> list[NewFile]:
        """Validate *items*, found at *prefix* in the request, which are on the RSEs that *rse* names.

        Files of the *mounted* RSE are where `preparer_path_algorithm` says if an RSE of the site has that layout, else
        where the first layout says, unless the site has none. Raises `Invalid` with an error for each invalid one.
        """
        rses = self.rses(rse)
        if mounted:
            of_mount = self.settings.preparer_path_algorithm
            laid_out = [element for element in rses if element.layout != "none"]
            rses = sorted(laid_out, key=lambda element: element.layout != of_mount) or rses
        if not items:
            raise Invalid(
                "The request names no file",
                errors=[{"pointer": prefix or "/", "detail": "give at least one"}],
            )
        if len(items) > self.settings.preparer_max_items:
            raise TooLarge(f"{len(items)} files; a request may have {self.settings.preparer_max_items}")
        files: list[NewFile] = []
        errors: list[dict[str, str]] = []
        targets: dict[str, int] = {}
        for number, item in enumerate(items):
            try:
                file = self._file(caller, item, item.rse or rse, self.rses(item.rse) if item.rse else rses)
                other = targets.setdefault(file.target, number)
                if other != number:
                    if files[other] == file:
                        raise BadItem(item.pointers[0], f"is the same file as item {other}")
                    raise BadItem(
                        item.pointers[0], f"would land at the same place as item {other}: {file.target}"
                    )
                files.append(file)
            except BadItem as exc:
                files.append(NewFile("", "", ""))
                place = number if item.place is None else item.place
                errors.append({"pointer": f"{prefix}/{place}/{exc.pointer}", "detail": exc.detail})
                if len(errors) >= 20:
                    break
        if errors:
            first = errors[0]
            raise Invalid(f"{first['pointer']}: {first['detail']}", errors=errors)
        return files

    def rses(self, names: str | None) -> list[StorageElement]:
        """Return the RSEs that a request names, separated by commas, or else all. Raises `Invalid`."""
        known = {element.name: element for element in self.settings.rses}
        if names is None:
            return list(known.values())
        found = [known.get(name) for name in names.split(",")]
        if None in found or len(set(names.split(","))) < len(found):
            raise Invalid(
                f"/rse: {names[:200]!r}: this site has {', '.join(known)}; name one, or several as A,B"
            )
        return [element for element in found if element]

    def _file(self, caller: Caller, item: Item, rse: str | None, rses: Sequence[StorageElement]) -> NewFile:
        at_did, at_path, at_destination = item.pointers
        try:
            did = DID.parse(_text(item.did, at_did))
        except InvalidDID as exc:
            raise BadItem(at_did, str(exc)) from exc
        path, found = self._path(did, None if item.path is None else _text(item.path, at_path), rses, at_path)
        try:
            directory = destination(_text(item.destination, at_destination))
        except InvalidPath as exc:
            raise BadItem(at_destination, f"{item.destination!r}: {exc}") from exc
        if item.md5 is not None and not MD5.fullmatch(item.md5):
            raise BadItem("md5", "must be 32 hexadecimal digits")
        if item.adler32 is not None and not ADLER32.fullmatch(item.adler32):
            raise BadItem("adler32", "must be up to 8 hexadecimal digits")
        home = self.settings.home_of(caller.identity.username)
        target = "/".join([home, *directory, did.relative_name])
        return NewFile(
            str(did),
            path,
            target,
            item.size,
            item.md5.lower() if item.md5 else None,
            item.adler32.lower().zfill(8) if item.adler32 else None,
            rse if len(found) == len(rses) else ",".join(element.name for element in found),
        )

    def _path(
        self, did: DID, path: str | None, rses: Sequence[StorageElement], pointer: str
    ) -> tuple[str, Sequence[StorageElement]]:
        """Return the path of a file, that of the first deterministic layout without one, and who may be asked for it.

        A path of no layout is the file's on RSEs without a layout alone. Raises `BadItem`.
        """
        fixed = [element for element in rses if element.layout != "none"]
        layouts = [element.layout for element in rses if element.layout != "none"]
        if path is None and not fixed:
            names = ", ".join(element.name for element in rses)
            raise BadItem(pointer, f"is needed: {names} has no layout that gives it")
        stated = path if path is not None else did.path(layouts[0])
        try:
            did.check(stated)
        except InvalidPath as exc:
            raise BadItem(pointer, f"{stated!r}: {exc}") from exc
        if path is None:
            return stated, fixed
        if self.settings.preparer_path_check == "off" or not fixed:
            return path, rses
        free = [element for element in rses if element.layout == "none"]
        if any(did.lies_at(path, layout) for layout in layouts):
            # Where a layout says nothing, the request does.
            return path if free else did.path(layouts[0]), rses
        if not free:
            raise BadItem(pointer, f"{path!r} is not where {did} lies on the RSE: {did.path(layouts[0])!r}")
        return path, free

    def approach(self, name: str | None, rse: str | None = None) -> str:
        """Return the requested approach, or the site's default. Raises `Invalid` for one that is not supported."""
        default = self.settings.prepare_data_approach
        offered = {*self.settings.supported_approaches, default}
        if name and name not in offered:
            names = ", ".join(sorted(offered))
            raise Invalid(f"/approach: {name[:80]!r} is not offered here; choose one of {names}")
        chosen = name or default
        if rse is not None and chosen != "cavern_api_approach":
            raise Invalid(f"/rse: {chosen} takes files from the RSE that is mounted here, and from no other")
        return chosen

    async def submit(
        self,
        caller: Caller,
        files: Sequence[NewFile],
        *,
        approach: str | None = None,
        callback: str | None = None,
        lifetime: int | None = None,
        key: str | None = None,
        content: str | None = None,
    ) -> tuple[Task, bool]:
        """Write the task to the ledger; returns it and whether it is new.

        *content* is the hash of the request, by default that of its files.
        """
        context, settings = self.context, self.settings
        username = caller.identity.username
        chosen = self.approach(approach, files[0].rse)
        if callback is not None:
            try:
                check(callback, settings.preparer_callback_hosts)
            except CallbackRefused as exc:
                raise Invalid(f"/{exc}") from exc
        content = content or content_hash(files, chosen, callback, lifetime)
        if await self.is_full(username):
            # What is repeated makes no further task.
            known = await self.known(username, content, key)
            if known is not None:
                return known, False
            raise self.full()
        token, expires = await self.credential(caller)
        if lifetime is not None:
            self.check_lifetime(lifetime, expires)
        new = NewTask(
            username=username,
            subject=caller.identity.subject,
            approach=chosen,
            content_hash=content,
            files=files,
            credential=context.vault.encrypt(token),
            credential_expires=expires,
            idempotency_key=key,
            callback=callback,
            lifetime=lifetime,
        )
        try:
            task, created = await context.ledger.submit(new)
        except KeyReused as exc:
            raise _reused() from exc
        context.outbox.notify()
        return task, created

    async def is_full(self, username: str) -> bool:
        """Whether the user has as many unfinished tasks as may be."""
        return await self.context.ledger.active_count(username) >= self.settings.preparer_max_active

    def full(self) -> TooMany:
        """Return the error for a user who has as many unfinished tasks as may be."""
        return TooMany(
            f"{self.settings.preparer_max_active} tasks of yours are unfinished; wait for some or cancel them",
            headers={"Retry-After": "10"},
        )

    async def known(self, username: str, content: str, key: str | None) -> Task | None:
        """Return the task that the same request has made already. Raises `Conflict` for a key of another request."""
        try:
            return await self.context.ledger.same(username, content, key)
        except KeyReused as exc:
            raise _reused() from exc

    def check_lifetime(self, lifetime: int, expires: datetime | None) -> None:
        """Raise `Invalid` for a lifetime longer than that of the credential with which the copies will be removed."""
        if expires is None:
            return
        longest = int((expires - datetime.now(UTC)).total_seconds()) - 300
        if lifetime > longest:
            raise Invalid(
                f"/lifetime: at most {max(longest, 0)} seconds, since your token ends then; renew it in time"
            )

    async def credential(self, caller: Caller) -> tuple[str, datetime | None]:
        """Return the token for staging, exchanged or else the caller's own, and when it expires (UTC)."""
        if self.context.credentials is None:
            return caller.token, caller.identity.expires
        known = self.context.exchanged
        # The digest, since a token must not be a key that a dump shows.
        key = hashlib.sha256(caller.token.encode()).digest()
        found = known.get(key)
        if found is not None and time.monotonic() - found[0] < EXCHANGE_AGE:
            return found[1], found[2]
        try:
            token = await self.context.credentials.exchange(
                caller.token, self.settings.preparer_credential_lifetime
            )
        except AuthenticationError as exc:
            # An issuer need not have token exchange: staging ends with the caller's own token then.
            logger.info("A user's token is not exchanged: %s", exc.description)
            return caller.token, caller.identity.expires
        # An opaque token says nothing of its end.
        expires = caller.identity.expires
        with suppress(jwt.PyJWTError, LookupError, TypeError, ValueError):
            claims = jwt.decode(token, options={"verify_signature": False})
            expires = datetime.fromtimestamp(claims["exp"], UTC)
        known.pop(key, None)
        known[key] = (time.monotonic(), token, expires)
        while len(known) > EXCHANGE_COUNT:
            known.pop(next(iter(known)))
        return token, expires


def content_hash(files: Sequence[NewFile], approach: str, callback: str | None, lifetime: int | None) -> str:
    """Hash a request, regardless of the order of its files."""
    # Without an RSE it is that of earlier releases, whose unfinished tasks are in the ledger.
    lines = sorted(
        json.dumps([f.did, f.path, f.target, f.size, f.md5, f.adler32, *([f.rse] if f.rse else [])])
        for f in files
    )
    head = json.dumps([approach, callback, lifetime])
    return hashlib.sha256("\n".join([head, *lines]).encode()).hexdigest()


def request_hash(
    items: Sequence[Item], rse: str | None, approach: str, callback: str | None, lifetime: int | None
) -> str:
    """Hash a request as it was made, regardless of the order of its items, before Rucio says what it stands for."""
    lines = sorted(json.dumps([i.did, i.path, i.destination, i.size, i.md5, i.adler32]) for i in items)
    head = json.dumps(["as requested", approach, callback, lifetime, rse])
    return hashlib.sha256("\n".join([head, *lines]).encode()).hexdigest()


def _reused() -> Conflict:
    return Conflict("Idempotency-Key: this key was used for another request; choose a new one")


def _text(value: Any, pointer: str) -> str:
    if not isinstance(value, str):
        raise BadItem(pointer, "must be a string")
    return value
