"""The queries of the alerts and the workbook read the lines that the relay writes.

Nothing here runs KQL. What can go wrong without Azure is tried: Microsoft's parser; the patterns,
on real lines; the columns that one part makes and another part asks for; Azure's rules for alerts.
"""

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from relay import log
from relay.log import Line
from relay.outcome import Outcome
from tests.infra.view import INFRA, Evaluation, parsed
from tests.others.software import FOLDER, need_npm_packages

QUERIES = INFRA / "queries"
ALERTS = INFRA / "modules" / "alerts.bicep"
WORKBOOK = INFRA / "modules" / "workbook.bicep"
BASE = (QUERIES / "callbacks.kql").read_text()

COLUMNS = {
    "TimeGenerated",
    "outcome",
    "connection",
    "environment",
    "reference",
    "delivery_id",
    "attempt",
    "duration_ms",
    "dynamics_status",
    "reason",
    "states",
    "times",
}

MINUTES = ["PT5M", "PT10M", "PT15M", "PT30M", "PT45M"]
HOURS = ["PT1H", "PT2H", "PT3H", "PT4H", "PT5H", "PT6H", "P1D"]
WINDOWS = [*MINUTES, *HOURS]
"""What a scheduled query rule takes."""

HELPERS = {
    "ago", "arg_max", "bin", "coalesce", "count", "datetime_diff", "dcount", "extract",
    "isnotempty", "max", "min", "minif", "not", "percentile", "sum", "toint", "tolong",
}  # fmt: skip
"""Functions of KQL that are used; a misspelled one is not among them."""

OPERATORS = {"extend", "order", "project", "summarize", "union", "where"}


def written(caplog: pytest.LogCaptureFixture, line: Line, outcome: Outcome) -> str:
    """Return the message of the line that the relay writes, as the worker sends it."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="relay"):
        log.Writer().write(line, outcome)
    return caplog.records[-1].getMessage()


def extracted(message: str) -> dict[str, str]:
    """Return what the query's patterns make of a message; nothing is an empty text, as in KQL."""
    patterns = re.findall(r'extend (\w+) = (?:\w+\()*extract\(@"([^"]+)", 1, Message\)', BASE)
    found = {name: re.search(pattern, message) for name, pattern in patterns}
    return {name: match[1] if match else "" for name, match in found.items()}


def text_of(name: str) -> str:
    """Return a query without its comments."""
    lines = (QUERIES / name).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("//"))


def produced(query: str) -> set[str]:
    """Return the columns of the last summarize or project of a query."""
    last = re.findall(r"^\| (?:summarize|project) (.+?);?$", query, re.MULTILINE)[-1]
    aggregates, _, groups = last.partition(" by ")
    columns = set(re.findall(r"(\w+) = ", aggregates))
    columns |= {word.strip() for word in groups.split(",") if "(" not in word}
    if "=" not in aggregates:
        columns |= {word.strip() for word in aggregates.split(",")}
    return columns - {""}


def rules() -> list[dict[str, Any]]:
    """Return the alert rules with their defaults worked out."""
    main = parsed(INFRA / "main.bicep")["parameters"]
    names = ("heldMinutes", "slowMilliseconds", "silentWindow", "availabilityTest")
    given = {name: main[name]["default"] for name in names}
    rules = Evaluation(ALERTS, given).value("rules")
    assert isinstance(rules, list)
    return rules


def source(rule: dict[str, Any]) -> str:
    """Return the name of the query file of a rule."""
    return f"{rule['name']}.kql"


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_read_from_a_line_that_knows_everything(
    outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(
        reference="0123456789abcdef",
        attempt=12,
        connection="bank-one",
        environment="uat-2",
        delivery_id="0123456789abcdef0123456789abcdef",
        dynamics_status=503,
        reason="AADSTS7000215",
    )
    read = extracted(written(caplog, line, outcome))
    assert read.pop("duration_ms").isdigit()
    assert read == {
        "outcome": str(outcome),
        "connection": "bank-one",
        "environment": "uat-2",
        "reference": "0123456789abcdef",
        "delivery_id": "0123456789abcdef0123456789abcdef",
        "attempt": "12",
        "dynamics_status": "503",
        "reason": "AADSTS7000215",
        "states": "",
        "times": "",
    }


def test_a_line_that_counts_refusals_is_read_as_so_many(caplog: pytest.LogCaptureFixture) -> None:
    counted = Line(reference="-", reason="state_key", times=100)
    read = extracted(written(caplog, counted, Outcome.INVALID))
    assert (read["outcome"], read["reason"], read["times"]) == ("invalid", "state_key", "100")
    for name in ("outcomes.kql", "reasons.kql"):
        assert "sum(times)" in text_of(name)


def test_no_alert_depends_on_lines_that_may_be_counted_together() -> None:
    for path in QUERIES.glob("*.kql"):
        # The first ones of each minute have their lines, whatever else comes: one is enough.
        for refusal in log.REFUSALS - {Outcome.MISCONFIGURED}:
            assert str(refusal) not in text_of(path.name)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_a_line_does_not_know_is_empty(
    outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    read = extracted(written(caplog, Line(reference="-"), outcome))
    assert read.pop("duration_ms").isdigit()
    assert read == {
        "outcome": str(outcome),
        "connection": "",
        "environment": "",
        "reference": "",
        "delivery_id": "",
        "attempt": "1",
        "dynamics_status": "",
        "reason": "",
        "states": "",
        "times": "",
    }


def test_a_line_of_something_else_is_no_callback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="relay"):
        log.started(Line(reference="0123456789abcdef", connection="default"))
        log.crash(ValueError(), "0123456789abcdef")
    start, crash = (record.getMessage() for record in caplog.records)
    assert '| where Message startswith "callback "' in BASE
    assert not start.startswith("callback ")
    assert not crash.startswith("callback ")
    assert crash.startswith("unforeseen ")  # which rejected.kql asks for
    assert 'startswith "unforeseen "' in text_of("rejected.kql")


def test_the_base_gives_just_the_columns_that_the_others_use() -> None:
    assert produced(BASE) == COLUMNS
    assert set(extracted("")) == COLUMNS - {"TimeGenerated"}
    assert BASE.rstrip().endswith(";")  # another query can follow


def test_the_queries_name_outcomes_that_exist() -> None:
    for path in QUERIES.glob("*.kql"):
        text = text_of(path.name)
        named = re.findall(r'outcome (?:==|in) \(?((?:"\w+"(?:, )?)+)', text)
        for words in named:
            for word in re.findall(r'"(\w+)"', words):
                assert Outcome(word)


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(QUERIES.glob("*.kql")), ids=lambda path: path.name)
def test_a_query_is_made_of_known_operators_and_functions(path: Path) -> None:
    text = re.sub(r'@?"[^"]*"', '""', text_of(path.name))
    assert text.count("(") == text.count(")")
    assert set(re.findall(r"\b([a-z_]+)\(", text)) <= HELPERS
    assert set(re.findall(r"^\| (\w+)", text, re.MULTILINE)) <= OPERATORS
    for line in text.splitlines():
        assert re.match(r"(\| \w|let \w+ = |callbacks$|AppTraces$|_LogOperation$|App\w+$)", line), (
            line
        )


@pytest.mark.parametrize("path", sorted(QUERIES.glob("*.kql")), ids=lambda path: path.name)
def test_a_query_uses_only_columns_that_are_there(path: Path) -> None:
    text = re.sub(r'@?"[^"]*"', " ", text_of(path.name))
    words = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", text))
    made = set(re.findall(r"(\w+) = ", text))
    language = {
        "let",
        "by",
        "in",
        "and",
        "or",
        "asc",
        "desc",
        "contains",
        "startswith",
        "false",
        "callbacks",
    }
    columns = {
        "AppTraces": {"Message"},
        "AppAvailabilityResults": {"Success", "Location"},
        "_LogOperation": {"Category", "Detail"},
        "queues": {"queue", "holds", "messages", "oldest_seconds"},
    }
    tables = set(columns).union(*columns.values())
    known = COLUMNS | made | language | tables | OPERATORS | HELPERS | {"limit", "silence"}
    assert words - known == set()


TABLES = {
    "AppTraces": "TimeGenerated:datetime, Message:string, SeverityLevel:int, Properties:dynamic",
    "AppAvailabilityResults": "TimeGenerated:datetime, Success:bool, Location:string",
    "_LogOperation": "TimeGenerated:datetime, Category:string, Detail:string",
}
"""What the queries read, of https://learn.microsoft.com/azure/azure-monitor/reference/tables-index."""


WRONG = ("| where Nope == 1", "| summarise count()", "| summarize last = count()")


def every_query() -> dict[str, str]:
    """Return the queries as Azure gets them, by name."""
    queries = {rule["name"]: rule["query"] for rule in rules()}
    for chart in Evaluation(WORKBOOK, {}).value("charts"):
        needed = f"{BASE}\n" if chart["needsCallbacks"] else ""
        queries[chart["title"]] = f"{needed}{chart['query']}"
    queries["story"] = f"{BASE}\n{(QUERIES / 'story.kql').read_text()}"
    return queries


def test_microsofts_parser_takes_every_query() -> None:
    """With a name that KQL keeps for itself a rule is deployed, and fails whenever it runs."""
    need_npm_packages()
    queries = every_query() | {wrong: f"AppTraces {wrong}" for wrong in WRONG}
    asked = json.dumps({"tables": TABLES, "queries": queries})
    command = ["node", str(FOLDER / "kusto.mjs")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert found.keys() == queries.keys()
    assert {name for name, said in found.items() if said} == set(WRONG), found
    assert len(every_query()) >= len([*QUERIES.glob("*.kql")]) - 1


GAUGES = (
    "gauge queue=callback-outbox kind=outbox messages=3 oldest_seconds=12",
    "gauge queue=callback-outbox-dead kind=dead-letters messages=1 oldest_seconds=86400",
    "gauge queue=callback-outbox-poison kind=poison messages=0 oldest_seconds=0",
)
"""Lines of the function `gauge`."""


def test_the_counts_of_the_queues_are_read_from_the_lines_of_gauge() -> None:
    text = text_of("queues.kql")
    patterns = re.findall(r'extend (\w+) = (?:toint\()?extract\(@"([^"]+)", 1, Message\)', text)
    assert '| where Message startswith "gauge queue="' in text
    read = [
        [match[1] for _, pattern in patterns if (match := re.search(pattern, line))]
        for line in GAUGES
    ]
    assert [name for name, _ in patterns] == ["queue", "holds", "messages", "oldest_seconds"]
    assert read == [
        ["callback-outbox", "outbox", "3", "12"],
        ["callback-outbox-dead", "dead-letters", "1", "86400"],
        ["callback-outbox-poison", "poison", "0", "0"],
    ]


def test_the_alert_on_letters_asks_for_the_last_count_of_each_queue() -> None:
    # Counting what came and went in a window falls silent after the window, while letters stay.
    last = text_of("queues.kql").splitlines()[-1]
    assert last == "| summarize arg_max(TimeGenerated, messages, oldest_seconds) by queue, holds"
    assert "queues.kql')}${loadTextContent('../queries/letters.kql')" in ALERTS.read_text()
    assert (QUERIES / "queues.kql").read_text().endswith("\n")


# -- alerts ---------------------------------------------------------------------------------------


def test_there_is_an_alert_for_each_thing_that_somebody_must_look_at() -> None:
    assert [rule["name"] for rule in rules()] == [
        "rejected",
        "held",
        "expired",
        "letters",
        "unsigned",
        "capped",
        "quiet",
        "slow",
        "silent",
        "unreachable",
    ]
    for rule in rules():
        assert f"../queries/{source(rule)}" in ALERTS.read_text()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["name"])
def test_an_alert_measures_and_splits_by_columns_of_its_query(rule: dict[str, Any]) -> None:
    columns = produced(text_of(source(rule)))
    assert rule["measure"] in columns
    assert set(rule["dimensions"]) <= columns


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["name"])
def test_an_alert_keeps_to_azures_rules(rule: dict[str, Any]) -> None:
    assert rule["every"] in WINDOWS
    assert rule["window"] in WINDOWS
    assert WINDOWS.index(rule["every"]) <= WINDOWS.index(rule["window"])
    assert rule["severity"] in range(5)


JUNK = (
    'states == "unsigned" and '
    '(reason == "outbox_limit" or dynamics_status in (400, 409, 412, 413, 422, 500))'
)


def test_a_stranger_raises_no_alert_of_the_first_severity() -> None:
    first = {rule["name"] for rule in rules() if rule["severity"] == 1}
    assert first == {"rejected", "unreachable"}
    # What Dynamics refuses of unsigned callbacks, and what expires, count elsewhere.
    assert f"| where not({JUNK})" in text_of("rejected.kql")
    assert f"| where {JUNK}" in text_of("unsigned.kql")
    for name in ("rejected.kql", "unsigned.kql"):
        assert 'reason != "expired"' in text_of(name)
    assert '| where reason == "expired"' in text_of("expired.kql")
    # They speak of the set-up, which is the same for everybody.
    for status in ("401", "403", "404"):
        assert status not in JUNK


def test_unsigned_states_are_read_from_a_line_that_names_them() -> None:
    line = "callback rejected connection=default dynamics_status=400 states=unsigned reason=x"
    assert extracted(line)["states"] == "unsigned"


def test_somebody_is_told_when_the_alerts_are_blind() -> None:
    by_name = {rule["name"]: rule for rule in rules()}
    # No line is there to count, so the query has to give a row all the same.
    assert text_of("quiet.kql").splitlines()[-1] == "| summarize lines = count()"
    quiet = by_name["quiet"]
    assert (quiet["operator"], quiet["threshold"], quiet["window"]) == ("LessThan", 1, "PT2H")
    assert by_name["capped"]["threshold"] == 0
    # The cap stops the lines of the app; what the workspace says of itself still comes.
    assert text_of("capped.kql").startswith("_LogOperation")


def test_an_alert_sees_lines_that_arrive_late() -> None:
    (rejected,) = (rule for rule in rules() if rule["name"] == "rejected")
    assert (rejected["every"], rejected["window"]) == ("PT5M", "PT15M")


def test_the_alert_on_silence_can_be_set_to_any_long_window_or_switched_off() -> None:
    assert f"@allowed({['never', *HOURS]})" in (INFRA / "main.bicep").read_text()
    for window in HOURS:
        silent = Evaluation(ALERTS, {"silentWindow": window}).value("rules")[-2]
        assert silent["name"] == "silent"
        assert silent["enabled"] is True
        assert f"let silence = {window.strip('PT').lower()};" in silent["query"]
    off = Evaluation(ALERTS, {"silentWindow": "never"}).value("rules")[-2]
    assert off["enabled"] is False
    assert off["window"] in WINDOWS


def test_the_limit_of_the_held_alert_is_given_to_its_query() -> None:
    assert "first_held < ago(limit)" in text_of("held.kql")
    assert "let limit = ${heldMinutes}m;" in ALERTS.read_text()


def test_silence_is_quiet_before_the_first_callback() -> None:
    # Where none was delivered `newest` is null, which is before nothing: there is no row.
    assert text_of("silent.kql").splitlines()[-3:] == [
        "| summarize newest = max(TimeGenerated)",
        "| where newest < ago(silence)",
        "| project silent = 1",
    ]
    (silent,) = (rule for rule in rules() if rule["name"] == "silent")
    assert (silent["operator"], silent["threshold"]) == ("GreaterThan", 0)
    # So the last callback is in sight for a day at least after the longest silence has begun.
    assert silent["lookBack"] == "P2D"
    assert "queryTimeRange: rule.?lookBack\n" in ALERTS.read_text()


def test_every_query_is_shown_or_watched() -> None:
    used = "".join(path.read_text() for path in INFRA.rglob("*.bicep"))
    for path in QUERIES.glob("*.kql"):
        assert f"../queries/{path.name}'" in used, path.name


def test_the_workbook_shows_outcomes_latency_attempts_reasons_and_queues() -> None:
    charts = Evaluation(WORKBOOK, {}).value("charts")
    names = re.findall(r"queries/(\w+)\.kql", WORKBOOK.read_text())
    assert names == ["callbacks", "outcomes", "latency", "attempts", "reasons", "queues"]
    for name, chart in zip(names[1:], charts, strict=True):
        assert chart["needsCallbacks"] is text_of(f"{name}.kql").startswith("callbacks")
