"""Take screenshots of every page of the relay, for a visual check, and write the storybook.

python -m sandbox.screenshots [--folder DIR]
python -m sandbox.screenshots --readme

Writes the pictures of the terminal, and each page in light, in dark, 320 px wide, and once in each
language; or what the repository holds: the pictures of the terminal and the two that the README
shows, into docs/images, and docs/pages.html, one page that shows every page in every language and
theme.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

from markupsafe import escape
from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import pages, settings_reader
from relay.connections import Connection
from relay.outcome import STATUS, Answer, Outcome
from relay.pages.translations import DEFAULT, LANGUAGES
from sandbox import terminals
from sandbox.browser import chromium, unavailable
from sandbox.serving import Server

REFERENCE = "7c1f09b2e4a85d36"
FOLDER = Path("screenshots")
DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = DOCS / "images"
STORYBOOK = DOCS / "pages.html"

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
        connection="default",
    ),
    "fault": Answer(
        Outcome.DECLINED,
        REFERENCE,
        HTTPStatus.BAD_REQUEST,
        page="fault",
        error="invalid_scope",
        error_description="The scope payments is not registered for this client.",
        connection="default",
    ),
    "bare": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, page="bare"),
    "ended": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.BAD_REQUEST, page="ended"),
    "keys": Answer(Outcome.REJECTED, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, page="keys"),
    "prefetch": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.SERVICE_UNAVAILABLE, page="prefetch"),
    "method": Answer(Outcome.INVALID, REFERENCE, HTTPStatus.METHOD_NOT_ALLOWED, page="method"),
}

PAGES = (*Outcome, "ticket", "nowhere", *_SHOWN_IN_PLACE)
"""The name of every page: those of `/done/{outcome}`, and those shown without a redirect.

`said` is `declined` with the provider's error, `ticket` a link that /authorize refuses, `nowhere`
an address that is none of the relay's.
"""

_LOGO = (
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'>"
    "<rect width='40' height='40' rx='9' fill='%237a2e8e'/><path d='M27 14a10 10 0 1 0 0 12' "
    "fill='none' stroke='%23fff' stroke-width='5' stroke-linecap='round'/></svg>"
)
_SETTINGS = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "of nobody",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    "STATE_POLICY": "signed",
    "STATE_KEYS": f"k1:{'0' * 43}",
    "PROVIDER_NAME": "Northwind Bank",
    "PAGE_ORGANIZATION": "Contoso",
    "PAGE_SUPPORT": "erp-support@contoso.example",
    "PAGE_RETURN_URL": "https://contoso.operations.dynamics.com/?cmp=usmf&outcome={outcome}",
    "PAGE_ACCENT": "#7a2e8e",
    "PAGE_LOGO": _LOGO,
}


def connection(**settings: str) -> Connection:
    """Return the connection whose names the pages show; `settings` replace some of its own."""
    return settings_reader.read(_SETTINGS | settings).connections.get("default")


CONTOSO = connection()

README = {"width": 640, "height": 560}
"""The size of the README's pictures: small, because they are part of the repository."""


def answer(name: str) -> Answer:
    """Return the answer that shows one of `PAGES`."""
    if name in _SHOWN_IN_PLACE:
        return _SHOWN_IN_PLACE[name]
    outcome = Outcome(name)
    return Answer(outcome, REFERENCE, STATUS[outcome])


def page(name: str, accept_language: str, connection: Connection | None = CONTOSO) -> pages.Reply:
    """Return one of `PAGES` as the relay answers it, after its redirect if there is one."""
    if name == "nowhere":
        return pages.unknown(html=True, accept_language=accept_language)
    if name == "ticket":
        return pages.done("invalid", REFERENCE, accept_language, connection, via="authorize")
    if name in _SHOWN_IN_PLACE:
        return pages.render(
            answer(name), html=True, accept_language=accept_language, connection=connection
        )
    return pages.done(name, REFERENCE, accept_language, connection)


_STORYBOOK = """<!doctype html>
<!-- Written by: python -m sandbox.screenshots --readme -->
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>The pages of the relay</title>
<style>
body{font:1rem/1.5 system-ui,sans-serif;margin:1rem;color-scheme:light dark}
form{display:flex;flex-wrap:wrap;gap:1rem}
ul{display:flex;flex-wrap:wrap;gap:1rem;padding:0;list-style:none}
iframe{display:block;border:1px solid gray;max-width:100%}
</style>
<h1>The pages of the relay</h1>
<form>
<label>Language <select name="language"></select></label>
<label>Theme <select name="theme"><option>light<option>dark</select></label>
<label>Width <select name="width"><option>640<option>320<option>960</select></label>
</form>
<ul></ul>
<script>
const head = HEAD;
const shared = SHARED;
const pages = PAGES;
const form = document.forms[0];
for (const tag in pages) form.language.append(new Option(tag));
form.onchange = () => {
  const dark = form.theme.value === "dark";
  const tag = form.language.value;
  const chosen = pages[tag];
  document.querySelector("ul").replaceChildren(...Object.keys(chosen).map((name) => {
    const html = (head + chosen[name]).replace(/@([0-9])@/g, (_, at) => shared[at])
      .replace('lang="en"', `lang="${tag}"`);
    const item = document.createElement("li");
    const frame = document.createElement("iframe");
    frame.title = name;
    frame.sandbox = "allow-scripts";
    frame.width = form.width.value;
    frame.height = 720;
    // A frame has the theme of the system, and this page has a choice.
    frame.srcdoc = html.replaceAll("(prefers-color-scheme:dark)",
      dark ? "(min-width:0)" : "(max-width:0)");
    item.append(name, frame);
    return item;
  }));
};
form.onchange();
</script>
</html>
"""


def storybook() -> str:
    """Return one HTML page with every page in every language."""
    head = page("delivered", DEFAULT).body.decode().partition("<title>")[0]
    style, accent = re.findall("<style>.*?</style>", page("delivered", DEFAULT).body.decode())
    written = json.dumps(
        {
            tag: {
                name: page(name, tag).body.decode().partition("<body>")[2].partition("</body>")[0]
                for name in PAGES
            }
            for tag in LANGUAGES
        },
        ensure_ascii=False,
        indent=0,
    )
    # What many pages have in common is held once; "</script>" must not stand in a script.
    scripts = [
        re.findall("<script>.*?</script>", page(name, DEFAULT).body.decode())[0]
        for name in ("bare", "rejected")
    ]
    for at, text in enumerate((*scripts, str(escape(_LOGO)))):
        written = written.replace(json.dumps(text, ensure_ascii=False)[1:-1], f"@{at}@")
    shared = json.dumps([*scripts, str(escape(_LOGO))], ensure_ascii=False)
    return (
        _STORYBOOK.replace("HEAD", json.dumps(head + style + accent).replace("</", "<\\/"))
        .replace("SHARED", shared.replace("</", "<\\/"))
        .replace("PAGES", written.replace("</", "<\\/"))
    )


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
    parser.add_argument(
        "--readme", action="store_true", help="write docs/images and docs/pages.html instead"
    )
    chosen = parser.parse_args(arguments)
    folder: Path = IMAGES if chosen.readme else chosen.folder
    if (reason := unavailable()) is not None:
        print(f"No pictures can be taken: {reason}.", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in terminals.pictures().items():
        (folder / name).write_text(svg, "utf-8", newline="\n")
    if chosen.readme:
        STORYBOOK.write_text(storybook(), "utf-8", newline="\n")
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
        kind: {"viewport": README, "color_scheme": kind, "device_scale_factor": 1}
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
