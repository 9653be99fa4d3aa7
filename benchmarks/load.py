"""The load: browsers' redirects as a program sends them, each with a code and a state of its own.

Keep-alive connections over plain HTTP, as behind Azure's front end. Written on asyncio's
protocols: a client library would cost more than most contestants do.
"""

import asyncio
import base64
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import cast, override
from urllib.parse import urlencode

LIFE = 3_500
"""Seconds that a state is good for: an hour is the most that the relay takes."""
REFUSED_PAUSE = 0.001
"""Seconds between two looks at a process that does not answer yet."""
PATIENCE = 30.0
"""Seconds for one answer."""
NOT_YET = 404
"""What an app answers whose port is open before its routes are there."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer never came, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Callback:
    """One authorization response, and the request that brings it."""

    code: str
    state: str
    request: bytes


@dataclass
class Callbacks:
    """Authorization responses, no two alike; their states are signed with the relay's key."""

    kid: str
    key: bytes = field(repr=False)
    issuer: str = ""

    def __post_init__(self) -> None:
        self._header = _part({"alg": "HS256", "typ": "JWT", "kid": self.kid})
        self._numbers = count(1)
        self._ready: deque[Callback] = deque()

    @property
    def encoded_key(self) -> str:
        """The key as the relay's STATE_KEYS has it."""
        return _base64url(self.key)

    def prepare(self, number: int) -> None:
        """Make so many in advance: making one costs as much as sending it."""
        while len(self._ready) < number:
            self._ready.append(self._make())

    def take(self) -> Callback:
        """Return the next one."""
        return self._ready.popleft() if self._ready else self._make()

    def _make(self) -> Callback:
        number = next(self._numbers)
        # 700 characters, about as many as a code of Entra or of a bank has.
        code = f"{number:08d}.{secrets.token_urlsafe(519)}"
        state = self._state(number)
        query = urlencode({"code": code, "state": state, "iss": self.issuer})
        head = (
            f"GET /callback?{query} HTTP/1.1\r\nHost: localhost\r\n"
            "Accept: application/json\r\nUser-Agent: benchmark\r\n\r\n"
        )
        return Callback(code, state, head.encode())

    def _state(self, number: int) -> str:
        """Return a state as contract and X++ mint it: a JWT (RFC 7519), HS256."""
        claims = {
            "aud": "callback:default",
            "exp": int(time.time()) + LIFE,
            "jti": f"{secrets.token_hex(12)}{number:08d}",
        }
        signed = f"{self._header}.{_part(claims)}"
        return f"{signed}.{_base64url(hmac.digest(self.key, signed.encode(), 'sha256'))}"


@dataclass
class Answers:
    """What came of one run: seconds for each answer, by when it ended, and what was acknowledged.

    `statuses` counts the answers. `seconds` is how long all of it took.
    """

    latencies: list[float] = field(default_factory=list)
    acknowledged: list[Callback] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many were answered otherwise than with 2xx."""
        return sum(number for status, number in self.statuses.items() if not _is_good(status))

    def add(self, callback: Callback, status: int, seconds: float) -> None:
        """Count one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if _is_good(status):
            self.acknowledged.append(callback)
            self.latencies.append(seconds)


class Client(asyncio.Protocol):
    """One keep-alive connection to the app."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[int] | None = None

    @classmethod
    async def connect(cls, port: int) -> "Client":
        """Return a connected one. Raises `OSError` where nobody listens."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, "127.0.0.1", port)
        return client

    async def get(self, request: bytes) -> int:
        """Send a request and return the status of its answer. Raises `LoadError`."""
        if self._transport is None or self._transport.is_closing():
            raise LoadError("The app closed the connection.")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        patience = loop.call_later(PATIENCE, self._give_up, f"No answer after {PATIENCE:.0f} s.")
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            patience.cancel()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        status = int(self._received[9:12])
        length = _LENGTH.search(self._received, 0, end)
        if length is None and status not in (204, 304):
            self._give_up("An answer without a length cannot be read here.")
            return
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) >= size:
            self._received = self._received[size:]
            self._answer.set_result(status)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up("The app closed the connection.")

    def _give_up(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadError(why))


async def first_answer(
    port: int, callbacks: Callbacks, deadline: float, gone: Callable[[], bool]
) -> Callback:
    """Send callbacks until one is answered with 2xx, and return that one.

    It looks every millisecond whether the port is open. Raises `LoadError` at the deadline, in
    seconds of `time.monotonic`, when the process is gone, and when the app fails.
    """
    while _waits(deadline, gone):
        callback = callbacks.take()
        try:
            client = await Client.connect(port)
        except OSError:
            await asyncio.sleep(REFUSED_PAUSE)
            continue
        try:
            status = await client.get(callback.request)
        finally:
            client.close()
        if _is_good(status):
            return callback
        if status != NOT_YET:
            raise LoadError(f"It answered its first callback with {status}.")
        await asyncio.sleep(REFUSED_PAUSE)
    raise LoadError("It did not answer in time.")


async def opened(port: int, deadline: float, gone: Callable[[], bool]) -> None:
    """Wait until the port is open, without asking the app for anything. Raises as above."""
    while _waits(deadline, gone):
        try:
            client = await Client.connect(port)
        except OSError:
            await asyncio.sleep(REFUSED_PAUSE)
        else:
            client.close()
            return
    raise LoadError("It did not open its port in time.")


def _waits(deadline: float, gone: Callable[[], bool]) -> bool:
    if gone():
        raise LoadError("It ended by itself.")
    return time.monotonic() < deadline


async def run(
    port: int,
    callbacks: Callbacks,
    *,
    connections: int,
    number: int | None = None,
    seconds: float | None = None,
    patient: bool = False,
) -> Answers:
    """Send callbacks over so many connections at once, as many or for as long as asked.

    `patient`: an app without its routes yet is asked again with the same callback. Raises
    `LoadError` where an answer does not come.
    """
    answers = Answers()
    left = number if number is not None else 1 << 62
    started = time.monotonic()
    end = started + (seconds if seconds is not None else PATIENCE * 4)

    async def browse() -> None:
        nonlocal left
        client = await Client.connect(port)
        try:
            while left > 0 and time.monotonic() < end:
                left -= 1
                await click(client)
        finally:
            client.close()

    async def click(client: Client) -> None:
        callback = callbacks.take()
        sent = time.perf_counter()
        status = await client.get(callback.request)
        while patient and status == NOT_YET and time.monotonic() < end:
            await asyncio.sleep(REFUSED_PAUSE)
            status = await client.get(callback.request)
        answers.add(callback, status, time.perf_counter() - sent)

    broken = ""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(browse())
    except* (LoadError, OSError) as errors:
        broken = str(errors.exceptions[0])
    if broken:
        raise LoadError(broken)
    answers.seconds = time.monotonic() - started
    return answers


def _is_good(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - 2xx


def _part(value: object) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
