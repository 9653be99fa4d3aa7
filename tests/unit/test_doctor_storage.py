"""The doctor names what keeps callbacks from being held, and what lies in the queues."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import log
from relay.tools import doctor
from relay.tools.doctor.finding import Finding, Verdict
from relay.tools.storage_queues import EMULATOR_KEY
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.entra import Entra
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.serving import Hang, Server
from sandbox.tls import Authority
from tests.unit import doctor_sentences

NUMBERS = count(1)
KEY = "Y2FuYXJ5LWtleQ=="
CANARIES = ("canary", KEY, EMULATOR_KEY)
CHECKS = ("outbox", "storage", "queue", "poison", "dead", "message")
"""Those of this part of the doctor, in their order."""
ROLE = "Storage Queue Data Contributor"

type Settings = dict[str, str]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start in an empty folder, on a machine that is not Azure."""
    log.quiet()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)


@pytest.fixture
def settings(azurite: Azurite) -> Settings:
    return {
        "AzureWebJobsStorage": azurite.connection_string,
        "OUTBOX_QUEUE": f"outbox-{next(NUMBERS)}",
        "OUTBOX_KEYS": f"{'c' * 43}=",
    }


@dataclass
class Stage:
    """The queues of one test, as the host would fill them."""

    queues: AzureQueues
    outbox: str
    settings: Settings

    def fill(self, ending: str, number: int = 1) -> None:
        self.queues.create(self.outbox + ending)
        for _ in range(number):
            self.queues.send(self.outbox + ending, "c2VhbGVk")


@pytest.fixture
def stage(azurite: Azurite, settings: Settings) -> Iterator[Stage]:
    with closing(AzureQueues(azurite.connection_string)) as queues:
        yield Stage(queues, settings["OUTBOX_QUEUE"], settings)


def examine(settings: Mapping[str, str], *, write: bool = False) -> list[Finding]:
    """Return what the doctor finds out about the storage."""
    found = list(doctor.examine(settings, write=write))
    told = "".join(f"{finding}" for finding in found)
    assert not any(canary in told for canary in CANARIES)
    return [finding for finding in found if finding.check in CHECKS]


def troubles(found: list[Finding]) -> list[tuple[Verdict, str]]:
    return [(one.verdict, one.check) for one in found if one.verdict is not Verdict.OK]


def test_a_new_outbox_is_well_although_its_queues_are_not_there_yet(stage: Stage) -> None:
    found = examine(stage.settings)
    assert [one.check for one in found] == ["outbox", "storage", "queue", "poison", "dead"]
    assert troubles(found) == []
    assert f"there is no {stage.outbox} yet" in found[2].message
    assert stage.outbox not in stage.queues.names()


def test_a_used_outbox_is_well_when_all_was_delivered(stage: Stage) -> None:
    for ending in ("", "-poison", "-dead"):
        stage.fill(ending, 0)
    found = examine(stage.settings)
    assert troubles(found) == []
    assert found[2].message == f"{stage.outbox} holds nothing"


def test_what_is_held_just_now_is_counted_and_nothing_to_worry_about(stage: Stage) -> None:
    stage.fill("", 2)
    found = examine(stage.settings)
    assert troubles(found) == []
    assert found[2].message == f"{stage.outbox} holds 2"


def test_two_keys_that_are_rotated_are_well(stage: Stage) -> None:
    key = stage.settings["OUTBOX_KEYS"]
    for keys in (f"{key},{'d' * 43}=", f"{key},{key}"):
        assert troubles(examine(stage.settings | {"OUTBOX_KEYS": keys})) == []


def test_examining_changes_nothing_in_the_queues(stage: Stage) -> None:
    for ending in ("", "-poison", "-dead"):
        stage.fill(ending)
    before = {name: stage.queues.peek(name) for name in stage.queues.names()}
    examine(stage.settings)
    assert {name: stage.queues.peek(name) for name in stage.queues.names()} == before


@pytest.mark.parametrize("there", [True, False])
def test_a_message_is_written_where_no_function_sees_it_and_is_gone_again(
    stage: Stage, azurite: Azurite, *, there: bool
) -> None:
    if there:
        stage.fill("", 1)
    found = examine(stage.settings, write=True)
    assert found[-1] == Finding(Verdict.OK, "message", "one could be written and deleted")
    assert stage.queues.count(stage.outbox) == int(there)


# -- what is broken, and what is said of it --------------------------------------------------------


def no_setting(stage: Stage) -> None:
    del stage.settings["AzureWebJobsStorage"]


def not_understood(stage: Stage) -> None:
    stage.settings["AzureWebJobsStorage"] = "canary"


def unresolved(stage: Stage) -> None:
    stage.settings["AzureWebJobsStorage"] = "@Microsoft.KeyVault(SecretUri=https://canary)"


def forbidden(stage: Stage) -> None:
    stage.settings["AzureWebJobsStorage"] = stage.settings["AzureWebJobsStorage"].replace(
        EMULATOR_KEY, KEY
    )


def unreachable(stage: Stage) -> None:
    stage.settings["AzureWebJobsStorage"] = (
        f"AccountName=canary;AccountKey={KEY};QueueEndpoint=https://canary.invalid"
    )


def nothing_here(stage: Stage) -> None:
    stage.settings["AzureWebJobsStorage"] = (
        f"AccountName=canary;AccountKey={KEY};QueueEndpoint=http://127.0.0.1:1"
    )


def emulator_in_azure(stage: Stage) -> None:
    stage.settings |= {
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "WEBSITE_INSTANCE_ID": "1",
    }


def no_identity_here(stage: Stage) -> None:
    no_setting(stage)
    stage.settings["AzureWebJobsStorage__accountName"] = "contoso"


def no_keys(stage: Stage) -> None:
    del stage.settings["OUTBOX_KEYS"]


def poisoned(stage: Stage) -> None:
    stage.fill("-poison", 2)


def dead(stage: Stage) -> None:
    stage.fill("-dead")


@pytest.mark.parametrize(
    ("breaks", "verdict", "check", "wrong", "fix"),
    [
        (no_setting, "fail", "storage", "AzureWebJobsStorage is not set", "connection string"),
        (not_understood, "fail", "storage", "no connection string", "connection string"),
        (unresolved, "fail", "storage", "not resolved", "Environment variables"),
        (forbidden, "fail", "storage", "key in AzureWebJobsStorage is wrong", "Access keys"),
        (unreachable, "fail", "storage", "cannot be reached", "DNS"),
        (nothing_here, "fail", "storage", "nothing answers", "Start Azurite"),
        (emulator_in_azure, "fail", "storage", "Azure does not have", "accountName"),
        (no_identity_here, "skip", "storage", "this machine has none", "doctor --app NAME"),
        (no_keys, "warn", "outbox", "OUTBOX_KEYS is not set", "python -m relay keygen"),
        (poisoned, "warn", "poison", "gave up 2 callbacks", "OUTBOX_KEYS"),
        (dead, "warn", "dead", "1 callback will never reach", "python -m relay dead-letters"),
    ],
)
def test_exactly_the_cause_is_named_with_its_fix(
    stage: Stage, breaks: Callable[[Stage], None], verdict: str, check: str, wrong: str, fix: str
) -> None:
    breaks(stage)
    found = examine(stage.settings)
    assert troubles(found) == [(Verdict(verdict), check)]
    (trouble,) = [one for one in found if one.verdict is not Verdict.OK]
    assert wrong in trouble.message
    assert fix in trouble.fix
    assert trouble.connection is None
    doctor_sentences.assert_told(f"storage: {breaks.__name__}", trouble)


# -- Azure's own refusals, which Azurite does not have ---------------------------------------------


@dataclass
class Storage:
    """A queue service that refuses, or shows one old message."""

    status: int = 200
    code: str = ""
    age: timedelta = timedelta(0)
    hangs: bool = False
    deletes: bool = True
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def serve(self, request: Request) -> Response:
        self.asked.append((request.method, dict(request.query_params)))
        if self.hangs:
            return Hang()
        if request.method == "DELETE":
            return Response(status_code=204 if self.deletes else 503)
        if self.status != 200:
            headers = {"x-ms-error-code": self.code} if self.code else {}
            return Response("<Error>canary</Error>", self.status, headers)
        if request.url.path.endswith("/messages"):
            inserted = format_datetime(datetime.now(UTC) - self.age, usegmt=True)
            return Response(
                "\ufeff<QueueMessagesList><QueueMessage><MessageId>1</MessageId>"
                f"<InsertionTime>{inserted}</InsertionTime>"
                f"<ExpirationTime>{inserted}</ExpirationTime><PopReceipt>r</PopReceipt>"
                "<MessageText>canary</MessageText></QueueMessage></QueueMessagesList>",
                status_code=201 if request.method == "POST" else 200,
                media_type="application/xml",
            )
        if request.method == "PUT":
            return Response(status_code=201)
        held = "0" if request.url.path.endswith(("-poison", "-dead")) else "1"
        return Response(headers={"x-ms-approximate-messages-count": held})

    @property
    def app(self) -> Starlette:
        methods = ["GET", "PUT", "POST", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self.serve, methods=methods)])


def fake(url: str, way: str = f"AccountKey={KEY}") -> Settings:
    return {
        "AzureWebJobsStorage": f"AccountName=contoso;{way};QueueEndpoint={url}",
        "OUTBOX_KEYS": f"{'c' * 43}=",
    }


SAS = "SharedAccessSignature=sv=1&sig=canary"


@pytest.mark.parametrize(
    ("way", "status", "code", "wrong", "fix"),
    [
        (f"AccountKey={KEY}", 403, "KeyBasedAuthenticationNotPermitted", "no account keys", ROLE),
        (f"AccountKey={KEY}", 403, "AuthorizationFailure", "this network", "Networking"),
        (f"AccountKey={KEY}", 403, "AccountIsDisabled", "refuses (HTTP 403)", "Networking"),
        (f"AccountKey={KEY}", 403, "canary canary", "refuses (HTTP 403)", "Networking"),
        (f"AccountKey={KEY}", 503, "ServerBusy", "just now (HTTP 503)", "Wait a minute"),
        (f"AccountKey={KEY}", 404, "", "no queue storage (HTTP 404)", "account's name"),
        (SAS, 403, "AuthenticationFailed", "has expired", "identity"),
        (SAS, 403, "AuthorizationPermissionMismatch", "does not allow enough", "all permissions"),
        (SAS, 403, "AuthorizationFailure", "this network", "Networking"),
    ],
)
def test_a_refusal_of_azure_is_explained(
    way: str, status: int, code: str, wrong: str, fix: str
) -> None:
    with Server(Storage(status, code).app) as server:
        found = examine(fake(server.url, way))
    assert troubles(found) == [(Verdict.FAIL, "storage")]
    assert wrong in found[-1].message
    assert fix in found[-1].fix
    kind = "signature" if way == SAS else "key"
    doctor_sentences.assert_told(f"storage: {kind}, HTTP {status} {code}", found[-1])


def test_a_storage_that_hangs_is_said_not_to_answer_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT", 0.5)
    with Server(Storage(hangs=True).app) as server:
        found = examine(fake(server.url))
    assert troubles(found) == [(Verdict.FAIL, "storage")]
    assert "does not answer in time" in found[-1].message


@pytest.mark.parametrize(
    ("minutes", "spoken"), [(4, None), (7, "7 minutes"), (119, "119 minutes"), (300, "5 hours")]
)
def test_an_old_message_in_the_outbox_is_warned_of_with_its_age(
    minutes: int, spoken: str | None
) -> None:
    with Server(Storage(age=timedelta(minutes=minutes, seconds=5)).app) as server:
        found = examine(fake(server.url))
    assert troubles(found) == ([(Verdict.WARN, "queue")] if spoken else [])
    if spoken:
        assert f"held for {spoken}" in found[2].message
        assert "redeliver" in found[2].fix


def test_a_storage_account_in_azure_is_well() -> None:
    with Server(Storage().app) as server:
        found = examine(fake(server.url) | {"WEBSITE_INSTANCE_ID": "1"})
    assert troubles(found) == []


def test_reading_asks_for_nothing_but_reading() -> None:
    storage = Storage()
    with Server(storage.app) as server:
        examine(fake(server.url))
    assert {method for method, _ in storage.asked} == {"GET"}


@pytest.mark.parametrize("deletes", [True, False])
def test_the_doctors_own_message_ends_with_its_hiding_even_if_deleting_fails(
    *, deletes: bool
) -> None:
    storage = Storage(deletes=deletes)
    with Server(storage.app) as server:
        found = examine(fake(server.url), write=True)
    assert troubles(found) == ([] if deletes else [(Verdict.FAIL, "storage")])
    (written,) = [query for method, query in storage.asked if method == "POST"]
    assert int(written["visibilitytimeout"]) >= 600
    # The service wants its life to be longer.
    assert int(written["messagettl"]) == int(written["visibilitytimeout"]) + 1


# -- an identity -----------------------------------------------------------------------------------

IDENTITY = Identity("11111111-2222-3333-4444-555555555555", "principal")
STORAGE = "https://storage.azure.com/"


@pytest.mark.parametrize(
    ("status", "code", "client_id", "trouble", "fix"),
    [
        (200, "", IDENTITY.client_id, None, ""),
        (403, "AuthorizationPermissionMismatch", IDENTITY.client_id, "has no role", ROLE),
        (403, "AuthorizationFailure", IDENTITY.client_id, "this network", "Networking"),
        (403, "AuthenticationFailed", IDENTITY.client_id, "the identity's token", "same tenant"),
        (200, "", "22222222-2222-3333-4444-555555555555", "does not have the identity", "Assign"),
        (200, "", "", "does not have the identity", "Assign"),
    ],
)
def test_an_identity_that_opens_the_storage_is_examined_too(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    client_id: str,
    trouble: str | None,
    fix: str,
) -> None:
    entra = Entra(clients={}, resources=[STORAGE])
    endpoint = IdentityEndpoint(entra, [IDENTITY])
    with (
        Authority() as authority,
        Server(entra.app, tls=authority.server_context()),
        Server(endpoint.app) as platform,
        Server(Storage(status, code).app, tls=authority.server_context()) as server,
    ):
        for name, value in endpoint.environment(platform.url).items():
            monkeypatch.setenv(name, value)
        found = examine(
            {
                "AzureWebJobsStorage__queueServiceUri": server.url,
                "AzureWebJobsStorage__credential": "managedidentity",
                "AzureWebJobsStorage__clientId": client_id,
                "OUTBOX_KEYS": f"{'c' * 43}=",
                "CA_BUNDLE": str(authority.bundle),
            }
        )
    assert troubles(found) == ([(Verdict.FAIL, "storage")] if trouble else [])
    if trouble:
        assert trouble in found[-1].message
        assert fix in found[-1].fix
