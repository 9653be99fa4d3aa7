"""The authorization response (RFC 6749 §4.1.2): the parameters of the provider's redirect.

`parse` reads it, `oauth.state` verifies its state, `check` validates the rest.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from relay.connections import Connection, StatePolicy
from relay.errors import InvalidResponse
from relay.oauth.error_codes import REGISTERED
from relay.oauth.request import IMPLICIT, RESPONSE, Parameter, Parameters, strings, too_large

MAX_CODE = 8 * 1024
MAX_VALUE = 4 * 1024
MAX_SECURED = 20 * 1024
"""Characters of a JARM response: the longest code and state in base64, and a signature."""
MAX_HELD = 24 * 1024
"""Bytes of JSON of all kept values: encrypted and in base64 twice they must fit a queue message."""
MAX_DESCRIPTION = 1_000
"""Characters of `error_description` that are kept."""
NOTHING_SENT = "server_error"
"""The `error` in place of a response that has a state and neither a code nor an error."""
# RFC 6749 Appendix A: `code` and `state` are VSCHAR, `error` is NQSCHAR.
_VSCHAR = re.compile(r"[\x20-\x7e]+")
_NQSCHAR = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HTTPS_URI = re.compile(r"https://[\x21\x23-\x3b=\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]+")


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """An unverified authorization response (RFC 6749 §4.1.2 and §4.1.2.1).

    A parameter with an empty value is absent. `implicit`: the response has tokens, which are not
    kept. `extra` holds those further parameters that the body template names. `params` is the JSON
    text of all parameters, where the template names it.
    """

    code: str | None = field(repr=False)
    state: str | None = field(repr=False)
    error: str | None = field(default=None, repr=False)
    error_description: str | None = field(default=None, repr=False)
    error_uri: str | None = field(default=None, repr=False)
    iss: str | None = field(default=None, repr=False)
    session_state: str | None = field(default=None, repr=False)
    implicit: bool = False
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedResponse(AuthorizationResponse):
    """An authorization response whose state was verified. Only `state.verify` makes one.

    Delivery accepts no other type, so an unverified response cannot reach Dynamics by mistake.
    `jti` is that of a signed state: flows that one ticket started share it. `environment`: the
    configured one that the state names. Only a flow that began at the relay has `code_verifier` and
    `redirect_uri`, which Dynamics needs to redeem its code, and `cookie_name`, the cookie that
    binds it to its browser.
    """

    state: str = field(repr=False)
    jti: str | None = field(default=None, repr=False)
    code_verifier: str | None = field(default=None, repr=False)
    cookie_name: str | None = field(default=None, repr=False)
    redirect_uri: str | None = None
    environment: str | None = None


def parse(pairs: Parameters, connection: Connection) -> AuthorizationResponse:
    """Parse the authorization response in the parameters of a request.

    The connection's template names further parameters. Checks sizes, and that no known parameter
    is repeated, in the query, the body or both. Does not check who sent it. Raises
    `InvalidResponse`.
    """
    if connection.provider.secured:
        raise _no_jwt()
    sent = {each.name for each in pairs if each.raw}
    if "response" in sent and sent.isdisjoint(_response_parameters(connection)):
        # Without a state the response is refused anyway, and this reason tells the operator why.
        raise InvalidResponse(
            "jarm_unexpected",
            "The response is a JWT, and PROVIDER_RESPONSE_MODE does not say that it is.",
        )
    return _response(pairs, connection)


def secured(pairs: Parameters, connection: Connection) -> str | None:
    """Return the response JWT (JARM §2.3), or `None` if the connection does not use JARM.

    A connection with JARM accepts no plain response: that would bypass the signature. Raises
    `InvalidResponse`.
    """
    if not connection.provider.secured:
        return None
    plain = _response_parameters(connection)
    _check_duplicates(pairs, plain | {"response"})
    sent = {each.name: each for each in pairs if each.raw}
    if "response" not in sent:
        raise _no_jwt()
    if not plain.isdisjoint(sent):
        raise InvalidResponse("jarm_beside", "The response is a JWT and has parameters beside it.")
    token = sent["response"].text()
    if len(token) > MAX_SECURED:
        raise too_large("a value that is too long")
    return token


def unpacked(claims: Mapping[str, object], connection: Connection) -> AuthorizationResponse:
    """Return the response in the claims of a JWT (JARM §2.1); only `jarm.unpack` calls this.

    The same limits apply as to the parameters of a query.
    """
    return _response(strings(claims.items()), connection)


def check(response: VerifiedResponse, connection: Connection) -> VerifiedResponse:
    """Validate a verified response, and return it. Raises `InvalidResponse`.

    In this order: `iss` (RFC 9207 §2.4), not both a code and an error (RFC 6749 §4.1.2), no tokens
    of the implicit flow, and the character sets of RFC 6749 Appendix A. A state alone, which banks
    send when their session has ended, becomes the error `NOTHING_SENT`.
    """
    _check_issuer(response, connection)
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
    if response.code is None and response.error is None:
        described = "The response has neither a code nor an error."
        return replace(response, error=NOTHING_SENT, error_description=described)
    return response


def shown(response: VerifiedResponse, connection: Connection) -> tuple[str | None, str | None]:
    """Return `error` and `error_description` as far as a person may see them.

    Without a signed state anybody could have written them ("Your account was locked. Call …"): then
    only an error that is registered is shown.
    """
    if connection.state_policy is StatePolicy.SIGNED:
        return response.error, response.error_description
    return (response.error if _is_registered(response) else None), None


def ended_by_provider(response: AuthorizationResponse) -> bool:
    """Tell whether an unverified response is an error, and nothing else, that is registered."""
    return response.code is None and _is_registered(response)


def _is_registered(response: AuthorizationResponse) -> bool:
    # Providers write errors in capitals too (Acrobat Sign: ACCESS_DENIED).
    return (response.error or "").lower() in REGISTERED


def _check_issuer(response: VerifiedResponse, connection: Connection) -> None:
    provider = connection.provider
    if provider.issuer is None:
        return
    if response.iss is None:
        if provider.iss_required:
            raise InvalidResponse("iss_missing", "The response does not name its issuer (iss).")
    elif response.iss != provider.issuer:
        # Simple string comparison (RFC 3986 §6.2.1), as RFC 9207 §2.4 demands: no normalisation.
        raise InvalidResponse("iss_mismatch", "The response comes from another issuer (iss).")


def _response(pairs: Parameters, connection: Connection) -> AuthorizationResponse:
    provider, bodies = connection.provider, tuple(connection.bodies)
    named = {name for body in bodies for name in body.params}
    wanted = {provider.code_parameter, provider.state_parameter, *RESPONSE, *named}
    _check_duplicates(pairs, wanted | set(IMPLICIT))
    sent = {each.name: each for each in pairs if each.raw}
    asked = (sent[name] for name in wanted if name in sent)
    kept = {each.name: value for each in asked if (value := _value(each, connection))}
    params = None
    if any("params" in body.names for body in bodies):
        params = _json(pairs, connection)
    # Counted as the outbox writes it: there the text of `params` stands as a string, with escapes.
    held = kept if params is None else [kept, params]
    if len(json.dumps(held, ensure_ascii=False).encode()) > MAX_HELD:
        raise too_large("more than 24 KiB of values")
    tokens = set(IMPLICIT).difference(provider.response_type.split())
    return AuthorizationResponse(
        code=kept.get(provider.code_parameter),
        state=kept.get(provider.state_parameter),
        error=kept.get("error"),
        error_description=kept.get("error_description"),
        error_uri=_https_uri(kept.get("error_uri")),
        iss=kept.get("iss"),
        session_state=kept.get("session_state"),
        implicit=not tokens.isdisjoint(sent),
        extra={name: kept[name] for name in named if name in kept},
        params=params,
    )


def _value(parameter: Parameter, connection: Connection) -> str:
    """Return the value of a parameter that is kept. Raises `InvalidResponse`."""
    if parameter.name == "error_description":
        return _without_controls(parameter.text("replace"))
    value = parameter.text()
    limit = MAX_CODE if parameter.name == connection.provider.code_parameter else MAX_VALUE
    if len(value.encode()) > limit:
        raise too_large("a value that is too long")
    return value


def _json(pairs: Parameters, connection: Connection) -> str:
    """Return all parameters in their order as JSON text: an array of pairs of name and value."""
    values = [(each.name, _value(each, connection)) for each in pairs]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _response_parameters(connection: Connection) -> set[str]:
    """Return the parameters of a plain response, which must not accompany a response JWT."""
    provider = connection.provider
    return {provider.code_parameter, provider.state_parameter, "code", "state", "error"}


def _check_duplicates(pairs: Parameters, known: set[str]) -> None:
    # An empty value counts as absent: Strava sends `state=x&state=`.
    names = [each.name for each in pairs if each.raw and each.name in known]
    if len(names) > len(set(names)):
        raise InvalidResponse("duplicate", "A parameter stands in the response more than once.")


def _no_jwt() -> InvalidResponse:
    return InvalidResponse("jarm_missing", "The response is not the JWT that it has to be.")


def _without_controls(description: str) -> str:
    # Entra puts CR LF into it, so control characters are replaced and not refused.
    return _CONTROL.sub(" ", description)[:MAX_DESCRIPTION].strip()


def _https_uri(uri: str | None) -> str | None:
    return uri if uri is not None and _HTTPS_URI.fullmatch(uri) else None
