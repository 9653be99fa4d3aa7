"""The pages on security name tests that exist, and all attacks that are tested."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("security*.md")), ROOT / "docs" / "tests.md"]
ATTACK_PAGE = (ROOT / "docs" / "security-attacks.md").read_text("utf-8")
SOURCE = re.compile(
    r"CVE-\d{4}-\d+|GHSA-[\w-]+|RFC \d+|CWE-\d+|ASVS \d+|#\d+|PR \d+|JARM|HTML §|W3C|"
    r"Cookie Crumbles|mod_auth_openidc|EasyAuth|techcommunity"
)


def cases_of(file: Path) -> dict[str, str]:
    """Return the tests of a file with their docstrings."""
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


FILES = ("test_attacks.py", "test_flood.py")
ATTACKS = {
    name: said
    for file in FILES
    for name, said in cases_of(ROOT / "tests" / "attacks" / file).items()
}


def table() -> dict[str, list[str]]:
    """Return the rows of the attack table by the test in their last column."""
    lines = [line for line in ATTACK_PAGE.splitlines() if "`test_" in line]
    rows = [line.strip("|").split(" | ") for line in lines]
    return {row[-1].strip(" `"): [cell.strip() for cell in row] for row in rows}


def test_every_test_that_the_page_names_exists() -> None:
    every = {name for file in (ROOT / "tests").rglob("test_*.py") for name in cases_of(file)}
    files = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    named = {name for page in PAGES for name in re.findall(r"\btest_\w+", page.read_text("utf-8"))}
    assert len(PAGES) == 4
    assert sorted(named - every - files) == []


def test_every_attack_has_its_row_and_every_row_its_attack() -> None:
    assert sorted(table()) == sorted(ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_where_it_was_seen(name: str) -> None:
    assert SOURCE.search(ATTACKS[name])
    row = table()[name]
    assert len(row) == 4
    assert all(row)
    # The page's source is one of the docstring's, so that a reader finds the same in both.
    assert set(SOURCE.findall(row[1])) & set(SOURCE.findall(ATTACKS[name]))
