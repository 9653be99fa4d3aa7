"""What providers send that is unusual and legitimate, through the Functions host.

The rows are those of the table of responses, whose every row is run without a host. Here is what
Dynamics has in the end.
"""

from collections.abc import Iterator

import pytest

from relay.oauth import error_codes
from sandbox.world import World
from tests.refusals import REDIRECTS
from tests.unit.test_responses import (
    BODIES,
    DECLINED,
    DELIVERED,
    PROVIDERS,
    ROWS,
    WAYS,
    Row,
    fill,
    texts_of,
)

HABITS = (
    *("empty-state-behind", "not-utf-8-in-an-unrecognized-one", "not-utf-8-in-a-description"),
    *("not-utf-8-in-a-wanted-parameter", "hybrid", "hybrid-where-it-is-expected"),
    *("code-alone-where-an-id-token-is-expected", "state-alone-is-told", "told-of-an-error"),
    *("provider-names-it-otherwise", "provider-names-the-state-otherwise"),
    *("all-parameters-in-their-order", "further-parameter-that-is-wanted"),
)
CASES = [row for row in ROWS if row.id in HABITS]
FURTHER = {"error", "error_description", "error_uri", "session_state", "realmId", "id_token", "all"}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    settings: dict[str, str] = {}
    for at in {row.at for row in CASES}:
        provider, name = PROVIDERS[at], f"CONNECTIONS__A_{at.upper()}__"
        settings |= {
            f"{name}PROVIDER_CODE_PARAMETER": provider.code_parameter,
            f"{name}PROVIDER_STATE_PARAMETER": provider.state_parameter,
            f"{name}PROVIDER_RESPONSE_TYPE": provider.response_type,
            f"{name}DYNAMICS_BODY": BODIES.get(at, ""),
        }
    with World(settings | {"PROVIDER_ISSUER": ""}, further=FURTHER) as world:
        yield world


def test_every_habit_has_a_row() -> None:
    assert {row.id for row in CASES} == {*HABITS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", CASES, ids=lambda row: row.id)
def test_a_habit_ends_as_the_table_says_and_dynamics_has_it(
    world: World, row: Row, way: str
) -> None:
    state = f"{row.id}-by-{way}"
    texts = {**texts_of("opaque"), "state": state}
    sent = WAYS[way](fill(row.raw, texts))
    with world.client(headers={"accept": "application/json"}) as client:
        told = client.request(
            sent.method,
            f"{world.redirect_uri}/a_{row.at.title()}?{sent.query}",
            headers={
                name: value for name, value in sent.headers.items() if name != "content-length"
            },
            content=sent.body or None,
        )
    expected = row.verdict_of(way, "opaque")
    assert (told.json()["outcome"], told.status_code) == (expected.outcome, expected.status)
    usual = {"declined": {"error": "access_denied"}, "delivered": {"code": "{code}"}}
    meant = {"state": "{state}", **usual.get(expected.outcome, {}), **row.values}
    stored = expected == DELIVERED or (expected == DECLINED and row.at == "told")
    row_of = {name: fill(value, texts) for name, value in meant.items()}
    assert world.dynamics.rows.get(state) == (row_of if stored else None)


@pytest.mark.parametrize("number", range(len(REDIRECTS)), ids=lambda each: REDIRECTS[each].error)
def test_an_error_is_a_decision_or_a_fault_and_dynamics_has_it(
    world: World, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    case, state = REDIRECTS[number], f"error-{number}"
    sent = {"error": case.error, "state": state}
    sent |= {"error_description": case.description} if case.description else {}
    with world.client(headers={"accept": "text/html"}) as client:
        told = client.get(f"{world.redirect_uri}/a-told", params=sent)
    assert told.status_code == 400
    title = "Authorization not granted" if case.decided else "failed at the other system"
    assert title in told.text.replace("\N{NO-BREAK SPACE}", " ")
    assert world.dynamics.rows[state] == sent
    reason = case.error if case.error in error_codes.REGISTERED else "other"
    assert caplog.messages[-1].endswith(f" reason={reason}")


@pytest.mark.parametrize("query", ["", "?code=a&state=b"])
@pytest.mark.parametrize("name", ["", "/a-told", "/nobody"])
def test_a_probe_of_the_redirect_uri_is_welcome_and_delivers_nothing(
    world: World, name: str, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.dynamics.posts
    with world.client() as client:
        head = client.head(f"{world.redirect_uri}{name}{query}")
        options = client.options(f"{world.redirect_uri}{name}{query}")
    assert (head.status_code, head.content) == (200, b"")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, POST, HEAD, OPTIONS")
    assert world.dynamics.posts == before
    assert not [each for each in caplog.messages if each.startswith("callback")]


def test_an_error_without_a_state_gets_a_page_in_plain_words(world: World) -> None:
    with world.client(headers={"accept": "text/html"}) as client:
        told = client.get(world.redirect_uri, params={"error": "access_denied"})
    assert told.status_code == 400
    assert "The other system ended the authorization" in told.text
