"""A server that answers what a test has told it to, byte for byte, in the test's own event loop."""

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import h11

from sandbox.loops import new_event_loop


class Elsewhere(Protocol):
    """Runs a coroutine in the server's loop while the caller's own stands still."""

    def __call__[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Return what it returns."""


@dataclass
class Seen:
    """A request as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    content: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Scripted:
    """Answers in the order in which they were added; the last one `for_ever` if so wished."""

    def __init__(self, *, secure: bool) -> None:
        self._secure = secure
        self.requests: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._script: deque[bytes | Callable[[asyncio.StreamWriter], object]] = deque()
        self._for_ever = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """An address of it."""
        return f"{'https' if self._secure else 'http'}://localhost:{self.port}/data/X"

    def add(
        self,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        of: object = None,
        html: str | None = None,
        for_ever: bool = False,
    ) -> None:
        """Answer with this status, and `content`, JSON `of` something, or an HTML page."""
        given = dict(headers or {})
        if of is not None or (html is None and not content and "content-type" not in given):
            given.setdefault("content-type", "application/json")
        if of is not None:
            content = json.dumps(of).encode()
        if html is not None:
            content, given["content-type"] = html.encode(), "text/html"
        self.add_raw(raw(status, given, content), for_ever=for_ever)

    def add_raw(
        self, answer: bytes | Callable[[asyncio.StreamWriter], object], *, for_ever: bool = False
    ) -> None:
        """Answer with these bytes, or let a function do what it wants with the connection."""
        self._script.append(answer)
        self._for_ever = for_ever

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            async with self._changed:
                self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        while (seen := await _request(http, reader)) is not None:
            self.requests.append(seen)
            keep = self._for_ever and len(self._script) == 1
            answer = self._script[0] if keep else self._script.popleft()
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                result = answer(writer)
                if asyncio.iscoroutine(result):
                    await result
                return
            http = h11.Connection(h11.SERVER)

    async def eventually_open(self, count: int) -> bool:
        """Wait until this many connections are open, and tell; without end if it never is so."""
        async with self._changed:
            return await self._changed.wait_for(lambda: len(self._tasks) == count)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def raw(status: int, headers: Mapping[str, str], content: bytes = b"") -> bytes:
    """Write a response by hand, as some server might."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unheard Of"
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if status not in (204, 304):
        lines.append(f"content-length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + (content if status not in (204, 304) else b"")


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> Seen | None:
    seen: Seen | None = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(65536)
            if not data:
                return None
            http.receive_data(data)
        elif isinstance(event, h11.Request):
            headers = [(name.decode(), value.decode()) for name, value in event.headers]
            seen = Seen(event.method.decode(), event.target.decode(), headers, b"")
        elif isinstance(event, h11.Data):
            assert seen is not None
            seen.content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return seen
        else:
            return None


@asynccontextmanager
async def scripted(tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Serve a script on loopback, over TLS with this context."""
    server = Scripted(secure=tls is not None)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        listening.close()
        await server.stop()


@contextmanager
def scripted_elsewhere(tls: ssl.SSLContext | None = None) -> Iterator[tuple[Scripted, Elsewhere]]:
    """Serve a script from a thread with a loop of its own; the second value runs things there."""
    loop = new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def elsewhere[T](work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    serving = scripted(tls)
    try:
        yield elsewhere(serving.__aenter__()), elsewhere
        elsewhere(serving.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
