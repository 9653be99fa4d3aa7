"""Reads the environment into `Connections`: inheritance, the article's names, what is wrong.

Reading never raises: an app that fails to index answers every request in Azure with an unexplained
404. A problem names the setting and what is expected, never a value; the connection it belongs to
answers `misconfigured`, and other connections keep working.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from relay.connections import (
    DEFAULT,
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Connection,
    Connections,
    Credential,
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
    authority,
    names,
)

PREFIX = "CONNECTIONS__"
ENVIRONMENTS = "ENVIRONMENTS__"
"""Settings that begin so are for states which name an environment: those are signed."""

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

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Settings:
    """The app settings, read. `connections.problems` lists everything that is wrong."""

    connections: Connections
    app: AppSettings
    warnings: tuple[str, ...] = ()
    """Settings that are valid but suspicious. They hold no values, as problems do not."""


def read(environ: Mapping[str, str]) -> Settings:
    """Read app settings, which are environment variables, into connections. Never raises."""
    given = normalize(environ)
    app, problems = _app(given)
    inherited = _inherited(given)
    warnings = list(_misspelt(given))
    by_name: dict[str, Connection | Misconfigured] = {}
    for name, own in sorted(_own(given, problems).items()):
        source = _Source(name, own, given)
        connection = _connection(source.with_policy(_merge(inherited, own)), source, inherited)
        if isinstance(connection, Misconfigured):
            problems += connection.problems
        else:
            warnings += _warnings(connection, source)
        by_name[name] = connection
    if not by_name:
        problems.append(f"DYNAMICS_URL: missing; expected {_expected('DYNAMICS_URL')}")
    elif app is None:
        by_name = dict.fromkeys(by_name, Misconfigured(tuple(problems)))
    connections = Connections(by_name, tuple(dict.fromkeys(problems)))
    app = app or AppSettings.model_validate({})
    return Settings(connections, app, tuple(dict.fromkeys(warnings)))


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
    if any(setting in inner for setting in CREDENTIALS):
        # A connection with a credential of its own inherits none of another kind.
        for setting in (*CREDENTIALS, PASSWORD):
            if setting not in inner:
                merged.pop(setting, None)
    if inner.get("ENTRA_MANAGED_IDENTITY_CLIENT_ID") == SYSTEM and "ENTRA_CLIENT_ID" not in inner:
        merged.pop("ENTRA_CLIENT_ID", None)  # no app registration can trust it
    return merged


def _own(given: Mapping[str, str], problems: list[str]) -> dict[str, dict[str, str]]:
    """Return each connection's own settings by its name."""
    found: dict[str, dict[str, str]] = {}
    if "DYNAMICS_URL" in given or "URISTRING" in given:
        found[DEFAULT] = {}
    unknown: list[tuple[str, str, str]] = []
    for full, value in given.items():
        if not full.startswith(PREFIX):
            continue
        label, _, setting = full.removeprefix(PREFIX).partition("__")
        name = label.lower().replace("_", "-")
        if not _NAME.fullmatch(name):
            problems.append(
                f"{PREFIX}…: expected {PREFIX}<NAME>__<SETTING>, a name of letters, digits and _"
            )
        elif setting in names(ConnectionSettings):
            found.setdefault(name, {})[setting] = value
        else:
            unknown.append((name, setting, value))
    for name, setting, value in unknown:
        if name in found:
            found[name][setting] = value  # the model reports it as a problem of this connection
        else:
            spelled = _Source(name, {setting: value}, given).spell(setting)
            problems.append(_unknown(spelled, setting))
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a connection's settings come from: its `own`, or the ones that all inherit."""

    name: str
    own: Mapping[str, str]
    given: Mapping[str, str]

    def spell(self, setting: str) -> str:
        """Return the name under which a setting was given, or should be given."""
        own = self.spelled(setting)
        if setting in self.own:
            return own
        if setting in self.given:
            return setting
        for old, ours in ARTICLE.items():
            if ours == setting and old.upper() in self.given:
                return old
        return setting if self.name == DEFAULT else own

    def with_policy(self, values: dict[str, str]) -> dict[str, str]:
        """Return the merged settings, with the state policy of the article's C# function.

        That is `opaque`, and only for a target that the article's own setting names while nothing
        speaks of signed states: a misspelt or lost setting must not let strangers in.
        """
        articles = "DYNAMICS_URL" not in self.own and "DYNAMICS_URL" not in self.given
        named = {"STATE_POLICY", "STATE_KEYS", "STATE_PATTERN"} & values.keys()
        environments = any(
            name.removeprefix(self.spelled("")).startswith(ENVIRONMENTS) for name in self.given
        )
        if not articles or named or environments:
            return values
        return {**values, "STATE_POLICY": StatePolicy.OPAQUE}

    def spelled(self, setting: str) -> str:
        """Return the name of a setting that is this connection's own."""
        return f"{PREFIX}{self.name.upper().replace('-', '_')}__{setting}"


def _connection(
    values: Mapping[str, str], source: _Source, inherited: Mapping[str, str]
) -> Connection | Misconfigured:
    faults = [*_credential_problems(values), *_unresolved_references(values)]
    problems = [f"{source.spell(name)}: {problem}" for name, problem in faults]
    try:
        settings = ConnectionSettings.model_validate(values)
    except ValidationError as error:
        return Misconfigured((*_problems(error, ConnectionSettings, source.spell), *problems))
    found = (*_contradictions(settings), *_wrong_hosts(settings, source, inherited))
    problems += [f"{source.spell(name)}: {problem}" for name, problem in found]
    if problems:
        return Misconfigured(tuple(problems))
    resource = _origin(settings.dynamics_url)
    return Connection(
        name=source.name,
        # Each PROVIDER_… setting is the field of the same name.
        provider=Provider(
            **{
                name.removeprefix("provider_"): value
                for name, value in settings
                if name.startswith("provider_")
            }
        ),
        state_policy=settings.state_policy,
        state_pattern=settings.state_pattern,
        state_keys=settings.state_keys or {},
        code_ttl=timedelta(seconds=settings.code_ttl),
        credentials=_credentials(settings, settings.dynamics_scope or f"{resource}/.default"),
        target=Target(settings.dynamics_url, settings.dynamics_body, settings.dynamics_timeout),
    )


def _credentials(settings: ConnectionSettings, scope: str) -> ClientCredentials:
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


def _contradictions(settings: ConnectionSettings) -> Iterator[tuple[str, str]]:
    """Name settings that are valid alone and contradict each other."""
    policy = settings.state_policy
    if policy is StatePolicy.PATTERN and settings.state_pattern is None:
        yield "STATE_PATTERN", "expected, because STATE_POLICY is pattern"
    given = "state_policy" in settings.model_fields_set
    if settings.state_pattern is not None and not given:
        yield "STATE_POLICY", "expected pattern, because STATE_PATTERN is set"
    elif policy is StatePolicy.SIGNED and not settings.state_keys:
        because = "because STATE_POLICY is signed"
        yield "STATE_KEYS", f"expected, {because}{'' if given else ' where it is not set'}"
    if settings.provider_code_parameter == settings.provider_state_parameter:
        yield "PROVIDER_STATE_PARAMETER", "expected another name than PROVIDER_CODE_PARAMETER"
    if not settings.provider_pkce and "code_verifier" in settings.dynamics_body.names:
        yield "DYNAMICS_BODY", "expected no {code_verifier}, because PROVIDER_PKCE is false"
    if settings.provider_iss_required and settings.provider_issuer is None:
        yield "PROVIDER_ISSUER", "expected, because PROVIDER_ISS_REQUIRED is true"
    yield from _flow_problems(settings)


def _credential_problems(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name missing and conflicting credentials, whether the given values are valid or not."""
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


def _unresolved_references(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name secrets that are Key Vault references which the platform could not resolve."""
    for name in ("ENTRA_CLIENT_SECRET", PASSWORD):
        if values.get(name, "").startswith("@Microsoft.KeyVault("):
            yield name, "is a Key Vault reference; expected its value"


def _warnings(connection: Connection, source: _Source) -> Iterator[str]:
    """Warn about values that are valid but suspicious."""
    authority = connection.credentials.authority
    login = clouds.of_login(authority) if authority else None
    dynamics = clouds.of_dynamics(connection.target.url)
    if login is not None and dynamics is not None and login is not dynamics:
        yield (
            f"{source.spell('ENTRA_AUTHORITY')}: is of {login.name}, but "
            f"{source.spell('DYNAMICS_URL')} of {dynamics.name}; expected "
            f"https://{dynamics.login}/ and the tenant"
        )
    provider, names = connection.provider, connection.target.body.names
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
    settings: ConnectionSettings, source: _Source, inherited: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Name inherited settings by which a token or a credential would reach another host."""
    own, scope = source.own, settings.dynamics_scope
    inherits = "DYNAMICS_URL" in own and "DYNAMICS_SCOPE" not in own
    if inherits and scope is not None and _origin(scope) != _origin(settings.dynamics_url):
        expected = source.spelled("DYNAMICS_SCOPE")
        url = source.spell("DYNAMICS_URL")
        yield "DYNAMICS_SCOPE", f"is of another host than {url}; expected {expected} beside it"
    named = [name for name in ("ENTRA_AUTHORITY", "ENTRA_TENANT_ID") if name in own]
    inherits = bool(named) and not any(name in own for name in CREDENTIALS)
    before, now = _authority_origin(inherited), _authority_origin(_merge(inherited, own))
    if inherits and before is not None and now != before:
        expected = ", ".join(source.spelled(name) for name in CREDENTIALS)
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
        if name in known:
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
        return _unknown(spelled, setting)
    expected = f"expected {_expected(setting, model)}"
    if kind == "missing":
        return f"{spelled}: missing; {expected}"
    detail = message.removeprefix("Value error, ")
    if setting == "DYNAMICS_BODY" or detail in (BACKTRACKS, MATCHES_ALL):
        expected += f" ({detail})"
    return f"{spelled}: {expected}"


def _expected(setting: str, model: type[BaseModel] = ConnectionSettings) -> str:
    return str(model.model_fields[setting.lower()].description)


def _unknown(spelled: str, setting: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - needed only for an error

    if setting in names(AppSettings):
        return f"{spelled}: is for the whole app, expected {setting}"
    near = get_close_matches(setting, names(ConnectionSettings), n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"{spelled}: no such setting{hint}"
