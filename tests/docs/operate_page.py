"""Generates a part of docs/operate.md: from a page to a cause to a remedy, for each outcome.

    python -m tests.docs.operate_page

writes it. The sources are relay/outcome.py, relay/log.py, relay/pages/texts.json and
relay/tools/doctor/reasons.py.
"""

import logging
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from relay.log import LEVEL
from relay.outcome import STATUS, Outcome
from relay.pages.translations import LANGUAGES
from relay.tools.doctor.reasons import GROUPS, STEPS, Group
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "operate.md"
BEGIN, END = "<!-- generated: tests/docs/operate_page.py -->\n", "<!-- /generated -->\n"
TITLES = {
    str(name): page.title.replace("\N{NO-BREAK SPACE}", " ")
    for name, page in LANGUAGES["en"].pages.items()
}


def block(outcome: Outcome) -> str:
    """Return the three steps of one outcome, and the tables of its reasons."""
    step, level = STEPS[outcome], logging.getLevelName(LEVEL.get(outcome, logging.INFO))
    page = f"“{TITLES[outcome]}” ({STATUS[outcome]:d}, {level})"
    here = [group for group in GROUPS if group.outcome is outcome]
    there = [
        f"[{group.title}](#{anchor(group.title)})"
        for group in GROUPS
        if group.outcome is not outcome
        and any(outcome in group.outcomes(reason) for reason in group.reasons)
    ]
    means = re.sub(r"\{(\w+)\}", lambda name: TITLES.get(name[1], name[0]), step.means)
    steps = [f"The page: {page}. {means}", f"Run first: {step.first}."]
    if here:
        steps.append("Look the reason up in the tables below, and do what stands there.")
    if there:
        also = "Some have it in" if here else "Look the reason up in"
        rows = f"{also} {', '.join(there)}: the rows with `{outcome}`."
        steps[2:] = [" ".join([*steps[2:], rows])]
    listed = [filled(text, f"{number}. ") for number, text in enumerate(steps, 1)]
    return "\n\n".join([f"### `{outcome}`", "\n".join(listed), *map(table, here)])


def table(group: Group) -> str:
    """Return the reasons of one group."""
    mixed = any(reason.outcomes for reason in group.reasons)
    head = ["reason", *(["outcome"] if mixed else []), "cause", "remedy"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for reason in group.reasons:
        words = ", ".join(f"`{word}`" for word in reason.words.split())
        outcomes = ", ".join(f"`{each}`" for each in group.outcomes(reason))
        cells = [
            words,
            *([outcomes] if mixed else []),
            reason.cause,
            reason.remedy or "the person starts again",
        ]
        lines.append(" | ".join(cells))
    rows = "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
    return "\n\n".join(filter(None, [f"#### {group.title}", filled(group.note), rows]))


def filled(text: str, begin: str = "") -> str:
    """Return a paragraph or an item of a list, its code and links unbroken."""
    kept = re.sub(r"`[^`]+`|\[[^]]+\]", lambda code: code[0].replace(" ", "\0"), text)
    indent = " " * len(begin)
    lines = textwrap.fill(
        kept,
        100,
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\0", " ")


def anchor(title: str) -> str:
    """Return the anchor of a title, made as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def generated() -> str:
    """Return the whole part."""
    return "\n\n".join(map(block, Outcome)) + "\n\n"


def parts(page: str) -> Iterator[str]:
    """Split the page: what is before the part, the part, what is after it."""
    before, part, after = re.split(f"(?<={BEGIN})\n|(?={END})", page)
    yield from (before, part, after)


def main(page: Path = PAGE) -> None:
    """Write the part into the page."""
    before, _, after = parts(page.read_text("utf-8"))
    page.write_text(f"{before}\n{generated()}{after}", "utf-8")


if __name__ == "__main__":
    main()
