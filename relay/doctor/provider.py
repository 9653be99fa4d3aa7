"""Whether the provider is what the settings say of it."""

from collections.abc import Iterator

import httpx

from relay.connections import Connection
from relay.doctor.finding import Finding


def examine(connection: Connection, http: httpx.Client) -> Iterator[Finding]:
    """Examine the provider of a connection. Reads only."""
    yield from ()
