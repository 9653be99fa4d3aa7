"""The README says what the code does."""

import re

from relay import settings
from relay.body import PLACEHOLDERS
from relay.outcome import STATUS, Outcome
from sandbox.world import APP

README = (APP / "README.md").read_text("utf-8")
TABLE = re.compile(r"^\| `([A-Z_]+)` \| (?:`(\w+)` )?\| (.*?) ?\|", re.MULTILINE)


def test_the_table_has_every_setting_with_its_old_name_and_its_default() -> None:
    said = {name: (old or None, default) for name, old, default in TABLE.findall(README)}
    rows = settings.table()
    assert set(said) == {row["setting"] for row in rows}
    for row in rows:
        old, default = said[row["setting"]]
        assert old == row["article"]
        if isinstance(row["default"], int | float | str):
            shown = str(row["default"])
            assert default == f"`{shown.lower() if shown in ('True', 'False') else shown}`"


def test_every_placeholder_is_named() -> None:
    for name in PLACEHOLDERS:
        assert f"`{{{name}}}`" in README


def test_every_outcome_stands_there_with_its_status() -> None:
    for outcome in Outcome:
        [*rows] = re.findall(rf"^\| `{outcome}` \|.*\| ([\d, ]+) \|$", README, re.MULTILINE)
        assert str(int(STATUS[outcome])) in "".join(rows)


def test_every_command_of_dev_py_is_named() -> None:
    commands = re.search(r"commands = \{(.*?)\}", (APP / "dev.py").read_text("utf-8"), re.DOTALL)
    assert commands
    for name in re.findall(r'"(\w+)":', commands[1]):
        assert f"dev.py {name}" in README


def test_every_link_to_a_file_leads_somewhere() -> None:
    pages = [*APP.glob("*.md"), *(APP / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
