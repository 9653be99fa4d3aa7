"""Whether the Functions host is set up as the relay needs it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from relay.doctor.finding import Finding


def examine(folder: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Examine host.json in the app's folder, and the platform's own settings."""
    yield from ()
