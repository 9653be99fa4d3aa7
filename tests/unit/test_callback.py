"""What passes by on the walk of one callback."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest

from relay.delivery.callback import Callback, delivery_id
from relay.oauth.authorization import VerifiedResponse
from relay.ports import AccessToken
from tests.helpers import connection, verified

NOON = datetime(2027, 3, 4, 12, 0, 0, 987_654, tzinfo=UTC)


def callback(response: VerifiedResponse, now: datetime = NOON, code_ttl: int = 300) -> Callback:
    return Callback.received(
        connection(name="xero", code_ttl=code_ttl), response, "0123456789abcdef", now
    )


@pytest.mark.parametrize(
    ("response", "digits"),
    [
        # printf 'xero\nstate-1\ncode-1' | sha256sum | head -c 32
        pytest.param(
            verified(code="code-1", state="state-1"),
            "9cf855fedcadca6793465fb82e3f5495",
            id="a-code",
        ),
        # printf 'error\nxero\nstate-1\naccess_denied' | sha256sum | head -c 32
        pytest.param(
            verified(code=None, state="state-1", error="access_denied"),
            "917aa36341912aa73b2011d77e1559a5",
            id="an-error",
        ),
        # printf 'error\nxero\n\naccess_denied' | sha256sum | head -c 32
        pytest.param(
            verified(code=None, state="", error="access_denied"),
            "98f3077e272aca7537a254fc54f06325",
            id="an-error-without-a-state",
        ),
        # printf 'xero\n\n' | sha256sum | head -c 32
        pytest.param(
            verified(code=None, state=""),
            "879fcba83f6689e76bb69584ac424094",
            id="nothing",
        ),
    ],
)
def test_the_delivery_id_is_the_one_of_the_contract(
    response: VerifiedResponse, digits: str
) -> None:
    assert delivery_id("xero", response) == digits
    assert callback(response).delivery_id == digits


def test_the_delivery_id_tells_connection_state_code_and_error_apart() -> None:
    responses = [
        verified(code="a", state="b"),
        verified(code="b", state="a"),
        verified(code="ab", state=""),
        verified(code=None, error="a", state="b"),
        verified(code=None, error="b", state="a"),
    ]
    ids = {delivery_id(name, response) for name in ("one", "error") for response in responses}
    assert len(ids) == 10


def test_the_delivery_id_does_not_depend_on_anything_else() -> None:
    one = callback(verified(iss="https://a", extra={"x": "1"}))
    other = callback(verified(), NOON + timedelta(hours=1))._replace(reference="f" * 16)
    assert one.delivery_id == other.delivery_id


def test_every_value_of_a_code_has_its_placeholder() -> None:
    response = dataclasses.replace(
        verified(code="c", state="s", iss="https://as.example", extra={"realmId": "9"}),
        session_state="ss",
    )
    found = {name: value for name, value in callback(response).values().items() if value}
    assert found == {
        "code": "c",
        "state": "s",
        "iss": "https://as.example",
        "session_state": "ss",
        "param:realmId": "9",
        "connection": "xero",
        "delivery_id": delivery_id("xero", response),
        # printf s | sha256sum
        "state_hash": "043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89",
        "reference": "0123456789abcdef",
        "received_at": "2027-03-04T12:00:00Z",
        "expires_at": "2027-03-04T12:05:00Z",
    }


def test_what_the_relay_itself_sent_to_the_provider_has_its_placeholder() -> None:
    response = dataclasses.replace(
        verified(), code_verifier="v" * 43, redirect_uri="https://relay.example/callback"
    )
    values = callback(dataclasses.replace(response, params='[["code","c"]]')).values()
    assert values["code_verifier"] == "v" * 43
    assert values["redirect_uri"] == "https://relay.example/callback"
    assert values["params"] == '[["code","c"]]'


def test_every_value_of_an_error_has_its_placeholder() -> None:
    response = dataclasses.replace(
        verified(code=None, error="access_denied"),
        error_description="No.",
        error_uri="https://as.example/e",
    )
    values = callback(response).values()
    assert values["error"] == "access_denied"
    assert values["error_description"] == "No."
    assert values["error_uri"] == "https://as.example/e"
    assert values["code"] is None


def test_a_parameter_of_the_provider_cannot_take_the_place_of_a_placeholder() -> None:
    values = callback(verified(code="c", extra={"code": "evil", "reference": "evil"})).values()
    assert values["code"] == "c"
    assert values["reference"] == "0123456789abcdef"
    assert values["param:code"] == "evil"


def test_times_are_written_in_utc_whatever_zone_the_clock_is_in() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    values = callback(verified(), there, code_ttl=60).values()
    assert values["received_at"] == "2027-03-04T12:00:00Z"
    assert values["expires_at"] == "2027-03-04T12:01:00Z"


def test_a_code_ends_its_life_after_the_connections_code_ttl() -> None:
    assert callback(verified(), code_ttl=60).expires_at == NOON + timedelta(seconds=60)


def test_the_error_record_of_a_code_that_came_too_late_says_why_and_has_no_code() -> None:
    late = callback(verified(code="c", state="s", iss="https://as.example"))
    record = late.expired().values()
    assert record == late.values() | {
        "code": None,
        "error": "temporarily_unavailable",
        "error_description": "Dynamics could not be reached while the authorization code lived.",
    }


def test_neither_a_token_nor_a_callback_can_be_printed_by_accident() -> None:
    token = AccessToken("canary", fresh_until=1.0, expires_at=2.0)
    assert "canary" not in repr(token)
    assert "canary" not in repr(
        callback(verified(code="canary-1", state="canary-2", extra={"x": "canary-3"}))
    )
