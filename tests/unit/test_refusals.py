"""Refusals of Dynamics, one line each: what is answered, and what becomes of the callback.

The answers are captured or documented ones. What is held is delivered once Dynamics gives way.
"""

import json
import ssl
from typing import Any, NamedTuple

import pytest
from pytest_httpx import HTTPXMock

from relay.delivery import targets
from relay.delivery.dynamics import DynamicsClient
from relay.errors import Rejected, Unauthorized, Unavailable, Undelivered
from relay.ports import AccessToken, Receipt
from tests.helpers import CANARY, CODE, STATE, TOKEN, connection

AUTHORITY = "https://adfs.contoso.example/adfs"
PAGE = b"<!doctype html><title>Service is unavailable</title>"
EXISTS, HELD, REFUSED, FRESH_TOKEN = "exists", Unavailable, Rejected, Unauthorized


class Case(NamedTuple):
    """An answer: its status, its body, and a location if it is a redirect."""

    outcome: str | type[Undelivered]
    status: int
    body: object = b""
    location: str = ""


def coded(code: str, message: str = "") -> dict[str, Any]:
    """Return an error of Business Central or Dataverse."""
    return {"error": {"code": code, "message": f"{message} State='{STATE}'"}}


def ax(message: str, kind: str = "AxODataWriteException") -> dict[str, Any]:
    """Return an error of F&O's OData."""
    return {"error": {"code": "", "innererror": {"type": f"Dynamics.{kind}", "message": message}}}


LOCK = "The operation could not complete because a row was locked by another session."
DEADLOCK = "Your activity was deadlocked with another user. Please retry the activity."
CHANGED = "The record has been changed by another user."
SQL = "Generic SQL error. CRM ErrorCode: -2147204784 Sql ErrorCode: -2146232060 Sql Number: {}"

CASES = {
    # Business Central
    "bc-duplicate-400": Case(EXISTS, 400, coded("Internal_EntityWithSameKeyExists")),
    "bc-duplicate-409": Case(EXISTS, 409, coded("Internal_EntityWithSameKeyExists")),
    "bc-row-lock": Case(HELD, 409, coded("Internal_ServerError", LOCK)),
    "bc-409-without-a-text": Case(HELD, 409, coded("Unknown")),
    "bc-entity-changed-400": Case(HELD, 400, coded("Request_EntityChanged")),
    "bc-entity-changed": Case(HELD, 409, coded("Request_EntityChanged")),
    "bc-deadlock-400": Case(HELD, 400, coded("Application_DialogException", DEADLOCK)),
    "bc-deadlock-only": Case(HELD, 400, coded("Unknown", "The transaction was deadlocked.")),
    "bc-retry-only": Case(HELD, 400, coded("Unknown", "Please retry the activity.")),
    "bc-modified-400": Case(HELD, 400, coded("Unknown", "Another user has modified the record.")),
    "bc-changed-400": Case(HELD, 400, coded("Application_DialogException", CHANGED)),
    "bc-lock-400": Case(HELD, 400, coded("Internal_ServerError", LOCK)),
    "bc-just-published": Case(HELD, 400, coded("Unknown", "The page has just changed, try again")),
    "bc-schema": Case(HELD, 400, coded("Internal_MetadataSyncError")),
    "bc-session": Case(HELD, 400, coded("Application_ServiceUnavailable")),
    "bc-starting": Case(HELD, 404, coded("Internal_TenantUnavailable")),
    "bc-dialog": Case(REFUSED, 400, coded("Application_DialogException", "It already exists.")),
    "bc-too-long": Case(REFUSED, 400, coded("Application_StringExceededLength")),
    "bc-no-page": Case(REFUSED, 404, coded("BadRequest_NotFound")),
    "bc-read-only": Case(REFUSED, 405, coded("BadRequest_MethodNotAllowed")),
    "bc-permission": Case(REFUSED, 403, coded("Internal_ServerError", "Sorry, the permissions")),
    "bc-token": Case(FRESH_TOKEN, 401, coded("Authentication_InvalidCredentials")),
    # Dataverse
    "dv-duplicate": Case(EXISTS, 412, coded("0x80060892")),
    "dv-duplicate-of-a-key": Case(EXISTS, 412, coded("0x80040237")),
    "dv-another-violation": Case(REFUSED, 400, coded("0x80040237")),
    "dv-version": Case(REFUSED, 412, coded("0x80060882")),
    "dv-key-not-found": Case(REFUSED, 404, coded("0x80060891")),
    "dv-administration-mode": Case(HELD, 403, coded("0x8004A113")),
    "dv-administration-mode-lower-case": Case(HELD, 403, coded("0x8004a113")),
    "dv-disabled": Case(HELD, 403, coded("0x8004a104")),
    "dv-migration": Case(HELD, 403, coded("0x8004b044")),
    "dv-not-ready": Case(HELD, 403, coded("0x8004d253")),
    "dv-requests": Case(HELD, 400, coded("0x80072322")),
    "dv-their-time": Case(HELD, 400, coded("0x80072321")),
    "dv-at-once": Case(HELD, 400, coded("0x80072326")),
    "dv-limit": Case(HELD, 400, coded("0x80072327")),
    "dv-another-limit": Case(HELD, 400, coded("0x8005F103")),
    "dv-busy": Case(HELD, 400, coded("0x8004A001")),
    "dv-sql-time-out": Case(HELD, 400, coded("0x80044151")),
    "dv-sql-lock": Case(HELD, 400, coded("0x8004026c")),
    "dv-sql-aborted": Case(HELD, 400, coded("0x80040255")),
    "dv-sql-network": Case(HELD, 400, coded("0x80073000")),
    "dv-sql-tempdb": Case(HELD, 400, coded("0x80048542")),
    "dv-import": Case(HELD, 400, coded("0x80071151")),
    "dv-publish": Case(HELD, 400, coded("0x80071154")),
    "dv-import-lock": Case(HELD, 400, coded("0x80090412")),
    "dv-publish-lock": Case(HELD, 400, coded("0x80048543")),
    "dv-sql-deadlock": Case(HELD, 400, coded("0x80044150", SQL.format(1205))),
    "dv-sql-reset": Case(HELD, 400, coded("0x80044150", SQL.format(10054))),
    "dv-sql-other": Case(REFUSED, 400, coded("0x80044150", SQL.format(12050))),
    "dv-sql-deadlock-500": Case(HELD, 500, coded("0x80044150", SQL.format(1205))),
    "dv-user-disabled": Case(REFUSED, 403, coded("0x8004A112")),
    "dv-no-member": Case(REFUSED, 403, coded("0x80072560")),
    "dv-too-long": Case(REFUSED, 400, coded("0x80044331")),
    # Finance & Operations
    "fo-duplicate": Case(EXISTS, 400, ax("The record already exists.")),
    "fo-deadlock": Case(HELD, 400, ax("Cannot create a record. Deadlock, where one or more users")),
    "fo-update-conflict": Case(HELD, 400, ax("An update conflict occurred.")),
    "fo-another-exception": Case(REFUSED, 400, ax("A deadlock.", "InvalidOperationException")),
    "fo-field": Case(REFUSED, 400, ax("Field 'State' must be filled in.")),
    "fo-servicing-302": Case(HELD, 302, location="https://contoso.example/servicing"),
    "fo-servicing-307": Case(HELD, 307, PAGE, "https://contoso.example/servicing"),
    "fo-servicing-page": Case(HELD, 200, PAGE),
    "fo-servicing-page-403": Case(HELD, 403, PAGE),
    "fo-servicing-page-404": Case(HELD, 404, PAGE),
    "fo-servicing-502": Case(HELD, 502, PAGE),
    "fo-forbidden": Case(REFUSED, 403, {"Message": "Forbidden"}),
    "fo-on-premises": Case(FRESH_TOKEN, 302, location=f"{AUTHORITY}/ls/?wa=wsignin1.0"),
    "fo-on-premises-port": Case(FRESH_TOKEN, 302, location="https://ADFS.contoso.example:443/adfs"),
    "fo-another-port": Case(HELD, 302, location="https://adfs.contoso.example:8443/adfs"),
    "fo-no-location": Case(HELD, 302),
    "fo-malformed-location": Case(HELD, 302, location="https://[adfs/"),
    "fo-401-page": Case(FRESH_TOKEN, 401, PAGE),
    # any
    "request-time-out": Case(HELD, 408),
    "too-early": Case(HELD, 425),
    "throttled": Case(HELD, 429),
    "unavailable": Case(HELD, 503),
    "conflict-of-nobody": Case(REFUSED, 409, {"Message": "Conflict"}),
    "gone": Case(REFUSED, 410),
}


async def outcome(mock: HTTPXMock, case: Case, sent: tuple[str, ...] = (CODE, STATE)) -> object:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    headers = {"content-type": "text/html" if body == PAGE else "application/json"}
    headers |= {"location": case.location} if case.location else {}
    mock.add_response(status_code=case.status, headers=headers, content=body)
    dynamics = DynamicsClient(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    token = AccessToken(TOKEN, fresh_until=1e9, expires_at=1e9, authority=AUTHORITY)
    target = connection().target
    result: Receipt | Undelivered
    try:
        result = await dynamics.deliver(target, token, b"{}", reference="0" * 16, sent=sent)
    except Undelivered as error:
        result = error
    finally:
        await dynamics.aclose()
    if isinstance(result, Receipt):
        return EXISTS if result.existed else "delivered"
    assert result.dynamics_status == case.status
    assert CANARY not in repr(vars(result)) + str(result)
    return type(result)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_refusal_of_dynamics_is_final_only_if_nothing_says_that_it_passes(
    httpx_mock: HTTPXMock, case: Case
) -> None:
    assert await outcome(httpx_mock, case) == case.outcome


@pytest.mark.parametrize("value", [DEADLOCK, CHANGED])
async def test_a_value_does_not_make_a_refusal_that_passes(
    httpx_mock: HTTPXMock, value: str
) -> None:
    case = Case(REFUSED, 400, coded("Application_StringExceededLength", f"Value: {value}"))
    assert await outcome(httpx_mock, case, (value, STATE)) == REFUSED


TABLES = ("BC_TRANSIENT", "BC_CHANGED", "DATAVERSE_TRANSIENT")


def held() -> set[str]:
    """Return the cases that an entry of a target holds, and not their status."""
    return {
        name
        for name, case in CASES.items()
        if not isinstance(case.body, bytes)
        and targets.is_transient(
            targets.Refusal.of(case.status, json.dumps(case.body).encode(), (CODE, STATE))
        )
    }


@pytest.mark.parametrize(
    ("table", "entry"),
    [(name, entry) for name in TABLES for entry in sorted(getattr(targets, name))],
)
def test_each_entry_of_the_tables_holds_a_case(
    table: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, entries = held(), getattr(targets, table)
    monkeypatch.setattr(targets, table, type(entries)(each for each in entries if each != entry))
    assert held() < before
