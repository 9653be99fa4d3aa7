"""Dynamics 365 Finance & Operations as the sandbox plays it: one OData entity with a unique key.

Answers follow
https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/odata and error
bodies captured from real environments: the text that tells a duplicate repeats the value sent.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.entra import Entra
from sandbox.serving import HalfBody, Hang, Reset, pause

COLLECTION = "OAuthCallbacks"
TYPE = "Microsoft.Dynamics.DataEntities.OAuthCallback"
HEADERS = {
    "Content-Type": "application/json; odata.metadata=minimal; charset=utf-8",
    "OData-Version": "4.0",
}
HTML = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
WRITE_ERROR = "Microsoft.Dynamics.Platform.Integration.Services.OData.AxODataWriteException"


class Fault(Enum):
    """What can be wrong with Dynamics. Unless said otherwise nothing is stored."""

    UNAUTHORIZED = auto()
    """401, as for a token it does not like."""
    FORBIDDEN = auto()
    """403, empty."""
    NOT_FOUND = auto()
    """404, empty."""
    VALIDATION = auto()
    """400: X++ refuses the record."""
    REQUEST_TIMEOUT = auto()
    """408, empty."""
    TOO_EARLY = auto()
    """425, empty."""
    THROTTLED = auto()
    """429 with `Retry-After`."""
    SERVER_ERROR = auto()
    """500, JSON."""
    SERVER_ERROR_HTML = auto()
    """500, an HTML page."""
    BAD_GATEWAY = auto()
    """502, an HTML page."""
    UNAVAILABLE = auto()
    """503, an HTML page with `Retry-After`."""
    GATEWAY_TIMEOUT = auto()
    """504, an HTML page."""
    SIGN_IN_PAGE = auto()
    """200, an HTML page."""
    REDIRECT = auto()
    """302 to the sign-in page of AD FS, as on-premises; who follows it finds 200 there."""
    TEMPORARY_REDIRECT = auto()
    """307 to another path of this host: `requests` tells whether anybody followed."""
    PERMANENT_REDIRECT = auto()
    """308, likewise."""
    HANG = auto()
    """Never answers."""
    HANG_AFTER_STORE = auto()
    """The row is stored, no answer ever comes."""
    RESET = auto()
    """The connection is reset."""
    RESET_AFTER_STORE = auto()
    """The row is stored, then the connection is reset."""
    HALF_BODY = auto()
    """The row is stored, 201 comes with half of its body."""
    SLOW = auto()
    """The row is stored, the answer comes after `slow` seconds."""


class Names(NamedTuple):
    """How the entity spells its properties; OData is case-sensitive."""

    code: str = "code"
    state: str = "state"
    error: str = "error"
    error_description: str = "error_description"


@dataclass
class Seen:
    """A request that arrived, and the status it got (`None`: none, or not yet)."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None


class Dynamics:
    """An F&O environment with the entity `/data/OAuthCallbacks`, keyed by state; serve `app`.

    It believes tokens of `entra` whose audience is exactly `resource` (`None`: the URL it is
    reached at) and whose application is one of `authorized_apps` (default: all of Entra's), the
    form "Microsoft Entra ID applications" in F&O. `further` are the entity's properties besides
    `names`; `key_length` is the longest state that fits its key.
    """

    def __init__(
        self,
        entra: Entra,
        *,
        resource: str | None = None,
        authorized_apps: Iterable[str] | None = None,
        names: Names | None = None,
        further: Iterable[str] = ("dataAreaId",),
        key_length: int = 255,
    ) -> None:
        self.entra = entra
        self.resource = resource
        self.authorized_apps = set(entra.clients if authorized_apps is None else authorized_apps)
        self.names = names or Names()
        self.further = tuple(further)
        self.key_length = key_length
        self.permitted = True
        """Whether the service user's role may create records; 403 otherwise."""
        self.duplicate_status = 500
        """Status of "The record already exists"."""
        self.challenge = "Bearer"
        """`WWW-Authenticate` of a 401."""

        self.delay = 0.0
        """Seconds before each answer."""
        self.slow = 2.0
        """Seconds of `SLOW`."""
        self.faults: deque[Fault] = deque()
        """Faults of the next requests under /data, one each."""
        self.mode: Fault | None = None
        """The fault of every request under /data, while `faults` is empty."""
        self.retry_after: int | str = 1
        """`Retry-After` of `THROTTLED` and `UNAVAILABLE`: seconds or an HTTP-date."""

        self.rate: float | None = None
        """Requests a second that it takes under /data, with a burst of one second's; 429 beyond."""
        self._allowance = (0.0, 0.0)

        self.rows: dict[str, dict[str, Any]] = {}
        """What is stored, by state."""
        self.requests: list[Seen] = []
        """Every request, in order of arrival."""

        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    @property
    def posts(self) -> int:
        """How many POSTs have arrived."""
        return sum(seen.method == "POST" for seen in self.requests)

    async def _answer(self, request: Request) -> Response:
        """Record the request, serve it, and let a fault have its way before or after."""
        path = request.url.path
        seen = Seen(request.method, path, dict(request.headers), await request.body())
        self.requests.append(seen)
        fault = self._next_fault() if path.startswith("/data/") else None
        answer = self._attempt(request, seen.body, fault)
        await pause(request.receive, self.delay + (self.slow if fault is Fault.SLOW else 0))
        seen.status = None if isinstance(answer, Hang | Reset) else answer.status_code
        return answer

    def _next_fault(self) -> Fault | None:
        if self.faults:
            return self.faults.popleft()
        return Fault.THROTTLED if self.mode is None and self._is_too_fast() else self.mode

    def _is_too_fast(self) -> bool:
        """Keep a token bucket: F&O's resource-based throttling, as a caller meets it."""
        if self.rate is None:
            return False
        left, then = self._allowance
        now = time.monotonic()
        left = min(self.rate, left + (now - then) * self.rate)
        too_fast = left < 1
        self._allowance = (left if too_fast else left - 1, now)
        return too_fast

    def _attempt(self, request: Request, body: bytes, fault: Fault | None) -> Response:
        if fault in _INSTEAD:
            return _INSTEAD[fault](self, request)
        try:
            answer = self._serve(request, body)
        except _RefusedError as refused:
            return refused.answer
        if fault in _AFTERWARDS:
            return _AFTERWARDS[fault](answer)
        if answer.status_code == HTTPStatus.CREATED and _wants_minimal(request):
            return _minimal(answer)
        return answer

    def _serve(self, request: Request, body: bytes) -> Response:
        match request.method, request.url.path.split("/")[1:]:
            case "GET", ["adfs", *_]:
                return _page(200, "Sign In")
            case "GET", ["data", "$metadata"]:
                self._check_token(request)
                return Response(self._metadata(), media_type="application/xml")
            case "POST", ["data", segment]:
                self._check_token(request)
                if segment != COLLECTION:
                    raise _refused(404, f"Resource not found for the segment '{segment}'.")
                return self._create(request, body)
        text = f"No HTTP resource was found that matches the request URI '{request.url}'."
        raise _RefusedError(JSONResponse({"Message": text}, 404))

    def _check_token(self, request: Request) -> None:
        """RFC 6750, and what F&O asks of a token: its own URL, its own tenant, a known app."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        resource = self.resource or str(request.base_url).removesuffix("/")
        expected = JWTClaimsRegistry(
            iss={"essential": True, "value": f"https://sts.windows.net/{self.entra.tenant}/"},
            aud={"essential": True, "value": resource},
            tid={"essential": True, "value": self.entra.tenant},
            appid={"essential": True},
            oid={"essential": True},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, self.entra.public_keys, algorithms=["RS256"]).claims
            expected.validate(claims)
        except (JoseError, ValueError) as error:
            raise _RefusedError(_unauthorized(self)) from error
        if scheme != "Bearer" or claims["appid"] not in self.authorized_apps:
            raise _RefusedError(_unauthorized(self))
        if not self.permitted:
            raise _RefusedError(_empty(403))

    def _create(self, request: Request, body: bytes) -> Response:
        """OData 4.0 part 1, section 11.4.2; the key is unique, as an index over State makes it."""
        row = self._read(request, body)
        key = self.names.state
        state = row.get(key)
        if not state:
            raise _write_failed(400, f"Warning: Field '{key}' must be filled in.")
        if len(state) > self.key_length:
            raise _write_failed(400, f"Warning: Field '{key}' is longer than {self.key_length}.")
        if state in self.rows:
            raise _write_failed(
                self.duplicate_status,
                "Info: Cannot create a record in OAuth callback (OAuthCallbackInbox). "
                f"State: {state}, .\nThe record already exists.",
            )
        self.rows[state] = row
        return self._created(request, row)

    def _created(self, request: Request, row: dict[str, Any]) -> Response:
        base = f"{request.base_url}data/"
        entity = f"{base}{COLLECTION}('{quote(row[self.names.state], safe='')}')"
        echo = {"@odata.context": f"{base}$metadata#{COLLECTION}/$entity", **row}
        return JSONResponse(echo, 201, {**HEADERS, "Location": entity})

    def _read(self, request: Request, body: bytes) -> dict[str, Any]:
        """Return the members of the JSON body; they must be string properties of the entity."""
        header = Message()
        header["Content-Type"] = request.headers.get("Content-Type", "")
        if header.get_content_type() != "application/json":
            raise _refused(415, "The request entity's media type is not supported.")
        try:
            row = json.loads(body)
        except ValueError as error:
            raise _refused(400, "The request body is no valid JSON.") from error
        if not isinstance(row, dict):
            raise _refused(400, "An object was expected in the request body.")
        for name, value in row.items():
            if name not in {*self.names, *self.further}:
                raise _refused(
                    400,
                    f"The property '{name}' does not exist on type '{TYPE}'. Make sure to only "
                    "use property names that are defined by the type.",
                )
            if value is not None and not isinstance(value, str):
                raise _refused(400, f"Cannot convert the value of '{name}' to Edm.String.")
        return row

    def _metadata(self) -> str:
        """OData CSDL 4.0: the one entity type."""
        namespace, _, name = TYPE.rpartition(".")
        key = self.names.state
        others = "".join(
            f'<Property Name="{other}" Type="Edm.String"/>'
            for other in (*self.names, *self.further)
            if other != key
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>'
            '<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx">'
            "<edmx:DataServices>"
            f'<Schema Namespace="{namespace}" xmlns="http://docs.oasis-open.org/odata/ns/edm">'
            f'<EntityType Name="{name}"><Key><PropertyRef Name="{key}"/></Key>'
            f'<Property Name="{key}" Type="Edm.String" Nullable="false" '
            f'MaxLength="{self.key_length}"/>{others}</EntityType>'
            '<EntityContainer Name="Resources">'
            f'<EntitySet Name="{COLLECTION}" EntityType="{TYPE}"/></EntityContainer>'
            "</Schema></edmx:DataServices></edmx:Edmx>"
        )


class _RefusedError(Exception):
    """The answer that ends a request early."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


def _refused(status: int, message: str) -> _RefusedError:
    return _RefusedError(JSONResponse({"error": {"code": "", "message": message}}, status, HEADERS))


def _write_failed(status: int, infolog: str) -> _RefusedError:
    message = f"Write failed for table row of type 'OAuthCallbackEntity'. Infolog: {infolog}."
    return _RefusedError(_exception(status, WRITE_ERROR, message))


def _exception(status: int, kind: str, message: str) -> Response:
    """Answer as F&O does when its code throws."""
    trace = "   at Microsoft.Dynamics.Platform.Integration.Services.OData.Update.UpdateProcessor."
    inner = {
        "message": message,
        "type": kind,
        "stacktrace": f"{trace}CreateEntity_Save(ChangeOperationContext context, ChangeInfo info)",
    }
    error = {"code": "", "message": "An error has occurred.", "innererror": inner}
    return JSONResponse({"error": error}, status, HEADERS)


def _wants_minimal(request: Request) -> bool:
    return "return=minimal" in request.headers.get("Prefer", "")


def _minimal(created: Response) -> Response:
    """Turn 201 and the row into 204 and its address (OData 4.0 part 1, section 8.2.8.7)."""
    entity = created.headers["Location"]
    applied = {"Preference-Applied": "return=minimal", "OData-Version": "4.0"}
    return _empty(204, {**applied, "Location": entity, "OData-EntityId": entity})


def _empty(status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(status_code=status, headers=headers)


def _unauthorized(dynamics: Dynamics) -> Response:
    return _empty(401, {"WWW-Authenticate": dynamics.challenge})


def _page(status: int, title: str, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(HTML.format(title), status, headers)


def _moved(status: int, path: str) -> Callable[[Dynamics, Request], Response]:
    return lambda _, request: RedirectResponse(f"{request.base_url}{path}", status)


def _later(dynamics: Dynamics) -> dict[str, str]:
    return {"Retry-After": str(dynamics.retry_after)}


_INSTEAD: dict[Fault | None, Callable[[Dynamics, Request], Response]] = {
    Fault.UNAUTHORIZED: lambda dynamics, _: _unauthorized(dynamics),
    Fault.FORBIDDEN: lambda *_: _empty(403),
    Fault.NOT_FOUND: lambda *_: _empty(404),
    Fault.VALIDATION: lambda *_: (
        _write_failed(
            400, "Error: The state was not issued here; Warning: validateWrite failed"
        ).answer
    ),
    Fault.REQUEST_TIMEOUT: lambda *_: _empty(408),
    Fault.TOO_EARLY: lambda *_: _empty(425),
    Fault.THROTTLED: lambda dynamics, _: _empty(429, _later(dynamics)),
    Fault.SERVER_ERROR: lambda *_: _exception(
        500,
        "System.NullReferenceException",
        "Object reference not set to an instance of an object.",
    ),
    Fault.SERVER_ERROR_HTML: lambda *_: _page(500, "Server Error"),
    Fault.BAD_GATEWAY: lambda *_: _page(502, "Bad Gateway"),
    Fault.UNAVAILABLE: lambda dynamics, _: _page(503, "Service Unavailable", _later(dynamics)),
    Fault.GATEWAY_TIMEOUT: lambda *_: _page(504, "Gateway Timeout"),
    Fault.SIGN_IN_PAGE: lambda *_: _page(200, "Sign In"),
    Fault.REDIRECT: _moved(302, "adfs/ls/?wa=wsignin1.0"),
    Fault.TEMPORARY_REDIRECT: _moved(307, f"moved/{COLLECTION}"),
    Fault.PERMANENT_REDIRECT: _moved(308, f"moved/{COLLECTION}"),
    Fault.HANG: lambda *_: Hang(),
    Fault.RESET: lambda *_: Reset(),
}

_AFTERWARDS: dict[Fault | None, Callable[[Response], Response]] = {
    Fault.HANG_AFTER_STORE: lambda _: Hang(),
    Fault.RESET_AFTER_STORE: lambda _: Reset(),
    Fault.HALF_BODY: HalfBody,
}
