"""Run the sandbox and the relay for a browser, until Ctrl+C. Called by `dev.py up`."""

import argparse
import json
import logging
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from cryptography.fernet import Fernet

from sandbox import azurite
from sandbox.azurite import Azurite
from sandbox.queues import STORAGE
from sandbox.serving import connect_to_loopback_directly
from sandbox.world import APP, PASSWORD, USER, World

PORT = 7071
SETTINGS = APP / "sandbox.settings.json"
PYTHON = r".venv\Scripts\python" if sys.platform == "win32" else ".venv/bin/python"


def main() -> int:
    """Run until a signal comes; return the exit code."""
    parser = argparse.ArgumentParser(prog="dev.py up", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"of the relay, {PORT} by default")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("relay").setLevel(logging.INFO)
    # They repeat, with a traceback, each failed redelivery, of which the relay logs a line.
    for name in ("azure.functions", "sandbox.host"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    connect_to_loopback_directly()

    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        with ExitStack() as stack:
            storage, where = start_queues(stack)
            settings = {"OUTBOX_KEYS": Fernet.generate_key().decode()}
            world = stack.enter_context(
                World(settings, browser=True, port=options.port, storage=storage)
            )
            settings = dict(world.settings)
            if not storage:
                # No other process reaches queues in memory: an identity, which no machine but
                # Azure's has, makes the commands leave them out.
                del settings[STORAGE]
                settings[f"{STORAGE}__accountName"] = "memory"
            stack.enter_context(settings_file(settings))
            start = world.consumer.start()
            print(f"relay      {world.redirect_uri}")
            print(f"provider   {world.provider_server.url}   (user {USER}, password {PASSWORD})")
            print(f"Dynamics   {world.dynamics_server.url}")
            print(f"queues     {where}")
            print(f"\nOpen this, sign in and consent:\n\n{start}\n")
            print("In another terminal, while this one runs:\n")
            for command in ("doctor", "send"):
                print(f"    {PYTHON} -m relay --settings {SETTINGS.name} {command}")
            print("\nd and Enter stops Dynamics, or starts it again. Ctrl+C ends it.", flush=True)
            if sys.stdout.isatty() and not options.no_browser:
                webbrowser.open(start)
            threading.Thread(target=read_commands, args=(world,), daemon=True).start()
            seen: set[str] = set()
            while not stop.wait(0.5):
                for state in set(world.dynamics.rows) - seen:
                    seen.add(state)
                    report(world, state)
    except OSError as error:
        print(f"dev.py up: {error.strerror or error}. Try another port: --port", file=sys.stderr)
        return 1
    return 0


@contextmanager
def settings_file(settings: Mapping[str, str]) -> Iterator[None]:
    """Write the relay's settings for the commands of `python -m relay`; remove them at the end."""
    SETTINGS.write_text(json.dumps({"IsEncrypted": False, "Values": dict(settings)}, indent=2))
    try:
        yield
    finally:
        SETTINGS.unlink(missing_ok=True)


def read_commands(world: World) -> None:
    """Stop or start Dynamics at each line `d` on standard input."""
    down = False
    for line in sys.stdin:
        if line.strip().lower() != "d":
            continue
        if down:
            world.dynamics_server.start()
        else:
            world.dynamics_server.stop()
        down = not down
        print(f"Dynamics is {'down' if down else 'up again'}.", flush=True)


def start_queues(stack: ExitStack) -> tuple[str, str]:
    """Start Azurite if it is installed; return World's `storage`, and a text that names it."""
    reason = azurite.unavailable()
    if reason:
        return "", f"in memory ({reason})"
    # Azurite may still write for a moment, so the removal of the temporary folder may fail.
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    queues = stack.enter_context(Azurite(Path(folder)))
    return queues.connection_string, f"Azurite at http://127.0.0.1:{queues.port}"


def report(world: World, state: str) -> None:
    """Print that there is a new row, and redeem its code as X++ would."""
    if state not in world.consumer.pending:
        print("Dynamics has a new row, of a state that it did not mint.", flush=True)
        return
    person = world.consumer.call(world.consumer.redeem(state))
    print(f"Dynamics has a new row, redeemed its code and called the API: {person}", flush=True)
    print(f"\nOnce more:\n\n{world.consumer.start()}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
