"""The base class of the sandbox's Dynamics targets: faults, token checks, rows by key.

F&O (OData and custom services), Business Central and Dataverse differ in their addresses and error
formats; the handling of a request is the same and implemented here.
"""

import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol, TypedDict
from xml.sax.saxutils import quoteattr

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.entra import Entra
from sandbox.serving import HalfBody, Hang, Reset, pause

HTML = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"


class Fault(Enum):
    """Faults of Dynamics. Nothing is stored unless stated.

    Every target has its own error format; empty and HTML bodies are those of F&O and gateways.
    """

    UNAUTHORIZED = auto()
    """401, as for a token that is not accepted."""
    FORBIDDEN = auto()
    """403, as for a user without the permission."""
    NOT_FOUND = auto()
    """404."""
    VALIDATION = auto()
    """The customer's own code (X++, AL, a plug-in) refuses the record."""
    REQUEST_TIMEOUT = auto()
    """408, empty."""
    TOO_EARLY = auto()
    """425, empty."""
    THROTTLED = auto()
    """429, with `Retry-After` where the target documents it."""
    SERVER_ERROR = auto()
    """500, JSON."""
    SERVER_ERROR_HTML = auto()
    """500, an HTML page."""
    BAD_GATEWAY = auto()
    """502, an HTML page."""
    UNAVAILABLE = auto()
    """503 with `Retry-After`."""
    GATEWAY_TIMEOUT = auto()
    """504."""
    SIGN_IN_PAGE = auto()
    """200, an HTML page."""
    REDIRECT = auto()
    """302 to the sign-in page of AD FS, as on-premises; the page is a 200."""
    TEMPORARY_REDIRECT = auto()
    """307 to another path of this host: `requests` shows whether a client followed."""
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
    """The row is stored, the answer comes with half of its body."""
    SLOW = auto()
    """The row is stored, the answer comes after `slow` seconds."""


class Flaw(Enum):
    """Faults of a request; every target has its own error format."""

    MEDIA_TYPE = auto()
    NOT_JSON = auto()
    NOT_OBJECT = auto()
    UNKNOWN = auto()
    """A property that the target does not have."""
    NOT_STRING = auto()
    NO_KEY = auto()
    """The key is missing or empty."""
    TOO_LONG = auto()
    """A value is longer than its field."""
    TOP = auto()
    """The query option `$top` is no number."""


class Names(NamedTuple):
    """The names of the target's properties; OData is case-sensitive."""

    code: str = "code"
    state: str = "state"
    error: str = "error"
    error_description: str = "error_description"


@dataclass
class Seen:
    """A received request, and the status of its response (`None`: none, or not yet)."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None


class Adfs(Protocol):
    """The part of an AD FS that a verifier of its tokens needs."""

    @property
    def issuer(self) -> str:
        """`iss` of its tokens."""

    @property
    def public_keys(self) -> KeySet:
        """The keys that verify its tokens."""

    @property
    def clients(self) -> Collection[str]:
        """Application ids."""


class RefusedError(Exception):
    """A refused request, with its response."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


class Common(TypedDict, total=False):
    """Arguments of every target, which it passes to `Target`."""

    resource: str | None
    authorized_apps: Iterable[str] | None
    further: Iterable[str]


class Target(ABC):
    """An address that stores callbacks by state; serve `app`.

    It accepts tokens of `entra` whose audience is exactly `resource` (`None`: its own URL) and
    whose application is one of `authorized_apps` (default: all of Entra's). `further` are its
    properties besides `names`, `lengths` their maximum lengths in characters.
    """

    def __init__(
        self,
        entra: Entra | Adfs,
        *,
        names: Names,
        further: Iterable[str] = (),
        lengths: Mapping[str, int],
        resource: str | None = None,
        authorized_apps: Iterable[str] | None = None,
    ) -> None:
        self.entra = entra
        self.resource = resource
        self.authorized_apps = set(entra.clients if authorized_apps is None else authorized_apps)
        self.names = names
        self.further = tuple(further)
        self.lengths = dict(lengths)
        self.permitted = True
        """Whether the caller's user may create records."""
        self.challenge = "Bearer"
        """`WWW-Authenticate` of a 401."""

        self.delay = 0.0
        """Seconds before each answer."""
        self.slow = 2.0
        """Seconds of `SLOW`."""
        self.faults: deque[Fault] = deque()
        """Faults of the next requests to the API, one each."""
        self.mode: Fault | None = None
        """The fault of every request to the API, while `faults` is empty."""
        self.retry_after: int | str = 1
        """`Retry-After` where it is sent: seconds or an HTTP-date."""

        self.rate: float | None = None
        """Requests a second that the API accepts, with a burst of one second's; then 429."""
        self._allowance = (0.0, 0.0)

        self.rows: dict[str, dict[str, Any]] = {}
        """The stored rows, by state."""
        self.requests: list[Seen] = []
        """Every request, in order of arrival."""

        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    @property
    def posts(self) -> int:
        """How many POSTs have arrived."""
        return sum(seen.method == "POST" for seen in self.requests)

    # --- requests and faults -------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        """Record the request and serve it; a fault replaces or breaks the answer."""
        path = request.url.path
        seen = Seen(request.method, path, dict(request.headers), await request.body())
        self.requests.append(seen)
        fault = self._next_fault() if self._is_api(path) else None
        answer = self._attempt(request, seen.body, fault)
        await pause(request.receive, self.delay + (self.slow if fault is Fault.SLOW else 0))
        seen.status = None if isinstance(answer, Hang | Reset) else answer.status_code
        return answer

    def _next_fault(self) -> Fault | None:
        if self.faults:
            return self.faults.popleft()
        return Fault.THROTTLED if self.mode is None and self._is_too_fast() else self.mode

    def _is_too_fast(self) -> bool:
        """Take one from the token bucket; tell whether it was empty."""
        if self.rate is None:
            return False
        left, then = self._allowance
        now = time.monotonic()
        left = min(self.rate, left + (now - then) * self.rate)
        too_fast = left < 1
        self._allowance = (left if too_fast else left - 1, now)
        return too_fast

    def _attempt(self, request: Request, body: bytes, fault: Fault | None) -> Response:
        instead = self._instead(request, fault)
        if instead is not None:
            return instead
        try:
            answer = self._serve(request, body)
        except RefusedError as refused:
            return refused.answer
        if fault in _BROKEN_AFTER_STORE:
            return _BROKEN_AFTER_STORE[fault](answer)
        return self._as_preferred(request, answer)

    def _instead(self, request: Request, fault: Fault | None) -> Response | None:
        """Return the response of a fault that replaces the service's, if it is one."""
        answers: dict[Fault | None, Callable[[], Response]] = {
            Fault.UNAUTHORIZED: lambda: self._unauthorized(request),
            Fault.FORBIDDEN: self._forbidden,
            Fault.NOT_FOUND: lambda: self._not_found(request),
            Fault.VALIDATION: self._invalid,
            Fault.REQUEST_TIMEOUT: lambda: empty(408),
            Fault.TOO_EARLY: lambda: empty(425),
            Fault.THROTTLED: self._throttled,
            Fault.SERVER_ERROR: self._server_error,
            Fault.SERVER_ERROR_HTML: lambda: page(500, "Server Error"),
            Fault.BAD_GATEWAY: lambda: page(502, "Bad Gateway"),
            Fault.UNAVAILABLE: self._unavailable,
            Fault.GATEWAY_TIMEOUT: self._gateway_timeout,
            Fault.SIGN_IN_PAGE: lambda: page(200, "Sign In"),
            Fault.REDIRECT: lambda: RedirectResponse(self._sign_in(request), 302),
            Fault.TEMPORARY_REDIRECT: lambda: _moved(request, 307),
            Fault.PERMANENT_REDIRECT: lambda: _moved(request, 308),
            Fault.HANG: Hang,
            Fault.RESET: Reset,
        }
        return answers[fault]() if fault in answers else None

    # --- authentication ------------------------------------------------------------------------

    def _check_token(self, request: Request) -> dict[str, Any]:
        """Verify the bearer token (RFC 6750): audience, issuer and app; return its claims."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        expected = JWTClaimsRegistry(
            aud={"essential": True, "values": list(self._audiences(request))},
            appid={"essential": True},
            exp={"essential": True},
            **self._issued_by(),
        )
        try:
            claims = jwt.decode(token, self.entra.public_keys, algorithms=["RS256"]).claims
            expected.validate(claims)
        except (JoseError, ValueError) as error:
            raise RefusedError(self._unauthorized(request)) from error
        if scheme != "Bearer":
            raise RefusedError(self._unauthorized(request))
        self._check_app(request, claims)
        return claims

    def _issued_by(self) -> dict[str, Any]:
        """Return the claims that the issuer's tokens must have.

        Entra's name the tenant, and the service principal in `oid`; those of AD FS do not.
        """
        if isinstance(self.entra, Entra):
            tenant = self.entra.tenant
            return {
                "iss": {"essential": True, "value": f"https://sts.windows.net/{tenant}/"},
                "tid": {"essential": True, "value": tenant},
                "oid": {"essential": True},
            }
        return {"iss": {"essential": True, "value": self.entra.issuer}}

    def _audiences(self, request: Request) -> Collection[str]:
        return {self.resource or origin(request)}

    def _check_app(self, request: Request, claims: Mapping[str, Any]) -> None:
        if claims["appid"] not in self.authorized_apps:
            raise RefusedError(self._unauthorized(request))

    # --- bodies and rows -----------------------------------------------------------------------

    def _object(self, request: Request, body: bytes) -> dict[str, Any]:
        """Parse the body as a JSON object."""
        header = Message()
        header["Content-Type"] = request.headers.get("Content-Type", "")
        if header.get_content_type() != "application/json":
            raise RefusedError(self._flawed(Flaw.MEDIA_TYPE))
        try:
            members = json.loads(body)
        except ValueError as error:
            raise RefusedError(self._flawed(Flaw.NOT_JSON)) from error
        if not isinstance(members, dict):
            raise RefusedError(self._flawed(Flaw.NOT_OBJECT))
        return members

    def _row(self, request: Request, body: bytes) -> dict[str, Any]:
        """Parse the body; its members must be string properties of the target."""
        row = self._object(request, body)
        for name, value in row.items():
            if name not in {*self.names, *self.further}:
                raise RefusedError(self._flawed(Flaw.UNKNOWN, name))
            self._check_string(name, value)
        return row

    def _check_string(self, name: str, value: object) -> None:
        if value is not None and not isinstance(value, str):
            raise RefusedError(self._flawed(Flaw.NOT_STRING, name))

    def _store(self, request: Request, row: dict[str, Any]) -> None:
        """Store the row; its state must be new."""
        state = row.get(self.names.state)
        if not state:
            raise RefusedError(self._flawed(Flaw.NO_KEY, self.names.state))
        self._check_lengths(row)
        if state in self.rows:
            raise RefusedError(self._duplicate(request, row))
        self.rows[state] = row

    def _check_lengths(self, row: Mapping[str, Any]) -> None:
        for name, length in self.lengths.items():
            value = row.get(name) or ""
            if len(value) > length:
                raise RefusedError(self._too_long(name, value))

    def _top(self, request: Request) -> list[dict[str, Any]]:
        """Return the first `$top` rows (OData 4.0 part 1, section 11.2.5.3)."""
        top = request.query_params.get("$top", str(len(self.rows)))
        if not top.isdecimal():
            raise RefusedError(self._flawed(Flaw.TOP))
        return list(self.rows.values())[: int(top)]

    # --- addresses and error formats -----------------------------------------------------------

    @abstractmethod
    def _is_api(self, path: str) -> bool:
        """Tell whether faults and throttling apply to this path."""

    @abstractmethod
    def _serve(self, request: Request, body: bytes) -> Response:
        """Answer, or raise `RefusedError`."""

    @abstractmethod
    def _flawed(self, flaw: Flaw, name: str = "") -> Response:
        """Return the error for a flaw of the request, or of the body's member of that name."""

    @abstractmethod
    def _duplicate(self, request: Request, row: Mapping[str, Any]) -> Response:
        """Return the error for a record that exists already."""

    @abstractmethod
    def _invalid(self) -> Response:
        """Return the error for a record that the customer's own code refuses."""

    @abstractmethod
    def _server_error(self) -> Response:
        """Return the error for an unexpected exception."""

    def _too_long(self, name: str, value: str) -> Response:  # noqa: ARG002 - a hook
        return self._flawed(Flaw.TOO_LONG, name)

    def _as_preferred(self, request: Request, answer: Response) -> Response:  # noqa: ARG002 - a hook
        """Apply the request's `Prefer` header."""
        return answer

    def _unauthorized(self, request: Request) -> Response:  # noqa: ARG002 - a hook
        return empty(401, {"WWW-Authenticate": self.challenge})

    def _forbidden(self) -> Response:
        return empty(403)

    def _not_found(self, request: Request) -> Response:  # noqa: ARG002 - a hook
        return empty(404)

    def _throttled(self) -> Response:
        return empty(429, self._retry_after())

    def _unavailable(self) -> Response:
        return page(503, "Service Unavailable", self._retry_after())

    def _gateway_timeout(self) -> Response:
        return page(504, "Gateway Timeout")

    def _sign_in(self, request: Request) -> str:
        return f"{request.base_url}adfs/ls/?wa=wsignin1.0"

    def _retry_after(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


def origin(request: Request) -> str:
    """Return the request's origin: `https://localhost:PORT`."""
    return str(request.base_url).removesuffix("/")


def empty(status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an answer without a body."""
    return Response(status_code=status, headers=headers)


def page(status: int, title: str, headers: dict[str, str] | None = None) -> Response:
    """Return an HTML page, like those of gateways and sign-in pages."""
    return HTMLResponse(HTML.format(title), status, headers)


def prefers(request: Request, preference: str) -> bool:
    """Tell whether `Prefer` (RFC 7240) names the preference, for example `return=minimal`."""
    asked = request.headers.get("Prefer", "").split(",")
    return preference in {item.strip() for item in asked}


def no_content(entity: str) -> Response:
    """Return 204 with the new row's address (OData 4.0 part 1, section 8.2.8.7)."""
    applied = {"Preference-Applied": "return=minimal", "OData-Version": "4.0"}
    return empty(204, {**applied, "Location": entity, "OData-EntityId": entity})


class Property(NamedTuple):
    """A property in `$metadata`."""

    name: str
    type: str = "Edm.String"
    length: int | None = None
    nullable: bool = True


def csdl(
    namespace: str,
    entity: str,
    properties: Iterable[Property],
    *,
    key: str,
    collection: str | None,
    annotation: str = "",
) -> Response:
    """Return `$metadata` (OData CSDL 4.0) of one entity type.

    `collection` is the name of its entity set, `None` for none; `annotation` is XML about the type.
    """
    lines = "".join(_property(item) for item in properties)
    entity_type = (
        f"<EntityType Name={quoteattr(entity)}><Key><PropertyRef Name={quoteattr(key)}/></Key>"
        f"{lines}{annotation}</EntityType>"
    )
    entity_set = (
        f"<EntitySet Name={quoteattr(collection)} EntityType={quoteattr(f'{namespace}.{entity}')}/>"
        if collection
        else ""
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx">'
        f"<edmx:DataServices><Schema Namespace={quoteattr(namespace)} "
        f'xmlns="http://docs.oasis-open.org/odata/ns/edm">{entity_type if collection else ""}'
        f'<EntityContainer Name="Resources">{entity_set}</EntityContainer>'
        "</Schema></edmx:DataServices></edmx:Edmx>"
    )
    return Response(text, media_type="application/xml")


def _property(item: Property) -> str:
    length = "" if item.length is None else f' MaxLength="{item.length}"'
    nullable = "" if item.nullable else ' Nullable="false"'
    return f"<Property Name={quoteattr(item.name)} Type={quoteattr(item.type)}{nullable}{length}/>"


def _moved(request: Request, status: int) -> Response:
    last = request.url.path.rpartition("/")[2]
    return RedirectResponse(f"{request.base_url}moved/{last}", status)


_BROKEN_AFTER_STORE: dict[Fault | None, Callable[[Response], Response]] = {
    Fault.HANG_AFTER_STORE: lambda _: Hang(),
    Fault.RESET_AFTER_STORE: lambda _: Reset(),
    Fault.HALF_BODY: HalfBody,
}
