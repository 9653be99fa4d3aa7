"""The kinds of Dynamics that the relay can post to: one entry each.

A new kind is an entry here, a check in `relay.tools.doctor.target`, a server in the sandbox and a
page in docs/. Host names are in no entry: on-premises systems and gateways have names of their own,
and the online ones tell the cloud, not the kind (`relay.entra.clouds`, which has the login hosts).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from relay.outgoing import json_object


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success: `document` is its JSON, `None` where it has none.

    `sent` are the values that were sent, because Dynamics repeats them in its messages.
    """

    status: int
    document: object = field(repr=False)
    sent: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, status: int, body: bytes, sent: Iterable[str]) -> "Refusal":
        """Read the body of an answer."""
        return cls(status, json_object(body), tuple(sent))


type Rule = Callable[[Refusal], bool]


def _never(_: Refusal) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TargetKind:
    """One kind of target; `name` is that of its page in docs/.

    `path`: the path of its URLs; the first group names the tenant or environment (nothing where the
    host does), the second the service, the others are names in it.
    `shape`: the same for people. `url` and `body`: `DYNAMICS_URL` and `DYNAMICS_BODY` for the
    objects of this repository. `says_exists`: a refusal means that the record exists.
    `is_transient`: a refusal passes although its status says that it is final. `is_exception`: a
    refusal is an exception of the application, which may be final although its status says that it
    passes. `challenge`: a path that answers 401 and names the authority, if one is known.
    """

    name: str
    path: re.Pattern[str]
    shape: str
    url: str
    body: Mapping[str, object]
    says_exists: Rule
    is_transient: Rule = _never
    is_exception: Rule = _never
    challenge: str | None = None


class Address(NamedTuple):
    """What a URL leads to: `root` is the URL of the service, `names` are what follows it."""

    root: str
    names: tuple[str, ...]


def _exception_type_is_duplicate(refusal: Refusal) -> bool:
    match refusal.document:
        case {"ExceptionType": str(kind)}:
            return kind.rpartition(".")[2] == "DuplicateKeyException"
    return False


def _has_exception_type(refusal: Refusal) -> bool:
    match refusal.document:
        case {"ExceptionType": str()}:
            return refusal.status == HTTPStatus.INTERNAL_SERVER_ERROR
    return False


def _write_exception_says(*phrases: str) -> Rule:
    """Search the message of F&O OData: it has no codes."""
    return partial(_is_write_exception, phrases)


def _is_write_exception(phrases: Iterable[str], refusal: Refusal) -> bool:
    match refusal.document:
        case {"error": {"innererror": {"type": str(kind), "message": str(message)}}}:
            return kind.endswith(".AxODataWriteException") and any(
                _says(phrase, message, refusal.sent) for phrase in phrases
            )
    return False


def _says(phrase: str, message: str, sent: Iterable[str]) -> bool:
    """Tell whether the message says so in words of its own, not in a value that it repeats."""
    values = [value.casefold() for value in sent]
    if any(phrase in value for value in values):
        # The message may repeat the value whole, in part or rewritten: nothing can be told.
        return False
    message = message.casefold()
    for value in sorted(values, key=len, reverse=True):
        # A piece of the phrase proves nothing, and cutting it out would hide the phrase.
        if value and value not in phrase:
            message = message.replace(value, "\ufffd")
    return phrase in message


def _error(refusal: Refusal) -> tuple[str, str]:
    """Return code and message of an OData error (OData JSON Format 4.0 §19), or empty texts."""
    match refusal.document:
        case {"error": {"code": str(code), "message": str(message)}}:
            return code, message
        case {"error": {"code": str(code)}}:
            return code, ""
    return "", ""


def _business_central_exists(refusal: Refusal) -> bool:
    return _error(refusal)[0] == "Internal_EntityWithSameKeyExists"


_BC_CODE = re.compile(r"[A-Z][A-Za-z]+_\w+|Unknown")
BC_TRANSIENT = {
    "Application_ServiceUnavailable",
    "Internal_MetadataSyncError",
    "Internal_TenantUnavailable",
    "Request_EntityChanged",
}
BC_CHANGED = (
    "by another user",
    "another user has",
    "another session",
    "deadlock",
    "retry the activity",
    "page has just changed",
)
"""Its message of 400 for a lock, a changed record, and a page that is being published."""


def _business_central_is_transient(refusal: Refusal) -> bool:
    """Its 409 is a duplicate, a lock, or an administrator's change: one filter makes all three.

    Codes: https://learn.microsoft.com/dynamics365/business-central/dev-itpro/webservices/dynamics-error-codes
    """
    code, message = _error(refusal)
    if code in BC_TRANSIENT:
        return True
    if refusal.status == HTTPStatus.CONFLICT:
        return _BC_CODE.fullmatch(code) is not None
    return refusal.status == HTTPStatus.BAD_REQUEST and any(
        _says(phrase, message, refusal.sent) for phrase in BC_CHANGED
    )


def _dataverse_exists(refusal: Refusal) -> bool:
    code = _error(refusal)[0].lower()
    # With other statuses 0x80040237 stands for other violations too.
    return code == "0x80060892" or (
        code == "0x80040237" and refusal.status == HTTPStatus.PRECONDITION_FAILED
    )


DATAVERSE_TRANSIENT = {
    # Service protection: requests, their time, how many at once; the platform's own limits.
    *("0x80072322", "0x80072321", "0x80072326", "0x80072327", "0x8005f103", "0x8004a001"),
    # The database: time-out, lock, aborted transaction, network, TempDB.
    *("0x80044151", "0x8004026c", "0x80040255", "0x80073000", "0x80048542"),
    # A solution is being imported or published.
    *("0x80071151", "0x80071154", "0x80090412", "0x80048543"),
    # Administration mode, environment switched off, migration, organisation not ready.
    *("0x8004a113", "0x8004a104", "0x8004b044", "0x8004d253"),
}
_DATAVERSE_SQL, _SQL_TRANSIENT = "0x80044150", re.compile(r"\bSql Number: (?:1205|10054)\b")
"""A SQL error of any kind; its number tells a deadlock and a broken connection."""


def _dataverse_is_transient(refusal: Refusal) -> bool:
    """Codes: https://learn.microsoft.com/power-apps/developer/data-platform/reference/web-service-error-codes."""
    code, message = _error(refusal)
    code = code.lower()
    return code in DATAVERSE_TRANSIENT or (
        code == _DATAVERSE_SQL and _SQL_TRANSIENT.search(message) is not None
    )


_BODY = {
    "StateHash": "{state_hash}",
    "State": "{state}",
    "Code": "{code}",
    "Error": "{error}",
    "ErrorDescription": "{error_description}",
    "Issuer": "{iss}",
    "ConnectionName": "{connection}",
    "CodeVerifier": "{code_verifier}",
    "RedirectUri": "{redirect_uri}",
    "DeliveryId": "{delivery_id}",
    "RelayReference": "{reference}",
    "ReceivedAt": "{received_at}",
    "ExpiresAt": "{expires_at}",
}
# The primary column of a Dataverse table is its name.
_COLUMNS = {name: f"oacb_{name.lower()}" for name in _BODY} | {"DeliveryId": "oacb_name"}

CUSTOM_SERVICE = TargetKind(
    name="custom-service",
    path=re.compile(r"(.*?)(/api/services)/([^/]+)/([^/]+)/([^/]+)/?", re.IGNORECASE),
    shape="/api/services/<group>/<service>/<operation>",
    url="https://contoso.operations.dynamics.com"
    "/api/services/OAuthCallbackServices/OAuthCallbackService/deliver",
    body={"_contract": _BODY},
    says_exists=_exception_type_is_duplicate,
    is_exception=_has_exception_type,
)
DATAVERSE = TargetKind(
    name="dataverse",
    path=re.compile(r"(.*?)(/api/data/v\d+(?:\.\d+)?)/([^/]+)/?", re.IGNORECASE),
    shape="/api/data/v9.2/<table>",
    url="https://contoso.crm.dynamics.com/api/data/v9.2/oacb_oauthcallbacks",
    body={_COLUMNS[name]: value for name, value in _BODY.items()},
    says_exists=_dataverse_exists,
    is_transient=_dataverse_is_transient,
    challenge="/api/data/v9.2/WhoAmI",
)
BUSINESS_CENTRAL = TargetKind(
    name="business-central",
    path=re.compile(
        r"(.*?)(/api)/(v\d[^/]*|[^/]+/[^/]+/[^/]+)/companies\(([^)/]+)\)/([^/]+)/?", re.IGNORECASE
    ),
    shape="/api/<publisher>/<group>/<version>/companies(<id>)/<collection>",
    url="https://api.businesscentral.dynamics.com/v2.0/contoso.onmicrosoft.com/production"
    "/api/oauthRelay/inbox/v1.0/companies(aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee)/oauthCallbacks",
    body={name[0].lower() + name[1:]: value for name, value in _BODY.items()},
    says_exists=_business_central_exists,
    is_transient=_business_central_is_transient,
)
FINANCE_OPERATIONS = TargetKind(
    name="finance-operations",
    path=re.compile(r"(.*?)(/data)/([^/]+)/?", re.IGNORECASE),
    shape="/data/<collection>",
    url="https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    body=_BODY,
    says_exists=_write_exception_says("already exists"),
    is_transient=_write_exception_says("deadlock", "update conflict"),
    challenge="/data",
)

TARGETS = (CUSTOM_SERVICE, DATAVERSE, BUSINESS_CENTRAL, FINANCE_OPERATIONS)
"""URLs are recognised in this order: a custom service may be called `data`."""


def find(url: str) -> tuple[TargetKind, Address] | None:
    """Return which kind of target a URL is of, and what it leads to there."""
    path = urlsplit(url).path
    for kind in TARGETS:
        match = kind.path.fullmatch(path)
        if match is not None:
            tenant, service, *names = match.groups()
            return kind, Address(f"{_origin(url)}{tenant}{service}", tuple(map(unquote, names)))
    return None


@lru_cache
def tenant(url: str) -> str:
    """Return the URL up to what names the tenant or environment, or its origin if that is unknown.

    All tenants of Business Central share a host, and Dynamics throttles each of them.
    """
    path = urlsplit(url).path
    matches = filter(None, (kind.path.fullmatch(path) for kind in TARGETS))
    return f"{_origin(url)}{next((match[1] for match in matches), '')}".lower()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def says_exists(refusal: Refusal) -> bool:
    """Tell whether a refusal says that the record exists, whatever its status.

    The rules of all kinds count: behind a gateway the URL does not tell the kind.
    """
    return any(kind.says_exists(refusal) for kind in TARGETS)


def is_transient(refusal: Refusal) -> bool:
    """Tell whether a refusal passes although its status says that it is final."""
    return any(kind.is_transient(refusal) for kind in TARGETS)


def is_exception(refusal: Refusal) -> bool:
    """Tell whether a refusal is an exception of the application, rather than of the service."""
    return any(kind.is_exception(refusal) for kind in TARGETS)
