"""What the story needs of its edges: tokens from Entra, a POST to Dynamics, a provider's keys.

`bootstrap` passes in the real ones, tests pass in fakes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay.connections import ClientCredentials, Provider, Target

type Jwk = Mapping[str, object]
"""A JSON Web Key (RFC 7517 §4)."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token from Entra. The times are of its cache's clock, in seconds.

    `authority`: who issued it, if it was not the platform's identity endpoint.
    """

    value: str = field(repr=False)
    fresh_until: float
    expires_at: float
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Dynamics has the record. `existed`: it had it before this request."""

    existed: bool
    status: int


class Tokens(Protocol):
    """Entra. Raises `Unavailable` and `CredentialRefused`."""

    async def get(self, credentials: ClientCredentials, *, within: float) -> AccessToken:
        """Return a token that is good for some minutes, `within` this many seconds."""

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float
    ) -> AccessToken:
        """Return another token than the one that Dynamics refused, `within` so many seconds."""


class Dynamics(Protocol):
    """Dynamics. Raises `Unavailable`, `Unauthorized` and `Rejected`."""

    def pause(self, target: Target) -> float:
        """Return for how many seconds the target still wants to be left alone."""

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        """POST one body once."""


class Keys(Protocol):
    """The provider's public keys. Raises `KeysUnavailable`."""

    async def get(self, provider: Provider, kid: str | None) -> tuple[Jwk, ...]:
        """Return the keys, which need not hold one with this id."""
