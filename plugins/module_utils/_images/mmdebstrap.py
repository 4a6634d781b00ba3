# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create a root file system of Debian packages with mmdebstrap. Private to the collection."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# What a file system in memory needs to hold the packages and what they unpack to, in KiB of free memory.
_MEMORY = 2 << 20
# Its own mount namespace takes the file system away whatever becomes of mmdebstrap.
_IN_MEMORY = """mount -t tmpfs -o size=1g,mode=0755 tmpfs "$TMPDIR" && exec "$@\""""
# The rules against documentation that `files` may bring come too late for packages unpacked before them.
_SLIM = 'cd "$1/usr/share" && find doc -type f ! -name copyright -delete && rm -rf man info locale i18n'


class MmdebstrapError(Exception):
    """The file system could not be created; the message holds the end of mmdebstrap's output."""


def command(
    suite: str, sources: list[str], packages: list[str], users: dict[str, int], files: Path
) -> list[str]:
    """Return mmdebstrap's command line; the archive is written to standard output.

    `sources` are lines of apt's sources.list, `users` numbers by name (groups are named and numbered alike), `files`
    is a tar archive to lay over the essential packages before they are configured.
    """
    accounts = [
        f'chroot "$1" groupadd --gid {number} {shlex.quote(user)} && chroot "$1" useradd --uid {number} '
        f"--gid {number} --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {shlex.quote(user)}"
        for user, number in users.items()
    ]
    return [
        "mmdebstrap",
        "--quiet",
        # What is essential, and apt.
        "--variant=apt",
        f"--include={','.join(packages)}",
        "--dpkgopt=force-unsafe-io",
        f"--essential-hook=tar-in {shlex.quote(str(files))} /",
        f"--essential-hook={_SLIM}",
        *(f"--customize-hook={account}" for account in accounts),
        suite,
        "-",
        *sources,
    ]


@contextmanager
def archive(arguments: list[str], environment: dict[str, str]) -> Iterator[IO[bytes]]:
    """Run the command line and yield its output, a tar archive, which is complete if no error is raised at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="cavern-base-") as directory,
        subprocess.Popen(
            [*_prelude(), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment | {"TMPDIR": directory},
            # It signals its whole process group when it ends.
            start_new_session=True,
        ) as process,
    ):
        errors: list[bytes] = []
        reader = threading.Thread(
            target=lambda: errors.append(process.stderr.read() if process.stderr else b"")
        )
        reader.start()
        try:
            if process.stdout:
                yield process.stdout
                process.stdout.close()
        except BaseException:
            process.terminate()
            raise
        finally:
            reader.join()
    if process.returncode:
        raise MmdebstrapError(f"mmdebstrap failed: {errors[0].decode(errors='replace')[-2000:]}")


def _prelude() -> list[str]:
    """Return a command that unpacks in memory, which halves the time, if there is enough of it."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    if free < _MEMORY:
        return []
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_MEMORY, "sh"]
