"""Tests run in the event loop of Azure's worker, and share one certificate authority."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
import trustme

from sandbox.azurite import Azurite, unavailable
from sandbox.loops import new_event_loop
from sandbox.serving import connect_to_loopback_directly
from sandbox.tls import Authority
from tests.fakes import Clock
from tests.helpers import TRUST

SLOWEST = (
    "test_browser.py",
    "test_faults.py",
    "test_browser_pages.py",
    "test_benchmarks.py",
    "test_package.py",
    "test_up.py",
    "test_event_loop.py",
    "test_fuzz.py",
    "test_walk.py",
    "test_queues.py",
    "test_host.py",
    "test_scripts.py",
    "test_attacks.py",
    "test_doctor_target.py",
    "test_outbox.py",
    "test_dev.py",
    "test_functions_doctor.py",
)


connect_to_loopback_directly()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"as in Azure": new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first: the last one to begin decides when a run with `-n` ends."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _only_a_stranger_is_trusted_by_the_system(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Replace the public CAs by one that nobody uses, for the processes of tests too.

    So a test knows whom it trusts. And reading all public CAs takes 40 ms for each TLS context.
    """
    folder = tmp_path_factory.mktemp("trust")
    trustme.CA().cert_pem.write_to_path(str(folder / "system.pem"))
    with pytest.MonkeyPatch.context() as environment:
        for name in TRUST:
            environment.delenv(name, raising=False)
        environment.setenv("SSL_CERT_FILE", str(folder / "system.pem"))
        environment.setenv("SSL_CERT_DIR", str(folder / "nothing"))
        yield


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    with Authority() as authority:
        yield authority


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Microsoft's storage emulator. Without it a test is skipped, and in CI it fails."""
    if reason := unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with Azurite(tmp_path_factory.mktemp("azurite")) as azurite:
        yield azurite


@pytest.fixture
def clock() -> Clock:
    return Clock()
