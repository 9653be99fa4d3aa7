"""What ASP.NET Core does around a function: path, query, routes, cookies, HSTS.

Pure functions. Each docstring names the source file whose rules it follows, in
dotnet/aspnetcore, dotnet/runtime or Azure/azure-functions-host.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cached_property
from http.cookies import Morsel
from typing import Any, Self
from urllib.parse import quote

from starlette.types import Scope

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPED_SLASH = re.compile(r"(%2[Ff])")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEGMENT = re.compile(
    r"\{(?P<name>[A-Za-z_]\w*)(?P<optional>\?)?\}|\{\*(?P<rest>[A-Za-z_]\w*)\}"
    r"|(?P<literal>[^{}?*]+)",
    re.ASCII,
)
_TIMESPAN = re.compile(r"(?:(\d+)\.)?([01]?\d|2[0-3]):([0-5]\d):([0-5]\d(?:\.\d{1,7})?)")
_PORT = re.compile(r":\d*$")
_NOT_FOR_HSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Request:
    """A request line and its headers, as ASP.NET Core shows them to the Functions host.

    `query_string` begins with its `?`, or is empty.
    """

    method: str
    scheme: str
    path: str
    query_string: str
    headers: Mapping[str, str]

    @classmethod
    def read(cls, scope: Scope) -> Self:
        """Read an ASGI scope. Header names are lower-cased, duplicates joined with a comma.

        PathDecoder.cs first decodes the path and then resolves its dot segments.
        """
        mark = b"?" if scope["query_string"] else b""
        target = scope.get("kestrel.target", scope["raw_path"] + mark + scope["query_string"])
        path, mark, query = target.decode("ascii").partition("?")
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("ascii").lower(), []).append(
                value.decode(errors="replace")
            )
        return cls(
            method=scope["method"],
            scheme=scope["scheme"],
            path=_without_dot_segments(_decode_path(path)),
            query_string=mark + query,
            headers={name: _join(values) for name, values in headers.items()},
        )

    @property
    def host(self) -> str:
        """The Host header, port included."""
        return self.headers.get("host", "")

    @property
    def url(self) -> str:
        """The URL a function sees: the query raw, the path decoded and escaped anew.

        GrpcMessageConversionExtensions.cs; PathString.cs and QueryString.cs do the escaping.
        """
        path = quote(_LONE_PERCENT.sub("%25", self.path), safe="/%!$&'()*+,;=:@")
        return f"{self.scheme}://{self.host}{path}{self.query_string.replace('#', '%23')}"

    @property
    def query(self) -> dict[str, str]:
        """Decoded parameters: duplicates joined with a comma, empty ones left out.

        GrpcMessageConversionExtensions.cs; StringValues.cs does the joining.
        """
        joined = ((name, _join(values)) for name, values in self._parameters.values())
        return {name: value for name, value in joined if value}

    @property
    def content_length(self) -> int:
        """The Content-Length; 0 for a chunked body."""
        if "transfer-encoding" in self.headers:
            return 0
        return int(self.headers.get("content-length", "0"))

    @property
    def function_key(self) -> str:
        """The function key; the host takes it from `?code=` too (AuthenticationLevelHandler.cs)."""
        _, (code, *_) = self._parameters.get("code", ("code", [""]))
        return self.headers.get("x-functions-key", code)

    @cached_property
    def _parameters(self) -> dict[str, tuple[str, list[str]]]:
        # QueryFeature.cs: names are case-insensitive, and the last spelling is kept.
        parameters: dict[str, tuple[str, list[str]]] = {}
        for pair in filter(None, self.query_string[1:].split("&")):
            name, _, value = (_unescape(part.replace("+", " ")) for part in pair.partition("="))
            _, values = parameters.get(name.lower(), (name, []))
            parameters[name.lower()] = name, [*values, value]
        return parameters


def route_pattern(template: str) -> re.Pattern[str]:
    """Turn a route such as `callback/{connection?}` into a pattern for decoded paths.

    RoutePatternMatcher.cs: case does not matter, one trailing slash is tolerated, a parameter is
    one segment, a catch-all is the rest from a segment that is not empty. Constraints and defaults
    are not implemented and raise `ValueError`.
    """
    pattern, optional, ended = "", False, False
    for segment in template.split("/"):
        part = _SEGMENT.fullmatch(segment)
        if part is None or ended or (optional and not part["optional"]):
            raise ValueError(
                f"The route '{template}' has a segment '{segment}' that this host cannot match: "
                "it knows literal segments, {name}, and {name?} or {*name} at the end."
            )
        optional, ended = bool(part["optional"]), bool(part["rest"])
        if ended:
            pattern += f"(?:/(?P<{part['rest']}>[^/].*))?"
        elif part["literal"]:
            pattern += "/" + re.escape(part["literal"])
        else:
            value = f"/(?P<{part['name']}>[^/]+)"
            pattern += f"(?:{value})?" if optional else value
    return re.compile(pattern + "/?", re.IGNORECASE)


def set_cookie(cookie: Morsel[str]) -> str:
    """Return one `Set-Cookie` value. Raises `ValueError` where ASP.NET Core or the worker would.

    datumdef.py of the worker, ResponseCookies.cs, SetCookieHeaderValue.cs.
    """
    parts = [f"{cookie.key}={quote(cookie.value, safe='')}"]
    if cookie["expires"]:
        date = datetime.strptime(cookie["expires"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        parts.append(f"expires={format_datetime(date, usegmt=True)}")
    if cookie["max-age"]:
        age = float(cookie["max-age"])
        if age < 0:
            raise ValueError("A cookie's max-age is negative.")
        parts.append(f"max-age={int(age)}")
    # The worker turns an absent Domain or Path into an empty one, and ASP.NET Core writes it.
    # Azure's front end then fills in the domain, so that browsers drop a `__Host-` cookie
    # (azure-functions-python-worker, issue 1902). A value that is None is left out.
    parts += [f"{name}={cookie[name]}" for name in ("domain", "path") if cookie[name] is not None]
    if cookie["secure"]:
        parts.append("secure")
    if cookie["samesite"].lower() in {"lax", "none", "strict"}:
        parts.append(f"samesite={cookie['samesite'].lower()}")
    if cookie["httponly"]:
        parts.append("httponly")
    return "; ".join(parts)


def hsts(options: Mapping[str, Any]) -> str | None:
    """Return the Strict-Transport-Security value for host.json's `hsts` section, if enabled.

    HstsConfigurationMiddleware.cs of the host; HstsMiddleware.cs and HstsOptions.cs.
    """
    if not options.get("isEnabled"):
        return None
    try:
        age = timespan(options.get("maxAge", "30.00:00:00"))
    except ValueError as problem:
        raise ValueError(f"host.json: extensions.http.hsts.maxAge {problem}") from None
    value = f"max-age={int(age.total_seconds())}"
    if options.get("includeSubDomains"):
        value += "; includeSubDomains"
    if options.get("preload"):
        value += "; preload"
    return value


def timespan(text: str) -> timedelta:
    """Parse a duration of host.json (TimeSpan.Parse). Raises `ValueError`: "is written …"."""
    span = _TIMESPAN.fullmatch(text)
    if span is None:
        raise ValueError("is written ddd.hh:mm:ss")
    days, hours, minutes, seconds = (float(number or 0) for number in span.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def gets_hsts(request: Request) -> bool:
    """Tell whether this request's answer has HSTS: https, and not a loopback name."""
    return request.scheme == "https" and _PORT.sub("", request.host).lower() not in _NOT_FOR_HSTS


def _join(values: list[str]) -> str:
    # StringValues.cs skips empty ones.
    return ",".join(filter(None, values))


def _decode_path(raw: str) -> str:
    # UrlDecoder.cs keeps an escaped slash.
    return "".join(
        part if _ESCAPED_SLASH.fullmatch(part) else _unescape(part)
        for part in _ESCAPED_SLASH.split(raw)
    )


def _without_dot_segments(path: str) -> str:
    """PathDecoder.cs; RFC 3986 §5.2.4."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _unescape(text: str) -> str:
    # PercentEncodingHelper.cs: bytes that are not UTF-8 stay escaped.
    return _ESCAPES.sub(lambda run: _utf8(run[0]), text)


def _utf8(escaped: str) -> str:
    # A surrogate is one octet that could not be decoded.
    text = bytes.fromhex(escaped.replace("%", "")).decode(errors="surrogateescape")
    decoded, at = "", 0
    for character in text:
        octets = len(character.encode(errors="surrogateescape"))
        whole = not "\udc80" <= character <= "\udcff"
        decoded += character if whole else escaped[3 * at : 3 * (at + octets)]
        at += octets
    return decoded
