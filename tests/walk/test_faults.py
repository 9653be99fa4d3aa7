"""Everything fails at random, the app is killed again and again, and nothing acknowledged is lost.

The app runs in a process of its own under `sandbox.host`, its queues in Azurite. Dynamics and Entra
fail in every way they know, resets, hangs and half bodies included; the app is killed with SIGKILL
and started again; the storage is restarted once with its data on disk. Then all faults end, and the
books are closed: what was acknowledged is in Dynamics, or in the dead-letter queue.
"""

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from sandbox import dynamics, entra
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.world import APP, World
from tests.outbox import DEAD, OUTBOX, POISON, QUICK, WITH_ERROR, eventually

PEOPLE = 8
KILLS = 5
# At least so many callbacks are answered, and held, in all; and answered in each life of the app.
ANSWERED, HELD, IN_ONE_LIFE = 160, 20, 28
GOOD = ("delivered", "duplicate", "held")
SEED = 20261121

# What is under way when the app is killed shows again after the lease: ten minutes in Azure.
LEASE = 4
SETTINGS = {
    **QUICK,
    "DYNAMICS_BODY": WITH_ERROR,
    "DYNAMICS_TIMEOUT": "1",
    "CONNECTIONS__NO_ERRORS__DYNAMICS_BODY": '{"code": "{code}", "state": "{state}"}',
    "CONNECTIONS__SHORT__CODE_TTL": "4",
    "CONNECTIONS__SHORT_NO_ERRORS__CODE_TTL": "4",
    "CONNECTIONS__SHORT_NO_ERRORS__DYNAMICS_BODY": '{"code": "{code}", "state": "{state}"}',
    "PROVIDER_ISSUER": "",
}
CONNECTIONS = ("default", "no-errors", "short", "short-no-errors")
FINAL = (dynamics.Fault.FORBIDDEN, dynamics.Fault.VALIDATION)
PASSING = tuple(
    fault for fault in dynamics.Fault if fault not in FINAL and fault.name != "NOT_FOUND"
)


@dataclass
class App:
    """The app in its own process, killed and started again on one port."""

    world: World
    settings: dict[str, str]
    folder: Path
    port: int = 0
    kills: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        chain, key = self.world.authority.server_files()
        arguments = ["--port", str(self.port), "--ready-file", str(ready), "--lease", str(LEASE)]
        arguments += ["--certificate", str(chain), "--key", str(key), "--require-storage"]
        with (self.folder / "app.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.host", *arguments],
                cwd=APP,
                env={**os.environ, **self.settings},
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 30
        while not ready.exists():
            assert self.process.poll() is None, "the app did not start"
            assert time.monotonic() < end, "the app did not start in time"
            time.sleep(0.02)
        self.port = int(ready.read_text("ascii"))

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        self.kills += 1


@contextmanager
def running(app: App) -> Iterator[App]:
    app.start()
    try:
        yield app
    finally:
        app.kill()


@dataclass
class Books:
    """Who was told what: the outcome by state, or why there was none."""

    told: dict[str, str] = field(default_factory=dict)
    answered: int = 0

    def acknowledged(self) -> set[str]:
        return {state for state, outcome in self.told.items() if outcome in GOOD}

    def are_full(self) -> bool:
        """Tell whether there were enough callbacks for a test, or too many."""
        held = Counter(self.told.copy().values())["held"]
        return self.answered >= (ANSWERED if held > HELD else 10 * ANSWERED)


def click(app: App, books: Books, numbers: Iterator[int]) -> None:
    """Play a person: one callback after the other, each told to the end or broken off."""
    with app.world.client(headers={"accept": "application/json"}) as client:
        while not books.are_full():
            number = next(numbers)
            connection, state = CONNECTIONS[number % len(CONNECTIONS)], f"state-{number}"
            url = f"https://localhost:{app.port}/callback/{connection}"
            try:
                answer = client.get(url, params={"code": f"code-{number}", "state": state})
                books.told[state] = (
                    answer.json()["outcome"] if answer.status_code != 500 else "500 of the host"
                )
                books.answered += 1
            except httpx.HTTPError as error:
                books.told[state] = type(error).__name__
                time.sleep(0.2)  # nobody is there: a person waits a moment


def torment(world: World, stop: threading.Event) -> None:
    """Let Dynamics and Entra fail at random, about every other time."""
    dice = random.Random(SEED)  # noqa: S311
    while not stop.wait(0.05):
        world.dynamics.faults.clear()
        draw = dice.random()
        if draw < 0.5:
            world.dynamics.faults.extend(dice.choices(PASSING, k=4))
        elif draw < 0.6:
            world.dynamics.faults.append(dice.choice(FINAL))
        calm = dice.random() < 0.6
        world.entra.mode = None if calm else dice.choice(list(entra.Fault))
    world.dynamics.faults.clear()
    world.entra.mode = None


def messages(queues: AzureQueues, queue: str) -> list[str]:
    """Take every message out of a queue."""
    found: list[str] = []
    if queue in queues.names():
        while batch := queues.receive(queue, 32, 60):
            found += [base64.b64decode(message.text).decode() for message in batch]
    return found


def test_nothing_acknowledged_is_ever_lost(
    azurite: Azurite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books, stop = Books(), threading.Event()
    with World() as world:
        world.dynamics.retry_after = 1
        settings = world.settings | SETTINGS
        settings["AzureWebJobsStorage"] = azurite.connection_string
        world.relay_server.stop()  # the app is another process here
        with running(App(world, settings, tmp_path)) as app:
            devil = threading.Thread(target=torment, args=(world, stop))
            work = (app, books, count())
            people = [threading.Thread(target=click, args=work) for _ in range(PEOPLE)]
            for thread in (devil, *people):
                thread.start()
            while not books.are_full() or app.kills < KILLS:
                enough = books.answered + IN_ONE_LIFE
                eventually(lambda: books.answered >= enough or books.are_full())  # noqa: B023
                app.kill()
                if app.kills == KILLS // 2:
                    azurite.stop()
                    azurite.start()
                app.start()
            stop.set()
            for thread in (devil, *people):
                thread.join()

            queues = AzureQueues(azurite.connection_string)
            eventually(lambda: not queues.count(OUTBOX))
            letters = [json.loads(text) for text in messages(queues, DEAD)]
            poison = messages(queues, POISON)
            queues.close()
        rows = dict(world.dynamics.rows)

    acknowledged = books.acknowledged()
    delivered = acknowledged & set(rows)
    dead = (acknowledged & {letter["state"] for letter in letters}) - delivered
    lost = acknowledged - delivered - dead
    unacknowledged = Counter(told for told in books.told.values() if told not in GOOD)
    with capsys.disabled():
        print(
            f"\n{len(books.told)} callbacks, {app.kills} kills: "
            f"acknowledged {len(acknowledged)} = delivered {len(delivered)} "
            f"+ dead-lettered {len(dead)}, lost {len(lost)}; "
            f"told {dict(Counter(books.told.values()))}"
        )

    assert lost == set()
    assert poison == []
    # It was a test at all: some were held, some never heard a good word.
    assert app.kills > KILLS
    assert Counter(books.told.values())["held"] > HELD
    assert unacknowledged
    # A row is an error record exactly when no code of it came through.
    assert {bool(row.get("code")) ^ bool(row.get("error")) for row in rows.values()} == {True}
    assert "code-" not in json.dumps(letters)
