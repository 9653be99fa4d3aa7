"""What the Functions host is told: functions, routes, host.json, local settings."""

import importlib.util
import json
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import azure.functions as func
import pytest

import relay
from relay import bootstrap, log, settings, settings_reader
from relay.connections import Connections
from relay.errors import Misconfigured
from relay.oauth.request import Request
from relay.outcome import Answer, Outcome
from relay.pages import SECURITY_HEADERS
from tests.fakes import Outbox
from tests.helpers import ROOT

REFERENCE = "0123456789abcdef"
GOOD = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "canary",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    "STATE_POLICY": "opaque",
}


def read(name: str) -> dict[str, Any]:
    """Return a JSON file of the project."""
    content = json.loads((ROOT / name).read_text())
    assert isinstance(content, dict)
    return content


def span(text: str) -> timedelta:
    """Read a .NET TimeSpan: `days.hours:minutes:seconds`."""
    match = re.fullmatch(r"(?:(\d+)\.)?(\d\d):(\d\d):(\d\d)", text)
    assert match
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days, seconds, hours=hours, minutes=minutes)


# -- the functions -------------------------------------------------------------------------------


class Indexed:
    """function_app.py, imported as a worker does that has these settings and no others."""

    def __init__(self, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        path = ROOT / "function_app.py"
        spec = importlib.util.spec_from_file_location("indexed_function_app", path)
        assert spec
        assert spec.loader
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        functions = {
            str(each.get_function_name()): each for each in self.module.app.get_functions()
        }
        self.handlers = {name: each.get_user_function() for name, each in functions.items()}
        self.bindings: dict[str, dict[str, dict[str, Any]]] = {
            name: {binding["type"]: binding for binding in map(json.loads, each.get_raw_bindings())}
            for name, each in functions.items()
        }

    @property
    def problems(self) -> tuple[str, ...]:
        problems = self.module.the_relay.connections.problems
        assert isinstance(problems, tuple)
        return problems


@pytest.fixture(scope="module")
def indexed() -> Indexed:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Indexed(GOOD, monkeypatch)


@pytest.mark.parametrize(
    ("name", "route", "methods"),
    [
        ("callback", "callback/{connection?}", ["GET", "HEAD", "OPTIONS", "POST"]),
        ("authorize", "authorize/{connection}", ["GET"]),
        ("done", "done/{outcome}", ["GET", "HEAD"]),
        ("health", "health", ["GET", "HEAD"]),
        ("unknown", "{*path}", ["GET", "HEAD"]),
    ],
)
def test_a_function_has_its_route_and_methods(
    indexed: Indexed, name: str, route: str, methods: list[str]
) -> None:
    trigger = indexed.bindings[name]["httpTrigger"]
    assert trigger["route"] == route
    assert sorted(trigger["methods"]) == methods
    assert "http" in indexed.bindings[name]


def test_the_function_of_every_other_address_is_the_last_whose_route_is_tried(
    indexed: Indexed, host: dict[str, Any]
) -> None:
    routed = [name for name, types in indexed.bindings.items() if "httpTrigger" in types]
    assert max(routed, key=str.upper) == "unknown"
    assert host["logging"]["logLevel"]["Function.unknown"] == "None"


async def test_another_address_is_told_so_without_a_log_line_or_a_reference(
    stage: "Stage", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    page = await stage.call(http(headers={"Accept": "text/html"}), function="unknown")
    told = await stage.call(http(), function="unknown")
    assert (page.status_code, told.status_code) == (404, 404)
    assert b"<h1>No such address</h1>" in page.get_body()
    assert "reference" not in json.loads(told.get_body())
    assert caplog.records == []


async def test_done_shows_the_names_of_a_configured_connection_and_of_no_other(
    stage: "Stage", monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {**GOOD, "CONNECTIONS__BANK_ONE__PROVIDER_NAME": "Bank One"}
    stage.relay.connections = bootstrap.app(environ).relay.connections
    shown = {}
    for to in ("bank-one", "BANK_ONE", "default", "nobody", ""):
        request = http(route={"outcome": "held"}, params={"to": to})
        shown[to] = b"Bank One" in (await stage.call(request, function="done")).get_body()
    assert [to for to, named in shown.items() if named] == ["bank-one"]


def test_every_http_function_is_anonymous_or_the_host_takes_the_code_for_its_key(
    indexed: Indexed,
) -> None:
    levels = {
        name: types["httpTrigger"]["authLevel"].lower()
        for name, types in indexed.bindings.items()
        if "httpTrigger" in types
    }
    assert {"callback", "authorize", "done", "health"} <= set(levels)
    assert set(levels.values()) == {"anonymous"}


def test_the_outbox_is_written_by_callback_and_read_by_redeliver(indexed: Indexed) -> None:
    written, read_ = (
        indexed.bindings["callback"]["queue"],
        indexed.bindings["redeliver"]["queueTrigger"],
    )
    assert written["name"] == "outbox"
    assert written["direction"].lower() == "out"
    for binding in (written, read_):
        assert binding["queueName"] == indexed.module.OUTBOX
        assert binding["connection"] == "AzureWebJobsStorage"


def test_the_queue_is_called_callback_outbox_unless_a_setting_says_otherwise() -> None:
    assert bootstrap.app(GOOD).outbox_queue == "callback-outbox"
    assert bootstrap.app({**GOOD, "OUTBOX_QUEUE": "elsewhere"}).outbox_queue == "elsewhere"


# -- callback ------------------------------------------------------------------------------------


class Relay:
    """Keeps what it receives, and answers as it was made to."""

    def __init__(self, answer: Answer, connections: Connections | None = None) -> None:
        self.answer = answer
        self.connections = connections or Connections({})
        self.writer = log.Writer()
        self.received: list[tuple[str, Request]] = []

    async def receive(self, name: str, request: Request) -> Answer:
        self.received.append((name, request))
        return self.answer


DELIVERED = Answer(Outcome.DELIVERED, REFERENCE, HTTPStatus.OK)
HELD = Answer(Outcome.HELD, REFERENCE, HTTPStatus.ACCEPTED, held="sealed")


class Stage:
    """The functions with a relay of our own behind them."""

    def __init__(self, indexed: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
        self.handlers = indexed.handlers
        self.relay = Relay(DELIVERED)
        self.outbox = Outbox()
        monkeypatch.setattr(indexed.module, "the_relay", self.relay)

    async def call(
        self, request: func.HttpRequest, function: str = "callback"
    ) -> func.HttpResponse:
        """Call a function as the worker does."""
        bound = {"outbox": self.outbox} if function == "callback" else {}
        response = await self.handlers[function](req=request, **bound)
        assert isinstance(response, func.HttpResponse)
        return response


@pytest.fixture
def stage(indexed: Indexed, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(indexed, monkeypatch)


def http(
    query: str = "",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    route: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> func.HttpRequest:
    return func.HttpRequest(
        method=method,
        url=f"https://relay.example/callback{'?' if query else ''}{query}",
        headers=headers or {},
        route_params=route or {},
        params=params or {},
        body=body,
    )


async def test_callback_reads_the_query_raw_and_not_what_the_host_made_of_it(
    stage: Stage,
) -> None:
    raw = "code=a%2Bb&code=c+d&state=&x=?y"
    await stage.call(http(raw, params={"code": "a+b,c d", "x": "?y"}))
    ((_, request),) = stage.relay.received
    assert (request.method, request.query, request.body) == ("GET", raw, b"")


async def test_callback_hands_on_method_headers_and_body_as_they_came(
    stage: Stage,
) -> None:
    headers = {"Content-Type": "application/json", "Sec-Purpose": "prefetch"}
    await stage.call(http(method="POST", headers=headers, body=b'{"code":"\xff"}'))
    ((_, request),) = stage.relay.received
    assert (request.method, request.query, request.body) == ("POST", "", b'{"code":"\xff"}')
    assert request.headers == {"content-type": "application/json", "sec-purpose": "prefetch"}


@pytest.mark.parametrize(
    ("route", "name"),
    [
        pytest.param({}, "default", id="no-name"),
        pytest.param({"connection": ""}, "default", id="an-empty-name"),
        pytest.param({"connection": "xero"}, "xero", id="a-name"),
    ],
)
async def test_callback_without_a_name_is_the_default_connections(
    stage: Stage, route: dict[str, str], name: str
) -> None:
    await stage.call(http("code=a", route=route))
    assert [each for each, _ in stage.relay.received] == [name]


async def test_callback_answers_a_program_with_json(stage: Stage) -> None:
    response = await stage.call(http("code=a"))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.get_body()) == {"outcome": "delivered", "reference": REFERENCE}
    assert SECURITY_HEADERS.items() <= dict(response.headers).items()


async def test_callback_sends_a_browser_on(stage: Stage) -> None:
    response = await stage.call(http("code=a", headers={"Accept": "text/html"}))
    assert response.status_code == 303
    assert response.headers["Location"] == f"/done/delivered?ref={REFERENCE}"


async def test_callback_puts_what_is_held_into_the_outbox(stage: Stage) -> None:
    stage.relay.answer = HELD
    response = await stage.call(http("code=a"))
    assert response.status_code == 202
    assert stage.outbox.messages == ["sealed"]
    assert b"sealed" not in response.get_body()


async def test_callback_writes_nothing_when_nothing_is_held(
    stage: Stage,
) -> None:
    await stage.call(http("code=a"))
    assert stage.outbox.messages == []


async def test_a_person_is_answered_in_the_language_of_the_browser(stage: Stage) -> None:
    asking = {"Accept": "text/html", "Accept-Language": "da-DK,da;q=0.9,en;q=0.8"}
    stage.relay.answer = Answer(
        Outcome.DECLINED, REFERENCE, HTTPStatus.BAD_REQUEST, error="access_denied"
    )
    in_place = await stage.call(http("error=access_denied", headers=asking))
    request = http(route={"outcome": "held"}, headers=asking)
    sent_on = await stage.call(request, function="done")
    for response in (in_place, sent_on):
        assert response.headers["Content-Language"] == "da"
        assert b'<html lang="da">' in response.get_body()


async def test_a_flow_that_cannot_begin_is_explained_in_the_language_of_the_browser(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Answer(Outcome.INVALID, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, page="prefetch")
    monkeypatch.setattr(Relay, "authorize", lambda *_: refused, raising=False)
    asking = {"Accept": "text/html", "Accept-Language": "nl"}
    response = await stage.call(http(headers=asking), function="authorize")
    assert response.headers["Content-Language"] == "nl"


# -- done and health -----------------------------------------------------------------------------


async def test_done_shows_the_page_of_an_outcome(stage: Stage) -> None:
    request = http(route={"outcome": "held"}, params={"ref": REFERENCE})
    response = await stage.call(request, function="done")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert REFERENCE in re.sub(r"<[^>]*>", "", response.get_body().decode())
    assert "Content-Security-Policy" in response.headers


async def test_done_without_a_reference_is_a_page_too(stage: Stage) -> None:
    response = await stage.call(http(route={"outcome": "rejected"}), function="done")
    assert response.status_code == 400


async def test_health_says_ok_with_the_version(stage: Stage) -> None:
    response = await stage.call(http(), function="health")
    assert response.status_code == 200
    assert json.loads(response.get_body()) == {"status": "ok", "version": relay.__version__}


async def test_health_says_misconfigured_as_soon_as_one_setting_is_wrong(
    stage: Stage,
) -> None:
    stage.relay.connections = Connections({}, ("CODE_TTL: expected seconds",))
    response = await stage.call(http(), function="health")
    assert response.status_code == 503
    assert json.loads(response.get_body()) == {"status": "misconfigured"}


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert relay.__version__ == project["version"]


# -- wrong settings ------------------------------------------------------------------------------

WRONG = [
    pytest.param({}, "DYNAMICS_URL", id="nothing"),
    pytest.param({**GOOD, "DYNAMICS_URL": "http://canary.example"}, "DYNAMICS_URL", id="http"),
    pytest.param({**GOOD, "OUTBOX_KEYS": "canary"}, "OUTBOX_KEYS", id="no-key"),
    pytest.param({**GOOD, "OUTBOX_QUEUE": "Canary Queue"}, "OUTBOX_QUEUE", id="no-queue"),
    pytest.param({**GOOD, "CA_BUNDLE": "canary.pem"}, "CA_BUNDLE", id="no-file"),
    pytest.param({**GOOD, "CA_BUNDLE": str(ROOT / "host.json")}, "CA_BUNDLE", id="no-pem"),
    pytest.param({**GOOD, "REQUESTS_CA_BUNDLE": "canary.pem"}, "REQUESTS_CA_BUNDLE", id="no-ca"),
    pytest.param(
        {**GOOD, "CONNECTIONS__X__CODE_TTL": "canary"}, "CONNECTIONS__X__CODE_TTL", id="one"
    ),
]


@pytest.mark.parametrize(("environ", "named"), WRONG)
async def test_the_app_indexes_with_any_settings_and_the_log_names_the_wrong_ones(
    environ: dict[str, str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Indexed(environ, monkeypatch)
    assert {"callback", "done", "health", "redeliver"} <= set(app.handlers)
    assert not caplog.records  # the host would not take them yet
    await app.handlers["health"](http())
    assert [each.levelname for each in caplog.records if named in each.getMessage()] == ["ERROR"]
    assert "canary" not in caplog.text.lower()
    assert app.problems


async def test_a_setting_that_is_right_is_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    signed = {"STATE_POLICY": "signed", "STATE_KEYS": f"k1:{'0' * 43}"}
    app = Indexed({**GOOD, **signed}, monkeypatch)
    await app.handlers["health"](http())
    assert app.problems == ()
    assert "setting" not in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {**GOOD, "CA_BUNDLE": str(ROOT / "host.json"), "CONNECTIONS__X__CODE_TTL": "60"},
        {**GOOD, "REQUESTS_CA_BUNDLE": "nowhere.pem", "CONNECTIONS__X__CODE_TTL": "60"},
    ],
    ids=["ca-bundle", "requests-ca-bundle"],
)
def test_no_connection_works_without_the_trust_it_was_given(environ: dict[str, str]) -> None:
    connections = bootstrap.app(environ).relay.connections
    for name in ("default", "x"):
        with pytest.raises(Misconfigured):
            connections.get(name)


# -- host.json -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> dict[str, Any]:
    return read("host.json")


def test_the_hosts_own_pages_carry_the_same_headers_as_the_relays(host: dict[str, Any]) -> None:
    assert host["extensions"]["http"]["customHeaders"] == dict(SECURITY_HEADERS)


def test_the_host_adds_strict_transport_security_for_a_year_at_least(host: dict[str, Any]) -> None:
    hsts = host["extensions"]["http"]["hsts"]
    assert hsts["isEnabled"] is True
    assert span(hsts["maxAge"]) >= timedelta(days=365)


def test_no_url_has_a_prefix(host: dict[str, Any]) -> None:
    assert host["extensions"]["http"]["routePrefix"] == ""


def test_the_host_is_of_version_2_with_the_current_bundle(host: dict[str, Any]) -> None:
    assert host["version"] == "2.0"
    assert host["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.*, 5.0.0)",
    }


def test_a_function_ends_before_the_load_balancer_gives_up(host: dict[str, Any]) -> None:
    assert timedelta(0) < span(host["functionTimeout"]) < timedelta(seconds=230)


def test_a_code_of_60_seconds_has_several_attempts(host: dict[str, Any]) -> None:
    queues = host["extensions"]["queues"]
    between = span(queues["visibilityTimeout"]) + span(queues["maxPollingInterval"])
    assert span(queues["visibilityTimeout"]) > timedelta(0)
    # Dynamics wants the code 15 seconds before its end.
    assert timedelta(seconds=60 - 15) / between >= 3


def test_an_outage_of_60_minutes_loses_nothing(host: dict[str, Any]) -> None:
    queues = host["extensions"]["queues"]
    assert span(queues["visibilityTimeout"]) * queues["maxDequeueCount"] >= timedelta(minutes=60)


def test_messages_are_encoded_as_the_host_does_it(host: dict[str, Any]) -> None:
    assert host["extensions"]["queues"]["messageEncoding"] == "base64"


def test_no_log_of_the_host_holds_a_query(host: dict[str, Any]) -> None:
    insights = host["logging"]["applicationInsights"]
    assert insights["enableQueryStringTracing"] is False
    assert insights["httpAutoCollectionOptions"]["enableResponseHeaderInjection"] is False
    levels = host["logging"]["logLevel"]
    assert levels["default"] == "Warning"
    # ASP.NET's own categories, at Information, log "Request starting … ?code=".
    assert not [category for category in levels if category.startswith("Microsoft")]


def level_of(category: str, host: dict[str, Any]) -> str:
    """Return the level of a category: the longest name that it begins with counts."""
    levels: dict[str, str] = host["logging"]["logLevel"]
    fitting = [name for name in levels if category == name or category.startswith(f"{name}.")]
    return levels[max(fitting, key=len, default="default")]


def test_every_line_of_the_relay_is_in_the_log_and_none_that_the_host_writes_for_each_request(
    indexed: Indexed, host: dict[str, Any]
) -> None:
    """The host's own would fill the log up to its daily limit, at a stranger's will."""
    for name in indexed.handlers:
        logs = "None" if name == "unknown" else "Information"
        assert level_of(f"Function.{name}.User", host) == logs
        assert level_of(f"Function.{name}", host) in ("Warning", "None")
    # A failed redelivery has its line; the host would add the exception with its stack.
    assert level_of("Function.redeliver", host) == "None"
    assert level_of("Host.Results", host) == "Error"
    sampling = host["logging"]["applicationInsights"]["samplingSettings"]
    assert (sampling["excludedTypes"], sampling["maxTelemetryItemsPerSecond"]) == ("Trace", 1)


# -- local.settings.json.example -----------------------------------------------------------------


def test_the_example_of_local_settings_holds_known_settings_only() -> None:
    values = read("local.settings.json.example")["Values"]
    of_functions = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}
    of_functions.add("AzureWebJobsDisableHomepage")
    known = {*settings.names(settings.ConnectionSettings), *settings.names(settings.AppSettings)}
    assert set(values) - known <= of_functions
    assert all(isinstance(value, str) for value in values.values())


def test_the_example_of_local_settings_works() -> None:
    example = read("local.settings.json.example")
    assert example["IsEncrypted"] is False
    assert example["Values"]["FUNCTIONS_WORKER_RUNTIME"] == "python"
    connections = settings_reader.read(example["Values"]).connections
    assert connections.problems == ()
    assert connections.get("default").target.url.startswith("https://")
