"""The HTML of a page, and its Content-Security-Policy.

A page loads nothing. Its icon and logo are data: URIs; its style and script are inline and allowed
by their hashes. Nothing of the request is repeated but, on `declined`, the provider's `error` and
`error_description`, escaped.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from markupsafe import Markup

from relay.branding import DARK_PAPER, Accent
from relay.connections import Connection, StatePolicy
from relay.oauth import error_codes
from relay.outcome import Answer, Outcome, Page
from relay.pages import translations
from relay.pages.translations import LANGUAGES


class Html(NamedTuple):
    """A page: its language tag, its text, its Content-Security-Policy.

    `copies`: it has the button that writes to the clipboard.
    """

    language: str
    text: str
    policy: str
    copies: bool


_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def _read(name: str) -> Markup:
    """Return a file of this folder, without comments, line breaks and indentation."""
    text = _COMMENT.sub("", Path(__file__).with_name(name).read_text("utf-8"))
    lines = "".join(line.lstrip() for line in text.splitlines())
    return Markup(lines)  # noqa: S704 - from the relay's own folder # nosec B704


@cache
def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_PAGE, _STYLE, _FRAGMENT, _COPY = map(_read, ("page.html", "page.css", "fragment.js", "copy.js"))

_ORGANIZATION = Markup('<p class="organization">{}<bdi>{}</bdi></p>')
_LOGO = Markup('<img src="{}" alt="">')
_PROVIDER = Markup('<p class="provider"><bdi>{}</bdi> → Dynamics\N{NO-BREAK SPACE}365</p>')
_BACK = Markup('<p><a class="back" href="{}">{}</a></p>')
_SAID = Markup("<figure><figcaption>{}</figcaption><blockquote>{}{}</blockquote></figure>")
# `dir` isolates right-to-left text and bidirectional control characters from the rest of the page.
# `lang` is empty because the language of the provider's text is unknown.
_ERROR = Markup('<p><code dir="auto" lang="">{}</code></p>')
_DESCRIPTION = Markup('<p><code class="words" dir="auto" lang="">{}</code></p>')
_NOSCRIPT = Markup("<noscript><p>{}</p></noscript>")
_SECTION = Markup('<section class="small"><h2>{}</h2><p>{}</p></section>')
_LINK = Markup('<a href="{}{}">{}</a>')
# Groups of four are easier to read out. Selecting and copying still give one word.
_FOOTER = Markup("<footer><h2>{}</h2><p><code>{}</code></p><p>{}</p>{}</footer>")
_GROUP = Markup("<span>{}</span>")
_COPY_BUTTON = Markup(
    '<p class="copy"><button type="button" hidden data-details="{}" data-copied="{}">{}</button>'
    "<output></output></p>"
)
_STYLE_TAG = Markup("<style>{}</style>")
_SCRIPT_TAG = Markup("<script>{}</script>")
_POSTING = Markup(' data-title="{}" data-body="{}"')

_ICON = Markup(
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'>"
    "<circle cx='12' cy='12' r='12' fill='{}'/><path d='{}' transform='translate(3 3) scale(.75)' "
    "fill='none' stroke='%23fff' stroke-width='3' stroke-linecap='round'/></svg>"
)
_ACCENT = (
    ":root{{--accent:{light};--on-accent:#fff}}@media screen and (prefers-color-scheme:dark)"
    "{{:root{{--accent:{dark};--on-accent:{paper}}}}}"
)
_COLOURS = {"good": "%231a6b37", "wait": "%237d5000", "bad": "%23b0261e", "plain": "%232f5f8f"}
"""The tones of page.css in light mode, for the icon of the tab; %23 is the `#` of a data: URI."""

_CHECK = "M5.5 12.5l4.5 4.5 8.5-9.5"
_CLOCK = "M12 5.5v6.8l4.2 2.6"
_MINUS = "M6 12h12"
_ALERT = "M12 5v8.5M12 18.2v.1"
_QUESTION = "M8.6 8.6a3.4 3.4 0 1 1 5.2 2.9c-1.2.8-1.8 1.4-1.8 2.7M12 18.6v.1"
_INFO = "M12 11v7M12 6.2v.1"


class _Look(NamedTuple):
    """How a page is shown.

    `tone` is a class of page.css, `mark` the path of an SVG icon. `report`: no person decided this,
    and the reference is to be given to the administrator.
    """

    tone: str
    mark: str
    report: bool = False


_LOOKS: Mapping[Page, _Look] = MappingProxyType(
    {
        Outcome.DELIVERED: _Look("good", _CHECK),
        Outcome.DUPLICATE: _Look("good", _CHECK),
        Outcome.HELD: _Look("wait", _CLOCK),
        Outcome.DECLINED: _Look("wait", _MINUS),
        "fault": _Look("bad", _ALERT, report=True),
        Outcome.INVALID: _Look("bad", _ALERT, report=True),
        "ended": _Look("wait", _MINUS, report=True),
        "ticket": _Look("bad", _ALERT, report=True),
        Outcome.UNKNOWN: _Look("plain", _QUESTION, report=True),
        Outcome.REJECTED: _Look("bad", _ALERT, report=True),
        Outcome.MISCONFIGURED: _Look("bad", _ALERT, report=True),
        "bare": _Look("plain", _INFO),
        "keys": _Look("wait", _CLOCK, report=True),
        "prefetch": _Look("wait", _CLOCK),
        "method": _Look("plain", _ALERT),
    }
)


def page(name: Page, answer: Answer, accept_language: str, connection: Connection | None) -> Html:
    """Return a page in the language of `accept_language`, the raw header.

    `connection` is whose names, way back and lifetime of codes it shows; none if it is `None`.
    """
    language = translations.negotiate(accept_language)
    words, text, look = LANGUAGES[language].words, LANGUAGES[language].pages[name], _LOOKS[name]
    bare = name == "bare"
    copies = look.report and bool(answer.reference)
    script = _FRAGMENT if bare else _COPY if copies else None
    accent = _accent(connection.branding.accent) if connection is not None else ""
    shown = _PAGE.format(
        lang=language,
        title=text.title,
        icon=_ICON.format(_COLOURS[look.tone], look.mark),
        style=_STYLE,
        accent=_STYLE_TAG.format(accent) if accent else "",
        tone=look.tone,
        posting=_POSTING.format(words["posting"], words["wait"]) if bare else "",
        mark=look.mark,
        body=f"{text.body}{_until(name, words, connection)}",
        said=_said(answer, words, connection),
        noscript=_NOSCRIPT.format(text.noscript) if text.noscript else "",
        next_heading=words["next"],
        next=text.next,
        admin=_SECTION.format(words["admin"], text.admin) if text.admin else "",
        reference="" if bare else _footer(answer, look, words, copies=copies),
        script=_SCRIPT_TAG.format(script) if script else "",
        **_owner(answer, words, connection),
    )
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src {' '.join(_hash(style) for style in (_STYLE, accent) if style)}; "
        f"{f'script-src {_hash(script)}; ' if script else ''}"
        f"base-uri 'none'; form-action {"'self'" if bare else "'none'"}; frame-ancestors 'none'"
    )
    return Html(language, f"{shown}\n", policy, copies)


@cache
def _accent(accent: Accent | None) -> Markup:
    if accent is None:
        return Markup()
    # From settings that hold nothing but colours.
    return Markup(_ACCENT).format(light=accent.light, dark=accent.dark, paper=DARK_PAPER)  # noqa: S704 # nosec B704


def _owner(
    answer: Answer, words: Mapping[str, str], connection: Connection | None
) -> dict[str, Markup | str]:
    """Return the parts that say whose page it is: organization, provider, way back, help."""
    parts: dict[str, Markup | str] = dict.fromkeys(("organization", "provider", "back", "help"), "")
    if connection is None:
        return parts
    branding = connection.branding
    if branding.organization or branding.logo:
        logo = _LOGO.format(branding.logo) if branding.logo else ""
        parts["organization"] = _ORGANIZATION.format(logo, branding.organization or "")
    if connection.provider.name:
        parts["provider"] = _PROVIDER.format(connection.provider.name)
    if url := branding.return_url:
        # Both are letters and digits only, so there is nothing to percent-encode.
        url = url.replace("{outcome}", answer.outcome).replace("{reference}", answer.reference)
        parts["back"] = _BACK.format(url, words["back"])
    if branding.support:
        parts["help"] = _SECTION.format(words["help"], _support(branding.support))
    return parts


def _support(support: str) -> Markup | str:
    if re.fullmatch(r"https://[!-~]+", support):
        return _LINK.format("", support, support)
    if re.fullmatch(r"[^\s@<>?&/]+@[^\s@<>?&/]+\.[^\s@<>?&/]+", support):
        return _LINK.format("mailto:", support, support)
    return support


def _until(name: Page, words: Mapping[str, str], connection: Connection | None) -> str:
    """Return how long a held callback is tried."""
    if name != Outcome.HELD or connection is None:
        return ""
    return " " + words["until"].format(time=_duration(connection.code_ttl))


def _duration(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and (seconds % size == 0 or (unit == "min" and seconds > 5 * size)):
            return f"{seconds // size}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds}\N{NO-BREAK SPACE}s"


def _said(answer: Answer, words: Mapping[str, str], connection: Connection | None) -> Markup | str:
    """Return the provider's words: under any policy but `signed` anybody could have written them.

    Of a state that is not signed only a registered error is shown.
    """
    signed = connection is not None and connection.state_policy is StatePolicy.SIGNED
    if answer.error is None or not (signed or answer.error in error_codes.REGISTERED):
        return ""
    description = answer.error_description if signed else None
    return _SAID.format(
        words["said"],
        _ERROR.format(answer.error),
        _DESCRIPTION.format(description) if description else "",
    )


def _footer(answer: Answer, look: _Look, words: Mapping[str, str], *, copies: bool) -> Markup | str:
    reference = answer.reference
    if not reference:
        return ""
    groups = (reference[at : at + 4] for at in range(0, len(reference), 4))
    shown = Markup("<wbr>").join(_GROUP.format(group) for group in groups)
    heading = words["report" if look.report else "reference"]
    button = _copy_button(answer, words) if copies else ""
    return _FOOTER.format(heading, shown, words["select"], button)


def _copy_button(answer: Answer, words: Mapping[str, str]) -> Markup:
    known = f" connection={answer.connection}" if answer.connection else ""
    details = f"reference={answer.reference}{known} outcome={answer.outcome}"
    return _COPY_BUTTON.format(details, words["copied"], words["copy"])
