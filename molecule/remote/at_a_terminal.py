"""Run a command at a terminal, where sudo asks for a password, and type the one in PASSWORD."""

from __future__ import annotations

import os
import pty
import sys

PROMPT = b"[sudo] password"


def main(command: list[str]) -> int:
    """Return the exit code of the command, whose output is printed."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)  # noqa: S606 - the command of whoever calls this
    seen, asked = b"", False
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            # The other side is closed.
            break
        if not part:
            break
        seen += part
        if not asked and PROMPT in seen:
            asked = True
            os.write(terminal, f"{os.environ['PASSWORD']}\n".encode())
    sys.stdout.write(seen.decode(errors="replace"))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
