"""Dynamics: one POST, and what its answer means.

Dynamics says "exists already" with 500, sends a sign-in page with 200, and repeats in its errors
what was sent to it. So the body decides before the status, no redirect is followed, and nothing of
a body ever leaves this file: callers get a `Receipt` or an error with a fixed word.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import h11
import httpx

from relay import outgoing
from relay.connections import Target
from relay.delivery.retry_after import TRANSIENT, seconds
from relay.errors import Rejected, Unauthorized, Unavailable
from relay.ports import AccessToken, Receipt

MAX_ANSWER = 256 * 1024
"""Bytes of an answer that are read; F&O sends stack traces."""
CONNECT_TIMEOUT = 5.0
"""Seconds to open a connection; the target's own time-out bounds everything."""
IDLE = 90.0
"""Seconds for which an idle connection is kept; NAT gateways drop it after some minutes."""
MAX_CONNECTIONS = 100
"""To one origin at once. A later POST waits for a slot, as long as its time-out lets it."""

_HEADERS = {
    "Accept": "application/json",
    # A compressed body has no bounded size.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "OData-Version": "4.0",
    "OData-MaxVersion": "4.0",
    "Prefer": "return=minimal",
}

_REDIRECTS = range(300, 400)

# HTTPX parses a string anew for each request; the strings here are those of the settings.
_parsed = lru_cache(httpx.URL)


class DynamicsClient:
    """HTTP to all targets, for the life of the process and of one event loop.

    `context` is the trust for TLS. Call `pause` before `deliver`: a target that sent Retry-After
    is left alone for that long.
    """

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clock = clock
        self._origins: dict[str, _Slots] = {}
        self._closed_until: dict[str, float] = {}

    def pause(self, target: Target) -> float:
        """Return for how many seconds the target still wants to be left alone."""
        return max(0.0, self._closed_until.get(_origin(target), 0.0) - self._clock())

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        """POST one callback and read the answer.

        In: the bearer token, the JSON body, the reference for `x-ms-client-request-id`, and the
        values that the body holds, because Dynamics repeats them and they must not be taken for its
        own words. Raises `Unauthorized`, `Rejected` or `Unavailable`.
        """
        headers = {
            "Authorization": f"Bearer {token.value}",
            "x-ms-client-request-id": reference,
        }
        try:
            async with asyncio.timeout(target.timeout):
                answer = await self._slots(target.url).post(target.url, headers, body)
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable("dynamics_timeout", "Dynamics did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            # `from None`: these errors quote names, addresses and bytes.
            raise Unavailable(_fault(error), "Dynamics cannot be reached.") from None
        receipt = self._judge(target, answer, sent)
        # The first of two sendings may have created the record that the second one met.
        return replace(receipt, existed=False) if answer.repeated else receipt

    async def aclose(self) -> None:
        """Close the connections to Dynamics."""
        for slots in self._origins.values():
            await slots.aclose()

    def _slots(self, url: str) -> "_Slots":
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        slots = self._origins.get(origin)
        if slots is None:
            proxy = outgoing.proxy_of(url)
            if proxy is not None and ":" in (parts.hostname or ""):
                # httpcore writes CONNECT without the brackets that RFC 9112 §3.2.3 wants.
                raise Unavailable(
                    "dynamics_proxy_ipv6",
                    "A proxy is not asked for an IPv6 address. Name the host in DYNAMICS_URL.",
                )
            slots = self._origins[origin] = _Slots(self._context, proxy, self._clock)
        return slots

    def _judge(self, target: Target, answer: "_Answer", sent: Iterable[str]) -> Receipt:
        status = answer.status
        success = status // 100 == 2  # noqa: PLR2004 - the class of RFC 9110 §15.3
        if success and not _is_html(answer):
            return Receipt(existed=False, status=status)
        if _says_exists(answer.body, sent):
            return Receipt(existed=True, status=status)
        if status == HTTPStatus.UNAUTHORIZED:
            raise Unauthorized(
                "dynamics_401", "Dynamics does not know the relay.", dynamics_status=status
            )
        if status in TRANSIENT:
            self._close(target, answer)
        if success:
            reason = "dynamics_html"
        elif status in _REDIRECTS:
            reason = "dynamics_redirect"
        else:
            reason = f"dynamics_{status}"
        raise Rejected(reason, "Dynamics refuses the callback.", dynamics_status=status)

    def _close(self, target: Target, answer: "_Answer") -> NoReturn:
        status, retry_after = answer.status, seconds(answer.headers.get("retry-after"))
        if retry_after:
            self._closed_until[_origin(target)] = self._clock() + retry_after
        raise Unavailable(
            f"dynamics_{status}",
            "Dynamics is not available just now.",
            dynamics_status=status,
            retry_after=retry_after,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response; `body` has at most `MAX_ANSWER` bytes. `repeated`: the POST was sent twice."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    repeated: bool


class _Slots:
    """HTTP clients with one connection each, for one origin; the last one used comes first.

    HTTPX's pool looks at all of its connections for every request, so one pool for many takes time
    that grows with their number (httpcore#1035); a pool of one does not.
    """

    def __init__(
        self, context: ssl.SSLContext, proxy: str | None, clock: Callable[[], float]
    ) -> None:
        self._context = context
        self._proxy = proxy
        self._clock = clock
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[_Slot] = []

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        """POST in a slot of its own. Raises HTTPX's errors, `ValueError` for a proxy's address."""
        async with self._places:
            # The list is in the order of use.
            while self._idle and self._clock() - self._idle[0].used_at > IDLE:
                await self._idle.pop(0).aclose()
            slot = self._idle.pop() if self._idle else _Slot(self._client)
            try:
                return await slot.post(url, headers, body)
            finally:
                slot.used_at = self._clock()
                self._idle.append(slot)

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            await self._idle.pop().aclose()

    def _client(self) -> httpx.AsyncClient:
        client = outgoing.client(
            self._context,
            proxy=self._proxy,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            # Idle connections are closed above, by this module's clock.
            limits=httpx.Limits(max_connections=1, keepalive_expiry=None),
        )
        client.headers.update(_HEADERS)
        return client


class _Slot:
    """One HTTP client and its one connection, which serves one POST at a time."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._client: httpx.AsyncClient | None = None
        self._kept: _Kept | None = None
        self.used_at = 0.0

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        """POST; once more on a fresh connection if the kept one died without a byte of an answer.

        A server may close an idle connection just when a POST leaves (RFC 9112 §9.3.1). The unique
        key in Dynamics makes the repetition safe.
        """
        kept, self._kept = self._kept, None
        if kept is not None and kept.has_news:
            await self.aclose()
            kept = None
        try:
            return await self._send(url, headers, body, repeated=False)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if kept is None or not kept.is_silent:
                raise
        return await self._send(url, headers, body, repeated=True)

    async def aclose(self) -> None:
        """Close the connection; the next POST opens another one."""
        client, self._client, self._kept = self._client, None, None
        if client is not None:
            await client.aclose()

    async def _send(
        self, url: str, headers: Mapping[str, str], body: bytes, *, repeated: bool
    ) -> _Answer:
        client = self._client = self._client or self._make()
        content = bytearray()
        try:
            async with client.stream(
                "POST", _parsed(url), content=body, headers=headers
            ) as response:
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > MAX_ANSWER:
                        break
        except BaseException:
            await self.aclose()
            raise
        self._kept = _Kept.of(client, response, len(content))
        if self._kept is None:
            await self.aclose()
        return _Answer(
            response.status_code, response.headers, bytes(content[:MAX_ANSWER]), repeated
        )


class _Kept:
    """A connection after a whole answer with nothing behind it.

    HTTPX would take bytes that follow an answer for the answer to the next request, if they came
    together with it; it looks for late ones only in the socket. Its buffers are private, so this is
    the one place that depends on httpcore's inside: where they are not found, nothing is kept.
    """

    MAX_ANSWER = 32 * 1024
    """Bytes. A longer answer takes several reads, of which one can leave bytes in the buffer of the
    transport, where nothing can be seen."""

    def __init__(self, http: h11.Connection, stream: Any) -> None:  # noqa: ANN401 - of httpcore
        self._http = http
        self._stream = stream

    @classmethod
    def of(cls, client: httpx.AsyncClient, response: httpx.Response, size: int) -> Self | None:
        """Return the connection of an answer that was read, or `None` if it is not to be kept."""
        http, stream = _h11(client), response.extensions.get("network_stream")
        if http is None or stream is None or size > cls.MAX_ANSWER:
            return None
        if http.our_state is not h11.IDLE or http.trailing_data != (b"", False):
            return None
        tls = stream.get_extra_info("ssl_object")
        if tls is not None:
            try:
                tls.read(1)
            except ssl.SSLWantReadError:
                return cls(http, stream)
            except ssl.SSLError:
                pass
            return None  # data, or the end of the TLS session
        return cls(http, stream)

    @property
    def has_news(self) -> bool:
        """Tell whether the server has sent something, or closed, since the answer."""
        return bool(self._stream.get_extra_info("is_readable"))

    @property
    def is_silent(self) -> bool:
        """Tell whether a POST left on this connection and no byte of an answer came."""
        return self._http.their_state is h11.SEND_RESPONSE and not self._http.trailing_data[0]


def _h11(client: httpx.AsyncClient) -> h11.Connection | None:
    """Return h11's state of the client's one connection, through httpcore's private attributes."""
    layer: Any = getattr(client, "_transport", None)
    layer = getattr(layer, "_pool", None)
    connections = getattr(layer, "connections", None)
    layer = connections[0] if connections else None
    while layer is not None and not hasattr(layer, "_h11_state"):
        layer = getattr(layer, "_connection", None)
    return getattr(layer, "_h11_state", None)


def _fault(error: Exception) -> str:
    """Return the reason why there is no answer; the error's own text stays here."""
    if isinstance(error, httpx.ProxyError):
        return "dynamics_proxy"
    if isinstance(error, httpx.ConnectError) and outgoing.is_tls(error):
        return "dynamics_tls"
    if isinstance(error, httpx.NetworkError) and not isinstance(error, httpx.ConnectError):
        return "dynamics_connection"
    if isinstance(error, httpx.RemoteProtocolError):
        # h11 and httpcore tell a broken answer from a broken connection only by their words.
        ended = "disconnected" in str(error) or "closed connection" in str(error)
        return "dynamics_connection" if ended else "dynamics_protocol"
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return "dynamics_request"
    return "dynamics_connect"


def _origin(target: Target) -> str:
    return urlsplit(target.url).netloc


def _is_html(answer: _Answer) -> bool:
    """Tell a sign-in page, which AD FS and proxies serve with 200, from an answer of OData."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "text/html" or answer.body.lstrip()[:1] == b"<"


_EXISTS = "already exists"


def _says_exists(answer: bytes, sent: Iterable[str]) -> bool:
    """Tell whether an answer says that the record exists, in the manner of any of the targets.

    The status says nothing: for F&O it is 500, and 400 in other versions.
    """
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    match document:
        case {"error": {"code": "Internal_EntityWithSameKeyExists" | "0x80060892"}}:
            return True  # Business Central; Dataverse, for an alternate key
        case {"ExceptionType": str(kind)}:  # F&O custom service
            return kind.rpartition(".")[2] == "DuplicateKeyException"
        case {"error": {"innererror": {"type": str(kind), "message": str(message)}}}:
            return kind.endswith(".AxODataWriteException") and _write_found_it(message, sent)
    return False


def _write_found_it(message: str, sent: Iterable[str]) -> bool:
    """Tell whether F&O OData's own words, which are all it has, are "already exists"."""
    sent = tuple(value.casefold() for value in sent)
    if any(_EXISTS in value for value in sent):
        # Repeated whole, in part or rewritten, it could not be told from Dynamics' own words.
        return False
    return _EXISTS in _own_words(message, sent)


def _own_words(message: str, sent: tuple[str, ...]) -> str:
    """Cut out of Dynamics' message what it only repeats of what was sent, in lower case."""
    message = message.casefold()
    for value in sorted(sent, key=len, reverse=True):
        # A piece of the very phrase proves nothing on its own, and cutting it would hide the truth.
        if value and value not in _EXISTS:
            message = message.replace(value, "\ufffd")
    return message
