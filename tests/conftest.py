"""Tests run in the event loop of Azure's worker, and share one certificate authority."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from sandbox.loops import new_event_loop
from sandbox.tls import Authority
from tests.fakes import Clock


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"as in Azure": new_event_loop}


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    with Authority() as authority:
        yield authority


@pytest.fixture
def clock() -> Clock:
    return Clock()
