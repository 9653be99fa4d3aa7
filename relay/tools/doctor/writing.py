"""The check that writes: one smoke record, sent twice."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

from relay.connections import Connection
from relay.delivery.callback import Callback
from relay.errors import InvalidResponse, Undelivered
from relay.ports import AccessToken
from relay.tools import smoke_record
from relay.tools.doctor.aadsts import Hint
from relay.tools.doctor.finding import Finding, fail, ok, warn

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
        if error.dynamics_status in (None, *_LATER):
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
    wrong, fix = _MEANINGS.get(status, _BROKEN if status >= _SERVER else _REFUSED)
    if error.reason in ("dynamics_html", "dynamics_redirect"):
        wrong, fix = _PAGE
    if status in _ABOUT_STATE:
        fix += f" If it checks the state, {_STATE}."
    return Hint(f"{wrong} (HTTP {status})", fix)


_SERVER = 500
_LATER = (408, 425, 429, 502, 503, 504)
_ABOUT_STATE = (400, 500)
_UNREACHED = "Run python -m relay doctor: it finds out what is on the way."
_PAGE = Hint(
    "a sign-in page answers, not the service",
    "Check DYNAMICS_URL and the authority; python -m relay doctor tells more.",
)
_REFUSED = Hint(
    "Dynamics refuses the record",
    "Compare DYNAMICS_BODY with the entity; python -m relay doctor does.",
)
_BROKEN = Hint(
    "Dynamics fails",
    "Run it again in some minutes; if it stays so, an exception in X++, AL or a plug-in is the "
    "likely cause: debug the entity's insert.",
)
_MEANINGS = {
    400: Hint(
        "Dynamics refuses the record: a wrong property, a value too long, or its own validation",
        "Run python -m relay doctor, which compares DYNAMICS_BODY with the entity.",
    ),
    401: Hint(
        "Dynamics does not take the token",
        "Run python -m relay doctor, which examines the token and the registration.",
    ),
    403: Hint(
        "the service user may not create records",
        "Give its role Create on the entity (Finance & Operations: a privilege on the data entity; "
        "Business Central: a permission set with insert; Dataverse: Create in a security role).",
    ),
    404: Hint(
        "there is nothing at DYNAMICS_URL",
        "Run python -m relay doctor, which looks for the nearest name.",
    ),
    405: Hint(
        "no records can be created there", "Let the API page insert: in AL, InsertAllowed = true."
    ),
    429: Hint("Dynamics is throttling", "Wait some minutes and run it again."),
    503: Hint(
        "Dynamics is not available just now",
        "Wait some minutes and run it again; look whether the environment is being serviced.",
    ),
}
