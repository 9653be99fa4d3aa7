"""Checks of the target of a connection, one module for each kind."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

import httpx

from relay.connections import Connection
from relay.delivery import targets
from relay.delivery.targets import Address, TargetKind
from relay.ports import AccessToken
from relay.tools.doctor import (
    business_central,
    custom_service,
    dataverse,
    finance_operations,
    writing,
)
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, skip, warn
from relay.tools.doctor.probe import Probe, broken

type Check = Callable[[Probe, Address], Iterator[Finding]]

CHECKS: Mapping[TargetKind, Check] = {
    targets.CUSTOM_SERVICE: custom_service.examine,
    targets.DATAVERSE: dataverse.examine,
    targets.BUSINESS_CENTRAL: business_central.examine,
    targets.FINANCE_OPERATIONS: finance_operations.examine,
}


def examine(
    connection: Connection,
    http: httpx.Client,
    token: AccessToken | None,
    context: ssl.SSLContext,
    *,
    write: bool,
) -> Iterator[Finding]:
    """Examine the target of a connection. Reads only, unless `write`.

    Without a token only whether it can be reached. `context` is the trust for TLS.
    """
    probe = Probe(connection, http, token)
    if token is None:
        yield _reach(probe)
        return
    found: set[str] = set()
    sound = True
    try:
        for finding in _examine(probe):
            found.add(finding.check)
            sound &= finding.verdict is not Verdict.FAIL
            yield finding
    except httpx.HTTPError as error:  # the target answered before, and no longer does
        yield broken(error)
        return
    if sound and write:
        yield from writing.examine(connection, token, context)
    elif sound and "permission" not in found:
        yield skip("permission", "whether records may be created only --write can tell")


def _reach(probe: Probe) -> Finding:
    try:
        probe.get(probe.connection.target.url)
    except httpx.HTTPError as error:
        return broken(error)
    return ok("target", "it can be reached; without a token no more can be told")


def _examine(probe: Probe) -> Iterator[Finding]:
    found = targets.find(probe.connection.target.url)
    if found is None:
        return _unknown(probe)
    kind, address = found
    return CHECKS[kind](probe, address)


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
    *shapes, last = (f"…{kind.shape}" for kind in targets.TARGETS)
    yield warn(
        "entity",
        "DYNAMICS_URL looks like no target that the doctor knows, so the rest is not examined",
        f"Expected {', '.join(shapes)} or {last}.",
    )
