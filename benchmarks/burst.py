"""A thousand people renew their consent on the same morning, and Dynamics takes 20 a second.

Dynamics answers everything above its rate with 429 and Retry-After. Prints how long it takes until
everybody has an answer, and until Dynamics has every code. host.json is the one that is deployed.
"""

import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet

from sandbox import azurite
from sandbox.azurite import Azurite
from sandbox.world import World

CALLBACKS = 1_000
BROWSERS = 16
RATE = 20
CODE_TTL = 300
OUTBOX, DEAD = "callback-outbox", "callback-outbox-dead"


@dataclass(frozen=True)
class Burst:
    """What came of it. Seconds, and numbers of callbacks; `storage` is where the outbox was."""

    callbacks: int
    answered_seconds: float
    delivered_seconds: float
    told: dict[str, int]
    rows: int
    dead: int
    posts: int
    storage: str

    @property
    def lost(self) -> int:
        """How many are neither in Dynamics nor among the dead letters."""
        return self.callbacks - self.rows - self.dead

    def __str__(self) -> str:
        """Say it."""
        best = self.callbacks / RATE
        return (
            f"{self.callbacks} callbacks, Dynamics takes {RATE}/s and says 429 beyond, "
            "Retry-After: 1\n"
            f"  everybody answered after {self.answered_seconds:6.1f} s   {self.told}\n"
            f"  all in Dynamics after    {self.delivered_seconds:6.1f} s   at best {best:.0f} s\n"
            f"  in Dynamics {self.rows}, dead letters {self.dead}, lost {self.lost}, "
            f"POSTs {self.posts}"
        )


def main() -> int:
    """Run the burst; return 1 if a code came too late or was lost."""
    found = measure(CALLBACKS)
    print(found)
    return 0 if found.rows == found.callbacks else 1


def measure(callbacks: int) -> Burst:
    """Run the burst with so many callbacks, with Azurite's queues where it is installed."""
    logging.disable()  # hundreds of callbacks are held: that is what is measured
    try:
        if reason := azurite.unavailable():
            print(f"queues in memory, because {reason}")
            return burst("", callbacks)
        with tempfile.TemporaryDirectory() as folder, Azurite(Path(folder)) as storage:
            return burst(storage.connection_string, callbacks)
    finally:
        logging.disable(logging.NOTSET)


def burst(storage: str, callbacks: int) -> Burst:
    """Send everything at once, and wait until the last code has arrived."""
    settings = {"OUTBOX_KEYS": Fernet.generate_key().decode(), "CODE_TTL": str(CODE_TTL)}
    with World(settings, storage=storage) as world:
        world.dynamics.rate = RATE
        world.dynamics.retry_after = 1
        mine = threading.local()

        def click(number: int) -> str:
            if not hasattr(mine, "client"):
                mine.client = world.client(headers={"accept": "application/json"})
            parameters = {"code": f"code-{number}", "state": f"state-{number}"}
            answer = mine.client.get(world.redirect_uri, params=parameters)
            return str(answer.json()["outcome"])

        started = time.monotonic()
        with ThreadPoolExecutor(BROWSERS) as people:
            told = Counter(people.map(click, range(callbacks)))
        answered = time.monotonic() - started
        while len(world.dynamics.rows) < callbacks and time.monotonic() - started < CODE_TTL:
            time.sleep(0.1)
        return Burst(
            callbacks,
            answered,
            time.monotonic() - started,
            dict(told),
            len(world.dynamics.rows),
            world.queues.count(DEAD) if DEAD in world.queues.names() else 0,
            world.dynamics.posts,
            "Azurite" if storage else "memory",
        )


if __name__ == "__main__":
    sys.exit(main())
