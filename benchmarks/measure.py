"""One contestant at a time: started, asked, watched, ended; and no number without a delivery."""

import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks import load
from benchmarks.arithmetic import percentile
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
    """How much is measured: seconds and numbers of callbacks.

    Without seconds of load only the start is measured.
    """

    rounds: int
    warm_seconds: float
    latency: int
    load_seconds: float
    first: int
    colds: Sequence[str]
    growth: Sequence[Size]
    burst: int


COLDS = ("60", "cloud_60")
SIZES = (Size(1), Size(500), Size(500, 3))
FULL = Plan(5, 0.8, 300, 2.0, 1_000, COLDS, SIZES, 1_000)
QUICK = Plan(1, 0.3, 100, 1.0, 200, ("cloud_60",), SIZES, 0)
COLD = Plan(9, 0, 0, 0, 0, ("0", "60"), (), 0)
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
        """Return every metric of a contestant, once. Raises `ContestantError`."""
        found = await self.steady(contestant, plan) if plan.load_seconds else {}
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

    async def steady(self, contestant: Contestant, plan: Plan) -> dict[str, float | None]:
        """Return what a warm process does."""
        async with self.started(contestant) as running:
            alone = await self._alone(running, plan)
            warm = plan.warm_seconds * WARM[contestant.kind]
            await self.send(running, connections=LOAD, seconds=warm)
            process = running.process
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
                "cold_ms": running.cold_ms,
                "memory_mib": process.memory(),
                "load_busy": busy / many.seconds,
            }

    async def _alone(self, running: Running, plan: Plan) -> Answers:
        """Send one callback after the other: before any crowd, which leaves its connections."""
        warm = plan.warm_seconds * WARM[running.contestant.kind] / 2
        await self.send(running, connections=1, seconds=warm)
        return await self.send(running, connections=1, number=plan.latency)

    async def growth(self, size: Size, plan: Plan) -> dict[str, float]:
        """Return the relay's cold start, latency and memory with so many connections set up."""
        relay = next(each for each in LINEUP if each.name == RELAY)
        async with self.started(relay, size=size) as running:
            alone = await self._alone(running, plan)
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
                first, cold = await self._first(process, port, ask=ask)
                yield Running(contestant, process, port, first, 1_000 * cold)
            except LoadError as error:
                said = f"{contestant.label}: {error}\n{process.words}"
                raise ContestantError(said) from None
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
        finally:
            gc.enable()
        if answers.failed and not may_fail:
            raise ContestantError(
                f"{running.contestant.label}: answered {answers.statuses}\n{running.process.words}"
            )
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
