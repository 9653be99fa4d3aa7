"""The API Management edition: its policies run as they are deployed, and its Bicep.

The tables of the relay's own tests are run through the policies too. `DIFFERENCES` is the one list
of what ends otherwise here; infra/apim/README.md prints it.
"""

import hashlib
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from relay import pages
from relay.delivery import targets
from relay.delivery.callback import Callback, iso
from relay.delivery.targets import Meaning, Refusal
from relay.pages.translations import LANGUAGES
from tests.helpers import CODE as REFUSED_CODE
from tests.helpers import STATE as REFUSED_STATE
from tests.helpers import connection, verified
from tests.infra.gateway import (
    Answer,
    Backend,
    Expressions,
    Gateway,
    Sent,
    expressions,
    is_installed,
)
from tests.infra.view import INFRA, Evaluation, Failed, parsed, resources, used
from tests.refusals import (
    HELD,
    TARGET_CASES,
    Case,
    Ends,
    ax,
    coded,
)
from tests.unit import test_responses

APIM = INFRA / "apim"
MAIN, API = APIM / "main.bicep", APIM / "api.bicep"
README = APIM / "README.md"
URL = "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
RESOURCE = "https://contoso.operations.dynamics.com"
TOKEN_ENDPOINT = "https://login.example/tenant/oauth2/v2.0/token"
CODE, STATE, PATTERN = "canary-code", "CB-0123456789abcdef", "CB-[0-9a-f]{16}"
BROWSER, PROGRAM = {"Accept": "text/html"}, {"Accept": "application/json"}
PAGE = "<!doctype html><title>Sign in</title>"


# -- the list of differences -----------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What this edition does otherwise: a row of the table in its README.

    `rows` of the table of responses end with `verdict` here. `settings`: connections of that table
    that this edition cannot be. `refusals`: outcomes of the table of refusals, and what they are
    here.
    """

    what: str
    function: str
    here: str
    rows: tuple[str, ...] = ()
    verdict: tuple[str, int] | None = None
    settings: tuple[str, ...] = ()
    refusals: Mapping[Ends, str] | None = None


DIFFERENCES = [
    Difference(
        "Dynamics or Entra is down",
        "holds the callback, sealed, and delivers it later",
        "nothing is held: the person is told to start again, and the code is lost",
        refusals={HELD: "rejected"},
    ),
    Difference(
        "who is believed",
        "signed states, cookies, `iss`",
        "whatever matches `statePattern`, which anybody may imitate",
        settings=("named", "strict"),
    ),
    Difference("starting the flow, PKCE", "`/authorize`", "no"),
    Difference(
        "ways in",
        "query, form post, JSON, fragment, JARM",
        "query only",
        settings=("bank", "jarm-all"),
    ),
    Difference(
        "connections",
        "any number, each with its settings and environments",
        "one in an instance",
        settings=("amazon", "renamed", "hybrid"),
    ),
    Difference(
        "body",
        "any template, the provider's errors too",
        "those of the objects in infra/dynamics, or `{code, state}`; no errors",
        settings=("told", "all"),
    ),
    Difference(
        "the same callback twice",
        "one delivery, both are told of it",
        "two deliveries; the unique key in Dynamics makes the second a `duplicate`",
    ),
    Difference(
        "how a query is decoded",
        "by the relay, strictly as UTF-8",
        "by API Management",
        rows=("not-utf-8-in-a-name",),
        verdict=("delivered", 200),
    ),
    Difference(
        "a visit without parameters",
        "a page that explains the address",
        "ends at `invalid`",
        rows=("nothing", "only-separators"),
        verdict=("invalid", 400),
    ),
    Difference(
        "`declined`",
        "in place, with the provider's error",
        "after a redirect as every outcome; the provider's words are never shown",
    ),
    Difference("credential", "managed identity, certificate, secret", "managed identity, secret"),
    Difference("log", "one line for each outcome, alerts, a workbook", "none"),
    Difference("pages", "twelve languages, your name and logo", "English, plain"),
    Difference(
        "other addresses",
        "a page, with the security headers",
        "API Management's own 404, without them",
    ),
]

ENDS_HERE = {row: each.verdict for each in DIFFERENCES for row in each.rows}


# -- the policies as they are deployed -------------------------------------------------------------


@cache
def operations(*, secret: bool = False) -> dict[tuple[str, str], ET.Element]:
    """Return the policies by method and URL template, as api.bicep deploys them."""
    given = {"clientId": "a-client" if secret else "", "callbackPath": "/callback"}
    worked_out = Evaluation(API, given).value("operations")
    return {
        (one["method"], one["urlTemplate"]): ET.fromstring(one["policy"])  # noqa: S314 - our own
        for one in worked_out
    }


POLICIES = {
    **{f"{method} {template}": policy for (method, template), policy in operations().items()},
    "GET /callback with a secret": operations(secret=True)["GET", "/callback"],
}
CALLBACKS = [POLICIES["GET /callback"], POLICIES["GET /callback with a secret"]]


@cache
def named_values(target: str = "code-and-state", pattern: str = PATTERN) -> dict[str, str]:
    """Return the named values that main.bicep gives the API, and those of the secret."""
    given = {
        "dynamicsUrl": URL,
        "dynamicsResource": RESOURCE,
        "target": target,
        "statePattern": pattern,
    }
    params = parsed(MAIN)["modules"]["api"]["config"]["params"]
    values = Evaluation(MAIN, given).value(params["namedValues"])
    return {
        **values,
        "relay-client-id": "a-client",
        "relay-client-secret": "a-secret",
        "relay-token-endpoint": TOKEN_ENDPOINT,
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expressions]:
    if not is_installed() and os.environ.get("CI") != "true":
        pytest.skip("Mono is not installed: mono-mcs, mono-runtime, libnewtonsoft-json5.0-cil")
    texts = (text for policy in POLICIES.values() for text in expressions(policy))
    with Expressions(texts, tmp_path_factory.mktemp("apim")) as compiled:
        yield compiled


def granted(issued: object = "a-token", expires_in: object = 3600) -> Answer:
    """Return a token response of Entra; `...` leaves a member out."""
    members = {"token_type": "Bearer", "access_token": issued, "expires_in": expires_in}
    return json_answer(200, {name: value for name, value in members.items() if value is not ...})


def json_answer(status: int, document: object) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document))


STORED = Answer(204)


class World:
    """A gateway, with Entra and Dynamics behind it that give scripted answers.

    The last answer of a list is repeated.
    """

    def __init__(
        self,
        compiled: Expressions,
        *dynamics: Answer | None,
        entra: tuple[Answer | None, ...] = (granted(),),
        secret: bool = False,
        values: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.posts: list[Sent] = []
        self.asked: list[Sent] = []
        self._dynamics, self._entra = list(dynamics or (STORED,)), list(entra)
        known = named_values() if values is None else {**named_values(), **values}
        self.gateway = Gateway(
            compiled, operations(secret=secret), known, self._backend(), **options
        )

    def _backend(self) -> Backend:
        def answer(sent: Sent) -> Answer | None:
            log, answers = (
                (self.posts, self._dynamics) if sent.url == URL else (self.asked, self._entra)
            )
            assert sent.url in (URL, TOKEN_ENDPOINT)
            log.append(sent)
            return answers.pop(0) if len(answers) > 1 else answers[0]

        return answer

    def get(self, query: str, headers: Mapping[str, str] = PROGRAM) -> Answer:
        return self.gateway.request("GET", f"/callback?{query}", headers)

    def callback(self, code: str = CODE, state: str = STATE) -> tuple[str, int]:
        return verdict(self.get(f"code={quote(code)}&state={quote(state)}"))


def verdict(answer: Answer) -> tuple[str, int]:
    """Return outcome and status of a JSON answer."""
    assert answer.body is not None
    assert answer.headers["Content-Type"].startswith("application/")
    return json.loads(answer.body)["outcome"], answer.status


DELIVERED, DUPLICATE, REJECTED = ("delivered", 200), ("duplicate", 200), ("rejected", 502)
INVALID, DECLINED = ("invalid", 400), ("declined", 400)


# -- the function's own tables ---------------------------------------------------------------------

OUTCOMES = {ends: ends.outcome for ends in Ends} | {
    outcome: here for each in DIFFERENCES for outcome, here in (each.refusals or {}).items()
}


REFUSALS = {name: case for name, case in TARGET_CASES.items() if case.dynamics}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_means_what_it_means_to_the_function(compiled: Expressions, case: Case) -> None:
    given = case.dynamics[0]
    answer = Answer(
        given.status, {"Content-Type": given.media_type}, given.content.decode() or None
    )
    world = World(compiled, answer, secret=True, values=named_values(pattern=".{3,}"))
    sent = {"code": REFUSED_CODE, "state": REFUSED_STATE}
    assert world.callback(**sent)[0] == OUTCOMES[case.ends]
    assert len(world.posts) == (2 if given.status == 401 else 1)


ROWS = [row for row in test_responses.ROWS if row.at == "plain"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_response_ends_as_it_does_at_the_function(
    compiled: Expressions, row: test_responses.Row
) -> None:
    pattern = test_responses.PATTERN.removeprefix("^").removesuffix("$")
    world = World(compiled, values=named_values(pattern=pattern))
    texts = test_responses.texts_of("pattern")
    at_function = row.verdict_of("get", "pattern")
    expected = (at_function.outcome, at_function.status)
    found = verdict(world.get(test_responses.fill(row.raw, texts)))
    assert found == (ENDS_HERE.get(row.id) or expected), row.source
    if row.id in ENDS_HERE:
        assert found != expected, "no difference any more: take it out of the list"
    if found == DELIVERED:
        meant = {"code": "{code}", "state": "{state}", **row.values}
        (posted,) = world.posts
        assert json.loads(posted.body) == {
            name: test_responses.fill(meant[name], texts) for name in ("code", "state")
        }
    else:
        assert not world.posts


def test_every_connection_of_the_table_is_run_or_named_as_a_difference() -> None:
    named = {name for each in DIFFERENCES for name in each.settings}
    assert set(test_responses.PROVIDERS) <= named | {"plain"}


def test_the_readme_prints_the_list_of_differences() -> None:
    text = README.read_text(encoding="utf-8")
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split(" | "))
        for line in text[: text.index("## Set it up")].splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ("", "Function App", "this edition")
    assert rows[2:] == [(each.what, each.function, each.here) for each in DIFFERENCES]


# -- what an answer of Dynamics means --------------------------------------------------------------

ECHOES = [
    (400, coded("Unknown", f"The value {value} is wrong."), value)
    for value in ('already exists"x', 'x"', "DuplicateKeyException", "0x80060892")
]
TEXTS = [
    (400, coded("Application_DialogException", "It already exists."), "x"),
    (404, {"error": {"code": "NotFound", "message": "already exists"}}, "x"),
    (500, {"ExceptionType": "Dynamics.Ax.Xpp.ErrorException", "Message": "already exists"}, "x"),
    (400, ax("It already exists.", "InvalidOperationException"), "x"),
    (400, ax("The record e already exists"), "e"),
    (400, ax("The record a already exists"), "a"),
    (400, ax("The record Already Exists."), "x"),
    (400, ax("Value already exists is wrong"), "already exists"),
    (400, ax("Value ALREADY exists is wrong"), "Already Exists"),
    (500, {"ExceptionType": "Dynamics.DuplicateKeyException"}, "Dynamics.DuplicateKeyException"),
    (412, coded("0x80040237"), "x"),
    (400, coded("0X80060892"), "x"),
    (500, {"ExceptionType": 7}, "x"),
    (500, {"error": "already exists"}, "x"),
    (500, {"error": {"code": ["0x80060892"]}}, "x"),
    (500, {"error": {"innererror": {"type": "x.AxODataWriteException", "message": None}}}, "x"),
    (500, ["already exists"], "x"),
]


@pytest.mark.parametrize(("status", "document", "code"), [*ECHOES, *TEXTS])
def test_it_exists_by_the_targets_own_shape_and_not_by_a_word_somewhere(
    compiled: Expressions, status: int, document: object, code: str
) -> None:
    refusal = Refusal.of(status, json.dumps(document).encode(), (code, STATE))
    known = targets.meaning_of(refusal)
    exists = known is not None and known.meaning is Meaning.EXISTS
    world = World(compiled, json_answer(status, document))
    assert world.callback(code) == (DUPLICATE if exists else REJECTED)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Content-Type": "Text/HTML; charset=utf-8"}, "Sign in", REJECTED),
        ({"Content-Type": "application/xhtml+xml"}, "Sign in", REJECTED),
        ({"Content-Type": "application/json"}, f"\ufeff \r\n{PAGE}", REJECTED),
        ({}, PAGE, REJECTED),
        ({}, None, DELIVERED),
        ({}, "", DELIVERED),
        ({"Content-Type": "application/json"}, '{"text": "<a> already exists"}', DELIVERED),
    ],
)
def test_a_page_is_no_delivery(
    compiled: Expressions, headers: Mapping[str, str], body: str | None, expected: tuple[str, int]
) -> None:
    assert World(compiled, Answer(200, headers, body)).callback() == expected


@pytest.mark.parametrize("body", [None, "", "already exists", "{", PAGE])
def test_a_refusal_without_a_document_is_rejected(compiled: Expressions, body: str | None) -> None:
    for status in (400, 404, 500, 503):
        assert World(compiled, Answer(status, {}, body)).callback() == REJECTED


@pytest.mark.parametrize("miss", ["default", "unset"])
def test_no_answer_of_dynamics_is_rejected(compiled: Expressions, miss: str) -> None:
    world = World(compiled, Answer(401), None, secret=True, miss=miss)
    assert world.callback() == REJECTED
    assert len(world.posts) == 2


# -- what Dynamics gets ----------------------------------------------------------------------------


def test_dynamics_gets_the_headers_of_the_contract(compiled: Expressions) -> None:
    world = World(compiled)
    answer = world.get(f"code={CODE}&state={STATE}")
    (post,) = world.posts
    assert post.method == "POST"
    assert post.headers == {
        "Authorization": "Bearer identity-token",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "OData-Version": "4.0",
        "OData-MaxVersion": "4.0",
        "Prefer": "return=minimal",
        "x-ms-client-request-id": json.loads(answer.body or "")["reference"],
    }


@pytest.mark.parametrize("kind", targets.TARGETS, ids=lambda kind: kind.name)
def test_the_objects_of_this_repository_get_what_the_function_sends_them(
    compiled: Expressions, kind: targets.TargetKind
) -> None:
    world = World(compiled, values=named_values(kind.name))
    reference = json.loads(world.get(f"code={CODE}&state={STATE}").body or "")["reference"]
    found = json.loads(world.posts[0].body)
    inner = found.get("_contract", found)
    (received,) = (value for name, value in inner.items() if name.lower().endswith("receivedat"))
    where = connection(body=json.dumps(kind.body), name="default")
    response = verified(code=CODE, state=STATE)
    callback = Callback.received(where, response, reference, datetime.fromisoformat(received))
    assert found == json.loads(where.target.body.render(callback.values()))
    assert hashlib.sha256(STATE.encode()).hexdigest() in inner.values()
    assert iso(datetime.fromisoformat(received) + timedelta(minutes=5)) in inner.values()


@pytest.mark.parametrize("code", ['x","state":"evil', "{state}", '@("x")', "{{relay-body}}", "\\"])
def test_a_value_stays_a_value(compiled: Expressions, code: str) -> None:
    world = World(compiled)
    assert world.callback(code) == DELIVERED
    assert json.loads(world.posts[0].body) == {"code": code, "state": STATE}


# -- tokens ----------------------------------------------------------------------------------------


def bearers(world: World) -> list[str]:
    return [post.headers["Authorization"].removeprefix("Bearer ") for post in world.posts]


ODD = {
    "html": Answer(200, {"Content-Type": "text/html"}, PAGE),
    "empty": Answer(200, {}, ""),
    "no-body": Answer(200),
    "array": json_answer(200, []),
    "token-is-an-object": granted({}),
    "token-missing": granted(...),
    "token-empty": granted(""),
    "token-with-a-line-break": granted("a\r\nX: y"),
    "no-expiry": granted(expires_in=...),
    "expiry-is-a-word": granted(expires_in="soon"),
    "expiry-is-an-object": granted(expires_in={}),
    "refusal": json_answer(401, {"error": "invalid_client"}),
    "no-answer": None,
}


@pytest.mark.parametrize("miss", ["default", "null", "unset"])
@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_an_odd_answer_of_entra_ends_at_the_rejected_page(
    compiled: Expressions, answer: Answer | None, miss: str
) -> None:
    world = World(compiled, entra=(answer,), secret=True, miss=miss)
    told = world.get(f"code={CODE}&state={STATE}", BROWSER)
    assert told.status == 303
    assert told.headers["Location"].startswith("/done/rejected?ref=")
    assert not world.posts
    assert not world.gateway.cache


@pytest.mark.parametrize("miss", ["default", "null", "unset"])
def test_a_token_is_kept_five_minutes_less_than_it_lives(compiled: Expressions, miss: str) -> None:
    world = World(compiled, secret=True, miss=miss, entra=(granted("one", 3600), granted("two")))
    assert [world.callback(), world.callback()] == [DELIVERED, DELIVERED]
    assert bearers(world) == ["one", "one"]
    assert list(world.gateway.cache.values()) == [("one", 3300)]


@pytest.mark.parametrize("miss", ["default", "null", "unset"])
def test_after_a_401_the_old_token_is_not_sent_again(compiled: Expressions, miss: str) -> None:
    entra = (granted("old"), granted("fresh"))
    world = World(compiled, STORED, Answer(401), STORED, entra=entra, secret=True, miss=miss)
    assert [world.callback(), world.callback(), world.callback()] == [DELIVERED] * 3
    assert bearers(world) == ["old", "old", "fresh", "fresh"]


@pytest.mark.parametrize("miss", ["default", "null", "unset"])
def test_after_a_401_no_token_is_no_second_post(compiled: Expressions, miss: str) -> None:
    world = World(compiled, Answer(401), entra=(granted(), None), secret=True, miss=miss)
    assert world.callback() == REJECTED
    assert len(world.posts) == 1


def test_a_second_401_is_final(compiled: Expressions) -> None:
    world = World(compiled, Answer(401), entra=(granted("a"), granted("b")), secret=True)
    assert world.callback() == REJECTED
    assert bearers(world) == ["a", "b"]


def test_the_identity_has_one_token_which_is_sent_once(compiled: Expressions) -> None:
    world = World(compiled, Answer(401))
    assert world.callback() == REJECTED
    assert bearers(world) == ["identity-token"]
    assert not world.asked


@pytest.mark.parametrize("identity", [None, ""])
def test_without_a_token_of_the_identity_nothing_is_posted(
    compiled: Expressions, identity: str | None
) -> None:
    world = World(compiled, identity=identity)
    assert world.callback() == REJECTED
    assert not world.posts


@pytest.mark.parametrize(
    "secret",
    ["a-secret", 'a"b', '"); throw new Exception("', "@(1 + 1)", '@{ return ""; }', "a&b=c+d%20é<"],
)
def test_a_client_secret_is_data_whatever_it_looks_like(compiled: Expressions, secret: str) -> None:
    world = World(compiled, secret=True, values={"relay-client-secret": secret})
    assert world.callback() == DELIVERED
    (asked,) = world.asked
    assert asked.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert dict(parse_qsl(asked.body, strict_parsing=True)) == {
        "grant_type": "client_credentials",
        "client_id": "a-client",
        "client_secret": secret,
        "scope": f"{RESOURCE}/.default",
    }


# -- the state's pattern ---------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["code=x", "code=x&state=", "error=x", "code=x&state=%0A"])
def test_a_pattern_that_matches_nothing_does_not_accept_nothing(
    compiled: Expressions, query: str
) -> None:
    world = World(compiled, values=named_values(pattern="(?:.|\\s)*"))
    assert verdict(world.get(query)) == INVALID


def test_a_pattern_that_takes_too_long_is_given_up(compiled: Expressions) -> None:
    world = World(compiled, values=named_values(pattern="(?:a|aa)+"))
    answer = world.get(f"code=x&state={'a' * 60}.", BROWSER)
    assert answer.headers["Location"].startswith("/done/rejected?ref=")
    assert not world.posts


SAME = {
    r"\d{4}": ("2026", "٢٠٢٦", "20260", "2026\n"),
    r"\w+": ("a_1", "é", "a-b", "a "),
    r"(?i)cb-[a-z]+": ("CB-ABC", "cb-k", "cb-\u212a"),
    r"^[A-F0-9]{4}$": ("00FF", "00ff", "00FF\n"),
    r"a|bc": ("a", "bc", "ac", "abc"),
    r"(?=.{5,})[a-z]+(?!x)": ("abcde", "abc", "abcdex"),
    r"[]a-]+": ("]a-", "b"),
    r'a"b': ('a"b', "ab"),
    r"(ab)\1": ("abab", "abba"),
    r"x{2,3}?": ("xx", "xxx", "xxxx"),
}


@pytest.mark.parametrize("pattern", SAME)
def test_a_pattern_means_what_it_means_to_the_function(compiled: Expressions, pattern: str) -> None:
    world = World(compiled, values=named_values(pattern=pattern))
    for text in SAME[pattern]:
        matches = re.fullmatch(pattern, text) is not None and text.isascii() and text.isprintable()
        assert world.callback(state=text) == (DELIVERED if matches else INVALID), text


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?P<env>[a-z]+)", "(?<env>a)", "(?a)b", "[a-z-[aeiou]]", "a{,3}", "a++", "a*+", "a?+"),
        *("a{2}+", r"\p{L}", r"\P{L}", r"\cA", r"\Gabc", r"\k<a>", r"\_a", r"abc\z", r"abc\Z"),
        *(r"\N{DIGIT ONE}", r"\U00000041", r"\ea", "(?n)abc", "(?L)abc", "(?u)abc"),
    ],
)
def test_a_pattern_that_only_one_edition_reads_is_refused_when_it_is_deployed(pattern: str) -> None:
    with pytest.raises(Failed, match="statePattern"):
        named_values(pattern=pattern)


# -- what a browser and a program see --------------------------------------------------------------


def check_headers(answer: Answer) -> None:
    """Every answer has the security headers of the contract, and nothing of the request."""
    for name, value in pages.SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=63072000")
    shown = " ".join([*answer.headers.values(), answer.body or ""])
    for secret in (CODE, STATE, "identity-token", "a-secret", "a-token"):
        assert secret not in shown


REFERENCE = re.compile(r"[0-9a-f]{16}")


@pytest.mark.parametrize("path", ["", "oauth", "apps/oauth"])
def test_a_browser_is_sent_on_below_the_path_of_the_api(compiled: Expressions, path: str) -> None:
    world = World(compiled, path=path)
    answer = world.get(f"code={CODE}&state={STATE}", BROWSER)
    assert (answer.status, answer.body) == (303, None)
    place, _, reference = answer.headers["Location"].partition("?ref=")
    assert place == f"{'/' if path else ''}{path}/done/delivered"
    assert REFERENCE.fullmatch(reference)
    check_headers(answer)


@pytest.mark.parametrize("outcome", ["delivered", "duplicate", "declined", "invalid", "rejected"])
def test_a_program_gets_json(compiled: Expressions, outcome: str) -> None:
    exists = json_answer(412, coded("0x80060892"))
    refused = Answer(403)
    world = World(compiled, {"duplicate": exists, "rejected": refused}.get(outcome, STORED))
    query = f"error=access_denied&state={STATE}" if outcome == "declined" else f"code={CODE}"
    answer = world.get(query if outcome in ("declined", "invalid") else f"{query}&state={STATE}")
    document = json.loads(answer.body or "")
    assert document.pop("outcome") == outcome
    assert REFERENCE.fullmatch(document.pop("reference"))
    if answer.status == 200:
        assert (answer.headers["Content-Type"], document) == ("application/json", {})
    else:
        assert answer.headers["Content-Type"] == "application/problem+json"
        page = World(compiled).gateway.request("GET", f"/done/{outcome}")
        assert f"<title>{document.pop('title')}</title>" in (page.body or "")
        assert document == {"status": answer.status}
    check_headers(answer)


@pytest.mark.parametrize(
    "outcome", ["delivered", "duplicate", "declined", "invalid", "rejected", "unknown"]
)
def test_a_page_has_the_title_of_the_functions(compiled: Expressions, outcome: str) -> None:
    page = World(compiled).gateway.request("GET", f"/done/{outcome}")
    title = LANGUAGES["en"].pages[outcome].title.replace("\N{NO-BREAK SPACE}", " ")
    assert f"<title>{title}</title>" in (page.body or "")


def break_it(values: dict[str, str]) -> dict[str, str]:
    return {**values, "relay-body": "no base64"}


def test_a_failure_ends_at_a_page_with_a_reference(compiled: Expressions) -> None:
    world = World(compiled, values=break_it(named_values()), path="oauth")
    answer = world.get(f"code={CODE}&state={STATE}", BROWSER)
    assert answer.status == 303
    place, _, reference = answer.headers["Location"].partition("?ref=")
    assert place == "/oauth/done/rejected"
    assert REFERENCE.fullmatch(reference)
    check_headers(answer)


def test_a_failure_tells_a_program_so(compiled: Expressions) -> None:
    answer = World(compiled, values=break_it(named_values())).get(f"code={CODE}&state={STATE}")
    assert verdict(answer) == ("rejected", 500)
    check_headers(answer)


@pytest.mark.parametrize(
    ("headers", "media_type"), [(BROWSER, "text/html"), (PROGRAM, "application/problem+json")]
)
def test_too_many_requests_are_told_when_to_come_back(
    compiled: Expressions, headers: Mapping[str, str], media_type: str
) -> None:
    world = World(compiled, calls_left=0)
    answer = world.get(f"code={CODE}&state={STATE}", headers)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "17")
    assert answer.headers["Content-Type"].startswith(media_type)
    check_headers(answer)
    assert not world.posts


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "Prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "PREFETCH"},
        {"X-Moz": "prefetch"},
        {"sec-purpose": "Prerender"},
    ],
)
def test_a_browser_that_only_looks_ahead_is_sent_away(
    compiled: Expressions, headers: Mapping[str, str]
) -> None:
    world = World(compiled)
    answer = world.get(f"code={CODE}&state={STATE}", {**BROWSER, **headers})
    assert answer.status == 503
    check_headers(answer)
    assert not world.posts


def test_a_probe_delivers_nothing(compiled: Expressions) -> None:
    world = World(compiled)
    url = f"/callback?code={CODE}&state={STATE}"
    head, options = (world.gateway.request(method, url) for method in ("HEAD", "OPTIONS"))
    assert (head.status, head.body) == (200, None)
    assert (options.status, options.body) == (204, None)
    assert options.headers["Allow"] == "GET, HEAD, OPTIONS"
    check_headers(head)
    check_headers(options)
    assert not world.posts


@pytest.mark.parametrize(
    "outcome", ["delivered", "duplicate", "declined", "invalid", "rejected", "held", "nonsense"]
)
def test_a_page_has_the_status_of_the_relays_page_and_repeats_nothing(
    compiled: Expressions, outcome: str
) -> None:
    gateway = World(compiled).gateway
    known = outcome != "held"  # there is none here
    reference = "0123456789abcdef"
    for ref in (reference, "<script>", reference + "0", ""):
        answer = gateway.request("GET", f"/done/{outcome}?ref={quote(ref)}&x={CODE}")
        assert answer.status == (pages.done(outcome, ref).status if known else 404)
        assert (f"Reference {ref}<" in (answer.body or "")) is (ref == reference)
        assert "<script>" not in (answer.body or "")
        check_headers(answer)
        head = gateway.request("HEAD", f"/done/{outcome}?ref={quote(ref)}")
        assert (head.status, head.body) == (answer.status, "")


# -- what an expression may use --------------------------------------------------------------------

ALLOWED = {
    "Newtonsoft.Json.Linq.JContainer": None,
    "Newtonsoft.Json.Linq.JObject": None,
    "Newtonsoft.Json.Linq.JProperty": None,
    "Newtonsoft.Json.Linq.JToken": None,
    "Newtonsoft.Json.Linq.JValue": None,
    "System.Array": None,
    "System.BitConverter": None,
    "System.Boolean": None,
    "System.Char": None,
    "System.Collections.Generic.Dictionary`2": None,
    "System.Collections.Generic.IEnumerable`1": None,
    "System.Collections.Generic.IEnumerator`1": None,
    "System.Collections.Generic.IReadOnlyDictionary`2": None,
    "System.Collections.Generic.KeyValuePair`2": None,
    "System.Collections.Generic.List`1": None,
    "System.Convert": None,
    "System.DateTime": {"AddSeconds", "ToString", "get_UtcNow"},
    "System.Guid": None,
    "System.Int32": None,
    "System.Linq.Enumerable": None,
    "System.Math": None,
    "System.Security.Cryptography.HashAlgorithm": None,
    "System.Security.Cryptography.SHA256": None,
    "System.String": None,
    "System.Text.Encoding": None,
    "System.Text.RegularExpressions.Regex": {"IsMatch"},
    "System.TimeSpan": None,
    "System.Uri": None,
}
"""Types of https://learn.microsoft.com/azure/api-management/api-management-policy-expressions that
are used here; `None` where that page allows all members. `catch (Exception)` is allowed too."""
CONTEXT = {
    *("IApi", "IContext", "ILastError", "IMessageBody", "IRequest", "IResponse", "IUrl"),
    "Extensions",
}
"""The context and its extension methods, on the same page; gateway.cs has those that are used."""
COMPILER = {
    # Lambdas and foreach become these; no expression names them.
    *("System.Func`2", "System.Object", "System.IDisposable", "System.Collections.IEnumerator"),
    *("System.Collections.Generic.List`1+Enumerator", "System.Runtime.CompilerServices"),
    *("System.Runtime.CompilerServices.RuntimeHelpers",),
}


def test_the_expressions_use_what_api_management_allows(compiled: Expressions) -> None:
    own = re.compile(r"Expressions\b|<PrivateImplementationDetails>")
    uses: dict[str, set[str]] = {}
    for each in compiled.members():
        kind, _, member = each.partition("::")
        if not own.match(kind) and kind not in CONTEXT | COMPILER:
            uses.setdefault(kind, set()).add(member)
    assert set(uses) == set(ALLOWED)
    for kind, members in uses.items():
        allowed = ALLOWED[kind]
        assert allowed is None or members - {""} <= allowed, kind


# -- the text of the policies, which needs no compiler ---------------------------------------------

SECTIONS = ["inbound", "backend", "outbound", "on-error"]
ANYWHERE = {"base", "choose", "retry", "return-response", "send-request", "set-variable"}
CACHE = {"cache-lookup-value", "cache-store-value"}
ONLY_INBOUND = {"authentication-managed-identity", "rate-limit-by-key"}
"""https://learn.microsoft.com/azure/api-management/api-management-policies"""
ATTRIBUTES = {
    "authentication-managed-identity": {"resource", "output-token-variable-name", "ignore-error"},
    "cache-lookup-value": {"key", "default-value", "variable-name"},
    "cache-store-value": {"key", "value", "duration"},
    "rate-limit-by-key": {"calls", "renewal-period", "counter-key", "retry-after-variable-name"},
    "retry": {"condition", "count", "interval", "first-fast-retry"},
    "send-request": {"mode", "response-variable-name", "timeout", "ignore-error"},
    "set-header": {"name", "exists-action"},
    "set-status": {"code", "reason"},
    "set-variable": {"name", "value"},
    "when": {"condition"},
}
CHILDREN = {
    "choose": {"when", "otherwise"},
    "return-response": {"set-status", "set-header", "set-body"},
    "send-request": {"set-url", "set-method", "set-header", "set-body"},
    "set-header": {"value"},
}
HOLD_POLICIES = {"inbound", "backend", "outbound", "on-error", "when", "otherwise", "retry"}

each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@each_policy
def test_a_policy_has_its_sections_and_only_policies_that_may_stand_there(
    policy: ET.Element,
) -> None:
    assert policy.tag == "policies"
    assert [section.tag for section in policy] == SECTIONS
    for section in policy:
        allowed = ANYWHERE | (CACHE | ONLY_INBOUND if section.tag == "inbound" else set())
        assert section.find("base") is not None
        for holder in section.iter():
            if holder.tag in HOLD_POLICIES:
                assert {statement.tag for statement in holder} <= allowed
        # Its reference: this policy can be used once in a section.
        assert len(list(section.iter("cache-store-value"))) <= 1


@each_policy
def test_a_policy_has_the_attributes_and_children_of_its_reference(policy: ET.Element) -> None:
    for element in policy.iter():
        assert set(element.attrib) == ATTRIBUTES.get(element.tag, set()), element.tag
        children = {child.tag for child in element}
        assert children <= CHILDREN.get(element.tag, children), element.tag


@each_policy
def test_a_named_value_stands_in_no_expression_and_never_first_in_a_variable(
    policy: ET.Element,
) -> None:
    for text in expressions(policy):
        assert "{{" not in text
        assert "}}" not in text
    for one in policy.iter("set-variable"):
        # What began with an at sign would be an expression.
        assert not one.attrib["value"].startswith("{{")


@each_policy
def test_a_variable_is_set_before_it_is_read(policy: ET.Element) -> None:
    known = {"retryAfter"}
    names = ("name", "variable-name", "response-variable-name", "output-token-variable-name")
    for element in policy.iter():
        for text in (*element.attrib.values(), element.text or ""):
            # A retry's condition is worked out after what stands in it.
            if element.tag != "retry":
                assert set(re.findall(r'context\.Variables\["(\w+)"\]', text)) <= known, text
        known |= {element.attrib[name] for name in names if name in element.attrib}


@each_policy
def test_no_code_reaches_a_trace_or_an_answer(policy: ET.Element) -> None:
    tags = {element.tag for element in policy.iter()}
    assert not tags & {"trace", "log-to-eventhub", "emit-metric"}
    for response in policy.iter("return-response"):
        text = "".join(response.itertext())
        for leak in ('"code"', '"state"', '"token"', '"secret"', "LastError.M"):
            assert leak not in text


@pytest.mark.parametrize("policy", CALLBACKS, ids=["identity", "secret"])
def test_no_call_waits_for_ever(policy: ET.Element) -> None:
    for send in policy.iter("send-request"):
        assert 0 < int(send.attrib["timeout"]) <= 20
        assert send.attrib["ignore-error"] == "true"


# -- its Bicep -------------------------------------------------------------------------------------


def used_values(policies: list[ET.Element]) -> set[str]:
    text = " ".join(ET.tostring(policy, encoding="unicode") for policy in policies)
    return set(re.findall(r"\{\{([\w-]+)\}\}", text))


def test_every_named_value_is_given_and_used() -> None:
    of_secret = {"relay-client-id", "relay-client-secret", "relay-token-endpoint"}
    given = set(named_values()) - of_secret
    identity, secret = (list(operations(secret=one).values()) for one in (False, True))
    assert used_values(identity) == given
    assert used_values(secret) == given | of_secret
    configs = [one["config"] for one in resources(API).values()]
    names = [config["config"]["name"] for config in configs if config.get("condition")]
    assert all(name in names for name in of_secret)


def depends_on(name: str) -> set[str]:
    """Return everything that has to be there before a resource of api.bicep is deployed."""
    tree = {**resources(API), **parsed(API).get("modules", {})}
    found: set[str] = set()
    left = [name]
    while left:
        config = tree[left.pop()]["config"]
        text = json.dumps(config)
        before = {other for other in tree if re.search(rf'"{other}"|\b{other}\.', text)}
        left += before - found
        found |= before
    return found


def test_the_policies_are_deployed_after_the_named_values_that_they_use() -> None:
    api = resources(API)["api"]["config"]
    assert set(api["dependsOn"]) == {"values", "client", "endpoint", "secret"}
    assert {"operation", "api", "values", "client", "endpoint", "secret"} <= depends_on("policy")
    assert "access" in depends_on("secret")
    # And all of it after the service, whose module makes none of it.
    module = parsed(MAIN)["modules"]["api"]["config"]
    assert module["dependsOn"] == ["service"]
    service = used(MAIN, "avm/res/api-management/service")
    assert not set(service) & {"apis", "namedValues", "policies", "loggers"}


def test_an_instance_that_is_there_already_is_left_as_it_is() -> None:
    service = parsed(MAIN)["modules"]["service"]["config"]["condition"]
    assert Evaluation(MAIN, {"existingService": ""}).value(service) is True
    assert Evaluation(MAIN, {"existingService": "contoso-apim"}).value(service) is False
    assert Evaluation(MAIN, {"existingService": "contoso-apim"}).value("serviceName") == (
        "contoso-apim"
    )
    assert resources(API)["service"]["existing"] is True
    made = {one["type"] for one in resources(API).values() if not one["existing"]}
    assert made == {
        f"Microsoft.ApiManagement/service/{kind}"
        for kind in ("namedValues", "apis", "apis/operations", "apis/operations/policies")
    }


def test_the_secret_comes_from_the_vault_and_nothing_else_is_one() -> None:
    properties = resources(API)["secret"]["config"]["config"]["properties"]
    assert properties["secret"] is True
    assert "value" not in properties
    assert "keyVault" in properties
    with pytest.raises(Failed, match="vaultName"):
        Evaluation(MAIN, {"clientId": "x", "vaultName": ""}).value("checkedVault")


@pytest.mark.parametrize("url", ["http://contoso.operations.dynamics.com/data/X", "@(1)", "/data"])
def test_a_url_without_tls_is_refused(url: str) -> None:
    with pytest.raises(Failed, match="dynamicsUrl"):
        Evaluation(MAIN, {"dynamicsUrl": url}).value("checkedUrl")


def test_the_api_is_open_but_for_its_state_and_has_the_relays_paths() -> None:
    properties = resources(API)["api"]["config"]["properties"]
    assert properties["protocols"] == ["https"]
    assert properties["subscriptionRequired"] is False
    assert set(operations()) == {
        ("GET", "/callback"),
        ("HEAD", "/callback"),
        ("OPTIONS", "/callback"),
        ("GET", "/done/{outcome}"),
        ("HEAD", "/done/{outcome}"),
    }


def test_no_log_of_the_gateway_is_on() -> None:
    assert used(MAIN, "avm/res/api-management/service")["diagnosticSettings"] == []
    assert "`GatewayLogs`" in README.read_text(encoding="utf-8")


def test_the_tier_has_what_the_policies_use() -> None:
    (allowed,) = (
        one["argument"]
        for one in parsed(MAIN)["parameters"]["sku"]["decorators"]
        if one["type"] == "allowed"
    )
    assert allowed == ["BasicV2", "StandardV2", "Developer"]


def test_the_readmes_commands_give_every_parameter_that_must_be_given() -> None:
    wanted = parsed(MAIN)["parameters"]
    required = {name for name, one in wanted.items() if one["default"] is None}
    commands = re.findall(r"az deployment group create[^`]+```", README.read_text(encoding="utf-8"))
    assert len(commands) >= 2
    for command in commands:
        given = set(re.findall(r"(?:^|\s)([a-z]\w+)=", command))
        assert required <= given <= set(wanted)
