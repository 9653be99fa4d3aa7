"""Findings of the doctor: the outcome of each check, with the next step where there is one."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """`FAIL`: callbacks are not delivered, or not kept secret. `WARN`: that may happen.

    `SKIP`: it was not examined, or cannot be from here; the message says why.
    """

    OK = "ok"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. It holds no secret and no text of a server.

    `check` is one word, the same for the same check; `connection` is `None` for the whole app.
    `fix` is the next step, empty where all is well.
    """

    verdict: Verdict
    check: str
    message: str
    fix: str = ""
    connection: str | None = None


def ok(check: str, message: str) -> Finding:
    """Return that a check passed."""
    return Finding(Verdict.OK, check, message)


def skip(check: str, message: str, fix: str = "") -> Finding:
    """Return that something was not examined, why, and what would."""
    return Finding(Verdict.SKIP, check, message, fix)


def warn(check: str, message: str, fix: str) -> Finding:
    """Return that something may go wrong later, and the next step."""
    return Finding(Verdict.WARN, check, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """Return that callbacks will not be delivered, or not stay secret, and the next step."""
    return Finding(Verdict.FAIL, check, message, fix)
