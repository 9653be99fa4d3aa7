"""The log: one line per outcome; libraries that log requests or responses are silenced.

The host takes the lines of running invocations only: none that is written while the app is
imported, and none from a thread (azure-functions-python-worker#1728, #1860). So those wait in
`Writer.later` for the next invocation.

Of the refusals that anybody can cause at will only the first of each minute have a line each.

Never logged: code, state, verifier, token, secret, cookie, error description, URL, query, body.
"""

import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from relay.outcome import Outcome

logger = logging.getLogger("relay")

CHATTY = (
    "httpx",
    "httpcore",
    "msal",
    "requests",
    "urllib3",
    "azure.core",
    "azure.identity",
    "azure.storage",
)
"""Loggers that write URLs, headers or bodies; MSAL writes every response that is not JSON."""

LEVEL = {
    Outcome.HELD: logging.WARNING,
    Outcome.DECLINED: logging.WARNING,
    Outcome.INVALID: logging.WARNING,
    Outcome.UNKNOWN: logging.WARNING,
    Outcome.REJECTED: logging.ERROR,
    Outcome.MISCONFIGURED: logging.ERROR,
}


REFUSALS = frozenset({Outcome.INVALID, Outcome.UNKNOWN, Outcome.MISCONFIGURED})
"""Outcomes that cost a stranger one request each."""
MINUTE = 60.0
WRITTEN = 20
"""Anonymous refusals of one level that one process writes a line each of in a minute."""
COUNTED = 100
"""Further ones of one reason that are counted in one line."""


@dataclass(slots=True)
class Line:
    """The log line of one callback; `flow` fills it in.

    `connection`, `environment`: configured names, never text from the URL. `reason`: the error's
    fixed word. `unsigned`: its states are not signed, so that anybody may have sent it.
    `authenticated`: a signature of its state or ticket was verified. `times`: how many refusals
    without a line of their own this line counts.
    """

    reference: str
    attempt: int = 1
    connection: str | None = None
    delivery_id: str | None = None
    dynamics_status: int | None = None
    reason: str | None = None
    unsigned: bool = False
    environment: str | None = None
    authenticated: bool = False
    times: int | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the callback arrived."""
        return time.monotonic() - self.started

    def values(self) -> dict[str, object]:
        """Return the line's fields in order; `None` for those that are not known."""
        values: dict[str, object] = {
            "connection": self.connection,
            "reference": self.reference,
            "delivery_id": self.delivery_id,
            "attempt": self.attempt,
            "duration_ms": round(self.elapsed * 1000),
            "dynamics_status": self.dynamics_status,
        }
        if self.environment is not None:
            values["environment"] = self.environment
        if self.reason is not None:
            if self.unsigned:
                values["states"] = "unsigned"
            values["reason"] = self.reason
        if self.times is not None:
            values["times"] = self.times
        return values

    def known(self) -> dict[str, object]:
        """Return the known fields: OpenTelemetry attributes cannot be `None`."""
        return {name: value for name, value in self.values().items() if value is not None}


def quiet() -> None:
    """Silence the libraries' loggers at every level: their records reach no handler."""
    for name in CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(logging.CRITICAL + 1)
        chatty.propagate = False
        if not chatty.handlers:
            chatty.addHandler(logging.NullHandler())


class Say(Protocol):
    """Takes a level of `logging`, and a text with its values."""

    def __call__(self, level: int, text: str, *values: object) -> None:
        """Write it, now or later."""


def at_once(level: int, text: str, *values: object) -> None:
    """Write a line now: for commands, and inside of an invocation."""
    logger.log(level, text, *values)


class Writer:
    """Writes the line of each invocation, in one process and one event loop.

    A stranger could fill the log up to its daily limit, and blind every alert, with refusals that
    cost one request each. So in a minute `WRITTEN` of them have a line each (and as many of those
    that are errors, which an alert reads: junk does not use up theirs); the others are counted by
    outcome and reason, in a line with `times`: at each `COUNTED` of a kind, and for what is left
    at the first line of a later minute.

    Neither a timer nor the end of the process can write what is left: no invocation runs then, and
    the worker has no handler for SIGTERM. So a process that ends loses the count of fewer than
    `COUNTED` refusals of each reason.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minute_ends = clock() + MINUTE
        self._refusals: Counter[int] = Counter()
        self._counts: Counter[tuple[Outcome, str | None]] = Counter()
        self._waiting: deque[tuple[int, str, tuple[object, ...]]] = deque()

    def later(self, level: int, text: str, *values: object) -> None:
        """Keep a line for the next invocation. From any thread."""
        self._waiting.append((level, text, values))

    def flush(self) -> None:
        """Write what was kept. Call it in an invocation."""
        while self._waiting:
            level, text, values = self._waiting.popleft()
            at_once(level, text, *values)

    def write(self, line: Line, outcome: Outcome) -> None:
        """Write the line, or count it."""
        self.flush()
        if (now := self._clock()) >= self._minute_ends:
            self._minute_ends = now + MINUTE
            self._refusals.clear()
            for kind in list(self._counts):
                self._write_count(*kind)
        if not _is_anonymous(line, outcome):
            _write(line, outcome)
            return
        self._refusals[LEVEL[outcome]] += 1
        if self._refusals[LEVEL[outcome]] <= WRITTEN:
            _write(line, outcome)
            return
        kind = outcome, line.reason
        self._counts[kind] += 1
        if self._counts[kind] >= COUNTED:
            self._write_count(*kind)

    def _write_count(self, outcome: Outcome, reason: str | None) -> None:
        times = self._counts.pop((outcome, reason))
        _write(Line(reference="-", reason=reason, times=times), outcome)


def _is_anonymous(line: Line, outcome: Outcome) -> bool:
    """Tell whether anybody can cause this line at will. A bare visit has none above DEBUG."""
    return outcome in REFUSALS and not line.authenticated and line.reason != "bare"


def _write(line: Line, outcome: Outcome) -> None:
    """Write the line, with its fields also as `extra` for OpenTelemetry.

    The message holds all of them, because the worker sends only the message to the host.
    """
    values = line.values()
    shown = " ".join(f"{name}={'-' if value is None else value}" for name, value in values.items())
    # Without parameters it is no callback, or the response is in the fragment and a POST follows.
    level = logging.DEBUG if line.reason == "bare" else LEVEL.get(outcome, logging.INFO)
    if line.reason not in (None, "bare"):  # a delivered callback has one if it needs attention
        level = max(level, logging.WARNING)
    logger.log(level, "callback %s %s", outcome, shown, extra=line.known())


def started(line: Line) -> None:
    """Write that /authorize has started a flow."""
    values = {"connection": line.connection, "reference": line.reference}
    if line.environment is not None:
        values["environment"] = line.environment
    shown = " ".join(f"{name}={value}" for name, value in values.items())
    logger.info("authorize started %s", shown)


def crash(error: BaseException, reference: str) -> None:
    """Write type and traceback of an unexpected error, without its message: it may hold values."""
    logger.error(
        "unforeseen %s reference=%s\n%s",
        type(error).__name__,
        reference,
        "".join(traceback.format_tb(error.__traceback__)),
    )
