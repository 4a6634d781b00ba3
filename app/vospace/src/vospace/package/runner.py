"""The runner of packages, which are downloaded in a request: it finds those that were cut off."""

from vospace.uws.executor import Run
from vospace.uws.model import JobFailure, Outcome


async def interrupted(run: Run) -> Outcome:
    """End a download whose process died."""
    raise JobFailure("TransferFailed: the service stopped during the download", transient=True)
