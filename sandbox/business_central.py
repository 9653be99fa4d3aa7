"""Dynamics 365 Business Central: one custom API page in one company.

Codes and texts of errors follow
https://learn.microsoft.com/dynamics365/business-central/dev-itpro/webservices/dynamics-error-codes,
statuses https://learn.microsoft.com/dynamics365/business-central/dev-itpro/webservices/web-service-troubleshooting
and captured responses; every message ends with a correlation id, and some repeat the value sent.
Authentication: https://learn.microsoft.com/dynamics365/business-central/dev-itpro/administration/automation-apis-using-s2s-authentication
"""

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Unpack
from urllib.parse import unquote
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.entra import Entra
from sandbox.target import Common, Flaw, Names, Property, RefusedError, Target, csdl, origin

RESOURCE = "https://api.businesscentral.dynamics.com"
"""The audience of tokens for the real one."""
ROLE = "API.ReadWrite.All"
"""The application permission that the real one requires in `roles`."""
ROUTE = "contoso/oauth/v1.0"
"""Publisher, group and version of the API page."""
COLLECTION, ENTITY, NAMESPACE = "oAuthCallbacks", "oAuthCallback", "Microsoft.NAV"
COMPANY = "7c3f2b1e-5d4a-4f6b-9c8d-0a1b2c3d4e5f"
HEADERS = {
    "Content-Type": "application/json; odata.metadata=minimal; odata.streaming=true",
    "OData-Version": "4.0",
}


class BusinessCentral(Target):
    """An environment with one company and the API page `oAuthCallbacks`, keyed by state.

    Serve `app`; `path` is the collection's, `/v2.0/{tenant}/{environment}/api/…`. It accepts tokens
    whose audience is `resource` (`None`: its own URL; the real one: `RESOURCE`), of one of
    `authorized_apps` (its page "Microsoft Entra applications"), with `required_role` in `roles`
    (`None`: any; the real one: `ROLE`). `identities` are the application ids of managed identities,
    which it refuses unless `identities_accepted`.
    """

    def __init__(
        self,
        entra: Entra,
        *,
        names: Names | None = None,
        lengths: Mapping[str, int] | None = None,
        environment: str = "Production",
        required_role: str | None = None,
        identities: Iterable[str] = (),
        identities_accepted: bool = False,
        **common: Unpack[Common],
    ) -> None:
        names = names or Names("code", "state", "error", "errorDescription")
        super().__init__(
            entra,
            names=names,
            # A field holds at most 2048 characters, a key 900 bytes.
            lengths={**dict.fromkeys(names, 2048), names.state: 250, **(lengths or {})},
            **common,
        )
        self.tenant = entra.tenant
        self.environment = environment
        self.required_role = required_role
        self.identities = set(identities)
        self.identities_accepted = identities_accepted
        self.readable = True
        """Whether the application's permission sets let it read the table."""
        self.insert_allowed = True
        """The page's `InsertAllowed`."""

    @property
    def path(self) -> str:
        """The collection's path."""
        api = f"/v2.0/{self.tenant}/{self.environment}/api/{ROUTE}"
        return f"{api}/companies({COMPANY})/{COLLECTION}"

    def _is_api(self, path: str) -> bool:
        return path.startswith("/v2.0/")

    def _serve(self, request: Request, body: bytes) -> Response:
        match request.url.path.split("/")[1:]:
            case ["v2.0", tenant, environment, "api", *rest]:
                self._check_token(request)
                self._check_environment(tenant, environment)
                return self._serve_api(request, rest, body)
        raise RefusedError(self._not_found(request))

    def _check_environment(self, tenant: str, environment: str) -> None:
        known = (self.tenant.lower(), self.environment.lower())
        if (tenant.lower(), unquote(environment).lower()) != known:
            raise RefusedError(_error(404, "NoEnvironment", "Environment does not exist."))

    def _serve_api(self, request: Request, path: list[str], body: bytes) -> Response:
        route, rest = _route(path)
        if route not in {"v2.0", ROUTE}:
            raise RefusedError(self._not_found(request))
        if request.method == "GET" and rest == ["companies"]:
            return self._companies(request)
        if route == ROUTE:
            match request.method, rest:
                case "GET", ["$metadata"]:
                    return self._metadata()
                case _, [company, collection]:
                    self._check_company(company)
                    return self._serve_collection(request, collection, body)
        raise RefusedError(self._not_found(request))

    def _check_company(self, segment: str) -> None:
        if segment.lower() != f"companies({COMPANY})":
            text = "The company does not exist."
            raise RefusedError(_error(404, "Internal_CompanyNotFound", text))

    def _serve_collection(self, request: Request, collection: str, body: bytes) -> Response:
        if collection != COLLECTION:
            text = f"Resource not found for the segment '{collection}'."
            raise RefusedError(_error(404, "BadRequest_ResourceNotFound", text))
        match request.method:
            case "GET":
                return self._list(request)
            case "POST" if self.insert_allowed:
                return self._create(request, body)
        text = (
            f"'{request.method}' requests for '{collection}' of EdmType 'Entity' are not allowed "
            "within Dynamics 365 Business Central OData web services."
        )
        raise RefusedError(_error(405, "BadRequest_MethodNotAllowed", text))

    def _list(self, request: Request) -> Response:
        if not self.readable:
            raise RefusedError(_denied("Read"))
        rows = self._top(request)
        return JSONResponse({"@odata.context": self._context(request), "value": rows}, 200, HEADERS)

    def _create(self, request: Request, body: bytes) -> Response:
        if not self.permitted:
            raise RefusedError(self._forbidden())
        members = self._row(request, body)
        stamp = datetime.now(UTC)
        row = {
            "@odata.etag": _etag(stamp),
            "id": str(uuid4()),
            **dict.fromkeys((*self.names, *self.further), ""),
            **members,
            "lastModifiedDateTime": stamp.isoformat(timespec="milliseconds"),
        }
        self._store(request, row)
        location = f"{origin(request)}{self.path}({row['id']})"
        echo = {"@odata.context": f"{self._context(request)}/$entity", **row}
        return JSONResponse(echo, 201, {**HEADERS, "Location": location})

    def _context(self, request: Request) -> str:
        base = self.path.partition("/companies(")[0]
        return f"{origin(request)}{base}/$metadata#companies({COMPANY})/{COLLECTION}"

    def _companies(self, request: Request) -> Response:
        company = {
            "id": COMPANY,
            "systemVersion": "26.0.0.0",
            "name": "CRONUS",
            "displayName": "CRONUS",
            "businessProfileId": "",
        }
        context = f"{str(request.url).rpartition('/')[0]}/$metadata#companies"
        return JSONResponse({"@odata.context": context, "value": [company]}, 200, HEADERS)

    def _metadata(self) -> Response:
        texts = (*self.names, *self.further)
        properties = [
            Property("id", "Edm.Guid", nullable=False),
            *(Property(name, length=self.lengths.get(name)) for name in texts),
            Property("lastModifiedDateTime", "Edm.DateTimeOffset"),
        ]
        return csdl(NAMESPACE, ENTITY, properties, key="id", collection=COLLECTION)

    def _check_app(self, request: Request, claims: Mapping[str, Any]) -> None:
        super()._check_app(request, claims)
        is_identity = claims["appid"] in self.identities
        if is_identity and not self.identities_accepted:
            raise RefusedError(self._unauthorized(request))
        if self.required_role and self.required_role not in claims.get("roles", ()):
            raise RefusedError(self._unauthorized(request))

    def _flawed(self, flaw: Flaw, name: str = "") -> Response:
        status, code, text = FLAWS[flaw]
        return _error(status, code, text.format(name, f"{NAMESPACE}.{ENTITY}"))

    def _too_long(self, name: str, value: str) -> Response:
        text = (
            f"The length of the string is {len(value)}, but it must be less than or equal to "
            f"{self.lengths[name]} characters. Value: {value}"
        )
        return _error(400, "Application_StringExceededLength", text)

    def _duplicate(self, request: Request, row: Mapping[str, Any]) -> Response:  # noqa: ARG002 - a hook
        text = (
            "The record in table OAuth Callback already exists. Identification fields and values: "
            f"State='{row[self.names.state]}'"
        )
        return _error(400, "Internal_EntityWithSameKeyExists", text)

    def _invalid(self) -> Response:
        return _error(400, "Application_DialogException", "The state was not issued here.")

    def _server_error(self) -> Response:
        text = "Cannot establish a connection to the SQL Server/Database."
        return _error(500, "Internal_ServerError", text)

    def _unauthorized(self, request: Request) -> Response:  # noqa: ARG002 - a hook
        text = "Web service call failed because user could not be authenticated or authorized."
        answer = _error(401, "Authentication_InvalidCredentials", text)
        answer.headers["WWW-Authenticate"] = self.challenge
        return answer

    def _forbidden(self) -> Response:
        return _denied("Insert")

    def _not_found(self, request: Request) -> Response:  # noqa: ARG002 - a hook
        text = "No HTTP resource was found that matches the request URI."
        return _error(404, "BadRequest_NotFound", text)

    def _throttled(self) -> Response:
        """Return 429 without `Retry-After`, which is documented for 503 only.

        https://learn.microsoft.com/dynamics365/business-central/dev-itpro/administration/operational-limits-online
        """
        text = "Too many requests reached. Actual (101). Maximum (100)."
        return _error(429, "Application_TooManyRequests", text)

    def _unavailable(self) -> Response:
        text = f"The tenant '{self.tenant}' is not accessible."
        answer = _error(503, "Internal_TenantUnavailable", text)
        answer.headers.update(self._retry_after())
        return answer


FLAWS = {
    Flaw.MEDIA_TYPE: (415, "BadRequest", "The media type of the request is not supported."),
    Flaw.NOT_JSON: (400, "BadRequest", "Invalid JSON."),
    Flaw.NOT_OBJECT: (
        400,
        "BadRequest",
        (
            "An unexpected 'StartArray' node was found when reading from the JSON reader. A "
            "'StartObject' node was expected."
        ),
    ),
    Flaw.UNKNOWN: (
        400,
        "BadRequest",
        (
            "The property '{0}' does not exist on type '{1}'. Make sure to only use property names "
            "that are defined by the type."
        ),
    ),
    Flaw.NOT_STRING: (
        400,
        "BadRequest",
        "Cannot convert a value to target type 'Edm.String' because of conflict for '{0}'.",
    ),
    Flaw.TOP: (400, "BadRequest_NotFound", "Bad Request - Error in query syntax."),
    Flaw.NO_KEY: (
        400,
        "Application_FieldValidationException",
        "{0} must have a value in OAuth Callback. It cannot be zero or empty.",
    ),
}
"""Status, code and text: {0} is the property, {1} the type."""


def _route(path: list[str]) -> tuple[str, list[str]]:
    """Split the path after `/api/` into its route (`v2.0` or publisher/group/version) and rest."""
    length = 1 if path[0] == "v2.0" else 3
    return "/".join(path[:length]), path[length:]


def _error(status: int, code: str, text: str) -> JSONResponse:
    message = f"{text}  CorrelationId:  {uuid4()}."
    return JSONResponse({"error": {"code": code, "message": message}}, status, HEADERS)


def _denied(permission: str) -> Response:
    text = (
        "Sorry, the current permissions prevented the action. "
        f"(TableData 50100 OAuth Callback {permission}: OAuth Callback)"
    )
    return _error(403, "Internal_ServerError", text)


def _etag(stamp: datetime) -> str:
    return f'W/"{base64.b64encode(stamp.isoformat().encode()).decode()}"'
