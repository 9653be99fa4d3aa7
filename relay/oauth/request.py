"""The HTTP request that carries an authorization response: limits, media type, raw parameters.

The raw query is parsed, not the framework's dictionary of it: the Functions host joins duplicate
parameters with a comma and drops empty ones before a function sees them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import parse_qsl

from relay.errors import InvalidResponse

MAX_QUERY = 8 * 1024
MAX_BODY = 32 * 1024
MAX_PARAMETERS = 50
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
IMPLICIT = ("access_token", "id_token", "token")
RESPONSE = ("state", "error", "error_description", "error_uri", "iss", "session_state")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. `query` is raw, `headers` have lower-case names."""

    method: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def wants_html(self) -> bool:
        """Whether the client accepts HTML, as browsers do and programs do not."""
        return "text/html" in self.headers.get("accept", "").lower()


def guard(request: Request) -> None:
    """Refuse other methods than GET and POST, and prefetches, before anything else is read.

    Raises `InvalidResponse`: with 405 for the method, with 503 for a prefetch or prerender, which
    would deliver the code before the person has clicked. Chromium keeps the 204 of a prefetch, and
    the real click then does nothing; it discards a 503.
    """
    if request.method not in ("GET", "POST"):
        raise InvalidResponse(
            "method",
            "A redirect URI takes GET and POST.",
            HTTPStatus.METHOD_NOT_ALLOWED,
            page="method",
        )
    for name in ("sec-purpose", "purpose", "x-moz"):
        purpose = request.headers.get(name, "").lower()
        if "prefetch" in purpose or "prerender" in purpose:
            raise InvalidResponse(
                "prefetch",
                "A redirect URI is not loaded ahead.",
                HTTPStatus.SERVICE_UNAVAILABLE,
                page="prefetch",
            )


type Parameters = list[tuple[str, str]]
"""Names and values in their order, duplicates included, decoded once."""


def response_parameters(request: Request) -> Parameters:
    """Return the parameters of a request that `guard` let pass; a GET has some.

    Checks and raises as `parameters`.
    """
    pairs = parameters(request)
    if request.method == "GET" and not pairs:
        raise InvalidResponse(
            "bare",
            "This is a redirect URI: a provider sends people here with a code.",
            HTTPStatus.OK,
            page="bare",
        )
    return pairs


def parameters(request: Request) -> Parameters:
    """Return the parameters of query and body.

    Checks sizes, media type and encoding. Raises `InvalidResponse`.
    """
    _check_size(request)
    media_type = _media_type(request)
    pairs = _query_pairs(request.query)
    if media_type is not None:
        pairs += _body_pairs(request, media_type)
    if len(pairs) > MAX_PARAMETERS:
        raise too_large("more than 50 parameters")
    return pairs


def _check_size(request: Request) -> None:
    try:
        query_size = len(request.query.encode("utf-8"))
    except UnicodeError:  # raw bytes that the host could not read
        raise _not_utf8() from None
    if query_size > MAX_QUERY:
        raise too_large("a query of more than 8 KiB")
    if len(request.body) > MAX_BODY:
        raise too_large("a body of more than 32 KiB")
    if request.method == "POST" and not request.body and "content-length" not in request.headers:
        # The Functions host passes no chunked body to a function: the body was lost, not empty.
        raise InvalidResponse(
            "length_required",
            "The body came without a Content-Length. Send it in one piece, not chunked.",
            HTTPStatus.LENGTH_REQUIRED,
        )


def _media_type(request: Request) -> str | None:
    """Return the media type of the body, or `None` when there is no body or it is ignored."""
    if request.method != "POST" or not request.body:
        return None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (FORM, JSON):
        raise InvalidResponse(
            "media_type",
            f"A response by POST is {FORM} or {JSON}.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    return media_type


def _query_pairs(query: str) -> Parameters:
    try:
        return parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="strict")
    except UnicodeError:
        raise _not_utf8() from None


def _body_pairs(request: Request, media_type: str) -> Parameters:
    try:
        text = request.body.decode("utf-8")
    except UnicodeError:
        raise _not_utf8() from None
    return _json_pairs(text) if media_type == JSON else _query_pairs(text)


def _json_pairs(text: str) -> Parameters:
    # Only the members of the outermost object are parameters. Inner objects are parsed as lists of
    # pairs too, and ignored like every value that is not a string.
    try:
        members = json.loads(text, object_pairs_hook=_Members, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidResponse("json", "The body is not JSON.") from None
    if not isinstance(members, _Members):
        raise InvalidResponse("json", "The body is not a JSON object.")
    return strings(members)


def strings(members: Iterable[tuple[str, object]]) -> Parameters:
    """Return JSON members as parameters; a value that is not a string becomes empty.

    Raises `InvalidResponse` for a known parameter that is not a string.
    """
    pairs = []
    for name, value in members:
        if isinstance(value, str):
            pairs.append((name, value))
        elif value is not None and name in ("code", *RESPONSE, *IMPLICIT):
            raise InvalidResponse("json", f"The member {name} is not a string.")
        else:
            pairs.append((name, ""))
    try:
        "".join(name + value for name, value in pairs).encode("utf-8")
    except UnicodeError:  # an escaped lone surrogate
        raise _not_utf8() from None
    return pairs


class _Members(list[tuple[str, object]]):
    """The members of a JSON object in their order, duplicates included."""


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def too_large(what: str) -> InvalidResponse:
    """Return the error for a response that exceeds a limit."""
    return InvalidResponse(
        "too_large",
        f"The response has {what}: no provider sends that.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _not_utf8() -> InvalidResponse:
    return InvalidResponse("encoding", "The response is not UTF-8.")
