"""Builds the relay from the app settings.

The first token is requested before the settings are validated: importing the models and the rest of
the app takes longer than Entra's answer, and is done meanwhile.
"""

import os
import re
import time
from collections.abc import Mapping
from logging import ERROR, WARNING
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from relay import log, outgoing
from relay.connections import (
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Connection,
    Connections,
    Credential,
    ManagedIdentity,
    StatePolicy,
)
from relay.entra import clouds
from relay.entra.tokens import TokenCache
from relay.errors import Misconfigured

if TYPE_CHECKING:
    from relay.flow import Relay
    from relay.settings_reader import Settings

AT_ONCE = 50
"""Connections up to which all are read before the app is ready; it takes 0.1 ms for each target."""
SETTLE = 5.0
"""Seconds after which the others are read: later than the callback that started the process."""
STEP = 0.002
"""Seconds between two of them: callbacks may come meanwhile."""

_AUTHORITY = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9.-]+)+")


class App(NamedTuple):
    """What `function_app` binds: the relay and the name of its outbox queue."""

    relay: "Relay"
    outbox_queue: str


def app(environ: Mapping[str, str] = os.environ, *, ahead: bool = False) -> App:
    """Return the app for these app settings. Wrong settings are logged; none raises.

    `ahead`: start fetching tokens in the background, so that the first callback finds one. Ignored
    on a developer's machine (AZURE_FUNCTIONS_ENVIRONMENT is Development under Core Tools).
    """
    log.quiet()
    # As `settings_reader.normalize`, whose module takes too long to import here.
    given = {name.upper(): value.strip() for name, value in environ.items() if value.strip()}
    ahead = ahead and given.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() != "development"
    try:
        context, bad_bundle = outgoing.trust(given.get("CA_BUNDLE"), environ), False
    except OSError:
        context, bad_bundle = outgoing.trust(None, {}), True
    writer = log.Writer()
    tokens = TokenCache(context, say=writer.later)
    first = _first_credentials(given)
    if ahead and first is not None and not bad_bundle:
        tokens.fetch_ahead([first])

    from relay import settings_reader  # noqa: PLC0415 - while the token is requested

    read = settings_reader.read(given)
    connections = read.connections
    if bad_bundle and not any(each.startswith("CA_BUNDLE:") for each in connections.problems):
        problem = "CA_BUNDLE: expected a PEM file, or REQUESTS_CA_BUNDLE names one that is none"
        problems = (*connections.problems, problem)
        connections = Connections(
            dict.fromkeys(connections.by_name, Misconfigured(problems)), problems
        )
    if ahead and len(connections.by_name) > AT_ONCE:
        settling = (connections, read, tokens, writer.later)
        Thread(target=_settle_later, args=settling, name="settings", daemon=True).start()
    else:
        _settle(connections, read, tokens, writer.later, ahead=ahead)

    from relay.delivery.dynamics import DynamicsClient  # noqa: PLC0415 - likewise
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
        writer=writer,
    )
    return App(relay, read.app.outbox_queue)


def _settle(
    connections: Connections, read: "Settings", tokens: TokenCache, say: log.Say, *, ahead: bool
) -> None:
    """Read all connections: keep and fetch their tokens, log what is wrong or suspicious."""
    usable = [each for each in connections.by_name.values() if isinstance(each, Connection)]
    routes = [route for each in usable for route in each.targets]
    configured = [route.credentials for route in routes if isinstance(route, Connection)]
    tokens.retain(configured)
    if ahead:
        tokens.fetch_ahead(configured)
    for problem in connections.problems:
        say(ERROR, "setting %s", problem)
    for warning in read.warnings:
        say(WARNING, "setting %s", warning)
    for each in usable:
        if each.state_policy is StatePolicy.OPAQUE:
            say(WARNING, "setting STATE_POLICY: is opaque at %s, strangers write rows", each.name)


def _settle_later(
    connections: Connections, read: "Settings", tokens: TokenCache, say: log.Say
) -> None:
    """Do the same in a thread, in steps that leave the processor to callbacks."""
    time.sleep(SETTLE)
    for name in connections.by_name:
        time.sleep(STEP)
        _ = connections.by_name[name]
    _settle(connections, read, tokens, say, ahead=True)


def _first_credentials(given: Mapping[str, str]) -> ClientCredentials | None:
    """Return the credentials of one connection, as far as the plain settings tell them.

    In: app settings, names in upper case. Out: `None` where they do not: nothing is inherited,
    guessed or corrected here, so that no secret goes to a host that validation would refuse. What
    is returned equals what validation makes of the same settings, else `retain` drops its token.
    """
    authority, tenant = given.get("ENTRA_AUTHORITY"), given.get("ENTRA_TENANT_ID")
    client_id, identity = (
        given.get("ENTRA_CLIENT_ID"),
        given.get("ENTRA_MANAGED_IDENTITY_CLIENT_ID"),
    )
    secret, source = given.get("ENTRA_CLIENT_SECRET"), given.get("ENTRA_CLIENT_CERTIFICATE")
    url = urlsplit(given.get("DYNAMICS_URL", ""))
    if url.scheme != "https" or not url.netloc:
        return None
    credential: Credential
    match secret, source, identity:
        case (str(), None, None) if not secret.startswith("@Microsoft.KeyVault("):
            credential = ClientSecret(secret)
        case (None, str(), None):
            credential = ClientCertificate(source, given.get("ENTRA_CLIENT_CERTIFICATE_PASSWORD"))
        case (None, None, str()):
            credential = ManagedIdentity(None if identity == "system" else identity)
        case _:
            return None
    scope = given.get("DYNAMICS_SCOPE") or f"https://{url.netloc.lower()}/.default"
    if client_id is None:
        return ClientCredentials(None, None, credential, scope) if identity else None
    if authority is None and tenant is not None:
        authority = f"https://{clouds.PUBLIC.login}/{tenant}"
    if authority is None or not _AUTHORITY.fullmatch(authority):
        return None
    return ClientCredentials(authority, client_id, credential, scope)
