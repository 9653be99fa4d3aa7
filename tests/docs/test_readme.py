"""The README and the page of settings say what the code does."""

import re

from relay import settings
from relay.body import PLACEHOLDERS
from sandbox.world import APP

README = (APP / "README.md").read_text("utf-8")
SETTINGS = (APP / "docs" / "settings.md").read_text("utf-8")
TABLE = re.compile(r"^\| `([A-Z_]+)` \| (?:`(\w+)` )?\| (.*?) ?\|", re.MULTILINE)


def test_the_table_has_every_setting_with_its_old_name_and_its_default() -> None:
    said = {name: (old or None, default) for name, old, default in TABLE.findall(SETTINGS)}
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
        assert f"`{{{name}}}`" in SETTINGS


def test_every_command_of_dev_py_is_named() -> None:
    commands = re.search(r"commands = \{(.*?)\}", (APP / "dev.py").read_text("utf-8"), re.DOTALL)
    assert commands
    for name in re.findall(r'"(\w+)":', commands[1]):
        assert f"dev.py {name}" in README


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_leads_to_every_page() -> None:
    pages = {path.name for path in (APP / "docs").glob("*.md")}
    assert pages - set(re.findall(r"\]\(docs/([\w-]+\.md)", README)) == set()
