"""Each entry of the tables of errors at the redirect decides a line of the table of redirects."""

import pytest

from relay.oauth import error_codes
from tests.refusals import REDIRECTS


def changed() -> list[str]:
    """Return the errors of the lines that are read otherwise than the table says."""
    return [
        case.error
        for case in REDIRECTS
        if error_codes.is_decision(case.error, case.description or None) != case.decided
    ]


def test_the_lines_are_read_as_the_table_says() -> None:
    assert changed() == []


@pytest.mark.parametrize(
    ("table", "entry"),
    [
        (name, entry)
        for name in ("DECISIONS", "SET_UP", "CANCELLED")
        for entry in sorted(getattr(error_codes, name))
    ],
)
def test_each_entry_decides_a_line(
    table: str, entry: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_codes, table, getattr(error_codes, table) - {entry})
    assert changed()


@pytest.mark.parametrize("error", sorted(error_codes.REGISTERED))
def test_each_registered_error_has_a_line_and_is_its_own_reason(error: str) -> None:
    assert error in {case.error for case in REDIRECTS}
    assert error_codes.known(error) == error
