"""What a person sees and what a program reads."""

import base64
import dataclasses
import hashlib
import html
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

import relay.pages.html
from relay import branding, pages
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
FAULT = dataclasses.replace(DECLINED, page="fault", error="invalid_scope")
BARE = Answer(Outcome.INVALID, REFERENCE, HTTPStatus.OK, page="bare")
KEYS = Answer(
    Outcome.REJECTED, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, detail="No.", page="keys"
)
PREFETCH = Answer(
    Outcome.INVALID, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, detail="No.", page="prefetch"
)
REFUSED_METHOD = Answer(
    Outcome.INVALID, REFERENCE, HTTPStatus.METHOD_NOT_ALLOWED, detail="No.", page="method"
)


CONTOSO = screenshots.CONTOSO
NAMELESS = screenshots.connection(
    PROVIDER_NAME="",
    PAGE_ORGANIZATION="",
    PAGE_SUPPORT="",
    PAGE_RETURN_URL="",
    PAGE_ACCENT="",
    PAGE_LOGO="",
)
"""A connection with signed states of which the pages show nothing."""


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
        if tag not in ("meta", "wbr", "link", "img"):
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
    **{f"named-{name}": screenshots.page(name, "en") for name in screenshots.PAGES},
    "unknown-json": pages.unknown(html=False),
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
    # Chromium writes to the console about this one.
    assert "web-share=()" not in permissions
    copies = b"<button" in reply.body
    assert ("clipboard-write=(self)" in permissions) == copies
    allowed = [each for each in permissions if not re.fullmatch(r"[a-z-]+=\(\)", each)]
    assert allowed == ["clipboard-write=(self)"] * copies


@pytest.mark.parametrize("reply", EVERY.values(), ids=EVERY)
def test_no_answer_opens_itself_to_other_origins(reply: Reply) -> None:
    assert not [name for name in reply.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("name", [name for name in EVERY if "bare" not in name])
def test_only_the_fragment_page_may_send_a_form(name: str) -> None:
    directives = csp(EVERY[name])
    assert directives["form-action"] == "'none'"
    assert ("script-src" in directives) == (b"<button" in EVERY[name].body)


@pytest.mark.parametrize("name", HTML)
def test_no_page_is_larger_than_12_kib_beside_its_logo(name: str) -> None:
    logo = len(html.escape(CONTOSO.branding.logo or ""))
    assert len(HTML[name].body) - logo * (b"<img" in HTML[name].body) <= 12 * 1024


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_has_no_more_style_and_script_than_its_policy_allows_by_hash(reply: Reply) -> None:
    page, directives = Page(reply), csp(reply)
    assert directives["style-src"] == " ".join(map(hash_of, page.texts["style"]))
    assert directives["img-src"] == "data:"
    scripts = page.texts.get("script", [])
    assert directives.get("script-src", "") == " ".join(map(hash_of, scripts))
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_a_page_loads_nothing_and_links_to_what_the_settings_name(reply: Reply) -> None:
    page = Page(reply)
    loading = {"iframe", "form", "object", "embed", "base", "use", "video"}
    assert not loading & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for address in {"src", "href"} & set(attributes):
            value = str(attributes[address])
            assert value.startswith("data:image/svg+xml,") or (
                tag == "a" and value.startswith(("https://contoso.", "mailto:erp-support@"))
            ), value
    assert "url(" not in page.source
    assert "@import" not in page.source
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
    spec = importlib.util.spec_from_file_location("windows_pages", tmp_path / "html.py")
    assert spec
    assert spec.loader
    windows = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = windows  # where `dataclass` looks
    try:
        spec.loader.exec_module(windows)
    finally:
        del sys.modules[spec.name]
    for name, shown in (("held", answer(Outcome.HELD)), ("bare", BARE), ("keys", KEYS)):
        theirs, ours = (
            each.page(name, shown, "de", CONTOSO) for each in (windows, relay.pages.html)
        )
        assert theirs == ours


@pytest.mark.parametrize("reply", HTML.values(), ids=HTML)
def test_nothing_on_a_page_moves(reply: Reply) -> None:
    assert not re.search(r"animation|transition|@keyframes|<marquee|<animate", Page(reply).source)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [*Outcome, "said", "fault", "keys"])
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
    known = dataclasses.replace(answer(outcome), connection="bank-one")
    reply = pages.render(known, html=True, connection=CONTOSO)
    assert reply.headers["Location"] == f"/done/{outcome}?ref={REFERENCE}&to=bank-one"


def test_a_link_that_authorize_refuses_has_a_page_of_its_own() -> None:
    refused = dataclasses.replace(answer(Outcome.INVALID), page="ticket")
    location = f"/done/invalid?ref={REFERENCE}&via=authorize"
    assert pages.render(refused, html=True).headers["Location"] == location
    reply = pages.done("invalid", REFERENCE, via="authorize")
    assert (reply.status, "This link" in Page(reply).texts["h1"][0]) == (400, True)
    # Nobody makes another page of any other outcome.
    for outcome, via in (("held", "authorize"), ("invalid", "elsewhere")):
        assert pages.done(outcome, REFERENCE, via=via).body == pages.done(outcome, REFERENCE).body


def test_an_address_of_nothing_is_told_without_a_reference() -> None:
    page = pages.unknown(html=True, accept_language="fr")
    assert (page.status, Page(page).texts["h1"]) == (404, [LANGUAGES["fr"].pages["unknown"].title])
    assert b"<footer" not in page.body
    assert problem(pages.unknown(html=False)) == {
        "outcome": "unknown",
        "status": 404,
        "title": LANGUAGES["en"].pages["unknown"].title,
    }


def test_declined_is_shown_in_place_with_the_providers_words() -> None:
    reply = pages.render(DECLINED, html=True, connection=NAMELESS)
    assert reply.status == 400
    assert "Location" not in reply.headers
    assert Page(reply).texts["code"] == ["access_denied", "The user said no.", REFERENCE]


def test_a_description_is_shown_only_where_there_is_one() -> None:
    reply = pages.render(
        Answer(Outcome.DECLINED, REFERENCE, HTTPStatus.BAD_REQUEST, error="server_error"),
        html=True,
        connection=NAMELESS,
    )
    assert Page(reply).texts["code"] == ["server_error", REFERENCE]


@pytest.mark.parametrize("policy", ["opaque", "pattern"])
def test_words_that_anybody_could_have_written_are_not_shown(policy: str) -> None:
    open_to_all = screenshots.connection(
        STATE_POLICY=policy, STATE_PATTERN="^[A-Z]{3}$" * (policy != "opaque")
    )
    for connection in (open_to_all, None):
        reply = pages.render(DECLINED, html=True, connection=connection)
        assert Page(reply).texts["code"] == ["access_denied", REFERENCE]
        call = dataclasses.replace(DECLINED, error="call 0800 123456")
        reply = pages.render(call, html=True, connection=connection)
        assert Page(reply).texts["code"] == [REFERENCE]
        # A program is no person: it is told all.
        told = problem(pages.render(call, html=False, connection=connection))
        assert told["error_description"] == DECLINED.error_description


def test_a_fault_that_no_person_decided_is_for_the_administrator() -> None:
    ours, theirs = (
        Page(pages.render(each, html=True, connection=NAMELESS)) for each in (DECLINED, FAULT)
    )
    words = LANGUAGES["en"].words
    assert words["admin"] in theirs.texts["h2"]
    assert words["admin"] not in ours.texts["h2"]
    assert theirs.texts["h2"][-1] == words["report"]
    assert "button" in theirs.texts
    assert "button" not in ours.texts


def test_the_fragment_page_is_shown_in_place_and_says_what_the_url_is() -> None:
    reply = pages.render(BARE, html=True)
    assert reply.status == 200
    assert "redirect URI" in Page(reply).texts["h1"][0]
    # Nothing was sent, so a program is told the same.
    assert pages.render(BARE, html=False) == reply
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
        (FAULT, "fault"),
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
        page = Page(
            pages.render(DECLINED, html=True, accept_language=language, connection=NAMELESS)
        )
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
    return {
        f"words.{key}": word.replace("{time}", "5\N{NO-BREAK SPACE}min")
        for key, word in words.items()
    } | {
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
        for element in ("title", "h1", "h2", "p", "figcaption", "button"):
            shown += page.texts.get(element, [])
        for _, attributes in page.tags:
            shown += [
                str(attributes.get(f"data-{kind}", "")) for kind in ("title", "body", "copied")
            ]
    return shown


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_says_all_that_the_others_say(tag: str) -> None:
    assert sentences(tag).keys() == sentences("en").keys()


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_entry_of_the_catalogue_is_on_a_page(tag: str) -> None:
    shown = said_by(tag)
    unused = [each for each in sentences(tag).values() if not any(each in one for one in shown)]
    assert not unused


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_word_on_a_page_is_from_the_catalogue_the_settings_or_the_providers(tag: str) -> None:
    known = {*sentences(tag).values(), screenshots.REFERENCE, "Contoso", ""}
    known |= {"Northwind Bank → Dynamics\N{NO-BREAK SPACE}365", "erp-support@contoso.example"}
    for name in ("said", "fault"):
        said = screenshots.answer(name)
        known |= {str(said.error), str(said.error_description)}
    held, until = LANGUAGES[tag].pages["held"].body, sentences(tag)["words.until"]
    known.add(f"{held} {until}")
    assert not set(said_by(tag)) - known
    # And nothing stands outside of those elements.
    page = Page(screenshots.page("fault", tag))
    elements = ("h1", "h2", "figcaption", "p")
    parts = "".join("".join(page.texts[each]) for each in elements)
    assert sorted(page.texts["main"][0]) == sorted(parts)


@pytest.mark.parametrize("tag", [tag for tag in LANGUAGES if tag != "en"])
def test_a_translation_names_what_the_english_names_and_is_one(tag: str) -> None:
    names = re.compile(r"Dynamics\u00a0365|URI|GET|POST|JavaScript|\{\w*\}")
    for key, english in sentences("en").items():
        translated = sentences(tag)[key]
        assert set(names.findall(translated)) == set(names.findall(english)), key
        assert translated != english or english == "Reference", key
        # Longer, and it is another sentence, or the page no longer fits.
        assert 0.4 * len(english) - 5 <= len(translated) <= 1.6 * len(english) + 15, key


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_sentence_is_set_as_a_printer_would(tag: str) -> None:
    for key, sentence in sentences(tag).items():
        assert sentence == sentence.strip(), key
        assert not re.search(r"  |['\"`<>&]|\.\.\.| [.,:;?!]", sentence), key
        # Where the line must not break.
        assert "Dynamics 365" not in sentence, key
        sentences_of_words = ("words.select", "words.until", "words.wait")
        heading = key.startswith("words.") or key.endswith(".title")
        assert sentence.endswith(".") is not (heading and key not in sentences_of_words), key
        assert sentence[0].isupper(), key
        assert not key.endswith(".title") or len(sentence) <= 60, key


GLOSSARY: dict[str, tuple[str, str, str, str, str]] = {
    "en": ("redirect URI", "administrator", "authoriz", "connection", "provider"),
    "de": ("Umleitungs-URI", "IT-Administration", "Autorisierung", "Verbindung", "Anbieter"),
    "fr": ("URI de redirection", "administrateur", "autorisation", "connexion", "fournisseur"),
    "es": ("URI de redirección", "administrador", "autoriza", "conexi", "proveedor"),
    "it": ("URI di reindirizzamento", "amministrator", "autorizzazion", "connession", "provider"),
    "nl": ("omleidings-URI", "beheerder", "autorisatie", "verbinding", "provider"),
    "da": ("omdirigerings-URI", "administrator", "godkendelse", "forbindelse", "udbyder"),
    "sv": ("omdirigerings-URI", "administratör", "auktorisering", "anslut", "provider"),
    "nb": ("omadresserings-URI", "administrator", "autorisasjon", "tilkobl", "leverandør"),
    "fi": ("uudelleenohjaus-URI", "järjestelmänvalvoj", "valtuutu", "yhte", "palveluntarjoaj"),
    "pl": ("identyfikator URI przekierowania", "administrator", "autoryzacj", "połącze", "dostawc"),
    "pt": ("URI de redirecionamento", "administrador", "autorizaç", "conex", "provedor"),
}
"""The terms of Microsoft's own products, cut where they are inflected."""
WRONG = {
    "de": r"\b(die|der|eine|Diese) Umleitungs-URI\b(?! beim)|abgeschlossene? Autorisierung",
    "fr": r"\bune URI\b|terminée",
    "es": r"\bla URI\b|\buna URI\b",
    "it": r"\buna URI\b",
    "pt": r"\buma URI\b",
    "da": r"forfra fra|overdrage",
    "en": r"\btakes? the\b|\bcannot take\b",
}
"""What a reader of that language has stumbled over, or another gender than Microsoft's."""


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_has_microsofts_own_terms(tag: str) -> None:
    english, ours = sentences("en"), sentences(tag)
    for term, translated in zip(GLOSSARY["en"], GLOSSARY[tag], strict=True):
        for key, sentence in english.items():
            if term in sentence.lower().replace("uri", "URI"):
                assert translated.lower() in ours[key].lower(), (key, term)
    for key, sentence in ours.items():
        assert not re.search(WRONG.get(tag, r"(?!)"), sentence), key


def test_english_comes_first_and_every_language_has_a_tag_that_browsers_send() -> None:
    assert next(iter(LANGUAGES)) == translations.DEFAULT == "en"
    assert set(LANGUAGES) == set(GLOSSARY)
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
            other = {"said": "declined", "nowhere": "unknown"}
            title = said[other.get(name, name)].title
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


# -- whose page it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in screenshots.PAGES if name != "nowhere"])
def test_a_page_names_whose_it_is_and_has_one_way_back(name: str) -> None:
    page = Page(screenshots.page(name, "en"))
    assert page.texts["bdi"] == ["Contoso", "Northwind Bank"]
    back = LANGUAGES["en"].words["back"]
    assert page.texts["a"] == [back, "erp-support@contoso.example"]
    outcome = screenshots.answer("invalid" if name == "ticket" else name).outcome
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [
        f"https://contoso.operations.dynamics.com/?cmp=usmf&outcome={outcome}",
        "mailto:erp-support@contoso.example",
    ]
    [(_, image)] = [each for each in page.tags if each[0] == "img"]
    assert image["src"] == CONTOSO.branding.logo


def test_a_page_of_no_connection_names_nobody() -> None:
    for reply in (pages.unknown(html=True), pages.done("delivered", REFERENCE)):
        page = Page(reply)
        assert not {"a", "bdi", "img"} & page.texts.keys()
        assert len(page.texts["style"]) == 1


@pytest.mark.parametrize(
    ("support", "link"),
    [
        ("erp@contoso.example", "mailto:erp@contoso.example"),
        ("https://help.contoso.example/?q=1", "https://help.contoso.example/?q=1"),
        ("Ask Ada, room 4", None),
        ("javascript:alert(1)", None),
        ("a@b.example?subject=<b>", None),
        ("http://contoso.example", None),
    ],
)
def test_support_is_a_link_where_it_is_an_address(support: str, link: str | None) -> None:
    page = Page(pages.done("held", "", "", screenshots.connection(PAGE_SUPPORT=support)))
    assert support in page.texts["p"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links[1:] == ([link] if link else [])


def test_names_from_the_settings_stay_text() -> None:
    words = "<script>alert(1)</script>\"'&"
    hostile = screenshots.connection(
        PROVIDER_NAME=words, PAGE_ORGANIZATION=words, PAGE_SUPPORT=words
    )
    page, plain = (Page(pages.done("held", "", "", each)) for each in (hostile, CONTOSO))
    assert page.texts["bdi"] == [words, words]
    assert "script" not in page.texts
    assert len(page.tags) == len(plain.tags) - 1  # The e-mail address was a link.


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(300, "5 min"), (60, "1 min"), (90, "90 s"), (7200, "2 h"), (400, "6 min")],
)
def test_a_held_callback_is_told_how_long_it_is_tried(seconds: int, shown: str) -> None:
    page = Page(pages.done("held", "", "", screenshots.connection(CODE_TTL=str(seconds))))
    assert shown.replace(" ", "\N{NO-BREAK SPACE}") in page.texts["p"][2]
    assert "until" not in Page(pages.done("held", "")).source


def test_the_accent_of_a_connection_is_readable_in_both_modes() -> None:
    for colour in ("#000", "#7a2e8e", "#2B579A", "#767676", "#b00000"):
        found = branding.accent(colour)
        assert branding.contrast(found.light, "#ffffff") >= 4.5
        assert branding.contrast(found.dark, branding.DARK_PAPER) >= 4.5
        reply = pages.done("held", "", "", screenshots.connection(PAGE_ACCENT=colour))
        assert f"--accent:{found.light};" in reply.body.decode()
        assert f"--accent:{found.dark};" in reply.body.decode()


def test_the_details_to_copy_name_what_the_log_names() -> None:
    for outcome in Outcome:
        page = Page(pages.done(outcome, REFERENCE, "", CONTOSO))
        details = [attributes.get("data-details") for _, attributes in page.tags]
        line = f"reference={REFERENCE} connection=default outcome={outcome}"
        decided = outcome in ("delivered", "duplicate", "held", "declined")
        assert (line in details) is not decided
        assert "button" not in Page(pages.done(outcome, "made-up", "", CONTOSO)).texts


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
    page, plain = (
        Page(pages.render(each, html=True, connection=NAMELESS)) for each in (declined, DECLINED)
    )
    assert page.texts["code"] == [error, description, REFERENCE]
    assert page.tags == plain.tags
    assert page.texts["style"] == plain.texts["style"]
    members = problem(pages.render(declined, html=False))
    assert (members["error"], members["error_description"]) == (error, description)


@settings(deadline=None)
@given(_words, _words)
def test_whatever_is_asked_of_the_done_page_is_not_repeated(outcome: str, reference: str) -> None:
    assert pages.done(outcome, reference).body == pages.done("unknown", "").body
