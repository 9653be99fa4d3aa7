"""Retry-After of Dynamics: which connection waits, and which tries one request at a time.

It closes the way of the one connection that was told so. The target may mean everybody, so the
other connections of the same tenant send one request at a time until one is answered well. Junk on
one connection then costs the others a try, and no pause.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from relay.connections import Target
from relay.delivery import targets
from relay.errors import Unavailable


class _Way:
    """The way of one connection to one tenant; `turn` is held while one request is tried."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.closed_until = 0.0
        self.turn = asyncio.Lock()


class Throttle:
    """What this process knows of Retry-After. One entry for each connection and tenant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._throttled: set[str] = set()
        """The tenants of which one connection was told to wait."""
        self._ways: dict[tuple[str, str], _Way] = {}

    def pause(self, target: Target) -> float:
        """Return how many seconds are left until the connection may send to its target."""
        return max(0.0, self._way(target).closed_until - self._clock())

    def close(self, target: Target, seconds: float) -> None:
        """Let the connection send nothing for so long, and its neighbours one at a time."""
        way = self._way(target)
        # Of two answers that were under way the longer pause counts.
        way.closed_until = max(way.closed_until, self._clock() + seconds)
        self._throttled.add(way.tenant)

    def reopen(self, target: Target) -> None:
        """Take note of an answer from a tenant that does not throttle."""
        self._throttled.discard(self._way(target).tenant)

    @asynccontextmanager
    async def turn(self, target: Target) -> AsyncIterator[None]:
        """Wait until the connection may send a request.

        Raises `Unavailable` if its way is closed, also if that happened meanwhile.
        """
        way = self._way(target)
        if way.tenant in self._throttled:
            async with way.turn:
                self._check(target)
                if way.tenant in self._throttled:
                    yield
                    return
        yield

    def _check(self, target: Target) -> None:
        if pause := self.pause(target):
            raise Unavailable("dynamics_pause", "Dynamics asked for a pause.", retry_after=pause)

    def _way(self, target: Target) -> _Way:
        tenant = targets.tenant(target.url)
        way = self._ways.get((target.connection, tenant))
        if way is None:
            way = self._ways[target.connection, tenant] = _Way(tenant)
        return way
