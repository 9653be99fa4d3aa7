"""What the pages say, in the languages of texts.json, and which of them a person reads.

To add a language, copy the block of another one in texts.json, under its tag (RFC 5646), and
translate it. Nothing else has to know of it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

DEFAULT = "en"
"""What programs are told, and people who ask for no language that there is."""

MAX_HEADER = 1_000
"""Characters of `Accept-Language` that are read. Browsers send some dozens."""


class Text(NamedTuple):
    """What one page says. An empty sentence is not there."""

    title: str
    body: str
    next: str
    admin: str = ""
    noscript: str = ""


class Language(NamedTuple):
    """One language of the catalogue: the words that all pages share, and each page's own."""

    words: Mapping[str, str]
    pages: Mapping[str, Text]


def _read() -> dict[str, Language]:
    # A line that ends between "Dynamics" and "365" reads badly, and no translator sees the
    # difference of the two spaces in a file.
    catalogue = Path(__file__).with_name("texts.json").read_text("utf-8")
    unbroken = catalogue.replace("Dynamics 365", "Dynamics\N{NO-BREAK SPACE}365")
    return {
        tag: Language(block["words"], {name: Text(**text) for name, text in block["pages"].items()})
        for tag, block in json.loads(unbroken).items()
    }


LANGUAGES: Mapping[str, Language] = MappingProxyType(_read())
"""By tag in lower case; `DEFAULT` is the first."""

# RFC 9110 §12.5.4 and §12.4.2: a language range, maybe with a weight.
_RANGE = re.compile(
    r"(\*|[a-z]{1,8}(?:-[a-z0-9]{1,8})*)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def negotiate(accept_language: str) -> str:
    """Return the tag of the language to answer in (RFC 9110 §12.5.4).

    In: the header as it came, or "". Out: a key of `LANGUAGES`, found by lookup (RFC 4647 §3.4),
    which takes `de-AT` for `de`. Whatever is no language range is passed over; `DEFAULT` when
    nothing fits, also when the header refuses it: a page in a foreign language is better than none.
    """
    ranges = _ranges(accept_language[:MAX_HEADER])
    refused = {tag for tag, weight in ranges if weight == 0}
    # `sorted` keeps the order of those with the same weight, which is the person's.
    for tag, weight in sorted(ranges, key=lambda pair: -pair[1]):
        if weight > 0 and (found := _look_up(tag, refused)):
            return found
    return DEFAULT


def _ranges(header: str) -> list[tuple[str, float]]:
    matches = (_RANGE.fullmatch(part.strip(" \t")) for part in header.lower().split(","))
    return [(match[1], float(match[2] or 1)) for match in matches if match]


def _look_up(tag: str, refused: set[str]) -> str | None:
    offered = [language for language in LANGUAGES if language not in refused]
    if tag == "*":
        return next(iter(offered), None)
    while tag and tag not in offered:
        tag = tag.rpartition("-")[0]
    return tag or None
