"""What one callback may cost the others: pauses, slots of the redelivery, places in the outbox."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.fernet import Fernet

from relay.connections import Connection, Connections, Environment, StatePolicy, Target
from relay.delivery import targets
from relay.delivery.callback import Callback
from relay.delivery.hold_limit import CAPACITY, PER_STATE, UNSIGNED, HoldLimit
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.delivery.slots import PLACES
from relay.delivery.throttle import Throttle
from relay.delivery.used_states import UsedStates
from relay.errors import Unavailable
from relay.flow import Relay
from relay.ports import Receipt
from tests.fakes import CREATED, Clock, Dynamics, Entra, Keys
from tests.helpers import CODE, ROOT, STATE, connection, get, verified

NOW = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
BC = "https://api.businesscentral.dynamics.com/v2.0/{}/production/api/v2.0/companies(1)/{}"
DOWN = Unavailable("dynamics_503", "…", dynamics_status=503)
EXISTS = Receipt(existed=True, status=409)


def signed(name: str = "bank", **parts: str) -> Connection:
    return replace(connection(name=name, **parts), state_policy=StatePolicy.SIGNED)  # type: ignore[arg-type]


def received(where: Connection, state: str = STATE, jti: str | None = None) -> Callback:
    return Callback.received(where, replace(verified(state=state), jti=jti), "0" * 16, NOW)


class Stage:
    """A relay with an outbox and these connections."""

    def __init__(self, *connections: Connection, dynamics: Dynamics | None = None) -> None:
        self.dynamics, self.clock = dynamics or Dynamics([DOWN]), Clock()
        self.sealer = Sealer([Fernet.generate_key().decode()])
        self.relay = Relay(
            Connections({each.name: each for each in connections}),
            Entra(),
            self.dynamics,
            Keys(),
            SingleFlight(clock=self.clock),
            self.sealer,
            lambda: NOW,
            used_states=UsedStates(clock=self.clock),
            hold_limit=HoldLimit(self.clock),
        )

    async def receive(self, state: str = STATE, code: str = CODE) -> tuple[str, int]:
        answer = await self.relay.receive("default", get({"code": code, "state": state}))
        return answer.outcome, answer.status

    async def redeliver(self, callback: Callback) -> None:
        assert await self.relay.redeliver(self.sealer.seal(callback).encode(), 2) is None


# -- Retry-After ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (BC.format("contoso", "a"), BC.format("CONTOSO", "b"), True),
        (BC.format("contoso", "a"), BC.format("fabrikam", "a"), False),
        ("https://c.example/data/A", "https://c.example/api/services/G/S/o", True),
        ("https://c.example/data/A", "https://c.example:444/data/A", False),
        ("https://c.example/one/data/A", "https://c.example/two/data/A", False),
        ("https://c.example/api/data/v9.2/a", "https://c.example/api/data/v9.1/b", True),
        ("https://gateway.example/a", "https://gateway.example/b", True),
    ],
)
def test_dynamics_throttles_a_tenant_and_not_a_host(one: str, other: str, *, same: bool) -> None:
    assert (targets.tenant(one) == targets.tenant(other)) is same


class Ways:
    """Sends requests on the ways of a throttle, and counts those that are under way at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock)
        self.gate = asyncio.Event()
        self.at_once = 0

    async def send(self, target: Target, *, well: bool = True) -> None:
        async with self.throttle.turn(target):
            self.at_once += 1
            await self.gate.wait()
            self.at_once -= 1
            if well:
                self.throttle.reopen(target)

    @asynccontextmanager
    async def sending(self, target: Target, *, well: bool = True) -> AsyncIterator[int]:
        """Start ten requests; give how many are under way, and end them."""
        self.gate.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(self.send(target, well=well))
            for _ in range(5):
                await asyncio.sleep(0)
            yield self.at_once
            self.gate.set()


def target(name: str, tenant: str = "contoso") -> Target:
    return connection(name=name, url=BC.format(tenant, "callbacks")).target


async def test_a_pause_is_of_one_connection_and_its_neighbours_try_one_at_a_time() -> None:
    ways = Ways()
    ways.throttle.close(target("told"), 17)
    assert ways.throttle.pause(target("told")) == 17
    assert ways.throttle.pause(target("neighbour")) == 0
    with pytest.raises(Unavailable) as closed:
        await ways.send(target("told"))
    assert (closed.value.reason, closed.value.retry_after) == ("dynamics_pause", 17)
    assert str(closed.value) == "Dynamics asked for a pause."

    async with ways.sending(target("stranger", "fabrikam")) as at_once:
        assert at_once == 10
    async with ways.sending(target("neighbour"), well=False) as at_once:
        assert at_once == 1
    async with ways.sending(target("neighbour")) as at_once:
        assert at_once == 1
    # One was answered well.
    async with ways.sending(target("neighbour")) as at_once:
        assert at_once == 10
    assert ways.throttle.pause(target("told")) == 17


def test_of_two_pauses_the_longer_one_counts_and_at_first_there_is_none() -> None:
    throttle = Throttle(Clock(0.0))  # as on a machine that has just started
    assert throttle.pause(target("told")) == 0
    throttle.close(target("told"), 17)
    throttle.close(target("told"), 5)
    assert throttle.pause(target("told")) == 17


async def test_a_neighbour_that_waits_for_its_turn_is_not_sent_after_a_pause_of_its_own() -> None:
    ways = Ways()
    ways.throttle.close(target("told"), 17)
    first = asyncio.create_task(ways.send(target("neighbour"), well=False))
    waiting = asyncio.create_task(ways.send(target("neighbour")))
    await asyncio.sleep(0)
    ways.throttle.close(target("neighbour"), 5)
    ways.gate.set()
    await first
    with pytest.raises(Unavailable):
        await waiting


# -- slots of the redelivery ---------------------------------------------------------------------


async def many_posts(dynamics: Dynamics, number: int) -> None:
    """Wait for so many POSTs."""
    while len(dynamics.posted) < number:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0.001)


def test_the_places_are_a_quarter_of_the_slots_and_do_not_stop_the_host_from_fetching() -> None:
    queues = json.loads((ROOT / "host.json").read_text())["extensions"]["queues"]
    assert queues["batchSize"] + queues["newBatchThreshold"] == 4 * PLACES
    assert queues["newBatchThreshold"] > PLACES


async def test_what_nobody_signed_uses_a_quarter_of_the_slots_beside_signed_neighbours() -> None:
    stage = Stage(connection(), signed(), dynamics=Dynamics())
    stage.dynamics.gate.clear()
    junk = [
        asyncio.create_task(stage.redeliver(received(connection(), f"junk-{number}")))
        for number in range(PLACES + 2)
    ]
    mine = asyncio.create_task(stage.redeliver(received(signed())))
    ends = iter(asyncio.as_completed(junk, timeout=30))
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await next(ends)
        assert refused.value.reason == "outbox_share"
    await many_posts(stage.dynamics, PLACES + 1)
    stage.dynamics.gate.set()
    await asyncio.gather(*ends, mine)
    # The places are free again.
    await stage.redeliver(received(connection(), "junk"))


async def test_alone_they_use_all_slots() -> None:
    stage = Stage(connection(), dynamics=Dynamics())
    stage.dynamics.gate.clear()
    many = [
        asyncio.create_task(stage.redeliver(received(connection(), f"state-{number}")))
        for number in range(24)
    ]
    await many_posts(stage.dynamics, 24)
    stage.dynamics.gate.set()
    await asyncio.gather(*many)


def with_environment() -> Connection:
    own = signed()
    return replace(own, environments={"dev": Environment(own.credentials, own.target, {})})


@pytest.mark.parametrize(
    "connections",
    [(signed(), signed("well")), (with_environment(),)],
    ids=["connections", "environments"],
)
async def test_a_long_pause_is_not_waited_for_in_every_slot(
    connections: tuple[Connection, ...],
) -> None:
    stage = Stage(*connections, dynamics=Dynamics(pauses=[5.0]))
    waiting = [
        asyncio.create_task(stage.redeliver(received(signed(), f"state-{number}")))
        for number in range(24)
    ]
    back, sits = set[asyncio.Task[None]](), set(waiting)
    while len(back) < 24 - PLACES:
        done, sits = await asyncio.wait(sits, return_when=asyncio.FIRST_COMPLETED)
        back |= done
    assert len(sits) == PLACES
    for task in sits:
        task.cancel()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(each, Unavailable) for each in ends) == 24 - PLACES


# -- the outbox ----------------------------------------------------------------------------------


async def test_five_callbacks_of_one_state_are_held_and_a_sixth_is_rejected_with_503(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(connection())
    for _ in range(PER_STATE):
        assert await stage.receive() == ("held", 202)
    assert await stage.receive() == ("rejected", 503)
    assert caplog.messages[-1].endswith(" states=unsigned reason=outbox_limit")
    assert await stage.receive("another") == ("held", 202)
    stage.clock.seconds += 300
    assert await stage.receive() == ("held", 202)


def test_flows_of_one_ticket_are_counted_together() -> None:
    limit = HoldLimit(Clock())
    held = [limit.admit(received(signed(), f"s-{n}", jti="j" * 16)) for n in range(PER_STATE + 1)]
    assert held == [True] * PER_STATE + [False]


def test_a_connection_without_signed_states_holds_a_thousand() -> None:
    limit = HoldLimit(clock := Clock())
    held = [limit.admit(received(connection(), f"s-{n}")) for n in range(UNSIGNED + 1)]
    assert held == [True] * UNSIGNED + [False]
    # Of another connection, or with signatures, there is no such end.
    assert limit.admit(received(connection(name="other")))
    assert all(limit.admit(received(signed(), f"s-{n}")) for n in range(UNSIGNED + 10))
    clock.seconds += 300
    assert limit.admit(received(connection()))


def test_each_callback_that_ends_makes_room_for_one_of_its_state() -> None:
    limit = HoldLimit(clock := Clock())
    for _ in range(PER_STATE):
        assert limit.admit(received(connection()))
        clock.seconds += 10
    # They end after 300 seconds, in tens.
    clock.seconds = 1_000 + 300
    assert [limit.admit(received(connection())) for _ in range(2)] == [True, False]
    clock.seconds += 20
    assert [limit.admit(received(connection())) for _ in range(3)] == [True, True, False]


def test_only_so_many_callbacks_with_signed_states_are_counted() -> None:
    """The oldest is forgotten when there are more, so one more of its state is admitted."""
    limit = HoldLimit(Clock())
    for _ in range(PER_STATE):
        limit.admit(received(signed(), "first"))
    for n in range(CAPACITY - PER_STATE):
        limit.admit(received(signed(), f"s-{n}"))
    assert not limit.admit(received(signed(), "first"))
    assert limit.admit(received(signed(), "one more"))
    assert limit.admit(received(signed(), "first"))


# -- a state with another code -------------------------------------------------------------------


async def test_a_state_with_another_code_is_a_warning_and_a_second_click_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    stage = Stage(connection(), dynamics=Dynamics([CREATED, EXISTS]))
    assert await stage.receive() == ("delivered", 200)
    assert await stage.receive() == ("delivered", 200)
    assert "reason" not in caplog.text
    assert await stage.receive(code="canary-of-somebody") == ("duplicate", 200)
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.messages[-1].endswith(" reason=state_used_with_another_code")
    assert "canary" not in caplog.text
    stage.clock.seconds += 300
    assert await stage.receive(code="canary-much-later") == ("duplicate", 200)
    assert "reason" not in caplog.messages[-1]


def test_only_so_many_states_are_remembered() -> None:
    used = UsedStates(capacity=2, clock=Clock())
    codes = [replace(verified(state=f"s-{n}"), code="first") for n in range(3)]
    for code in codes:
        assert not used.has_another_code(Callback.received(connection(), code, "0" * 16, NOW))
    second = [replace(code, code="second") for code in codes]
    found = [
        used.has_another_code(Callback.received(connection(), each, "0" * 16, NOW))
        for each in reversed(second)
    ]
    assert found == [True, True, False]


def test_a_state_that_is_used_again_after_its_code_has_ended_is_the_newest_again() -> None:
    clock = Clock()
    used = UsedStates(capacity=2, clock=clock)

    def use(state: str, code: str) -> bool:
        response = replace(verified(state=state), code=code)
        return used.has_another_code(Callback.received(connection(), response, "0" * 16, NOW))

    assert not use("s-0", "first")
    clock.seconds += 100
    assert not use("s-1", "first")
    clock.seconds += 200
    assert not use("s-0", "later")  # its first code has ended
    assert not use("s-2", "first")  # the oldest, s-1, is dropped
    assert use("s-0", "another")


def test_an_error_response_is_no_other_code() -> None:
    used = UsedStates(clock=Clock())
    assert not used.has_another_code(received(connection()))
    declined = replace(verified(code=None, error="access_denied"), state=STATE)
    callback = Callback.received(connection(), declined, "0" * 16, NOW)
    assert not used.has_another_code(callback)


# -- {state_jti} ---------------------------------------------------------------------------------

WITH_JTI = '{"code": "{code}", "key": "{state_jti}"}'


async def test_exists_says_nothing_of_this_code_where_flows_share_their_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    where = signed(body=WITH_JTI)
    stage = Stage(where, dynamics=Dynamics([EXISTS]))
    await stage.redeliver(received(where, jti="j" * 16))
    assert stage.dynamics.posted[0].body == {"code": CODE, "key": "j" * 16}
    assert caplog.messages[-1].startswith("callback duplicate ")
    alone = Stage(signed(), dynamics=Dynamics([EXISTS]))
    await alone.redeliver(received(signed(), jti="j" * 16))
    assert caplog.messages[-1].startswith("callback delivered ")
