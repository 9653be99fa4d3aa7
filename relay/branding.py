"""What the pages show of a connection's owner: names, a way back, an accent colour, a logo."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import NamedTuple

CONTRAST = 4.5
"""The least contrast of text to its background (WCAG 2.2 §1.4.3, level AA)."""
WHITE, DARK_PAPER = "#ffffff", "#181c22"
"""The backgrounds of the pages in light and in dark mode, as in relay/pages/page.css."""
MAX_LOGO = 16 * 1024
"""Characters of the data: URI of a logo."""

_LAST_LINEAR = 10
_PNG = re.compile(r"data:image/png;base64,(iVBORw0KGgo[A-Za-z0-9+/]*={0,2})")
# A `#` would end the URI: it has to be written as %23.
_SVG = re.compile(r"data:image/svg\+xml(?:;charset=utf-8|;utf8)?(;base64)?,([\x20-\x22\x24-\x7e]+)")


class Accent(NamedTuple):
    """A colour as #rrggbb, for light and for dark mode."""

    light: str
    dark: str


@dataclass(frozen=True, slots=True)
class Branding:
    """The PAGE_… settings of a connection. `return_url` may hold {outcome} and {reference}."""

    organization: str | None = None
    support: str | None = None
    return_url: str | None = None
    accent: Accent | None = None
    logo: str | None = field(default=None, repr=False)


def accent(value: str) -> Accent:
    """Return a colour for both modes, lightened for the dark one until it has `CONTRAST`.

    In: #rgb or #rrggbb. Raises `ValueError` if it is neither, or too light for white text on it.
    """
    light = value.lower()
    if re.fullmatch(r"#[0-9a-f]{3}", light):
        light = re.sub("([0-9a-f])", r"\1\1", light)
    if not re.fullmatch(r"#[0-9a-f]{6}", light):
        raise ValueError("colour")
    if contrast(light, WHITE) < CONTRAST:
        raise ValueError("contrast")
    shades = (_mixed_with_white(light, percent) for percent in range(101))
    return Accent(light, next(each for each in shades if contrast(each, DARK_PAPER) >= CONTRAST))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def logo(value: str) -> str:
    """Return the data: URI unchanged. Raises `ValueError` unless it is a PNG or SVG that fits."""
    if len(value) > MAX_LOGO:
        raise ValueError("size")
    if png := _PNG.fullmatch(value):
        _decoded(png[1])
        return value
    svg = _SVG.fullmatch(value)
    if svg is None or "svg" not in (_decoded(svg[2]) if svg[1] else svg[2]):
        raise ValueError("logo")
    return value


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("latin-1")
    except binascii.Error:
        raise ValueError("base64") from None


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _luminance(colour: str) -> float:
    # WCAG 2.2, "relative luminance", of sRGB. Its threshold of 0.04045 falls between 10 and 11.
    red, green, blue = (
        each / 255 / 12.92 if each <= _LAST_LINEAR else ((each / 255 + 0.055) / 1.055) ** 2.4
        for each in _channels(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mixed_with_white(colour: str, percent: int) -> str:
    mixed = (each + (255 - each) * percent // 100 for each in _channels(colour))
    return "#" + "".join(f"{each:02x}" for each in mixed)
