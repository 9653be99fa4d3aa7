"""Whatever is sent: no answer outside the contract, and nothing believed that is not proven.

Hypothesis makes the requests, from any bytes to what is right but for one thing, and they go
through the real function with real settings; only Entra, Dynamics and the provider's keys are
stand-ins. What has to follow from a request is worked out here a second time, without the relay's
own parser, state or JOSE code.
"""

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import html
import importlib.util
import json
import logging
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus

import azure.functions as func
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import relay
from relay import log as lines
from relay import pages, settings_reader
from relay.delivery.single_flight import SingleFlight
from relay.errors import CredentialRefused, KeysUnavailable, Rejected, Unauthorized, Unavailable
from relay.oauth import error_codes
from relay.oauth.error_codes import REGISTERED
from relay.outcome import Answer, Outcome, Page
from relay.ports import Receipt
from sandbox.loops import new_event_loop
from tests.fakes import Dynamics, Entra, Keys, Outbox, b64, but, compact, hs256, published
from tests.helpers import FORM, JSON, SECRET, TOKEN, URL

EXAMPLES = {
    "anything": 400,
    "nearly": 900,
    "states": 400,
    "secured": 300,
    "often": 100,
    "tickets": 200,
}
"""How many requests, or rows of them, each property is tried with in CI; elsewhere a third."""
IN_CI = os.environ.get("CI") == "true"


def count(what: str) -> int:
    return EXAMPLES[what] if IN_CI else EXAMPLES[what] // 3


def examples(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=count(what),
        deadline=None,
        # The same ones each time where a failure must not come and go.
        derandomize=IN_CI,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_there_are_2000_examples_at_least() -> None:
    assert sum(EXAMPLES.values()) >= 2_000


# -- the relay under test ------------------------------------------------------------------------

NOW = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
KEYS = {"k1": bytes(range(32)), "k0": bytes(range(1, 33))}
STRANGERS_KEY = bytes(range(2, 34))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(STRANGERS_KEY)
OUTBOX_KEY = "A" * 43 + "="
ISSUER, CLIENT = "https://as.example", "the-client"
ENDPOINT = "https://as.example/authorize"
PATTERN = "CB-[0-9a-f]{16}"
JTI = "n-0S6_WzA2Mj-0001"
COOKIE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
COOKIE_NAME = f"__Host-relay-{JTI[:8]}"
FINGERPRINT = b64(hashlib.sha256(COOKIE.encode()).digest())

BODY = {"code": "{code}", "state": "{state}", "verifier": "{code_verifier}"}
TOLD = {**BODY, "error": "{error}", "why": "{error_description}", "realm": "{param:realmId}"}
STARTS = {
    "PROVIDER_ISSUER": ISSUER,
    "PROVIDER_CLIENT_ID": CLIENT,
    "PROVIDER_AUTHORIZATION_ENDPOINT": ENDPOINT,
    "PROVIDER_REDIRECT_URI": "https://relay.example/callback/signed",
    "STATE_POLICY": "signed",
}
CONNECTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "pattern": {"STATE_POLICY": "pattern", "STATE_PATTERN": f"^{PATTERN}$"},
    "signed": STARTS,
    "told": {
        "DYNAMICS_BODY": json.dumps(TOLD),
        "PROVIDER_ISSUER": ISSUER,
        "PROVIDER_ISS_REQUIRED": "true",
    },
    "bank": {**STARTS, "PROVIDER_RESPONSE_MODE": "form_post.jwt"},
    "broken": {"CODE_TTL": "for ever"},
}
SETTINGS = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": SECRET,
    "DYNAMICS_URL": URL,
    "STATE_POLICY": "opaque",
    "DYNAMICS_BODY": json.dumps(BODY),
    "OUTBOX_KEYS": OUTBOX_KEY,
    "STATE_KEYS": ",".join(f"{kid}:{b64(key)}" for kid, key in KEYS.items()),
} | {
    f"CONNECTIONS__{name.upper()}__{setting}": value
    for name, own in CONNECTIONS.items()
    for setting, value in own.items()
}


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Hit:
    """One request."""

    method: str = "GET"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    connection: str | None = None

    @property
    def name(self) -> str:
        return self.connection or "default"

    def header(self, name: str) -> str:
        return {key.lower(): value for key, value in self.headers.items()}.get(name, "")


ANSWERS: dict[str, Callable[[], Receipt | Exception]] = {
    "created": lambda: Receipt(existed=False, status=201),
    "existed": lambda: Receipt(existed=True, status=412),
    "rejected": lambda: Rejected("dynamics_403", "No.", dynamics_status=403),
    "unavailable": lambda: Unavailable("dynamics_503", "Not now.", dynamics_status=503),
    "unauthorized": lambda: Unauthorized("dynamics_401", "Who is that.", dynamics_status=401),
}
TROUBLES: dict[str, Callable[[], Exception | None]] = {
    "": lambda: None,
    "entra-down": lambda: Unavailable("entra_timeout", "Not now."),
    "entra-refuses": lambda: CredentialRefused("entra_invalid_client", "No."),
    "no-keys": lambda: KeysUnavailable("jwks_timeout"),
}


@dataclass(frozen=True)
class Weather:
    """How Dynamics answers one post after the other, and what else is wrong."""

    answers: tuple[str, ...] = ("created",)
    trouble: str = ""


@dataclass
class Seen:
    """What became of one request."""

    response: func.HttpResponse
    records: list[logging.LogRecord]
    messages: list[str]

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.response.headers.items()}

    @property
    def body(self) -> str:
        body = self.response.get_body()
        assert isinstance(body, bytes)
        return body.decode()

    @property
    def line(self) -> dict[str, Any]:
        (record,) = [each for each in self.records if each.getMessage().startswith("callback ")]
        return {"outcome": record.getMessage().split()[1], "reason": None, **vars(record)}


class World:
    """The function app, imported as a worker does, with stand-ins that are new for each example."""

    def __init__(self, runner: asyncio.Runner, log: Log) -> None:
        self.run, self.log = runner.run, log
        path = Path(relay.__file__).parents[1] / "function_app.py"
        spec = importlib.util.spec_from_file_location("fuzzed_function_app", path)
        assert spec
        assert spec.loader
        self.module: Any = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, SETTINGS, clear=True):
            spec.loader.exec_module(self.module)
        self.functions = {
            str(each.get_function_name()): each.get_user_function()
            for each in self.module.app.get_functions()
        }
        assert set(self.module.the_relay.connections.by_name) == set(CONNECTIONS)
        self.change(Weather())

    def change(self, weather: Weather) -> None:
        trouble = TROUBLES[weather.trouble]()
        missing = isinstance(trouble, KeysUnavailable)
        self.entra = Entra(None if missing else trouble)
        self.dynamics = Dynamics([ANSWERS[name]() for name in weather.answers])
        self.keys = Keys((published(SIGNER, "p1"),), trouble if missing else None)
        self.module.the_relay = dataclasses.replace(
            self.module.the_relay,
            tokens=self.entra,
            dynamics=self.dynamics,
            keys=self.keys,
            deliveries=SingleFlight(),
            now=lambda: NOW,
        )

    def send(self, hit: Hit, function: str = "callback") -> Seen:
        return self.run(self.sent(hit, function))

    async def sent(self, hit: Hit, function: str = "callback") -> Seen:
        outbox = Outbox()
        self.log.records.clear()
        request = func.HttpRequest(
            method=hit.method,
            url=f"https://relay.example/{function}?{hit.query}",
            headers=hit.headers,
            # As the host does it; nothing may depend on it.
            params=dict(parse_qsl(hit.query, errors="replace", max_num_fields=None)),
            route_params={} if hit.connection is None else {"connection": hit.connection},
            body=hit.body,
        )
        bound = {"outbox": outbox} if function == "callback" else {}
        response = await self.functions[function](req=request, **bound)
        return Seen(response, list(self.log.records), outbox.messages)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    log, logger = Log(), logging.getLogger("relay")
    level = logger.level
    written, lines.WRITTEN = lines.WRITTEN, 1_000_000  # each request is looked up by its line
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # thousands of lines tell nothing of the one request that failed
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        yield World(runner, log)
    logger.propagate = True
    logger.setLevel(level)
    logger.removeHandler(log)
    lines.WRITTEN = written


# -- the contract, §3 ----------------------------------------------------------------------------

STATUSES = {
    "delivered": {200},
    "duplicate": {200},
    "held": {202},
    "declined": {400},
    "invalid": {200, 400, 405, 411, 413, 415, 503},
    "unknown": {404},
    "rejected": {502, 503},
    "misconfigured": {500},
}
FITTING = {
    "method": 405,
    "prefetch": 503,
    "bare": 200,
    "length_required": 411,
    "too_large": 413,
    "media_type": 415,
}
"""What is `invalid` for one of these reasons has its own status; for any other it is 400."""
IN_PLACE: Mapping[str, Page] = {
    "bare": "bare",
    "method": "method",
    "prefetch": "prefetch",
    "jwks_timeout": "keys",
}
"""The reasons of answers that a browser is given without a redirect, and their pages."""
HEADERS = {
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex, nofollow",
}
MARK = "z~q"
"""Stands in what is sent, beside every character of HTML, and in no page of the relay."""
ESCAPED = re.compile(r"(?:[^<>\"'&]|&(?:amp|lt|gt|#34|#39);)*")
COOKIE_ENDS = f"{COOKIE_NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"


def hold_to_the_contract(hit: Hit, seen: Seen) -> None:
    """Check the answer and the log for one request, whatever it was."""
    line, headers, status = seen.line, seen.headers, seen.response.status_code
    outcome, reference = line["outcome"], line["reference"]
    assert line["reason"] != "unforeseen", line
    assert not [each for each in seen.records if each.getMessage().startswith("unforeseen")]
    logged = str([vars(each) for each in seen.records])
    assert MARK not in logged.lower()
    assert SECRET not in logged
    assert TOKEN not in logged

    assert HEADERS.items() <= headers.items()
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "base-uri 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    bare = "form-action 'self'" in policy
    assert ("script-src" in policy) == (bare or "<button" in seen.body)
    assert re.fullmatch(
        r"([a-z-]+=\(\)(, |$))+", headers["permissions-policy"].replace("(self)", "()")
    )
    assert not [name for name in headers if name.startswith("access-control-")]
    assert MARK not in str(headers).lower()
    assert headers.get("set-cookie") in (None, COOKIE_ENDS)

    if status == 303:
        assert "text/html" in hit.header("accept").lower()
        to = f"&to={line['connection']}" if line.get("connection") else ""
        via = "(&via=authorize)?" if outcome == "invalid" else ""
        location = re.escape(f"/done/{outcome}?ref={reference}{to}")
        assert re.fullmatch(location + via, headers["location"])
        assert outcome in set(STATUSES) - {"declined"}
        assert seen.body == ""
        return
    assert "location" not in headers
    assert status in STATUSES[outcome]
    if outcome == "invalid":
        assert status == FITTING.get(str(line["reason"]), 400)
    if "text/html" in hit.header("accept").lower() or line["reason"] == "bare":
        assert headers["content-type"] == "text/html; charset=utf-8"
        hold_page(hit, seen)
    else:
        hold_json(hit, seen)


def hold_probe(hit: Hit, seen: Seen, world: World) -> None:
    """Check that HEAD and OPTIONS do nothing, whatever they ask for."""
    assert seen.response.status_code == {"HEAD": 200, "OPTIONS": 204}[hit.method]
    assert (seen.body, seen.records, seen.messages) == ("", [], [])
    assert HEADERS.items() <= seen.headers.items()
    assert not world.entra.asked
    assert not world.dynamics.posted


def hold_json(hit: Hit, seen: Seen) -> None:
    line, status = seen.line, seen.response.status_code
    members = json.loads(seen.body)
    assert members.pop("outcome") == line["outcome"]
    assert members.pop("reference") == line["reference"]
    if status < 400:
        assert seen.headers["content-type"] == "application/json"
        assert members == {}
        return
    assert seen.headers["content-type"] == "application/problem+json"
    assert type(members["status"]) is int
    assert members.pop("status") == status
    assert members.pop("title")
    if line["outcome"] == "declined":
        error, description = words_of(hit)
        assert members.pop("error", None) == error
        assert members.pop("error_description", None) == description
    assert members.pop("detail", ".").endswith(".")
    assert members == {}
    if line["outcome"] != "declined":
        assert MARK not in seen.body.lower()


def hold_page(hit: Hit, seen: Seen) -> None:
    """Check that nothing of the request is in a page, or the provider's words alone, escaped."""
    line, status = seen.line, HTTPStatus(seen.response.status_code)
    plain = Answer(
        Outcome(line["outcome"]),
        line["reference"],
        status,
        page=IN_PLACE.get(line["reason"]) or ("ended" if ended(hit, line) else None),
        connection=line.get("connection"),
    )
    connection = settings_reader.read(SETTINGS).connections.find(plain.connection)
    declined = plain.outcome is Outcome.DECLINED
    if declined:
        sent = Sent(hit)
        if not error_codes.is_decision(sent.error or "", sent.description):
            plain = dataclasses.replace(plain, page="fault")
    signed = connection is not None and connection.state_policy == "signed"
    if not (declined and signed):
        if declined:
            plain = dataclasses.replace(plain, error=words_of(hit)[0])
        body = pages.render(plain, html=True, connection=connection).body
        assert seen.body == body.decode()
        assert MARK not in seen.body.lower()
        return
    error, description = words_of(hit)
    words = {"error": error, "description": description}
    # The page with other words tells where they stand.
    plain = dataclasses.replace(
        plain,
        error="ERROR" if error else None,
        error_description="DESCRIPTION" if description else None,
    )
    body = pages.render(plain, html=True, connection=connection).body
    page = re.escape(body.decode())
    for name in words:
        page = page.replace(name.upper(), f"(?P<{name}>.*)")
    found = re.fullmatch(page, seen.body, re.DOTALL)
    assert found
    for name, shown in found.groupdict().items():
        assert ESCAPED.fullmatch(shown)
        assert html.unescape(shown) == words[name]


# -- what the request says, read a second time ---------------------------------------------------

TEXTS = ("code", "state", "error", "error_description", "iss", "response")
TOKENS = ("access_token", "id_token", "token")


def words_of(hit: Hit) -> tuple[str | None, str | None]:
    """Return the provider's words as far as they are shown: contract §10."""
    sent = Sent(hit)
    if hit.name in ("signed", "bank"):
        return sent.error, sent.description
    return (sent.error if (sent.error or "").lower() in REGISTERED else None), None


def ended(hit: Hit, line: Mapping[str, str]) -> bool:
    """Tell whether a refused response says no more than that the provider has ended it."""
    if line["outcome"] != "invalid" or not str(line["reason"]).startswith("state_"):
        return False
    if line["reason"] == "state_characters":  # found after the state was verified
        return False
    sent = Sent(hit)
    return sent.code is None and not sent.alone and (sent.error or "").lower() in REGISTERED


class Sent:
    """The response in a request that was believed. Raises where it should not have been."""

    def __init__(self, hit: Hit) -> None:
        self.pairs = spelled(hit)
        if hit.name == "bank":
            self.pairs = list(proven(self.one("response") or "").items())
        self.code, self.state, self.error = map(self.one, ("code", "state", "error"))
        # Control characters become spaces, then 1,000 characters are kept.
        words = self.one("error_description") or ""
        tidy = "".join(
            " " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in words
        )
        self.description = tidy[:1000].strip() or None
        self.alone = self.code is None and self.error is None
        if self.alone:
            self.error = "server_error"
            self.description = "The response has neither a code nor an error."

    def one(self, name: str) -> str | None:
        values = [value for other, value in self.pairs if other == name]
        for value in values:
            assert value is None or isinstance(value, str) or name not in (*TEXTS, *TOKENS)
        # Empty is absent; a further parameter that is no text is none.
        texts = [value for value in values if isinstance(value, str) and value]
        assert len(texts) <= 1, f"{name} stands twice"
        if not texts:
            return None
        try:
            raw = texts[0].encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raw = texts[0].encode("utf-8", "surrogatepass")
        return raw.decode("utf-8", "replace" if name == "error_description" else "strict")


def spelled(hit: Hit) -> list[tuple[str, Any]]:
    """Return the parameters of query and body, decoded once."""
    pairs: list[tuple[str, Any]] = pairs_of(hit.query)
    if hit.method.upper() == "POST" and hit.body:
        text = hit.body.decode("utf-8", "surrogateescape")
        if hit.header("content-type").partition(";")[0].strip().lower() == FORM:
            pairs += pairs_of(text)
        else:
            pairs += json.loads(text, object_pairs_hook=list)
    return pairs


def pairs_of(query: str) -> list[tuple[str, Any]]:
    parts = [part.partition("=") for part in query.split("&") if part]
    return [
        (unquote_plus(name, errors="strict"), unquote_plus(value, errors="surrogateescape"))
        for name, _, value in parts
    ]


def unb64(text: str) -> bytes:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    assert b64(raw) == text, "another spelling of the same bytes"
    return raw


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members), "a member stands twice"
        return dict(members)

    def no_json(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    header, claims, signature = token.split(".")
    return (
        json.loads(unb64(header), object_pairs_hook=once, parse_constant=no_json),
        json.loads(unb64(claims), object_pairs_hook=once, parse_constant=no_json),
        unb64(signature),
    )


def proven(token: str) -> dict[str, Any]:
    """Return the claims of a JARM response that the provider made for this client and time."""
    header, claims, signature = parts_of(token)
    SIGNER.public_key().verify(signature, token.rpartition(".")[0].encode())
    assert header["alg"] in ("EdDSA", "Ed25519")
    assert header.get("kid", "p1") == "p1"
    assert not {"crit", "b64"} & set(header)
    typ = header.get("typ", "JWT").lower().removeprefix("application/")
    assert typ in ("jwt", "oauth-authz-resp+jwt")
    assert claims["iss"] == ISSUER
    assert CLIENT in (claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]])
    times = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
    assert all(type(time) in (int, float) for time in times)
    assert SECONDS - 60 < claims["exp"] <= SECONDS + 660
    assert all(time <= SECONDS + 60 for time in times[1:])
    return claims


def signed_for(use: str, token: str) -> tuple[dict[str, Any], bytes]:
    """Return the claims of a valid state or ticket, and the key that signed it: contract §5."""
    assert len(token) <= 1024
    header, claims, signature = parts_of(token)
    key = KEYS[header["kid"]]
    made = hmac.digest(key, token.rpartition(".")[0].encode(), "sha256")
    assert hmac.compare_digest(signature, made), "another's signature"
    assert header["alg"] == "HS256"
    assert not {"crit", "b64"} & set(header)
    assert str(header.get("typ", "JWT")).lower().removeprefix("application/") == "jwt"
    assert claims["aud"] == use
    times = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
    assert all(type(time) is int for time in times)
    assert SECONDS - 60 < claims["exp"] <= SECONDS + 3660
    assert all(time <= SECONDS + 60 for time in times[1:])
    assert re.fullmatch("[A-Za-z0-9_-]{16,64}", claims["jti"])
    return claims, key


def verifier_of(state: str, use: str, cookies: str) -> str | None:
    """Return the code verifier of a valid state's flow, if it began at the relay: contract §6."""
    claims, key = signed_for(use, state)
    if "cookie" not in claims:
        return None
    crumbs = [crumb.removeprefix(" ").partition("=") for crumb in cookies.split(";")]
    name = f"__Host-relay-{claims['jti'][:8]}"
    (value,) = [value for other, _, value in crumbs if other == name]
    assert b64(hashlib.sha256(value.encode()).digest()) == claims["cookie"], "another browser"
    assert len(value) == 43
    return b64(hmac.digest(key, f"pkce:{claims['jti']}:{value}".encode(), "sha256"))


def believable(sent: Sent, hit: Hit) -> str | None:
    """Return the code verifier, if any; raise if the connection's policy does not let it pass."""
    assert sent.state
    match hit.name:
        case "pattern":
            assert re.fullmatch(PATTERN, sent.state)
        case "signed" | "bank":
            return verifier_of(sent.state, f"callback:{hit.name}", hit.header("cookie"))
    return None


def hold_acceptable(sent: Sent, hit: Hit) -> None:
    """Check that a response which was accepted is one by the norms, and came as one may come."""
    assert hit.method.upper() in ("GET", "POST")
    purposes = [hit.header(name).lower() for name in ("sec-purpose", "purpose", "x-moz")]
    assert not [each for each in purposes if "prefetch" in each or "prerender" in each]
    assert len(hit.query.encode()) <= 8 * 1024
    assert len(spelled(hit)) <= 50
    assert (sent.code is None) != (sent.error is None)
    # RFC 6749 Appendix A
    assert re.fullmatch("[ -~]+", f"{sent.code}{sent.state}{sent.error}")
    assert not set(sent.error or "") & {'"', "\\"}
    if "PROVIDER_ISSUER" in CONNECTIONS[hit.name]:
        assert sent.one("iss") in (ISSUER, None if hit.name != "told" else ISSUER)
    assert not any(map(sent.one, TOKENS))


def hold_delivery(hit: Hit, seen: Seen, world: World, weather: Weather) -> None:
    """Check what Dynamics, Entra and the outbox have heard of one request."""
    hold_outcome(hit, seen, world, weather)
    accepted = world.entra.asked or seen.messages or seen.line["outcome"] == "declined"
    if not accepted:
        assert "set-cookie" not in seen.headers
        return

    sent = Sent(hit)
    verifier = believable(sent, hit)
    hold_acceptable(sent, hit)
    wanted = {"code": sent.code, "state": sent.state, "verifier": verifier}
    if hit.name == "told":
        wanted |= {"error": sent.error, "why": sent.description, "realm": sent.one("realmId")}
    for posted in world.dynamics.posted:
        assert posted.body == {name: value for name, value in wanted.items() if value}
    for message in seen.messages:
        assert MARK not in message
        held = json.loads(Fernet(OUTBOX_KEY).decrypt(message))
        assert held["connection"] == hit.name
        response = held["response"]
        assert (response["code"], response["state"]) == (sent.code, sent.state)
        assert (response["error"], response["code_verifier"]) == (sent.error, verifier)
    if verifier is None:
        assert "set-cookie" not in seen.headers


def hold_outcome(hit: Hit, seen: Seen, world: World, weather: Weather) -> None:
    """Check that what was done is what the outcome says."""
    outcome, posted = seen.line["outcome"], world.dynamics.posted
    stored, held = len(world.dynamics.stored), len(seen.messages)
    assert len(posted) <= (2 if weather.answers[0] == "unauthorized" else 1)
    assert world.entra.asked or not posted
    assert hit.name == "bank" or not world.keys.asked
    match outcome:
        case "delivered" | "duplicate":
            assert (stored, held) == (1, 0)
            assert (outcome == "duplicate") == (weather.answers[-1] == "existed")
        case "held":
            assert (stored, held) == (0, 1)
        case "declined" if hit.name == "told":
            assert stored + held <= 1
        case "rejected":
            assert (stored, held) == (0, 0)
        case _:
            assert (stored, held) == (0, 0)
            assert not posted
            assert not world.entra.asked


# -- strategies ----------------------------------------------------------------------------------

VSCHAR = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
# What the worker is given is protobuf, whose strings are UTF-8.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PIECES = r"""<z~q> "z~q 'z~q &z~q; &lt;z~q </code>z~q <script>z~q()</script> z~q<!-- ]]>z~q
{code} {{z~q {z~q} z~q" z~q' \z~q %z~q %3Cz~q%3E z~q;z~q=1 é 🔑 javascript:z~q https://z~q.example"""
SPACED = [" z~q ", "\r\nX-z~q: z~q", "\0z~q", "z~q\t", "\x85z~q", "\u2028z~q", "z~q\n"]
HOSTILE = st.sampled_from([*PIECES.split(), *SPACED])
WORDS = st.lists(HOSTILE | TEXT, max_size=4).map("".join)
PARAMETERS = """code state error error_description error_uri iss session_state access_token id_token
token response realmId CODE code[] state. x ticket"""
NAMES = st.sampled_from(PARAMETERS.split())
BYTES = st.binary(max_size=60) | WORDS.map(str.encode)
QUERIES = st.one_of(
    WORDS,
    BYTES.map(lambda raw: raw.decode("latin-1")),
    st.text(max_size=20),  # half a surrogate pair too: Python's way of showing raw bytes
    st.lists(st.tuples(NAMES, WORDS), max_size=6).map(
        lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
    ),
    st.builds(lambda name, count: f"&{name}=z~q" * count, NAMES, st.integers(45, 60)),
    st.builds(lambda name, count: f"{name}=" + "z~q" * count, NAMES, st.integers(500, 5000)),
)
MEDIA_TYPES = st.sampled_from(
    [FORM, JSON, FORM.upper(), f"{JSON}; charset=utf-8", "text/plain", "multipart/form-data", ""]
)
ACCEPTS = st.sampled_from(["text/html,*/*;q=0.8", "*/*", "application/json", "Text/HTML", ""])
FIELDS = """Accept Content-Type Content-Length Cookie Sec-Purpose Purpose X-Moz Origin Referer Host
    X-Forwarded-Host X-Forwarded-Proto X-Original-URL X-HTTP-Method-Override Transfer-Encoding
    Sec-Fetch-Mode Authorization x-functions-key Prefer If-None-Match Range z~q"""
ANY_HEADERS = st.dictionaries(
    st.sampled_from(FIELDS.split()) | WORDS.map(lambda word: word or "x"),
    WORDS | ACCEPTS | MEDIA_TYPES | st.sampled_from(["prefetch", "prerender;z~q", "7", "-1"]),
    max_size=6,
)
ANY_CONNECTION = st.none() | st.sampled_from([*CONNECTIONS, "", "Default", "signed/"]) | WORDS
ANYTHING = st.builds(
    Hit,
    st.sampled_from(["GET", "POST"] * 6 + ["HEAD", "PUT", "OPTIONS", "get", ""]) | WORDS,
    QUERIES,
    ANY_HEADERS,
    BYTES | QUERIES.map(lambda text: text.encode("utf-8", "surrogatepass")),
    ANY_CONNECTION,
)

WEATHER = st.builds(
    Weather,
    st.sampled_from(
        [
            ("created",),
            ("created",),
            ("existed",),
            ("rejected",),
            ("unavailable",),
            ("unauthorized", "created"),
            ("unauthorized",),
            ("unauthorized", "unavailable"),
        ]
    ),
    st.sampled_from(["", "", "", "", *TROUBLES]),
)

STATE_HEADER: dict[str, object] = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
JWT_HEADER: dict[str, object] = {"alg": "EdDSA", "typ": "JWT", "kid": "p1"}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    WORDS,
    st.lists(WORDS, max_size=2),
    st.dictionaries(NAMES, WORDS, max_size=2),
)


def mostly(*values: object) -> st.SearchStrategy[Any]:
    """Return one of these values, or now and then any other."""
    return st.integers(0, 4).flatmap(lambda odd: st.sampled_from(values) if odd else ODD)


TIMES = mostly(*(SECONDS + ahead for ahead in (-90, -60, -59, 0, 60, 61, 660, 661, 3660, 3661)))


def some(options: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return one of these members, or two."""
    names = st.sets(st.sampled_from(list(options)), min_size=1, max_size=2)
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: options[name] for name in sorted(chosen)})
    )


HEADER_CHANGES = some(
    {
        "alg": mostly("none", "HS256", "HS512", "EdDSA", "RS256", ...),
        "typ": mostly("jwt", "application/JWT", "at+jwt", "JOSE", ...),
        "kid": mostly("k0", "k1", "k9", "p1", "p9", ...),
        "crit": mostly(["exp"], []),
        "b64": ODD,
        "jku": WORDS,
        "x": ODD,
    }
)
CLAIM_CHANGES = some(
    {
        "aud": mostly("callback:signed", "callback:bank", "authorize:signed", ["callback:signed"]),
        "exp": TIMES | st.just(...),
        "nbf": TIMES,
        "iat": TIMES,
        "jti": mostly("j" * 15, "j" * 16, "j" * 64, "j" * 65, "j" * 16 + "/", ...),
        "cookie": mostly(FINGERPRINT, FINGERPRINT + "=", "", b64(STRANGERS_KEY)),
        "pad": st.integers(560, 590).map(lambda size: "p" * size),  # about 1,024 characters
    }
)
CHARACTERS = st.sampled_from("ABCwxyz0189-_.=+/ \n%é\x00")


def state_of(
    use: str,
    claims: Mapping[str, object] | None = None,
    header: Mapping[str, object] | None = None,
    kid: str = "k1",
) -> str:
    key = KEYS.get(kid, STRANGERS_KEY)
    right: dict[str, object] = {"aud": use, "exp": SECONDS + 600, "jti": JTI}
    return compact(
        but({**STATE_HEADER, "kid": kid}, header or {}), but(right, claims or {}), hs256(key)
    )


@st.composite
def edited(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Return a text after a few edits of its characters."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = draw(
            st.sampled_from(
                [
                    text[:at] + draw(CHARACTERS) + text[at:],
                    text[:at] + draw(CHARACTERS) + text[at + 1 :],
                    text[:at] + text[at + 1 :],
                    text[:at] + text[at : at + 1].swapcase() + text[at + 1 :],
                    text[:at],
                    text + text[at:],
                ]
            )
        )
    return text


def valid_states(name: str) -> st.SearchStrategy[str]:
    if name == "pattern":
        return st.from_regex(PATTERN, fullmatch=True)
    if name in ("signed", "bank"):
        use = f"callback:{name}"
        return st.sampled_from(
            [state_of(use), state_of(use, {"cookie": FINGERPRINT}), state_of(use, kid="k0")]
        )
    return st.text(VSCHAR, min_size=1, max_size=40)


@st.composite
def signed_states(draw: st.DrawFn, use: str) -> str:
    """Return a state that is signed, but its members or its key may be wrong."""
    match draw(st.sampled_from(["claims", "header", "key"])):
        case "claims":
            return state_of(use, draw(CLAIM_CHANGES))
        case "header":
            return state_of(use, header=draw(HEADER_CHANGES))
    return state_of(
        use, draw(CLAIM_CHANGES), draw(HEADER_CHANGES), draw(st.sampled_from(["k0", "k9"]))
    )


@st.composite
def wrong_states(draw: st.DrawFn, name: str) -> str:
    """Return a state that is nearly right."""
    other = st.sampled_from([other for other in CONNECTIONS if other != name]).flatmap(valid_states)
    kinds = [edited(valid_states(name)), signed_states(f"callback:{name}"), other, WORDS]
    return draw(draw(st.sampled_from(kinds)))


# What may be wrong with one request.
FAULTS = ("state", "value", "iss", "parameters", "spelling", "jwt", "headers")
type Faults = frozenset[str]
RIGHT: Faults = frozenset()

type Pairs = list[tuple[str, Any]]
ISSUERS = st.sampled_from(
    [f"{ISSUER}/", ISSUER.upper(), f"{ISSUER}.z~q.example", f"{ISSUER}\n", ""]
)


@st.composite
def responses(draw: st.DrawFn, name: str, faults: Faults = RIGHT) -> Pairs:
    """Return the parameters of a response."""
    words = WORDS if "value" in faults else st.text(VSCHAR, min_size=1, max_size=30)
    state = ("state", draw(wrong_states(name) if "state" in faults else valid_states(name)))
    pairs: Pairs = [("code", draw(words)), state]
    if draw(st.integers(0, 3)) == 0:
        error = draw(st.sampled_from(["access_denied", "<z~q>", "'z~q&z~q;"]) | words)
        pairs = [("error", error), ("error_description", draw(WORDS)), state]
    if name == "told" or "iss" in faults:
        pairs.append(("iss", draw(ISSUERS) if "iss" in faults else ISSUER))
    return draw(changed(pairs)) if "parameters" in faults else pairs


@st.composite
def changed(draw: st.DrawFn, pairs: Pairs) -> Pairs:
    at = draw(st.integers(0, len(pairs) - 1))
    name, value = pairs[at]
    other = (draw(NAMES), draw(WORDS))
    before, after = pairs[:at], pairs[at + 1 :]
    changes: list[Pairs] = [
        [*pairs, other],
        [other, *pairs],
        [*pairs, pairs[at]],
        before + after,
        [*before, (name, other[1]), *after],
        [*before, (name.upper(), value), *after],
        [*pairs, *[other] * 50],
    ]
    return draw(st.sampled_from(changes))


FAITHFUL: tuple[Callable[[str], str], ...] = (
    lambda text: quote(text, safe=""),
    quote_plus,
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: re.sub(r"[&=%+#\s]", lambda found: quote(found[0], safe=""), text),
)
UNFAITHFUL = (
    *FAITHFUL,
    lambda text: quote(quote(text)),
    lambda text: text,
    lambda text: f"{quote(text)}%FF",
)


@st.composite
def queries(draw: st.DrawFn, pairs: Pairs, faults: Faults = RIGHT) -> str:
    """Return the pairs as a query, encoded as anybody might."""
    wrong = "spelling" in faults
    encodings = st.sampled_from(UNFAITHFUL if wrong else FAITHFUL)
    spelled_ = [f"{draw(encodings)(name)}={draw(encodings)(str(value))}" for name, value in pairs]
    return draw(st.sampled_from(["&", "&&", ";"] if wrong else ["&"])).join(spelled_)


@st.composite
def json_bodies(draw: st.DrawFn, pairs: Pairs, faults: Faults = RIGHT) -> bytes:
    """Return the pairs as JSON, twice where they stand twice."""
    members = list(pairs)
    wrong = "spelling" in faults
    if wrong:
        members.insert(draw(st.integers(0, len(members))), (draw(NAMES), draw(ODD)))
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members)
    right = f"{{{text}}}".encode()
    broken = [right, b"[" + right + b"]", right[:-1], right.replace(b'"', b'"\xff', 1)]
    return draw(st.sampled_from(broken)) if wrong else right


JWT_CHANGES = some(
    {
        "iss": mostly(ISSUER, f"{ISSUER}/", "https://z~q.example", ...),
        "aud": mostly([CLIENT, "z~q"], "z~q", ["z~q"], CLIENT.upper(), ...),
        "exp": TIMES | st.just(...),
        "nbf": TIMES,
        "iat": TIMES,
        "code": ODD,
        "x": ODD,
    }
)


@st.composite
def tokens(draw: st.DrawFn, pairs: Pairs, faults: Faults = RIGHT) -> str:
    """Return the JWT (JARM) that these parameters make."""
    claims: dict[str, object] = {"iss": ISSUER, "aud": CLIENT, "exp": SECONDS + 300, **dict(pairs)}
    right = compact(JWT_HEADER, claims, SIGNER.sign)
    if "jwt" not in faults:
        return right
    match draw(st.sampled_from(["claims", "header", "signer", "edited"])):
        case "claims":
            return compact(JWT_HEADER, but(claims, draw(JWT_CHANGES)), SIGNER.sign)
        case "header":
            return compact(but(JWT_HEADER, draw(HEADER_CHANGES)), claims, SIGNER.sign)
        case "signer":
            return compact(JWT_HEADER, claims, STRANGER.sign)
    return draw(edited(st.just(right)))


@st.composite
def secured(draw: st.DrawFn, pairs: Pairs, faults: Faults = RIGHT) -> Pairs:
    """Return the one parameter that is a JWT of these."""
    response = [("response", draw(tokens(pairs, faults)))]
    if "parameters" in faults:
        return draw(st.sampled_from([response, [*response, *pairs], pairs]))
    return response


RIGHT_COOKIE = f"{COOKIE_NAME}={COOKIE}"
COOKIES = st.sampled_from(
    [
        RIGHT_COOKIE,
        f"a=z~q; {RIGHT_COOKIE}; b=c",
        f"{RIGHT_COOKIE}; {COOKIE_NAME}=z~q",
        f"{COOKIE_NAME}=z~q",
        "",
    ]
)


@st.composite
def hits(draw: st.DrawFn, name: str, pairs: Pairs, faults: Faults = RIGHT) -> Hit:
    """Return a request that brings these parameters, by one way or by two."""
    headers = {"Accept": draw(ACCEPTS), "Cookie": RIGHT_COOKIE}
    if "headers" in faults:
        headers |= {"Cookie": draw(COOKIES), **draw(ANY_HEADERS)}
    way = draw(st.sampled_from(["query", "form", "json", "form-and-query", "json-and-query"]))
    if way == "query":
        return Hit("GET", draw(queries(pairs, faults)), headers, b"", name)
    first, rest = ([], pairs) if way in ("form", "json") else (pairs[:1], pairs[1:])
    if way.startswith("form"):
        media_type, body = FORM, draw(queries(rest, faults)).encode()
    else:
        media_type, body = JSON, draw(json_bodies(rest, faults))
    headers = {"Content-Type": media_type, "Content-Length": str(len(body))} | headers
    return Hit("POST", draw(queries(first, faults)), headers, body, name)


@st.composite
def nearly(draw: st.DrawFn) -> Hit:
    """Return a request that is right, or right but for one thing or two."""
    name = draw(st.sampled_from(list(CONNECTIONS)))
    faults = draw(st.frozensets(st.sampled_from(FAULTS), max_size=2))
    pairs = draw(responses(name, faults))
    if name == "bank":
        pairs = draw(secured(pairs, faults))
    return draw(hits(name, pairs, faults))


# -- the properties ------------------------------------------------------------------------------


def test_whatever_is_sent_the_answer_is_one_of_the_contract(world: World) -> None:
    reached: Counter[str] = Counter()

    @examples("anything")
    @given(ANYTHING, WEATHER)
    def every(hit: Hit, weather: Weather) -> None:
        world.change(weather)
        seen = world.send(hit)
        if hit.method in ("HEAD", "OPTIONS"):
            hold_probe(hit, seen, world)
            return
        reached[seen.line["outcome"]] += 1
        hold_to_the_contract(hit, seen)
        hold_delivery(hit, seen, world, weather)

    every()
    assert {"invalid", "unknown"} <= set(reached)


def test_only_what_is_right_is_delivered_and_it_is_delivered_as_it_was_meant(world: World) -> None:
    reached: Counter[str] = Counter()
    reasons: Counter[str] = Counter()

    @examples("nearly")
    @given(nearly(), WEATHER)
    def every(hit: Hit, weather: Weather) -> None:
        world.change(weather)
        seen = world.send(hit)
        reached[seen.line["outcome"]] += 1
        reasons[str(seen.line["reason"])] += 1
        hold_to_the_contract(hit, seen)
        hold_delivery(hit, seen, world, weather)

    every()
    # What is asserted of a delivery is worth nothing where none is reached.
    assert set(reached) == set(STATUSES) - {"unknown"}
    assert reached["delivered"] > count("nearly") / 50
    assert len(reasons) > 20


WRONG = (AssertionError, AttributeError, InvalidSignature, KeyError, TypeError, ValueError)
"""What working it out a second time raises for what is not to be believed."""


def test_a_delivery_implies_a_valid_state_and_a_valid_state_is_delivered(world: World) -> None:
    reached: Counter[str] = Counter()
    right = valid_states("signed")

    @examples("states")
    @given(right | edited(right) | signed_states("callback:signed"), COOKIES)
    def every(state: str, cookies: str) -> None:
        world.change(Weather())
        query = f"code=SplxlOBeZQQYbYS6WxSbIA&state={quote(state, safe='')}"
        hit = Hit(query=query, headers={"Cookie": cookies}, connection="signed")
        seen = world.send(hit)
        reached[seen.line["outcome"]] += 1
        hold_to_the_contract(hit, seen)
        hold_delivery(hit, seen, world, Weather())
        try:
            believable(Sent(hit), hit)
        except WRONG:
            assert seen.line["outcome"] == "invalid"
        else:
            assert seen.line["outcome"] == "delivered"

    every()
    assert min(reached["delivered"], reached["invalid"]) > count("states") / 50


def test_only_what_the_provider_signed_for_us_and_not_long_ago_is_unpacked(world: World) -> None:
    reached: Counter[str] = Counter()
    pairs: Pairs = [("code", "SplxlOBeZQQYbYS6WxSbIA"), ("state", state_of("callback:bank"))]

    @examples("secured")
    @given(tokens(pairs) | tokens(pairs, frozenset({"jwt"})))
    def every(token: str) -> None:
        world.change(Weather())
        hit = Hit(query=f"response={quote(token, safe='')}", connection="bank")
        seen = world.send(hit)
        reached[seen.line["outcome"]] += 1
        hold_to_the_contract(hit, seen)
        hold_delivery(hit, seen, world, Weather())
        try:
            hold_acceptable(Sent(hit), hit)
        except WRONG:
            assert seen.line["outcome"] == "invalid"
        else:
            assert seen.line["outcome"] == ("declined" if Sent(hit).alone else "delivered")

    every()
    assert min(reached["delivered"], reached["invalid"]) > count("secured") / 50


@st.composite
def repeated(draw: st.DrawFn) -> list[Hit]:
    """Return the same callback several times, by different ways."""
    name = draw(st.sampled_from(["default", "pattern", "signed"]))
    pairs: Pairs = [
        ("code", draw(st.text(VSCHAR, min_size=1))),
        ("state", draw(valid_states(name))),
    ]
    count = draw(st.integers(2, 6))
    return [draw(hits(name, draw(st.permutations(pairs)))) for _ in range(count)]


def test_the_same_callback_is_stored_once_however_often_and_by_whatever_way(world: World) -> None:
    @examples("often")
    @given(repeated(), st.lists(st.booleans(), min_size=6, max_size=6))
    def every(same: list[Hit], waits: list[bool]) -> None:
        world.change(Weather())

        async def all_of_them() -> list[Seen]:
            tasks = []
            for hit, wait in zip(same, waits, strict=False):
                tasks.append(asyncio.create_task(world.sent(hit)))
                if wait:
                    await tasks[-1]
            return await asyncio.gather(*tasks)

        outcomes = [each.response.status_code for each in world.run(all_of_them())]
        assert set(outcomes) <= {200, 303}
        assert len(world.dynamics.stored) == 1

    every()


def test_only_a_valid_ticket_starts_a_flow(world: World) -> None:
    reached: Counter[int] = Counter()
    right = st.just(state_of("authorize:signed"))
    wrong = edited(right) | signed_states("authorize:signed") | WORDS

    @st.composite
    def asking(draw: st.DrawFn) -> Hit:
        faults = draw(st.frozensets(st.sampled_from(["ticket", "name", "beside"]), max_size=1))
        pairs: Pairs = [("ticket", draw(wrong if "ticket" in faults else right))]
        name = draw(ANY_CONNECTION) if "name" in faults else "signed"
        if "beside" in faults:
            pairs.append((draw(NAMES), draw(WORDS)))
        headers = draw(ANY_HEADERS) if "beside" in faults else {"Accept": draw(ACCEPTS)}
        return Hit("GET", draw(queries(pairs)), headers, b"", name)

    @examples("tickets")
    @given(asking())
    def every(hit: Hit) -> None:
        world.change(Weather())
        seen = world.send(hit, "authorize")
        status = seen.response.status_code
        reached[status] += 1
        assert HEADERS.items() <= seen.headers.items()
        assert not world.entra.asked
        assert not world.dynamics.posted
        assert MARK not in str(seen.headers).lower()
        assert MARK not in seen.body.lower()
        assert MARK not in str([vars(each) for each in seen.records]).lower()
        if status == 302:
            assert seen.headers["location"].startswith(f"{ENDPOINT}?response_type=code&")
            (ticket,) = [value for name, value in pairs_of(hit.query) if name == "ticket"]
            assert signed_for(f"authorize:{hit.name}", ticket)
        else:
            assert "set-cookie" not in seen.headers
            hold_to_the_contract(hit, seen)

    every()
    assert min(reached[302], reached[400], reached[404]) > count("tickets") / 50


def test_the_oracle_tells_right_from_wrong() -> None:
    use = "callback:signed"
    with pytest.raises(ValueError, match="no JSON"):
        signed_for(use, state_of(use, {"x": math.inf}))
    assert signed_for(use, state_of(use))
    with pytest.raises(AssertionError, match="another's signature"):
        signed_for(use, state_of(use, header={"kid": "k0"}))
    with pytest.raises(InvalidSignature):
        proven(compact(JWT_HEADER, {"iss": ISSUER}, STRANGER.sign))
