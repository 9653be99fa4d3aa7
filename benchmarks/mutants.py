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
    "oauth.authorization",
    "oauth.state",
    "oauth.jws",
    "oauth.jarm",
    "delivery.sealing",
    "body",
)
TESTS = (
    *(name.rpartition(".")[2] for name in MODULES),
    "callback",
    "edges",
    "redeliver",
    "signed_state",
    "start",
)
LEAST_SCORE = 95

SETUP = """[mutmut]
source_paths = relay
only_mutate = {modules}
also_copy =
    docs
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
    modules = "".join(f"\n    relay/{name.replace('.', '/')}.py" for name in MODULES)
    files = [f"tests/test_{name}.py" for name in TESTS]
    tests = "".join(f"\n    {name}" for name in files if (HERE / name).exists())
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
    print(f"\n{'module':20}{'mutants':>9}{'killed':>9}{'survived':>9}{'score':>9}")
    for module in (*MODULES, "total"):
        start = "relay." if module == "total" else f"relay.{module}."
        every = sum(name.startswith(start) for name, _ in ends)
        survived = sum(name.startswith(start) for name in survivors)
        score = 100 * (every - survived) / max(every, 1)
        low = low or score < LEAST_SCORE
        print(f"{module:20}{every:9}{every - survived:9}{survived:9}{score:7.1f} %")
    print("\nsurvived:", *survivors, sep="\n  ")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
