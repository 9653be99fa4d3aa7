"""How a callback can end: one word for machines, one status, one title for people."""

from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus


class Outcome(StrEnum):
    """The outcomes of the contract, in the order of their seriousness."""

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
    """What the person or program that sent the callback is told.

    `detail` is a sentence of the relay's own. `error` and `error_description` are the provider's
    words, only for `declined`. Nothing else that came from outside is in it. `in_place` and `bare`
    as in `RelayError`. `held` is the sealed message for the outbox: whoever answers must have it
    written first. `clear` is the Set-Cookie that ends a flow which began at the relay.
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
