"""Refusals through the Functions host: what is held, delivered afterwards, or a dead letter."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.fernet import Fernet
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.connections import Connections
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.flow import Relay
from sandbox.storage import MemoryQueues
from sandbox.target import Fault
from sandbox.world import World
from tests.fakes import Dynamics, Entra, Keys
from tests.helpers import connection, verified
from tests.unit.test_refusals import CASES, EXISTS, FRESH_TOKEN, HELD, PAGE, REFUSED, Case

OUTBOX, DEAD, POISON = "callback-outbox", "callback-outbox-dead", "callback-outbox-poison"
QUICK = {
    "OUTBOX_KEYS": Fernet.generate_key().decode(),
    "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:01",
    "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
}
CODE, STATE = "canary-code", "canary-state"


@pytest.fixture
def world() -> Iterator[World]:
    with World(QUICK) as world:
        yield world


def coded(status: int, code: str, message: str = "") -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def x_plus_plus() -> Response:
    kind = "Microsoft.Dynamics.Ax.Xpp.ErrorException"
    return JSONResponse({"Message": "An exception occured", "ExceptionType": kind}, 500)


def plain(status: int) -> Response:
    return JSONResponse({"Message": "No."}, status)


def answer(world: World, monkeypatch: pytest.MonkeyPatch, *answers: Response) -> None:
    """Let Dynamics give these answers first, and then do its work."""
    left, attempt = list(answers), world.dynamics._attempt

    def next_answer(request: Request, body: bytes, fault: Fault | None) -> Response:
        return left.pop(0) if left else attempt(request, body, fault)

    monkeypatch.setattr(world.dynamics, "_attempt", next_answer)


def hit(world: World) -> str:
    with world.client(headers={"accept": "application/json"}) as client:
        told: httpx.Response = client.get(world.redirect_uri, params={"code": CODE, "state": STATE})
    return str(told.json()["outcome"])


def eventually(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def everything(world: World, queue: str) -> list[str]:
    assert isinstance(world.queues, MemoryQueues)
    if queue not in world.queues.names():
        return []
    return [base64.b64decode(found.text).decode() for found in world.queues.everything(queue)]


def dead_letter(world: World) -> tuple[str, int]:
    """Wait for the dead letter; return its reason and its attempts."""
    eventually(lambda: everything(world, DEAD))
    eventually(lambda: everything(world, OUTBOX) == [])
    [letter] = [json.loads(text) for text in everything(world, DEAD)]
    return letter["reason"], letter["attempts"]


def refuse(case: Case) -> Response:
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    headers = {"location": case.location} if case.location else {}
    media_type = "text/html" if body == PAGE else "application/json"
    return Response(body, case.status, headers, media_type)


def test_every_refusal_of_the_table_ends_as_it_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the host: what the person is told, and what Dynamics has in the end."""
    told = {EXISTS: "duplicate", HELD: "held", REFUSED: "rejected", FRESH_TOKEN: "rejected"}
    # Whose redirect is a sign-in depends on the authority; that is told in tests/unit.
    # The states are numbers: a name could hold the words that a message is searched for.
    cases = {
        f"state-{number}": case
        for number, case in enumerate(CASES.values())
        if case.outcome is not FRESH_TOKEN or not case.location
    }
    # The second one is for a token that is refused and made anew, or for the redelivery.
    left = {name: [refuse(case)] * 2 for name, case in cases.items() if case.outcome is not EXISTS}
    left |= {name: [refuse(case)] for name, case in cases.items() if case.outcome is EXISTS}
    attempt = world.dynamics._attempt

    def next_answer(request: Request, body: bytes, fault: Fault | None) -> Response:
        answers = left[json.loads(body)["state"]]
        return answers.pop() if answers else attempt(request, body, fault)

    monkeypatch.setattr(world.dynamics, "_attempt", next_answer)
    with world.client(headers={"accept": "application/json"}) as client:
        for name, case in cases.items():
            said = client.get(world.redirect_uri, params={"code": CODE, "state": name}).json()
            assert (case, said["outcome"]) == (case, told[case.outcome])
    held = {name for name, case in cases.items() if case.outcome is HELD}
    eventually(lambda: set(world.dynamics.rows) == held)
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, DEAD) == everything(world, POISON) == []


def test_a_key_of_dataverse_that_is_taken_is_a_duplicate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(world, monkeypatch, coded(412, "0x80040237"))
    assert hit(world) == "duplicate"


def test_a_key_that_an_attempt_without_an_answer_has_taken_is_a_success(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    answer(world, monkeypatch, plain(503), coded(412, "0x80040237"))
    assert hit(world) == "held"
    eventually(lambda: any("callback delivered" in each for each in caplog.messages))
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, DEAD) == []


@pytest.mark.parametrize(("status", "code"), [(400, 90033), (401, 90024)])
def test_an_entra_that_is_busy_holds_a_callback_whatever_its_status(
    world: World, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, grant = [(status, code)], world.entra._grant

    def next_grant(request: Request, form: dict[str, str]) -> Response:
        if not said:
            return grant(request, form)
        status, code = said.pop()
        return JSONResponse({"error": "temporarily_unavailable", "error_codes": [code]}, status)

    monkeypatch.setattr(world.entra, "_grant", next_grant)
    assert hit(world) == "held"
    eventually(lambda: world.dynamics.rows)


# -- what ends a redelivery ----------------------------------------------------------------------


def test_two_refusals_while_a_target_comes_up_lose_no_code(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(world, monkeypatch, plain(503), plain(404), plain(403))
    assert hit(world) == "held"
    eventually(lambda: world.dynamics.rows)
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, DEAD) == []


def test_three_refusals_in_a_row_are_a_dead_letter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = (503, 404, 403, 503, 404, 403, 403)
    answer(world, monkeypatch, *map(plain, statuses))
    assert hit(world) == "held"
    assert dead_letter(world) == ("dynamics_403", len(statuses))
    assert world.dynamics.rows == {}


def test_a_token_that_is_refused_three_times_in_a_row_is_a_dead_letter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each attempt posts twice: the second time with a fresh token.
    answer(world, monkeypatch, plain(503), *(plain(401) for _ in range(6)))
    assert hit(world) == "held"
    assert dead_letter(world) == ("dynamics_401", 4)


def test_any_other_refusal_of_a_redelivery_is_a_dead_letter_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(world, monkeypatch, plain(503), plain(400))
    assert hit(world) == "held"
    assert dead_letter(world) == ("dynamics_400", 2)


def test_an_exception_of_a_custom_service_is_posted_three_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(world, monkeypatch, *(x_plus_plus() for _ in range(9)))
    assert hit(world) == "held"
    assert dead_letter(world) == ("dynamics_500", 3)
    assert world.dynamics.posts == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_at_the_callback_such_a_refusal_is_final(
    world: World, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(world, monkeypatch, plain(status), plain(status))
    assert hit(world) == "rejected"
    assert everything(world, OUTBOX) == []


async def test_an_error_record_that_the_template_no_longer_names_is_a_dead_letter() -> None:
    now = datetime.now(UTC)
    where, dynamics = connection(), Dynamics()
    sealer = Sealer([Fernet.generate_key().decode()])
    connections = Connections({where.name: where})
    relay = Relay(connections, Entra(), dynamics, Keys(), SingleFlight(), sealer, lambda: now)
    response = verified(code=None, error="access_denied")
    message = sealer.seal(Callback.received(where, response, "0" * 16, now)).encode()
    letter = await relay.redeliver(message, 2)
    assert letter is not None
    assert (letter.reason, dynamics.posted) == ("error_unwanted", [])
