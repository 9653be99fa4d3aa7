"""One piece of work for all who want the same."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from relay.delivery.single_flight import CAPACITY, SingleFlight
from relay.errors import ApplicationFailed, Rejected, Unavailable
from tests.fakes import Clock

MINUTE = timedelta(minutes=1)


class Work:
    """Counts how often it is done; waits for `open` when it is made so."""

    def __init__(self, result: str = "done", failure: Exception | None = None) -> None:
        self.times = 0
        self.result = result
        self.failure = failure
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> str:
        self.times += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.result


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_is_done_and_its_result_returned() -> None:
    work = Work()
    assert await SingleFlight[str]().run("a", work, keep=MINUTE) == "done"
    assert work.times == 1


async def test_concurrent_callers_share_one_piece_of_work() -> None:
    once, work = SingleFlight[str](), Work()
    work.gate.clear()
    callers = [asyncio.create_task(once.run("a", work, keep=MINUTE)) for _ in range(10)]
    await settle()
    work.gate.set()
    assert await asyncio.gather(*callers) == ["done"] * 10
    assert work.times == 1


async def test_later_callers_get_the_remembered_result() -> None:
    once, first, second = SingleFlight[str](), Work("first"), Work("second")
    await once.run("a", first, keep=MINUTE)
    assert await once.run("a", second, keep=MINUTE) == "first"
    assert once.remembered("a") == "first"
    assert second.times == 0


async def test_different_keys_have_nothing_to_do_with_each_other() -> None:
    once, first, second = SingleFlight[str](), Work("first"), Work("second")
    first.gate.clear()
    waiting = asyncio.create_task(once.run("a", first, keep=MINUTE))
    await settle()
    assert await once.run("b", second, keep=MINUTE) == "second"
    first.gate.set()
    assert await waiting == "first"


def test_nothing_is_remembered_of_what_was_never_done() -> None:
    assert SingleFlight[str]().remembered("a") is None


async def test_a_result_is_remembered_for_as_long_as_was_asked_and_no_longer() -> None:
    clock = Clock()
    once = SingleFlight[str](clock=clock)
    await once.run("a", Work("first"), keep=MINUTE)
    clock.seconds += 59.9
    assert await once.run("a", Work("second"), keep=MINUTE) == "first"
    clock.seconds += 0.1
    assert once.remembered("a") is None
    assert await once.run("a", Work("third"), keep=MINUTE) == "third"


async def test_the_time_counts_from_the_end_of_the_work() -> None:
    clock = Clock()
    once, work = SingleFlight[str](clock=clock), Work()
    work.gate.clear()
    waiting = asyncio.create_task(once.run("a", work, keep=MINUTE))
    await settle()
    clock.seconds += 3600
    work.gate.set()
    await waiting
    assert once.remembered("a") == "done"


async def test_a_failure_is_shared_with_those_who_wait_for_it() -> None:
    once, work = SingleFlight[str](), Work(failure=LookupError("no"))
    work.gate.clear()
    callers = [asyncio.create_task(once.run("a", work, keep=MINUTE)) for _ in range(3)]
    await settle()
    work.gate.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(each) for each in found] == [LookupError] * 3
    assert work.times == 1


async def test_a_failure_is_never_remembered() -> None:
    once, work = SingleFlight[str](), Work(failure=LookupError("no"))
    for _ in range(3):
        with pytest.raises(LookupError):
            await once.run("a", work, keep=MINUTE)
    assert work.times == 3
    assert once.remembered("a") is None
    assert await once.run("a", Work("at last"), keep=MINUTE) == "at last"


async def test_a_caller_who_goes_away_does_not_stop_the_work_for_the_others() -> None:
    once, work = SingleFlight[str](), Work()
    work.gate.clear()
    first = asyncio.create_task(once.run("a", work, keep=MINUTE))
    second = asyncio.create_task(once.run("a", work, keep=MINUTE))
    await settle()
    first.cancel()
    await settle()
    work.gate.set()
    assert await second == "done"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_work_is_finished_and_remembered_when_every_caller_has_gone() -> None:
    once, work = SingleFlight[str](), Work()
    work.gate.clear()
    only = asyncio.create_task(once.run("a", work, keep=MINUTE))
    await settle()
    only.cancel()
    await settle()
    work.gate.set()
    await settle()
    assert once.remembered("a") == "done"
    assert work.times == 1


async def fill(once: SingleFlight[str], keys: int, work: Callable[[], Awaitable[str]]) -> None:
    for key in range(keys):
        await once.run(str(key), work, keep=MINUTE)


async def test_no_more_results_are_remembered_than_there_is_room_for() -> None:
    once = SingleFlight[str](capacity=3)
    await fill(once, 4, Work())
    assert [once.remembered(str(key)) for key in range(4)] == [None, "done", "done", "done"]


def test_there_is_room_for_10_000_results() -> None:
    assert CAPACITY == 10_000


async def test_a_result_that_was_renewed_is_not_the_oldest() -> None:
    clock = Clock()
    once = SingleFlight[str](capacity=2, clock=clock)
    await once.run("a", Work(), keep=timedelta(seconds=1))
    await once.run("b", Work(), keep=MINUTE)
    clock.seconds += 2
    await once.run("a", Work(), keep=MINUTE)
    await once.run("c", Work(), keep=MINUTE)
    assert [once.remembered(key) for key in "abc"] == ["done", None, "done"]


async def test_a_failure_that_nobody_waits_for_any_more_is_not_printed_by_the_loop() -> None:
    """asyncio would log it when it is forgotten, message and all: "never retrieved"."""
    printed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    once, work = SingleFlight[str](), Work(failure=ValueError("canary-code"))
    work.gate.clear()
    caller = asyncio.create_task(once.run("a", work, keep=MINUTE))
    await settle()
    caller.cancel()
    await settle()
    work.gate.set()
    await settle()
    del caller
    gc.collect()
    assert printed == []


# -- failures in a row ---------------------------------------------------------------------------

REFUSED = Rejected("dynamics_403", "…")
EXCEPTION = ApplicationFailed("dynamics_500", "…")
OUTAGE = Unavailable("dynamics_503", "…")


async def fail(once: SingleFlight[str], key: str, *failures: Exception | None) -> None:
    """Run work for a key that fails so, `None` for work that is done and not remembered."""
    for failure in failures:
        try:
            await once.run(key, Work(failure=failure), keep=timedelta())
        except (Rejected, Unavailable):
            assert failure is not None


@pytest.mark.parametrize(
    ("ends", "failures"),
    [
        pytest.param([], 0, id="nothing-ran"),
        pytest.param([REFUSED], 1, id="a-refusal"),
        pytest.param([REFUSED, EXCEPTION, REFUSED], 3, id="three-in-a-row"),
        pytest.param([EXCEPTION, EXCEPTION], 2, id="exceptions-of-the-application"),
        pytest.param([REFUSED, REFUSED, OUTAGE], 0, id="an-outage-begins-the-row-again"),
        pytest.param([REFUSED, OUTAGE, REFUSED], 1, id="after-an-outage"),
        pytest.param([OUTAGE, OUTAGE], 0, id="outages-are-none"),
        pytest.param([REFUSED, REFUSED, None], 0, id="delivered"),
    ],
)
async def test_failures_in_a_row_are_counted(ends: list[Exception | None], failures: int) -> None:
    once = SingleFlight[str](clock=Clock())
    await fail(once, "another", REFUSED)
    await fail(once, "a", *ends)
    assert once.failures("a") == failures
    assert once.failures("another") == 1


async def test_the_failures_of_the_key_that_failed_first_are_forgotten_first() -> None:
    once = SingleFlight[str](capacity=3)
    for key in "abcd":
        await fail(once, key, REFUSED)
    assert [once.failures(key) for key in "abcd"] == [0, 1, 1, 1]
