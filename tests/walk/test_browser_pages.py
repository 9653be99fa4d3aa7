"""What a person's browser makes of the pages: seen, read aloud, zoomed, selected, translated."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

import sandbox.browser
from relay import pages
from relay.outcome import Answer, Outcome
from relay.pages.translations import LANGUAGES
from sandbox import screenshots
from sandbox.browser import chromium, unavailable
from sandbox.screenshots import NARROW, PAGES, REFERENCE, WIDE
from sandbox.serving import Server
from sandbox.world import World

CODE, STATE = "canary-code", "canary-state"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve every page under its name."""
    with Server(screenshots.gallery()) as server:
        yield server.url


@contextmanager
def tab_of(browser: Browser, **options: Any) -> Iterator[Tab]:
    """Open one tab of a browser that knows nothing yet."""
    context = browser.new_context(**{"locale": "en", **options})
    context.set_default_timeout(10_000)
    try:
        yield context.new_page()
    finally:
        context.close()


# -- for everybody -------------------------------------------------------------------------------

AXE_CORE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
# Everything that axe-core knows but what is experimental, WCAG 2.2's target size included.
OPTIONS = {
    "resultTypes": ["violations", "incomplete"],
    "rules": {"target-size": {"enabled": True}},
}


SHOW = """
    window.show = (html) => {
        const shown = new DOMParser().parseFromString(html, 'text/html');
        document.documentElement.lang = shown.documentElement.lang;
        document.head.replaceChildren(...shown.head.childNodes);
        document.body.replaceChildren(...shown.body.childNodes);
        // As its script does.
        document.querySelectorAll('[hidden]').forEach((each) => { each.hidden = false; });
    };
"""
"""Show another page in the same tab: loading axe-core for each would take most of the time."""


def faults(tab: Tab) -> list[str]:
    """Return what axe-core finds, and what it could not find out about contrast."""
    found = tab.evaluate(f"axe.run(document, {json.dumps(OPTIONS)})")
    unsure = [each for each in found["incomplete"] if each["id"] == "color-contrast"]
    return [
        f"{tab.title()}: {each['id']}: {node['html']}: {node['failureSummary']}"
        for each in (*found["violations"], *unsure)
        for node in each["nodes"]
    ]


LOOKS: Mapping[str, Mapping[str, Any]] = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark and narrow": {"viewport": NARROW, "color_scheme": "dark"},
    "forced colors": {"viewport": WIDE, "color_scheme": "dark", "forced_colors": "active"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_any_page(browser: Browser, look: str) -> None:
    """Every page and every language in every look; a page is in another language each time."""
    turn = 3 * [*LOOKS].index(look)
    with tab_of(browser, **LOOKS[look]) as tab:
        tab.set_content("<!doctype html>")
        tab.evaluate(AXE_CORE)
        tab.evaluate(SHOW)
        for name, tag in zip(PAGES, islice(cycle(LANGUAGES), turn, None), strict=False):
            tab.evaluate("(html) => show(html)", screenshots.page(name, tag).body.decode())
            assert faults(tab) == [], (name, tag)
        if look == "forced colors":
            # Grounds are gone there: what stood on one has a border around it.
            tab.evaluate("(html) => show(html)", screenshots.page("fault", "en").body.decode())
            ground = tab.locator("main").evaluate("(e) => getComputedStyle(e).backgroundColor")
            for part in ("svg", ".next", "footer code", ".back", "button"):
                border = tab.locator(part).evaluate("(e) => getComputedStyle(e).borderTopColor")
                assert border != ground, part


def test_axe_would_find_a_page_without_a_language_and_grey_on_grey(
    browser: Browser, url: str
) -> None:
    # The policy would keep axe out, as it keeps out everybody.
    with tab_of(browser, bypass_csp=True) as tab:
        tab.goto(f"{url}/held")
        tab.evaluate(AXE_CORE)
        tab.evaluate("document.documentElement.removeAttribute('lang')")
        tab.evaluate("document.querySelector('h1').style.color = '#bbb'")
        found = "".join(faults(tab))
    assert "html-has-lang" in found
    assert "color-contrast" in found


CONTRAST = """() => {
    const light = (color) => {
        const [r, g, b] = color.match(/[0-9.]+/g).map(Number).map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const { color, backgroundColor } = getComputedStyle(document.querySelector('svg'));
    const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_mark_of_the_outcome_stands_out_from_its_ground(browser: Browser, scheme: Any) -> None:
    """WCAG 2.2 §1.4.11 asks for 3:1, of which axe-core knows nothing."""
    with tab_of(browser, color_scheme=scheme) as tab:
        tab.set_content("<!doctype html>")
        tab.evaluate(SHOW)
        for name in PAGES:
            tab.evaluate("(html) => show(html)", screenshots.page(name, "en").body.decode())
            assert tab.evaluate(CONTRAST) >= 4.5, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_bright_as_the_person_wants_it(
    browser: Browser, url: str, scheme: Any
) -> None:
    with tab_of(browser, color_scheme=scheme) as tab:
        tab.goto(f"{url}/delivered")
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = [int(part) for part in re.findall(r"\d+", ground)]
    assert min(brightness) > 200 if scheme == "light" else max(brightness) < 50


def test_the_outcome_is_read_aloud_first_and_the_mark_is_not(browser: Browser, url: str) -> None:
    with tab_of(browser) as tab:
        tab.goto(f"{url}/rejected")
        aloud = tab.locator("body").aria_snapshot()
    title = '- heading "Authorization not confirmed by Dynamics 365" [level=1]'
    assert aloud.startswith(f"- main:\n  - paragraph: Contoso\n  {title}")
    assert aloud.index(title) < aloud.index("Northwind Bank")
    assert "img" not in aloud
    assert re.findall(r'heading "([^"]*)" \[level=2\]', aloud) == [
        "What to do now",
        "For administrators",
        "Help",
        "Reference for your administrator",
    ]


# -- at any size ---------------------------------------------------------------------------------

OVERFLOW = """() => [...document.querySelectorAll('html, body *')]
    .filter((each) => each.scrollWidth > each.clientWidth && each.clientWidth
        || each.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map((each) => each.outerHTML.slice(0, 80))"""
"""What is wider than its place, or than the window."""


def test_nobody_scrolls_to_the_side_at_320_pixels(browser: Browser) -> None:
    """WCAG 2.2 §1.4.10, and §1.4.4 with text twice as large."""
    with tab_of(browser, viewport=NARROW) as tab:
        tab.set_content("<!doctype html>")
        tab.evaluate(SHOW)
        wide = tab.evaluate(
            f"""(pages) => Object.entries(pages).flatMap(([name, html]) => {{
                show(html);
                return ['100%', '200%'].flatMap((zoom) => {{
                    document.documentElement.style.fontSize = zoom;
                    return ({OVERFLOW})().map((each) => [name, zoom, each]);
                }});
            }})""",
            {
                f"{name}, {tag}": screenshots.page(name, tag).body.decode()
                for name in PAGES
                for tag in LANGUAGES
            },
        )
    assert wide == []


PLACES = """(element) => [...element.firstChild.data].map((_, at) => {
    const range = document.createRange();
    range.setStart(element.firstChild, at);
    range.setEnd(element.firstChild, at + 1);
    return range.getBoundingClientRect().left;
})"""
"""Where each letter of a short text stands."""


@pytest.mark.parametrize("words", ["x" * 1000, "\u202e" + "wide \u2003" * 150], ids=["long", "odd"])
def test_words_of_the_provider_stay_in_their_place_whatever_they_are(
    browser: Browser, words: str
) -> None:
    declined = Answer(
        Outcome.DECLINED,
        REFERENCE,
        HTTPStatus.BAD_REQUEST,
        error="e" * 400,
        error_description=words,
    )
    reply = pages.render(declined, html=True, connection=screenshots.CONTOSO)
    with tab_of(browser, viewport=NARROW) as tab:
        tab.route(
            "**/*",
            lambda route: route.fulfill(
                status=reply.status, headers=dict(reply.headers), body=reply.body
            ),
        )
        tab.goto("http://relay.test/callback")
        assert tab.evaluate(OVERFLOW) == []
        assert tab.locator("h1").inner_text() == "Authorization not granted"
        # An override from right to left ends with the words: what follows is read as ever.
        for parts in ("h2", "figcaption", "footer code span"):
            text = tab.locator(parts).first.evaluate(PLACES)
            assert text == sorted(text), parts


def test_on_paper_all_that_is_on_the_screen_is_there_without_its_frame(
    browser: Browser, url: str
) -> None:
    with tab_of(browser, color_scheme="dark") as tab:
        tab.goto(f"{url}/rejected")
        seen = tab.locator("body").inner_text()
        tab.emulate_media(media="print")
        assert tab.locator("body").inner_text() == seen
        frame = tab.evaluate("getComputedStyle(document.querySelector('main')).borderTopWidth")
        ground = tab.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
        ink = tab.evaluate("getComputedStyle(document.querySelector('main')).color")
    assert frame == "0px"
    # Black on white, whatever the screen was.
    assert ground == "rgb(255, 255, 255)"
    assert max(int(part) for part in re.findall(r"\d+", ink)) < 60


# -- the reference -------------------------------------------------------------------------------


def test_one_click_anywhere_on_it_selects_the_whole_reference(browser: Browser, url: str) -> None:
    with tab_of(browser) as tab:
        tab.goto(f"{url}/rejected")
        for group in range(4):
            tab.locator("h1").click()
            assert tab.evaluate("getSelection().toString()") == ""
            tab.locator("code span").nth(group).click()
            assert tab.evaluate("getSelection().toString()") == REFERENCE


def test_what_is_copied_is_the_reference_in_one_piece(browser: Browser, url: str) -> None:
    with tab_of(browser) as tab:
        tab.goto(f"{url}/rejected")
        tab.locator("code").click()
        tab.keyboard.press("ControlOrMeta+c")
        paper = tab.context.new_page()
        paper.set_content("<textarea autofocus></textarea>")
        paper.locator("textarea").press("ControlOrMeta+v")
        assert paper.locator("textarea").input_value() == REFERENCE


def test_a_reference_that_somebody_looks_for_on_the_page_is_found(
    browser: Browser, url: str
) -> None:
    with tab_of(browser) as tab:
        tab.goto(f"{url}/rejected")
        assert tab.evaluate("(reference) => window.find(reference)", REFERENCE)


# -- nothing but the page ------------------------------------------------------------------------

WATCH = """
    window.refused = [];
    document.addEventListener('securitypolicyviolation',
        (event) => window.refused.push(event.violatedDirective));
"""


def test_a_page_asks_for_nothing_stores_nothing_and_keeps_its_own_policy(
    browser: Browser, url: str
) -> None:
    with tab_of(browser) as tab:
        asked: list[str] = []
        said: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.add_init_script(WATCH)
        for name in PAGES:
            tab.goto(f"{url}/{name}")
            assert tab.evaluate("window.refused") == [], name
            # The style is the page's own, and came through.
            assert tab.evaluate("getComputedStyle(document.querySelector('h1')).margin") == "0px"
            assert tab.evaluate("localStorage.length + sessionStorage.length") == 0
        assert tab.context.cookies() == []
    assert [each for each in asked if not each.startswith("data:")] == [
        f"{url}/{name}" for name in PAGES
    ]
    # What the browser says of a status that is an error is not about the page.
    assert [each for each in said if "the server responded with a status" not in each] == []


def test_a_style_or_a_script_that_is_not_the_pages_does_not_come_through(
    browser: Browser, url: str
) -> None:
    with tab_of(browser) as tab:
        tab.add_init_script(WATCH)
        for name in ("held", "bare"):  # the two policies
            tab.goto(f"{url}/{name}")
            tab.evaluate(
                """() => {
                    const style = document.createElement('style');
                    style.textContent = 'h1 { display: none }';
                    const script = document.createElement('script');
                    script.textContent = 'document.title = "taken"';
                    const image = document.createElement('img');
                    image.src = '/elsewhere';
                    document.body.append(style, script, image);
                }"""
            )
            tab.wait_for_function("window.refused.length >= 3")
            assert tab.locator("h1").is_visible()
            assert tab.title() != "taken"


# -- in the person's language --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "tag"),
    [
        ("en-GB", "en"),
        ("de-AT", "de"),
        ("nl-BE", "nl"),
        ("ja-JP", "en"),
    ],
)
def test_a_person_reads_the_page_in_the_language_of_the_browser(
    browser: Browser, url: str, locale: str, tag: str
) -> None:
    with tab_of(browser, locale=locale) as tab:
        answer = tab.goto(f"{url}/held")
        assert answer is not None
        assert answer.headers["content-language"] == tag
        assert answer.headers["vary"] == "Accept-Language"
        assert tab.locator("html").get_attribute("lang") == tag
        assert tab.title() == LANGUAGES[tag].pages["held"].title
        assert tab.locator(".next h2+p").inner_text() == LANGUAGES[tag].pages["held"].next


# -- the fragment --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(browser=True) as world:
        yield world


NOTE = """
    const submit = HTMLFormElement.prototype.submit;
    HTMLFormElement.prototype.submit = function () {
        sessionStorage.before = location.href;
        sessionStorage.title = document.title;
        sessionStorage.text = document.querySelector('main').innerText;
        submit.call(this);
    };
"""
"""Keep what stands in the address bar and on the page when the form goes off."""


def test_a_response_in_the_fragment_reaches_dynamics_and_leaves_the_address_bar(
    browser: Browser, world: World
) -> None:
    with tab_of(browser, locale="da-DK") as tab:
        tab.add_init_script(WATCH)
        tab.add_init_script(NOTE)
        posts = world.dynamics.posts
        issuer = world.settings["PROVIDER_ISSUER"]
        tab.goto(f"{world.redirect_uri}#code={CODE}&state={STATE}&iss={issuer}")
        tab.wait_for_url("**/done/delivered?ref=*")
        assert world.dynamics.posts == posts + 1
        assert tab.title() == LANGUAGES["da"].pages["delivered"].title
        # It is gone before the answer comes, and the way back does not lead to it either.
        assert tab.evaluate("sessionStorage.before") == world.redirect_uri
        assert tab.evaluate("window.refused") == []
        tab.go_back()
        assert "canary" not in tab.url


def test_an_error_in_the_fragment_is_shown(browser: Browser, world: World) -> None:
    with tab_of(browser) as tab:
        tab.goto(f"{world.redirect_uri}#error=access_denied&error_description=No%20way&state=s")
        tab.wait_for_selector("blockquote")
        assert tab.locator("h1").inner_text() == "Authorization not granted"
        # The state is not signed: anybody could have written the words.
        assert tab.locator("blockquote").inner_text() == "access_denied"
        assert "error" not in tab.url


def test_a_fragment_that_is_no_response_is_left_alone(browser: Browser, world: World) -> None:
    with tab_of(browser) as tab:
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.method))
        tab.goto(f"{world.redirect_uri}#section=2", wait_until="networkidle")
        assert tab.locator("h1").inner_text() == "This is a redirect URI"
        assert not tab.locator("noscript").is_visible()
    assert asked == ["GET"]


def test_without_a_script_the_fragment_page_says_what_is_missing(
    browser: Browser, world: World
) -> None:
    with tab_of(browser, java_script_enabled=False, locale="nl") as tab:
        tab.goto(f"{world.redirect_uri}#code={CODE}&state={STATE}")
        assert tab.locator("noscript").is_visible()
        assert "JavaScript" in tab.locator("noscript").inner_text()
        # The first that a person reads is what to do.
        text = tab.locator("main").inner_text()
        assert text.index("JavaScript") < text.index(LANGUAGES["nl"].pages["bare"].body)


def test_while_a_fragment_is_handed_over_the_page_says_so(browser: Browser, world: World) -> None:
    """What it reads when the form goes off stays until the answer comes, however late that is."""
    with tab_of(browser, locale="de") as tab:
        tab.add_init_script(NOTE)
        tab.goto(f"{world.redirect_uri}#code=slow&state=slow")
        tab.wait_for_url("**/done/delivered?*")
        words = LANGUAGES["de"].words
        title, text = tab.evaluate("[sessionStorage.title, sessionStorage.text]")
    assert title == words["posting"]
    assert text.split("\n\n") == [words["posting"], words["wait"]]


# -- the way back, and what an administrator is told ---------------------------------------------


def test_details_are_copied_by_keyboard_and_read_aloud(browser: Browser, url: str) -> None:
    # A browser on a desk grants it to the page that a person uses; the headless shell asks nobody.
    with tab_of(browser, locale="fi", permissions=["clipboard-write"]) as tab:
        tab.goto(f"{url}/fault")
        words = LANGUAGES["fi"].words
        button = tab.get_by_role("button", name=words["copy"])
        button.focus()
        # It stands in the order of the keyboard, behind the links.
        tab.keyboard.press("Shift+Tab")
        assert tab.evaluate("document.activeElement.href").startswith("mailto:")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        tab.get_by_role("status").get_by_text(words["copied"]).wait_for()
        paper = tab.context.new_page()
        paper.set_content("<textarea autofocus></textarea>")
        paper.locator("textarea").press("ControlOrMeta+v")
        copied = paper.locator("textarea").input_value()
    details = f"reference={REFERENCE} connection=default outcome=declined"
    assert re.fullmatch(
        rf"{details} time=\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        copied,
    )


def test_details_are_shown_where_the_clipboard_is_refused(browser: Browser, url: str) -> None:
    with tab_of(browser) as tab:
        tab.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error())")
        tab.goto(f"{url}/rejected")
        tab.get_by_role("button").click()
        tab.get_by_role("status").get_by_text(f"reference={REFERENCE}").wait_for()
    with tab_of(browser, java_script_enabled=False) as tab:
        tab.goto(f"{url}/rejected")
        assert not tab.locator("button").is_visible()


def test_a_popup_ends_by_the_way_back(browser: Browser, url: str) -> None:
    """No page can tell that it is a popup, so it leads to a page of Dynamics that closes it."""
    with tab_of(browser) as tab:
        closing = {"content_type": "text/html", "body": "<script>window.close()</script>"}
        tab.context.route(
            "https://contoso.operations.dynamics.com/**", lambda r: r.fulfill(**closing)
        )
        tab.goto(url.replace("127.0.0.1", "localhost") + "/bare")
        with tab.context.expect_page() as opened:
            tab.evaluate("(url) => void window.open(url, '', 'popup')", f"{url}/delivered")
        popup = opened.value
        back = popup.get_by_role("link", name="Back to Dynamics 365")
        with popup.expect_event("close"):
            back.click(no_wait_after=True)


def test_the_storybook_shows_every_page(browser: Browser) -> None:
    with tab_of(browser, viewport=WIDE) as tab:
        tab.goto(screenshots.STORYBOOK.as_uri())
        tab.select_option("[name=language]", "pl")
        tab.select_option("[name=theme]", "dark")
        assert tab.locator("iframe").count() == len(PAGES)
        shown = tab.frame_locator("iframe[title=held]")
        assert shown.locator("h1").inner_text() == LANGUAGES["pl"].pages["held"].title
        assert shown.locator("html").get_attribute("lang") == "pl"
        ground = shown.locator("body").evaluate("(e) => getComputedStyle(e).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", ground)) < 50


def test_the_storybook_is_the_one_of_these_pages() -> None:
    told = "write it anew: python -m sandbox.screenshots --readme"
    assert screenshots.STORYBOOK.read_text("utf-8") == screenshots.storybook(), told


# -- the browser and the pictures ----------------------------------------------------------------


def test_whoever_has_no_browser_is_told_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(sandbox.browser, "_PLACES", {})
    assert "install one" in str(unavailable())
    with pytest.raises(RuntimeError, match="install one"), chromium():
        pass
    assert screenshots.main(["--folder", str(tmp_path / "none")]) == 1
    assert "install one" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_browser_that_is_named_and_not_there_is_not_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    assert unavailable() == "CHROMIUM is set to no-such-browser, which is no file that can be run"


@pytest.mark.parametrize(("kind", "width"), [("light", 2 * 960), ("de", 2 * 320)])
def test_a_picture_is_a_png_of_the_whole_page(
    browser: Browser, tmp_path: Path, kind: str, width: int
) -> None:
    file = tmp_path / "invalid.png"
    with Server(screenshots.gallery()) as server:
        screenshots._take(browser, screenshots._KINDS[kind], {"invalid": file}, server)
    # ISO/IEC 15948 §11.2.2: the header's width and height.
    taken = file.read_bytes()
    assert taken.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(taken[16:20]) == width
    assert int.from_bytes(taken[20:24]) >= 2 * 640


def test_the_pictures_of_the_readme_are_small() -> None:
    pictures = sorted(screenshots.IMAGES.glob("*.png"))
    assert [each.name for each in pictures] == ["delivered-dark.png", "delivered-light.png"]
    assert all(each.stat().st_size < 60 * 1024 for each in pictures)
