"""Attacks on the relay, one test each, named for what it would gain (docs/security-attacks.md).

Nearly all of them go over loopback TLS through Microsoft's worker code, as a stranger's request
would. `Site.refused` is the promise behind each: the fixed word in the log, the same answer for
programs and browsers, and neither Entra nor Dynamics nor the outbox nor any other host touched.
"""

import base64
import hashlib
import hmac
import importlib
import json
import logging
import pkgutil
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from starlette.requests import Request as Incoming
from starlette.responses import JSONResponse, RedirectResponse, Response

import relay
from relay import log
from sandbox import dynamics
from sandbox.provider import Registration
from sandbox.serving import Server
from sandbox.world import PASSWORD, USER, World
from tests.fakes import b64, but, compact, hs256, published
from tests.outbox import OUTBOX, POISON, eventually, everything

KEY, STRANGERS_KEY = bytes(range(32)), bytes(range(1, 33))
ISSUER, CLIENT = "https://as.example/tenant", "dynamics-365"
CODE, STATE = "canary-code-5f1c", "canary-state-b72e"
ES, RSA = Ed25519PrivateKey.generate(), generate_private_key(65537, 2048)
MEMBERS = ("code", "state", "code_verifier", "redirect_uri", "error", "error_description")
BODY = '{"code": "{code}", "state": "{state_hash}"}'
HTML, PROGRAM = {"accept": "text/html,application/xhtml+xml"}, {"accept": "application/json"}
LINE = re.compile(
    r"callback (delivered|duplicate|held|declined|invalid|unknown|rejected|misconfigured)"
    r" connection=(-|[a-z0-9-]+) reference=(-|[0-9a-f]{16}) delivery_id=(-|[0-9a-f]{32})"
    r" attempt=\d+ duration_ms=\d+ dynamics_status=(-|\d{3})( environment=[a-z0-9-]+)?"
    r"( states=unsigned)?( reason=\w+)?( times=\d+)?"
    r"|authorize started connection=[a-z0-9-]+ reference=[0-9a-f]{16}( environment=[a-z0-9-]+)?"
    r"|no token from Entra: reason=\w+ entra_status=(None|\d{3})"
    r"|setting STATE_POLICY: is opaque at [a-z0-9-]+, strangers write rows"
)
"""All that the relay may ever log: every test here is held against it."""


@dataclass
class Elsewhere:
    """A host that answers as it is told, path by path, and keeps who asked for what."""

    answers: dict[str, Callable[[], Response]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = Incoming(scope, receive).url.path
        self.asked.append(path)
        answer = self.answers.get(path, lambda: Response(status_code=404))()
        await answer(scope, receive, send)


class Page(HTMLParser):
    """A page as a browser reads it: its tags with their attributes, and the text in them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data


class Lines(logging.Handler):
    """Every record of the relay's loggers, the rest of the process's left out."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


SHOWN = r"(?:&to=[a-z0-9-]+)?(?:&via=authorize)?"
"""What else the last page's URL may hold: a configured name, and a word of the relay's."""


class Site:
    """One relay with a connection for each way of checking, and all that it could reach."""

    def __init__(
        self,
        world: World,
        elsewhere: Elsewhere,
        elsewhere_url: str,
        trap: Server,
        lines: Lines,
    ) -> None:
        self.world, self.elsewhere, self.trap, self.lines = world, elsewhere, trap, lines
        self.server = world.relay_server
        self.url = self.server.url
        self.elsewhere_url = elsewhere_url
        self.program = world.client(headers=PROGRAM)
        self.tls = world.authority.client_context()

    def browser(self) -> httpx.Client:
        """Return a person's browser, which has a jar of its own."""
        return self.world.client(headers=HTML)

    def touched(self) -> dict[str, object]:
        """Count everything that a callback could reach: none of it may move under attack."""
        queues = self.world.queues
        return {
            "entra": (self.world.entra.token_requests, self.world.entra.metadata_requests),
            "entra's port": self.world.entra_server.connections,
            "dynamics": len(self.world.dynamics.requests),
            "dynamics' port": self.world.dynamics_server.connections,
            "rows": len(self.world.dynamics.rows),
            "queues": {name: queues.count(name) for name in queues.names()},
            "elsewhere": len(self.elsewhere.asked),
            "trap": self.trap.connections,
        }

    @contextmanager
    def untouched(self) -> Iterator[None]:
        before = self.touched()
        yield
        assert self.touched() == before

    def refused(
        self,
        path: str,
        reason: str,
        status: int = 400,
        *,
        method: str = "GET",
        outcome: str = "invalid",
        **options: Any,
    ) -> httpx.Response:
        """Send it as a program and as a browser; return what the program was told."""
        mine = options.pop("headers", {})
        with self.untouched(), self.browser() as browser:
            told = self.program.request(method, self.url + path, headers=mine, **options)
            assert self.reason() == reason
            sent_on = browser.request(method, self.url + path, headers=HTML | mine, **options)
            assert self.reason() == reason
        assert (told.status_code, told.json()["outcome"]) == (status, outcome)
        assert "canary" not in told.text + str(told.headers) + sent_on.text + str(sent_on.headers)
        if sent_on.status_code != status:
            assert sent_on.status_code == 303
            assert re.fullmatch(
                rf"/done/{outcome}\?ref=[0-9a-f]{{16}}{SHOWN}", sent_on.headers["location"]
            )
        return told

    def delivered(self, path: str, **options: Any) -> dict[str, Any]:
        """Send what is right, and return what Dynamics got."""
        posts = self.world.dynamics.posts
        told = self.program.get(self.url + path, **options)
        assert told.json()["outcome"] == "delivered"
        assert self.world.dynamics.posts == posts + 1
        body: dict[str, Any] = json.loads(self.world.dynamics.requests[-1].body)
        return body

    def reason(self) -> str:
        """Return the fixed word of the last line in the log."""
        return str(getattr(self.lines.records[-1], "reason", ""))

    def raw(self, request: bytes) -> tuple[int, bytes]:
        """Send these very bytes; return the status and all that came back."""
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as plain,
            self.tls.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return int(answer.split(b" ", 2)[1]), answer

    def link(self, jti: str = "") -> str:
        """Return what Dynamics opens in a person's browser."""
        return f"/authorize/flow?ticket={ticket(jti=jti or secrets.token_urlsafe(16))}"

    def consent(self, browser: httpx.Client) -> str:
        """Start a flow, sign in and consent; return the URL that the provider sends back to."""
        to_provider = browser.get(self.url + self.link()).headers["location"]
        form = {"username": USER, "password": PASSWORD, "decision": "allow"}
        return str(browser.post(to_provider, data=form).headers["location"])

    def redeem(self, body: dict[str, Any]) -> dict[str, Any]:
        """Redeem a delivered code as Dynamics does."""
        form = {
            "grant_type": "authorization_code",
            "code": body["code"],
            "redirect_uri": body["redirect_uri"],
            "code_verifier": body["code_verifier"],
            "client_id": "flow",
            "client_secret": "sandbox~secret.of.flow",
        }
        answer = self.program.post(f"{self.world.provider_server.url}/token", data=form).json()
        assert isinstance(answer, dict)
        return answer


def connections(world: World, elsewhere: str, trap: str) -> dict[str, str]:
    """Return the settings of a connection for each way of checking; `default` is opaque."""
    jarm = {
        "PROVIDER_RESPONSE_MODE": "jwt",
        "PROVIDER_ISSUER": ISSUER,
        "PROVIDER_CLIENT_ID": CLIENT,
    }
    flow = {
        "PROVIDER_CLIENT_ID": "flow",
        "PROVIDER_AUTHORIZATION_ENDPOINT": f"{world.provider_server.url}/authorize",
        "PROVIDER_REDIRECT_URI": f"{world.redirect_uri}/flow",
        "DYNAMICS_BODY": '{"code": "{code}", "state": "{state_hash}",'
        ' "code_verifier": "{code_verifier}", "redirect_uri": "{redirect_uri}"}',
    }
    told = '{"code": "{code}", "state": "{state_hash}", "error": "{error}"}'
    groups: dict[str, dict[str, str]] = {
        "PATTERN": {"STATE_POLICY": "pattern", "STATE_PATTERN": "^cb-[0-9]{1,8}$"},
        "SIGNED": {"STATE_POLICY": "signed"},
        "OTHER": {"STATE_POLICY": "signed"},
        "STRICT": {"PROVIDER_ISS_REQUIRED": "true"},
        "TELLS": {"STATE_POLICY": "signed", "DYNAMICS_BODY": told},
        "FLOW": {"STATE_POLICY": "signed", **flow},
        "FLOW_TELLS": {"STATE_POLICY": "signed", **flow, "DYNAMICS_BODY": told},
        "SECURED": {**jarm, "STATE_POLICY": "signed", "PROVIDER_JWKS_URI": f"{elsewhere}/keys"},
        "FLOOD": {**jarm, "PROVIDER_JWKS_URI": f"{elsewhere}/flood"},
        "KEYS_MOVED": {**jarm, "PROVIDER_JWKS_URI": f"{elsewhere}/moved"},
        "METADATA": {**jarm, "PROVIDER_ISSUER": elsewhere},
        "MOVED": {
            "DYNAMICS_URL": f"{elsewhere}/data/OAuthCallbacks",
            "DYNAMICS_SCOPE": f"{world.dynamics_server.url}/.default",
        },
        "ASTRAY": {
            "ENTRA_AUTHORITY": f"{elsewhere}/tenant",
            "ENTRA_CLIENT_SECRET": "canary-of-astray",
        },
        "ECHO": {
            "DYNAMICS_URL": f"{elsewhere}/data/Echo",
            "DYNAMICS_SCOPE": f"{world.dynamics_server.url}/.default",
        },
    }
    return {
        f"CONNECTIONS__{name}__{setting}": value
        for name, group in groups.items()
        for setting, value in group.items()
    }


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    lines, elsewhere = Lines(), Elsewhere()
    logger = logging.getLogger("relay")
    level = logger.level
    # Every attack looks for its line; test_flood.py has what happens where there are too many.
    written, log.WRITTEN = log.WRITTEN, 1_000_000
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    settings = {
        "OUTBOX_KEYS": Fernet.generate_key().decode(),
        "STATE_KEYS": f"k1:{b64(KEY)}",
        "DYNAMICS_BODY": BODY,
        # What is held here stays where it is: its deliveries would look like an attack's.
        "AzureWebJobs.redeliver.Disabled": "true",
    }
    with World(settings, further=("dataAreaId", "code_verifier", "redirect_uri")) as world:
        tls = world.authority.server_context()
        with Server(elsewhere, tls=tls) as there, Server(Elsewhere()) as trap:
            elsewhere.answers |= {
                "/keys": lambda: JSONResponse({"keys": [published(ES, "ed"), rsa_jwk()]}),
                "/flood": lambda: JSONResponse({"keys": [published(ES, "ed")]}),
            }
            world.relay_server.stop()
            further = connections(world, there.url, trap.url)
            world.relay_server = world.serve(world.settings | further, port=world.relay_server.port)
            uri = f"{world.redirect_uri}/flow"
            flow = Registration("flow", "sandbox~secret.of.flow", (uri, f"{uri}-tells"))
            world.provider.clients["flow"] = flow
            found = Site(world, elsewhere, there.url, trap, lines)
            # So that no counter moves only because it is the first time.
            found.delivered(f"/callback?code=warm&state={secrets.token_urlsafe(8)}")
            yield found
            found.program.close()
    logger.removeHandler(lines)
    logger.setLevel(level)
    log.WRITTEN = written


@pytest.fixture(autouse=True)
def the_log_says_fixed_words_only(site: Site) -> Iterator[None]:
    site.lines.records.clear()
    yield
    for record in site.lines.records:
        assert LINE.fullmatch(record.getMessage()), record.getMessage()


def rsa_jwk() -> dict[str, object]:
    public = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    return {**public, "kid": "rsa", "use": "sig", "alg": "RS256"}


def state(key: bytes = KEY, header: dict[str, object] | None = None, **claims: object) -> str:
    """Return a state as Dynamics mints it for the connection `signed`, but for these members."""
    right = {
        "aud": "callback:signed",
        "exp": int(time.time()) + 300,
        "jti": secrets.token_urlsafe(16),
    }
    head = but({"alg": "HS256", "typ": "JWT", "kid": "k1"}, header or {})
    return compact(head, but(right, claims), hs256(key))


def ticket(key: bytes = KEY, **claims: object) -> str:
    """Return a ticket as Dynamics mints it for the connection `flow`, but for these members."""
    return state(key, None, **{"aud": "authorize:flow", **claims})


def secured(
    header: dict[str, object] | None = None,
    sign: Callable[[bytes], bytes] = ES.sign,
    **claims: object,
) -> str:
    """Return a JWT-secured response for the connection `secured`, but for these members."""
    right = {"iss": ISSUER, "aud": CLIENT, "exp": int(time.time()) + 300, "code": CODE}
    head = but({"alg": "EdDSA", "kid": "ed"}, header or {})
    inner = {"state": state(aud="callback:secured"), **claims}
    return compact(head, but(right, inner), sign)


def at(name: str, **parameters: str) -> str:
    return f"/callback/{name}?{urlencode(parameters)}"


def fresh() -> str:
    return f"canary-{secrets.token_urlsafe(8)}"


# == to put one's own account, or one's own code, into somebody else's Dynamics ===================


def test_login_csrf_with_a_made_up_state_is_refused(site: Site) -> None:
    """CVE-2025-14546 (state never checked), omi #14444; RFC 6749 §10.12, RFC 9700 §2.1."""
    for made_up in (STATE, "1", "cb-", "cb-1x", "xcb-1", "cb-123456789", "cb-1\n", "a.b.c"):
        site.refused(at("pattern", code=CODE, state=made_up), "state_mismatch")
        site.refused(at("signed", code=CODE, state=made_up), "state_malformed")


def test_login_csrf_without_a_state_is_refused(site: Site) -> None:
    """RFC 6749 §10.12, RFC 9700 §4.7: no policy takes a response that has no state."""
    for name in ("default", "pattern", "signed", "flow"):
        for query in (f"code={CODE}", f"code={CODE}&state=", f"code={CODE}&State=cb-1"):
            site.refused(f"/callback/{name}?{query}", "state_missing")
            form = {"content-type": "application/x-www-form-urlencoded"}
            where = f"/callback/{name}"
            site.refused(where, "state_missing", method="POST", content=query, headers=form)


def test_a_state_that_was_forged_with_another_key_is_refused(site: Site) -> None:
    """CVE-2025-68481 (state that anybody could have made); RFC 9700 §4.7, RFC 7515 §5.2."""
    for key in (STRANGERS_KEY, b"", b64(KEY).encode(), b"k1", bytes(32)):
        site.refused(at("signed", code=CODE, state=state(key)), "state_signature")


def test_a_state_that_was_changed_is_refused(site: Site) -> None:
    """RFC 9700 §4.7 ("protected against tampering"), RFC 8725 §3.1."""
    header, claims, signature = state().split(".")
    other = state(jti="another-flow-0123").split(".")[1]
    for text in (
        f"{header}.{other}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{b64(bytes(32))}",
    ):
        site.refused(at("signed", code=CODE, state=text), "state_signature")


def test_a_state_that_was_swapped_between_two_connections_is_refused(site: Site) -> None:
    """RFC 9700 §4.7 ("and swapping"), §4.4.2.2: the same key, another redirect URI."""
    site.refused(at("other", code=CODE, state=state()), "state_audience")
    site.refused(at("signed", code=CODE, state=state(aud="callback:other")), "state_audience")
    both = state(aud=["callback:signed", "callback:other"])
    site.refused(at("signed", code=CODE, state=both), "state_audience")


def test_a_state_that_was_kept_for_later_is_refused(site: Site) -> None:
    """n8n PR 11593 and 31214 (state without an age); RFC 9700 §2.1, ASVS 9.2.1."""
    now = int(time.time())
    for reason, exp in (("expired", now - 61), ("lifetime", now + 4000), ("times", None)):
        site.refused(at("signed", code=CODE, state=state(exp=exp)), f"state_{reason}")


def test_a_state_respelled_to_look_like_another_one_is_refused(site: Site) -> None:
    """RFC 7515 §2: base64url with one spelling, or one state would be two unique keys."""
    good = state()
    for text in (good + "=", good.replace(".", "=.", 1), good + "%", f" {good}", f"{good}\n"):
        site.refused(at("signed", code=CODE, state=text), "state_malformed")
    assert site.delivered(at("signed", code=CODE, state=good))


def test_session_fixation_with_a_flow_that_began_in_another_browser_is_refused(site: Site) -> None:
    """CVE-2025-68158, CVE-2026-41425, CVE-2025-68481; RFC 9700 §2.1, §4.7: two browsers."""
    with site.browser() as attacker, site.browser() as victim:
        link = site.consent(attacker).removeprefix(site.url)
        with site.untouched():
            assert victim.get(site.url + link).headers["location"].startswith("/done/invalid?")
            assert site.reason() == "state_cookie_missing"
            victim.get(site.url + site.link())
            # A flow of the victim's own does not help: each has its own cookie.
            assert victim.get(site.url + link).headers["location"].startswith("/done/invalid?")
        assert attacker.get(site.url + link).headers["location"].startswith("/done/delivered?")


def test_cookie_tossing_of_a_second_cookie_of_the_same_name_is_refused(site: Site) -> None:
    """Cookie Crumbles (USENIX Security 2023, 12 CVEs); RFC 6265bis §4.1.3.2."""
    with site.browser() as browser:
        link = site.consent(browser).removeprefix(site.url)
        [(name, value)] = browser.cookies.items()
    for cookies, reason in (
        (f"{name}={value}; {name}={'x' * 43}", "repeated"),
        (f"{name}={'x' * 43}; {name}={value}", "repeated"),
        (f"{name}={'x' * 43}", "mismatch"),
        (f"{name.upper()}={value}", "missing"),
        (f"{name}\t={value}", "missing"),
        (f'x="; {name}={value}"', "mismatch"),
        (f"{name.removeprefix('__Host-')}={value}", "missing"),
    ):
        site.refused(link, f"state_cookie_{reason}", headers={"cookie": cookies})
    assert site.delivered(link, headers={"cookie": f"{name}={value}"})


def test_cookie_tossing_from_a_sibling_host_has_no_cookie_that_it_could_set(site: Site) -> None:
    """Cookie Crumbles; RFC 6265bis §4.1.3.2: `__Host-` with Secure, Path=/ and no Domain."""
    with site.browser() as browser:
        cookie = browser.get(site.url + site.link()).headers["set-cookie"]
    name, *attributes = cookie.split("; ")
    assert name.startswith("__Host-relay-")
    assert sorted(attributes) == ["HttpOnly", "Max-Age=600", "Path=/", "SameSite=Lax", "Secure"]


def test_mix_up_with_a_response_of_another_issuer_is_refused(site: Site) -> None:
    """RFC 9700 §4.4, RFC 9207 §2.4: exact comparison, whatever looks nearly the same."""
    issuer = site.world.provider_server.url
    for other in (
        "https://attacker.example",
        f"{issuer}/",
        issuer.upper(),
        issuer.replace("localhost", "LOCALHOST"),
        issuer.replace("https", "http"),
        f"{issuer}#",
        f"{issuer} ",
        f"{issuer}.attacker.example",
        issuer.replace("//", "//attacker.example@"),
        quote(issuer, safe=""),
        "null",
    ):
        site.refused(at("default", code=CODE, state=STATE, iss=other), "iss_mismatch")
    assert site.delivered(at("default", code=CODE, state=fresh(), iss=issuer))


def test_mix_up_by_an_error_response_of_another_issuer_is_refused(site: Site) -> None:
    """RFC 9207 §2.4: "error responses included"; nothing of it is shown as a provider's word."""
    words = {"error": "access_denied", "error_description": "canary, call 555-0100"}
    other = {"state": STATE, "iss": "https://attacker.example"}
    site.refused(at("default", **words, **other), "iss_mismatch")


def test_mix_up_by_leaving_out_the_issuer_is_refused_where_it_is_required(site: Site) -> None:
    """RFC 9207 §2.4; mod_auth_openidc 2026: an empty `iss` is none."""
    for query in ("", "&iss=", "&Iss=x", "&iss%20=x"):
        site.refused(f"/callback/strict?code={CODE}&state={STATE}{query}", "iss_missing")


def test_code_injection_through_a_second_code_parameter_is_refused(site: Site) -> None:
    """RFC 6749 §3.1 ("MUST NOT be included more than once"), RFC 9700 §4.5."""
    good, form = state(), {"content-type": "application/x-www-form-urlencoded"}
    for query in (
        f"code={CODE}&code=evil&state={good}",
        f"code=evil&state={good}&code={CODE}",
        f"code={CODE}&%63ode=evil&state={good}",
        f"code={CODE}&code=&state={good}&code=evil",
        f"code={CODE}&code={CODE}&state={good}",
    ):
        site.refused(f"/callback/signed?{query}", "duplicate")
        path, reason = "/callback/signed", "duplicate"
        site.refused(path, reason, method="POST", content=query, headers=form)


def test_parameter_pollution_across_query_and_body_is_refused(site: Site) -> None:
    """RFC 6749 §3.1; CWE-235: what one reader takes from the query and another from the body."""
    good = state()
    for name, value in (("code", "evil"), ("state", good), ("iss", "x"), ("error", "x")):
        path = f"/callback/signed?{urlencode({name: value})}"
        body = {"code": CODE, "state": good, "iss": "x", "error": "x"}
        site.refused(path, "duplicate", method="POST", data=body)
        site.refused(path, "duplicate", method="POST", json=body)


def test_parameter_pollution_through_the_hosts_comma_joining_is_refused(site: Site) -> None:
    """CWE-235, RFC 6749 §3.1: the host hands a function "a,b" (GrpcMessageConversionExtensions)."""
    site.refused("/callback?code=a&code=b&state=s", "duplicate")
    site.refused(f"/callback/signed?code=a&state={state()}&state=x", "duplicate")
    # The host's own names are the same whatever their case; RFC 6749's are not.
    number = fresh()
    assert site.delivered(f"/callback?CODE=evil&code=good&state={number}")["code"] == "good"


def test_a_stolen_code_in_a_flow_of_ones_own_is_stopped_by_pkce(site: Site) -> None:
    """RFC 9700 §4.5 (authorization code injection), RFC 7636 §1: the verifier is another one."""
    with site.browser() as attacker, site.browser() as victim:
        stolen = dict(parse_qsl(urlsplit(site.consent(victim)).query))["code"]
        own = dict(parse_qsl(urlsplit(site.consent(attacker)).query))
        headers = {"cookie": "; ".join(f"{n}={v}" for n, v in attacker.cookies.items())}
        body = site.delivered(at("flow", **{**own, "code": stolen}), headers=headers)
    assert body["code"] == stolen
    assert "error" in site.redeem(body)


def test_pkce_downgrade_through_the_start_of_a_flow_is_refused(site: Site) -> None:
    """RFC 9700 §2.1.1 and §4.8: nobody but the settings has a say in the authorization request."""
    further = {
        "code_challenge": "x" * 43,
        "code_challenge_method": "plain",
        "response_type": "token",
        "redirect_uri": site.trap.url,
        "client_id": "evil",
        "scope": "everything",
        "response_mode": "query",
        "state": "evil",
        "request_uri": site.trap.url,
    }
    with site.browser() as browser, site.untouched():
        answer = browser.get(f"{site.url}{site.link()}&{urlencode(further)}")
    asked = parse_qsl(urlsplit(answer.headers["location"]).query)
    assert sorted(name for name, _ in asked) == [
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "response_type",
        "state",
    ]
    values = dict(asked)
    assert values["code_challenge_method"] == "S256"
    assert values["response_type"] == "code"
    assert values["redirect_uri"] == f"{site.url}/callback/flow"
    assert not set(values.values()) & (set(further.values()) - {"query"})


def test_a_verifier_sent_along_is_not_the_one_that_dynamics_gets(site: Site) -> None:
    """RFC 7636 §4.5, RFC 9700 §4.8: `code_verifier` and `redirect_uri` are nobody's parameters."""
    with site.browser() as browser:
        link = site.consent(browser).removeprefix(site.url)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    evil = f"&code_verifier={'x' * 43}&redirect_uri=https://attacker.example"
    body = site.delivered(link + evil, headers={"cookie": cookies})
    assert body["redirect_uri"] == f"{site.url}/callback/flow"
    assert "access_token" in site.redeem(body)


def test_a_token_in_place_of_a_code_is_refused(site: Site) -> None:
    """RFC 9700 §2.1.2, RFC 6749 §10.16: tokens of the implicit flow, alone or beside a code."""
    for name in ("access_token", "id_token", "token"):
        for further in ({"code": CODE}, {"code": CODE, "token_type": "bearer"}):
            query = {**further, "state": state(), name: "canary-token"}
            site.refused(at("signed", **query), "implicit")
        site.refused(at("signed", state=state(), **{name: "x"}), "implicit")


def test_an_error_beside_a_code_is_refused(site: Site) -> None:
    """RFC 6749 §4.1.2 and §4.1.2.1: one or the other; readers differ in which one they believe."""
    site.refused(at("signed", code=CODE, error="x", state=state()), "code_and_error")


def test_an_error_that_nobody_vouches_for_is_neither_shown_nor_delivered(site: Site) -> None:
    """oauth2-proxy, AppAuth, Authlib: `error` before `state`. RFC 6749 §4.1.2.1, §10.12."""
    words = {"error": "access_denied", "error_description": "canary: call 555-0100"}
    site.refused(at("tells", **words), "state_missing")
    site.refused(at("tells", **words, state=STATE), "state_malformed")
    site.refused(at("tells", **words, state=state()), "state_audience")


def test_a_replay_of_a_delivered_callback_delivers_nothing(site: Site) -> None:
    """intuit MCP PR 77, streamlit PR 15589, discord #6073; RFC 9700 §4.2.4 and §4.5."""
    for name in ("default", "signed"):
        path = at(name, code=CODE, state=state() if name == "signed" else fresh())
        site.delivered(path)
        with site.untouched():
            for _ in range(3):
                assert site.program.get(site.url + path).json()["outcome"] == "delivered"


def test_a_replay_at_another_instance_is_a_duplicate_in_dynamics(site: Site) -> None:
    """RFC 9700 §4.2.4: an instance that has seen nothing of it; the unique key decides."""
    path = at("default", code=CODE, state=fresh())
    site.delivered(path)
    rows = len(site.world.dynamics.rows)
    other = site.world.serve(site.world.settings)
    answers = [site.program.get(other.url + path) for _ in range(2)]
    other.stop()
    assert [answer.json()["outcome"] for answer in answers] == ["duplicate", "duplicate"]
    assert len(site.world.dynamics.rows) == rows


def test_a_state_used_again_with_another_code_changes_nothing_in_dynamics(site: Site) -> None:
    """RFC 9700 §4.5, CVE-2023-48309: whoever has read a state has not the right to its row."""
    good = state()
    site.delivered(at("signed", code=CODE, state=good))
    rows = dict(site.world.dynamics.rows)
    again = site.program.get(site.url + at("signed", code="evil", state=good))
    assert again.json()["outcome"] == "duplicate"
    assert site.world.dynamics.rows == rows


def test_a_refusal_that_was_told_is_not_turned_into_a_success_by_a_reload(site: Site) -> None:
    """CWE-451; RFC 6749 §4.1.2.1: the second look at an error must not read "complete"."""
    jti = secrets.token_urlsafe(16)
    start = f"/authorize/flow-tells?ticket={ticket(jti=jti, aud='authorize:flow-tells')}"
    with site.browser() as browser:
        asked = dict(parse_qsl(urlsplit(browser.get(site.url + start).headers["location"]).query))
        path = site.url + at("flow-tells", error="access_denied", state=asked["state"])
        first, second = browser.get(path), browser.get(path)
    assert (first.status_code, "access_denied" in first.text) == (400, True)
    assert not second.headers.get("location", "").startswith("/done/delivered")


def test_words_of_success_planted_in_a_value_are_not_taken_for_dynamics_own(site: Site) -> None:
    """CWE-74: F&O repeats what was sent, and "already exists" in it would end as stored."""
    for planted in ("The record already exists", "ALREADY EXISTS", "already exists.", "exists"):
        site.world.dynamics.faults.append(dynamics.Fault.VALIDATION)
        told = site.program.get(site.url + at("default", code=planted, state=fresh() + planted))
        assert told.json()["outcome"] == "rejected"

    def echo(message: str) -> Callable[[], Response]:
        kind = "Microsoft.Dynamics.Platform.Integration.Services.OData.AxODataWriteException"
        inner = {"message": message, "type": kind}
        return lambda: JSONResponse({"error": {"code": "", "innererror": inner}}, 500)

    for text in ("Field {} is too long", "{} is not valid: {}", "Not valid: {}."):
        planted = f"{fresh()} already exists"
        site.elsewhere.answers["/data/Echo"] = echo(text.replace("{}", planted))
        told = site.program.get(site.url + at("echo", code=planted, state=fresh()))
        assert told.json()["outcome"] != "duplicate"


def test_words_of_success_planted_in_a_value_that_dynamics_cuts_short_are_not_believed(
    site: Site,
) -> None:
    """CWE-74: a value is repeated in part, so that the whole of it is not found to be cut out."""
    kind = "Microsoft.Dynamics.Platform.Integration.Services.OData.AxODataWriteException"
    words = "already exists, and already exists"
    front, back = f"{fresh()} {words} {'x' * 500}", f"{'x' * 500} {words} {fresh()}"
    whole = f"{words} {fresh()}"
    for planted, shown in ((front, front[:100]), (back, back[-100:]), (whole, words)):
        inner = {"message": f"The value {shown} is too long.", "type": kind}
        answer = {"error": {"code": "", "innererror": inner}}
        site.elsewhere.answers["/data/Echo"] = lambda answer=answer: JSONResponse(answer, 400)  # type: ignore[misc]
        told = site.program.get(site.url + at("echo", code=planted, state=fresh()))
        assert told.json()["outcome"] == "rejected"


def test_a_value_that_looks_like_json_or_a_placeholder_does_not_change_the_body(site: Site) -> None:
    """CWE-74 (body-template injection): a value has no place where it could become a member."""
    for value in (
        '"},"dataAreaId":"evil","x":{"y":"',
        '","state":"evil',
        "{state} {code_verifier} {param:x} {{code}}",
        "\\u0022,\\u0022state\\u0022:\\u0022evil",
        "${jndi:ldap://x} #{7*7} {{7*7}} <%= 7 %>",
        "'; DROP TABLE OAuthCallbackInbox; --",
        "=HYPERLINK(1)",
    ):
        number = fresh()
        hashed = hashlib.sha256(number.encode()).hexdigest()
        body = site.delivered(at("default", code=value, state=number))
        assert body == {"code": value, "state": hashed}


def test_a_message_forged_into_the_outbox_is_never_delivered(site: Site) -> None:
    """CWE-345: who can write to the queue cannot write to Dynamics."""
    strangers = Fernet(Fernet.generate_key())
    content = json.dumps({"version": 1, "connection": "default", "response": {"code": "evil"}})
    settings = {
        "OUTBOX_KEYS": site.world.settings["OUTBOX_KEYS"],
        "AzureFunctionsJobHost__extensions__queues__maxDequeueCount": "1",
    }
    with World(settings) as world:
        world.queues.create(OUTBOX)
        for text in (content, strangers.encrypt(content.encode()).decode(), "gAAAAA", "x"):
            world.queues.send(OUTBOX, base64.b64encode(text.encode()).decode())
        eventually(lambda: everything(world, OUTBOX) == [])
        assert len(everything(world, POISON)) == 4
        assert (world.entra.token_requests, world.dynamics.posts) == (0, 0)


# == to have a forged token believed ===============================================================


def test_token_type_confusion_of_a_ticket_as_a_state_is_refused(site: Site) -> None:
    """CVE-2023-48309 (a JWT of one kind taken for another); RFC 8725 §3.11 and §3.12."""
    site.refused(at("flow", code=CODE, state=ticket()), "state_audience")


def test_token_type_confusion_of_a_state_as_a_ticket_is_refused(site: Site) -> None:
    """CVE-2023-48309; RFC 8725 §3.12: else everybody with a state could start flows."""
    text = state(aud="callback:flow")
    site.refused(f"/authorize/flow?ticket={text}", "ticket_audience")
    with site.browser() as browser:
        asked = browser.get(site.url + site.link()).headers["location"]
    minted = dict(parse_qsl(urlsplit(asked).query))["state"]
    answer = site.program.get(f"{site.url}/authorize/flow?ticket={minted}")
    assert (answer.status_code, site.reason()) == (400, "ticket_audience")
    assert "set-cookie" not in answer.headers


def test_token_type_confusion_between_a_secured_response_and_a_state_is_refused(
    site: Site,
) -> None:
    """CVE-2023-48309; RFC 8725 §3.11, JARM §2.4: neither is the other, whoever signed it."""
    site.refused(at("signed", code=CODE, state=secured()), "state_algorithm")
    site.refused(at("secured", response=state()), "jarm_algorithm")
    site.refused(f"/authorize/flow?ticket={secured()}", "ticket_algorithm")


def test_a_ticket_of_another_connection_starts_no_flow(site: Site) -> None:
    """RFC 9700 §4.7: strangers, and other connections' tickets, start nothing."""
    site.refused("/authorize/flow", "ticket_missing")
    site.refused(f"/authorize/flow?ticket={ticket()}&ticket={ticket()}", "ticket_repeated")
    site.refused(f"/authorize/flow?ticket={ticket(aud='authorize:other')}", "ticket_audience")
    site.refused(f"/authorize/flow?ticket={ticket(STRANGERS_KEY)}", "ticket_signature")
    site.refused(f"/authorize/flow?ticket={ticket(exp=int(time.time()) - 61)}", "ticket_expired")


def test_alg_none_is_refused(site: Site) -> None:
    """CVE-2026-28802 (Authlib) and its many siblings; RFC 8725 §3.2."""
    for alg in ("none", "None", "NONE", "nOnE", "", None, ["HS256"], ...):
        for sign in (hs256(KEY), lambda _: b""):
            text = compact(
                but({"alg": "HS256", "kid": "k1"}, {"alg": alg}), {"aud": "callback:signed"}, sign
            )
            site.refused(at("signed", code=CODE, state=text), "state_algorithm")
            text = secured({"alg": alg}, sign)
            site.refused(at("secured", response=text), "jarm_algorithm")


def test_a_public_key_used_as_an_hmac_secret_is_refused(site: Site) -> None:
    """CVE-2022-29217 (PyJWT), CVE-2024-37568 (Authlib): HS/RS confusion; RFC 8725 §3.1."""
    public = RSA.public_key()
    forms = (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(rsa_jwk()).encode(),
        b64(public.public_numbers().n.to_bytes(256)).encode(),
    )
    for secret in forms:
        for algorithm, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):

            def sign(text: bytes, secret: bytes = secret, digest: str = digest) -> bytes:
                return hmac.digest(secret, text, digest)

            text = secured({"alg": algorithm, "kid": "rsa"}, sign)
            site.refused(at("secured", response=text), "jarm_algorithm")


def test_an_asymmetric_algorithm_in_a_state_is_refused(site: Site) -> None:
    """CVE-2026-48523 (PyJWT 2.9.0 to 2.12.1: allow-list bypass by PyJWK); RFC 8725 §3.1."""
    for algorithm in ("RS256", "EdDSA", "HS384", "HS512", "hs256", "ES256K", "dir"):
        text = state(header={"alg": algorithm})
        site.refused(at("signed", code=CODE, state=text), "state_algorithm")


def test_a_key_id_with_a_trick_in_it_is_refused(site: Site) -> None:
    """RFC 8725 §3.10: paths, SQL, commands, other types; a `kid` is looked up, never opened."""
    for kid in (
        "../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "k1' UNION SELECT 'x",
        "|sleep 5",
        "file:///etc/passwd",
        site.trap.url,
        "k1\x00",
        "K1",
        "",
        0,
        True,
        None,
        ["k1"],
        {"k1": 1},
        "__proto__",
        "constructor",
        ...,
    ):
        text = state(header={"kid": kid}, key=b"")
        site.refused(at("signed", code=CODE, state=text), "state_key")


def test_a_key_that_the_token_brings_along_is_not_used(site: Site) -> None:
    """RFC 8725 §3.10, RFC 7515 §10.7: `jwk`, `jku`, `x5u`, `x5c` of the attacker's."""
    own = Ed25519PrivateKey.generate()
    brought: dict[str, object] = {
        "jwk": published(own, "ed"),
        "jku": f"{site.trap.url}/keys",
        "x5u": f"{site.trap.url}/chain",
        "x5c": ["MIIB"],
    }
    site.program.get(site.url + at("secured", response=secured()))  # the keys are there now
    site.refused(at("secured", response=secured(brought, own.sign)), "jarm_signature")
    with_key = state(STRANGERS_KEY, header={**brought, "jwk": {"kty": "oct", "k": b64(KEY)}})
    site.refused(at("signed", code=CODE, state=with_key), "state_signature")


def test_a_header_that_changes_what_is_signed_is_refused(site: Site) -> None:
    """RFC 7515 §4.1.11 (`crit`), RFC 7797 (`b64`)."""
    headers: tuple[dict[str, object], ...] = (
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"b64": False, "crit": ["b64"]},
    )
    for header in headers:
        text = state(header=header)
        site.refused(at("signed", code=CODE, state=text), "state_critical")
        site.refused(at("secured", response=secured(header)), "jarm_critical")


def test_a_claim_that_stands_twice_is_refused(site: Site) -> None:
    """RFC 7515 §4, RFC 8259 §4: the one who signed may have read the other one."""
    exp = int(time.time()) + 300
    claims = f'{{"aud":"callback:signed","exp":{exp},"jti":"{"j" * 16}"'
    header = '{"alg":"HS256","kid":"k1"'
    for head, body in (
        (header + "}", claims + ',"aud":"callback:signed"}'),
        (header + "}", claims + f',"\\u0065xp":{exp}}}'),
        (header + ',"alg":"HS256"}', claims + "}"),
        (header + "}", claims + ',"x":NaN}'),
    ):
        text = compact(head, body, hs256(KEY))
        site.refused(at("signed", code=CODE, state=text), "state_malformed")


def test_numbers_that_are_none_do_not_make_a_state_live_for_ever(site: Site) -> None:
    """RFC 7519 §4.1.4, RFC 8725 §3.8: booleans, strings, floats and giants as `exp`."""
    now = int(time.time())
    none: tuple[object, ...] = (True, False, str(now + 300), now + 300.0, [now + 300], {}, ...)
    for exp in none:
        site.refused(at("signed", code=CODE, state=state(exp=exp)), "state_times")
    for exp in (10**30, (now + 300) * 1000):
        site.refused(at("signed", code=CODE, state=state(exp=exp)), "state_lifetime")


def test_jarm_downgrade_to_a_plain_response_is_refused(site: Site) -> None:
    """JARM §2.4 and §5: whoever could leave the JWT out would need no signature."""
    good = state(aud="callback:secured")
    site.refused(at("secured", code=CODE, state=good), "jarm_missing")
    site.refused(at("secured", error="access_denied", state=good), "jarm_missing")
    site.refused(at("secured", response="", code=CODE, state=good), "jarm_missing")
    for beside in ({"code": "evil"}, {"state": good}, {"error": "x"}):
        site.refused(at("secured", response=secured(), **beside), "jarm_beside")
    path = "/callback/secured"
    site.refused(path, "jarm_missing", method="POST", data={"code": CODE, "state": good})
    site.refused(path, "jarm_missing", method="POST", json={"code": CODE, "state": good})


def test_a_secured_response_for_somebody_else_is_refused_before_a_key_is_fetched(
    site: Site,
) -> None:
    """JARM §2.4 (`iss`, `aud`, `exp`), GHSA-9vm7-v8wj-3fqw; RFC 8725 §3.8 and §3.9."""
    now = int(time.time())
    for reason, claims in (
        ("issuer", {"iss": "https://attacker.example"}),
        ("issuer", {"iss": f"{ISSUER}/"}),
        ("issuer", {"iss": ...}),
        ("audience", {"aud": "another-client"}),
        ("audience", {"aud": []}),
        ("audience", {"aud": ...}),
        ("expired", {"exp": now - 61}),
        ("lifetime", {"exp": now + 3600}),
        ("times", {"exp": ...}),
        ("early", {"nbf": now + 600}),
    ):
        site.refused(at("secured", response=secured(None, ES.sign, **claims)), f"jarm_{reason}")


def test_a_secured_response_brings_no_state_past_its_check(site: Site) -> None:
    """RFC 9700 §4.7, JARM §2.4: a signature of the provider's is no proof of who began."""
    site.program.get(site.url + at("secured", response=secured()))  # the keys are there now
    site.refused(at("secured", response=secured(state=STATE)), "state_malformed")
    site.refused(at("secured", response=secured(state=state())), "state_audience")
    site.refused(at("secured", response=secured(state=...)), "state_missing")
    site.refused(at("secured", response=secured(access_token="x")), "implicit")
    site.refused(at("secured", response=secured(code=["x"])), "json")


def test_a_flood_of_unknown_key_ids_fetches_the_keys_once(site: Site) -> None:
    """mod_auth_openidc 2026 (JWKS refetch by unknown `kid`): a hundred strangers, one fetch."""
    with site.browser():
        for number in range(100):
            path = at("flood", response=secured({"kid": f"unknown-{number}"}))
            assert site.program.get(site.url + path).json()["outcome"] == "invalid"
            assert site.reason() == "jarm_key"
    assert site.elsewhere.asked.count("/flood") == 1


# == to make the relay, or the browser, go elsewhere ===============================================


REDIRECTING = (
    "redirect_uri",
    "redirect",
    "redirect_url",
    "return",
    "return_to",
    "returnUrl",
    "returnTo",
    "next",
    "url",
    "continue",
    "target",
    "target_link_uri",
    "post_logout_redirect_uri",
    "RelayState",
    "goto",
    "dest",
    "callback",
    "origin",
    "state_url",
    "error_uri",
    "app_url",
    "exp+url",
    "path",
    "location",
    "Location",
    "X-Original-URL",
    "forward",
    "to",
    "r",
    "u",
)


def test_an_open_redirect_through_any_parameter_is_refused(site: Site) -> None:
    """CVE-2023-28131 (Expo's callback relay), CVE-2022-23527, CVE-2024-8883; RFC 9700 §4.11."""
    with site.browser() as browser:
        for name in REDIRECTING:
            for target in ("https://attacker.example", "//attacker.example", "javascript:alert(1)"):
                path = at("signed", code=CODE, state=STATE, **{name: target})
                with site.untouched():
                    location = browser.get(site.url + path).headers["location"]
                assert re.fullmatch(rf"/done/invalid\?ref=[0-9a-f]{{16}}{SHOWN}", location)
        path = f"/callback?code={CODE}&state={fresh()}&return_to=//attacker.example"
        location = browser.get(site.url + path).headers["location"]
    assert re.fullmatch(rf"/done/delivered\?ref=[0-9a-f]{{16}}{SHOWN}", location)


def test_an_open_redirect_through_the_path_is_refused(site: Site) -> None:
    """CVE-2024-8883, GHSA-9vm7-v8wj-3fqw; CWE-601: `//host/callback` would be another host's."""
    for path in (
        "//attacker.example/callback",
        "//attacker.example/callback/default",
        "/%2f/attacker.example/callback",
        "/\\attacker.example/callback",
        "/callback//attacker.example",
        "/callback/%2f%2fattacker.example",
        "/callback/..%2f..%2fdone",
        "/done//attacker.example",
        "/done/delivered/..%2f%2fattacker.example",
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n"
        with site.untouched():
            status, answer = site.raw(f"{head}Connection: close\r\n\r\n".encode())
        assert status in (303, 404)
        assert b"attacker" not in answer
        assert b"<script" not in answer
        if status == 303:
            assert b"\r\nlocation: /done/unknown?ref=" in answer.lower()


def test_a_spoofed_host_does_not_change_where_the_browser_goes(site: Site) -> None:
    """CVE-2026-40575, CVE-2025-64484 (oauth2-proxy), CWE-644; RFC 9700 §4.13."""
    spoofed = {
        "host": "attacker.example",
        "x-forwarded-host": "attacker.example",
        "x-forwarded-proto": "http",
        "x-forwarded-uri": "//attacker.example",
        "x_forwarded_uri": "//attacker.example",
        "x-forwarded-prefix": "//attacker.example",
        "x-original-url": "//attacker.example",
        "x-original-host": "attacker.example",
        "x-rewrite-url": "//attacker.example",
        "forwarded": "host=attacker.example;proto=http",
        "x-http-method-override": "DELETE",
    }
    with site.browser() as browser:
        path = at("signed", code=CODE, state=STATE)
        with site.untouched():
            answer = browser.get(site.url + path, headers=spoofed)
        assert re.fullmatch(
            rf"/done/invalid\?ref=[0-9a-f]{{16}}{SHOWN}", answer.headers["location"]
        )
        start = browser.get(site.url + site.link(), headers=spoofed)
        asked = dict(parse_qsl(urlsplit(start.headers["location"]).query))
    assert asked["redirect_uri"] == f"{site.url}/callback/flow"
    assert "attacker" not in str(answer.headers) + answer.text + str(start.headers)


def test_a_principal_that_a_stranger_claims_opens_nothing(site: Site) -> None:
    """EasyAuth's headers without EasyAuth; CWE-290. The host's own keys neither."""
    principal = base64.b64encode(b'{"auth_typ":"aad","claims":[]}').decode()
    claimed = {
        "x-ms-client-principal": principal,
        "x-ms-client-principal-id": "admin",
        "x-ms-client-principal-name": "admin@contoso.com",
        "x-ms-token-aad-access-token": "x",
        "x-functions-key": "local",
        "authorization": "Bearer x",
        "x-arr-ssl": "true",
        "x-forwarded-for": "127.0.0.1",
    }
    path = at("signed", code=CODE, state=STATE)
    site.refused(path, "state_malformed", headers=claimed)
    number = fresh()
    body = site.delivered(at("default", code=CODE, state=number), headers=claimed)
    assert set(body) == {"code", "state"}
    seen = site.world.dynamics.requests[-1].headers
    assert not [name for name in seen if name.startswith("x-ms-client-principal")]


def test_ssrf_through_any_parameter_is_refused(site: Site) -> None:
    """twenty #25638, CVE-2026-1180 (Keycloak, jwks_uri), CVE-2023-28131; CWE-918."""
    trap = site.trap.url
    addresses = (
        trap,
        f"{trap}/x",
        "http://169.254.169.254/metadata/identity",
        "file:///etc/passwd",
    )
    names = ("request_uri", "jwks_uri", "jku", "x5u", "kid", "error_uri", "request", "logo_uri")
    for address in addresses:
        site.refused(at("default", code=CODE, state=STATE, iss=address), "iss_mismatch")
        header: dict[str, object] = {"jku": address, "x5u": address, "kid": address}
        path = at("secured", response=secured({**header, "kid": "ed"}, iss=address))
        site.refused(path, "jarm_issuer")
        site.refused(at("signed", code=CODE, state=state(header={"kid": address})), "state_key")
        for name in names:
            path = at("signed", code=CODE, state=STATE, **{name: address})
            site.refused(path, "state_malformed")


def test_ssrf_through_the_issuers_own_metadata_reaches_no_http_address(site: Site) -> None:
    """CVE-2026-1180; CWE-918: what trusts whoever reaches it inside a data centre speaks http."""
    issuer = site.elsewhere_url
    addresses = iter((f"{site.trap.url}/keys", "http://169.254.169.254/keys"))
    site.elsewhere.answers["/.well-known/oauth-authorization-server"] = lambda: JSONResponse(
        {"issuer": issuer, "jwks_uri": next(addresses)}
    )
    for _ in range(2):
        told = site.program.get(site.url + at("metadata", response=secured(iss=issuer)))
        assert (told.status_code, told.json()["outcome"]) == (503, "rejected")
        assert site.reason() in ("jwks_metadata", "jwks_404")
    assert not list(addresses)
    assert site.trap.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_dynamics_carries_no_code_and_no_token_to_a_second_host(
    site: Site, status: int
) -> None:
    """adcp-client #2427 (a POST follows a 307 and leaks); CWE-601, RFC 9110 §15.4.8."""
    target = f"{site.trap.url}/data/OAuthCallbacks"
    site.elsewhere.answers["/data/OAuthCallbacks"] = lambda: RedirectResponse(target, status)
    told = site.program.get(site.url + at("moved", code=CODE, state=fresh()))
    assert (told.status_code, site.reason()) == (202, "dynamics_redirect")
    assert "/data/OAuthCallbacks" in site.elsewhere.asked
    assert site.trap.connections == 0
    assert site.trap.url not in told.text


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_of_entra_carries_no_client_secret_to_a_second_host(
    site: Site, status: int
) -> None:
    """adcp-client #2427: the client secret is in the body of that very POST."""
    base = f"{site.elsewhere_url}/tenant"
    metadata = {
        "issuer": f"{base}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "jwks_uri": f"{base}/keys",
    }
    moved = f"{site.trap.url}/token"
    site.elsewhere.answers |= {
        "/tenant/v2.0/.well-known/openid-configuration": lambda: JSONResponse(metadata),
        "/tenant/oauth2/v2.0/token": lambda: RedirectResponse(moved, status),
    }
    asked = site.elsewhere.asked.count("/tenant/oauth2/v2.0/token")
    end = time.monotonic() + 10
    while site.elsewhere.asked.count("/tenant/oauth2/v2.0/token") == asked:
        told = site.program.get(site.url + at("astray", code=CODE, state=fresh()))
        assert told.status_code == 202  # held: what is no JSON is not Entra's word
        assert time.monotonic() < end
    assert site.trap.connections == 0


def test_a_redirect_of_the_issuer_is_not_followed_to_the_keys(site: Site) -> None:
    """CVE-2026-1180, adcp-client #2427: else any open redirect there would serve keys."""
    moved = f"{site.trap.url}/keys"
    site.elsewhere.answers["/moved"] = lambda: RedirectResponse(moved, 307)
    told = site.program.get(site.url + at("keys-moved", response=secured()))
    assert (told.status_code, site.reason()) == (503, "jwks_307")
    assert site.trap.connections == 0


# == to run in the person's browser, or to read what is in it ======================================


PAYLOADS = (
    "<script>alert(1)</script>",
    "</code></dd></dl><img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    "</style><script>alert(1)</script>",
    '" autofocus onfocus=alert(1) x="',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<!--",
    "]]><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "\uff1cscript\uff1ealert(1)",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "<base href=//attacker.example>",
    "<meta http-equiv=refresh content=0;url=//attacker.example>",
    "{{constructor.constructor('alert(1)')()}}",
)


def shape(html: str) -> list[tuple[str, tuple[tuple[str, str | None], ...]]]:
    return Page(html).shape


@pytest.mark.parametrize("name", ["error", "error_description"])
def test_reflected_xss_through_the_providers_words_stays_text(site: Site, name: str) -> None:
    """GHSA-gh95-xx4q-qch8, fastmcp PR 2090, mcp-remote #369, oauth2client #709; CWE-79."""
    with site.browser() as browser, site.untouched():
        # Any error but a person's decision has the page of a fault.
        error = "harmless" if name == "error" else "access_denied"
        words = {"error": error, "error_description": "harmless"}
        plain = browser.get(site.url + at("signed", state=state(), **words))
        for payload in PAYLOADS:
            sent = at("signed", state=state(), **{**words, name: payload})
            page = browser.get(site.url + sent)
            if page.status_code == 303:  # '"' and '\' are no characters of an `error`
                assert name == "error"
                continue
            assert page.status_code == 400
            shapes = [shape(re.sub("[0-9a-f]{16}", "", each.text)) for each in (page, plain)]
            assert shapes[0] == shapes[1]
            assert payload in Page(page.text).texts["code"]


def test_reflected_xss_through_a_parameter_that_is_not_shown_finds_no_page(site: Site) -> None:
    """GHSA-gh95-xx4q-qch8, CWE-79: nothing but the provider's words is ever repeated."""
    with site.browser() as browser, site.untouched():
        for payload in PAYLOADS:
            marked = f"canary{payload}"
            for name in ("code", "state", "iss", "error_uri", "session_state", "x", marked):
                parameters = {"code": "c", "state": "s", "iss": "i"} | {name: marked}
                answer = browser.get(site.url + at("default", **parameters))
                assert "canary" not in answer.text + str(answer.headers)
            answer = browser.get(
                site.url + at("default", state="s", error="e", error_uri=f"https://{marked}")
            )
            assert "canary" not in answer.text


@pytest.mark.parametrize("where", ["/callback/{}", "/authorize/{}", "/done/{}", "/{}"])
def test_reflected_xss_through_the_path_finds_no_page(site: Site, where: str) -> None:
    """mcp-remote #369, CWE-79: connections and outcomes that stand in the URL are not repeated."""
    with site.browser() as browser, site.untouched():
        for payload in PAYLOADS:
            path = where.format(quote(f"canary{payload}", safe=""))
            for client in (browser, site.program):
                answer = client.get(site.url + path)
                assert answer.status_code in (303, 404)
                assert "canary" not in answer.text + str(answer.headers)


def test_reflected_xss_through_the_reference_finds_no_page(site: Site) -> None:
    """CWE-79: what does not look like a reference is not shown; the page proves nothing."""
    with site.browser() as browser, site.untouched():
        plain = browser.get(f"{site.url}/done/delivered").text
        for payload in (
            *PAYLOADS,
            "0123456789abcdeF",
            "0123456789abcdef\n",
            "0123456789abcdef" * 2,
        ):
            for separator in ("ref", "Ref", "ref=0123456789abcdeg&ref"):
                page = browser.get(f"{site.url}/done/delivered?{separator}={quote(payload)}")
                assert page.text == plain


def pages(site: Site) -> dict[str, httpx.Response]:
    """Return every page that the relay serves, as it came over the wire."""
    with site.browser() as browser:
        found = {
            "bare": browser.get(f"{site.url}/callback"),
            "bare-secured": browser.get(f"{site.url}/callback/secured"),
            "declined": browser.get(site.url + at("default", state=STATE, error="access_denied")),
            "keys": browser.get(site.url + at("keys-moved", response=secured())),
            "prefetch": browser.get(
                site.url + at("default", code="c", state="s"), headers={"purpose": "prefetch"}
            ),
        }
        words = "delivered duplicate held declined invalid unknown rejected misconfigured nothing"
        for outcome in words.split():
            found[outcome] = browser.get(f"{site.url}/done/{outcome}?ref=0123456789abcdef")
    assert all(page.headers["content-type"].startswith("text/html") for page in found.values())
    return found


def test_injected_script_and_style_would_not_run_under_the_policy(site: Site) -> None:
    """RFC 6749 §10.13 and §3.1.2.5, ASVS 3.4.3: hashes of the very bytes that are served."""
    for name, page in pages(site).items():
        served = {
            tag: re.findall(rb"<" + tag + rb">(.*?)</" + tag + rb">", page.content, re.DOTALL)
            for tag in (b"style", b"script")
        }
        policy = {
            directive: value
            for directive, _, value in (
                part.strip().partition(" ")
                for part in page.headers["content-security-policy"].split(";")
            )
        }

        def hashes(tag: bytes, served: dict[bytes, list[bytes]] = served) -> str:
            digests = (hashlib.sha256(text).digest() for text in served[tag])
            return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)

        bare = name.startswith("bare")
        scripted = bare or b"<button" in page.content
        assert len(served[b"script"]) == scripted
        assert policy == {
            "default-src": "'none'",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
            "form-action": "'self'" if bare else "'none'",
            "img-src": "data:",
            "style-src": hashes(b"style"),
            **({"script-src": hashes(b"script")} if scripted else {}),
        }


def test_a_page_hands_nothing_to_whoever_opened_it(site: Site) -> None:
    """GHSA-949x-3mqg-5xfr, contentful PR 11292: `postMessage(code, '*')`; RFC 9700 §4.17."""
    words = (
        "postMessage",
        "opener",
        "parent",
        "localStorage",
        "sessionStorage",
        "fetch(",
        "XMLHttp",
        "document.cookie",
        "innerHTML",
        "document.write",
        "eval(",
        "Function(",
        "import(",
    )
    for page in pages(site).values():
        assert not [word for word in words if word in page.text]
        assert page.headers["cross-origin-opener-policy"] == "same-origin"


def script(site: Site) -> str:
    with site.browser() as browser:
        return Page(browser.get(f"{site.url}/callback").text).texts["script"]


def test_a_fragment_parameter_named_submit_does_not_stop_the_form(site: Site) -> None:
    """DOM clobbering; HTML §4.10.3: a form's inputs shadow its methods."""
    assert "HTMLFormElement.prototype.submit.call(f)" in script(site)
    assert "f.submit" not in script(site)


def test_a_fragment_parameter_named_like_a_method_does_not_stop_the_form(site: Site) -> None:
    """DOM clobbering; HTML §4.10.3 (`LegacyOverrideBuiltIns`): `#code=c&appendChild=x&state=s`."""
    text = script(site)
    # The fields are put into the form all at once: neither while they are made nor from then on is
    # the form asked for anything by its name.
    making, filled, after = text[text.index("p.forEach(") :].partition("f.appendChild(d);")
    assert filled
    assert not re.findall(r"\bf\.\w+", making + after)


def test_the_fragment_is_posted_to_this_host_only(site: Site) -> None:
    """RFC 9700 §4.11, CWE-601: its own path, no base, and a policy for the rest."""
    with site.browser() as browser:
        page = browser.get(f"{site.url}/callback?")
    assert "f.action=location.pathname" in page.text
    assert "<base" not in page.text
    assert "form-action 'self'" in page.headers["content-security-policy"]


EVERYWHERE = (
    "/callback",
    f"/callback?code={CODE}&state=%00",
    f"/callback?state={STATE}&error=access_denied",
    "/callback/nobody?code=c&state=s",
    "/callback/signed?code=c&state=s",
    "/authorize/flow?ticket=x",
    "/done/delivered",
    "/done/x",
    "/health",
    "/no/such/route",
    "/callback/a/b",
)


def everywhere(site: Site, **options: Any) -> Iterator[httpx.Response]:
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"):
        for path in EVERYWHERE:
            for accept in (HTML, PROGRAM):
                headers = accept | options.get("headers", {})
                yield site.program.request(method, site.url + path, headers=headers)


def test_clickjacking_of_any_answer_is_refused_by_its_headers(site: Site) -> None:
    """RFC 9700 §4.16, RFC 6749 §10.13, ASVS 3.4.6; the host's own pages included."""
    for answer in everywhere(site):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_another_origin_reads_no_answer(site: Site) -> None:
    """CWE-942, ASVS 3.4.2: no CORS header ever, whatever origin asks, preflights included."""
    for origin in ("https://attacker.example", "null", site.url):
        asking = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        for answer in everywhere(site, headers=asking):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_no_answer_stays_in_a_cache(site: Site) -> None:
    """CWE-525 (web cache deception), RFC 6749 §5.1, ASVS 14.3.2."""
    for answer in everywhere(site, headers={"if-none-match": "*", "range": "bytes=0-9"}):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.status_code not in (206, 304)
        assert not {"etag", "last-modified", "expires"} & set(answer.headers)
    for path in ("/callback/x.css?code=c&state=s", "/callback.js?code=c&state=s"):
        assert site.program.get(site.url + path).status_code == 404


def test_an_answer_is_never_taken_for_another_type(site: Site) -> None:
    """CWE-430, ASVS 3.4.4: JSON with a provider's words in it, asked for by a script tag."""
    for answer in everywhere(site):
        assert answer.headers["x-content-type-options"] == "nosniff"
    words = {"error": "x", "error_description": "<script>alert(1)</script>"}
    told = site.program.get(site.url + at("default", state=STATE, **words))
    assert told.headers["content-type"] == "application/problem+json"


def test_no_answer_names_the_software_that_made_it(site: Site) -> None:
    """CWE-200, ASVS 13.4.6: `Server`, `X-Powered-By` and stack traces help an attacker only."""
    for answer in everywhere(site):
        assert not {"server", "x-powered-by", "x-aspnet-version"} & set(answer.headers)
        assert "Traceback" not in answer.text


def test_no_code_stays_in_the_address_bar_the_history_or_a_referer(site: Site) -> None:
    """RFC 9700 §4.2 and §4.3, RFC 6749 §3.1.2.5: 303, no-referrer, and nothing in the Location."""
    with site.browser() as browser:
        for path in (
            at("default", code=CODE, state=fresh()),
            at("signed", code=CODE, state=STATE),
            at("nobody", code=CODE, state=STATE),
            at("default", code=CODE, state=STATE, error="x"),
        ):
            answer = browser.get(site.url + path)
            assert answer.status_code == 303  # and not 302 or 307, which may repeat a POST
            assert re.fullmatch(
                rf"/done/\w+\?ref=[0-9a-f]{{16}}{SHOWN}", answer.headers["location"]
            )
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert (answer.content, answer.headers["cache-control"]) == (b"", "no-store")
            page = browser.get(site.url + answer.headers["location"])
            assert page.headers["referrer-policy"] == "no-referrer"
            assert not {tag for tag, _ in shape(page.text)} & {"a", "img", "iframe", "form"}


def test_a_prefetch_or_prerender_does_not_spend_the_code(site: Site) -> None:
    """W3C Speculation Rules (prefetch, prerender); RFC 9700 §4.2.4: then the click works."""
    path = at("default", code=CODE, state=fresh())
    for header in (
        {"sec-purpose": "prefetch"},
        {"sec-purpose": "prefetch;prerender"},
        {"Sec-Purpose": "Prefetch;anonymous-client-ip"},
        {"purpose": "prefetch"},
        {"x-moz": "prefetch"},
    ):
        site.refused(path, "prefetch", 503, headers=header)
        with site.untouched():
            started = site.program.get(site.url + site.link(), headers=header)
        assert (started.status_code, "set-cookie" in started.headers) == (503, False)
    assert site.delivered(path)


def test_a_link_scanner_that_asks_with_head_does_not_spend_the_code(site: Site) -> None:
    """techcommunity 3874918 (scanners open links); RFC 9110 §9.3.2: HEAD has no side effect."""
    path = at("default", code=CODE, state=fresh())
    with site.untouched():
        for method, status in (("HEAD", 200), ("OPTIONS", 204)):
            assert site.program.request(method, site.url + path).status_code == status
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
            assert site.program.request(method, site.url + path).status_code in (404, 405)
    assert site.delivered(path)


def test_a_link_scanner_that_opens_the_link_first_does_not_spend_a_bound_code(site: Site) -> None:
    """techcommunity 3874918: the scanner has no cookie, and the person's click still works."""
    with site.browser() as person:
        path = site.consent(person).removeprefix(site.url)
        site.refused(path, "state_cookie_missing")
        assert person.get(site.url + path).headers["location"].startswith("/done/delivered?")


def test_header_injection_through_a_line_break_is_refused(site: Site) -> None:
    """mod_auth_openidc 2026 (lone CR in headers); CWE-113, RFC 9110 §5.5."""
    tricks = ("%0d%0aSet-Cookie:%20evil=1", "%0aevil:1", "%0devil:1", "%e5%98%8a%e5%98%8devil:1")
    with site.browser() as browser:
        normal = {path: set(browser.get(site.url + path).headers) for path in EVERYWHERE}
        for trick in tricks:
            for path, names in normal.items():
                answer = browser.get(f"{site.url}{path}{'&' if '?' in path else '?'}ref={trick}")
                assert set(answer.headers) - {"location", "allow"} <= names | {"content-type"}
                assert "evil" not in str(answer.headers)
            for path in (f"/callback/{trick}?code=c&state=s", f"/done/{trick}"):
                assert "evil" not in str(browser.get(site.url + path).headers)
            described = f"/callback?state=s&error=e&error_description={trick}"
            assert "evil" not in str(browser.get(site.url + described).headers)


def test_header_injection_through_the_name_of_a_cookie_is_refused(site: Site) -> None:
    """CWE-113: the start of a flow deletes old cookies by the names that came in."""
    evil = [f"__Host-relay-evil{n}\tx; Domain=evil" for n in range(9)]
    evil += [f"__Host-relay-evil{n}é" for n in range(9)] + ["__Host-relay-evil,evil=1"] * 9
    with site.untouched():
        jar = {b"cookie": "; ".join(evil).encode(), b"accept": b"*/*"}
        answer = site.program.get(site.url + site.link(), headers=jar)
    assert answer.status_code == 302
    assert "evil" not in str(answer.headers)
    assert not [c for c in answer.headers.get_list("set-cookie") if "domain" in c.lower()]


# == to wear the relay out, or to make it stumble ==================================================


def test_unfinished_flows_do_not_pile_up_cookies(site: Site) -> None:
    """CVE-2024-24814, Authlib's state cookies: 200 starts, five cookies, each of some bytes."""
    with site.browser() as browser, site.untouched():
        for _ in range(200):
            browser.get(site.url + site.link())
        kept = list(browser.cookies.items())
    assert len(kept) == 5
    assert all(len(name) + len(value) < 100 for name, value in kept)


def test_a_header_full_of_cookies_costs_one_look(site: Site) -> None:
    """CVE-2024-24814: a loop whose length a cookie decides."""
    crumbs = "; ".join(f"__Host-relay-{number:08}={'x' * 10}" for number in range(900))
    started = time.monotonic()
    answer = site.program.get(site.url + site.link(), headers={"cookie": crumbs})
    assert time.monotonic() - started < 2
    assert answer.status_code == 302
    many = {"cookie": f"{crumbs};{'x' * 8192}"}
    assert site.program.get(site.url + at("signed", code="c"), headers=many).status_code in (
        400,
        431,
    )


def test_what_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    """CWE-400, ASVS 15.2.2: the query, the body, the number of parameters, one value."""
    path, form = "/callback/signed", {"content-type": "application/x-www-form-urlencoded"}
    for body in (
        f"code=c&state={state()}&x={'x' * 33_000}",
        "&".join(f"p{number}=1" for number in range(51)),
        f"code={'x' * 8_193}&state={state()}",
        f"code=c&state={'x' * 4_097}",
        f"code={'x' * 8_000}&"
        + "&".join(f"{n}={'x' * 4_090}" for n in ("state", "iss", "error"))
        + f"&session_state={'x' * 4_090}&error_uri={'x' * 4_090}",
    ):
        site.refused(path, "too_large", 413, method="POST", content=body, headers=form)
    members = {f"p{number}": "1" for number in range(51)}
    site.refused(path, "too_large", 413, method="POST", json=members)
    site.refused(path + "?" + "&".join(f"p{n}=1" for n in range(51)), "too_large", 413)
    with site.untouched():
        head = f"GET /callback?code={'x' * 9_000} HTTP/1.1\r\nHost: localhost\r\n"
        assert site.raw(f"{head}Connection: close\r\n\r\n".encode())[0] == 414


def test_a_chunked_body_is_refused_and_not_taken_for_an_empty_one(site: Site) -> None:
    """RFC 9112 §7.1, §6.1: the host hands on no chunked body; CWE-444 where two readers differ."""
    body = f"code={CODE}&state={state()}".encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for further in (b"", b"?code=c&state=s"):
        head = b"POST /callback/signed%s HTTP/1.1\r\nHost: localhost\r\n" % further
        head += b"Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
        with site.untouched():
            status, answer = site.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert (status, site.reason()) == (411, "length_required")
        assert b"canary" not in answer
        with site.untouched():
            both = b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
            status, _ = site.raw(head + both + chunk)
        assert status in (400, 411)


def test_json_tricks_are_refused(site: Site) -> None:
    """RFC 8259 §4 and §8.2, CWE-674: duplicates, depth, NaN, half surrogates, numbers, types."""
    good = state()
    right = f'"code":"{CODE}","state":"{good}"'
    for body, reason in (
        (f'{{{right},"code":"evil"}}', "duplicate"),
        (f'{{{right},"\\u0063ode":"evil"}}', "duplicate"),
        ("[" * 16_000 + "]" * 16_000, "json"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "state_missing"),
        (f'{{{right},"x":NaN}}', "json"),
        (f'{{{right},"x":-Infinity}}', "json"),
        (f'{{{right},"x":{"9" * 10_000}}}', "json"),
        (f'{{"code":"\\ud800","state":"{good}"}}', "encoding"),
        (f'{{"code":["{CODE}"],"state":"{good}"}}', "json"),
        (f'{{"code":{{"$ne":null}},"state":"{good}"}}', "json"),
        (f'{{"code":1,"state":"{good}"}}', "json"),
        (f'{{"code":true,"state":"{good}"}}', "json"),
        (f"[{{{right}}}]", "json"),
        (f"{{{right}}}{{{right}}}", "json"),
        (f"{{{right},}}", "json"),
        (f"{{'code':'{CODE}'}}", "json"),
        (f"\ufeff{{{right}}}", "json"),
        ('""', "json"),
        ("null", "json"),
    ):
        headers = {"content-type": "application/json"}
        path = "/callback/signed"
        site.refused(path, reason, method="POST", content=body.encode(), headers=headers)


def test_text_that_is_not_utf8_or_only_looks_like_ascii_is_refused(site: Site) -> None:
    """RFC 3629 §10 (overlong forms), RFC 6749 Appendix A, CWE-176, CWE-158 (NUL)."""
    good = state()
    for code, reason in (
        ("%ff", "encoding"),
        ("%c0%af", "encoding"),
        ("%c1%a3", "encoding"),
        ("%e0%80%af", "encoding"),
        ("%f0%80%80%af", "encoding"),
        ("%ed%a0%80", "encoding"),
        ("%f5%80%80%80", "encoding"),
        ("x%00y", "code_characters"),
        ("x%0ay", "code_characters"),
        ("x%7fy", "code_characters"),
        ("%ef%bd%83", "code_characters"),
        ("x%e2%80%ae", "code_characters"),
        ("x%c2%a0", "code_characters"),
        ("%f0%9f%94%91", "code_characters"),
        ("x%u0041%c3%a9", "code_characters"),
    ):
        site.refused(f"/callback/signed?code={code}&state={good}", reason)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        content = f"code={code}&state={good}"
        site.refused("/callback/signed", reason, method="POST", content=content, headers=headers)
    for body in (b"code=\xff&state=x", b"code=\xc0\xaf&state=x", b"\xff\xfec\x00"):
        headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-16"}
        path = "/callback/signed"
        site.refused(path, "encoding", method="POST", content=body, headers=headers)


def test_what_is_encoded_twice_is_decoded_once(site: Site) -> None:
    """CWE-174, CWE-172: a second decoding would bring back what a filter has let pass."""
    for sent, arrives in (
        ("%253Cscript%253E", "%3Cscript%3E"),
        ("a%252Bb", "a%2Bb"),
        ("a%2Bb+c", "a+b c"),
        ("%2526state%253Devil", "%26state%3Devil"),
        ("a%26state%3Devil", "a&state=evil"),
        ("a%23b%3Bc", "a#b;c"),
        ("a;state=evil", "a;state=evil"),
        ("%zz%", "%zz%"),
    ):
        assert site.delivered(f"/callback?code={sent}&state={fresh()}")["code"] == arrives
    twice = quote(quote(state(), safe="").replace(".", "%2E"), safe="")
    site.refused(f"/callback/signed?code=c&state={twice}", "state_malformed")


def test_names_that_mean_something_elsewhere_mean_nothing_here(site: Site) -> None:
    """CWE-1321 (prototype pollution) and other readers' names for arrays and methods."""
    names = "__proto__ constructor prototype toString hasOwnProperty __class__ self connection"
    names += " code[] code[0] code.x state[__proto__] CODE Code code%00 delivery_id reference"
    names += " _method received_at expires_at {code} param:x response_mode ref key $where __init__"
    pairs = "&".join(f"{quote(name)}=evil" for name in names.split())
    body = site.delivered(f"/callback?{pairs}&code=good&state={fresh()}")
    assert set(body) == {"code", "state"}
    assert body["code"] == "good"
    members = dict.fromkeys(names.split(), "evil")
    told = site.program.post(
        f"{site.url}/callback", json={**members, "code": "good", "state": fresh()}
    )
    assert told.json()["outcome"] == "delivered"
    assert "evil" not in site.world.dynamics.requests[-1].body.decode()


def test_a_connection_name_with_a_path_in_it_is_no_connection(site: Site) -> None:
    """CWE-22: names are looked up among those that are configured; only their case may differ."""
    for name in (
        "..%2fsigned",
        "..",
        "%2e%2e",
        "signed%2f..%2fdefault",
        "signed%20",
        "signed.",
        "signed;x",
        "signed%0a",
        "%73igned%25",
        "s%c4%b1gned",
        "__class__",
        "*",
        "default,signed",
    ):
        path = f"/callback/{name}?code={CODE}&state={state()}"
        with site.untouched():
            told = site.program.get(site.url + path)
        assert told.status_code == 404
        assert "canary" not in told.text


def test_a_media_type_that_another_sites_form_can_send_is_refused(site: Site) -> None:
    """CWE-352, ASVS 3.5.2: text/plain and multipart are what a form sends without a preflight."""
    body = f'{{"code":"{CODE}","state":"{state()}"}}'.encode()
    for media_type in ("text/plain", "multipart/form-data; boundary=x", "application/xml", "*/*"):
        headers = {"content-type": media_type}
        path, word = "/callback/signed", "media_type"
        site.refused(path, word, 415, method="POST", content=body, headers=headers)


def test_a_query_of_separators_is_no_crash(site: Site) -> None:
    """mod_auth_openidc 2026 (crash on `&`): `?&`, `?=`, `?&&=&`, `?;`."""
    for query in ("&", "&&", "=", "=&=", "&=&", "%", "%&%", ";", "?", "??code=x", "#", "=x", "+"):
        with site.untouched():
            told = site.program.get(f"{site.url}/callback/signed?{query}")
        assert told.status_code == (200 if site.reason() == "bare" else 400)
        assert not site.reason().startswith("unforeseen")


def test_no_pattern_of_the_relays_own_runs_away(site: Site) -> None:
    """CWE-1333 (ReDoS): each of them, on the longest input there is, in linear time."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(relay.__path__, "relay.")
        if not module.name.startswith(("relay.__main__", "relay.tools.doctor"))
    ]
    patterns = {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, re.Pattern)
    }
    assert len(patterns) > 8
    pieces = (
        "a",
        "0",
        "-",
        "_",
        "{",
        "}",
        "{{",
        "a-",
        "%41",
        "https://",
        "\r\n",
        "&",
        ".",
        "/",
        " ",
    )
    for name, pattern in patterns.items():
        for piece in pieces:
            for tail in ("", "\x00", "!"):
                text = piece * (32 * 1024 // len(piece)) + tail
                started = time.thread_time()
                pattern.fullmatch(text)
                pattern.search(text)
                pattern.sub("", text)
                # One that backtracks takes ten times as long at the least.
                assert time.thread_time() - started < 2, (name, piece)


# == to mislead the operator, or to read the log ===================================================


def test_a_line_break_does_not_write_a_line_of_its_own_into_the_log(site: Site) -> None:
    """CWE-117, ASVS 16.4.1: through the name of a connection, a parameter, a header, a cookie."""
    fake = "\r\ncallback delivered connection=default reference=0123456789abcdef"
    lines = len(site.lines.records)
    hits = [
        f"/callback/{quote('x' + fake)}?code=c&state=s",
        at("signed", code=fake, state=fake, error=fake, iss=fake),
        at("default", state="s", error="x", error_description=fake),
        at("secured", response=fake),
        f"/authorize/{quote('x' + fake)}?ticket=x",
        f"/authorize/flow?ticket={quote(fake)}",
        at("signed", code="c", state=state(header={"kid": fake})),
        at("secured", response=secured({"kid": fake, "alg": fake}, iss=fake)),
    ]
    headers = {"user-agent": "x%0d%0acallback delivered", "cookie": "x=callback delivered"}
    for hit in hits:
        site.program.get(site.url + hit, headers=headers)
    # One line each; what they look like is checked after every test.
    assert len(site.lines.records) == lines + len(hits)
    for record in site.lines.records:
        assert "\n" not in record.getMessage()
        assert "callback delivered" not in record.getMessage()


def test_a_fake_reason_or_connection_is_not_logged(site: Site) -> None:
    """CWE-117: what stands in a line is configured or fixed; the URL has no say in it."""
    site.program.get(f"{site.url}/callback/evil-connection?code=c&state=s&reason=evil")
    record = site.lines.records[-1]
    assert "evil" not in record.getMessage()
    assert not hasattr(record, "connection")
    site.program.get(site.url + at("default", state=STATE, error="evil_reason"))
    assert "evil" not in site.lines.records[-1].getMessage()


def test_no_attack_reads_a_secret_out_of_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Duende #1240, codex-lb PR 2011, MSAL's debug log, CWE-532, ASVS 16.2.5: canaries, at DEBUG.

    tests/attacks/test_secrets.py does the same for every outcome, encoded forms included.
    """
    caplog.set_level(logging.DEBUG)
    token, cookie = state(), f"__Host-relay-canary00={'c' * 43}"
    for path in (
        at("signed", code=CODE, state=token),
        at("signed", code=CODE, state=token, error="x", error_description="canary"),
        at("secured", response=secured()),
        at("secured", response=secured({"kid": "canary"})),
        at("moved", code=CODE, state=fresh()),
        f"/authorize/flow?ticket={ticket(jti='canary-jti-0123456')}",
        at("canary-connection", code=CODE, state=STATE),
    ):
        headers = {"cookie": cookie, "authorization": "Bearer canary", "referer": "https://canary"}
        site.program.get(site.url + path, headers=headers)
    told = "".join(
        f"{record.getMessage()} {record.__dict__}"
        for record in caplog.records
        if record.name != "uvicorn.access"  # the sandbox's server, woken by pytest
    )
    assert "callback delivered" in told
    assert "canary" not in told
    assert token not in told
