"""`examine` runs the doctor inside of the host; `gauge` logs what lies in the queues."""

import asyncio
import base64
import json
import logging
import re
import secrets
import threading
import time
from collections import UserDict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.functions.meta import Datum
from cryptography.fernet import Fernet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.tools import examination
from relay.tools.doctor.finding import Finding, Verdict
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.host import FunctionsHost
from sandbox.queues import STORAGE
from sandbox.serving import Hang, Server
from sandbox.storage import MemoryQueues
from sandbox.world import APP, CLIENT_SECRET, World
from tests.outbox import OUTBOX, QUICK, eventually

NUMBERS = count(1)
CLOSED = "https://127.0.0.1:1"
SETTINGS = {
    "ENTRA_AUTHORITY": f"{CLOSED}/contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "canary-secret",
    "DYNAMICS_URL": f"{CLOSED}/data/OAuthCallbacks",
    "STATE_POLICY": "opaque",
}
ID = "0123456789abcdef"
PATIENCE = 30
"""Seconds after which a test that waits in vain fails."""


@pytest.fixture(scope="module")
def world(azurite: Azurite) -> Iterator[World]:
    with World(QUICK, storage=azurite.connection_string) as world:
        yield world


@pytest.fixture
def queues(azurite: Azurite) -> Iterator[AzureQueues]:
    with closing(AzureQueues(azurite.connection_string)) as queues:
        yield queues


def deploy(world: World, **further: str) -> str:
    """Start a further relay that looks at the first one's address; return its outbox."""
    outbox = f"outbox-{next(NUMBERS)}"
    address = urlsplit(world.relay_server.url).netloc
    world.serve(world.settings | {"OUTBOX_QUEUE": outbox, "WEBSITE_HOSTNAME": address} | further)
    return outbox


def ask(queues: AzureQueues, outbox: str, *texts: str) -> None:
    queues.create(f"{outbox}-doctor")
    for text in texts:
        queues.send(f"{outbox}-doctor", base64.b64encode(text.encode()).decode())


def reports(queues: AzureQueues, outbox: str) -> list[dict[str, Any]]:
    name = f"{outbox}-doctor-report"
    found = queues.peek(name) if name in queues.names() else []
    return [json.loads(base64.b64decode(each.text)) for each in found]


def test_the_app_examines_itself_and_reports_through_the_queue_and_the_log(
    world: World, queues: AzureQueues, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    outbox = deploy(world, ENTRA_CLIENT_SECRET="wrong~canary", OUTBOX_KEYS="")
    ask(queues, outbox, "canary", examination.Request(ID).to_json(), '{"id": 1}')
    eventually(lambda: reports(queues, outbox))
    (report,) = reports(queues, outbox)
    assert (report["id"], report["part"], report["parts"]) == (ID, 1, 1)
    found = {each["check"]: each for each in report["findings"]}
    assert found["credential"]["message"] == "the client secret is wrong (AADSTS7000215)"
    assert found["outbox"]["verdict"] == "warn"
    assert found["storage"]["verdict"] == found["health"]["verdict"] == "ok"
    assert "host.json" in found
    lines = [line for line in caplog.messages if line.startswith("doctor ")]
    expected = "doctor fail check=credential connection=default the client secret is wrong"
    assert any(line.startswith(expected) for line in lines)
    assert len([line for line in lines if " check=" in line]) == len(report["findings"])
    assert "canary" not in f"{report} {lines}"
    # What is no request is gone, and is not poison.
    eventually(lambda: queues.count(f"{outbox}-doctor") == 0)
    assert f"{outbox}-doctor-poison" not in queues.names()


def test_a_host_that_cannot_load_its_keys_is_named_with_its_next_step(
    world: World, queues: AzureQueues
) -> None:
    front = world.serve(world.settings | {"OUTBOX_QUEUE": f"outbox-{next(NUMBERS)}"})
    world.relay_host.keys_fail = True
    # The sandbox's storage has no blobs: as behind a network that lets only queues through.
    outbox = deploy(world, WEBSITE_HOSTNAME=urlsplit(front.url).netloc)
    ask(queues, outbox, examination.Request(ID).to_json())
    eventually(lambda: reports(queues, outbox))
    found = {each["check"]: each for each in reports(queues, outbox)[0]["findings"]}
    assert found["health"]["verdict"] == "fail"
    assert "cannot load its keys" in found["health"]["message"]
    assert "Blob storage" in found["health"]["fix"]


def test_the_longest_name_of_an_outbox_leaves_room_for_every_ending() -> None:
    """The host loads no function whose queue has a name of more than 63 characters."""
    for length, name in ((49, "a" * 49), (50, OUTBOX)):
        host = FunctionsHost(
            APP, SETTINGS | {"OUTBOX_QUEUE": "a" * length, STORAGE: "x"}, queues=MemoryQueues()
        )
        assert host.errors == {}
        bindings = [each for function in host.functions for each in function.bindings]
        queues = {str(each["queueName"]) for each in bindings if "queueName" in each}
        assert f"{name}-doctor-report" in queues
        assert max(map(len, queues)) <= 63


# -- requests that get no report -------------------------------------------------------------------


def run(
    body: bytes | str, environ: dict[str, str], *, one: asyncio.Lock | None = None, **options: Any
) -> list[str]:
    given: dict[str, Any] = {"dequeued": 1, "inserted": datetime.now(UTC)} | options
    text = body.encode() if isinstance(body, str) else body
    return asyncio.run(examination.run(text, environ, one or asyncio.Lock(), **given))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "canary",
        "[]",
        "null",
        "{}",
        "[" * 20_000,
        b"\xff\xfe",
        '{"id": "0123"}',
        '{"id": "0123456789ABCDEF"}',
        f'{{"id": "{ID}", "write": true}}',
        f'{{"id": "{ID}", "connection": 1}}',
        f'{{"id": "{ID}", "connection": "canary"}}',
    ],
)
def test_what_is_no_request_is_dropped(body: bytes | str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert run(body, SETTINGS) == []
    assert "no request" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"dequeued": 2}, {"inserted": datetime.now(UTC) - timedelta(minutes=11)}],
)
def test_a_request_that_comes_again_or_late_is_dropped(options: dict[str, Any]) -> None:
    assert run(examination.Request(ID).to_json(), SETTINGS, **options) == []


def test_one_connection_can_be_asked_for() -> None:
    environ = SETTINGS | {"CONNECTIONS__XERO__CODE_TTL": "60"}
    (part,) = run(examination.Request(ID, "xero").to_json(), environ)
    assert {each["connection"] for each in json.loads(part)["findings"]} == {"xero"}


# -- bounds ----------------------------------------------------------------------------------------


async def hang(_: Request) -> Response:
    return Hang()


def findings(part: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(part)["findings"]
    return found


def test_a_dynamics_that_hangs_ends_the_examination_with_what_it_has() -> None:
    hanging = Starlette(routes=[Route("/{path:path}", hang)])
    with Server(hanging) as server:
        environ = SETTINGS | {"DYNAMICS_URL": f"{server.url}/data/OAuthCallbacks"}
        environ |= {f"CONNECTIONS__C{n}__CODE_TTL": "60" for n in range(500)}
        began = time.monotonic()
        (part,) = run(examination.Request(ID).to_json(), environ, limit=6)
        assert time.monotonic() - began < PATIENCE
        last = findings(part)[-1]
        assert (last["verdict"], last["check"]) == ("skip", "doctor")
        assert "--connection" in last["fix"]
        assert any("does not answer in time" in each["message"] for each in findings(part))


class Watched(UserDict[str, str]):
    """App settings that tell when an examination begins to read them, and `held` keep it there."""

    def __init__(self, *, held: bool) -> None:
        super().__init__(SETTINGS)
        self.begun, self.free = threading.Event(), threading.Event()
        if not held:
            self.free.set()

    def __iter__(self) -> Iterator[str]:
        self.begun.set()
        self.free.wait(PATIENCE)
        return super().__iter__()


def test_two_operators_at_once_each_get_a_report_and_one_examination_runs_at_a_time() -> None:
    first, second = Watched(held=True), Watched(held=False)

    async def both() -> list[list[str]]:
        one, now = asyncio.Lock(), datetime.now(UTC)

        def ask(settings: Watched) -> asyncio.Task[list[str]]:
            body = examination.Request(secrets.token_hex(8)).to_json().encode()
            run = examination.run(body, settings, one, dequeued=1, inserted=now, limit=60)
            return asyncio.create_task(run)

        try:
            earlier = ask(first)
            assert await asyncio.to_thread(first.begun.wait, PATIENCE)
            later = ask(second)
            # Long enough for an examination that does not wait for its turn.
            assert not await asyncio.to_thread(second.begun.wait, 0.2)
        finally:
            first.free.set()
        return [await earlier, await later]

    (one,), (other,) = asyncio.run(both())
    assert second.begun.is_set()
    assert findings(one) == findings(other)
    assert len(findings(one)) > 5
    assert json.loads(one)["id"] != json.loads(other)["id"]


def test_who_has_to_wait_too_long_is_told_so() -> None:
    async def wait() -> list[str]:
        one = asyncio.Lock()
        await one.acquire()
        body = examination.Request(ID).to_json().encode()
        return await examination.run(body, SETTINGS, one, dequeued=1, inserted=None, limit=0.1)

    (part,) = asyncio.run(wait())
    (only,) = findings(part)
    assert "another examination" in only["message"]


def test_a_thousand_messages_at_once_start_one_examination_and_leave_no_poison() -> None:
    held = Watched(held=True)
    request = examination.Request(ID).to_json().encode()
    now, old = datetime.now(UTC), datetime.now(UTC) - timedelta(minutes=11)
    messages: list[tuple[bytes, int, datetime]] = [
        (request, 1, now),
        (b"canary", 1, now),
        (request, 2, now),
        (request, 1, old),
        (b'{"id": 1}', 1, now),
    ] * 200

    async def all_of_them() -> tuple[list[list[str]], int]:
        one = asyncio.Lock()
        asked = [
            examination.run(body, held, one, dequeued=times, inserted=inserted, limit=1.0)
            for body, times, inserted in messages
        ]
        # What raises becomes poison: gather would raise it here.
        told = await asyncio.gather(*asked)
        running = sum(thread.name == "doctor" for thread in threading.enumerate())
        held.free.set()
        async with asyncio.timeout(PATIENCE), one:  # its thread has ended
            return told, running

    told, running = asyncio.run(all_of_them())
    assert running == 1
    answered = [findings(parts[0])[-1] for parts in told if parts]
    assert len(answered) == 200
    assert {len(parts) for parts in told} == {0, 1}
    # The one that ran ended with what it had, the others waited as long and say so.
    assert {each["verdict"] for each in answered} == {"skip"}
    assert sum("another examination" in each["message"] for each in answered) == 199


def test_a_large_report_comes_in_parts_that_fit_a_queue_message() -> None:
    found = [Finding(Verdict.WARN, "check", "müßig " * 40, "fix", f"c{n}") for n in range(500)]
    parts = list(examination.parts(ID, found))
    assert len(parts) > 2
    assert all(len(base64.b64encode(part.encode())) < 64 * 1024 for part in parts)
    read = [json.loads(part) for part in parts]
    assert [each["part"] for each in read] == list(range(1, len(parts) + 1))
    assert {(each["id"], each["parts"]) for each in read} == {(ID, len(parts))}
    assert [Finding(**each) for part in read for each in part["findings"]] == found
    assert all(len(part.encode()) <= examination.PART for part in parts)
    assert json.loads(next(examination.parts(ID, [])))["findings"] == []


# -- the gauge -------------------------------------------------------------------------------------

LINE = re.compile(r"gauge queue=(\S+) kind=(\S+) messages=(\d+) oldest_seconds=(\d+)")


def gauge(world: World, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.INFO, "relay")
    timer = Datum(json.dumps({"IsPastDue": False}), "json")
    asyncio.run(world.relay_host.invoke("gauge", [("timer", timer)], {}))
    return [each.getMessage() for each in caplog.records if each.getMessage().startswith("gauge")]


def test_the_gauge_logs_a_line_for_each_queue_whether_it_exists_or_not(
    world: World, queues: AzureQueues, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = deploy(world)
    queues.create(f"{outbox}-dead")
    for _ in range(2):
        queues.send(f"{outbox}-dead", base64.b64encode(b"letter").decode())
    told = [LINE.fullmatch(line) for line in gauge(world, caplog)]
    assert [each and each.group(1, 2, 3) for each in told] == [
        (outbox, "outbox", "0"),
        (f"{outbox}-dead", "dead-letters", "2"),
        (f"{outbox}-poison", "poison", "0"),
    ]


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        (
            {"AzureWebJobsStorage": "AccountName=canary;AccountKey=canary"},
            "StorageUnusable reason=-",
        ),
        (
            {"AzureWebJobsStorage": "", "AzureWebJobsStorage__accountName": "canary"},
            "CredentialRefused reason=identity_missing",
        ),
    ],
)
def test_a_gauge_that_cannot_read_the_queues_says_why_without_values(
    world: World, caplog: pytest.LogCaptureFixture, storage: dict[str, str], told: str
) -> None:
    deploy(world, **storage)
    (line,) = gauge(world, caplog)
    assert line == f"gauge cannot read the queues: {told}"


def test_nothing_of_an_examination_names_a_key(world: World) -> None:
    key = Fernet.generate_key().decode()
    environ = world.settings | {"OUTBOX_KEYS": key, "AzureWebJobsStorage": ""}
    (part,) = run(examination.Request(ID).to_json(), environ)
    assert CLIENT_SECRET not in part
    assert key not in part
