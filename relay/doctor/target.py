"""Whether Dynamics takes what the relay will post."""

from collections.abc import Iterator

import httpx

from relay.callback import AccessToken
from relay.connections import Connection
from relay.doctor.finding import Finding


def examine(
    connection: Connection, http: httpx.Client, token: AccessToken | None, *, write: bool
) -> Iterator[Finding]:
    """Examine the target of a connection. Reads only, unless `write`."""
    yield from ()
