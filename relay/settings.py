"""App settings become connections. A wrong one is named with what is expected, never its value.

Reading settings never raises: an app that does not index is an unexplained 404 in Azure. What is
wrong stands in `Settings.connections`, answers `misconfigured`, and leaves other connections alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

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
    ClientCredentials,
    Connection,
    Connections,
    Provider,
    StatePolicy,
    Target,
)
from relay.errors import Misconfigured

PREFIX = "CONNECTIONS__"

ARTICLE = {
    "ActiveDirectoryTenant": "ENTRA_AUTHORITY",
    "ActiveDirectoryClientAppId": "ENTRA_CLIENT_ID",
    "ActiveDirectoryClientAppSecret": "ENTRA_CLIENT_SECRET",
    "ActiveDirectoryResource": "DYNAMICS_SCOPE",
    "URIString": "DYNAMICS_URL",
}
"""The names of the original article's C# function, read where ours are not given."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not (plain and secure and parts.hostname) or parts.username is not None or parts.fragment:
        raise ValueError("url")
    _ = parts.port  # raises ValueError when it is none
    return parts


def _url(url: str) -> str:
    _split(url)
    return url


def _authority(value: str) -> str:
    # The article's setting held a tenant as often as a URL, and people paste endpoints.
    url = value if "://" in value else f"https://login.microsoftonline.com/{value}"
    url = re.sub(r"/oauth2(/v2\.0)?/(authorize|token)/?$", "", url).rstrip("/")
    tenant = _split(url).path.strip("/")
    if not url.startswith("https://") or tenant in ("", "common", "organizations", "consumers"):
        raise ValueError("authority")
    return url


def _scope(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+/\.default", value) or value.endswith("//.default"):
        raise ValueError("scope")
    return value


def _anchored(value: str) -> re.Pattern[str]:
    if not (value.startswith("^") and value.endswith("$") and not value.endswith("\\$")):
        raise ValueError("anchors")
    try:
        return re.compile(value)
    except re.error:
        raise ValueError("pattern") from None


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("file")
    return value


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
    entra_tenant_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = Field(
        None, description="tenant id or domain; enough for the public cloud"
    )
    entra_client_id: str = Field(
        min_length=1, description="application (client) id of the app registration"
    )
    entra_client_secret: SecretStr = Field(
        min_length=1, description="client secret: its value, not its id"
    )
    dynamics_url: Annotated[str, AfterValidator(_url)] = Field(
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
    state_policy: StatePolicy = Field(StatePolicy.OPAQUE, description="opaque or pattern")
    state_pattern: Annotated[re.Pattern[str], BeforeValidator(_anchored)] | None = Field(
        None, description="regular expression from ^ to $, for STATE_POLICY=pattern"
    )
    provider_issuer: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="issuer URL of the provider, exactly as its metadata has it"
    )
    provider_iss_required: bool = Field(
        default=False, description="true or false: refuse a response without iss"
    )
    provider_code_parameter: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.~-]{1,64}$")] = Field(
        "code", description="name of the parameter that holds the code"
    )


class AppSettings(BaseModel):
    """The settings of the app as a whole."""

    model_config = ConfigDict(
        alias_generator=str.upper, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    ca_bundle: Annotated[str, AfterValidator(_file)] | None = Field(
        None, description="path of a PEM file with further trusted CAs"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app settings say. `problems` in `connections` name all that is wrong."""

    connections: Connections
    ca_bundle: str | None


def read(environ: Mapping[str, str]) -> Settings:
    """Read all connections from app settings, which are environment variables.

    Names are read without regard to case, as Windows does; an empty value counts as not given.
    """
    given = {name.upper(): value for name, value in environ.items() if value.strip()}
    app, problems = _app(given)
    plain = _plain(given)
    by_name: dict[str, Connection | Misconfigured] = {}
    for name, own in sorted(_groups(given, problems).items()):
        connection = _connection(name, _merge(plain, own), own)
        if isinstance(connection, Misconfigured):
            problems += connection.problems
        by_name[name] = connection
    if not by_name:
        problems.append(_missing("DYNAMICS_URL", ConnectionSettings))
    elif app is None:
        by_name = dict.fromkeys(by_name, Misconfigured(tuple(problems)))
    return Settings(
        Connections(by_name, tuple(dict.fromkeys(problems))), app.ca_bundle if app else None
    )


def names(model: type[BaseModel]) -> list[str]:
    """Return the settings of a model as they are written."""
    return [name.upper() for name in model.model_fields]


def _app(given: Mapping[str, str]) -> tuple[AppSettings | None, list[str]]:
    try:
        return AppSettings.model_validate(
            {name: given[name] for name in names(AppSettings) if name in given}
        ), []
    except ValidationError as error:
        return None, [_wrong(problem, AppSettings, "") for problem in _errors(error)]


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    article = {ours: given[old.upper()] for old, ours in ARTICLE.items() if old.upper() in given}
    if "DYNAMICS_SCOPE" in article:  # it is a resource there
        article["DYNAMICS_SCOPE"] = article["DYNAMICS_SCOPE"].strip().rstrip("/") + "/.default"
    ours = {name: given[name] for name in names(ConnectionSettings) if name in given}
    return _merge(article, ours)


def _merge(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    merged = {**outer, **inner}
    if "ENTRA_TENANT_ID" in inner and "ENTRA_AUTHORITY" not in inner:
        # The nearer tenant counts, not an authority that is inherited from further away.
        merged.pop("ENTRA_AUTHORITY", None)
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
            problems.append(_stray(_prefix(name, setting, {setting: value}), setting))
    return groups


def _prefix(name: str, setting: str, own: Mapping[str, str]) -> str:
    """Return what stands before a setting: nothing, when its value is inherited."""
    return f"{PREFIX}{name.upper().replace('-', '_')}__" if setting in own else ""


def _connection(
    name: str, values: Mapping[str, str], own: Mapping[str, str]
) -> Connection | Misconfigured:
    try:
        settings = ConnectionSettings.model_validate(values)
    except ValidationError as error:
        return Misconfigured(
            tuple(
                _wrong(problem, ConnectionSettings, _prefix(name, problem[0], own))
                for problem in _errors(error)
            )
        )
    if problems := tuple(_contradictions(settings)):
        return Misconfigured(problems)
    target = _split(settings.dynamics_url)
    origin = f"{target.scheme}://{target.netloc.lower()}"
    tenant = f"https://login.microsoftonline.com/{settings.entra_tenant_id}"
    return Connection(
        name=name,
        provider=Provider(
            settings.provider_issuer,
            settings.provider_iss_required,
            settings.provider_code_parameter,
        ),
        state_policy=settings.state_policy,
        state_pattern=settings.state_pattern,
        code_ttl=timedelta(seconds=settings.code_ttl),
        credentials=ClientCredentials(
            authority=settings.entra_authority or tenant,
            client_id=settings.entra_client_id,
            client_secret=settings.entra_client_secret.get_secret_value(),
            scope=settings.dynamics_scope or f"{origin}/.default",
        ),
        target=Target(settings.dynamics_url, settings.dynamics_body, settings.dynamics_timeout),
    )


def _contradictions(settings: ConnectionSettings) -> Iterator[str]:
    """Name what is wrong between settings that are each right."""
    if not (settings.entra_authority or settings.entra_tenant_id):
        yield "ENTRA_TENANT_ID: expected, or ENTRA_AUTHORITY"
    policy = settings.state_policy
    if policy is StatePolicy.PATTERN and settings.state_pattern is None:
        yield "STATE_PATTERN: expected, because STATE_POLICY is pattern"
    if settings.state_pattern is not None and "state_policy" not in settings.model_fields_set:
        yield "STATE_POLICY: expected pattern, because STATE_PATTERN is set"
    if settings.provider_iss_required and settings.provider_issuer is None:
        yield "PROVIDER_ISSUER: expected, because PROVIDER_ISS_REQUIRED is true"


def _errors(error: ValidationError) -> list[tuple[str, str, str]]:
    # Location, kind and message only: `errors()` holds the input, which may be a secret.
    return [
        (str(part["loc"][0]), part["type"], part["msg"])
        for part in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _wrong(problem: tuple[str, str, str], model: type[BaseModel], prefix: str) -> str:
    setting, kind, message = problem
    if kind == "missing":
        # Whatever may be inherited is best given once.
        return _missing(setting, model)
    if kind == "extra_forbidden":
        return _stray(prefix, setting)
    text = f"{prefix}{setting}: expected {_expected(setting, model)}"
    if setting == "DYNAMICS_BODY":
        text += f" ({message.removeprefix('Value error, ')})"
    return text


def _missing(setting: str, model: type[BaseModel]) -> str:
    return f"{setting}: missing; expected {_expected(setting, model)}"


def _expected(setting: str, model: type[BaseModel]) -> str:
    return str(model.model_fields[setting.lower()].description)


def _stray(prefix: str, setting: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for an error

    if setting in names(AppSettings):
        return f"{prefix}{setting}: is for the whole app, expected {setting}"
    near = get_close_matches(setting, names(ConnectionSettings), n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    return f"{prefix}{setting}: no such setting{hint}"


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
