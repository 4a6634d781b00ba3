"""Prepares volumes for what a backup has of them, and puts that in the place of what was there; run in a pod.

Everything is put beside first, on the same volume, and then renamed: a volume has the old files or the new ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

STAGED = ".restored"
FORMER = ".replaced"
OWN = {STAGED, FORMER, "lost+found"}
"""Entries of a volume that are no data: this program's, and the file system's."""


def entries(volume: Path) -> list[Path]:
    """Return what a volume has of data."""
    return [path for path in sorted(volume.iterdir()) if path.name not in OWN]


def clear(volume: Path) -> None:
    """Remove what a restore that was broken off has left."""
    for name in (STAGED, FORMER):
        if (volume / name).exists():
            shutil.rmtree(volume / name)


def stage(volume: Path) -> None:
    """Make room for the files."""
    clear(volume)
    (volume / STAGED).mkdir(0o700)


def switch(volume: Path) -> None:
    """Put the files in place, and give the volume the owner, mode, times and attributes that were saved with them."""
    (saved,) = (volume / STAGED).iterdir()
    former = volume / FORMER
    former.mkdir(0o700)
    status = saved.stat()
    attributes = {name: os.getxattr(saved, name) for name in os.listxattr(saved)}
    for path in entries(volume):
        path.rename(former / path.name)
    for path in sorted(saved.iterdir()):
        path.rename(volume / path.name)
    clear(volume)
    os.chown(volume, status.st_uid, status.st_gid)
    volume.chmod(status.st_mode & 0o7777)
    for name, value in attributes.items():
        os.setxattr(volume, name, value)
    os.utime(volume, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.sync()


def main() -> None:
    """Take `look`, `stage` or `switch`, and the volumes' directories."""
    what, *names = sys.argv[1:]
    volumes = [Path(name) for name in names]
    if what == "look":
        print(json.dumps([str(volume) for volume in volumes if entries(volume)]))
        return
    for volume in volumes:
        {"stage": stage, "switch": switch}[what](volume)


if __name__ == "__main__":
    main()
