"""Retry-After, and the statuses of Entra and Dynamics after which a request is repeated."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

LONGEST = 300.0
"""Seconds. Capped: a longer Retry-After would outlive the authorization code."""

TRANSIENT = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
    | set(range(500, 600))
)
"""Statuses that may change on the next attempt."""


def seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After header (RFC 9110 §10.2.3): seconds or an HTTP-date.

    Returns seconds from now, from 0 to `LONGEST`, or `None` if it is missing or malformed.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        delay = (date - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, OverflowError):  # OverflowError: a year or zone out of range
        return None
    return min(max(delay, 0.0), LONGEST)
