"""The interfaces that `flow` calls: tokens from Entra, a POST to Dynamics, a provider's keys.

`bootstrap` passes in the implementations, tests pass in fakes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from relay.connections import ClientCredentials, Provider, Target

type Jwk = Mapping[str, object]
"""A JSON Web Key (RFC 7517 §4)."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token from Entra. Its times are in seconds, on the clock of the token cache.

    `authority`: who issued it, if it was not the platform's identity endpoint.
    """

    value: str = field(repr=False)
    fresh_until: float
    expires_at: float
    authority: str | None = None


class Receipt(NamedTuple):
    """Dynamics has the record. `existed`: it was there before this request."""

    existed: bool
    status: int


class Tokens(Protocol):
    """Entra. Raises `Unavailable` and `CredentialRefused`."""

    async def get(self, credentials: ClientCredentials, *, within: float) -> AccessToken:
        """Return a valid token, waiting for at most `within` seconds."""

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float
    ) -> AccessToken:
        """Return another token than the refused one, waiting for at most `within` seconds."""


class Dynamics(Protocol):
    """Dynamics. Raises `Unavailable`, `Unauthorized` and `Rejected`."""

    def pause(self, target: Target) -> float:
        """Return the seconds until the target's Retry-After ends, 0 if none is pending."""

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        """Send `body` in one POST. `sent` are the values that a log must not show."""


class Keys(Protocol):
    """The provider's public keys. Raises `KeysUnavailable`."""

    async def get(self, provider: Provider, kid: str | None) -> tuple[Jwk, ...]:
        """Return the keys; a key with this id may be missing among them."""
