"""A connection: one registered redirect URI, a provider on one side, Dynamics on the other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from relay.body import Template
from relay.errors import Misconfigured, UnknownConnection

DEFAULT = "default"
"""The connection that `/callback` without a name stands for."""


class StatePolicy(StrEnum):
    """How the relay tells a state that Dynamics minted from any other."""

    OPAQUE = "opaque"
    PATTERN = "pattern"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Provider:
    """The external OAuth 2.0 provider, as far as a callback can be checked against it."""

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

    @property
    def secured(self) -> bool:
        """Tell whether its responses are JWTs (JARM), and nothing else is taken for one."""
        return self.response_mode is not None and self.response_mode.endswith("jwt")

    @property
    def posts(self) -> bool:
        """Tell whether its responses come as a POST from its own pages."""
        return self.response_mode in ("form_post", "form_post.jwt")


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret (RFC 6749 §2.3.1): its value, not its id."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate and its private key, for assertions (RFC 7523).

    `source` is PEM text, or the path of a PEM or PFX file, which may be replaced while the relay
    runs. `password` opens it.
    """

    source: str = field(repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str | None:
        """The path of the file, if it is one."""
        return None if "-----BEGIN" in self.source else self.source


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """An identity of the platform: the user-assigned one with this id, or the system's (`None`)."""

    client_id: str | None


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Who the relay is at Entra, and for what. Equal credentials share one token.

    With a managed identity as the `credential`, `client_id` is the app registration that trusts it
    (a federated credential), or `None` where the identity itself is the client; it then needs no
    `authority` either. `scope` is the resource and `/.default`.
    """

    authority: str | None
    client_id: str | None
    credential: ClientSecret | ClientCertificate | ManagedIdentity
    scope: str

    @property
    def resource(self) -> str:
        """The application id URI of what the token is for."""
        return self.scope.removesuffix("/.default")


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how a callback is delivered. `timeout` is in seconds, for one attempt."""

    url: str
    body: Template
    timeout: float


@dataclass(frozen=True, slots=True)
class Connection:
    """One redirect URI. `code_ttl` is how long an authorization code of this provider lives.

    `state_keys` are HMAC keys by their id (`kid`); the first one mints, all of them verify.
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
    """All connections of this app by name. One with wrong settings stands there as its error.

    `problems` are the settings' faults, for the log and for /health; they hold no values.
    """

    by_name: dict[str, Connection | Misconfigured]
    problems: tuple[str, ...] = ()

    def get(self, name: str) -> Connection:
        """Return the connection, or raise `UnknownConnection` or its `Misconfigured`."""
        if not self.by_name:
            raise Misconfigured(self.problems)
        connection = self.by_name.get(name)
        if connection is None:
            raise UnknownConnection
        if isinstance(connection, Misconfigured):
            # A new one each time: a raised exception collects its traceback.
            raise Misconfigured(connection.problems)
        return connection
