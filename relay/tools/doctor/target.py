"""Whether Dynamics takes what the relay will post: which target it is, and who examines it."""

import re
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import httpx

from relay.connections import Connection
from relay.ports import AccessToken
from relay.tools.doctor import business_central, dataverse, finance, services, writing
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, warn
from relay.tools.doctor.probe import Probe, broken

_SHAPES = {
    "service": re.compile(r"(.*?/api/services)/([^/]+)/([^/]+)/([^/]+)/?", re.IGNORECASE),
    "dataverse": re.compile(r"(.*?/api/data/v\d+(?:\.\d+)?)/([^/]+)/?", re.IGNORECASE),
    "business_central": re.compile(
        r"(.*?/api)/(v\d[^/]*|[^/]+/[^/]+/[^/]+)/companies\(([^)/]+)\)/([^/]+)/?", re.IGNORECASE
    ),
    "finance": re.compile(r"(.*?/data)/([^/]+)/?", re.IGNORECASE),
}
"""Paths of the targets, tried in this order."""


def examine(
    connection: Connection,
    http: httpx.Client,
    token: AccessToken | None,
    context: ssl.SSLContext,
    *,
    write: bool,
) -> Iterator[Finding]:
    """Examine the target of a connection. Reads only, unless `write`.

    Without a token nothing but whether it can be reached. `context` is the trust for TLS.
    """
    probe = Probe(connection, http, token)
    if token is None:
        yield _reach(probe)
        return
    shape, parts = _shape(connection.target.url)
    sound = True
    try:
        for finding in _examine(probe, shape, parts):
            sound &= finding.verdict is not Verdict.FAIL
            yield finding
    except httpx.HTTPError as error:  # it answered before, and does not any more
        yield broken(error)
        return
    if sound and write:
        yield from writing.examine(connection, token, context)
    elif sound and shape != "dataverse":
        yield ok("permission", "whether records may be created only --write can tell")


def _reach(probe: Probe) -> Finding:
    try:
        probe.get(probe.connection.target.url)
    except httpx.HTTPError as error:
        return broken(error)
    return ok("target", "it can be reached; without a token no more can be told")


def _shape(url: str) -> tuple[str, tuple[str, ...]]:
    """Return which target a URL is of, and its parts, the first of which is a URL again."""
    split = urlsplit(url)
    for shape, pattern in _SHAPES.items():
        match = pattern.fullmatch(split.path)
        if match is not None:
            root, *rest = match.groups()
            return shape, (f"{split.scheme}://{split.netloc}{root}", *map(unquote, rest))
    return "", ()


def _examine(probe: Probe, shape: str, parts: tuple[str, ...]) -> Iterator[Finding]:
    match shape, parts:
        case "service", (root, *names):
            return services.examine(probe, root, tuple(names))
        case "dataverse", (root, name):
            return dataverse.examine(probe, root, name)
        case "business_central", (root, route, company, name):
            return business_central.examine(probe, root, route, company, name)
        case "finance", (root, name):
            return finance.examine(probe, root, name)
    return _unknown(probe)


def _unknown(probe: Probe) -> Iterator[Finding]:
    answer = yield from probe.reach("a service", probe.connection.target.url)
    if answer is None:
        return
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        yield fail(
            "access",
            f"it does not take the token (HTTP {answer.status})",
            f"Register the client id {probe.client_id} in Dynamics, and check DYNAMICS_SCOPE.",
        )
        return
    yield warn(
        "entity",
        "DYNAMICS_URL looks like no target that the doctor knows, so the rest is not examined",
        "Expected …/data/<collection>, …/api/services/<group>/<service>/<operation>, "
        "…/api/<publisher>/<group>/<version>/companies(<id>)/<collection> or "
        "…/api/data/v9.2/<table>.",
    )
