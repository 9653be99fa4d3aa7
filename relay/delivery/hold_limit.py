"""How many callbacks may be held, so that strangers cannot fill the outbox.

Within one process, and for as long as a code lives: a limit on what one process can be made to
write, not on what the queue holds.
"""

import time
from collections import Counter, deque
from collections.abc import Callable

from relay.delivery.callback import Callback

PER_STATE = 5
"""Held callbacks of one state, or of one `jti` where states are signed."""
UNSIGNED = 1_000
"""Held callbacks of one connection without signed states."""
CAPACITY = 10_000
"""Held callbacks that are counted for one connection with signed ones; the oldest are forgotten."""


class _Held:
    """What one connection holds, in the order of expiry: when each ends, and its state."""

    def __init__(self) -> None:
        self.ends: deque[tuple[float, str]] = deque()
        self.by_state: Counter[str] = Counter()

    def forget(self) -> None:
        """Forget the oldest."""
        _, state = self.ends.popleft()
        self.by_state[state] -= 1
        if not self.by_state[state]:
            del self.by_state[state]


class HoldLimit:
    """Counts the callbacks that are held. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def admit(self, callback: Callback) -> bool:
        """Count a callback that is about to be held, and tell whether it may be."""
        connection, now = callback.connection, self._clock()
        held = self._held.setdefault(connection.name, _Held())
        while held.ends and held.ends[0][0] <= now:
            held.forget()
        state = callback.response.jti or callback.state_hash
        if held.by_state[state] >= PER_STATE:
            return False
        if not connection.signed and len(held.ends) >= UNSIGNED:
            return False
        if len(held.ends) >= CAPACITY:
            held.forget()
        held.ends.append((now + connection.code_ttl.total_seconds(), state))
        held.by_state[state] += 1
        return True
