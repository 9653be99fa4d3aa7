"""Every HTTP answer of the relay: pages for browsers, JSON for programs.

A page loads no resource, and only the fragment page has a script. Nothing of the request is
repeated but the provider's `error` and `error_description` on `declined`, escaped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from markupsafe import Markup

from relay.oauth.authorize import Started
from relay.outcome import Answer, Outcome, Page
from relay.pages import translations
from relay.pages.translations import LANGUAGES


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `cookies` are values of Set-Cookie headers, the most important one first."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    cookies: tuple[str, ...] = ()


METHODS = "GET, POST, HEAD, OPTIONS"
"""The methods of the redirect URI, for an Allow header."""

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def _read(name: str) -> Markup:
    """Return a file of this folder, without comments, line breaks and indentation."""
    text = _COMMENT.sub("", Path(__file__).with_name(name).read_text("utf-8"))
    lines = "".join(line.lstrip() for line in text.splitlines())
    return Markup(lines)  # noqa: S704 - from the relay's own folder # nosec B704


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_PAGE, _STYLE, _SCRIPT = _read("page.html"), _read("page.css"), _read("fragment.js")

_CSP_PAGE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CSP_BARE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_SAID = Markup("<figure><figcaption>{}</figcaption><blockquote>{}{}</blockquote></figure>")
# `dir` isolates right-to-left text and bidirectional control characters from the rest of the page.
# `lang` is empty because the language of the provider's text is unknown.
_ERROR = Markup('<p><code dir="auto" lang="">{}</code></p>')
_DESCRIPTION = Markup('<p><code class="words" dir="auto" lang="">{}</code></p>')
_NOSCRIPT = Markup("<noscript><p>{}</p></noscript>")
_ADMIN = Markup('<section class="small"><h2>{}</h2><p>{}</p></section>')
# Groups of four are easier to read out. Selecting and copying still give one word.
_FOOTER = Markup("<footer><h2>{}</h2><p><code>{}</code></p><p>{}</p></footer>")
_GROUP = Markup("<span>{}</span>")
_SCRIPT_TAG = Markup("<script>{}</script>")

_CHECK = "M5.5 12.5l4.5 4.5 8.5-9.5"
_CLOCK = "M12 5.5v6.8l4.2 2.6"
_MINUS = "M6 12h12"
_ALERT = "M12 5v8.5M12 18.2v.1"
_QUESTION = "M8.6 8.6a3.4 3.4 0 1 1 5.2 2.9c-1.2.8-1.8 1.4-1.8 2.7M12 18.6v.1"
_INFO = "M12 11v7M12 6.2v.1"


class _Look(NamedTuple):
    """How a page is shown.

    `tone` is a class of page.css, `mark` the path of an SVG icon. `report`: the reference is to be
    given to the administrator. `in_place`: a callback is answered without a redirect. Its URL holds
    no code (`declined`, `ended`, `bare`, `method`), the browser discards the page (`prefetch`), or
    a reload has to send the response again (`keys`).
    """

    tone: str
    mark: str
    report: bool = False
    in_place: bool = False


_LOOKS: Mapping[Page, _Look] = MappingProxyType(
    {
        Outcome.DELIVERED: _Look("good", _CHECK),
        Outcome.DUPLICATE: _Look("good", _CHECK),
        Outcome.HELD: _Look("wait", _CLOCK),
        Outcome.DECLINED: _Look("wait", _MINUS, in_place=True),
        Outcome.INVALID: _Look("bad", _ALERT, report=True),
        Outcome.UNKNOWN: _Look("plain", _QUESTION, report=True),
        Outcome.REJECTED: _Look("bad", _ALERT, report=True),
        Outcome.MISCONFIGURED: _Look("bad", _ALERT, report=True),
        "bare": _Look("plain", _INFO, in_place=True),
        "ended": _Look("wait", _MINUS, report=True, in_place=True),
        "keys": _Look("wait", _CLOCK, report=True, in_place=True),
        "prefetch": _Look("wait", _CLOCK, in_place=True),
        "method": _Look("plain", _ALERT, in_place=True),
    }
)

_NO_PERMISSIONS = (
    "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), clipboard-write=(), "
    "display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), "
    "gyroscope=(), hid=(), idle-detection=(), magnetometer=(), microphone=(), "
    "midi=(), payment=(), picture-in-picture=(), publickey-credentials-get=(), "
    "screen-wake-lock=(), serial=(), usb=(), web-share=(), xr-spatial-tracking=()"
)

# The host adds Strict-Transport-Security (host.json, hsts), because it knows what is loopback.
SECURITY_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": _NO_PERMISSIONS,
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }
)
"""On every answer. host.json sets the same headers on the host's own 404 and 500 pages."""


def render(answer: Answer, *, html: bool, accept_language: str = "") -> Reply:
    """Return the response to a callback: JSON for a program, a page or a redirect for a browser.

    `accept_language` is the raw header; JSON is always in English. The redirect to `/done/…` keeps
    the code out of the address bar, the history and the Referer (RFC 6749 §3.1.2.5). Its Location
    holds nothing of the request.
    """
    reply = _reply_to(answer, accept_language, html=html)
    return reply if answer.clear is None else replace(reply, cookies=(answer.clear,))


def probe(method: str) -> Reply:
    """Return the answer to HEAD or OPTIONS, with which providers probe a redirect URI."""
    if method == "HEAD":
        return Reply(HTTPStatus.OK, SECURITY_HEADERS)
    return Reply(HTTPStatus.NO_CONTENT, {**SECURITY_HEADERS, "Allow": METHODS})


def begin(started: Started) -> Reply:
    """Return the redirect to the provider's authorization endpoint (RFC 6749 §4.1.1)."""
    headers = {**SECURITY_HEADERS, "Location": started.location}
    return Reply(HTTPStatus.FOUND, headers, cookies=started.cookies)


_ENGLISH = LANGUAGES[translations.DEFAULT].pages

_REFERENCE = re.compile(r"[0-9a-f]{16}")
_DONE_STATUS = {
    Outcome.DELIVERED: HTTPStatus.OK,
    Outcome.DUPLICATE: HTTPStatus.OK,
    Outcome.HELD: HTTPStatus.OK,
    Outcome.UNKNOWN: HTTPStatus.NOT_FOUND,
}


def done(outcome: str, reference: str, accept_language: str = "") -> Reply:
    """Return the page at the end of the redirect.

    Anybody can request it with any values. So it proves nothing, repeats `reference` only if that
    is 16 hex digits, and is never a 5xx, which a probe would take for an outage.
    """
    try:
        known = Outcome(outcome)
    except ValueError:
        known = Outcome.UNKNOWN
    shown = reference if _REFERENCE.fullmatch(reference) else ""
    status = _DONE_STATUS.get(known, HTTPStatus.BAD_REQUEST)
    return _page(known, Answer(known, shown, status), accept_language)


def health(version: str, *, healthy: bool) -> Reply:
    """Return the answer of /health: whether the settings validate, and which version runs."""
    if healthy:
        return _reply(HTTPStatus.OK, {"status": "ok", "version": version})
    return _reply(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "misconfigured"})


def _reply_to(answer: Answer, accept_language: str, *, html: bool) -> Reply:
    page = answer.page or answer.outcome
    if not html and page != "bare":  # which is no callback, so programs get the page too
        return _json(answer)
    if _LOOKS[page].in_place:
        return _page(page, answer, accept_language)
    location = f"/done/{answer.outcome}?ref={answer.reference}"
    return Reply(HTTPStatus.SEE_OTHER, {**SECURITY_HEADERS, "Location": location})


def _json(answer: Answer) -> Reply:
    members: dict[str, object] = {"outcome": answer.outcome, "reference": answer.reference}
    if answer.status < HTTPStatus.BAD_REQUEST:
        return _reply(answer.status, members)
    # RFC 9457. An absent `type` means about:blank.
    members |= {"title": _ENGLISH[answer.outcome].title, "status": int(answer.status)}
    for name in ("detail", "error", "error_description"):
        if (value := getattr(answer, name)) is not None:
            members[name] = value
    return _reply(answer.status, members, "application/problem+json")


def _reply(
    status: HTTPStatus, members: Mapping[str, object], media_type: str = "application/json"
) -> Reply:
    headers = {**SECURITY_HEADERS, "Content-Type": media_type, **_allow(status)}
    return Reply(status, headers, json.dumps(members).encode("ascii"))


def _page(page: Page, answer: Answer, accept_language: str) -> Reply:
    language = translations.negotiate(accept_language)
    words, text, look = LANGUAGES[language].words, LANGUAGES[language].pages[page], _LOOKS[page]
    bare = page == "bare"
    heading = words["report" if look.report else "reference"]
    html = _PAGE.format(
        lang=language,
        title=text.title,
        style=_STYLE,
        tone=look.tone,
        mark=look.mark,
        body=text.body,
        said=_said(answer, words),
        noscript=_NOSCRIPT.format(text.noscript) if text.noscript else "",
        next_heading=words["next"],
        next=text.next,
        admin=_ADMIN.format(words["admin"], text.admin) if text.admin else "",
        reference="" if bare else _footer(answer.reference, heading, words["select"]),
        script=_SCRIPT_TAG.format(_SCRIPT) if bare else "",
    )
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": language,
        "Vary": "Accept-Language",
        "Content-Security-Policy": _CSP_BARE if bare else _CSP_PAGE,
        **_allow(answer.status),
    }
    return Reply(answer.status, headers, f"{html}\n".encode())


def _said(answer: Answer, words: Mapping[str, str]) -> Markup | str:
    if answer.error is None:
        return ""
    description = answer.error_description
    return _SAID.format(
        words["said"],
        _ERROR.format(answer.error),
        _DESCRIPTION.format(description) if description else "",
    )


def _footer(reference: str, heading: str, select: str) -> Markup | str:
    if not reference:
        return ""
    groups = (reference[at : at + 4] for at in range(0, len(reference), 4))
    shown = Markup("<wbr>").join(_GROUP.format(group) for group in groups)
    return _FOOTER.format(heading, shown, select)


def _allow(status: HTTPStatus) -> dict[str, str]:
    # RFC 9110 §15.5.6: a 405 response must have Allow.
    return {"Allow": METHODS} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
