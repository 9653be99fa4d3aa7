"""What is deployed is what is tested: the folder of infra/scripts/package.py in a worker process.

The process sees that folder, its `.python_packages`, the worker's packages and nothing else.
"""

import asyncio
import json
import logging
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from azure.functions.meta import Datum
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from relay import settings_reader
from relay.oauth import state
from sandbox import entra
from sandbox.azurite import Azurite
from sandbox.demo import main
from sandbox.packages import SITE_PACKAGES, Deployment, unfit
from sandbox.target import Fault
from sandbox.tls import client_certificate
from sandbox.worker import Indexed
from sandbox.worker_channel import WorkerProcess, WorkerProcessError
from sandbox.world import CLIENT_ID, PASSWORD, USER, World
from tests.helpers import public_trust
from tests.outbox import QUICK, eventually
from tests.unit import test_jarm as jarm

pytestmark = pytest.mark.skipif(unfit() is not None, reason=str(unfit()))

INDEX = WorkerProcess.index
JSON = {"accept": "application/json"}
KEYS = f"k1:{'A' * 43}"
BODY = json.dumps(
    {
        "code": "{code}",
        "state": "{state_hash}",
        "code_verifier": "{code_verifier}",
        "redirect_uri": "{redirect_uri}",
    }
)
PROBE = """

@app.route("probe/{name}")
async def probe(req: func.HttpRequest) -> func.HttpResponse:
    import asyncio, importlib.util
    loop = type(asyncio.get_running_loop()).__module__
    there = importlib.util.find_spec(req.route_params["name"]) is not None
    return func.HttpResponse(f"{loop.partition('.')[0]} {there}")
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    with public_trust():
        return Deployment.built(tmp_path_factory.mktemp("deployment"))


def changed(
    deployment: Deployment, folder: Path, *, without: str = "", probe: str = ""
) -> Deployment:
    """Return the deployment without a package, or with more at the end of function_app.py."""
    app, packages = folder / "wwwroot", folder / "packages"
    shutil.copytree(deployment.directory, app, ignore=shutil.ignore_patterns(".python_packages"))
    packages.mkdir()
    for entry in deployment.packages.iterdir():
        if entry.name.partition("-")[0] != without:
            (packages / entry.name).symlink_to(entry)
    if probe:
        shutil.rmtree(app / "__pycache__")  # it is taken without a look at the source
        with (app / "function_app.py").open("a") as file:
            file.write(probe)
    return replace(deployment, directory=app, packages=packages)


class Stage:
    """A world whose relay is deployed, knows three connections, and has a certificate."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        files = client_certificate(folder, common_name="relay", password="canary~password")
        world.entra.certificates[CLIENT_ID] = [files.x509]
        keys = Starlette(routes=[Route("/keys", lambda _: JSONResponse({"keys": jarm.keys()}))])
        given = {name: value for name, value in world.settings.items() if "SECRET" not in name}
        self.settings = given | {
            "ENTRA_CLIENT_CERTIFICATE": str(files.pfx),
            "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "canary~password",
            "STATE_KEYS": KEYS,
            "CONNECTIONS__PLAIN__STATE_POLICY": "opaque",
            "CONNECTIONS__FLOW__STATE_POLICY": "signed",
            "CONNECTIONS__FLOW__DYNAMICS_BODY": BODY,
            "CONNECTIONS__FLOW__PROVIDER_CLIENT_ID": "dynamics-365",
            "CONNECTIONS__FLOW__PROVIDER_AUTHORIZATION_ENDPOINT": (
                f"{world.provider_server.url}/authorize"
            ),
            "CONNECTIONS__FLOW__PROVIDER_SCOPE": "profile",
            "CONNECTIONS__FLOW__PROVIDER_REDIRECT_URI": f"{world.redirect_uri}/flow",
            "CONNECTIONS__BANK__STATE_POLICY": "opaque",
            "CONNECTIONS__BANK__PROVIDER_ISSUER": jarm.ISSUER,
            "CONNECTIONS__BANK__PROVIDER_CLIENT_ID": jarm.CLIENT,
            "CONNECTIONS__BANK__PROVIDER_RESPONSE_MODE": "query.jwt",
            "CONNECTIONS__BANK__PROVIDER_JWKS_URI": f"{world.add(keys).url}/keys",
        }
        registration = world.provider.clients["dynamics-365"]
        world.provider.clients["dynamics-365"] = replace(
            registration, redirect_uris=(f"{world.redirect_uri}/flow",)
        )
        self.connections = settings_reader.read(self.settings).connections
        assert self.connections.problems == ()
        world.relay_server.stop()
        self.relay = world.serve(self.settings, port=world.relay_server.port)

    def ask(self, path: str, **parameters: str) -> httpx.Response:
        with self.world.client(headers=JSON) as client:
            return client.get(f"{self.relay.url}{path}", params=parameters)


@pytest.fixture(scope="module")
def stage(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    probing = changed(deployment, tmp_path_factory.mktemp("probing"), probe=PROBE)
    with World(deployment=probing, further=("code_verifier", "redirect_uri")) as world:
        yield Stage(world, tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def outbox(deployment: Deployment, azurite: Azurite) -> Iterator[World]:
    """A world whose relay is deployed as it is, and holds in Azurite what it cannot deliver."""
    with World(QUICK, storage=azurite.connection_string, deployment=deployment) as world:
        yield world


# -- the walk --------------------------------------------------------------------------------------


def test_a_callback_is_delivered_over_tls_with_a_certificate_as_the_credential(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = stage.ask("/callback/plain", code="canary-code", state="of-ada")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "delivered")
    assert stage.world.dynamics.rows["of-ada"]["code"] == "canary-code"
    [line] = [each for each in caplog.messages if each.startswith("callback delivered")]
    assert answer.json()["reference"] in line


def test_a_flow_that_begins_at_the_relay_ends_in_dynamics_with_its_cookie_and_its_state(
    stage: Stage,
) -> None:
    connection = stage.connections.get("flow")
    jti = secrets.token_urlsafe(16)
    ticket = state.mint_ticket(connection, jti, datetime.now(UTC), timedelta(minutes=5))
    form = {"username": USER, "password": PASSWORD, "decision": "allow"}
    with stage.world.client(headers={"accept": "text/html"}) as browser:
        begun = browser.get(f"{stage.relay.url}/authorize/flow", params={"ticket": ticket})
        assert begun.headers["set-cookie"].startswith("__Host-")
        provided = browser.post(begun.headers["location"], data=form)
        landed = browser.get(provided.headers["location"])
        assert landed.headers["location"].startswith("/done/delivered?")
        page = browser.get(urljoin(stage.relay.url, landed.headers["location"]))
        assert page.status_code == 200
    body = json.loads(stage.world.dynamics.requests[-1].body)
    assert len(body["code_verifier"]) >= 43

    # The same response in another browser has no cookie.
    with stage.world.client(headers=JSON) as stranger:
        begun = stranger.get(f"{stage.relay.url}/authorize/flow", params={"ticket": ticket})
        provided = stranger.post(begun.headers["location"], data=form)
        stranger.cookies.clear()
        assert stranger.get(provided.headers["location"]).json()["outcome"] == "invalid"


def test_a_response_that_the_provider_signed_is_unpacked(stage: Stage) -> None:
    claims = {"exp": int(time.time()) + 300, "state": "of-the-bank"}
    answer = stage.ask("/callback/bank", response=jarm.token("ES256", claims))
    assert answer.json()["outcome"] == "delivered"
    assert "of-the-bank" in stage.world.dynamics.rows
    forged = jarm.token("ES256", {**claims, "state": "forged"}, key="other")
    assert stage.ask("/callback/bank", response=forged).json()["outcome"] == "invalid"


def test_it_is_healthy(stage: Stage) -> None:
    answer = stage.ask("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_what_is_held_in_azurite_is_delivered_once_dynamics_is_back(outbox: World) -> None:
    outbox.dynamics.retry_after = 0
    outbox.dynamics.faults.append(Fault.UNAVAILABLE)
    with outbox.client(headers=JSON) as client:
        held = client.get(outbox.redirect_uri, params={"code": "canary-code", "state": "late"})
    assert (held.status_code, held.json()["outcome"]) == (202, "held")
    eventually(lambda: "late" in outbox.dynamics.rows)
    assert outbox.dynamics.rows["late"]["code"] == "canary-code"


# -- the log: the host takes the lines of running invocations only --------------------------------


def test_the_lines_of_the_gauge_reach_the_host(
    outbox: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    timer = Datum(json.dumps({"IsPastDue": False}), "json")
    asyncio.run(outbox.relay_host.invoke("gauge", [("timer", timer)], {}))
    told = [line.split()[2] for line in caplog.messages if line.startswith("gauge queue=")]
    assert told == ["kind=outbox", "kind=dead-letters", "kind=poison"]


def test_what_the_start_and_a_thread_have_to_tell_comes_with_the_next_invocation(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"CONNECTIONS__X__CODE_TTL": "soon"}
    with World(wrong, deployment=deployment) as world, world.client() as client:
        client.get(f"{world.relay_server.url}/health")
        assert [line for line in caplog.messages if "CONNECTIONS__X__CODE_TTL" in line]
        world.entra.mode = entra.Fault.THROTTLED
        client.get(world.redirect_uri, params={"code": "canary-code", "state": "unlucky"})
    why, outcome = [line for line in caplog.messages if "reason=AADSTS90055" in line]
    assert why.startswith("no token from Entra: ")
    assert outcome.startswith("callback rejected ")


def test_the_demonstration_walks_through_it(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "relay")  # which the demonstration leaves behind
    monkeypatch.setattr(Deployment, "built", lambda _: deployment)
    handed_over = []

    def index(process: WorkerProcess, directory: Path, given: Mapping[str, str]) -> list[Indexed]:
        handed_over.append(directory)
        return INDEX(process, directory, given)

    monkeypatch.setattr(WorkerProcess, "index", index)
    assert main(["--package"]) == 0
    assert "All six steps worked." in capsys.readouterr().out
    assert handed_over == [deployment.directory]


def test_the_demonstration_says_where_it_cannot_be_packed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["--package"]) == 2
    assert "Python 3.13 on Linux" in capsys.readouterr().err


# -- nothing else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["click", "rich", "pytest", "uvicorn", "starlette", "sandbox"])
def test_it_runs_on_uvloop_and_cannot_import_what_is_for_development(
    stage: Stage, name: str
) -> None:
    assert stage.ask(f"/probe/{name}").text == "uvloop False"
    assert stage.ask("/probe/httpx").text == "uvloop True"


def delivers(deployment: Deployment) -> bool:
    """Tell whether the app loads and a callback of it arrives."""
    try:
        with World(deployment=deployment) as world, world.client(headers=JSON) as client:
            answer = client.get(world.redirect_uri, params={"code": "canary-code", "state": "s"})
            assert (answer.status_code == 200) == ("s" in world.dynamics.rows)
            return answer.status_code == 200
    except WorkerProcessError:
        return False


@pytest.mark.parametrize("package", ["h11", "anyio", "msal"])
def test_a_package_that_requirements_txt_forgets_is_missed(
    deployment: Deployment, tmp_path: Path, package: str
) -> None:
    lame = changed(deployment, tmp_path, without=package)
    assert len(list(lame.packages.iterdir())) < len(list(deployment.packages.iterdir()))
    assert not delivers(lame)


def test_a_connection_attempt_with_what_only_plain_asyncio_knows_delivers_nothing(
    deployment: Deployment, tmp_path: Path
) -> None:
    broken = changed(deployment, tmp_path, without="anyio")
    anyio = broken.packages / "anyio"
    source = deployment.directory / SITE_PACKAGES / "anyio"
    shutil.copytree(source, anyio, ignore=shutil.ignore_patterns("__pycache__"))
    backend = anyio / "_backends" / "_asyncio.py"
    text = backend.read_text("utf-8")
    call = "StreamProtocol, host, port, local_addr=local_address"
    assert text.count(call) == 1
    backend.write_text(text.replace(call, f"{call}, happy_eyeballs_delay=0.25"), "utf-8")
    assert not delivers(broken)
    backend.write_text(text, "utf-8")
    assert delivers(broken)
