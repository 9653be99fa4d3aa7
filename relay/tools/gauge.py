"""The gauge: how many messages lie in the relay's queues, and for how long, as lines of the log.

Azure's own metric counts all queues of an account together, and is hours late.
"""

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from logging import INFO, WARNING

import httpx

from relay import log, outgoing, settings_reader
from relay.errors import RelayError
from relay.tools import storage_queues
from relay.tools.storage_queues import QueueMissing, Queues, StorageRefused, StorageUnusable

KINDS = {"outbox": "", "dead-letters": "-dead", "poison": "-poison"}
"""What a queue holds, and what its name has behind the outbox's."""
TIMEOUT = 20.0
"""Seconds for one operation of a request."""


async def measure(environ: Mapping[str, str], writer: log.Writer) -> None:
    """Log one line for each queue: about how many messages, and the age of the oldest in seconds.

    The oldest is that of the first 32 visible ones: what is being tried just now is invisible.
    Never raises.
    """
    await asyncio.to_thread(_measure, environ, writer.later)
    writer.flush()


def _measure(environ: Mapping[str, str], say: log.Say) -> None:
    app = settings_reader.read(environ).app
    try:
        context = outgoing.trust(app.ca_bundle, environ)
    except OSError:
        context = ssl.create_default_context()
    try:
        with outgoing.blocking_client(context, timeout=TIMEOUT) as http:
            service = Queues(storage_queues.account(environ), http)
            for kind, ending in KINDS.items():
                _count(service, kind, f"{app.outbox_queue}{ending}", say)
    except (StorageUnusable, StorageRefused, httpx.HTTPError, RelayError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "code", None) or "-"
        say(WARNING, "gauge cannot read the queues: %s reason=%s", type(error).__name__, reason)


def _count(service: Queues, kind: str, queue: str, say: log.Say) -> None:
    try:
        count, waiting = service.count(queue), service.peek(queue)
    except QueueMissing:  # the host makes it with the first message
        count, waiting = 0, []
    now = datetime.now(UTC)
    oldest = max((int((now - each.inserted).total_seconds()) for each in waiting), default=0)
    line = "gauge queue=%s kind=%s messages=%d oldest_seconds=%d"
    say(INFO, line, queue, kind, count, max(0, oldest))
