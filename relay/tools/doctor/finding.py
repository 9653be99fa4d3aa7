"""What the doctor says: one line for each check, with the next step where there is one."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check went. `FAIL` keeps callbacks from being delivered, or secret; `WARN` may."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. Holds no secret, and nothing that a server said as it said it.

    `check` is one word, the same for the same check; `connection` is `None` for the whole app.
    `fix` is the next step, empty where all is well.
    """

    verdict: Verdict
    check: str
    message: str
    fix: str = ""
    connection: str | None = None


def ok(check: str, message: str) -> Finding:
    """Return that a check went well."""
    return Finding(Verdict.OK, check, message)


def warn(check: str, message: str, fix: str) -> Finding:
    """Return that something may go wrong later, and the next step."""
    return Finding(Verdict.WARN, check, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """Return that callbacks will not be delivered, or not stay secret, and the next step."""
    return Finding(Verdict.FAIL, check, message, fix)
