"""Active Directory Federation Services (AD FS), which issues tokens on-premises instead of Entra.

Server applications authenticate with a secret or a certificate (a signed assertion):
https://learn.microsoft.com/windows-server/identity/ad-fs/overview/ad-fs-openid-connect-oauth-flows-scenarios.
Errors follow published responses: all are 400 with an MSIS number.

Assumptions, because no source says it: a `resource` must be spelled as registered; AD FS before
2019 refuses a request without one with MSIS9602; the token endpoint sends MSIS9605 with
`access_denied`; the texts of 429, 500 and 503.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import Any, override

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import assertions
from sandbox.assertions import Assertion, MalformedError
from sandbox.issuer import Fault, Issuer, RefusedError, base_of

__all__ = ["Adfs", "Fault"]

USERINFO = "urn:microsoft:userinfo"
"""What AD FS 2019 issues a token for when a request names no resource."""


class Adfs(Issuer):
    """AD FS with its server applications; serve `app`.

    `clients` maps client ids to their secrets, `resources` are the identifiers of the web APIs
    (both may be extended later), `lifetime` is that of a token in seconds. A client without a
    secret needs `certificates`. `legacy` is AD FS before 2019: it ignores `scope`, and the request
    must name its `resource`. `name` is the name of the federation service, which is in the issuer
    of its tokens at any address.
    """

    ALGORITHMS = ("RS256",)

    def __init__(
        self,
        *,
        clients: Mapping[str, str],
        resources: Iterable[str] = (),
        legacy: bool = False,
        lifetime: int = 3600,
        name: str = "localhost",
    ) -> None:
        super().__init__(clients, resources, lifetime)
        self.legacy = legacy
        self.issuer = f"http://{name}/adfs/services/trust"
        """`iss` of its access tokens; http although AD FS is served by https."""
        self.without_permission: set[str] = set()
        """Client ids that are not permitted to access any web API."""
        self.app = Starlette(
            routes=[
                Route("/adfs/.well-known/openid-configuration", self._metadata),
                Route("/adfs/discovery/keys", self._keys),
                Route("/adfs/oauth2/token", self._token, methods=["POST"]),
            ]
        )

    @override
    def verify(self, token: str, audience: str) -> dict[str, Any]:
        """Return the claims of an access token, checked as Dynamics does on premises."""
        return self._claims(token, iss=self.issuer, aud=audience, appid=None)

    @override
    def _document(self, request: Request) -> dict[str, Any]:
        """Return the members that AD FS publishes."""
        base = f"{base_of(request)}/adfs"
        return {
            "issuer": base,
            "authorization_endpoint": f"{base}/oauth2/authorize/",
            "token_endpoint": f"{base}/oauth2/token",
            "jwks_uri": f"{base}/discovery/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": [*self.ALGORITHMS],
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "allatclaims", "user_impersonation"],
            "access_token_issuer": self.issuer,
        }

    @override
    def _grant(self, request: Request, form: dict[str, str]) -> Response:
        """RFC 6749, section 4.4, as AD FS does it."""
        if form.get("grant_type") != "client_credentials":
            raise _MsisError("unsupported_grant_type", _GRANT)
        client = form.get("client_id", "")
        if client not in {*self.clients, *self.certificates}:
            raise _MsisError("invalid_client", _CLIENT)
        if not self._is_proven(request, client, form):
            raise _MsisError("invalid_client", _CREDENTIAL)
        resource = self._resource(form)
        if client in self.without_permission:
            raise _MsisError("access_denied", _PERMISSION)
        claims = {
            "aud": _audience(resource),
            "iss": self.issuer,
            "apptype": "Confidential",
            "appid": client,
            "ver": "1.0",
        }
        answer = {
            "access_token": self._sign(claims),
            "token_type": "bearer",
            "expires_in": self.lifetime,
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    @override
    def _outage(self, fault: Fault) -> RefusedError:
        return _MsisError(*_OUTAGE_TEXTS[fault])

    def _is_proven(self, request: Request, client: str, form: Mapping[str, str]) -> bool:
        if "client_assertion" in form:
            return self._is_asserted(request, client, form)
        sent, secret = form.get("client_secret", ""), self.clients.get(client)
        return secret is not None and hmac.compare_digest(sent.encode(), secret.encode())

    def _is_asserted(self, request: Request, client: str, form: Mapping[str, str]) -> bool:
        """RFC 7523, section 3. AD FS finds the certificate by its SHA-1 thumbprint only."""
        try:
            assertion = Assertion.read(form["client_assertion"])
        except MalformedError:
            return False
        certificate = assertion.certificate(self.certificates.get(client, ()), ["x5t"])
        return (
            form.get("client_assertion_type") == assertions.TYPE
            and certificate is not None
            and assertions.is_current(certificate)
            and assertion.is_signed_by(certificate, self.ALGORITHMS)
            and assertion.text("iss") == assertion.text("sub") == client
            and assertion.text("aud") == f"{base_of(request)}/adfs/oauth2/token"
            and assertion.is_timely
            and bool(assertion.text("jti"))
        )

    def _resource(self, form: Mapping[str, str]) -> str:
        """Return the requested web API.

        AD FS 2019 also takes it from a scope: the part before the last slash.
        """
        resource = form.get("resource", "")
        if not resource and not self.legacy:
            scopes = form.get("scope", "").split()
            named = [scope.rpartition("/")[0] for scope in scopes if "/" in scope]
            resource = named[0] if named else USERINFO
        if resource not in {*self.resources, USERINFO}:
            raise _MsisError("invalid_resource", _RESOURCE)
        return resource


class _MsisError(RefusedError):
    """An error as AD FS words it."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self._status = status
        self._body = {"error": error, "error_description": description}

    @override
    def answer(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        return JSONResponse(self._body, self._status, headers)


def _audience(resource: str) -> str:
    """Return `aud`: AD FS adds a prefix to an identifier that is not a URI."""
    return resource if ":" in resource else f"microsoft:identityserver:{resource}"


_GRANT = "MSIS9611: The authorization server does not support the requested 'grant_type'."
_CLIENT = (
    "MSIS9607: The 'client_id' parameter in the request is invalid. No registered client is found "
    "with this identifier."
)
_CREDENTIAL = (
    "MSIS9622: Client authentication failed. Please verify the credential provided for client "
    "authentication is valid."
)
_RESOURCE = (
    "MSIS9602: The received 'resource' parameter is invalid. The authorization server can not find "
    "a registered resource with the specified identifier."
)
_PERMISSION = "MSIS9605: The client is not allowed to access the requested resource."

_OUTAGE_TEXTS = {
    Fault.THROTTLED: ("temporarily_unavailable", "There are too many requests.", 429),
    Fault.SERVER_ERROR: ("server_error", "An error occurred.", 500),
    Fault.UNAVAILABLE: ("temporarily_unavailable", "The server is too busy.", 503),
}
