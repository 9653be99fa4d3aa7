"""The log: one line per outcome; libraries that log requests or responses are silenced.

Never logged: code, state, verifier, token, secret, cookie, error description, URL, query, body.
"""

import logging
import time
import traceback
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Line:
    """The log line of one callback; `flow` fills it in.

    `connection`, `environment`: configured names, never text from the URL. `reason`: the error's
    fixed word. `unsigned`: its states are not signed, so that anybody may have sent it.
    """

    reference: str
    attempt: int = 1
    connection: str | None = None
    delivery_id: str | None = None
    dynamics_status: int | None = None
    reason: str | None = None
    unsigned: bool = False
    environment: str | None = None
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


def write(line: Line, outcome: Outcome) -> None:
    """Write the line, with its fields also as `extra` for OpenTelemetry.

    The message holds all of them, because the worker sends only the message to the host.
    """
    values = line.values()
    shown = " ".join(f"{name}={'-' if value is None else value}" for name, value in values.items())
    # A bare visit is no callback, or the first half of one in the fragment.
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
