"""The gauge: how many messages lie in the relay's queues, and for how long, as lines of the log.

Azure's own metric counts all queues of an account together, and is hours late.
"""

import logging
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from relay import outgoing, settings_reader
from relay.errors import RelayError
from relay.tools import storage_queues
from relay.tools.storage_queues import QueueMissing, Queues, StorageRefused, StorageUnusable

KINDS = {"outbox": "", "dead-letters": "-dead", "poison": "-poison"}
"""What a queue holds, and what its name has behind the outbox's."""
TIMEOUT = 20.0
"""Seconds for one operation of a request."""

logger = logging.getLogger(__name__)


def measure(environ: Mapping[str, str]) -> None:
    """Log one line for each queue: about how many messages, and the age of the oldest in seconds.

    The oldest is that of the first 32 visible ones: what is being tried just now is invisible.
    Never raises. Blocks.
    """
    app = settings_reader.read(environ).app
    try:
        context = outgoing.trust(app.ca_bundle, environ)
    except OSError:
        context = ssl.create_default_context()
    try:
        with outgoing.blocking_client(context, timeout=TIMEOUT) as http:
            service = Queues(storage_queues.account(environ), http)
            for kind, ending in KINDS.items():
                _log(service, kind, f"{app.outbox_queue}{ending}")
    except (StorageUnusable, StorageRefused, httpx.HTTPError, RelayError) as error:
        logger.warning("gauge cannot read the queues: %s", type(error).__name__)


def _log(service: Queues, kind: str, queue: str) -> None:
    try:
        count, waiting = service.count(queue), service.peek(queue)
    except QueueMissing:  # the host makes it with the first message
        count, waiting = 0, []
    now = datetime.now(UTC)
    oldest = max((int((now - each.inserted).total_seconds()) for each in waiting), default=0)
    logger.info(
        "gauge queue=%s kind=%s messages=%d oldest_seconds=%d", queue, kind, count, max(0, oldest)
    )
