"""The benchmarks measure what they say, and nobody in them is fast by not delivering.

No test here looks at a clock: whether something is fast is for `python3 dev.py bench`.
"""

import asyncio
import json
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from benchmarks import __main__ as command
from benchmarks import imports, outage, refusals, report, scale
from benchmarks.arithmetic import (
    GOALS,
    METRICS,
    Goal,
    Round,
    advantage,
    medians,
    percentile,
    rotated,
    spread,
)
from benchmarks.burst import Burst
from benchmarks.lineup import (
    HTTPX,
    LINEUP,
    NODE_MODULES,
    RELAY,
    ROOT,
    TIMES,
    Apps,
    Contestant,
    Kind,
    install_peers,
)
from benchmarks.load import Answers, Callback, Callbacks
from benchmarks.measure import FULL, QUICK, Bench, ContestantError, Plan, Running
from benchmarks.processes import Cores, Process, environment, free_port
from benchmarks.upstream import CLIENT_ID, CLIENT_SECRET, ROWS, TENANT, Upstream
from relay import settings_reader
from relay.oauth import state
from relay.oauth.authorization import AuthorizationResponse
from sandbox.entra import Entra
from sandbox.serving import Server
from sandbox.tls import Authority
from tests.outbox import QUICK as QUICK_OUTBOX

BY_NAME = {metric.name: metric for metric in METRICS}
UNPINNED = Cores(None, None)
HAS_PROC = Path("/proc/self/stat").is_file()
IMPORTED = Path(__file__).parent / "data/imported_modules.txt"
SMALL = Plan(1, 2, 0.01, 4, 0.05, 12, (), (), 0)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    with Authority() as authority:
        async with Upstream(authority) as running:
            yield running


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Apps:
    """One copy for all tests: it takes a second, and so does compiling it."""
    return Apps.copied(tmp_path_factory.mktemp("apps"))


@pytest.fixture
def bench(upstream: Upstream, apps: Apps, tmp_path: Path) -> Bench:
    return command.bench_for(upstream, apps, tmp_path, UNPINNED)


def client(upstream: Upstream) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=upstream.authority.bundle)
    return httpx.AsyncClient(verify=context, trust_env=False)


# -- arithmetic


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1), (0.985, 99)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_the_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_medians_leave_out_what_a_round_could_not_tell() -> None:
    rounds: list[Round] = [{"a": 3.0, "b": None}, {"a": 1.0}, {"a": None, "b": None}, {"a": 9.0}]
    assert medians(rounds) == {"a": 3.0, "b": None}


def test_more_than_one_means_better_whichever_way_the_metric_points() -> None:
    faster = advantage(BY_NAME["throughput"], [{"throughput": 300}], [{"throughput": 100}])
    shorter = advantage(BY_NAME["p50_ms"], [{"p50_ms": 2}], [{"p50_ms": 6}])
    assert (faster, shorter) == (3, 3)


def test_a_slow_round_of_the_machine_counts_for_both_alike() -> None:
    ours = [{"p50_ms": 1.0}, {"p50_ms": 10.0}, {"p50_ms": 1.0}]
    theirs = [{"p50_ms": 2.0}, {"p50_ms": 20.0}, {"p50_ms": 2.0}]
    assert advantage(BY_NAME["p50_ms"], ours, theirs) == 2


def test_there_is_no_ratio_to_what_was_not_measured_or_is_nothing() -> None:
    for theirs in ({}, {"failed": None}, {"failed": 0.0}):
        assert advantage(BY_NAME["failed"], [{"failed": 1.0}], [theirs]) is None


def test_every_round_begins_with_another_contestant_and_forgets_none() -> None:
    orders = [rotated("abc", number) for number in range(4)]
    assert ["".join(order) for order in orders] == ["abc", "bca", "cab", "abc"]


def test_the_spread_is_the_middle_half_against_the_median() -> None:
    assert spread([10, 90, 100, None, 120, 999]) == pytest.approx(0.3)
    assert spread([None, 90]) is None


# -- load and upstreams


def test_no_two_callbacks_are_alike() -> None:
    callbacks = Callbacks("k1", b"k" * 32, "https://provider.example.com")
    callbacks.prepare(50)
    made = [callbacks.take() for _ in range(100)]
    assert len({each.code for each in made}) == len({each.state for each in made}) == 100


def test_the_relay_believes_the_states_of_the_load() -> None:
    callbacks = Callbacks("k1", b"k" * 32, "https://provider.example.com")
    environ = {
        "ENTRA_TENANT_ID": "contoso.com",
        "ENTRA_CLIENT_ID": "client",
        "ENTRA_CLIENT_SECRET": "canary",
        "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/Rows",
        "STATE_POLICY": "signed",
        "STATE_KEYS": f"k1:{callbacks.encoded_key}",
    }
    connection = settings_reader.read(environ).connections.get("default")
    callback = callbacks.take()
    response = AuthorizationResponse(callback.code, callback.state)
    assert state.verify(response, connection, now=datetime.now(UTC)).state == callback.state


def test_only_2xx_is_an_acknowledgement() -> None:
    answers = Answers()
    for status in (200, 204, 302, 404, 502):
        answers.add(Callback("code", "state", b""), status, 0.001)
    assert (len(answers.acknowledged), answers.failed) == (2, 3)


async def test_entra_gives_a_token_to_the_right_client_only(upstream: Upstream) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "scope": f"{upstream.dynamics_url}/.default",
    }
    url = f"{upstream.entra_url}/{TENANT}/oauth2/v2.0/token"
    async with client(upstream) as http:
        assert (await http.post(url, data=form)).json()["access_token"]
        for name in form:
            refused = await http.post(url, data=form | {name: "wrong"})
            assert refused.status_code == 401, name
    assert upstream.counts.token_requests == 5


@pytest.mark.parametrize(
    ("row", "token", "status"),
    [
        ({"code": "c", "state": "s"}, "good", 201),
        ({"code": "c", "state": "s"}, "bad", 401),
        ({"code": "c"}, "good", 400),
        ({"code": "c", "state": ""}, "good", 400),
        ({"code": "c", "state": None}, "good", 400),
        ({"code": "c", "state": "s", "more": "x"}, "good", 400),
        ([], "good", 400),
    ],
)
async def test_dynamics_stores_a_code_with_its_state_and_a_token(
    upstream: Upstream, row: object, token: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {upstream.token if token == 'good' else 'other'}"}
    async with client(upstream) as http:
        answer = await http.post(f"{upstream.dynamics_url}{ROWS}", json=row, headers=headers)
    assert answer.status_code == status
    assert upstream.rows == ({"s": "c"} if status == 201 else {})


async def test_connections_and_requests_are_counted_and_forgotten(upstream: Upstream) -> None:
    async with client(upstream) as http:
        await http.post(f"{upstream.dynamics_url}{ROWS}", json={})
        await http.post(f"{upstream.dynamics_url}{ROWS}", json={})
    async with client(upstream) as http:
        await http.post(f"{upstream.dynamics_url}{ROWS}", json={})
    assert (upstream.counts.posts, upstream.counts.dynamics_connections) == (3, 2)
    upstream.reset()
    assert (upstream.counts.posts, upstream.counts.dynamics_connections) == (0, 0)


def test_nothing_of_who_measures_comes_into_a_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "CONNECTIONS__X__DYNAMICS_URL", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, "mine")
    given = environment({"PORT": "1"})
    assert "mine" not in given.values()
    assert (given["PORT"], given["PATH"]) == ("1", os.environ["PATH"])


FAMILY = """
import subprocess, sys
child = '''
import socket, time
ballast = b"x" * 100 * 1024 * 1024
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(60)
'''
sys.exit(subprocess.call([sys.executable, "-c", child]))
"""


def family(log: Path) -> tuple[Process, int]:
    """Start a process with a child that has 100 MiB, and return it with the child's port."""
    with log.open("wb") as output:
        command = [sys.executable, "-c", FAMILY]
        process = Process(command, {}, directory=log.parent, log=output, cores=UNPINNED)
    while not process.words:
        assert not process.ended
    return process, int(process.words)


@pytest.mark.skipif(not HAS_PROC, reason="there is no /proc here")
def test_memory_and_processor_time_are_those_of_the_children_too(tmp_path: Path) -> None:
    process, _ = family(tmp_path / "log")
    memory, cpu = process.memory(), process.cpu()
    process.stop()
    assert memory is not None
    assert memory > 100
    assert cpu
    assert process.memory() == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
def test_a_contestant_that_is_stopped_leaves_no_children(tmp_path: Path) -> None:
    process, port = family(tmp_path / "log")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as to_child:
        process.stop()
        with pytest.raises(ConnectionResetError):
            to_child.recv(1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="nothing can be pinned here")
def test_a_contestant_has_the_core_that_the_result_names(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    core = max(mine)
    print_it = "import os; print(os.sched_getaffinity(0))"
    with (tmp_path / "log").open("wb") as output:
        command = [sys.executable, "-c", print_it]
        process = Process(command, {}, directory=tmp_path, log=output, cores=Cores(core, None))
    while not process.ended:
        pass
    assert process.words == str({core})
    assert os.sched_getaffinity(0) == mine


# -- contestants


def contestants() -> list[Any]:
    installed = pytest.mark.skipif(
        not (NODE_MODULES / "installed").is_file(),
        reason="benchmarks/peers is not installed; `python3 dev.py bench` does it",
    )
    return [
        pytest.param(each, id=each.name, marks=[installed] if each.kind is Kind.NODE else [])
        for each in LINEUP
    ]


@pytest.mark.parametrize("contestant", contestants())
async def test_every_contestant_delivers_what_it_acknowledges(
    bench: Bench, contestant: Contestant
) -> None:
    answers_before = bench.rig.upstream.counts
    found = await bench.first_callbacks(contestant, SMALL.first)
    counts, rows = bench.rig.upstream.counts, bench.rig.upstream.rows
    assert counts is not answers_before
    if not contestant.delivers:
        assert counts.posts == 0
        return
    assert (found["failed"], len(rows), counts.refused) == (0, SMALL.first, 0)
    # Those that race ask more often, nobody less than once.
    assert found["token_requests"] == counts.token_requests >= 1


def test_without_node_its_contestants_are_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Node.js" in install_peers()


async def test_the_article_keeps_its_token_as_adal_does(bench: Bench) -> None:
    [article] = [each for each in LINEUP if each.name == "article"]
    async with bench.started(article) as running:
        await bench.send(running, connections=2, number=SMALL.first)
    counts = bench.rig.upstream.counts
    assert (counts.posts, counts.token_requests) == (SMALL.first + 1, 1)


PROBE = """
import asyncio, importlib.util, os, sys
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route("callback")
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    names = ("httpx", "aiohttp", "click", "rich", "pytest", "uvicorn", "sandbox", "relay")
    found = [name for name in names if importlib.util.find_spec(name)]
    print("seen:", loop, *found, flush=True)
    return func.HttpResponse("ok")
"""


@pytest.mark.parametrize(("aiohttp", "seen"), [(False, "uvloop httpx"), (True, "uvloop aiohttp")])
async def test_an_app_sees_the_loop_and_the_packages_of_production_only(
    bench: Bench, tmp_path: Path, aiohttp: bool, seen: str
) -> None:
    contestant, port = Contestant("own", "", "", delivers=False), free_port()
    setup = bench.rig.function(own(tmp_path, PROBE), port, {}, aiohttp=aiohttp)
    async with bench.serving(contestant, setup, port) as running:
        assert f"seen: {seen}" in running.process.words.splitlines()


def test_what_importing_httpx_takes_is_measured_where_it_runs(bench: Bench) -> None:
    assert bench.import_httpx() > 0


@pytest.mark.skipif(not HAS_PROC, reason="there is no /proc here")
async def test_what_is_measured_of_a_function_is_its_worker(bench: Bench) -> None:
    [relay] = [each for each in LINEUP if each.name == RELAY]
    async with bench.started(relay) as running:
        process = running.process
        command_line = Path("/proc", str(process.measured), "cmdline")
        assert "worker_process.py" in await asyncio.to_thread(command_line.read_text)
        assert process.cpu()
        assert process.host_cpu() > 0


async def test_each_turn_has_every_metric_of_a_warm_process_and_who_breaks_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [each for each in LINEUP if each.name in (RELAY, HTTPX)]
    turns = Counter[str]()
    turn = Bench._turn

    async def breaking(bench: Bench, running: Running, plan: Plan) -> dict[str, float | None]:
        name = running.contestant.name
        turns[name] += 1
        if (name, turns[name]) == (HTTPX, 2):
            running.process.stop()
        return await turn(bench, running, plan)

    monkeypatch.setattr(Bench, "_turn", breaking)
    found, failed = await bench.turns(both, SMALL)
    assert set(failed) == {HTTPX}
    assert str(failed[HTTPX]).startswith("httpx: ")
    assert [*found] == [RELAY]
    assert len(found[RELAY]) == SMALL.turns
    for each in found[RELAY]:
        known = {name for name, value in each.items() if value}
        assert {"throughput", "p50_ms", "p99_ms", "load_busy"} <= known
        assert not HAS_PROC or "memory_mib" in known


LIAR = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route("callback")
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("delivered")
"""


def own(folder: Path, source: str) -> Path:
    """Write a function app of one's own, and return its folder."""
    (folder / "function_app.py").write_text(source)
    (folder / "host.json").write_text('{"extensions": {"http": {"routePrefix": ""}}}')
    return folder


async def serve(bench: Bench, folder: Path) -> None:
    """Run a function app as a contestant, and send it a few callbacks."""
    contestant, port = Contestant("own", "one's own", ""), free_port()
    setup = bench.rig.function(folder, port, bench.rig.credentials())
    async with bench.serving(contestant, setup, port) as running:
        await bench.send(running, connections=2, number=4)


async def test_who_says_delivered_and_delivers_nothing_is_thrown_out(
    bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(ContestantError, match="Dynamics does not have them"):
        await serve(bench, own(tmp_path, LIAR))


async def test_who_posts_no_state_never_gets_to_its_first_callback(
    bench: Bench, tmp_path: Path
) -> None:
    bare = (ROOT / "benchmarks/contestants/bare/function_app.py").read_text("utf-8")
    source = bare.replace('json={"code": code, "state": state}', 'json={"code": code}')
    assert source != bare
    with pytest.raises(ContestantError, match="first callback with 502"):
        await serve(bench, own(tmp_path, source))
    assert bench.rig.upstream.counts.refused > 0


async def test_who_mixes_up_codes_and_states_is_thrown_out(bench: Bench, tmp_path: Path) -> None:
    bare = (ROOT / "benchmarks/contestants/bare/function_app.py").read_text("utf-8")
    source = bare.replace('{"code": code, "state"', '{"code": code[1:], "state"')
    assert source != bare
    with pytest.raises(ContestantError, match="Dynamics does not have them"):
        await serve(bench, own(tmp_path, source))


async def test_who_ends_at_once_is_told_with_its_last_words(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ContestantError, match=r"(?s)ended by itself.*the very last word"):
        await serve(bench, own(tmp_path, 'raise ValueError("the very last word")'))


# -- report


def results(**changes: object) -> dict[str, Any]:
    """Return made-up results: the relay is twice as good as everybody, in everything."""
    relay = {metric.name: 2.0 if metric.more_is_better else 1.0 for metric in METRICS}
    other = {metric.name: 1.0 if metric.more_is_better else 2.0 for metric in METRICS}
    rounds = {each.name: [relay if each.name == RELAY else other] * 2 for each in LINEUP}
    return {
        "date": "2026-01-02",
        "complete": True,
        "machine": {"cores": 2, "model": "<A & B>", "memory_gib": 4, "system": "X", "load": 0.0},
        "pinned": "not pinned",
        "rounds": 2,
        "turns": 4,
        "first": 1_000,
        "versions": {"Python": "3.13.0"},
        "left_out": {},
        "contestants": {
            name: {"rounds": each, "medians": medians(each)} for name, each in rounds.items()
        },
        "growth": {"1": {"cold_ms": 1.0, "p50_ms": 1.0, "memory_mib": 1.0}},
        "import_httpx_ms": [24.0, 25.4, 90.0],
        "burst": None,
    } | changes


def test_the_table_has_a_ratio_for_every_peer_and_every_metric() -> None:
    rows = report.page(results()).splitlines()
    table = [row for row in rows if f"{TIMES}2.00" in row]
    assert len(table) == len(METRICS)
    assert all(row.count(f"{TIMES}2.00") == len(LINEUP) - 1 for row in table)


def goal(metric: str, peer: str | None) -> Goal:
    [found] = [each for each in GOALS if (each.metric.name, each.peer) == (metric, peer)]
    return found


def test_a_goal_is_the_relay_over_a_peer_in_the_same_round() -> None:
    ours: list[Round] = [{"throughput": 50}, {"throughput": 130}, {"throughput": None}]
    theirs: list[Round] = [{"throughput": 100}, {"throughput": 100}, {"throughput": 100}]
    found = goal("throughput", "bare_transports").measured(ours, theirs)
    assert found == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("metric", "peer", "within", "beyond"),
    [
        ("throughput", "node_red", 1.2, 1.19),
        ("throughput", "bare", 2.0, 1.99),
        ("throughput", "bare_transports", 0.9, 0.89),
        ("p50_ms", "bare", 1.1, 1.11),
        ("memory_mib", "node_red", 0.35, 0.36),
        ("token_requests", None, 1, 2),
        ("failed", None, 0, 1),
    ],
)
def test_a_goal_holds_on_its_side_of_the_bound(
    metric: str, peer: str | None, within: float, beyond: float
) -> None:
    assert goal(metric, peer).holds(within)
    assert not goal(metric, peer).holds(beyond)


def test_without_a_peer_the_worst_round_counts() -> None:
    rounds: list[Round] = [{"token_requests": 1}, {"token_requests": 3}, {}]
    assert goal("token_requests", None).measured(rounds, rounds) == 3


def test_each_goal_stands_there_with_what_was_measured_and_where_it_falls_short() -> None:
    for said in (report.page(results()), report.text(results())):
        lines = [
            line for line in said.splitlines() if "2.00 \N{MULTIPLICATION SIGN} (2 and 1" in line
        ]
        assert [("holds" in line, "falls short" in line) for line in lines] == [
            (True, False),  # 1.2 times Node-RED
            (True, False),
            (True, False),
        ]
        [memory] = [line for line in said.splitlines() if "0.35" in line]
        assert "0.50" in memory
        assert "falls short" in memory
        [start] = [line for line in said.splitlines() if "to first callback ≤ 1.6" in line]
        assert "0.50" in start
        assert "holds" in start


def test_a_goal_whose_peer_was_left_out_is_not_judged() -> None:
    alone = results()
    del alone["contestants"]["node_red"]
    assert "Node-RED" not in report.text(alone)


def test_what_httpx_costs_is_told_beside_a_function_without_it() -> None:
    costly = results()
    for name, milliseconds in (("bare", 90.0), ("nothing", 20.0)):
        costly["contestants"][name]["rounds"] = [{"cold_ms": milliseconds}] * 3
    said = report.text(costly)
    assert "`import httpx` takes 25 ms" in said
    assert "first callback 70 ms later" in said


def test_what_grows_with_connections_is_told_in_the_terminal_and_on_the_page() -> None:
    grown = results(growth={"500": {"cold_ms": 700.4, "p50_ms": 1.234, "memory_mib": 85.0}})
    assert "| 500 | 700 | 1.23 | 85 |" in report.page(grown)
    said = "500   first callback after 700 ms, then 1.23 ms each, 85 MiB"
    assert said in report.text(grown)


def test_what_became_of_the_burst_is_told() -> None:
    burst = Burst(1_000, 12.34, 61.2, {"held": 990}, 998, 1, 1_200, "Azurite")
    assert "12.3 s, all in Dynamics after 61.2 s, 1 lost; queues: Azurite" in report.page(
        results(burst=vars(burst))
    )
    assert burst.lost == 1


def test_the_terminal_is_told_date_machine_pins_and_who_was_left_out() -> None:
    said = report.text(results(left_out={"express": "there is no Node.js here"}))
    for words in ("2026-01-02", "2 cores of <A & B>, 4 GiB", "not pinned", "there is no Node.js"):
        assert words in said


def test_a_load_that_was_the_limit_is_told() -> None:
    full = results()
    full["contestants"]["bare"]["medians"]["load_busy"] = 0.97
    assert "httpx: the load's core was full" in report.text(full)
    assert "core was full" not in report.text(results())


def test_the_plot_is_xml_and_names_everybody() -> None:
    root = ET.fromstring(report.svg(results()))  # noqa: S314 - written just now, here
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for each in LINEUP:
        assert words.count(each.label) == len(report.SHOWN)


def test_only_a_full_run_is_published(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    quick = list(report.write(results(complete=False), tmp_path, document))
    assert [path.name for path in quick] == ["quick.json", "quick.svg"]
    assert "stale" in document.read_text()
    readme = tmp_path / "README.md"
    readme.write_text("takes {}?{} in".format(*report.COST))
    full = list(report.write(results(), tmp_path, document, readme))
    names = ["latest.json", "latest.svg", "performance.md", "README.md"]
    assert [path.name for path in full] == names
    assert readme.read_text() == "takes {}25 ms{} in".format(*report.COST)
    assert report.fill(document.read_text(), results()) == document.read_text()
    assert "stale" not in document.read_text()


def test_the_page_shows_the_numbers_of_the_last_full_run() -> None:
    latest = report.RESULTS / "latest.json"
    measured = json.loads(latest.read_text("utf-8")) if latest.is_file() else None
    page = report.PAGE.read_text("utf-8")
    assert report.fill(page, measured) == page
    readme = report.README.read_text("utf-8")
    assert measured is None or report.fill_readme(readme, measured) == readme
    assert all(mark in readme for mark in report.COST)


def test_the_pages_show_the_last_outage_and_the_last_sizes() -> None:
    page = report.PAGE.read_text("utf-8")
    assert outage.fill(page, outage.read()) == page
    page = scale.PAGE.read_text("utf-8")
    assert scale.fill(page, scale.read()) == page


def test_no_code_of_an_outage_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "PATIENCE", 60.0)
    kinds = [outage.Kind("long", 600), outage.Kind("short", 1, errors=True)]
    found = outage.run("", 1.0, 0.3, kinds, QUICK_OUTBOX)
    assert [fate.lost for fate in found.fates.values()] == [0, 0]
    long, short = found.fates.values()
    assert long.told == {"held": long.callbacks}
    assert long.codes == long.callbacks
    assert short.codes + short.errors == short.callbacks
    assert "| 600 s | no |" in outage.text(found)


def test_every_size_is_set_up_and_gets_callbacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "CALLBACKS", 2)
    scale.main(["2", "1"])
    found = json.loads(capsys.readouterr().out)
    size = scale.Size(2, 1, 11, 800, **found)
    said = scale.text(scale.Scale("2026-01-02", [size], 12.4))
    assert "| 2 \N{MULTIPLICATION SIGN} 1 | 11 | 0.8 KiB |" in said
    assert "12 KiB" in said


def test_what_a_token_takes_is_measured_with_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with Authority() as authority:
        entra = Entra(clients={scale.CLIENT: scale.SECRET}, resources=map(scale.address, range(2)))
        with Server(entra.app, tls=authority.server_context()) as server:
            entra.url = server.url
            scale.main(["tokens", f"{server.url}/{entra.tenant}", str(authority.bundle), "2"])
    assert json.loads(capsys.readouterr().out).keys() == {"token_kib"}
    assert entra.token_requests == 2


def test_the_page_says_who_takes_part() -> None:
    page = report.PAGE.read_text("utf-8")
    for each in LINEUP:
        assert f"| {each.label} |" in page


def test_a_quick_run_is_smaller_in_every_way() -> None:
    assert QUICK.rounds < FULL.rounds
    assert QUICK.turns < FULL.turns
    assert FULL.rounds >= 5
    assert QUICK.first < FULL.first == 1_000
    assert QUICK.load_seconds < FULL.load_seconds
    assert not QUICK.burst


def test_the_start_imports_what_is_listed_and_nothing_else(apps: Apps) -> None:
    """A person waits for each import. A new name in the list is a decision: is it needed so early?

    The standard library is left out: its inner modules differ from one system to the next.
    """
    loaded = {
        name
        for name in imports.modules(apps)["modules"]
        if name.partition(".")[0] not in sys.stdlib_module_names
    }
    listed = set(IMPORTED.read_text("utf-8").split())
    assert sorted(loaded - listed) == [], "new"
    assert sorted(listed - loaded) == [], "no longer imported"


def test_every_refusal_is_measured_and_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refusals, "ROUNDS", 1)
    monkeypatch.setattr(refusals, "MOST_TIMES", 1_000)  # how long it takes is not looked at here
    assert command.main(["refusals"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(list(refusals.requests()))
