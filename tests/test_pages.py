"""What a person sees and what a program reads."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import pages
from relay.outcome import STATUS, Answer, Outcome
from relay.pages import Reply

REFERENCE = "0123456789abcdef"
DECLINED = Answer(
    Outcome.DECLINED,
    REFERENCE,
    HTTPStatus.BAD_REQUEST,
    detail="A sentence of the relay.",
    in_place=True,
    error="access_denied",
    error_description="The user said no.",
)
BARE = Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, in_place=True, bare=True)
REFUSED_METHOD = Answer(
    Outcome.INVALID, REFERENCE, HTTPStatus.METHOD_NOT_ALLOWED, detail="No.", in_place=True
)


def answer(outcome: Outcome) -> Answer:
    return Answer(outcome, REFERENCE, STATUS[outcome])


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = [""]
        self.source = reply.body.decode()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1]:
            self.texts[self._open[-1]][-1] += data


def csp(reply: Reply) -> dict[str, str]:
    directives = (part.strip().partition(" ") for part in policy(reply).split(";"))
    return {name: value for name, _, value in directives}


def policy(reply: Reply) -> str:
    return reply.headers["Content-Security-Policy"]


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def problem(reply: Reply) -> dict[str, Any]:
    assert reply.headers["Content-Type"] == "application/problem+json"
    members = json.loads(reply.body)
    assert isinstance(members, dict)
    return members


EVERY = {
    **{f"json-{outcome}": pages.render(answer(outcome), html=False) for outcome in Outcome},
    **{f"browser-{outcome}": pages.render(answer(outcome), html=True) for outcome in Outcome},
    **{f"done-{outcome}": pages.done(outcome, REFERENCE) for outcome in Outcome},
    "done-nothing": pages.done("nothing", ""),
    "declined": pages.render(DECLINED, html=True),
    "declined-json": pages.render(DECLINED, html=False),
    "bare": pages.render(BARE, html=True),
    "bare-json": pages.render(BARE, html=False),
    "refused-method": pages.render(REFUSED_METHOD, html=True),
    "health": pages.health("1", healthy=True),
    "health-misconfigured": pages.health("1", healthy=False),
}
HTML = {name: reply for name, reply in EVERY.items() if reply.body.startswith(b"<")}


# -- every answer --------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", EVERY.values(), ids=EVERY)
def test_every_answer_carries_the_security_headers(reply: Reply) -> None:
    assert (
        dict(reply.headers).items()
        >= {
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Frame-Options": "DENY",
            "X-Robots-Tag": "noindex, nofollow",
        }.items()
    )
    directives = csp(reply)
    assert directives["default-src"] == "'none'"
    assert directives["base-uri"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy(reply)
    assert "*" not in policy(reply)
    permissions = reply.headers["Permissions-Policy"].split(", ")
    assert {"camera=()", "geolocation=()", "microphone=()"} <= set(permissions)
    assert all(re.fullmatch(r"[a-z-]+=\(\)", feature) for feature in permissions)


@pytest.mark.parametrize("reply", EVERY.values(), ids=EVERY)
def test_no_answer_opens_itself_to_other_origins(reply: Reply) -> None:
    assert not [name for name in reply.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("name", [name for name in EVERY if name != "bare"])
def test_only_the_fragment_page_may_send_a_form_or_run_a_script(name: str) -> None:
    directives = csp(EVERY[name])
    assert directives["form-action"] == "'none'"
    assert "script-src" not in directives


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_has_no_more_style_and_script_than_its_policy_allows_by_hash(reply: Reply) -> None:
    page, directives = Page(reply), csp(reply)
    (style,) = page.texts["style"]
    assert directives["style-src"] == hash_of(style)
    scripts = page.texts.get("script", [])
    assert directives.get("script-src", "") == " ".join(map(hash_of, scripts))
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_loads_and_links_to_nothing(reply: Reply) -> None:
    page = Page(reply)
    loading = {"a", "link", "img", "iframe", "form", "object", "embed", "base", "svg", "video"}
    assert not loading & {tag for tag, _ in page.tags}
    assert not [tag for tag, attributes in page.tags if {"src", "href"} & set(attributes)]
    assert "url(" not in page.source
    assert "http" not in page.source
    assert "postMessage" not in page.source
    assert "opener" not in page.source


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_is_html_for_every_reader(reply: Reply) -> None:
    page = Page(reply)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.source.startswith("<!doctype html>")
    assert ("html", {"lang": "en"}) in page.tags
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert page.texts["h1"] == page.texts["title"]
    assert page.texts["h1"][0]


# -- a program -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("delivered", 200), ("duplicate", 200), ("held", 202)],
)
def test_a_program_is_told_the_outcome_and_the_reference(outcome: str, status: int) -> None:
    reply = pages.render(answer(Outcome(outcome)), html=False)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert json.loads(reply.body) == {"outcome": outcome, "reference": REFERENCE}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("declined", 400),
        ("invalid", 400),
        ("unknown", 404),
        ("rejected", 502),
        ("misconfigured", 500),
    ],
)
def test_a_program_is_told_of_a_problem_by_rfc_9457(outcome: str, status: int) -> None:
    reply = pages.render(answer(Outcome(outcome)), html=False)
    members = problem(reply)
    assert reply.status == members["status"] == status
    assert type(members["status"]) is int
    assert (members["outcome"], members["reference"]) == (outcome, REFERENCE)
    assert members["title"]


@pytest.mark.parametrize("status", [411, 413, 415, 503])
def test_a_status_that_fits_better_is_the_one_that_is_sent(status: int) -> None:
    refused = Answer(Outcome.INVALID, REFERENCE, HTTPStatus(status), detail="Why.")
    reply = pages.render(refused, html=False)
    members = problem(reply)
    assert reply.status == members["status"] == status
    assert members["detail"] == "Why."


def test_a_program_is_told_what_the_provider_said_when_it_declined() -> None:
    members = problem(pages.render(DECLINED, html=False))
    assert members["error"] == "access_denied"
    assert members["error_description"] == "The user said no."


def test_members_without_a_value_are_not_there() -> None:
    assert set(problem(pages.render(answer(Outcome.REJECTED), html=False))) == {
        "outcome",
        "reference",
        "title",
        "status",
    }


@pytest.mark.parametrize("html", [True, False], ids=["page", "json"])
def test_a_refused_method_is_told_which_are_allowed(html: bool) -> None:
    reply = pages.render(REFUSED_METHOD, html=html)
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, POST"
    assert "Allow" not in pages.render(DECLINED, html=html).headers


# -- a browser -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome != "declined"])
def test_a_browser_is_sent_on_so_that_no_code_stays_in_its_address_bar(outcome: Outcome) -> None:
    reply = pages.render(answer(outcome), html=True)
    assert reply.status == 303
    assert reply.headers["Location"] == f"/done/{outcome}?ref={REFERENCE}"
    assert reply.body == b""


def test_declined_is_shown_in_place_with_the_providers_words() -> None:
    reply = pages.render(DECLINED, html=True)
    assert reply.status == 400
    assert "Location" not in reply.headers
    assert Page(reply).texts["code"] == ["access_denied", "The user said no.", REFERENCE]


def test_a_description_is_shown_only_where_there_is_one() -> None:
    reply = pages.render(
        Answer(
            Outcome.DECLINED, REFERENCE, HTTPStatus.BAD_REQUEST, in_place=True, error="server_error"
        ),
        html=True,
    )
    assert Page(reply).texts["code"] == ["server_error", REFERENCE]


def test_the_fragment_page_is_shown_in_place_and_says_what_the_url_is() -> None:
    reply = pages.render(BARE, html=True)
    assert reply.status == 400
    assert "redirect URI" in Page(reply).texts["h1"][0]
    assert REFERENCE not in reply.body.decode()


def test_the_fragment_page_may_post_to_its_own_origin_and_nowhere_else() -> None:
    reply = pages.render(BARE, html=True)
    assert csp(reply)["form-action"] == "'self'"
    (script,) = Page(reply).texts["script"]
    assert "location.hash" in script
    assert not re.search(r"fetch|XMLHttpRequest|sendBeacon|eval|innerHTML|document\.write", script)


# -- the page after the redirect -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("delivered", 200),
        ("duplicate", 200),
        ("held", 200),
        ("unknown", 404),
        ("declined", 400),
        ("invalid", 400),
        ("rejected", 400),
        ("misconfigured", 400),
    ],
)
def test_the_page_of_an_outcome_has_a_status_that_no_probe_takes_for_an_outage(
    outcome: str, status: int
) -> None:
    reply = pages.done(outcome, REFERENCE)
    assert reply.status == status
    assert Page(reply).texts["code"] == [REFERENCE]


@pytest.mark.parametrize(
    "outcome", ["", "Delivered", "delivered ", "nothing", "<b>", "health", "delivered\n"]
)
def test_the_page_of_no_outcome_is_404_and_repeats_nothing(outcome: str) -> None:
    reply = pages.done(outcome, REFERENCE)
    assert reply.status == 404
    assert reply.body == pages.done("unknown", REFERENCE).body


def test_every_outcome_has_words_of_its_own() -> None:
    titles = [Page(pages.done(outcome, "")).texts["h1"][0] for outcome in Outcome]
    assert len(set(titles)) == len(Outcome)


def test_a_misconfigured_relay_says_that_it_is_not_set_up_yet() -> None:
    assert "not set up yet" in Page(pages.done("misconfigured", "")).texts["h1"][0].lower()


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("", id="none"),
        pytest.param("0123456789abcde", id="15-digits"),
        pytest.param("0123456789abcdef0", id="17-digits"),
        pytest.param("0123456789abcdeg", id="no-hex"),
        pytest.param("0123456789abcdef\n", id="with-a-line-break"),
        pytest.param("<script>alert()</", id="markup"),
        pytest.param("call 0800 123456", id="words-of-a-stranger"),
        pytest.param("\u0660" * 16, id="digits-of-another-script"),
    ],
)
def test_a_reference_is_shown_only_when_it_looks_like_one(reference: str) -> None:
    page = Page(pages.done("rejected", reference))
    assert "code" not in page.texts
    assert "dl" not in page.texts


# -- health --------------------------------------------------------------------------------------


def test_health_says_ok_and_which_version_runs() -> None:
    reply = pages.health("1.2.3", healthy=True)
    assert reply.status == 200
    assert json.loads(reply.body) == {"status": "ok", "version": "1.2.3"}


def test_health_says_misconfigured_and_no_more() -> None:
    reply = pages.health("1.2.3", healthy=False)
    assert reply.status == 503
    assert json.loads(reply.body) == {"status": "misconfigured"}


# -- whatever a provider says --------------------------------------------------------------------

_PIECES = """< > & " ' </code> <script> </style> <!-- --> &lt; { } {title} {0} %s ]]> \\ a é 🔑"""
_hostile = st.lists(st.sampled_from([*_PIECES.split(), " "]), min_size=1).map("".join)
_words = _hostile | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@settings(deadline=None)
@given(_words, _words)
def test_whatever_a_provider_says_stays_text(error: str, description: str) -> None:
    declined = Answer(
        Outcome.DECLINED,
        REFERENCE,
        HTTPStatus.BAD_REQUEST,
        in_place=True,
        error=error,
        error_description=description,
    )
    page, plain = Page(pages.render(declined, html=True)), Page(pages.render(DECLINED, html=True))
    assert page.texts["code"] == [error, description, REFERENCE]
    assert page.tags == plain.tags
    assert page.texts["style"] == plain.texts["style"]
    members = problem(pages.render(declined, html=False))
    assert (members["error"], members["error_description"]) == (error, description)


@settings(deadline=None)
@given(_words, _words)
def test_whatever_is_asked_of_the_done_page_is_not_repeated(outcome: str, reference: str) -> None:
    assert pages.done(outcome, reference).body == pages.done("unknown", "").body
