"""Microsoft Dataverse: one table with an alternate key on the state.

Addresses, headers and errors follow
https://learn.microsoft.com/power-apps/developer/data-platform/webapi/compose-http-requests-handle-errors,
https://learn.microsoft.com/power-apps/developer/data-platform/webapi/create-entity-web-api,
https://learn.microsoft.com/troubleshoot/power-platform/power-apps/dataverse/web-api-client-errors,
https://learn.microsoft.com/power-apps/developer/data-platform/reference/web-service-error-codes and
captured responses. Errors repeat the values sent only if the request asks for annotations.
"""

import json
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Unpack
from uuid import NAMESPACE_URL, uuid4, uuid5
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.entra import Entra
from sandbox.target import (
    Common,
    Flaw,
    Names,
    Property,
    RefusedError,
    Target,
    csdl,
    no_content,
    origin,
    prefers,
)

ROOT = "/api/data/v9.2"
SCHEMA_NAME = "new_OAuthCallback"
TABLE = SCHEMA_NAME.lower()
"""The table's logical name."""
COLLECTION = f"{TABLE}s"
ID = f"{TABLE}id"
KEY_NAME = "State Key"
NAMESPACE = "Microsoft.Dynamics.CRM"
CREATE = f"prvCreate{SCHEMA_NAME}"
READ = f"prvRead{SCHEMA_NAME}"
HEADERS = {"Content-Type": "application/json; odata.metadata=minimal", "OData-Version": "4.0"}
DETAILS = "@Microsoft.PowerApps.CDS.ErrorDetails."
NOWHERE = "00000000-0000-0000-0000-000000000000"


class Dataverse(Target):
    """An environment with the table `new_oauthcallback`, keyed by state; serve `app`.

    `path` is the table's. `authorized_apps` are the application users. `authority` is the login
    host in the challenge of a 401. `further` are columns besides `names`, `lengths` the columns'
    lengths (default: 4000 characters, and 450 for the state, because a key holds 900 bytes).
    """

    def __init__(
        self,
        entra: Entra,
        *,
        names: Names | None = None,
        lengths: Mapping[str, int] | None = None,
        authority: str = "https://login.microsoftonline.com",
        **common: Unpack[Common],
    ) -> None:
        names = names or Names("new_code", "new_state", "new_error", "new_errordescription")
        super().__init__(
            entra,
            names=names,
            lengths={**dict.fromkeys(names, 4000), names.state: 450, **(lengths or {})},
            **common,
        )
        self.tenant = entra.tenant
        self.authority = authority
        self.readable = True
        """Whether the application user's security role lets it read the table."""
        self.key_status: str | None = "Active"
        """`EntityKeyIndexStatus` of the alternate key: only an active one prevents duplicates;
        `None` for a table without a key."""

    path = f"{ROOT}/{COLLECTION}"

    def _is_api(self, path: str) -> bool:
        return path.startswith("/api/data/")

    def _audiences(self, request: Request) -> Collection[str]:
        """Accept the audience with a slash too: Dataverse's own resource identifiers end in one."""
        return {
            f"{audience}{slash}" for audience in super()._audiences(request) for slash in ("", "/")
        }

    def _serve(self, request: Request, body: bytes) -> Response:
        path = request.url.path
        if not path.startswith(f"{ROOT}/"):
            raise RefusedError(self._not_found(request))
        claims = self._check_token(request)
        user = str(uuid5(NAMESPACE_URL, f"{self.tenant}/systemuser/{claims['appid']}"))
        match request.method, path.removeprefix(f"{ROOT}/").split("/"):
            case "GET", ["WhoAmI"]:
                return self._who_am_i(request, user)
            case "GET", ["$metadata"]:
                return self._metadata()
            case "GET", [segment, *rest] if segment.startswith("EntityDefinitions"):
                return self._definitions(request, segment, rest)
            case "GET", [segment, function] if segment.startswith("systemusers("):
                return self._privileges(request, user, segment, function)
            case "GET", [segment]:
                self._check_segment(segment)
                return self._list(request, user)
            case "POST", [segment] if segment != "WhoAmI":
                self._check_segment(segment)
                return self._create(request, user, body)
        raise RefusedError(self._not_found(request))

    def _check_segment(self, segment: str) -> None:
        if segment != COLLECTION:
            text = f"Resource not found for the segment '{segment}'."
            raise RefusedError(_error(404, "0x8006088a", text))

    # --- rows ----------------------------------------------------------------------------------

    def _list(self, request: Request, user: str) -> Response:
        if not self.readable:
            raise RefusedError(_denied(user, READ))
        return _ok(request, COLLECTION, value=self._top(request))

    def _create(self, request: Request, user: str, body: bytes) -> Response:
        if not self.permitted:
            raise RefusedError(_denied(user, CREATE))
        row = {**self._row(request, body), ID: str(uuid4())}
        self._store(request, row)
        entity = f"{origin(request)}{self.path}({row[ID]})"
        context = f"{origin(request)}{ROOT}/$metadata#{COLLECTION}/$entity"
        echo = {"@odata.context": context, "@odata.etag": 'W/"1000001"', **row}
        headers = {**HEADERS, "Location": entity, "OData-EntityId": entity}
        return JSONResponse(echo, 201, headers)

    def _store(self, request: Request, row: dict[str, Any]) -> None:
        """Store a row. Duplicates are possible if its key is null or no key is active."""
        state = row.get(self.names.state)
        if state and self.key_status == "Active":
            super()._store(request, row)
            return
        self._check_lengths(row)
        self.rows[state if state and state not in self.rows else row[ID]] = row

    def _as_preferred(self, request: Request, answer: Response) -> Response:
        if answer.status_code != HTTPStatus.CREATED:
            return answer
        if prefers(request, "return=representation"):
            answer.headers["Preference-Applied"] = "return=representation"
            return answer
        minimal = no_content(answer.headers["OData-EntityId"])
        if not prefers(request, "return=minimal"):
            del minimal.headers["Preference-Applied"]
        return minimal

    # --- what a read-only check reads ----------------------------------------------------------

    def _who_am_i(self, request: Request, user: str) -> Response:
        """https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/whoami."""
        unit = str(uuid5(NAMESPACE_URL, f"{self.tenant}/businessunit"))
        organization = str(uuid5(NAMESPACE_URL, f"{self.tenant}/organization"))
        return _ok(
            request,
            f"{NAMESPACE}.WhoAmIResponse",
            BusinessUnitId=unit,
            UserId=user,
            OrganizationId=organization,
        )

    def _privileges(self, request: Request, user: str, segment: str, function: str) -> Response:
        """Return which of the named privileges the user has, from roles and teams.

        https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/retrieveusersetofprivilegesbynames:
        the names are a collection, so they are sent in a parameter alias.
        """
        call = re.fullmatch(
            rf"{re.escape(NAMESPACE)}\.RetrieveUserSetOfPrivilegesByNames"
            r"\(PrivilegeNames=(@\w+)\)",
            function,
        )
        if call is None:
            raise RefusedError(self._not_found(request))
        if segment.lower() != f"systemusers({user})":
            text = f"Entity 'systemuser' With Id = {segment[12:-1]} Does Not Exist"
            raise RefusedError(_error(404, "0x80040217", text))
        try:
            asked = json.loads(request.query_params.get(call[1], ""))
        except ValueError as error:
            text = f"The value of the parameter alias '{call[1]}' is no collection."
            raise RefusedError(_error(400, "0x0", text)) from error
        held = {CREATE: self.permitted, READ: self.readable}
        found = [_role_privilege(name) for name in asked if held.get(name)]
        kind = f"{NAMESPACE}.RetrieveUserSetOfPrivilegesByNamesResponse"
        return _ok(request, kind, RolePrivileges=found)

    def _definitions(self, request: Request, segment: str, rest: list[str]) -> Response:
        """https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api."""
        if segment == "EntityDefinitions" and not rest:
            wanted = re.fullmatch(
                r"(LogicalName|EntitySetName) eq '([^']*)'",
                request.query_params.get("$filter", ""),
            )
            definition = _definition()
            found = wanted is None or definition[wanted[1]] == wanted[2]
            return _ok(request, "EntityDefinitions", value=[definition] if found else [])
        if segment != f"EntityDefinitions(LogicalName='{TABLE}')":
            text = "Could not find an entity with specified entity name."
            raise RefusedError(_error(404, "0x80040217", text))
        match rest:
            case []:
                return _ok(request, "EntityDefinitions/$entity", **_definition())
            case ["Keys"]:
                return _ok(request, f"{segment}/Keys", value=self._keys())
            case ["Attributes"]:
                attributes = [_attribute(name) for name in (ID, *self.names, *self.further)]
                return _ok(request, f"{segment}/Attributes", value=attributes)
            case ["Attributes", cast] if cast == f"{NAMESPACE}.StringAttributeMetadata":
                texts = [
                    {**_attribute(name), "MaxLength": self.lengths.get(name, 100)}
                    for name in (*self.names, *self.further)
                ]
                return _ok(request, f"{segment}/Attributes/{cast}", value=texts)
        raise RefusedError(self._not_found(request))

    def _keys(self) -> list[dict[str, Any]]:
        """https://learn.microsoft.com/power-apps/developer/data-platform/define-alternate-keys-entity."""
        key = {
            "LogicalName": "new_statekey",
            "SchemaName": "new_StateKey",
            "EntityLogicalName": TABLE,
            "KeyAttributes": [self.names.state],
            "EntityKeyIndexStatus": self.key_status,
            "MetadataId": str(uuid5(NAMESPACE_URL, "new_statekey")),
        }
        return [key] if self.key_status else []

    def _metadata(self) -> Response:
        texts = (*self.names, *self.further)
        properties = [
            Property(ID, "Edm.Guid", nullable=False),
            *(Property(name, length=self.lengths.get(name)) for name in texts),
        ]
        annotation = ALTERNATE_KEY.format(self.names.state) if self.key_status else ""
        return csdl(
            NAMESPACE, TABLE, properties, key=ID, collection=COLLECTION, annotation=annotation
        )

    # --- refusals ------------------------------------------------------------------------------

    def _check_app(self, request: Request, claims: Mapping[str, Any]) -> None:  # noqa: ARG002 - a hook
        if claims["appid"] not in self.authorized_apps:
            text = "The user is not a member of the organization."
            raise RefusedError(_error(403, "0x80072560", text))

    def _flawed(self, flaw: Flaw, name: str = "") -> Response:
        status, code, text = FLAWS[flaw]
        length = self.lengths.get(name)
        return _error(status, code, text.format(name, f"{NAMESPACE}.{TABLE}", TABLE, length))

    def _duplicate(self, request: Request, row: Mapping[str, Any]) -> Response:
        """Name the key in the message, and the value only in requested annotations."""
        text = (
            f"Entity Key {KEY_NAME} violated. A record with the same value for State already "
            "exists. A duplicate record cannot be created. Select one or more unique values and "
            "try again."
        )
        details: dict[str, str] = {}
        if prefers(request, 'odata.include-annotations="*"'):
            state = self.names.state
            attributes = f"<{state}>{escape(row[state])}</{state}>"
            xml = f"<DuplicateAttributes>{attributes}</DuplicateAttributes>"
            details = {f"{DETAILS}DuplicateAttributes": xml, f"{DETAILS}EntityKeyName": KEY_NAME}
        return _error(412, "0x80060892", text, details)

    def _invalid(self) -> Response:
        return _error(400, "0x80040265", "The state was not issued here.")

    def _server_error(self) -> Response:
        return _error(500, "0x80040216", "An unexpected error occurred.")

    def _unauthorized(self, request: Request) -> Response:
        """Challenge as in https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth."""
        where = f"{self.authority}/{self.tenant}/oauth2/authorize"
        resource = f"{self.resource or origin(request)}/"
        challenge = f"{self.challenge} authorization_uri={where}, resource_id={resource}"
        return Response(status_code=401, headers={"WWW-Authenticate": challenge})

    def _forbidden(self) -> Response:
        return _denied(NOWHERE, CREATE)

    def _not_found(self, request: Request) -> Response:
        text = f"No HTTP resource was found that matches the request URI '{request.url}'."
        return _error(404, "", text)

    def _throttled(self) -> Response:
        """https://learn.microsoft.com/power-apps/developer/data-platform/api-limits."""
        text = "Number of requests exceeded the limit of 6000 over time window of 300 seconds."
        answer = _error(429, "0x80072322", text)
        answer.headers.update(self._retry_after())
        return answer


PAYLOAD = (
    "Error identified in Payload provided by the user for Entity :'{2}s', For more information on "
    "this error please follow this help link https://go.microsoft.com/fwlink/?linkid=2195293  ---->"
    "  InnerException : "
)
FLAWS = {
    Flaw.MEDIA_TYPE: (415, "0x0", "The media type of the request is not supported."),
    Flaw.NOT_JSON: (400, "0x80048d19", f"{PAYLOAD}Microsoft.OData.ODataException: Invalid JSON."),
    Flaw.NOT_OBJECT: (
        400,
        "0x80048d19",
        f"{PAYLOAD}Microsoft.OData.ODataException: A 'StartObject' node was expected.",
    ),
    Flaw.UNKNOWN: (
        400,
        "0x80048d19",
        (
            f"{PAYLOAD}Microsoft.Crm.CrmException: Invalid property '{{0}}' was found in entity "
            "'{1}'. ---> Microsoft.OData.ODataException: The property '{0}' does not exist on type "
            "'{1}'. Make sure to only use property names that are defined by the type."
        ),
    ),
    Flaw.NOT_STRING: (
        400,
        "0x80048d19",
        f"{PAYLOAD}Microsoft.OData.ODataException: Cannot convert '{{0}}' to 'Edm.String'.",
    ),
    Flaw.TOP: (400, "0x0", "Invalid value '$top' query option found."),
    Flaw.TOO_LONG: (
        400,
        "0x80044331",
        (
            "A validation error occurred. The length of the '{0}' attribute of the '{2}' entity "
            "exceeded the maximum allowed length of '{3}'."
        ),
    ),
}
"""Status, code and text: {0} is the column, {1} the type, {2} the table, {3} the length."""

ALTERNATE_KEY = (
    '<Annotation Term="OData.Community.Keys.V1.AlternateKeys"><Collection>'
    '<Record Type="OData.Community.Keys.V1.AlternateKey"><PropertyValue Property="Key"><Collection>'
    '<Record Type="OData.Community.Keys.V1.PropertyRef">'
    '<PropertyValue Property="Alias" String="{0}"/>'
    '<PropertyValue Property="Name" PropertyPath="{0}"/>'
    "</Record></Collection></PropertyValue></Record></Collection></Annotation>"
)
"""https://learn.microsoft.com/power-apps/developer/data-platform/webapi/web-api-entitytypes."""


def _error(
    status: int, code: str, text: str, details: Mapping[str, str] | None = None
) -> JSONResponse:
    error = {"code": code, "message": text, **(details or {})}
    return JSONResponse({"error": error}, status, HEADERS)


def _denied(user: str, privilege: str) -> JSONResponse:
    missing = str(uuid5(NAMESPACE_URL, privilege))
    text = (
        f"Principal user (Id={user}, type=8, roleCount=1, privilegeCount=12, accessMode='4 "
        f"Non-interactive'), is missing {privilege} privilege (Id={missing}) on OTC=10500 for "
        f"entity '{TABLE}' (LocalizedName='OAuth Callback'). context.Caller={user}."
    )
    return _error(403, "0x80040220", text)


def _ok(request: Request, what: str, /, **members: Any) -> Response:  # noqa: ANN401 - JSON
    context = f"{origin(request)}{ROOT}/$metadata#{what}"
    return JSONResponse({"@odata.context": context, **members}, 200, HEADERS)


def _role_privilege(name: str) -> dict[str, str]:
    """https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/roleprivilege."""
    return {
        "Depth": "Global",
        "PrivilegeId": str(uuid5(NAMESPACE_URL, name)),
        "BusinessUnitId": NOWHERE,
        "PrivilegeName": name,
        "RecordFilterId": NOWHERE,
        "RecordFilterUniqueName": "",
    }


def _definition() -> dict[str, str]:
    return {
        "MetadataId": str(uuid5(NAMESPACE_URL, TABLE)),
        "LogicalName": TABLE,
        "SchemaName": SCHEMA_NAME,
        "EntitySetName": COLLECTION,
        "PrimaryIdAttribute": ID,
    }


def _attribute(name: str) -> dict[str, Any]:
    kind = "Uniqueidentifier" if name == ID else "String"
    return {
        "@odata.type": f"#{NAMESPACE}.{'' if name == ID else kind}AttributeMetadata",
        "MetadataId": str(uuid5(NAMESPACE_URL, f"{TABLE}/{name}")),
        "LogicalName": name,
        "EntityLogicalName": TABLE,
        "AttributeType": kind,
        "IsValidForCreate": True,
    }
