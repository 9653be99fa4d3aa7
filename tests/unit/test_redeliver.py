"""flow.redeliver: what was held ends in Dynamics, or as a dead letter, or is tried again."""

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet

from relay.connections import Connection, Connections, Provider, Target
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.errors import (
    CredentialRefused,
    Misconfigured,
    Rejected,
    Unavailable,
    UnknownConnection,
    Unopenable,
)
from relay.flow import PATIENCE, Relay
from relay.ports import Jwk, Receipt
from sandbox import loops
from tests.fakes import CREATED, Dynamics, Entra
from tests.helpers import CANARY, CODE, STATE, connection, get, verified

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WITH_ERROR = '{"code": "{code}", "state": "{state}", "error": "{error}"}'
DOWN = Unavailable("dynamics_503", "…", dynamics_status=503)


class NoKeys:
    """A provider's keys: what is held was proven when it came in."""

    async def get(self, provider: Provider, kid: str | None) -> tuple[Jwk, ...]:
        raise AssertionError("nobody asks for keys again")


@dataclass
class Stage:
    """A relay whose Entra, Dynamics and clock are the test's."""

    connection: Connection = field(default_factory=connection)
    entra: Entra = field(default_factory=Entra)
    dynamics: Dynamics = field(default_factory=Dynamics)
    now: datetime = NOW

    def __post_init__(self) -> None:
        sealer = Sealer([Fernet.generate_key().decode()])
        known = Connections({self.connection.name: self.connection})
        self.relay = Relay(
            known, self.entra, self.dynamics, NoKeys(), SingleFlight(), sealer, lambda: self.now
        )

    def message(self, **parts: str) -> bytes:
        callback = Callback.received(self.connection, verified(**parts), "0011223344556677", NOW)  # type: ignore[arg-type]
        assert self.relay.sealer
        return self.relay.sealer.seal(callback).encode()


async def test_a_held_code_is_delivered_with_its_reference_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    assert await stage.relay.redeliver(stage.message(), 3) is None
    assert stage.dynamics.stored == [{"code": CODE, "state": STATE}]
    assert "callback delivered connection=default reference=0011223344556677" in caplog.text
    assert "attempt=3" in caplog.text


async def test_exists_already_is_the_success_of_an_attempt_whose_answer_was_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(dynamics=Dynamics([Receipt(existed=True, status=201)]))
    assert await stage.relay.redeliver(stage.message(), 2) is None
    assert "callback delivered" in caplog.text


@pytest.mark.parametrize("who", ["Entra", "Dynamics"])
async def test_an_outage_is_raised_so_that_the_queue_tries_again(
    who: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    if who == "Entra":
        stage.entra.trouble = Unavailable("entra_ConnectError", "…")
    else:
        stage.dynamics.answers = [DOWN]
    message = stage.message()
    with pytest.raises(Unavailable):
        await stage.relay.redeliver(message, 2)
    assert "WARNING" in caplog.text
    assert "callback held" in caplog.text

    stage.entra.trouble, stage.dynamics.answers = None, [CREATED]
    assert await stage.relay.redeliver(message, 3) is None


@pytest.mark.parametrize(
    "error", [Rejected("dynamics_400", "…", dynamics_status=400), CredentialRefused("x", "…")]
)
async def test_what_is_refused_for_good_ends_as_a_dead_letter_and_an_error_in_the_log(
    error: Rejected, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(dynamics=Dynamics([error]))
    letter = await stage.relay.redeliver(stage.message(), 4)
    assert letter is not None
    assert (letter.reason, letter.attempts, letter.state) == (error.reason, 4, STATE)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "callback rejected" in caplog.text


async def test_a_code_is_tried_up_to_its_last_useful_moment() -> None:
    stage = Stage(now=NOW + timedelta(seconds=284))
    assert await stage.relay.redeliver(stage.message(), 2) is None
    assert len(stage.dynamics.stored) == 1


async def test_a_code_that_expired_ends_as_a_dead_letter_without_a_call() -> None:
    stage = Stage(now=NOW + timedelta(seconds=285))
    letter = await stage.relay.redeliver(stage.message(), 9)
    assert letter is not None
    assert (letter.reason, letter.first, letter.last) == (
        "expired",
        "2026-11-21T12:00:00Z",
        "2026-11-21T12:04:45Z",
    )
    assert stage.dynamics.stored == []


async def test_a_code_that_expired_becomes_an_error_record_where_the_template_names_it() -> None:
    stage = Stage(connection(body=WITH_ERROR), now=NOW + timedelta(hours=2))
    assert await stage.relay.redeliver(stage.message(), 99) is None
    [body] = stage.dynamics.stored
    assert body == {"state": STATE, "error": "temporarily_unavailable"}


async def test_an_error_record_has_no_end_of_life() -> None:
    stage = Stage(connection(body=WITH_ERROR), now=NOW + timedelta(days=6))
    message = stage.message(code=None, error="access_denied")  # type: ignore[arg-type]
    assert await stage.relay.redeliver(message, 99) is None
    [body] = stage.dynamics.stored
    assert body["error"] == "access_denied"


async def test_an_expired_code_that_got_through_after_all_is_not_followed_by_an_error() -> None:
    stage = Stage(connection(body=WITH_ERROR))
    message = stage.message()
    await stage.relay.redeliver(message, 2)
    stage.now = NOW + timedelta(hours=1)
    await stage.relay.redeliver(message, 3)
    assert len(stage.dynamics.stored) == 1


async def test_a_code_is_not_delivered_because_an_error_in_its_place_was() -> None:
    taken = [CREATED, Receipt(existed=True, status=409)]
    stage = Stage(connection(body=WITH_ERROR), dynamics=Dynamics([*taken]))
    message = stage.message()
    stage.now = NOW + timedelta(hours=1)
    assert await stage.relay.redeliver(message, 3) is None
    again = await stage.relay.receive("default", get({"code": CODE, "state": STATE}))
    assert (again.outcome, len(stage.dynamics.posted)) == ("duplicate", 2)


async def test_a_short_pause_is_sat_out_and_a_long_one_goes_back_to_the_queue() -> None:
    stage = Stage(dynamics=Dynamics(pauses=[0.05, 0.0]))
    assert await stage.relay.redeliver(stage.message(), 2) is None
    closed = Stage(dynamics=Dynamics(pauses=[PATIENCE + 1]))
    with pytest.raises(Unavailable):
        await closed.relay.redeliver(closed.message(), 2)
    assert closed.dynamics.stored == []


async def test_a_code_whose_time_ends_in_a_pause_is_not_sent_after_it() -> None:
    stage = Stage(dynamics=Dynamics(pauses=[0.01, 0.0]))
    moments = iter([NOW + timedelta(seconds=284), NOW + timedelta(seconds=290)])
    message = stage.message()
    with pytest.raises(Unavailable):
        await replace(stage.relay, now=lambda: next(moments)).redeliver(message, 2)
    assert stage.dynamics.posted == []
    stage.now = NOW + timedelta(seconds=300)
    letter = await stage.relay.redeliver(message, 3)
    assert letter is not None
    assert letter.reason == "expired"


class Throttled(Dynamics):
    """Has one pause of so many seconds, which ends by the clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._ends = time.monotonic() + seconds

    def pause(self, target: Target) -> float:
        return max(0.0, self._ends - time.monotonic())


def test_a_pause_is_over_when_its_wait_is_over_on_the_event_loop_of_azure() -> None:
    async def all_of_them() -> None:
        for number in range(20):
            stage = Stage(dynamics=Throttled(0.005 + number / 7_000))
            assert await stage.relay.redeliver(stage.message(), 2) is None

    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(all_of_them())


async def test_what_cannot_be_opened_is_raised_until_the_host_calls_it_poison(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    with pytest.raises(Unopenable):
        await stage.relay.redeliver(b"not sealed by us", 2)
    with pytest.raises(Unopenable):
        await replace(stage.relay, sealer=None).redeliver(stage.message(), 2)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_a_connection_that_is_gone_or_broken_may_come_back() -> None:
    stage = Stage()
    message = stage.message()
    gone = replace(stage.relay, connections=Connections({"other": connection(name="other")}))
    with pytest.raises(UnknownConnection):
        await gone.redeliver(message, 2)
    broken = replace(stage.relay, connections=Connections({"default": Misconfigured(("X",))}))
    with pytest.raises(Misconfigured):
        await broken.redeliver(message, 2)
    assert await stage.relay.redeliver(message, 3) is None


async def test_a_bug_is_tried_again_and_tells_no_value(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(dynamics=Dynamics([RuntimeError(f"with {CODE}")]))
    with pytest.raises(Unavailable) as raised:
        await stage.relay.redeliver(stage.message(), 2)
    assert CANARY not in caplog.text
    assert raised.value.__suppress_context__
    assert "RuntimeError" in caplog.text


async def test_a_bug_before_the_delivery_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> datetime:
        raise RuntimeError(f"with {CODE}")

    stage = Stage()
    with pytest.raises(Unavailable):
        await replace(stage.relay, now=broken).redeliver(stage.message(), 2)
    assert CANARY not in caplog.text
    assert "callback held connection=default reference=0011223344556677" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(" reason=unforeseen")
