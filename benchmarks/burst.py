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


def main() -> int:
    """Run the burst; return 1 if a code came too late or was lost."""
    logging.disable()  # hundreds of callbacks are held: that is what is measured
    if reason := azurite.unavailable():
        print(f"queues in memory, because {reason}")
        return burst("")
    with tempfile.TemporaryDirectory() as folder, Azurite(Path(folder)) as storage:
        return burst(storage.connection_string)


def burst(storage: str) -> int:
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
            told = Counter(people.map(click, range(CALLBACKS)))
        answered = time.monotonic() - started
        while len(world.dynamics.rows) < CALLBACKS and time.monotonic() - started < CODE_TTL:
            time.sleep(0.1)
        delivered = time.monotonic() - started
        dead = world.queues.count(DEAD) if DEAD in world.queues.names() else 0
        rows, posts = len(world.dynamics.rows), world.dynamics.posts

    print(f"{CALLBACKS} callbacks, Dynamics takes {RATE}/s and says 429 beyond, Retry-After: 1")
    print(f"  everybody answered after {answered:6.1f} s   {dict(told)}")
    print(f"  all in Dynamics after    {delivered:6.1f} s   at best {CALLBACKS / RATE:.0f} s")
    lost = CALLBACKS - rows - dead
    print(f"  in Dynamics {rows}, dead letters {dead}, lost {lost}, POSTs {posts}")
    return 0 if rows == CALLBACKS else 1


if __name__ == "__main__":
    sys.exit(main())
