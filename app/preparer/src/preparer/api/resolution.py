"""Resolution: with Rucio, a request may name datasets and containers, and Rucio knows where their files are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

from prepare_data_client.did import DID, Algorithm, InvalidDID, InvalidPath
from voservice.problems import Invalid, TooLarge, TooMany
from voservice.storage_elements import StorageElement

from preparer.api.context import Caller, Context
from preparer.api.submission import Item
from preparer.config import PreparerSettings
from preparer.rucio import Replica, Rucio, path_below

MOST_ERRORS = 20


def is_resolved(shared: Context, items: Sequence[Item]) -> bool:
    """Whether Rucio is asked of any of *items*."""
    return shared.rucio is not None and any(_did(item) is not None for item in items)


@contextmanager
def _one_at_a_time(shared: Context, who: Caller) -> Iterator[None]:
    """Resolve one request of a user at a time: each asks Rucio many times."""
    username = who.identity.username
    if username in shared.resolving:
        raise TooMany(
            "Rucio is being asked about another request of yours; wait for its end",
            headers={"Retry-After": "2"},
        )
    shared.resolving.add(username)
    try:
        yield
    finally:
        shared.resolving.discard(username)


async def resolve(
    shared: Context,
    who: Caller,
    items: Sequence[Item],
    rses: Sequence[StorageElement],
    *,
    mounted: bool = False,
) -> Sequence[Item]:
    """Return the files that *items* stand for, with Rucio's sizes and checksums, and which of *rses* have them.

    Items with a path of their own are left as they are, and so are all without Rucio. From the *mounted* RSE files
    are taken by their paths alone. Raises `Forbidden` for a caller whom Rucio does not know, and `Invalid` with an
    error for each item that Rucio does not know, or has on no RSE of the site, and `TooMany` while another request of
    the caller is resolved.
    """
    rucio = shared.rucio
    asked = {number: did for number, item in enumerate(items) if (did := _did(item)) is not None}
    if rucio is None or not asked:
        return items
    most = shared.settings.preparer_max_items
    if len(items) > most:
        return items
    with _one_at_a_time(shared, who):
        await rucio.check_user(who.identity.username, who.token)
        members = await _members(rucio, asked, who.token, shared.settings)
        wanted = {str(did): did for dids in members.values() for did in dids}
        known = {str(found.did): found async for found in rucio.files(list(wanted.values()), who.token)}

    resolved: list[Item] = []
    errors: list[dict[str, str]] = []
    for number, item in enumerate(items):
        if number not in asked:
            resolved.append(replace(item, place=number))
            continue
        for did in members[number]:
            found = known.get(str(did))
            place = _place(found, rses) if found else None
            if found is None or place is None:
                errors.append(_nowhere(number, did, found, rses))
                continue
            path, names = place
            resolved.append(
                replace(
                    item,
                    did=str(did),
                    path=path,
                    size=found.size if item.size is None else item.size,
                    md5=item.md5 or found.md5,
                    adler32=item.adler32 or found.adler32,
                    rse=None if mounted else names,
                    place=number,
                )
            )
    if errors:
        first = errors[0]
        raise Invalid(f"{first['pointer']}: {first['detail']}", errors=errors[:MOST_ERRORS])
    if len(resolved) > most:
        raise TooLarge(f"{len(resolved)} files; a request may have {most}")
    return resolved


async def _members(
    rucio: Rucio, asked: dict[int, DID], token: str, settings: PreparerSettings
) -> dict[int, list[DID]]:
    """Return the files of each item: itself, or those of a dataset or container; each is asked of once."""
    different = {str(did): did for did in asked.values()}
    kinds = await rucio.kinds(list(different.values()), token)
    unknown = [number for number, did in asked.items() if str(did) not in kinds]
    if unknown:
        errors = [
            {"pointer": f"/files/{number}/did", "detail": f"Rucio does not know {asked[number]}"}
            for number in unknown[:MOST_ERRORS]
        ]
        raise Invalid(f"{errors[0]['pointer']}: {errors[0]['detail']}", errors=errors)
    sets = sum(kinds[did] != "FILE" for did in different)
    if sets > settings.preparer_max_collections:
        raise TooLarge(
            f"The request has {sets} datasets and containers, {settings.preparer_max_collections} are the most"
            " (preparer_max_collections); divide it"
        )
    most, total = settings.preparer_max_items, 0
    content: dict[str, list[DID]] = {}
    members: dict[int, list[DID]] = {}
    for number, did in asked.items():
        if kinds[str(did)] == "FILE":
            members[number] = [did]
        else:
            if str(did) not in content:
                content[str(did)] = await rucio.content(did, token, most)
            members[number] = content[str(did)]
        if not members[number]:
            raise Invalid(f"/files/{number}/did: {did} has no files")
        total += len(members[number])
        if total > most:
            raise TooLarge(f"The request has more than {most} files (preparer_max_items); divide it")
    return members


def _did(item: Item) -> DID | None:
    """Return the DID of an item of which Rucio is asked: one whose path follows from its DID, if it is given at all."""
    if not isinstance(item.did, str):
        return None
    try:
        did = DID.parse(item.did)
    except InvalidDID:
        return None
    path: Any = item.path
    if path is not None and not any(did.lies_at(path, algorithm) for algorithm in get_args(Algorithm)):
        return None
    return did


def _place(replica: Replica, rses: Sequence[StorageElement]) -> tuple[str, str] | None:
    """Return the path of a file, and the names of the RSEs that have it there, in the order of preference.

    A replica is passed over that is elsewhere than the layout of its RSE says, as submission would refuse that path.
    """
    did = replica.did
    chosen: tuple[str, list[str]] | None = None
    for element in rses:
        urls = replica.urls.get(element.name)
        if urls is None:
            continue
        path = next(filter(None, (path_below(element.url, url) for url in urls)), None)
        if element.layout == "none":
            if path is None or not _is_path(did, path):
                continue
            if chosen is None:
                # The others have it elsewhere.
                return path, element.name
        elif path is None or did.lies_at(path, element.layout):
            path = did.path(element.layout)
        else:
            continue
        if chosen is None:
            chosen = path, [element.name]
        elif element.layout != "none" or path == chosen[0]:
            chosen[1].append(element.name)
    return None if chosen is None else (chosen[0], ",".join(chosen[1]))


def _is_path(did: DID, path: str) -> bool:
    try:
        did.check(path)
    except InvalidPath:
        return False
    return True


def _nowhere(number: int, did: DID, found: Replica | None, rses: Sequence[StorageElement]) -> dict[str, str]:
    here = ", ".join(element.name for element in rses)
    others = ", ".join(sorted(found.urls)) if found and found.urls else ""
    detail = f"{did} has no replica in the state AVAILABLE at {here}" + (
        f"; it is at {others}" if others else ""
    )
    return {"pointer": f"/files/{number}/did", "detail": detail}
