"""The relay beside what people would use instead of it, measured in one run.

    python3 dev.py bench            12 minutes; its numbers go into docs/performance.md
    python3 dev.py bench --quick    two minutes, to see that all of it works
    python3 dev.py bench --cold     the start alone, nine rounds
    python3 dev.py bench refusals   the processor time of refusals at the limits of size
    python3 dev.py bench imports    what the start imports, and how long each module takes
    python3 dev.py bench scale      what many connections and environments cost
    python3 dev.py bench outage     what becomes of codes while Dynamics is down for ten minutes

Starts are interleaved: each round takes every contestant once, beginning with another one each
time, so that what else the machine does falls on all of them. Warm processes are all alive at once,
and asked in short turns. benchmarks/results/ gets the numbers as JSON and as a plot; those of a
quick run are called quick and go nowhere else.
"""

import argparse
import asyncio
import os
import platform
import secrets
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
from cryptography.fernet import Fernet

from benchmarks import burst, imports, outage, refusals, report, scale
from benchmarks.arithmetic import METRICS, medians, rotated
from benchmarks.lineup import (
    LINEUP,
    RELAY,
    Apps,
    Contestant,
    Kind,
    Rig,
    install_peers,
    versions,
)
from benchmarks.load import Callbacks
from benchmarks.measure import COLD, FULL, QUICK, Bench, ContestantError, Plan
from benchmarks.processes import Cores
from benchmarks.upstream import CLOUD, Upstream
from sandbox import loops, refuse_in_azure
from sandbox.tls import Authority

ISSUER = "https://provider.example.com"
BUSY = 0.5
"""Processes that want a core before anything is measured (load average): more is a busy machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write; return 1 when a contestant failed or a callback was lost."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["imports"]:
        print(imports.measure())
        return 0
    if given == ["refusals"]:
        return refusals.main()
    if given == ["outage"]:
        return outage.main()
    if given == ["scale"]:
        return scale.main()
    options = _options(arguments)
    refuse_in_azure(os.environ)
    if sys.platform == "win32":
        sys.exit(
            "Azure's worker runs on Linux, and its hand-over not on Windows: nothing to measure."
        )
    plan = QUICK if options.quick else COLD if options.cold else FULL
    left_out: dict[str, str] = {}
    taking_part = [each for each in LINEUP if not options.only or each.name in options.only]
    if any(each.kind is Kind.NODE for each in taking_part) and (reason := install_peers()):
        left_out = {each.name: reason for each in taking_part if each.kind is Kind.NODE}
        taking_part = [each for each in taking_part if each.kind is not Kind.NODE]

    began = time.monotonic()
    cores = Cores.choose()
    print(f"{cores}; {len(taking_part)} contestants, {plan.turns} turns, {plan.rounds} starts")
    machine = _machine()
    if machine["load"] is not None and machine["load"] > BUSY:
        print(
            f"The machine is busy (load {machine['load']:.1f}): read the ratios, not the numbers."
        )
    with cores.loading():
        measuring = _measure(taking_part, plan, cores, left_out)
        runs = asyncio.run(measuring, loop_factory=loops.new_event_loop)
    results: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "complete": plan is FULL and not options.only,
        "machine": machine,
        "pinned": str(cores),
        "rounds": plan.rounds,
        "turns": plan.turns,
        "first": plan.first,
        "versions": versions(),
        "left_out": left_out,
        "contestants": {
            name: {"rounds": rounds, "medians": medians(rounds)}
            for name, rounds in runs["contestants"].items()
        },
        "growth": {size: medians(rounds) for size, rounds in runs["growth"].items()},
        "import_httpx_ms": runs["imports"],
        "burst": None,
    }
    lost = 0
    if plan.burst:
        print("the burst, on all cores …", flush=True)
        found = burst.measure(plan.burst)
        results["burst"] = vars(found)
        lost = found.callbacks - found.rows
    print(report.text(results))
    print(f"all of it took {(time.monotonic() - began) / 60:.1f} minutes")
    for path in report.write(results):
        print(f"written: {path}")
    return 1 if lost or set(left_out) & set(runs["failed"]) else 0


async def _measure(
    taking_part: Sequence[Contestant], plan: Plan, cores: Cores, left_out: dict[str, str]
) -> dict[str, Any]:
    """Run all rounds. Who fails is left out from then on, with the reason."""
    growth: dict[str, list[dict[str, float]]] = {str(size): [] for size in plan.growth}
    imports: list[float] = []
    failed: list[str] = []

    def fail(name: str, error: ContestantError) -> None:
        print(f"FAILED {error}", flush=True)
        failed.append(name)
        left_out[name] = str(error).partition("\n")[0]

    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as name,
        Authority(CLOUD) as authority,
    ):
        folder = Path(name)
        async with Upstream(authority) as upstream:
            bench = bench_for(upstream, Apps.copied(folder), folder, cores)
            await _compile(bench, taking_part)
            began = time.monotonic()
            contestants, broken = await bench.turns(taking_part, plan)
            for who, why in broken.items():
                fail(who, why)
            _show_turns(contestants, time.monotonic() - began)
            for number in range(plan.rounds):
                imports.append(bench.import_httpx())
                for contestant in rotated(taking_part, number):
                    if contestant.name in failed:
                        continue
                    started = time.monotonic()
                    try:
                        found = await bench.one_round(contestant, plan)
                    except ContestantError as error:
                        fail(contestant.name, error)
                        del contestants[contestant.name]
                        continue
                    contestants[contestant.name].append(found)
                    _progress(number, contestant, found, time.monotonic() - started)
                for size in rotated(plan.growth, number) if RELAY in contestants else ():
                    growth[str(size)].append(await bench.growth(size, plan))
    return {"contestants": contestants, "growth": growth, "imports": imports, "failed": failed}


async def _compile(bench: Bench, taking_part: Sequence[Contestant]) -> None:
    """Start everybody once, uncounted, so that bytecode and the disk's cache are there."""
    for contestant in taking_part:
        try:
            async with bench.started(contestant):
                pass
        except ContestantError:
            continue  # the first round tells


def bench_for(upstream: Upstream, apps: Apps, folder: Path, cores: Cores) -> Bench:
    """Return a bench whose contestants trust this upstream; its files go into the folder."""
    key = secrets.token_bytes(32)
    callbacks = Callbacks("k1", key, ISSUER)
    # One file for all: some read it instead of the usual CAs, and loading those costs time.
    bundle = folder / "bundle.pem"
    bundle.write_text(Path(certifi.where()).read_text() + upstream.authority.bundle.read_text())
    ssl.create_default_context(cafile=bundle)  # a file that is none shows here
    rig = Rig(
        upstream,
        apps,
        folder,
        bundle,
        state_keys=f"k1:{callbacks.encoded_key}",
        outbox_keys=Fernet.generate_key().decode(),
        issuer=ISSUER,
    )
    return Bench(rig, callbacks, cores)


def _show_turns(
    contestants: Mapping[str, Sequence[Mapping[str, float | None]]], seconds: float
) -> None:
    for each in LINEUP:
        if turns := contestants.get(each.name):
            found = medians(turns)
            shown = {metric.name: metric.shown(found.get(metric.name)) for metric in METRICS}
            print(
                f"turns    {each.label:24}{shown['throughput']:>8}/s{shown['p50_ms']:>9} ms p50"
                f"{shown['p99_ms']:>9} ms p99{shown['cpu_ms']:>8} ms cpu   load core "
                f"{100 * (found.get('load_busy') or 0):3.0f} % busy"
            )
    print(f"turns took {seconds:.0f} s", flush=True)


def _progress(
    number: int, contestant: Contestant, found: Mapping[str, float | None], seconds: float
) -> None:
    shown = [
        f"{metric.shown(found[metric.name])} ms"
        for metric in METRICS
        if metric.name in ("cold_ms", "cold_60_ms", "cold_cloud_60_ms") and metric.name in found
    ]
    print(
        f"start {number + 1}  {contestant.label:24}{', '.join(shown)}  ({seconds:.0f} s)",
        flush=True,
    )


def _machine() -> dict[str, Any]:
    """Return how large this machine is, and how busy (the load average of one minute)."""
    model = platform.processor() or platform.machine()
    cpus, memory = Path("/proc/cpuinfo"), None
    if cpus.is_file():
        for line in cpus.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return {
        "cores": os.cpu_count(),
        "model": model,
        "memory_gib": memory,
        "system": platform.system(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 dev.py bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one short round, nothing published")
    parser.add_argument("--cold", action="store_true", help="the start only, nothing published")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[each.name for each in LINEUP],
        help=f"some of {', '.join(each.name for each in LINEUP)}",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
