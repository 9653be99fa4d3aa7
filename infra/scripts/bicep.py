"""Run Microsoft's compiler over the infrastructure.

bicep.py check                     build, lint and format; a warning fails
bicep.py snapshots --out FOLDER    write what each file of infra/snapshots deploys; with --infra
                                   before the command, those of another copy of infra/

It needs the network: the compiler loads the verified modules. It uses `bicep`, or has `az` bring
it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

INFRA = Path(__file__).resolve().parents[1]
VERSION = "v0.49.2"
"""The compiler that `az` brings: another one may format and lint otherwise."""

ENTRIES = ("main.bicep", "apim/main.bicep")
DIAGNOSTIC = re.compile(r"\) : (?:Error|Warning) ")


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--infra", type=Path, default=INFRA, help="the folder to compile")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="build, lint and format")
    commands.add_parser("snapshots").add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    bicep = find()
    if bicep is None:
        print("Neither bicep nor az is here: https://aka.ms/bicep-install", file=sys.stderr)
        return 2
    if given.command == "check":
        return check(bicep, given.infra)
    return snapshots(bicep, given.infra, given.out)


def find() -> str | None:
    """Return the compiler; have `az` bring it where it is missing. `None`: there is neither."""
    if found := shutil.which("bicep"):
        return found
    az = shutil.which("az")
    if az is None:
        return None
    own = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "bin"
    found = shutil.which("bicep", path=str(own))
    if found is None:
        subprocess.run([az, "bicep", "install", "--version", VERSION], check=False)
        found = shutil.which("bicep", path=str(own))
    return found


def check(bicep: str, infra: Path) -> int:
    """Build, lint and format every file; print what is wrong, and return the exit code."""
    failed = 0
    for entry in ENTRIES:
        failed += not run(bicep, "build", str(infra / entry), "--stdout")
    for file in files(infra):
        failed += not run(bicep, "lint", str(file))
        failed += not is_formatted(bicep, file)
    print(f"{failed} of these failed" if failed else "builds, lints and is formatted")
    return 1 if failed else 0


def files(infra: Path) -> list[Path]:
    """Return the Bicep files of the folder."""
    return sorted(path for path in infra.rglob("*.bicep") if "dynamics" not in path.parts)


def run(bicep: str, *arguments: str) -> bool:
    """Run the compiler; tell whether it had nothing to say, and print what it said."""
    done = subprocess.run([bicep, *arguments], check=False, capture_output=True, encoding="utf-8")
    # `build` writes the template to the standard output, and diagnostics to the other.
    said = done.stderr if arguments[0] == "build" else done.stdout + done.stderr
    fine = done.returncode == 0 and not DIAGNOSTIC.search(said)
    if not fine:
        print(f"bicep {arguments[0]} {arguments[1]}:\n{said}")
    return fine


def is_formatted(bicep: str, file: Path) -> bool:
    """Tell whether the formatter would leave a file as it is; print its name otherwise."""
    command = [bicep, "format", str(file), "--stdout", "--newline-kind", "LF"]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    same = done.returncode == 0 and done.stdout.strip() == file.read_text("utf-8").strip()
    if not same:
        print(f"not formatted, run: bicep format {file}\n{done.stderr}")
    return same


def snapshots(bicep: str, infra: Path, out: Path) -> int:
    """Write what each parameter file deploys into a folder; return the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for file in sorted((infra / "snapshots").glob("*.bicepparam")):
        where = ("--subscription-id", "0" * 8 + "-0000-0000-0000-" + "0" * 12)
        made = file.with_suffix(".snapshot.json")
        options = ("--mode", "overwrite", *where, "--location", "westeurope")
        if run(bicep, "snapshot", str(file), *options) and made.is_file():
            shutil.move(made, out / made.name)
        else:
            failed += 1
    print(f"{out} has what {len(list(out.glob('*.snapshot.json')))} deployments make")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
