"""Queue triggers of the Functions host: polling, invisibility, attempts, the poison queue.

Source files named here are those of Azure/azure-sdk-for-net, sdk/storage,
Microsoft.Azure.WebJobs.Extensions.Storage.Common and .Queues.
"""

import asyncio
import base64
import binascii
import json
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from azure.functions.meta import Datum

from sandbox import aspnet
from sandbox.storage import MAX_BATCH, Message, MessageLost, QueueMissing, Queues, StorageError

LEASE = 600
"""Seconds for which a received message is invisible, renewed while its function runs."""

POISON = "-poison"
MAX_QUEUE_NAME = 63
MIN_POLLING_INTERVAL = 0.1  # QueuePollingIntervals.cs

Run = Callable[[str, Mapping[str, Datum]], Awaitable[bool]]
"""Runs the function with the message's body and metadata; returns whether it succeeded."""

_log = logging.getLogger("sandbox.queues")


@dataclass(frozen=True)
class Options:
    """Host.json's `extensions.queues` (QueuesOptions.cs). Durations are seconds."""

    batch_size: int
    new_batch_threshold: int
    visibility_timeout: int
    max_dequeue_count: int
    max_polling_interval: float
    message_encoding: str

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Self:
        """Read the section; missing options have their defaults.

        Raises `ValueError` for values with which the real host does not start.
        """
        given = {name.lower(): value for name, value in section.items()}

        def number(name: str, default: int, least: int, most: int | None = None) -> int:
            value = int(given.get(name.lower(), default))
            if value < least or (most is not None and value > most):
                raise ValueError(f"host.json: extensions.queues.{name} is out of range.")
            return value

        def seconds(name: str, default: str) -> float:
            try:
                return aspnet.timespan(given.get(name.lower(), default)).total_seconds()
            except ValueError as problem:
                raise ValueError(f"host.json: extensions.queues.{name} {problem}") from None

        batch = number("batchSize", 16, 1, MAX_BATCH)
        polling = seconds("maxPollingInterval", "00:01:00")
        if polling < MIN_POLLING_INTERVAL:
            raise ValueError("host.json: extensions.queues.maxPollingInterval is under 100 ms.")
        encoding = str(given.get("messageencoding", "base64")).lower()
        if encoding not in {"base64", "none"}:
            raise ValueError("host.json: extensions.queues.messageEncoding is base64 or none.")
        cores = os.process_cpu_count() or 1
        return cls(
            batch_size=batch,
            new_batch_threshold=number("newBatchThreshold", batch // 2 * cores, 0),
            # The service needs whole seconds, and the client rounds down.
            visibility_timeout=int(seconds("visibilityTimeout", "00:00:00")),
            max_dequeue_count=number("maxDequeueCount", 5, 1),
            max_polling_interval=polling,
            message_encoding=encoding,
        )

    def encode(self, body: bytes) -> str:
        """Return the text for the queue. Raises `ValueError` for bytes that are not UTF-8."""
        if self.message_encoding == "base64":
            return base64.b64encode(body).decode("ascii")
        return body.decode()

    def decode(self, text: str) -> bytes:
        """Undo `encode`. Raises `ValueError`; white space is ignored, as in .NET."""
        if self.message_encoding != "base64":
            return text.encode()
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except binascii.Error as problem:
            raise ValueError("It is not base64.") from problem


class Backoff:
    """The time between two polls (RandomizedExponentialBackoffStrategy.cs)."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._current = 0.0
        self._exponent = 0

    def wait(self, *, found: bool) -> float:
        """Return the seconds; `found`: whether messages were received since the last wait."""
        if found:
            self._current, self._exponent = MIN_POLLING_INTERVAL, 1
        elif self._current != self._longest:
            wait = MIN_POLLING_INTERVAL
            if self._exponent:
                jitter = random.uniform(0.8, 1.2)  # noqa: S311 - it only spreads load
                wait += jitter * 2 ** (self._exponent - 1) * MIN_POLLING_INTERVAL
            if wait < self._longest:
                self._current = wait
                self._exponent += 1
            else:
                self._current = self._longest
        return self._current


class Listener:
    """Runs one function for the messages of one queue (QueueListener.cs, QueueProcessor.cs).

    `on_write` is called with the name of a queue after each write to it: the poison queue.
    """

    def __init__(
        self,
        queues: Queues,
        queue: str,
        run: Run,
        options: Options,
        *,
        lease: int = LEASE,
        on_write: Callable[[str], None],
    ) -> None:
        self.queue = queue
        # QueueListenerFactory.cs: a poison queue has no poison queue. A message that fails there
        # is invisible until its lease ends, and then tried again.
        too_long = len(queue) + len(POISON) > MAX_QUEUE_NAME
        self.poison = None if queue.endswith(POISON) or too_long else queue + POISON
        self._queues = queues
        self._run = run
        self._options = options
        self._lease = lease
        self._on_write = on_write
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._reachable = True

    def poll_now(self) -> None:
        """End the wait: this host has just written to the queue (SharedQueueWatcher.cs)."""
        if self._waiting is not None:
            loop, written = self._waiting
            loop.call_soon_threadsafe(written.set)

    async def listen(self) -> None:
        """Receive and run until cancelled.

        Running functions are cancelled too. Their messages are visible again when their leases
        end, as after a crash.
        """
        written = asyncio.Event()
        backoff = Backoff(self._options.max_polling_interval)
        running: set[asyncio.Task[None]] = set()
        found = False
        self._waiting = (asyncio.get_running_loop(), written)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    written.clear()
                    batch = await self._receive()
                    for message in batch:
                        task = group.create_task(self._process(message))
                        running.add(task)
                        task.add_done_callback(running.discard)
                    if batch:
                        found = True
                        while len(running) > self._options.new_batch_threshold:
                            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    else:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(backoff.wait(found=found)):
                                await written.wait()
                        found = False
        finally:
            self._waiting = None

    async def _receive(self) -> list[Message]:
        try:
            batch = await asyncio.to_thread(
                self._queues.receive, self.queue, self._options.batch_size, self._lease
            )
        except QueueMissing:
            batch = []  # the first write creates it
        except StorageError as problem:
            if self._reachable:
                _log.warning("Queue %s: %s It is asked again and again.", self.queue, problem)
            self._reachable = False
            return []
        if not self._reachable:
            _log.warning("Queue %s: it answers again.", self.queue)
        self._reachable = True
        return batch

    async def _process(self, message: Message) -> None:
        """Run the function for one message and complete it; storage errors are only logged."""
        try:
            if message.dequeue_count > self._options.max_dequeue_count:
                await self._to_poison(message)  # its last attempt crashed
                return
            try:
                body = self._options.decode(message.text)
            except ValueError:
                _log.warning("Queue %s: a message cannot be decoded.", self.queue)
                await self._to_poison(message)
                return
            message, succeeded = await self._run_leased(message, body)
            await self._complete(message, succeeded=succeeded)
        except MessageLost:
            _log.info("Queue %s: a message has gone to somebody else.", self.queue)
        except StorageError as problem:
            _log.warning("Queue %s: %s The message will show again.", self.queue, problem)

    async def _run_leased(self, message: Message, body: bytes) -> tuple[Message, bool]:
        """Run the function; return the message with its last pop receipt."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            renewal = group.create_task(self._renew(message, over))
            succeeded = await self._run_once(message, body)
            over.set()
        return renewal.result(), succeeded

    async def _run_once(self, message: Message, body: bytes) -> bool:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            # StorageQueueMessageToStringConverter.cs: a failed attempt without a run.
            _log.warning("Queue %s: a message is not UTF-8.", self.queue)
            return False
        return await self._run(text, _metadata(message, text))

    async def _renew(self, message: Message, over: asyncio.Event) -> Message:
        """Renew the lease at half its time until `over` (UpdateQueueMessageVisibilityCommand.cs).

        Waits for a running renewal: the old pop receipt could not delete the message.
        """
        pause = normal = self._lease / 2
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await over.wait()
            if over.is_set():
                return message
            try:
                message = await asyncio.to_thread(
                    self._queues.hide, self.queue, message, self._lease
                )
                pause = normal
            except MessageLost:
                await over.wait()
            except StorageError:
                pause = max(pause / 2, normal / 5)  # LinearSpeedupStrategy.cs

    async def _complete(self, message: Message, *, succeeded: bool) -> None:
        if succeeded:
            await asyncio.to_thread(self._queues.delete, self.queue, message)
        elif self.poison is None:
            pass
        elif message.dequeue_count >= self._options.max_dequeue_count:
            await self._to_poison(message)
        else:
            later = self._options.visibility_timeout
            await asyncio.to_thread(self._queues.hide, self.queue, message, later)

    async def _to_poison(self, message: Message) -> None:
        """Copy a message to the poison queue, then delete it: in this order it cannot be lost."""
        if self.poison is None:
            return
        _log.warning("Queue %s: a message goes to %s.", self.queue, self.poison)
        await asyncio.to_thread(send, self._queues, self.poison, message.text)
        self._on_write(self.poison)
        await asyncio.to_thread(self._queues.delete, self.queue, message)


def send(queues: Queues, queue: str, text: str) -> None:
    """Send a message; create the queue if it is missing (StorageQueueExtensions.cs)."""
    try:
        queues.send(queue, text)
    except QueueMissing:
        queues.create(queue)
        queues.send(queue, text)


def _metadata(message: Message, text: str) -> dict[str, Datum]:
    """Return the trigger's metadata (QueueTriggerBinding.cs).

    GrpcMessageConversionExtensions.cs of the Functions host sends strings unchanged, and
    everything else as JSON.
    """

    def when(time: datetime | None) -> Datum:
        return Datum(json.dumps((time or datetime.max.replace(tzinfo=UTC)).isoformat()), "json")

    return {
        "QueueTrigger": Datum(text, "string"),
        "DequeueCount": Datum(str(message.dequeue_count), "json"),
        "ExpirationTime": when(message.expires),
        "Id": Datum(message.message_id, "string"),
        "InsertionTime": when(message.inserted),
        "NextVisibleTime": when(message.next_visible),
        "PopReceipt": Datum(message.pop_receipt, "string"),
    }
