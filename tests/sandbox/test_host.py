"""The sandbox's Functions host keeps the promises of the real one, traps included."""

import asyncio
import json
import os
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from uuid import UUID

import azure_functions_runtime.version
import httpx
import pytest
from azure.functions.meta import Datum
from starlette.types import Message, Receive, Scope, Send

import sandbox
from sandbox import kestrel, worker
from sandbox.host import FunctionFailedError, FunctionsHost, WriteOutput
from sandbox.serving import Server
from sandbox.tls import Authority
from tests.helpers import ROOT

APP = """
import asyncio
import json
import logging
import os

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
GREETING = os.environ.get("GREETING", "nothing")
REDELIVERED = []


@app.route("echo/{connection?}", methods=["GET", "POST"])
async def echo(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    seen = {
        "method": req.method,
        "url": req.url,
        "params": dict(req.params),
        "headers": dict(req.headers),
        "route_params": dict(req.route_params),
        "body": req.get_body().decode(),
        "invocation_id": context.invocation_id,
    }
    return func.HttpResponse(json.dumps(seen), mimetype="application/json")


@app.route("greeting")
def greeting(req: func.HttpRequest) -> str:
    return GREETING


@app.route("anything/{first}/{second}", methods=["GET"])
async def anything(req: func.HttpRequest) -> str:
    return "anything"


@app.route("anything/very/particular", methods=["GET"])
async def particular(req: func.HttpRequest) -> str:
    return "particular"


@app.route("loop")
async def loop(req: func.HttpRequest) -> str:
    return type(asyncio.get_running_loop()).__module__


@app.route("broken")
async def broken(req: func.HttpRequest) -> func.HttpResponse:
    raise PermissionError("the code was s3cret")


@app.route("guarded", auth_level=func.AuthLevel.FUNCTION)
async def guarded(req: func.HttpRequest) -> str:
    return "open"


@app.route("teapot")
async def teapot(req: func.HttpRequest) -> func.HttpResponse:
    headers = {
        "Cache-Control": "max-age=1",
        "Strict-Transport-Security": "max-age=1",
        "Content-Length": "999",
    }
    return func.HttpResponse(b"short", status_code=418, headers=headers)


@app.route("empty/{status}")
async def empty(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("dropped", status_code=int(req.route_params["status"]))


@app.route("header")
async def header(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(headers={"X-Word": req.params["word"]})


@app.route("cookies", methods=["POST"])
async def cookies(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse()
    for cookie in json.loads(req.get_body()):
        response.headers.add("Set-Cookie", cookie)
    return response


@app.route("hold")
@app.queue_output(arg_name="outbox", queue_name="held", connection="AzureWebJobsStorage")
async def hold(req: func.HttpRequest, outbox: func.Out[str]) -> func.HttpResponse:
    if "message" in req.params:
        outbox.set(req.params["message"])
    return func.HttpResponse(status_code=202)


@app.queue_trigger(arg_name="message", queue_name="held", connection="AzureWebJobsStorage")
@app.queue_output(arg_name="$return", queue_name="done", connection="AzureWebJobsStorage")
async def redeliver(message: func.QueueMessage) -> str:
    body = message.get_body().decode()
    if body == "unavailable":
        raise TimeoutError(body)
    return f"{message.id} {message.dequeue_count} {body}"
"""

HOST_JSON: dict[str, Any] = {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}


class MakeHost(Protocol):
    def __call__(
        self,
        settings: Mapping[str, str] = ...,
        *,
        app: str = ...,
        write_output: WriteOutput | None = ...,
        **http: object,
    ) -> FunctionsHost: ...


@pytest.fixture(autouse=True)
def not_in_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sandbox._MARKS_OF_AZURE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """Each host gets a folder of its own; keyword arguments go to host.json's `http`."""

    def make(
        settings: Mapping[str, str] | None = None,
        *,
        app: str = APP,
        write_output: WriteOutput | None = None,
        **http: object,
    ) -> FunctionsHost:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "function_app.py").write_text(app)
        content = {"version": "2.0", "extensions": {"http": {"routePrefix": "", **http}}}
        (folder / "host.json").write_text(json.dumps(content))
        return FunctionsHost(folder, settings or {}, write_output=write_output)

    return make


@pytest.fixture
def host(make_host: MakeHost) -> FunctionsHost:
    return make_host()


def client_of(host: FunctionsHost, origin: str = "http://relay.example") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url=origin)


@pytest.fixture
def client(host: FunctionsHost) -> httpx.AsyncClient:
    return client_of(host)


@pytest.fixture
def server(host: FunctionsHost) -> Iterator[Server]:
    with Server(host, http=kestrel.Connection) as server:
        yield server


def on_the_wire(server: Server, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes as they are, give head and body of the answer. The request asks to close."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


# What reaches a function


async def test_a_function_gets_method_url_and_body(client: httpx.AsyncClient) -> None:
    seen = (await client.post("/echo?code=1", content=b"state=2")).json()
    assert seen["method"] == "POST"
    assert seen["url"] == "http://relay.example/echo?code=1"
    assert seen["body"] == "state=2"


async def test_an_invocation_id_is_a_random_uuid(client: httpx.AsyncClient) -> None:
    ids = [UUID((await client.get("/echo")).json()["invocation_id"]) for _ in range(2)]
    assert ids[0] != ids[1]
    assert {i.version for i in ids} == {4}


async def test_duplicate_query_parameters_arrive_joined_with_a_comma(
    client: httpx.AsyncClient,
) -> None:
    seen = (await client.get("/echo?code=a&state=s&code=b")).json()
    assert seen["params"] == {"code": "a,b", "state": "s"}


async def test_query_parameters_that_differ_in_case_are_one_in_its_last_spelling(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/echo?Code=a&code=b&CODE=c")).json()["params"] == {"CODE": "a,b,c"}


async def test_empty_query_parameters_never_arrive(client: httpx.AsyncClient) -> None:
    seen = (await client.get("/echo?empty=&bare&both=&both=1&&=nameless")).json()
    assert seen["params"] == {"both": "1", "": "nameless"}


@pytest.mark.parametrize(
    ("escaped", "value"),
    [
        ("a%20b+c%2Bd", "a b c+d"),
        ("%C3%A9%E2%82%AC%F0%9F%94%91", "é€🔑"),
        ("%26%3D%2561", "&=%61"),
        ("%zz%4", "%zz%4"),
        ("a=b", "a=b"),
    ],
)
async def test_query_values_are_decoded_exactly_once(
    escaped: str, value: str, server: Server
) -> None:
    request = f"GET /echo?v={escaped} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    _, body = await asyncio.to_thread(on_the_wire, server, request.encode())
    assert json.loads(body)["params"] == {"v": value}


async def test_what_is_not_utf8_stays_escaped(client: httpx.AsyncClient) -> None:
    seen = (await client.get("/echo/%FF?v=%C3%A9%C3%28%ED%B2%80")).json()
    assert seen["params"] == {"v": "é%C3(%ED%B2%80"}
    assert seen["route_params"] == {"connection": "%FF"}


async def test_the_url_has_the_raw_query_of_the_wire(server: Server) -> None:
    query = b"code=%61+b&empty=&code=%ff|'\"<>&x"
    request = b"GET /echo?%s HTTP/1.1\r\nHost: relay:81\r\nConnection: close\r\n\r\n" % query
    _, body = await asyncio.to_thread(on_the_wire, server, request)
    assert json.loads(body)["url"] == "http://relay:81/echo?" + query.decode()


async def test_the_url_has_the_path_decoded_and_escaped_anew(client: httpx.AsyncClient) -> None:
    seen = (await client.get("/%65cho/a%2fb%C3%A9%7E%20%25")).json()
    assert seen["url"] == "http://relay.example/echo/a%2fb%C3%A9~%20%25"


async def test_header_names_are_lower_case_and_duplicates_joined_with_a_comma(
    server: Server,
) -> None:
    request = b"GET /echo HTTP/1.1\r\nHOST: x\r\nX-Two: 1\r\nConnection: close\r\nx-two: 2\r\n\r\n"
    _, body = await asyncio.to_thread(on_the_wire, server, request)
    assert json.loads(body)["headers"] == {"host": "x", "x-two": "1,2", "connection": "close"}


async def test_a_chunked_body_arrives_empty(server: Server) -> None:
    async def chunks() -> Any:
        yield b"code="
        yield b"1"

    async with httpx.AsyncClient(base_url=server.url) as client:
        chunked = (await client.post("/echo", content=chunks())).json()
        after = (await client.post("/echo", content=b"code=1")).json()
    assert chunked["headers"]["transfer-encoding"] == "chunked"
    assert chunked["body"] == ""
    assert after["body"] == "code=1"


async def test_a_length_beside_chunks_does_not_count(server: Server) -> None:
    request = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    _, body = await asyncio.to_thread(on_the_wire, server, request)
    assert json.loads(body)["body"] == ""


async def test_a_client_that_leaves_within_its_body_gets_no_answer(host: FunctionsHost) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"x"), (b"content-length", b"5")]
    scope = {"type": "http", "method": "POST", "scheme": "http", "headers": headers}
    await host({**scope, "raw_path": b"/echo", "query_string": b""}, receive, send)
    assert sent == []


# Routes


async def test_a_route_parameter_is_decoded_except_for_an_escaped_slash(
    client: httpx.AsyncClient,
) -> None:
    seen = (await client.get("/echo/b%C3%A9%20n%2Fk+")).json()
    assert seen["route_params"] == {"connection": "bé n%2Fk+"}


@pytest.mark.parametrize("path", ["/echo", "/echo/"])
async def test_an_absent_optional_parameter_is_left_out(
    path: str, client: httpx.AsyncClient
) -> None:
    assert (await client.get(path)).json()["route_params"] == {}


@pytest.mark.parametrize("path", ["/ECHO/Xero", "/echo/Xero/"])
async def test_literal_segments_match_in_any_case_and_with_a_trailing_slash(
    path: str, client: httpx.AsyncClient
) -> None:
    assert (await client.get(path)).json()["route_params"] == {"connection": "Xero"}


@pytest.mark.parametrize("path", ["/ech", "/echo/a/b", "/echo//", "/xecho", "/api/echo"])
async def test_a_path_without_a_route_is_not_found(path: str, client: httpx.AsyncClient) -> None:
    response = await client.get(path)
    assert (response.status_code, response.content) == (404, b"")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS", "DELETE"])
async def test_a_wrong_method_is_not_found(method: str, client: httpx.AsyncClient) -> None:
    response = await client.request(method, "/echo")
    assert (response.status_code, response.content) == (404, b"")


async def test_a_function_without_methods_takes_any(client: httpx.AsyncClient) -> None:
    for method in ("GET", "PUT", "PATCH"):
        assert (await client.request(method, "/greeting")).text == "nothing"


async def test_routes_are_tried_by_function_name_and_literals_do_not_win(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/anything/very/particular")).text == "anything"


async def test_the_route_prefix_is_api_unless_host_json_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(APP)
    async with client_of(FunctionsHost(tmp_path, {})) as client:
        assert (await client.get("/api/greeting")).text == "nothing"
        assert (await client.get("/greeting")).status_code == 404


async def test_a_route_prefix_of_ones_own_counts(make_host: MakeHost) -> None:
    async with client_of(make_host(routePrefix="relay/v1")) as client:
        assert (await client.get("/relay/v1/greeting")).text == "nothing"


@pytest.mark.parametrize(
    "route", ["echo/{id:int}", "echo/{*rest}/b", "echo/a{b}", "/echo", "a//b", "{a?}/b", "{a=1}"]
)
def test_a_route_it_cannot_match_fails_at_the_start(route: str, make_host: MakeHost) -> None:
    with pytest.raises(ValueError, match="cannot match"):
        make_host(app=APP.replace("echo/{connection?}", route))


def test_functions_are_listed_as_indexed(host: FunctionsHost) -> None:
    by_name = {function.name: function for function in host.functions}
    assert list(by_name) == sorted(by_name)
    echo, hold, redeliver = by_name["echo"], by_name["hold"], by_name["redeliver"]
    assert (echo.trigger_type, echo.route, echo.methods, echo.auth_level) == (
        "httpTrigger",
        "echo/{connection?}",
        ("GET", "POST"),
        "anonymous",
    )
    assert by_name["guarded"].auth_level == "function"
    assert [binding["type"] for binding in hold.bindings] == ["queue", "httpTrigger", "http"]
    assert (redeliver.trigger_type, redeliver.route, redeliver.auth_level) == (
        "queueTrigger",
        None,
        None,
    )
    assert redeliver.trigger["queueName"] == "held"


# What leaves


async def test_status_body_and_length_are_the_functions(client: httpx.AsyncClient) -> None:
    response = await client.get("/teapot")
    assert (response.status_code, response.content) == (418, b"short")
    assert response.headers["content-length"] == "5"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_returned_string_is_a_plain_answer(client: httpx.AsyncClient) -> None:
    response = await client.get("/greeting")
    assert (response.status_code, response.text) == (200, "nothing")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_sends_none(status: int, server: Server) -> None:
    request = f"GET /empty/{status} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, body = await asyncio.to_thread(on_the_wire, server, request.encode())
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-length" not in head.lower()
    assert body == b""


@pytest.mark.parametrize(
    ("cookie", "written"),
    [
        ("a=b", "a=b; domain=; path="),
        (
            "__Host-a=b; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600",
            "__Host-a=b; max-age=600; domain=; path=/; secure; samesite=lax; httponly",
        ),
        (
            "a=b; SameSite=None; Domain=x.example; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "a=b; expires=Thu, 01 Jan 1970 00:00:00 GMT; domain=x.example; path=; samesite=none",
        ),
        ("a=b/c=d~e", "a=b%2Fc%3Dd~e; domain=; path="),
        ("a=; Max-Age=0; SameSite=strict", "a=; max-age=0; domain=; path=; samesite=strict"),
    ],
)
async def test_a_cookie_is_written_as_aspnet_writes_it(
    cookie: str, written: str, client: httpx.AsyncClient
) -> None:
    response = await client.post("/cookies", json=[cookie])
    assert response.headers.get_list("set-cookie") == [written]


async def test_each_cookie_has_a_header_of_its_own(client: httpx.AsyncClient) -> None:
    response = await client.post("/cookies", json=["a=1; Path=/", "b=2; Path=/"])
    assert response.headers.get_list("set-cookie") == [
        "a=1; domain=; path=/",
        "b=2; domain=; path=/",
    ]


@pytest.mark.parametrize("attribute", ["Max-Age=-1", "Max-Age=soon", "Expires=tomorrow"])
async def test_a_cookie_that_aspnet_refuses_is_a_500(
    attribute: str, client: httpx.AsyncClient
) -> None:
    response = await client.post("/cookies", json=[f"a=b; {attribute}"])
    assert (response.status_code, response.content) == (500, b"")


@pytest.mark.parametrize("word", ["caf%C3%A9", "a%00b", "a%7Fb"])
async def test_a_header_that_kestrel_refuses_is_a_500(word: str, client: httpx.AsyncClient) -> None:
    assert (await client.get("/header?word=fine+word")).headers["x-word"] == "fine word"
    response = await client.get(f"/header?word={word}")
    assert (response.status_code, response.content) == (500, b"")
    assert "x-word" not in response.headers


async def test_no_server_header_leaves(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert "server" not in (await client.get("/greeting")).headers


async def test_a_function_that_raises_is_an_empty_500_and_only_the_type_is_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/broken")
    assert (response.status_code, response.content) == (500, b"")
    [record] = [record for record in caplog.records if record.name == "sandbox.host"]
    assert record.getMessage() == "Function broken failed: PermissionError"
    assert record.exc_info is None


# host.json


@pytest.mark.parametrize(
    ("path", "status"), [("/greeting", 200), ("/nowhere", 404), ("/broken", 500), ("/admin/x", 401)]
)
async def test_custom_headers_are_on_every_answer(
    path: str, status: int, make_host: MakeHost
) -> None:
    host = make_host(customHeaders={"X-Frame-Options": "DENY"})
    async with client_of(host) as client:
        response = await client.get(path)
    assert response.status_code == status
    assert response.headers.get_list("x-frame-options") == ["DENY"]


@pytest.mark.parametrize(("disable", "status"), [("false", 200), ("True", 204)])
async def test_custom_headers_are_on_the_home_page(
    disable: str, status: int, make_host: MakeHost
) -> None:
    settings = {"AzureWebJobsDisableHomepage": disable}
    async with client_of(make_host(settings, customHeaders={"X-Robots-Tag": "none"})) as client:
        response = await client.get("/")
    assert (response.status_code, bool(response.content)) == (status, status == 200)
    assert response.headers["x-robots-tag"] == "none"


async def test_a_header_which_the_function_set_wins_over_a_custom_one(
    make_host: MakeHost,
) -> None:
    host = make_host(customHeaders={"CACHE-control": "no-store"})
    async with client_of(host) as client:
        assert (await client.get("/teapot")).headers.get_list("cache-control") == ["max-age=1"]


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"maxAge": "365.00:00:00"}, "max-age=31536000"),
        ({"maxAge": "01:02:03", "includeSubDomains": True}, "max-age=3723; includeSubDomains"),
        ({"preload": True}, "max-age=2592000; preload"),
    ],
)
async def test_hsts_is_set_for_https_and_wins_over_the_function(
    options: dict[str, object], value: str, make_host: MakeHost
) -> None:
    host = make_host(hsts={"isEnabled": True, **options})
    async with client_of(host, "https://relay.example:8443") as client:
        for path in ("/teapot", "/nowhere", "/broken"):
            response = await client.get(path)
            assert response.headers.get_list("strict-transport-security") == [value]


@pytest.mark.parametrize(
    "origin",
    ["http://relay.example", "https://localhost", "https://127.0.0.1:7071", "https://[::1]:7071"],
)
async def test_hsts_is_neither_for_http_nor_for_loopback(origin: str, make_host: MakeHost) -> None:
    async with client_of(make_host(hsts={"isEnabled": True}), origin) as client:
        assert "strict-transport-security" not in (await client.get("/greeting")).headers


async def test_hsts_is_off_unless_enabled(make_host: MakeHost) -> None:
    async with client_of(make_host(hsts={"maxAge": "1.00:00:00"}), "https://x.example") as client:
        assert "strict-transport-security" not in (await client.get("/greeting")).headers


@pytest.mark.parametrize("span", ["365", "24:00:00", "1.00:60:00", "soon"])
def test_a_wrong_hsts_time_span_fails_at_the_start(span: str, make_host: MakeHost) -> None:
    with pytest.raises(ValueError, match="maxAge"):
        make_host(hsts={"isEnabled": True, "maxAge": span})


# Keys, and the host's own pages


async def test_a_guarded_function_needs_the_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/guarded")).status_code == 401
    assert (await client.get("/guarded", headers={"x-functions-key": "no"})).status_code == 401
    assert (await client.get("/guarded", headers={"x-functions-key": "local"})).text == "open"


async def test_an_oauth_code_is_taken_for_the_key_of_a_guarded_function(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/guarded?code=SplxlOBeZQQYbYS6WxSbIA&state=xyz")
    assert (response.status_code, response.content) == (401, b"")
    assert (await client.get("/guarded?CODE=local&code=other")).text == "open"
    header = {"x-functions-key": "no"}
    assert (await client.get("/guarded?code=local", headers=header)).status_code == 401


async def test_an_anonymous_function_gets_its_code(client: httpx.AsyncClient) -> None:
    assert (await client.get("/echo?code=Splx")).json()["params"] == {"code": "Splx"}


@pytest.mark.parametrize("path", ["/admin/host/status", "/ADMIN/functions/echo"])
async def test_admin_is_closed(path: str, client: httpx.AsyncClient) -> None:
    response = await client.get(path)
    assert (response.status_code, response.content) == (401, b"")


# Limits


def get(target: str, *headers: str) -> bytes:
    lines = (f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@pytest.fixture
def guarded_server(make_host: MakeHost) -> Iterator[Server]:
    host = make_host(customHeaders={"X-Frame-Options": "DENY"})
    with Server(host, http=kestrel.Connection) as server:
        yield server


def test_a_request_line_over_8192_bytes_is_kestrels_own_414(guarded_server: Server) -> None:
    longest = "/echo?v=" + "v" * (8192 - len("GET /echo?v= HTTP/1.1\r\n"))
    head, _ = on_the_wire(guarded_server, get(longest))
    assert head.startswith(b"HTTP/1.1 200 ")
    for target in (longest + "v", longest * 8):
        head, body = on_the_wire(guarded_server, get(target))
        assert (head.startswith(b"HTTP/1.1 414 "), body) == (True, b"")
        assert b"x-frame-options" not in head


def test_headers_over_their_limits_are_kestrels_own_431(guarded_server: Server) -> None:
    head, _ = on_the_wire(guarded_server, get("/echo", "X-Long: " + "v" * 32000))
    assert head.startswith(b"HTTP/1.1 200 ")
    too_long, too_many = ["X-Long: " + "v" * 32768], [f"X-{number}: v" for number in range(100)]
    for headers in (too_long, too_many):
        head, body = on_the_wire(guarded_server, get("/echo", *headers))
        assert (head.startswith(b"HTTP/1.1 431 "), body) == (True, b"")
        assert b"x-frame-options" not in head


async def test_a_body_over_the_limit_is_a_500_and_reaches_no_function(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_host({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "10"})) as client:
        assert (await client.post("/echo", content=b"0123456789")).json()["body"] == "0123456789"
        response = await client.post("/echo", content=b"0123456789A")
    assert (response.status_code, response.content) == (500, b"")
    assert "too large" in caplog.text


# Outputs and other triggers


async def test_an_output_is_written_before_the_answer_leaves(make_host: MakeHost) -> None:
    events: list[object] = []

    async def write(binding: Mapping[str, Any], datum: Datum) -> None:
        await asyncio.sleep(0)
        events.append((binding["type"], binding["name"], binding["queueName"], datum.value))

    host = make_host(write_output=write)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_send(message: Message) -> None:
            events.append(message["type"])
            await send(message)

        await host(scope, receive, watched_send)

    transport = httpx.ASGITransport(watched)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/hold?message=sealed")).status_code == 202
    assert events == [
        ("queue", "outbox", "held", "sealed"),
        "http.response.start",
        "http.response.body",
    ]


async def test_an_output_that_is_not_set_is_not_written(host: FunctionsHost) -> None:
    async with client_of(host) as client:
        assert (await client.get("/hold")).status_code == 202


async def test_an_output_that_cannot_be_written_is_a_500(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    async def write(binding: Mapping[str, Any], datum: Datum) -> None:
        raise ConnectionError(f"{binding['name']}: {datum.value}")

    async with client_of(make_host(write_output=write)) as client:
        response = await client.get("/hold?message=sealed")
    assert (response.status_code, response.content) == (500, b"")
    assert "Function hold failed: ConnectionError while writing its output outbox" in caplog.text
    assert "sealed" not in caplog.text


async def test_an_output_without_a_writer_is_a_500(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/hold?message=sealed")).status_code == 500
    assert "nothing here writes its output outbox (queue)" in caplog.text


async def test_a_queue_function_can_be_invoked_and_its_return_value_is_an_output(
    make_host: MakeHost,
) -> None:
    written = []

    async def write(binding: Mapping[str, Any], datum: Datum) -> None:
        written.append((binding["queueName"], datum.value))

    host = make_host(write_output=write)
    metadata = {"Id": Datum("7", "string"), "DequeueCount": Datum("3", "json")}
    returned = await host.invoke("redeliver", [("message", Datum(b"sealed", "bytes"))], metadata)
    assert returned is not None
    assert returned.value == "7 3 sealed"
    assert written == [("done", "7 3 sealed")]


async def test_a_queue_function_that_raises_tells_its_trigger(host: FunctionsHost) -> None:
    with pytest.raises(FunctionFailedError):
        await host.invoke("redeliver", [("message", Datum("unavailable", "string"))], {})


# One process, several hosts


def test_settings_are_in_the_environment_only_while_the_app_is_imported(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREETING", "outside")
    before = dict(os.environ), list(sys.path), sys.modules.get("function_app")
    leaking = APP + '\nos.environ["LEFT_BEHIND"] = "1"\n'
    make_host({"GREETING": "inside", "ADDED": "1"}, app=leaking)
    assert (dict(os.environ), list(sys.path), sys.modules.get("function_app")) == before


async def test_an_app_imported_elsewhere_is_neither_used_nor_replaced(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ModuleType("function_app")
    monkeypatch.setitem(sys.modules, "function_app", elsewhere)
    assert make_host().functions
    assert sys.modules["function_app"] is elsewhere
    monkeypatch.delitem(sys.modules, "function_app")
    assert make_host().functions
    assert "function_app" not in sys.modules


async def test_each_host_imports_the_app_afresh_and_keeps_its_own(make_host: MakeHost) -> None:
    first, second = make_host({"GREETING": "first"}), make_host({"GREETING": "second"})
    async with client_of(first) as one, client_of(second) as two:
        assert (await one.get("/greeting")).text == "first"
        assert (await two.get("/greeting")).text == "second"
        assert (await one.get("/greeting")).text == "first"


async def test_two_hosts_serve_at_once_from_two_threads(make_host: MakeHost) -> None:
    hosts = {name: make_host({"GREETING": name}) for name in ("first", "second")}
    with Server(hosts["first"]) as first, Server(hosts["second"]) as second:
        async with httpx.AsyncClient() as client:

            async def ask(server: Server) -> str:
                return (await client.get(f"{server.url}/greeting")).text

            answers = await asyncio.gather(*(ask(server) for server in [first, second] * 20))
    assert answers == ["first", "second"] * 20


# The event loop

LOOP = "asyncio.windows_events" if sys.platform == "win32" else "uvloop"
"""Where the event loop of Azure's worker comes from."""


async def test_tests_run_in_the_event_loop_of_azures_worker() -> None:
    assert type(asyncio.get_running_loop()).__module__ == LOOP


def test_a_function_runs_in_the_event_loop_of_azures_worker(
    make_host: MakeHost, start: "Start"
) -> None:
    with Server(make_host()) as server:
        assert httpx.get(f"{server.url}/loop").text == LOOP
    with Server(make_host(), new_event_loop=asyncio.new_event_loop) as server:
        assert httpx.get(f"{server.url}/loop").text.startswith("asyncio.")
    _, port = start()
    assert httpx.get(f"http://127.0.0.1:{port}/loop").text == LOOP


def test_what_the_import_raises_is_raised_and_leaves_no_trace(make_host: MakeHost) -> None:
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError):
        make_host({"ADDED": "1"}, app="1 / 0")
    with pytest.raises(RuntimeError, match="cannot load the echo function"):
        make_host(app=APP.replace("echo(req: func.HttpRequest", "echo(request: func.HttpRequest"))
    assert list(sys.path) == before
    assert "ADDED" not in os.environ


def test_a_folder_without_an_app_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"function_app\.py"):
        FunctionsHost(tmp_path, {})


async def test_lifespan_is_acknowledged(host: FunctionsHost) -> None:
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent = []

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await host({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# Where it does not run


@pytest.mark.parametrize("name", sandbox._MARKS_OF_AZURE)
def test_it_refuses_to_start_inside_azure(
    name: str, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(RuntimeError, match=f"does not start inside Azure.*{name}"):
        make_host()


def test_another_version_of_the_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_functions_runtime.version, "VERSION", "1.4.0")
    with pytest.raises(ImportError, match=r"1\.3\.0 and found 1\.4\.0"):
        runpy.run_path(worker.__file__)


# As a process of its own

Start = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `python -m sandbox.host` for the app in `tmp_path`; gives process and port."""
    processes: list[subprocess.Popen[str]] = []
    ready = tmp_path / "ready"

    def run(*options: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-m", "sandbox.host", "--directory", str(tmp_path), *options]
        process = subprocess.Popen(
            [*command, "--port", "0", "--ready-file", str(ready)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, "it ended before its port was open"
            assert time.monotonic() < deadline, "its port did not open"
            time.sleep(0.02)
        return process, int(ready.read_text())

    (tmp_path / "function_app.py").write_text(APP)
    (tmp_path / "host.json").write_text(json.dumps(HOST_JSON))
    yield run
    for process in processes:
        with process:
            process.kill()


def test_as_a_process_it_reads_local_settings_under_the_environment(
    start: Start, tmp_path: Path
) -> None:
    values = {"GREETING": "from the file", "AzureWebJobsDisableHomepage": "true"}
    (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values}))
    _, port = start(GREETING="from the environment")
    assert httpx.get(f"http://127.0.0.1:{port}/greeting").text == "from the environment"
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 204


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_as_a_process_it_lists_its_functions_and_leaves_quietly(
    start: Start, number: signal.Signals
) -> None:
    process, port = start()
    assert httpx.get(f"http://127.0.0.1:{port}/greeting").text == "nothing"
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"echo: [GET,POST] http://localhost:{port}/echo/{{connection?}}\n" in output
    assert f"greeting: http://localhost:{port}/greeting\n" in output
    assert "redeliver: queueTrigger\n" in output


def test_as_a_process_it_listens_on_one_loopback_address_only(start: Start) -> None:
    _, port = start()
    with socket.socket() as elsewhere:
        elsewhere.settimeout(2)
        assert elsewhere.connect_ex(("127.0.0.2", port)) != 0


def test_as_a_process_it_takes_long_headers_that_come_in_pieces(start: Start) -> None:
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /greeting HTTP/1.1\r\nHost: x\r\nX-Long: " + b"v" * 20000)
        time.sleep(0.2)
        connection.sendall(b"v" * 10000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_as_a_process_it_serves_https_and_refuses_what_is_too_long_itself(start: Start) -> None:
    with Authority() as authority:
        certificate, key = authority.server_files()
        _, port = start("--certificate", str(certificate), "--key", str(key))
        trust: ssl.SSLContext = authority.client_context()
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust) as client:
            response = client.get("/echo")
            assert response.json()["url"] == f"https://localhost:{port}/echo"
            assert "server" not in response.headers
            assert client.get("/echo?v=" + "v" * 20000).status_code == 414
            assert client.get("/echo", headers={"x-long": "v" * 40000}).status_code == 431
