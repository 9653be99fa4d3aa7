"""One POST to Dynamics, and what its answer means.

The status misleads: F&O says "already exists" with 500, Business Central a lock with 409, and a
sign-in page comes with 200. So the body is read before the status, and no redirect is followed.
Errors of Dynamics repeat what was sent: callers get a `Receipt` or an error with a fixed reason,
and no text of the body.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

import h11
import httpx

from relay import outgoing
from relay.connections import Target
from relay.delivery import targets
from relay.delivery.retry_after import TRANSIENT, seconds
from relay.delivery.targets import Meaning, Refusal
from relay.delivery.throttle import Throttle
from relay.errors import ApplicationFailed, Rejected, Unauthorized, Unavailable
from relay.ports import AccessToken, Receipt

MAX_ANSWER = 256 * 1024
"""Bytes of an answer that are read; F&O sends stack traces."""
CONNECT_TIMEOUT = 5.0
"""Seconds to open a connection; `Target.timeout` bounds the whole attempt."""
IDLE = 90.0
"""Seconds that an idle connection is kept. NAT gateways drop them, Azure's after four minutes."""
MAX_CONNECTIONS = 100
"""For each origin. Further POSTs wait for a free one, within their time-out."""

_HEADERS = {
    "Accept": "application/json",
    # The size of a compressed body is not bounded.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "OData-Version": "4.0",
    "OData-MaxVersion": "4.0",
    "Prefer": "return=minimal",
}

REDIRECTS = frozenset(range(300, 400))
"""Statuses that lead elsewhere: to a page of servicing, or to the sign-in of AD FS."""

# HTTPX parses a string anew for each request; the strings here are those of the settings.
_parsed = lru_cache(httpx.URL)


class DynamicsClient:
    """The HTTP client of all targets, for the life of the process, in one event loop.

    `context` is the trust for TLS. A connection that was told to wait (Retry-After) sends nothing
    for that long: ask `pause` before a token is fetched for `deliver`.
    """

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clock = clock
        self._origins: dict[str, _Slots] = {}
        self._throttle = Throttle(clock)

    def pause(self, target: Target) -> float:
        """Return how many seconds are left of the Retry-After that its connection was told."""
        return self._throttle.pause(target)

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
        values in the body: Dynamics repeats them in its messages, which are searched for its own
        words. Raises `Unauthorized`, `Rejected` or `Unavailable`.
        """
        headers = {
            "Authorization": f"Bearer {token.value}",
            "x-ms-client-request-id": reference,
        }
        try:
            async with asyncio.timeout(target.timeout), self._throttle.turn(target):
                answer = await self._slots(target.url).post(target.url, headers, body)
                receipt = self._judge(target, token, answer, sent)
                self._throttle.reopen(target)
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable("dynamics_timeout", "Dynamics did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            # `from None`: these errors quote host names, addresses and bytes.
            raise Unavailable(_fault(error), "Dynamics cannot be reached.") from None
        # The first of the two POSTs may have created the record.
        created = answer.repeated and target.has_own_key
        return receipt._replace(existed=False) if created else receipt

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
                # httpcore sends CONNECT without the brackets that RFC 9112 §3.2.3 requires.
                raise Unavailable(
                    "dynamics_proxy_ipv6",
                    "A proxy is not asked for an IPv6 address. Name the host in DYNAMICS_URL.",
                )
            slots = self._origins[origin] = _Slots(self._context, proxy, self._clock)
        return slots

    def _judge(
        self, target: Target, token: AccessToken, answer: "_Response", sent: Iterable[str]
    ) -> Receipt:
        """Read an answer: a refusal that is not known to be final is `Unavailable`."""
        status, is_html = answer.status, _is_html(answer)
        success = status // 100 == 2  # noqa: PLR2004 - the class of RFC 9110 §15.3
        if success and not is_html:
            return Receipt(existed=False, status=status)
        known = targets.meaning_of(Refusal.of(status, answer.body, sent))
        meaning = known and known.meaning
        if meaning is Meaning.EXISTS:
            return Receipt(existed=True, status=status)
        redirect = status in REDIRECTS
        if status == HTTPStatus.UNAUTHORIZED or (redirect and _is_sign_in(answer, token)):
            raise Unauthorized(
                "dynamics_redirect" if redirect else "dynamics_401",
                "Dynamics does not know the relay.",
                dynamics_status=status,
            )
        reason = f"dynamics_{status}"
        if redirect:
            reason = "dynamics_redirect"
        elif is_html and status not in TRANSIENT:
            reason = "dynamics_html"
        elif known is not None and status not in TRANSIENT:
            reason = known.reason
        if meaning is Meaning.FAILED:
            raise ApplicationFailed(
                reason, "The application in Dynamics failed.", dynamics_status=status
            )
        # A redirect or a page: F&O in servicing, or a gateway before a target that is down.
        if status in TRANSIENT or redirect or is_html or meaning is Meaning.PASSES:
            self._close(target, answer, reason)
        raise Rejected(reason, "Dynamics refuses the callback.", dynamics_status=status)

    def _close(self, target: Target, answer: "_Response", reason: str) -> NoReturn:
        retry_after = seconds(answer.headers.get("retry-after"))
        if retry_after:
            self._throttle.close(target, retry_after)
        raise Unavailable(
            reason,
            "Dynamics is not available just now.",
            dynamics_status=answer.status,
            retry_after=retry_after,
        )


class _Response(NamedTuple):
    """A response; `body` has at most `MAX_ANSWER` bytes. `repeated`: the POST was sent twice."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    repeated: bool


class _Slots:
    """HTTP clients with one connection each, for one origin; the last one used is taken first.

    For each request HTTPX's pool walks through all of its connections (httpcore#1035), so each pool
    here has one.
    """

    def __init__(
        self, context: ssl.SSLContext, proxy: str | None, clock: Callable[[], float]
    ) -> None:
        self._context = context
        self._proxy = proxy
        self._clock = clock
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[_Slot] = []

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> _Response:
        """POST on a free connection. Raises HTTPX's errors, `ValueError` for a proxy's address."""
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

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> _Response:
        """POST; repeat it on a new connection if a reused one ends before any byte of an answer.

        A server may close an idle connection while a POST is on its way (RFC 9112 §9.3.1). The
        unique key in Dynamics makes the repetition safe.
        """
        kept, self._kept = self._kept, None
        try:
            return await self._send(url, headers, body, repeated=False)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if kept is None or not kept.is_unanswered:
                raise
        return await self._send(url, headers, body, repeated=True)

    async def aclose(self) -> None:
        """Close the connection; the next POST opens another one."""
        client, self._client, self._kept = self._client, None, None
        if client is not None:
            await client.aclose()

    async def _send(
        self, url: str, headers: Mapping[str, str], body: bytes, *, repeated: bool
    ) -> _Response:
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
        return _Response(
            response.status_code, response.headers, bytes(content[:MAX_ANSWER]), repeated
        )


class _Kept:
    """A connection that may be reused: its answer was read whole, and no byte followed.

    HTTPX looks for such bytes in the socket only, when it takes the connection again. Those that
    arrived together with the answer it would read as the answer to the next request. Its buffers
    are private, and this is the only code that reads them: if they are not found, no connection is
    reused.
    """

    MAX_ANSWER = 32 * 1024
    """Bytes. A longer answer takes several reads, and one of them can leave bytes in the buffer of
    the transport, which cannot be inspected."""

    def __init__(self, http: h11.Connection) -> None:
        self._http = http

    @classmethod
    def of(cls, client: httpx.AsyncClient, response: httpx.Response, size: int) -> Self | None:
        """Return the connection of an answer that was read, or `None` if it must not be reused."""
        http, stream = _h11(client), response.extensions.get("network_stream")
        if http is None or stream is None or size > cls.MAX_ANSWER:
            return None
        if http.trailing_data != (b"", False):
            return None
        tls = stream.get_extra_info("ssl_object")
        if tls is not None:
            try:
                tls.read(1)
            except ssl.SSLWantReadError:
                return cls(http)
            except ssl.SSLError:
                pass
            return None  # data, or the end of the TLS session
        return cls(http)

    @property
    def is_unanswered(self) -> bool:
        """Tell whether a POST was sent on it and no byte of an answer came."""
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
    """Return the reason for the log. The text of the error quotes addresses: it is not used."""
    if isinstance(error, httpx.ProxyError):
        return "dynamics_proxy"
    if isinstance(error, httpx.ConnectError) and outgoing.caused_by(error, ssl.SSLError):
        return "dynamics_tls"
    if isinstance(error, httpx.NetworkError) and not isinstance(error, httpx.ConnectError):
        return "dynamics_connection"
    if isinstance(error, httpx.RemoteProtocolError):
        # A malformed answer and a closed connection have one class: only the text differs.
        ended = "disconnected" in str(error) or "closed connection" in str(error)
        return "dynamics_connection" if ended else "dynamics_protocol"
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return "dynamics_request"
    return "dynamics_connect"


def _is_sign_in(answer: _Response, token: AccessToken) -> bool:
    """Tell whether a redirect leads to the token's authority: F&O on premises has no 401."""
    try:
        location = _host_and_port(answer.headers.get("location", ""))
    except ValueError:
        return False
    return token.authority is not None and location == _host_and_port(token.authority)


def _host_and_port(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or 443


def _is_html(answer: _Response) -> bool:
    """Tell whether an answer is a page: AD FS and proxies send sign-in pages with 200."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "text/html" or answer.body.lstrip()[:1] == b"<"
