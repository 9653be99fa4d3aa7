"""Whether the outbox can be written and read, and nothing lies dead in it."""

from collections.abc import Iterator, Mapping

import httpx

from relay.doctor.finding import Finding
from relay.settings import AppSettings


def examine(
    app: AppSettings, environ: Mapping[str, str], http: httpx.Client, *, write: bool
) -> Iterator[Finding]:
    """Examine the outbox and its storage. Reads only, unless `write`."""
    yield from ()
