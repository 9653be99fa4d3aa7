"""Microsoft Entra ID as the sandbox plays it: one tenant, client credentials, real RS256 tokens.

Answers and their texts follow
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow and
https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
"""

import hmac
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import NAMESPACE_URL, uuid4, uuid5

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.serving import HalfBody, Hang, Reset, pause

TENANT = "7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
HTML = "<!DOCTYPE html><html><head><title>Sign in to your account</title></head></html>"


class Fault(Enum):
    """What can be wrong with Entra. The two `METADATA_…` strike the metadata, others the tokens."""

    THROTTLED = auto()
    """429 with `Retry-After`."""
    SERVER_ERROR = auto()
    """500, JSON."""
    UNAVAILABLE = auto()
    """503, JSON."""
    UNAVAILABLE_HTML = auto()
    """503, an HTML page."""
    NOT_JSON = auto()
    """200, an HTML page."""
    NOT_JSON_ERROR = auto()
    """400, an HTML page."""
    HANG = auto()
    """Never answers."""
    RESET = auto()
    """The connection is reset."""
    HALF_BODY = auto()
    """200, and half of the JSON; the token counts as issued."""
    METADATA_DOWN = auto()
    """503 for openid-configuration and keys."""
    METADATA_HANG = auto()
    """Never answers for openid-configuration and keys."""


class Entra:
    """One tenant of login.microsoftonline.com; serve `app`.

    `clients` maps application ids to their secrets, `resources` are the application id URIs that
    tokens are issued for (both may grow later), `lifetime` is the life of a token in seconds.
    """

    def __init__(
        self,
        *,
        clients: Mapping[str, str],
        resources: Iterable[str] = (),
        tenant: str = TENANT,
        lifetime: int = 3599,
    ) -> None:
        self.tenant = tenant
        self.clients = dict(clients)
        self.resources = set(resources)
        self.lifetime = lifetime
        self.expired: set[str] = set()
        """Application ids whose secret is right but expired."""

        self.delay = 0.0
        """Seconds before each answer."""
        self.faults: deque[Fault] = deque()
        """Faults of the next token requests, one each."""
        self.mode: Fault | None = None
        """The fault of every request, while `faults` is empty."""
        self.retry_after: int | str = 1
        """`Retry-After` of `THROTTLED`: seconds or an HTTP-date."""

        self.token_requests = 0
        self.metadata_requests = 0
        self.issued: list[str] = []
        """Every access token issued, as it went over the wire."""

        self._key = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
        self.public_keys = KeySet.import_key_set(KeySet([self._key]).as_dict())
        """What verifies the tokens."""

        self.app = Starlette(
            routes=[
                Route("/{tenant}/v2.0/.well-known/openid-configuration", self._metadata),
                Route("/{tenant}/discovery/v2.0/keys", self._keys),
                Route("/{tenant}/oauth2/v2.0/token", self._token, methods=["POST"]),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        """OpenID Connect Discovery 1.0, section 4, with the members Entra publishes."""
        self.metadata_requests += 1
        base, tenant = _base(request), self.tenant
        metadata = {
            "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "jwks_uri": f"{base}/{tenant}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": f"{base}/{tenant}/v2.0",
            "request_uri_parameter_supported": False,
            "authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
            "tenant_region_scope": "EU",
            "cloud_instance_name": "microsoftonline.com",
        }
        return await self._publish(request, metadata)

    async def _keys(self, request: Request) -> Response:
        return await self._publish(request, {**self.public_keys.as_dict()})

    async def _publish(self, request: Request, document: dict[str, Any]) -> Response:
        await pause(request.receive, self.delay)
        if self.mode is Fault.METADATA_HANG:
            return Hang()
        if self.mode is Fault.METADATA_DOWN:
            return _page(503)
        try:
            self._check_tenant(request)
        except _RefusedError as refused:
            return refused.answer(request)
        return JSONResponse(document)

    async def _token(self, request: Request) -> Response:
        """RFC 6749, section 4.4, as Entra v2.0 does it."""
        self.token_requests += 1
        form = dict(parse_qsl((await request.body()).decode("ascii", "replace")))
        fault = self.faults.popleft() if self.faults else self.mode
        await pause(request.receive, self.delay)
        if fault in _INSTEAD:
            return _INSTEAD[fault](self, request)
        try:
            self._check_tenant(request)
            answer = self._issue(self._check_client(form), self._check_scope(form))
        except _RefusedError as refused:
            return refused.answer(request)
        return HalfBody(answer) if fault is Fault.HALF_BODY else answer

    def _check_tenant(self, request: Request) -> None:
        tenant = request.path_params["tenant"]
        if tenant.lower() != self.tenant.lower():
            raise _RefusedError(90002, tenant)

    def _check_client(self, form: dict[str, str]) -> str:
        grant, client = _required(form, "grant_type"), _required(form, "client_id")
        if grant != "client_credentials":
            raise _RefusedError(70003, grant)
        if client not in self.clients:
            raise _RefusedError(700016, client, self.tenant)
        if "client_secret" not in form:
            raise _RefusedError(7000218)
        if not hmac.compare_digest(form["client_secret"].encode(), self.clients[client].encode()):
            raise _RefusedError(7000215, client)
        if client in self.expired:
            raise _RefusedError(7000222, client)
        return client

    def _check_scope(self, form: dict[str, str]) -> str:
        """Return the resource, spelled as asked for: so it becomes the audience.

        Entra finds `https://X/` and `https://x` alike, and issues `aud` with that slash or those
        capitals; it is Dynamics which then refuses.
        """
        scope = _required(form, "scope")
        if len(scope.split()) != 1:
            raise _RefusedError(70011, scope)
        if not scope.endswith("/.default"):
            raise _RefusedError(1002012, scope)
        resource = scope.removesuffix("/.default")
        if resource.lower().removesuffix("/") not in {known.lower() for known in self.resources}:
            raise _RefusedError(500011, resource, self.tenant)
        return resource

    def _issue(self, client: str, resource: str) -> Response:
        """Answer with a v1.0 access token, which is what Dynamics' registration asks for."""
        now = int(time.time())
        principal = str(uuid5(NAMESPACE_URL, f"{self.tenant}/{client}"))
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime,
            "appid": client,
            "appidacr": "1",
            "idp": f"https://sts.windows.net/{self.tenant}/",
            "idtyp": "app",
            "oid": principal,
            "roles": [],
            "sub": principal,
            "tid": self.tenant,
            "uti": uuid4().hex[:22],
            "ver": "1.0",
        }
        token = jwt.encode({"alg": "RS256", "kid": self._key.kid}, claims, self._key)
        self.issued.append(token)
        answer = {
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "ext_expires_in": self.lifetime,
            "access_token": token,
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store, no-cache"})


class _Text(NamedTuple):
    status: int
    error: str
    sentence: str


_NOT_INSTALLED = (
    "This can happen if the application has not been installed by the administrator of the tenant "
    "or consented to by any user in the tenant."
)

_AADSTS = {
    50000: _Text(500, "server_error", "There was an issue with the sign-in service."),
    70003: _Text(
        400, "unsupported_grant_type", "The app requested an unsupported grant type '{}'."
    ),
    70011: _Text(
        400,
        "invalid_scope",
        "The provided request must include a 'scope' input parameter. The provided value for the "
        "input parameter 'scope' is not valid. The scope {} is not valid.",
    ),
    90002: _Text(
        400,
        "invalid_tenant",
        "Tenant '{}' not found. Check to make sure you have the correct tenant ID and are signing "
        "into the correct cloud.",
    ),
    90033: _Text(503, "temporarily_unavailable", "A transient error has occurred. Try again."),
    90055: _Text(429, "temporarily_unavailable", "There are too many incoming requests."),
    500011: _Text(
        400,
        "invalid_resource",
        "The resource principal named {} was not found in the tenant named {}. " + _NOT_INSTALLED,
    ),
    700016: _Text(
        400,
        "unauthorized_client",
        "Application with identifier '{}' was not found in the directory '{}'. " + _NOT_INSTALLED,
    ),
    900144: _Text(
        400,
        "invalid_request",
        "The request body must contain the following parameter: '{}'.",
    ),
    1002012: _Text(
        400,
        "invalid_scope",
        "The provided value for scope {} is not valid. Client credential flows must have a scope "
        "value with /.default suffixed to the resource identifier (application ID URI).",
    ),
    7000215: _Text(
        401,
        "invalid_client",
        "Invalid client secret provided. Ensure the secret being sent in the request is the client "
        "secret value, not the client secret ID, for a secret added to app '{}'.",
    ),
    7000218: _Text(
        401,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or "
        "'client_secret'.",
    ),
    7000222: _Text(
        401,
        "invalid_client",
        "The provided client secret keys for app '{}' are expired. Visit the Azure portal to "
        "create new keys for your app: https://aka.ms/NewClientSecret.",
    ),
}


class _RefusedError(Exception):
    """An AADSTS code and what its sentence is about."""

    def __init__(self, code: int, *about: str) -> None:
        super().__init__(code)
        self.code = code
        self.about = about

    def answer(self, request: Request, headers: dict[str, str] | None = None) -> Response:
        """Put it in Entra's words: the error response with its ids and its timestamp."""
        status, error, sentence = _AADSTS[self.code]
        trace = str(uuid4())
        correlation = request.headers.get("client-request-id", str(uuid4()))
        timestamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        body = {
            "error": error,
            "error_description": f"AADSTS{self.code}: {sentence.format(*self.about)} "
            f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{_base(request)}/error?code={self.code}",
        }
        return JSONResponse(body, status, headers)


def _required(form: dict[str, str], name: str) -> str:
    if not form.get(name):
        raise _RefusedError(900144, name)
    return form[name]


def _base(request: Request) -> str:
    return str(request.base_url).removesuffix("/")


def _page(status: int) -> Response:
    return HTMLResponse(HTML, status)


_INSTEAD: dict[Fault | None, Callable[[Entra, Request], Response]] = {
    Fault.THROTTLED: lambda entra, request: _RefusedError(90055).answer(
        request, {"Retry-After": str(entra.retry_after)}
    ),
    Fault.SERVER_ERROR: lambda _, request: _RefusedError(50000).answer(request),
    Fault.UNAVAILABLE: lambda _, request: _RefusedError(90033).answer(request),
    Fault.UNAVAILABLE_HTML: lambda *_: _page(503),
    Fault.NOT_JSON: lambda *_: _page(200),
    Fault.NOT_JSON_ERROR: lambda *_: _page(400),
    Fault.HANG: lambda *_: Hang(),
    Fault.RESET: lambda *_: Reset(),
}
