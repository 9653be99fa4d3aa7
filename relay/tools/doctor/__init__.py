"""The doctor: checks that find out which step of the set-up is missing. They read only.

For each connection: settings, Entra, Dynamics, the provider; then the storage and host.json, which
all share. After a failure the checks that depend on it are left out.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx

from relay import outgoing
from relay.connections import Connection
from relay.errors import Misconfigured
from relay.tools.doctor import (
    app_settings,
    entra,
    health,
    host_json,
    provider,
    storage,
    target,
)
from relay.tools.doctor.finding import Finding, Verdict, ok

__all__ = ["Finding", "Verdict", "examine"]

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Seconds for each operation; Finance & Operations makes tens of megabytes of metadata."""


def examine(
    environ: Mapping[str, str],
    *,
    only: str | None = None,
    write: bool = False,
    folder: Path | None = None,
    deadline: float | None = None,
) -> Iterator[Finding]:
    """Examine a relay with these app settings; yield each finding at once.

    `only`: one connection, and nothing else. `write`: send one smoke record to each target, and one
    message through the queue. `folder`: where host.json is, by default here. `deadline`: the app
    itself asks, and no request waits beyond this time of `time.monotonic`. Every client is new,
    because MSAL replays failures.
    """
    reading = app_settings.read(environ)
    yield from reading.findings
    with outgoing.blocking_client(reading.trust, timeout=TIMEOUT) as http:
        if deadline is not None:
            http.event_hooks["request"] = [partial(_limit, deadline)]
        for name, connection in reading.connections.items():
            if only in (None, name):
                for target_name, each in _targets(name, connection):
                    for finding in _connection(each, http, reading.trust, environ, write=write):
                        yield replace(finding, connection=target_name)
        if only is None:
            keys = "OUTBOX_KEYS" not in reading.faulty
            yield from storage.examine(
                reading.app, environ, http, reading.trust, write=write, keys=keys
            )
            yield from host_json.examine(folder or Path(), environ)
            if deadline is not None:
                yield from health.examine(environ, http)


def _limit(deadline: float, request: httpx.Request) -> None:
    """Let no operation of a request wait beyond the deadline."""
    left = max(0.1, deadline - time.monotonic())
    given = request.extensions["timeout"]
    request.extensions["timeout"] = {name: min(left, each or left) for name, each in given.items()}


def _targets(
    name: str, connection: Connection | Misconfigured
) -> Iterator[tuple[str, Connection | Misconfigured]]:
    """Return the connection and, as `name/environment`, the connection at each environment."""
    if isinstance(connection, Misconfigured) or connection.has_target:
        yield name, connection
    if isinstance(connection, Connection):
        for environment in connection.environments:
            try:
                yield f"{name}/{environment}", connection.at(environment)
            except Misconfigured as wrong:
                yield f"{name}/{environment}", wrong


def _connection(
    connection: Connection | Misconfigured,
    http: httpx.Client,
    context: ssl.SSLContext,
    environ: Mapping[str, str],
    *,
    write: bool,
) -> Iterator[Finding]:
    if isinstance(connection, Misconfigured):
        yield from app_settings.examine(connection)
        return
    yield ok("settings", "they validate")
    token = yield from entra.examine(connection.credentials, http, context)
    yield from target.examine(connection, http, token, context, write=write)
    yield from provider.examine(connection, http, environ)
