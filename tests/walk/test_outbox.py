"""The outbox through the host: what is acknowledged and not delivered waits sealed in a queue."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from relay.delivery.callback import Callback
from sandbox import dynamics, entra
from sandbox.host import FunctionsHost
from sandbox.storage import MemoryQueues
from sandbox.world import APP, World
from tests.helpers import connection, verified
from tests.outbox import (
    CODE,
    DEAD,
    OUTBOX,
    POISON,
    QUICK,
    STATE,
    WITH_ERROR,
    eventually,
    everything,
    hit,
)


@pytest.fixture
def world() -> Iterator[World]:
    with World(QUICK) as world:
        world.dynamics.retry_after = 0
        yield world


def test_an_outage_of_dynamics_holds_the_code_and_its_end_delivers_it(world: World) -> None:
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    held = hit(world)
    assert (held.status_code, held.json()["outcome"]) == (202, "held")
    assert hit(world, "text/html").headers["location"].startswith("/done/held?ref=")
    world.dynamics.mode = None
    eventually(lambda: world.dynamics.rows)
    assert world.dynamics.rows == {STATE: {"code": CODE, "state": STATE}}
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, DEAD) == []


def test_an_outage_of_entra_holds_the_code_too(world: World) -> None:
    world.entra.mode = entra.Fault.METADATA_DOWN
    assert hit(world).json()["outcome"] == "held"
    world.entra.mode = None
    eventually(lambda: world.dynamics.rows)


def test_nothing_in_the_queue_can_be_read(world: World) -> None:
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    hit(world)
    [message] = everything(world, OUTBOX)
    opened = base64.urlsafe_b64decode(message)
    for secret in (CODE, STATE, "canary"):
        for spelling in (secret, quote(secret, safe=""), secret.encode().hex()):
            for text in (message, message.encode().hex(), opened.decode("latin-1"), opened.hex()):
                assert spelling not in text
        for shift in range(3):
            encoded = base64.b64encode(b"x" * shift + secret.encode()).decode()
            assert encoded[4 if shift else 0 : -4] not in message


def test_every_hit_that_hears_held_has_a_message_of_its_own(world: World) -> None:
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    assert [hit(world).json()["outcome"] for _ in range(3)] == ["held"] * 3
    assert len(everything(world, OUTBOX)) == 3
    world.dynamics.mode = None
    eventually(lambda: everything(world, OUTBOX) == [])
    assert len(world.dynamics.rows) == 1


def test_nobody_hears_held_when_the_queue_cannot_be_written(world: World) -> None:
    assert isinstance(world.queues, MemoryQueues)
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    world.queues.failing.add("send")
    assert hit(world).status_code == 500
    assert "held" not in hit(world, "text/html").headers.get("location", "")


def test_without_keys_an_outage_is_rejected_with_503_and_nothing_is_written() -> None:
    with World({**QUICK, "OUTBOX_KEYS": ""}) as world:
        world.dynamics.mode = dynamics.Fault.UNAVAILABLE
        answer = hit(world)
        assert (answer.status_code, answer.json()["outcome"]) == (503, "rejected")
        assert everything(world, OUTBOX) == []


def test_an_answer_that_was_lost_is_not_stored_twice() -> None:
    with World({**QUICK, "DYNAMICS_TIMEOUT": "0.3"}) as world:
        world.dynamics.faults.append(dynamics.Fault.HANG_AFTER_STORE)
        assert hit(world).json()["outcome"] == "held"
        eventually(lambda: world.dynamics.posts == 2 and everything(world, OUTBOX) == [])
        assert len(world.dynamics.rows) == 1
        assert everything(world, DEAD) == []


def test_what_dynamics_refuses_for_good_meanwhile_is_a_dead_letter_without_its_code(
    world: World,
) -> None:
    world.dynamics.faults.extend([dynamics.Fault.UNAVAILABLE, *[dynamics.Fault.FORBIDDEN] * 3])
    reference = hit(world).json()["reference"]
    eventually(lambda: everything(world, DEAD))
    [letter] = [json.loads(text) for text in everything(world, DEAD)]
    assert letter["reference"] == reference
    assert (letter["state"], letter["reason"], letter["attempts"]) == (STATE, "dynamics_403", 4)
    assert CODE not in json.dumps(letter)
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, POISON) == []


def test_a_code_that_expires_in_the_outbox_reaches_dynamics_as_an_error() -> None:
    with World({**QUICK, "CODE_TTL": "2", "DYNAMICS_BODY": WITH_ERROR}) as world:
        world.dynamics.mode = dynamics.Fault.UNAVAILABLE
        world.dynamics.retry_after = 0
        hit(world)
        time.sleep(1.2)
        world.dynamics.mode = None
        eventually(lambda: world.dynamics.rows)
        assert world.dynamics.rows == {STATE: {"state": STATE, "error": "temporarily_unavailable"}}


def test_a_refusal_of_the_provider_is_held_for_dynamics_while_the_person_hears_it_at_once() -> None:
    with World({**QUICK, "DYNAMICS_BODY": WITH_ERROR}) as world:
        world.dynamics.retry_after = 0
        world.dynamics.mode = dynamics.Fault.UNAVAILABLE
        answer = hit(world, state=STATE, error="access_denied")
        assert (answer.status_code, answer.json()["outcome"]) == (400, "declined")
        world.dynamics.mode = None
        eventually(lambda: world.dynamics.rows)
        assert world.dynamics.rows == {STATE: {"state": STATE, "error": "access_denied"}}


def test_what_cannot_be_opened_ends_in_the_poison_queue() -> None:
    quick = {**QUICK, "AzureFunctionsJobHost__extensions__queues__maxDequeueCount": "2"}
    with World(quick) as world:
        world.queues.create(OUTBOX)
        world.queues.send(OUTBOX, base64.b64encode(b"who wrote this?").decode())
        eventually(lambda: everything(world, POISON) == ["who wrote this?"])
        eventually(lambda: everything(world, OUTBOX) == [])


def test_a_pause_that_dynamics_asks_for_is_kept_and_then_all_is_delivered(world: World) -> None:
    world.dynamics.retry_after = 2
    world.dynamics.faults.append(dynamics.Fault.THROTTLED)
    for number in range(5):
        hit(world, code=f"c{number}", state=f"s{number}")
    assert world.dynamics.posts == 1
    eventually(lambda: len(world.dynamics.rows) == 5)
    assert world.dynamics.posts == 6


# --- bindings and host.json -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "queue"),
    [({}, OUTBOX), ({"OUTBOX_QUEUE": "mine-1"}, "mine-1"), ({"OUTBOX_QUEUE": "Not valid"}, OUTBOX)],
    ids=["absent", "given", "wrong"],
)
def test_the_bindings_name_the_queue_itself_because_the_host_resolves_no_missing_setting(
    setting: dict[str, str], queue: str
) -> None:
    storage = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
    host = FunctionsHost(APP, storage | setting, queues=MemoryQueues())
    bindings = {
        (function.name, binding["name"]): (binding["type"], binding["queueName"])
        for function in host.functions
        for binding in function.bindings
        if "queueName" in binding
    }
    assert bindings == {
        ("callback", "outbox"): ("queue", queue),
        ("redeliver", "message"): ("queueTrigger", queue),
        ("redeliver", "dead"): ("queue", f"{queue}-dead"),
        ("examine", "message"): ("queueTrigger", f"{queue}-doctor"),
        ("examine", "report"): ("queue", f"{queue}-doctor-report"),
    }
    assert {
        binding["connection"]
        for function in host.functions
        for binding in function.bindings
        if "queueName" in binding
    } == {"AzureWebJobsStorage"}
    assert host.errors == {}


def queues_section() -> dict[str, str | int]:
    text = Path(APP, "host.json").read_text("utf-8")
    section: dict[str, str | int] = json.loads(text)["extensions"]["queues"]
    return section


def seconds(span: str | int) -> float:
    hours, minutes, rest = str(span).split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(rest)).total_seconds()


def test_a_code_that_lives_60_seconds_gets_four_attempts_from_the_queue() -> None:
    section = queues_section()
    # The worst case: each time the message shows again just after the host has looked.
    look = seconds(section["maxPollingInterval"])
    again = seconds(section["visibilityTimeout"]) + look
    now = datetime(2026, 11, 21, tzinfo=UTC)
    callback = Callback.received(connection(code_ttl=60), verified(), "", now)
    window = (callback.deliver_by - now).total_seconds()
    attempts = 1 + int((window - look) // again)
    assert attempts >= 4


def test_an_outage_of_60_minutes_loses_no_error_record() -> None:
    section = queues_section()
    # The worst case: every attempt fails at once.
    patience = int(section["maxDequeueCount"]) * seconds(section["visibilityTimeout"])
    assert timedelta(minutes=60) < timedelta(seconds=patience) < timedelta(days=7)


def test_messages_are_encoded_as_every_tool_for_queues_expects() -> None:
    assert queues_section()["messageEncoding"] == "base64"
