"""The slots of the redelivery: what waits in one must not keep others in the queue.

In one process the host runs at most `batchSize` + `newBatchThreshold` messages of host.json at a
time, and fetches no further ones while more than `newBatchThreshold` run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from relay.errors import Unavailable

PLACES = 6
"""A quarter of the slots of host.json, and fewer than keep the host from fetching others."""


class Slots:
    """Places for those that may occupy a quarter of the slots only. For one event loop."""

    def __init__(self, places: int = PLACES) -> None:
        self._free = places

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place until the block ends. Raises `Unavailable` at once if none is free."""
        if not self._free:
            raise Unavailable("outbox_share", "Others of its kind are being delivered already.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
