"""Which changes of the code would no test see? Changes one thing at a time, in a copy.

Over the modules that decide what is believed and what leaves the relay; docs/tests.md lists what
survives, with the reason. Writes into .mutants only.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
COPY = HERE / ".mutants"
GROUPS = {
    ("settings*",): (
        "attacks/environments",
        "attacks/safe_defaults",
        "unit/environments_settings",
        "unit/settings",
        "unit/settings_reader",
    ),
    ("oauth/*",): (
        "attacks/environments",
        "attacks/safe_defaults",
        "unit/authorization",
        "unit/authorize",
        "unit/edges",
        "unit/jarm",
        "unit/signed_state",
        "unit/state",
    ),
    ("delivery/*", "body"): (
        "attacks/environments",
        "infra/dynamics_objects",
        "unit/body",
        "unit/callback",
        "unit/connections",
        "unit/dynamics",
        "unit/floods",
        "unit/redeliver",
        "unit/refusals",
        "unit/retry_after",
        "unit/sealing",
        "unit/single_flight",
    ),
}
"""Files that are changed, in `relay`, and the tests that have to see it, in `tests`.

In groups: a mutant that survives costs the time of all tests that reach it.
"""
LEAST_SCORE = 96

SETUP = """[mutmut]
source_paths = relay
only_mutate = {modules}
also_copy =
    docs
    function_app.py
    host.json
    infra
    sandbox
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args =
    -pno:cacheprovider
    -pno:threadexception
    -pno:unraisableexception
use_git_change_detection = false
"""


def main() -> int:
    """Run all mutants; return 1 when a module's score is too low."""
    shutil.rmtree(COPY, ignore_errors=True)
    left = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
    shutil.copytree(HERE, COPY, ignore=left)
    log = COPY / "mutmut.log"
    print(f"some minutes; what happens meanwhile is in {log.relative_to(HERE)}", flush=True)
    ends: dict[str, str] = {}
    for patterns, tests in GROUPS.items():
        found = run(patterns, tests, log)
        if found is None:
            print("mutmut could not run all of it; the end of that file says why.")
            return 1
        ends |= found
    return scores(ends)


def run(patterns: tuple[str, ...], tests: tuple[str, ...], log: Path) -> dict[str, str] | None:
    """Run the mutants of some files; return how each ended, `None` if mutmut failed."""
    shutil.rmtree(COPY / "mutants", ignore_errors=True)
    modules = "".join(f"\n    relay/{name}" for name in mutated(patterns))
    paths = (test.replace("/", "/test_") for test in tests)
    selection = "".join(f"\n    tests/{path}.py" for path in paths)
    (COPY / "setup.cfg").write_text(SETUP.format(modules=modules, tests=selection))
    # In CI Hypothesis tries the same examples each time, and none can be too slow.
    settings = {**os.environ, "CI": "true"}
    mutmut = [sys.executable, "-m", "mutmut"]
    with log.open("a") as output:
        ended = subprocess.run([*mutmut, "run"], check=False, cwd=COPY, env=settings, stdout=output)
    if ended.returncode != 0:
        return None
    results = subprocess.run(
        [*mutmut, "results", "--all", "true"],
        cwd=COPY,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    lines = (line.strip().partition(": ") for line in results.stdout.splitlines())
    return {name: end for name, _, end in lines if end}


def mutated(patterns: Iterable[str]) -> list[str]:
    """Return the files whose code is changed, relative to `relay`."""
    relay = HERE / "relay"
    files = {file for pattern in patterns for file in relay.glob(f"{pattern}.py")}
    return sorted(file.relative_to(relay).as_posix() for file in files if file.stem != "__init__")


def scores(ends: Mapping[str, str]) -> int:
    """Print the score of each module and what survived; return 1 when a score is too low."""
    survivors = [name for name, end in ends.items() if end not in ("killed", "timeout")]
    low = False
    print(f"\n{'module':24}{'mutants':>9}{'killed':>9}{'survived':>9}{'score':>9}")
    files = mutated(pattern for patterns in GROUPS for pattern in patterns)
    modules = [name.removesuffix(".py").replace("/", ".") for name in files]
    for module in (*modules, "total"):
        start = "relay." if module == "total" else f"relay.{module}."
        every = sum(name.startswith(start) for name in ends)
        survived = sum(name.startswith(start) for name in survivors)
        score = 100 * (every - survived) / max(every, 1)
        low = low or score < LEAST_SCORE
        print(f"{module:24}{every:9}{every - survived:9}{survived:9}{score:7.1f} %")
    print("\nsurvived:", *survivors, sep="\n  ")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
