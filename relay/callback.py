"""What passes by on the walk of one callback, once it is believed."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from relay.authorization import VerifiedResponse
from relay.body import PARAM
from relay.connections import Connection


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token from Entra. The times are of its cache's clock, in seconds."""

    value: str = field(repr=False)
    fresh_until: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """Dynamics has the record. `existed`: it had it before this request."""

    existed: bool
    status: int


@dataclass(frozen=True, slots=True)
class Callback:
    """A verified authorization response on its way to Dynamics. `received_at` is in UTC."""

    connection: Connection
    response: VerifiedResponse
    reference: str
    received_at: datetime

    @property
    def delivery_id(self) -> str:
        """The name of this delivery, the same for the same response: 32 hex digits."""
        return delivery_id(self.connection.name, self.response)

    @property
    def expires_at(self) -> datetime:
        """When the authorization code has ended its life at the provider."""
        return self.received_at + self.connection.code_ttl

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
            "connection": self.connection.name,
            "delivery_id": self.delivery_id,
            "state_hash": hashlib.sha256(response.state.encode()).hexdigest(),
            "reference": self.reference,
            "received_at": _iso(self.received_at),
            "expires_at": _iso(self.expires_at),
        } | {PARAM + name: value for name, value in response.extra.items()}


def delivery_id(connection: str, response: VerifiedResponse) -> str:
    """Return the first 32 hex digits of a SHA-256 over connection, state and code or error."""
    parts = [connection, response.state, response.code or ""]
    if response.error is not None:
        parts = ["error", connection, response.state, response.error]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
