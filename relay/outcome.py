"""Outcomes of a callback, their HTTP status codes, and the answer to the client."""

from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus


class Outcome(StrEnum):
    """The outcomes, from success to failure; programs and the log get these words."""

    DELIVERED = "delivered"
    DUPLICATE = "duplicate"
    HELD = "held"
    DECLINED = "declined"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    REJECTED = "rejected"
    MISCONFIGURED = "misconfigured"


STATUS = {
    Outcome.DELIVERED: HTTPStatus.OK,
    Outcome.DUPLICATE: HTTPStatus.OK,
    Outcome.HELD: HTTPStatus.ACCEPTED,
    Outcome.DECLINED: HTTPStatus.BAD_REQUEST,
    Outcome.INVALID: HTTPStatus.BAD_REQUEST,
    Outcome.UNKNOWN: HTTPStatus.NOT_FOUND,
    Outcome.REJECTED: HTTPStatus.BAD_GATEWAY,
    Outcome.MISCONFIGURED: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a callback, before it is rendered as a page or as JSON.

    `detail`: a sentence of the relay. `error`, `error_description`: the provider's values, only for
    `declined`; nothing else in here comes from outside. `in_place`, `bare`: as in `RelayError`.
    `held`: the sealed message for the outbox, which must be written before the answer is sent.
    `clear`: the Set-Cookie header that deletes the cookie of a flow started at /authorize.
    """

    outcome: Outcome
    reference: str
    status: HTTPStatus
    detail: str | None = None
    in_place: bool = False
    bare: bool = False
    error: str | None = field(default=None, repr=False)
    error_description: str | None = field(default=None, repr=False)
    held: str | None = field(default=None, repr=False)
    clear: str | None = field(default=None, repr=False)
