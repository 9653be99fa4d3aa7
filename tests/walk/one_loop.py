"""A process of its own that takes callbacks in one event loop, and tells what it did in the loop.

Started by test_event_loop.py, with the app settings as its environment and a list of steps on its
standard input. Nothing is imported before it begins but the loop and what the functions import.
"""

import asyncio
import json
import socket
import sys
import threading
from concurrent.futures.thread import ThreadPoolExecutor
from types import CodeType
from typing import Any

from sandbox.loops import new_event_loop

HEAVY = ("msal", "cryptography", "jwt", "urllib3", "requests")
"""Packages of which nothing may run in the loop: they sign, parse keys, or wait for the network."""
OWN = {
    ("entra/certificate", "load"),
    ("entra/client", "acquire"),
    ("delivery/sealing", "seal"),
    ("delivery/sealing", "open"),
    ("oauth/jarm", "unpack"),
}
"""What in the relay does such work: module and function."""
TURN = 0.01
"""Seconds between two signs of life of the loop."""
TOOL = sys.monitoring.PROFILER_ID


class Watch:
    """Keeps what happened in the thread of the loop, and which work was done in others."""

    def __init__(self) -> None:
        self.loop: int | None = None
        self.imported: list[str] = []
        self.opened: list[str] = []
        self.ran: set[str] = set()
        self.elsewhere: set[str] = set()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of imports and files: `sys.addaudithook`."""
        if threading.get_ident() != self.loop:
            return
        if event == "import":
            self.imported.append(str(arguments[0]))
        elif event == "open":
            self.opened.append(str(arguments[0]))

    def started(self, code: CodeType, _: int) -> object:
        """Take note of the heavy functions: `sys.monitoring`."""
        name = _heavy(code)
        if name is None:
            return sys.monitoring.DISABLE
        here = threading.get_ident() == self.loop
        (self.ran if here else self.elsewhere).add(name)
        return None


def _heavy(code: CodeType) -> str | None:
    path = code.co_filename.replace("\\", "/")
    _, _, within = path.rpartition("/site-packages/")
    package = within.partition("/")[0]
    if path != within and package in HEAVY:
        return package
    module = path.rpartition("/relay/")[2].removesuffix(".py")
    return f"{module}.{code.co_name}" if (module, code.co_name) in OWN else None


def show_turns(port: int) -> None:
    """Send a datagram to this port of loopback at every turn of the running loop."""
    loop = asyncio.get_running_loop()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def turn() -> None:
        sender.sendto(b".", ("127.0.0.1", port))
        loop.call_later(TURN, turn)

    turn()


async def run(steps: list[dict[str, Any]], turns: int, watch: Watch) -> list[str]:
    """Take one step after the other, as the worker calls the functions; return what came out."""
    import azure.functions as func  # noqa: PLC0415 - with the functions

    import function_app  # noqa: PLC0415 - as the worker does, which is no part of a callback

    await asyncio.sleep(0)  # in a turn of its own: what follows is no import
    show_turns(turns)
    watch.loop = threading.get_ident()
    came: list[str] = []
    relay = function_app.the_relay
    for step in steps:
        if "message" in step:
            letter = await relay.redeliver(step["message"].encode(), 2)
            came.append("delivered" if letter is None else letter.reason)
            continue
        request = func.HttpRequest(
            method="GET",
            url=f"https://relay.example/callback/{step['name']}?{step['query']}",
            headers={"accept": "application/json"},
            body=b"",
        )
        answer = await relay.receive(step["name"], function_app._request(request))
        function_app._response(function_app._render(answer, function_app._request(request)))
        came.append(str(answer.outcome))
    watch.loop = None
    return came


def main() -> None:
    """Read the steps from standard input, take them, and print what was seen."""
    order = json.load(sys.stdin)
    # The worker has a thread pool of its own before any callback.
    ThreadPoolExecutor().shutdown()
    watch = Watch()
    sys.addaudithook(watch.audit)
    sys.monitoring.use_tool_id(TOOL, "one loop")
    sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, watch.started)
    sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
    taking = run(order["steps"], order["turns"], watch)
    came = asyncio.run(taking, loop_factory=new_event_loop)
    seen = {
        "came": came,
        # Some are looked for and not there, which is no work.
        "imported": [name for name in watch.imported if sys.modules.get(name)],
        "opened": watch.opened,
        "ran": sorted(watch.ran),
        "elsewhere": sorted(watch.elsewhere),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
