"""Checks of the app settings: everything that makes /health answer 503, each problem once."""

import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from relay import outgoing, settings_reader
from relay.connections import Connection
from relay.errors import Misconfigured
from relay.settings import ARTICLE, AppSettings, ConnectionSettings, names
from relay.settings_reader import ENVIRONMENTS, PREFIX
from relay.tools.doctor.finding import Finding, fail, warn

EXAMPLE = "local.settings.json.example"
_TRUST = fail(
    "settings",
    "CA_BUNDLE or REQUESTS_CA_BUNDLE names no PEM file",
    "Give the path of a PEM file with CA certificates that is deployed with the app.",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """App settings, read for an examination: what is wrong never hides what is right.

    `findings` are those of the whole app. `connections` are as the app would have them if `faulty`
    (wrong settings of the whole app, in upper case) were not set.
    """

    findings: tuple[Finding, ...]
    connections: Mapping[str, Connection | Misconfigured]
    app: AppSettings
    faulty: frozenset[str]
    trust: ssl.SSLContext


def read(environ: Mapping[str, str]) -> Reading:
    """Read app settings. Never raises."""
    whole = settings_reader.read(environ)
    named = {problem.partition(":")[0] for problem in whole.connections.problems}
    faulty = named & {*names(AppSettings)}
    # The app answers `misconfigured` on each connection; the doctor examines the rest all the same.
    rest = settings_reader.read(
        {name: value for name, value in environ.items() if name.upper() not in faulty}
    )
    each = list(rest.connections.by_name.values())
    targets = chain.from_iterable(one.targets for one in each if isinstance(one, Connection))
    wrong = [one for one in (*each, *targets) if isinstance(one, Misconfigured)]
    own = {problem for one in wrong for problem in one.problems}
    shared = [problem for problem in whole.connections.problems if problem not in own]
    found = [*_none(environ)] if not rest.connections.by_name else []
    found = found or [fail("settings", *split(problem)) for problem in shared]
    found += [warn("settings", *split(warning)) for warning in rest.warnings]
    try:
        context = outgoing.trust(rest.app.ca_bundle, environ)
    except OSError:
        found.append(_TRUST)
        context = outgoing.trust(None, {})
    found += _example(environ)
    return Reading(tuple(found), rest.connections.by_name, rest.app, frozenset(faulty), context)


def examine(connection: Misconfigured) -> Iterator[Finding]:
    """Return the problems of one connection."""
    for problem in connection.problems:
        yield fail("settings", *split(problem))


def split(problem: str) -> tuple[str, str]:
    """Return a problem as a message and a next step."""
    setting, _, expected = problem.partition(": ")
    return setting, f"{expected[:1].upper()}{expected[1:]}."


def _none(environ: Mapping[str, str]) -> Iterator[Finding]:
    given = settings_reader.normalize(environ)
    known = {*names(ConnectionSettings), *names(AppSettings), *map(str.upper, ARTICLE)}
    if not any(name in known or name.startswith((PREFIX, ENVIRONMENTS)) for name in given):
        yield fail(
            "settings",
            "DYNAMICS_URL is missing, and so is every other setting of the relay",
            f"Copy {EXAMPLE} to local.settings.json in this folder and fill it in; in Azure, set "
            "the app settings of the Function App.",
        )


def _example(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Name settings that still have the values of the example that comes with the relay."""
    file = Path(__file__).parents[3] / EXAMPLE
    try:
        example = json.loads(file.read_text("utf-8"))["Values"]
    except (OSError, ValueError, LookupError):  # it is not deployed
        return
    given = settings_reader.normalize(environ)
    unedited = [
        name
        for name in ("ENTRA_TENANT_ID", "ENTRA_CLIENT_ID", "ENTRA_CLIENT_SECRET", "DYNAMICS_URL")
        if given.get(name, "") == example[name]
    ]
    if unedited:
        yield fail(
            "settings",
            f"{', '.join(unedited)}: still as in {EXAMPLE}",
            "Put your own values in; docs/setup.md says where each is found.",
        )
