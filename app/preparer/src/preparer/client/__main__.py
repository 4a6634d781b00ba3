"""The command line: ``prepare-data submit|status|watch|list|cancel|retry|release|renew|estimate|token``."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from preparer.client import items, tokens
from preparer.client.api import Client
from preparer.client.errors import (
    InvalidItem,
    InvalidTask,
    NotFound,
    PrepareDataError,
    Refused,
    Unauthorized,
    Unreachable,
    WaitTimeout,
)
from preparer.client.models import FILE_STATES, TASK_STATES, Task
from preparer.client.progress import Meter, duration

URL = "https://haproxy.cadc.dao.nrc.ca/prepare-data"
SHOWN_FAILURES = 20


class Exit(IntEnum):
    """What the exit status says."""

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
  1  the task failed or was lost: not every file is staged
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

_STATUS: list[tuple[type[PrepareDataError], Exit]] = [
    (InvalidItem, Exit.USAGE),
    (InvalidTask, Exit.USAGE),
    (tokens.NoToken, Exit.UNAUTHORIZED),
    (Unauthorized, Exit.UNAUTHORIZED),
    (NotFound, Exit.NOT_FOUND),
    (Refused, Exit.REFUSED),
    (WaitTimeout, Exit.TIMEOUT),
    (Unreachable, Exit.UNREACHABLE),
    (PrepareDataError, Exit.USAGE),
]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> int:
    """Read a duration such as ``3600``, ``90m``, ``12h`` or ``7d``."""
    match = re.fullmatch(r"([0-9]+)([smhdw]?)", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 3600, 90m, 12h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


class Commands:
    """The commands, with what they share: options, the two streams, and the client."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Results go to standard output, all else to standard error."""
        self.options = options
        self.out = Console(soft_wrap=True, highlight=False)
        self.err = Console(stderr=True, highlight=False, quiet=options.quiet)

    def client(self) -> Client:
        """Return the client that the options describe."""
        options = self.options
        return Client(
            options.url,
            token=tokens.source(options.token, options.token_file),
            ca=options.ca,
            timeout=options.request_timeout,
        )

    def write(self, document: Any) -> None:
        """Print a JSON document."""
        self.out.print(json.dumps(document), markup=False)

    def say(self, text: str) -> None:
        """Print a line of the result."""
        self.out.print(text, markup=False)

    def items(self) -> list[items.Item]:
        """Return what is to be staged."""
        options = self.options
        if options.path is not None and (len(options.dids) != 1 or options.files):
            raise InvalidItem("--path is for a single DID")
        if options.path is not None:
            return [items.Item.of(options.dids[0], path=options.path)]
        return items.collect(options.dids, options.files, sys.stdin, options.algorithm)

    def submit(self) -> Exit:
        """Ask for files; print the task's id."""
        options = self.options
        wanted = self.items()
        with self.client() as client:
            task = client.submit(
                wanted,
                destination=options.destination,
                approach=options.approach,
                callback=options.callback,
                lifetime=options.lifetime,
                idempotency_key=options.key,
            )
            if not options.wait:
                self.write(task.raw) if options.json else self.say(task.id)
                return Exit.DONE
            self.err.print(f"task {task.id}", markup=False)
            return self._await(client, task.id)

    def watch(self) -> Exit:
        """Follow a task to its end."""
        with self.client() as client:
            return self._await(client, self.options.task)

    def _await(self, client: Client, task_id: str) -> Exit:
        with Meter(self.err) as meter:
            task = client.wait(task_id, timeout=self.options.timeout, on_progress=meter.show)
        self._report(task)
        if task.files_failed:
            self._failures(client, task)
        return _end(task)

    def _report(self, task: Task) -> None:
        if self.options.json:
            self.write(task.raw)
            return
        took = (
            f" in {duration((task.finished - task.created).total_seconds())}"
            if task.finished and task.created
            else ""
        )
        info = f": {task.info}" if task.info else ""
        counts = f"{task.files_done}/{task.files} files, {decimal(task.bytes_done)}"
        self.say(f"{task.id} {task.state}{info} ({counts}{took})")

    def _failures(self, client: Client, task: Task) -> None:
        for number, file in enumerate(client.files(task.id, state="FAILED", limit=SHOWN_FAILURES + 1)):
            if number == SHOWN_FAILURES:
                left = task.files_failed - SHOWN_FAILURES
                more = f"prepare-data status --files --state FAILED {task.id}"
                self.err.print(f"and {left} more: {more}", markup=False)
                break
            self.err.print(f"{file.did}: {file.reason}", markup=False, soft_wrap=True)

    def status(self) -> Exit:
        """Show a task, and its files if asked."""
        options = self.options
        with self.client() as client:
            task = client.task(options.task)
            files = list(client.files(task.id, state=options.state)) if options.show_files else None
        if options.json:
            self.write(task.raw if files is None else {**task.raw, "items": [file.raw for file in files]})
            return Exit.DONE
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in _facts(task).items():
            table.add_row(name, value)
        self.out.print(table)
        if files is not None:
            listing = Table(box=None, pad_edge=False)
            for column in ("STATE", "BYTES", "DID", "DETAIL"):
                listing.add_column(column, overflow="fold", justify="right" if column == "BYTES" else "left")
            for file in files:
                size = "" if file.bytes is None else str(file.bytes)
                listing.add_row(file.state, size, file.did, file.reason or file.target)
            self.out.print(listing)
        return Exit.DONE

    def list(self) -> Exit:
        """Show the user's tasks."""
        options = self.options
        with self.client() as client:
            tasks = list(client.tasks(states=options.states, limit=options.limit))
        if options.json:
            self.write([task.raw for task in tasks])
            return Exit.DONE
        table = Table(box=None, pad_edge=False)
        for column in ("TASK", "STATE", "FILES", "FAILED", "BYTES", "CREATED"):
            table.add_column(
                column, no_wrap=True, justify="right" if column in {"FAILED", "BYTES"} else "left"
            )
        for task in tasks:
            done = f"{task.files_done}/{task.files}"
            created = _local(task.created)
            table.add_row(
                task.id, task.state, done, str(task.files_failed), decimal(task.bytes_done), created
            )
        self.out.print(table)
        return Exit.DONE

    def cancel(self) -> Exit:
        """Stop a task."""
        return self._act(lambda client: client.cancel(self.options.task), wait=self.options.wait, stops=True)

    def retry(self) -> Exit:
        """Stage failed and cancelled files again."""
        return self._act(lambda client: client.retry(self.options.task), wait=self.options.wait)

    def release(self) -> Exit:
        """Remove staged copies."""
        return self._act(lambda client: client.release(self.options.task))

    def renew(self) -> Exit:
        """Keep staged copies longer."""
        return self._act(lambda client: client.renew(self.options.task, self.options.lifetime))

    def _act(self, action: Callable[[Client], Task], *, wait: bool = False, stops: bool = False) -> Exit:
        with self.client() as client:
            task = action(client)
            if wait:
                end = self._await(client, task.id)
                return Exit.DONE if stops and end is Exit.CANCELLED else end
        if self.options.json:
            self.write(task.raw)
        else:
            stopping = " (stopping)" if task.cancel and not task.final else ""
            kept = f", kept until {_local(task.expires)}" if task.expires else ""
            self.say(f"{task.id} {task.state}{stopping}{kept}")
        return Exit.DONE

    def estimate(self) -> Exit:
        """Say what a request would cost."""
        options = self.options
        wanted = self.items()
        with self.client() as client:
            estimate = client.estimate(wanted, destination=options.destination, approach=options.approach)
        if options.json:
            self.write(estimate.raw)
        else:
            unknown = "not known"
            self.say(f"files      {estimate.files}")
            self.say(f"to stage   {unknown if estimate.bytes is None else decimal(estimate.bytes)}")
            left = estimate.quota_left
            verdict = {True: " (enough)", False: " (not enough)", None: ""}[estimate.fits]
            self.say(f"room left  {'no limit' if left is None else decimal(left)}{verdict}")
            self.say(
                f"time       {unknown if estimate.seconds is None else 'about ' + duration(estimate.seconds)}"
            )
            for did in estimate.missing:
                self.say(f"missing    {did}")
        return Exit.FAILED if estimate.missing or estimate.fits is False else Exit.DONE

    def token(self) -> Exit:
        """Get a token from an issuer, or show what the present one says of itself."""
        options = self.options
        if options.inspect:
            found = tokens.claims(tokens.source(options.token, options.token_file)())
            self.write(found) if options.json else self._claims(found)
            return Exit.DONE
        issuer = tokens.Issuer(
            options.issuer or options.url.rstrip("/").rpartition("/")[0] + "/iam",
            options.client_id,
            _secret(options.client_secret_file, "PREPARE_DATA_CLIENT_SECRET", None) or "",
            options.ca,
            options.request_timeout,
        )
        wishes = {"audience": options.audience, "scope": options.scope}
        parameters = {name: value for name, value in wishes.items() if value}
        if options.lifetime is not None:
            parameters["expires_in"] = str(options.lifetime)
        if options.device:
            granted = issuer.device(self._prompt, **parameters)
        else:
            prompt = f"Password of {options.user}: "
            password = _secret(options.password_file, "PREPARE_DATA_PASSWORD", prompt) or ""
            granted = issuer.password(options.user, password, **parameters)
        self.write(granted) if options.json else self.say(str(granted["access_token"]))
        return Exit.DONE

    def _prompt(self, url: str, code: str) -> None:
        Console(stderr=True).print(f"Open {url} and enter the code {code}", markup=False)

    def _claims(self, found: dict[str, Any]) -> None:
        for name, value in found.items():
            moment = isinstance(value, int) and name in {"exp", "iat", "nbf"}
            shown = _local(datetime.fromtimestamp(value, UTC)) if moment else value
            self.say(f"{name:20} {shown if isinstance(shown, str) else json.dumps(shown)}")


def _end(task: Task) -> Exit:
    ends = {"SUCCEEDED": Exit.DONE, "CANCELLED": Exit.CANCELLED}
    return ends.get(task.state, Exit.FAILED)


def _local(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _facts(task: Task) -> dict[str, str]:
    total = f" of {decimal(task.bytes_total)}" if task.bytes_total is not None else ""
    failed = f", {task.files_failed} failed" if task.files_failed else ""
    facts = {
        "task": task.id,
        "state": task.state + (" (stopping)" if task.cancel and not task.final else ""),
        "info": task.info or "",
        "files": f"{task.files_done} of {task.files}{failed}",
        "bytes": f"{decimal(task.bytes_done)}{total}",
        "approach": task.approach or "",
        "created": _local(task.created),
        "started": _local(task.started),
        "finished": _local(task.finished),
        "kept until": _local(task.expires),
    }
    return {name: value for name, value in facts.items() if value}


def _secret(path: str | None, variable: str, prompt: str | None) -> str | None:
    """Return a secret from a file, the environment or, with a *prompt*, the person at the terminal."""
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise tokens.NoToken(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if variable in os.environ:
        return os.environ[variable]
    if prompt is None:
        return None
    if not sys.stdin.isatty():
        raise tokens.NoToken(f"no password: give --password-file FILE or set {variable}")
    return getpass.getpass(prompt)


def _shared(top: bool) -> argparse.ArgumentParser:
    """Return the options that stand before or after the command; those after it win."""

    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    parser = argparse.ArgumentParser(add_help=False)
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
        description="Stages files of a Rucio Storage Element into your area of the VOSpace.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared(top=True)],
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared(top=False)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text + ".", parents=[shared])
        command.set_defaults(run=getattr(Commands, name))
        return command

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
            help="file of DIDs: a DID on each line with path=, to=, size=, md5=, adler32= as wanted, or JSON; - is stdin",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    commands = Commands(options)
    try:
        return int(options.run(commands))
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except PrepareDataError as exc:
        print(f"prepare-data: {exc}", file=sys.stderr)
        return int(next(status for kind, status in _STATUS if isinstance(exc, kind)))


if __name__ == "__main__":
    sys.exit(main())
