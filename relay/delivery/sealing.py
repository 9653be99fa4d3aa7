"""Sealing of the outbox: who has access to the queue can neither read nor forge a callback.

A message is one Fernet token (AES-128-CBC and HMAC-SHA256) of a JSON object. The connection's name
is part of it, so a message cannot be redirected to another connection's Dynamics. So are the name
and the URL of an environment: after a change of the settings its code must not reach another one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from relay.connections import Connections
from relay.delivery.callback import Callback, iso
from relay.errors import UnknownEnvironment, Unopenable
from relay.oauth.authorization import VerifiedResponse

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

VERSION = 1
VERSION_OF_ENVIRONMENTS = 2
"""Of a message that names an environment and its URL."""


class Sealer:
    """Seals with the first of `keys` (Fernet keys), opens with any, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._fernet: MultiFernet | None = None

    def seal(self, callback: Callback) -> str:
        """Return the message for the outbox: ASCII, at most two thirds of a queue message."""
        response = asdict(callback.response)
        del response["cookie_name"]  # it ended with the answer to the browser
        environment = response.pop("environment")
        content = {
            "version": VERSION,
            "connection": callback.connection.name,
            "reference": callback.reference,
            "delivery_id": callback.delivery_id,
            "response": response,
            "received_at": callback.received_at.timestamp(),
            "expires_at": callback.expires_at.timestamp(),
        }
        if environment is not None:
            # A relay that does not know environments opens no such message.
            content["version"] = VERSION_OF_ENVIRONMENTS
            content["environment"] = environment
            content["url"] = callback.connection.target.url
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return self._cipher().encrypt(text.encode()).decode("ascii")

    def open(self, message: bytes) -> "Sealed":
        """Return what is in a message. Raises `Unopenable` when it is none of the relay's."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - see _cipher

        try:
            content = json.loads(self._cipher().decrypt(message))
            return Sealed(
                content["connection"],
                content["version"],
                content.get("environment"),
                content.get("reference", "-"),
                content.get("delivery_id"),
                content,
            )
        except (InvalidToken, ValueError, TypeError, KeyError):
            raise Unopenable("outbox_seal") from None

    def _cipher(self) -> "MultiFernet":
        # Imported when a callback is held, which is rare: a cold start does not wait for OpenSSL.
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

        if self._fernet is None:
            self._fernet = MultiFernet([Fernet(key) for key in self._keys])
        return self._fernet


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was in a message. The relay wrote it, so all but `content` may be logged."""

    connection: str
    version: object
    environment: str | None
    reference: str
    delivery_id: str | None
    content: Mapping[str, Any] = field(repr=False)

    def callback(self, connections: Connections) -> Callback:
        """Return the callback, for the target that it was verified for.

        It was verified before it was sealed, so its response is a `VerifiedResponse`. Raises
        `Unopenable` when the format is unknown, or its environment or the connection's own target
        is not in the settings, or an environment leads to another URL, and `UnknownConnection` or
        `Misconfigured` when its connection is not in the settings or wrong in them.
        """
        content, environment = self.content, self.environment
        if self.version not in (VERSION, VERSION_OF_ENVIRONMENTS):
            raise Unopenable("outbox_version")
        try:
            # Without a name too: the connection may have lost its own target since.
            found = connections.get(self.connection).at(environment)
        except UnknownEnvironment:
            raise Unopenable("outbox_environment") from None
        if environment is not None and found.target.url != content.get("url"):
            raise Unopenable("outbox_environment_url")
        try:
            return Callback(
                connection=found,
                response=VerifiedResponse(**content["response"], environment=environment),
                reference=content["reference"],
                delivery_id=content["delivery_id"],
                received_at=datetime.fromtimestamp(content["received_at"], UTC),
                expires_at=datetime.fromtimestamp(content["expires_at"], UTC),
            )
        except (TypeError, KeyError):
            raise Unopenable("outbox_version") from None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What an operator needs to ask the person to start again: no code, no verifier.

    A signed state would still be accepted: its `jti` and its SHA-256 stand here in place of it.
    """

    reference: str
    connection: str
    delivery_id: str
    reason: str
    attempts: int
    first: str
    last: str
    state: str = ""
    state_jti: str = ""
    state_hash: str = ""
    environment: str = ""

    @classmethod
    def of(cls, callback: Callback, reason: str, attempts: int, now: datetime) -> "DeadLetter":
        """Return the dead letter of a callback that will never be delivered."""
        signed = callback.connection.signed
        return cls(
            reference=callback.reference,
            connection=callback.connection.name,
            delivery_id=callback.delivery_id,
            reason=reason,
            attempts=attempts,
            first=iso(callback.received_at),
            last=iso(now),
            state="" if signed else callback.response.state,
            state_jti=callback.response.jti or "",
            state_hash=callback.state_hash,
            environment=callback.connection.environment or "",
        )

    def to_json(self) -> str:
        """Return the message for the dead-letter queue."""
        return json.dumps({name: value for name, value in asdict(self).items() if value != ""})
