"""Findings of the doctor: the outcome of each check, with the next step where there is one."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """`FAIL`: callbacks are not delivered, or not kept secret. `WARN`: that may happen."""

    OK = "ok"
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


def warn(check: str, message: str, fix: str) -> Finding:
    """Return that something may go wrong later, and the next step."""
    return Finding(Verdict.WARN, check, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """Return that callbacks will not be delivered, or not stay secret, and the next step."""
    return Finding(Verdict.FAIL, check, message, fix)
