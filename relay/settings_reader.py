"""Reads the environment into `Connections`: inheritance, the article's names, what is wrong.

Reading never raises: an app that fails to index answers every request in Azure with an unexplained
404. A problem names the setting and what is expected, never a value; the connection it belongs to
answers `misconfigured`, and other connections keep working.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache, cached_property
from typing import Any, NamedTuple, override
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from relay.branding import Branding
from relay.connections import (
    DEFAULT,
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Connection,
    Connections,
    Credential,
    Environment,
    ManagedIdentity,
    Provider,
    StatePolicy,
    Target,
)
from relay.entra import clouds
from relay.errors import Misconfigured
from relay.settings import (
    ARTICLE,
    BACKTRACKS,
    MATCHES_ALL,
    AppSettings,
    ConnectionSettings,
    EnvironmentSettings,
    TargetSettings,
    authority,
    names,
)

PREFIX = "CONNECTIONS__"
ENVIRONMENTS = "ENVIRONMENTS__"
"""Settings of other Dynamics environments behind the same redirect URI: of all connections or,
behind `CONNECTIONS__<NAME>__`, of one."""

CREDENTIALS = (
    "ENTRA_CLIENT_SECRET",
    "ENTRA_CLIENT_CERTIFICATE",
    "ENTRA_MANAGED_IDENTITY_CLIENT_ID",
)
"""Settings of which a connection has exactly one."""
# The name of a setting, not a password.
PASSWORD = "ENTRA_CLIENT_CERTIFICATE_PASSWORD"  # noqa: S105  # nosec B105
SYSTEM = "system"
"""Value of ENTRA_MANAGED_IDENTITY_CLIENT_ID for the system-assigned identity."""

MISSPELT = 2
"""Letters by which the name of a setting may differ from what was given."""

MAX_ENVIRONMENT = 64
"""Characters of an environment's name, as in a state."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_OF_CONNECTION = frozenset(names(ConnectionSettings))
_OF_ENVIRONMENT = frozenset(names(TargetSettings)) - {"DYNAMICS_URL"}
"""Settings that an environment inherits. Its URL and its keys make it another environment."""


class Settings:
    """The app settings, read. `connections.problems` lists everything that is wrong.

    A connection is read when it is asked for, all of them for the problems and the warnings.
    """

    def __init__(
        self, connections: Connections, app: AppSettings, warnings: Callable[[], Iterable[str]]
    ) -> None:
        self.connections = connections
        self.app = app
        self._warnings = warnings

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Settings that are valid but suspicious. They hold no values, as problems do not."""
        return tuple(dict.fromkeys(self._warnings()))


def read(environ: Mapping[str, str]) -> Settings:
    """Read app settings, which are environment variables, into connections. Never raises."""
    given = normalize(environ)
    app, problems = _app(given)
    readings = _Readings(given, problems)
    by_name: Mapping[str, Connection | Misconfigured] = readings
    if not readings:
        problems.append(f"DYNAMICS_URL: missing; expected {_expected('DYNAMICS_URL')}")
    elif app is None:
        found = Misconfigured(tuple(_Findings(problems, readings, lambda each: each.problems)))
        by_name = dict.fromkeys(readings, found)
    connections = Connections(by_name, _Findings(problems, readings, lambda each: each.problems))

    def warnings() -> Iterator[str]:
        yield from _misspelt(given)
        yield from _Findings((), readings, lambda each: each.warnings)

    return Settings(connections, app or AppSettings.model_validate({}), warnings)


def normalize(environ: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables as app settings.

    Names in upper case, because Windows ignores case; values stripped; blank ones left out.
    """
    return {name.upper(): value.strip() for name, value in environ.items() if value.strip()}


def _app(given: Mapping[str, str]) -> tuple[AppSettings | None, list[str]]:
    ours = {name: given[name] for name in names(AppSettings) if name in given}
    try:
        return AppSettings.model_validate(ours), []
    except ValidationError as error:
        return None, _problems(error, AppSettings, str)


def _inherited(given: Mapping[str, str]) -> dict[str, str]:
    """Return the plain settings, which every connection inherits."""
    article = {ours: given[old.upper()] for old, ours in ARTICLE.items() if old.upper() in given}
    if "DYNAMICS_SCOPE" in article:  # the article's setting is a resource
        resource = article["DYNAMICS_SCOPE"].removesuffix("/.default").rstrip("/")
        article["DYNAMICS_SCOPE"] = f"{resource}/.default"
    ours = {name: given[name] for name in names(ConnectionSettings) if name in given}
    return _merge(article, ours)


def _merge(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    merged = {**outer, **inner}
    if "ENTRA_TENANT_ID" in inner and "ENTRA_AUTHORITY" not in inner:
        # An inherited authority would override the connection's own tenant.
        merged.pop("ENTRA_AUTHORITY", None)
    if not inner.keys().isdisjoint(CREDENTIALS):
        # A connection with a credential of its own inherits none of another kind.
        for setting in (*CREDENTIALS, PASSWORD):
            if setting not in inner:
                merged.pop(setting, None)
    if inner.get("ENTRA_MANAGED_IDENTITY_CLIENT_ID") == SYSTEM and "ENTRA_CLIENT_ID" not in inner:
        merged.pop("ENTRA_CLIENT_ID", None)  # no app registration can trust it
    return merged


class _Layer(NamedTuple):
    """Some settings, and what their full names begin with."""

    prefix: str
    settings: dict[str, str]

    def spelled(self, setting: str) -> str:
        """Return the full name of a setting in this layer."""
        return f"{self.prefix}{setting}"


class _Own:
    """A connection's own settings, and those of its environments.

    `inner`: the latter as they were given: full name, name behind the connection's, value.
    """

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.inner: list[tuple[str, str, str]] = []

    @cached_property
    def environments(self) -> dict[str, _Layer]:
        """The settings of the environments by their names; `settings` gets what names none."""
        found: dict[str, _Layer] = {}
        for full, setting, value in self.inner:
            label, _, inner = setting.removeprefix(ENVIRONMENTS).partition("__")
            name = _name(label)
            if name is None or not inner or len(name) > MAX_ENVIRONMENT:
                # The model reports it as a problem of this connection.
                self.settings[setting] = value
                continue
            layer = found.get(name)
            if layer is None:
                layer = found[name] = _Layer(full.removesuffix(inner), {})
            # An unknown setting too: the model reports it as a problem of this environment.
            layer.settings[inner] = value
        return found


def _owners(given: Mapping[str, str], problems: list[str]) -> tuple[_Own, dict[str, _Own]]:
    """Return the environments that all connections inherit, and the connections by name."""
    plain, connections = _Own(), _Connections()
    for full, value in given.items():
        if full.startswith(ENVIRONMENTS):
            plain.inner.append((full, full, value))
        elif full.startswith(PREFIX) and not connections.add(full, value):
            problems.append(_unnamed(PREFIX))
    targets = [*(each.settings for each in plain.environments.values()), given]
    if plain.settings:
        problems.append(_unnamed(ENVIRONMENTS))
    if "URISTRING" in given or any("DYNAMICS_URL" in each for each in targets):
        connections.found.setdefault(DEFAULT, _Own())
    for name, setting, value in connections.unknown:
        if name in connections.found:
            # The model reports it as a problem of this connection.
            connections.found[name].settings[setting] = value
        else:
            problems.append(_unknown(f"{_prefix(name)}{setting}", setting))
    return plain, connections.found


class _Connections:
    """Connections by name: every known setting makes one."""

    def __init__(self) -> None:
        self.found: dict[str, _Own] = {}
        self.unknown: list[tuple[str, str, str]] = []

    def add(self, full: str, value: str) -> bool:
        """Add a setting; return whether its name has the form of one of a connection."""
        label, _, setting = full.removeprefix(PREFIX).partition("__")
        name = _name(label)
        if name is None or not setting:
            return False
        own = self.found.get(name) or _Own()
        if setting in _OF_CONNECTION:
            own.settings[setting] = value
        elif setting.startswith(ENVIRONMENTS):
            own.inner.append((full, setting, value))
        else:
            self.unknown.append((name, setting, value))
            return True
        self.found[name] = own
        return True


@cache
def _name(label: str) -> str | None:
    """Return the name of a connection or an environment as the settings spell it, if it is one."""
    name = label.lower().replace("_", "-")
    return name if _NAME.fullmatch(name) else None


def _unnamed(prefix: str) -> str:
    return f"{prefix}…: expected {prefix}<NAME>__<SETTING>, a name of letters, digits and _"


def _prefix(name: str) -> str:
    return f"{PREFIX}{name.upper().replace('-', '_')}__"


class _Source(NamedTuple):
    """Where settings come from: `layers`, the innermost first, then what is inherited.

    `home`: what the name of a missing setting begins with. `outer`: whose settings are inherited;
    `None`: the plain ones.
    """

    layers: tuple[_Layer, ...]
    given: Mapping[str, str]
    home: str
    outer: "_Source | None" = None

    def find(self, setting: str) -> str | None:
        """Return the name under which a setting was given, or `None`."""
        for layer in self.layers:
            if setting in layer.settings:
                return layer.spelled(setting)
        if self.outer is not None:
            return self.outer.find(setting) if setting in _OF_ENVIRONMENT else None
        if setting in self.given:
            return setting
        for old, ours in ARTICLE.items():
            if ours == setting and old.upper() in self.given:
                return old
        return None

    def spell(self, setting: str) -> str:
        """Return the name under which a setting was given, or should be given."""
        return self.find(setting) or f"{self.home}{setting}"

    def spelled(self, faults: Iterable[tuple[str, str]]) -> list[str]:
        """Return problems: what is wrong with each setting, under its name."""
        return [f"{self.spell(name)}: {problem}" for name, problem in faults]


class _Reading:
    """The reading of one connection and its environments: what is wrong, and what is suspicious."""

    def __init__(
        self,
        name: str,
        own: _Own,
        plain: _Own,
        given: Mapping[str, str],
        inherited: Mapping[str, str],
    ) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._name, self._own, self._plain, self._given = name, own, plain, given
        self._inherited = inherited
        self._sources: dict[str, _Source] = {}
        _ = own.environments  # adds to `own.settings`
        self._layer = _Layer(_prefix(name), own.settings)
        self._source = _Source((self._layer,), given, "" if name == DEFAULT else self._layer.prefix)
        plainly = name == DEFAULT and ("DYNAMICS_URL" in given or "URISTRING" in given)
        self._has_target = plainly or "DYNAMICS_URL" in own.settings
        self.found = self._connection()

    def _connection(self) -> Connection | Misconfigured:
        """Return the connection, or what is wrong with it."""
        merged = _merge(self._inherited, self._own.settings)
        named = sorted({*self._plain.environments, *self._own.environments})
        values = merged if named else self._with_policy(merged)
        if named and (fault := _unreachable(values)):
            if self._own.environments or self._name == DEFAULT:
                self.problems += self._source.spelled([fault])
                return Misconfigured(tuple(self.problems))
            named = []  # the plain environments do not count where no state can name one
        environments, stand_in = self._environments(named, values)
        has_target = self._has_target or not named
        if not has_target:
            if not stand_in:
                return Misconfigured(tuple(self.problems))
            # Without a target its own are not used; with them there could be two credentials.
            kept = {name: v for name, v in values.items() if name not in _OF_ENVIRONMENT}
            values = kept | {name: v for name, v in stand_in.items() if name != "STATE_KEYS"}
        connection = self._checked(values, merged, environments, has_target=has_target)
        if isinstance(connection, Misconfigured):
            self.problems += connection.problems
        else:
            self._warn(connection)
        return connection

    def _environments(
        self, named: Iterable[str], values: Mapping[str, str]
    ) -> tuple[dict[str, Environment | Misconfigured], Mapping[str, str]]:
        """Return the environments, and the settings of the first that is right.

        `values`: the settings of the connection.
        """
        before = {name: value for name, value in values.items() if name in _OF_ENVIRONMENT}
        signed = values.get("STATE_POLICY", StatePolicy.SIGNED) == StatePolicy.SIGNED
        made: dict[str, Environment | Misconfigured] = {}
        first: Mapping[str, str] = {}
        for name in named:
            self._sources[name] = self._source_of(name)
            made[name], own = self._environment(self._sources[name], before, signed=signed)
            found = made[name]
            if isinstance(found, Misconfigured):
                self.problems += found.problems
            else:
                first = first or own
        return made, first

    def _warn(self, connection: Connection) -> None:
        routes = [(connection.credentials, connection.target, self._source)]
        for name, each in connection.environments.items():
            if isinstance(each, Environment):
                routes.append((each.credentials, each.target, self._sources[name]))
        for route in routes if connection.has_target else routes[1:]:
            self.warnings += _cloud_warnings(*route)
        self.warnings += _warnings(connection, self._source)

    def _with_policy(self, values: dict[str, str]) -> dict[str, str]:
        """Return the merged settings, with the state policy of the article's C# function.

        That is `opaque`, and only for a target that the article's own setting names while nothing
        speaks of signed states: a misspelt or lost setting must not let strangers in.
        """
        articles = "DYNAMICS_URL" not in self._own.settings and "DYNAMICS_URL" not in self._given
        if not articles or {"STATE_POLICY", "STATE_KEYS", "STATE_PATTERN"} & values.keys():
            return values
        return {**values, "STATE_POLICY": StatePolicy.OPAQUE}

    def _source_of(self, environment: str) -> _Source:
        """Return where an environment's settings come from."""
        found = [each.environments.get(environment) for each in (self._own, self._plain)]
        layers = tuple(filter(None, found))
        return _Source(layers, self._given, layers[0].prefix, self._source)

    def _environment(
        self, source: _Source, before: Mapping[str, str], *, signed: bool
    ) -> tuple[Environment | Misconfigured, Mapping[str, str]]:
        """Return an environment, and its settings as they were given and inherited.

        `before`: what it inherits of its connection.
        """
        values, steps = before, []
        for layer in reversed(source.layers):
            steps.append((layer, values))
            values = _merge(values, layer.settings)
        faults = list(_credential_problems(values))
        try:
            settings = EnvironmentSettings.model_validate(values)
        except ValidationError as error:
            problems = _problems(error, EnvironmentSettings, source.spell)
            return Misconfigured((*problems, *source.spelled(faults))), values
        if signed and settings.state_keys is None:
            faults.append(("STATE_KEYS", "expected its own; those of others are not good for it"))
        inner: dict[str, str] = {}
        for layer, inherited in reversed(steps):
            inner = layer.settings | inner
            faults += _wrong_hosts(settings, source, _Layer(layer.prefix, inner), inherited, values)
        if faults:
            return Misconfigured(tuple(dict.fromkeys(source.spelled(faults)))), values
        return Environment(*_target(settings, self._name), settings.state_keys or {}), values

    def _checked(
        self,
        values: Mapping[str, str],
        merged: Mapping[str, str],
        environments: Mapping[str, Environment | Misconfigured],
        *,
        has_target: bool,
    ) -> Connection | Misconfigured:
        """Validate the settings of the connection itself."""
        source = self._source
        faults = list(_credential_problems(values))
        try:
            settings = ConnectionSettings.model_validate(values)
        except ValidationError as error:
            problems = _problems(error, ConnectionSettings, source.spell)
            return Misconfigured((*problems, *source.spelled(faults)))
        faults += _contradictions(settings, has_target=has_target)
        if has_target:
            faults += _wrong_hosts(settings, source, self._layer, self._inherited, merged)
        problems = source.spelled(faults)
        problems += self._clashes(settings, environments)
        if problems:
            return Misconfigured(tuple(problems))
        credentials, target = _target(settings, self._name)
        return Connection(
            name=self._name,
            # Each PROVIDER_… and PAGE_… setting is the field of the same name.
            provider=Provider(**_fields(settings, "provider_")),
            state_policy=settings.state_policy,
            state_pattern=settings.state_pattern,
            state_keys=(settings.state_keys or {}) if has_target else {},
            code_ttl=timedelta(seconds=settings.code_ttl),
            credentials=credentials,
            target=target,
            branding=Branding(**_fields(settings, "page_")),
            environments=environments,
            has_target=has_target,
        )

    def _clashes(
        self,
        settings: ConnectionSettings,
        environments: Mapping[str, Environment | Misconfigured],
    ) -> Iterator[str]:
        """Name settings of environments that contradict the connection's or each other."""
        own = (settings.state_keys or {}) if self._has_target else {}
        keys: dict[bytes, str | None] = dict.fromkeys(own.values())
        for name, each in environments.items():
            if isinstance(each, Misconfigured):
                continue
            source = self._sources[name]
            if not settings.provider_pkce and "code_verifier" in each.target.body.names:
                yield f"{source.spell('DYNAMICS_BODY')}: {_NO_VERIFIER}"
            for key in each.state_keys.values():
                if keys.setdefault(key, name) != name:
                    yield (
                        f"{source.spell('STATE_KEYS')}: expected its own: whoever has one of them "
                        "can mint the states of another environment"
                    )


class _Readings(Mapping[str, Connection | Misconfigured]):
    """Connections by name, each read when it is first asked for: a callback needs one of them."""

    def __init__(self, given: Mapping[str, str], problems: list[str]) -> None:
        """Find the connections; `problems` gets what is wrong and belongs to none of them."""
        self._given = given
        self._inherited = _inherited(given)
        self._plain, owners = _owners(given, problems)
        self._owners = dict(sorted(owners.items()))
        self._read: dict[str, _Reading] = {}

    def reading(self, name: str) -> "_Reading":
        """Return what was read of one. Two threads that ask at once read the same."""
        found = self._read.get(name)
        if found is None:
            own = self._owners[name]
            found = _Reading(name, own, self._plain, self._given, self._inherited)
            self._read[name] = found
        return found

    @override
    def __getitem__(self, name: str) -> Connection | Misconfigured:
        return self.reading(name).found

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    @override
    def __len__(self) -> int:
        return len(self._owners)


class _Findings(Iterable[str]):
    """What is wrong or suspicious: of the app, then of each connection, which is read for that."""

    def __init__(
        self, app: Iterable[str], readings: _Readings, of: Callable[[_Reading], Iterable[str]]
    ) -> None:
        self._app = tuple(app)
        self._readings = readings
        self._of = of

    @override
    def __iter__(self) -> Iterator[str]:
        yield from self._app
        for name in self._readings:
            yield from self._of(self._readings.reading(name))


_NO_VERIFIER = "expected no {code_verifier}, because PROVIDER_PKCE is false"


def _unreachable(values: Mapping[str, str]) -> tuple[str, str] | None:
    """Return why no state of a connection can name an environment, or `None`."""
    because = f"because {ENVIRONMENTS}… is set"
    match values.get("STATE_POLICY"):
        case "opaque":
            return "STATE_POLICY", f"expected signed, {because}"
        case "pattern" if "(?P<env>" not in values.get("STATE_PATTERN", "(?P<env>"):
            return "STATE_PATTERN", f"expected a group (?P<env>…), {because}"
    return None


def _target(settings: TargetSettings, connection: str) -> tuple[ClientCredentials, Target]:
    scope = settings.dynamics_scope or f"{_origin(settings.dynamics_url)}/.default"
    target = Target(
        connection, settings.dynamics_url, settings.dynamics_body, settings.dynamics_timeout
    )
    return _credentials(settings, scope), target


def _fields(settings: ConnectionSettings, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): v for name, v in settings if name.startswith(prefix)}


def _credentials(settings: TargetSettings, scope: str) -> ClientCredentials:
    client_id, identity = settings.entra_client_id, settings.entra_managed_identity_client_id
    credential: Credential
    if identity is not None:
        credential = ManagedIdentity(None if identity == SYSTEM else identity)
    elif settings.entra_client_certificate is not None:
        password = settings.entra_client_certificate_password
        credential = ClientCertificate(
            settings.entra_client_certificate.get_secret_value(),
            password.get_secret_value() if password else None,
        )
    else:
        secret = settings.entra_client_secret
        credential = ClientSecret(secret.get_secret_value() if secret else "")
    if client_id is None:  # the identity is the client; the platform knows its tenant
        return ClientCredentials(None, None, credential, scope)
    tenant = f"https://{clouds.PUBLIC.login}/{settings.entra_tenant_id}"
    return ClientCredentials(settings.entra_authority or tenant, client_id, credential, scope)


def _contradictions(settings: ConnectionSettings, *, has_target: bool) -> Iterator[tuple[str, str]]:
    """Name settings that are valid alone and contradict each other."""
    policy = settings.state_policy
    if policy is StatePolicy.PATTERN and settings.state_pattern is None:
        yield "STATE_PATTERN", "expected, because STATE_POLICY is pattern"
    given = "state_policy" in settings.model_fields_set
    if settings.state_pattern is not None and not given:
        yield "STATE_POLICY", "expected pattern, because STATE_PATTERN is set"
    elif policy is StatePolicy.SIGNED and has_target and not settings.state_keys:
        because = "because STATE_POLICY is signed"
        yield "STATE_KEYS", f"expected, {because}{'' if given else ' where it is not set'}"
    if settings.provider_code_parameter == settings.provider_state_parameter:
        yield "PROVIDER_STATE_PARAMETER", "expected another name than PROVIDER_CODE_PARAMETER"
    if (
        has_target
        and not settings.provider_pkce
        and "code_verifier" in settings.dynamics_body.names
    ):
        yield "DYNAMICS_BODY", _NO_VERIFIER
    if settings.provider_iss_required and settings.provider_issuer is None:
        yield "PROVIDER_ISSUER", "expected, because PROVIDER_ISS_REQUIRED is true"
    yield from _flow_problems(settings)


def _credential_problems(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name missing, conflicting and unresolved credentials, whether they are valid or not."""
    for name in ("ENTRA_CLIENT_SECRET", PASSWORD):
        if values.get(name, "").startswith("@Microsoft.KeyVault("):
            yield name, "is a Key Vault reference; expected its value"
    kinds = [name for name in CREDENTIALS if name in values]
    identity = values.get("ENTRA_MANAGED_IDENTITY_CLIENT_ID")
    if not kinds:
        yield "ENTRA_CLIENT_SECRET", f"missing; expected one of {', '.join(CREDENTIALS)}"
    for name in kinds[1:]:
        yield name, f"conflicts with {kinds[0]}; expected one of them"
    if PASSWORD in values and "ENTRA_CLIENT_CERTIFICATE" not in values:
        yield PASSWORD, "expected only together with ENTRA_CLIENT_CERTIFICATE"
    if "ENTRA_CLIENT_ID" not in values:
        if identity is None:
            yield "ENTRA_CLIENT_ID", f"missing; expected {_expected('ENTRA_CLIENT_ID')}"
        return
    if not ("ENTRA_AUTHORITY" in values or "ENTRA_TENANT_ID" in values):
        yield "ENTRA_TENANT_ID", "expected, or ENTRA_AUTHORITY"
    if identity == SYSTEM:
        yield (
            "ENTRA_MANAGED_IDENTITY_CLIENT_ID",
            "expected a client id: ENTRA_CLIENT_ID trusts user-assigned identities only",
        )


def _cloud_warnings(
    credentials: ClientCredentials, target: Target, source: _Source
) -> Iterator[str]:
    """Warn about a login host of another cloud than Dynamics."""
    authority = credentials.authority
    login = clouds.of_login(authority) if authority else None
    dynamics = clouds.of_dynamics(target.url)
    if login is not None and dynamics is not None and login is not dynamics:
        yield (
            f"{source.spell('ENTRA_AUTHORITY')}: is of {login.name}, but "
            f"{source.spell('DYNAMICS_URL')} of {dynamics.name}; expected "
            f"https://{dynamics.login}/ and the tenant"
        )


def _warnings(connection: Connection, source: _Source) -> Iterator[str]:
    """Warn about values that are valid but suspicious."""
    provider, names = connection.provider, connection.target.body.names
    pattern = connection.state_pattern
    if pattern is not None and "env" in pattern.groupindex and connection.environments:
        yield (
            f"{source.spell('STATE_PATTERN')}: names the environment, so strangers choose it; "
            "expected STATE_POLICY=signed"
        )
    if not provider.pkce:
        yield (
            f"{source.spell('PROVIDER_PKCE')}: is false, nothing ties a code to its flow; expected "
            "true where the provider takes a code challenge"
        )
    if provider.authorization_endpoint is None:
        return
    if provider.response_type != "code":
        yield (
            f"{source.spell('PROVIDER_RESPONSE_TYPE')}: has an id_token, so /authorize starts no "
            "flow; expected code, or no PROVIDER_AUTHORIZATION_ENDPOINT"
        )
    elif provider.pkce and "code_verifier" not in names:
        yield (
            f"{source.spell('DYNAMICS_BODY')}: has no {{code_verifier}}, without which Dynamics "
            "cannot redeem the codes of /authorize; expected it beside {code}"
        )


def _wrong_hosts(
    settings: TargetSettings,
    source: _Source,
    layer: _Layer,
    inherited: Mapping[str, str],
    merged: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """Name settings, inherited by a layer, by which a token or credential reaches another host."""
    own, scope = layer.settings, settings.dynamics_scope
    inherits = "DYNAMICS_URL" in own and "DYNAMICS_SCOPE" not in own
    if inherits and scope is not None and _origin(scope) != _origin(settings.dynamics_url):
        expected = layer.spelled("DYNAMICS_SCOPE")
        url = source.spell("DYNAMICS_URL")
        yield "DYNAMICS_SCOPE", f"is of another host than {url}; expected {expected} beside it"
    named = [name for name in ("ENTRA_AUTHORITY", "ENTRA_TENANT_ID") if name in own]
    if not named or any(name in own for name in CREDENTIALS):
        return
    before, now = _authority_origin(inherited), _authority_origin(merged)
    if before is not None and now != before:
        expected = ", ".join(layer.spelled(name) for name in CREDENTIALS)
        yield (
            named[0],
            f"is of another host than the inherited credential; expected one of {expected}",
        )


def _authority_origin(values: Mapping[str, str]) -> str | None:
    if "ENTRA_AUTHORITY" not in values:
        return f"https://{clouds.PUBLIC.login}" if "ENTRA_TENANT_ID" in values else None
    try:
        return _origin(authority(values["ENTRA_AUTHORITY"]))
    except ValueError:
        return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _misspelt(given: Mapping[str, str]) -> Iterator[str]:
    """Warn about plain names that are no settings and nearly those of one."""
    article = {old.upper(): old for old in ARTICLE}
    known = {name: name for name in (*names(ConnectionSettings), *names(AppSettings))} | article
    letters = {name: frozenset(name) for name in known}
    for name in given:
        if name in known or name.startswith((PREFIX, ENVIRONMENTS)):
            continue
        own = frozenset(name)
        for other, spelled in known.items():
            # The cheap questions first: an app has a hundred variables of the platform's.
            if (
                abs(len(name) - len(other)) <= MISSPELT
                and len(own ^ letters[other]) <= 2 * MISSPELT
                and _distance(name, other) <= MISSPELT
            ):
                yield f"{name}: no such setting; expected {spelled}"
                break


def _distance(one: str, other: str) -> int:
    """Return how many letters have to be added, removed or replaced (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, fitting in enumerate(other, 1):
            changed = before + (letter != fitting)
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, changed)
    return row[-1]


def _flow_problems(settings: ConnectionSettings) -> Iterator[tuple[str, str]]:
    """Name settings that /authorize and JARM need."""
    if settings.provider_authorization_endpoint is not None:
        because = "because PROVIDER_AUTHORIZATION_ENDPOINT is set"
        if settings.provider_client_id is None:
            yield "PROVIDER_CLIENT_ID", f"expected, {because}"
        if settings.provider_redirect_uri is None:
            yield "PROVIDER_REDIRECT_URI", f"expected, {because}"
        if settings.state_policy is not StatePolicy.SIGNED:
            # Any other policy accepts a state that is bound to no browser (login CSRF): an attacker
            # would only have to leave out the signature.
            yield "STATE_POLICY", f"expected signed, {because}"
    if (settings.provider_response_mode or "").endswith("jwt"):
        because = f"because PROVIDER_RESPONSE_MODE is {settings.provider_response_mode}"
        if settings.provider_issuer is None:
            yield "PROVIDER_ISSUER", f"expected, {because}"
        if settings.provider_client_id is None:
            yield "PROVIDER_CLIENT_ID", f"expected, {because}"


def _problems(
    error: ValidationError, model: type[BaseModel], spell: Callable[[str], str]
) -> list[str]:
    # Left out: the input, which may be a secret.
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        _problem(str(each["loc"][0]), each["type"], each["msg"], model, spell) for each in errors
    ]


def _problem(
    setting: str, kind: str, message: str, model: type[BaseModel], spell: Callable[[str], str]
) -> str:
    spelled = spell(setting)
    if kind == "extra_forbidden":
        return _unknown(spelled, setting, model)
    expected = f"expected {_expected(setting, model)}"
    if kind == "missing":
        return f"{spelled}: missing; {expected}"
    detail = message.removeprefix("Value error, ")
    if setting == "DYNAMICS_BODY" or detail in (BACKTRACKS, MATCHES_ALL):
        expected += f" ({detail})"
    return f"{spelled}: {expected}"


def _expected(setting: str, model: type[BaseModel] = ConnectionSettings) -> str:
    return str(model.model_fields[setting.lower()].description)


def _unknown(spelled: str, setting: str, model: type[BaseModel] = ConnectionSettings) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - needed only for an error

    if setting in names(AppSettings):
        return f"{spelled}: is for the whole app, expected {setting}"
    if model is EnvironmentSettings and setting in names(ConnectionSettings):
        return f"{spelled}: is for the whole connection, expected {setting}"
    near = get_close_matches(setting, names(model), n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"{spelled}: no such setting{hint}"
