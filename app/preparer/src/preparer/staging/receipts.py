"""Receipts: what became of a finished task, as a file that outlives the ledger."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from preparer.ledger import File, Task
from preparer.ledger.documents import file_document, task_document

MODE = 0o640
"""Mode of receipts: other users of the machine must not read them."""


async def write(directory: Path, task: Task, pages: AsyncIterator[Sequence[File]]) -> Path:
    """Write the receipt of *task*, a page of its files at a time, and rename it into place once it is complete."""
    path = directory / f"{task.id}.json"
    staged = directory / f".{task.id}.part"
    with staged.open("w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), MODE)
        head = json.dumps(task_document(task), indent=2)
        stream.write(head.removesuffix("\n}") + ',\n  "results": [')
        separator = "\n    "
        async for files in pages:
            lines = ",\n    ".join(json.dumps(file_document(file)) for file in files)
            await asyncio.to_thread(stream.write, separator + lines)
            separator = ",\n    "
        stream.write("\n  ]\n}\n")
        stream.flush()
        await asyncio.to_thread(os.fsync, stream.fileno())
    staged.replace(path)
    return path
