"""Everything the relay talks to, on one's own machine: small real servers, never deployed.

`host.py` is the Functions host, `entra.py`, `dynamics.py` and `provider.py` are the parties
around the relay; the demonstration and the tests run against the same ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

# What App Service and Flex Consumption put into the environment. CONTAINER_NAME is not among them:
# Flex sets it too, but so does many a CI.
_MARKS_OF_AZURE = (
    "WEBSITE_INSTANCE_ID",
    "WEBSITE_SITE_NAME",
    "WEBSITE_POD_NAME",
    "FUNCTIONS_EXTENSION_VERSION",
)


def refuse_in_azure(environ: Mapping[str, str]) -> None:
    """Raise `RuntimeError` if `environ` is that of a machine in Azure.

    The sandbox hands out tokens to anyone who asks: it must never be reachable.
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
