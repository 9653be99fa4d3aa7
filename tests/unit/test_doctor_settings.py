"""The doctor prints every problem of the settings for which /health answers 503, each once."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from relay import bootstrap, log
from relay.errors import Misconfigured
from relay.settings import ARTICLE, AppSettings, ConnectionSettings, names
from relay.tools import doctor
from relay.tools.doctor import app_settings
from relay.tools.doctor.finding import Finding, Verdict
from tests.helpers import ROOT

CLOSED = "https://127.0.0.1:1"
"""Nothing listens there: what validates is examined no further."""
GOOD = {
    "ENTRA_AUTHORITY": f"{CLOSED}/contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "canary-secret",
    "DYNAMICS_URL": f"{CLOSED}/data/OAuthCallbacks",
    "STATE_POLICY": "opaque",
}
EXAMPLE = json.loads((ROOT / "local.settings.json.example").read_text("utf-8"))["Values"]
KNOWN = [*names(ConnectionSettings), *names(AppSettings), *ARTICLE]
NAMES = st.one_of(
    st.sampled_from(KNOWN),
    st.builds(
        "CONNECTIONS__{}__{}".format,
        st.sampled_from(["XERO", "BANK_ONE", "xero", ""]),
        st.sampled_from([*KNOWN, "DYNAMICS_URI", "SECRET", ""]),
    ),
)
VALUES = st.sampled_from(
    ["", "canary", f"{CLOSED}/data/canary", "signed", "true", "60", "k1:canary", "canary.pem"]
)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log.quiet()
    monkeypatch.chdir(tmp_path)


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Return what is said about settings; no value is."""
    found = [each for each in doctor.examine(environ) if each.check == "settings"]
    assert "canary" not in "".join(f"{finding}" for finding in found)
    return found


def wrong(environ: Mapping[str, str]) -> list[str]:
    return [each.message for each in examine(environ) if each.verdict is Verdict.FAIL]


@given(further=st.dictionaries(NAMES, VALUES, max_size=6), good=st.booleans())
@hypothesis(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_that_health_minds_is_missing(further: dict[str, str], *, good: bool) -> None:
    environ = (GOOD if good else {}) | further
    problems = bootstrap.app(environ).relay.connections.problems
    # Without the rest of the examination, which takes far longer.
    reading = app_settings.read(environ)
    broken = [each for each in reading.connections.values() if isinstance(each, Misconfigured)]
    found = [each for each in reading.findings if each.verdict is Verdict.FAIL]
    found += [finding for each in broken for finding in app_settings.examine(each)]
    said = " ".join(f"{each.message} {each.fix}".lower() for each in found)
    for problem in problems:
        for part in problem.split(":", 1):
            assert part.split("; expected")[0].strip().lower() in said
    assert bool(found) is bool(problems)
    assert "canary" not in f"{found}"


def test_a_misspelt_setting_of_a_connection_that_has_no_other_is_named() -> None:
    found = examine(GOOD | {"CONNECTIONS__XERO__DYNAMICS_URI": f"{CLOSED}/canary"})
    assert [(each.verdict, each.connection) for each in found] == [
        ("fail", None),
        ("ok", "default"),
    ]
    assert found[0].message == "CONNECTIONS__XERO__DYNAMICS_URI"
    assert found[0].fix == "No such setting; the nearest is DYNAMICS_URL."


def test_wrong_outbox_keys_are_one_problem_and_the_rest_is_examined_all_the_same() -> None:
    found = list(doctor.examine(GOOD | {"OUTBOX_KEYS": "abc"}))
    assert [each.message for each in found if "OUTBOX_KEYS" in f"{each}"] == ["OUTBOX_KEYS"]
    assert "outbox" not in [each.check for each in found]
    assert {"settings", "authority", "target", "state"} <= {
        each.check for each in found if each.connection == "default"
    }


def test_a_bundle_that_is_no_file_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(GOOD | {"CA_BUNDLE": "canary.pem", "CONNECTIONS__XERO__CODE_TTL": "canary"})
    assert [(each.message, each.verdict) for each in found] == [
        ("CA_BUNDLE", "fail"),
        ("they validate", "ok"),
        ("CONNECTIONS__XERO__CODE_TTL", "fail"),
    ]
    found = examine(GOOD | {"REQUESTS_CA_BUNDLE": "canary.pem"})
    assert found[0].message == "CA_BUNDLE or REQUESTS_CA_BUNDLE names no PEM file"
    assert found[1].message == "they validate"


def test_without_any_setting_the_example_is_what_to_begin_with() -> None:
    (found,) = examine({"PATH": "canary"})
    assert found.message.startswith("DYNAMICS_URL is missing, and so is every other")
    assert "Copy local.settings.json.example to local.settings.json" in found.fix
    assert wrong({"ENTRA_CLIENT_ID": "client"}) == ["DYNAMICS_URL"]


def test_the_example_is_recognised_where_it_was_not_edited() -> None:
    # Only what is wrong with the settings: contoso's Entra must not be asked.
    unedited = EXAMPLE | {"ENTRA_AUTHORITY": f"{CLOSED}/contoso.com", "DYNAMICS_URL": "none"}
    found = wrong(unedited)
    assert any("ENTRA_CLIENT_ID, ENTRA_CLIENT_SECRET: still as in local" in each for each in found)
    assert not any("still as in" in each for each in wrong(GOOD))
