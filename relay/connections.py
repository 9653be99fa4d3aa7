"""A connection: one registered redirect URI, its OAuth provider, and its Dynamics target."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from relay.body import Template
from relay.errors import Misconfigured, UnknownConnection

DEFAULT = "default"
"""The connection of `/callback` without a name."""


class StatePolicy(StrEnum):
    """How a state is verified: not at all, by a regular expression, or by its signature."""

    OPAQUE = "opaque"
    PATTERN = "pattern"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Provider:
    """The external OAuth 2.0 provider: what /authorize sends it, what its responses must match."""

    issuer: str | None = None
    iss_required: bool = False
    code_parameter: str = "code"
    client_id: str | None = None
    authorization_endpoint: str | None = None
    scope: str | None = None
    response_mode: str | None = None
    redirect_uri: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    jwks_uri: str | None = None
    state_parameter: str = "state"
    pkce: bool = True
    response_type: str = "code"

    @property
    def secured(self) -> bool:
        """Whether its responses must be signed JWTs (JARM)."""
        return self.response_mode is not None and self.response_mode.endswith("jwt")

    @property
    def posts(self) -> bool:
        """Whether its responses arrive as a cross-site form POST."""
        return self.response_mode in ("form_post", "form_post.jwt")


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret (RFC 6749 §2.3.1): its value, not its id."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate and its private key, for client assertions (RFC 7523).

    `source`: PEM text, or the path of a PEM or PFX file, which may be replaced while the relay
    runs. `password`: the passphrase of either.
    """

    source: str = field(repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str | None:
        """The path of the file, or `None` for PEM text."""
        return None if "-----BEGIN" in self.source else self.source


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """A managed identity: user-assigned, by its client id, or system-assigned (`None`)."""

    client_id: str | None


type Credential = ClientSecret | ClientCertificate | ManagedIdentity
"""How the relay authenticates at Entra. `match` on it ends with `assert_never`."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The relay's client at Entra and the scope it asks for. Equal credentials share one token.

    With a managed identity, `client_id` is the app registration that trusts it (a federated
    credential); where the identity itself is the client, `client_id` and `authority` are `None`.
    `scope`: the resource and `/.default`.
    """

    authority: str | None
    client_id: str | None
    credential: Credential
    scope: str

    @property
    def resource(self) -> str:
        """The application ID URI of the API that the token is for."""
        return self.scope.removesuffix("/.default")


@dataclass(frozen=True, slots=True)
class Target:
    """The URL and body of the delivery. `timeout`: seconds for one attempt."""

    url: str
    body: Template
    timeout: float


@dataclass(frozen=True, slots=True)
class Connection:
    """One redirect URI. `code_ttl`: lifetime of this provider's authorization codes.

    `state_keys`: HMAC keys by key id (`kid`); the first signs, all verify.
    """

    name: str
    provider: Provider
    state_policy: StatePolicy
    state_pattern: re.Pattern[str] | None
    state_keys: Mapping[str, bytes] = field(repr=False)
    code_ttl: timedelta
    credentials: ClientCredentials
    target: Target


@dataclass(frozen=True, slots=True)
class Connections:
    """All connections by name; `Misconfigured` in place of one whose settings are wrong.

    `problems`: every wrong setting, without values, for the log and /health.
    """

    by_name: dict[str, Connection | Misconfigured]
    problems: tuple[str, ...] = ()

    def get(self, name: str) -> Connection:
        """Return the connection, or raise `UnknownConnection` or its `Misconfigured`."""
        if not self.by_name:
            raise Misconfigured(self.problems)
        # In any case, and with `_` as in a setting's name: some providers change the case.
        connection = self.by_name.get(name.lower().replace("_", "-"))
        if connection is None:
            raise UnknownConnection
        if isinstance(connection, Misconfigured):
            # A new instance: raising a stored one would add to its traceback each time.
            raise Misconfigured(connection.problems)
        return connection
