"""docs/func-start.md says what the runtime binds, and that is what the code and host.json say."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from relay.pages import SECURITY_HEADERS
from sandbox import worker
from sandbox.host import FunctionsHost
from sandbox.world import APP, World

PAGE = (APP / "docs/func-start.md").read_text("utf-8")
HOST_JSON = json.loads((APP / "host.json").read_text("utf-8"))
SETTINGS = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
BASE = "http://localhost:7071"


class Check(NamedTuple):
    """A row of the page's table."""

    command: str
    status: int
    text: str


ROW = re.compile(r"^\| `(curl\.exe [^|]*)` \| (\d{3}) \| (?:`(.*?)`)? ?\| ", re.MULTILINE)
CHECKS = [Check(command, int(status), text) for command, status, text in ROW.findall(PAGE)]


# -- what is bound ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decorated:
    """A function as its decorators in function_app.py have it."""

    name: str
    trigger: str
    route: str | None
    methods: tuple[str, ...]


def decorated() -> list[Decorated]:
    """Read the decorators as text: nothing of Azure's has touched them."""
    tree = ast.parse((APP / "function_app.py").read_text("utf-8"))
    found = []
    for node in tree.body:
        if not isinstance(node, ast.AsyncFunctionDef):
            continue
        calls = {
            call.func.attr: call
            for call in node.decorator_list
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        }
        name = ast.literal_eval(calls["function_name"].args[0])
        if route := calls.get("route"):
            [methods] = [word.value for word in route.keywords if word.arg == "methods"]
            path = ast.literal_eval(route.args[0])
            found.append(Decorated(name, "httpTrigger", path, tuple(ast.literal_eval(methods))))
        elif "timer_trigger" in calls:
            found.append(Decorated(name, "timerTrigger", None, ()))
        else:
            assert "queue_trigger" in calls
            found.append(Decorated(name, "queueTrigger", None, ()))
    return found


def test_the_runtime_binds_every_decorated_function_and_no_other() -> None:
    bound = []
    for function in worker.index(APP, SETTINGS):
        [trigger] = [each for each in function.bindings if each["type"].endswith("Trigger")]
        methods = tuple(trigger.get("methods", ()))
        bound.append(Decorated(function.name, trigger["type"], trigger.get("route"), methods))
        if trigger["type"] == "httpTrigger":
            assert trigger["authLevel"].lower() == "anonymous"
        elif trigger["type"] == "queueTrigger":
            assert trigger["connection"] in SETTINGS
    assert sorted(bound, key=str) == sorted(decorated(), key=str)


def test_the_routes_have_the_prefix_of_host_json() -> None:
    prefix = HOST_JSON["extensions"]["http"]["routePrefix"]
    assert prefix == ""
    routes = {each.name: each.route for each in decorated()}
    assert {each.name: each.route for each in FunctionsHost(APP, SETTINGS).functions} == routes


def test_queue_settings_of_host_json_reach_the_listener_under_the_names_it_knows() -> None:
    """An unknown name would be ignored in silence, and the default would send all to poison."""
    known = {
        "batchSize",
        "newBatchThreshold",
        "visibilityTimeout",
        "maxDequeueCount",
        "maxPollingInterval",
        "messageEncoding",
    }
    assert HOST_JSON["extensions"]["queues"].keys() <= known


# -- the page --------------------------------------------------------------------------------------


def test_the_listing_is_what_core_tools_prints_of_it() -> None:
    functions = FunctionsHost(APP, SETTINGS).functions
    http = [
        f"\t{each.name}: [{','.join(each.methods)}] {BASE}/{each.route}"
        for each in functions
        if each.route is not None
    ]
    others = [f"\t{each.name}: {each.trigger_type}" for each in functions if each.route is None]
    assert "```\n" + "\n\n".join(["Functions:", *http, *others]) + "\n```" in PAGE


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(browser=True) as world:
        yield world


def ask(world: World, command: str) -> httpx.Response:
    """Do what a `curl` of the table does. Only the options that the table uses are known."""
    curl, *words = shlex.split(command)
    assert curl == "curl.exe"
    request: dict[str, Any] = {"method": "GET", "headers": {"accept": "*/*"}}
    url = words.pop()
    while words:
        match words.pop(0):
            case "-i":
                pass
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                request["headers"][name] = value
            case "-d":
                request["method"] = "POST"
                request["content"] = words.pop(0)
                request["headers"]["content-type"] = "application/x-www-form-urlencoded"
            case other:
                pytest.fail(f"{other} is new")
    assert url.startswith(BASE)
    parts = urlsplit(url)
    asked = f"{world.relay_server.url}{parts.path}?{parts.query}"
    with world.client() as client:
        return client.request(url=asked, **request)


def test_every_question_of_the_table_gets_its_answer(world: World) -> None:
    assert len(CHECKS) == len(re.findall(r"^\| `curl\.exe ", PAGE, re.MULTILINE))
    for check in CHECKS:
        answer = ask(world, check.command)
        assert (check.command, answer.status_code) == (check.command, check.status)
        assert check.text in answer.text
        for name in SECURITY_HEADERS:
            assert name in answer.headers
    # The same once more was not stored twice, and nothing that was refused is there.
    assert sorted(world.dynamics.rows) == ["posted", "test"]
    assert world.dynamics.posts == 2
