"""What a person sees and what a program reads."""

import base64
import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import pages
from relay.outcome import STATUS, Answer, Outcome
from relay.pages import Reply, translations
from relay.pages.translations import LANGUAGES, Text, negotiate
from sandbox import screenshots

REFERENCE = "0123456789abcdef"
DECLINED = Answer(
    Outcome.DECLINED,
    REFERENCE,
    HTTPStatus.BAD_REQUEST,
    detail="A sentence of the relay.",
    error="access_denied",
    error_description="The user said no.",
)
BARE = Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, page="bare")
KEYS = Answer(
    Outcome.REJECTED, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, detail="No.", page="keys"
)
PREFETCH = Answer(
    Outcome.INVALID, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, detail="No.", page="prefetch"
)
REFUSED_METHOD = Answer(
    Outcome.INVALID, REFERENCE, HTTPStatus.METHOD_NOT_ALLOWED, detail="No.", page="method"
)


def answer(outcome: Outcome) -> Answer:
    return Answer(outcome, REFERENCE, STATUS[outcome])


class Page(HTMLParser):
    """A page as a browser takes it apart. `texts` are of each element, its children's included."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.source = reply.body.decode()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag][-1] += data


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
    "keys": pages.render(KEYS, html=True),
    "prefetch": pages.render(PREFETCH, html=True),
    "refused-method": pages.render(REFUSED_METHOD, html=True),
    **{f"{tag}": pages.done("held", REFERENCE, tag) for tag in LANGUAGES},
    **{f"bare-{tag}": pages.render(BARE, html=True, accept_language=tag) for tag in LANGUAGES},
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


@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith("bare")])
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
    loading = {"a", "link", "img", "iframe", "form", "object", "embed", "base", "use", "video"}
    assert not loading & {tag for tag, _ in page.tags}
    assert not [tag for tag, attributes in page.tags if {"src", "href"} & set(attributes)]
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "http" not in page.source
    assert "postMessage" not in page.source
    assert "opener" not in page.source


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_is_html_for_every_reader(reply: Reply) -> None:
    page = Page(reply)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.source.startswith("<!doctype html>")
    assert ("html", {"lang": reply.headers["Content-Language"]}) in page.tags
    assert reply.headers["Vary"] == "Accept-Language"
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert page.texts["h1"] == page.texts["title"]
    assert page.texts["h1"][0]
    assert len(page.texts["h1"]) == len(page.texts["main"]) == 1


def test_a_checkout_with_windows_line_ends_has_the_same_pages(tmp_path: Path) -> None:
    for file in Path(pages.__file__).parent.glob("*.*"):
        lines = file.read_text("utf-8").splitlines()
        (tmp_path / file.name).write_text("\n".join([*lines, ""]), "utf-8", newline="\r\n")
    spec = importlib.util.spec_from_file_location("windows_pages", tmp_path / "__init__.py")
    assert spec
    assert spec.loader
    windows = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = windows  # where `dataclass` looks
    try:
        spec.loader.exec_module(windows)
    finally:
        del sys.modules[spec.name]
    for ours, theirs in [
        (pages.done("held", REFERENCE), windows.done("held", REFERENCE)),
        (pages.render(BARE, html=True), windows.render(BARE, html=True)),
    ]:
        assert (theirs.headers, theirs.body) == (ours.headers, ours.body)


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_nothing_on_a_page_moves(reply: Reply) -> None:
    assert not re.search(r"animation|transition|@keyframes|<marquee|<animate", Page(reply).source)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", screenshots.PAGES)
def test_no_page_shows_the_sentence_that_is_for_programs(name: str, language: str) -> None:
    told = dataclasses.replace(screenshots.answer(name), detail="A sentence for programs.")
    reply = pages.render(told, html=True, accept_language=language)
    assert reply.body.startswith(b"<!doctype html>") or "Location" in reply.headers
    assert "sentence for programs" not in f"{reply.headers}{reply.body!r}"


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
    assert reply.headers["Allow"] == "GET, POST, HEAD, OPTIONS"
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
        Answer(Outcome.DECLINED, REFERENCE, HTTPStatus.BAD_REQUEST, error="server_error"),
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
    for language in LANGUAGES:
        titles = [Page(pages.done(outcome, "", language)).texts["h1"][0] for outcome in Outcome]
        assert len(set(titles)) == len(Outcome)


def test_every_answer_in_place_says_what_it_is() -> None:
    for answered, page in [
        (BARE, "bare"),
        (KEYS, "keys"),
        (PREFETCH, "prefetch"),
        (REFUSED_METHOD, "method"),
        (DECLINED, "declined"),
    ]:
        for language in LANGUAGES:
            reply = pages.render(answered, html=True, accept_language=language)
            assert Page(reply).texts["h1"] == [LANGUAGES[language].pages[page].title]


def test_the_reference_is_shown_in_groups_with_nothing_between_them() -> None:
    page = Page(pages.done("rejected", REFERENCE))
    assert page.texts["span"] == ["0123", "4567", "89ab", "cdef"]
    assert page.texts["code"] == [REFERENCE]


@pytest.mark.parametrize(
    ("outcome", "heading"),
    [
        ("delivered", "reference"),
        ("duplicate", "reference"),
        ("held", "reference"),
        ("declined", "reference"),
        ("invalid", "report"),
        ("unknown", "report"),
        ("rejected", "report"),
        ("misconfigured", "report"),
    ],
)
def test_the_reference_is_for_the_administrator_where_there_is_something_to_ask(
    outcome: str, heading: str
) -> None:
    for language, (words, _) in LANGUAGES.items():
        assert Page(pages.done(outcome, REFERENCE, language)).texts["h2"][-1] == words[heading]


def test_the_providers_words_are_marked_as_its_own() -> None:
    for language, (words, _) in LANGUAGES.items():
        page = Page(pages.render(DECLINED, html=True, accept_language=language))
        assert page.texts["figcaption"] == [words["said"]]
        assert page.texts["blockquote"] == ["access_deniedThe user said no."]
        # Words from right to left stay among themselves.
        quoted = [attributes for tag, attributes in page.tags if tag == "code"][:2]
        assert [attributes["dir"] for attributes in quoted] == ["auto", "auto"]


def test_the_fragment_page_says_what_to_do_where_no_script_runs() -> None:
    for language, (_, said) in LANGUAGES.items():
        page = Page(pages.render(BARE, html=True, accept_language=language))
        assert page.texts["noscript"] == [said["bare"].noscript]


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
    assert "footer" not in page.texts


# -- languages -----------------------------------------------------------------------------------


def sentences(tag: str) -> dict[str, str]:
    """Return all that the catalogue says in one language, by where it stands."""
    words, said = LANGUAGES[tag]
    return {f"words.{key}": word for key, word in words.items()} | {
        f"{name}.{key}": sentence
        for name, text in said.items()
        for key, sentence in text._asdict().items()
        if sentence
    }


def said_by(tag: str) -> list[str]:
    """Return all that the pages say in one language, what is not from the catalogue included."""
    shown = []
    for name in screenshots.PAGES:
        page = Page(screenshots.page(name, tag))
        for element in ("title", "h1", "h2", "p", "figcaption"):
            shown += page.texts.get(element, [])
    return shown


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_says_all_that_the_others_say(tag: str) -> None:
    assert sentences(tag).keys() == sentences("en").keys()


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_entry_of_the_catalogue_is_on_a_page(tag: str) -> None:
    unused = set(sentences(tag).values()) - set(said_by(tag))
    assert not unused


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_word_on_a_page_is_from_the_catalogue_or_the_providers(tag: str) -> None:
    said = screenshots.answer("said")
    known = {*sentences(tag).values(), screenshots.REFERENCE, said.error, said.error_description}
    assert not set(said_by(tag)) - known
    # And nothing stands outside of those elements.
    page = Page(screenshots.page("said", tag))
    parts = "".join("".join(page.texts[each]) for each in ("h1", "h2", "figcaption", "p"))
    assert sorted(page.texts["main"][0]) == sorted(parts)


@pytest.mark.parametrize("tag", [tag for tag in LANGUAGES if tag != "en"])
def test_a_translation_names_what_the_english_names_and_is_one(tag: str) -> None:
    names = re.compile(r"Dynamics\u00a0365|URI|GET|POST|JavaScript|\{\w*\}")
    for key, english in sentences("en").items():
        translated = sentences(tag)[key]
        assert set(names.findall(translated)) == set(names.findall(english)), key
        assert translated != english or english == "Reference", key


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_sentence_is_set_as_a_printer_would(tag: str) -> None:
    for key, sentence in sentences(tag).items():
        assert sentence == sentence.strip(), key
        assert not re.search(r"  |['\"`<>&]|\.\.\.| [.,:;?!]", sentence), key
        # Where the line must not break.
        assert "Dynamics 365" not in sentence, key
        heading = key.startswith("words.") or key.endswith(".title")
        assert sentence.endswith(".") is not (heading and key != "words.select"), key
        assert sentence[0].isupper(), key


def test_english_comes_first_and_every_language_has_a_tag_that_browsers_send() -> None:
    assert next(iter(LANGUAGES)) == translations.DEFAULT == "en"
    assert {"en", "de", "fr", "es", "da", "nl"} <= set(LANGUAGES)
    assert all(re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{1,8})*", tag) for tag in LANGUAGES)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("de-Latn-AT-1996", "de"),
        ("fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5", "fr"),
        ("da, en-GB;q=0.8, en;q=0.7", "da"),
        ("en;q=0.1, nl;q=0.2", "nl"),
        ("en;q=0.8,es;q=0.801", "es"),
        ("de;q=0.5, fr;q=0.5", "de"),
        ("fr\t;\tq=0.5 ,\tnl", "nl"),
        ("ja, zh-Hant;q=0.9, es;q=0.1", "es"),
        ("ja", "en"),
        ("ja, *;q=0.1", "en"),
        ("*", "en"),
        ("*, de;q=0.5", "en"),
        ("de;q=0", "en"),
        ("de;q=0, de-AT", "en"),
        ("de-AT;q=0", "en"),
        ("de-AT;q=0, de;q=0.1", "de"),
        ("en;q=0, *", "de"),
        ("en;q=0, en-GB, *;q=0.1", "de"),
        ("en;q=0.000, de;q=0.001", "de"),
        ("en;q=0", "en"),
        ("*;q=0", "en"),
        (", ,de,,", "de"),
        ("de;q=1.5, fr;q=0.1", "fr"),
        ("de;q=-1, fr;q=0.1", "fr"),
        ("de;q=0.1234, fr;q=0.1", "fr"),
        ("de;level=1, fr;q=0.1", "fr"),
        ("de_DE, fr;q=0.1", "fr"),
        ("deutsch, fr;q=0.1", "fr"),
        ("d, fr;q=0.1", "fr"),
        ("-de, fr;q=0.1", "fr"),
        ("de-, fr;q=0.1", "fr"),
        ("<script>, fr;q=0.1", "fr"),
        ("\u0660, d\u0435, fr;q=0.1", "fr"),
    ],
)
def test_the_language_is_the_one_that_the_person_prefers_of_those_there_are(
    header: str, language: str
) -> None:
    assert negotiate(header) == language
    reply = pages.done("held", REFERENCE, header)
    assert reply.headers["Content-Language"] == language
    assert Page(reply).texts["h1"] == [LANGUAGES[language].pages["held"].title]


def test_no_more_of_a_header_is_read_than_a_browser_sends() -> None:
    assert negotiate("ja," * 300 + "de") == "de"
    assert negotiate("ja," * 400 + "de") == "en"
    assert negotiate("ja" + "-a" * 10_000_000) == "en"


_tags = st.sampled_from(["de", "fr-CA", "*", "x", "en", "-", "q", ";q=0", ";q=1", ",", " ", "é"])


@settings(deadline=None)
@given(st.text() | st.lists(_tags).map("".join))
def test_whatever_a_browser_asks_for_it_gets_a_language_that_there_is(header: str) -> None:
    assert negotiate(header) in LANGUAGES


def test_every_page_is_there_in_the_language_that_was_asked_for() -> None:
    for tag, (_, said) in LANGUAGES.items():
        for name in screenshots.PAGES:
            page = Page(screenshots.page(name, tag))
            title = said["declined" if name == "said" else name].title
            assert ("html", {"lang": tag}) in page.tags
            assert page.texts["title"] == [title]


@pytest.mark.parametrize("outcome", Outcome)
def test_a_program_is_told_the_same_whatever_its_language(outcome: Outcome) -> None:
    english = pages.render(answer(outcome), html=False)
    assert pages.render(answer(outcome), html=False, accept_language="de") == english
    assert "Content-Language" not in english.headers


def test_a_catalogue_with_a_sentence_of_no_page_does_not_load() -> None:
    with pytest.raises(TypeError):
        Text(title="", body="", next="", more="")  # type: ignore[call-arg]


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
