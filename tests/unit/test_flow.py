"""The story of one callback: what is done in which order, and how it ends."""

import asyncio
import dataclasses
import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from relay.connections import Connection, Connections, Provider
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.errors import (
    CredentialRefused,
    Misconfigured,
    Rejected,
    RelayError,
    Unauthorized,
    Unavailable,
)
from relay.flow import Relay
from relay.oauth.request import Request
from relay.outcome import Answer
from relay.ports import Receipt
from tests.fakes import Clock, Dynamics, Entra, Keys
from tests.helpers import CANARY, CODE, FORM, STATE, TOKEN, connection, get, post

NOON = datetime(2027, 3, 4, 12, 0, 0, tzinfo=UTC)
OUTBOX_KEY = "A" * 43 + "="
WITH_ERROR = '{"state": "{state}", "code": "{code}", "error": "{error}"}'
LINE = re.compile(
    r"callback (?P<outcome>[a-z]+) connection=(?P<connection>[a-z0-9-]+) "
    r"reference=(?P<reference>[0-9a-f]{16}) delivery_id=(?P<delivery_id>[0-9a-f]{32}|-) "
    r"attempt=1 duration_ms=\d+ dynamics_status=(?P<dynamics_status>\d{3}|-)"
    r"( states=unsigned)?( reason=(?P<reason>[A-Za-z0-9_]+))?"
)


class Stage:
    """A relay among its helpers."""

    def __init__(
        self,
        *answers: Receipt | Exception,
        where: Connection | None = None,
        entra: Entra | None = None,
        closed_for: float = 0.0,
        outbox: bool = False,
    ) -> None:
        self.entra = entra or Entra()
        self.dynamics = Dynamics(pauses=[closed_for])
        if answers:
            self.dynamics.answers = list(answers)
        self.clock = Clock()
        where = where or connection()
        problems = ("CODE_TTL: expected seconds",)
        self.connections = Connections(
            {where.name: where, "broken": Misconfigured(problems)}, problems
        )
        self.relay = Relay(
            self.connections,
            self.entra,
            self.dynamics,
            Keys(),
            deliveries=SingleFlight[Receipt](clock=self.clock),
            sealer=Sealer([OUTBOX_KEY]) if outbox else None,
            now=lambda: NOON,
        )

    async def receive(self, request: Request | None = None, name: str = "default") -> Answer:
        return await self.relay.receive(name, request or SENT)

    @property
    def untouched(self) -> bool:
        """Tell whether neither Entra nor Dynamics has heard of anything."""
        return not self.entra.asked and not self.dynamics.posted


SENT = get({"code": CODE, "state": STATE})
DECLINED = get({"error": "access_denied", "error_description": "canary\r\nwords", "state": STATE})


def rejected(status: int) -> Rejected:
    return Rejected(f"dynamics_{status}", "No.", dynamics_status=status)


def unavailable(status: int) -> Unavailable:
    return Unavailable(f"dynamics_{status}", "Not now.", dynamics_status=status)


def unauthorized() -> Unauthorized:
    return Unauthorized("dynamics_401", "Who?", dynamics_status=401)


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Return the values of the one line that is there, and look for what may not be in the log."""
    (record,) = [each for each in caplog.records if each.getMessage().startswith("callback ")]
    assert CANARY not in caplog.text
    assert CANARY not in str([vars(each) for each in caplog.records])
    found = LINE.fullmatch(record.getMessage())
    assert found, record.getMessage()
    values = {name: value for name, value in found.groupdict().items() if value is not None}
    return values | {"level": record.levelname}


# -- delivered -----------------------------------------------------------------------------------


async def test_a_callback_is_brought_to_dynamics(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    answer = await stage.receive()
    assert (answer.outcome, answer.status) == ("delivered", 200)
    (posted,) = stage.dynamics.posted
    assert posted.target.url == connection().target.url
    assert posted.token == TOKEN
    assert posted.body == {"code": CODE, "state": STATE}
    assert {CODE, STATE} <= set(posted.sent)
    assert stage.entra.asked == [connection().credentials]
    line = logged(caplog)
    assert (line["outcome"], line["level"]) == ("delivered", "INFO")
    assert (line["connection"], line["dynamics_status"]) == ("default", "201")
    assert posted.reference == answer.reference == line["reference"]


async def test_each_callback_has_a_reference_of_its_own() -> None:
    stage = Stage()
    references = {(await stage.receive()).reference for _ in range(20)}
    assert len(references) == 20
    assert all(re.fullmatch("[0-9a-f]{16}", reference) for reference in references)


async def test_every_placeholder_is_filled_from_the_callback() -> None:
    body = json.dumps(
        {
            "c": "{code}",
            "s": "{state}",
            "i": "{iss}",
            "n": "{connection}",
            "r": "{reference}",
            "realm": "{param:realmId}",
            "from": "{received_at}",
            "to": "{expires_at}",
            "e": "{error}",
        }
    )
    stage = Stage(where=connection(name="xero", body=body, code_ttl=60))
    sent = get({"code": "c", "state": "s", "iss": "i", "realmId": "9"})
    answer = await stage.receive(sent, "xero")
    (posted,) = stage.dynamics.posted
    assert posted.body == {
        "c": "c",
        "s": "s",
        "i": "i",
        "n": "xero",
        "r": answer.reference,
        "realm": "9",
        "from": "2027-03-04T12:00:00Z",
        "to": "2027-03-04T12:01:00Z",
    }


async def test_a_record_that_exists_already_is_a_duplicate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await Stage(Receipt(existed=True, status=500)).receive()
    assert (answer.outcome, answer.status) == ("duplicate", 200)
    line = logged(caplog)
    assert (line["outcome"], line["level"], line["dynamics_status"]) == ("duplicate", "INFO", "500")


# -- the order of the checks ---------------------------------------------------------------------

EVERYTHING_WRONG = Request(
    method="PUT",
    query="code=%C3%A9&access_token=x&iss=evil&session_state=a&session_state=b&%FF=pad",
    headers={"sec-purpose": "prefetch", "content-type": "text/plain"},
    body=b"x" * (32 * 1024 + 1),
)
REPAIRS: list[tuple[str, int, Callable[[Request], Request]]] = [
    ("method", 405, lambda was: dataclasses.replace(was, method="POST")),
    (
        "prefetch",
        503,
        lambda was: dataclasses.replace(was, headers={"content-type": "text/plain"}),
    ),
    ("too_large", 413, lambda was: dataclasses.replace(was, body=b"x=y")),
    ("media_type", 415, lambda was: dataclasses.replace(was, headers={"content-type": FORM})),
    ("encoding", 400, lambda was: requery(was, "&%FF=pad", "")),
    ("duplicate", 400, lambda was: requery(was, "&session_state=b", "")),
    ("state_missing", 400, lambda was: requery(was, "code=", "state=no&code=")),
    ("state_mismatch", 400, lambda was: requery(was, "state=no", "state=%2Bé")),
    ("iss_mismatch", 400, lambda was: requery(was, "iss=evil", "iss=https://as.example")),
    ("implicit", 400, lambda was: requery(was, "&access_token=x", "")),
    ("code_characters", 400, lambda was: requery(was, "code=%C3%A9", "code=fine")),
    ("state_characters", 400, lambda was: requery(was, "state=%2Bé", "state=%2B")),
]
"""In the contract's order: what is found wrong, with which status, and what puts it right."""


def requery(was: Request, old: str, new: str) -> Request:
    assert old in was.query
    return dataclasses.replace(was, query=was.query.replace(old, new))


@pytest.mark.parametrize("repaired", range(len(REPAIRS) + 1))
async def test_the_first_thing_wrong_in_the_contracts_order_decides(
    repaired: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = EVERYTHING_WRONG
    for _, _, repair in REPAIRS[:repaired]:
        request = repair(request)
    provider = Provider(issuer="https://as.example")
    stage = Stage(where=connection(provider=provider, pattern=r"^\+.?$"))
    answer = await stage.receive(request)
    if repaired == len(REPAIRS):
        assert answer.outcome == "delivered"
    else:
        reason, status, _ = REPAIRS[repaired]
        assert logged(caplog)["reason"] == reason
        assert (answer.outcome, answer.status) == ("invalid", status)
        assert stage.untouched


async def test_an_unknown_connection_is_found_before_the_response_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    answer = await stage.receive(get("code=%FF"), "canary-name")
    assert (answer.outcome, answer.status) == ("unknown", 404)
    assert stage.untouched
    line = logged(caplog)
    assert (line["outcome"], line["level"], line["connection"]) == ("unknown", "WARNING", "-")


async def test_a_connection_with_bad_settings_answers_misconfigured_and_the_others_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    answer = await stage.receive(name="broken")
    assert (answer.outcome, answer.status) == ("misconfigured", 500)
    assert stage.untouched
    line = logged(caplog)
    assert (line["outcome"], line["level"]) == ("misconfigured", "ERROR")
    assert line["connection"] == "broken"
    assert (await stage.receive()).outcome == "delivered"


async def test_a_prefetch_costs_nothing_even_for_a_connection_that_is_not_there() -> None:
    stage = Stage()
    answer = await stage.receive(get(SENT.query, {"purpose": "prefetch"}), "nobody")
    assert answer.status == 503
    assert stage.untouched


async def test_somebody_who_looks_at_the_url_gets_the_page_that_explains_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    caplog.set_level(logging.INFO)
    answer = await stage.receive(get(""))
    assert answer.status == 200
    assert answer.page == "bare"
    assert stage.untouched
    # Each flow with response_mode=fragment begins with it: nothing is wrong.
    assert caplog.records == []


async def test_an_error_is_not_believed_before_its_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(where=connection(body=WITH_ERROR, pattern="^cb-[0-9]+$"))
    answer = await stage.receive(DECLINED)
    assert answer.outcome == "invalid"
    assert answer.error is None
    assert answer.error_description is None
    assert stage.untouched
    assert logged(caplog)["reason"] == "state_mismatch"


# -- declined ------------------------------------------------------------------------------------


async def test_the_person_is_told_what_the_provider_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    answer = await stage.receive(DECLINED)
    assert (answer.outcome, answer.status) == ("declined", 400)
    # Not in the provider's words: without a signed state anybody could have written them.
    assert (answer.error, answer.error_description) == ("access_denied", None)
    line = logged(caplog)
    assert (line["outcome"], line["level"], line["dynamics_status"]) == ("declined", "WARNING", "-")
    assert line["delivery_id"] != "-"


async def test_an_error_is_not_delivered_when_the_template_does_not_name_it() -> None:
    stage = Stage()
    await stage.receive(DECLINED)
    assert stage.untouched


async def test_an_error_is_delivered_when_the_template_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(where=connection(body=WITH_ERROR))
    answer = await stage.receive(DECLINED)
    assert answer.outcome == "declined"
    (posted,) = stage.dynamics.posted
    assert posted.body == {"error": "access_denied", "state": STATE}
    assert logged(caplog)["dynamics_status"] == "201"


@pytest.mark.parametrize(
    ("trouble", "reason", "status"),
    [
        pytest.param(rejected(403), "dynamics_403", "403", id="rejected"),
        pytest.param(unavailable(503), "dynamics_503", "503", id="unavailable"),
    ],
)
async def test_the_person_is_told_declined_even_when_dynamics_does_not_take_it(
    trouble: RelayError, reason: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await Stage(trouble, where=connection(body=WITH_ERROR)).receive(DECLINED)
    assert (answer.outcome, answer.status) == ("declined", 400)
    assert answer.held is None
    line = logged(caplog)
    assert (line["outcome"], line["reason"]) == ("declined", reason)
    assert line["dynamics_status"] == status


async def test_an_error_record_is_held_while_dynamics_is_down() -> None:
    stage = Stage(unavailable(503), where=connection(body=WITH_ERROR), outbox=True)
    answer = await stage.receive(DECLINED)
    assert (answer.outcome, answer.status) == ("declined", 400)
    assert answer.held is not None
    held = stage.relay.sealer and stage.relay.sealer.open(answer.held.encode()).callback(
        stage.connections
    )
    assert held
    assert held.response.error == "access_denied"


async def test_an_error_record_that_dynamics_refuses_is_not_held() -> None:
    stage = Stage(rejected(403), where=connection(body=WITH_ERROR), outbox=True)
    assert (await stage.receive(DECLINED)).held is None


# -- rejected and unavailable --------------------------------------------------------------------


@pytest.mark.parametrize("outbox", [False, True], ids=["no-outbox", "outbox"])
async def test_what_dynamics_refuses_for_good_is_rejected(
    caplog: pytest.LogCaptureFixture, outbox: bool
) -> None:
    answer = await Stage(rejected(403), outbox=outbox).receive()
    assert (answer.outcome, answer.status) == ("rejected", 502)
    assert answer.held is None
    line = logged(caplog)
    assert (line["outcome"], line["level"]) == ("rejected", "ERROR")
    assert (line["dynamics_status"], line["reason"]) == ("403", "dynamics_403")


async def test_a_secret_that_entra_refuses_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(entra=Entra(CredentialRefused("AADSTS7000215", "No.")))
    answer = await stage.receive()
    assert (answer.outcome, answer.status) == ("rejected", 502)
    assert not stage.dynamics.posted
    line = logged(caplog)
    assert (line["reason"], line["dynamics_status"]) == ("AADSTS7000215", "-")


DOWN = [
    pytest.param(lambda outbox: Stage(unavailable(503), outbox=outbox), "503", id="dynamics"),
    pytest.param(
        lambda outbox: Stage(entra=Entra(Unavailable("entra_timeout", "Not now.")), outbox=outbox),
        "-",
        id="entra",
    ),
    pytest.param(lambda outbox: Stage(closed_for=17.0, outbox=outbox), "-", id="a-pause"),
]


@pytest.mark.parametrize(("make", "status"), DOWN)
async def test_what_is_unavailable_is_rejected_with_503_where_there_is_no_outbox(
    make: Callable[[bool], Stage], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await make(False).receive()
    assert (answer.outcome, answer.status) == ("rejected", 503)
    assert answer.held is None
    line = logged(caplog)
    assert (line["outcome"], line["level"]) == ("rejected", "ERROR")
    assert line["dynamics_status"] == status


@pytest.mark.parametrize(("make", "status"), DOWN)
async def test_what_is_unavailable_is_held_where_there_is_an_outbox(
    make: Callable[[bool], Stage], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = make(True)
    answer = await stage.receive()
    assert (answer.outcome, answer.status) == ("held", 202)
    assert answer.held is not None
    assert CANARY not in answer.held
    line = logged(caplog)
    assert (line["outcome"], line["level"]) == ("held", "WARNING")
    assert line["dynamics_status"] == status


async def test_a_target_that_asked_for_a_pause_is_left_alone() -> None:
    stage = Stage(closed_for=17.0)
    await stage.receive()
    assert stage.untouched


# -- 401 -----------------------------------------------------------------------------------------


async def test_after_a_401_it_is_tried_once_more_with_a_fresh_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(unauthorized(), Receipt(existed=False, status=201))
    answer = await stage.receive()
    assert answer.outcome == "delivered"
    assert [posted.token for posted in stage.dynamics.posted] == [TOKEN, f"{TOKEN}-2"]
    assert stage.entra.refused == [TOKEN]
    one, two = stage.dynamics.posted
    assert (one.body, one.reference) == (two.body, two.reference)
    assert logged(caplog)["dynamics_status"] == "201"


async def test_a_second_401_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(unauthorized())
    answer = await stage.receive()
    assert (answer.outcome, answer.status) == ("rejected", 502)
    assert len(stage.dynamics.posted) == 2
    line = logged(caplog)
    assert (line["dynamics_status"], line["reason"]) == ("401", "dynamics_401")


async def test_what_the_second_attempt_says_counts(caplog: pytest.LogCaptureFixture) -> None:
    answer = await Stage(unauthorized(), unavailable(503)).receive()
    assert (answer.outcome, answer.status) == ("rejected", 503)
    assert logged(caplog)["dynamics_status"] == "503"


async def test_without_a_fresh_token_there_is_no_second_attempt() -> None:
    entra = Entra(trouble_with_renewal=CredentialRefused("entra_invalid_client", "No."))
    stage = Stage(unauthorized(), entra=entra)
    assert (await stage.receive()).outcome == "rejected"
    assert len(stage.dynamics.posted) == 1


@pytest.mark.parametrize("trouble", [rejected(403), unavailable(503)], ids=["403", "503"])
async def test_nothing_but_a_401_is_tried_again_within_the_request(trouble: RelayError) -> None:
    stage = Stage(trouble, Receipt(existed=False, status=201))
    assert (await stage.receive()).outcome == "rejected"
    assert len(stage.dynamics.posted) == 1
    assert not stage.entra.refused


# -- the same callback more than once ------------------------------------------------------------


async def together(stage: Stage, count: int, request: Request = SENT) -> list[Answer]:
    """Let `count` hits come before Dynamics answers the first of them."""
    stage.dynamics.gate.clear()
    hits = [asyncio.create_task(stage.receive(request)) for _ in range(count)]
    for _ in range(10):
        await asyncio.sleep(0)
    stage.dynamics.gate.set()
    return await asyncio.gather(*hits)


@pytest.mark.parametrize("existed", [False, True], ids=["delivered", "duplicate"])
async def test_concurrent_hits_share_one_delivery_and_its_outcome(existed: bool) -> None:
    stage = Stage(Receipt(existed=existed, status=201))
    answers = await together(stage, 10)
    assert len(stage.dynamics.posted) == 1
    assert {answer.outcome for answer in answers} == {"duplicate" if existed else "delivered"}
    assert len({answer.reference for answer in answers}) == 10


async def test_concurrent_hits_share_a_failure() -> None:
    stage = Stage(rejected(403))
    answers = await together(stage, 5)
    assert len(stage.dynamics.posted) == 1
    assert {answer.status for answer in answers} == {502}


async def test_every_hit_that_is_held_has_a_message_of_its_own() -> None:
    stage = Stage(unavailable(503), outbox=True)
    answers = await together(stage, 3)
    assert len(stage.dynamics.posted) == 1
    assert {answer.outcome for answer in answers} == {"held"}
    assert len({answer.held for answer in answers}) == 3
    assert all(answer.held for answer in answers)


@pytest.mark.parametrize("existed", [False, True], ids=["delivered", "duplicate"])
async def test_a_later_hit_gets_the_outcome_of_the_first(
    existed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(Receipt(existed=existed, status=201), Receipt(existed=not existed, status=500))
    first = await stage.receive()
    caplog.clear()
    second = await stage.receive(post(SENT.query))
    assert second.outcome == first.outcome
    assert len(stage.dynamics.posted) == 1
    assert logged(caplog)["dynamics_status"] == "201"


async def test_an_outcome_is_remembered_for_as_long_as_a_code_lives() -> None:
    stage = Stage(where=connection(code_ttl=60))
    await stage.receive()
    stage.clock.seconds += 59
    await stage.receive()
    assert len(stage.dynamics.posted) == 1
    stage.clock.seconds += 1
    await stage.receive()
    assert len(stage.dynamics.posted) == 2


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(rejected(403), id="rejected"),
        pytest.param(unavailable(503), id="unavailable"),
        pytest.param(RuntimeError("no"), id="unforeseen"),
    ],
)
async def test_a_failure_is_never_remembered(failure: Exception) -> None:
    stage = Stage(failure, Receipt(existed=False, status=201))
    assert (await stage.receive()).outcome == "rejected"
    assert (await stage.receive()).outcome == "delivered"
    assert len(stage.dynamics.posted) == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"code": "another", "state": STATE}, id="another-code"),
        pytest.param({"code": CODE, "state": "another"}, id="another-state"),
    ],
)
async def test_another_callback_is_another_delivery(other: dict[str, str]) -> None:
    stage = Stage()
    await stage.receive()
    await stage.receive(get(other))
    assert len(stage.dynamics.posted) == 2


async def test_a_known_callback_still_has_to_be_a_right_one() -> None:
    stage = Stage()
    await stage.receive()
    answer = await stage.receive(get({"code": CODE, "state": STATE, "id_token": "x"}))
    assert answer.outcome == "invalid"


async def test_the_same_error_is_delivered_once() -> None:
    stage = Stage(where=connection(body=WITH_ERROR))
    for _ in range(3):
        assert (await stage.receive(DECLINED)).outcome == "declined"
    assert len(stage.dynamics.posted) == 1


async def test_a_person_who_goes_away_does_not_stop_the_delivery_for_the_others() -> None:
    stage = Stage()
    stage.dynamics.gate.clear()
    gone, there = asyncio.create_task(stage.receive()), asyncio.create_task(stage.receive())
    for _ in range(10):
        await asyncio.sleep(0)
    gone.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    stage.dynamics.gate.set()
    assert (await there).outcome == "delivered"
    assert len(stage.dynamics.posted) == 1


# -- what nobody foresaw -------------------------------------------------------------------------


class Unforeseen(Exception):
    """Quotes what it stumbled over, as exceptions do."""

    def __init__(self) -> None:
        super().__init__(CODE, STATE, TOKEN)


def broken_clock() -> datetime:
    raise Unforeseen


BROKEN = [
    pytest.param(lambda: Stage(entra=Entra(Unforeseen())), SENT, id="entra"),
    pytest.param(
        lambda: Stage(unauthorized(), entra=Entra(trouble_with_renewal=Unforeseen())),
        SENT,
        id="renewal",
    ),
    pytest.param(lambda: Stage(Unforeseen()), SENT, id="dynamics"),
    pytest.param(
        lambda: Stage(Unforeseen(), where=connection(body=WITH_ERROR)), DECLINED, id="declined"
    ),
]


@pytest.mark.parametrize(("make", "request_"), BROKEN)
async def test_an_unforeseen_error_becomes_an_answer_and_its_message_appears_nowhere(
    make: Callable[[], Stage],
    request_: Request,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answer = await make().receive(request_)
    if request_ is SENT:  # without an outbox it cannot be held
        assert (answer.outcome, answer.status) == ("rejected", 503)
    else:
        assert answer.outcome == "declined"
    told = dataclasses.asdict(answer) | {"error": None, "error_description": None}
    assert CANARY not in str(told)
    line = logged(caplog)
    assert (line["outcome"], line["reason"]) == (answer.outcome, "unforeseen")
    assert "unforeseen Unforeseen reference=" in caplog.text
    assert CANARY not in "".join(capfd.readouterr())


async def test_an_unforeseen_error_is_logged_with_its_place_and_the_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.relay = dataclasses.replace(stage.relay, now=broken_clock)
    answer = await stage.receive()
    assert answer.outcome == "rejected"
    assert f"unforeseen Unforeseen reference={answer.reference}" in caplog.text
    assert "in broken_clock" in caplog.text
    assert logged(caplog)["reason"] == "unforeseen"


async def test_an_unforeseen_error_of_everyone_is_told_to_nobody_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(Unforeseen())
    answers = await together(stage, 3)
    assert {answer.status for answer in answers} == {503}
    assert CANARY not in caplog.text
    assert len([each for each in caplog.records if each.message.startswith("callback ")]) == 3


# -- no answer tells a secret --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "request_"),
    [
        pytest.param(Stage, SENT, id="delivered"),
        pytest.param(lambda: Stage(Receipt(existed=True, status=500)), SENT, id="duplicate"),
        pytest.param(lambda: Stage(rejected(400)), SENT, id="rejected"),
        pytest.param(lambda: Stage(unavailable(503)), SENT, id="unavailable"),
        pytest.param(lambda: Stage(unavailable(503), outbox=True), SENT, id="held"),
        pytest.param(Stage, get({"code": CODE}), id="without-state"),
        pytest.param(Stage, get({"code": CODE + "\n", "state": STATE}), id="characters"),
        pytest.param(Stage, get({"error": CODE + '"', "state": STATE}), id="error-characters"),
        pytest.param(Stage, get(f"code={CODE}&code={CODE}&state={STATE}"), id="twice"),
        pytest.param(Stage, post(CODE, "text/plain"), id="media-type"),
        pytest.param(Stage, post(f'{{"code": "{CODE}",', "application/json"), id="broken-json"),
    ],
)
async def test_no_answer_and_no_log_tells_what_was_sent(
    make: Callable[[], Stage], request_: Request, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await make().receive(request_)
    assert CANARY not in str(dataclasses.asdict(answer))
    logged(caplog)
