"""The service as processes of their own, with callers named by their token: what tests start and kill.

Each line of the input is an order for one, as JSON, and is answered by a line with its process's number. Configuration
comes from the environment as in a deployment. They are forked where the modules are loaded, which takes a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Collection
from typing import TypedDict

import uvicorn
from starlette.requests import Request
from voservice import database, tracing
from voservice.auth import AuthenticationError, bearer
from voservice.config import load
from voservice.logging import configure
from vospace.app import MIGRATIONS, build
from vospace.config import Settings
from vospace.models.caller import ANONYMOUS, Caller


class Order(TypedDict):
    """Where the service listens, what it is told, and where it logs."""

    port: int
    environment: dict[str, str]
    log: str


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


def serve(port: int) -> None:
    settings = load(Settings)
    configure("vospace", settings.log_level)
    tracing.configure("vospace", settings)
    database.migrate(settings, MIGRATIONS)
    app = build(settings, KnownUsers())
    uvicorn.run(app, host="127.0.0.1", port=port, log_config=None, access_log=False)


def start(order: Order) -> int:
    """Start the service in a process of its own, which has nothing of this one but the modules. Return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(order["environment"])
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        ):
            os.dup2(os.open(path, flags), number)
        os.dup2(1, 2)
        serve(order["port"])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    # Nobody here waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        print(start(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
