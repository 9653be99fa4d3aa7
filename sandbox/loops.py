"""The event loop of Azure's Python worker: uvloop, and asyncio's own where there is none.

The worker tries to install uvloop at its start (`proxy_worker/start_worker.py` in
Azure/azure-functions-python-worker). There is none for Windows, where `func start` runs on asyncio.
"""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop of that kind; a `loop_factory` for `asyncio.run`."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
