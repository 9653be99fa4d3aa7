"""One line for each outcome, and silence from others."""

import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from relay import log
from relay.log import Line
from relay.outcome import Outcome
from tests.fakes import Clock

CHATTY = [
    "httpx",
    "httpcore",
    "httpcore.http11",
    "msal",
    "msal.application",
    "msal.oauth2cli.oauth2",
    "requests",
    "urllib3.connectionpool",
    "azure.core.pipeline.policies.http_logging_policy",
    "azure.identity",
]


@pytest.fixture
def _restored() -> Iterator[None]:
    """Give the libraries' loggers back as they were."""
    loggers = [logging.getLogger(name) for name in {name.split(".")[0] for name in CHATTY}]
    loggers += [logging.getLogger(name) for name in log.CHATTY]
    before = [(each, each.level, each.propagate, list(each.handlers)) for each in loggers]
    yield
    for each, level, propagate, handlers in before:
        each.setLevel(level)
        each.propagate = propagate
        each.handlers[:] = handlers


def written(caplog: pytest.LogCaptureFixture, line: Line, outcome: Outcome) -> logging.LogRecord:
    """Return the one record that a line became."""
    with caplog.at_level(logging.DEBUG):
        log.Writer().write(line, outcome)
    (record,) = caplog.records
    return record


def test_a_line_has_the_format_of_the_contract(caplog: pytest.LogCaptureFixture) -> None:
    line = Line("0123456789abcdef", connection="xero", delivery_id="d" * 32, dynamics_status=201)
    record = written(caplog, line, Outcome.DELIVERED)
    assert re.fullmatch(
        "callback delivered connection=xero reference=0123456789abcdef delivery_id=d{32} "
        r"attempt=1 duration_ms=\d+ dynamics_status=201",
        record.getMessage(),
    )


def test_what_is_not_known_is_a_dash(caplog: pytest.LogCaptureFixture) -> None:
    record = written(caplog, Line("0123456789abcdef"), Outcome.UNKNOWN)
    assert re.fullmatch(
        "callback unknown connection=- reference=0123456789abcdef delivery_id=- "
        r"attempt=1 duration_ms=\d+ dynamics_status=-",
        record.getMessage(),
    )


def test_a_reason_stands_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    record = written(caplog, Line("r", reason="iss_mismatch"), Outcome.INVALID)
    assert record.getMessage().endswith(" dynamics_status=- reason=iss_mismatch")


def test_the_values_are_extra_fields_too(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(
        "0123456789abcdef",
        attempt=3,
        connection="xero",
        delivery_id="d",
        dynamics_status=503,
        reason="dynamics_503",
    )
    fields = vars(written(caplog, line, Outcome.HELD))
    assert type(fields.pop("duration_ms")) is int
    assert (
        fields.items()
        >= {
            "connection": "xero",
            "reference": "0123456789abcdef",
            "delivery_id": "d",
            "attempt": 3,
            "dynamics_status": 503,
            "reason": "dynamics_503",
        }.items()
    )


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("delivered", "INFO"),
        ("duplicate", "INFO"),
        ("held", "WARNING"),
        ("declined", "WARNING"),
        ("invalid", "WARNING"),
        ("unknown", "WARNING"),
        ("rejected", "ERROR"),
        ("misconfigured", "ERROR"),
    ],
)
def test_the_level_tells_how_serious_it_is(
    caplog: pytest.LogCaptureFixture, outcome: str, level: str
) -> None:
    assert written(caplog, Line("r"), Outcome(outcome)).levelname == level


def test_the_duration_is_counted_in_milliseconds(caplog: pytest.LogCaptureFixture) -> None:
    line = Line("r", started=time.monotonic() - 2.5)
    (shown,) = re.findall(r"duration_ms=(\d+) ", written(caplog, line, Outcome.HELD).getMessage())
    assert 2_500 <= int(shown) < 10_000


def test_what_a_thread_or_the_start_has_to_tell_waits_for_the_next_invocation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    writer = log.Writer()
    writer.later(logging.ERROR, "setting %s", "100 %s")
    thread = threading.Thread(target=writer.later, args=(logging.WARNING, "of a thread"))
    thread.start()
    thread.join()
    assert not caplog.records
    writer.write(Line("r"), Outcome.DELIVERED)
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert told[:2] == [("ERROR", "setting 100 %s"), ("WARNING", "of a thread")]
    assert told[2][1].startswith("callback delivered ")
    writer.flush()
    assert len(caplog.records) == 3


class Flood:
    """A writer, and what it has written."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.writer = log.Writer(self.clock)
        self._caplog = caplog
        caplog.set_level(logging.DEBUG)

    def refuse(self, number: int, reason: str, outcome: Outcome = Outcome.INVALID) -> list[str]:
        """Write as many refusals; return how each line that this has made ends."""
        self._caplog.clear()
        for _ in range(number):
            self.writer.write(Line("0" * 16, reason=reason), outcome)
        return [each.partition("dynamics_status=- ")[2] for each in self._caplog.messages]


def test_the_first_refusals_of_a_minute_have_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    assert Flood(caplog).refuse(20, "state_key") == ["reason=state_key"] * 20


def test_further_refusals_are_counted_by_the_hundred(caplog: pytest.LogCaptureFixture) -> None:
    flood = Flood(caplog)
    assert flood.refuse(120, "state_key")[20:] == ["reason=state_key times=100"]
    assert flood.refuse(250, "state_key") == ["reason=state_key times=100"] * 2


def test_what_is_left_is_counted_with_the_first_line_of_a_later_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood = Flood(caplog)
    flood.refuse(25, "state_key")
    flood.refuse(7, "connection", Outcome.UNKNOWN)
    flood.clock.seconds += 59
    assert flood.refuse(1, "state_key") == []
    flood.clock.seconds += 1
    flood.writer.write(Line("1" * 16, connection="bank"), Outcome.DELIVERED)
    left, unknown, delivered = caplog.records
    assert left.getMessage().startswith("callback invalid connection=- reference=- ")
    assert left.getMessage().endswith(" reason=state_key times=6")
    assert left.levelname == "WARNING"
    assert vars(left)["times"] == 6
    assert unknown.getMessage().startswith("callback unknown connection=- ")
    assert unknown.getMessage().endswith(" reason=connection times=7")
    assert delivered.getMessage().startswith("callback delivered connection=bank ")
    # Told once, and the new minute has its own lines.
    assert flood.refuse(1, "state_key") == ["reason=state_key"]


def test_refusals_with_a_valid_signature_and_other_outcomes_have_a_line_each_in_any_flood(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood = Flood(caplog)
    flood.refuse(50, "state_key")
    caplog.clear()
    for outcome in Outcome:
        flood.writer.write(Line("1" * 16, reason="x", authenticated=True), outcome)
    for outcome in set(Outcome) - {Outcome.INVALID, Outcome.UNKNOWN, Outcome.MISCONFIGURED}:
        flood.writer.write(Line("1" * 16, reason="x"), outcome)
    assert len(caplog.records) == 13


def test_wrong_settings_have_lines_of_their_own_in_a_flood_and_are_counted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood = Flood(caplog)
    flood.refuse(150, "state_key")
    told = flood.refuse(320, "settings", Outcome.MISCONFIGURED)
    assert told == [*["reason=settings"] * 20, *["reason=settings times=100"] * 3]
    assert {each.levelname for each in caplog.records} == {"ERROR"}


def test_a_bare_visit_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    flood = Flood(caplog)
    flood.refuse(300, "bare")
    assert {each.levelname for each in caplog.records} == {"DEBUG"}
    assert flood.refuse(20, "state_key") == ["reason=state_key"] * 20


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR, logging.CRITICAL])
@pytest.mark.parametrize("name", CHATTY)
def test_a_library_that_prints_what_it_sends_reaches_no_handler(
    name: str, level: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    log.quiet()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger(name).log(level, "canary")
    assert "canary" not in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("name", CHATTY)
def test_not_even_a_part_of_a_library_that_was_told_to_speak_reaches_a_handler(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log.quiet()
    # pytest listens to each logger that does not propagate, as no program does: so ask the root.
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", heard.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [listener])
    part = logging.getLogger(f"{name}.told_to_speak")
    monkeypatch.setattr(part, "level", logging.DEBUG)
    part.critical("canary")
    assert heard == []
    assert "canary" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("_restored")
def test_silence_does_not_reach_the_relays_own_log(caplog: pytest.LogCaptureFixture) -> None:
    log.quiet()
    assert written(caplog, Line("r"), Outcome.DELIVERED).levelname == "INFO"


@pytest.mark.usefixtures("_restored")
def test_silence_may_be_asked_for_more_than_once() -> None:
    log.quiet()
    handlers = list(logging.getLogger("msal").handlers)
    log.quiet()
    assert logging.getLogger("msal").handlers == handlers


def stumble(value: str) -> None:
    raise RuntimeError("it was " + value)


def test_a_crash_is_told_with_its_place_and_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        stumble("canary")
    except RuntimeError as error:
        log.crash(error, "0123456789abcdef")
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is None
    assert "RuntimeError reference=0123456789abcdef" in record.getMessage()
    assert "in stumble" in record.getMessage()
    # The line of the source is shown, which holds a name; the value of it is not.
    assert "it was canary" not in record.getMessage()


def test_a_crash_while_another_is_handled_tells_neither_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "canary".upper()
    try:
        try:
            stumble(secret)
        except RuntimeError as error:
            raise KeyError(secret) from error
    except KeyError as error:
        log.crash(error, "r")
    assert secret not in caplog.text
