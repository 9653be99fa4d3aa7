"""Chromium, driven by Playwright: what a person's browser does with the relay's answers.

Playwright brings its driver along, and no browser: it drives the Chromium, Chrome or Edge that this
machine has. Set `CHROMIUM` to the path of another one.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMED = "CHROMIUM"
"""The environment variable that names the browser's executable."""

_COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "microsoft-edge-stable",
)
_PLACES = {
    "darwin": (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    ),
    "win32": (
        r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
        r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
        r"%LocalAppData%\Chromium\Application\chrome.exe",
        # Every Windows has it.
        r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
        r"%ProgramFiles%\Microsoft\Edge\Application\msedge.exe",
    ),
}

# What a browser does on its own account would stand among the requests that a test looks at.
_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


def unavailable() -> str | None:
    """Give the reason why no browser can be started here and what to do, or None if one can."""
    if _executable() is not None:
        return None
    if named := os.environ.get(NAMED):
        return f"{NAMED} is set to {named}, which is no file that can be run"
    return (
        "there is no Chromium, Chrome or Edge on this machine; install one "
        f"(Debian: apt install chromium), or set {NAMED} to the path of its executable"
    )


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Start a headless browser with an empty profile, and end it with the block.

    In: further command-line flags. Out: Playwright's browser; each of its contexts has cookies of
    its own. Raises `RuntimeError` when there is no browser. Playwright's event loop counts as
    running in this thread as long as the block lasts, so nothing asynchronous can run beside it: a
    fixture that holds it is one of a module of synchronous tests, and not of the session.
    """
    if (reason := unavailable()) is not None:
        raise RuntimeError(f"No browser can be started: {reason}.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_executable(),
            args=[*_QUIET, *flags],
            # Chromium refuses to start its sandbox as root, as which containers run.
            chromium_sandbox=not _is_root(),
        )
        try:
            yield browser
        finally:
            browser.close()


def _executable() -> Path | None:
    if named := os.environ.get(NAMED):
        found = shutil.which(named)
        return Path(found) if found else None
    for command in _COMMANDS:
        if found := shutil.which(command):
            return Path(found)
    places = (Path(os.path.expandvars(place)) for place in _PLACES.get(sys.platform, ()))
    return next((place for place in places if place.is_file()), None)


def _is_root() -> bool:
    # Not `os.geteuid() == 0`: Windows has no such function.
    return getattr(os, "geteuid", lambda: None)() == 0
