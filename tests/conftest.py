"""Tests run in the event loop of Azure's worker."""

import asyncio
from collections.abc import Callable, Mapping

from sandbox.loops import new_event_loop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"as in Azure": new_event_loop}
