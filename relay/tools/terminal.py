"""What the commands print: findings, the frame around them, progress, colour where it is wanted.

Lines have at most 80 columns, whatever the terminal; words and addresses are never broken.
"""

import json
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

from rich.console import Console
from rich.status import Status
from rich.text import Text

from relay.tools.doctor.finding import Finding, Verdict

WIDTH = 80
STYLE = {Verdict.OK: "green", Verdict.SKIP: "cyan", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
"""The colour of each verdict."""
_INDENT = " " * 21


def console(*, stderr: bool = False) -> Console:
    """Return a console. It has colour on a terminal that can, never with NO_COLOR or TERM=dumb."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines; a word that is longer than a line stays whole."""
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def filled(text: str) -> str:
    """Return a text as a paragraph."""
    return "\n".join(wrapped(text, WIDTH))


def waiting(what: str) -> AbstractContextManager[Status | None]:
    """Show on a terminal that something is being waited for, with the seconds."""
    to = console(stderr=True)
    return to.status(what) if to.is_terminal and not to.is_dumb_terminal else nullcontext()


def report(
    findings: Iterable[Finding], about: Iterable[str], next_step: str, *, as_json: bool
) -> int:
    """Print findings as they come, in their frame; return the exit code.

    `about`: what is looked at, line by line. `next_step`: what to do when all is well.
    """
    if as_json:
        found = list(findings)
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        found = list(_printed(findings, about, next_step))
    return int(any(finding.verdict is Verdict.FAIL for finding in found))


def _printed(
    findings: Iterable[Finding], about: Iterable[str], next_step: str
) -> Iterator[Finding]:
    to, began = console(), time.monotonic()
    for line in about:
        to.print(line)
    found: list[Finding] = []
    heading: str | None = ""
    iterator = iter(findings)
    while True:
        with waiting("examining …"):
            finding = next(iterator, None)
        if finding is None:
            break
        if finding.connection != heading:
            heading = finding.connection
            to.print(f"{heading or 'the whole app'}")
        to.print(shown(finding))
        sys.stdout.flush()
        found.append(finding)
        yield finding
    counted = Counter(each.verdict for each in found)
    told = ", ".join(f"{counted[verdict]} {verdict}" for verdict in Verdict if counted[verdict])
    to.print(f"\n{told or 'nothing found'}; {time.monotonic() - began:.0f} s")
    worst = [
        each for kind in (Verdict.FAIL, Verdict.WARN) for each in found if each.verdict is kind
    ]
    if worst:
        first = worst[0]
        where = f"{first.connection or 'the whole app'}, {first.check}"
        step, *rest = wrapped(f"{where}: {first.fix}", WIDTH - 6)
    else:
        step, *rest = wrapped(next_step, WIDTH - 6)
    to.print(f"next  {step}")
    for line in rest:
        to.print(f"      {line}")


def shown(finding: Finding) -> Text:
    """Return a finding as text: the verdict, the check, the next step."""
    first, *rest = wrapped(finding.message, WIDTH - len(_INDENT))
    text = Text("  ")
    text.append(f"{finding.verdict:<4}", STYLE[finding.verdict])
    lines = [f"  {finding.check:<12} {first}", *(_INDENT + line for line in rest)]
    if finding.fix:
        step, *more = wrapped(finding.fix, WIDTH - len(_INDENT) - 2)
        lines += [f"{_INDENT}> {step}", *(f"{_INDENT}  {line}" for line in more)]
    text.append("\n".join(lines))
    return text
