"""Make dist/: what is deployed, ready to run on Linux with Python 3.13.

The app, its packages as wheels for the platform of Azure Functions, and the byte code of both. The
prepackage hook of `azd` and the deploy workflow run it; by hand:
`python3 infra/scripts/package.py`.

A build in Azure would install what pip resolves at that moment, and leave no byte code: each cold
start would compile every module that it imports.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
RUNTIME = "3.13"
"""The Python of the Function App; `runtime` in infra/modules/app.bicep says the same."""

APP = ("function_app.py", "host.json", "requirements.txt", "relay")
EXTRAS = ("*.pem",)
"""Optional files: a CA bundle for CA_BUNDLE."""

PACKAGES = ".python_packages/lib/site-packages"
"""Where the Functions worker looks for an app's packages."""

ROOT = "/home/site/wwwroot"
"""The folder of the app in Azure, for the file names in tracebacks."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
"""Platform tags of the wheels: every image with Python 3.13 has glibc 2.28 or later."""


def main(arguments: list[str]) -> int:
    """Make the folder; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the folder that is deployed.")
    parser.add_argument("--out", type=Path, default=HERE / "dist")
    out = parser.parse_args(arguments).out.resolve()
    python = find_python()
    if python is None:
        print(
            f"Python {RUNTIME} is needed: byte code of any other version is of no use in Azure.\n"
            f"Get it from https://www.python.org/downloads/ or with: uv python install {RUNTIME}",
            file=sys.stderr,
        )
        return 2
    fresh(out)
    copy_app(out)
    install(python, out)
    compile_all(python, out)
    print(f"{out} holds {sum(1 for path in out.rglob('*') if path.is_file())} files")
    return 0


def find_python() -> list[str] | None:
    """Return the command of a Python of the runtime's version, this interpreter if it is one."""
    launchers = ([sys.executable], [f"python{RUNTIME}"], ["py", f"-{RUNTIME}"])
    probe = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{RUNTIME}')"
    for launcher in launchers:
        if shutil.which(launcher[0]):
            tried = subprocess.run([*launcher, "-c", probe], check=False, capture_output=True)
            if tried.returncode == 0:
                return launcher
    return None


def fresh(out: Path) -> None:
    """Empty the folder of an earlier build; refuse to empty any other folder."""
    if out.exists() and any(out.iterdir()) and not (out / "host.json").is_file():
        sys.exit(f"{out} is not empty and was not made by this script.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)


def copy_app(out: Path) -> None:
    """Copy the app without what only developers need."""
    for name in APP:
        source = HERE / name
        if source.is_dir():
            shutil.copytree(source, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, out / name)
    for pattern in EXTRAS:
        for source in HERE.glob(pattern):
            shutil.copy2(source, out / source.name)
    # Without this file azd excludes __pycache__, as in any Python project.
    (out / ".funcignore").write_text("# Everything here is deployed.\n", encoding="utf-8")


def install(python: list[str], out: Path) -> None:
    """Install the pinned packages as wheels for Linux, whatever this machine is.

    pip evaluates the markers of requirements.txt for this machine, so there may be none that tell
    platforms apart; tests/test_requirements.py sees to it.
    """
    run(
        [
            *python,
            *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
            *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", RUNTIME),
            *(part for platform in PLATFORMS for part in ("--platform", platform)),
            *("--target", str(out / PACKAGES), "-r", str(HERE / "requirements.txt")),
        ]
    )


def compile_all(python: list[str], out: Path) -> None:
    """Compile everything, with hashes: copying the files changes their times."""
    options = ("-q", "--invalidation-mode", "unchecked-hash", "-s", str(out), "-p", ROOT)
    run([*python, "-m", "compileall", *options, str(out)])


def run(command: list[str]) -> None:
    """Run a command; end the script when it fails. The command has printed why."""
    if subprocess.run(command, check=False, cwd=HERE).returncode != 0:
        sys.exit("package.py: stopped, because the command above failed.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
