"""Standard VO clients in a virtual environment of their own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from deployment import ROOT, Deployment

REQUIREMENTS = ROOT / "requirements/clients.txt"
ENVIRONMENT = ROOT / "build/clients"


@pytest.fixture(scope="session")
def clients() -> Path:
    """Directory of the clients' programs; installed when the list of clients changes."""
    mark = ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        # Tests of several deployments run side by side.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
            pip = [str(ENVIRONMENT / "bin/pip"), "install", "--quiet", "--require-hashes"]
            subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
            mark.write_text(wanted)
    return ENVIRONMENT / "bin"


@dataclass
class Shell:
    """Runs client programs as one user, with a home directory of its own and the deployment's CA as the system's."""

    stack: Deployment
    programs: Path
    home: Path
    user: str

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HOME": str(self.home),
            "LOCAL_VOSPACE_WEBSERVICE": self.stack.public_name,
            "SSL_CERT_FILE": self.stack.ca,
            "REQUESTS_CA_BUNDLE": self.stack.ca,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }

    def run(
        self,
        program: str,
        *arguments: str,
        anonymous: bool = False,
        certificate: Path | None = None,
        status: int = 0,
    ) -> str:
        """Run the program, by default with a token; return its output. It must exit with that status."""
        who = ["--token", self.stack.token(self.user)]
        if anonymous:
            who = []
        elif certificate is not None:
            who = ["--certfile", str(certificate)]
        done = subprocess.run(
            [str(self.programs / program), *who, *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, f"{program} {arguments} ended with {done.returncode}: {output}"
        return output

    def python(self, code: str) -> str:
        """Run a Python program that can import the clients' libraries, with the token in TOKEN; return its output."""
        done = subprocess.run(
            [str(self.programs / "python"), "-c", code],
            env=self.environment | {"TOKEN": self.stack.token(self.user)},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
