"""Users' areas in Cavern, which are created for their first file."""

from __future__ import annotations

from voservice.auth import ClientCredentials
from vospace_client.client import Cavern, CavernError
from vospace_client.terms import CORE

from preparer.config import PreparerSettings


class NoAdministrator(Exception):
    """Cavern lets its administrator alone create this area, and no credential of theirs is configured."""

    def __init__(self) -> None:
        """Say what is missing."""
        super().__init__(
            "Users may not create their areas in Cavern, and no credential of its administrator is configured"
        )


class Areas:
    """Creates users' areas: as the user, and where Cavern does not permit that, as its administrator."""

    def __init__(
        self, settings: PreparerSettings, cavern: Cavern, credentials: ClientCredentials | None
    ) -> None:
        """Use *cavern*; *credentials* are the administrator's, unless the settings have a token."""
        self._settings = settings
        self._cavern = cavern
        self._credentials = credentials

    async def create(self, username: str, token: str) -> None:
        """Create the area of a user with that *token*, unless it is there already.

        Raises `CavernError`, `NoAdministrator` or `AuthenticationError`.
        """
        home = self._settings.home_of(username)
        try:
            await self._cavern.create_container(home, token)
        except CavernError as exc:
            if exc.fault != "PermissionDenied":
                raise
            await self._cavern.create_container(
                home, await self._administrator(), {f"{CORE}creator": username}
            )

    async def _administrator(self) -> str:
        if token := self._settings.cavern_api_token.get_secret_value():
            return token
        if self._credentials is None:
            raise NoAdministrator
        return await self._credentials.token()
