"""The authorization response (RFC 6749 §4.1.2): what the provider's redirect says.

`parse` reads it, `oauth.state` verifies it, `check` holds it against the norms.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.connections import Connection
from relay.errors import InvalidResponse
from relay.oauth.request import IMPLICIT, RESPONSE, Request, parameters, strings, too_large

MAX_CODE = 8 * 1024
MAX_VALUE = 4 * 1024
MAX_SECURED = 20 * 1024
"""Characters of a secured response: the longest code and state in base64, and a signature."""
MAX_HELD = 24 * 1024
"""Bytes of JSON of all that is kept: sealed and in base64 twice it must fit a queue message."""
MAX_DESCRIPTION = 1_000
"""Characters of `error_description` that are kept."""
# RFC 6749 Appendix A: `code` and `state` are VSCHAR, `error` is NQSCHAR.
_VSCHAR = re.compile(r"[\x20-\x7e]+")
_NQSCHAR = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HTTPS_URI = re.compile(r"https://[\x21\x23-\x3b=\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]+")


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """What the provider's redirect said, not believed yet (RFC 6749 §4.1.2 and §4.1.2.1).

    A parameter with an empty value is absent. `implicit` tells of tokens in the response, which are
    not kept. `extra` holds the further parameters that the body template names, no others.
    """

    code: str | None = field(repr=False)
    state: str | None = field(repr=False)
    error: str | None = field(repr=False)
    error_description: str | None = field(repr=False)
    error_uri: str | None = field(repr=False)
    iss: str | None = field(repr=False)
    session_state: str | None = field(repr=False)
    implicit: bool
    extra: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedResponse(AuthorizationResponse):
    """The same after its state was verified. Only `state.verify` makes one.

    Delivery takes nothing else, so that what a stranger sends cannot reach Dynamics by mistake.
    `code_verifier` and `redirect_uri` are what Dynamics needs to redeem the code of a flow that
    began at the relay; of any other flow it knows them itself. `cookie_name` is the cookie that
    bound such a flow to its browser.
    """

    state: str = field(repr=False)
    code_verifier: str | None = field(default=None, repr=False)
    cookie_name: str | None = field(default=None, repr=False)
    redirect_uri: str | None = None


def parse(request: Request, connection: Connection) -> AuthorizationResponse:
    """Read the authorization response out of a request.

    In: a guarded request, and the connection whose template names further parameters. It checks
    sizes, media type, encoding and that no known parameter stands twice, whether in the query, the
    body or both. It does not check who sent it. Raises `InvalidResponse`.
    """
    pairs = parameters(request)
    _check_not_bare(request, pairs)
    if connection.provider.secured:
        raise _unsecured()
    sent = {name for name, value in pairs if value}
    if "response" in sent and sent.isdisjoint(_beside(connection)):
        # An unknown parameter like any other, but without a state the answer is no anyway, and
        # this reason tells the operator what to do.
        raise InvalidResponse(
            "jarm_unexpected",
            "The response is a JWT, and PROVIDER_RESPONSE_MODE does not say that it is.",
        )
    return _response(pairs, connection)


def secured(request: Request, connection: Connection) -> str | None:
    """Return the JWT that is the response (JARM §2.3), or `None` where the connection wants none.

    In: a guarded request. Where a JWT is wanted nothing else is taken: whoever could leave it out
    would need no signature. Raises `InvalidResponse`.
    """
    if not connection.provider.secured:
        return None
    pairs = parameters(request)
    _check_not_bare(request, pairs)
    beside = _beside(connection)
    _check_duplicates(pairs, beside | {"response"})
    sent = {name: value for name, value in pairs if value}
    token = sent.get("response")
    if token is None:
        raise _unsecured()
    if not beside.isdisjoint(sent):
        raise InvalidResponse("jarm_beside", "The response is a JWT and has parameters beside it.")
    if len(token) > MAX_SECURED:
        raise too_large("a value that is too long")
    return token


def unpacked(claims: Mapping[str, object], connection: Connection) -> AuthorizationResponse:
    """Return the response that the claims of a JWT are (JARM §2.1); only `jarm.unpack` calls this.

    The parameters in it are held against the same limits as those of a query.
    """
    return _response(strings(claims.items()), connection)


def check(response: VerifiedResponse, connection: Connection) -> None:
    """Hold a verified response against the norms. Raises `InvalidResponse`.

    In this order: `iss` (RFC 9207 §2.4), `error` (§4.1.2.1), tokens of the implicit flow, which
    have no business here, and the character sets of RFC 6749 Appendix A.
    """
    _check_issuer(response, connection)
    if response.code is None and response.error is None:
        raise InvalidResponse("no_code", "The response has neither a code nor an error.")
    if response.code is not None and response.error is not None:
        raise InvalidResponse("code_and_error", "The response has both a code and an error.")
    if response.implicit:
        raise InvalidResponse(
            "implicit",
            "The provider sent a token. Set it to the authorization code flow: response_type=code.",
        )
    for name, value, grammar in (
        ("code", response.code, _VSCHAR),
        ("state", response.state, _VSCHAR),
        ("error", response.error, _NQSCHAR),
    ):
        if value is not None and not grammar.fullmatch(value):
            raise InvalidResponse(
                f"{name}_characters",
                f"The {name} has characters that RFC 6749 does not allow in it.",
            )


def _check_issuer(response: VerifiedResponse, connection: Connection) -> None:
    provider = connection.provider
    if provider.issuer is None:
        return
    if response.iss is None:
        if provider.iss_required:
            raise InvalidResponse("iss_missing", "The response does not name its issuer (iss).")
    elif response.iss != provider.issuer:
        # Simple string comparison, RFC 3986 §6.2.1: no normalisation that could be played with.
        raise InvalidResponse("iss_mismatch", "The response comes from another issuer (iss).")


def _check_not_bare(request: Request, pairs: list[tuple[str, str]]) -> None:
    if request.method == "GET" and not pairs:
        raise InvalidResponse(
            "bare", "This is a redirect URI: a provider sends people here with a code.", page="bare"
        )


def _response(pairs: list[tuple[str, str]], connection: Connection) -> AuthorizationResponse:
    code_parameter = connection.provider.code_parameter
    wanted = {code_parameter, *RESPONSE, *connection.target.body.params}
    _check_duplicates(pairs, wanted | set(IMPLICIT))
    sent = {name: value for name, value in pairs if value}
    kept = {name: sent[name] for name in wanted if name in sent}
    if description := _legible(kept.pop("error_description", None)):
        kept["error_description"] = description
    for name, value in kept.items():
        limit = MAX_CODE if name == code_parameter else MAX_VALUE
        if len(value.encode()) > limit:
            raise too_large("a value that is too long")
    if len(json.dumps(kept, ensure_ascii=False).encode()) > MAX_HELD:
        raise too_large("more than 24 KiB of values")
    return AuthorizationResponse(
        code=kept.get(code_parameter),
        state=kept.get("state"),
        error=kept.get("error"),
        error_description=kept.get("error_description"),
        error_uri=_absolute(kept.get("error_uri")),
        iss=kept.get("iss"),
        session_state=kept.get("session_state"),
        implicit=any(name in sent for name in IMPLICIT),
        extra={name: kept[name] for name in connection.target.body.params if name in kept},
    )


def _beside(connection: Connection) -> set[str]:
    """Return the parameters that make a response, and may not stand beside a JWT that is one."""
    return {connection.provider.code_parameter, "code", "state", "error"}


def _check_duplicates(pairs: list[tuple[str, str]], known: set[str]) -> None:
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in known):
        raise InvalidResponse("duplicate", "A parameter stands in the response more than once.")


def _unsecured() -> InvalidResponse:
    return InvalidResponse("jarm_missing", "The response is not the JWT that it has to be.")


def _legible(description: str | None) -> str | None:
    # Entra puts CR LF into it: a reason to tidy up, never one to refuse.
    if description is None:
        return None
    return _CONTROL.sub(" ", description)[:MAX_DESCRIPTION].strip() or None


def _absolute(uri: str | None) -> str | None:
    return uri if uri is not None and _HTTPS_URI.fullmatch(uri) else None
