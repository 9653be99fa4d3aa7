"""Settings become a wired relay, and nothing else happens: no request, no thread, no waiting."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from relay import log, settings, tls
from relay.callback import Receipt
from relay.connections import Connection, Connections
from relay.dynamics import DynamicsClient
from relay.errors import Misconfigured
from relay.flow import Relay
from relay.jwks import KeyStore
from relay.once import Once
from relay.sealing import Sealer
from relay.spans import Spans, tracer
from relay.tokens import TokenCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """What `function_app` binds: the relay, and the queue that its outbox is."""

    relay: Relay
    tokens: TokenCache
    outbox_queue: str

    def begin(self, environ: Mapping[str, str] = os.environ) -> None:
        """Fetch tokens while the host is still starting, so that the first callback finds one.

        Not on a developer's machine, where Core Tools say so: there nothing is asked unasked.
        """
        if environ.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() != "development":
            self.tokens.fetch_ahead(
                connection.credentials
                for connection in self.relay.connections.by_name.values()
                if isinstance(connection, Connection)
            )


def app(environ: Mapping[str, str] = os.environ) -> App:
    """Return the app for these app settings. Never raises for a wrong one: it is logged."""
    log.quiet()
    read = settings.read(environ)
    connections = read.connections
    try:
        context = tls.trust(read.app.ca_bundle, environ)
    except OSError:
        problem = "CA_BUNDLE: expected a PEM file, or REQUESTS_CA_BUNDLE names one that is none"
        context = tls.trust(None, {})
        connections = _unusable(connections, problem)
    for problem in connections.problems:
        logger.error("setting %s", problem)
    for warning in read.warnings:
        logger.warning("setting %s", warning)
    tokens = TokenCache(context)
    relay = Relay(
        connections,
        tokens,
        DynamicsClient(context),
        KeyStore(context),
        deliveries=Once[Receipt](),
        sealer=Sealer(read.app.outbox_keys) if read.app.outbox_keys else None,
        spans=Spans(tracer(environ)),
    )
    return App(relay, tokens, read.app.outbox_queue)


def _unusable(connections: Connections, problem: str) -> Connections:
    problems = (*connections.problems, problem)
    return Connections(dict.fromkeys(connections.by_name, Misconfigured(problems)), problems)
