"""Contestants are started, asked, watched, ended; and no number without a delivery.

What they do once they are warm is measured with all of them alive, in short turns: a machine that
others share may change its speed from one second to the next, and longer ones would compare that.
A start has the machine to itself.
"""

import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks import load
from benchmarks.arithmetic import percentile, rotated
from benchmarks.lineup import LINEUP, RELAY, USUAL, Contestant, Kind, Rig, Setup, Size
from benchmarks.load import Answers, Callback, Callbacks, LoadError
from benchmarks.processes import Cores, Process, free_port

START_SECONDS = 90
LOAD = 32
CROWD = 100
"""Connections that the first callbacks come over."""
WARM = {Kind.FUNCTION: 1, Kind.NODE: 5}
"""How much longer a process is warmed up: V8 compiles what is hot, for about five seconds."""
FASTEST = 3_000
"""Callbacks a second that are made in advance for a load that is not counted but timed."""
SLOW_ENTRA = 0.06
"""Seconds for one answer of an Entra that is as far away as it is in life."""

IMPORT = """
import sys, time
sys.path[:0] = sys.argv[1:]
import asyncio, azure.functions, azure_functions_runtime, uvloop
began = time.perf_counter()
import httpx
print(1_000 * (time.perf_counter() - began))
"""
"""Prints the milliseconds that HTTPX takes beside what a worker has loaded for any app."""


class ContestantError(Exception):
    """A contestant did not start, failed, or said that it delivered what never arrived."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds of starts, turns of callbacks, seconds and numbers of them."""

    rounds: int
    turns: int
    warm_seconds: float
    latency: int
    load_seconds: float
    first: int
    colds: Sequence[str]
    growth: Sequence[Size]
    burst: int


COLDS = ("0", "60", "cloud_60")
SIZES = (Size(1), Size(500), Size(500, 3))
FULL = Plan(5, 25, 0.8, 40, 0.8, 1_000, COLDS, SIZES, 1_000)
QUICK = Plan(1, 2, 0.3, 40, 0.4, 200, ("0", "cloud_60"), SIZES, 0)
COLD = Plan(9, 0, 0, 0, 0, 0, ("0", "60"), (), 0)
BY_MSAL = (RELAY, "bare_msal")
"""Who uses MSAL in Python: for them it matters whether MSAL knows the name of Entra."""


@dataclass(frozen=True)
class Running:
    """A contestant that has been started. `first` is the callback that it answered first."""

    contestant: Contestant
    process: Process
    port: int
    first: Callback | None
    cold_ms: float


@dataclass(frozen=True)
class Bench:
    """Where contestants are measured."""

    rig: Rig
    callbacks: Callbacks
    cores: Cores

    async def one_round(self, contestant: Contestant, plan: Plan) -> dict[str, float | None]:
        """Return every metric of a start, once. Raises `ContestantError`."""
        found: dict[str, float | None] = {}
        for variant in plan.colds:
            cloud = "cloud" in variant
            if cloud and contestant.name not in BY_MSAL:
                continue
            delay = 0 if variant == "0" else SLOW_ENTRA
            async with self.started(contestant, delay=delay, cloud=cloud) as running:
                self._check(running, Answers())
                name = "cold_ms" if variant == "0" else f"cold_{variant}_ms"
                found[name] = running.cold_ms
                if variant == "60":
                    cpu = running.process.cpu()
                    found["cold_cpu_ms"] = None if cpu is None else 1_000 * cpu
                    found["cold_memory_mib"] = running.process.memory()
        if contestant.delivers and plan.first:
            found |= await self.first_callbacks(contestant, plan.first)
        return found

    def import_httpx(self) -> float:
        """Return the milliseconds that `import httpx` takes in the environment of production."""
        relay = self.rig.apps.relay
        folders = [str(relay.packages), str(relay.worker)]
        with self.cores.starting():
            command = [sys.executable, "-I", "-S", "-c", IMPORT, *folders]
            return float(subprocess.run(command, check=True, capture_output=True).stdout)

    async def turns(
        self, contestants: Sequence[Contestant], plan: Plan
    ) -> tuple[dict[str, list[dict[str, float | None]]], dict[str, ContestantError]]:
        """Return what warm processes do, turn by turn, and who failed. All of them are alive."""
        found: dict[str, list[dict[str, float | None]]] = {each.name: [] for each in contestants}
        failed: dict[str, ContestantError] = {}
        alive: list[Running] = []
        async with AsyncExitStack() as stack:
            for contestant in contestants if plan.turns else ():
                try:
                    running = await stack.enter_async_context(self.started(contestant))
                    self._check(running, Answers())
                    # The next start empties what Dynamics has.
                    alive.append(replace(running, first=None))
                    await self._warm(alive[-1], plan)
                except ContestantError as error:
                    failed[contestant.name] = error
            for number in range(plan.turns):
                for running in rotated(alive, number):
                    name = running.contestant.name
                    if name in failed:
                        continue
                    self.rig.upstream.reset()
                    try:
                        found[name].append(await self._turn(running, plan))
                    except ContestantError as error:
                        failed[name] = error
        return {name: turns for name, turns in found.items() if name not in failed}, failed

    async def _warm(self, running: Running, plan: Plan) -> None:
        seconds = plan.warm_seconds * WARM[running.contestant.kind]
        await self.send(running, connections=1, seconds=seconds / 2)
        await self.send(running, connections=LOAD, seconds=seconds)

    async def _turn(self, running: Running, plan: Plan) -> dict[str, float | None]:
        """Send one callback after the other, then many at a time."""
        process = running.process
        alone = await self.send(running, connections=1, number=plan.latency)
        before, busy = process.cpu(), time.process_time() + process.host_cpu()
        many = await self.send(running, connections=LOAD, seconds=plan.load_seconds)
        after, busy = process.cpu(), time.process_time() + process.host_cpu() - busy
        cpu = None if before is None or after is None else after - before
        answered = len(many.acknowledged)
        return {
            "throughput": answered / many.seconds,
            "p50_ms": 1_000 * percentile(alone.latencies, 0.5),
            "p99_ms": 1_000 * percentile(many.latencies, 0.99),
            "cpu_ms": None if cpu is None else 1_000 * cpu / answered,
            "memory_mib": process.memory(),
            "load_busy": busy / many.seconds,
        }

    async def growth(self, size: Size, plan: Plan) -> dict[str, float]:
        """Return the relay's cold start, latency and memory with so many connections set up."""
        relay = next(each for each in LINEUP if each.name == RELAY)
        async with self.started(relay, size=size) as running:
            await self.send(running, connections=1, seconds=plan.warm_seconds / 2)
            alone = await self.send(running, connections=1, number=5 * plan.latency)
            memory = running.process.memory()
            found = {
                "cold_ms": running.cold_ms,
                "p50_ms": 1_000 * percentile(alone.latencies, 0.5),
            }
            return found if memory is None else found | {"memory_mib": memory}

    async def first_callbacks(self, contestant: Contestant, number: int) -> dict[str, float | None]:
        """Return what the first callbacks of a process cost Entra and Dynamics.

        They come at once over `CROWD` connections, while Entra takes its time.
        """
        async with self.started(contestant, delay=SLOW_ENTRA, ask=False) as running:
            answers = await self.send(
                running, connections=CROWD, number=number, patient=True, may_fail=True
            )
            counts = self.rig.upstream.counts
            found = {
                "token_requests": counts.token_requests,
                "entra_connections": counts.entra_connections,
                "dynamics_connections": counts.dynamics_connections,
                "failed": answers.failed,
            }
            return dict(found)

    @asynccontextmanager
    async def started(
        self,
        contestant: Contestant,
        *,
        delay: float = 0,
        cloud: bool = False,
        size: Size = USUAL,
        ask: bool = True,
    ) -> AsyncIterator[Running]:
        """Run a contestant meanwhile, from its first answer on, or from when its port is open.

        In: Entra's delay, whether Entra goes by its real name, the relay's size.
        """
        port = free_port()
        setup = self.rig.setup(contestant, port, size=size, cloud=cloud)
        async with self.serving(contestant, setup, port, delay=delay, ask=ask) as running:
            yield running

    @asynccontextmanager
    async def serving(
        self, contestant: Contestant, setup: Setup, port: int, *, delay: float = 0, ask: bool = True
    ) -> AsyncIterator[Running]:
        """Run what a set-up starts meanwhile, as `started` does."""
        self.rig.upstream.reset(delay)
        with (self.rig.folder / f"{contestant.name}.log").open("wb") as log:
            process = Process(
                setup.command,
                setup.settings,
                directory=setup.directory,
                log=log,
                cores=self.cores,
                placeholder=setup.placeholder,
            )
            try:
                if setup.placeholder:
                    process.hand_over()
                try:
                    first, cold = await self._first(process, port, ask=ask)
                except LoadError as error:
                    raise _failure(contestant, process, str(error)) from None
                yield Running(contestant, process, port, first, 1_000 * cold)
            finally:
                process.stop()

    async def _first(
        self, process: Process, port: int, *, ask: bool
    ) -> tuple[Callback | None, float]:
        deadline = time.monotonic() + START_SECONDS
        if ask:
            first = await load.first_answer(port, self.callbacks, deadline, lambda: process.ended)
            return first, time.monotonic() - process.started
        await load.opened(port, deadline, lambda: process.ended)
        return None, time.monotonic() - process.started

    async def send(
        self,
        running: Running,
        *,
        connections: int,
        number: int | None = None,
        seconds: float | None = None,
        patient: bool = False,
        may_fail: bool = False,
    ) -> Answers:
        """Send callbacks, so many or for so long, and check what was acknowledged.

        Raises `ContestantError`, also for any that failed unless some may. `patient`: a port that
        is open before the routes are there is asked again.
        """
        self.callbacks.prepare(number or round((seconds or 0) * FASTEST))
        gc.collect()
        gc.disable()  # a pause of the load's own would be somebody's 99th percentile
        try:
            answers = await load.run(
                running.port,
                self.callbacks,
                connections=connections,
                number=number,
                seconds=seconds,
                patient=patient,
            )
        except LoadError as error:
            raise _failure(running.contestant, running.process, str(error)) from None
        finally:
            gc.enable()
        if answers.failed and not may_fail:
            said = f"answered {answers.statuses}"
            raise _failure(running.contestant, running.process, said)
        self._check(running, answers)
        return answers

    def _check(self, running: Running, answers: Answers) -> None:
        """Hold what was acknowledged against what arrived."""
        if not running.contestant.delivers:
            return
        said = [*filter(None, [running.first]), *answers.acknowledged]
        rows = self.rig.upstream.rows
        lost = sum(rows.get(callback.state) != callback.code for callback in said)
        if lost:
            raise ContestantError(
                f"{running.contestant.label}: said of {lost} callbacks that they were delivered, "
                "and Dynamics does not have them."
            )


def _failure(contestant: Contestant, process: Process, said: str) -> ContestantError:
    return ContestantError(f"{contestant.label}: {said}\n{process.words}")
