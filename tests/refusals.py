"""The table of refusals, one line each: what is answered, what becomes of the callback.

`tests/walk/test_refusals_held.py` sends a callback for each line through the Functions host, over
TLS; `tests/unit/test_refusals.py` takes each entry out of the relay's own tables and looks for the
line that changes; the API Management edition reads its policies by it. The answers are captured or
documented ones.
"""

import json
from enum import Enum
from typing import Any, NamedTuple

from tests.helpers import STATE

AUTHORITY = "https://adfs.contoso.example/adfs"
"""Where a connection's tokens are from."""
PAGE = b"<!doctype html><title>Service is unavailable</title>"


class Ends(Enum):
    """What the person is told, what Dynamics has of it in the end, and why there is no more."""

    DELIVERED = "delivered", "code", ""
    HELD = "held", "code", "it passed"
    GIVEN_UP = "held", "nothing", "it went on, and there is a dead letter"
    EXISTS = "duplicate", "nothing", "it has the record of before"
    REFUSED = "rejected", "nothing", "refused for good"
    FRESH_TOKEN = "rejected", "nothing", "a fresh token is refused too"

    def __init__(self, outcome: str, has: str, _: str) -> None:
        self.outcome = outcome
        self.has = has


DELIVERED, HELD, GIVEN_UP, EXISTS, REFUSED, FRESH_TOKEN = Ends


class Answer(NamedTuple):
    """An answer of an upstream. Status 0: none, the connection is reset."""

    status: int
    body: object = b""
    location: str = ""

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def media_type(self) -> str:
        """The media type of the body."""
        return "text/html" if self.body == PAGE else "application/json"


class Case(NamedTuple):
    """One line. Upstreams give these answers, and then do their work. `letter`: its reason.

    `at` is the connection: a target, or what asks for the token (`adfs`, `identity`).
    """

    at: str
    ends: Ends
    dynamics: tuple[Answer, ...] = ()
    entra: tuple[Answer, ...] = ()
    letter: str = ""

    @property
    def has_own_token(self) -> bool:
        """Tell whether a token that others use would change it."""
        return bool(self.entra) or self.at in ("adfs", "identity") or self.ends is FRESH_TOKEN


TIMES = {HELD: 2, FRESH_TOKEN: 2}
"""How often an answer comes: at the callback, and from the outbox or with a fresh token."""


def of(at: str, ends: Ends, status: int, body: object = b"", location: str = "") -> Case:
    """Return the case of one answer of Dynamics."""
    return Case(at, ends, (Answer(status, body, location),) * TIMES.get(ends, 1))


def after(at: str, ends: Ends, *answers: Answer | int, letter: str = "") -> Case:
    """Return the case of several answers of Dynamics."""
    given = (each if isinstance(each, Answer) else Answer(each, NO) for each in answers)
    return Case(at, ends, tuple(given), letter=letter)


def coded(code: str, message: str = "") -> dict[str, Any]:
    """Return an error of Business Central or Dataverse."""
    return {"error": {"code": code, "message": f"{message} State='{STATE}'"}}


def bc(ends: Ends, status: int, code: str, message: str = "") -> Case:
    return of("bc", ends, status, coded(code, message))


def dv(ends: Ends, status: int, code: str, message: str = "") -> Case:
    return of("dataverse", ends, status, coded(code, message))


def ax(message: str, kind: str = "AxODataWriteException") -> dict[str, Any]:
    """Return an error of F&O's OData."""
    return {"error": {"code": "", "innererror": {"type": f"Dynamics.{kind}", "message": message}}}


def fo(ends: Ends, status: int, message: str, kind: str = "AxODataWriteException") -> Case:
    return of("finance", ends, status, ax(message, kind))


def xpp(kind: str) -> Answer:
    """Return an exception of a custom service."""
    return Answer(500, {"Message": "An exception occured", "ExceptionType": f"Dynamics.Ax.{kind}"})


def said(status: int, error: str, code: int = 0, *, in_words: bool = False) -> Answer:
    """Return an error of the token endpoint; `code` 0: without an AADSTS number."""
    body: dict[str, object] = {"error": error, "error_description": "canary"}
    if code:
        body["error_description"] = f"AADSTS{code}: canary"
    if code and not in_words:
        body["error_codes"] = [code]
    return Answer(status, body)


def aad(ends: Ends, status: int, error: str, code: int = 0, *, in_words: bool = False) -> Case:
    return Case("finance", ends, entra=(said(status, error, code, in_words=in_words),) * 2)


def adfs(ends: Ends, error: str, msis: str) -> Case:
    body = {"error": error, "error_description": f"{msis}: canary"}
    return Case("adfs", ends, entra=(Answer(400, body),))


NO = {"Message": "No."}
RESET, LOST, TOKEN = Answer(0), Answer(0, "stored"), Answer(200, "a token")
"""No answer; none, but the record is stored; what Entra gives otherwise."""
LOCK = "The operation could not complete because a row was locked by another session."
DEADLOCK = "Your activity was deadlocked with another user. Please retry the activity."
CHANGED = "The record has been changed by another user."
SQL = "Generic SQL error. CRM ErrorCode: -2147204784 Sql ErrorCode: -2146232060 Sql Number: {}"
SIGN_IN = f"{AUTHORITY}/ls/?wa=wsignin1.0"

TARGET_CASES = {
    # Business Central
    "bc": Case("bc", DELIVERED),
    "bc-duplicate-400": bc(EXISTS, 400, "Internal_EntityWithSameKeyExists"),
    "bc-duplicate-409": bc(EXISTS, 409, "Internal_EntityWithSameKeyExists"),
    "bc-row-lock": bc(HELD, 409, "Internal_ServerError", LOCK),
    "bc-deadlock": bc(HELD, 409, "Internal_ServerError", DEADLOCK),
    "bc-409-without-a-text": bc(HELD, 409, "Unknown"),
    "bc-entity-changed-400": bc(HELD, 400, "Request_EntityChanged"),
    "bc-entity-changed": bc(HELD, 409, "Request_EntityChanged"),
    "bc-deadlock-400": bc(HELD, 400, "Application_DialogException", DEADLOCK),
    "bc-deadlock-only": bc(HELD, 400, "Unknown", "The transaction was deadlocked."),
    "bc-retry-only": bc(HELD, 400, "Unknown", "Please retry the activity."),
    "bc-modified-400": bc(HELD, 400, "Unknown", "Another user has modified the record."),
    "bc-changed-400": bc(HELD, 400, "Application_DialogException", CHANGED),
    "bc-lock-400": bc(HELD, 400, "Internal_ServerError", LOCK),
    "bc-just-published": bc(HELD, 400, "Unknown", "The page has just changed, try again"),
    "bc-schema": bc(HELD, 400, "Internal_MetadataSyncError"),
    "bc-session": bc(HELD, 400, "Application_ServiceUnavailable"),
    "bc-starting": bc(HELD, 404, "Internal_TenantUnavailable"),
    "bc-starting-503": bc(HELD, 503, "Internal_TenantUnavailable"),
    "bc-fault": bc(HELD, 500, "Internal_ServerError"),
    "bc-switched-off": bc(HELD, 501, "BadRequest_MethodNotImplemented"),
    "bc-503-page": of("bc", HELD, 503, PAGE),
    "bc-dialog": bc(REFUSED, 400, "Application_DialogException", "It already exists."),
    "bc-field": bc(REFUSED, 400, "Application_FieldValidationException"),
    "bc-evaluate": bc(REFUSED, 400, "Application_EvaluateException"),
    "bc-guid": bc(REFUSED, 400, "Application_InvalidGUID"),
    "bc-too-long": bc(REFUSED, 400, "Application_StringExceededLength"),
    "bc-question": bc(REFUSED, 400, "Application_CallbackNotAllowed"),
    "bc-no-property": bc(REFUSED, 400, "BadRequest", "Could not find a property named 'cod'"),
    "bc-lock-of-another-status": bc(REFUSED, 403, "Unknown", CHANGED),
    "bc-published-of-another-status": bc(REFUSED, 403, "Unknown", "The page has just changed."),
    "bc-unknown": bc(REFUSED, 400, "Unknown"),
    "bc-no-page": bc(REFUSED, 404, "BadRequest_NotFound"),
    "bc-no-environment": bc(REFUSED, 404, "BadRequest_ResourceNotFound"),
    "bc-no-company": bc(REFUSED, 404, "Internal_CompanyNotFound"),
    "bc-read-only": bc(REFUSED, 405, "BadRequest_MethodNotAllowed"),
    "bc-permission": bc(REFUSED, 403, "Internal_ServerError", "Sorry, the permissions"),
    "bc-permission-set": bc(REFUSED, 403, "Authorization_InsufficientPermissions"),
    "bc-denied": bc(REFUSED, 403, "Authorization_RequestDenied"),
    "bc-large": of("bc", REFUSED, 413),
    "bc-token": bc(FRESH_TOKEN, 401, "Authentication_InvalidCredentials"),
    "bc-old-token": bc(FRESH_TOKEN, 401, "Authentication_TokenExpired"),
    # Dataverse
    "dv": Case("dataverse", DELIVERED),
    "dv-duplicate": dv(EXISTS, 412, "0x80060892"),
    "dv-duplicate-of-a-key": dv(EXISTS, 412, "0x80040237"),
    "dv-another-violation": dv(REFUSED, 400, "0x80040237"),
    "dv-constraint": dv(HELD, 500, "0x80073002"),
    "dv-detection-rule": dv(HELD, 500, "0x80040333"),
    "dv-version": dv(REFUSED, 412, "0x80060882"),
    "dv-key-not-found": dv(REFUSED, 404, "0x80060891"),
    "dv-administration-mode": dv(HELD, 403, "0x8004A113"),
    "dv-administration-mode-lower-case": dv(HELD, 403, "0x8004a113"),
    "dv-disabled": dv(HELD, 403, "0x8004a104"),
    "dv-migration": dv(HELD, 403, "0x8004b044"),
    "dv-not-ready": dv(HELD, 403, "0x8004d253"),
    "dv-throttled": dv(HELD, 429, "0x80072322"),
    "dv-requests": dv(HELD, 400, "0x80072322"),
    "dv-their-time": dv(HELD, 400, "0x80072321"),
    "dv-at-once": dv(HELD, 400, "0x80072326"),
    "dv-limit": dv(HELD, 400, "0x80072327"),
    "dv-another-limit": dv(HELD, 400, "0x8005F103"),
    "dv-busy": dv(HELD, 400, "0x8004A001"),
    "dv-sql-time-out": dv(HELD, 400, "0x80044151"),
    "dv-sql-lock": dv(HELD, 400, "0x8004026c"),
    "dv-sql-aborted": dv(HELD, 400, "0x80040255"),
    "dv-sql-network": dv(HELD, 400, "0x80073000"),
    "dv-sql-tempdb": dv(HELD, 400, "0x80048542"),
    "dv-import-429": dv(HELD, 429, "0x80071151"),
    "dv-import": dv(HELD, 400, "0x80071151"),
    "dv-publish": dv(HELD, 400, "0x80071154"),
    "dv-import-lock": dv(HELD, 400, "0x80090412"),
    "dv-publish-lock": dv(HELD, 400, "0x80048543"),
    "dv-sql-deadlock": dv(HELD, 400, "0x80044150", SQL.format(1205)),
    "dv-sql-reset": dv(HELD, 400, "0x80044150", SQL.format(10054)),
    "dv-sql-deadlock-500": dv(HELD, 500, "0x80044150", SQL.format(1205)),
    "dv-sql-other": dv(REFUSED, 400, "0x80044150", SQL.format(12050)),
    "dv-sql-duplicate": dv(REFUSED, 400, "0x80044150", SQL.format(2627)),
    "dv-sql-number-of-another": dv(REFUSED, 400, "0x80040216", SQL.format(1205)),
    "dv-plug-in-crash": dv(HELD, 500, "0x80040224"),
    "dv-unexpected": dv(HELD, 500, "0x80040216"),
    "dv-unexpected-400": dv(REFUSED, 400, "0x80040216"),
    "dv-user-disabled": dv(REFUSED, 403, "0x8004A112"),
    "dv-no-member": dv(REFUSED, 403, "0x80072560"),
    "dv-no-privilege": dv(REFUSED, 403, "0x80040220"),
    "dv-access-denied": dv(REFUSED, 403, "0x80048306"),
    "dv-no-roles": dv(REFUSED, 403, "0x80042f09"),
    "dv-user-off": dv(REFUSED, 403, "0x80040225"),
    "dv-no-license": dv(REFUSED, 403, "0x8004D24B"),
    "dv-app-blocked": dv(REFUSED, 403, "0x80095ffc"),
    "dv-bad-request": dv(REFUSED, 400, "0x80040203"),
    "dv-bad-argument": dv(REFUSED, 400, "0x80040218"),
    "dv-no-table": dv(REFUSED, 404, "0x8006088a"),
    "dv-no-column": dv(REFUSED, 400, "0x0"),
    "dv-too-long": dv(REFUSED, 400, "0x80044331"),
    "dv-too-long-for-sql": dv(REFUSED, 400, "0x80073001"),
    "dv-too-long-for-a-column": dv(REFUSED, 400, "0x80090429"),
    "dv-plug-in-refuses": dv(REFUSED, 400, "0x80040265"),
    "dv-token": of("dataverse", FRESH_TOKEN, 401),
    # Finance & Operations
    "fo": Case("finance", DELIVERED),
    "fo-duplicate": fo(EXISTS, 400, "The record already exists."),
    "fo-duplicate-500": fo(EXISTS, 500, "The record already exists."),
    "fo-deadlock": fo(HELD, 400, "Cannot create a record. Deadlock, where one or more users"),
    "fo-update-conflict": fo(HELD, 400, "An update conflict occurred."),
    "fo-another-exception": fo(REFUSED, 400, "A deadlock.", "InvalidOperationException"),
    "fo-exists-elsewhere": fo(REFUSED, 400, "It already exists.", "InvalidOperationException"),
    "fo-field": fo(REFUSED, 400, "Field 'State' must be filled in."),
    "fo-field-500": fo(HELD, 500, "Field 'State' must be filled in."),
    "fo-servicing-302": of("finance", HELD, 302, b"", "https://contoso.example/servicing"),
    "fo-servicing-307": of("finance", HELD, 307, PAGE, "https://contoso.example/servicing"),
    "fo-servicing-page": of("finance", HELD, 200, PAGE),
    "fo-servicing-page-403": of("finance", HELD, 403, PAGE),
    "fo-servicing-page-404": of("finance", HELD, 404, PAGE),
    "fo-servicing-502": of("finance", HELD, 502, PAGE),
    "fo-servicing-text": of("finance", HELD, 503, b"Service is unavailable"),
    "fo-forbidden": of("finance", REFUSED, 403, {"Message": "Forbidden"}),
    "fo-token": of("finance", FRESH_TOKEN, 401, {"Message": "Authentication failed."}),
    "fo-401-page": of("finance", FRESH_TOKEN, 401, PAGE),
    "fo-on-premises": of("adfs", FRESH_TOKEN, 302, b"", SIGN_IN),
    "fo-on-premises-capitals": of("adfs", FRESH_TOKEN, 302, b"", SIGN_IN.replace("adfs.", "ADFS.")),
    "fo-another-port": of("adfs", HELD, 302, b"", "https://adfs.contoso.example:8443/adfs"),
    "fo-no-location": of("finance", HELD, 302),
    "fo-malformed-location": of("finance", HELD, 302, b"", "https://[adfs/"),
    "service": Case("service", DELIVERED),
    "service-duplicate": Case("service", EXISTS, (xpp("Xpp.DuplicateKeyException"),)),
    "service-exception-400": of("service", REFUSED, 400, {"ExceptionType": "Dynamics.Ax.Error"}),
    # any
    "request-time-out": of("finance", HELD, 408),
    "too-early": of("finance", HELD, 425),
    "throttled": of("finance", HELD, 429),
    "unavailable": of("finance", HELD, 503),
    "gateway-time-out": of("finance", HELD, 504),
    "conflict-of-nobody": of("finance", REFUSED, 409, {"Message": "Conflict"}),
    "conflict-of-somebody": of("finance", REFUSED, 409, coded("conflict")),
    "gone": of("finance", REFUSED, 410),
}
"""One answer of Dynamics each, or none."""

SEQUENCES = {
    "broken-connection": after("finance", HELD, RESET, RESET),
    "token-refused-once": Case("finance", DELIVERED, (Answer(401),), (TOKEN, TOKEN)),
    "token-of-adfs-refused-once": Case("adfs", DELIVERED, (Answer(302, b"", SIGN_IN),)),
    # On a connection that was open the POST is repeated at once.
    "lost-answer-and-0x80040237": after(
        "dataverse", HELD, LOST, RESET, Answer(412, coded("0x80040237"))
    ),
    **{
        f"lost-answer-of-{at}": after(at, HELD, LOST, RESET)
        for at in ("finance", "service", "bc", "dataverse")
    },
    "redelivery-404-403": after("finance", HELD, 503, 404, 403),
    "redelivery-403-three-times": after(
        "finance", GIVEN_UP, 503, 404, 403, 503, 404, 403, 403, letter="dynamics_403"
    ),
    "redelivery-401-three-times": Case(
        "finance", GIVEN_UP, (Answer(503), *(Answer(401),) * 6), (TOKEN, TOKEN), "dynamics_401"
    ),
    "redelivery-400": after("finance", GIVEN_UP, 503, 400, letter="dynamics_400"),
    "service-exception": after(
        "service", GIVEN_UP, *(xpp("Xpp.ErrorException"),) * 3, letter="dynamics_500"
    ),
    "service-null": after(
        "service", GIVEN_UP, *(xpp("NullReferenceException"),) * 3, letter="dynamics_500"
    ),
}
"""Several answers of Dynamics."""

FINAL: dict[int, dict[str, tuple[int, ...]]] = {
    400: {
        "invalid_grant": (65001, 53003, 530032, 501051, 500133, 50058, 50105, 50076),
        "invalid_resource": (650057, 500011, 50001),
        "invalid_client": (650052, 650056),
        "invalid_scope": (70011, 28002, 1002012),
        "invalid_tenant": (90002,),
        "unauthorized_client": (700016, 70001, 7000112, 700011),
        "invalid_request": (
            *(90036, 90092, 40008, 50086, 5000224, 90014, 900144, 900023, 50059, 50194),
            *(1000031, 900382, 100007, 90038, 900432, 7000215, 50034),
        ),
    },
    401: {
        "invalid_client": (
            *(7002138, 7002131, 7000215, 7000222, 700027, 7000214, 1000502, 700025),
            *(7000216, 7000218, 50012, 700030),
        ),
    },
}
"""Refusals of Entra that are for good: numbers by status and `error`."""

ENTRA_CASES = {
    "entra-90033-400": aad(HELD, 400, "temporarily_unavailable", 90033),
    "entra-90024-401": aad(HELD, 401, "temporarily_unavailable", 90024),
    "entra-busy-400": aad(HELD, 400, "temporarily_unavailable"),
    "entra-error-400": aad(HELD, 400, "server_error"),
    "entra-error-50000": aad(HELD, 403, "server_error", 50000),
    "entra-90033-503": aad(HELD, 503, "temporarily_unavailable", 90033),
    "entra-90055-429": aad(HELD, 429, "temporarily_unavailable", 90055),
    "entra-in-words": aad(HELD, 400, "invalid_request", 90033, in_words=True),
    "entra-504-empty": Case("finance", HELD, entra=(Answer(504),)),
    "entra-page-200": Case("finance", HELD, entra=(Answer(200, PAGE),)),
    "entra-page-400": Case("finance", HELD, entra=(Answer(400, PAGE),)),
    **{
        f"entra-by-its-status-{status}": aad(HELD, status, "invalid_request")
        for status in (408, 425, 429, 500, 503)
    },
    **{
        f"entra-{code}": aad(HELD, 400, "invalid_request", code)
        for code in (90006, 90012, 90024, 90033, 90055, 90090, 90091, 70021)
    },
    **{
        f"entra-{code}": aad(HELD, 401, "invalid_grant", code)
        for code in (40010, 50033, 50087, 50196, 51005, 70012, 80005)
    },
    **{
        f"entra-{code}-401": aad(HELD, 401, "invalid_client", code)
        for code in (700024, 70021, 700211, 700212, 700213)
    },
    **{
        f"entra-{code}-once": Case("finance", DELIVERED, entra=(said(401, "invalid_client", code),))
        for code in (70021, 700211, 700212, 700213)
    },
    "entra-700213-warm": Case(
        "finance", DELIVERED, (Answer(401),), (TOKEN, said(401, "invalid_client", 700213))
    ),
    **{
        f"entra-{code}-{status}-is-final": aad(REFUSED, status, error, code)
        for status, errors in FINAL.items()
        for error, codes in errors.items()
        for code in codes
    },
    "entra-without-a-code": aad(REFUSED, 401, "invalid_client"),
    "entra-access-denied": aad(REFUSED, 403, "access_denied"),
    # AD FS: faults of the client are 400, never 401.
    "adfs": Case("adfs", DELIVERED),
    "adfs-client": adfs(REFUSED, "invalid_client", "MSIS9607"),
    "adfs-secret": adfs(REFUSED, "invalid_client", "MSIS9622"),
    "adfs-audience": adfs(REFUSED, "invalid_grant", "MSIS9622"),
    "adfs-permission": adfs(REFUSED, "access_denied", "MSIS9605"),
    "adfs-scope": adfs(REFUSED, "invalid_scope", "MSIS9611"),
    "adfs-resource": adfs(REFUSED, "invalid_resource", "MSIS9602"),
    "adfs-application": adfs(REFUSED, "unauthorized_client", "MSIS9321"),
    "adfs-busy": adfs(HELD, "temporarily_unavailable", "MSIS9000"),
    "adfs-503-page": Case("adfs", HELD, entra=(Answer(503, PAGE),)),
    # An address without AD FS answers so too, but a proxy may stand there for minutes.
    "adfs-404-empty": Case("adfs", HELD, entra=(Answer(404),)),
    # The platform's identity endpoint: MSAL words its refusals, the status decides.
    "identity": Case("identity", DELIVERED),
    **{
        f"identity-{status}": Case("identity", HELD, entra=(Answer(status, NO),))
        for status in (404, 408, 410, 425, 429, 500, 503, 504)
    },
    **{
        f"identity-{status}": Case("identity", REFUSED, entra=(Answer(status, NO),))
        for status in (400, 401, 403)
    },
}
"""Answers of whoever issues the token."""

CASES = TARGET_CASES | SEQUENCES | ENTRA_CASES


# -- at the redirect -----------------------------------------------------------------------------


class Redirect(NamedTuple):
    """An error response, and whether a person decided so or somebody has to mend something."""

    decided: bool
    error: str
    description: str = ""


SET_UP = (
    *("invalid_request", "unauthorized_client", "unsupported_response_type", "invalid_scope"),
    *("invalid_resource", "invalid_target", "invalid_authorization_details"),
    *("invalid_request_uri", "invalid_request_object", "request_not_supported"),
    *("request_uri_not_supported", "registration_not_supported"),
    *("server_error", "temporarily_unavailable", "unmet_authentication_requirements"),
    *("consent_required", "login_required", "interaction_required", "account_selection_required"),
    *("unauthorized_scope_error", "invalid_scope_error"),  # LinkedIn
    *("admin_policy_enforced", "org_internal", "disallowed_useragent", "deleted_client"),  # Google
    *("application_suspended", "redirect_uri_mismatch"),  # GitHub
    *("OAUTH_APP_BLOCKED", "OAUTH_APPROVAL_ERROR_GENERIC"),  # Salesforce
)
REDIRECTS = [
    *(Redirect(decided=False, error=error) for error in SET_UP),
    Redirect(True, "access_denied"),
    Redirect(True, "ACCESS_DENIED"),
    Redirect(True, "access-denied", "end-user denied authorization"),
    Redirect(True, "access_denied", "The user denied your request"),
    Redirect(True, "access_denied", "TenantConsent status DENIED"),
    Redirect(True, "access_denied", "AADB2C90091: The user has cancelled entering information."),
    Redirect(True, "user_cancelled"),
    Redirect(True, "user_cancelled_authorize"),
    Redirect(True, "user_cancelled_login"),
    Redirect(True, "UserCancelledSession"),
    Redirect(True, "consent_required", "AADSTS65004: User declined to consent."),
    Redirect(False, "access_denied", "AADSTS65005: The application needs access to a service."),
    Redirect(False, "access_denied", "MSIS9605: The client is not allowed to access it."),
    Redirect(False, "access_denied", "Permissions error"),
    Redirect(False, "access_denied", "Policy evaluation failed for this request."),
    Redirect(False, "access_denied", "User is not assigned to the client application."),
    Redirect(False, "interaction_required", "AADSTS50105: The user is not assigned to a role."),
    Redirect(False, "interaction_required", "AADSTS90094: Admin consent is required."),
    Redirect(False, "temporarily_unavailable", "authentication_expired"),
]
"""Errors of authorization endpoints, with words that providers put beside them."""
