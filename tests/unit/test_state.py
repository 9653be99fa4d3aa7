"""Which states are believed."""

import dataclasses

import pytest

from relay.connections import StatePolicy
from relay.errors import InvalidResponse
from relay.oauth import state
from tests.helpers import CANARY, connection, response


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x", id="one-character"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.e30.sig", id="jwt"),
        pytest.param("any thing; at all <b>", id="anything"),
    ],
)
def test_an_opaque_state_is_forwarded_as_it_is(value: str) -> None:
    verified = state.verify(response(state=value), connection())
    assert verified.state == value


@pytest.mark.parametrize(
    "pattern", [pytest.param(None, id="opaque"), pytest.param(".*", id="pattern")]
)
def test_a_response_without_state_is_refused_under_every_policy(pattern: str | None) -> None:
    with pytest.raises(InvalidResponse) as refused:
        state.verify(response(state=None), connection(pattern=pattern))
    assert refused.value.reason == "state_missing"
    assert refused.value.status == 400


def test_a_state_that_fits_the_pattern_is_believed() -> None:
    verified = state.verify(response(state="cb-0042"), connection(pattern=r"^cb-\d{4}$"))
    assert verified.state == "cb-0042"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("canary", id="something-else"),
        pytest.param("cb-004", id="too-short"),
        pytest.param("cb-0042-canary", id="with-a-tail"),
        pytest.param("canary-cb-0042", id="with-a-head"),
        pytest.param("cb-0042\n", id="with-a-line-break-that-dollar-overlooks"),
        pytest.param("CB-0042", id="other-case"),
    ],
)
@pytest.mark.parametrize(
    "pattern",
    [pytest.param(r"^cb-\d{4}$", id="anchored"), pytest.param(r"cb-\d{4}", id="not-anchored")],
)
def test_a_state_that_does_not_fit_in_full_is_refused(pattern: str, value: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        state.verify(response(state=value), connection(pattern=pattern))
    assert refused.value.reason == "state_mismatch"
    assert refused.value.status == 400
    assert CANARY not in str(refused.value)


def test_each_branch_of_a_pattern_has_to_fit_in_full() -> None:
    with pytest.raises(InvalidResponse):
        state.verify(response(state="one-and-more"), connection(pattern="^one|two$"))


def test_the_policy_pattern_without_a_pattern_believes_nothing() -> None:
    broken = dataclasses.replace(connection(), state_policy=StatePolicy.PATTERN)
    with pytest.raises(InvalidResponse) as refused:
        state.verify(response(), broken)
    assert refused.value.reason == "state_mismatch"


def test_verifying_changes_nothing_of_the_response() -> None:
    sent = response(error="access_denied", iss="https://as", implicit=True, extra={"a": "b"})
    verified = state.verify(sent, connection())
    before, after = dataclasses.asdict(sent), dataclasses.asdict(verified)
    assert {name: after[name] for name in before} == before
