"""Why a file could not be fetched or sent."""


class FetchFailed(Exception):
    """`fault` is the name of a VOSpace fault; `transient` tells whether trying later may help."""

    def __init__(self, fault: str, detail: str, *, transient: bool = False) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
        self.transient = transient
