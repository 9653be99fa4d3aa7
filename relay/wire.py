"""HTTP/1.1 to Dynamics: h11 speaks it, asyncio carries it, and idle connections are used again.

A callback is one small POST. HTTPX's pool walks over all connections for each of them and asks
every socket whether it is readable, and its import is paid by each cold start
(docs/performance.md). Here is only what a POST needs: no redirects, no cookies, no decoding.
"""

import asyncio
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, override
from urllib.parse import SplitResult, urlsplit

import h11

from relay import proxies

CONNECT_TIMEOUT = 5.0
"""Seconds to reach a server at all."""
IDLE = 90.0
"""Seconds for which an idle connection is kept; front ends close theirs after some minutes."""
MAX_HEAD = 100 * 1024
"""Bytes of an answer's head; h11's own 16 KiB are less than some front ends send."""
MAX_CONNECTIONS = 100
"""To one origin at once. Who comes later waits, as long as its own time-out lets it."""
CHUNK = 32 * 1024
"""Bytes that are read from a TLS connection at once."""

# asyncio keeps a read buffer of 256 KiB for each TLS connection, and has no argument for less. An
# answer of Dynamics has some hundred bytes.
sslproto.SSLProtocol.max_size = CHUNK

_SUCCESS = 2
"""The class of a 2xx (RFC 9110 §15.3)."""

Headers = Sequence[tuple[str, str]]


class WireError(Exception):
    """There is no answer: nobody there, not trusted, gone in the middle, or no HTTP.

    `reason` is one fixed word. The causes are not kept: they quote names and bytes.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. Names of `headers` are in lower case, and of two the last counts.

    `body` may be cut: it has no more than was asked for.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Tell whether the status is 2xx."""
        return self.status // 100 == _SUCCESS


class Wire:
    """Connections to any number of origins, for the life of the process and of one event loop.

    `context` is the trust for TLS. Proxies are those of the environment, as for other programs.
    """

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clock = clock
        self._origins: dict[tuple[str, str], _Origin] = {}

    async def post(self, url: str, headers: Headers, body: bytes, *, limit: int) -> Answer:
        """POST once, and read at most `limit` bytes of the answer's body.

        Waits for as long as the caller does: put `asyncio.timeout` around it. Raises `WireError`,
        and `TimeoutError` when the server cannot be reached within `CONNECT_TIMEOUT`.
        """
        parts = urlsplit(url)
        origin = self._origin(parts)
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        async with origin.places:
            connection = origin.take(self._clock()) or await self._open(parts)
            try:
                answer = await connection.exchange(target, [*origin.host, *headers], body, limit)
            except BaseException:
                connection.close()
                raise
            origin.give_back(connection, self._clock())
        return answer

    def close(self) -> None:
        """Close all idle connections."""
        for origin in self._origins.values():
            origin.close()

    def _origin(self, parts: SplitResult) -> "_Origin":
        key = (parts.scheme, parts.netloc)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = _Origin([("Host", parts.netloc.lower())])
        return origin

    async def _open(self, parts: SplitResult) -> "_Connection":
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._connect(parts)
        except ssl.SSLError:
            raise WireError("tls") from None
        except (OSError, ValueError) as error:  # ValueError: a name, or a proxy's address
            if isinstance(error, TimeoutError):
                raise
            raise WireError("connect") from None
        except h11.ProtocolError:
            raise WireError("proxy") from None

    async def _connect(self, parts: SplitResult) -> "_Connection":
        loop = asyncio.get_running_loop()
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        context = self._context if secure else None
        address = proxies.of(parts.geturl())
        if address is None:
            _, connection = await loop.create_connection(
                _Connection, host, port, ssl=context, happy_eyeballs_delay=0.25
            )
            return connection
        proxy, authorization = urlsplit(address), proxies.authorization(address)
        if not proxy.hostname:
            raise ValueError("proxy")
        through = self._context if proxy.scheme == "https" else None
        at = proxy.port or (443 if through else 80)
        _, connection = await loop.create_connection(
            _Connection, proxy.hostname, at, ssl=through, happy_eyeballs_delay=0.25
        )
        try:
            await connection.tunnel(f"{host}:{port}", context, host, authorization)
        except BaseException:
            connection.close()
            raise
        return connection


@dataclass(slots=True)
class _Origin:
    """The idle connections to one origin; the one that was used last is taken first."""

    host: Headers
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))
    idle: list[tuple[float, "_Connection"]] = field(default_factory=list)

    def take(self, now: float) -> "_Connection | None":
        while self.idle:
            since, connection = self.idle.pop()
            if connection.is_alive and now - since < IDLE:
                return connection
            connection.close()
        return None

    def give_back(self, connection: "_Connection", now: float) -> None:
        if connection.is_alive:
            self.idle.append((now, connection))
        else:
            connection.close()
        while self.idle and now - self.idle[0][0] >= IDLE:  # left over from a busier time
            self.idle.pop(0)[1].close()

    def close(self) -> None:
        while self.idle:
            self.idle.pop()[1].close()


def _http() -> h11.Connection:
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)


class _Connection(asyncio.Protocol):
    """One connection, with one exchange at a time."""

    def __init__(self) -> None:
        self._http = _http()
        self._transport: asyncio.Transport | None = None
        self._news: asyncio.Future[None] | None = None
        self._busy = False
        self._broken = False
        self.is_alive = False
        """Whether another exchange is possible, as far as can be told without sending."""

    # What asyncio tells.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_alive = True

    @override
    def data_received(self, data: bytes) -> None:
        if self._busy:
            self._http.receive_data(data)
            self._wake()
        else:
            self.close()  # nobody has asked for it: it must not become the next one's answer

    @override
    def eof_received(self) -> None:
        self._end()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = self._broken or exc is not None
        self._end()

    def _end(self) -> None:
        self.is_alive = False
        if self._busy:
            self._http.receive_data(b"")
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # What the client asks for.

    def close(self) -> None:
        self.is_alive = False
        if self._transport is not None:
            # Not politely: nobody waits for the other side's half of a farewell.
            self._transport.abort()

    async def exchange(self, target: str, headers: Headers, body: bytes, limit: int) -> Answer:
        """Send one POST and read its answer; afterwards `is_alive` tells whether it can go on."""
        lines = [*headers, ("Content-Length", str(len(body)))]
        try:
            self._send("POST", target, lines, body)
            answer = await self._receive(limit)
        except (h11.LocalProtocolError, UnicodeError):
            raise WireError("request") from None
        except h11.RemoteProtocolError:
            raise WireError("protocol" if self.is_alive else "connection") from None
        http = self._http
        if http.our_state is http.their_state is h11.DONE and http.trailing_data == (b"", False):
            http.start_next_cycle()
        else:
            self.is_alive = False
        self._busy = False
        return answer

    async def tunnel(
        self,
        authority: str,
        context: ssl.SSLContext | None,
        host: str,
        authorization: str | None = None,
    ) -> None:
        """Have this proxy connect to a server (RFC 9110 §9.3.6), and speak to that from now on."""
        proven = [("Proxy-Authorization", authorization)] if authorization else []
        self._send("CONNECT", authority, [("Host", authority), *proven])
        event = await self._next()
        if not isinstance(event, h11.Response) or event.status_code // 100 != _SUCCESS:
            raise WireError("proxy")
        self._http, self._busy = _http(), False
        if context is not None and self._transport is not None:
            loop = asyncio.get_running_loop()
            self._transport = await loop.start_tls(
                self._transport, self, context, server_hostname=host
            )

    def _send(self, method: str, target: str, headers: Headers, body: bytes = b"") -> None:
        http = self._http
        request = h11.Request(method=method, target=target, headers=list(headers))
        data = [http.send(event) for event in (request, h11.Data(data=body), h11.EndOfMessage())]
        if self._transport is None or not self.is_alive:
            raise WireError("connection")
        self._busy = True
        self._transport.write(b"".join(part for part in data if part))

    async def _receive(self, limit: int) -> Answer:
        head: h11.Response | None = None
        body = bytearray()
        while len(body) <= limit:
            event = await self._next()
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise WireError("connection")
        if head is None or self._broken:
            raise WireError("connection")
        told = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        return Answer(head.status_code, told, bytes(body[:limit]))

    async def _next(self) -> object:
        """Return h11's next event, waiting for data as long as it needs some."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return event
