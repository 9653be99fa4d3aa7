"""What `import function_app` loads in a worker that is ready for an app, and what each part takes.

Measured in production's packages, from byte code, as the median of several processes. Processor
time, so that another process does not count.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lineup import Apps
from benchmarks.processes import environment

ROUNDS = 7
LEAST_MS = 1.0
"""What takes less is not listed."""
SETTINGS = {
    # Nobody answers there: the request ahead fails at once, in its thread.
    "ENTRA_AUTHORITY": "https://127.0.0.1:9/tenant",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "secret",
    "DYNAMICS_URL": "https://127.0.0.1:9/data/Rows",
    "STATE_POLICY": "opaque",
    "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
}
PROGRAM = """
import json, sys, time
from importlib import machinery
directory, packages, worker = sys.argv[1:]
sys.path[:0] = [packages, worker]
import asyncio, azure.functions, azure_functions_runtime, uvloop
sys.path.append(directory)
before = set(sys.modules)
spent, inner = {}, []

def timed(step):
    def run(self, about):
        began = time.process_time_ns()
        inner.append(0)
        try:
            return step(self, about)
        finally:
            took, others = time.process_time_ns() - began, inner.pop()
            if inner:
                inner[-1] += took
            entry = spent.setdefault(self.name, [0, 0])
            entry[0] += took
            entry[1] += took - others
    return run

for loader, steps in (
    (machinery.SourceFileLoader, ["exec_module"]),
    (machinery.ExtensionFileLoader, ["create_module", "exec_module"]),
):
    for step in steps:
        setattr(loader, step, timed(getattr(loader, step)))
began = time.process_time_ns()
import function_app
total = time.process_time_ns() - began
print(json.dumps({"total": total, "spent": spent, "modules": sorted(set(sys.modules) - before)}))
"""


def modules(apps: Apps, settings: Mapping[str, str] = SETTINGS) -> dict[str, Any]:
    """Import the app in a process of its own; return the times and the names of what it loaded.

    Out: `total` in nanoseconds of processor time, `spent` by module (with what it imports, and
    alone), and `modules`, the names that were not there before.
    """
    relay = apps.relay
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    folders = [str(each) for each in (relay.directory, relay.packages, relay.worker)]
    ended = subprocess.run(
        [*command, *folders], check=True, capture_output=True, env=environment(settings)
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def measure() -> str:
    """Return a table of the modules that take longest, with the total on top."""
    with tempfile.TemporaryDirectory(prefix="imports-") as folder:
        apps = Apps.copied(Path(folder))
        modules(apps)  # writes the byte code
        runs = [modules(apps) for _ in range(ROUNDS)]
    milliseconds = 1_000_000
    total = median(run["total"] for run in runs) / milliseconds
    number = len(runs[0]["modules"])
    lines = [
        f"import function_app: {total:.0f} ms of processor time, {number} modules",
        f"{'with its imports':>16} {'alone':>8}   module",
    ]
    rows = []
    for name in {name for run in runs for name in run["spent"]}:
        times = [run["spent"].get(name, [0, 0]) for run in runs]
        rows.append((*(median(column) / milliseconds for column in zip(*times, strict=True)), name))
    lines += [
        f"{all_of_it:13.1f} ms {alone:5.1f} ms   {name}"
        for all_of_it, alone, name in sorted(rows, reverse=True)
        if all_of_it >= LEAST_MS
    ]
    return os.linesep.join(lines)
