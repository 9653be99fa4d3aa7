"""The HTTP request that carries an authorization response: limits, media type, raw parameters.

The raw query is parsed, not the framework's dictionary of it: the Functions host joins duplicate
parameters with a comma and drops empty ones before a function sees them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from relay.errors import InvalidResponse

MAX_QUERY = 8 * 1024
MAX_BODY = 32 * 1024
MAX_PARAMETERS = 50
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
IMPLICIT = ("access_token", "id_token", "token")
RESPONSE = ("error", "error_description", "error_uri", "iss", "session_state")
# `error_description` is never a reason to refuse.
_STRINGS = {"code", "state", *RESPONSE, *IMPLICIT} - {"error_description"}


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


class Parameter(NamedTuple):
    """A parameter of a request. `raw`: its value, in UTF-8 unless the provider errs.

    `encoded`: the value is percent-encoded, as in a query or form.
    """

    name: str
    raw: bytes
    encoded: bool = False

    def text(self, errors: str = "strict") -> str:
        """Decode the value. Raises `InvalidResponse` if it is not UTF-8 and `errors` is strict."""
        return _text(_unquoted(self.raw) if self.encoded else self.raw, errors)


type Parameters = list[Parameter]
"""The parameters of a request in their order, duplicates included. Values are decoded on demand:
providers send bytes that are not UTF-8 in parameters that nobody asked for."""


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

    Checks sizes, media type and the encoding of names. Raises `InvalidResponse`.
    """
    # Not strict: the value of a parameter that nobody asked for may have bytes that are no UTF-8.
    query = request.query.encode("utf-8", "surrogatepass")
    _check_size(request, query)
    media_type = _media_type(request)
    pairs = _form_pairs(query)
    if media_type is not None:
        pairs += _json_pairs(request.body) if media_type == JSON else _form_pairs(request.body)
    if len(pairs) > MAX_PARAMETERS:
        raise _too_many()
    return pairs


def _check_size(request: Request, query: bytes) -> None:
    if len(query) > MAX_QUERY:
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


def _form_pairs(form: bytes) -> Parameters:
    # Splitting stops at the limit: 32 KiB of `a&a&…` would hold the event loop for 16 ms.
    fields = form.split(b"&", MAX_PARAMETERS)
    if len(fields) > MAX_PARAMETERS:
        raise _too_many()
    pairs = []
    for each in filter(None, fields):
        name, _, value = each.partition(b"=")
        pairs.append(Parameter(_text(_unquoted(name)), value, encoded=True))
    return pairs


def _unquoted(raw: bytes) -> bytes:
    return unquote_to_bytes(raw.replace(b"+", b" "))


def _text(raw: bytes, errors: str = "strict") -> str:
    try:
        return raw.decode("utf-8", errors)
    except UnicodeError:
        raise InvalidResponse("encoding", "The response is not UTF-8.") from None


def _json_pairs(body: bytes) -> Parameters:
    # Only the members of the outermost object are parameters. Inner objects are parsed as lists of
    # pairs too, and ignored like every value that is not a string.
    try:
        members = json.loads(
            body.decode("utf-8", "surrogateescape"),
            object_pairs_hook=_Members,
            parse_constant=_no_constant,
        )
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
        if value is not None and not isinstance(value, str) and name in _STRINGS:
            raise InvalidResponse("json", f"The member {name} is not a string.")
        raw = _bytes(value) if isinstance(value, str) else b""
        pairs.append(Parameter(_text(_bytes(name)), raw))
    return pairs


def _bytes(text: str) -> bytes:
    """Return a text of JSON as the bytes that it was."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an escaped lone surrogate: its bytes are not UTF-8 either
        return text.encode("utf-8", "surrogatepass")


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


def _too_many() -> InvalidResponse:
    return too_large("more than 50 parameters")
