"""Entra and Dynamics for the benchmarks: so lean that they are not what is measured.

The sandbox's servers check everything and sign real tokens, at a few hundred requests a second.
These answer thousands: one asyncio protocol for both, HTTP/1.1 with keep-alive over TLS. They
still refuse what the real ones would refuse of a contestant (a wrong client, no token, a row
without a code or a state), count what comes, and keep every row, so that nobody can be fast by
delivering nothing.
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, cast, override
from urllib.parse import parse_qs

from sandbox.serving import listen
from sandbox.tls import Authority

TENANT = "7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
CLIENT_ID = "5f1c7c1e-6f0a-4a53-9a41-0c1f6f2f7a10"
CLIENT_SECRET = "benchmark~secret"  # noqa: S105 - made up
LIFETIME = 3599
TOKEN_SIZE = 1_400
"""Characters of a token, about as many as Entra's for an application have."""
ROWS = "/data/OAuthCallbacks"
CLOUD = "login.microsoftonline.com"
"""The name of the real Entra, under which this one is reached through `tunnel_url`."""

Answer = tuple[int, bytes]
"""A status, and a body of JSON."""

_REASONS = {200: b"OK", 201: b"Created", 204: b"No Content"}


@dataclass
class Counts:
    """What came in: requests to each, and connections that were accepted."""

    token_requests: int = 0
    metadata_requests: int = 0
    posts: int = 0
    refused: int = 0
    entra_connections: int = 0
    dynamics_connections: int = 0


@dataclass
class Upstream:
    """Both servers, on one port each, in the running event loop. An async context manager.

    `delay` is how many seconds Entra takes for one request. `rows` are the codes by their states.
    Whoever measures calls `reset()` between two contestants; `token`
    stays good.
    """

    authority: Authority
    delay: float = 0.0
    counts: Counts = field(default_factory=Counts)
    rows: dict[str, str] = field(default_factory=dict)
    entra_url: str = ""
    dynamics_url: str = ""
    tunnel_url: str = ""
    """A proxy that takes every CONNECT to Entra, which so goes by its real name."""

    def __post_init__(self) -> None:
        self.token = secrets.token_urlsafe(TOKEN_SIZE * 3 // 4)
        self._bearer = f"Bearer {self.token}".encode()
        self._servers: list[asyncio.Server] = []
        self._open: set[_Connection] = set()

    def reset(self, delay: float = 0.0) -> None:
        """Forget what was counted and stored."""
        self.delay = delay
        self.counts = Counts()
        self.rows = {}

    async def __aenter__(self) -> Self:
        self.entra_url = await self._listen(self._entra, "entra_connections")
        self.dynamics_url = await self._listen(self._dynamics, "dynamics_connections")
        listener = listen(0)
        self._servers.append(await asyncio.start_server(self._tunnel, sock=listener))
        self.tunnel_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        await asyncio.gather(*(connection.abort() for connection in self._open))
        for server in self._servers:
            await server.wait_closed()

    async def _listen(self, respond: "Respond", counter: str) -> str:
        listener = listen(0)

        def connected() -> _Connection:
            setattr(self.counts, counter, getattr(self.counts, counter) + 1)
            return _Connection(respond, self._open)

        server = await asyncio.get_running_loop().create_server(
            connected, sock=listener, ssl=self.authority.server_context(), backlog=1024
        )
        self._servers.append(server)
        return f"https://localhost:{listener.getsockname()[1]}"

    async def _tunnel(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Carry bytes to Entra and back (RFC 9110 §9.3.6)."""
        await near.readuntil(b"\r\n\r\n")
        port = int(self.entra_url.rpartition(":")[2])
        far, forth = await asyncio.open_connection("127.0.0.1", port)
        back.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_carry(near, forth), _carry(far, back))

    def _entra(self, request: "Request") -> tuple[Answer, float]:
        if request.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            self.counts.metadata_requests += 1
            host = request.header(b"host").decode()
            return (200, json.dumps(self._metadata(host)).encode()), self.delay
        if request.path != f"/{TENANT}/oauth2/v2.0/token" or request.method != "POST":
            self.counts.refused += 1
            return (404, b"{}"), self.delay
        self.counts.token_requests += 1
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        asked = (form.get("grant_type"), form.get("client_id"), form.get("client_secret"))
        right = asked == ("client_credentials", CLIENT_ID, CLIENT_SECRET)
        if not right or form.get("scope") != f"{self.dynamics_url}/.default":
            self.counts.refused += 1
            return (401, b'{"error":"invalid_client"}'), self.delay
        answer = {
            "token_type": "Bearer",
            "expires_in": LIFETIME,
            "ext_expires_in": LIFETIME,
            "access_token": self.token,
        }
        return (200, json.dumps(answer).encode()), self.delay

    def _metadata(self, host: str) -> dict[str, object]:
        tenant = f"https://{host}/{TENANT}"
        return {
            "token_endpoint": f"{tenant}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "jwks_uri": f"{tenant}/discovery/v2.0/keys",
            "issuer": f"{tenant}/v2.0",
            "authorization_endpoint": f"{tenant}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{tenant}/oauth2/v2.0/devicecode",
            "end_session_endpoint": f"{tenant}/oauth2/v2.0/logout",
            "tenant_region_scope": "EU",
        }

    def _dynamics(self, request: "Request") -> tuple[Answer, float]:
        self.counts.posts += 1
        refusal = self._refusal(request)
        if refusal:
            self.counts.refused += 1
            return (refusal, b'{"error":{"message":"refused"}}'), 0.0
        row = json.loads(request.body)
        self.rows[row["state"]] = row["code"]
        if b"return=minimal" in request.header(b"prefer"):
            return (204, b""), 0.0
        return (201, json.dumps(row).encode()), 0.0

    def _refusal(self, request: "Request") -> int:
        """Return the status for what Dynamics would not store, or 0."""
        if request.header(b"authorization") != self._bearer:
            return 401
        if (request.method, request.path) != ("POST", ROWS):
            return 404
        try:
            row = json.loads(request.body)
        except ValueError:
            return 400
        if not isinstance(row, dict) or set(row) != {"code", "state"}:
            return 400
        return 0 if all(isinstance(value, str) and value for value in row.values()) else 400


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `head` is all of it up to the empty line, its first line left as it came."""

    method: str
    path: str
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return the value of the header with this lower-case name, or nothing."""
        return _header(self.head, name)


Respond = Callable[[Request], tuple[Answer, float]]
"""Gives the answer, and the seconds until it is sent."""


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass  # the contestant's process has ended
    finally:
        writer.transport.abort()


def _header(head: bytes, name: bytes) -> bytes:
    # Searching two spellings is cheaper than reading every line.
    for spelled in (name, name.title()):
        start = head.find(b"\r\n" + spelled + b":")
        if start >= 0:
            end = head.find(b"\r\n", start + 2)
            return head[start + len(spelled) + 3 : end if end >= 0 else None].strip()
    return b""


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: bodies with a length only, one request after the other."""

    def __init__(self, respond: Respond, opened: "set[_Connection]") -> None:
        self._respond = respond
        self._opened = opened
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._opened.add(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        self._lost.set()

    async def abort(self) -> None:
        """Close the connection, and wait until it is closed."""
        if self._transport is not None:
            self._transport.abort()
            await self._lost.wait()

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take():
            pass

    def _take(self) -> bool:
        """Answer one request, if a whole one is there."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._received[:end]
        if _header(head, b"transfer-encoding"):
            self._send((411, b'{"error":"no length"}'))
            return False
        length = int(_header(head, b"content-length") or 0)
        if len(self._received) < end + 4 + length:
            return False
        body = self._received[end + 4 : end + 4 + length]
        self._received = self._received[end + 4 + length :]
        method, target, _ = head[: head.find(b"\r\n")].decode("latin-1").split(" ")
        answer, delay = self._respond(Request(method, target.partition("?")[0], head, body))
        if delay:
            asyncio.get_running_loop().call_later(delay, self._send, answer)
        else:
            self._send(answer)
        return True

    def _send(self, answer: Answer) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        status, body = answer
        head = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Refused"))
        if status != 204:  # noqa: PLR2004 - RFC 9110 §8.6: no length with this one
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        self._transport.write(head + b"\r\n" + body)
