"""The texts of the pages (texts.json), and the choice of the language by `Accept-Language`.

To add a language, copy a block of texts.json, name it by its language tag (RFC 5646) and translate
it. Nothing else needs a change.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, override

DEFAULT = "en"
"""The language of all JSON, and of pages for which no requested language is available."""

MAX_HEADER = 1_000
"""Characters of `Accept-Language` that are read. Browsers send fewer than 100."""


class Text(NamedTuple):
    """The texts of one page. An empty one is left out."""

    title: str
    body: str
    next: str
    admin: str = ""
    noscript: str = ""


class Language(NamedTuple):
    """One language: the words that all pages share, and the texts of each page."""

    words: Mapping[str, str]
    pages: Mapping[str, Text]


class _Catalogue(Mapping[str, Language]):
    """The file, read when the first page needs it: a redirect needs no texts."""

    @cached_property
    def _blocks(self) -> dict[str, Language]:
        # No line may break between "Dynamics" and "365". The no-break space is inserted here
        # because translators would not see it in the file.
        catalogue = Path(__file__).with_name("texts.json").read_text("utf-8")
        unbroken = catalogue.replace("Dynamics 365", "Dynamics\N{NO-BREAK SPACE}365")
        return {
            tag: Language(
                block["words"], {name: Text(**text) for name, text in block["pages"].items()}
            )
            for tag, block in json.loads(unbroken).items()
        }

    @override
    def __getitem__(self, tag: str) -> Language:
        return self._blocks[tag]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    @override
    def __len__(self) -> int:
        return len(self._blocks)


LANGUAGES: Mapping[str, Language] = _Catalogue()
"""By tag in lower case; `DEFAULT` is the first."""

# RFC 9110 §12.5.4 and §12.4.2: a language range with an optional weight.
_RANGE = re.compile(
    r"(\*|[a-z]{1,8}(?:-[a-z0-9]{1,8})*)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def negotiate(accept_language: str) -> str:
    """Return the tag of the language to answer in (RFC 9110 §12.5.4).

    In: the raw header, or "". Out: a key of `LANGUAGES`, found by lookup (RFC 4647 §3.4): `de-AT`
    finds `de`. Malformed language ranges are ignored. `DEFAULT` if nothing matches, even if the
    header excludes it (`q=0`): a page in another language is better than a 406.
    """
    ranges = _ranges(accept_language[:MAX_HEADER])
    refused = {tag for tag, weight in ranges if weight == 0}
    # `sorted` is stable: ranges of equal weight stay in the header's order.
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
