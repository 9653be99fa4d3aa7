"""When to come back: what Entra and Dynamics say of it over HTTP."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

LONGEST = 300.0
"""Seconds: whoever asks for more than an authorization code lives is asked again earlier."""

TRANSIENT = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
    | set(range(500, 600))
)
"""Statuses that may be another one on the next attempt."""


def seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After header (RFC 9110 §10.2.3): seconds or an HTTP-date.

    Returns seconds from now, from 0 to `LONGEST`, or `None` for none and for nonsense.
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
    except (ValueError, OverflowError):  # OverflowError for years and zones beyond all calendars
        return None
    return min(max(delay, 0.0), LONGEST)
