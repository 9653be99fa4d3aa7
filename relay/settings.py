"""App settings become connections. A wrong one is named with what is expected, never its value.

Reading settings never raises: an app that does not index is an unexplained 404 in Azure. What is
wrong stands in `Settings.connections`, answers `misconfigured`, and leaves other connections alone.
"""

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

# Plugins would see every setting, secrets too, and looking for them reads the metadata of every
# installed package at each cold start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from relay.body import Template
from relay.connections import (
    DEFAULT,
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Connection,
    Connections,
    ManagedIdentity,
    Provider,
    StatePolicy,
    Target,
)
from relay.entra import clouds
from relay.errors import Misconfigured
from relay.oauth.request import IMPLICIT, RESPONSE

PREFIX = "CONNECTIONS__"

ARTICLE = {
    "ActiveDirectoryTenant": "ENTRA_AUTHORITY",
    "ActiveDirectoryClientAppId": "ENTRA_CLIENT_ID",
    "ActiveDirectoryClientAppSecret": "ENTRA_CLIENT_SECRET",
    "ActiveDirectoryResource": "DYNAMICS_SCOPE",
    "URIString": "DYNAMICS_URL",
}
"""The names of the original article's C# function, read where ours are not given."""

RESERVED = frozenset(
    {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
        "response_mode",
    }
)
"""Parameters of an authorization request that the relay sets itself; none may stand twice."""

CREDENTIALS = (
    "ENTRA_CLIENT_SECRET",
    "ENTRA_CLIENT_CERTIFICATE",
    "ENTRA_MANAGED_IDENTITY_CLIENT_ID",
)
"""The kinds of credential; a connection has one of them."""
# Its name, and no password.
PASSWORD = "ENTRA_CLIENT_CERTIFICATE_PASSWORD"  # noqa: S105  # nosec B105
SYSTEM = "system"
"""The system-assigned managed identity, which has no client id to be named by."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:  # these quote the value
        raise ValueError("url") from None
    host = parts.hostname
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not (plain and secure and host) or "@" in parts.netloc or parts.fragment:
        raise ValueError("url")
    return parts


def secure_url(url: str) -> str:
    """Return an absolute https URL as it is, http on loopback too, or raise `ValueError`."""
    _split(url)
    return url


def _endpoint(url: str) -> str:
    if any(name in RESERVED for name, _ in parse_qsl(_split(url).query, keep_blank_values=True)):
        raise ValueError("reserved")
    return url


type Pairs = tuple[tuple[str, str], ...]


def _pairs(value: str) -> Pairs:
    try:
        pairs = parse_qsl(
            value.strip(), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:  # it quotes the value
        raise ValueError("query string") from None
    for name, _ in pairs:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name in RESERVED:
            raise ValueError("parameter")
    return tuple(pairs)


def _parameter(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", name) or name in (*RESPONSE, *IMPLICIT):
        raise ValueError("parameter")
    return name


def _authority(value: str) -> str:
    # The article's setting held a tenant as often as a URL, and people paste endpoints.
    url = value if "://" in value else f"https://login.microsoftonline.com/{value}"
    url = re.sub(r"/oauth2(/v2\.0)?/(authorize|token)/?$", "", url).rstrip("/")
    tenant = _split(url).path.strip("/")
    if not url.startswith("https://") or tenant.lower() in clouds.NO_TENANT:
        raise ValueError("authority")
    return url


def _tenant(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+", value) or value.lower() in clouds.NO_TENANT:
        raise ValueError("tenant")
    return value


def _scope(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+/\.default", value) or value.endswith("//.default"):
        raise ValueError("scope")
    return value


def _anchored(value: str) -> re.Pattern[str]:
    if not (value.startswith("^") and value.endswith("$") and not value.endswith("\\$")):
        raise ValueError("anchors")
    try:
        return re.compile(value)
    except (re.error, OverflowError, RecursionError):
        raise ValueError("pattern") from None


def _file(value: str) -> str:
    try:
        found = Path(value).is_file()
    except OSError:  # far too long for a name; it quotes the value
        found = False
    if not found:
        raise ValueError("file")
    return value


def _certificate(value: SecretStr) -> SecretStr:
    # Whether the key opens is known when it is needed: the parsers would cost each cold start.
    text = value.get_secret_value()
    if "-----BEGIN" in text:
        if not ("PRIVATE KEY-----" in text and "-----BEGIN CERTIFICATE-----" in text):
            raise ValueError("blocks")
    else:
        _file(text)
    return value


type Keys = dict[str, bytes]


def _keys(value: str) -> Keys:
    keys: Keys = {}
    for entry in value.split(","):
        kid, _, encoded = entry.strip().partition(":")
        encoded = encoded.rstrip("=")
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", kid) or kid in keys:
            raise ValueError("kid")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}", encoded):
            raise ValueError("key")
        keys[kid] = base64.urlsafe_b64decode(encoded + "=")
    return keys


class ConnectionSettings(BaseModel):
    """The settings of one connection; `description` says what is expected."""

    model_config = ConfigDict(
        alias_generator=str.upper,
        arbitrary_types_allowed=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    entra_authority: Annotated[str, AfterValidator(_authority)] | None = Field(
        None,
        description="authority URL with the tenant, such as "
        "https://login.microsoftonline.com/contoso.com, or https://adfs.example.com/adfs",
    )
    entra_tenant_id: Annotated[str, AfterValidator(_tenant)] | None = Field(
        None, description="tenant id or domain; enough for the public cloud"
    )
    entra_client_id: str | None = Field(
        None, description="application (client) id of the app registration"
    )
    entra_client_secret: SecretStr | None = Field(
        None, description="client secret: its value, not its id"
    )
    entra_client_certificate: Annotated[SecretStr, AfterValidator(_certificate)] | None = Field(
        None,
        description="PEM text with the private key and the certificate, or the path of a PEM or "
        "PFX file that is there",
    )
    entra_client_certificate_password: SecretStr | None = Field(
        None, description="passphrase of ENTRA_CLIENT_CERTIFICATE"
    )
    entra_managed_identity_client_id: (
        Annotated[
            str, Field(pattern=r"^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|system)$")
        ]
        | None
    ) = Field(
        None,
        description="client id (a GUID) of a user-assigned managed identity, or system; with "
        "ENTRA_CLIENT_ID the app registration trusts that identity (federated credential)",
    )
    dynamics_url: Annotated[str, AfterValidator(secure_url)] = Field(
        description="https URL to POST to, such as "
        "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
    )
    dynamics_scope: Annotated[str, AfterValidator(_scope)] | None = Field(
        None,
        description="scope of the token: the resource without a slash at its end, and /.default",
    )
    dynamics_body: Annotated[Template, BeforeValidator(Template)] = Field(
        Template('{"code": "{code}", "state": "{state}"}'),
        description="JSON template of the body",
    )
    dynamics_timeout: float = Field(
        20, gt=0, le=60, description="seconds for one attempt, up to 60"
    )
    code_ttl: int = Field(
        300, gt=0, le=86_400, description="seconds an authorization code of this provider lives"
    )
    state_policy: StatePolicy = Field(StatePolicy.OPAQUE, description="opaque, pattern or signed")
    state_pattern: Annotated[re.Pattern[str], BeforeValidator(_anchored)] | None = Field(
        None, description="regular expression from ^ to $, for STATE_POLICY=pattern"
    )
    state_keys: Annotated[Keys, BeforeValidator(_keys)] | None = Field(
        None,
        repr=False,
        description="kid:key[,kid:key…], each key 32 random bytes in base64url; "
        "the first mints, all verify",
    )
    provider_issuer: Annotated[str, AfterValidator(secure_url)] | None = Field(
        None, description="issuer URL of the provider, exactly as its metadata has it"
    )
    provider_iss_required: bool = Field(
        default=False, description="true or false: refuse a response without iss"
    )
    provider_client_id: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")] | None = Field(
        None, description="client id at the provider, for /authorize and JARM"
    )
    provider_authorization_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        None,
        description="https URL of the provider's authorization endpoint, for /authorize; "
        "what its query has stays",
    )
    provider_scope: (
        Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$")]
        | None
    ) = Field(None, description="scopes to ask for, with a space between two")
    provider_response_mode: (
        Literal[
            "query", "form_post", "fragment", "jwt", "query.jwt", "form_post.jwt", "fragment.jwt"
        ]
        | None
    ) = Field(
        None,
        description="query, form_post, fragment, jwt, query.jwt, form_post.jwt or fragment.jwt; "
        "with jwt (JARM) only a signed response is taken",
    )
    provider_redirect_uri: Annotated[str, AfterValidator(secure_url)] | None = Field(
        None, description="https URL of this callback, exactly as it is registered at the provider"
    )
    provider_extra: Annotated[Pairs, BeforeValidator(_pairs)] = Field(
        (),
        description="query string of further parameters for /authorize, such as "
        "prompt=consent&access_type=offline; none that the relay sets itself",
    )
    provider_jwks_uri: Annotated[str, AfterValidator(secure_url)] | None = Field(
        None, description="https URL of the provider's keys; without it its metadata names one"
    )
    provider_code_parameter: Annotated[str, AfterValidator(_parameter)] = Field(
        "code", description="name of the parameter that holds the code"
    )


def _fernet_keys(value: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in value.split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{43}=", key) for key in keys):
        raise ValueError("key")
    return keys


class AppSettings(BaseModel):
    """The settings of the app as a whole."""

    model_config = ConfigDict(
        alias_generator=str.upper, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    ca_bundle: Annotated[str, AfterValidator(_file)] | None = Field(
        None, description="path of a PEM file with further trusted CAs"
    )
    outbox_keys: Annotated[tuple[str, ...], BeforeValidator(_fernet_keys)] = Field(
        (), repr=False, description="Fernet keys, comma-separated; the first seals, all open"
    )
    # 56, because `-poison` is appended and a queue's name has 63 characters at most.
    outbox_queue: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=56)] = Field(
        "callback-outbox", min_length=3, description="name of the queue, in lower case"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app settings say. `problems` in `connections` name all that is wrong."""

    connections: Connections
    app: AppSettings
    warnings: tuple[str, ...] = ()
    """What validates, and will hardly be meant so. Without values, like the problems."""


def read(environ: Mapping[str, str]) -> Settings:
    """Read all connections from app settings, which are environment variables.

    Names are read without regard to case, as Windows does; an empty value counts as not given.
    """
    given = {name.upper(): value.strip() for name, value in environ.items() if value.strip()}
    app, problems = _app(given)
    plain = _plain(given)
    warnings: list[str] = []
    by_name: dict[str, Connection | Misconfigured] = {}
    for name, own in sorted(_groups(given, problems).items()):
        origin = _Origin(name, own, given)
        connection = _connection(_merge(plain, own), origin)
        if isinstance(connection, Misconfigured):
            problems += connection.problems
        else:
            warnings += _doubts(connection, origin)
        by_name[name] = connection
    if not by_name:
        missing = ("DYNAMICS_URL", "missing", "")
        problems.append(_wrong(missing, ConnectionSettings, str))
    elif app is None:
        by_name = dict.fromkeys(by_name, Misconfigured(tuple(problems)))
    connections = Connections(by_name, tuple(dict.fromkeys(problems)))
    return Settings(
        connections, app or AppSettings.model_validate({}), tuple(dict.fromkeys(warnings))
    )


@cache
def names(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the settings of a model as they are written."""
    return tuple(name.upper() for name in model.model_fields)


def _app(given: Mapping[str, str]) -> tuple[AppSettings | None, list[str]]:
    try:
        return AppSettings.model_validate(
            {name: given[name] for name in names(AppSettings) if name in given}
        ), []
    except ValidationError as error:
        return None, [_wrong(problem, AppSettings, str) for problem in _errors(error)]


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    article = {ours: given[old.upper()] for old, ours in ARTICLE.items() if old.upper() in given}
    if "DYNAMICS_SCOPE" in article:  # it is a resource there
        resource = article["DYNAMICS_SCOPE"].strip().removesuffix("/.default").rstrip("/")
        article["DYNAMICS_SCOPE"] = f"{resource}/.default"
    ours = {name: given[name] for name in names(ConnectionSettings) if name in given}
    return _merge(article, ours)


def _merge(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    merged = {**outer, **inner}
    if "ENTRA_TENANT_ID" in inner and "ENTRA_AUTHORITY" not in inner:
        # The nearer tenant counts, not an authority that is inherited from further away.
        merged.pop("ENTRA_AUTHORITY", None)
    if any(setting in inner for setting in CREDENTIALS):
        # The nearer credential counts, not one of another kind that is inherited beside it.
        for setting in (*CREDENTIALS, PASSWORD):
            if setting not in inner:
                merged.pop(setting, None)
    if inner.get("ENTRA_MANAGED_IDENTITY_CLIENT_ID") == SYSTEM and "ENTRA_CLIENT_ID" not in inner:
        merged.pop("ENTRA_CLIENT_ID", None)  # it can only be a client by itself
    return merged


def _groups(given: Mapping[str, str], problems: list[str]) -> dict[str, dict[str, str]]:
    """Return each connection's own settings by its name."""
    groups: dict[str, dict[str, str]] = {}
    if "DYNAMICS_URL" in given or "URISTRING" in given:
        groups[DEFAULT] = {}
    strays: list[tuple[str, str, str]] = []
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
            groups.setdefault(name, {})[setting] = value
        else:
            strays.append((name, setting, value))
    for name, setting, value in strays:
        if name in groups:
            groups[name][setting] = value  # the connection answers for it
        else:
            problems.append(_stray(_Origin(name, {setting: value}, given).spell(setting), setting))
    return groups


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the settings of one connection come from: its `own`, or what all inherit."""

    name: str
    own: Mapping[str, str]
    given: Mapping[str, str]

    def spell(self, setting: str) -> str:
        """Return a setting as it was given, or as it is best given."""
        own = f"{PREFIX}{self.name.upper().replace('-', '_')}__{setting}"
        if setting in self.own:
            return own
        if setting in self.given:
            return setting
        for old, ours in ARTICLE.items():
            if ours == setting and old.upper() in self.given:
                return old
        return setting if self.name == DEFAULT else own


def _connection(values: Mapping[str, str], origin: _Origin) -> Connection | Misconfigured:
    faults = [*_unproven(values), *_unresolved(values)]
    problems = [f"{origin.spell(name)}: {problem}" for name, problem in faults]
    try:
        settings = ConnectionSettings.model_validate(values)
    except ValidationError as error:
        wrong = [_wrong(problem, ConnectionSettings, origin.spell) for problem in _errors(error)]
        return Misconfigured((*wrong, *problems))
    problems += [f"{origin.spell(name)}: {problem}" for name, problem in _contradictions(settings)]
    if problems:
        return Misconfigured(tuple(problems))
    target = _split(settings.dynamics_url)
    resource = f"{target.scheme}://{target.netloc.lower()}"
    return Connection(
        name=origin.name,
        provider=Provider(
            issuer=settings.provider_issuer,
            iss_required=settings.provider_iss_required,
            code_parameter=settings.provider_code_parameter,
            client_id=settings.provider_client_id,
            authorization_endpoint=settings.provider_authorization_endpoint,
            scope=settings.provider_scope,
            response_mode=settings.provider_response_mode,
            redirect_uri=settings.provider_redirect_uri,
            extra=settings.provider_extra,
            jwks_uri=settings.provider_jwks_uri,
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
    credential: ClientSecret | ClientCertificate | ManagedIdentity
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
    if client_id is None:  # the identity itself is the client, and the platform knows its tenant
        return ClientCredentials(None, None, credential, scope)
    tenant = f"https://{clouds.PUBLIC.login}/{settings.entra_tenant_id}"
    return ClientCredentials(settings.entra_authority or tenant, client_id, credential, scope)


def _contradictions(settings: ConnectionSettings) -> Iterator[tuple[str, str]]:
    """Name what is wrong between settings that are each right."""
    policy = settings.state_policy
    if policy is StatePolicy.PATTERN and settings.state_pattern is None:
        yield "STATE_PATTERN", "expected, because STATE_POLICY is pattern"
    if policy is StatePolicy.SIGNED and not settings.state_keys:
        yield "STATE_KEYS", "expected, because STATE_POLICY is signed"
    if settings.state_pattern is not None and "state_policy" not in settings.model_fields_set:
        yield "STATE_POLICY", "expected pattern, because STATE_PATTERN is set"
    if settings.provider_iss_required and settings.provider_issuer is None:
        yield "PROVIDER_ISSUER", "expected, because PROVIDER_ISS_REQUIRED is true"
    yield from _incomplete(settings)


def _unproven(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name what keeps the relay from proving to Entra who it is; by what is given, right or not."""
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


def _unresolved(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name secrets in whose place the platform has left a reference that it could not resolve."""
    for name in ("ENTRA_CLIENT_SECRET", PASSWORD):
        if values.get(name, "").startswith("@Microsoft.KeyVault("):
            yield name, "is a Key Vault reference; expected its value"


def _doubts(connection: Connection, origin: _Origin) -> Iterator[str]:
    """Name what validates and will hardly be meant so."""
    authority = connection.credentials.authority
    login = clouds.of_login(authority) if authority else None
    dynamics = clouds.of_dynamics(connection.target.url)
    if login is not None and dynamics is not None and login is not dynamics:
        yield (
            f"{origin.spell('ENTRA_AUTHORITY')}: is of {login.name}, but "
            f"{origin.spell('DYNAMICS_URL')} of {dynamics.name}; expected "
            f"https://{dynamics.login}/ and the tenant"
        )
    scope, url = connection.credentials.scope, connection.target.url
    inherited = "DYNAMICS_URL" in origin.own and "DYNAMICS_SCOPE" not in origin.own
    known = clouds.of_dynamics(scope) is not None and dynamics is not None
    if inherited and known and urlsplit(scope).hostname != urlsplit(url).hostname:
        yield (
            f"{origin.spell('DYNAMICS_SCOPE')}: is of another environment than "
            f"{origin.spell('DYNAMICS_URL')}; expected "
            f"{PREFIX}{origin.name.upper().replace('-', '_')}__DYNAMICS_SCOPE beside it"
        )


def _incomplete(settings: ConnectionSettings) -> Iterator[tuple[str, str]]:
    """Name what /authorize and JARM cannot do without."""
    if settings.provider_authorization_endpoint is not None:
        because = "because PROVIDER_AUTHORIZATION_ENDPOINT is set"
        if settings.provider_client_id is None:
            yield "PROVIDER_CLIENT_ID", f"expected, {because}"
        if settings.provider_redirect_uri is None:
            yield "PROVIDER_REDIRECT_URI", f"expected, {because}"
        if settings.state_policy is not StatePolicy.SIGNED:
            # Under any other policy the callback would take a state that no browser is bound to,
            # and whoever leaves the signature out would be let in.
            yield "STATE_POLICY", f"expected signed, {because}"
    if (settings.provider_response_mode or "").endswith("jwt"):
        because = f"because PROVIDER_RESPONSE_MODE is {settings.provider_response_mode}"
        if settings.provider_issuer is None:
            yield "PROVIDER_ISSUER", f"expected, {because}"
        if settings.provider_client_id is None:
            yield "PROVIDER_CLIENT_ID", f"expected, {because}"


def _errors(error: ValidationError) -> list[tuple[str, str, str]]:
    # Location, kind and message only: `errors()` holds the input, which may be a secret.
    return [
        (str(part["loc"][0]), part["type"], part["msg"])
        for part in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _wrong(
    problem: tuple[str, str, str], model: type[BaseModel], spell: Callable[[str], str]
) -> str:
    setting, kind, message = problem
    spelled = spell(setting)
    if kind == "missing":
        return f"{spelled}: missing; expected {_expected(setting, model)}"
    if kind == "extra_forbidden":
        return _stray(spelled, setting)
    text = f"{spelled}: expected {_expected(setting, model)}"
    if setting == "DYNAMICS_BODY":
        text += f" ({message.removeprefix('Value error, ')})"
    return text


def _expected(setting: str, model: type[BaseModel] = ConnectionSettings) -> str:
    return str(model.model_fields[setting.lower()].description)


def _stray(spelled: str, setting: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for an error

    if setting in names(AppSettings):
        return f"{spelled}: is for the whole app, expected {setting}"
    near = get_close_matches(setting, names(ConnectionSettings), n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"{spelled}: no such setting{hint}"


def table() -> list[dict[str, Any]]:
    """Return every setting with its name, its old name, its default and what is expected."""
    old = {ours: article for article, ours in ARTICLE.items()}
    rows = []
    for model in (ConnectionSettings, AppSettings):
        for field_name, field in model.model_fields.items():
            name = field_name.upper()
            rows.append(
                {
                    "setting": name,
                    "article": old.get(name),
                    "required": field.is_required(),
                    "default": field.default,
                    "expected": field.description,
                }
            )
    return rows
