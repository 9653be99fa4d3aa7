"""What the sandbox's token endpoints have in common: faults, signing key, counters."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from joserfc.jwt import JWTClaimsRegistry
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from sandbox.assertions import Certificate
from sandbox.serving import Bomb, Drip, HalfBody, Hang, Reset, pause

HTML = "<!DOCTYPE html><html><head><title>Sign in to your account</title></head></html>"


class Fault(Enum):
    """Faults of a token endpoint. The two `METADATA_…` affect the metadata, others the tokens."""

    THROTTLED = auto()
    """429 with `Retry-After`."""
    SERVER_ERROR = auto()
    """500, JSON."""
    UNAVAILABLE = auto()
    """503, JSON."""
    UNAVAILABLE_HTML = auto()
    """503, an HTML page."""
    NOT_JSON = auto()
    """200, an HTML page."""
    NOT_JSON_ERROR = auto()
    """400, an HTML page."""
    HANG = auto()
    """Never answers."""
    HANG_IN_HEAD = auto()
    """Sends the head one byte at a time, without end."""
    HANG_IN_BODY = auto()
    """200, and the body one byte at a time, without end."""
    GZIP_BOMB = auto()
    """200, and 64 KB of unrequested gzip that decompress to 64 MiB."""
    RESET = auto()
    """The connection is reset."""
    HALF_BODY = auto()
    """200, and half of the JSON; the token counts as issued."""
    METADATA_DOWN = auto()
    """503 for openid-configuration and keys."""
    METADATA_HANG = auto()
    """Never answers for openid-configuration and keys."""


class RefusedError(Exception, ABC):
    """A refused token request; subclasses have the error format of their server."""

    @abstractmethod
    def answer(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        """Return the error response."""


class Faulty(ABC):
    """A server whose answers can be late, broken or missing."""

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds before each answer."""
        self.faults: deque[Fault] = deque()
        """Faults of the next token requests, one each."""
        self.mode: Fault | None = None
        """The fault of every request, while `faults` is empty."""
        self.retry_after: int | str = 1
        """`Retry-After` of `THROTTLED`: seconds or an HTTP-date."""

    @abstractmethod
    def _outage(self, fault: Fault) -> RefusedError:
        """Return this server's error for `THROTTLED`, `SERVER_ERROR` or `UNAVAILABLE`."""

    async def _serve(self, request: Request, answer: Callable[[], Response]) -> Response:
        """Apply the next fault, or answer. The request's body must have been read."""
        fault = self.faults.popleft() if self.faults else self.mode
        await pause(request.receive, self.delay)
        if fault in _FAULTY_RESPONSES:
            return _FAULTY_RESPONSES[fault]()
        try:
            if fault in _OUTAGES:
                raise self._outage(fault)
            whole = answer()
        except RefusedError as refused:
            throttled = fault is Fault.THROTTLED
            later = {"Retry-After": str(self.retry_after)} if throttled else None
            return refused.answer(request, later)
        return HalfBody(whole) if fault is Fault.HALF_BODY else whole


@cache
def _signing_key() -> RSAKey:
    """One for the process: making one takes longer than all else of an issuer."""
    return new_key()


def new_key() -> RSAKey:
    """Return a new key for tokens."""
    return RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)


class Issuer(Faulty):
    """A token endpoint with its metadata and its keys; what Entra and AD FS have in common.

    `clients` maps application ids to their secrets, `resources` are what tokens are issued for
    (both may be extended later), `lifetime` is that of a token in seconds.
    """

    ALGORITHMS: tuple[str, ...]
    """The signature algorithms that assertions may have."""

    def __init__(self, clients: Mapping[str, str], resources: Iterable[str], lifetime: int) -> None:
        super().__init__()
        self.clients = dict(clients)
        self.resources = set(resources)
        self.lifetime = lifetime
        self.certificates: dict[str, list[Certificate]] = {}
        """Certificates registered for an application id: objects, PEM or DER."""

        self.token_requests = 0
        self.metadata_requests = 0
        self.issued: list[str] = []
        """Every access token that was issued."""

        self.sign_with(_signing_key())

    def sign_with(self, key: RSAKey) -> None:
        """Sign with this key from now on, and publish it alone."""
        self._key = key
        self.public_keys = KeySet.import_key_set(KeySet([key]).as_dict())
        """The keys that verify the tokens."""

    @abstractmethod
    def verify(self, token: str, audience: str) -> dict[str, Any]:
        """Return the claims of a token that was issued here for `audience`.

        Raises `JoseError` or `ValueError` for anything else.
        """

    @abstractmethod
    def _document(self, request: Request) -> dict[str, Any]:
        """Return the metadata, or raise `RefusedError`."""

    @abstractmethod
    def _grant(self, request: Request, form: dict[str, str]) -> Response:
        """Answer a token request, or raise `RefusedError`."""

    async def _metadata(self, request: Request) -> Response:
        """OpenID Connect Discovery 1.0, section 4."""
        self.metadata_requests += 1
        return await self._publish(request, lambda: self._document(request))

    async def _keys(self, request: Request) -> Response:
        """RFC 7517, section 5; refused like the metadata."""

        def keys() -> dict[str, Any]:
            self._document(request)
            return {**self.public_keys.as_dict()}

        return await self._publish(request, keys)

    async def _publish(self, request: Request, document: Callable[[], dict[str, Any]]) -> Response:
        await pause(request.receive, self.delay)
        if self.mode is Fault.METADATA_HANG:
            return Hang()
        if self.mode is Fault.METADATA_DOWN:
            return _page(503)
        try:
            return JSONResponse(document())
        except RefusedError as refused:
            return refused.answer(request)

    async def _token(self, request: Request) -> Response:
        """RFC 6749, section 3.2."""
        self.token_requests += 1
        form = dict(parse_qsl((await request.body()).decode("ascii", "replace")))
        return await self._serve(request, lambda: self._grant(request, form))

    def _sign(self, claims: dict[str, Any]) -> str:
        """Return a token with these claims and its times, signed with the issuer's key."""
        now = int(time.time())
        life = {"iat": now, "nbf": now, "exp": now + self.lifetime}
        token = jwt.encode({"alg": "RS256", "kid": self._key.kid}, claims | life, self._key)
        self.issued.append(token)
        return token

    def _claims(self, token: str, **expected: str | None) -> dict[str, Any]:
        """Verify a token and return its claims; `None` allows any value of that claim."""
        claims = jwt.decode(token, self.public_keys, algorithms=["RS256"]).claims
        registry = JWTClaimsRegistry(exp={"essential": True})
        for name, value in expected.items():
            registry.options[name] = {"essential": True}
            if value is not None:
                registry.options[name]["value"] = value
        registry.validate(claims)
        return claims


def base_of(request: Request) -> str:
    """Return the URL that the server was reached at, without a slash at its end."""
    return str(request.base_url).removesuffix("/")


def _page(status: int) -> Response:
    return HTMLResponse(HTML, status)


_OUTAGES = (Fault.THROTTLED, Fault.SERVER_ERROR, Fault.UNAVAILABLE)

_FAULTY_RESPONSES: dict[Fault | None, Callable[[], Response]] = {
    Fault.UNAVAILABLE_HTML: lambda: _page(503),
    Fault.NOT_JSON: lambda: _page(200),
    Fault.NOT_JSON_ERROR: lambda: _page(400),
    Fault.HANG: Hang,
    Fault.HANG_IN_HEAD: lambda: Drip(body=False),
    Fault.HANG_IN_BODY: lambda: Drip(body=True),
    Fault.GZIP_BOMB: Bomb,
    Fault.RESET: Reset,
}
