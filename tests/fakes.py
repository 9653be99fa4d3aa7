"""Stand-ins for Entra, Dynamics and a provider's keys, and tokens that are made by hand.

They answer at once, as they are told to, and keep what they were given.
"""

import asyncio
import base64
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import azure.functions as func
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.connections import ClientCredentials, Provider, Target
from relay.ports import AccessToken, Jwk, Receipt
from tests.helpers import TOKEN

CREATED = Receipt(existed=False, status=201)


@dataclass
class Entra:
    """Has one token after the other, or one trouble for ever."""

    trouble: Exception | None = None
    trouble_with_renewal: Exception | None = None
    asked: list[ClientCredentials] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def get(self, credentials: ClientCredentials, *, within: float) -> AccessToken:
        self.asked.append(credentials)
        if self.trouble is not None:
            raise self.trouble
        return AccessToken(TOKEN, fresh_until=1e9, expires_at=1e9)

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float
    ) -> AccessToken:
        self.refused.append(refused.value)
        if self.trouble_with_renewal is not None:
            raise self.trouble_with_renewal
        await self.get(credentials, within=within)
        return AccessToken(f"{TOKEN}-{len(self.refused) + 1}", fresh_until=1e9, expires_at=1e9)


@dataclass(frozen=True)
class Posted:
    """What one POST had."""

    target: Target
    token: str
    body: dict[str, str]
    reference: str
    sent: list[str]


@dataclass
class Dynamics:
    """Gives one answer for each post, and one pause for each question; the last one for ever.

    `stored`: the bodies that it has taken. It answers while `gate` is open.
    """

    answers: list[Receipt | Exception] = field(default_factory=lambda: [CREATED])
    pauses: list[float] = field(default_factory=lambda: [0.0])
    posted: list[Posted] = field(default_factory=list)
    stored: list[dict[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def pause(self, target: Target) -> float:
        return self.pauses.pop(0) if len(self.pauses) > 1 else self.pauses[0]

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        taken = json.loads(body)
        self.posted.append(Posted(target, token.value, taken, reference, list(sent)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        self.stored.append(taken)
        return answer


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Outbox(func.Out[str]):
    """The queue's output binding."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def set(self, val: str) -> None:
        self.messages.append(val)

    def get(self) -> str:
        return self.messages[-1]


@dataclass
class Keys:
    """Publishes the keys of a provider, or has one trouble for ever."""

    published: tuple[Jwk, ...] = ()
    trouble: Exception | None = None
    asked: int = 0

    async def get(self, provider: Provider, kid: str | None) -> tuple[Jwk, ...]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return self.published


# -- tokens, made without the relay's own code and without PyJWT ---------------------------------


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def compact(header: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """Return a compact JWS (RFC 7515 §7.1). A header or claims that are a text are taken raw."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    text = ".".join(b64(part.encode()) for part in parts)
    return f"{text}.{b64(sign(text.encode()))}"


def hs256(key: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.digest(key, text, "sha256")


def but(members: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Return the members with these changes; `...` leaves one out."""
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def published(private: Ed25519PrivateKey, kid: str) -> Jwk:
    """Return the public key as a provider publishes it (RFC 8037 §2)."""
    x = b64(private.public_key().public_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x}
