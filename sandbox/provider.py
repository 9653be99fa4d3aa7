"""An external OAuth 2.0 provider: Authlib's authorization server, served by Starlette.

Authorization code grant (RFC 6749 section 4.1) with PKCE (RFC 7636, S256 only), refresh tokens
that rotate, `iss` in every authorization response (RFC 9207), metadata (RFC 8414), and one
protected resource (RFC 6750).
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2 import AuthorizationServer, OAuth2Error, OAuth2Request, ResourceProtector
from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator, BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

CLIENT_AUTHENTICATION = ["client_secret_basic", "client_secret_post"]
GRANTS = ["authorization_code", "refresh_token"]
RESPONSE_MODES = ["query", "fragment", "form_post"]
TOKEN_SECONDS = 3600


@dataclass(frozen=True)
class Registration:
    """A client that is registered at the provider, with the methods that Authlib calls."""

    client_id: str
    client_secret: str
    redirect_uris: tuple[str, ...]
    scope: str = "profile"

    def get_default_redirect_uri(self) -> str | None:
        """RFC 6749 section 3.1.2.3: only a single registered URI may be left out."""
        return self.redirect_uris[0] if len(self.redirect_uris) == 1 else None

    def get_allowed_scope(self, scope: str | None) -> str:
        """Return the requested scope without what is not registered; by default the registered."""
        asked = (scope or self.scope).split()
        return " ".join(name for name in asked if name in self.scope.split())

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """RFC 9700 section 2.1: exact comparison."""
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(client_secret.encode(), self.client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Allow confidential clients only."""
        return endpoint == "token" and method in CLIENT_AUTHENTICATION

    def check_response_type(self, response_type: str) -> bool:
        """Allow codes only."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """Allow codes and refresh tokens."""
        return grant_type in GRANTS


class Provider:
    """The authorization server, its users and its protected resource; serve `app`.

    `clients` are the registered clients, `users` maps names to passwords, `code_lifetime` is in
    seconds. `issuer` defaults to the base URL of the first request.
    """

    def __init__(
        self,
        clients: list[Registration],
        *,
        users: dict[str, str] | None = None,
        code_lifetime: float = 300,
        issuer: str | None = None,
    ) -> None:
        self.clients = {client.client_id: client for client in clients}
        self.users = users or {"ada": "engine"}
        self.issuer = issuer

        self._grants = _Grants(code_lifetime)
        self.codes_issued = self._grants.codes_issued
        self.codes_redeemed = self._grants.codes_redeemed
        self.tokens_issued = self._grants.tokens_issued
        """Every access and refresh token that was issued."""

        self._server = _Server(self.clients, self._grants)
        self._iss = _Iss(self)
        self._server.register_extension(self._iss)
        self._protector = ResourceProtector()
        self._protector.register_token_validator(_Validator(self._grants))
        self.app = Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route("/authorize", self._authorize, methods=["GET", "POST"]),
                Route("/token", self._token, methods=["POST"]),
                Route("/api/me", self._me),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        issuer = self._learn_issuer(request)
        metadata = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "scopes_supported": sorted({c.scope for c in self.clients.values()}),
            "response_types_supported": ["code"],
            "response_modes_supported": RESPONSE_MODES,
            "grant_types_supported": GRANTS,
            "token_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse(metadata)

    async def _authorize(self, request: Request) -> Response:
        """Show the consent page, or answer its form (RFC 6749 section 3.1).

        The form posts to its own URL and holds user name and password, so there is no session
        cookie that another site could use (CSRF).
        """
        self._learn_issuer(request)
        asked = _OAuthRequest(request, request.url.query)
        try:
            grant = self._server.get_consent_grant(asked)
        except OAuth2Error as error:
            answer = self._server.handle_error_response(asked, error)
            self._iss.add_issuer_parameter(self._server, answer)
            return _deliver(answer, asked)
        except ValueError:  # Authlib cannot quote some characters in its error
            return JSONResponse({"error": "invalid_request"}, 400)
        if request.method == "GET":
            return self._consent_page(asked)
        form = dict(parse_qsl((await request.body()).decode()))
        allowed = form.get("decision") == "allow"
        if allowed and not self._knows(form.get("username", ""), form.get("password", "")):
            return self._consent_page(asked, "User name or password is wrong.", 403)
        user = form["username"] if allowed else None
        return _deliver(self._server.create_authorization_response(asked, user, grant), asked)

    async def _token(self, request: Request) -> Response:
        form = (await request.body()).decode()
        answer: Response = self._server.create_token_response(_OAuthRequest(request, form))
        return answer

    async def _me(self, request: Request) -> Response:
        try:
            token: _Token = self._protector.validate_request(None, request)
        except OAuth2Error as error:
            status, body, headers = error()
            return JSONResponse(body, status, dict(headers))
        return JSONResponse({"sub": token.user, "scope": token.scope, "client_id": token.client_id})

    def _consent_page(
        self, asked: "_OAuthRequest", message: str = "", status: int = 200
    ) -> Response:
        alert = Markup('<p role="alert">{}</p>').format(message) if message else ""
        who = Markup("<strong>{}</strong> with the password <strong>{}</strong>")
        users = Markup(" or ").join(who.format(*user) for user in self.users.items())
        content = CONSENT.format(
            client=asked.client.client_id, scope=asked.scope, users=users, message=alert
        )
        return _page("Sandbox provider", content, _redirect_uri(asked), status)

    def _learn_issuer(self, request: Request) -> str:
        self.issuer = self.issuer or str(request.base_url).removesuffix("/")
        return self.issuer

    def _knows(self, user: str, password: str) -> bool:
        expected = self.users.get(user)
        return expected is not None and hmac.compare_digest(expected.encode(), password.encode())


@dataclass
class _Code:
    code: str
    client_id: str
    redirect_uri: str | None
    scope: str
    user: str
    expires_at: float
    code_challenge: str | None
    code_challenge_method: str = "S256"
    redeemed: bool = False

    def get_redirect_uri(self) -> str | None:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass
class _Token:
    access_token: str
    refresh_token: str
    client_id: str
    scope: str
    user: str
    expires_at: float
    code: str
    revoked: bool = False

    def check_client(self, client: Registration) -> bool:
        return client.client_id == self.client_id

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return self.expires_at < time.time()

    def is_revoked(self) -> bool:
        return self.revoked


class _Grants:
    """The issued codes and tokens, and whether they are still valid."""

    def __init__(self, code_lifetime: float) -> None:
        self.code_lifetime = code_lifetime
        self.codes_issued: list[str] = []
        self.codes_redeemed: list[str] = []
        self.tokens_issued: list[str] = []
        self._codes: dict[str, _Code] = {}
        self._tokens: list[_Token] = []

    def issue_code(self, code: str, request: "_OAuthRequest") -> None:
        self.codes_issued.append(code)
        asked = request.payload.data
        self._codes[code] = _Code(
            code=code,
            client_id=request.client.client_id,
            redirect_uri=asked.get("redirect_uri"),
            scope=request.scope,
            user=request.user,
            expires_at=time.time() + self.code_lifetime,
            code_challenge=asked.get("code_challenge"),
        )

    def find_code(self, code: str, client: Registration) -> _Code | None:
        """Return the code unless it has expired or belongs to another client.

        A second use revokes the tokens of the first one (RFC 6749 section 4.1.2).
        """
        found = self._codes.get(code)
        if found is None or found.client_id != client.client_id:
            return None
        if found.redeemed:
            for token in self._tokens:
                token.revoked = token.revoked or token.code == code
        return None if found.redeemed or found.expires_at < time.time() else found

    def redeem(self, code: _Code) -> None:
        code.redeemed = True
        self.codes_redeemed.append(code.code)

    def issue_token(self, token: dict[str, Any], request: "_OAuthRequest") -> None:
        self.tokens_issued += [token["access_token"], token["refresh_token"]]
        self._tokens.append(
            _Token(
                access_token=token["access_token"],
                refresh_token=token["refresh_token"],
                client_id=request.client.client_id,
                scope=token.get("scope", ""),
                user=request.user,
                expires_at=time.time() + token["expires_in"],
                code=(request.authorization_code or request.refresh_token).code,
            )
        )

    def find_token(self, *, access: str = "", refresh: str = "") -> _Token | None:
        for token in self._tokens:
            if access == token.access_token or refresh == token.refresh_token:
                return token
        return None


# Authlib has no type hints, so every subclass of its classes needs an ignore.


class _OAuthRequest(OAuth2Request):  # type: ignore[misc]
    """A request whose parameters are `encoded`: its query at /authorize, its body at /token."""

    def __init__(self, request: Request, encoded: str) -> None:
        super().__init__(request.method, str(request.url), headers=request.headers)
        self.payload = _Payload(encoded)

    @property
    def form(self) -> dict[str, str]:
        parameters: dict[str, str] = self.payload.data
        return parameters


class _Payload(BasicOAuth2Payload):  # type: ignore[misc]
    def __init__(self, encoded: str) -> None:
        pairs = parse_qsl(encoded, keep_blank_values=True)
        super().__init__(dict(pairs))
        self._datalist = {name: [v for n, v in pairs if n == name] for name in self._data}


class _Answer(Response):
    """A response with the property `location`, which Authlib's extensions read and write."""

    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @location.setter
    def location(self, value: str) -> None:
        self.headers["Location"] = value


class _Server(AuthorizationServer):  # type: ignore[misc]
    def __init__(self, clients: dict[str, Registration], grants: _Grants) -> None:
        super().__init__()
        self.clients = clients
        self.grants = grants
        self.register_grant(_CodeGrant, [_Pkce(required=False)])
        self.register_grant(_RefreshGrant)
        self.register_token_generator(
            "default", BearerTokenGenerator(_random, _random, TOKEN_SECONDS)
        )

    def query_client(self, client_id: str) -> Registration | None:
        return self.clients.get(client_id)

    def save_token(self, token: dict[str, Any], request: _OAuthRequest) -> None:
        self.grants.issue_token(token, request)

    def create_oauth2_request(self, request: _OAuthRequest) -> _OAuthRequest:
        return request

    def handle_response(self, status: int, body: object, headers: list[tuple[str, str]]) -> _Answer:
        text = json.dumps(body) if isinstance(body, dict) else None
        return _Answer(text, status, dict(headers))

    def send_signal(self, *_: object, **__: object) -> None:
        """Do nothing: there are no listeners."""


class _CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = CLIENT_AUTHENTICATION

    def validate_authorization_request(self) -> str:
        redirect_uri: str = super().validate_authorization_request()
        if self.request.payload.data.get("response_mode", "query") not in RESPONSE_MODES:
            raise InvalidRequestError("Unknown response_mode.", redirect_uri=redirect_uri)
        return redirect_uri

    def generate_authorization_code(self) -> str:
        """Return a code with `/` and `+`, as real providers do: wrong URL-encoding breaks it."""
        return "4/" + base64.b64encode(secrets.token_bytes(46)).decode()

    def save_authorization_code(self, code: str, request: _OAuthRequest) -> None:
        self.server.grants.issue_code(code, request)

    def query_authorization_code(self, code: str, client: Registration) -> _Code | None:
        found: _Code | None = self.server.grants.find_code(code, client)
        return found

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        self.server.grants.redeem(authorization_code)

    def authenticate_user(self, authorization_code: _Code) -> str:
        return authorization_code.user


class _RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = CLIENT_AUTHENTICATION
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> _Token | None:
        found: _Token | None = self.server.grants.find_token(refresh=refresh_token)
        return None if found is None or found.revoked else found

    def authenticate_user(self, refresh_token: _Token) -> str:
        return refresh_token.user

    def revoke_old_credential(self, refresh_token: _Token) -> None:
        refresh_token.revoked = True


class _Pkce(CodeChallenge):  # type: ignore[misc]
    def validate_code_challenge(self, grant: _CodeGrant, redirect_uri: str) -> None:
        """Require the method S256: the default of RFC 7636 section 4.3 is `plain`."""
        asked = grant.request.payload.data
        if asked.get("code_challenge") and asked.get("code_challenge_method") != "S256":
            raise InvalidRequestError("The code_challenge_method must be S256.")
        super().validate_code_challenge(grant, redirect_uri)


class _Iss(IssuerParameter):  # type: ignore[misc]
    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def get_issuer(self) -> str | None:
        return self.provider.issuer


class _Validator(BearerTokenValidator):  # type: ignore[misc]
    def __init__(self, grants: _Grants) -> None:
        super().__init__()
        self.grants = grants

    def authenticate_token(self, token_string: str) -> _Token | None:
        return self.grants.find_token(access=token_string)


def _random(**_: object) -> str:
    return secrets.token_urlsafe(32)


def _deliver(answer: _Answer, asked: _OAuthRequest) -> Response:
    """Convert the redirect to the requested `response_mode` (OAuth 2.0 Form Post Response Mode)."""
    mode = asked.payload.data.get("response_mode")
    if answer.location is None or mode not in {"fragment", "form_post"}:
        return answer
    target, _, parameters = answer.location.partition("?")
    if mode == "form_post":
        return _form_post_page(target, parse_qsl(parameters))
    answer.location = f"{target}#{parameters}"
    return answer


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; background: #f3f2f1; color: #201f1e; margin: 0 }
main { max-width: 24rem; margin: 10vh auto; padding: 2rem; background: #fff;
  border-radius: 8px; box-shadow: 0 2px 12px #0002 }
h1 { font-size: 1.25rem; margin-top: 0 }
label, input { display: block; width: 100%; box-sizing: border-box }
input { font: inherit; padding: .5rem; margin-bottom: 1rem; border: 1px solid #8a8886;
  border-radius: 4px }
button { font: inherit; padding: .5rem 1.25rem; border: 1px solid #0f6cbd; border-radius: 4px;
  background: #0f6cbd; color: #fff }
button + button { background: #fff; color: #0f6cbd }
[role=alert] { color: #a4262c }
@media (prefers-color-scheme: dark) {
  body { background: #141414; color: #f3f2f1 }
  main { background: #1f1f1f; box-shadow: none }
  button { border-color: #62abf5; background: #62abf5; color: #141414 }
  button + button { background: #1f1f1f; color: #62abf5 }
  [role=alert] { color: #f1707b }
}
"""
SCRIPT = "document.forms[0].submit()"

PAGE = Markup("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>{style}</style></head><body><main><h1>{title}</h1>{content}</main></body></html>""")

CONSENT = Markup("""<p><strong>{client}</strong> asks for: {scope}</p>
<p>This is a sandbox. Sign in as {users}.</p>{message}
<form method="post">
<label for="username">User name</label>
<input id="username" name="username" autocomplete="off" autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="off">
<button name="decision" value="allow">Allow</button>
<button name="decision" value="deny">Deny</button>
</form>""")

FORM_POST = Markup("""<form method="post" action="{action}">{inputs}
<button>Continue</button></form><script>{script}</script>""")


def _redirect_uri(asked: _OAuthRequest) -> str:
    uri: str = asked.payload.redirect_uri or asked.client.get_default_redirect_uri()
    return uri


def _form_post_page(action: str, parameters: list[tuple[str, str]]) -> Response:
    hidden = Markup('<input type="hidden" name="{}" value="{}">')
    inputs = Markup().join(hidden.format(name, value) for name, value in parameters)
    content = FORM_POST.format(action=action, inputs=inputs, script=Markup(SCRIPT))  # noqa: S704
    return _page("Back to the application", content, action)


def _page(title: str, content: Markup, redirect_uri: str, status: int = 200) -> Response:
    """Render a page. `form-action` has the client's origin: browsers check a form's redirects."""
    client = urlsplit(redirect_uri)
    policy = (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
        f"form-action 'self' {client.scheme}://{client.netloc}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
    }
    html = PAGE.format(title=title, style=Markup(STYLE), content=content)  # noqa: S704
    return HTMLResponse(html, status, headers)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
