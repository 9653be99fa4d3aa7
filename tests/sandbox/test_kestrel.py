"""The web server of the sandbox's host: connections, bodies, and refusals the recording lacks."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.kestrel import Connection
from sandbox.serving import Server, listen
from sandbox.tls import Authority


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what came, or, at `/deaf`, answer without reading the body."""
    request = Request(scope, receive)
    try:
        body = b"" if request.url.path == "/deaf" else await request.body()
    except ClientDisconnect:
        return
    told = {"method": request.method, "scheme": scope["scheme"], "body": body.decode()}
    told |= {
        name: request.headers[name] for name in ("x-content-length",) if name in request.headers
    }
    await Response(json.dumps(told))(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(echo) as server:
        yield server


def serve(app: ASGIApp) -> Server:
    return Server(app, http=Connection)


def exchange(server: Server, *pieces: bytes) -> list[tuple[int, str]]:
    """Send the pieces, close our half, and return status and body of each answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    answers = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (f.partition(": ") for f in fields)}
        length = int(headers.get("content-length", 0))
        answers.append((int(line.split()[1]), raw[:length].decode()))
        raw = raw[length:]
    return answers


def request(line: str, *headers: str, body: str = "") -> bytes:
    lines = "".join(f"{each}\r\n" for each in (line, *headers))
    return f"{lines}\r\n{body}".encode("latin-1")


POST = ("POST / HTTP/1.1", "Host: x")
AGAIN = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


def test_a_connection_serves_one_request_after_the_other(server: Server) -> None:
    answers = exchange(
        server,
        request(*POST, "Content-Length: 3", body="one")
        + request(*POST, CHUNKED, body="2;x=y\r\ntw\r\n1\r\no\r\n0\r\nTrailer: x\r\n\r\n")
        + request(*POST, "Content-Length: 5", body="three"),
    )
    assert [json.loads(body)["body"] for _, body in answers] == ["one", "two", "three"]


def test_a_body_that_nobody_read_is_not_taken_for_the_next_request(server: Server) -> None:
    answers = exchange(
        server,
        request("POST /deaf HTTP/1.1", "Host: x", "Content-Length: 200000", body="G" * 200_000),
        request("POST /deaf HTTP/1.1", "Host: x", CHUNKED, body="3\r\nGET\r\n0\r\n\r\n"),
        request("GET / HTTP/1.1", "Host: x"),
    )
    assert [status for status, _ in answers] == [200, 200, 200]


@pytest.mark.parametrize(
    ("line", "header", "answered"),
    [
        ("GET / HTTP/1.1", "X: y", 2),
        ("GET / HTTP/1.1", "Connection: Close", 1),
        ("GET / HTTP/1.0", "X: y", 1),
        ("GET / HTTP/1.0", "Connection: keep-alive", 2),
    ],
)
def test_the_client_says_whether_the_connection_stays(
    line: str, header: str, answered: int, server: Server
) -> None:
    once = request(line, "Host: x", header)
    assert len(exchange(server, once + once)) == answered


def test_a_client_that_waits_is_told_to_go_on_when_its_body_is_asked_for(server: Server) -> None:
    waiting = request(*POST, "Expect: 100-continue", "Content-Length: 2")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(waiting)
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert b'"body": "ok"' in connection.recv(4096)
    deaf = waiting.replace(b"POST /", b"POST /deaf")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(deaf)
        assert b"".join(iter(lambda: connection.recv(4096), b"")).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_ends_too_early_or_is_malformed_gets_no_answer(server: Server) -> None:
    for headers, body in (
        ("Content-Length: 9", "short"),
        (CHUNKED, "x\r\n" + AGAIN),
        (CHUNKED, "5\r\nab"),
    ):
        with contextlib.suppress(ConnectionError):
            assert exchange(server, request(*POST, headers, body=body)) == []
    assert exchange(server, request("GET / HTTP/1.1", "Host: x"))[0][0] == 200


async def test_a_server_that_stops_answers_what_is_under_way_and_closes_what_is_idle() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        await go_on.wait()
        await Response("done")(scope, receive, send)

    options: dict[str, Any] = {"lifespan": "off", "log_config": None, "http": Connection}
    server = uvicorn.Server(uvicorn.Config(slow, **options))
    with listen(0) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        busy, busy_writer = await asyncio.open_connection("127.0.0.1", port)
        busy_writer.write(request("GET / HTTP/1.1", "Host: x"))
        await arrived.wait()
        server.should_exit = True
        assert await idle.read() == b""
        go_on.set()
        assert (await busy.read()).endswith(b"\r\n\r\ndone")
        await serving
    for writer in (idle_writer, busy_writer):
        writer.close()


def test_it_speaks_tls() -> None:
    with Authority() as authority:
        server = Server(echo, tls=authority.server_context(), http=Connection)
        trust = authority.client_context()
        with server, httpx.Client(base_url=server.url, verify=trust) as client:
            assert client.get("/").json()["scheme"] == "https"
            assert client.post("/", content="x" * 100_000).json()["body"] == "x" * 100_000


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET / HTTP/1.1", ["Host:"], 400),
        ("GET / HTTP/1.1", ["Host: x", "Host: x"], 400),
        ("GET / HTTP/1.1", ["Host: x:y"], 400),
        ("GET / HTTP/1.1", ["Host: [::1]:443"], 200),
        ("GET / HTTP/1.1", ["Host: x", ": nameless"], 400),
        ("GET / HTTP/1.1", ["Host: x", "colonless"], 400),
        ("GET / HTTP/1.1", ["Host: x", "X: \xc3\xa9"], 200),
        ("GET / HTTP/1.1", ["Host: x", "X: \xe9"], 400),
        ("GET / HTTP/1.1", ["Host: x", "Content-Length: -1"], 400),
        ("GET / HTTP/1.1", ["Host: x", "Transfer-Encoding: chunked, gzip"], 400),
        ("GET http://x/ HTTP/1.1", ["Host: x"], 200),
        ("OPTIONS * HTTP/1.1", ["Host: x"], 200),
        ("GET x HTTP/1.1", ["Host: x"], 405),
        ("GET /a b HTTP/1.1", ["Host: x"], 400),
        ("GET /\0 HTTP/1.1", ["Host: x"], 400),
        ("GET  / HTTP/1.1", ["Host: x"], 400),
        ("G=T / HTTP/1.1", ["Host: x"], 400),
        ("GET /", ["Host: x"], 400),
        ("GET / HTTP/3.0", ["Host: x"], 505),
        ("\x16\x03\x01", [], 400),
    ],
)
def test_what_is_no_http_is_refused_with_an_empty_answer(
    line: str, headers: list[str], status: int, server: Server
) -> None:
    [(answered, body)] = exchange(server, request(line, *headers))
    assert answered == status
    assert (body == "") == (status != 200)


def test_a_line_has_to_end_in_cr_lf(server: Server) -> None:
    assert exchange(server, b"GET / HTTP/1.1\nHost: x\n\n") == [(400, "")]
    assert exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n") == [(400, "")]


def test_a_refusal_ends_the_connection(server: Server) -> None:
    bad = request("GET / HTTP/1.1", "Host: a b")
    assert exchange(server, bad + request("GET / HTTP/1.1", "Host: x")) == [(400, "")]
