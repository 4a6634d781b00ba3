"""Whose names get numbers, without HTTP and database."""

from __future__ import annotations

from typing import Any

import pytest
from posix_mapper.models.errors import BadParameter
from posix_mapper.services.mapping import Mapping, number
from voservice.auth import Identity

TEAM = "ivo://opencadc.org/gms?team"


class Store:
    """Remembers for which names numbers were to be made."""

    def __init__(self) -> None:
        self.new: list[str] = []

    async def users(self, names: list[str], uids: list[int], new: list[str]) -> list[Any]:
        self.new = list(new)
        return []

    groups = users


def caller(username: str, **claims: str) -> Identity:
    return Identity(username=username, subject=username, issuer="https://vo.example", claims=claims)


@pytest.mark.parametrize(
    ("who", "registrars", "names"),
    [
        (caller("ada"), [], ["ada"]),
        (caller("admin"), [], ["ada", "bob"]),
        (caller("ada"), ["any"], ["ada", "bob"]),
        (caller("ada", client_id="vospace"), ["vospace"], ["ada", "bob"]),
        (caller("ada", azp="vospace"), ["vospace"], ["ada", "bob"]),
        (caller("ada", client_id="other", azp="vospace"), ["vospace"], ["ada"]),
    ],
)
async def test_who_registers_names(who: Identity, registrars: list[str], names: list[str]) -> None:
    store: Any = Store()
    mapping = Mapping(store, ["admin"], registrars)
    await mapping.users(who, ["ada", "bob"], [])
    assert store.new == names
    await mapping.groups(who, [TEAM], ["7"])
    assert store.new == ([TEAM] if len(names) > 1 else [])


async def test_parameters_that_cannot_be_read() -> None:
    store: Any = Store()
    mapping = Mapping(store, [], [])
    with pytest.raises(BadParameter, match="user: 'a b'"):
        await mapping.users(caller("ada"), ["a b"], [])
    with pytest.raises(BadParameter, match="group: 'team'"):
        await mapping.groups(caller("ada"), ["team"], [])
    for text in ("-1", "x", "2147483648", "9" * 30):
        with pytest.raises(BadParameter, match="from 0 to 2147483647"):
            number("uid", text)
