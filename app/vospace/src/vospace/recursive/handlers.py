"""Creation of recursive jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import Request
from vospace_client.terms import CREATOR, QUOTA

from vospace.dependencies import context
from vospace.documents import MAX_DOCUMENT, read_node
from vospace.kinds import DELETE, SETPROPS
from vospace.models.caller import Caller
from vospace.models.errors import InvalidArgument, PermissionDenied
from vospace.recursive.runner import change_record
from vospace.services.changes import names_groups
from vospace.uws.model import Job, Parameter
from vospace.uws.parameters import document_or_parameters, read_parameters, run_id, wants_run
from vospace.uws.service import Owner

_ADMIN = frozenset({CREATOR, QUOTA})
"""Properties that a recursive change ignores; sent by the root owner, they are refused."""


async def create_delete(request: Request, owner: Owner) -> Job:
    """A form with `target`."""
    shared = context(request)
    shared.jobs.control.require_writable()
    _require_user(owner)
    parameters = await read_parameters(request)
    run, name = wants_run(parameters), run_id(parameters)
    if not parameters.first("target"):
        raise InvalidArgument("target is missing: the vos URI of the node to delete")
    given = shared.jobs.service.checked(DELETE, parameters.without("PHASE", "RUNID"))
    job = await shared.jobs.service.create(
        shared.jobs.service.new(DELETE, owner, parameters=given, run_id=name)
    )
    return await shared.jobs.service.run(job) if run else job


async def create_update(request: Request, owner: Owner) -> Job:
    """A node document, whose properties are set on the node and all below it."""
    shared = context(request)
    shared.jobs.control.require_writable()
    _require_user(owner)
    content, query = await document_or_parameters(request, MAX_DOCUMENT)
    run, name = wants_run(query), run_id(query)
    document = read_node(content.encode())
    if document.uri is None:
        raise InvalidArgument("the node document lacks attribute uri")
    caller = Caller.from_record(owner.record)
    if names_groups(document):
        top = shared.space.naming.path(document.uri)
        await asyncio.to_thread(shared.space.require_update, caller, top, follow=True)
    change = await shared.changes.of(document)
    checkpoint: dict[str, object] = {"change": change_record(change)}
    if shared.space.rules.is_admin(caller) and not _ADMIN.isdisjoint(document.properties):
        checkpoint = {"refused": "creator and quota are not set recursively"}
    job = shared.jobs.service.new(
        SETPROPS,
        owner,
        parameters=(Parameter("target", document.uri),),
        job_info=content,
        job_info_type="text/xml",
        run_id=name,
    )
    job = await shared.jobs.service.create(replace(job, checkpoint=checkpoint))
    return await shared.jobs.service.run(job) if run else job


def _require_user(owner: Owner) -> None:
    if owner.name is None:
        raise PermissionDenied("a recursive job needs a token or a certificate")
