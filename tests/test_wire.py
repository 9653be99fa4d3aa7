"""HTTP to Dynamics: connections are used again while they are good, and never mixed up."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from relay import proxies
from relay.wire import IDLE, MAX_CONNECTIONS, Answer, Wire, WireError
from sandbox.tls import Authority
from tests.scripted import Scripted, raw, scripted

URL = "https://contoso.operations.dynamics.com/data/X"
HEADERS = (("Accept", "application/json"),)


class Clock:
    """A clock that goes when it is told to."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scripted]:
    async with scripted(monkeypatch) as server:
        yield server


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[Wire]:
    made = Wire(ssl.create_default_context(), clock=clock)
    yield made
    made.close()


async def post(client: Wire, body: bytes = b"{}", url: str = URL, limit: int = 1_000) -> Answer:
    async with asyncio.timeout(10):
        return await client.post(url, HEADERS, body, limit=limit)


# -- connections ---------------------------------------------------------------------------------


async def test_one_connection_serves_one_request_after_the_other(
    client: Wire, server: Scripted
) -> None:
    server.add(204, for_ever=True)
    for _ in range(5):
        assert (await post(client)).status == 204
    assert (len(server.requests), server.connections) == (5, 1)


async def test_requests_at_once_have_a_connection_each(client: Wire, server: Scripted) -> None:
    server.add(204, for_ever=True)
    bodies = [str(number).encode() for number in range(20)]
    await asyncio.gather(*(post(client, body) for body in bodies))
    assert sorted(seen.content for seen in server.requests) == sorted(bodies)
    assert server.connections <= 20


async def test_no_more_connections_are_made_than_a_front_end_likes(
    client: Wire, server: Scripted
) -> None:
    server.add(204, for_ever=True)
    await asyncio.gather(*(post(client) for _ in range(3 * MAX_CONNECTIONS)))
    assert len(server.requests) == 3 * MAX_CONNECTIONS
    assert server.connections <= MAX_CONNECTIONS


async def test_an_idle_connection_is_given_up_after_a_while(
    client: Wire, server: Scripted, clock: Clock
) -> None:
    server.add(204, for_ever=True)
    await post(client)
    clock.seconds += IDLE - 1
    await post(client)
    assert server.connections == 1
    clock.seconds += IDLE
    await post(client)
    assert server.connections == 2


async def test_connections_that_a_busier_time_left_over_are_closed(
    client: Wire, server: Scripted, clock: Clock
) -> None:
    server.add(204, for_ever=True)
    await asyncio.gather(*(post(client) for _ in range(10)))
    [origin] = client._origins.values()
    assert len(origin.idle) > 1
    for _ in range(3):
        clock.seconds += IDLE / 2
        await post(client)
    assert len(origin.idle) == 1


async def test_a_connection_that_the_server_has_closed_is_not_used_again(
    client: Wire, server: Scripted
) -> None:
    gone = asyncio.Event()

    async def close(writer: asyncio.StreamWriter) -> None:
        writer.write(raw(204, {}))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server.add_raw(close)
    server.add(204)
    await post(client)
    await gone.wait()
    await asyncio.sleep(0.05)  # for the news to come through the loopback
    assert (await post(client)).status == 204
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(200, {"connection": "close"}, b"x"), id="says-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", id="http-1.0"),
        pytest.param(raw(200, {}, b"x" * 5_000), id="more-than-is-read"),
    ],
)
async def test_a_connection_that_is_not_at_its_end_or_at_its_very_end_is_closed(
    client: Wire, server: Scripted, answer: bytes
) -> None:
    server.add_raw(answer)
    server.add(204)
    assert (await post(client)).status == 200
    assert (await post(client)).status == 204
    assert server.connections == 2


async def test_what_was_not_read_is_never_taken_for_the_next_answer(
    client: Wire, server: Scripted
) -> None:
    # Two answers to one request: the second one belongs to nobody.
    server.add_raw(raw(201, {}, b"one") + raw(500, {}, b"smuggled"))
    server.add(204)
    assert (await post(client)).body == b"one"
    assert (await post(client)).status == 204
    assert server.connections == 2


async def test_what_comes_unasked_while_a_connection_is_idle_ends_it(
    client: Wire, server: Scripted
) -> None:
    late: list[asyncio.StreamWriter] = []

    async def later(writer: asyncio.StreamWriter) -> None:
        late.append(writer)
        writer.write(raw(201, {}, b"one"))
        await asyncio.sleep(30)

    server.add_raw(later)
    server.add(204)
    assert (await post(client)).body == b"one"
    late[0].write(raw(500, {}, b"smuggled"))
    await late[0].drain()
    await asyncio.sleep(0.05)  # for it to come through the loopback
    assert (await post(client)).status == 204
    assert server.connections == 2


async def test_who_gives_up_leaves_no_half_exchange_behind(client: Wire, server: Scripted) -> None:
    server.add_raw(lambda _: asyncio.sleep(30))
    server.add(204)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.post(URL, HEADERS, b"{}", limit=10)
    assert (await post(client)).status == 204
    assert server.connections == 2


async def test_origins_do_not_share_connections(client: Wire, server: Scripted) -> None:
    server.add(204, for_ever=True)
    await post(client)
    await post(client, url="https://fabrikam.operations.dynamics.com/data/X")
    await post(client)
    assert server.connections == 2
    assert [seen.header("host") for seen in server.requests] == [
        "contoso.operations.dynamics.com",
        "fabrikam.operations.dynamics.com",
        "contoso.operations.dynamics.com",
    ]


# -- answers -------------------------------------------------------------------------------------


async def test_interim_answers_are_passed_over(client: Wire, server: Scripted) -> None:
    server.add_raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + raw(201, {}))
    assert (await post(client)).status == 201


async def test_a_chunked_answer_is_put_together(client: Wire, server: Scripted) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.add_raw(head + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: z\r\n\r\n", for_ever=True)
    assert (await post(client)).body == b"abc"
    assert (await post(client)).body == b"abc"
    assert server.connections == 1


async def test_an_answer_that_ends_with_its_connection_is_read_to_its_end(
    client: Wire, server: Scripted
) -> None:
    def close(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        writer.close()

    server.add_raw(close)
    assert (await post(client)).body == b"abc"


async def test_names_of_headers_are_in_lower_case(client: Wire, server: Scripted) -> None:
    server.add(503, headers={"Retry-After": "7", "X": "é".encode().decode("latin-1")})
    answer = await post(client)
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert not answer.is_success


async def test_a_long_head_is_an_answer_and_one_without_end_is_none(
    client: Wire, server: Scripted
) -> None:
    """Security policies of Dynamics alone have kilobytes; nobody's have megabytes."""

    server.add(201, headers={"content-security-policy": "x" * 2_000_000})
    with pytest.raises(WireError, match="protocol"):
        await post(client)

    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        answer = raw(201, {"content-security-policy": "x" * 50_000})
        for piece in (answer[:40_000], answer[40_000:]):
            writer.write(piece)
            for _ in range(20):  # turns of the loop in which the client reads it
                await asyncio.sleep(0)

    server.add_raw(in_pieces)
    assert (await post(client)).status == 201


def test_an_answer_does_not_print_what_it_repeats() -> None:
    answer = Answer(400, {"location": "/?code=canary"}, b"canary")
    assert "canary" not in f"{answer}{answer!r}"


async def test_no_more_is_kept_than_was_asked_for(client: Wire, server: Scripted) -> None:
    server.add(200, content=b"x" * 10_000)
    assert len((await post(client, limit=100)).body) == 100


# -- TLS and proxies, on the real network --------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with Authority() as made:
        yield made


async def serve(server: Scripted, context: ssl.SSLContext | None) -> asyncio.Server:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    return listening


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_trusted_server_is_spoken_to(authority: Authority, host: str) -> None:
    server, client = Scripted(), Wire(authority.client_context())
    server.add(204)
    async with await serve(server, authority.server_context()):
        assert (await post(client, url=f"https://{host}:{server.port}/x")).status == 204
        client.close()
        await server.stop()


async def test_a_server_that_is_not_trusted_gets_nothing(authority: Authority) -> None:
    server, client = Scripted(), Wire(ssl.create_default_context())
    async with await serve(server, authority.server_context()):
        with pytest.raises(WireError) as refused:
            await post(client, url=f"https://localhost:{server.port}/x")
    assert refused.value.reason == "tls"
    assert not server.requests


async def test_a_certificate_of_another_host_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = Scripted(), Wire(authority.client_context())
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def here(
        factory: Callable[[], asyncio.Protocol],
        host: str,
        _: int,
        *,
        ssl: ssl.SSLContext,
        **__: object,
    ) -> object:
        return await connect(factory, "127.0.0.1", server.port, ssl=ssl, server_hostname=host)

    async with await serve(server, authority.server_context()):
        monkeypatch.setattr(loop, "create_connection", here)
        with pytest.raises(WireError, match="tls"):
            await post(client, url="https://other.example/x")
    assert not server.requests


async def test_nobody_there_and_no_such_name_are_told_alike() -> None:
    client = Wire(ssl.create_default_context())
    for url in ("https://127.0.0.1:9/x", "https://nobody.invalid/x", f"https://{'a' * 70}.x/x"):
        with pytest.raises(WireError, match="connect"):
            await post(client, url=url)


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


@pytest.mark.parametrize("refuses", [False, True], ids=["tunnels", "refuses"])
async def test_a_proxy_of_the_environment_is_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    server, client = Scripted(), Wire(authority.client_context())
    server.add(204)
    async with await serve(server, authority.server_context()):
        proxy = Proxy(server.port, refuses=refuses)
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            if refuses:
                with pytest.raises(WireError, match="proxy"):
                    await post(client, url="https://localhost:8443/x")
            else:
                assert (await post(client, url="https://localhost:8443/x")).status == 204
            client.close()
        await server.stop()
    assert proxy.asked == [b"CONNECT localhost:8443 HTTP/1.1"]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_a_proxy_that_wants_a_password_gets_the_one_of_its_address(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    server, client = Scripted(), Wire(authority.client_context())
    server.add(204)
    async with await serve(server, authority.server_context()):
        # RFC 7617 §2: base64 of "relay:pass word".
        proxy = Proxy(server.port, secret=b"Proxy-Authorization: Basic cmVsYXk6cGFzcyB3b3Jk\r\n")
        tls = authority.server_context() if secure else None
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls) as listening:
            at = f"relay:pass%20word@localhost:{listening.sockets[0].getsockname()[1]}"
            monkeypatch.setenv("HTTPS_PROXY", f"{'https' if secure else 'http'}://{at}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            assert (await post(client, url="https://localhost:8443/x")).status == 204
            [seen] = server.requests
            assert seen.header("proxy-authorization") is None
            client.close()
        await server.stop()


@pytest.mark.parametrize("address", ["http://proxy.invalid:port", "http://[proxy", "http://:1"])
async def test_an_address_of_a_proxy_that_is_none_is_nobody_there(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(WireError, match="connect"):
        await post(Wire(ssl.create_default_context()), url="https://a.example/x")


@pytest.mark.parametrize(
    ("address", "port"), [("http://proxy.example", 80), ("https://proxy.example", 443)]
)
async def test_a_proxy_without_a_port_is_at_that_of_its_scheme(
    monkeypatch: pytest.MonkeyPatch, address: str, port: int
) -> None:
    asked: list[object] = []

    async def connect(_: object, host: str, port: int, **__: object) -> None:
        asked.append((host, port))
        raise OSError

    monkeypatch.setenv("HTTPS_PROXY", address)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
    with pytest.raises(WireError):
        await post(Wire(ssl.create_default_context()), url="https://a.example/x")
    assert asked == [("proxy.example", port)]


@pytest.mark.parametrize(
    ("given", "url", "expected"),
    [
        ({}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example/x", None),
        ({"ALL_PROXY": "http://p:1"}, "http://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b"}, "https://a.example/x", "http://p:1"),
    ],
)
def test_the_environments_proxies_are_read_as_other_programs_read_them(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], url: str, expected: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelled in (name, name.lower()):
            monkeypatch.delenv(spelled, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert proxies.of(url) == expected
