"""A verified callback: its identity, its expiry, the values of the body template."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from relay.body import PARAM
from relay.connections import Connection
from relay.oauth.authorization import AuthorizationResponse, VerifiedResponse

TIME_TO_REDEEM = timedelta(seconds=15)
"""What Dynamics needs to redeem a code before it expires; at most half of the code's life."""

EXPIRED = "temporarily_unavailable"
"""The `error` (RFC 6749 §4.1.2.1) in place of a code that expired in the outbox."""


class Callback(NamedTuple):
    """A verified authorization response on its way to Dynamics.

    `delivery_id` is the same for the same response; `expires_at` is when the code expires at the
    provider. Times are in UTC.
    """

    connection: Connection
    response: VerifiedResponse
    reference: str
    delivery_id: str
    received_at: datetime
    expires_at: datetime

    @classmethod
    def received(
        cls, connection: Connection, response: VerifiedResponse, reference: str, now: datetime
    ) -> Self:
        """Return the callback of a response that arrived now."""
        return cls(
            connection,
            response,
            reference,
            delivery_id(connection.name, response),
            received_at=now,
            expires_at=now + connection.code_ttl,
        )

    @property
    def deliver_by(self) -> datetime:
        """The last moment at which Dynamics can still redeem the code."""
        return self.expires_at - min(TIME_TO_REDEEM, (self.expires_at - self.received_at) / 2)

    @property
    def wants_error(self) -> bool:
        """Tell whether errors are delivered to Dynamics: the body template names `{error}`."""
        return "error" in self.connection.target.body.names

    @property
    def state_hash(self) -> str:
        """SHA-256 of the state in hex: it is shorter than a signed state, and tells nothing."""
        return hashlib.sha256(self.response.state.encode()).hexdigest()

    def expired(self) -> Self:
        """Return the error record in place of a code that came too late."""
        response = replace(
            self.response,
            code=None,
            error=EXPIRED,
            error_description="Dynamics could not be reached while the authorization code lived.",
        )
        return self._replace(response=response)

    @property
    def kept(self) -> timedelta:
        """How long its result stands for the same response.

        Dynamics has no code if it has the error record in place of one: that keeps the code's id.
        """
        is_expired = self.delivery_id != delivery_id(self.connection.name, self.response)
        return timedelta(0) if is_expired else self.connection.code_ttl

    def values(self) -> dict[str, str | None]:
        """Return the value of each placeholder of a body template."""
        response = self.response
        return {
            "code": response.code,
            "state": response.state,
            "error": response.error,
            "error_description": response.error_description,
            "error_uri": response.error_uri,
            "iss": response.iss,
            "session_state": response.session_state,
            "code_verifier": response.code_verifier,
            "redirect_uri": response.redirect_uri,
            "connection": self.connection.name,
            "environment": self.connection.environment,
            "delivery_id": self.delivery_id,
            "state_hash": self.state_hash,
            "state_jti": response.jti,
            "reference": self.reference,
            "received_at": iso(self.received_at),
            "expires_at": iso(self.expires_at),
            "params": response.params,
        } | {PARAM + name: value for name, value in response.extra.items()}


def delivery_id(connection: str, response: AuthorizationResponse) -> str:
    """Return the first 32 hex digits of a SHA-256 over connection, state and code or error."""
    parts = [connection, response.state or "", response.code or ""]
    if response.error is not None:
        parts = ["error", connection, response.state or "", response.error]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def iso(moment: datetime) -> str:
    """Write a moment in ISO 8601, UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
