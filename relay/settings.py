"""Models of the app settings: names, defaults, validators, and what each setting expects.

The README's table and `python -m relay settings` are made from these models. `settings_reader`
reads the environment into them.
"""

import base64
import os
import re
from functools import cache, partial
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

# Before the first model: plugins would see every setting, secrets included, and the search for them
# reads the metadata of every installed package at each cold start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from relay import branding
from relay.body import Template
from relay.connections import StatePolicy
from relay.entra import clouds
from relay.oauth.request import IMPLICIT, RESPONSE

ARTICLE = {
    "ActiveDirectoryTenant": "ENTRA_AUTHORITY",
    "ActiveDirectoryClientAppId": "ENTRA_CLIENT_ID",
    "ActiveDirectoryClientAppSecret": "ENTRA_CLIENT_SECRET",
    "ActiveDirectoryResource": "DYNAMICS_SCOPE",
    "URIString": "DYNAMICS_URL",
}
"""Setting names of the original article's C# function; used where ours are not set."""

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
"""Authorization request parameters that the relay sets itself (RFC 6749 §3.1: none twice)."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
    except ValueError:  # its message quotes the value
        raise ValueError from None
    host = parts.hostname
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not (plain and secure and host) or "@" in parts.netloc or parts.fragment:
        raise ValueError
    return parts


def secure_url(url: str) -> str:
    """Return the URL unchanged. Raises `ValueError` unless it is https, or http on loopback."""
    _split(url)
    return url


def _endpoint(url: str) -> str:
    if any(name in RESERVED for name, _ in parse_qsl(_split(url).query, keep_blank_values=True)):
        raise ValueError
    return url


type Pairs = tuple[tuple[str, str], ...]


def _pairs(value: str) -> Pairs:
    try:
        pairs = parse_qsl(value, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:  # its message quotes the value
        raise ValueError from None
    for name, _ in pairs:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name in RESERVED:
            raise ValueError
    return tuple(pairs)


def _parameter(other: str, name: str) -> str:
    taken = name in (other, *RESPONSE, *IMPLICIT, "response")
    if taken or not re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", name):
        raise ValueError
    return name


def _redirect_uri(value: str) -> str:
    # eBay wants a name there that it has given to the URL (its RuName).
    if ":" in value or "/" in value:
        return secure_url(value)
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError
    return value


@cache  # most connections and environments inherit one
def authority(value: str) -> str:
    """Return the URL of an authority that may be given as a tenant. Raises `ValueError`."""
    # The article's setting may hold a tenant instead of a URL, people paste endpoints and issuers.
    url = value if "://" in value else f"https://login.microsoftonline.com/{value}"
    url = re.sub(r"/(oauth2(/v2\.0)?/(authorize|token)|v2\.0)/?$", "", url).rstrip("/")
    tenant = _split(url).path.strip("/")
    if not url.startswith("https://") or tenant.lower() in clouds.NO_TENANT:
        raise ValueError
    return url


@cache  # most connections and environments inherit one
def _tenant(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+", value) or value.lower() in clouds.NO_TENANT:
        raise ValueError
    return value


def _scope(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+/\.default", value) or value.endswith("//.default"):
        raise ValueError
    return value


def _anchored(value: str) -> re.Pattern[str]:
    if not (value.startswith("^") and value.endswith("$") and not value.endswith("\\$")):
        raise ValueError
    try:
        pattern = re.compile(value)
    except (re.error, OverflowError, RecursionError):
        raise ValueError from None
    if _backtracks(value) or _trades(value):
        raise ValueError(BACKTRACKS)
    if pattern.fullmatch("") or pattern.fullmatch(_PRINTABLE):
        raise ValueError(MATCHES_ALL)
    return pattern


BACKTRACKS = (
    "a repeated group holds a quantifier or alternatives, or three open repeats share a character: "
    "a stranger's state could take seconds or hours; bound them, such as {1,64}"
)
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
MATCHES_ALL = "it matches the empty state or any state"
# A text: it is compiled where a pattern is set.
_PARTS = r"""(?x)
    \\.                                         # an escaped character
    | \[\^?\]?(?:\\.|[^\]\\])*\]               # a character class
    | \((?:\?(?:P?<\w+>|P=\w+|\(\w+\)|<?[=!]|[a-zA-Z-]*:|[>#]))?   # the beginning of a group
    | \)                                         # the end of one
    | [*+?]\+?\?? | \{\d*,?\d*\}[+?]?           # a quantifier
    | \| | .                                      # an alternative, or any other character
    """


def _backtracks(pattern: str) -> bool:
    """Tell whether a group that is repeated can match one text in several ways.

    It is a strict reading: some patterns that are fast are refused too. A possessive quantifier
    (`++`) gives nothing back, so it does not count.
    """
    varies = [False]  # for each group that is open: whether its length varies
    closed = False  # whether the part before this one is a group whose length varies
    for part in re.findall(_PARTS, pattern):
        group, closed = closed, False
        if part[0] == "(":
            varies.append(False)
        elif part == ")" and len(varies) > 1:
            closed = varies.pop()
            varies[-1] |= closed
        elif part == "|":
            varies[-1] = True
        elif part[0] in "*+?{" and not re.fullmatch(r"\{\d+\}|.+\+", part):
            if group and part[0] != "?":
                return True
            varies[-1] = True
        elif group and part[0] in "*+{":
            return True
    return False


def _trades(pattern: str) -> bool:
    """Tell whether three repeats without an end can hand characters to one another.

    A state of 1,024 characters then takes seconds (`^.+-.+-.+$`). What stands between two of them
    and is in neither keeps them apart (`^[a-z]+-[a-z]+-[a-z]+$`).
    """
    atom: set[str] = set()
    shared, number = set(_PRINTABLE), 0
    for part in re.findall(_PARTS, pattern[1:-1]):
        if part in ("*", "+", "*?", "+?") or re.fullmatch(r"\{\d*,\}\??", part):
            shared, number = (shared & atom, number + 1) if shared & atom else (atom, 1)
            if number > 2:  # noqa: PLR2004 - two take milliseconds
                return True
        elif part[0] not in "(){?|*+":
            if not shared & atom:  # the part before this one stands once
                shared, number = set(_PRINTABLE), 0
            try:
                atom = {each for each in _PRINTABLE if re.fullmatch(part, each)}
            except re.error:  # a reference to a group
                atom = set(_PRINTABLE)
    return False


def _file(value: str) -> str:
    # `Path.is_file` raises for a name that is too long, and its message quotes the name.
    if not os.path.isfile(value):  # noqa: PTH113
        raise ValueError
    return value


def _certificate(value: SecretStr) -> SecretStr:
    # The key is not parsed here: importing the parsers would slow down every cold start.
    text = value.get_secret_value()
    if "-----BEGIN" not in text:
        _file(text)
    elif not ("PRIVATE KEY-----" in text and "-----BEGIN CERTIFICATE-----" in text):
        raise ValueError
    return value


type Keys = dict[str, bytes]


def _keys(value: str) -> Keys:
    keys: Keys = {}
    for entry in value.split(","):
        found = re.fullmatch(r"([A-Za-z0-9_.-]{1,32}):([A-Za-z0-9_-]{43})=*", entry.strip())
        if found is None or found[1] in keys:
            raise ValueError
        keys[found[1]] = base64.urlsafe_b64decode(f"{found[2]}=")
    return keys


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError
    return value


def _return_url(value: str) -> str:
    url, _, fragment = value.partition("#")
    parts = _split(url)
    filled = f"{parts.path}?{parts.query}#{fragment}"
    for name in ("{outcome}", "{reference}"):
        filled = filled.replace(name, "")
    if set("{}") & {*filled, *parts.netloc} or not (fragment.isascii() and fragment.isprintable()):
        raise ValueError
    return value


_STATE_KEYS = Field(
    None,
    repr=False,
    description="kid:key[,kid:key…], each key 32 random bytes in base64url; "
    "the first mints, all verify",
)


class TargetSettings(BaseModel):
    """Settings of one Dynamics. A `description` is what problems say is expected."""

    model_config = ConfigDict(
        alias_generator=str.upper,
        arbitrary_types_allowed=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    entra_authority: Annotated[str, AfterValidator(authority)] | None = Field(
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
    # Parsed once for all that have the same.
    dynamics_body: Annotated[Template, BeforeValidator(cache(Template))] = Field(
        Template('{"code": "{code}", "state": "{state}"}'), description="JSON template of the body"
    )
    dynamics_timeout: float = Field(
        20, gt=0, le=60, description="seconds for one attempt, up to 60"
    )


class EnvironmentSettings(TargetSettings):
    """Settings of another Dynamics environment behind the redirect URI of a connection."""

    state_keys: Annotated[Keys, BeforeValidator(_keys)] | None = _STATE_KEYS


class ConnectionSettings(TargetSettings):
    """Settings of one connection."""

    code_ttl: int = Field(
        300, gt=0, le=86_400, description="seconds an authorization code of this provider lives"
    )
    # settings_reader makes it `opaque` for the article's settings.
    state_policy: StatePolicy = Field(StatePolicy.SIGNED, description="opaque, pattern or signed")
    state_pattern: Annotated[re.Pattern[str], BeforeValidator(_anchored)] | None = Field(
        None, description="regular expression from ^ to $, for STATE_POLICY=pattern"
    )
    state_keys: Annotated[Keys, BeforeValidator(_keys)] | None = _STATE_KEYS
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
    provider_redirect_uri: Annotated[str, AfterValidator(_redirect_uri)] | None = Field(
        None,
        description="https URL of this callback, exactly as it is registered at the provider, or "
        "the name that the provider has given to it",
    )
    provider_extra: Annotated[Pairs, BeforeValidator(_pairs)] = Field(
        (),
        description="query string of further parameters for /authorize, such as "
        "prompt=consent&access_type=offline; none that the relay sets itself",
    )
    provider_jwks_uri: Annotated[str, AfterValidator(secure_url)] | None = Field(
        None, description="https URL of the provider's keys; without it its metadata names one"
    )
    provider_code_parameter: Annotated[str, AfterValidator(partial(_parameter, "state"))] = Field(
        "code", description="name of the parameter that holds the code"
    )
    provider_name: Annotated[str, Field(max_length=60), AfterValidator(_printable)] | None = Field(
        None, description="what the pages call the provider, up to 60 characters"
    )
    page_organization: Annotated[str, Field(max_length=60), AfterValidator(_printable)] | None = (
        Field(None, description="name of your organization on the pages, up to 60 characters")
    )
    page_support: Annotated[str, Field(max_length=200), AfterValidator(_printable)] | None = Field(
        None,
        description="whom people ask: an e-mail address, an https URL or one line of text, "
        "up to 200 characters",
    )
    page_return_url: Annotated[str, AfterValidator(_return_url)] | None = Field(
        None,
        description="https URL of the link back to Dynamics 365; {outcome} and {reference} may "
        "stand behind the host",
    )
    page_accent: Annotated[branding.Accent, BeforeValidator(branding.accent)] | None = Field(
        None, description="colour such as #2b579a, with a contrast of at least 4.5 to white"
    )
    page_logo: Annotated[str, AfterValidator(branding.logo)] | None = Field(
        None,
        description="data: URI of a PNG in base64 or of an SVG, up to 16 KiB; # is written as %23",
    )
    provider_state_parameter: Annotated[str, AfterValidator(partial(_parameter, "code"))] = Field(
        "state",
        description="name of the parameter that brings the state back; another one than "
        "PROVIDER_CODE_PARAMETER",
    )
    provider_pkce: bool = Field(
        default=True,
        description="true or false: /authorize sends a code challenge",
    )
    provider_response_type: Literal["code", "code id_token"] = Field(
        "code", description="code, or code id_token: an id_token may stand beside the code"
    )


def _fernet_keys(value: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in value.split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{43}=", key) for key in keys):
        raise ValueError
    return keys


class AppSettings(BaseModel):
    """Settings of the whole app."""

    model_config = ConfigDict(
        alias_generator=str.upper, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    ca_bundle: Annotated[str, AfterValidator(_file)] | None = Field(
        None, description="path of a PEM file with further trusted CAs"
    )
    outbox_keys: Annotated[tuple[str, ...], BeforeValidator(_fernet_keys)] = Field(
        (), repr=False, description="Fernet keys, comma-separated; the first seals, all open"
    )
    # A queue name has at most 63 characters, and the longest ending is `-doctor-report`.
    outbox_queue: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=49)] = Field(
        "callback-outbox", min_length=3, description="name of the queue, in lower case"
    )


@cache
def names(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of a model's settings, in upper case."""
    return tuple(name.upper() for name in model.model_fields)


def table() -> list[dict[str, Any]]:
    """Return name, article's name, default and expected value of every setting."""
    old = {ours: article for article, ours in ARTICLE.items()}
    return [
        {
            "setting": name.upper(),
            "article": old.get(name.upper()),
            "required": field.is_required(),
            "default": field.default,
            "expected": field.description,
        }
        for model in (ConnectionSettings, AppSettings)
        for name, field in model.model_fields.items()
    ]
