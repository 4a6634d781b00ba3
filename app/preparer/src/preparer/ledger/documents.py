"""Tasks and files as the JSON documents that the API, the callbacks and the receipts share."""

from __future__ import annotations

from typing import Any

from preparer.ledger.rows import File, Task


def task_document(task: Task) -> dict[str, Any]:
    """Return the document of a task, which never includes its credential."""
    document: dict[str, Any] = {
        "id": str(task.id),
        "state": task.state,
        "info": task.info,
        "username": task.username,
        "approach": task.approach,
        "created": _time(task.created),
        "started": _time(task.started),
        "finished": _time(task.finished),
        "files": task.files,
        "files_done": task.files_done,
        "files_failed": task.files_failed,
        "bytes_done": task.bytes_done,
        "bytes_total": task.bytes_total,
        "cancel": task.cancel,
    }
    if task.callback:
        document |= {"callback": task.callback, "callback_status": task.callback_status}
    if task.lifetime:
        document |= {"lifetime": task.lifetime, "expires": _time(task.expires)}
    return document


def file_document(file: File) -> dict[str, Any]:
    """Return the document of a file."""
    return {
        "number": file.number,
        "did": file.did,
        "path": file.path,
        "target": file.target,
        "rse": file.rse,
        "state": file.shown,
        "bytes": file.bytes,
        "size": file.size,
        "md5": file.found_md5 or file.md5,
        "adler32": file.found_adler32 or file.adler32,
        "fault": file.fault,
        "detail": file.detail,
        "attempts": file.attempts,
        "finished": _time(file.finished),
    }


def _time(moment: Any) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
