"""The command line ``prepare-data`` against the deployed stack, as a person or a script uses it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from deployment import Deployment
from prepare_data_client.did import DID

Done = subprocess.CompletedProcess[str]
Place = Callable[[str, bytes], Path]
PROGRAM = Path(sys.executable).with_name("prepare-data")


class CommandLine:
    """Runs the program for one user."""

    def __init__(self, stack: Deployment, user: str, directory: Path) -> None:
        """Keep the user's token in a file."""
        self.stack, self.user, self.directory = stack, user, directory
        self.token = directory / "token"
        self.token.write_text(stack.token(user))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PREPARE_DATA_URL": f"{stack.url}/prepare-data",
            "REQUESTS_CA_BUNDLE": stack.ca,
        }

    def __call__(
        self,
        *arguments: str,
        status: int = 0,
        stdin: str = "",
        environment: dict[str, str] | None = None,
    ) -> Done:
        """Run a command and check its exit status."""
        done = subprocess.run(
            [str(PROGRAM), "--token-file", str(self.token), *arguments],
            input=stdin,
            env=self.environment | (environment or {}),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Run a command and return the document it prints."""
        return json.loads(self("--json", *arguments, status=status).stdout)


@pytest.fixture
def cli(stack: Deployment, user: str, tmp_path: Path) -> CommandLine:
    return CommandLine(stack, user, tmp_path)


@pytest.fixture
def files(rse: Place) -> Callable[..., dict[str, bytes]]:
    """`files(count, size)`: new files on the RSE, contents by DID."""

    def make(count: int, size: int = 1000) -> dict[str, bytes]:
        run = uuid.uuid4().hex[:8]
        made = {f"clitest:{run}/{number}.bin": os.urandom(size) for number in range(count)}
        for did, content in made.items():
            rse(DID.parse(did).path(), content)
        return made

    return make


def md5(content: bytes) -> str:
    """MD5 as 32 hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def staged(stack: Deployment, http: requests.Session, path: str) -> bytes:
    """Bytes of a staged file, read through VOSpace."""
    answer = http.get(f"{stack.url}/src/cavern/files/{path}", timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_submit_and_wait_stages_the_bytes(
    stack: Deployment, http: requests.Session, user: str, cli: CommandLine, files: Any
) -> None:
    ((did, content),) = files(1, 100_000).items()
    done = cli("submit", did, "--to", "./somewhere", "--wait")
    assert "SUCCEEDED" in done.stdout
    assert staged(stack, http, f"home/{user}/somewhere/{DID.parse(did).name}") == content


def test_submit_then_watch_status_and_list(cli: CommandLine, files: Any) -> None:
    dids = list(files(3))
    task = cli("submit", *dids).stdout.strip()
    assert str(uuid.UUID(task)) == task
    assert task in cli("watch", task, "--timeout", "2m").stdout
    document = cli.json("status", "--files", task)
    assert document["state"] == "SUCCEEDED"
    assert [file["did"] for file in document["items"]] == dids
    assert {file["state"] for file in document["items"]} == {"STAGED"}
    assert "3 of 3" in cli("status", task).stdout
    assert [found["id"] for found in cli.json("list", "--state", "SUCCEEDED", "--state", "FAILED")] == [task]
    assert cli.json("list", "--state", "RUNNING") == []


def test_a_file_of_dids_with_checksums(cli: CommandLine, files: Any) -> None:
    made = files(200, 64)
    lines = [
        f"{did} size={len(content)} md5={md5(content)} adler32={zlib.adler32(content):08x}"
        for did, content in made.items()
    ]
    listing = "# all of them\n" + "\n".join(lines)
    assert "200/200 files" in cli("submit", "--from", "-", "--wait", stdin=listing).stdout
    (cli.directory / "listing").write_text(listing)
    again = cli.json("submit", "--from", str(cli.directory / "listing"), "--wait")
    found = cli.json("status", "--files", again["id"])["items"]
    assert {file["state"] for file in found} == {"PRESENT"}
    estimate = cli.json("estimate", "--from", str(cli.directory / "listing"))
    assert (estimate["present"], estimate["bytes"]) == (200, 0)


def test_partial_failure_and_retry(cli: CommandLine, rse: Place, files: Any) -> None:
    (good,) = files(1)
    missing = f"clitest:{uuid.uuid4().hex}"
    assert f"missing    {missing}" in cli("estimate", good, missing, status=1).stdout
    done = cli("submit", good, missing, "--wait", status=1)
    assert f"{missing}: SourceNotFound" in done.stderr
    assert "FAILED" in done.stdout
    task = done.stdout.split()[0]
    (failed,) = cli.json("status", task, "--files", "--state", "FAILED")["items"]
    assert failed["did"] == missing
    rse(DID.parse(missing).path(), b"there now")
    assert "SUCCEEDED" in cli("retry", task, "--wait").stdout
    assert "Conflict" in cli("retry", task, status=3).stderr


def test_a_wrong_checksum_is_a_failure(
    stack: Deployment, http: requests.Session, user: str, cli: CommandLine, files: Any
) -> None:
    (did,) = files(1)
    done = cli("submit", "--from", "-", "--wait", status=1, stdin=f"{did} md5={'0' * 32}")
    assert "ChecksumMismatch" in done.stderr
    name = DID.parse(did).name
    assert http.get(f"{stack.url}/src/cavern/files/home/{user}/{name}", timeout=60).status_code == 404


def test_time_is_up_and_cancel(stack: Deployment, cli: CommandLine, files: Any) -> None:
    listing = "\n".join(files(20, 1))
    with stack.paused("rse-web"):
        task = cli("submit", "--from", "-", stdin=listing).stdout.strip()
        cli("watch", task, "--timeout", "1", status=7)
        cli("cancel", task, "--wait")
    assert cli.json("status", task)["state"] == "CANCELLED"
    cli("watch", task, status=8)


def test_lifetime_renewed_and_released(
    stack: Deployment, http: requests.Session, user: str, cli: CommandLine, files: Any
) -> None:
    ((did, content),) = files(1).items()
    task = cli("submit", did, "--lifetime", "1h", "--wait").stdout.split()[0]
    before = cli.json("status", task)["expires"]
    assert cli.json("renew", task, "2h")["expires"] > before
    path = f"home/{user}/{DID.parse(did).name}"
    assert staged(stack, http, path) == content
    cli("release", task)
    url = f"{stack.url}/src/cavern/files/{path}"
    deadline = time.monotonic() + 120
    while http.get(url, timeout=60).status_code != 404:
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.5)


def test_duplicate_submission_is_one_task(cli: CommandLine, files: Any) -> None:
    dids = list(files(2))
    task = cli("submit", *dids, "--key", "once").stdout
    assert cli("submit", *reversed(dids), "--key", "once").stdout == task
    cli("submit", dids[0], "--key", "once", status=3)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("status", str(uuid.uuid4())), 5, "no task"),
        (("submit", "nonsense"), 2, "'nonsense' is not scope:name"),
        (("submit", "a:b", "--path", "a/../b"), 2, "must not have the segments"),
        (("submit", "a:b", "--path", "elsewhere/b"), 3, "is not where a:b lies on the RSE"),
        (("submit", "a:b", "--approach", "magic"), 3, "magic"),
        (("submit", "a:b", "--callback", "http://169.254.169.254/"), 3, "callback"),
        (("--url", "https://127.0.0.1:1/x", "list"), 6, "Connection refused"),
        (("--token", "not.a.token", "list"), 4, "401"),
    ],
)
def test_errors(cli: CommandLine, arguments: tuple[str, ...], status: int, message: str) -> None:
    if "--token" in arguments:
        cli.token.write_text(arguments[1])
        arguments = arguments[2:]
    assert message in cli(*arguments, status=status).stderr


def test_an_unknown_ca_is_refused_with_advice(cli: CommandLine) -> None:
    elsewhere = {"REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt"}
    assert "--ca" in cli("list", status=6, environment=elsewhere).stderr
    cli("--ca", cli.stack.ca, "list", environment=elsewhere)


def test_a_task_of_somebody_else_is_not_found(stack: Deployment, cli: CommandLine, files: Any) -> None:
    task = cli("submit", *files(1)).stdout.strip()
    cli.token.write_text(stack.token(f"{cli.user}x"))
    cli("status", task, status=5)
    cli("cancel", task, status=5)


def test_token(stack: Deployment, cli: CommandLine) -> None:
    secrets = {
        "PREPARE_DATA_PASSWORD": stack.secrets["iam_user_password"],
        "PREPARE_DATA_CLIENT_SECRET": stack.secrets["iam_client_cavern_cli"],
    }
    token = cli("token", "--user", cli.user, "--lifetime", "5m", environment=secrets).stdout
    cli.token.write_text(token)
    claims = cli.json("token", "--inspect")
    assert claims["preferred_username"] == cli.user
    assert claims["exp"] - claims["iat"] == 300
    assert cli.json("list") == []
    secrets["PREPARE_DATA_PASSWORD"] = "wrong"
    refused = cli("token", "--user", cli.user, status=3, environment=secrets)
    assert "invalid_grant" in refused.stderr


def test_live_bar_on_a_terminal(cli: CommandLine, files: Any) -> None:
    dids = list(files(50, 10_000))
    master, slave = pty.openpty()
    with subprocess.Popen(
        [str(PROGRAM), "--token-file", str(cli.token), "submit", *dids, "--wait"],
        env=cli.environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    assert b"50/50 files" in out
    assert b"/50 files" in shown
    assert "━".encode() in shown


def test_watch_survives_a_restart_of_the_service(stack: Deployment, cli: CommandLine, files: Any) -> None:
    listing = "\n".join(files(3000, 100))
    task = cli("submit", "--from", "-", stdin=listing).stdout.strip()
    with subprocess.Popen(
        [str(PROGRAM), "--token-file", str(cli.token), "watch", task],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        stack.container("ska-src-local-data-preparer-core").restart()
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "3000/3000 files" in out
