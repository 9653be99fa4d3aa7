"""Which code came with a state: a second one is the mark of a code injection (RFC 9700 §4.5).

Within one process only. Across processes the unique key on state in Dynamics still takes one.
"""

import time
from collections.abc import Callable

from relay.delivery.callback import Callback

CAPACITY = 10_000
"""States that are remembered; the oldest is dropped first."""


class UsedStates:
    """Remembers the first code of each state for as long as a code lives."""

    def __init__(
        self, *, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._used: dict[tuple[str, str], tuple[float, str]] = {}

    def has_another_code(self, callback: Callback) -> bool:
        """Tell whether another code is remembered for the state; if none is, remember this one.

        An error response is no code.
        """
        if callback.response.code is None:
            return False
        key, now = (callback.connection.name, callback.state_hash), self._clock()
        used = self._used.get(key)
        if used is not None and now < used[0]:
            return used[1] != callback.delivery_id
        self._used.pop(key, None)
        lifetime = callback.connection.code_ttl.total_seconds()
        self._used[key] = (now + lifetime, callback.delivery_id)
        while len(self._used) > self._capacity:
            del self._used[next(iter(self._used))]
        return False
