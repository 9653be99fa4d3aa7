"""Retry-After: seconds, a date, or nonsense."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.delivery.retry_after import TRANSIENT, seconds

NOW = datetime(2027, 3, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("0", 0, id="at-once"),
        pytest.param("17", 17, id="seconds"),
        pytest.param(" 17 ", 17, id="seconds-with-space"),
        pytest.param("300", 300, id="five-minutes"),
        pytest.param("301", 300, id="more-than-five-minutes"),
        pytest.param("9" * 5_000, 300, id="5000-digits"),
        pytest.param("Thu, 04 Mar 2027 12:00:17 GMT", 17, id="date"),
        pytest.param("Thu, 04 Mar 2027 13:00:17 +0100", 17, id="date-of-another-zone"),
        pytest.param("Thu, 04 Mar 2027 12:00:17 -0000", 17, id="date-without-zone"),
        pytest.param("Thursday, 04-Mar-27 12:00:17 GMT", 17, id="date-of-rfc-850"),
        pytest.param("Thu Mar  4 12:00:17 2027", 17, id="date-of-asctime"),
        pytest.param("Thu, 04 Mar 2027 11:59:59 GMT", 0, id="date-gone-by"),
        pytest.param("Thu, 04 Mar 2027 12:05:00 GMT", 300, id="date-in-five-minutes"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 300, id="date-far-away"),
    ],
)
def test_seconds_and_dates_are_read_and_five_minutes_are_the_most(
    value: str, expected: float
) -> None:
    assert seconds(value, NOW) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "soon",
        "-1",
        "+5",
        "1.5",
        "0x10",
        "1e2",
        "5, 5",
        "\u0665",
        "\xb2",
        "Thu, 04 Foo 2027 12:00:17 GMT",
        "Thu, 04 Mar 2027 99:00:17 GMT",
        "Thu, 04 Mar 2027 12:00:17 +9999999",
        "Thu, 04 Mar 99999999999999999999 12:00:17 GMT",
        "Thu, 04 Mar 2027 12:00:17 +99999999999999999999999",
    ],
)
def test_nonsense_is_no_retry_after(value: str | None) -> None:
    assert seconds(value, NOW) is None


def test_a_date_is_held_against_the_present_when_no_other_is_given() -> None:
    assert seconds("Fri, 31 Dec 9999 23:59:59 GMT") == 300
    assert seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0


_dates = st.builds(
    "Thu, {} Mar {} {}:00:17 {}".format,
    st.integers(),
    st.integers(),
    st.integers(0, 99),
    st.sampled_from(["GMT", "UTC", "EST", "-0000", ""]) | st.integers().map("{:+05d}".format),
)


@settings(deadline=None, max_examples=300)
@given(st.text() | _dates | st.integers().map(str))
@example("Thu, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_whatever_is_sent_is_five_minutes_at_most_or_nothing(value: str) -> None:
    found = seconds(value, NOW)
    assert found is None or 0 <= found <= 300


def test_what_may_be_otherwise_next_time_is_transient() -> None:
    assert {408, 425, 429, 500, 501, 502, 503, 504, 507, 599} <= TRANSIENT
    assert not TRANSIENT & {200, 301, 302, 400, 401, 403, 404, 405, 409, 410, 412, 422, 451, 600}
