"""The sandbox and the app for a browser, until Ctrl+C."""

import argparse
import logging
import signal
import sys
import threading
from types import FrameType

from sandbox.world import PASSWORD, USER, World

PORT = 7071


def main() -> int:
    """Keep everything up; return the exit code."""
    parser = argparse.ArgumentParser(prog="dev.py up", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"of the relay, {PORT} by default")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("relay").setLevel(logging.INFO)

    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        with World(browser=True, port=options.port) as world:
            print(f"relay      {world.redirect_uri}")
            print(f"provider   {world.provider_server.url}   (user {USER}, password {PASSWORD})")
            print(f"Dynamics   {world.dynamics_server.url}")
            print(f"\nOpen this, sign in and consent:\n\n{world.consumer.start()}\n")
            print("Ctrl+C ends it.", flush=True)
            seen: set[str] = set()
            while not stop.wait(0.5):
                for state in set(world.dynamics.rows) - seen:
                    seen.add(state)
                    report(world, state)
    except OSError as error:
        print(f"dev.py up: {error.strerror or error}. Try another port: --port", file=sys.stderr)
        return 1
    return 0


def report(world: World, state: str) -> None:
    """Say that a row has come, and redeem its code as X++ would."""
    if state not in world.consumer.pending:
        print("Dynamics has a new row, of a state that it did not mint.", flush=True)
        return
    person = world.consumer.call(world.consumer.redeem(state))
    print(f"Dynamics has a new row, redeemed its code and called the API: {person}", flush=True)
    print(f"\nOnce more:\n\n{world.consumer.start()}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
