"""Attacks on defaults, limits and inheritance: what a stranger gets when a setting is lost."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from relay import bootstrap, settings_reader
from relay.connections import Connection, Connections, Provider, StatePolicy
from relay.delivery.callback import Callback
from relay.delivery.sealing import DeadLetter
from relay.delivery.single_flight import SingleFlight
from relay.errors import InvalidResponse, UnknownConnection
from relay.flow import Relay
from relay.oauth import authorization, authorize, request, state
from relay.tools.storage_queues import Account, Queues, StorageRefused
from sandbox.serving import Server
from sandbox.world import World
from tests.fakes import Dynamics, Entra, Keys, b64, compact, hs256
from tests.helpers import CODE, FORM, connection, get, parse, post

ARTICLE = {
    "ActiveDirectoryTenant": "https://login.microsoftonline.com/contoso.com",
    "ActiveDirectoryClientAppId": "client",
    "ActiveDirectoryClientAppSecret": "secret",
    "ActiveDirectoryResource": "https://contoso.operations.dynamics.com",
    "URIString": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
}
OURS = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "secret",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
}
STATE_KEYS = "k1:" + "A" * 43
NOW = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
KEY = bytes(range(32))


def policy(given: Mapping[str, str], name: str = "default") -> StatePolicy | None:
    found = settings_reader.read(given).connections.by_name[name]
    return found.state_policy if isinstance(found, Connection) else None


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(OURS, id="lost"),
        pytest.param({**OURS, "STATE_POLCY": "signed"}, id="misspelt"),
        pytest.param({**ARTICLE, "DYNAMICS_URL": OURS["DYNAMICS_URL"]}, id="our-target"),
        pytest.param(
            {**ARTICLE, "ENVIRONMENTS__UAT__DYNAMICS_URL": "https://uat.example/data/X"},
            id="environments",
        ),
        pytest.param({**ARTICLE, "STATE_PATTERN": "^[a-z]{30}$"}, id="pattern-without-policy"),
    ],
)
def test_a_lost_or_misspelt_policy_does_not_let_strangers_write_rows(
    given: Mapping[str, str],
) -> None:
    assert policy(given) is None


def test_keys_for_signed_states_are_enough_to_ask_for_them() -> None:
    assert policy({**ARTICLE, "STATE_KEYS": STATE_KEYS}) is StatePolicy.SIGNED
    assert policy({**OURS, "STATE_KEYS": STATE_KEYS}) is StatePolicy.SIGNED
    own = {
        **ARTICLE,
        "STATE_KEYS": STATE_KEYS,
        "CONNECTIONS__X__DYNAMICS_URL": OURS["DYNAMICS_URL"],
    }
    assert policy(own, "x") is StatePolicy.SIGNED


def test_the_articles_five_settings_still_work() -> None:
    assert policy(ARTICLE) is StatePolicy.OPAQUE


@pytest.mark.parametrize("given", [ARTICLE, {**OURS, "STATE_POLICY": "opaque"}])
def test_each_start_warns_that_strangers_can_write_rows(
    given: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    bootstrap.app(given).relay.writer.flush()
    [warning] = caplog.records
    assert warning.levelname == "WARNING"
    assert "STATE_POLICY: is opaque at default, strangers write rows" in warning.getMessage()


async def test_a_state_that_is_read_in_a_dead_letter_cannot_be_answered() -> None:
    bank = replace(connection(), state_policy=StatePolicy.SIGNED, state_keys={"k1": KEY})
    minted = state.mint(bank, "b3f1c2d4e5a69788", NOW, timedelta(minutes=30))
    sent = parse(get({"code": CODE, "state": minted}), bank)
    callback = Callback.received(bank, state.verify(sent, bank, now=NOW), "0" * 16, NOW)
    letter = DeadLetter.of(callback, "expired", 7, NOW)
    assert letter.state_jti == "b3f1c2d4e5a69788"
    assert DeadLetter(**json.loads(letter.to_json())) == letter
    relay = Relay(
        Connections({"default": bank}),
        Entra(),
        Dynamics(),
        Keys(),
        SingleFlight(),
        None,
        lambda: NOW,
    )
    assert (await relay.receive("default", get({"code": "mine", "state": minted}))).status == 200
    for read in json.loads(letter.to_json()).values():
        answer = await relay.receive("default", get({"code": "mine", "state": str(read)}))
        assert answer.outcome == "invalid"


def test_phishing_in_the_providers_words_needs_a_signed_state() -> None:
    words = "error=Your+account+was+locked.&error_description=Call+555-0100&state=x"
    sent = request.response_parameters(get(words))
    where = connection()
    read = authorization.check(state.verify(authorization.parse(sent, where), where), where)
    assert authorization.shown(read, where) == (None, None)


# -- cheap refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["a&" * 16_000, "&" * 32_000, "a=%41&" * 5_000])
def test_junk_fields_are_not_split_beyond_the_fiftieth(form: str) -> None:
    steps: list[int] = []

    class Counted(bytes):
        def split(self, sep: bytes | None = None, maxsplit: int = -1) -> list[bytes]:  # type: ignore[override]
            found = super().split(sep, maxsplit)
            steps.append(len(found))
            return found

    hit = post(form)
    hit = request.Request(hit.method, hit.query, hit.headers, Counted(form.encode()))
    with pytest.raises(InvalidResponse) as refused:
        request.response_parameters(hit)
    assert refused.value.reason == "too_large"
    assert steps == [51]


def test_a_pattern_is_not_run_on_a_state_of_any_length() -> None:
    where = connection(pattern="^[a-z]*$")
    for length, accepted in ((1024, True), (1025, False)):
        sent = request.response_parameters(get({"code": CODE, "state": "a" * length}))
        response = authorization.parse(sent, where)
        if accepted:
            assert state.verify(response, where).state
        else:
            with pytest.raises(InvalidResponse) as refused:
                state.verify(response, where)
            assert refused.value.reason == "state_size"
            assert str(refused.value) == "The state is longer than Dynamics makes any."


# -- hosts ---------------------------------------------------------------------------------------


def test_a_token_for_one_dynamics_does_not_reach_another_by_inheritance() -> None:
    given = {
        **OURS,
        "STATE_KEYS": STATE_KEYS,
        "DYNAMICS_SCOPE": "https://contoso.operations.dynamics.com/.default",
        "CONNECTIONS__X__DYNAMICS_URL": "https://elsewhere.example/data/X",
    }
    (problem,) = settings_reader.read(given).connections.problems
    assert problem.startswith("DYNAMICS_SCOPE: is of another host")
    assert policy(given) is StatePolicy.SIGNED  # the connection alone is wrong


@pytest.mark.parametrize("setting", ["ENTRA_AUTHORITY", "ENTRA_TENANT_ID"])
def test_a_secret_does_not_reach_another_login_host_by_inheritance(setting: str) -> None:
    own = {"ENTRA_AUTHORITY": "https://adfs.example/adfs", "ENTRA_TENANT_ID": "contoso.com"}
    given = {
        **OURS,
        "STATE_KEYS": STATE_KEYS,
        "ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com",
        f"CONNECTIONS__X__{setting}": own[setting],
    }
    (problem,) = settings_reader.read(given).connections.problems
    assert problem.startswith(f"CONNECTIONS__X__{setting}: is of another host")
    given["CONNECTIONS__X__ENTRA_CLIENT_SECRET"] = "another"
    assert settings_reader.read(given).connections.problems == ()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OUTBOX_KEY", "OUTBOX_KEYS"),
        ("ENTRA_CLIENTID", "ENTRA_CLIENT_ID"),
        ("STATE_POLCY", "STATE_POLICY"),
        ("URIStrng", "URIString"),
    ],
)
def test_a_misspelt_name_is_warned_of(name: str, meant: str) -> None:
    given = {**OURS, "STATE_KEYS": STATE_KEYS, name: "canary"}
    (warning,) = settings_reader.read(given).warnings
    assert warning == f"{name.upper()}: no such setting; expected {meant}"
    assert settings_reader.read({**given, "PATH": "x", "WEBSITE_SITE_NAME": "y"}).warnings == (
        warning,
    )


# -- the start of a flow -------------------------------------------------------------------------

ENDPOINT = "https://provider.example/authorize?audience=api&Empty="


def starting(**provider: object) -> Connection:
    given = {
        **OURS,
        "STATE_KEYS": f"k1:{b64(KEY)}",
        "PROVIDER_CLIENT_ID": "dynamics",
        "PROVIDER_AUTHORIZATION_ENDPOINT": ENDPOINT,
        "PROVIDER_REDIRECT_URI": "Contoso-RuName-abc",
        "PROVIDER_EXTRA": "Prompt=consent",
        **{name: str(value) for name, value in provider.items()},
    }
    found = settings_reader.read(given).connections
    assert found.problems == ()
    return found.get("default")


def started(where: Connection, **claims: object) -> Mapping[str, str]:
    made = {
        "aud": "authorize:default",
        "exp": int((NOW + timedelta(minutes=5)).timestamp()),
        "jti": "n-0S6_WzA2Mj-0001",
    }
    ticket = compact({"alg": "HS256", "kid": "k1"}, {**made, **claims}, hs256(KEY))
    location = authorize.begin(get({"ticket": ticket}), where, NOW).location
    return dict(httpx.URL(location).params)


@pytest.mark.parametrize(
    "params",
    [
        *(
            {name: "x"}
            for name in (
                *("response_type", "response_mode", "client_id", "client_secret"),
                *("client_assertion", "redirect_uri", "scope", "state", "code_challenge"),
                *("code_challenge_method", "request", "request_uri", "registration"),
                # In other letters, in the endpoint's query, in PROVIDER_EXTRA.
                *("Client_ID", "SCOPE", "AUDIENCE", "audience", "empty", "prompt", "Prompt"),
            )
        ),
        {"a b": "x"},
        {"": "x"},
        {"n" * 65: "x"},
        {"nonce": 1},
        {"nonce": None},
        {"nonce": "x", "another": ["x"]},
        [["nonce", "x"]],
        [],
        None,
        "nonce=x",
        {f"p{number}": "x" for number in range(11)},
    ],
)
def test_a_ticket_does_not_change_what_the_relay_asks_for(params: object) -> None:
    with pytest.raises(InvalidResponse) as refused:
        started(starting(), params=params)
    assert refused.value.reason == "ticket_params"


def test_a_ticket_adds_what_differs_from_flow_to_flow() -> None:
    asked = started(starting(), params={"login_hint": "ada@example.com", "nonce": "a&b"})
    assert (asked["login_hint"], asked["nonce"]) == ("ada@example.com", "a&b")
    assert asked["redirect_uri"] == "Contoso-RuName-abc"
    assert {"code_challenge", "code_challenge_method", "audience", "Prompt"} <= set(asked)


def test_without_pkce_no_challenge_is_sent_and_it_is_warned_of() -> None:
    asked = started(starting(PROVIDER_PKCE="false"))
    assert not [name for name in asked if name.startswith("code_challenge")]
    assert "state" in asked


def test_a_flow_that_would_need_a_nonce_is_not_started() -> None:
    with pytest.raises(UnknownConnection):
        started(starting(PROVIDER_RESPONSE_TYPE="code id_token"))


@pytest.mark.parametrize(
    ("further", "warned"),
    [
        ({}, "DYNAMICS_BODY: has no {code_verifier}"),
        ({"PROVIDER_PKCE": "false"}, "PROVIDER_PKCE: is false"),
        ({"PROVIDER_RESPONSE_TYPE": "code id_token"}, "PROVIDER_RESPONSE_TYPE: has an id_token"),
    ],
)
def test_a_flow_that_dynamics_could_not_end_is_warned_of(
    further: Mapping[str, str], warned: str
) -> None:
    given = {
        **OURS,
        "STATE_KEYS": STATE_KEYS,
        "PROVIDER_CLIENT_ID": "dynamics",
        "PROVIDER_AUTHORIZATION_ENDPOINT": ENDPOINT,
        "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
    }
    (warning,) = settings_reader.read({**given, **further}).warnings
    assert warning.startswith(warned)


def test_the_provider_has_its_defaults() -> None:
    assert (Provider().pkce, Provider().response_type) == (True, "code")


# -- XML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_entities_expand_in_no_encoding_of_a_storages_answer(encoding: str) -> None:
    name = encoding if encoding == "utf-8" else "utf-16"
    message = (
        "<MessageId>{}</MessageId><InsertionTime>Thu, 04 Mar 2027 12:00:00 GMT</InsertionTime>"
    )
    bomb = (
        f'<?xml version="1.0" encoding="{name}"?><!DOCTYPE x [<!ENTITY a "aaaa">]>'
        f"<QueueMessagesList><QueueMessage>{message.format('&a;')}"
        "<ExpirationTime>Thu, 04 Mar 2027 12:00:00 GMT</ExpirationTime>"
        "</QueueMessage></QueueMessagesList>"
    ).encode(encoding)

    async def answer(_: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bomb})

    with (
        Server(answer) as server,
        httpx.Client(trust_env=False) as http,
        pytest.raises(StorageRefused),
    ):
        Queues(Account(server.url, "key", "name", b"key"), http).peek("queue")


# -- through the Functions host ------------------------------------------------------------------


def test_what_legitimate_providers_send_passes_through_the_host() -> None:
    further = {
        "DYNAMICS_BODY": '{"code": "{code}", "state": "{state}", "error": "{error}"}',
        "CONNECTIONS__BANK_ONE__PROVIDER_RESPONSE_TYPE": "code id_token",
        "CONNECTIONS__BROKEN__CODE_TTL": "for ever",
        "CONNECTIONS__STRICT__STATE_POLICY": "pattern",
        "CONNECTIONS__STRICT__STATE_PATTERN": "^cb-[0-9]{8}$",
    }
    with World(further) as world, world.client() as http:
        url = f"{world.relay_server.url}/callback"
        program = {"Accept": "application/json"}
        for path in ("", "/nobody", "/broken"):
            probe = http.head(f"{url}{path}?code={CODE}&state=probed")
            assert (probe.status_code, probe.content) == (200, b"")
            probe = http.options(f"{url}{path}?code={CODE}&state=probed")
            assert (probe.status_code, probe.content) == (204, b"")
            assert probe.headers["allow"] == "GET, POST, HEAD, OPTIONS"
            assert "access-control-allow-origin" not in probe.headers
        assert world.dynamics.rows == {}
        assert http.get(url, headers=program).status_code == 200

        def by_query(raw: str) -> httpx.Response:
            return http.get(f"{url}?{raw}", headers=program)

        def by_form(raw: str) -> httpx.Response:
            body = raw.replace("%FC", "\udcfc").encode("utf-8", "surrogateescape")
            return http.post(url, content=body, headers={**program, "Content-Type": FORM})

        ways = {"query": by_query, "form": by_form}
        for way, ask in ways.items():
            kept = ask(f"state={way}-1&state=&code={CODE}&code=&name=Z%FCrich")
            assert kept.json()["outcome"] == "delivered"
            alone = ask(f"state={way}-2")
            assert (alone.json()["outcome"], alone.json()["error"]) == ("declined", "server_error")
            assert world.dynamics.rows[f"{way}-2"]["error"] == "server_error"
            described = ask(f"error=access_denied&error_description=Z%FCrich&state={way}-3")
            assert described.json()["outcome"] == "declined"
        body = b'{"code": "x", "state": "json-1", "name": "Z\xfcrich", "iss": null}'
        sent = http.post(url, content=body, headers={**program, "Content-Type": "application/json"})
        assert sent.json()["outcome"] == "delivered"
        for name in ("bank-one", "BANK_ONE", "Bank-One"):
            hybrid = http.get(
                f"{url}/{name}?code={CODE}&state=hybrid&id_token=e30.e30.", headers=program
            )
            assert hybrid.json()["outcome"] == "delivered"
        page = http.get(
            f"{url}/strict?error=access_denied&state=forged", headers={"Accept": "text/html"}
        )
        assert (page.status_code, "location" in page.headers) == (400, False)
        assert re.search("<h1>The other system ended the authorization</h1>", page.text)
        assert "access_denied" not in page.text
