"""The event loop of Azure's Python worker: uvloop, or asyncio's own on Windows.

The worker tries to install uvloop at its start (`proxy_worker/start_worker.py` in
Azure/azure-functions-python-worker). uvloop does not support Windows.
"""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop; use it as the `loop_factory` of `asyncio.run`."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
