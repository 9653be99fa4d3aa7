"""sealing.py: nobody reads, forges or redirects what waits in the outbox."""

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from relay.connections import Connections, Environment, StatePolicy
from relay.delivery.callback import Callback
from relay.delivery.sealing import DeadLetter, Sealer
from relay.errors import Misconfigured, RelayError, UnknownConnection, Unopenable
from relay.oauth.authorization import MAX_HELD
from tests.helpers import CANARY, CODE, STATE, connection, verified

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
BANK = connection(name="bank-of-canary", code_ttl=60)
CONNECTIONS = Connections({"bank-of-canary": BANK})
QUEUE_MESSAGE = 64 * 1024
DEV_URL = "https://dev.operations.dynamics.com/data/OAuthCallbacks"


def held(**parts: str) -> Callback:
    return Callback.received(BANK, verified(extra=parts), "00112233aabbccdd", NOW)


def test_what_is_sealed_comes_back_as_it_was() -> None:
    sealer = Sealer([NEW])
    callback = held(realmId="4711 ä")
    sealed = sealer.open(sealer.seal(callback).encode())
    assert sealed.callback(CONNECTIONS) == callback
    assert CODE not in repr(sealed)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=200))
def test_every_code_survives_to_the_last_character(code: str) -> None:
    sealer = Sealer([NEW])
    callback = Callback.received(BANK, verified(code=code, state=code), "00112233aabbccdd", NOW)
    assert sealer.open(sealer.seal(callback).encode()).callback(CONNECTIONS).response.code == code


def test_nothing_of_it_can_be_read() -> None:
    message = Sealer([NEW]).seal(held())
    opened = base64.urlsafe_b64decode(message)
    for text in (message, message.swapcase(), opened.decode("latin-1"), opened.hex()):
        for secret in (CODE, STATE, CODE.encode().hex(), "bank-of-canary", "reference"):
            assert secret not in text


def test_the_same_callback_never_looks_the_same() -> None:
    sealer = Sealer([NEW])
    assert sealer.seal(held()) != sealer.seal(held())


def test_the_first_key_seals_and_any_opens() -> None:
    before = Sealer([OLD]).seal(held()).encode()
    after = Sealer([NEW, OLD]).seal(held()).encode()
    assert Sealer([NEW, OLD]).open(before).callback(CONNECTIONS) == held()
    assert Sealer([NEW]).open(after).callback(CONNECTIONS) == held()
    with pytest.raises(Unopenable):
        Sealer([NEW]).open(before).callback(CONNECTIONS)


@pytest.mark.parametrize("place", [0, 5, 20, 60, -40, -1])
def test_a_message_that_was_touched_does_not_open(place: int) -> None:
    sealed = bytearray(base64.urlsafe_b64decode(Sealer([NEW]).seal(held())))
    sealed[place] ^= 1
    with pytest.raises(Unopenable) as refusal:
        Sealer([NEW]).open(base64.urlsafe_b64encode(sealed)).callback(CONNECTIONS)
    assert CANARY not in f"{refusal.value!r}{refusal.value}"


@pytest.mark.parametrize("message", [b"", b"{}", b"not a token", b"\xff\xfe", b"gAAAAA=="])
def test_what_is_no_message_does_not_open(message: bytes) -> None:
    with pytest.raises(Unopenable) as refusal:
        Sealer([NEW]).open(message).callback(CONNECTIONS)
    assert refusal.value.reason == "outbox_seal"


@pytest.mark.parametrize("content", ["[]", '"x"', "1", "null", '{"version": 2}', "{"])
def test_a_message_of_another_form_does_not_open(content: str) -> None:
    message = Fernet(NEW).encrypt(content.encode())
    with pytest.raises(Unopenable):
        Sealer([NEW]).open(message).callback(CONNECTIONS)


def test_a_message_with_parts_missing_does_not_open() -> None:
    content = json.loads(Fernet(NEW).decrypt(Sealer([NEW]).seal(held()).encode()))
    for part in content:
        less = {name: value for name, value in content.items() if name != part}
        with pytest.raises(Unopenable) as refusal:
            Sealer([NEW]).open(Fernet(NEW).encrypt(json.dumps(less).encode())).callback(CONNECTIONS)
        is_sealed = part in ("version", "connection")
        assert refusal.value.reason == ("outbox_seal" if is_sealed else "outbox_version")


def test_a_message_goes_to_the_connection_it_was_sealed_for_or_nowhere() -> None:
    message = Sealer([NEW]).seal(held()).encode()
    other = connection(name="other")
    with pytest.raises(UnknownConnection):
        Sealer([NEW]).open(message).callback(Connections({"other": other}))
    with pytest.raises(Misconfigured):
        Sealer([NEW]).open(message).callback(
            Connections({"bank-of-canary": Misconfigured(("DYNAMICS_URL",))})
        )


def test_the_largest_callback_fits_a_queue_message() -> None:
    # All that may be held, of the characters that JSON writes longest.
    values = {f"p{number}": '"' * 2_000 for number in range(MAX_HELD // 4_004 - 1)}
    callback = Callback.received(
        BANK, verified(code="\\" * 2_000, extra=values), "00112233aabbccdd", NOW
    )
    in_base64 = base64.b64encode(Sealer([NEW]).seal(callback).encode())
    assert len(in_base64) <= QUEUE_MESSAGE


@pytest.mark.parametrize(
    ("ttl", "usable"), [(300, 285), (60, 45), (30, 15), (20, 10), (1, 0.5), (900, 885)]
)
def test_a_code_is_of_use_until_dynamics_has_15_seconds_left_or_half_its_life(
    ttl: int, usable: float
) -> None:
    callback = Callback.received(connection(code_ttl=ttl), verified(), "00112233aabbccdd", NOW)
    assert callback.deliver_by == NOW + timedelta(seconds=usable)


def test_the_time_of_a_message_is_the_one_it_was_sealed_with_whatever_the_settings_say_now() -> (
    None
):
    message = Sealer([NEW]).seal(held()).encode()
    now_longer = Connections({"bank-of-canary": connection(name="bank-of-canary", code_ttl=900)})
    assert Sealer([NEW]).open(message).callback(now_longer).expires_at == NOW + timedelta(
        seconds=60
    )


def test_a_dead_letter_has_what_an_operator_needs_and_no_code() -> None:
    letter = DeadLetter.of(held(), "dynamics_403", 7, NOW + timedelta(minutes=3))
    assert json.loads(letter.to_json()) == {
        "reference": "00112233aabbccdd",
        "connection": "bank-of-canary",
        "delivery_id": held().delivery_id,
        "reason": "dynamics_403",
        "attempts": 7,
        "first": "2026-11-21T12:00:00Z",
        "last": "2026-11-21T12:03:00Z",
        "state": STATE,
        "state_hash": sha256(STATE.encode()).hexdigest(),
    }
    assert CODE not in letter.to_json()


def test_a_message_of_the_version_before_opens() -> None:
    content = json.loads(Fernet(NEW).decrypt(Sealer([NEW]).seal(held()).encode()))
    del content["response"]["jti"]
    message = Fernet(NEW).encrypt(json.dumps(content).encode())
    assert Sealer([NEW]).open(message).callback(CONNECTIONS) == held()


def test_a_relay_that_knows_no_environments_opens_no_message_for_one() -> None:
    """It would deliver it to the connection's own target."""
    own = dataclasses.replace(connection(name="bank-of-canary"), code_ttl=timedelta(seconds=60))
    dev = Environment(own.credentials, connection(url=DEV_URL).target, {})
    at = dataclasses.replace(own, environments={"dev": dev})
    callback = Callback.received(
        at.at("dev"), dataclasses.replace(verified(), environment="dev"), "0" * 16, NOW
    )
    message = Sealer([NEW]).seal(callback).encode()
    content = json.loads(Fernet(NEW).decrypt(message))
    assert content["version"] == 2
    assert (content["environment"], content["url"]) == ("dev", DEV_URL)
    opened = Sealer([NEW]).open(message).callback(Connections({"bank-of-canary": at}))
    assert opened == callback
    assert opened.response.environment == "dev"
    letter = json.loads(DeadLetter.of(callback, "dynamics_403", 1, NOW).to_json())
    assert letter["environment"] == "dev"
    elsewhere = Environment(own.credentials, connection(url=f"{DEV_URL}2").target, {})
    for environments, reason in (
        ({}, "outbox_environment"),
        ({"dev": elsewhere}, "outbox_environment_url"),
    ):
        now = Connections({"bank-of-canary": dataclasses.replace(own, environments=environments)})
        with pytest.raises(Unopenable) as refusal:
            Sealer([NEW]).open(message).callback(now)
        assert refusal.value.reason == reason


def test_a_dead_letter_of_a_signed_state_has_its_identity_and_not_the_state() -> None:
    signed = dataclasses.replace(BANK, state_policy=StatePolicy.SIGNED)
    response = dataclasses.replace(verified(), jti="j" * 16)
    callback = Callback.received(signed, response, "0" * 16, NOW)
    letter = json.loads(DeadLetter.of(callback, "dynamics_403", 1, NOW).to_json())
    assert letter["state_jti"] == "j" * 16
    assert "state" not in letter


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_a_message_of_a_version_that_is_not_known_says_so(version: object) -> None:
    content = json.loads(Fernet(NEW).decrypt(Sealer([NEW]).seal(held()).encode()))
    message = Fernet(NEW).encrypt(json.dumps({**content, "version": version}).encode())
    with pytest.raises(Unopenable) as refusal:
        Sealer([NEW]).open(message).callback(CONNECTIONS)
    assert refusal.value.reason == "outbox_version"


def test_every_refusal_is_one_of_the_relays_own_errors() -> None:
    assert issubclass(Unopenable, RelayError)
