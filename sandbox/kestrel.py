"""An HTTP/1.1 server (RFC 9112) that accepts and refuses requests as Kestrel does.

Kestrel is the web server of the Functions host; h11, which serves the rest of the sandbox, differs.
Source files named here are those of dotnet/aspnetcore, src/Servers/Kestrel/Core.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast, override

import uvicorn
from starlette.types import Message, Scope
from uvicorn.server import ServerState

MAX_REQUEST_LINE = 8 * 1024
MAX_HEADERS = 32 * 1024
MAX_HEADER_COUNT = 100
DRAIN_SECONDS = 5
PIECE = 64 * 1024

_CRLF = b"\r\n"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%s) ([^\x00 \x80-\xff]+) (.*)" % _TOKEN, re.DOTALL)
_VERSION = re.compile(rb"HTTP/\d\.\d")
_HEADER = re.compile(rb"(%s):[\t ]*([^\x00\r\n]*?)[\t ]*" % _TOKEN)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[\t ]*(?:;[^\r\n]*)?\r\n")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.DOTALL | re.IGNORECASE)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9!$&'()\-._~]+)(?::\d*)?")
_METHODS = frozenset(
    (b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE")
)
_WITHOUT_BODY = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))


class Refused(Exception):
    """A request that Kestrel refuses: the answer has no body and none of the app's headers."""

    def __init__(self, status: HTTPStatus, *, allow: bytes = b"") -> None:
        super().__init__(status.phrase)
        self.status = status
        self.allow = allow


@dataclass(frozen=True)
class Head:
    """A request's line and headers. Header names are lower-case; `target` is a path and a query."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]

    @classmethod
    def read(cls, line: bytes, fields: list[bytes]) -> "Head":
        """Parse the lines of a head, without their line ends. Raises `Refused`.

        HttpParser.cs, Http1Connection.cs, HttpRequestHeaders.cs, Http1MessageBody.cs.
        """
        method, target, version = _read_line(line)
        headers = [_read_header(field) for field in fields]
        if len(headers) > MAX_HEADER_COUNT:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        target = _read_target(method, target, _host(headers, version))
        return cls(method, target, version, _frame(headers))

    @property
    def length(self) -> int:
        """The Content-Length; 0 without one."""
        return int(self._values(b"content-length") or 0)

    @property
    def chunked(self) -> bool:
        """Whether the body is chunked, the only Transfer-Encoding that `read` accepts."""
        return bool(self._values(b"transfer-encoding"))

    @property
    def keeps_alive(self) -> bool:
        """Whether the client asks for one more request on the connection."""
        connection = self._values(b"connection").lower()
        return b"close" not in connection and (
            self.version == b"HTTP/1.1" or b"keep-alive" in connection
        )

    @property
    def continues(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return self._values(b"expect").lower() == b"100-continue"

    def scope(self, scheme: str, state: Mapping[str, Any]) -> Scope:
        """Return the ASGI scope.

        `kestrel.target` is the raw target: ASGI does not distinguish `/x` from `/x?`.
        """
        path, _, query = self.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version[-3:].decode(),
            "method": self.method.decode(),
            "scheme": scheme,
            "path": path.decode(),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "state": dict(state),
            "kestrel.target": self.target,
        }

    def _values(self, name: bytes) -> bytes:
        return b",".join(value for known, value in self.headers if known == name)


def _read_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise Refused(HTTPStatus.BAD_REQUEST)
    method, target, version = parts.groups()
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        known = _VERSION.fullmatch(version)
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if known else HTTPStatus.BAD_REQUEST)
    # Known methods in any case; HttpMethods.cs of Http.Abstractions spells them.
    canonical = method.upper()
    return canonical if canonical in _METHODS else method, target, version


def _read_header(field: bytes) -> tuple[bytes, bytes]:
    parts = _HEADER.fullmatch(field)
    if parts is None:
        raise Refused(HTTPStatus.BAD_REQUEST)
    name, value = parts.groups()
    try:
        value.decode()
    except UnicodeDecodeError:
        raise Refused(HTTPStatus.BAD_REQUEST) from None
    return name.lower(), value


def _host(headers: list[tuple[bytes, bytes]], version: bytes) -> bytes:
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts and version == b"HTTP/1.0":
        return b""
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise Refused(HTTPStatus.BAD_REQUEST)
    return hosts[0]


def _read_target(method: bytes, target: bytes, host: bytes) -> bytes:
    if target == b"*":
        if method != b"OPTIONS":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, allow=b"OPTIONS")
        return b"/"
    if absolute := _ABSOLUTE.fullmatch(target):
        authority, target = absolute.groups()
        if authority != host:
            raise Refused(HTTPStatus.BAD_REQUEST)
        target = target if target.startswith(b"/") else b"/" + target
    if not target.startswith(b"/"):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, allow=b"CONNECT")
    if b"%00" in target.partition(b"?")[0]:
        raise Refused(HTTPStatus.BAD_REQUEST)
    return target


def _frame(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise Refused(HTTPStatus.BAD_REQUEST)
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if not codings:
        return headers
    if codings[-1].rpartition(b",")[2].strip().lower() != b"chunked":
        raise Refused(HTTPStatus.BAD_REQUEST)
    # The Content-Length of a chunked request is renamed.
    renamed = {b"content-length": b"x-content-length"}
    return [(renamed.get(name, name), value) for name, value in headers]


class Connection(asyncio.StreamReaderProtocol):
    """One client's connection: the `http` protocol class of a uvicorn server.

    Requests are served one after the other; the app gets the body in one message. No time-outs.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = _loop or asyncio.get_event_loop()
        reader = asyncio.StreamReader(limit=MAX_REQUEST_LINE + MAX_HEADERS, loop=loop)
        super().__init__(reader, self._serve, loop=loop)
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._lost = asyncio.Event()
        self._answering = False
        self._stopping = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection at the server."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._server.connections.add(self)  # type: ignore[arg-type]
        super().connection_made(transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the app."""
        self._server.connections.discard(self)
        self._lost.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close after the current answer; called by uvicorn when it stops."""
        self._stopping = True
        if not self._answering:
            self.transport.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        self._server.tasks.add(task)
        try:
            while not self._stopping and await self._serve_one(reader, writer):
                pass
        except (
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ConnectionError,
            TimeoutError,
        ):
            pass  # the client has disconnected, or the body is incomplete
        finally:
            self._server.tasks.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await _read_head(reader)
        except Refused as refused:
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            if refused.allow:
                headers.append((b"allow", refused.allow))
            writer.write(_answer_head(refused.status, [*self._server.default_headers, *headers]))
            await writer.drain()
            return False
        self._answering = True
        scheme = "https" if writer.get_extra_info("sslcontext") else "http"
        exchange = _Exchange(head, reader, writer, self._server.default_headers, self._lost)
        await self._config.loaded_app(
            head.scope(scheme, self._app_state), exchange.receive, exchange.send
        )
        self._answering = False
        return await exchange.drain() and head.keeps_alive


class _Exchange:
    """One request's body and its answer, as ASGI passes them."""

    def __init__(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        default_headers: list[tuple[bytes, bytes]],
        lost: asyncio.Event,
    ) -> None:
        self._head = head
        self._reader = reader
        self._writer = writer
        self._default_headers = default_headers
        self._lost = lost
        self._read = self._broken = False
        self._start: Message = {}

    async def receive(self) -> Message:
        """Return the whole body; after that, wait until the client disconnects."""
        if self._read:
            await self._lost.wait()
            return {"type": "http.disconnect"}
        self._read = True
        if self._head.continues:
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = b"".join([piece async for piece in self._pieces()])
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._broken = True
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Write the answer, which the app sends as a start and one body."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        status, headers = self._start["status"], [*self._default_headers, *self._start["headers"]]
        if not self._head.keeps_alive and b"connection" not in dict(headers):
            headers.append((b"connection", b"close"))
        answer = _answer_head(status, headers)
        if self._head.method != b"HEAD" and status not in _WITHOUT_BODY:
            answer += message["body"]
        self._writer.write(answer)
        await self._writer.drain()

    async def drain(self) -> bool:
        """Discard the unread body; tell whether another request can follow.

        Http1MessageBody.cs
        """
        if self._read:
            return not self._broken
        if self._head.continues:
            return False  # without 100 Continue the client may send the body or not
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in self._pieces():
                pass
        return True

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._head.chunked:
            while size := await self._chunk_size():
                yield await self._reader.readexactly(size)
                await self._reader.readexactly(len(_CRLF))
            while await self._reader.readuntil(_CRLF) != _CRLF:
                pass  # trailers
        left = self._head.length
        while left:
            piece = await self._reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    async def _chunk_size(self) -> int:
        line = _CHUNK.fullmatch(await self._reader.readuntil(_CRLF))
        if line is None:
            raise asyncio.IncompleteReadError(b"", None)
        return int(line[1], 16)


async def _read_head(reader: asyncio.StreamReader) -> Head:
    line = await _read_line_of(reader, MAX_REQUEST_LINE, HTTPStatus.REQUEST_URI_TOO_LONG)
    fields: list[bytes] = []
    left = MAX_HEADERS
    while field := await _read_line_of(reader, left, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE):
        left -= len(field) + len(_CRLF)
        fields.append(field)
    return Head.read(line, fields)


async def _read_line_of(reader: asyncio.StreamReader, most: int, too_long: HTTPStatus) -> bytes:
    """Read a line, its end not included. Lines must end in CR LF."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise Refused(too_long) from None
    if len(line) > most + (len(_CRLF) if line == _CRLF else 0):
        raise Refused(too_long)
    if not line.endswith(_CRLF):
        raise Refused(HTTPStatus.BAD_REQUEST)
    return line.removesuffix(_CRLF)


def _answer_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus else ""
    lines = [f"HTTP/1.1 {status} {phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return _CRLF.join((*lines, _CRLF))
