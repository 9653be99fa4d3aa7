#!/usr/bin/env python3
"""The commands of this project's developers. Needs Python 3.13 or later, nothing else.

python3 dev.py demo     run one callback from end to end on this machine and print it; with
                        --package it runs from the folder that is deployed, with
                        --environments with two Dynamics behind one redirect URI
python3 dev.py up       run the same servers for a browser, until Ctrl+C
python3 dev.py test     lint, types, imports, bandit, advisories, all tests; more goes to pytest
python3 dev.py mutants  find changes of the code that no test notices; takes minutes
python3 dev.py bench    measure the relay and its alternatives; --quick takes two minutes
python3 dev.py shots    take screenshots of every page

The first run creates .venv and installs what requirements-dev.txt pins. `test` also installs the
scanner of infra/ into .venv-infra and, if npm is installed, Azurite into sandbox/node_modules and
the third-party software of tests/others into its node_modules. It uses the machine's Chromium,
Chrome or Edge. Tests whose tools are missing are skipped and listed at the end; with CI=true that
fails the run. Where no advisory service answers, `test` fails, unless --no-advisories is given;
with --no-bicep Microsoft's compiler is not asked.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from xml.etree import ElementTree as ET

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
DEPLOYED, REQUIREMENTS = "requirements.txt", "requirements-dev.txt"
INFRA_VENV, INFRA_REQUIREMENTS = HERE / ".venv-infra", "requirements-infra.txt"
OLDEST = (3, 13)

SANDBOX, PEERS = HERE / "sandbox", HERE / "benchmarks" / "peers"
NPM = {
    SANDBOX: "Azurite",
    HERE / "tests" / "others": "the software of others",
    PEERS: "what the relay is measured beside",
}
"""What npm installs, by the folder whose package-lock.json names it."""

CHECKS = (
    ("lint", ("-m", "ruff", "check", ".")),
    ("format", ("-m", "ruff", "format", "--check", ".")),
    ("types", ("-m", "mypy")),
    ("imports", ("-c", "from importlinter.cli import lint_imports_command as c; c()")),
    ("types of the scripts", ("-m", "mypy", "--strict", "infra/scripts")),
    ("bandit", ("-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "relay", "function_app.py")),
)


def interpreter(folder: Path) -> Path:
    """Return the Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


PYTHON = interpreter(VENV)
NO_ADVISORIES, NO_BICEP = "--no-advisories", "--no-bicep"
"""Options of `test`, for machines that reach neither the advisories nor Microsoft's compiler."""
COMPILER = "tests/infra/test_compiler.py"


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    if sys.version_info < OLDEST:
        return newer_python(arguments)
    commands = {
        "demo": demo,
        "up": up,
        "test": test,
        "mutants": mutants,
        "bench": bench,
        "shots": shots,
    }
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"dev.py: there is no command {name}.{hint}", file=sys.stderr)
        print("The commands are {}; --help describes them.".format(", ".join(commands)))
        return 2
    install()
    return commands[name](arguments[1:])


def demo(arguments: list[str]) -> int:
    """Run one callback through the sandbox."""
    return run("-m", "sandbox.demo", *arguments)


def up(arguments: list[str]) -> int:
    """Run the sandbox for a browser until Ctrl+C."""
    return run("-m", "sandbox.up", *arguments)


def test(arguments: list[str]) -> int:
    """Run every check; then print which ones failed and which could not run."""
    options = {one for one in arguments if one in (NO_ADVISORIES, NO_BICEP)}
    arguments = [one for one in arguments if one not in options]
    if NO_BICEP in options:
        arguments += ["--ignore", COMPILER]
    failed = []
    left_out = {what: install_npm(folder, what) for folder, what in NPM.items()}
    left_out["the scan of the infrastructure"] = install_scanner()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        # A file's tests stay together: they share servers, which take longer to start than to use.
        # tests/conftest.py orders the files. Half of their time they wait for something.
        workers = str(min(2 * (os.cpu_count() or 1), 8))
        spread = ("-n", workers, "--dist", "loadfile", "--no-loadscope-reorder")
        tests = ("tests", ("-m", "pytest", f"--junit-xml={report}", *spread, *arguments))
        for name, command in (*CHECKS, tests):
            print(f"\n== {name}", flush=True)
            started = time.monotonic()
            if run(*command) != 0:
                failed.append(name)
            print(f"-- {name}: {time.monotonic() - started:.1f} s", flush=True)
        left_out |= skipped(report)
    if any(left_out.values()) and os.environ.get("CI") == "true":
        failed.append("left out")
    print("\n== advisories", flush=True)
    vulnerable, left_out["advisories, by pip-audit"] = advisories()
    if vulnerable or (left_out["advisories, by pip-audit"] and NO_ADVISORIES not in options):
        failed.append("advisories")
    for what, why in left_out.items():
        if why:
            print(f"\nleft out: {what}. {why}")
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall green", flush=True)
    return 1 if failed else 0


def skipped(report: Path) -> dict[str, str]:
    """Return the skipped tests of each file and the reasons, from pytest's JUnit report."""
    if not report.is_file():
        return {}
    names: dict[tuple[str, str], list[str]] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        reason = case.find("skipped")
        if reason is not None:
            place = (case.get("classname", ""), reason.get("message", ""))
            names.setdefault(place, []).append(case.get("name", "").partition("[")[0])
    return {
        f"{module}: {', '.join(dict.fromkeys(tests))}": f"Because: {why}"
        for (module, why), tests in names.items()
    }


def mutants(arguments: list[str]) -> int:
    """Find changes of the code that no test notices."""
    return run("-m", "benchmarks.mutants", *arguments)


def advisories() -> tuple[bool, str]:
    """Print known vulnerabilities of the deployed packages; return whether there are any.

    The second value tells what could not be checked. pip-audit also exits with 0 if the service
    knows no package at all, as a mirror without advisories does, so its output is read instead.
    """
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10")
    answer = subprocess.run(
        [str(PYTHON), "-m", "pip_audit", "-r", DEPLOYED, *options, "-f", "json"],
        cwd=HERE,
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    try:
        packages = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = answer.stderr.strip().rpartition("\n")[2]
        return False, f"It says: {last or 'nothing'}"
    found = [package for package in packages if package.get("vulns")]
    for package in found:
        numbers = ", ".join(advisory["id"] for advisory in package["vulns"])
        print(f"{package['name']} {package['version']}: {numbers}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return False, "No advisory service answers here; --no-advisories leaves it out."
    return bool(found), f"The service does not know {', '.join(unknown)}." if unknown else ""


def shots(arguments: list[str]) -> int:
    """Take screenshots of the pages and of the terminal, for a visual check."""
    return run("-m", "sandbox.screenshots", *arguments)


def bench(arguments: list[str]) -> int:
    """Measure the relay and its alternatives."""
    for folder in (SANDBOX, PEERS):
        install_npm(folder, NPM[folder])
    return run("-m", "benchmarks", *arguments)


def install() -> None:
    """Create .venv and install the requirements, unless they are installed already."""
    if not make_environment(VENV, REQUIREMENTS):
        sys.exit("dev.py: pip could not install; its message is above. Then run this again.")


def install_scanner() -> str:
    """Install the scanner of infra/, whose pinned packages conflict with those of .venv."""
    if make_environment(INFRA_VENV, INFRA_REQUIREMENTS):
        return ""
    return "pip could not install it; its message is at the top. Then run this again."


def make_environment(folder: Path, requirements: str) -> bool:
    """Create a virtual environment with the file's packages, unless it exists with the same ones.

    The file pins every package with hashes, so pip resolves nothing.
    """
    mark, python = folder / "installed", interpreter(folder)
    wanted = hashlib.sha256(sys.version.encode() + (HERE / requirements).read_bytes()).hexdigest()
    if python.exists() and mark.exists() and mark.read_text() == wanted:
        return True
    if importlib.util.find_spec("ensurepip") is None:
        # Debian and Ubuntu ship it in a package of its own.
        version = "{}.{}".format(*sys.version_info[:2])
        sys.exit(
            f"dev.py: this Python has no ensurepip, so it cannot make {folder.name}.\n"
            f"On Debian and Ubuntu: sudo apt install python{version}-venv. Then run this again."
        )
    print(f"installing into {folder.name}, once …", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps")
    command = [str(python), "-m", "pip", "install", *options, "-r", requirements]
    if subprocess.run(command, cwd=HERE, check=False).returncode:
        return False
    mark.write_text(wanted)
    return True


def install_npm(folder: Path, what: str) -> str:
    """Install a folder's package-lock.json, once; return what to do if that fails, else ""."""
    node, npm = shutil.which("node"), shutil.which("npm")
    mark = folder / "node_modules" / "installed"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if node and mark.exists() and mark.read_text() == wanted:
        return ""
    if node is None or npm is None:
        return "Get Node.js 20.19 or later from https://nodejs.org/, then run this again."
    print(f"installing {what} into {mark.parent.relative_to(HERE)}, once …", flush=True)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    command = [npm, "ci", *quiet]
    if subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL).returncode:
        return "npm could not install it; its message is at the top. Then run this again."
    mark.write_text(wanted)
    return ""


def run(*arguments: str) -> int:
    """Run the environment's Python; return its exit code. Ctrl+C is handled by the child."""
    # Unbuffered: what the child's own children print comes in between, in order.
    # A pipe or a file may have an encoding without arrows, such as cp1252.
    settings = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": ":replace", **os.environ}
    child = subprocess.Popen([str(PYTHON), *arguments], cwd=HERE, env=settings)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def newer_python(arguments: list[str]) -> int:
    """Run this script with a newer Python if there is one, or print how to get one."""
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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
    sys.exit(main(sys.argv[1:]))
