"""Dynamics is down for ten minutes, and people go on giving their consent.

A code that arrives meanwhile is held, sealed, until Dynamics is back, or until its own time is
over. Three connections show the difference that the lifetime of a code and the body make. Prints
what became of every code, and writes it into docs/performance.md; takes eleven minutes, most of
which it sleeps. host.json is the one that is deployed.
"""

import base64
import json
import logging
import secrets
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography.fernet import Fernet

from benchmarks.report import PAGE, RESULTS, between
from relay import settings_reader
from relay.connections import Connection
from relay.oauth import state
from sandbox import azurite
from sandbox.azurite import Azurite
from sandbox.dynamics import Fault
from sandbox.world import World

NUMBERS = RESULTS / "outage.json"
BEGIN, END = "<!-- outage -->", "<!-- /outage -->"
DOWN, EVERY = 600.0, 15.0
"""Seconds of the outage, and from one callback of a connection to the next."""
PATIENCE = 700.0
"""Seconds after the outage for which the last callback is waited for.

A message whose release failed in the storage is invisible until its lease ends, ten minutes later.
"""
DEAD = "callback-outbox-dead"
WITH_ERROR = '{"code": "{code}", "state": "{state}", "error": "{error}"}'


@dataclass(frozen=True)
class Kind:
    """A connection. `lifetime`: seconds that a code lives; `errors`: its body names `{error}`."""

    name: str
    lifetime: int
    errors: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """Return the app settings of the connection."""
        prefix = f"CONNECTIONS__{self.name.upper()}__"
        given = {f"{prefix}CODE_TTL": str(self.lifetime)}
        return given | ({f"{prefix}DYNAMICS_BODY": WITH_ERROR} if self.errors else {})


KINDS = (Kind("five", 300), Kind("told", 300, errors=True), Kind("ten", 600))


@dataclass
class Fate:
    """What became of one connection's callbacks, in numbers.

    `told`: the outcomes that the people saw. `codes`, `errors`: rows in Dynamics. `oldest_code`:
    how many seconds before the end of the outage the oldest code came that Dynamics has.
    """

    lifetime: int
    wants_errors: bool
    callbacks: int
    told: dict[str, int]
    codes: int
    errors: int
    dead: int
    oldest_code: float | None

    @property
    def lost(self) -> int:
        """How many are nowhere."""
        return self.callbacks - self.codes - self.errors - self.dead


@dataclass
class Outage:
    """The whole run. Seconds, and numbers; `fates` by the connection's name.

    `settled`: from the end of the outage to the end of the last callback. `refused`: POSTs that
    Dynamics answered with 503. `answered_ms`: the longest that a person waited.
    """

    date: str
    seconds: float
    every: float
    settled: float
    refused: int
    answered_ms: float
    storage: str
    fates: dict[str, Fate]


def main() -> int:
    """Run the outage of ten minutes, write its numbers and the page; return 1 if a code is lost."""
    found = measure()
    print(text(found))
    NUMBERS.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
    PAGE.write_text(fill(PAGE.read_text("utf-8"), found), "utf-8")
    print(f"written: {NUMBERS}\nwritten: {PAGE}")
    return 1 if any(fate.lost for fate in found.fates.values()) else 0


def read() -> Outage:
    """Return the numbers of the last run."""
    found = json.loads(NUMBERS.read_text("utf-8"))
    fates = {name: Fate(**fate) for name, fate in found.pop("fates").items()}
    return Outage(**found, fates=fates)


def measure() -> Outage:
    """Let Dynamics be down for ten minutes, with Azurite's queues where it is installed."""
    logging.disable()  # all callbacks are held: that is what is measured
    try:
        if reason := azurite.unavailable():
            print(f"queues in memory, because {reason}")
            return run("", DOWN, EVERY, KINDS, {})
        with tempfile.TemporaryDirectory() as folder, Azurite(Path(folder)) as storage:
            return run(storage.connection_string, DOWN, EVERY, KINDS, {})
    finally:
        logging.disable(logging.NOTSET)


def run(
    storage: str, seconds: float, every: float, kinds: Sequence[Kind], further: Mapping[str, str]
) -> Outage:
    """Let Dynamics be down; `storage` is an Azurite's connection string, or empty for memory."""
    settings = {
        "OUTBOX_KEYS": Fernet.generate_key().decode(),
        "STATE_POLICY": "signed",
        "STATE_KEYS": f"k1:{secrets.token_urlsafe(32)}",
        **further,
    }
    for kind in kinds:
        # A further connection inherits the plain DYNAMICS_URL, as those of one Dynamics do.
        settings |= kind.settings
    with World(settings, storage=storage, key_length=1024) as world:
        people = [
            People(world, kind, settings_reader.read(world.settings).connections.get(kind.name))
            for kind in kinds
        ]
        world.dynamics.mode = Fault.UNAVAILABLE
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=each.come, args=(end, every), name=each.kind.name)
            for each in people
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(max(0.0, end - time.monotonic()))
        refused = world.dynamics.posts
        world.dynamics.mode = None
        began = time.monotonic()
        sent = sum(len(each.sent) for each in people)
        while _settled(world) < sent and time.monotonic() - began < PATIENCE:
            time.sleep(0.1)
        settled = time.monotonic() - began
        letters = Counter(_letters(world))
        return Outage(
            f"{datetime.now(UTC):%Y-%m-%d}",
            seconds,
            every,
            settled,
            refused,
            1000 * max(each.longest for each in people),
            "Azurite" if storage else "memory",
            {each.kind.name: each.fate(letters[each.kind.name]) for each in people},
        )


class People:
    """Those who give their consent at the provider of one connection, one after the other."""

    def __init__(self, world: World, kind: Kind, connection: Connection) -> None:
        self.kind = kind
        self.sent: dict[str, float] = {}
        self.told: Counter[str] = Counter()
        self.longest = 0.0
        self._world = world
        self._connection = connection
        self._end = 0.0

    def come(self, end: float, every: float) -> None:
        """Send a callback now and then until `end`, a moment of the monotonic clock."""
        self._end = end
        with self._world.client(headers={"accept": "application/json"}) as browser:
            while time.monotonic() < end:
                self._consent(browser)
                time.sleep(max(0.0, min(every, end - time.monotonic())))

    def _consent(self, browser: httpx.Client) -> None:
        jti, now = secrets.token_urlsafe(16), datetime.now(UTC)
        minted = state.mint(self._connection, jti, now, timedelta(minutes=30))
        url = f"{self._world.redirect_uri}/{self.kind.name}"
        began = time.monotonic()
        answer = browser.get(url, params={"code": f"code-{jti}", "state": minted})
        self.longest = max(self.longest, time.monotonic() - began)
        self.sent[minted] = began
        self.told[str(answer.json()["outcome"])] += 1

    def fate(self, dead: int) -> Fate:
        """Return what became of their codes; `dead` is the number of the dead letters."""
        rows = {sent: self._world.dynamics.rows.get(sent) for sent in self.sent}
        codes = [sent for sent, row in rows.items() if row is not None and row.get("code")]
        errors = [sent for sent, row in rows.items() if row is not None and row.get("error")]
        return Fate(
            self.kind.lifetime,
            self.kind.errors,
            len(self.sent),
            dict(self.told),
            len(codes),
            len(errors),
            dead,
            max((self._end - self.sent[sent] for sent in codes), default=None),
        )


def _settled(world: World) -> int:
    """Return how many callbacks have come to their end."""
    dead = world.queues.count(DEAD) if DEAD in world.queues.names() else 0
    return len(world.dynamics.rows) + dead


def _letters(world: World) -> Iterator[str]:
    """Yield the connection of each dead letter, and hide it."""
    while DEAD in world.queues.names() and (some := world.queues.receive(DEAD, 32, 3600)):
        for message in some:
            yield str(json.loads(base64.b64decode(message.text))["connection"])


def text(found: Outage) -> str:
    """Return the result in Markdown, for a terminal and for the page."""
    sentences = (
        f"{found.date}: Dynamics answered 503 for {found.seconds / 60:g} minutes, while one person "
        f"every {found.every:g} seconds came back to each of {len(found.fates)} connections, with "
        f"a code and a signed state. The outbox was in {found.storage}; `host.json` was the one "
        f"that is deployed. Nobody waited longer than {found.answered_ms:.0f} ms for an answer. "
        f"Dynamics refused {found.refused:,} POSTs; {found.settled:.0f} seconds after it was back "
        "every callback had come to its end."
    )
    return "\n".join([*textwrap.wrap(sentences, 100), "", *_table(found)])


def fill(document: str, found: Outage) -> str:
    """Return the page with the result between its marks. Raises `ValueError` without marks."""
    return between(document, BEGIN, END, f"\n{text(found)}\n")


def _table(found: Outage) -> Iterator[str]:
    heads = ("a code lives", "the body names `{error}`", "people", "told", "codes in Dynamics")
    yield f"| {' | '.join(heads)} | errors in Dynamics | dead letters | lost |"
    yield "|---:|---|---:|---|---|---:|---:|---:|"
    for fate in found.fates.values():
        cells = [
            f"{fate.lifetime} s",
            "yes" if fate.wants_errors else "no",
            fate.callbacks,
            ", ".join(f"{number} {outcome}" for outcome, number in fate.told.items()),
            fate.codes,
            fate.errors,
            fate.dead,
            fate.lost,
        ]
        if fate.oldest_code is not None:
            cells[4] = f"{fate.codes}: those of the last {fate.oldest_code:.0f} s"
        yield f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
