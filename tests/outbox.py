"""The outbox in tests: its queues, settings that make it quick, and what lies in it."""

import base64
import time
from collections.abc import Callable

import httpx
from cryptography.fernet import Fernet

from sandbox.storage import MemoryQueues
from sandbox.world import World

OUTBOX, DEAD, POISON = "callback-outbox", "callback-outbox-dead", "callback-outbox-poison"
VISIBILITY_TIMEOUT = "AzureFunctionsJobHost__extensions__queues__visibilityTimeout"
QUICK = {
    "OUTBOX_KEYS": Fernet.generate_key().decode(),
    VISIBILITY_TIMEOUT: "00:00:01",
    "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
}
WITH_ERROR = '{"code": "{code}", "state": "{state}", "error": "{error}"}'
CODE, STATE = "canary-code/+=7", "canary-state:;7"


def hit(world: World, accept: str = "application/json", **parameters: str) -> httpx.Response:
    """Send one callback: these parameters, or a code and a state."""
    with world.client(headers={"accept": accept}) as client:
        return client.get(world.redirect_uri, params=parameters or {"code": CODE, "state": STATE})


def eventually(is_so: Callable[[], object], seconds: float = 60) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def everything(world: World, queue: str) -> list[str]:
    """Return the messages of a queue in memory; none where there is no such queue."""
    assert isinstance(world.queues, MemoryQueues)
    if queue not in world.queues.names():
        return []
    return [base64.b64decode(found.text).decode() for found in world.queues.everything(queue)]
