"""All errors of a callback, with the outcome and HTTP status of each.

RelayError
├── Misconfigured               settings do not validate
├── UnknownConnection           no such redirect URI
├── InvalidResponse             the authorization response or its state is invalid
│   ├── CookieMissing           the state is valid, but the cookie it is bound to is missing
│   └── UnknownEnvironment      the state names no environment of the connection
├── Unopenable                  an outbox message that no key decrypts
└── Undelivered                 the callback was not delivered to Dynamics
    ├── Unavailable             Entra or Dynamics is unavailable: retry
    │   ├── ApplicationFailed   an exception of the application in Dynamics
    │   ├── KeysUnavailable     the provider's signing keys are unavailable
    │   └── Unforeseen          an unexpected exception
    └── Rejected                Entra or Dynamics refuses: a retry changes nothing
        ├── CredentialRefused   Entra issues no token
        └── Unauthorized        Dynamics refuses the token (401)

An error has a `reason` (a fixed word for the log), a message for people, and the outcome, HTTP
status and page of the answer. None holds a value from outside: all may be shown and logged.
"""

from http import HTTPStatus
from typing import ClassVar, NamedTuple

from relay.outcome import STATUS, Outcome, Page


class Hint(NamedTuple):
    """What is wrong, as the second half of a sentence, and the next step, for a reason."""

    wrong: str
    fix: str


class RelayError(Exception):
    """The base class. `reason`: one word for the log. The message: a sentence for a person.

    `page` is what a browser shows: the outcome's page if it is None. `authenticated`: what is
    refused has a valid signature of Dynamics, so no stranger causes it at will.
    """

    outcome: ClassVar[Outcome]
    page: Page | None = None
    dynamics_status: int | None = None
    authenticated: bool = False

    def __init__(self, reason: str, message: str, status: HTTPStatus | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status or STATUS[self.outcome]


class Misconfigured(RelayError):
    """The connection's settings are invalid. `problems`: each one, without values."""

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
    """The authorization response is refused. `status`: the HTTP status of the answer."""

    outcome = Outcome.INVALID

    def __init__(
        self,
        reason: str,
        message: str,
        status: HTTPStatus | None = None,
        *,
        page: Page | None = None,
    ) -> None:
        super().__init__(reason, message, status)
        self.page = page


class CookieMissing(InvalidResponse):
    """A valid state without the cookie that binds it to a browser.

    Either another browser, or a repeated request after the first one has deleted the cookie.
    """

    authenticated = True

    def __init__(self) -> None:
        super().__init__(
            "state_cookie_missing",
            "The state was not issued for this address and this browser, or it has expired.",
        )


class UnknownEnvironment(InvalidResponse):
    """The connection has no environment of the name, or no target of its own for a state without.

    Never a reason to deliver elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(
            "state_environment",
            "The state was not issued for this address and this browser, or it has expired.",
        )


class Unopenable(RelayError):
    """An outbox message has no way to Dynamics. The host retries it, then moves it to poison.

    No key decrypts it, or the environment that it is for is gone or leads elsewhere.
    """

    outcome = Outcome.REJECTED

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, "The outbox holds a message that these settings cannot open or deliver."
        )


class Undelivered(RelayError):
    """The callback was not delivered. `dynamics_status`: HTTP status of Dynamics, if any."""

    outcome = Outcome.REJECTED

    def __init__(self, reason: str, message: str, *, dynamics_status: int | None = None) -> None:
        super().__init__(reason, message)
        self.dynamics_status = dynamics_status


class Unavailable(Undelivered):
    """Entra or Dynamics is unavailable. `retry_after`: seconds, if it sent Retry-After."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        dynamics_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, message, dynamics_status=dynamics_status)
        self.status = HTTPStatus.SERVICE_UNAVAILABLE
        self.retry_after = retry_after


class ApplicationFailed(Unavailable):
    """The application in Dynamics ended in an exception. Several in a row are a refusal."""


class Unforeseen(Unavailable):
    """An unexpected exception during a delivery; whether Dynamics has the record is unknown."""

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
    """Entra or Dynamics refuses, and a retry would change nothing."""


class CredentialRefused(Rejected):
    """Entra refuses the client's credential, scope or tenant."""


class Unauthorized(Rejected):
    """Dynamics refuses the bearer token (401)."""
