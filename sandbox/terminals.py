"""Pictures of the terminal, drawn from the runs that docs/commands.md shows.

A test holds those runs against the commands, so the pictures show what is printed.
"""

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from relay.tools.terminal import STYLE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
PICTURES = {
    "doctor": "healthy",
    "doctor-faults": "broken",
    "send": "sent",
    "dead-letters": "letters",
}
"""The run of the page that each picture shows, by the name of its file."""


def pictures() -> dict[str, str]:
    """Return each picture as SVG by the name of its file."""
    page = PAGE.read_text("utf-8")
    return {f"terminal-{name}.svg": _drawn(name, _run(page, run)) for name, run in PICTURES.items()}


def _run(page: str, name: str) -> str:
    found = re.search(
        rf"^<!-- ran: {name} -->\n```console\n(.+?)\n```$", page, re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise LookupError(name)
    return found[1]


def _drawn(name: str, run: str) -> str:
    text = Text(run + "\n")
    for verdict, style in STYLE.items():
        text.highlight_regex(re.compile(rf"^  {verdict}\b", re.MULTILINE), style)
    width = max(map(len, run.splitlines())) + 2  # wider is cut off
    console = Console(record=True, file=io.StringIO(), width=width, highlight=False)
    console.print(text, soft_wrap=True)
    svg = console.export_svg(title=run.partition("\n")[0].removeprefix("$ "), unique_id=name)
    # The fonts that the library names would be loaded from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
