"""The pages of the providers: their settings validate, and their callbacks arrive as they say."""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import jwt
import pytest

from relay import settings_reader
from relay.connections import Connections
from relay.oauth import state
from relay.tools.providers import CODE_LIFETIMES, code_lifetime
from sandbox.world import APP, World
from tests.docs.test_docs import blocks, rows, section, text_of

FOLDER = APP / "docs" / "providers"
README = FOLDER / "README.md"
SHORT = 180
"""Seconds. A batch job is too slow for codes that live no longer."""
AT_ONCE = "[when the row is stored](README.md#short-codes), not in a batch"
KEYS = f"k1:{'A' * 43}"
PLAIN = {
    "ENTRA_TENANT_ID": "contoso.onmicrosoft.com",
    "ENTRA_CLIENT_ID": "11111111-2222-3333-4444-555555555555",
    "ENTRA_CLIENT_SECRET": "canary",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    "DYNAMICS_BODY": '{"Code": "{code}", "State": "{state}", "Verifier": "{code_verifier}"}',
    "STATE_KEYS": KEYS,
}
"""What a page leaves to the settings of the target."""


@dataclass(frozen=True)
class Page:
    """What the blocks of a page say."""

    path: Path
    settings: dict[str, str]
    members: dict[str, str]
    params: dict[str, str]
    requests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    def setting(self, name: str) -> str | None:
        return self.settings.get(f"CONNECTIONS__{self.name.upper().replace('-', '_')}__{name}")

    @property
    def pkce(self) -> bool:
        return self.setting("PROVIDER_PKCE") != "false"

    @property
    def code_ttl(self) -> int | None:
        given = self.setting("CODE_TTL")
        return None if given is None else int(given)


def page(path: Path) -> Page:
    given: list[dict[str, str]] = []
    members: dict[str, str] = {}
    params: dict[str, str] = {}
    for content in (content for language, content in blocks(path) if language == "json"):
        found = json.loads(content)
        if "params" in found:
            params |= found["params"]
        elif next(iter(found)).startswith("CONNECTIONS__"):
            given.append(found)
        else:
            members |= found
    (settings,) = given
    requests = tuple(content.strip() for language, content in blocks(path) if language == "http")
    return Page(path, settings, members, params, requests)


PAGES = [page(path) for path in sorted(FOLDER.glob("*.md")) if path != README]
CALLBACKS = [(each, request) for each in PAGES for request in each.requests]
of_a_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def table() -> dict[str, tuple[str, str]]:
    """Return what the table of all providers says: by page, whether it works and its CODE_TTL."""
    found = {}
    for provider, works, code_ttl, _ in rows(section(README, "Which ones work")):
        if link := re.fullmatch(r"\[[^]]+\]\(([\w-]+)\.md\)", provider):
            found[link[1]] = (works, code_ttl)
    return found


def test_the_table_has_every_page_and_no_other() -> None:
    assert len(PAGES) >= 20
    assert set(table()) == {page.name for page in PAGES}


def test_a_provider_that_cannot_work_is_told_why() -> None:
    refused = [row for row in rows(section(README, "Which ones work")) if row[1] == "no"]
    assert len(refused) == 4
    assert all(len(why) > 30 for *_, why in refused)


@of_a_page
def test_the_settings_of_a_page_validate_and_are_of_its_own_connection(page: Page) -> None:
    read = settings_reader.read(PLAIN | page.settings)
    assert read.connections.problems == ()
    warned = [warning.partition(":")[0] for warning in read.warnings]
    assert warned == [name for name in page.settings if name.endswith("__PROVIDER_PKCE")]
    assert set(read.connections.by_name) == {"default", page.name}
    redirect_uri = read.connections.get(page.name).provider.redirect_uri
    if redirect_uri is not None and "/" in redirect_uri:
        assert redirect_uri == f"https://contoso-relay.azurewebsites.net/callback/{page.name}"


@of_a_page
def test_code_ttl_is_that_of_the_table_and_the_doctors(page: Page) -> None:
    _, told = table()[page.name]
    assert told == ("not found" if page.code_ttl is None else str(page.code_ttl))
    endpoint = page.setting("PROVIDER_AUTHORIZATION_ENDPOINT")
    if endpoint is not None:
        assert code_lifetime(endpoint) == page.code_ttl


@pytest.mark.parametrize("host", CODE_LIFETIMES)
def test_every_host_that_the_doctor_knows_is_named_on_the_page_with_its_life(host: str) -> None:
    # The pages of Exact Online and Zoho name one of their hosts, and list the others' ends.
    name = re.sub(r"^\*\.|(?<=\.exactonline)\..*|(?<=\.zoho)\..*", "", host)
    told = {each.code_ttl for each in PAGES if name in text_of(each.path)}
    assert CODE_LIFETIMES[host] in told
    assert code_lifetime(f"https://{host.replace('*', 'contoso')}/any") == CODE_LIFETIMES[host]


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://login.xero.com.example/identity/connect/authorize",
        "https://okta.com/oauth2/v1/authorize",
        "https://evilokta.com/oauth2/v1/authorize",
        "https://id.contoso.com/realms/contoso/protocol/openid-connect/auth/other",
    ],
)
def test_of_another_host_the_doctor_knows_no_life(endpoint: str) -> None:
    assert code_lifetime(endpoint) is None


@of_a_page
def test_where_codes_are_short_dynamics_is_told_to_redeem_at_once(page: Page) -> None:
    if page.code_ttl is not None and page.code_ttl <= SHORT:
        assert AT_ONCE in " ".join(text_of(page.path).split())


@of_a_page
def test_a_page_says_how_to_redeem_and_where_it_is_from(page: Page) -> None:
    told = {row[0] for row in rows(section(page.path, "Dynamics"))}
    assert {"token endpoint", "client authentication"} <= told
    assert len(re.findall("^- ", section(page.path, "Sources"), re.MULTILINE)) >= 1
    assert re.search(r"\b20\d\d\b|no date", section(page.path, "Sources"))


# -- through the host ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One app with a connection for each page, and a Dynamics that takes what the pages name."""

    world: World
    connections: Connections

    def start(self, page: Page, browser: httpx.Client) -> tuple[str, str | None]:
        """Start a flow at the relay, or in Dynamics where the page has no endpoint.

        Return its state and its code challenge.
        """
        where = self.connections.get(page.name)
        jti, now, minutes = secrets.token_urlsafe(16), datetime.now(UTC), timedelta(minutes=5)
        endpoint = page.setting("PROVIDER_AUTHORIZATION_ENDPOINT")
        if endpoint is None:
            return state.mint(where, jti, now, minutes), None
        claims = {"aud": f"authorize:{page.name}", "exp": now + minutes, "jti": jti}
        params = {"params": page.params} if page.params else {}
        ticket = jwt.encode(claims | params, where.state_keys["k1"], headers={"kid": "k1"})
        relay = self.world.relay_server.url
        told = browser.get(f"{relay}/authorize/{page.name}", params={"ticket": ticket})
        assert told.status_code == 302
        location = told.headers["location"]
        assert location.startswith(endpoint)
        asked = dict(parse_qsl(urlsplit(location).query))
        assert asked["redirect_uri"] == page.setting("PROVIDER_REDIRECT_URI")
        extra = dict(parse_qsl(page.setting("PROVIDER_EXTRA") or "")) | page.params
        assert extra.items() <= asked.items()
        assert ("code_challenge" in asked) == page.pkce
        return asked["state"], asked.get("code_challenge")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    settings = {"PROVIDER_ISSUER": "", "STATE_POLICY": "", "STATE_KEYS": KEYS}
    further = {"error", "verifier", "redirect_uri"}
    for each in PAGES:
        body = {"code": "{code}", "state": "{state}", "error": "{error}"} | each.members
        body["redirect_uri"] = "{redirect_uri}"
        if each.pkce:
            body["verifier"] = "{code_verifier}"
        name = each.name.upper().replace("-", "_")
        settings |= each.settings | {f"CONNECTIONS__{name}__DYNAMICS_BODY": json.dumps(body)}
        further |= set(each.members)
    with World(settings, further=further, key_length=1024) as world:
        yield Stage(world, settings_reader.read(world.settings).connections)


def s256(verifier: str) -> str:
    """Return the code challenge of a verifier (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def expected(page: Page, pairs: list[tuple[str, str]]) -> dict[str, object]:
    """Return what the page's members say of a callback with these parameters."""
    sent = dict(pairs)
    found: dict[str, object] = {}
    for member, placeholder in page.members.items():
        if placeholder == "{params}":
            found[member] = [list(pair) for pair in pairs]
        elif (value := sent.get(placeholder.removeprefix("{param:").removesuffix("}"))) is not None:
            found[member] = value
    return found


@pytest.mark.parametrize(
    ("page", "request_text"),
    CALLBACKS,
    ids=[f"{each.name}-{number}" for number, (each, _) in enumerate(CALLBACKS)],
)
def test_a_callback_of_each_provider_arrives_as_its_page_says(
    stage: Stage, page: Page, request_text: str
) -> None:
    world = stage.world
    code = f"canary^#+/{page.name}=="
    with world.client(headers={"accept": "application/json"}) as browser:
        token, challenge = stage.start(page, browser)
        text = request_text.replace("{code}", quote(code, safe="")).replace("{state}", token)
        line, _, form = text.partition("\n\n")
        method, address = line.split(" ")
        headers = {"content-type": "application/x-www-form-urlencoded"} if form else {}
        url = f"{world.relay_server.url}{address}"
        told = browser.request(method, url, content=form or None, headers=headers)
    query = form or urlsplit(address).query
    pairs = parse_qsl(query)
    error = dict(pairs).get("error")
    assert told.json()["outcome"] == ("delivered" if error is None else "declined")
    row = dict(world.dynamics.rows[token])
    verifier = row.pop("verifier", None)
    assert (None if verifier is None else s256(verifier)) == challenge
    # What the flow began with, which Dynamics has to name again.
    starts = page.setting("PROVIDER_AUTHORIZATION_ENDPOINT") is not None
    redirect_uri = page.setting("PROVIDER_REDIRECT_URI") if starts else None
    assert row.pop("redirect_uri", None) == redirect_uri
    for member, placeholder in page.members.items():
        if placeholder == "{params}":
            row[member] = json.loads(row[member])
    carried = {"code": code} if error is None else {"error": error}
    assert row == carried | {"state": token} | expected(page, pairs)


@of_a_page
def test_every_member_that_a_page_names_is_in_one_of_its_callbacks(page: Page) -> None:
    texts = [request.replace("\n\n", "?").partition("?")[2] for request in page.requests]
    filled = [expected(page, parse_qsl(text)) for text in texts]
    assert {member for each in filled for member in each} == set(page.members)


@of_a_page
def test_a_callback_comes_in_the_way_that_the_settings_ask_for(page: Page) -> None:
    method = "POST" if page.setting("PROVIDER_RESPONSE_MODE") == "form_post" else "GET"
    assert page.requests
    for request in page.requests:
        assert request.startswith(f"{method} /callback/{page.name}")
