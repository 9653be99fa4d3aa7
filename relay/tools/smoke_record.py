"""The smoke record: a callback for a trial, which is checked and delivered like any other.

Its code says what it is, so that nobody tries to redeem it.
"""

import asyncio
import secrets
import ssl
from datetime import datetime, timedelta

from relay.connections import Connection, StatePolicy
from relay.delivery.callback import Callback
from relay.delivery.dynamics import DynamicsClient
from relay.errors import UnknownEnvironment
from relay.oauth import authorization, state
from relay.oauth.authorization import AuthorizationResponse
from relay.ports import AccessToken, Receipt

CODE = "relay-smoke-test"
"""The code of every smoke record, by which it is found and deleted in Dynamics."""
LIFETIME = timedelta(minutes=10)
"""Lifetime of its state."""


def callback(connection: Connection, now: datetime, given: str | None = None) -> Callback:
    """Return a smoke record, as a browser would bring it, for the environment of the connection.

    `given` is its state. By default one is made: under the policy `signed` a signed one, bound to a
    cookie where flows begin at the relay, so that it has the greatest length. Raises
    `InvalidResponse` when the policy refuses it, as for a pattern no state can be made up, and
    `UnknownEnvironment` when it is for another environment.
    """
    made, cookies = (given, "") if given is not None else _state(connection, now)
    response = AuthorizationResponse(
        CODE,
        made,
        iss=connection.provider.issuer,
        extra=dict.fromkeys(connection.target.body.params, CODE),
    )
    verified = state.verify(response, connection, cookies, now)
    if verified.environment != connection.environment:
        raise UnknownEnvironment
    authorization.check(verified, connection)
    return Callback.received(connection, verified, secrets.token_hex(8), now)


def send(record: Callback, token: AccessToken, context: ssl.SSLContext) -> Receipt:
    """POST a record once. `context` is the trust for TLS. Blocks.

    Raises `Unauthorized`, `Rejected` or `Unavailable`.
    """
    return asyncio.run(_send(record, token, context), loop_factory=_new_event_loop)


async def _send(record: Callback, token: AccessToken, context: ssl.SSLContext) -> Receipt:
    target, values = record.connection.target, record.values()
    client = DynamicsClient(context)
    try:
        return await client.deliver(
            target,
            token,
            target.body.render(values),
            reference=record.reference,
            sent=[value for value in values.values() if value],
        )
    finally:
        await client.aclose()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # As Azure's worker does: the record is then sent as a callback would be.
    try:
        import uvloop  # noqa: PLC0415 - for development only, and not on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _state(connection: Connection, now: datetime) -> tuple[str, str]:
    """Return a new state, and the Cookie header of the browser that it is bound to."""
    if connection.state_policy is not StatePolicy.SIGNED:
        return f"{CODE}-{secrets.token_hex(16)}", ""
    jti = secrets.token_urlsafe(48)  # 64 characters, as long as one may be
    if connection.provider.authorization_endpoint is None:
        return state.mint(connection, jti, now, LIFETIME), ""
    cookie = secrets.token_urlsafe(32)
    minted = state.mint(connection, jti, now, LIFETIME, cookie)
    return minted, f"{state.cookie_name(jti)}={cookie}"
