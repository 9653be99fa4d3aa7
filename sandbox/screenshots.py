"""Take screenshots of every page of the relay, for a visual check.

python -m sandbox.screenshots [--folder DIR]
python -m sandbox.screenshots --readme

Writes each page in light, in dark, 320 px wide, and once in each language; or the two pictures that
the README shows, into docs/images.
"""

import argparse
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import pages
from relay.outcome import STATUS, Answer, Outcome
from relay.pages.translations import DEFAULT, LANGUAGES
from sandbox.browser import chromium, unavailable
from sandbox.serving import Server

REFERENCE = "7c1f09b2e4a85d36"
FOLDER = Path("screenshots")
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

WIDE = {"width": 960, "height": 720}
NARROW = {"width": 320, "height": 640}
"""The width at which WCAG 2.2 §1.4.10 forbids horizontal scrolling: 320 CSS pixels."""


_SHOWN_IN_PLACE = {
    "said": Answer(
        Outcome.DECLINED,
        REFERENCE,
        HTTPStatus.BAD_REQUEST,
        error="access_denied",
        error_description="AADSTS65004: User declined to consent to access the app.",
    ),
    "bare": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, page="bare"),
    "ended": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, page="ended"),
    "keys": Answer(Outcome.REJECTED, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, page="keys"),
    "prefetch": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, page="prefetch"),
    "method": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.METHOD_NOT_ALLOWED, page="method"),
}

PAGES = (*Outcome, *_SHOWN_IN_PLACE)
"""The name of every page: those of `/done/{outcome}`, and those shown without a redirect.

`said` is `declined` with the provider's error. `/authorize` has no page of its own.
"""

README = {"width": 640, "height": 480}
"""The size of the README's pictures: small, because they are part of the repository."""


def answer(name: str) -> Answer:
    """Return the answer that shows one of `PAGES`."""
    if name in _SHOWN_IN_PLACE:
        return _SHOWN_IN_PLACE[name]
    outcome = Outcome(name)
    return Answer(outcome, REFERENCE, STATUS[outcome])


def page(name: str, accept_language: str) -> pages.Reply:
    """Return one of `PAGES` as the relay answers it, after its redirect if there is one."""
    if name in _SHOWN_IN_PLACE:
        return pages.render(answer(name), html=True, accept_language=accept_language)
    return pages.done(name, REFERENCE, accept_language)


def gallery() -> Starlette:
    """Return an app that shows each page under its name, with all of its headers."""

    async def show(request: Request) -> Response:
        reply = page(request.path_params["name"], request.headers.get("accept-language", ""))
        return Response(reply.body, reply.status, dict(reply.headers))

    return Starlette(routes=[Route("/{name}", show)])


def main(arguments: list[str]) -> int:
    """Take the pictures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.screenshots")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--readme", action="store_true", help="write docs/images instead")
    chosen = parser.parse_args(arguments)
    folder: Path = IMAGES if chosen.readme else chosen.folder
    if (reason := unavailable()) is not None:
        print(f"No pictures can be taken: {reason}.", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with Server(gallery()) as server, chromium() as browser:
        kinds, names = (_README, ("delivered",)) if chosen.readme else (_KINDS, PAGES)
        for kind, options in kinds.items():
            _take(browser, options, {name: folder / f"{name}-{kind}.png" for name in names}, server)
    print(f"{len(kinds) * len(names)} pictures are in {folder}")
    return 0


_KINDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "light": {"viewport": WIDE, "color_scheme": "light"},
        "dark": {"viewport": WIDE, "color_scheme": "dark"},
        "320px": {"viewport": NARROW, "color_scheme": "light"},
        **{
            tag: {"viewport": NARROW, "color_scheme": "dark", "locale": tag}
            for tag in LANGUAGES
            if tag != DEFAULT
        },
    }
)
_README = MappingProxyType(
    {
        kind: {"viewport": README, "color_scheme": kind, "device_scale_factor": 1.5}
        for kind in ("light", "dark")
    }
)


def _take(
    browser: Browser, options: Mapping[str, Any], files: Mapping[str, Path], server: Server
) -> None:
    context = browser.new_context(**{"locale": DEFAULT, "device_scale_factor": 2, **options})
    tab = context.new_page()
    for name, file in files.items():
        tab.goto(f"{server.url}/{name}")
        tab.screenshot(path=file, full_page=True)
    context.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
