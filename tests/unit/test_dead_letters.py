"""`dead-letters` lists what will never reach Dynamics, for a person and for a program."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.delivery.sealing import DeadLetter
from relay.tools.commands import main
from relay.tools.storage_queues import EMULATOR_KEY, PEEK
from sandbox import dynamics
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.serving import Server
from sandbox.tls import Authority
from sandbox.world import World
from tests.outbox import QUICK, eventually

NUMBERS = count(1)
KEY = "Y2FuYXJ5LWtleQ=="
CODE, STATE = "canary-code", "state-of-ada"


@pytest.fixture
def queues(azurite: Azurite) -> Iterator[AzureQueues]:
    with closing(AzureQueues(azurite.connection_string)) as queues:
        yield queues


@pytest.fixture
def outbox(azurite: Azurite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Start in an empty folder, with an outbox of its own."""
    monkeypatch.chdir(tmp_path)
    name = f"outbox-{next(NUMBERS)}"
    monkeypatch.setenv("AzureWebJobsStorage", azurite.connection_string)
    monkeypatch.setenv("OUTBOX_QUEUE", name)
    return name


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    return DeadLetter(
        **{
            "reference": f"{number:016x}",
            "connection": "default",
            "delivery_id": f"{number:032x}",
            "state": f"state-{number}",
            "reason": "dynamics_403",
            "attempts": 7,
            "first": "2026-11-21T12:00:00Z",
            "last": f"2026-11-21T12:{number:02}:00Z",
            **changes,
        }
    )


def put(queues: AzureQueues, queue: str, *texts: str) -> None:
    """Write as the host does: laid out anew, and in base64."""
    queues.create(queue)
    for text in texts:
        queues.send(queue, base64.b64encode(text.encode()).decode())


def laid_out(dead: DeadLetter) -> str:
    return json.dumps(asdict(dead), indent=2)


@pytest.mark.parametrize("exists", [True, False])
def test_when_nothing_is_dead_it_says_none(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str], *, exists: bool
) -> None:
    if exists:
        queues.create(f"{outbox}-dead")
    assert main(["dead-letters"]) == 0
    assert capsys.readouterr().out == "none\n"
    assert main(["dead-letters", "--json"]) == 0
    nothing = {"dead_letters": [], "unreadable": 0, "more": 0, "poison": 0}
    assert json.loads(capsys.readouterr().out) == nothing


def test_a_person_reads_a_table_with_the_oldest_first_and_no_state(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = [
        letter(1),
        letter(2, connection="bank-one", reason="expired", attempts=12),
        letter(3, environment="uat"),
    ]
    put(queues, f"{outbox}-dead", *map(laid_out, letters))
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "given up (UTC)   connection     reference        tries  reason",
        "2026-11-21 12:01 default        0000000000000001     7  dynamics_403",
        "2026-11-21 12:02 bank-one       0000000000000002    12  expired",
        "2026-11-21 12:03 default/uat    0000000000000003     7  dynamics_403",
        "",
        "--json also has each state, by which Dynamics knows the person.",
        "",
        "dynamics_403: 400: the body does not fit, or its own check refuses. 403: the",
        "user may not create. 404: nothing at DYNAMICS_URL. held are 429 (throttled),",
        "408, 425, 5xx (down, or an exception in X++, AL or a plug-in) and the refusals",
        "that pass (docs/operate.md). Next: python -m relay doctor, then the page of your",
        "target.",
        "expired: the code came to its end while it was held. Next: let the person start",
        "again.",
    ]
    assert "state-1" not in out


def test_a_program_reads_everything_that_a_dead_letter_says(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = [letter(1), letter(2)]
    put(queues, f"{outbox}-dead", *map(laid_out, letters))
    assert main(["dead-letters", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [DeadLetter(**each) for each in found["dead_letters"]] == letters
    assert found["more"] == 0


def test_how_many_more_there_are_is_said_because_a_queue_shows_its_first_only(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    put(queues, f"{outbox}-dead", *(laid_out(letter(number)) for number in range(PEEK + 3)))
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert out.count("  dynamics_403") == PEEK
    assert "About 3 more: a queue shows its first 32 only; --all receives them." in out
    assert main(["dead-letters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["more"] == 3
    assert main(["dead-letters", "--all"]) == 0
    out = capsys.readouterr().out
    assert out.count("  dynamics_403") == PEEK + 3
    assert "more" not in out


def test_the_poison_is_counted_and_stays_sealed(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    put(queues, f"{outbox}-poison", "gAAAA-canary", "gAAAA-canary")
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("none\n")
    assert f"{outbox}-poison holds about 2, sealed." in out
    assert "canary" not in out
    assert main(["dead-letters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["poison"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "canary",
        "[]",
        "{}",
        "null",
        '{"reference": "canary"}',
        json.dumps(asdict(letter()) | {"attempts": "canary"}),
        json.dumps(asdict(letter()) | {"state": None}),
        json.dumps(asdict(letter()) | {"canary": ""}),
        "[" * 20_000,
    ],
)
def test_what_somebody_else_wrote_is_counted_and_not_shown(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    put(queues, f"{outbox}-dead", text, laid_out(letter()))
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert f"1 in {outbox}-dead cannot be read" in out
    assert "0000000000000001" in out
    assert "canary" not in out


def test_no_letter_writes_to_the_terminal_or_breaks_the_table(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    long = letter(
        reference="r" * 90,
        connection="c" * 90,
        reason="\x1b[2J\x07" + "e" * 90,
        attempts=10**30,
        last="\r\n2026" + "9" * 90,
    )
    put(queues, f"{outbox}-dead", laid_out(long))
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "ccccccccccccc… " in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_reading_leaves_all_of_it_in_the_queues(
    outbox: str, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    put(queues, f"{outbox}-dead", laid_out(letter()))
    before = queues.peek(f"{outbox}-dead")
    main(["dead-letters"])
    assert queues.peek(f"{outbox}-dead") == before
    capsys.readouterr()


@pytest.mark.parametrize(
    ("setting", "wrong", "fix"),
    [
        ("", "AzureWebJobsStorage is not set", "connection string"),
        ("canary", "no connection string", "connection string"),
        ("wrong key", "account key in AzureWebJobsStorage is wrong", "Access keys"),
        (f"AccountName=a;AccountKey={KEY};QueueEndpoint=http://127.0.0.1:1", "nothing", "Azurite"),
    ],
)
def test_a_storage_that_cannot_be_read_is_an_error_with_the_next_step(
    outbox: str,
    azurite: Azurite,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    wrong: str,
    fix: str,
) -> None:
    if setting == "wrong key":
        setting = azurite.connection_string.replace(EMULATOR_KEY, KEY)
    monkeypatch.setenv("AzureWebJobsStorage", setting)
    assert main(["dead-letters"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert all(len(line) <= 80 for line in said.err.splitlines())
    assert wrong in " ".join(said.err.split())
    assert fix in " ".join(said.err.split())
    assert not any(secret in said.err for secret in ("canary", KEY, EMULATOR_KEY))


def empty(_: Request) -> Response:
    """Answer as a storage account whose queues the host has not made yet."""
    text = "<Error><Code>QueueNotFound</Code><Message>There is none.</Message></Error>"
    headers = {"x-ms-error-code": "QueueNotFound"}
    return Response(text, 404, headers, media_type="application/xml")


def test_a_storage_behind_a_private_authority_is_read_with_ca_bundle(
    outbox: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Starlette(routes=[Route("/{path:path}", empty)])
    with Authority() as authority, Server(storage, tls=authority.server_context()) as server:
        account = f"AccountName=contoso;AccountKey={KEY};QueueEndpoint={server.url}/contoso"
        monkeypatch.setenv("AzureWebJobsStorage", account)
        assert main(["dead-letters"]) == 1
        assert "nothing answers" in capsys.readouterr().err
        monkeypatch.setenv("CA_BUNDLE", str(authority.bundle))
        assert main(["dead-letters"]) == 0
        assert capsys.readouterr().out == "none\n"


def test_an_identity_is_not_looked_for_where_there_is_none(
    outbox: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AzureWebJobsStorage")
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    monkeypatch.setenv("AzureWebJobsStorage__accountName", "contoso")
    assert main(["dead-letters"]) == 1
    assert "this machine has none" in capsys.readouterr().err


def test_the_letter_of_a_callback_that_dynamics_refused_is_found(
    outbox: str, azurite: Azurite, queues: AzureQueues, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the browser's callback through the host's queues to the operator's terminal."""
    quick = {**QUICK, "OUTBOX_QUEUE": outbox}
    with World(quick, storage=azurite.connection_string) as world, world.client() as client:
        world.dynamics.retry_after = 0
        world.dynamics.faults.extend([dynamics.Fault.UNAVAILABLE, *[dynamics.Fault.FORBIDDEN] * 3])
        held = client.get(world.redirect_uri, params={"code": CODE, "state": STATE}).json()
        assert held["outcome"] == "held"
        dead = f"{outbox}-dead"
        eventually(lambda: dead in queues.names() and queues.count(dead))
    assert main(["dead-letters"]) == 0
    out = capsys.readouterr().out
    assert held["reference"] in out
    assert "dynamics_403" in out
    assert main(["dead-letters", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["dead_letters"][0]["state"] == STATE
    assert CODE not in out
