"""An HTTP server in a thread on loopback (uvicorn), and broken responses for tests of faults."""

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
from itertools import count
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
DRAIN_SECONDS = 2
MAX_HEAD = 128 * 1024
"""Bytes of a request's head: more than any app here accepts, so that the app itself refuses."""

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")

# `struct linger {1, 0}`: closing sends RST instead of FIN. Windows declares it with shorts.
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":  # the default loop sends FIN before RST
        return asyncio.SelectorEventLoop()
    return loops.new_event_loop()


def connect_to_loopback_directly() -> None:
    """Exempt loopback from a proxy of the environment: the sandbox's servers are all there."""
    if any(os.environ.get(name) for name in _PROXIES):
        exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        exempt = ",".join(filter(None, (exempt, "127.0.0.1", "localhost")))
        os.environ.update(no_proxy=exempt, NO_PROXY=exempt)


class Server(sandbox.Startable):
    """Serves an ASGI app on 127.0.0.1 from a thread with an event loop of its own.

    `port` 0 takes a free one, and keeps it: after `stop()` and `start()` the address is the same.
    Stopping aborts running requests, as an outage does. `lifespan` sends the app ASGI's startup and
    shutdown, between which a Functions host listens to its queues. `new_event_loop` makes the loop
    of each start. `http` is the protocol class of its connections, by default h11's. A context
    manager. It refuses to start inside Azure.
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
        """Its base URL, without a trailing slash: `https://localhost:PORT`."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    @property
    def connections(self) -> int:
        """How many TCP connections have been accepted so far, over all starts."""
        return self._state.accepted

    def start(self) -> None:
        """Start; returns when it accepts requests. Raises `OSError` if the port is taken."""
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
        """Request the stop without waiting, so that several servers stop in parallel."""
        if self._uvicorn is not None:
            self._uvicorn.exit_soon()

    def _config(self) -> uvicorn.Config:
        tls = self._tls
        return uvicorn.Config(
            self._app,
            http=_refused_after_the_stop(self._http, self._state),
            ws="none",
            lifespan="on" if self._lifespan else "off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )


async def pause(receive: Receive, seconds: float | None = None) -> None:
    """Wait that long (`None`: for ever), or until the client disconnects."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass


def abort(scope: Scope) -> None:
    """Reset the TCP connection of this request (RST, without close_notify)."""
    transport = _transport(scope)
    peer = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the client may have disconnected first
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


class Hang(Response):
    """No response, until the client disconnects or the server stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Hold the request."""
        await pause(receive)


class Reset(Response):
    """No response: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Break the connection."""
        abort(scope)
        await pause(receive)


class HalfBody(Response):
    """Status, headers and half the body of `whole`; then the connection closes."""

    def __init__(self, whole: Response) -> None:
        super().__init__(whole.body, whole.status_code, dict(whole.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half and close. A reset could make the client discard the bytes already sent."""
        half = bytes(self.body)[: len(self.body) // 2]
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": half, "more_body": True})
        _transport(scope).close()
        await pause(receive)


class Drip(Response):
    """A response that never ends, one byte at a time: in its head, or in its body if `body`."""

    SECONDS = 0.05

    def __init__(self, *, body: bool) -> None:
        super().__init__()
        self._begin = b"HTTP/1.1 200 OK\r\n" + (
            b"Content-Length: 9999\r\n\r\n" if body else b"X-Drip: "
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send one byte after the other, until the client disconnects or the server stops."""
        transport = _transport(scope)
        transport.write(self._begin)
        while not transport.is_closing():
            await pause(receive, self.SECONDS)
            transport.write(b" ")


class Bomb(Response):
    """Some 64 KB of gzip that decompress to 64 MiB of spaces."""

    def __init__(self) -> None:
        super().__init__(_bomb(), headers={"Content-Encoding": "gzip"})


@functools.cache
def _bomb() -> bytes:
    packing = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return b"".join(packing.compress(b" " * 1024 * 1024) for _ in range(64)) + packing.flush()


def listen(port: int) -> socket.socket:
    """Return a listening socket. Unlike `socket.create_server()` this sets the protocol.

    asyncio sets TCP_NODELAY only then; without it every answer is delayed by 40 ms.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there two servers could share the port
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
    stopped = False


def _refused_after_the_stop(
    connection: type[asyncio.Protocol], state: _State
) -> type[asyncio.Protocol]:
    """Abort what completes its TLS handshake after the stop: until then nobody knows of it."""

    class Connection(connection):  # type: ignore[misc, valid-type]
        late = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            self.late = state.stopped
            if self.late:
                transport.abort()
            else:
                super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if not self.late:
                super().connection_lost(exc)

    return Connection


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which counts connections and puts itself into the ASGI scope."""

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
    """uvicorn with an event for its start, and a stop that aborts connections and waits for nobody.

    uvicorn's own waits 100 ms once or twice, which tests would do a thousand times.
    """

    server_state: _State

    def __init__(self, config: uvicorn.Config, state: _State) -> None:
        super().__init__(config)
        self.server_state = state
        state.stopped = False
        self.ready = threading.Event()
        self._exit: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def exit_soon(self) -> None:
        """Stop, from another thread. Harmless when stopped."""
        self.should_exit = True
        if self._exit is not None:
            loop, exit_now = self._exit
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(exit_now.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        exit_now, ticks = asyncio.Event(), count()
        self._exit = (asyncio.get_running_loop(), exit_now)
        while not await self.on_tick(next(ticks)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await exit_now.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.stopped = True
        for server in self.servers:
            server.close()
            # Includes those in their TLS handshake. uvloop's server has no such method: its loop
            # aborts them when it closes.
            if isinstance(server, asyncio.Server):
                server.abort_clients()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.tasks:
                    await asyncio.wait(self.server_state.tasks)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()
