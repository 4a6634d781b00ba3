"""Transfer documents (VOSpace 2.1 section 3.6 and its XML schema; namespace `http://www.ivoa.net/xml/VOSpace/v2.0`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lxml import etree
from vospace_client.terms import VOS

from vospace.models.errors import InvalidArgument
from vospace.parsing import children, parse, text_of, uri_of

_CHILDREN = ("target", "direction", "view", "protocol", "keepBytes", "param")
_PROTOCOL_CHILDREN = ("endpoint", "param", "securityMethod")
_REPEATED = ("target", "protocol", "param", "securityMethod")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol's URI and, once negotiated or for a service-driven transfer, an endpoint."""

    uri: str
    endpoint: str | None = None
    security_method: str | None = None
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    uri: str
    params: tuple[tuple[str, str], ...] = ()

    def param(self, uri: str) -> str | None:
        return next((value for key, value in self.params if key == uri), None)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer that a client asks for; `keep_bytes` of None means true (VOSpace 2.1 section 3.6.3.2)."""

    targets: tuple[str, ...]
    direction: str
    view: View | None = None
    protocols: tuple[Protocol, ...] = ()
    keep_bytes: bool | None = None
    params: tuple[tuple[str, str], ...] = ()

    @property
    def keeps_bytes(self) -> bool:
        return self.keep_bytes is not False

    def param(self, uri: str) -> str | None:
        return next((value for key, value in self.params if key == uri), None)

    def with_protocols(self, protocols: tuple[Protocol, ...]) -> Transfer:
        return replace(self, protocols=protocols)


def read_transfer(document: bytes | str) -> Transfer:
    """Parse and check a transfer document. Raises InvalidArgument, naming the element that is wrong."""
    root = parse(document.encode() if isinstance(document, str) else document, "transfer")
    found = children(root, _CHILDREN, _REPEATED)
    targets = tuple(text_of(element) for element in found["target"])
    if not targets:
        raise InvalidArgument("invalid input: element target is missing")
    if not found["direction"]:
        raise InvalidArgument("invalid input: element direction is missing")
    view = found["view"][0] if found["view"] else None
    keep = text_of(found["keepBytes"][0]) if found["keepBytes"] else None
    if keep not in (None, "true", "false", "1", "0"):
        raise InvalidArgument(f"invalid input: keepBytes must be true or false, not {keep!r}")
    return Transfer(
        targets=targets,
        direction=text_of(found["direction"][0]),
        view=None if view is None else View(uri_of(view), _params(view)),
        protocols=tuple(_protocol(element) for element in found["protocol"]),
        keep_bytes=None if keep is None else keep in ("true", "1"),
        params=_params(root),
    )


def write_transfer(transfer: Transfer) -> bytes:
    """A document that the VOSpace 2.1 schema accepts."""
    root = etree.Element(_q("transfer"), nsmap={"vos": VOS}, version="2.1")
    for target in transfer.targets:
        _add(root, "target", target)
    _add(root, "direction", transfer.direction)
    if transfer.view is not None:
        view = etree.SubElement(root, _q("view"), uri=transfer.view.uri)
        _add_params(view, transfer.view.params)
    for protocol in transfer.protocols:
        element = etree.SubElement(root, _q("protocol"), uri=protocol.uri)
        if protocol.endpoint is not None:
            _add(element, "endpoint", protocol.endpoint)
        _add_params(element, protocol.params)
        if protocol.security_method is not None:
            etree.SubElement(element, _q("securityMethod"), uri=protocol.security_method)
    if transfer.keep_bytes is not None:
        _add(root, "keepBytes", "true" if transfer.keep_bytes else "false")
    _add_params(root, transfer.params)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _protocol(element: etree._Element) -> Protocol:
    found = children(element, _PROTOCOL_CHILDREN, _REPEATED)
    endpoint = text_of(found["endpoint"][0]) if found["endpoint"] else ""
    methods = found["securityMethod"]
    return Protocol(
        uri=uri_of(element),
        endpoint=endpoint or None,
        security_method=uri_of(methods[0]) if methods else None,
        params=_params(element),
    )


def _params(parent: etree._Element) -> tuple[tuple[str, str], ...]:
    found = (
        child for child in parent if isinstance(child.tag, str) and etree.QName(child).localname == "param"
    )
    return tuple((uri_of(param), text_of(param)) for param in found)


def _add(parent: etree._Element, name: str, text: str) -> None:
    etree.SubElement(parent, _q(name)).text = text


def _add_params(parent: etree._Element, params: tuple[tuple[str, str], ...]) -> None:
    for uri, value in params:
        etree.SubElement(parent, _q("param"), uri=uri).text = value


def _q(name: str) -> str:
    return f"{{{VOS}}}{name}"
