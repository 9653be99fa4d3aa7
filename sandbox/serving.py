"""A small real server: uvicorn in a thread on loopback, and answers that break on the wire."""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

import sandbox
from sandbox import loops

START_SECONDS = 10
STOP_SECONDS = 5
MAX_HEAD = 128 * 1024
"""Bytes of a request's head: more than any app here takes, so that refusing is the app's part."""

# `struct linger {1, 0}`: closing sends RST instead of FIN. Windows declares it with shorts.
_LINGER_NOT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":  # where the usual one resets with FIN first
        return asyncio.SelectorEventLoop()
    return loops.new_event_loop()


class Server(sandbox.Startable):
    """Serves an ASGI app on 127.0.0.1 from a thread with an event loop of its own.

    `port` 0 takes a free one, and keeps it: `stop()` and `start()` make the same address go
    down and come up again. Stopping breaks what is under way, as an outage does. `lifespan` tells
    the app about every start and stop, which is when a Functions host listens to its queues.
    `new_event_loop` makes the loop of each start. `http` is the protocol class of its connections,
    h11's unless another one is given. Use it as a context manager. It refuses to start inside
    Azure.
    """

    port: int
    """The port; 0 until the first start unless one was asked for."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        lifespan: bool = False,
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] = _new_event_loop,
        http: type[asyncio.Protocol] | None = None,
    ) -> None:
        self.port = port
        self._app = app
        self._tls = tls
        self._lifespan = lifespan
        self._new_event_loop = new_event_loop
        self._http = http or _Connection
        self._state = _State()
        self._uvicorn: _Uvicorn | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is, without a trailing slash: `https://localhost:PORT`."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    @property
    def connections(self) -> int:
        """How many TCP connections have been accepted so far, over all starts."""
        return self._state.accepted

    def start(self) -> None:
        """Listen; returns when requests are answered. Raises `OSError` if the port is taken."""
        sandbox.refuse_in_azure(os.environ)
        listener = listen(self.port)
        self.port = listener.getsockname()[1]
        self._uvicorn = _Uvicorn(self._config(), self._state)
        self._thread = threading.Thread(
            target=asyncio.run,
            args=(self._uvicorn.serve([listener]),),
            kwargs={"loop_factory": self._new_event_loop},
            name=f"sandbox:{self.port}",
            daemon=True,  # a forgotten server must not keep the process alive
        )
        self._thread.start()
        if not self._uvicorn.ready.wait(START_SECONDS):
            listener.close()
            self.stop()
            raise RuntimeError("The sandbox's server did not start in time.")

    def stop(self) -> None:
        """Drop every connection, close the port, join the thread. Harmless when stopped."""
        if self._uvicorn is None or self._thread is None:
            return
        self.begin_to_stop()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError("The sandbox's server did not stop in time.")
        self._uvicorn = self._thread = None

    def begin_to_stop(self) -> None:
        """Ask it to stop without waiting; several servers then stop side by side."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def _config(self) -> uvicorn.Config:
        tls = self._tls
        return uvicorn.Config(
            self._app,
            http=self._http,
            ws="none",
            lifespan="on" if self._lifespan else "off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=MAX_HEAD,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )


async def pause(receive: Receive, seconds: float | None = None) -> None:
    """Wait that long (`None`: without end), but no longer than the client stays connected."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass


def abort(scope: Scope) -> None:
    """Reset the TCP connection of this request at once (RST; no TLS farewell)."""
    transport = _transport(scope)
    peer = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the client may have gone first
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


class Hang(Response):
    """No answer at all, until the client goes away or the server stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Hold the request."""
        await pause(receive)


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Break the connection."""
        abort(scope)
        await pause(receive)


class HalfBody(Response):
    """Status, headers and half the body of `whole`; then the connection closes."""

    def __init__(self, whole: Response) -> None:
        super().__init__(whole.body, whole.status_code, dict(whole.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half. Closed, not reset: a reset could overtake the bytes already sent."""
        half = bytes(self.body)[: len(self.body) // 2]
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": half, "more_body": True})
        _transport(scope).close()
        await pause(receive)


class Drip(Response):
    """An answer that never ends, a byte at a time: in its head, or in its body if `body`."""

    SECONDS = 0.05

    def __init__(self, *, body: bool) -> None:
        super().__init__()
        self._begin = b"HTTP/1.1 200 OK\r\n" + (
            b"Content-Length: 9999\r\n\r\n" if body else b"X-Drip: "
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send one byte after the other, until the client goes away or the server stops."""
        transport = _transport(scope)
        transport.write(self._begin)
        while not transport.is_closing():
            await pause(receive, self.SECONDS)
            transport.write(b" ")


class Bomb(Response):
    """Some 64 KB of gzip that unpack to 64 MiB of spaces."""

    def __init__(self) -> None:
        super().__init__(_bomb(), headers={"Content-Encoding": "gzip"})


@functools.cache
def _bomb() -> bytes:
    packing = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return b"".join(packing.compress(b" " * 1024 * 1024) for _ in range(64)) + packing.flush()


def listen(port: int) -> socket.socket:
    """Bind the port. Unlike `socket.create_server()` this names the protocol.

    asyncio sets TCP_NODELAY only then, and without it every answer is 40 ms late.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _transport(scope: Scope) -> asyncio.Transport:
    connection: _Connection = scope["state"]["connection"]
    return connection.transport


class _State(ServerState):
    accepted = 0


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1, counted when accepted, and found again through the ASGI scope."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: _State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        server_state.accepted += 1


class _Uvicorn(uvicorn.Server):
    """uvicorn that tells when it is up, and does not wait for its clients when it goes down."""

    def __init__(self, config: uvicorn.Config, state: _State) -> None:
        super().__init__(config)
        self.server_state = state
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
            # Also those in their TLS handshake. A server of uvloop has no such method: its loop
            # drops them when it closes.
            if isinstance(server, asyncio.Server):
                server.abort_clients()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)
