"""Programs that tests build from Go's modules, once for each version, and keep outside of the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skasrc-cavern"


def built(module: Path, name: str, package: str, link: str = "-ldflags=-s -w") -> Path:
    """Return a program of the module in a directory, which is built where it is not there: minutes of both cores."""
    sources = sorted([*module.glob("go.*"), *module.glob("*.go"), *module.glob("*/*.go")])
    digest = hashlib.sha256(b"".join([link.encode(), *(path.read_bytes() for path in sources)])).hexdigest()
    directory = CACHE / f"{module.name}-{digest[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    with open(directory / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            if not shutil.which("go"):
                wanted = next(
                    line for line in (module / "go.mod").read_text().splitlines() if line[:3] == "go "
                )
                pytest.fail(f"this test builds {name}: it needs {wanted} or newer")
            command = ["nice", "go", "build", "-p=2", "-trimpath", link, f"-o={program}.new", package]
            subprocess.run(command, cwd=module, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
            Path(f"{program}.new").rename(program)
    return program
