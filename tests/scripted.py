"""A server that answers what a test has told it to, byte for byte, in the test's own event loop."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import h11
import pytest


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

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._script: deque[bytes | Callable[[asyncio.StreamWriter], object]] = deque()
        self._for_ever = False
        self._tasks: set[asyncio.Task[None]] = set()

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
            self._tasks.discard(task)
            writer.transport.abort()

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
async def scripted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scripted]:
    """Serve a script, to which every host name leads, without TLS."""
    server = Scripted()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def here(
            factory: Callable[[], asyncio.Protocol], *_: object, **__: object
        ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
            return await connect(factory, "127.0.0.1", server.port)

        monkeypatch.setattr(loop, "create_connection", here)
        yield server
        await server.stop()
