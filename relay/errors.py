"""Everything that can go wrong with a callback, and what it means outside.

RelayError
├── Misconfigured               settings do not validate
├── UnknownConnection           no such redirect URI
├── InvalidResponse             the authorization response or its state
│   └── CookieMissing           the state is good, the browser that it is bound to has no cookie
├── Unopenable                  a message of the outbox that no key opens
└── Undelivered                 Dynamics does not have it
    ├── Unavailable             Entra or Dynamics cannot be reached now: try again
    │   ├── KeysUnavailable     nor the provider's keys, without which nothing is believed
    │   └── Unforeseen          an exception that nobody foresaw
    └── Rejected                Entra or Dynamics refuses for good
        ├── CredentialRefused   Entra does not give a token
        └── Unauthorized        Dynamics does not take the token (401)

An error carries a `reason` for machines (a fixed word for the log), a sentence for people, and the
outcome, HTTP status and page that the callback ends with. None of them ever holds a value that came
from outside: all may be shown and logged anywhere.
"""

from http import HTTPStatus
from typing import ClassVar

from relay.outcome import STATUS, Outcome, Page


class RelayError(Exception):
    """The base. `reason` is one word for the log, the message a sentence for a person.

    `page` is what a browser shows: the outcome's page if it is None.
    """

    outcome: ClassVar[Outcome]
    page: Page | None = None
    dynamics_status: int | None = None

    def __init__(self, reason: str, message: str, status: HTTPStatus | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status or STATUS[self.outcome]


class Misconfigured(RelayError):
    """Settings of this connection do not validate. `problems` name each one, without values."""

    outcome = Outcome.MISCONFIGURED

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("settings", "The relay's settings are incomplete or wrong.")
        self.problems = problems


class UnknownConnection(RelayError):
    """The path names no connection."""

    outcome = Outcome.UNKNOWN

    def __init__(self) -> None:
        super().__init__("connection", "No connection is registered under this address.")


class InvalidResponse(RelayError):
    """The authorization response cannot be accepted. `status` is the HTTP status that fits."""

    outcome = Outcome.INVALID

    def __init__(
        self,
        reason: str,
        message: str,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        *,
        page: Page | None = None,
    ) -> None:
        super().__init__(reason, message, status)
        self.page = page


class CookieMissing(InvalidResponse):
    """A good state came without the cookie of the browser that it is bound to.

    That is another browser, or the same one's second click after the first has ended the flow.
    """

    def __init__(self) -> None:
        super().__init__(
            "state_cookie_missing",
            "The state was not issued for this address and this browser, or it has expired.",
        )


class Unopenable(RelayError):
    """A message of the outbox cannot be opened. It is raised until the host calls it poison."""

    outcome = Outcome.REJECTED

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "The outbox holds a message that none of OUTBOX_KEYS opens, or a newer relay's."
        )


class Undelivered(RelayError):
    """Dynamics does not have the callback. `dynamics_status` is its HTTP status, if any."""

    outcome = Outcome.REJECTED

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        status: HTTPStatus | None = None,
        dynamics_status: int | None = None,
    ) -> None:
        super().__init__(reason, message, status)
        self.dynamics_status = dynamics_status


class Unavailable(Undelivered):
    """Entra or Dynamics cannot be reached now. `retry_after` is what it asked for, in seconds."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        dynamics_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            reason,
            message,
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            dynamics_status=dynamics_status,
        )
        self.retry_after = retry_after


class Unforeseen(Unavailable):
    """An exception that nobody foresaw broke a delivery, so what Dynamics has is not known."""

    def __init__(self) -> None:
        super().__init__("unforeseen", "The relay failed. Its log says where.")


class KeysUnavailable(Unavailable):
    """The keys that verify a JARM response cannot be fetched now.

    Its page is shown without a redirect, so that a reload sends the response again.
    """

    page = "keys"

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "The provider's keys cannot be had just now. Reload this page in a moment."
        )


class Rejected(Undelivered):
    """Entra or Dynamics refuses for good: trying again changes nothing."""


class CredentialRefused(Rejected):
    """Entra refuses the client's credential, scope or tenant."""


class Unauthorized(Rejected):
    """Dynamics does not take the bearer token: 401."""
