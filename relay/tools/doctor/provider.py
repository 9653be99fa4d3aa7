"""Checks of the provider against the settings."""

import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from relay import outgoing
from relay.connections import DEFAULT, Connection, Provider, StatePolicy
from relay.oauth import authorize, jarm
from relay.oauth.jwks import metadata_addresses
from relay.tools import providers
from relay.tools.doctor.entra import unreachable
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, warn

type Document = Mapping[str, Any]

_PLAIN = re.compile(r"https://[A-Za-z0-9.-]{1,200}(:\d{1,5})?(/[A-Za-z0-9._~-]{1,100}){0,8}/?")
"""An address of the provider's that is safe to print."""
_DISTINCT = 16
"""32 random bytes have more different ones than this; words and rows of zeros have fewer."""

_REDIRECT_URI = (
    "Register PROVIDER_REDIRECT_URI at the provider, to the letter, for the client of "
    "PROVIDER_CLIENT_ID; or correct these two."
)
_ERRORS: Mapping[str, tuple[str, str]] = {
    "invalid_scope": (
        "the provider does not take PROVIDER_SCOPE",
        "Ask for scopes that the provider has and that this client may ask for.",
    ),
    "unauthorized_client": (
        "the provider does not let this client ask for codes",
        "Register the client of PROVIDER_CLIENT_ID for the authorization code flow.",
    ),
    "unsupported_response_type": (
        "the provider gives no authorization codes",
        "Enable the authorization code flow for the client of PROVIDER_CLIENT_ID.",
    ),
    "invalid_request": (
        "the provider does not take the relay's authorization request",
        "Check PROVIDER_RESPONSE_MODE and PROVIDER_EXTRA, and that the provider knows PKCE (S256).",
    ),
    "unsupported_response_mode": (
        "the provider does not have PROVIDER_RESPONSE_MODE for this client",
        "Take another one, or leave PROVIDER_RESPONSE_MODE out.",
    ),
    "invalid_client": ("the provider does not know PROVIDER_CLIENT_ID", _REDIRECT_URI),
}
"""Errors (RFC 6749 §4.1.2.1) that point to a setting, with what is wrong and the next step."""
_KNOWN = ok("registration", "as far as can be seen, the provider knows client and redirect URI")
_UNKNOWN = fail(
    "registration",
    "the provider does not take PROVIDER_REDIRECT_URI or PROVIDER_CLIENT_ID",
    _REDIRECT_URI,
)
_REFUSES = re.compile(rb"AADSTS(50011|500113|700016|900971)\b")
"""In Entra's page for an unknown redirect URI or client, which has status 200."""
_ERROR_PAGE = re.compile(r"(^|[^a-z])(oauth)?errors?([^a-z]|$)", re.IGNORECASE)
_ERROR_PARAMETERS = {"error", "autherror", "errorid", "error_code"}
_NO_SESSION = {
    "login_required",
    "interaction_required",
    "consent_required",
    "account_selection_required",
}
"""Errors of `prompt=none` when all is well (OpenID Connect Core 1.0 §3.1.2.6)."""


def examine(
    connection: Connection, http: httpx.Client, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Examine the provider of a connection, and its state policy. Reads only."""
    provider = connection.provider
    metadata: Document | None = {}
    if provider.issuer is not None:
        metadata = yield from _metadata(provider, provider.issuer, http)
    if metadata:
        yield from _iss(provider, metadata)
        yield from _response_mode(provider, metadata)
        if provider.authorization_endpoint is not None:
            yield from _authorization(provider, provider.authorization_endpoint, metadata)
    if provider.secured and (metadata is not None or provider.jwks_uri):
        yield _keys(provider, metadata or {}, http)
    if "id_token" in provider.response_type.split():
        yield _id_token(connection)
    if provider.redirect_uri is not None:
        yield _redirect_uri(provider.redirect_uri, connection.name, environ)
    if provider.authorization_endpoint and provider.client_id and provider.redirect_uri:
        yield _registration(provider, provider.authorization_endpoint, http)
    if provider.authorization_endpoint is not None:
        yield from _code_ttl(connection, provider.authorization_endpoint)
    yield _policy(connection)


# -- the issuer's metadata -----------------------------------------------------------------------


def _metadata(
    provider: Provider, issuer: str, http: httpx.Client
) -> Generator[Finding, None, Document | None]:
    """Read the metadata of RFC 8414 §3 or OpenID Connect Discovery 1.0 §4.

    Return an empty document if there is none, and `None` if it cannot be read or used.
    """
    others = []
    for address in metadata_addresses(issuer):
        try:
            response = http.get(address)
        except httpx.HTTPError as error:
            # The relay itself reads them for JARM only, to find the keys.
            needed = provider.secured and provider.jwks_uri is None
            finding = unreachable("issuer", "the provider", error)
            yield finding if needed else replace(finding, verdict=Verdict.WARN)
            return None
        document = _object(response)
        if document.get("issuer") == issuer:
            yield ok("issuer", "its metadata are those of PROVIDER_ISSUER")
            return document
        if isinstance(document.get("issuer"), str):
            others.append(str(document["issuer"]))
    if others:
        yield _another(issuer, others[0])
        return None
    yield warn(
        "issuer",
        "the provider publishes no metadata under PROVIDER_ISSUER",
        "Compare PROVIDER_ISSUER with the provider's documentation, letter by letter; without "
        "metadata its promises cannot be examined.",
    )
    return {}


def _another(issuer: str, told: str) -> Finding:
    """Return that the issuer has another name (RFC 8414 §3.3: they must be identical)."""
    what = "PROVIDER_ISSUER is not what the provider calls itself: its responses are refused"
    if told.rstrip("/") == issuer.rstrip("/"):
        what = "PROVIDER_ISSUER differs by a slash at its end: the provider's responses are refused"
    if not _PLAIN.fullmatch(told):
        return fail("issuer", what, "Set PROVIDER_ISSUER to the `issuer` of its metadata.")
    fix = f"Set PROVIDER_ISSUER to {told}, exactly so."
    if urlsplit(told).netloc != urlsplit(issuer).netloc:
        fix += " Check first that this is the provider you mean: it is another host."
    return fail("issuer", what, fix)


def _iss(provider: Provider, metadata: Document) -> Iterator[Finding]:
    if provider.secured:
        return  # a JWT always names its issuer (JARM §2.1)
    # RFC 9207 §3: false where it is left out.
    supported = metadata.get("authorization_response_iss_parameter_supported") is True
    if provider.iss_required and not supported:
        yield fail(
            "iss",
            "PROVIDER_ISS_REQUIRED is true, but the provider does not promise iss",
            "Set PROVIDER_ISS_REQUIRED to false: every response without iss is refused.",
        )
    elif supported and not provider.iss_required:
        yield warn(
            "iss",
            "the provider sends iss in each response, and the relay takes one without it",
            "Set PROVIDER_ISS_REQUIRED to true: another provider's response is then refused.",
        )
    else:
        yield ok("iss", "required and promised" if supported else "neither promised nor required")


def _response_mode(provider: Provider, metadata: Document) -> Iterator[Finding]:
    mode = provider.response_mode
    if mode is None:
        return
    told = _texts(metadata, "response_modes_supported")
    # RFC 8414 §2 has the default. JARM §2.3.4: `jwt` is query.jwt, for a code.
    supported = {*(told or ("query", "fragment"))}
    if mode in supported or (mode == "jwt" and "query.jwt" in supported):
        yield ok("mode", "the provider has this response mode")
    elif told is None:
        yield warn(
            "mode",
            "the provider does not say that it has PROVIDER_RESPONSE_MODE",
            "Look it up in the provider's documentation.",
        )
    else:
        yield fail(
            "mode",
            "the provider does not have PROVIDER_RESPONSE_MODE",
            "Take one of its response_modes_supported, or leave PROVIDER_RESPONSE_MODE out.",
        )


def _authorization(provider: Provider, endpoint: str, metadata: Document) -> Iterator[Finding]:
    told = metadata.get("authorization_endpoint")
    if isinstance(told, str) and told.partition("?")[0] != endpoint.partition("?")[0]:
        right = told if _PLAIN.fullmatch(told) else "the authorization_endpoint of its metadata"
        yield fail(
            "endpoint",
            "PROVIDER_AUTHORIZATION_ENDPOINT is not the one of the provider's metadata",
            f"Set PROVIDER_AUTHORIZATION_ENDPOINT to {right}.",
        )
    else:
        yield ok("endpoint", "the authorization endpoint is the provider's")
    types = _texts(metadata, "response_types_supported")
    if types is not None and "code" not in types:
        yield fail("flow", *_ERRORS["unsupported_response_type"])
    yield _pkce(metadata)
    scopes = _texts(metadata, "scopes_supported")
    if scopes is not None and not {*(provider.scope or "").split()} <= {*scopes}:
        # RFC 8414 §2: it need not list them all.
        yield warn(
            "scopes",
            "PROVIDER_SCOPE asks for what the provider does not list",
            "Compare PROVIDER_SCOPE with the provider's documentation.",
        )


def _pkce(metadata: Document) -> Finding:
    methods = _texts(metadata, "code_challenge_methods_supported")
    if methods is None:  # RFC 8414 §2: no PKCE
        return warn(
            "pkce",
            "the provider does not promise PKCE: it may ignore the code challenge",
            "Nothing, if the provider's documentation says that it does; else ask for it.",
        )
    if "S256" not in methods:
        return fail(
            "pkce",
            "the provider's PKCE does not have S256, which is all that the relay sends",
            "Start the flow in Dynamics instead: leave PROVIDER_AUTHORIZATION_ENDPOINT out.",
        )
    return ok("pkce", "the provider has PKCE with S256")


def _code_ttl(connection: Connection, endpoint: str) -> Iterator[Finding]:
    """Compare `CODE_TTL` with the life of codes, where the provider is a known one."""
    lifetime = providers.code_lifetime(endpoint)
    if lifetime is None:
        return
    if connection.code_ttl.total_seconds() <= lifetime:
        yield ok("code_ttl", f"codes of this provider live for {lifetime} s, CODE_TTL is no more")
        return
    yield warn(
        "code_ttl",
        f"CODE_TTL is longer than codes of this provider live: {lifetime} s",
        f"Set CODE_TTL to {lifetime}, or to less where Dynamics takes time to redeem: an older "
        "code is delivered in vain (docs/providers).",
    )


# -- JARM ----------------------------------------------------------------------------------------


def _keys(provider: Provider, metadata: Document, http: httpx.Client) -> Finding:
    """Check that the provider publishes a key for signed responses (JARM)."""
    told = _texts(metadata, "authorization_signing_alg_values_supported")
    if told is not None and not {*told} & {*jarm.ALGORITHMS}:
        return fail(
            "keys",
            "the provider signs its responses with no algorithm that the relay takes",
            f"Register one of {', '.join(jarm.ALGORITHMS)} for this client at the provider.",
        )
    address = provider.jwks_uri or str(metadata.get("jwks_uri", ""))
    if provider.jwks_uri is None and not _is_address(address):
        return fail(
            "keys",
            "nothing says where the provider's keys are, without which no response is believed",
            "Set PROVIDER_JWKS_URI, or correct PROVIDER_ISSUER.",
        )
    try:
        response = http.get(address)
    except httpx.HTTPError as error:
        return unreachable("keys", "the server of the provider's keys", error)
    keys = _object(response).get("keys")
    for key in keys if isinstance(keys, list) else ():
        if isinstance(key, dict) and any(jarm.fits(key, each) for each in jarm.ALGORITHMS):
            return ok("keys", "the provider publishes a key that proves its responses")
    return fail(
        "keys",
        "the provider publishes no key that could prove a response",
        f"Check PROVIDER_JWKS_URI; {', '.join(jarm.ALGORITHMS)} are taken.",
    )


def _is_address(text: str) -> bool:
    try:
        return urlsplit(text).scheme == "https" and bool(httpx.URL(text).host)
    except (ValueError, httpx.InvalidURL):
        return False


# -- the redirect URI ----------------------------------------------------------------------------


def _id_token(connection: Connection) -> Finding:
    if "id_token" not in connection.target.body.params:
        return ok("id_token", "it is dropped: DYNAMICS_BODY does not name {param:id_token}")
    return warn(
        "id_token",
        "the relay passes the id_token on and does not verify it",
        "Let Dynamics verify its signature, its c_hash (of the code) and its s_hash (of the "
        "state) before it redeems the code.",
    )


def _redirect_uri(uri: str, name: str, environ: Mapping[str, str]) -> Finding:
    if "/" not in uri:
        return ok("redirect_uri", "it is the provider's name for an address: compare that there")
    parts = urlsplit(uri)
    host, own = parts.netloc.lower(), environ.get("WEBSITE_HOSTNAME", "").lower()
    paths = (f"/callback/{name}", *(("/callback",) if name == DEFAULT else ()))
    if parts.path not in paths:
        fronted = parts.path.endswith(paths) and host != own
        if not fronted or parts.netloc.endswith(".azurewebsites.net"):
            return fail(
                "redirect_uri",
                "PROVIDER_REDIRECT_URI is not the address of this connection",
                f"Its path must be {' or '.join(reversed(paths))}; register the same at the "
                "provider.",
            )
        return warn(
            "redirect_uri",
            "the path of PROVIDER_REDIRECT_URI has something in front",
            f"Nothing, if a gateway cuts it off; else its path must be {paths[0]}.",
        )
    if own and not own.startswith("localhost") and host != own:
        return warn(
            "redirect_uri",
            "PROVIDER_REDIRECT_URI has another host than this Function App",
            "Nothing, if it is a custom domain or a gateway in front of it; else take "
            "https://<WEBSITE_HOSTNAME>.",
        )
    return ok("redirect_uri", "it is the address of this connection")


def _registration(provider: Provider, endpoint: str, http: httpx.Client) -> Finding:
    """Send the relay's authorization request, and see whether the provider refuses it.

    With `prompt=none` the provider shows no page (OpenID Connect Core 1.0 §3.1.2.1). No redirect is
    followed, and nothing of the answer is printed.
    """
    try:
        response = http.get(_request(provider, endpoint))
    except httpx.HTTPError as error:
        finding = unreachable("registration", "the provider", error)
        return replace(finding, verdict=Verdict.WARN)
    if response.has_redirect_location:
        return _sent_to(response.headers["location"], provider.redirect_uri or "")
    if response.status_code in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS) or (
        response.is_server_error or response.is_redirect
    ):
        return warn(
            "registration",
            f"the provider does not answer a program (HTTP {response.status_code}), so it cannot "
            "be seen whether it knows the redirect URI",
            f"Try it in a browser. {_REDIRECT_URI}",
        )
    if response.is_client_error or _REFUSES.search(response.content):
        return _UNKNOWN
    return _KNOWN


def _request(provider: Provider, endpoint: str) -> str:
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    pairs = authorize.request_parameters(provider, state, verifier)
    asked = [(name, value) for name, value in pairs if name != "prompt"]
    return authorize.address(endpoint, [*asked, ("prompt", "none")])


def _sent_to(location: str, redirect_uri: str) -> Finding:
    try:
        parts = urlsplit(location)
    except ValueError:
        return _UNKNOWN
    told = {*parse_qsl(parts.query), *parse_qsl(parts.fragment)}
    if location.partition("?")[0].partition("#")[0] == redirect_uri.partition("?")[0]:
        errors = [value for name, value in told if name == "error" and value in _ERRORS]
        return fail("registration", *_ERRORS[errors[0]]) if errors else _KNOWN
    names = {name.lower() for name, value in told if value not in _NO_SESSION}
    if _ERROR_PAGE.search(parts.path) or names & _ERROR_PARAMETERS:
        return _UNKNOWN
    return _KNOWN


# -- the state -----------------------------------------------------------------------------------


def _policy(connection: Connection) -> Finding:
    match connection.state_policy:
        case StatePolicy.OPAQUE:
            return warn(
                "state",
                "STATE_POLICY is opaque: strangers can write rows",
                "For production let Dynamics sign the state, and set STATE_POLICY to signed "
                "(docs/minting.md; docs/security.md says what each policy proves).",
            )
        case StatePolicy.PATTERN:
            return warn(
                "state",
                "STATE_POLICY is pattern: whoever knows the pattern is let in",
                "Better let Dynamics sign the state, and set STATE_POLICY to signed "
                "(docs/minting.md).",
            )
        case StatePolicy.SIGNED:
            keys = connection.state_keys.values()
    if any(len(set(key)) < _DISTINCT for key in keys):
        return warn(
            "state",
            "a key of STATE_KEYS does not look random",
            "Run python -m relay keygen, and put its key into STATE_KEYS and into Dynamics.",
        )
    return ok("state", f"it is signed, with {len(keys)} key{'s' * (len(keys) != 1)} to prove it")


# -- reading -------------------------------------------------------------------------------------


def _object(response: httpx.Response) -> dict[str, Any]:
    is_ok = response.status_code == HTTPStatus.OK
    return (outgoing.json_object(response.content) if is_ok else None) or {}


def _texts(metadata: Document, name: str) -> tuple[str, ...] | None:
    """Return the strings of a list, `None` if there is no list."""
    values = metadata.get(name)
    if not isinstance(values, list):
        return None
    return tuple(value for value in values if isinstance(value, str))
