"""`--app`: what is wrong with a deployed app is named at a desk without the app's identity.

Apps, Entra, Dynamics and Resource Manager are the sandbox's, the queues are an Azurite's. An app
whose settings are right runs in the Functions host. Of those with a mistake only the function
`examine` runs: a host takes a second to start, and tests/walk/test_examine.py has that way.
"""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.delivery.sealing import DeadLetter
from relay.tools import examination
from relay.tools.azure_app import Desk
from relay.tools.commands import main
from relay.tools.doctor.finding import Finding, Verdict
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.resource_manager import ResourceManager, SignedIn, Site
from sandbox.serving import Server
from sandbox.target import Fault
from sandbox.world import CLIENT_SECRET, World
from tests.outbox import QUICK

NUMBERS = count(1)
APP = "contoso-relay"
PATIENCE = 60
"""Seconds after which a request that nobody writes is no longer waited for."""
IDENTITY = Identity("11111111-2222-3333-4444-555555555555", "aaaaaaaa-0000-0000-0000-000000000001")


class Stage(NamedTuple):
    world: World
    queues: AzureQueues
    manager: ResourceManager
    desk: Desk
    identity: dict[str, str]
    served: list[Server]
    triggers: list[threading.Thread]

    def describe(self, **changes: str) -> Site:
        """Describe an app with these settings and its queues as Bicep makes them; start none."""
        outbox = f"outbox-{next(NUMBERS)}"
        settings = self.world.settings | {"OUTBOX_QUEUE": outbox} | changes
        self.queues.create(f"{outbox}-doctor")
        self.queues.create(f"{outbox}-doctor-report")
        site = Site(APP, settings)
        self.manager.sites = [site]
        return site

    def deploy(self, **changes: str) -> Site:
        """Describe an app with these settings, whose function `examine` runs."""
        site = self.describe(**changes)
        trigger = threading.Thread(target=self._examine, args=[site.settings], daemon=True)
        self.triggers.append(trigger)
        trigger.start()
        return site

    def _examine(self, settings: Mapping[str, str]) -> None:
        """Answer one request, as the host's queue trigger does."""
        outbox, end = settings["OUTBOX_QUEUE"], time.monotonic() + PATIENCE
        while not (found := self.queues.receive(f"{outbox}-doctor", 1, hidden=60)):
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        self.queues.delete(f"{outbox}-doctor", found[0])
        body, now = base64.b64decode(found[0].text), datetime.now(UTC)
        examined = examination.run(body, settings, asyncio.Lock(), dequeued=1, inserted=now)
        for part in asyncio.run(examined):
            text = base64.b64encode(part.encode()).decode()
            self.queues.send(f"{outbox}-doctor-report", text)

    def host(self) -> Site:
        """Describe an app whose settings are right, and start it in the Functions host."""
        site = self.describe()
        self.served.append(self.world.serve(site.settings))
        return site


@pytest.fixture(scope="module")
def stages(azurite: Azurite) -> Iterator[Stage]:
    with (
        pytest.MonkeyPatch.context() as environment,
        World(QUICK, storage=azurite.connection_string) as world,
        closing(AzureQueues(azurite.connection_string)) as queues,
    ):
        world.relay_server.begin_to_stop()  # its triggers would go on asking the storage
        # Each app and each command would read the machine's own authorities, and need none.
        environment.setenv("SSL_CERT_FILE", world.settings["CA_BUNDLE"])
        manager = ResourceManager()
        desk = Desk(SignedIn(), world.add(manager.app).url)
        endpoint = IdentityEndpoint(world.entra, [IDENTITY])
        identity = endpoint.environment(world.add(endpoint.app, tls=False).url)
        yield Stage(world, queues, manager, desk, identity, [], [])


@pytest.fixture
def stage(stages: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """Sit at a desk: nothing but the operator's own sign-in and the trust for the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CA_BUNDLE", stages.world.settings["CA_BUNDLE"])
    yield stages
    stages.world.dynamics.faults.clear()
    for server in stages.served:
        server.begin_to_stop()
    stages.served.clear()
    for trigger in stages.triggers:
        trigger.join()
    stages.triggers.clear()


def doctor(
    stage: Stage, capsys: pytest.CaptureFixture[str], *options: str, patience: float = 60
) -> list[dict[str, Any]]:
    main(["doctor", "--app", APP, "--json", *options], desk=stage.desk, patience=patience)
    said = capsys.readouterr()
    assert CLIENT_SECRET not in said.out + said.err
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


class Row(NamedTuple):
    """A set-up with one mistake, and what is said of it."""

    broken: Callable[[Stage], object]
    verdict: str
    check: str
    message: str
    fix: str


def stopped(stage: Stage) -> None:
    stage.describe().state = "Stopped"


def without_queue(stage: Stage) -> None:
    stage.describe().settings["OUTBOX_QUEUE"] = "another"


def forbidden(stage: Stage) -> None:
    site = stage.describe()
    text = site.settings["AzureWebJobsStorage"]
    wrong = "AccountKey=" + base64.b64encode(b"canary").decode()
    site.settings["AzureWebJobsStorage"] = ";".join(
        wrong if part.startswith("AccountKey=") else part for part in text.split(";")
    )


async def refuse(_: Request) -> Response:
    """Answer as a storage account whose Networking leaves the caller out."""
    text = "<Error><Code>AuthorizationFailure</Code><Message>No.</Message></Error>"
    headers = {"x-ms-error-code": "AuthorizationFailure"}
    return Response(text, 403, headers, media_type="application/xml")


def shut_out(stage: Stage) -> None:
    # Over TLS of a private authority, which the desk trusts by its CA_BUNDLE.
    storage = Starlette(routes=[Route("/{path:path}", refuse, methods=["GET", "POST"])])
    address = f"QueueEndpoint={stage.world.add(storage).url}/contoso"
    stage.describe(AzureWebJobsStorage=f"AccountName=contoso;AccountKey=Y2FuYXJ5;{address}")


def asleep(stage: Stage) -> None:
    stage.describe(**{"AzureWebJobs.examine.Disabled": "true"})


def dynamics(fault: Fault) -> Callable[[Stage], None]:
    def broken(stage: Stage) -> None:
        stage.world.dynamics.faults.extend([fault] * 20)
        stage.deploy()

    return broken


def keys_fail(stage: Stage) -> None:
    front = stage.world.serve(stage.world.settings | {"OUTBOX_QUEUE": f"front-{next(NUMBERS)}"})
    stage.served.append(front)
    stage.world.relay_host.keys_fail = True
    stage.deploy(WEBSITE_HOSTNAME=urlsplit(front.url).netloc)


def deployed(**changes: str) -> Callable[[Stage], object]:
    return lambda stage: stage.deploy(**changes)


MISSPELT = {"CONNECTIONS__XERO__DYNAMICS_URI": "https://canary.example/data/X"}
TABLE = {
    "a wrong secret": Row(
        deployed(ENTRA_CLIENT_SECRET="canary"),
        "fail", "credential", "the client secret is wrong", "Secret ID",
    ),
    "an identity that is not assigned": Row(
        deployed(
            ENTRA_CLIENT_SECRET="",
            ENTRA_MANAGED_IDENTITY_CLIENT_ID="22222222-2222-3333-4444-555555555555",
        ),
        "fail", "credential", "does not have this managed identity", "Assign the identity",
    ),
    "a federated credential that nobody made": Row(
        deployed(ENTRA_CLIENT_SECRET="", ENTRA_MANAGED_IDENTITY_CLIENT_ID=IDENTITY.client_id),
        "fail", "credential", "federated credential", "Federated credentials",
    ),
    "a misspelt setting of a connection": Row(
        deployed(**MISSPELT),
        "fail", "settings", "CONNECTIONS__XERO__DYNAMICS_URI", "the nearest is DYNAMICS_URL",
    ),
    "no keys for the outbox": Row(
        deployed(OUTBOX_KEYS=""), "warn", "outbox", "OUTBOX_KEYS is not set", "keygen",
    ),
    "Dynamics is down": Row(
        dynamics(Fault.UNAVAILABLE),
        "fail", "target", "not available just now", "Wait some minutes",
    ),
    "a host that cannot load its keys": Row(
        keys_fail, "fail", "health", "cannot load its keys", "Blob storage",
    ),
    "web server logs": Row(
        deployed(WEBSITE_HTTPLOGGING_ENABLED="1"),
        "fail", "platform", "logs the address of each callback", "App Service logs",
    ),
    "an app that is stopped": Row(stopped, "fail", "app", "is stopped", "az functionapp start"),
    "no queue for the doctor": Row(
        without_queue, "fail", "examine", "another-doctor is not there", "Upgrade it",
    ),
    "a sign-in without the role": Row(
        forbidden, "fail", "examine", "may not use the doctor's queues", "Message Sender on outbox",
    ),
    "a desk that the storage does not let in": Row(
        shut_out, "fail", "storage", "lets nobody in from this network", "Networking",
    ),
    "the function is disabled": Row(
        asleep, "fail", "platform", "the function examine is disabled", "Enable it",
    ),
    "no storage": Row(
        lambda stage: stage.describe().settings.pop("AzureWebJobsStorage"),
        "fail", "storage", "AzureWebJobsStorage is not set", "accountName",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE.values(), ids=list(TABLE))
def test_each_mistake_of_a_deployed_app_is_named_at_the_desk(
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
) -> None:
    # The app's identity is in its process alone; here the app is in this process.
    for name, value in stage.identity.items():
        monkeypatch.setenv(name, value)
    row.broken(stage)
    found = doctor(stage, capsys, patience=0.1 if row.broken is asleep else 60)
    told = [each for each in found if (each["verdict"], each["check"]) == (row.verdict, row.check)]
    assert any(row.message in each["message"] and row.fix in each["fix"] for each in told), found
    if row.verdict == "fail" and row.check != "platform":
        assert {each["check"] for each in found if each["verdict"] == "fail"} == {row.check}


def test_a_person_reads_one_report_in_its_frame(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.host()
    assert main(["doctor", "--app", APP], desk=stage.desk) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"looks at  {APP} in relay, from inside of Azure"
    assert "default" in lines
    assert "the whole app" in lines
    assert lines[-1].startswith(("next", "      "))


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda sites: sites.clear(), (), "no Function App contoso-relay"),
        (
            lambda sites: sites.append(Site(APP, {}, "another")),
            (),
            "several Function Apps are called contoso-relay",
        ),
        (lambda sites: None, ("--resource-group", "nowhere"), "no Function App"),
        (
            lambda sites: setattr(sites[0], "readable", False),
            (),
            "your sign-in may not read the settings",
        ),
    ],
)
def test_an_app_that_cannot_be_found_or_read_is_told_with_the_next_step(
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Site]], None],
    options: tuple[str, ...],
    said: str,
) -> None:
    stage.manager.sites = [Site(APP, {})]
    change(stage.manager.sites)
    assert main(["doctor", "--app", APP, *options], desk=stage.desk) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_a_sign_in_it_says_how_to_sign_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--app", APP]) == 1
    assert "run az login" in capsys.readouterr().err


def test_two_operators_at_once_get_their_own_report_and_leave_no_message(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = stage.host().settings["OUTBOX_QUEUE"]
    # What others left, and what is no report, is in nobody's way.
    for text in (
        *examination.parts("f" * 16, [Finding(Verdict.FAIL, "x", "of another")]),
        "canary",
        "{}",
    ):
        stage.queues.send(f"{outbox}-doctor-report", base64.b64encode(text.encode()).decode())
    codes: list[int] = []

    def ask() -> None:
        codes.append(main(["doctor", "--app", APP], desk=stage.desk))

    both = [threading.Thread(target=ask) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert codes == [0, 0]
    said = capsys.readouterr().out
    assert "of another" not in said
    assert said.count("they validate") == 2
    assert stage.queues.count(f"{outbox}-doctor-report") == 3
    assert stage.queues.count(f"{outbox}-doctor") == 0


def test_the_dead_letters_of_an_app_are_read_with_the_operators_rights(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = stage.describe().settings["OUTBOX_QUEUE"]
    stamp = "2026-11-21T12:00:00Z"
    letter = DeadLetter(
        reference="0123456789abcdef",
        connection="default",
        delivery_id="0" * 32,
        state="s",
        reason="expired",
        attempts=3,
        first=stamp,
        last=stamp,
    )
    stage.queues.create(f"{outbox}-dead")
    text = base64.b64encode(json.dumps(asdict(letter)).encode()).decode()
    stage.queues.send(f"{outbox}-dead", text)
    assert main(["dead-letters", "--app", APP], desk=stage.desk) == 0
    assert "0123456789abcdef" in capsys.readouterr().out
