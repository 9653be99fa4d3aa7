"""One delivery of a callback that arrives several times: double clicks, scanners, reloads.

Within one process only. Across processes the unique key on state in Dynamics decides.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from relay.errors import ApplicationFailed, Unavailable

CAPACITY = 10_000
"""Results that are kept; the oldest is dropped first."""


class SingleFlight[T]:
    """Run work once for concurrent callers with the same key, and keep the result for later ones.

    A failure is raised for all callers that wait for it, and not kept.
    """

    def __init__(
        self, *, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._running: dict[str, asyncio.Task[T]] = {}
        self._done: OrderedDict[str, tuple[float, T]] = OrderedDict()
        self._failures: OrderedDict[str, int] = OrderedDict()

    def failures(self, key: str) -> int:
        """Return how many runs for `key` failed in a row in this process. Outages count as none."""
        return self._failures.get(key, 0)

    def remembered(self, key: str) -> T | None:
        """Return the result for `key`, while it is kept."""
        kept = self._done.get(key)
        if kept is None:
            return None
        until, result = kept
        if self._clock() >= until:
            del self._done[key]
            return None
        return result

    async def run(self, key: str, work: Callable[[], Awaitable[T]], *, keep: timedelta) -> T:
        """Return the result for `key`; run `work` unless it is running or its result is kept.

        `keep`: how long the result is kept. Raises what `work` raises.
        """
        result = self.remembered(key)
        if result is not None:
            return result
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(self._work(key, work, keep))
            task.add_done_callback(_retrieve)
            self._running[key] = task
        # A caller that is cancelled must not cancel the work for the others.
        return await asyncio.shield(task)

    async def _work(self, key: str, work: Callable[[], Awaitable[T]], keep: timedelta) -> T:
        try:
            result = await work()
            self._done[key] = (self._clock() + keep.total_seconds(), result)
            while len(self._done) > self._capacity:
                self._done.popitem(last=False)
        except Exception as error:
            self._count(key, error)
            raise
        else:
            self._failures.pop(key, None)
            return result
        finally:
            del self._running[key]

    def _count(self, key: str, error: Exception) -> None:
        if isinstance(error, Unavailable) and not isinstance(error, ApplicationFailed):
            self._failures.pop(key, None)
            return
        self._failures[key] = self._failures.get(key, 0) + 1
        while len(self._failures) > self._capacity:
            self._failures.popitem(last=False)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception: asyncio logs one that nobody awaits, with its message."""
    if not task.cancelled():
        task.exception()
