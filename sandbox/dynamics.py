"""Dynamics 365 Finance & Operations: one OData entity with a unique key.

Responses follow
https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/odata and error
bodies captured from real environments: the message about a duplicate repeats the value sent.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Unpack
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from sandbox.entra import Entra
from sandbox.target import (
    Adfs,
    Common,
    Fault,
    Flaw,
    Names,
    Property,
    RefusedError,
    Seen,
    Target,
    csdl,
    no_content,
    origin,
    page,
    prefers,
)

__all__ = [
    "COLLECTION",
    "NAMESPACE",
    "TYPE",
    "WRITE_ERROR",
    "Dynamics",
    "Environment",
    "Fault",
    "Names",
    "Seen",
]

COLLECTION = "OAuthCallbacks"
TYPE = "Microsoft.Dynamics.DataEntities.OAuthCallback"
NAMESPACE = "/namespaces/AXSF"
"""The root path on-premises."""
HEADERS = {
    "Content-Type": "application/json; odata.metadata=minimal; charset=utf-8",
    "OData-Version": "4.0",
}
WRITE_ERROR = "Microsoft.Dynamics.Platform.Integration.Services.OData.AxODataWriteException"
EXISTS = {
    "en-US": "Cannot create a record in {0} ({1}). {2}, .\nThe record already exists.",
    "de": (
        "In „{0}“ kann kein Datensatz erstellt werden ({1}). {2}, .\n"
        "Der Datensatz ist bereits vorhanden."
    ),
}
"""The duplicate message by the service user's language; {0} is the table's label, {1} its name, {2}
the key."""


class Environment(Target):
    """What OData and custom services of F&O have in common: addresses and authentication.

    On-premises all paths begin with `/namespaces/AXSF/`, tokens come from AD FS (pass it as
    `entra`), and a request without a valid one gets a 302 to the sign-in page instead of a 401
    (https://github.com/microsoft/Dynamics-AX-Integration/issues/101).
    """

    on_premises = False
    language = "en-US"
    """The service user's language, in which error texts are: `en-US` or `de`."""

    @property
    def root(self) -> str:
        """The path before `/data` and `/api`: empty in the cloud."""
        return NAMESPACE if self.on_premises else ""

    def _serve(self, request: Request, body: bytes) -> Response:
        path = request.url.path
        if path.startswith("/adfs/"):
            return page(200, "Sign In")
        if path.startswith(f"{self.root}/"):
            answer = self._serve_path(request, path.removeprefix(self.root).split("/")[1:], body)
            if answer is not None:
                return answer
        text = f"No HTTP resource was found that matches the request URI '{request.url}'."
        return JSONResponse({"Message": text}, 404)

    @abstractmethod
    def _serve_path(self, request: Request, path: list[str], body: bytes) -> Response | None:
        """Answer a path below the root; `None` if it is unknown."""

    def _unauthorized(self, request: Request) -> Response:
        if self.on_premises:
            return RedirectResponse(self._sign_in(request), 302)
        return super()._unauthorized(request)

    def _sign_in(self, request: Request) -> str:
        """Return the address of WS-Federation's passive sign-in at AD FS."""
        if isinstance(self.entra, Entra):
            return super()._sign_in(request)
        server = urlsplit(self.entra.issuer).netloc
        realm = quote(f"{origin(request)}/", safe="")
        return f"https://{server}/adfs/ls/?wa=wsignin1.0&wtrealm={realm}"

    def _exists(self, label: str, table: str, key: str) -> str:
        return EXISTS[self.language].format(label, table, key)


class Dynamics(Environment):
    """An F&O environment with the entity `/data/OAuthCallbacks`, keyed by state; serve `app`.

    It accepts tokens of `entra` whose audience is exactly `resource` (`None`: its own URL) and
    whose application is one of `authorized_apps` (default: all of Entra's), the form "Microsoft
    Entra ID applications" in F&O. `further` are the entity's properties besides `names`;
    `key_length` is the maximum length of the state, `lengths` those of other properties (default:
    unlimited). `companies` are the legal entities that a body's `dataAreaId` may name. OData does
    not show an entity that is not `public`. The service user can create if `permitted`, and read if
    `readable`.
    """

    def __init__(  # noqa: PLR0913 - each is a difference between customers' environments
        self,
        entra: Entra | Adfs,
        *,
        names: Names | None = None,
        key_length: int = 255,
        lengths: Mapping[str, int] | None = None,
        companies: Iterable[str] = ("usmf", "dat"),
        public: bool = True,
        readable: bool = True,
        language: str = "en-US",
        on_premises: bool = False,
        **common: Unpack[Common],
    ) -> None:
        names = names or Names()
        common.setdefault("further", ("dataAreaId",))
        super().__init__(
            entra,
            names=names,
            lengths={names.state: key_length, **(lengths or {})},
            **common,
        )
        self.companies = set(companies)
        self.public = public
        self.readable = readable
        self.language = language
        self.on_premises = on_premises
        self.duplicate_status = 500
        """Status of "The record already exists"."""

    @property
    def key_length(self) -> int:
        """The maximum length of the state, in characters."""
        return self.lengths[self.names.state]

    def _is_api(self, path: str) -> bool:
        return path.startswith(f"{self.root}/data/")

    def _serve_path(self, request: Request, path: list[str], body: bytes) -> Response | None:
        match request.method, path:
            case "GET", ["data"] | ["data", ""]:
                self._check_token(request)
                return self._service_document(request)
            case "GET", ["data", "$metadata"]:
                self._check_token(request)
                return self._metadata()
            case "GET", ["data", segment]:
                self._check_token(request)
                self._check_segment(segment)
                return self._list(request)
            case "POST", ["data", segment]:
                self._check_token(request)
                self._check_segment(segment)
                return self._create(request, body)
        return None

    def _check_segment(self, segment: str) -> None:
        if segment != COLLECTION or not self.public:
            raise RefusedError(_error(404, f"Resource not found for the segment '{segment}'."))

    def _list(self, request: Request) -> Response:
        if not self.readable:
            raise RefusedError(self._forbidden())
        context = f"{self._base(request)}$metadata#{COLLECTION}"
        rows = self._top(request)
        return JSONResponse({"@odata.context": context, "value": rows}, 200, HEADERS)

    def _create(self, request: Request, body: bytes) -> Response:
        """Create a row (OData 4.0 part 1, section 11.4.2). A unique index keeps State unique."""
        if not self.permitted:
            raise RefusedError(self._forbidden())
        row = self._row(request, body)
        company = row.get("dataAreaId")
        if company and company.lower() not in self.companies:
            raise RefusedError(_write_failed(400, f"Error: Company {company} does not exist."))
        self._store(request, row)
        base = self._base(request)
        entity = f"{base}{COLLECTION}('{quote(row[self.names.state], safe='')}')"
        echo = {"@odata.context": f"{base}$metadata#{COLLECTION}/$entity", **row}
        return JSONResponse(echo, 201, {**HEADERS, "Location": entity})

    def _base(self, request: Request) -> str:
        return f"{origin(request)}{self.root}/data/"

    def _as_preferred(self, request: Request, answer: Response) -> Response:
        if answer.status_code == HTTPStatus.CREATED and prefers(request, "return=minimal"):
            return no_content(answer.headers["Location"])
        return answer

    def _service_document(self, request: Request) -> Response:
        """OData JSON Format 4.0, section 5."""
        entity_set = {"name": COLLECTION, "kind": "EntitySet", "url": COLLECTION}
        document = {
            "@odata.context": f"{self._base(request)}$metadata",
            "value": [entity_set] if self.public else [],
        }
        return JSONResponse(document, 200, HEADERS)

    def _metadata(self) -> Response:
        namespace, _, name = TYPE.rpartition(".")
        key = self.names.state
        others = [item for item in (*self.names, *self.further) if item != key]
        properties = [
            Property(key, length=self.key_length, nullable=False),
            *(Property(item, length=self.lengths.get(item)) for item in others),
        ]
        return csdl(
            namespace, name, properties, key=key, collection=COLLECTION if self.public else None
        )

    def _flawed(self, flaw: Flaw, name: str = "") -> Response:
        match flaw:
            case Flaw.NO_KEY:
                return _write_failed(400, f"Warning: Field '{name}' must be filled in.")
            case Flaw.TOO_LONG:
                length = self.lengths[name]
                return _write_failed(400, f"Warning: Field '{name}' is longer than {length}.")
            case _:
                status, text = FLAWS[flaw]
                return _error(status, text.format(name, TYPE))

    def _duplicate(self, request: Request, row: Mapping[str, Any]) -> Response:  # noqa: ARG002 - a hook
        key = f"State: {row[self.names.state]}"
        text = self._exists("OAuth callback", "OAuthCallbackInbox", key)
        return _write_failed(self.duplicate_status, f"Info: {text}")

    def _invalid(self) -> Response:
        return _write_failed(
            400, "Error: The state was not issued here; Warning: validateWrite failed"
        )

    def _server_error(self) -> Response:
        text = "Object reference not set to an instance of an object."
        return _exception(500, "System.NullReferenceException", text)


FLAWS = {
    Flaw.MEDIA_TYPE: (415, "The request entity's media type is not supported."),
    Flaw.NOT_JSON: (400, "The request body is no valid JSON."),
    Flaw.NOT_OBJECT: (400, "An object was expected in the request body."),
    Flaw.UNKNOWN: (
        400,
        (
            "The property '{0}' does not exist on type '{1}'. Make sure to only use property names "
            "that are defined by the type."
        ),
    ),
    Flaw.TOP: (400, "The query specified in the URI is not valid."),
    Flaw.NOT_STRING: (400, "Cannot convert the value of '{0}' to Edm.String."),
}
"""OData's status and message: {0} is the property, {1} the type."""


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"code": "", "message": message}}, status, HEADERS)


def _write_failed(status: int, infolog: str) -> Response:
    message = f"Write failed for table row of type 'OAuthCallbackEntity'. Infolog: {infolog}."
    return _exception(status, WRITE_ERROR, message)


def _exception(status: int, kind: str, message: str) -> Response:
    """Return the response of F&O to an exception in its code."""
    trace = "   at Microsoft.Dynamics.Platform.Integration.Services.OData.Update.UpdateProcessor."
    inner = {
        "message": message,
        "type": kind,
        "stacktrace": f"{trace}CreateEntity_Save(ChangeOperationContext context, ChangeInfo info)",
    }
    error = {"code": "", "message": "An error has occurred.", "innererror": inner}
    return JSONResponse({"error": error}, status, HEADERS)
