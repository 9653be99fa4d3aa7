"""What a person sees and what a program reads: every answer of the relay is made here.

A page loads nothing, runs nothing (but the fragment page, see `_SCRIPT`) and repeats nothing that
was sent, except the provider's own words on `declined`, escaped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from markupsafe import Markup

from relay.oauth.authorize import Started
from relay.outcome import Answer, Outcome
from relay.pages import translations
from relay.pages.translations import LANGUAGES


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `cookies` are values of Set-Cookie headers, the most important one first."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    cookies: tuple[str, ...] = ()


# Colours are of the outcome, and say nothing that the title and the mark's shape do not say too.
# Nothing moves. Borders in the colour of their ground are there for forced colours, which take the
# grounds away.
_STYLE = Markup(
    ":root{color-scheme:light dark;--ink:#1d232b;--soft:#59636f;--paper:#fff;--ground:#f3f4f6;"
    "--line:#dce0e6;--panel:#f3f5f8;--good:#1a6b37;--good-tint:#e2f3e8;--wait:#7d5000;"
    "--wait-tint:#fbefd5;--bad:#b0261e;--bad-tint:#fce8e6;--plain:#2f5f8f;--plain-tint:#e5eff9}"
    "@media screen and (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a4aeba;"
    "--paper:#181c22;--ground:#0f1216;--line:#313841;--panel:#20262e;--good:#74d492;"
    "--good-tint:#183422;--wait:#eabb5b;--wait-tint:#372c12;--bad:#ff968d;--bad-tint:#41201e;"
    "--plain:#94bdec;--plain-tint:#1a2e44}}"
    "*{box-sizing:border-box}"
    "html{-webkit-text-size-adjust:100%;text-size-adjust:100%}"
    "body{margin:0;min-height:100vh;display:grid;grid-template-columns:minmax(0,1fr);"
    "place-items:center;padding:min(2rem,8vw) min(1rem,4vw);"
    "background:var(--ground);color:var(--ink);font:1rem/1.6 -apple-system,BlinkMacSystemFont,"
    "'Segoe UI',Roboto,'Noto Sans','Liberation Sans',Arial,sans-serif}"
    "main{width:100%;max-width:35rem;padding:min(3rem,6.5vw);background:var(--paper);"
    "border:1px solid var(--line);border-radius:1rem;overflow-wrap:break-word}"
    "svg{display:block;width:3.25rem;height:3.25rem;padding:.625rem;margin:0 0 1.5rem;"
    "border:1px solid var(--tint);border-radius:50%;background:var(--tint);color:var(--tone);"
    "forced-color-adjust:auto;fill:none;stroke:currentColor;stroke-width:2;"
    "stroke-linecap:round;stroke-linejoin:round}"
    "h1,h2,p,figure,blockquote{margin:0}"
    "h1{font-size:min(1.75rem,10vw);line-height:1.25;font-weight:650;letter-spacing:-.015em;"
    "text-wrap:balance}"
    "p{text-wrap:pretty}"
    "h1+p{margin-top:.75rem;font-size:1.0625rem}"
    "h2,figcaption{font-size:.875rem;line-height:1.5;font-weight:600;color:var(--soft)}"
    "section,figure,noscript{display:block;margin-top:1.75rem}"
    "noscript,.next{padding:1rem min(1.25rem,5vw);background:var(--panel);"
    "border:1px solid var(--panel);border-radius:.625rem}"
    ".next h2{color:var(--ink)}h2+p{margin-top:.125rem}"
    ".small{font-size:.9375rem}"
    "blockquote{margin-top:.375rem;padding-left:1rem;border-left:.125rem solid var(--line)}"
    "blockquote p+p{margin-top:.25rem}"
    "code{font-family:ui-monospace,'Cascadia Mono',Consolas,Menlo,'Liberation Mono',monospace;"
    "font-size:.9375rem}"
    ".words{font:inherit}"
    "footer{display:flex;flex-wrap:wrap;align-items:center;justify-content:space-between;"
    "gap:.375rem 1rem;margin-top:2rem;padding-top:1.5rem;border-top:1px solid var(--line)}"
    "footer code{display:inline-block;padding:.25rem .625rem;font-size:1rem;"
    "border:1px solid var(--line);border-radius:.375rem;"
    "-webkit-user-select:all;user-select:all}"
    "span{margin-right:.5em}span:last-child{margin-right:0}"
    "footer p+p{width:100%;font-size:.875rem;color:var(--soft)}"
    ".good{--tone:var(--good);--tint:var(--good-tint)}.wait{--tone:var(--wait);"
    "--tint:var(--wait-tint)}.bad{--tone:var(--bad);--tint:var(--bad-tint)}"
    ".plain{--tone:var(--plain);--tint:var(--plain-tint)}"
    "@media(max-width:24rem){main{hyphens:auto}}"
    "@media print{:root{color-scheme:light}body{display:block;padding:0;background:none}"
    "main{max-width:none;padding:0;border:0}}"
)

# response_mode=fragment: what stands behind # never reaches a server, so the page posts it back.
# It posts to its own URL only. A field takes the place of the form's property of that name, so the
# form is not asked for anything once it has fields: one may be named "submit" or "appendChild". The
# post carries `Origin: null` under no-referrer: nobody checks Origin.
_SCRIPT = Markup(
    "(function(){"
    "var p=new URLSearchParams(location.hash.slice(1));"
    "if(!p.has('code')&&!p.has('error')&&!p.has('response'))return;"
    "history.replaceState(null,'',location.pathname);"
    "var f=document.createElement('form');f.method='post';f.action=location.pathname;"
    "var d=document.createDocumentFragment();"
    "p.forEach(function(v,k){var i=document.createElement('input');"
    "i.type='hidden';i.name=k;i.value=v;d.appendChild(i)});"
    "f.appendChild(d);document.body.appendChild(f);HTMLFormElement.prototype.submit.call(f)"
    "})()"
)

_PAGE = Markup(
    "<!doctype html>"
    '<html lang="{lang}"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<title>{title}</title><style>{style}</style></head>"
    '<body><main class="{tone}">'
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{mark}"/></svg>'
    "<h1>{title}</h1><p>{body}</p>{said}{noscript}"
    '<section class="next"><h2>{next_heading}</h2><p>{next}</p></section>'
    "{admin}{reference}</main>{script}</body></html>\n"
)
_SAID = Markup("<figure><figcaption>{}</figcaption><blockquote>{}{}</blockquote></figure>")
# `dir`: words from right to left, or characters that turn the direction, stay among themselves.
# `lang`: nobody knows their language.
_ERROR = Markup('<p><code dir="auto" lang="">{}</code></p>')
_DESCRIPTION = Markup('<p><code class="words" dir="auto" lang="">{}</code></p>')
_NOSCRIPT = Markup("<noscript><p>{}</p></noscript>")
_ADMIN = Markup('<section class="small"><h2>{}</h2><p>{}</p></section>')
# In groups of four that a person can read out; what is selected and copied is one word.
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
    """The colour and the mark of a page, and whether its reference is for the administrator."""

    tone: str
    mark: str
    report: bool = False


_LOOKS = MappingProxyType(
    {
        "delivered": _Look("good", _CHECK),
        "duplicate": _Look("good", _CHECK),
        "held": _Look("wait", _CLOCK),
        "declined": _Look("wait", _MINUS),
        "invalid": _Look("bad", _ALERT, report=True),
        "unknown": _Look("plain", _QUESTION, report=True),
        "rejected": _Look("bad", _ALERT, report=True),
        "misconfigured": _Look("bad", _ALERT, report=True),
        "bare": _Look("plain", _INFO),
        "keys": _Look("wait", _CLOCK, report=True),
        "prefetch": _Look("wait", _CLOCK),
        "method": _Look("plain", _ALERT),
    }
)

_PERMISSIONS = (
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "clipboard-write",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "usb",
    "web-share",
    "xr-spatial-tracking",
)

# Strict-Transport-Security is the host's to add (host.json, hsts): it can tell loopback.
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
        "Permissions-Policy": ", ".join(f"{name}=()" for name in _PERMISSIONS),
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }
)
"""On every answer; host.json gives the same to the host's own 404 and 500 pages."""


def render(answer: Answer, *, html: bool, accept_language: str = "") -> Reply:
    """Return the answer to a callback: JSON for a program, a page or the way to one for a browser.

    `accept_language` is the request's header as it came; programs are told everything in English.
    A browser is sent on to `/done/…` so that no code stays in its address bar, its history or a
    Referer (RFC 6749 §3.1.2.5). The Location never holds anything that was sent.
    """
    reply = _reply_to(answer, accept_language, html=html)
    return reply if answer.clear is None else replace(reply, cookies=(answer.clear,))


def begin(started: Started) -> Reply:
    """Return the way to the provider (RFC 6749 §4.1.1): the one Location that is not ours."""
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
    """Return the page that a browser lands on.

    Anybody can fetch it with any words, so it proves nothing, repeats only what looks like a
    reference, and never answers with a 5xx that a probe could mistake for an outage.
    """
    try:
        known = Outcome(outcome)
    except ValueError:
        known = Outcome.UNKNOWN
    shown = reference if _REFERENCE.fullmatch(reference) else ""
    status = _DONE_STATUS.get(known, HTTPStatus.BAD_REQUEST)
    return _page(Answer(known, shown, status), accept_language)


def health(version: str, *, healthy: bool) -> Reply:
    """Return the answer of /health: whether the settings validate, and which version runs."""
    if healthy:
        return _reply(HTTPStatus.OK, {"status": "ok", "version": version})
    return _reply(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "misconfigured"})


def _reply_to(answer: Answer, accept_language: str, *, html: bool) -> Reply:
    if not html:
        return _json(answer)
    if answer.in_place:
        return _page(answer, accept_language)
    location = f"/done/{answer.outcome}?ref={answer.reference}"
    return Reply(HTTPStatus.SEE_OTHER, {**SECURITY_HEADERS, "Location": location})


def _json(answer: Answer) -> Reply:
    members: dict[str, object] = {"outcome": answer.outcome, "reference": answer.reference}
    if answer.status < HTTPStatus.BAD_REQUEST:
        return _reply(answer.status, members)
    # RFC 9457. No `type`: it is about:blank, the title says it all.
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


def _page(answer: Answer, accept_language: str) -> Reply:
    language = translations.negotiate(accept_language)
    name = _name(answer)
    words, text, look = LANGUAGES[language].words, LANGUAGES[language].pages[name], _LOOKS[name]
    page = _PAGE.format(
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
        reference=_footer(answer, words["report" if look.report else "reference"], words["select"]),
        script=_SCRIPT_TAG.format(_SCRIPT) if answer.bare else "",
    )
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": language,
        "Vary": "Accept-Language",
        "Content-Security-Policy": _CSP_BARE if answer.bare else _CSP_PAGE,
        **_allow(answer.status),
    }
    return Reply(answer.status, headers, page.encode())


def _name(answer: Answer) -> str:
    """Return the name of the answer's page: its outcome, or what the outcome stands for here."""
    if answer.bare:
        return "bare"
    if answer.in_place and answer.outcome is Outcome.REJECTED:
        return "keys"
    if answer.in_place and answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "prefetch"
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        return "method"
    return answer.outcome


def _said(answer: Answer, words: Mapping[str, str]) -> Markup | str:
    if answer.error is None:
        return ""
    description = answer.error_description
    return _SAID.format(
        words["said"],
        _ERROR.format(answer.error),
        _DESCRIPTION.format(description) if description else "",
    )


def _footer(answer: Answer, heading: str, select: str) -> Markup | str:
    if answer.bare or not answer.reference:
        return ""
    groups = (answer.reference[at : at + 4] for at in range(0, len(answer.reference), 4))
    shown = Markup("<wbr>").join(_GROUP.format(group) for group in groups)
    return _FOOTER.format(heading, shown, select)


def _allow(status: HTTPStatus) -> dict[str, str]:
    # RFC 9110 §15.5.6: a 405 says what is allowed.
    return {"Allow": "GET, POST"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_CSP_PAGE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CSP_BARE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
