"""How a callback can end: its outcome, its HTTP status and the page that a person is shown."""

from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Literal


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


type Page = Outcome | Literal["bare", "ended", "fault", "keys", "prefetch", "method", "ticket"]
"""A page that a person is shown: its name in relay/pages/texts.json. Each outcome has one.

`bare`: a GET without parameters, which may be `response_mode=fragment`. `ended`: a registered error
whose state was refused. `fault`: declined, and not by a person's decision. `keys`: the provider's
keys cannot be fetched. `prefetch`: the browser loads the URL ahead. `method`: a method that is not
accepted. `ticket`: /authorize refuses a link of Dynamics.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the person or program that sent the callback.

    `detail` is a sentence of the relay's own. `page` is the outcome's if it is None. `connection`
    is a configured name, or `None` where there is none. `error` and `error_description` are the
    provider's, for `declined` only; nothing else is from the request.
    `held` is the sealed message for the outbox, which must be written before the response is sent.
    `clear` is the Set-Cookie that ends a flow which began at the relay.
    """

    outcome: Outcome
    reference: str
    status: HTTPStatus
    detail: str | None = None
    page: Page | None = None
    connection: str | None = None
    error: str | None = field(default=None, repr=False)
    error_description: str | None = field(default=None, repr=False)
    held: str | None = field(default=None, repr=False)
    clear: str | None = field(default=None, repr=False)
