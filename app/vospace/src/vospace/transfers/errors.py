"""Why a file could not be fetched or sent."""

from voservice.texts import legible


class FetchFailed(Exception):
    """`fault` is the name of a VOSpace fault; `transient` tells whether trying later may help. What a source wrote may
    be in `detail`: it can be stored and shown."""

    def __init__(self, fault: str, detail: str, *, transient: bool = False) -> None:
        detail = legible(detail)
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
        self.transient = transient
