"""The check that writes: one smoke record, sent twice."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

from relay.connections import Connection
from relay.delivery.callback import Callback
from relay.errors import Hint, InvalidResponse, Unavailable, Undelivered
from relay.ports import AccessToken
from relay.tools import smoke_record
from relay.tools.doctor.finding import Finding, fail, ok, warn
from relay.tools.doctor.reasons import HINTS

SEND = "python -m relay send --state"
_STATE = f"send one that Dynamics issued: {SEND} <state>"


def examine(
    connection: Connection, token: AccessToken, context: ssl.SSLContext
) -> Iterator[Finding]:
    """Send one smoke record, and the same again, which Dynamics should report as existing."""
    try:
        record = smoke_record.callback(connection, datetime.now(UTC))
    except InvalidResponse:
        yield warn(
            "write",
            "nothing is sent: nobody but Dynamics can make a state that matches STATE_PATTERN",
            f"To try it, {_STATE}.",
        )
        return
    try:
        smoke_record.send(record, token, context)
    except Undelivered as error:
        yield fail("write", *meaning(error))
        return
    yield ok("write", f"Dynamics has the record; delete it: its code is {smoke_record.CODE}")
    yield _again(record, token, context)


def _again(record: Callback, token: AccessToken, context: ssl.SSLContext) -> Finding:
    try:
        receipt = smoke_record.send(record, token, context)
    except Undelivered as error:
        if isinstance(error, Unavailable) and error.dynamics_status != _SERVER:
            return warn(
                "duplicates",
                "the same record could not be sent a second time: Dynamics is busy",
                "Wait some minutes and run the doctor again.",
            )
        return warn(
            "duplicates",
            "the same record is refused a second time, but not recognised as a duplicate",
            "In Finance & Operations, set the language of the service user to English (en-US); a "
            "custom service must let DuplicateKeyException through.",
        )
    if not receipt.existed:
        return warn(
            "duplicates",
            "the same record was stored twice: no key keeps the state unique",
            "Make the field with {state} or {state_hash} a unique key.",
        )
    return ok("duplicates", "the same record is recognised the second time")


def meaning(error: Undelivered) -> Hint:
    """Return what a refusal of a record most likely means, and the next step."""
    status = error.dynamics_status
    if status is None:
        return Hint(str(error)[:1].lower() + str(error).rstrip(".")[1:], _UNREACHED)
    wrong, fix = HINTS.get(error.reason) or (_BROKEN if status >= _SERVER else _REFUSED)
    if error.reason in _ABOUT_STATE:
        fix += f" If it checks the state, {_STATE}."
    return Hint(f"{wrong} (HTTP {status})", fix)


_SERVER = 500
_ABOUT_STATE = ("dynamics_400", "dynamics_500")
_UNREACHED = "Run python -m relay doctor: it finds out what is on the way."
_REFUSED = Hint(
    "Dynamics refuses the record",
    "Compare DYNAMICS_BODY with the entity; python -m relay doctor does.",
)
_BROKEN = HINTS["dynamics_500"]
