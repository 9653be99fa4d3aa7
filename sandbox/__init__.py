"""The servers that the relay talks to, for a developer's machine; never deployed.

`host.py` is the Functions host; `entra.py`, `dynamics.py` and `provider.py` are the relay's peers.
The demonstration and the tests use the same servers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

# Variables that App Service and Flex Consumption set. Not CONTAINER_NAME, which many CI systems set
# too.
_MARKS_OF_AZURE = (
    "WEBSITE_INSTANCE_ID",
    "WEBSITE_SITE_NAME",
    "WEBSITE_POD_NAME",
    "FUNCTIONS_EXTENSION_VERSION",
)


def refuse_in_azure(environ: Mapping[str, str]) -> None:
    """Raise `RuntimeError` if `environ` is that of a machine in Azure.

    The sandbox issues tokens to anyone: it must never be reachable from a network.
    """
    found = [name for name in _MARKS_OF_AZURE if name in environ]
    if found:
        raise RuntimeError(
            "The sandbox is for one's own machine and does not start inside Azure "
            f"(found {', '.join(found)} in the environment)."
        )


class Startable(ABC):
    """A context manager that starts when it is entered, and stops when it is left."""

    @abstractmethod
    def start(self) -> None:
        """Start; return when it is ready."""

    @abstractmethod
    def stop(self) -> None:
        """Stop. Harmless when stopped."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
