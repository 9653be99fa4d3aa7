"""What people live through: a real Chromium, a certified provider, a certified client, Azurite."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
from markupsafe import escape
from playwright.sync_api import Browser, Page
from starlette.responses import HTMLResponse

from sandbox.azurite import Azurite
from sandbox.azurite import unavailable as no_azurite
from sandbox.browser import chromium
from sandbox.dynamics import Fault
from sandbox.world import World
from tests.others.software import leave_out, need_browser, need_npm_packages
from tests.others.stage import (
    FURTHER,
    Flow,
    Person,
    Stage,
    flags,
    heading,
    person,
)
from tests.outbox import eventually

REDEEMED = {"person": "ada", "renewed": True}
"""What the client of Dynamics is told once it has redeemed, refreshed and asked who it is."""

START = {
    "query": lambda stage: stage.start("bank", "query"),
    "form_post": lambda stage: stage.start("bank", "form_post"),
    "fragment": lambda stage: stage.start("bank", "fragment"),
    "pkce": lambda stage: stage.ticket("bound"),
    "pkce and form_post": lambda stage: stage.ticket("posted"),
    "jarm": lambda stage: stage.ticket("secured"),
}


def ways(*names: str) -> pytest.MarkDecorator:
    """Give the test these ways to start a flow, one after the other."""
    return pytest.mark.parametrize("start", [pytest.param(START[name], id=name) for name in names])


type Start = Callable[[Stage], Flow]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Browser]]:
    need_browser()
    need_npm_packages()
    if reason := no_azurite():
        leave_out(reason)
    with ExitStack() as stack:
        azurite = stack.enter_context(Azurite(tmp_path_factory.mktemp("azurite")))
        storage = azurite.connection_string
        world = stack.enter_context(World(storage=storage, further=FURTHER))
        stage = Stage(world, stack)
        yield stage, stack.enter_context(chromium(*flags(world.authority)))


@pytest.fixture
def stage(everything: tuple[Stage, Browser]) -> Stage:
    everything[0].clear()
    return everything[0]


@pytest.fixture
def ada(everything: tuple[Stage, Browser]) -> Iterator[Person]:
    with somebody(*everything) as ada:
        yield ada


@pytest.fixture
def eve(everything: tuple[Stage, Browser]) -> Iterator[Person]:
    with somebody(*everything) as eve:
        yield eve


@contextmanager
def somebody(stage: Stage, browser: Browser) -> Iterator[Person]:
    """Give somebody a browser in which, whatever the test is about, no page misbehaves."""
    with person(browser, stage.relay.url) as found:
        yield found
        assert found.dialogs == []
        assert found.violations == []


# --- from consent to tokens -----------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """What is known after one person has walked one flow from its start to its end."""

    stage: Stage
    flow: Flow
    row: dict[str, Any]
    tab: Page
    said: str
    url: str
    history: list[str]
    page: str
    referers: list[str]
    after_callback: list[tuple[str, str]]
    """Type and URL of every request from the callback on."""
    cookies: list[Any]
    """The relay's, while the person was at the provider."""
    cookies_left: list[Any]


@pytest.fixture(scope="module", params=START)
def walk(request: pytest.FixtureRequest, everything: tuple[Stage, Browser]) -> Iterator[Walk]:
    stage, browser = everything
    stage.clear()
    flow = START[request.param](stage)
    with somebody(stage, browser) as ada:
        page = ada.open(flow.url)
        cookies = ada.relay_cookies
        ada.consent(page)
        page.wait_for_load_state("networkidle")
        asked = [(request.resource_type, request.url) for request in ada.requests]
        callback = next(number for number, (_, url) in enumerate(asked) if "/callback/" in url)
        [row] = stage.rows
        yield Walk(
            stage,
            flow,
            row,
            page,
            said=heading(page),
            url=page.url,
            history=ada.history(page),
            page=page.content(),
            referers=[request.all_headers().get("referer", "") for request in ada.requests],
            after_callback=asked[callback:],
            cookies=cookies,
            cookies_left=ada.relay_cookies,
        )


def test_a_person_who_consents_is_told_that_it_is_complete(walk: Walk) -> None:
    assert walk.said == "Authorization complete"


def test_no_code_stays_in_the_address_bar_the_history_the_page_or_a_referer(walk: Walk) -> None:
    done = re.escape(f"{walk.stage.relay.url}/done/delivered?ref=")
    assert re.fullmatch(f"{done}[0-9a-f]{{16}}&to={walk.row['connection']}", walk.url)
    for place in (*walk.history, walk.page, *walk.referers):
        for secret in (walk.row["code"], walk.row["sent_state"], "code=", "response="):
            assert secret not in place


def test_from_the_callback_on_no_request_leaves_the_relay(walk: Walk) -> None:
    for kind, url in walk.after_callback:
        if url.startswith("data:"):
            continue
        assert kind == "document"
        assert url.startswith(walk.stage.relay.url + "/")


def test_the_code_redeems_refreshes_and_opens_the_api(walk: Walk) -> None:
    assert walk.flow.finish(walk.row) == REDEEMED


def test_cookies_of_a_flow_are_gone_after_it_and_no_script_ever_sees_them(walk: Walk) -> None:
    connection = walk.row["connection"]
    modes = {"bound": "Lax", "posted": "None", "secured": "Lax"}
    assert [cookie["sameSite"] for cookie in walk.cookies] == (
        [modes[connection]] if connection in modes else []
    )
    for cookie in walk.cookies:
        assert cookie["name"].startswith("__Host-relay-")
        assert (cookie["httpOnly"], cookie["secure"]) == (True, True)
    assert walk.cookies_left == []


def test_refresh_and_back_and_forward_deliver_nothing_twice(walk: Walk) -> None:
    walk.tab.reload()
    assert heading(walk.tab) == "Authorization complete"
    walk.tab.go_back()
    walk.tab.go_forward()
    assert heading(walk.tab) == "Authorization complete"
    assert walk.stage.world.dynamics.posts == 1


def test_the_provider_really_requires_pkce(stage: Stage, ada: Person) -> None:
    parts = urlsplit(stage.start("bank").url)
    pairs = [pair for pair in parse_qsl(parts.query) if not pair[0].startswith("code_challenge")]
    page = ada.open(urlunsplit(parts._replace(query=urlencode(pairs))))
    assert heading(page) == "Authorization failed at the other system"
    assert "invalid_request" in page.inner_text("main")
    assert page.get_by_role("button", name="Copy details").is_visible()


def test_a_code_does_not_redeem_with_another_flows_verifier(stage: Stage, ada: Person) -> None:
    flow = stage.ticket("bound")
    ada.consent(ada.open(flow.url))
    with pytest.raises(RuntimeError, match="invalid_grant"):
        replace(flow, code_verifier="v" * 43).finish()


def test_two_connections_with_two_providers_run_side_by_side_in_two_tabs(
    stage: Stage, ada: Person
) -> None:
    bank, insurer, bound = stage.start("bank"), stage.start("insurer"), stage.ticket("bound")
    tabs = [ada.open(flow.url) for flow in (bank, insurer, bound)]
    for tab in reversed(tabs):
        ada.consent(tab)
    assert [heading(tab) for tab in tabs] == ["Authorization complete"] * 3
    names = [tab.locator(".provider").inner_text() for tab in tabs]
    assert names == [
        f"{name} → Dynamics\N{NO-BREAK SPACE}365" for name in ("Bank", "Insurer", "Bound")
    ]
    for tab in tabs:
        assert (
            tab.get_by_role("link").get_attribute("href") == "https://dynamics.example/?o=delivered"
        )
    by_connection = {row["connection"]: row for row in stage.rows}
    assert {"bank", "insurer", "bound"} == by_connection.keys()
    assert by_connection["bank"]["iss"] != by_connection["insurer"]["iss"]
    assert [flow.finish() for flow in (bank, insurer)] == [REDEEMED] * 2


@ways("fragment", "pkce and form_post", "jarm")
def test_consent_denied_is_told_in_the_providers_words_and_stores_nothing(
    stage: Stage, ada: Person, start: Start
) -> None:
    page = ada.open(start(stage).url)
    ada.sign_in(page)
    page.get_by_text("Cancel").click()
    page.wait_for_url(f"{stage.relay.url}/**")
    page.get_by_text("access_denied").wait_for()
    assert heading(page) == "Authorization not granted"
    # Only of a signed state the words are the provider's for sure.
    signed = re.search(r"/callback/(bound|posted|secured)\b", page.url) is not None
    assert ("End-User aborted interaction" in page.inner_text("main")) is signed
    assert stage.world.dynamics.posts == 0
    assert ada.relay_cookies == []


# --- browsers that are not the same ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["bound", "posted"])
def test_a_flow_that_began_in_one_browser_is_refused_in_another(
    stage: Stage, ada: Person, eve: Person, name: str
) -> None:
    # Eve starts a flow, consents with her own account, and sends the end of it to Ada.
    flow = stage.ticket(name)
    url, form = hold_back(stage, eve, flow)
    assert heading(bring(ada, url, form)) == "This answer cannot be used"
    # Nor does it help that Ada has opened Eve's link, and got a cookie of that name for herself.
    ada.open(flow.url)
    assert len(ada.relay_cookies) == 1
    assert heading(bring(ada, url, form)) == "This answer cannot be used"
    assert stage.world.dynamics.posts == 0
    # In Eve's own browser it is as good as ever.
    assert heading(bring(eve, url, form)) == "Authorization complete"


# --- double click, second tab ---------------------------------------------------------------------


@ways("query", "pkce and form_post")
def test_a_double_click_that_opens_two_tabs_delivers_once_and_both_end_well(
    stage: Stage, ada: Person, start: Start
) -> None:
    # In one tab Chromium ignores the second click; other browsers do not.
    url, form = hold_back(stage, ada, start(stage))
    page = ada.open(elsewhere(stage, link(url, form, "_blank")))
    stage.world.dynamics.slow = 0.5  # so that the second one comes during the first
    stage.world.dynamics.faults.append(Fault.SLOW)
    with ada.context.expect_event("page", lambda _: len(ada.context.pages) == 3):
        page.get_by_text("Go on").dblclick()
    for tab in ada.context.pages[1:]:
        tab.wait_for_url("**/done/**")
        assert heading(tab) == "Authorization complete"
    assert stage.world.dynamics.posts == 1


def test_the_same_callback_in_a_second_tab_is_told_the_same(stage: Stage, ada: Person) -> None:
    url, _ = hold_back(stage, ada, stage.ticket("bound"))
    assert [heading(ada.open(url)) for _ in range(2)] == ["Authorization complete"] * 2
    assert stage.world.dynamics.posts == 1


# --- loaded ahead ---------------------------------------------------------------------------------


def rules(action: str) -> Callable[[str], str]:
    """Return what writes speculation rules (WICG) that take this action for a URL at once."""

    def write(url: str) -> str:
        found = json.dumps({action: [{"urls": [url], "eagerness": "immediate"}]})
        return f'<script type="speculationrules">{found}</script>'

    return write


AHEAD: dict[str, Callable[[str], str]] = {
    "link rel=prefetch": lambda url: f'<link rel="prefetch" href="{escape(url)}">',
    "speculation rules: prefetch": rules("prefetch"),
    "speculation rules: prerender": rules("prerender"),
}


@pytest.mark.parametrize("name", AHEAD)
def test_a_page_that_loads_the_callback_ahead_delivers_nothing_and_the_click_still_does(
    stage: Stage, ada: Person, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    flow = stage.start("bank")
    url, _ = hold_back(stage, ada, flow)
    page = ada.open(elsewhere(stage, link(url, {}) + AHEAD[name](url)))
    eventually(lambda: "reason=prefetch" in caplog.text)
    assert stage.world.dynamics.posts == 0
    page.get_by_role("link").click()
    page.wait_for_url("**/done/**")
    assert heading(page) == "Authorization complete"
    assert flow.finish() == REDEEMED


# --- outages --------------------------------------------------------------------------------------


def test_dynamics_that_is_down_gets_the_code_when_it_is_up_again(stage: Stage, ada: Person) -> None:
    flow = stage.ticket("posted")
    page = ada.open(flow.url)
    stage.world.dynamics_server.stop()
    try:
        ada.consent(page)
        assert heading(page) == "Authorization received, not delivered yet"
        assert stage.rows == []
    finally:
        stage.world.dynamics_server.start()
    eventually(lambda: stage.rows)
    assert flow.finish() == REDEEMED


def test_a_relay_that_was_down_takes_the_code_when_the_person_reloads(
    stage: Stage, ada: Person
) -> None:
    flow = stage.ticket("bound")
    page = ada.open(flow.url)
    ada.sign_in(page)
    with stage.relay_down():
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url("chrome-error://**")
    page.reload()
    page.wait_for_url("**/done/**")
    assert heading(page) == "Authorization complete"
    assert flow.finish() == REDEEMED


def test_a_fragment_is_out_of_the_address_bar_before_it_is_posted(
    stage: Stage, ada: Person
) -> None:
    ada.context.add_init_script("HTMLFormElement.prototype.submit = () => {}")
    page = ada.open(f"{stage.redirect_uri('bank')}#code=the-code&state=the-state")
    assert page.locator("form input").count() == 2
    assert page.url == stage.redirect_uri("bank")
    assert "the-code" not in "".join(ada.history(page))


# --- what a provider may say ----------------------------------------------------------------------

MARKUP = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
    "<iframe src=javascript:alert(4)></iframe><base href=//evil.example><style>*{color:red}</style>"
    "\"'><meta http-equiv=refresh content=0;url=//evil.example></main></body>"
)


@pytest.mark.parametrize("separator", ["?", "#"])
def test_markup_in_an_error_description_is_shown_as_text_and_nothing_of_it_runs(
    stage: Stage, ada: Person, separator: str
) -> None:
    sent = {
        "error": "access_denied",
        "error_description": MARKUP,
        "error_uri": "https://evil.example/",
        # Under any other policy no words are shown at all.
        "state": stage.state("bound"),
        "iss": stage.issuers["bank"],
    }
    page = ada.context.new_page()
    page.goto(stage.redirect_uri("bound") + separator + urlencode(sent))
    page.get_by_text("access_denied").wait_for()
    page.wait_for_load_state("networkidle")
    assert heading(page) == "Authorization not granted"
    assert MARKUP in page.inner_text("main")
    sent_elements = "script, img, svg[onload], iframe, base, style, meta"
    assert page.locator(f"body :is({sent_elements})").count() == 0
    asked = [request for request in ada.requests if not request.url.startswith("data:")]
    assert {request.resource_type for request in asked} == {"document"}
    assert all(request.url.startswith(stage.relay.url) for request in asked)


# --- helpers --------------------------------------------------------------------------------------


def hold_back(stage: Stage, who: Person, flow: Flow) -> tuple[str, dict[str, str]]:
    """Let somebody consent while the relay is down.

    Return the URL, and the form if it is posted, of the callback that nobody has received.
    """
    page = who.open(flow.url)
    who.sign_in(page)
    with stage.relay_down():
        with who.context.expect_event("requestfailed", is_callback) as failed:
            page.get_by_role("button", name="Continue").click()
        # Chromium would try again by itself.
        page.close()
    request = failed.value
    return request.url, dict(parse_qsl(request.post_data or ""))


def is_callback(request: object) -> bool:
    return "/callback/" in getattr(request, "url", "")


def bring(who: Person, url: str, form: dict[str, str]) -> Page:
    """Open a callback as a browser does that was sent there, or to whom a page posts it."""
    page = who.context.new_page()
    if not form:
        page.goto(url)
        return page
    page.evaluate(
        """([url, form]) => {
            const element = document.createElement('form');
            Object.assign(element, {method: 'post', action: url});
            for (const [name, value] of Object.entries(form)) {
                const input = document.createElement('input');
                Object.assign(input, {type: 'hidden', name, value});
                element.append(input);
            }
            document.body.append(element);
            element.submit();
        }""",
        [url, form],
    )
    page.wait_for_url("**/done/**")
    return page


def elsewhere(stage: Stage, body: str) -> str:
    """Serve a page on another site than the relay's; return the page's URL."""
    server = stage.serve(HTMLResponse(f"<!doctype html><title>Elsewhere</title>{body}"))
    return server.url.replace("localhost", "127.0.0.1")


def link(url: str, form: dict[str, str], target: str = "_self") -> str:
    """Return the markup of what one clicks to get to a callback: a link, or a form's button."""
    if not form:
        return f'<a href="{escape(url)}" target="{target}">Go on</a>'
    inputs = (
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in form.items()
    )
    return (
        f'<form method="post" action="{escape(url)}" target="{target}">'
        f"{''.join(inputs)}<button>Go on</button></form>"
    )
