"""Creation of recursive jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import Request
from vospace_client.terms import CREATOR, QUOTA

from vospace.documents import MAX_DOCUMENT, read_node
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, InvalidURI, PermissionDenied
from vospace.recursive.runner import change_record
from vospace.services.changes import Changes, names_groups
from vospace.space.space import Space
from vospace.uws.model import Job, Parameter
from vospace.uws.parameters import document_or_parameters, read_parameters, run_id, wants_run
from vospace.uws.service import Checks, JobService, Owner

DELETE = "async-delete"
SETPROPS = "async-setprops"
_ADMIN = frozenset({CREATOR, QUOTA})
"""Properties that a recursive change ignores; sent by the root owner, they are refused."""


def parameters_of_delete(space: Space) -> Checks:
    """Return the checks of the parameters of a recursive deletion, which may be changed before it starts."""

    def target(uri: str) -> str:
        try:
            space.naming.path(uri)
        except InvalidURI as fault:
            raise InvalidURI(f"target: {fault.detail}") from None
        return uri

    return {"target": target}


class RecursiveHandlers:
    """POSTs to the two job lists."""

    def __init__(self, jobs: JobService, changes: Changes, space: Space) -> None:
        self._jobs = jobs
        self._changes = changes
        self._space = space

    async def create_delete(self, request: Request, owner: Owner) -> Job:
        """A form with `target`."""
        _require_user(owner)
        parameters = await read_parameters(request)
        run, name = wants_run(parameters), run_id(parameters)
        if not parameters.first("target"):
            raise InvalidArgument("target is missing: the vos URI of the node to delete")
        given = self._jobs.checked(DELETE, parameters.without("PHASE", "RUNID"))
        job = await self._jobs.create(self._jobs.new(DELETE, owner, parameters=given, run_id=name))
        return await self._jobs.run(job) if run else job

    async def create_update(self, request: Request, owner: Owner) -> Job:
        """A node document, whose properties are set on the node and all below it."""
        _require_user(owner)
        content, query = await document_or_parameters(request, MAX_DOCUMENT)
        run, name = wants_run(query), run_id(query)
        document = read_node(content.encode())
        if document.uri is None:
            raise InvalidArgument("the node document lacks attribute uri")
        caller = Caller.from_record(owner.record)
        if names_groups(document):
            top = self._space.naming.path(document.uri)
            await asyncio.to_thread(self._space.require_update, caller, top, follow=True)
        change = await self._changes.of(document)
        checkpoint: dict[str, object] = {"change": change_record(change)}
        if self._space.rules.is_admin(caller) and not _ADMIN.isdisjoint(document.properties):
            checkpoint = {"refused": "creator and quota are not set recursively"}
        job = self._jobs.new(
            SETPROPS,
            owner,
            parameters=(Parameter("target", document.uri),),
            job_info=content,
            job_info_type="text/xml",
            run_id=name,
        )
        job = await self._jobs.create(replace(job, checkpoint=checkpoint))
        return await self._jobs.run(job) if run else job


def _require_user(owner: Owner) -> None:
    if owner.name is None:
        raise PermissionDenied("a recursive job needs a token or a certificate")
