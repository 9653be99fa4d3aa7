"""The log: one line for each outcome, and silence from libraries that print what they send.

Never a code, state, verifier, token, secret, cookie, error description, raw URL, query or body.
"""

import logging
import time
import traceback
from dataclasses import dataclass, field

from relay.outcome import Outcome

logger = logging.getLogger("relay")

CHATTY = ("httpx", "httpcore", "msal", "requests", "urllib3", "azure.core", "azure.identity")
"""Loggers that print URLs, headers or bodies: MSAL prints any answer of Entra that is not JSON."""

LEVEL = {
    Outcome.HELD: logging.WARNING,
    Outcome.DECLINED: logging.WARNING,
    Outcome.INVALID: logging.WARNING,
    Outcome.UNKNOWN: logging.WARNING,
    Outcome.REJECTED: logging.ERROR,
    Outcome.MISCONFIGURED: logging.ERROR,
}


@dataclass(slots=True)
class Line:
    """What the line of one callback will say; the story fills it in as it learns it.

    `connection` is a configured name or nothing, never what stood in the URL. `reason` is the fixed
    word of an error.
    """

    reference: str
    attempt: int = 1
    connection: str | None = None
    delivery_id: str | None = None
    dynamics_status: int | None = None
    reason: str | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the callback came."""
        return time.monotonic() - self.started

    def values(self) -> dict[str, object]:
        """Return what the line says, in its order; `None` where nothing is known."""
        values: dict[str, object] = {
            "connection": self.connection,
            "reference": self.reference,
            "delivery_id": self.delivery_id,
            "attempt": self.attempt,
            "duration_ms": round(self.elapsed * 1000),
            "dynamics_status": self.dynamics_status,
        }
        if self.reason is not None:
            values["reason"] = self.reason
        return values

    def known(self) -> dict[str, object]:
        """Return what is known of it, as attributes for OpenTelemetry, which takes no `None`."""
        return {name: value for name, value in self.values().items() if value is not None}


def quiet() -> None:
    """Take the libraries' loggers off the log, at every level: their records reach no handler."""
    for name in CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(logging.CRITICAL + 1)
        chatty.propagate = False
        if not chatty.handlers:
            chatty.addHandler(logging.NullHandler())


def write(line: Line, outcome: Outcome) -> None:
    """Write the line, its values as extra fields too (for OpenTelemetry).

    The worker sends only the message to the Functions host, so everything stands in it as well.
    """
    values = line.values()
    shown = " ".join(f"{name}={'-' if value is None else value}" for name, value in values.items())
    level = LEVEL.get(outcome, logging.INFO)
    logger.log(level, "callback %s %s", outcome, shown, extra=line.known())


def started(line: Line) -> None:
    """Write that a flow has begun at the relay."""
    values = {"connection": line.connection, "reference": line.reference}
    logger.info("authorize started connection=%(connection)s reference=%(reference)s", values)


def crash(error: BaseException, reference: str) -> None:
    """Write where an unforeseen error happened, and not its message, which may quote a value."""
    logger.error(
        "unforeseen %s reference=%s\n%s",
        type(error).__name__,
        reference,
        "".join(traceback.format_tb(error.__traceback__)),
    )
