"""The sandbox's host answers as the real Functions host does.

`data/real_host.json` has what host 4.1037 answered to 283 raw requests, with the app of
`data/real_host_app.py` and the project's host.json.
"""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from sandbox import kestrel
from sandbox.host import FunctionsHost
from sandbox.serving import Server
from sandbox.world import APP

DATA = Path(__file__).parent / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "real_host.json").read_text("utf-8"))
CUSTOM = json.loads((APP / "host.json").read_text("utf-8"))["extensions"]["http"]["customHeaders"]

DIFFERENT = {
    "answer latin": "Of an answer with a header that cannot be sent the real 500 keeps those "
    "headers that came first, in the order of a protobuf map; the sandbox keeps none. It is empty "
    "in both, and the relay's headers are ASCII.",
}
"""Names of requests that the sandbox answers otherwise, and why that does not matter."""

LONG = 3000
"""Characters of a body above which the data have only its beginning and its length."""

NOT_COMPARED = {"date", "server", "connection", "content-length", "transfer-encoding"}


class Seen(NamedTuple):
    status: int
    headers: list[list[str]]
    custom: bool
    body: object


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("app")
    shutil.copy(DATA / "real_host_app.py", folder / "function_app.py")
    shutil.copy(APP / "host.json", folder)
    host = FunctionsHost(folder, {"AzureWebJobsDisableHomepage": "true"})
    with Server(host, http=kestrel.Connection) as server:
        yield server


def written_out(text: str) -> str:
    """Write out runs such as `{a*300}`."""
    return re.sub(r"\{(.)\*(\d+)\}", lambda run: run[1] * int(run[2]), text)


def ask(server: Server, request: str) -> Seen:
    raw = written_out(request).replace("PORT", str(server.port)).encode("latin-1")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(raw)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    headers = [
        [name.lower(), value] for name, _, value in (each.partition(": ") for each in fields)
    ]
    lengths = [value for name, value in headers if name == "content-length"]
    assert lengths in ([], [str(len(body))]) or request.startswith("HEAD ")
    assert "transfer-encoding" not in {name for name, _ in headers}
    custom = {(name.lower(), value) for name, value in CUSTOM.items()}
    names = {name.lower() for name in CUSTOM}
    return Seen(
        status=int(line.split()[1]),
        headers=sorted(
            [name, value]
            for name, value in headers
            if name not in NOT_COMPARED and (name, value) not in custom
        ),
        custom=names <= {name for name, _ in headers},
        body=told(body.replace(str(server.port), "PORT")),
    )


def told(body: str) -> object:
    if len(body) > LONG:
        return f"{body[:100]}…{len(body)}"
    try:
        return json.loads(body)
    except ValueError:
        return body


def expected(case: dict[str, Any]) -> Seen:
    body = json.loads(written_out(json.dumps(case["body"])))
    return Seen(case["status"], case["headers"], case["custom"], body)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_it_answers_as_the_real_host(case: dict[str, Any], server: Server) -> None:
    seen, wanted = ask(server, case["request"]), expected(case)
    if case["name"] in DIFFERENT:
        assert seen != wanted, "it agrees: take it off the list"
    else:
        assert seen == wanted


def test_what_differs_was_recorded() -> None:
    assert DIFFERENT.keys() <= {case["name"] for case in CASES}


# What was seen beside the recording


ELSEWHERE = """

@app.function_name("elsewhere")
@app.route("{*path}", methods=["GET"])
async def elsewhere(req: func.HttpRequest) -> func.HttpResponse:
    return seen("elsewhere", req)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Ask an app with a route for everything, in a function in the middle of the alphabet."""
    folder = tmp_path_factory.mktemp("app")
    app = (DATA / "real_host_app.py").read_text("utf-8")
    (folder / "function_app.py").write_text(app + ELSEWHERE, "utf-8")
    shutil.copy(APP / "host.json", folder)
    host = FunctionsHost(folder, {"AzureWebJobsDisableHomepage": "true"})
    with (
        Server(host, http=kestrel.Connection) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("/", "elsewhere"),
        ("/nope", "elsewhere"),
        ("/done", "elsewhere"),
        ("/callback/x/y", "elsewhere"),
        ("/health", "elsewhere"),
        ("/keyed", "elsewhere"),
        ("/callback", "callback"),
        ("/callback/x", "callback"),
        ("/done/held", "done"),
        ("/authorize/x", "authorize"),
    ],
)
def test_the_first_route_that_fits_wins_by_the_functions_names(
    path: str, function: str, client: httpx.Client
) -> None:
    assert client.get(path).json()["function"] == function


def test_a_catch_all_gets_the_rest_of_the_path(client: httpx.Client) -> None:
    assert client.get("/nope/x//y").json()["route"] == {"path": "nope/x//y"}
    assert client.get("/").json()["route"] == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/host/status", 401),
        ("/admin/host/ping", 200),
        ("/runtime/webhooks/x", 401),
        ("/runtime/x", 404),
        ("//x", 404),
    ],
)
def test_the_hosts_own_addresses_are_no_functions(
    path: str, status: int, client: httpx.Client
) -> None:
    answer = client.get(f"http://localhost:{client.base_url.port}{path}")
    assert (answer.status_code, answer.content) == (status, b"")
