"""The requirements files are what pyproject.toml asks for, pinned down to the last file of each."""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sandbox.world import APP

PROJECT = tomllib.loads((APP / "pyproject.toml").read_text("utf-8"))
DEPENDENCIES = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
GROUPS = {
    name: [Requirement(line) for line in lines if isinstance(line, str)]
    for name, lines in PROJECT["dependency-groups"].items()
}
DIRECT = {
    "requirements.txt": DEPENDENCIES,
    "requirements-operator.txt": DEPENDENCIES + GROUPS["operator"],
    "requirements-dev.txt": DEPENDENCIES + GROUPS["operator"] + GROUPS["dev"],
    "requirements-infra.txt": GROUPS["infra"],
}
INSTALLED_HERE = ("requirements.txt", "requirements-operator.txt", "requirements-dev.txt")

OPTIONAL = {"opentelemetry", "uvloop"}
"""What relay/ imports only where it is installed: by the operator, or by Azure's worker."""

DESK = ("azure_app", "azure_queues", "commands", "terminal")
"""Modules of relay/tools that an operator runs at a desk, and Azure never imports."""

PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;]+)(?: ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
IMPORT = re.compile(r"^ *(?:from|import) (\w+)", re.MULTILINE)
COMMENT = re.compile(r" *#.*")


@dataclass
class Pin:
    """One package of a compiled file."""

    requirement: Requirement
    version: str
    hashes: list[str] = field(default_factory=list)


def pins(name: str) -> dict[str, Pin]:
    """Read a compiled file. Any line but a pin, a hash and a comment fails, such as an index."""
    found: dict[str, Pin] = {}
    last = None
    for line in (APP / name).read_text("utf-8").splitlines():
        if pin := PIN.fullmatch(line):
            requirement = Requirement(line.removesuffix(" \\"))
            assert pin["name"] not in found, f"{name}: {line}"
            last = found[pin["name"]] = Pin(requirement, pin["version"])
        elif HASH.fullmatch(line) and last:
            last.hashes.append(line)
        else:
            assert COMMENT.fullmatch(line), f"{name}: {line}"
    return found


def applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def needed(direct: Iterable[Requirement]) -> Iterator[Requirement]:
    """Follow what the installed packages need, to the end."""
    todo, seen = [requirement for requirement in direct if applies(requirement)], set()
    while todo:
        requirement = todo.pop()
        yield requirement
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            further = map(Requirement, distribution(requirement.name).requires or ())
            todo += [one for one in further if applies(one, requirement.extras)]


def imported(*paths: str) -> set[str]:
    """Return the top-level names that these files import."""
    names = set()
    for path in paths:
        files = [APP / path] if path.endswith(".py") else (APP / path).rglob("*.py")
        for file in files:
            if "node_modules" not in file.parts:
                names |= {*IMPORT.findall(file.read_text("utf-8"))}
    return names


OWNERS = packages_distributions()
"""The distributions that an installed top-level name belongs to."""


def undeclared(names: set[str], declared: list[Requirement]) -> set[str]:
    known = {canonicalize_name(requirement.name) for requirement in declared}
    return {
        name
        for name in names - sys.stdlib_module_names
        if name in OWNERS and known.isdisjoint(map(canonicalize_name, OWNERS[name]))
    }


@pytest.mark.parametrize("name", DIRECT)
def test_what_pyproject_asks_for_is_pinned_in_a_version_that_it_takes(name: str) -> None:
    pinned = pins(name)
    for requirement in DIRECT[name]:
        assert pinned[canonicalize_name(requirement.name)].version in requirement.specifier


@pytest.mark.parametrize("name", DIRECT)
def test_every_pin_has_hashes(name: str) -> None:
    for package, pin in pins(name).items():
        assert pin.hashes, package


@pytest.mark.parametrize("name", DIRECT)
def test_every_file_begins_with_the_command_that_compiles_it(name: str) -> None:
    command = (APP / name).read_text("utf-8").splitlines()[1].removeprefix("#    ")
    assert command.startswith("uv pip compile ")
    assert command.endswith(f" -o {name}")


@pytest.mark.parametrize("name", INSTALLED_HERE)
def test_everything_that_is_needed_is_pinned_and_nothing_else(name: str) -> None:
    pinned = pins(name)
    wanted = list(needed(DIRECT[name]))
    for requirement in wanted:
        assert pinned[canonicalize_name(requirement.name)].version in requirement.specifier
    here = {package for package, pin in pinned.items() if applies(pin.requirement)}
    assert here == {canonicalize_name(requirement.name) for requirement in wanted}


def test_the_tests_run_with_the_versions_that_are_deployed() -> None:
    tested = pins("requirements-dev.txt")
    for package, pin in pins("requirements.txt").items():
        assert tested[package].version == pin.version
        assert tested[package].hashes == pin.hashes


def test_what_is_deployed_is_the_same_wherever_it_is_packed() -> None:
    # pip evaluates markers for the machine that packs, not for Azure.
    for package, pin in pins("requirements.txt").items():
        marker = str(pin.requirement.marker or "")
        assert not re.search(r"sys_platform|platform_system|platform_machine|os_name", marker), (
            package
        )


def test_what_is_imported_is_declared() -> None:
    desk = {f"relay/tools/{name}.py" for name in DESK}
    deployed = [
        str(path.relative_to(APP))
        for path in (APP / "relay").rglob("*.py")
        if str(path.relative_to(APP)) not in desk
    ]
    assert undeclared(imported(*deployed, "function_app.py"), DEPENDENCIES) <= OPTIONAL
    assert undeclared(imported("relay"), DIRECT["requirements-operator.txt"]) <= OPTIONAL
    others = imported("sandbox", "tests", "benchmarks", "infra/scripts", "dev.py")
    assert undeclared(others, DIRECT["requirements-dev.txt"]) == set()
