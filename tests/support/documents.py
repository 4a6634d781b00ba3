"""What the documentation shows in fences: commands, settings, programs."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """One fenced block."""

    document: str
    """Path of the document in the checkout."""
    line: int
    language: str
    """As the fence says, mostly nothing for commands."""
    text: str

    @property
    def name(self) -> str:
        """Where it stands, by the document and its own first line, which moves less than its number."""
        return f"{self.document}: {self.text.splitlines()[0]}"


def blocks(document: str) -> list[Block]:
    """Return the blocks of a document in their order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [
        Block(document, text[: found.start()].count("\n") + 1, found[2], textwrap.dedent(found[3]))
        for found in FENCE.finditer(text)
    ]
