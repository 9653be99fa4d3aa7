"""Connections to Dynamics, byte by byte: used again while they are good, and never mixed up."""

import asyncio
import ssl
import sys
import traceback
from collections.abc import AsyncIterator, Callable

import pytest

from relay.delivery.dynamics import IDLE, MAX_ANSWER, MAX_CONNECTIONS, DynamicsClient
from relay.errors import Unavailable, Undelivered
from relay.ports import AccessToken, Receipt
from sandbox.tls import Authority
from tests.fakes import Clock
from tests.helpers import CANARY, CODE, STATE, connection
from tests.helpers import TOKEN as BEARER
from tests.unit.scripted import Scripted, raw, scripted, scripted_elsewhere

TOKEN = AccessToken(BEARER, fresh_until=1e9, expires_at=1e9)
BODY = b'{"code":"canary-code-5f1c"}'


@pytest.fixture(params=["tls", "plain"])
async def server(request: pytest.FixtureRequest, authority: Authority) -> AsyncIterator[Scripted]:
    context = authority.server_context() if request.param == "tls" else None
    async with scripted(context) as server:
        yield server


@pytest.fixture
async def client(authority: Authority, clock: Clock) -> AsyncIterator[DynamicsClient]:
    made = DynamicsClient(authority.client_context(), clock=clock)
    yield made
    await made.aclose()


async def deliver(
    client: DynamicsClient, url: str, body: bytes = BODY, seconds: float = 20.0
) -> Receipt:
    target = connection(url=url, timeout=seconds).target
    return await client.deliver(target, TOKEN, body, reference="0" * 16, sent=(CODE, STATE))


async def refusal[E: Undelivered](
    kind: type[E], client: DynamicsClient, url: str, seconds: float = 20.0
) -> E:
    """Return the error that a delivery ends with, after a look for what it must not tell."""
    with pytest.raises(kind) as caught:
        await deliver(client, url, seconds=seconds)
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert CANARY not in told
    return caught.value


# -- connections are used again ------------------------------------------------------------------


async def test_one_connection_serves_one_post_after_the_other(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204, for_ever=True)
    for _ in range(5):
        assert (await deliver(client, server.url)).status == 204
    assert (len(server.requests), server.connections) == (5, 1)


async def test_a_post_searches_no_folder_for_modules(
    client: DynamicsClient, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(204, for_ever=True)
    await deliver(client, server.url)
    wanted: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            wanted.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    await deliver(client, server.url)
    assert wanted == []


async def test_posts_at_once_have_a_connection_each(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204, for_ever=True)
    bodies = [str(number).encode() for number in range(20)]
    await asyncio.gather(*(deliver(client, server.url, body) for body in bodies))
    assert sorted(seen.content for seen in server.requests) == sorted(bodies)
    assert server.connections <= 20


async def test_no_more_connections_are_made_than_a_front_end_likes(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204, for_ever=True)
    posts = 2 * MAX_CONNECTIONS
    await asyncio.gather(*(deliver(client, server.url) for _ in range(posts)))
    assert len(server.requests) == posts
    assert server.connections <= MAX_CONNECTIONS


async def test_an_idle_connection_is_given_up_after_a_while(
    client: DynamicsClient, server: Scripted, clock: Clock
) -> None:
    server.add(204, for_ever=True)
    await deliver(client, server.url)
    clock.seconds += IDLE - 1
    await deliver(client, server.url)
    assert server.connections == 1
    clock.seconds += IDLE + 1
    await deliver(client, server.url)
    assert server.connections == 2


async def test_connections_that_a_busier_time_left_over_are_closed(
    client: DynamicsClient, server: Scripted, clock: Clock
) -> None:
    server.add(204, for_ever=True)
    await asyncio.gather(*(deliver(client, server.url) for _ in range(10)))
    opened = server.connections
    assert opened > 1
    for _ in range(3):
        clock.seconds += IDLE / 2
        await deliver(client, server.url)
    assert server.connections == opened
    assert await server.eventually_open(1)


async def test_origins_do_not_share_connections(client: DynamicsClient, server: Scripted) -> None:
    server.add(204, for_ever=True)
    other = server.url.replace("localhost", "127.0.0.1")
    for url in (server.url, other, server.url):
        await deliver(client, url)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(200, {"connection": "close"}, b"x"), id="says-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", id="http-1.0"),
        pytest.param(raw(200, {}, b"x" * (MAX_ANSWER + 1)), id="more-than-is-read"),
        pytest.param(raw(200, {}, b"x" * 40_000), id="more-than-one-read"),
    ],
)
async def test_a_connection_that_is_not_at_its_end_or_at_its_very_end_is_closed(
    client: DynamicsClient, server: Scripted, answer: bytes
) -> None:
    server.add_raw(answer)
    server.add(204)
    assert (await deliver(client, server.url)).status == 200
    assert (await deliver(client, server.url)).status == 204
    assert server.connections == 2


# -- an answer belongs to its own request --------------------------------------------------------

REFUSAL = raw(403, {}, b"{}")
STRAY = raw(204, {})


@pytest.mark.parametrize(
    "surplus",
    [
        pytest.param(STRAY, id="an-answer"),
        pytest.param(raw(500, {}, b"smuggled"), id="a-failure"),
        pytest.param(b"HTTP/1.1 204 No", id="half-an-answer"),
        pytest.param(b"\r\n", id="an-empty-line"),
    ],
)
@pytest.mark.parametrize("pieces", ["in-one-write", "in-a-write-of-its-own", "in-records"])
async def test_bytes_behind_an_answer_are_never_the_next_ones_answer(
    client: DynamicsClient, server: Scripted, surplus: bytes, pieces: str
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        if pieces == "in-one-write":
            writer.write(REFUSAL + surplus)
        elif pieces == "in-a-write-of-its-own":
            writer.write(REFUSAL)
            await writer.drain()
            writer.write(surplus)
        else:  # TLS records that arrive together: the second one waits in a buffer of TLS
            writer.writelines([REFUSAL, surplus])
        await asyncio.sleep(30)

    server.add_raw(answer)
    server.add(503)
    await refusal(Undelivered, client, server.url)
    error = await refusal(Unavailable, client, server.url)
    assert error.dynamics_status == 503
    assert len(server.requests) == 2


@pytest.mark.parametrize("late", [STRAY, b"HTTP/1.1 204 No"], ids=["an-answer", "half-an-answer"])
@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
async def test_bytes_that_come_while_the_loop_is_busy_are_never_the_next_ones_answer(
    client: DynamicsClient, authority: Authority, late: bytes, secure: bool
) -> None:
    held: list[asyncio.StreamWriter] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        writer.write(REFUSAL)
        await asyncio.sleep(30)

    async def send_late() -> None:
        held[0].write(late)
        for _ in range(3):  # uvloop writes at the end of a turn
            await asyncio.sleep(0)

    with scripted_elsewhere(authority.server_context() if secure else None) as (server, elsewhere):
        server.add_raw(answer)
        server.add(503)
        await refusal(Undelivered, client, server.url)
        elsewhere(send_late())  # the client's loop stands still meanwhile
        error = await refusal(Unavailable, client, server.url)
        assert error.dynamics_status == 503
        assert (len(server.requests), server.connections) == (2, 2)


async def test_a_connection_that_the_server_has_closed_is_not_used_again(
    client: DynamicsClient, server: Scripted
) -> None:
    over = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw(204, {}))
        await over.wait()

    server.add_raw(answer)
    server.add(204)
    await deliver(client, server.url)
    over.set()
    assert await server.eventually_open(0)
    assert (await deliver(client, server.url)).status == 204
    assert (len(server.requests), server.connections) == (2, 2)


async def test_a_delivery_that_is_given_up_leaves_no_half_exchange_behind(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204)
    server.add_raw(lambda _: asyncio.sleep(30))
    server.add(201)
    await deliver(client, server.url)
    assert (await refusal(Unavailable, client, server.url, 0.2)).reason == "dynamics_timeout"
    assert (await deliver(client, server.url)).status == 201
    assert server.connections == 2


# -- once more on a fresh connection -------------------------------------------------------------


def silent(writer: asyncio.StreamWriter) -> None:
    """Close without a byte, as a server does whose idle time is over."""
    writer.close()


async def test_a_post_on_a_kept_connection_that_dies_silently_is_sent_once_more(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204)
    server.add_raw(silent)
    server.add(201)
    await deliver(client, server.url)
    assert await deliver(client, server.url) == Receipt(existed=False, status=201)
    assert (len(server.requests), server.connections) == (3, 2)
    assert server.requests[1] == server.requests[2]


async def test_the_first_sending_may_have_made_the_record_that_the_second_one_meets(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add(204)
    server.add_raw(silent)
    server.add(409, of={"error": {"code": "Internal_EntityWithSameKeyExists"}})
    await deliver(client, server.url)
    assert await deliver(client, server.url) == Receipt(existed=False, status=409)


async def test_a_fresh_connection_that_dies_is_not_tried_again(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add_raw(silent)
    assert (await refusal(Unavailable, client, server.url)).reason == "dynamics_connection"
    assert len(server.requests) == 1


async def test_a_second_death_is_the_last(client: DynamicsClient, server: Scripted) -> None:
    server.add(204)
    server.add_raw(silent)
    server.add_raw(silent)
    await deliver(client, server.url)
    assert (await refusal(Unavailable, client, server.url)).reason == "dynamics_connection"
    assert len(server.requests) == 3


@pytest.mark.parametrize("byte", [b"H", b"HTTP/1.1 2", b"HTTP/1.1 204 No Content\r\nx: y"])
async def test_a_kept_connection_that_dies_in_the_middle_of_an_answer_is_not_tried_again(
    client: DynamicsClient, server: Scripted, byte: bytes
) -> None:
    server.add(204)
    server.add_raw(closing(byte))
    await deliver(client, server.url)
    assert (await refusal(Unavailable, client, server.url)).reason == "dynamics_connection"
    assert len(server.requests) == 2


# -- answers -------------------------------------------------------------------------------------


def closing(answer: bytes) -> Callable[[asyncio.StreamWriter], None]:
    """Return a server's behaviour: these bytes, and the end."""

    def close(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    return close


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + raw(201, {}),
            id="behind-interim-answers",
        ),
        pytest.param(
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: z\r\n\r\n",
            id="in-chunks",
        ),
        pytest.param(
            raw(201, {"content-security-policy": "x" * 50_000}), id="with-a-head-of-50-kb"
        ),
    ],
)
async def test_an_answer_is_read_however_it_is_written(
    client: DynamicsClient, server: Scripted, answer: bytes
) -> None:
    server.add_raw(answer, for_ever=True)
    for _ in range(2):
        assert (await deliver(client, server.url)).status == 201


async def test_an_answer_that_ends_with_its_connection_is_read_to_its_end(
    client: DynamicsClient, server: Scripted
) -> None:
    exists = b'{"error":{"code":"Internal_EntityWithSameKeyExists"}}'
    server.add_raw(closing(b"HTTP/1.1 400 Bad Request\r\n\r\n" + exists))
    assert (await deliver(client, server.url)).existed


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(
            lambda writer: writer.transport.abort(), "connection", id="gone-before-an-answer"
        ),
        pytest.param(silent, "connection", id="closed-before-an-answer"),
        pytest.param(closing(b"HTTP/1.1 2"), "connection", id="half-a-status-line"),
        pytest.param(
            closing(b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\nx"),
            "connection",
            id="half-a-body",
        ),
        pytest.param(closing(b"SSH-2.0-canary\r\n\r\n"), "protocol", id="another-protocol"),
        pytest.param(
            closing(b"HTTP/1.1 201 Created\r\ncontent-length: x\r\n\r\n"),
            "protocol",
            id="no-length",
        ),
        pytest.param(
            closing(b"HTTP/1.1 201 Created\r\nx: " + b"x" * 200_000),
            "protocol",
            id="endless-headers",
        ),
    ],
)
async def test_trouble_on_the_way_is_unavailable_and_quotes_nothing(
    client: DynamicsClient,
    server: Scripted,
    trouble: Callable[[asyncio.StreamWriter], object],
    reason: str,
) -> None:
    server.add_raw(trouble)
    error = await refusal(Unavailable, client, server.url)
    assert error.dynamics_status is None
    assert error.status == 503
    assert error.reason == f"dynamics_{reason}"


async def test_a_token_that_is_no_header_is_not_sent_and_not_quoted(
    client: DynamicsClient, server: Scripted
) -> None:
    target = connection(url=server.url).target
    for value in (f"{BEARER}\r\nX: y", f"{BEARER}\x00", f"{BEARER}é"):
        token = AccessToken(value, fresh_until=1e9, expires_at=1e9)
        with pytest.raises(Unavailable) as refused:
            await client.deliver(target, token, BODY, reference="0" * 16, sent=())
        assert refused.value.reason == "dynamics_request"
        assert BEARER not in "".join(traceback.format_exception(refused.value))
    assert not server.requests


class Drip:
    """An answer that comes in pieces, without an end."""

    def __init__(self, piece: bytes, seconds: float = 0.0) -> None:
        self.piece = piece
        self.seconds = seconds
        self.given = 0

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            await asyncio.sleep(self.seconds)
            writer.write(b"%x\r\n%b\r\n" % (len(self.piece), self.piece))
            await writer.drain()
            self.given += len(self.piece)


async def test_the_time_is_for_the_attempt_as_a_whole_and_not_for_each_piece(
    client: DynamicsClient, server: Scripted
) -> None:
    server.add_raw(Drip(b"x", 0.01))
    assert (await refusal(Unavailable, client, server.url, 0.3)).reason == "dynamics_timeout"


async def test_an_answer_without_end_is_not_read_to_its_end(
    client: DynamicsClient, server: Scripted
) -> None:
    drip = Drip(b"x" * 1024)
    server.add_raw(drip)
    assert (await deliver(client, server.url)).status == 201
    buffered = 8 * 1024 * 1024  # what sockets and streams hold between the two
    assert drip.given <= MAX_ANSWER + buffered


# -- TLS and proxies -----------------------------------------------------------------------------


class Proxy:
    """A proxy that tunnels to where it was told (RFC 9110 §9.3.6), or refuses."""

    def __init__(self, port: int, *, refuses: bool = False, secret: bytes = b"") -> None:
        self.port = port
        self.refuses = refuses
        self.secret = secret
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.partition(b"\r\n")[0])
        if self.refuses or self.secret not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        there, to = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(self._pump(reader, to), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the environment name no proxy yet."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelled in (name, name.lower()):
            monkeypatch.delenv(spelled, raising=False)
    return monkeypatch


async def test_a_server_that_is_not_trusted_gets_nothing(authority: Authority) -> None:
    client = DynamicsClient(ssl.create_default_context())
    async with scripted(authority.server_context()) as server:
        assert (await refusal(Unavailable, client, server.url)).reason == "dynamics_tls"
        assert not server.requests
    await client.aclose()


async def test_a_certificate_of_another_host_is_refused(
    client: DynamicsClient, authority: Authority, environment: pytest.MonkeyPatch
) -> None:
    async with scripted(authority.server_context()) as server:
        # Through a proxy, which leads every name to the same server.
        proxy = Proxy(server.port)
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            error = await refusal(Unavailable, client, "https://other.example/x")
        assert error.reason == "dynamics_tls"
        assert not server.requests


async def test_nobody_there_and_no_such_name_are_told_alike(client: DynamicsClient) -> None:
    for url in ("https://127.0.0.1:9/x", "https://nobody.invalid/x", f"https://{'a' * 70}.x/x"):
        assert (await refusal(Unavailable, client, url)).reason == "dynamics_connect"


@pytest.mark.parametrize("refuses", [False, True], ids=["tunnels", "refuses"])
async def test_a_proxy_of_the_environment_is_used(
    client: DynamicsClient,
    authority: Authority,
    environment: pytest.MonkeyPatch,
    refuses: bool,
) -> None:
    async with scripted(authority.server_context()) as server:
        server.add(204, for_ever=True)
        proxy = Proxy(server.port, refuses=refuses)
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            url = "https://localhost:8443/x"
            if refuses:
                assert (await refusal(Unavailable, client, url)).reason == "dynamics_proxy"
            else:
                for _ in range(2):
                    assert (await deliver(client, url)).status == 204
            await client.aclose()
    assert proxy.asked == [b"CONNECT localhost:8443 HTTP/1.1"]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_a_proxy_that_wants_a_password_gets_the_one_of_its_address(
    client: DynamicsClient,
    authority: Authority,
    environment: pytest.MonkeyPatch,
    secure: bool,
) -> None:
    """An https proxy is trusted by the same CAs as everything else."""
    async with scripted(authority.server_context()) as server:
        server.add(204)
        # RFC 7617 §2: base64 of "relay:pass word".
        proxy = Proxy(server.port, secret=b"Proxy-Authorization: Basic cmVsYXk6cGFzcyB3b3Jk\r\n")
        tls = authority.server_context() if secure else None
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls) as listening:
            at = f"relay:pass%20word@localhost:{listening.sockets[0].getsockname()[1]}"
            environment.setenv("HTTPS_PROXY", f"{'https' if secure else 'http'}://{at}")
            assert (await deliver(client, "https://localhost:8443/x")).status == 204
            [seen] = server.requests
            assert seen.header("proxy-authorization") is None
            await client.aclose()


async def test_an_ipv6_address_is_not_asked_for_through_a_proxy(
    client: DynamicsClient, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    error = await refusal(Unavailable, client, "https://[2001:db8::1]:8443/x")
    assert error.reason == "dynamics_proxy_ipv6"
    assert str(error) == (
        "A proxy is not asked for an IPv6 address. Name the host in DYNAMICS_URL."
    )


@pytest.mark.parametrize(
    "address", ["http://proxy.invalid:port", "http://[proxy", "http://:1", "canary://p:1"]
)
async def test_an_address_of_a_proxy_that_is_none_is_nobody_there(
    client: DynamicsClient, environment: pytest.MonkeyPatch, address: str
) -> None:
    environment.setenv("HTTPS_PROXY", address)
    assert (await refusal(Unavailable, client, "https://a.example/x")).reason == "dynamics_connect"
