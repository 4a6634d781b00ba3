"""The service as a process of its own, with callers named by their token: what tests start and kill.

Run as `python server.py PORT`; configuration comes from the environment as in a deployment.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

import uvicorn
from starlette.requests import Request
from voservice import database, tracing
from voservice.auth import AuthenticationError, bearer
from voservice.config import load
from voservice.logging import configure
from vospace.app import MIGRATIONS, build
from vospace.config import Settings
from vospace.models.caller import ANONYMOUS, Caller

USERS = {"cavernadmin": 9999, "ada": 10001, "bob": 10002}
GROUPS = {"ivo://opencadc.org/gms?team": 900001}
MEMBERS = {"bob": "ivo://opencadc.org/gms?team"}


class KnownUsers:
    """Stands in for the issuer and the POSIX mapper: a token is a user's name."""

    async def caller(self, request: Request) -> Caller:
        name = bearer(request.headers.getlist("authorization"))
        if name is None:
            return ANONYMOUS
        if name not in USERS:
            raise AuthenticationError("not a user's name")
        uid = USERS[name]
        group = MEMBERS.get(name)
        gids = {uid} | ({GROUPS[group]} if group else set())
        return Caller(name, uid, uid, frozenset(gids), frozenset([group] if group else []), "token")

    async def account(self, username: str) -> tuple[int, int]:
        return USERS[username], USERS[username]

    async def name(self, uid: int) -> str | None:
        return next((name for name, number in USERS.items() if number == uid), None)

    def is_local(self, group: str) -> bool:
        return group.startswith("ivo://opencadc.org/gms?")

    async def gids(self, groups: Collection[str]) -> frozenset[int]:
        return frozenset(GROUPS[group] for group in groups)

    async def group(self, gid: int) -> str | None:
        return next((name for name, number in GROUPS.items() if number == gid), None)


def main() -> None:
    settings = load(Settings)
    configure("vospace", settings.log_level)
    tracing.configure("vospace", settings)
    database.migrate(settings, MIGRATIONS)
    app = build(settings, KnownUsers())
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)


if __name__ == "__main__":
    main()
