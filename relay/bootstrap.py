"""Builds the relay from the app settings.

Token requests start first, because they take longest; modules that only `flow` needs are imported
while those requests run.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay import log, outgoing, settings_reader
from relay.connections import Connection, Connections, StatePolicy
from relay.entra.tokens import TokenCache
from relay.errors import Misconfigured

if TYPE_CHECKING:
    from relay.flow import Relay

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """What `function_app` binds: the relay and the name of its outbox queue."""

    relay: "Relay"
    outbox_queue: str


def app(environ: Mapping[str, str] = os.environ, *, ahead: bool = False) -> App:
    """Return the app for these app settings. Wrong settings are logged; none raises.

    `ahead`: start fetching tokens in the background, so that the first callback finds one. Ignored
    on a developer's machine (AZURE_FUNCTIONS_ENVIRONMENT is Development under Core Tools).
    """
    log.quiet()
    read = settings_reader.read(environ)
    connections = read.connections
    try:
        context = outgoing.trust(read.app.ca_bundle, environ)
    except OSError:
        problem = "CA_BUNDLE: expected a PEM file, or REQUESTS_CA_BUNDLE names one that is none"
        context = outgoing.trust(None, {})
        problems = (*connections.problems, problem)
        connections = Connections(
            dict.fromkeys(connections.by_name, Misconfigured(problems)), problems
        )
    tokens = TokenCache(context)
    if ahead and environ.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() != "development":
        usable = connections.by_name.values()
        tokens.fetch_ahead(each.credentials for each in usable if isinstance(each, Connection))
    for problem in connections.problems:
        logger.error("setting %s", problem)
    for warning in read.warnings:
        logger.warning("setting %s", warning)
    for each in connections.by_name.values():
        if isinstance(each, Connection) and each.state_policy is StatePolicy.OPAQUE:
            logger.warning("setting STATE_POLICY: is opaque at %s, strangers write rows", each.name)

    from relay.delivery.dynamics import DynamicsClient  # noqa: PLC0415 - while tokens are fetched
    from relay.delivery.sealing import Sealer  # noqa: PLC0415
    from relay.delivery.single_flight import SingleFlight  # noqa: PLC0415
    from relay.flow import Relay  # noqa: PLC0415
    from relay.oauth.jwks import KeyStore  # noqa: PLC0415
    from relay.tracing import Spans, tracer  # noqa: PLC0415

    relay = Relay(
        connections,
        tokens,
        DynamicsClient(context),
        KeyStore(context),
        deliveries=SingleFlight(),
        sealer=Sealer(read.app.outbox_keys) if read.app.outbox_keys else None,
        spans=Spans(tracer(environ)),
    )
    return App(relay, read.app.outbox_queue)
