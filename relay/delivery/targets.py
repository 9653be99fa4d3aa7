"""The kinds of Dynamics that the relay can post to: one entry each, with what its refusals mean.

A new kind is an entry here, a check in `relay.tools.doctor.target`, a server in the sandbox and a
page in docs/. Host names are in no entry: on-premises systems and gateways have names of their own,
and the online ones tell the cloud, not the kind (`relay.entra.clouds`, which has the login hosts).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto
from functools import lru_cache
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


class Meaning(IntEnum):
    """What a refusal means; the first one counts where several entries fit."""

    EXISTS = auto()
    """The record exists."""
    FAILED = auto()
    """The application ended in an exception: for good, if that goes on."""
    PASSES = auto()
    """The same request may work later, whatever the status says."""


class Known(NamedTuple):
    """A refusal that a target documents, or that was captured; what is empty fits any answer.

    `codes` are patterns of its whole code, `phrases` are words of its message in lower case,
    `statuses` are HTTP's. `reason` is the word for the log, if the status alone would be final.
    """

    meaning: Meaning
    reason: str = ""
    codes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()

    def fits(self, refusal: Refusal, code: str, message: str) -> bool:
        """Tell whether an answer, with its code and message, is such a refusal."""
        return (
            (not self.statuses or refusal.status in self.statuses)
            and (not self.codes or any(re.fullmatch(each, code) for each in self.codes))
            and (
                not self.phrases or any(_says(each, message, refusal.sent) for each in self.phrases)
            )
        )


def _says(phrase: str, message: str, sent: Iterable[str]) -> bool:
    """Tell whether the message says so in words of its own, not in a value that it repeats."""
    values = [value.casefold() for value in sent]
    if any(phrase in value for value in values):
        # The message may repeat the value whole, in part or rewritten: nothing can be told.
        return False
    message = message.casefold()
    for value in sorted(values, key=len, reverse=True):
        # A piece of the phrase proves nothing, and cutting it out would hide the phrase.
        if value not in phrase:
            message = message.replace(value, "\ufffd")
    # "Sql Number: 1205" is no piece of 12050.
    return re.search(rf"{re.escape(phrase)}(?!\d)", message) is not None


EXISTS, FAILED, PASSES = Meaning

type Reader = Callable[[object], tuple[str, str] | None]
"""Returns code and message of an error, or `None` if the document is none of this target's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TargetKind:
    """One kind of target; `name` is that of its page in docs/.

    `path`: the path of its URLs; the first group names the tenant or environment (nothing where the
    host does), the second the service, the others are names in it.
    `shape`: the same for people. `url` and `body`: `DYNAMICS_URL` and `DYNAMICS_BODY` for the
    objects of this repository. `read`: code and message of its errors. `refusals`: those whose
    status does not say what they mean. `challenge`: a path that answers 401 and names the
    authority, if one is known.
    """

    name: str
    path: re.Pattern[str]
    shape: str
    url: str
    body: Mapping[str, object]
    read: Reader
    refusals: tuple[Known, ...]
    challenge: str | None = None


class Address(NamedTuple):
    """What a URL leads to: `root` is the URL of the service, `names` are what follows it."""

    root: str
    names: tuple[str, ...]


def _exception_type(document: object) -> tuple[str, str] | None:
    match document:
        case {"ExceptionType": str(kind)}:
            return kind, ""
    return None


def _inner_error(document: object) -> tuple[str, str] | None:
    """Return type and message of an error of F&O's OData: it has no codes."""
    match document:
        case {"error": {"innererror": {"type": str(kind), "message": str(message)}}}:
            return kind, message
    return None


def _odata_error(document: object) -> tuple[str, str] | None:
    """Return code and message of an OData error (OData JSON Format 4.0 §19)."""
    match document:
        case {"error": {"code": str(code), "message": str(message)}}:
            return code, message
        case {"error": {"code": str(code)}}:
            return code, ""
    return None


def _dataverse_error(document: object) -> tuple[str, str] | None:
    """Return the same; hexadecimal codes come in either case."""
    error = _odata_error(document)
    return None if error is None else (error[0].lower(), error[1])


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
_WRITE_EXCEPTION = r".*\.AxODataWriteException"
# The primary column of a Dataverse table is its name.
_COLUMNS = {name: f"oacb_{name.lower()}" for name in _BODY} | {"DeliveryId": "oacb_name"}

CUSTOM_SERVICE = TargetKind(
    name="custom-service",
    path=re.compile(r"(.*?)(/api/services)/([^/]+)/([^/]+)/([^/]+)/?", re.IGNORECASE),
    shape="/api/services/<group>/<service>/<operation>",
    url="https://contoso.operations.dynamics.com"
    "/api/services/OAuthCallbackServices/OAuthCallbackService/deliver",
    body={"_contract": _BODY},
    read=_exception_type,
    refusals=(
        Known(EXISTS, codes=(r"(?:.*\.)?DuplicateKeyException",)),
        Known(FAILED, statuses=(HTTPStatus.INTERNAL_SERVER_ERROR,)),
    ),
)
DATAVERSE = TargetKind(
    name="dataverse",
    path=re.compile(r"(.*?)(/api/data/v\d+(?:\.\d+)?)/([^/]+)/?", re.IGNORECASE),
    shape="/api/data/v9.2/<table>",
    url="https://contoso.crm.dynamics.com/api/data/v9.2/oacb_oauthcallbacks",
    body={_COLUMNS[name]: value for name, value in _BODY.items()},
    read=_dataverse_error,
    # https://learn.microsoft.com/power-apps/developer/data-platform/reference/web-service-error-codes
    refusals=(
        Known(EXISTS, codes=("0x80060892",)),
        # With other statuses it stands for other violations too.
        Known(
            EXISTS,
            codes=("0x80040237",),
            statuses=(HTTPStatus.PRECONDITION_FAILED,),
        ),
        Known(
            PASSES,
            "dynamics_throttled",
            # Requests, their time, how many at once; the platform's own limits.
            codes=(
                *("0x80072322", "0x80072321", "0x80072326"),
                *("0x80072327", "0x8005f103", "0x8004a001"),
            ),
        ),
        Known(
            PASSES,
            "dynamics_busy",
            # Time-out, lock, aborted transaction, network, TempDB.
            codes=("0x80044151", "0x8004026c", "0x80040255", "0x80073000", "0x80048542"),
        ),
        Known(
            PASSES,
            "dynamics_busy",
            # A SQL error of any kind; its number tells a deadlock and a broken connection.
            codes=("0x80044150",),
            phrases=("sql number: 1205", "sql number: 10054"),
        ),
        Known(
            PASSES,
            "dynamics_publishing",
            codes=("0x80071151", "0x80071154", "0x80090412", "0x80048543"),
        ),
        Known(PASSES, "dynamics_administration", codes=("0x8004a113",)),
        Known(
            PASSES,
            "dynamics_disabled",
            # Switched off, being migrated, not ready.
            codes=("0x8004a104", "0x8004b044", "0x8004d253"),
        ),
    ),
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
    read=_odata_error,
    # https://learn.microsoft.com/dynamics365/business-central/dev-itpro/webservices/dynamics-error-codes
    refusals=(
        Known(EXISTS, codes=("Internal_EntityWithSameKeyExists",)),
        Known(
            PASSES,
            "dynamics_starting",
            codes=("Internal_TenantUnavailable",),
        ),
        Known(
            PASSES,
            "dynamics_publishing",
            codes=("Internal_MetadataSyncError", "Application_ServiceUnavailable"),
        ),
        Known(
            PASSES,
            "dynamics_publishing",
            phrases=("page has just changed",),
            statuses=(HTTPStatus.BAD_REQUEST,),
        ),
        Known(PASSES, "dynamics_busy", codes=("Request_EntityChanged",)),
        Known(
            PASSES,
            "dynamics_busy",
            phrases=(
                "by another user",
                "another user has",
                "another session",
                "deadlock",
                "retry the activity",
            ),
            statuses=(HTTPStatus.BAD_REQUEST,),
        ),
        # A lock, or an administrator's change: one filter gives both the status of duplicates.
        Known(
            PASSES,
            "dynamics_busy",
            codes=(r"[A-Z][A-Za-z]+_\w+", "Unknown"),
            statuses=(HTTPStatus.CONFLICT,),
        ),
    ),
)
FINANCE_OPERATIONS = TargetKind(
    name="finance-operations",
    path=re.compile(r"(.*?)(/data)/([^/]+)/?", re.IGNORECASE),
    shape="/data/<collection>",
    url="https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    body=_BODY,
    read=_inner_error,
    refusals=(
        Known(
            EXISTS,
            codes=(_WRITE_EXCEPTION,),
            phrases=("already exists",),
        ),
        Known(
            PASSES,
            "dynamics_busy",
            codes=(_WRITE_EXCEPTION,),
            phrases=("deadlock", "update conflict"),
        ),
    ),
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


def meaning_of(refusal: Refusal) -> Known | None:
    """Return the entry that a refusal fits, if its body tells more than its status.

    The entries of all kinds count: behind a gateway the URL does not tell the kind.
    """
    found: list[Known] = []
    for kind in TARGETS:
        error = kind.read(refusal.document)
        if error is not None:
            found += (each for each in kind.refusals if each.fits(refusal, *error))
    return min(found, key=lambda each: each.meaning, default=None)
