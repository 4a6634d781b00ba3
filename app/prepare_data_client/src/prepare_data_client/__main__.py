"""The command line: `prepare-data submit|status|watch|list|cancel|retry|release|renew|estimate|token`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prepare_data_client.arguments import Exit, parser
from prepare_data_client.commands import Commands
from prepare_data_client.errors import (
    InvalidItem,
    InvalidTask,
    NotFound,
    PrepareDataError,
    Refused,
    Unauthorized,
    Unreachable,
    WaitTimeout,
)
from prepare_data_client.tokens import NoToken

_STATUS: list[tuple[type[PrepareDataError], Exit]] = [
    (InvalidItem, Exit.USAGE),
    (InvalidTask, Exit.USAGE),
    (NoToken, Exit.UNAUTHORIZED),
    (Unauthorized, Exit.UNAUTHORIZED),
    (NotFound, Exit.NOT_FOUND),
    (Refused, Exit.REFUSED),
    (WaitTimeout, Exit.TIMEOUT),
    (Unreachable, Exit.UNREACHABLE),
    (PrepareDataError, Exit.USAGE),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    commands = Commands(options)
    try:
        return int(getattr(commands, options.command)())
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except PrepareDataError as exc:
        print(f"prepare-data: {exc}", file=sys.stderr)
        return int(next(status for kind, status in _STATUS if isinstance(exc, kind)))


if __name__ == "__main__":
    sys.exit(main())
