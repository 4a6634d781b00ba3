"""Options and exit statuses of the command line."""

from __future__ import annotations

import argparse
import os
import re
from enum import IntEnum
from typing import Any

from prepare_data_client.models import FILE_STATES, TASK_STATES

URL = "https://haproxy.cadc.dao.nrc.ca/prepare-data"


class Exit(IntEnum):
    """Exit statuses."""

    DONE = 0  # the command did what was asked; a task waited for has SUCCEEDED
    FAILED = 1  # the task FAILED or was LOST: not every file is there
    USAGE = 2  # the arguments or a DID are wrong; nothing was sent
    REFUSED = 3  # the service refused the request
    UNAUTHORIZED = 4  # no token, or one that is not valid or not enough
    NOT_FOUND = 5  # there is no such task
    UNREACHABLE = 6  # the service gave no usable answer
    TIMEOUT = 7  # --timeout is over; the task goes on
    CANCELLED = 8  # the task was CANCELLED
    INTERRUPTED = 130  # Ctrl-C; the task goes on


EPILOG = """\
exit status:
  0  done; with --wait, and for watch: every file is staged
  1  the task failed or was lost: not every file is staged; for estimate: files are missing or do not fit
  2  wrong arguments or a malformed DID; nothing was sent
  3  the service refused the request
  4  no token, or one that is not valid or not enough
  5  there is no such task
  6  the service could not be reached or did not work
  7  --timeout is over; the task goes on
  8  the task was cancelled
130  interrupted; the task goes on

environment:
  PREPARE_DATA_URL     the service, if not --url
  PREPARE_DATA_TOKEN   the access token, if neither --token nor --token-file
  REQUESTS_CA_BUNDLE   PEM file of CA certificates, if not --ca
"""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> int:
    """Read a duration such as `3600`, `90m`, `12h` or `7d`."""
    match = re.fullmatch(r"([0-9]+)([smhdw]?)", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 3600, 90m, 12h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def positive(text: str) -> int:
    """Read a positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _shared(top: bool) -> argparse.ArgumentParser:
    """Return the options that stand before or after the command; those after it win."""

    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared = parser.add_argument_group("options of all commands")
    shared.add_argument("--url", default=default(os.environ.get("PREPARE_DATA_URL", URL)), help="the service")
    shared.add_argument("--ca", default=default(None), metavar="FILE", help="PEM file of CA certificates")
    shared.add_argument("--token", default=default(None), help="access token; other users can see it in ps")
    shared.add_argument("--token-file", default=default(None), metavar="FILE", help="file that holds it")
    shared.add_argument("--json", action="store_true", default=default(False), help="print JSON documents")
    shared.add_argument("--quiet", action="store_true", default=default(False), help="no progress or notes")
    shared.add_argument(
        "--request-timeout",
        type=float,
        default=default(60.0),
        metavar="S",
        help="for one answer (default: 60)",
    )
    return parser


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="prepare-data",
        allow_abbrev=False,
        description="Stages files of a Rucio Storage Element into your area of the VOSpace.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared(top=True)],
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared(top=False)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text + ".", parents=[shared], allow_abbrev=False
        )

    def waits(command: argparse.ArgumentParser, always: bool = False) -> None:
        if not always:
            command.add_argument("--wait", action="store_true", help="follow the task to its end")
        command.add_argument("--timeout", type=seconds, metavar="TIME", help="follow no longer than this")

    def takes_files(command: argparse.ArgumentParser) -> None:
        command.add_argument("dids", nargs="*", metavar="DID", help="scope:name")
        command.add_argument(
            "--from",
            dest="files",
            action="append",
            default=[],
            metavar="FILE",
            help="file with a DID on each line, and path= to= size= md5= adler32= where wanted; or JSON; - is stdin",
        )
        command.add_argument(
            "--to", dest="destination", default=".", metavar="DIR", help="directory in your area"
        )
        command.add_argument(
            "--path", help="path of a single DID below the RSE's root, if it is not deterministic"
        )
        command.add_argument(
            "--algorithm",
            choices=["hash", "identity"],
            default="hash",
            help="deterministic layout of the RSE",
        )
        command.add_argument(
            "--rse",
            metavar="NAME",
            help="storage element that has the files, or several as A,B, the preferred first",
        )
        command.add_argument("--approach", help="how to stage, if not as the site does by default")

    submit = add("submit", "Ask for files to be staged; prints the task's id")
    takes_files(submit)
    submit.add_argument("--callback", metavar="URL", help="URL that is told of the task's end")
    submit.add_argument(
        "--lifetime", type=seconds, metavar="TIME", help="keep the copies this long, such as 12h or 7d"
    )
    submit.add_argument("--key", help="idempotency key: the same key is the same task")
    waits(submit)

    takes_files(add("estimate", "Say what staging files would cost, without doing it"))

    status = add("status", "Show a task")
    status.add_argument("task", help="the task's id")
    status.add_argument("--files", dest="show_files", action="store_true", help="show its files too")
    status.add_argument("--state", choices=FILE_STATES, help="only files in this state")

    watch = add("watch", "Follow a task to its end with a live bar")
    watch.add_argument("task", help="the task's id")
    waits(watch, always=True)

    listing = add("list", "Show your tasks, the newest first")
    listing.add_argument(
        "--state", dest="states", action="append", default=[], choices=TASK_STATES, help="only these"
    )
    listing.add_argument("--limit", type=positive, default=50, help="at most so many (default: 50)")

    for name, text in {
        "cancel": "Stop a task",
        "retry": "Stage a task's failed and cancelled files again",
        "release": "Remove a task's staged copies",
        "renew": "Keep a task's staged copies longer",
    }.items():
        command = add(name, text)
        command.add_argument("task", help="the task's id")
        if name in {"cancel", "retry"}:
            waits(command)
        if name == "renew":
            command.add_argument("lifetime", type=seconds, help="from now on, such as 12h or 7d")

    token = add("token", "Get an access token and print it, or show what yours says")
    token.add_argument(
        "--inspect", action="store_true", help="show the claims of the present token, unverified"
    )
    token.add_argument("--issuer", help="the issuer (default: iam beside the service)")
    token.add_argument("--user", default=os.environ.get("USER", ""), help="the user (default: $USER)")
    token.add_argument("--password-file", metavar="FILE", help="else PREPARE_DATA_PASSWORD, else a prompt")
    token.add_argument("--device", action="store_true", help="sign in with a browser instead (RFC 8628)")
    token.add_argument("--client-id", default="cavern-cli", help="OAuth client (default: cavern-cli)")
    token.add_argument("--client-secret-file", metavar="FILE", help="else PREPARE_DATA_CLIENT_SECRET")
    token.add_argument("--lifetime", type=seconds, metavar="TIME", help="life to ask for")
    token.add_argument("--audience", help="service to ask for")
    token.add_argument("--scope", help="scopes to ask for, separated by spaces")
    return root
