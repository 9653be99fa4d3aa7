"""A flow that begins at the relay: the ticket, the redirect, the cookie, and the way back."""

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from azure.functions.meta import Datum
from azure_functions_runtime.bindings.datumdef import datum_as_proto
from hypothesis import given
from hypothesis import strategies as st

from relay.connections import Connection, Environment, Provider, StatePolicy
from relay.errors import InvalidResponse, UnknownConnection
from relay.oauth import authorize, jws, state
from relay.oauth.authorize import Started
from relay.oauth.request import Request
from sandbox.host import FunctionsHost
from tests.helpers import connection, get, response

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
JTI = "canary-jti-0042-abcdefg"
NAME = "__Host-relay-canary-j"
PROVIDER = Provider(
    client_id="the client",
    authorization_endpoint="https://as.example/authorize",
    scope="read write",
    redirect_uri="https://relay.example/callback/xero",
)


def starting(name: str = "xero", /, **provider: Any) -> Connection:
    return dataclasses.replace(
        connection(name=name, provider=PROVIDER._replace(**provider)),
        state_policy=StatePolicy.SIGNED,
        state_keys={"k1": bytes(32), "k0": bytes(range(32))},
    )


def ticket(jti: str = JTI, name: str = "xero") -> str:
    return state.mint_ticket(starting(name), jti, NOW, timedelta(minutes=5))


def begin(
    query: str | Mapping[str, str] | None = None,
    cookies: str = "",
    at: Connection | None = None,
    now: datetime = NOW,
) -> Started:
    asked = get({"ticket": ticket()} if query is None else query, {"cookie": cookies})
    return authorize.begin(asked, at or starting(), now)


def sent(started: Started) -> dict[str, str]:
    """Return the parameters of the authorization request, each of which stands there once."""
    pairs = parse_qsl(urlsplit(started.location).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def cookie(header: str) -> tuple[str, str, dict[str, str]]:
    """Split a Set-Cookie header into name, value and attributes."""
    pair, *rest = header.split("; ")
    name, _, value = pair.partition("=")
    return name, value, {key: text for key, _, text in (part.partition("=") for part in rest)}


# -- the redirect --------------------------------------------------------------------------------


def test_the_browser_is_sent_to_the_provider_with_all_it_needs() -> None:
    started = begin()
    asked = sent(started)
    assert started.location.startswith("https://as.example/authorize?response_type=code&")
    assert asked == {
        "response_type": "code",
        "client_id": "the client",
        "redirect_uri": "https://relay.example/callback/xero",
        "scope": "read write",
        "state": asked["state"],
        "code_challenge": asked["code_challenge"],
        "code_challenge_method": "S256",
    }


def test_what_goes_out_comes_back_with_its_code_verifier() -> None:
    started = begin()
    asked = sent(started)
    name, value, _ = cookie(started.cookies[0])
    verified = state.verify(response(state=asked["state"]), starting(), f"{name}={value}", NOW)
    assert verified.jti == JTI
    assert verified.redirect_uri == asked["redirect_uri"]
    # RFC 7636 §4.6, as the provider does it.
    assert state.fingerprint(str(verified.code_verifier)) == asked["code_challenge"]


def test_without_pkce_no_verifier_comes_back() -> None:
    at = starting(pkce=False)
    started = begin(at=at)
    name, value, _ = cookie(started.cookies[0])
    asked = response(state=sent(started)["state"])
    assert state.verify(asked, at, f"{name}={value}", NOW).code_verifier is None


def test_the_state_is_the_tickets_flow_and_lives_as_long_as_its_cookie() -> None:
    started = begin()
    name, value, attributes = cookie(started.cookies[0])
    asked = response(state=sent(started)["state"])
    assert name == state.cookie_name(JTI) == NAME
    lifetime = timedelta(seconds=int(attributes["Max-Age"]))
    held = NOW + lifetime + timedelta(seconds=59)
    assert state.verify(asked, starting(), f"{name}={value}", held).state == asked.state
    with pytest.raises(InvalidResponse) as refused:
        state.verify(asked, starting(), f"{name}={value}", held + timedelta(seconds=1))
    assert refused.value.reason == "state_expired"


def test_without_its_cookie_it_does_not_come_back() -> None:
    with pytest.raises(InvalidResponse) as refused:
        state.verify(response(state=sent(begin())["state"]), starting(), "", NOW)
    assert refused.value.reason == "state_cookie_missing"


@pytest.mark.parametrize(
    "mode", ["query", "form_post", "fragment", "jwt", "query.jwt", "form_post.jwt", "fragment.jwt"]
)
def test_the_response_mode_is_asked_for_where_it_is_set(mode: str) -> None:
    assert sent(begin(at=starting(response_mode=mode)))["response_mode"] == mode


def test_what_is_not_set_is_not_asked_for() -> None:
    asked = sent(begin(at=starting(scope=None)))
    assert not {"scope", "response_mode"} & set(asked)


def test_further_parameters_of_the_settings_come_behind() -> None:
    extra = (("prompt", "consent"), ("claims", '{"a":"b&c"}'), ("empty", ""))
    asked = sent(begin(at=starting(extra=extra)))
    assert list(asked.items())[-3:] == list(extra)


@pytest.mark.parametrize(
    ("endpoint", "begins"),
    [
        (
            "https://as.example/a?tenant=x%20y",
            "https://as.example/a?tenant=x%20y&response_type=code&",
        ),
        ("https://as.example/a?b", "https://as.example/a?b&response_type=code&"),
        ("https://as.example/a?", "https://as.example/a?response_type=code&"),
        ("https://as.example", "https://as.example?response_type=code&"),
    ],
)
def test_the_endpoints_own_query_stays(endpoint: str, begins: str) -> None:
    """RFC 6749 §3.1."""
    assert begin(at=starting(authorization_endpoint=endpoint)).location.startswith(begins)


def test_no_value_can_become_another_parameter() -> None:
    hostile = "a&state=x#y+z=%26 é"
    asked = sent(begin(at=starting(client_id=hostile, scope=hostile, redirect_uri=hostile)))
    assert (asked["client_id"], asked["scope"], asked["redirect_uri"]) == (hostile,) * 3
    assert len(asked) == 7


def test_a_space_is_written_so_that_every_decoder_reads_it() -> None:
    assert "scope=read%20write" in begin().location


@given(
    query=st.dictionaries(st.text(), st.text(), max_size=5),
    headers=st.dictionaries(st.text(), st.text(), max_size=5),
)
def test_nothing_else_of_the_request_reaches_the_answer(
    query: dict[str, str], headers: dict[str, str]
) -> None:
    """Open redirects: CVE-2022-23527, CVE-2024-8883."""
    asked = get(urlencode({**query, "ticket": ticket()}, errors="ignore"), headers)
    started = authorize.begin(asked, starting(), NOW)
    plain = sent(begin())
    differs = {name for name, value in sent(started).items() if value != plain[name]}
    assert differs <= {"state", "code_challenge"}
    assert len(started.cookies) == 1


# -- who may start -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        pytest.param("", "missing", id="no-query"),
        pytest.param("tickets=x", "missing", id="no-ticket"),
        pytest.param("Ticket=x", "missing", id="in-another-case"),
        pytest.param("ticket=", "malformed", id="an-empty-one"),
        pytest.param("ticket=x", "malformed", id="anything"),
        pytest.param(f"ticket={ticket()}&ticket={ticket()}", "repeated", id="twice"),
        pytest.param(f"ticket={ticket()}&ticket=", "repeated", id="once-and-empty"),
        pytest.param(f"ticket={ticket(name='bank')}", "audience", id="of-another-connection"),
        pytest.param(f"ticket={ticket()}%20", "malformed", id="with-a-space-behind"),
    ],
)
def test_nobody_starts_a_flow_without_a_ticket(query: str, reason: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        begin(query)
    assert refused.value.reason == f"ticket_{reason}"
    assert refused.value.status == 400


def test_a_state_does_not_start_a_flow() -> None:
    own = state.mint(starting(), JTI, NOW, timedelta(minutes=5))
    with pytest.raises(InvalidResponse) as refused:
        begin({"ticket": own})
    assert refused.value.reason == "ticket_audience"


def test_an_old_ticket_does_not_start_a_flow() -> None:
    with pytest.raises(InvalidResponse) as refused:
        begin(now=NOW + timedelta(minutes=6))
    assert refused.value.reason == "ticket_expired"


def test_a_ticket_of_an_older_key_starts_a_flow_under_the_first_key() -> None:
    older = dataclasses.replace(starting(), state_keys={"k0": bytes(range(32))})
    started = begin({"ticket": state.mint_ticket(older, JTI, NOW, timedelta(minutes=5))})
    name, value, _ = cookie(started.cookies[0])
    asked = sent(started)
    only_first = dataclasses.replace(starting(), state_keys={"k1": bytes(32)})
    verified = state.verify(response(state=asked["state"]), only_first, f"{name}={value}", NOW)
    assert state.fingerprint(str(verified.code_verifier)) == asked["code_challenge"]


@pytest.mark.parametrize("missing", ["authorization_endpoint", "client_id", "redirect_uri"])
def test_a_connection_without_a_provider_to_go_to_is_none(missing: str) -> None:
    with pytest.raises(UnknownConnection):
        begin(at=starting("xero", **{missing: None}))


@pytest.mark.parametrize("policy", [StatePolicy.OPAQUE, StatePolicy.PATTERN])
def test_no_flow_starts_where_its_state_would_not_be_checked(policy: StatePolicy) -> None:
    with pytest.raises(UnknownConnection):
        begin(at=dataclasses.replace(starting(), state_policy=policy))


def test_a_prefetch_starts_nothing() -> None:
    asked = get({"ticket": ticket()}, {"sec-purpose": "prefetch;prerender"})
    with pytest.raises(InvalidResponse) as refused:
        authorize.begin(asked, starting(), NOW)
    assert (refused.value.reason, refused.value.status) == ("prefetch", 503)


def test_a_query_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidResponse) as refused:
        begin({"ticket": ticket(), "pad": "p" * 8192})
    assert refused.value.status == 413


# -- what a ticket asks for beside ---------------------------------------------------------------


def ticket_with(claims: Mapping[str, object], jti: str = JTI) -> str:
    exp = int((NOW + timedelta(minutes=5)).timestamp())
    known = {"aud": "authorize:xero", "exp": exp, "jti": jti}
    return jws.sign({**known, **claims}, bytes(32), "k1")


def begin_with(params: object, **provider: Any) -> Started:
    return begin({"ticket": ticket_with({"params": params})}, at=starting(**provider))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"login_hint": "a@contoso.com", "shop": "x.example", "empty": ""},
        {f"p{n}": "v" for n in range(10)},
        {"n" * 64: "v" * 500, "a.b_c~d-E0": 'é "&='},
    ],
)
def test_what_the_ticket_asks_for_beside_comes_last(params: dict[str, str]) -> None:
    asked = sent(begin_with(params, extra=(("prompt", "consent"),)))
    assert list(asked.items())[8:] == list(params.items())
    assert list(asked.items())[7] == ("prompt", "consent")


def test_a_state_may_say_params_as_it_likes() -> None:
    """Only a ticket has the claim; in a state it means nothing."""
    claims = {"aud": "callback:xero", "params": 5}
    assert state.verify(response(state=ticket_with(claims)), starting(), "", NOW).jti == JTI


def test_a_ticket_for_an_environment_starts_its_flow_there() -> None:
    own = starting()
    there = Environment(own.credentials, own.target, {"d1": b"d" * 32})
    at = dataclasses.replace(own, environments={"dev": there})
    minted = state.mint_ticket(at.at("dev"), JTI, NOW, timedelta(minutes=5))
    started = begin({"ticket": minted}, at=at)
    assert started.environment == "dev"
    name, value, _ = cookie(started.cookies[0])
    asked = sent(started)
    verified = state.verify(response(state=asked["state"]), at, f"{name}={value}", NOW)
    assert verified.environment == "dev"
    assert state.fingerprint(str(verified.code_verifier)) == asked["code_challenge"]


# -- the cookie ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "same_site"),
    [
        (None, "Lax"),
        ("query", "Lax"),
        ("fragment", "Lax"),
        ("jwt", "Lax"),
        ("query.jwt", "Lax"),
        ("fragment.jwt", "Lax"),
        ("form_post", "None"),
        ("form_post.jwt", "None"),
    ],
)
def test_the_cookie_is_for_this_host_this_browser_and_ten_minutes(
    mode: str | None, same_site: str
) -> None:
    (header,) = begin(at=starting(response_mode=mode)).cookies
    name, value, attributes = cookie(header)
    assert name == NAME
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", value)
    # RFC 6265bis §4.1.3.2: `__Host-` takes Secure and Path=/, and no Domain.
    assert attributes == {
        "Max-Age": "600",
        "Path": "/",
        "Secure": "",
        "HttpOnly": "",
        "SameSite": same_site,
    }


def test_every_flow_has_its_own_secret() -> None:
    values = {cookie(begin().cookies[0])[1] for _ in range(50)}
    assert len(values) == 50


def test_the_secret_is_in_the_cookie_only() -> None:
    started = begin()
    value = cookie(started.cookies[0])[1]
    assert value not in started.location
    assert value not in repr(started)
    assert sent(started)["state"] not in repr(started)


def browse(jar: dict[str, str], started: Started) -> None:
    """Take the answer's cookies as a browser does; a replaced one keeps its place in the order."""
    for header in started.cookies:
        name, value, attributes = cookie(header)
        if attributes["Max-Age"] == "0":
            jar.pop(name, None)
        else:
            jar[name] = value


def test_unfinished_flows_do_not_pile_up() -> None:
    """CVE-2024-24814's neighbour: 200 starts, and still five small cookies."""
    jar: dict[str, str] = {"session": "x"}
    for number in range(200):
        header = "; ".join(f"{name}={value}" for name, value in jar.items())
        jti = f"{number:08d}-canary-jti"
        browse(jar, begin({"ticket": ticket(jti)}, header))
        ours = [name for name in jar if name.startswith("__Host-relay-")]
        assert ours == [f"__Host-relay-{n:08d}" for n in range(max(0, number - 4), number + 1)]
    assert jar["session"] == "x"
    assert len("; ".join(f"{name}={value}" for name, value in jar.items())) < 4096


def flows(*numbers: int) -> str:
    return "; ".join(f"__Host-relay-{number:08d}={number}" for number in numbers)


def test_four_unfinished_flows_are_left_alone() -> None:
    assert len(begin(cookies=flows(1, 2, 3, 4)).cookies) == 1


def test_the_oldest_of_five_goes() -> None:
    _, gone = begin(cookies=flows(1, 2, 3, 4, 5)).cookies
    assert gone == "__Host-relay-00000001=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"


def test_as_many_go_as_are_too_many() -> None:
    _, *gone = begin(cookies=flows(*range(9))).cookies
    assert [cookie(header)[0] for header in gone] == [f"__Host-relay-{n:08d}" for n in range(5)]


def test_the_same_ticket_again_replaces_its_cookie_and_deletes_no_other() -> None:
    assert len(begin(cookies=f"{NAME}=old; {flows(1, 2, 3, 4)}").cookies) == 1


def test_only_cookies_of_the_relay_are_named_in_the_answer() -> None:
    """Header injection through the Cookie header."""
    hostile = [f"__Host-relay-{n}x\r\nX: y" for n in range(9)]
    hostile += [f"__Host-relay-{n}" for n in range(9)] + [
        f"__Host-relay-123456789{n}" for n in range(9)
    ]
    hostile += [f"__host-relay-{n:08d}" for n in range(9)] + [f"relay-{n:08d}" for n in range(9)]
    hostile += ["__Host-relay-0000000é", "__Host-relay-0000000,", "__Host-relay-00000001\n"]
    assert len(begin(cookies="; ".join(f"{name}=x" for name in hostile)).cookies) == 1


def test_a_cookie_that_stands_twice_is_deleted_once() -> None:
    _, gone = begin(cookies=f"{flows(1, 1, 1, 2, 3, 4, 5)}").cookies
    assert cookie(gone)[0] == "__Host-relay-00000001"


def test_the_end_of_a_flow_deletes_its_cookie() -> None:
    started = begin()
    name, value, _ = cookie(started.cookies[0])
    asked = response(state=sent(started)["state"])
    verified = state.verify(asked, starting(), f"{name}={value}", NOW)
    assert authorize.end(verified) == f"{NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"


def test_a_flow_that_began_elsewhere_has_no_cookie_to_delete() -> None:
    own = state.mint(starting(), JTI, NOW, timedelta(minutes=5))
    assert authorize.end(state.verify(response(state=own), starting(), "", NOW)) is None
    assert authorize.end(state.verify(response(), connection())) is None


# -- through the Functions host ------------------------------------------------------------------

APP = '''
import json
from http.cookies import SimpleCookie

import azure.functions as func
from werkzeug.datastructures import Headers as WerkzeugHeaders

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


class Headers(WerkzeugHeaders):
    def __init__(self, headers, cookies):
        super().__init__(headers)
        self._typed = [SimpleCookie(cookie) for cookie in cookies[1:]]
        for jar in self._typed:
            for cookie in jar.values():
                cookie["domain"] = None
        for plain in cookies[:1]:
            self.add("Set-Cookie", plain)

    def __contains__(self, key):
        return bool(self._typed) if key == "Set-Cookie" else super().__contains__(key)

    def get_all(self, _key):
        return self._typed

    def pop(self, *_):
        """Keep what there is: the library takes away what it has made typed cookies of."""


class Response(func.HttpResponse):
    def __init__(self, status, headers, cookies):
        super().__init__(b"", status_code=status)
        self._headers = Headers(headers, cookies)

    @property
    def headers(self):
        return self._headers


@app.route("plain", methods=["POST"])
async def plain(req: func.HttpRequest) -> func.HttpResponse:
    return Response(302, {"Location": "https://as.example/"}, json.loads(req.get_body()))


@app.route("library", methods=["POST"])
async def library(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse(b"", status_code=302)
    for cookie in json.loads(req.get_body()):
        response.headers.add("Set-Cookie", cookie)
    return response
'''


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    (tmp_path / "function_app.py").write_text(APP, "utf-8")
    (tmp_path / "host.json").write_text('{"extensions": {"http": {"routePrefix": ""}}}', "utf-8")
    host = FunctionsHost(tmp_path, {})
    return httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="https://relay.example")


async def test_the_librarys_own_way_writes_a_domain_that_breaks_the_cookie(
    client: httpx.AsyncClient,
) -> None:
    """azure-functions-python-worker#1902: why there is another way."""
    answer = await client.post("/library", json=begin().cookies)
    assert "domain=" in answer.headers["set-cookie"]


async def test_a_cookie_reaches_the_browser_as_it_was_written(client: httpx.AsyncClient) -> None:
    (header,) = begin().cookies
    answer = await client.post("/plain", json=[header])
    assert answer.headers.get_list("set-cookie") == [header]
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://as.example/"
    assert answer.headers.get_list("content-type") == ["text/plain; charset=utf-8"]


async def test_the_flows_own_cookie_comes_first_and_as_it_was_written(
    client: httpx.AsyncClient,
) -> None:
    cookies = begin(cookies=flows(1, 2, 3, 4, 5, 6)).cookies
    answer = await client.post("/plain", json=cookies)
    first, *others = answer.headers.get_list("set-cookie")
    assert first == cookies[0]
    assert [cookie(header)[:2] for header in others] == [
        ("__Host-relay-00000001", ""),
        ("__Host-relay-00000002", ""),
    ]


def test_the_worker_sends_the_other_cookies_without_a_domain() -> None:
    """What the worker puts into the message to the host: no Domain, not an empty one."""
    names = (
        "RpcHttp",
        "RpcHttpCookie",
        "NullableString",
        "NullableBool",
        "NullableDouble",
        "TypedData",
    )
    protos = SimpleNamespace(**dict.fromkeys(names, SimpleNamespace))
    same_site = SimpleNamespace(**{"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3})
    protos.RpcHttpCookie = type("RpcHttpCookie", (SimpleNamespace,), {"SameSite": same_site})
    jar = SimpleCookie(begin(cookies=flows(1, 2, 3, 4, 5)).cookies[1])
    jar["__Host-relay-00000001"]["domain"] = None
    texts = {"status_code": Datum("302", "string"), "headers": {}, "body": Datum(b"", "bytes")}
    (wire,) = datum_as_proto(Datum({**texts, "cookies": [jar]}, "http"), protos).http.cookies
    assert (wire.name, wire.value, wire.domain) == ("__Host-relay-00000001", "", None)
    assert (wire.path.value, wire.max_age.value, wire.same_site) == ("/", 0.0, 1)
    assert wire.secure.value is wire.http_only.value is True


def test_the_request_of_a_start_is_not_taken_from_a_body() -> None:
    asked = Request("GET", "", {"content-length": "9"}, b"ticket=" + ticket().encode())
    with pytest.raises(InvalidResponse) as refused:
        authorize.begin(asked, starting(), NOW)
    assert refused.value.reason == "ticket_missing"
