"""Which changes of the code would no test see? Changes one thing at a time, in a copy.

Over the modules that decide what is believed and what leaves the relay; docs/tests.md lists what
survives, with the reason. Writes into .mutants only.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
COPY = HERE / ".mutants"
MODULES = (
    "oauth/*",
    "delivery/*",
    "settings*",
    "body",
)
TESTS = (
    "tests/attacks/test_environments.py",
    "tests/unit/test_authorization.py",
    "tests/unit/test_authorize.py",
    "tests/unit/test_body.py",
    "tests/unit/test_bootstrap.py",
    "tests/unit/test_callback.py",
    "tests/unit/test_connections.py",
    "tests/unit/test_dynamics.py",
    "tests/unit/test_edges.py",
    "tests/unit/test_environments_settings.py",
    "tests/unit/test_floods.py",
    "tests/unit/test_flow.py",
    "tests/unit/test_jarm.py",
    "tests/unit/test_outgoing.py",
    "tests/unit/test_redeliver.py",
    "tests/unit/test_refusals.py",
    "tests/unit/test_responses.py",
    "tests/unit/test_retry_after.py",
    "tests/unit/test_sealing.py",
    "tests/unit/test_settings.py",
    "tests/unit/test_settings_reader.py",
    "tests/unit/test_signed_state.py",
    "tests/unit/test_single_flight.py",
    "tests/unit/test_state.py",
)
"""Files that are run: the fast ones that reach these modules."""
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
    modules = "".join(f"\n    relay/{name}" for name in mutated())
    tests = "".join(f"\n    {path}" for path in TESTS)
    (COPY / "setup.cfg").write_text(SETUP.format(modules=modules, tests=tests))

    log = COPY / "mutmut.log"
    print(f"some minutes; what happens meanwhile is in {log.relative_to(HERE)}", flush=True)
    with log.open("w") as output:
        # In CI Hypothesis tries the same examples each time, and none can be too slow.
        settings = {**os.environ, "CI": "true"}
        command = [sys.executable, "-m", "mutmut", "run"]
        ended = subprocess.run(command, check=False, cwd=COPY, env=settings, stdout=output)
    if ended.returncode != 0:
        print("mutmut could not run all of it; the end of that file says why.")
        return 1
    return scores()


def mutated() -> list[str]:
    """Return the files whose code is changed, relative to `relay`."""
    relay = HERE / "relay"
    files = {file for pattern in MODULES for file in relay.glob(f"{pattern}.py")}
    return sorted(file.relative_to(relay).as_posix() for file in files if file.stem != "__init__")


def scores() -> int:
    """Print the score of each module and what survived; return 1 when a score is too low."""
    results = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"],
        cwd=COPY,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    ends = [line.strip().split(": ") for line in results.stdout.splitlines() if ": " in line]
    survivors = [name for name, end in ends if end not in ("killed", "timeout")]
    low = False
    print(f"\n{'module':24}{'mutants':>9}{'killed':>9}{'survived':>9}{'score':>9}")
    modules = [name.removesuffix(".py").replace("/", ".") for name in mutated()]
    for module in (*modules, "total"):
        start = "relay." if module == "total" else f"relay.{module}."
        every = sum(name.startswith(start) for name, _ in ends)
        survived = sum(name.startswith(start) for name in survivors)
        score = 100 * (every - survived) / max(every, 1)
        low = low or score < LEAST_SCORE
        print(f"{module:24}{every:9}{every - survived:9}{survived:9}{score:7.1f} %")
    print("\nsurvived:", *survivors, sep="\n  ")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
