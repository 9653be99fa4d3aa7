"""A process of its own that takes callbacks in one event loop, and tells what it did in the loop.

Started by test_event_loop.py, with the app settings as its environment and a list of steps on its
standard input. Nothing is imported before it begins but what the functions import themselves.
"""

import asyncio
import json
import logging
import sys
import threading
from concurrent.futures.thread import ThreadPoolExecutor
from types import CodeType
from typing import Any

HEAVY = ("msal", "cryptography", "jwt", "urllib3", "requests")
"""Packages of which nothing may run in the loop: they sign, parse keys, or wait for the network."""
OWN = {
    ("certificate", "load"),
    ("entra", "acquire"),
    ("sealing", "seal"),
    ("sealing", "open"),
    ("jarm", "unpack"),
}
"""What in the relay does such work: module and function."""
TOOL = sys.monitoring.PROFILER_ID


class Watch:
    """Keeps what happened in the thread of the loop, and which work was done in others."""

    def __init__(self) -> None:
        self.loop: int | None = None
        self.imported: list[str] = []
        self.opened: list[str] = []
        self.ran: set[str] = set()
        self.elsewhere: set[str] = set()
        self.slow: list[str] = []

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of imports and files: `sys.addaudithook`."""
        if threading.get_ident() != self.loop:
            return
        if event == "import":
            self.imported.append(str(arguments[0]))
        # Sources are what asyncio's debug mode itself opens, to tell where a task was made.
        elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
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


class Slow(logging.Handler):
    """Takes what asyncio says in debug mode of callbacks that take long."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message: "Executing <Handle …> took … seconds"."""
        self._watch.slow.append(record.getMessage())


async def run(steps: list[dict[str, Any]], threshold: float, watch: Watch) -> list[str]:
    """Take one step after the other, as the worker calls the functions; return what came out."""
    import azure.functions as func  # noqa: PLC0415 - with the functions

    import function_app  # noqa: PLC0415 - as the worker does, which is no part of a callback

    await asyncio.sleep(0)  # in a turn of its own: what follows is no import
    asyncio.get_running_loop().slow_callback_duration = threshold
    logging.getLogger("asyncio").addHandler(Slow(watch))
    watch.loop = threading.get_ident()
    came: list[str] = []
    relay = function_app._relay
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
    came = asyncio.run(run(order["steps"], order["threshold"], watch), debug=True)
    seen = {
        "came": came,
        # Some are looked for and not there, which is no work.
        "imported": [name for name in watch.imported if name in sys.modules],
        "opened": watch.opened,
        "ran": sorted(watch.ran),
        "elsewhere": sorted(watch.elsewhere),
        "slow": watch.slow,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
