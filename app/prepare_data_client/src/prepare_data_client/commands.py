"""The commands of the command line."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from prepare_data_client import items, tokens
from prepare_data_client.api import Client
from prepare_data_client.arguments import Exit
from prepare_data_client.errors import InvalidItem
from prepare_data_client.models import Item, Task
from prepare_data_client.progress import Meter, duration

SHOWN_FAILURES = 20


class Commands:
    """The commands, and the options, output streams and client that they share."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Write results to standard output, everything else to standard error."""
        self.options = options
        self.out = Console(soft_wrap=True, highlight=False, emoji=False)
        self.err = Console(stderr=True, highlight=False, emoji=False, quiet=options.quiet)

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

    def table(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Print rows in columns as wide as they need, whatever the terminal's width, so that nothing is cut off."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def items(self) -> list[Item]:
        """Return the items to stage."""
        options = self.options
        if options.path is not None and (len(options.dids) != 1 or options.files):
            raise InvalidItem("--path is for a single DID")
        if options.path is not None:
            return [Item.of(options.dids[0], path=options.path)]
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
                rse=options.rse,
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
        self.table(list(_facts(task).items()))
        if files is not None:
            self.table(
                [
                    ("STATE", "BYTES", "RSE", "DID", "DETAIL"),
                    *(
                        (
                            file.state,
                            "" if file.bytes is None else str(file.bytes),
                            file.rse or "",
                            file.did,
                            file.reason or file.target,
                        )
                        for file in files
                    ),
                ]
            )
        return Exit.DONE

    def list(self) -> Exit:
        """Show the user's tasks."""
        options = self.options
        with self.client() as client:
            tasks = list(client.tasks(states=options.states, limit=options.limit))
        if options.json:
            self.write([task.raw for task in tasks])
            return Exit.DONE
        self.table(
            [
                ("TASK", "STATE", "FILES", "FAILED", "BYTES", "CREATED"),
                *(
                    (
                        task.id,
                        task.state,
                        f"{task.files_done}/{task.files}",
                        str(task.files_failed),
                        decimal(task.bytes_done),
                        _local(task.created),
                    )
                    for task in tasks
                ),
            ]
        )
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
        """Show what a request would cost."""
        options = self.options
        wanted = self.items()
        with self.client() as client:
            estimate = client.estimate(
                wanted, destination=options.destination, approach=options.approach, rse=options.rse
            )
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
            for did in estimate.unknown:
                self.say(f"no size    {did}")
        return Exit.FAILED if estimate.missing or estimate.fits is False else Exit.DONE

    def token(self) -> Exit:
        """Get a token from an issuer, or show the claims of the current one."""
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
        Console(stderr=True, emoji=False).print(f"Open {url} and enter the code {code}", markup=False)

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
            return Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise tokens.NoToken(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if variable in os.environ:
        return os.environ[variable]
    if prompt is None:
        return None
    if not sys.stdin.isatty():
        raise tokens.NoToken(f"no password: give --password-file FILE or set {variable}")
    return getpass.getpass(prompt)
