"""One callback from end to end: real servers, loopback TLS, Microsoft's worker code in between."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx
import pytest

from relay.entra import tokens
from relay.pages import SECURITY_HEADERS
from sandbox import dynamics, entra
from sandbox.host import FunctionsHost
from sandbox.loops import new_event_loop
from sandbox.serving import Server
from sandbox.tls import Authority
from sandbox.world import APP, CLIENT_ID, CLIENT_SECRET, PASSWORD, USER, World
from tests.outbox import eventually

HTML = {"accept": "text/html,application/xhtml+xml"}
JSON = {"accept": "application/json"}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def browser(world: World) -> Iterator[httpx.Client]:
    with world.client(headers=HTML) as client:
        yield client


@pytest.fixture
def program(world: World) -> Iterator[httpx.Client]:
    with world.client(headers=JSON) as client:
        yield client


def callback(world: World, path: str = "", **parameters: str) -> str:
    return f"{world.redirect_uri}{path}?{urlencode(parameters)}"


def good(world: World, number: int = 1) -> str:
    return callback(world, code=f"code-{number}", state=f"state-{number}")


def shown(page: httpx.Response) -> str:
    """Return a page without its tags: the reference stands there in groups."""
    return re.sub(r"<[^>]*>", "", page.text)


# --- the walk -------------------------------------------------------------------------------------


def test_a_person_who_consents_ends_on_a_page_that_says_so_and_dynamics_can_use_the_code(
    world: World, browser: httpx.Client
) -> None:
    url = world.consumer.start()
    form = {"username": USER, "password": PASSWORD, "decision": "allow"}
    to_relay = browser.post(url, data=form).headers["location"]
    to_page = browser.get(to_relay)
    page = browser.get(urljoin(world.relay_server.url, to_page.headers["location"]))

    state = dict(parse_qsl(urlsplit(url).query))["state"]
    assert to_page.status_code == 303
    assert (page.status_code, "Dynamics\N{NO-BREAK SPACE}365 has received it" in page.text) == (
        200,
        True,
    )
    tokens = world.consumer.refresh(world.consumer.redeem(state))
    assert world.consumer.call(tokens)["sub"] == USER


def test_a_person_who_refuses_sees_the_providers_word_and_dynamics_gets_nothing(
    world: World, browser: httpx.Client
) -> None:
    to_relay = browser.post(world.consumer.start(), data={"decision": "deny"}).headers["location"]
    page = browser.get(to_relay)

    assert page.status_code == 400
    assert "access_denied" in page.text
    assert world.dynamics.posts == 0


def test_a_callback_is_delivered_on_plain_asyncio_too(world: World, program: httpx.Client) -> None:
    """As `func start` runs it on Windows."""
    tls = world.authority.server_context()
    host = FunctionsHost(APP, world.settings, queues=world.queues)
    with Server(host, tls=tls, lifespan=True, new_event_loop=asyncio.new_event_loop) as relay:
        for number in (1, 2):
            answer = program.get(f"{relay.url}/callback?code=code-{number}&state=state-{number}")
            assert answer.json()["outcome"] == "delivered"
    assert (world.entra.token_requests, world.dynamics.posts) == (1, 2)
    assert set(world.dynamics.rows) == {"state-1", "state-2"}


def test_the_first_callback_costs_one_token_request_and_one_post_the_next_only_a_post(
    world: World, program: httpx.Client
) -> None:
    assert program.get(good(world, 1)).json()["outcome"] == "delivered"
    assert (world.entra.token_requests, world.dynamics.posts) == (1, 1)
    connections = (world.entra_server.connections, world.dynamics_server.connections)

    assert program.get(good(world, 2)).json()["outcome"] == "delivered"
    assert (world.entra.token_requests, world.dynamics.posts) == (1, 2)
    assert (world.entra_server.connections, world.dynamics_server.connections) == connections


def at_once(world: World, urls: list[str]) -> list[httpx.Response]:
    """Let many people click in the same moment."""

    async def click() -> list[httpx.Response]:
        tls = world.authority.client_context()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            verify=tls, headers=JSON, timeout=60, limits=limits, trust_env=False
        ) as people:
            return await asyncio.gather(*(people.get(url) for url in urls))

    return asyncio.run(click(), loop_factory=new_event_loop)


def test_two_hundred_callbacks_on_a_cold_start_share_one_token_request(world: World) -> None:
    answers = at_once(world, [good(world, number) for number in range(200)])

    assert {answer.json()["outcome"] for answer in answers} == {"delivered"}
    assert world.entra.token_requests == 1
    assert len(world.dynamics.rows) == world.dynamics.posts == 200


def test_fifty_identical_callbacks_make_one_post_and_all_hear_delivered(
    world: World, program: httpx.Client
) -> None:
    world.dynamics.delay = 0.2
    answers = at_once(world, [good(world)] * 50)
    later = program.get(good(world))

    assert {answer.json()["outcome"] for answer in [*answers, later]} == {"delivered"}
    assert len({answer.json()["reference"] for answer in answers}) == 50
    assert world.dynamics.posts == 1


def test_what_dynamics_gets_is_the_contracts_request(world: World, program: httpx.Client) -> None:
    code, state = 'a+b/c="\\', "s;1&2%20~"
    answer = program.get(callback(world, code=code, state=state, session_state="x"))
    post = world.dynamics.requests[-1]

    assert json.loads(post.body) == {"code": code, "state": state}
    assert post.headers["x-ms-client-request-id"] == answer.json()["reference"]
    assert {
        name: post.headers[name]
        for name in ("content-type", "accept", "odata-version", "odata-maxversion", "prefer")
    } == {
        "content-type": "application/json",
        "accept": "application/json",
        "odata-version": "4.0",
        "odata-maxversion": "4.0",
        "prefer": "return=minimal",
    }


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(
            lambda client, url: client.post(url, data={"code": "c 1", "state": "s+1"}),
            id="form_post",
        ),
        pytest.param(
            lambda client, url: client.post(url, json={"code": "c 1", "state": "s+1"}), id="JSON"
        ),
        pytest.param(
            lambda client, url: client.get(url, params={"code": "c 1", "state": "s+1"}), id="query"
        ),
    ],
)
def test_the_same_response_is_taken_in_every_form(
    world: World, program: httpx.Client, send: Callable[[httpx.Client, str], httpx.Response]
) -> None:
    assert send(program, world.redirect_uri).json()["outcome"] == "delivered"
    assert world.dynamics.rows["s+1"]["code"] == "c 1"


def test_a_chunked_body_is_asked_for_in_one_piece(world: World, program: httpx.Client) -> None:
    answer = program.post(
        world.redirect_uri,
        content=iter([b"code=c&state=s"]),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status_code, answer.json()["outcome"]) == (411, "invalid")
    assert "Content-Length" in answer.json()["detail"]


# --- the outcome table ----------------------------------------------------------------------------


def arrange(world: World, *faults: dynamics.Fault) -> None:
    world.dynamics.faults.extend(faults)


OUTCOMES = [
    ("delivered", 200, 200, {"code": "c", "state": "s"}, []),
    ("duplicate", 200, 200, {"code": "c", "state": "there"}, []),
    ("invalid", 400, 400, {"code": "c"}, []),
    ("rejected", 502, 400, {"code": "c", "state": "s"}, [dynamics.Fault.FORBIDDEN]),
    ("rejected", 503, 400, {"code": "c", "state": "s"}, [dynamics.Fault.UNAVAILABLE]),
]


@pytest.mark.parametrize(
    ("outcome", "status", "page_status", "parameters", "faults"),
    OUTCOMES,
    ids=[f"{row[0]}-{row[1]}" for row in OUTCOMES],
)
def test_every_outcome_is_told_to_programs_by_status_and_to_browsers_by_a_page(
    world: World,
    browser: httpx.Client,
    program: httpx.Client,
    outcome: str,
    status: int,
    page_status: int,
    parameters: dict[str, str],
    faults: list[dynamics.Fault],
) -> None:
    world.dynamics.rows["there"] = {"state": "there", "code": "old"}
    world.dynamics.retry_after = 0
    arrange(world, *faults, *faults)

    told = program.get(callback(world, **parameters))
    assert (told.status_code, told.json()["outcome"]) == (status, outcome)
    assert len(bytes.fromhex(told.json()["reference"])) == 8

    sent_on = browser.get(callback(world, **parameters | {"x": "1"}))
    location = sent_on.headers["location"]
    assert sent_on.status_code == 303
    assert location.startswith(f"/done/{outcome}?ref=")
    page = browser.get(urljoin(world.relay_server.url, location))
    assert page.status_code == page_status
    reference = location.partition("ref=")[2].removesuffix("&to=default")
    assert reference in shown(page)
    assert location == f"/done/{outcome}?ref={reference}&to=default"


def test_declined_is_shown_in_place_and_without_words_that_nobody_signed(
    world: World, browser: httpx.Client, program: httpx.Client
) -> None:
    url = callback(world, state="s", error="access_denied", error_description="<b>No</b>\r\nreally")
    page, told = browser.get(url), program.get(url)

    assert (page.status_code, told.status_code) == (400, 400)
    # The state is not signed: anybody could have written these words.
    assert "access_denied" in page.text
    assert "really" not in page.text
    assert told.headers["content-type"] == "application/problem+json"
    assert told.json() | {"reference": ""} == {
        "outcome": "declined",
        "reference": "",
        "title": "Authorization not granted",
        "status": 400,
        "detail": "The provider did not grant the authorization.",
        "error": "access_denied",
    }


def test_an_error_is_delivered_too_when_the_template_names_it() -> None:
    body = '{"code": "{code}", "state": "{state}", "error": "{error}"}'
    with World({"DYNAMICS_BODY": body}) as world, world.client(headers=JSON) as program:
        told = program.get(callback(world, state="s", error="access_denied"))
        arrange(world, dynamics.Fault.UNAVAILABLE)
        down = program.get(callback(world, state="s2", error="access_denied"))

        assert (told.json()["outcome"], down.json()["outcome"]) == ("declined", "declined")
        assert world.dynamics.rows == {"s": {"state": "s", "error": "access_denied"}}


def test_an_address_that_no_connection_has_is_unknown(
    world: World, browser: httpx.Client, program: httpx.Client
) -> None:
    url = callback(world, "/nobody", code="c", state="s")
    assert (program.get(url).status_code, program.get(url).json()["outcome"]) == (404, "unknown")
    page = browser.get(urljoin(world.relay_server.url, browser.get(url).headers["location"]))
    assert (page.status_code, "No such address" in page.text) == (404, True)


def test_missing_settings_answer_misconfigured_and_health_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with World({"ENTRA_CLIENT_SECRET": "", "DYNAMICS_TIMEOUT": "soon"}) as world:
        with world.client(headers=JSON) as program:
            told = program.get(good(world))
            health = program.get(f"{world.relay_server.url}/health")
        assert (told.status_code, told.json()["outcome"]) == (500, "misconfigured")
        assert (health.status_code, health.json()) == (503, {"status": "misconfigured"})
        assert "setting ENTRA_CLIENT_SECRET: missing" in caplog.text
        assert "setting DYNAMICS_TIMEOUT: expected seconds" in caplog.text
        assert "soon" not in caplog.text


def test_an_app_without_any_setting_still_indexes_and_says_that_it_is_not_set_up() -> None:
    nothing = dict.fromkeys(("DYNAMICS_URL", "ENTRA_AUTHORITY", "ENTRA_CLIENT_ID"), "")
    with World(nothing) as world, world.client(headers=HTML, follow_redirects=True) as browser:
        assert "This address is not set up yet" in browser.get(good(world)).text
        assert browser.get(f"{world.relay_server.url}/health").status_code == 503


def test_health_is_ok_without_touching_anything(world: World, program: httpx.Client) -> None:
    health = program.get(f"{world.relay_server.url}/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok", "version": "1.0.0"})
    assert (world.entra.metadata_requests, world.dynamics.posts) == (0, 0)


def test_a_bare_visit_explains_the_url_and_carries_the_fragment_script(
    world: World, browser: httpx.Client
) -> None:
    page = browser.get(world.redirect_uri)
    assert (page.status_code, "This is a redirect URI" in page.text) == (200, True)
    assert "<script>" in page.text
    assert "form-action 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("delivered", 200),
        ("duplicate", 200),
        ("held", 200),
        ("declined", 400),
        ("invalid", 400),
        ("rejected", 400),
        ("misconfigured", 400),
        ("unknown", 404),
        ("anything-else", 404),
    ],
)
def test_the_last_page_never_answers_5xx_and_shows_no_made_up_reference(
    world: World, browser: httpx.Client, outcome: str, status: int
) -> None:
    done = f"{world.relay_server.url}/done/{outcome}"
    assert browser.get(done).status_code == status
    assert "0123456789abcdef" in shown(browser.get(f"{done}?ref=0123456789abcdef"))
    assert "made-up" not in browser.get(f"{done}?ref=made-up").text


# --- Dynamics and Entra in every mood -------------------------------------------------------------

REFUSALS = (
    dynamics.Fault.FORBIDDEN,
    dynamics.Fault.NOT_FOUND,
    dynamics.Fault.VALIDATION,
)
OUTAGES = (
    dynamics.Fault.SIGN_IN_PAGE,
    dynamics.Fault.REDIRECT,
    dynamics.Fault.TEMPORARY_REDIRECT,
    dynamics.Fault.PERMANENT_REDIRECT,
    dynamics.Fault.REQUEST_TIMEOUT,
    dynamics.Fault.TOO_EARLY,
    dynamics.Fault.THROTTLED,
    dynamics.Fault.SERVER_ERROR,
    dynamics.Fault.SERVER_ERROR_HTML,
    dynamics.Fault.BAD_GATEWAY,
    dynamics.Fault.UNAVAILABLE,
    dynamics.Fault.GATEWAY_TIMEOUT,
    dynamics.Fault.HANG,
    dynamics.Fault.HANG_AFTER_STORE,
    dynamics.Fault.RESET,
    dynamics.Fault.HALF_BODY,
)


RESETS = (dynamics.Fault.RESET, dynamics.Fault.RESET_AFTER_STORE)


def test_what_dynamics_refuses_for_good_is_rejected(world: World, program: httpx.Client) -> None:
    for fault in REFUSALS:
        arrange(world, fault)
        answer = program.get(good(world))
        assert (fault, answer.status_code) == (fault, 502)
    assert world.dynamics.posts == len(REFUSALS)


def test_what_may_pass_is_answered_with_503_and_works_the_next_time() -> None:
    with World({"DYNAMICS_TIMEOUT": "0.5"}) as world, world.client(headers=JSON) as program:
        world.dynamics.retry_after = 0
        for number, fault in enumerate(OUTAGES):
            # A kept connection that dies silently is only a reason for a fresh one.
            world.dynamics.faults.extend([fault] * (2 if fault is dynamics.Fault.RESET else 1))
            down = program.get(good(world, number))
            assert (fault, down.status_code) == (fault, 503)
            assert program.get(good(world, number)).json()["outcome"] in ("delivered", "duplicate")
        assert len(world.dynamics.rows) == len(OUTAGES)


@pytest.mark.parametrize("fault", RESETS)
def test_a_kept_connection_that_dies_costs_nobody_a_callback(
    world: World, program: httpx.Client, fault: dynamics.Fault
) -> None:
    program.get(good(world, 1))
    world.dynamics.faults.append(fault)
    assert program.get(good(world, 2)).json()["outcome"] == "delivered"
    assert (world.dynamics.posts, len(world.dynamics.rows)) == (3, 2)


def test_dynamics_that_asks_for_a_pause_is_left_alone(world: World, program: httpx.Client) -> None:
    world.dynamics.retry_after = 60
    arrange(world, dynamics.Fault.THROTTLED)
    assert program.get(good(world, 1)).status_code == 503
    assert program.get(good(world, 2)).status_code == 503
    assert world.dynamics.posts == 1


def test_a_token_that_dynamics_does_not_take_is_renewed_once(
    world: World, program: httpx.Client
) -> None:
    arrange(world, dynamics.Fault.UNAUTHORIZED)
    assert program.get(good(world)).json()["outcome"] == "delivered"
    assert (world.entra.token_requests, world.dynamics.posts) == (2, 2)


def test_an_app_that_dynamics_does_not_know_is_rejected_after_one_more_try(
    world: World, program: httpx.Client
) -> None:
    world.dynamics.authorized_apps.clear()
    assert program.get(good(world, 1)).status_code == 502
    assert (world.entra.token_requests, world.dynamics.posts) == (2, 2)
    # Another person's callback does not hammer Entra: the token is fresh.
    assert program.get(good(world, 2)).status_code == 502
    assert world.entra.token_requests == 2


def test_a_duplicate_is_known_by_its_text_whatever_its_status(
    world: World, program: httpx.Client
) -> None:
    for number, status in enumerate((500, 400, 409)):
        world.dynamics.duplicate_status = status
        world.dynamics.rows[f"state-{number}"] = {"state": f"state-{number}"}
        assert program.get(good(world, number)).json()["outcome"] == "duplicate"


def test_a_state_that_reads_like_a_duplicate_does_not_make_one(
    world: World, program: httpx.Client
) -> None:
    arrange(world, dynamics.Fault.VALIDATION)
    answer = program.get(callback(world, code="The record already exists", state="already exists"))
    assert answer.json()["outcome"] == "rejected"


@pytest.mark.parametrize("fault", [fault for fault in entra.Fault if "HANG" not in fault.name])
def test_entra_out_of_order_is_answered_with_503_and_works_the_next_time(
    world: World, program: httpx.Client, fault: entra.Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PAUSE_UNAVAILABLE", 0.1)
    world.entra.retry_after = 0
    world.entra.mode = fault
    down = program.get(good(world))
    world.entra.mode = None

    assert down.status_code == 503
    assert world.dynamics.posts == 0
    # The relay leaves Entra alone for a moment.
    eventually(lambda: program.get(good(world)).json()["outcome"] == "delivered")
    assert len(world.dynamics.rows) == 1


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ENTRA_CLIENT_SECRET": "not it"}, id="wrong secret"),
        pytest.param({"ENTRA_CLIENT_ID": "nobody"}, id="unknown client"),
        pytest.param({"DYNAMICS_SCOPE": "https://elsewhere.example/.default"}, id="wrong scope"),
    ],
)
def test_what_entra_refuses_for_good_is_rejected_and_the_log_has_its_number(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with World(settings) as world, world.client(headers=JSON) as program:
        assert program.get(good(world)).status_code == 502
        assert "reason=AADSTS" in caplog.text
        assert world.dynamics.posts == 0


def test_a_tenant_that_does_not_exist_is_rejected(world: World, program: httpx.Client) -> None:
    authority = f"{world.entra_server.url}/nobody.example"
    relay = world.serve(world.settings | {"ENTRA_AUTHORITY": authority})
    answer = program.get(f"{relay.url}/callback?code=c&state=s")
    assert (answer.status_code, answer.json()["outcome"]) == (502, "rejected")


# --- the host -------------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers_the_hosts_own_included(
    world: World, browser: httpx.Client, program: httpx.Client
) -> None:
    url = world.relay_server.url
    answers = [
        program.get(good(world)),
        browser.get(good(world)),
        browser.get(callback(world, state="s", error="access_denied")),
        browser.get(world.redirect_uri),
        program.get(f"{url}/health"),
        browser.get(f"{url}/done/held"),
        browser.get(f"{url}/no/such/route"),
        browser.delete(world.redirect_uri),
    ]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            if name == "Content-Security-Policy":
                assert answer.headers[name].startswith("default-src 'none'; ")
            else:
                assert answer.headers[name] == value
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "server" not in answer.headers


def test_hsts_is_sent_to_the_world_and_not_to_loopback(world: World, program: httpx.Client) -> None:
    url = f"{world.relay_server.url}/health"
    away = program.get(url, headers={"host": "relay.contoso.com"})
    assert away.headers["strict-transport-security"].startswith("max-age=63072000")
    assert "strict-transport-security" not in program.get(url).headers


def test_a_parameter_given_twice_is_seen_behind_the_host_that_joins_them(
    world: World, program: httpx.Client
) -> None:
    answer = program.get(f"{world.redirect_uri}?code=a&code=b&state=s")
    assert (answer.status_code, answer.json()["outcome"]) == (400, "invalid")
    assert world.dynamics.posts == 0


# --- settings -------------------------------------------------------------------------------------


def test_an_app_with_the_articles_settings_switches_over_untouched(
    world: World, program: httpx.Client
) -> None:
    article = {
        "ActiveDirectoryTenant": world.settings["ENTRA_AUTHORITY"],
        "ActiveDirectoryClientAppId": CLIENT_ID,
        "ActiveDirectoryClientAppSecret": CLIENT_SECRET,
        "ActiveDirectoryResource": world.dynamics_server.url + "/",
        "URIString": world.settings["DYNAMICS_URL"],
        "CA_BUNDLE": world.settings["CA_BUNDLE"],
    }
    relay = world.serve(article)
    answer = program.get(f"{relay.url}/callback?code=c&state=s")
    assert answer.json()["outcome"] == "delivered"


def test_one_connections_bad_settings_leave_the_others_working() -> None:
    further = {
        "CONNECTIONS__BANK_ONE__STATE_POLICY": "pattern",
        "CONNECTIONS__BANK_ONE__STATE_PATTERN": "^bank-[0-9]+$",
        "CONNECTIONS__BROKEN__DYNAMICS_URL": "http://plain.example/data/X",
    }
    with World(further) as world, world.client(headers=JSON) as program:
        broken = program.get(callback(world, "/broken", code="c", state="s"))
        stranger = program.get(callback(world, "/bank-one", code="c", state="other"))
        bank = program.get(callback(world, "/bank-one", code="c", state="bank-7"))
        plain = program.get(good(world))

        outcomes = [answer.json()["outcome"] for answer in (broken, stranger, bank, plain)]
        assert outcomes == ["misconfigured", "invalid", "delivered", "delivered"]
        assert world.entra.token_requests == 1


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_what_requests_reads_from_the_environment_adds_trust_and_takes_none_away(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Authority() as other:
        monkeypatch.setenv(name, str(other.bundle))
        with World() as world, world.client(headers=JSON) as program:
            assert program.get(good(world)).json()["outcome"] == "delivered"

            monkeypatch.setenv(name, str(world.authority.bundle))
            relay = world.serve(world.settings | {"CA_BUNDLE": ""})
            answer = program.get(f"{relay.url}/callback?code=c&state=s")
            assert answer.json()["outcome"] == "delivered"
