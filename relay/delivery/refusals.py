"""Refusals of Dynamics: what an answer means, and what a person does about each reason in the log.

Each target has its entries in `targets.py`. The texts are what `doctor --write` and `send` say, and
what docs/operate.md prints; they decide nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto

from relay.errors import Hint
from relay.outgoing import json_object


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success: `document` is its JSON, `None` where it has none.

    `sent` are the values that were sent, because Dynamics repeats them in its messages.
    """

    status: int
    document: object = field(repr=False)
    sent: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, status: int, body: bytes, sent: Iterable[str]) -> "Refusal":
        """Read the body of an answer."""
        return cls(status, json_object(body), tuple(sent))


class Meaning(IntEnum):
    """What a refusal means; the first one counts where several entries fit."""

    EXISTS = auto()
    """The record exists."""
    FAILED = auto()
    """The application ended in an exception: for good, if that goes on."""
    PASSES = auto()
    """The same request may work later, whatever the status says."""


@dataclass(frozen=True, slots=True)
class Known:
    """A refusal that a target documents, or that was captured; what is empty fits any answer.

    `codes` are patterns of its whole code, `phrases` are words of its message in lower case,
    `statuses` are HTTP's. `reason` is the word for the log, if the status alone would be final.
    """

    meaning: Meaning
    reason: str = ""
    codes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()

    def fits(self, refusal: Refusal, code: str, message: str) -> bool:
        """Tell whether an answer, with its code and message, is such a refusal."""
        return (
            (not self.statuses or refusal.status in self.statuses)
            and (not self.codes or any(re.fullmatch(each, code) for each in self.codes))
            and (
                not self.phrases or any(_says(each, message, refusal.sent) for each in self.phrases)
            )
        )


def _says(phrase: str, message: str, sent: Iterable[str]) -> bool:
    """Tell whether the message says so in words of its own, not in a value that it repeats."""
    values = [value.casefold() for value in sent]
    if any(phrase in value for value in values):
        # The message may repeat the value whole, in part or rewritten: nothing can be told.
        return False
    message = message.casefold()
    for value in sorted(values, key=len, reverse=True):
        # A piece of the phrase proves nothing, and cutting it out would hide the phrase.
        if value and value not in phrase:
            message = message.replace(value, "\ufffd")
    # "Sql Number: 1205" is no piece of 12050.
    return re.search(rf"{re.escape(phrase)}(?!\d)", message) is not None


_PAGE = Hint(
    "a sign-in page answers, not the service",
    "Check DYNAMICS_URL and the authority; python -m relay doctor tells more.",
)
_AWAY = Hint(
    "Dynamics is not available just now",
    "Wait some minutes and run it again; look whether the environment is being serviced.",
)
_LATE = Hint(
    "Dynamics did not answer in time",
    "Run it again in some minutes; the record may have been stored all the same.",
)
_THROTTLED = Hint("Dynamics is throttling", "Wait some minutes and run it again.")
HINTS: Mapping[str, Hint] = {
    "dynamics_400": Hint(
        "Dynamics refuses the record: a wrong property, a value too long, or its own validation",
        "Run python -m relay doctor, which compares DYNAMICS_BODY with the entity.",
    ),
    "dynamics_401": Hint(
        "Dynamics does not take the token",
        "Run python -m relay doctor, which examines the token and the registration.",
    ),
    "dynamics_403": Hint(
        "the service user may not create records",
        "Give its role Create on the entity (Finance & Operations: a privilege on the data entity; "
        "Business Central: a permission set with insert; Dataverse: Create in a security role).",
    ),
    "dynamics_404": Hint(
        "there is nothing at DYNAMICS_URL",
        "Run python -m relay doctor, which looks for the nearest name.",
    ),
    "dynamics_405": Hint(
        "no records can be created there", "Let the API page insert: in AL, InsertAllowed = true."
    ),
    "dynamics_408": _LATE,
    "dynamics_429": _THROTTLED,
    "dynamics_500": Hint(
        "Dynamics fails",
        "Run it again in some minutes; if it stays so, an exception in X++, AL or a plug-in is the "
        "likely cause: debug the entity's insert.",
    ),
    "dynamics_502": _AWAY,
    "dynamics_503": _AWAY,
    "dynamics_504": _LATE,
    "dynamics_html": _PAGE,
    "dynamics_redirect": _PAGE,
    # Those of the targets' entries: the status alone would be final.
    "dynamics_administration": Hint(
        "the environment is in administration mode",
        "When the work is done, end that mode in the Power Platform admin center.",
    ),
    "dynamics_busy": Hint(
        "its database is busy: a lock, a deadlock, a time-out, or a change by somebody else",
        "Run it again in some minutes; if it stays so, look for a batch job that locks the table.",
    ),
    "dynamics_disabled": Hint(
        "the environment is switched off, is being migrated, or is not ready",
        "Look at its state in the Power Platform admin center, and switch it on.",
    ),
    "dynamics_publishing": Hint(
        "an extension or a solution is being published or imported",
        "Wait until that has ended and run it again.",
    ),
    "dynamics_starting": Hint(
        "the environment is starting or is being updated",
        "Wait some minutes and run it again; the admin center shows updates.",
    ),
    "dynamics_throttled": _THROTTLED,
}
"""By reason. Other statuses of 4xx and 5xx are as 400 and 500."""
