"""A storage element with the quirks of real ones: an HTTP server with handwritten, possibly malformed responses."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

CONTENT = b"SIMPLE  =                    T" * 400
GZIPPED = gzip.compress(CONTENT, mtime=0)
MODIFIED = "Tue, 24 Nov 2026 11:00:00 GMT"


@dataclass(frozen=True)
class Asked:
    """The parts of a request that determine the response."""

    method: str
    path: str
    headers: dict[str, str]


Answer = Callable[[Asked], bytes]


@dataclass(frozen=True)
class Habit:
    """How requests for a file are answered, and the correct result: its bytes and their encoding, or a fault.

    ``size`` is the expected estimate, None if unknown; ``known`` is the content stated in the request.
    """

    answer: Answer
    content: bytes | None = CONTENT
    size: int | None = len(CONTENT)
    fault: str | None = None
    encoding: str | None = None
    media_type: str | None = None
    known: dict[str, object] = field(default_factory=dict)
    name: str = "a.fits"


def reply(asked: Asked, status: str, body: bytes = b"", *headers: str | bytes, length: bool = True) -> bytes:
    """Return one response, after which the connection is closed."""
    lines: list[str | bytes] = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    head = b"\r\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    return head + b"\r\n\r\n" + (b"" if asked.method == "HEAD" else body)


def plain(*headers: str | bytes, content: bytes = CONTENT, length: bool = True) -> Answer:
    """Return the file in a correct response, with further headers."""

    def answer(asked: Asked) -> bytes:
        if asked.headers.get("range") == "bytes=0-0" and length and content:
            part = f"Content-Range: bytes 0-0/{len(content)}"
            return reply(asked, "206 Partial Content", content[:1], part, *headers)
        return reply(asked, "200 OK", content, *headers, length=length)

    return answer


def chunked(asked: Asked) -> bytes:
    """The file in chunks."""
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    return reply(asked, "200 OK", body, "Transfer-Encoding: chunked", length=False)


def but_head(status: str, answer: Answer) -> Answer:
    """Return the file, except to HEAD."""
    return lambda asked: reply(asked, status) if asked.method == "HEAD" else answer(asked)


def no_range(asked: Asked) -> bytes:
    """Return the whole file, ignoring ranges."""
    return reply(asked, "200 OK", CONTENT)


def redirect(status: str, to: str, answer: Answer | None = None) -> Answer:
    """Redirect to another URL, served by *answer*; ``{here}`` is the directory of this one."""

    def moved(asked: Asked) -> bytes:
        if "/real/" in asked.path:
            return (answer or plain())(asked)
        location = to.format(here=asked.path.rpartition("/")[0], this=asked.path)
        return reply(asked, status, b"elsewhere", f"Location: {location}")

    return moved


def once_busy(*headers: str) -> Answer:
    """Busy at the first time."""
    seen: set[str] = set()

    def answer(asked: Asked) -> bytes:
        if asked.method not in seen:
            seen.add(asked.method)
            return reply(asked, "503 Service Unavailable", b"", *headers)
        return plain()(asked)

    return answer


def coded(coding: str, body: bytes) -> Answer:
    """Return the file with a content coding that was not requested."""
    return plain(f"Content-Encoding: {coding}", content=body)


def xrootd(digest: int = zlib.adler32(CONTENT)) -> Answer:
    """Answer as XRootD 5.8 sometimes does: asked for the digest by GET, with its own message in the file's place."""
    server = "Server: XrootD/v5.8.1"

    def answer(asked: Asked) -> bytes:
        if "want-digest" not in asked.headers:
            return plain(server)(asked)
        if asked.method == "HEAD":
            return reply(asked, "200 OK", CONTENT, server, f"Digest: adler32={digest:08x}")
        message = b"adler32 %08x\0" % digest
        return reply(asked, "200 OK", message + CONTENT[len(message) :], server)

    return answer


def habits(elsewhere: str) -> dict[str, Habit]:
    """Return all habits by name; *elsewhere* is a server that must not be contacted."""
    found = {
        "as it should be": Habit(plain("Content-Type: application/fits"), media_type="application/fits"),
        "HEAD and GET are redirected with a name that is no ASCII": Habit(
            redirect("302 Found", "{here}/real/é ü")
        ),
        "a redirect elsewhere": Habit(
            redirect("307 Temporary Redirect", f"{elsewhere}/d/x"), None, None, "InvalidArgument"
        ),
        "a redirect out of the tree": Habit(
            redirect("302 Found", "/d/../secret"), None, None, "InvalidArgument"
        ),
        "a redirect with a credential": Habit(
            redirect("302 Found", "http://user:secret@127.0.0.1/d/x"), None, None, "InvalidArgument"
        ),
        "its message of the checksum instead of the first bytes": Habit(xrootd()),
        "bytes of another digest than HEAD tells": Habit(xrootd(1), None, fault="ChecksumMismatch"),
        "redirects in a circle": Habit(redirect("301 Moved", "{this}"), None, None, "TransferFailed"),
        "redirects without end": Habit(redirect("302 Found", "{this}x"), None, None, "TransferFailed"),
        "HEAD is not offered, and ranges are ignored": Habit(but_head("405 Method Not Allowed", no_range)),
        "HEAD is forbidden, and so is GET": Habit(
            lambda asked: reply(asked, "403 Forbidden"), None, None, "TransferFailed"
        ),
        "HEAD is not offered for an empty file": Habit(
            but_head(
                "501 Not Implemented",
                lambda asked: (
                    reply(asked, "416 Range Not Satisfiable", b"", "Content-Range: bytes */0")
                    if "range" in asked.headers
                    else reply(asked, "200 OK")
                ),
            ),
            b"",
            0,
        ),
        "no length": Habit(plain(length=False), size=None),
        "chunks": Habit(chunked, size=None),
        "a length that is none": Habit(
            plain("Content-Length: many", length=False), None, None, "TransferFailed"
        ),
        "an empty file without content": Habit(
            lambda asked: reply(asked, "204 No Content", length=False), b"", 0
        ),
        "a compressed file that says so": Habit(
            coded("gzip", GZIPPED), GZIPPED, len(GZIPPED), encoding="gzip", name="a.fits.gz"
        ),
        "a compressed file that says so in the old way": Habit(
            coded("x-gzip", GZIPPED), GZIPPED, len(GZIPPED), encoding="gzip", name="a.tgz"
        ),
        "a compressed file of a plain name, by its size": Habit(
            coded("gzip", GZIPPED),
            GZIPPED,
            None,
            encoding="gzip",
            known={"size": len(GZIPPED)},
        ),
        "a compressed file's content, by its size": Habit(
            coded("gzip", GZIPPED), CONTENT, len(GZIPPED), known={"size": len(CONTENT)}, name="a.fits.gz"
        ),
        "a file compressed on its way": Habit(coded("gzip", GZIPPED), size=None),
        "a file compressed on its way, in parts": Habit(
            coded("GZIP", gzip.compress(CONTENT[:700]) + gzip.compress(CONTENT[700:]) + b"\0" * 8), size=None
        ),
        "a file deflated on its way": Habit(coded("deflate", zlib.compress(CONTENT)), size=None),
        "a file deflated on its way, barely": Habit(
            coded("deflate", zlib.compress(CONTENT, wbits=-15)), size=None
        ),
        "a coding that is none": Habit(coded("identity", CONTENT)),
        "a coding that nobody knows": Habit(coded("br", b"?"), None, None, "TransferFailed"),
        "a coding that is not that": Habit(coded("gzip", CONTENT), None, None, "TransferFailed"),
        "a compressed file that breaks off": Habit(coded("gzip", GZIPPED[:-9]), None, None, "TransferFailed"),
        "what nobody can read in the headers": Habit(
            plain(
                b"Content-Type: text/\xff\xfe",
                b'ETag: "\xff"',
                b"Digest: md5=\xff,adler32=\xff",
                b"Content-MD5: \xc3\xa9",
                b"X-Whatever: \xff",
            )
        ),
        "a checksum of what is sent": Habit(plain(f"Digest: adler32={zlib.adler32(CONTENT):x}")),
        "a wrong checksum": Habit(plain("Digest: adler32=00000001"), None, fault="ChecksumMismatch"),
    }
    for status in (
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ):
        found[f"a redirect by {status}"] = Habit(redirect(status, "{here}/real/x"))
        found[f"a redirect by {status} of HEAD to who does not offer it"] = Habit(
            redirect(status, "real/y", but_head("405 Method Not Allowed", plain()))
        )
    for status in (
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "405 Method Not Allowed",
        "501 Not Implemented",
    ):
        found[f"HEAD is answered by {status}"] = Habit(but_head(status, plain()))
    for date in (
        "Tue, 24 Nov 2026 11:00:00",
        "Tue, 24 Nov 2026 11:00:00 -0000",
        "soon",
        "Tue, 99 Foo 2026",
        "0",
    ):
        found[f"a date like {date!r}"] = Habit(plain(f"Last-Modified: {date}"))
    for kind in ("nonsense", "text/", "a/b/c", "text/plain\tx", "text/" + "x" * 300, ";"):
        found[f"a type like {kind[:12]!r}"] = Habit(plain(f"Content-Type: {kind}"))
    for text in ("²", "soon", "0", "Tue, 24 Nov 2020 11:00:00"):
        found[f"busy for {text!r}"] = Habit(once_busy(f"Retry-After: {text}"))
    found["a type of a form"] = Habit(plain("Content-Type: multipart/form-data; boundary=x"))
    return found


@dataclass
class HabitualServer:
    """Serves each habit in its own directory."""

    habits: dict[str, Habit] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    base: str = ""
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a port of its own."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.close()

    def path(self, habit: str) -> str:
        """Return the path of a habit's file on the RSE."""
        return f"{list(self.habits).index(habit)}/{self.habits[habit].name}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            asked = Asked(method, path, headers)
            self.requests.append(asked)
            writer.write(self._answer(asked))
            await writer.drain()
        writer.close()

    def _answer(self, asked: Asked) -> bytes:
        number = asked.path.removeprefix("/d/").partition("/")[0]
        if number.isdecimal():
            return list(self.habits.values())[int(number)].answer(asked)
        return reply(asked, "404 Not Found")
