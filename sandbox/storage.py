"""Azure queue storage, as the Functions host uses it: the interface, and queues in memory.

`azure_storage.py` implements it with an Azurite. Texts are stored unchanged; `queues.py` encodes
them as the host does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol, override
from uuid import UUID

MAX_TEXT = 64 * 1024
"""Bytes of one message's text, as encoded (the service's Put Message)."""

MAX_BATCH = 32
LIFE = timedelta(days=7)
"""The default time-to-live of a message; the host's output binding and poison queue set none."""


class StorageError(Exception):
    """The storage cannot be reached, or it refuses."""


class QueueMissing(StorageError):
    """There is no such queue."""


class MessageLost(StorageError):
    """The message was deleted, or received again since: the pop receipt is outdated."""


@dataclass(frozen=True)
class Message:
    """A snapshot of a message; times are whole seconds.

    For a peeked message, `next_visible` is None and `pop_receipt` empty.
    """

    message_id: str
    text: str
    dequeue_count: int
    inserted: datetime
    expires: datetime
    next_visible: datetime | None = None
    pop_receipt: str = ""


class Queues(Protocol):
    """The part of the queue service that the host and the tests need.

    Every method may be called from any thread and may raise `StorageError`; all but `names` and
    `create` raise `QueueMissing`. Seconds are whole ones, as in the service.
    """

    def names(self) -> list[str]:
        """Return the names of all queues, sorted."""

    def create(self, queue: str) -> None:
        """Create the queue unless it exists."""

    def send(self, queue: str, text: str) -> None:
        """Append a message. A text of more than 64 KiB is refused."""

    def receive(self, queue: str, number: int, hidden: int) -> list[Message]:
        """Receive at most 32 visible messages; hide them for `hidden` seconds (≥ 1)."""

    def hide(self, queue: str, message: Message, seconds: int) -> Message:
        """Make a received message visible again after that many seconds (0: at once).

        Return it with its new pop receipt. Raises `MessageLost`.
        """

    def delete(self, queue: str, message: Message) -> None:
        """Delete a received message. Raises `MessageLost`."""

    def peek(self, queue: str) -> list[Message]:
        """Return the first 32 visible messages without receiving them."""

    def count(self, queue: str) -> int:
        """Return how many messages there are, visible or not."""

    def close(self) -> None:
        """Close connections. Nothing else may be called afterwards."""


@dataclass
class _Entry:
    message_id: str
    text: str
    inserted: datetime
    visible_at: datetime
    dequeue_count: int = 0
    pop_receipt: str = ""

    def seen(self, *, received: bool) -> Message:
        inserted = self.inserted.replace(microsecond=0)
        message = Message(self.message_id, self.text, self.dequeue_count, inserted, inserted + LIFE)
        if not received:
            return message
        next_visible = self.visible_at.replace(microsecond=0)
        return replace(message, next_visible=next_visible, pop_receipt=self.pop_receipt)


@dataclass
class MemoryQueues(Queues):
    """Queues in the memory of this object. Ids count up, so that runs are reproducible."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    failing: set[str] = field(default_factory=set)
    """Names of methods that raise `StorageError`."""

    _queues: dict[str, list[_Entry]] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @override
    def names(self) -> list[str]:
        with self._locked("names"):
            return sorted(self._queues)

    @override
    def create(self, queue: str) -> None:
        with self._locked("create"):
            self._queues.setdefault(queue, [])

    @override
    def send(self, queue: str, text: str) -> None:
        with self._locked("send"):
            entries = self._entries(queue)
            if len(text.encode()) > MAX_TEXT:
                raise StorageError("RequestBodyTooLarge")
            now = self.now()
            entries.append(_Entry(str(UUID(int=next(self._numbers))), text, now, visible_at=now))

    @override
    def receive(self, queue: str, number: int, hidden: int) -> list[Message]:
        with self._locked("receive"):
            entries = self._visible(queue)[: min(number, MAX_BATCH)]
            for entry in entries:
                entry.dequeue_count += 1
                self._hide(entry, hidden)
            return [entry.seen(received=True) for entry in entries]

    @override
    def hide(self, queue: str, message: Message, seconds: int) -> Message:
        with self._locked("hide"):
            entry = self._held(queue, message)
            self._hide(entry, seconds)
            return entry.seen(received=True)

    @override
    def delete(self, queue: str, message: Message) -> None:
        with self._locked("delete"):
            self._entries(queue).remove(self._held(queue, message))

    @override
    def peek(self, queue: str) -> list[Message]:
        with self._locked("peek"):
            return [entry.seen(received=False) for entry in self._visible(queue)[:MAX_BATCH]]

    @override
    def count(self, queue: str) -> int:
        with self._locked("count"):
            return len(self._entries(queue))

    def everything(self, queue: str) -> list[Message]:
        """Return every message, the invisible ones too; the real service cannot do that."""
        with self._locked("everything"):
            return [entry.seen(received=False) for entry in self._entries(queue)]

    @override
    def close(self) -> None:
        pass

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        with self._lock:
            if what in self.failing:
                raise StorageError(f"'{what}' is made to fail.")
            yield

    def _entries(self, queue: str) -> list[_Entry]:
        if queue not in self._queues:
            raise QueueMissing("QueueNotFound")
        entries = self._queues[queue]
        expired = self.now() - LIFE
        entries[:] = [entry for entry in entries if entry.inserted > expired]
        return entries

    def _visible(self, queue: str) -> list[_Entry]:
        now = self.now()
        visible = (entry for entry in self._entries(queue) if entry.visible_at <= now)
        return sorted(visible, key=lambda entry: entry.visible_at)

    def _held(self, queue: str, message: Message) -> _Entry:
        for entry in self._entries(queue):
            if entry.message_id == message.message_id:
                if entry.pop_receipt != message.pop_receipt:
                    raise MessageLost("PopReceiptMismatch")
                return entry
        raise MessageLost("MessageNotFound")

    def _hide(self, entry: _Entry, seconds: int) -> None:
        entry.visible_at = self.now() + timedelta(seconds=seconds)
        entry.pop_receipt = f"receipt-{next(self._numbers)}"
