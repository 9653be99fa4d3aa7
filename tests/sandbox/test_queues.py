"""The sandbox's host serves queues as the real one does: attempts, poison, traps included."""

import asyncio
import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from azure.functions.meta import Datum
from starlette.types import Message as Event

import sandbox
from sandbox import queue_listener
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite, unavailable
from sandbox.host import FunctionsHost
from sandbox.queue_listener import Backoff, Listener, Options
from sandbox.serving import Server
from sandbox.storage import (
    LIFE,
    MAX_TEXT,
    MemoryQueues,
    MessageLost,
    QueueMissing,
    Queues,
    StorageError,
)
from sandbox.world import World
from tests.helpers import ROOT

NUMBERS = count(1)

APP = """
import asyncio
from typing import List

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route("text")
@app.queue_output(arg_name="out", queue_name="%INBOX%", connection="AzureWebJobsStorage")
async def text(req: func.HttpRequest, out: func.Out[str]) -> func.HttpResponse:
    out.set(req.get_body().decode())
    return func.HttpResponse(status_code=202)


@app.route("binary")
@app.queue_output(arg_name="out", queue_name="%INBOX%", connection="AzureWebJobsStorage")
async def binary(req: func.HttpRequest, out: func.Out[bytes]) -> func.HttpResponse:
    out.set(req.get_body())
    return func.HttpResponse(status_code=202)


@app.route("several")
@app.queue_output(arg_name="out", queue_name="%INBOX%", connection="AzureWebJobsStorage")
async def several(req: func.HttpRequest, out: func.Out[List[str]]) -> func.HttpResponse:
    out.set(req.get_body().decode().split())
    return func.HttpResponse(status_code=202)


@app.queue_trigger(arg_name="message", queue_name="%INBOX%", connection="AzureWebJobsStorage")
@app.queue_output(arg_name="$return", queue_name="%INBOX%-done", connection="AzureWebJobsStorage")
async def work(message: func.QueueMessage) -> bytes:
    body = message.get_body().decode()
    if body == "fail":
        raise TimeoutError(body)
    if body == "hang":
        await asyncio.sleep(60)
    times = (message.insertion_time, message.expiration_time, message.time_next_visible)
    seen = [message.id, body, message.dequeue_count, message.pop_receipt]
    return " ".join(map(str, [*seen, *(time.timestamp() for time in times)])).encode()
"""


class MakeHost(Protocol):
    def __call__(
        self,
        settings: Mapping[str, str] = ...,
        *,
        lease: int = ...,
        app: str = ...,
        **queue: object,
    ) -> FunctionsHost: ...


@pytest.fixture(autouse=True)
def not_in_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sandbox._MARKS_OF_AZURE:
        monkeypatch.delenv(name, raising=False)


def need_azurite() -> None:
    if reason := unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


both = pytest.mark.parametrize("queues", ["memory", "azurite"], indirect=True)
"""Where a test is about the queues: what the host does it does to either."""


@pytest.fixture
def queues(request: pytest.FixtureRequest) -> Iterator[Queues]:
    """Queues in memory, or as the test says."""
    queues: Queues = MemoryQueues()
    if getattr(request, "param", "memory") == "azurite":
        azurite: Azurite = request.getfixturevalue("azurite")
        queues = AzureQueues(azurite.connection_string)
    yield queues
    queues.close()


@pytest.fixture
def inbox() -> str:
    """Every test has a queue of its own; nobody has created it yet."""
    return f"inbox-{next(NUMBERS)}"


@pytest.fixture
def make_host(queues: Queues, inbox: str, tmp_path: Path) -> MakeHost:
    """Keyword arguments go to host.json's `queues`; polling is quick unless they say otherwise."""

    def make(
        settings: Mapping[str, str] | None = None,
        *,
        lease: int = 60,
        app: str = APP,
        **section: object,
    ) -> FunctionsHost:
        given = {"AzureWebJobsStorage": "any", "INBOX": inbox, **(settings or {})}
        section = {"maxPollingInterval": "00:00:00.2", **section}
        extensions = {"http": {"routePrefix": ""}, "queues": section}
        (tmp_path / "function_app.py").write_text(app)
        (tmp_path / "host.json").write_text(json.dumps({"extensions": extensions}))
        return FunctionsHost(tmp_path, given, queues=queues, lease=lease)

    return make


def client_of(host: FunctionsHost) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://relay.example")


@asynccontextmanager
async def started(host: FunctionsHost) -> AsyncIterator[None]:
    """Start the host and stop it as a server does."""
    to_host: asyncio.Queue[Event] = asyncio.Queue()
    from_host: asyncio.Queue[Event] = asyncio.Queue()
    task = asyncio.create_task(host({"type": "lifespan"}, to_host.get, from_host.put))
    await to_host.put({"type": "lifespan.startup"})
    assert await from_host.get() == {"type": "lifespan.startup.complete"}
    yield
    await to_host.put({"type": "lifespan.shutdown"})
    assert await from_host.get() == {"type": "lifespan.shutdown.complete"}
    await task


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[None]:
    task = asyncio.create_task(listener.listen())
    yield
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


def base64_of(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def options(**section: object) -> Options:
    return Options.read({"maxPollingInterval": "00:00:00.2", **section})


def fill(queues: Queues, queue: str, *texts: str) -> None:
    queues.create(queue)
    for text in texts:
        queues.send(queue, text)


def texts(queues: Queues, queue: str) -> list[str]:
    """What lies visibly in the queue, as it stands there; nothing if there is no such queue."""
    try:
        return [message.text for message in queues.peek(queue)]
    except QueueMissing:
        return []


class Work:
    """A function: notes its calls, and fails, waits or returns as told."""

    def __init__(self, outcome: Callable[[str, int], bool] = lambda _body, _attempt: True) -> None:
        self.calls: list[tuple[str, int]] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._outcome = outcome

    async def __call__(self, body: str, metadata: Mapping[str, Datum]) -> bool:
        self.calls.append((body, json.loads(metadata["DequeueCount"].value)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return self._outcome(*self.calls[-1])


def listener_of(
    queues: Queues, queue: str, work: Work, *, lease: int = 60, **section: object
) -> Listener:
    return Listener(queues, queue, work, options(**section), lease=lease, on_write=lambda _: None)


# Storage


@both
def test_a_queue_is_created_once_and_a_missing_one_is_told(queues: Queues, inbox: str) -> None:
    with pytest.raises(QueueMissing):
        queues.send(inbox, "text")
    with pytest.raises(QueueMissing):
        queues.receive(inbox, 1, 1)
    queues.create(inbox)
    queues.send(inbox, "<text> & é")
    queues.create(inbox)
    assert inbox in queues.names()
    assert texts(queues, inbox) == ["<text> & é"]


@both
def test_a_received_message_is_hidden_counted_and_shows_again(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, "text")
    (first,) = queues.receive(inbox, 1, 1)
    assert (queues.receive(inbox, 1, 1), queues.peek(inbox), queues.count(inbox)) == ([], [], 1)
    time.sleep(1.1)
    (second,) = queues.receive(inbox, 1, 1)
    assert (first.dequeue_count, second.dequeue_count) == (1, 2)
    assert (first.message_id, first.text) == (second.message_id, second.text)
    assert first.pop_receipt != second.pop_receipt


@both
def test_a_message_can_be_shown_at_once_and_its_old_receipt_is_void(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, "text")
    (message,) = queues.receive(inbox, 1, 60)
    renewed = queues.hide(inbox, message, 60)
    with pytest.raises(MessageLost):
        queues.delete(inbox, message)
    with pytest.raises(MessageLost):
        queues.hide(inbox, message, 60)
    queues.hide(inbox, renewed, 0)
    assert texts(queues, inbox) == ["text"]


@both
def test_a_deleted_message_is_gone(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, "text")
    (message,) = queues.receive(inbox, 1, 60)
    queues.delete(inbox, message)
    assert queues.count(inbox) == 0
    with pytest.raises(MessageLost):
        queues.delete(inbox, message)


@both
def test_64_kib_fit_into_a_message_and_no_byte_more(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, "x" * MAX_TEXT)
    with pytest.raises(StorageError, match="RequestBodyTooLarge"):
        queues.send(inbox, "x" * MAX_TEXT + "x")
    assert queues.count(inbox) == 1


@both
def test_messages_come_in_order_and_at_most_32_at_once(queues: Queues, inbox: str) -> None:
    sent = [str(number) for number in range(40)]
    fill(queues, inbox, *sent)
    assert [message.text for message in queues.receive(inbox, 40, 60)] == sent[:32]
    assert texts(queues, inbox) == sent[32:]
    assert queues.count(inbox) == 40


@both
def test_no_message_is_received_twice_from_two_threads(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, *(str(number) for number in range(20)))
    with ThreadPoolExecutor(4) as pool:
        batches = pool.map(lambda _: queues.receive(inbox, 5, 60), range(6))
        received = [message.text for batch in batches for message in batch]
    assert sorted(received, key=int) == [str(number) for number in range(20)]


@both
def test_a_message_tells_its_times_in_whole_seconds(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, "text")
    now = datetime.now(UTC)
    (looked_at,) = queues.peek(inbox)
    (message,) = queues.receive(inbox, 1, 60)
    assert (looked_at.next_visible, looked_at.pop_receipt) == (None, "")
    assert abs(message.inserted - now) < timedelta(seconds=3)
    assert message.expires - message.inserted == LIFE
    assert message.next_visible is not None
    assert abs(message.next_visible - now - timedelta(seconds=60)) < timedelta(seconds=3)
    assert message.inserted.microsecond == message.next_visible.microsecond == 0


def test_in_memory_the_clock_is_the_tests() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    queues = MemoryQueues(now=lambda: now)
    fill(queues, "inbox", "text")
    queues.receive("inbox", 1, 600)
    now += timedelta(seconds=599)
    assert queues.peek("inbox") == []
    assert [message.dequeue_count for message in queues.everything("inbox")] == [1]
    now += timedelta(seconds=1)
    assert texts(queues, "inbox") == ["text"]
    now += LIFE
    assert queues.count("inbox") == 0


def test_in_memory_any_operation_can_be_made_to_fail() -> None:
    queues = MemoryQueues()
    queues.create("inbox")
    queues.failing.add("send")
    with pytest.raises(StorageError):
        queues.send("inbox", "text")
    queues.failing.clear()
    queues.send("inbox", "text")
    assert queues.count("inbox") == 1


@pytest.mark.parametrize(
    "connection", ["", "nonsense", "AccountName=real;AccountKey=a2V5;EndpointSuffix=example.com"]
)
def test_a_storage_that_is_not_on_this_machine_is_refused(connection: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AzureQueues(connection)


def test_a_storage_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    queues = AzureQueues(Azurite(tmp_path, port=port).connection_string)
    try:
        assert not queues.answers()
        with pytest.raises(StorageError, match="cannot be reached"):
            queues.send("inbox", "text")
    finally:
        queues.close()


# What functions put out


async def test_a_text_stands_in_the_queue_as_base64_and_creates_the_queue(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/text", content="é sealed")).status_code == 202
    assert texts(queues, inbox) == [base64_of("é sealed")]


async def test_bytes_arrive_as_they_are(make_host: MakeHost, queues: Queues, inbox: str) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/binary", content=b"[\xff\x00]")).status_code == 202
    assert texts(queues, inbox) == [base64_of(b"[\xff\x00]")]


async def test_message_encoding_none_leaves_the_text_alone(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    async with client_of(make_host(messageEncoding="none")) as client:
        assert (await client.post("/text", content="é sealed")).status_code == 202
        assert (await client.post("/binary", content=b"\xff")).status_code == 500
    assert texts(queues, inbox) == ["é sealed"]


async def test_a_list_is_several_messages(make_host: MakeHost, queues: Queues, inbox: str) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/several", content="one two three")).status_code == 202
    assert texts(queues, inbox) == [base64_of(text) for text in ("one", "two", "three")]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ('["a", {"b": "é"}]', ["a", '{\n  "b": "é"\n}']),
        ('{"a":1,"b":[]}', ['{\n  "a": 1,\n  "b": []\n}']),
        (' "quoted" ', [' "quoted" ']),
        ("[]", []),
    ],
)
async def test_a_text_that_looks_like_json_is_split_and_laid_out_anew(
    text: str, messages: list[str], make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/text", content=text)).status_code == 202
    assert texts(queues, inbox) == [base64_of(message) for message in messages]


async def test_a_text_that_only_looks_like_json_is_a_500(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/text", content="{sealed}")).status_code == 500
    assert texts(queues, inbox) == []


async def test_a_text_over_48_kib_does_not_fit_as_base64_and_is_a_500(
    make_host: MakeHost, queues: Queues, inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_host()) as client:
        assert (await client.post("/text", content="x" * 48 * 1024)).status_code == 202
        assert (await client.post("/text", content="x" * (48 * 1024 + 1))).status_code == 500
    assert queues.count(inbox) == 1
    assert "StorageError while writing its output out" in caplog.text


async def test_storage_that_fails_is_a_500(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text(APP)
    queues = MemoryQueues(failing={"send"})
    settings = {"AzureWebJobsStorage": "any", "INBOX": "inbox"}
    async with client_of(FunctionsHost(tmp_path, settings, queues=queues)) as client:
        assert (await client.post("/api/text", content="sealed")).status_code == 500
        queues.failing.clear()
        assert (await client.post("/api/text", content="sealed")).status_code == 202
    assert texts(queues, "inbox") == [base64_of("sealed")]


# What a triggered function gets


@both
async def test_a_function_gets_the_body_and_the_metadata_and_its_message_is_deleted(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("é sealed"))
    (sent,) = queues.peek(inbox)
    async with started(make_host(lease=60)):
        await until(lambda: bool(texts(queues, f"{inbox}-done")))
        await until(lambda: queues.count(inbox) == 0)
    (answer,) = texts(queues, f"{inbox}-done")
    message_id, *body, attempt, receipt, inserted, expires, next_visible = (
        base64.b64decode(answer).decode().split()
    )
    assert (message_id, " ".join(body), attempt) == (sent.message_id, "é sealed", "1")
    assert receipt not in {"", "None"}
    assert (float(inserted), float(expires)) == (
        sent.inserted.timestamp(),
        sent.expires.timestamp(),
    )
    assert abs(float(next_visible) - float(inserted) - 60) < 5


async def test_what_the_worker_is_told_beside_the_body(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, base64_of("sealed"))
    (sent,) = queues.peek(inbox)
    told: list[Mapping[str, Datum]] = []

    async def run(body: str, metadata: Mapping[str, Datum]) -> bool:
        told.append(metadata)
        return True

    listener = Listener(queues, inbox, run, options(), lease=60, on_write=lambda _: None)
    async with listening(listener):
        await until(lambda: bool(told))
    (metadata,) = told
    receipt, next_visible = metadata["PopReceipt"], json.loads(metadata["NextVisibleTime"].value)
    assert datetime.fromisoformat(next_visible).tzinfo is not None
    assert metadata == {
        "QueueTrigger": Datum("sealed", "string"),
        "DequeueCount": Datum("1", "json"),
        "ExpirationTime": Datum(json.dumps(sent.expires.isoformat()), "json"),
        "Id": Datum(sent.message_id, "string"),
        "InsertionTime": Datum(json.dumps(sent.inserted.isoformat()), "json"),
        "NextVisibleTime": Datum(json.dumps(next_visible), "json"),
        "PopReceipt": Datum(receipt.value, "string"),
    }


# Attempts and poison


async def test_a_failed_message_shows_again_after_the_visibility_timeout(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("sealed"))
    work = Work(lambda _body, attempt: attempt == 2)
    async with listening(listener_of(queues, inbox, work, visibilityTimeout="00:00:01")):
        begun = time.monotonic()
        await until(lambda: queues.count(inbox) == 0)
    assert work.calls == [("sealed", 1), ("sealed", 2)]
    assert time.monotonic() - begun >= 0.9


@both
async def test_after_the_last_attempt_a_message_goes_to_the_poison_queue(
    make_host: MakeHost, queues: Queues, inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(queues, inbox, base64_of("fail"))
    async with started(make_host(maxDequeueCount=3)):
        await until(lambda: bool(texts(queues, f"{inbox}-poison")))
        await until(lambda: queues.count(inbox) == 0)
    (poisoned,) = queues.peek(f"{inbox}-poison")
    assert (poisoned.text, poisoned.dequeue_count) == (base64_of("fail"), 0)
    assert caplog.text.count("Function work failed: TimeoutError") == 3
    assert f"a message goes to {inbox}-poison" in caplog.text


async def test_by_default_five_failures_within_moments_are_the_end(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("sealed"))
    work = Work(lambda _body, _attempt: False)
    async with listening(listener_of(queues, inbox, work)):
        await until(lambda: bool(texts(queues, f"{inbox}-poison")))
    assert [attempt for _, attempt in work.calls] == [1, 2, 3, 4, 5]


async def test_a_message_whose_last_attempt_crashed_is_poison_without_another(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("sealed"))
    for _ in range(2):
        (message,) = queues.receive(inbox, 1, 60)
        queues.hide(inbox, message, 0)
    work = Work()
    async with listening(listener_of(queues, inbox, work, maxDequeueCount=2)):
        await until(lambda: bool(texts(queues, f"{inbox}-poison")))
    assert work.calls == []


@pytest.mark.parametrize("text", ["c2Vh!bGVk", "abc", "é"])
async def test_what_is_not_base64_is_poison_at_once_and_unchanged(
    text: str, queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, text)
    work = Work()
    async with listening(listener_of(queues, inbox, work)):
        await until(lambda: texts(queues, f"{inbox}-poison") == [text])
        await until(lambda: queues.count(inbox) == 0)
    assert work.calls == []


def test_white_space_in_base64_does_not_matter() -> None:
    assert options().decode("c2Vh\r\n bGVk\n") == b"sealed"


async def test_what_is_not_utf8_fails_until_it_is_poison(
    queues: Queues, inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(queues, inbox, base64_of(b"\xff"))
    work = Work()
    async with listening(listener_of(queues, inbox, work, maxDequeueCount=2)):
        await until(lambda: bool(texts(queues, f"{inbox}-poison")))
    assert work.calls == []
    assert caplog.text.count("is not UTF-8") == 2


@pytest.mark.parametrize("rest", ["-poison", "-" + "x" * 50])
async def test_a_poison_queue_or_a_long_name_has_no_poison_queue_of_its_own(
    rest: str, queues: Queues, inbox: str
) -> None:
    queue = inbox + rest
    fill(queues, queue, base64_of("sealed"))
    work = Work(lambda _body, _attempt: False)
    async with listening(listener_of(queues, queue, work, lease=1, maxDequeueCount=1)):
        await until(lambda: len(work.calls) == 1)
        await asyncio.sleep(0.3)
    assert queues.count(queue) == 1
    assert f"{queue}-poison" not in queues.names()


async def test_a_message_that_is_gone_when_its_function_ends_stops_nothing(
    queues: Queues, inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(queues, inbox, base64_of("slow"))
    work = Work()
    work.gate.clear()
    async with listening(listener_of(queues, inbox, work)):
        await until(lambda: work.running == 1)
        # Somebody else's clock runs ahead: they receive it although it is leased.
        assert isinstance(queues, MemoryQueues)
        queues.now = lambda: datetime.now(UTC) + timedelta(minutes=1)
        assert queues.receive(inbox, 1, 60)
        work.gate.set()
        queues.send(inbox, base64_of("next"))
        await until(lambda: ("next", 1) in work.calls)
    assert "has gone to somebody else" in caplog.text


# Concurrency and polling


async def test_at_most_a_batch_above_the_threshold_runs_at_once(queues: Queues, inbox: str) -> None:
    fill(queues, inbox, *(base64_of(str(number)) for number in range(12)))
    work = Work()
    work.gate.clear()
    listener = listener_of(queues, inbox, work, batchSize=4, newBatchThreshold=2)
    async with listening(listener):
        await until(lambda: work.running == 4)
        await asyncio.sleep(0.5)
        # Four are more than two: no further batch is fetched.
        assert (work.running, len(queues.peek(inbox))) == (4, 8)
        work.gate.set()
        await until(lambda: queues.count(inbox) == 0)
    assert len(work.calls) == 12
    assert work.most <= 6


async def test_a_new_batch_is_fetched_as_soon_as_the_threshold_is_reached(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, *(base64_of(str(number)) for number in range(6)))
    work = Work()
    work.gate.clear()
    async with listening(listener_of(queues, inbox, work, batchSize=2, newBatchThreshold=2)):
        await until(lambda: work.running == 4)
        await asyncio.sleep(0.3)
        assert (work.running, len(queues.peek(inbox))) == (4, 2)


def test_an_idle_listener_waits_longer_and_longer_and_a_message_makes_it_quick_again() -> None:
    backoff = Backoff(2)
    waits = [backoff.wait(found=False) for _ in range(8)]
    assert waits[0] == 0.1
    for number, wait in enumerate(waits[1:5]):
        assert 0.1 + 0.8 * 0.1 * 2**number <= wait <= 0.1 + 1.2 * 0.1 * 2**number
    assert waits[-2:] == [2, 2]
    assert backoff.wait(found=True) == 0.1
    assert 0.18 <= backoff.wait(found=False) <= 0.22


async def test_an_empty_queue_is_asked_seldom(inbox: str) -> None:
    class Counting(MemoryQueues):
        asked = 0

        def receive(self, queue: str, number: int, hidden: int) -> list[Any]:
            self.asked += 1
            return super().receive(queue, number, hidden)

    queues = Counting()
    async with listening(listener_of(queues, inbox, Work(), maxPollingInterval="00:01:00")):
        await asyncio.sleep(1.2)
    # 0.1, 0.2, 0.3, 0.5 … seconds between them.
    assert 3 <= queues.asked <= 6


async def test_what_the_host_itself_writes_is_found_at_once(
    make_host: MakeHost, queues: Queues, inbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_listener, "MIN_POLLING_INTERVAL", 60)
    host = make_host(maxPollingInterval="00:02:00")
    async with started(host), client_of(host) as client:
        await asyncio.sleep(0.3)
        await client.post("/text", content="sealed")
        await until(lambda: bool(texts(queues, f"{inbox}-done")))


async def test_a_storage_that_is_away_is_asked_again_and_that_is_said_once(
    inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    queues = MemoryQueues()
    fill(queues, inbox, base64_of("sealed"))
    queues.failing.add("receive")
    work = Work()
    async with listening(listener_of(queues, inbox, work)):
        await asyncio.sleep(0.5)
        assert work.calls == []
        queues.failing.clear()
        await until(lambda: queues.count(inbox) == 0)
    assert caplog.text.count("asked again and again") == 1
    assert caplog.text.count("answers again") == 1


async def test_what_cannot_be_deleted_shows_again(
    inbox: str, caplog: pytest.LogCaptureFixture
) -> None:
    queues = MemoryQueues()
    fill(queues, inbox, base64_of("sealed"))
    queues.failing.add("delete")
    work = Work()
    async with listening(listener_of(queues, inbox, work, lease=1)):
        await until(lambda: len(work.calls) == 1)
        await asyncio.sleep(0.1)
        queues.failing.clear()
        await until(lambda: queues.count(inbox) == 0)
    assert work.calls == [("sealed", 1), ("sealed", 2)]
    assert "will show again" in caplog.text


# Leases


async def test_a_function_that_runs_longer_than_the_lease_keeps_its_message(
    queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("sealed"))
    work = Work()
    work.gate.clear()
    async with listening(listener_of(queues, inbox, work, lease=4)):
        await until(lambda: work.running == 1)
        await asyncio.sleep(4.5)
        work.gate.set()
        await until(lambda: queues.count(inbox) == 0)
    assert work.calls == [("sealed", 1)]


async def test_a_renewal_that_fails_is_tried_again_sooner(inbox: str) -> None:
    queues = MemoryQueues()
    fill(queues, inbox, base64_of("sealed"))
    work = Work()
    work.gate.clear()
    async with listening(listener_of(queues, inbox, work, lease=4)):
        await until(lambda: work.running == 1)
        queues.failing.add("hide")
        await asyncio.sleep(2.2)  # the first renewal, after two seconds, fails
        queues.failing.clear()
        await asyncio.sleep(2.2)  # the next one comes before the four seconds are over
        work.gate.set()
        await until(lambda: queues.count(inbox) == 0)
    assert work.calls == [("sealed", 1)]


async def test_a_stop_waits_for_no_work_and_leaves_the_message_to_show_again(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    fill(queues, inbox, base64_of("hang"))
    async with started(make_host(lease=1)):
        await until(lambda: not queues.peek(inbox))
    assert queues.count(inbox) == 1
    await until(lambda: bool(queues.peek(inbox)))
    (message,) = queues.receive(inbox, 1, 60)
    assert message.dequeue_count == 2


async def test_a_host_can_be_started_again(make_host: MakeHost, queues: Queues, inbox: str) -> None:
    host = make_host()
    done = f"{inbox}-done"
    for number in (1, 2):
        async with started(host):
            await asyncio.to_thread(fill, queues, inbox, base64_of("sealed"))
            await until(lambda: len(texts(queues, done)) >= number)  # noqa: B023 - waited for here


def test_a_server_with_lifespan_listens_and_one_without_does_not(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    host = make_host()
    fill(queues, inbox, base64_of("sealed"))
    with Server(host):
        time.sleep(0.4)
        assert queues.count(inbox) == 1
    with Server(host, lifespan=True):
        deadline = time.monotonic() + 30
        while queues.count(inbox):
            assert time.monotonic() < deadline
            time.sleep(0.02)


# Names and options


async def test_a_trigger_whose_name_does_not_resolve_is_in_error_and_the_others_load(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(
        app=APP.replace('"message", queue_name="%INBOX%"', '"message", queue_name="%GONE%"')
    )
    reason = "'%GONE%' does not resolve to a value."
    assert host.errors == {"work": reason}
    assert f"The 'work' function is in error: {reason}" in caplog.text
    assert [function.name for function in host.functions] == ["binary", "several", "text"]
    async with started(host), client_of(host) as client:
        assert (await client.post("/text", content="sealed")).status_code == 202


async def test_an_output_whose_name_does_not_resolve_is_a_500_when_it_is_written(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    output = 'arg_name="out", queue_name="%GONE%"'
    host = make_host(app=APP.replace('arg_name="out", queue_name="%INBOX%"', output))
    assert host.errors == {}
    async with client_of(host) as client:
        assert (await client.post("/text", content="sealed")).status_code == 500
    assert "ValueError while writing its output out" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("100%", "closing '%'"),
        ("ab", "not the name of a queue"),
        ("-abc", "not the name of a queue"),
        ("a--b", "not the name of a queue"),
        ("under_score", "not the name of a queue"),
        ("a" * 64, "not the name of a queue"),
        ("%EMPTY%", "not the name of a queue"),
    ],
)
def test_a_name_that_no_queue_can_have_puts_the_function_in_error(
    name: str, reason: str, make_host: MakeHost
) -> None:
    app = APP.replace('"message", queue_name="%INBOX%"', f'"message", queue_name="{name}"')
    assert reason in make_host({"EMPTY": ""}, app=app).errors["work"]


def test_names_are_put_together_from_settings_in_any_case_and_lower_cased(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    app = APP.replace('"message", queue_name="%INBOX%"', '"message", queue_name="X-%inbox%-%Y%"')
    host = make_host({"Y": "Z"}, app=app)
    assert host.errors == {}
    with Server(host, lifespan=True):
        fill(queues, f"x-{inbox}-z", base64_of("sealed"))
        deadline = time.monotonic() + 30
        while queues.count(f"x-{inbox}-z"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"AzureWebJobsStorage": "", "AzureWebJobsStorage__accountName": "x"},
        {"AzureWebJobsStorage": "", "AzureWebJobsStorage__queueServiceUri": "x"},
    ],
)
def test_an_identity_based_connection_is_a_connection(
    settings: Mapping[str, str], make_host: MakeHost
) -> None:
    assert make_host(settings).errors == {}


def test_a_connection_without_a_setting_puts_the_function_in_error(make_host: MakeHost) -> None:
    host = make_host({"AzureWebJobsStorage": ""})
    assert "'AzureWebJobsStorage' does not exist" in host.errors["work"]


@pytest.mark.parametrize("setting", ["AzureWebJobs.{}.Disabled", "AzureWebJobs_{}_Disabled"])
async def test_a_disabled_function_does_not_listen_and_has_no_route(
    setting: str, make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    host = make_host({setting.format("work"): "true", setting.format("binary"): "1"})
    fill(queues, inbox, base64_of("sealed"))
    async with started(host), client_of(host) as client:
        assert (await client.post("/binary", content=b"x")).status_code == 404
        assert (await client.post("/text", content=b"x")).status_code == 202
        await asyncio.sleep(0.3)
    assert queues.count(inbox) == 2


def test_the_options_have_the_real_hosts_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4)
    assert Options.read({}) == Options(
        batch_size=16,
        new_batch_threshold=32,
        visibility_timeout=0,
        max_dequeue_count=5,
        max_polling_interval=60,
        message_encoding="base64",
    )
    assert Options.read({"batchSize": 1}).new_batch_threshold == 0


@pytest.mark.parametrize(
    "section",
    [
        {"batchSize": 0},
        {"batchSize": 33},
        {"newBatchThreshold": -1},
        {"maxDequeueCount": 0},
        {"visibilityTimeout": "5 minutes"},
        {"maxPollingInterval": "00:00:00.05"},
        {"messageEncoding": "rot13"},
    ],
)
def test_the_host_does_not_start_with_wrong_options(
    section: dict[str, Any], make_host: MakeHost
) -> None:
    (name,) = section
    with pytest.raises(ValueError, match=rf"host\.json: extensions\.queues\.{name}"):
        make_host(**section)


async def test_an_app_setting_wins_over_host_json(
    make_host: MakeHost, queues: Queues, inbox: str
) -> None:
    settings = {
        "AzureFunctionsJobHost__extensions__queues__maxDequeueCount": "1",
        "AZUREFUNCTIONSJOBHOST__EXTENSIONS__HTTP__ROUTEPREFIX": "prefix",
    }
    fill(queues, inbox, base64_of("fail"))
    host = make_host(settings, maxDequeueCount=100, visibilityTimeout="01:00:00")
    async with started(host), client_of(host) as client:
        assert (await client.post("/prefix/several", content=b"")).status_code == 202
        await until(lambda: bool(texts(queues, f"{inbox}-poison")))


# Azurite


def test_azurite_keeps_its_messages_over_a_stop_and_comes_back_at_its_address(
    tmp_path: Path,
) -> None:
    need_azurite()
    with Azurite(tmp_path) as azurite:
        queues = AzureQueues(azurite.connection_string)
        port = azurite.port
        fill(queues, "inbox", "first", "second")
        (first,) = queues.receive("inbox", 1, 60)
        azurite.stop()
        assert not queues.answers()
        azurite.start()
        assert azurite.port == port
        assert texts(queues, "inbox") == ["second"]
        queues.delete("inbox", first)
        azurite.kill()
        azurite.kill()
        assert not queues.answers()
        azurite.start()
        assert queues.answers()
        queues.close()


async def test_azurite_may_go_and_come_while_a_host_runs(tmp_path: Path) -> None:
    need_azurite()
    app, data = tmp_path / "app", tmp_path / "data"
    app.mkdir()
    (app / "function_app.py").write_text(APP)
    section = {"maxPollingInterval": "00:00:00.2"}
    (app / "host.json").write_text(json.dumps({"extensions": {"queues": section}}))
    with Azurite(data) as azurite:
        queues = AzureQueues(azurite.connection_string)
        settings = {"AzureWebJobsStorage": azurite.connection_string, "INBOX": "inbox"}
        host = FunctionsHost(app, settings, queues=queues)
        async with started(host), client_of(host) as client:
            assert (await client.post("/api/text", content="first")).status_code == 202
            await until(lambda: len(texts(queues, "inbox-done")) == 1)
            await asyncio.to_thread(azurite.stop)
            assert (await client.post("/api/text", content="lost")).status_code == 500
            await asyncio.to_thread(azurite.start)
            assert (await client.post("/api/text", content="second")).status_code == 202
            await until(lambda: len(texts(queues, "inbox-done")) == 2)
        queues.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL to send")
def test_azurite_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    need_azurite()
    script = (
        "import sys, time; from pathlib import Path; from sandbox.azurite import Azurite\n"
        "azurite = Azurite(Path(sys.argv[1])); azurite.start()\n"
        "print(azurite.port, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    queues = AzureQueues(Azurite(tmp_path, port=port).connection_string)
    deadline = time.monotonic() + 30
    while queues.answers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    queues.close()


def test_without_azurite_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.azurite.MAIN", tmp_path / "main.js")
    monkeypatch.setattr("shutil.which", lambda _: "node")
    assert unavailable() == "Azurite is not installed; run: npm ci --prefix sandbox"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert unavailable() == "Node.js is not on PATH"
    with pytest.raises(RuntimeError, match="Azurite cannot start: Node"):
        Azurite(tmp_path).start()


# The world, and a process of its own


def test_a_world_has_queues_of_its_own(azurite: Azurite) -> None:
    with World() as world:
        assert isinstance(world.queues, MemoryQueues)
    with World(storage=azurite.connection_string) as world:
        assert isinstance(world.queues, AzureQueues)
        assert world.settings["AzureWebJobsStorage"] == azurite.connection_string
        assert world.queues.answers()


@asynccontextmanager
async def process(
    folder: Path, *options: str, **environment: str
) -> AsyncIterator[tuple[int, list[str]]]:
    """Run `python -m sandbox.host` for APP; gives its port and what it says on standard error."""
    (folder / "function_app.py").write_text(APP)
    section = {"maxPollingInterval": "00:00:00.2"}
    (folder / "host.json").write_text(json.dumps({"extensions": {"queues": section}}))
    ready = folder / "ready"
    command = [sys.executable, "-m", "sandbox.host", "--directory", str(folder), "--port", "0"]
    child = subprocess.Popen(  # noqa: ASYNC220 - its own interpreter
        [*command, "--ready-file", str(ready), *options],
        cwd=ROOT,
        env={**os.environ, "INBOX": "own-process", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=said.extend, args=(child.stderr,))
    reader.start()
    try:
        await until(ready.exists)
        yield int(ready.read_text()), said
    finally:
        child.kill()
        child.wait()
        reader.join()
        child.stderr.close()
        ready.unlink()


async def test_as_a_process_it_listens_to_azurite_and_a_killed_ones_message_shows_again(
    azurite: Azurite, tmp_path: Path
) -> None:
    queues = AzureQueues(azurite.connection_string)
    fill(queues, "own-process", base64_of("hang"))
    environment = {"AzureWebJobsStorage": azurite.connection_string}
    lease = ("--require-storage", "--lease", "2")
    async with process(tmp_path, *lease, **environment) as (port, said):
        await until(lambda: not queues.peek("own-process"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api") as client:
            assert (await client.post("/text", content="sealed")).status_code == 202
        await until(lambda: len(texts(queues, "own-process-done")) == 1)
    assert not any("WARNING" in line for line in said)
    await until(lambda: bool(queues.peek("own-process")))
    (message,) = queues.receive("own-process", 1, 60)
    assert (message.text, message.dequeue_count) == (base64_of("hang"), 2)
    queues.close()


async def test_as_a_process_without_storage_it_warns_and_keeps_queues_in_memory(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = Azurite(tmp_path, port=listener.getsockname()[1]).connection_string
    async with process(tmp_path, AzureWebJobsStorage=gone) as (port, said):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api") as client:
            assert (await client.post("/text", content="fail")).status_code == 202
        await until(lambda: any("own-process-poison" in line for line in said))
    assert any(line.startswith("WARNING: AzureWebJobsStorage: Nothing answers") for line in said)
