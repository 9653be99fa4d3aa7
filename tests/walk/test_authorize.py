"""A flow that begins at the relay, from Dynamics' ticket to the tokens, through the host."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx
import pytest

from relay import settings_reader
from relay.oauth import state
from sandbox.serving import Server
from sandbox.world import PASSWORD, USER, World

KEYS = f"k1:{'A' * 43},k0:{'B' * 42}A"
BODY = json.dumps(
    {
        "code": "{code}",
        "state": "{state_hash}",
        "code_verifier": "{code_verifier}",
        "redirect_uri": "{redirect_uri}",
    }
)
HTML = {"accept": "text/html"}


class Stage:
    """A world whose relay starts flows at the world's provider."""

    def __init__(self, world: World, mode: str) -> None:
        self.world = world
        settings = world.settings | {
            "STATE_POLICY": "signed",
            "STATE_KEYS": KEYS,
            "DYNAMICS_BODY": BODY,
            "PROVIDER_CLIENT_ID": "dynamics-365",
            "PROVIDER_AUTHORIZATION_ENDPOINT": f"{world.provider_server.url}/authorize",
            "PROVIDER_SCOPE": "profile",
            "PROVIDER_RESPONSE_MODE": mode,
            "PROVIDER_REDIRECT_URI": world.redirect_uri,
        }
        self.connection = settings_reader.read(settings).connections.get("default")
        world.relay_server.stop()
        self.relay: Server = world.serve(settings, port=world.relay_server.port)

    def link(self, jti: str = "") -> str:
        """Return what Dynamics opens in the browser."""
        jti = jti or secrets.token_urlsafe(16)
        ticket = state.mint_ticket(self.connection, jti, datetime.now(UTC), timedelta(minutes=5))
        return f"{self.relay.url}/authorize/default?{urlencode({'ticket': ticket})}"

    def consent(self, browser: httpx.Client, link: str) -> httpx.Response:
        """Start, sign in and consent; return the provider's answer."""
        to_provider = browser.get(link)
        assert to_provider.status_code == 302
        form = {"username": USER, "password": PASSWORD, "decision": "allow"}
        return browser.post(to_provider.headers["location"], data=form)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with World(further=("code_verifier", "redirect_uri")) as world:
        yield Stage(world, "query")


@pytest.fixture
def browser(stage: Stage) -> Iterator[httpx.Client]:
    with stage.world.client(headers=HTML) as browser:
        yield browser


def outcome(answer: httpx.Response) -> str:
    return answer.headers["location"].removeprefix("/done/").partition("?")[0]


def test_the_code_arrives_with_the_verifier_that_redeems_it(
    stage: Stage, browser: httpx.Client
) -> None:
    redirect = stage.consent(browser, stage.link())
    assert [name for name in browser.cookies if name.startswith("__Host-relay-")]
    answer = browser.get(redirect.headers["location"])
    assert outcome(answer) == "delivered"
    assert not [name for name in browser.cookies if name.startswith("__Host-relay-")]

    [row] = stage.world.dynamics.rows.values()
    with stage.world.client() as dynamics:
        tokens = dynamics.post(
            f"{stage.world.provider_server.url}/token",
            data={
                "grant_type": "authorization_code",
                "code": row["code"],
                "redirect_uri": row["redirect_uri"],
                "code_verifier": row["code_verifier"],
                "client_id": "dynamics-365",
                "client_secret": "sandbox~secret.of.dynamics",
            },
        )
    assert tokens.json()["access_token"]


def test_the_redirect_to_the_provider_asks_for_a_code_with_pkce(
    stage: Stage, browser: httpx.Client
) -> None:
    answer = browser.get(stage.link())
    asked = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == stage.world.redirect_uri
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = answer.headers["set-cookie"]
    assert "domain" not in cookie.lower()
    for part in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=600"):
        assert part in cookie


def test_a_flow_that_began_in_another_browser_is_refused_and_nothing_is_stored(
    stage: Stage, browser: httpx.Client
) -> None:
    redirect = stage.consent(browser, stage.link())
    with stage.world.client(headers=HTML) as other:
        assert outcome(other.get(redirect.headers["location"])) == "invalid"
        # Its own flow's cookie does not help it either.
        other.get(stage.link())
        assert outcome(other.get(redirect.headers["location"])) == "invalid"
    assert stage.world.dynamics.posts == 0
    assert outcome(browser.get(redirect.headers["location"])) == "delivered"


def test_the_second_click_hears_what_the_first_one_heard_although_its_cookie_is_gone(
    stage: Stage, browser: httpx.Client
) -> None:
    redirect = stage.consent(browser, stage.link()).headers["location"]
    assert [outcome(browser.get(redirect)) for _ in range(3)] == ["delivered"] * 3
    assert stage.world.dynamics.posts == 1


def test_a_person_who_refuses_ends_the_flow_too(stage: Stage, browser: httpx.Client) -> None:
    to_provider = browser.get(stage.link()).headers["location"]
    back = browser.post(to_provider, data={"decision": "deny"}).headers["location"]
    answer = browser.get(back)
    assert (answer.status_code, "access_denied" in answer.text) == (400, True)
    assert not [name for name in browser.cookies if name.startswith("__Host-relay-")]


def test_two_flows_in_two_tabs_do_not_disturb_each_other(
    stage: Stage, browser: httpx.Client
) -> None:
    first, second = (stage.consent(browser, stage.link()) for _ in range(2))
    assert outcome(browser.get(first.headers["location"])) == "delivered"
    assert outcome(browser.get(second.headers["location"])) == "delivered"
    assert len(stage.world.dynamics.rows) == 2


def test_unfinished_flows_leave_five_cookies_at_most(stage: Stage, browser: httpx.Client) -> None:
    for _ in range(12):
        browser.get(stage.link())
    kept = [name for name in browser.cookies if name.startswith("__Host-relay-")]
    assert len(kept) == 5


@pytest.mark.parametrize(
    "link",
    ["/authorize/default", "/authorize/default?ticket=x", "/authorize/default?ticket=a.b.c"],
)
def test_without_a_ticket_of_dynamics_nobody_starts_a_flow(
    stage: Stage, browser: httpx.Client, link: str
) -> None:
    url = urljoin(stage.relay.url, link)
    assert outcome(browser.get(url)) == "invalid"
    with stage.world.client(headers={"accept": "*/*"}) as program:
        told = program.get(url)
    assert (told.status_code, told.json()["outcome"]) == (400, "invalid")
    assert "set-cookie" not in told.headers


def test_a_connection_without_a_provider_starts_nothing(stage: Stage) -> None:
    with stage.world.client(headers={"accept": "*/*"}) as program:
        told = program.get(f"{stage.relay.url}/authorize/nobody?ticket=x")
    assert (told.status_code, told.json()["outcome"]) == (404, "unknown")


def test_a_form_post_brings_its_cookie_along_because_it_was_set_for_cross_site_posts() -> None:
    with World(further=("code_verifier", "redirect_uri")) as world:
        stage = Stage(world, "form_post")
        with world.client(headers=HTML) as browser:
            start = browser.get(stage.link())
            assert "SameSite=None" in start.headers["set-cookie"]
            page = browser.post(
                start.headers["location"],
                data={"username": USER, "password": PASSWORD, "decision": "allow"},
            ).text
            fields = dict(
                part.split('" value="')
                for part in page.replace('">', '"\n').replace('name="', "\n").splitlines()
                if '" value="' in part
            )
            form = {name: value.rstrip('"') for name, value in fields.items()}
            assert outcome(browser.post(world.redirect_uri, data=form)) == "delivered"
