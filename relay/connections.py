"""A connection: one registered redirect URI, its OAuth provider, and its Dynamics target."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from relay.body import Template
from relay.branding import Branding
from relay.errors import Misconfigured, UnknownConnection, UnknownEnvironment

DEFAULT = "default"
"""The connection of `/callback` without a name."""


def canonical(name: str) -> str:
    """Return the name of a connection or environment as the settings have it.

    Some providers change the case, and in the name of a setting `_` stands for `-`.
    """
    return name.lower().replace("_", "-")


class StatePolicy(StrEnum):
    """How a state is verified: not at all, by a regular expression, or by its signature."""

    OPAQUE = "opaque"
    PATTERN = "pattern"
    SIGNED = "signed"


class Provider(NamedTuple):
    """The external OAuth 2.0 provider: what /authorize sends it, what its responses must match.

    `name`: what the pages call it.
    """

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
    name: str | None = None
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


class ClientCredentials(NamedTuple):
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


class Target(NamedTuple):
    """The URL and body of the delivery of one connection. `timeout`: seconds for one attempt."""

    connection: str
    url: str
    body: Template
    timeout: float

    @property
    def has_own_key(self) -> bool:
        """Tell whether "exists" can mean this record: with `{state_jti}` flows share their key."""
        return "state_jti" not in self.body.names


@dataclass(frozen=True, slots=True)
class Environment:
    """Another Dynamics behind the same redirect URI, for states that name it.

    `state_keys`: the keys that are good for this environment alone.
    """

    credentials: ClientCredentials
    target: Target
    state_keys: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """One redirect URI. `code_ttl`: lifetime of this provider's authorization codes.

    `state_keys`: HMAC keys by key id (`kid`); the first signs, all verify.

    `environments`: other targets by name; `Misconfigured` in place of one whose settings are wrong.
    `environment`: whose `credentials`, `target` and `state_keys` these are; `None`: the
    connection's own. `has_target`: whether the connection has a target of its own. If not, `target`
    and `credentials` are copies of one environment's, and nothing is delivered to them.
    """

    name: str
    provider: Provider
    state_policy: StatePolicy
    state_pattern: re.Pattern[str] | None
    state_keys: Mapping[str, bytes] = field(repr=False)
    code_ttl: timedelta
    credentials: ClientCredentials
    target: Target
    branding: Branding = field(default_factory=Branding)
    environments: Mapping[str, Environment | Misconfigured] = field(default_factory=dict)
    environment: str | None = None
    has_target: bool = True

    def at(self, environment: str | None) -> "Connection":
        """Return the connection as it delivers to one environment, `None` for its own target.

        Raises `UnknownEnvironment`, and the environment's `Misconfigured`.
        """
        if environment is None:
            if not self.has_target:
                raise UnknownEnvironment
            return self
        found = self.environments.get(environment)
        if found is None:
            raise UnknownEnvironment
        if isinstance(found, Misconfigured):
            raise Misconfigured(found.problems)
        return replace(
            self,
            credentials=found.credentials,
            target=found.target,
            state_keys=found.state_keys,
            environment=environment,
            has_target=True,
        )

    @property
    def targets(self) -> Iterator["Connection | Misconfigured"]:
        """The connection as it delivers to its own target, then to each environment."""
        if self.has_target:
            yield self
        for name, found in self.environments.items():
            yield found if isinstance(found, Misconfigured) else self.at(name)

    @property
    def bodies(self) -> Iterator[Template]:
        """The body templates of all its targets: a state tells later which of them is meant."""
        yield self.target.body
        for found in self.environments.values():
            if isinstance(found, Environment):
                yield found.target.body

    @property
    def signed(self) -> bool:
        """Tell whether its states are signed: strangers cannot make one."""
        return self.state_policy is StatePolicy.SIGNED


class Connections:
    """All connections by name; `Misconfigured` in place of one whose settings are wrong.

    In: both may be read when they are asked for, `problems` each time that it is iterated.
    """

    def __init__(
        self, by_name: Mapping[str, Connection | Misconfigured], problems: Iterable[str] = ()
    ) -> None:
        self.by_name = by_name
        self._problems = problems

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Every wrong setting, without values, for the log and /health."""
        return tuple(dict.fromkeys(self._problems))

    @property
    def has_several_targets(self) -> bool:
        """Tell whether there is more than one connection, or one with more than one target."""
        return len(self.by_name) > 1 or any(
            isinstance(each, Connection) and each.has_target + len(each.environments) > 1
            for each in self.by_name.values()
        )

    @property
    def has_signed(self) -> bool:
        """Tell whether one of them has signed states."""
        return any(isinstance(each, Connection) and each.signed for each in self.by_name.values())

    def get(self, name: str) -> Connection:
        """Return the connection, or raise `UnknownConnection` or its `Misconfigured`."""
        if not self.by_name:
            raise Misconfigured(self.problems)
        connection = self.by_name.get(canonical(name))
        if connection is None:
            raise UnknownConnection
        if isinstance(connection, Misconfigured):
            # A new instance: raising a stored one would add to its traceback each time.
            raise Misconfigured(connection.problems)
        return connection

    def find(self, name: str | None) -> Connection | None:
        """Return the connection whose names a page shows, or `None`. Raises nothing."""
        connection = self.by_name.get(name or "")
        return connection if isinstance(connection, Connection) else None
