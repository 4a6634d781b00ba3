"""An HTTP/2 client with control over every byte and frame, for malformed requests too."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from deployment import Deployment
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

CANCEL = 8
Headers = list[tuple[str, str]]


def connect(stack: Deployment, protocol: str, timeout: float = 5, address: str = "") -> ssl.SSLSocket:
    """Connect to HAProxy, or to another one at *address*, by TLS; *protocol* is ``h2`` or ``http/1.1``."""
    context = ssl.create_default_context(cafile=stack.ca)
    context.set_alpn_protocols([protocol])
    plain = socket.create_connection((address or stack.public_name, urlsplit(stack.url).port or 443), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=stack.public_name)


def rest(connection: socket.socket) -> bytes:
    """Return everything received until the peer closes the connection or the socket times out."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except (TimeoutError, ConnectionError):
        pass
    return received


def closes(connection: socket.socket) -> bool:
    """Return whether the peer closes the connection before the socket times out."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@dataclass
class Answer:
    """The response to one request; status 0 if the stream or the connection ended without one."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Http2:
    """One HTTP/2 connection."""

    def __init__(self, stack: Deployment, timeout: float = 5, address: str = "") -> None:
        """Connect, with *timeout* seconds for each read."""
        self._authority = urlsplit(stack.url).netloc
        self._socket = connect(stack, "h2", timeout, address)
        self._connection = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._connection.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        """Leave it open until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())

    def request(self, method: str, path: str, headers: Headers | None = None, end: bool = True) -> int:
        """Send a request's headers; return the number of its stream."""
        stream = self._connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        self._connection.send_headers(stream, pseudo + (headers or []), end_stream=end)
        self._flush()
        return stream

    def get(self, path: str, headers: Headers | None = None) -> Answer:
        """Request *path* and wait for the response."""
        return self.answer(self.request("GET", path, headers))

    def answer(self, stream: int) -> Answer:
        """Wait for the complete response on a stream. Raises TimeoutError."""
        answer = Answer()
        while data := self._socket.recv(65536):
            for event in self._connection.receive_data(data):
                if isinstance(event, ConnectionTerminated):
                    return answer
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, ResponseReceived):
                    answer.headers = {str(name): str(value) for name, value in event.headers or []}
                    answer.status = int(answer.headers[":status"])
                elif isinstance(event, DataReceived):
                    answer.body += event.data or b""
                elif isinstance(event, StreamEnded | StreamReset):
                    self._flush()
                    return answer
            self._flush()
        return answer

    def data(self, stream: int, content: bytes, end: bool = False) -> None:
        """Send a part of a request's body, up to the peer's window."""
        frame = self._connection.max_outbound_frame_size
        for begin in range(0, len(content), frame):
            last = begin + frame >= len(content)
            self._connection.send_data(stream, content[begin : begin + frame], end_stream=end and last)
        self._flush()

    # -- malformed frames: bypassing the state machine of h2, which would reject them ------------------------

    def end(self, stream: int) -> None:
        """Send an empty DATA frame that ends the stream."""
        self._socket.sendall(DataFrame(stream, flags=["END_STREAM"]).serialize())

    def trailers(self, stream: int) -> None:
        """Send trailing headers, which end the stream."""
        block = self._connection.encoder.encode([("x-trailer", "1")])
        frame = HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"])
        self._socket.sendall(frame.serialize())

    def reset(self, stream: int) -> None:
        """Send RST_STREAM."""
        self._socket.sendall(RstStreamFrame(stream, CANCEL).serialize())

    def close(self) -> None:
        """Close the connection without GOAWAY."""
        self._socket.close()
