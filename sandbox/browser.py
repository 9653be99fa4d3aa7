"""Start a headless Chromium through Playwright, for the tests and pictures of the relay's pages.

Playwright's package has no browser: it drives the Chromium, Chrome or Edge of this machine. Set
`CHROMIUM` to the path of another one.
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
    "chromium-headless-shell",  # without what draws windows, it takes half the time
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

# A browser's own requests would be mixed with those that a test checks.
_NO_OWN_REQUESTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


def unavailable() -> str | None:
    """Return why no browser can be started here and what to do, or None if one can."""
    if _executable() is not None:
        return None
    if named := os.environ.get(NAMED):
        return f"{NAMED} is set to {named}, which is no file that can be run"
    return (
        "there is no Chromium, Chrome or Edge on this machine; install one (Debian: "
        f"apt install chromium-headless-shell), or set {NAMED} to the path of its executable"
    )


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Start a headless browser with an empty profile, and end it with the block.

    In: further command-line flags. Out: Playwright's browser; each of its contexts has cookies of
    its own. Raises `RuntimeError` when there is no browser. Playwright's event loop runs in this
    thread until the block ends, so no other loop can: the scope of a fixture with it is a module of
    synchronous tests, not the session.
    """
    if (reason := unavailable()) is not None:
        raise RuntimeError(f"No browser can be started: {reason}.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_executable(),
            args=[*_NO_OWN_REQUESTS, *flags],
            # Chromium's sandbox refuses to start as root, and containers run as root.
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
