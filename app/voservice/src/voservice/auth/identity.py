"""The identity in a verified credential."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

# Names become directories and parts of URIs: no separators, no control characters, no hidden or parent directories.
USERNAME = re.compile(r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")

# OpenCADC's form of a group's identifier, ivo://authority/path?name; only such groups have a gid.
GROUP = re.compile(r"^(?=.{1,255}\Z)ivo://[A-Za-z0-9._~-]+/[A-Za-z0-9/_.~-]+\?[A-Za-z0-9/_.~-]+\Z")


@dataclass(frozen=True)
class Identity:
    """The caller, as stated by a verified credential."""

    username: str
    subject: str
    issuer: str
    groups: frozenset[str] = frozenset()
    method: Literal["token", "certificate"] = "token"
    expires: datetime | None = None
    claims: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
