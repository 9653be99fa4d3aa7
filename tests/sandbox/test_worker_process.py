"""The sandbox's worker process has the loop, the paths and the habits of Azure's worker."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.functions.meta import Datum

from sandbox.host import FunctionsHost
from sandbox.packages import ROOT, Deployment
from sandbox.serving import Server
from sandbox.worker_channel import WorkerProcess, WorkerProcessError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time.tzset")

APP = '''
import asyncio, contextvars, importlib.util, json, logging, os, signal, sys, threading, time
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
log = logging.getLogger("relay.probe")
IMPORTED = {
    "loop": type(asyncio.get_running_loop()).__module__,
    "cwd": os.getcwd(),
    "azure.functions": func.__file__,
}
waiting = []


def answer(value):
    return func.HttpResponse(json.dumps(value), mimetype="application/json")


@app.route("probe")
async def probe(req: func.HttpRequest) -> func.HttpResponse:
    print("printed by the app")
    names = req.params["names"].split(",")
    return answer({
        "imported": IMPORTED,
        "cwd": os.getcwd(),
        "path": sys.path,
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "hour": time.localtime(0).tm_hour,
        "found": [name for name in names if importlib.util.find_spec(name)],
        "sigterm": int(signal.getsignal(signal.SIGTERM)),
        "to_thread": await asyncio.to_thread(lambda: threading.current_thread().name),
    })


@app.route("connect")
async def connect(req: func.HttpRequest) -> func.HttpResponse:
    try:
        await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "localhost", 1, happy_eyeballs_delay=0.25
        )
    except Exception as problem:
        return answer(type(problem).__name__)


@app.route("blocking")
def blocking(req: func.HttpRequest) -> func.HttpResponse:
    return answer(threading.current_thread().name)


@app.route("speak")
async def speak(req: func.HttpRequest) -> func.HttpResponse:
    log.debug("below the level")
    log.info("said %s", "it", extra={"member": "lost"})
    async def child():
        logging.getLogger("other").warning("of a child")
    # The id of the invocation is in the context too: only the task can bring it here.
    await asyncio.create_task(child(), context=contextvars.Context())
    return answer(None)


@app.route("together")
async def together(req: func.HttpRequest) -> func.HttpResponse:
    """Answer only when twenty invocations are here at once."""
    waiting.append(asyncio.get_running_loop().create_future())
    if len(waiting) == 20:
        for one in waiting:
            one.set_result(None)
    await waiting[len(waiting) - 1]
    return answer(len(waiting))


@app.route("mirror", methods=["POST"])
async def mirror(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(req.get_body()[::-1])


@app.route("raise")
async def fail(req: func.HttpRequest) -> func.HttpResponse:
    raise LookupError("canary")


@app.route("hang")
async def hang(req: func.HttpRequest) -> func.HttpResponse:
    log.warning("hanging")
    await asyncio.sleep(3600)
'''
DEVELOPMENT = ("click", "rich", "pytest", "starlette", "uvicorn", "azure.core", "sandbox")
DEPLOYED = ("httpx", "msal", "pydantic", "h11", "uvloop", "azure.functions")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return the probing app with the packages of requirements.txt."""
    folder = tmp_path_factory.mktemp("deployment")
    app = folder / "wwwroot"
    app.mkdir()
    (app / "function_app.py").write_text(APP)
    (app / "requirements.txt").write_text((ROOT / "requirements.txt").read_text())
    return Deployment.of(app, folder)


@pytest.fixture(scope="module")
def worker(deployment: Deployment) -> Iterator[WorkerProcess]:
    with (
        pytest.MonkeyPatch.context() as environment,
        WorkerProcess(deployment.worker, deployment.packages) as process,
    ):
        environment.setenv("SET_SINCE_THE_START", "yes")
        yield process


@pytest.fixture(scope="module")
def url(deployment: Deployment, worker: WorkerProcess) -> Iterator[str]:
    host = FunctionsHost(deployment.directory, {"TZ": "Asia/Tokyo"}, process=worker)
    with Server(host) as server:
        yield f"{server.url}/api"


def ask(url: str, path: str) -> Any:
    return httpx.get(f"{url}/{path}", timeout=60).raise_for_status().json()


@pytest.fixture(scope="module")
def probed(url: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(url, f"probe?names={','.join((*DEVELOPMENT, *DEPLOYED))}")
    return found


def test_the_app_is_imported_inside_the_running_loop_which_is_uvloop(
    probed: dict[str, Any],
) -> None:
    assert probed["imported"]["loop"].partition(".")[0] == "uvloop"


def test_what_only_plain_asyncio_knows_fails(url: str) -> None:
    assert ask(url, "connect") == "TypeError"


def test_only_the_packages_of_the_app_and_of_the_worker_can_be_imported(
    probed: dict[str, Any],
) -> None:
    assert all(map(find_spec, DEVELOPMENT))  # here they can: nothing is merely not installed
    assert probed["found"] == list(DEPLOYED)


def test_the_folders_are_searched_in_the_order_of_azure(
    probed: dict[str, Any], deployment: Deployment
) -> None:
    first, second, *others, last = map(Path, probed["path"])
    assert (first, second, last) == (deployment.packages, deployment.worker, deployment.directory)
    assert not {first, second, last} & set(others)
    assert Path(probed["imported"]["azure.functions"]).is_relative_to(deployment.packages)


def test_the_app_is_imported_before_the_worker_changes_into_its_folder(
    probed: dict[str, Any], deployment: Deployment
) -> None:
    assert Path(probed["cwd"]) == deployment.directory
    assert Path(probed["imported"]["cwd"]) != deployment.directory


def test_the_hand_over_replaces_the_environment_and_the_time_zone(
    probed: dict[str, Any], deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probed["environment"]["SET_SINCE_THE_START"] == "yes"
    assert probed["hour"] == 9

    monkeypatch.setenv("ONLY_AT_THE_START", "yes")
    with WorkerProcess(deployment.worker, deployment.packages) as process:
        monkeypatch.delenv("ONLY_AT_THE_START")
        with Server(FunctionsHost(deployment.directory, {}, process=process)) as server:
            environment = ask(f"{server.url}/api", "probe?names=sys")["environment"]
    assert "ONLY_AT_THE_START" not in environment


def test_it_is_another_process_which_handles_no_sigterm(
    probed: dict[str, Any], worker: WorkerProcess
) -> None:
    assert probed["pid"] == worker.pid != os.getpid()
    assert probed["sigterm"] == signal.SIG_DFL


def test_functions_that_block_run_in_the_pool_of_the_worker(
    url: str, probed: dict[str, Any]
) -> None:
    pools = [name.rpartition("_")[0] for name in (ask(url, "blocking"), probed["to_thread"])]
    assert pools[0] != pools[1]
    assert all(pool.startswith("ThreadPoolExecutor") for pool in pools)


def test_of_a_log_line_the_text_arrives_with_its_level_name_and_invocation(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ask(url, "speak")
    said = [record for record in caplog.records if record.name in {"relay.probe", "other"}]
    assert [(each.levelname, each.name, each.getMessage()) for each in said] == [
        ("INFO", "relay.probe", "said it"),
        ("WARNING", "other", "of a child"),
    ]
    assert not hasattr(said[0], "member")
    first, second = (vars(each)["invocation_id"] for each in said)
    assert first == second != None  # noqa: E711 - one id, and there is one


async def test_many_invocations_are_under_way_at_once(url: str) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/together") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


def test_large_bodies_pass_both_ways_and_do_not_block_each_other(url: str) -> None:
    body = os.urandom(4 * 1024 * 1024)  # more than any pipe holds

    async def ask_often() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            posts = (client.post(f"{url}/mirror", content=body) for _ in range(8))
            return await asyncio.gather(*posts)

    assert all(answer.content == body[::-1] for answer in asyncio.run(ask_often()))


def test_an_exception_is_a_500_and_its_name_is_logged(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert httpx.get(f"{url}/raise").status_code == 500
    assert "Function fail failed: LookupError" in caplog.text


async def test_when_the_process_is_killed_what_is_under_way_fails(deployment: Deployment) -> None:
    with WorkerProcess(deployment.worker, deployment.packages) as process:
        indexed = process.index(deployment.directory, {})
        [hang] = [each.function_id for each in indexed if each.name == "hang"]
        request = {name: Datum("", "string") for name in ("method", "url")}
        http = Datum(request | {"headers": {}, "query": {}, "params": {}, "body": None}, "http")
        under_way = asyncio.create_task(process.run(hang, [("req", http)], {}))
        await asyncio.sleep(0)  # it is sent
        os.kill(process.pid, signal.SIGKILL)
        assert (await under_way).error == "WorkerProcessError"
        assert (await process.run(hang, [("req", http)], {})).error == "WorkerProcessError"


def test_an_app_that_does_not_load_is_told_with_its_reason(
    deployment: Deployment, tmp_path: Path
) -> None:
    with (
        WorkerProcess(deployment.worker, deployment.packages) as process,
        pytest.raises(FileNotFoundError, match=r"no function_app\.py"),
    ):
        process.index(tmp_path, {})
    (tmp_path / "function_app.py").write_text("import click")
    with (
        WorkerProcess(deployment.worker, deployment.packages) as process,
        pytest.raises(WorkerProcessError, match="No module named 'click'"),
    ):
        process.index(tmp_path, {})


def test_a_worker_without_its_packages_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(WorkerProcessError, match="has ended"):
        WorkerProcess(tmp_path, tmp_path).start()


def test_it_does_not_outlive_the_process_that_started_it(deployment: Deployment) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from sandbox.worker_channel import WorkerProcess\n"
        "process = WorkerProcess(*map(Path, sys.argv[1:])); process.start()\n"
        "print(process.pid, flush=True); time.sleep(60)"
    )
    folders = (str(deployment.worker), str(deployment.packages))
    command = [sys.executable, "-c", script, *folders]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_host_as_a_process_can_have_such_a_worker(
    deployment: Deployment, tmp_path: Path
) -> None:
    ready, said = tmp_path / "ready", tmp_path / "stderr"
    folder = ("--directory", str(deployment.directory))
    options = ("--worker-process", "--port", "0", "--ready-file", str(ready))
    command = [sys.executable, "-m", "sandbox.host", *folder, *options]
    with (
        said.open("wb") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors) as host,
    ):
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert host.poll() is None, "it ended before its port was open"
            assert time.monotonic() < deadline, "its port did not open"
            time.sleep(0.02)
        url = f"http://127.0.0.1:{ready.read_text()}/api"
        probed = ask(url, "probe?names=click,httpx")
        host.send_signal(signal.SIGTERM)
    assert host.returncode == 0
    assert probed["found"] == ["httpx"]
    assert probed["pid"] != host.pid
    assert "printed by the app" in said.read_text()
    assert not is_running(probed["pid"])


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    if status.parent.parent.joinpath("self").exists():
        # In a container nobody may be there to take note of its end.
        return status.exists() and "\nState:\tZ" not in status.read_text()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
