#!/usr/bin/env python3
"""Everything that a developer does with this project. Needs Python 3.13 or later, nothing else.

python3 dev.py demo     one callback from end to end, printed, on this machine alone
python3 dev.py up       the same servers for a browser, until Ctrl+C
python3 dev.py test     lint, types, imports, bandit, advisories, all tests; more goes to pytest
python3 dev.py mutants  which changes of the code no test would see; minutes
python3 dev.py bench    the relay beside its peers, measured here; --quick for a minute's look

The first run makes .venv and installs what requirements-dev.txt names. `test` also installs Azurite
into sandbox/node_modules where there is npm; without it the tests that need it are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MARK = VENV / "installed"
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
OLDEST = (3, 13)

SANDBOX = HERE / "sandbox"
NPM_MARK = SANDBOX / "node_modules" / "installed"

CHECKS = (
    ("lint", ("-m", "ruff", "check", ".")),
    ("format", ("-m", "ruff", "format", "--check", ".")),
    ("types", ("-m", "mypy")),
    ("imports", ("-c", "from importlinter.cli import lint_imports_command as c; c()")),
    ("bandit", ("-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "relay", "function_app.py")),
)


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    if sys.version_info < OLDEST:
        return newer_python(arguments)
    commands = {"demo": demo, "up": up, "test": test, "mutants": mutants, "bench": bench}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    install()
    return commands[arguments[0]](arguments[1:])


def demo(arguments: list[str]) -> int:
    """Run one callback through the sandbox."""
    return run("-m", "sandbox.demo", *arguments)


def up(arguments: list[str]) -> int:
    """Keep the sandbox up for a browser."""
    return run("-m", "sandbox.up", *arguments)


def test(arguments: list[str]) -> int:
    """Run every check, then say which failed, and what could not be run."""
    failed = []
    left_out = {"the tests against Azurite": install_azurite()}
    if any(left_out.values()) and os.environ.get("CI") == "true":
        failed.append("azurite")
    for name, command in (*CHECKS, ("tests", ("-m", "pytest", *arguments))):
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        if run(*command) != 0:
            failed.append(name)
        print(f"-- {name}: {time.monotonic() - started:.1f} s", flush=True)
    print("\n== advisories", flush=True)
    vulnerable, left_out["advisories, by pip-audit"] = advisories()
    if vulnerable:
        failed.append("advisories")
    for what, why in left_out.items():
        if why:
            print(f"\nleft out: {what}. {why}")
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall green", flush=True)
    return 1 if failed else 0


def mutants(arguments: list[str]) -> int:
    """Tell which changes of the code no test would see."""
    return run("-m", "benchmarks.mutants", *arguments)


def advisories() -> tuple[bool, str]:
    """Ask which of the deployed packages have known vulnerabilities; say who could not be asked.

    pip-audit ends well where the service knows none of the packages, as behind a mirror without
    advisories: so what it says counts, and not its exit code.
    """
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10")
    answer = subprocess.run(
        [str(PYTHON), "-m", "pip_audit", "-r", REQUIREMENTS[0], *options, "-f", "json"],
        cwd=HERE,
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    try:
        packages = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return False, f"It says: {answer.stderr.strip().rpartition('\n')[2] or 'nothing'}"
    found = [package for package in packages if package.get("vulns")]
    for package in found:
        numbers = ", ".join(advisory["id"] for advisory in package["vulns"])
        print(f"{package['name']} {package['version']}: {numbers}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return False, "No advisory service answers here."
    return bool(found), f"The service does not know {', '.join(unknown)}." if unknown else ""


def bench(arguments: list[str]) -> int:
    """Measure the relay and what people would use instead of it."""
    install_azurite()
    return run("-m", "benchmarks", *arguments)


def install() -> None:
    """Make .venv and install into it, unless that was done for these very requirements."""
    wanted = hashlib.sha256(sys.version.encode())
    for name in REQUIREMENTS:
        wanted.update((HERE / name).read_bytes())
    if PYTHON.exists() and MARK.exists() and MARK.read_text() == wanted.hexdigest():
        return
    print("installing into .venv, once …", flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if run(*pip, "-r", REQUIREMENTS[1]) != 0:
        sys.exit("dev.py: pip could not install; its message is above. Then run this again.")
    MARK.write_text(wanted.hexdigest())


def install_azurite() -> str:
    """Install what sandbox/package-lock.json names, once; say what is missing if that fails."""
    node, npm = shutil.which("node"), shutil.which("npm")
    wanted = hashlib.sha256((SANDBOX / "package-lock.json").read_bytes()).hexdigest()
    if node and NPM_MARK.exists() and NPM_MARK.read_text() == wanted:
        return ""
    if node is None or npm is None:
        return "Get Node.js 20 or later from https://nodejs.org/, then run this again."
    print("installing Azurite into sandbox/node_modules, once …", flush=True)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    command = [npm, "ci", *quiet]
    if subprocess.run(command, cwd=SANDBOX, check=False, stdout=subprocess.DEVNULL).returncode:
        return "npm could not install it; its message is at the top. Then run this again."
    NPM_MARK.write_text(wanted)
    return ""


def run(*arguments: str) -> int:
    """Run the environment's Python; return its exit code. Ctrl+C is the child's to handle."""
    child = subprocess.Popen([str(PYTHON), *arguments], cwd=HERE)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def newer_python(arguments: list[str]) -> int:
    """Hand over to a newer Python if this machine has one, or say how to get one."""
    launchers = (["python3.13"], ["python3.14"], ["py", "-3.13"])
    for launcher in launchers:
        if shutil.which(launcher[0]):
            probe = [*launcher, "-c", "import sys; sys.exit(sys.version_info < (3, 13))"]
            if subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode == 0:
                return subprocess.run([*launcher, __file__, *arguments], check=False).returncode
    print(
        "dev.py: Python 3.13 or later is needed, this is {}.{}.\n"
        "Get it from https://www.python.org/downloads/ or with: uv python install 3.13".format(
            *sys.version_info[:2]
        )
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
