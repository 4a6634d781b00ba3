"""Dependencies of handlers: the caller of a request as a user, as an owner of jobs, and as an operator."""

import hmac
from dataclasses import replace

from fastapi import Request
from voservice.logging import bind
from voservice.operations import Operators
from vospace_client.terms import PULL_PROOF

from vospace.control.state import Control
from vospace.models.caller import Caller
from vospace.models.errors import PermissionDenied
from vospace.services.identities import Identities
from vospace.uws.service import Owner


class Callers:
    """Tells who the caller of a request is, and refuses callers as the state of the service demands."""

    def __init__(
        self, known: Identities, control: Control, operators: Operators, root_uid: int, pull_proof: str
    ) -> None:
        """Identify callers by `known`; the owner of the root, with `root_uid`, is an operator as `operators` are.

        By `pull_proof` prepare-data proves that a request is its own.
        """
        self._known = known
        self._control = control
        self._operators = operators
        self._root_uid = root_uid
        self._pull_proof = pull_proof.encode()

    async def identified(self, request: Request) -> Caller:
        """Return the caller, whatever the state of the service. Raises AuthenticationError."""
        caller = await self._known.caller(request)
        request.state.caller = caller
        if caller.username is not None:
            bind(user=caller.username)
        return caller

    async def caller(self, request: Request) -> Caller:
        """Return the caller. Raises ServiceBusy when the service is offline."""
        self._control.require_readable()
        return await self.identified(request)

    async def owner(self, request: Request) -> Owner:
        """Return the caller as an owner of jobs."""
        caller = await self.caller(request)
        if self._pull_proof and PULL_PROOF in request.headers:
            proof = request.headers[PULL_PROOF].encode()
            caller = replace(caller, trusted=hmac.compare_digest(proof, self._pull_proof))
        return Owner(caller.username, None if caller.anonymous else caller.record())

    async def operator(self, request: Request) -> str:
        """Return the name of the caller, who must be an operator. Raises PermissionDenied."""
        caller = await self.identified(request)
        if caller.username is not None and (
            caller.uid == self._root_uid or self._operators.include(caller.username, caller.groups)
        ):
            return caller.username
        raise PermissionDenied("permission denied")
