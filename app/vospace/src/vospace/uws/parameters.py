"""Parameters of a request: from the query and from a form, names case-insensitive (UWS 1.1 section 2.2.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from starlette.requests import Request
from voservice.browsers import is_of

from vospace.bodies import Arrivals
from vospace.models.errors import InvalidArgument, UnsupportedMediaType
from vospace.uws.model import Parameter

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
MAX_FIELDS = 10_000
MAX_RUN_ID = 256
MAX_INTEGER = 2**63 - 1
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Parameters:
    """Names and values in the order in which they came."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self.items = tuple(Parameter(name, value) for name, value in items)
        for parameter in self.items:
            if _NOT_XML.search(parameter.name) or _NOT_XML.search(parameter.value):
                raise InvalidArgument(
                    f"parameter {parameter.name[:40]!r} has characters that XML cannot carry"
                )

    def first(self, name: str) -> str | None:
        wanted = name.lower()
        return next((p.value for p in self.items if p.name.lower() == wanted), None)

    def all(self, name: str) -> list[str]:
        wanted = name.lower()
        return [p.value for p in self.items if p.name.lower() == wanted]

    def integer(self, name: str) -> int | None:
        """Raises InvalidArgument for what is no whole number."""
        value = self.first(name)
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError:
            raise InvalidArgument(f"{name} must be a whole number, not {value[:40]!r}") from None
        if abs(number) > MAX_INTEGER:
            raise InvalidArgument(f"{name} must be a whole number up to {MAX_INTEGER}, not {value[:40]!r}")
        return number

    def without(self, *names: str) -> tuple[Parameter, ...]:
        dropped = {name.lower() for name in names}
        return tuple(p for p in self.items if p.name.lower() not in dropped)


def wants_run(parameters: Parameters) -> bool:
    """Whether a creating request asks to start the job at once. Raises InvalidArgument for any other phase."""
    phase = parameters.first("PHASE")
    if phase is not None and phase.upper() != "RUN":
        raise InvalidArgument(f"PHASE must be RUN, or be left out, not {phase[:40]!r}")
    return phase is not None


def run_id(parameters: Parameters) -> str | None:
    """The name that a client gives to a new job. Raises InvalidArgument."""
    name = parameters.first("RUNID")
    if name is not None and len(name) > MAX_RUN_ID:
        raise InvalidArgument(f"RUNID must have at most {MAX_RUN_ID} characters, not {len(name)}")
    return name


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";", 1)[0].strip().lower()


def require_xml(request: Request) -> None:
    """Raises UnsupportedMediaType for a body that is said to be no XML, which any page can make a browser send."""
    kind = request.headers.get("content-type", "")
    if not is_of(kind, "text/xml", "application/xml"):
        raise UnsupportedMediaType(f"Content-Type: the document must be sent as text/xml, not as {kind[:80]}")


async def read_parameters(request: Request, limit: int = 1 << 20) -> Parameters:
    """Parameters of the query and, if the body is a form, of the body."""
    items = list(request.query_params.multi_items())
    kind = media_type(request)
    if kind == FORM:
        items += form_items(await _body(request, limit))
    elif kind == MULTIPART:
        async with request.form(max_files=0, max_fields=100, max_part_size=min(limit, 64 << 10)) as form:
            items += [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    return Parameters(items)


async def document_or_parameters(request: Request, limit: int) -> tuple[str, Parameters]:
    """A posted XML document, empty if there is none, and the parameters of query and form. Raises UnsupportedMediaType
    for a document that says to be something else, such as a form, which is what curl says unless told otherwise."""
    if media_type(request) == MULTIPART:
        return "", await read_parameters(request)
    items = list(request.query_params.multi_items())
    body = await _body(request, limit)
    if media_type(request) == FORM and not body.lstrip().startswith(b"<"):
        return "", Parameters(items + form_items(body))
    if document := body.decode("utf-8", "replace").strip():
        require_xml(request)
    return document, Parameters(items)


async def _body(request: Request, limit: int) -> bytes:
    arrivals: Arrivals = request.app.state.arrivals
    return await arrivals.read(request, limit)


def form_items(body: bytes) -> list[tuple[str, str]]:
    """The fields of an urlencoded form. Raises InvalidArgument."""
    try:
        return parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise InvalidArgument("the form cannot be read: it must be urlencoded UTF-8") from error
