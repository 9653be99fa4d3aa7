"""A mistake of the relay's own loses no code, and writes nothing that was not checked."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from urllib.parse import parse_qs, urlsplit

import pytest

from relay import body, flow, pages, settings_reader
from relay.connections import Connection
from relay.delivery import dynamics as target
from relay.delivery import targets
from relay.entra.tokens import TokenCache
from relay.oauth import authorization, state
from sandbox import dynamics
from sandbox.world import World
from tests.helpers import ROOT
from tests.outbox import (
    CODE,
    DEAD,
    OUTBOX,
    POISON,
    QUICK,
    VISIBILITY_TIMEOUT,
    WITH_ERROR,
    eventually,
    everything,
    hit,
)

MESSAGE = "an argument of canary"


def broken(*_: object, **__: object) -> NoReturn:
    raise TypeError(MESSAGE)


DELIVERY = [
    pytest.param((target.DynamicsClient, "deliver"), id="dynamics"),
    pytest.param((targets, "meaning_of"), id="dynamics-answer"),
    pytest.param((body.Template, "render"), id="body"),
    pytest.param((TokenCache, "get"), id="tokens"),
]
"""Where a delivery may break."""

CHECKS = [
    pytest.param((state, "verify"), id="state-and-cookie"),
    pytest.param((authorization, "_check_issuer"), id="issuer"),
    pytest.param((authorization, "check"), id="characters"),
]
"""Where a check may break."""


@pytest.fixture
def world() -> Iterator[World]:
    with World({**QUICK, "DYNAMICS_BODY": WITH_ERROR}) as world:
        world.dynamics.retry_after = 0
        yield world


@pytest.mark.parametrize("place", DELIVERY)
def test_a_code_whose_delivery_breaks_is_held_and_delivered_after_the_repair(
    world: World,
    place: tuple[object, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.dynamics.mode = dynamics.Fault.FORBIDDEN  # an answer that has to be judged
    with monkeypatch.context() as breaking:
        breaking.setattr(*place, broken)
        answer = hit(world)
        assert (answer.status_code, answer.json()["outcome"]) == (202, "held")
        line = next(each for each in caplog.messages if each.startswith("callback held"))
        assert line.endswith("reason=unforeseen")
        assert any(each.startswith("unforeseen TypeError reference=") for each in caplog.messages)
        world.dynamics.mode = None
    eventually(lambda: world.dynamics.rows)
    eventually(lambda: everything(world, OUTBOX) == [])
    assert everything(world, DEAD) == everything(world, POISON) == []
    assert MESSAGE not in caplog.text


@pytest.mark.parametrize("place", CHECKS)
def test_a_check_that_breaks_has_not_passed(
    world: World,
    place: tuple[object, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(*place, broken)
    answer = hit(world)
    assert (answer.status_code, answer.json()["outcome"]) == (500, "rejected")
    assert world.dynamics.posts == world.entra.token_requests == 0
    assert everything(world, OUTBOX) == []
    assert MESSAGE not in caplog.text


def test_a_check_of_the_cookie_that_breaks_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    flow_settings = {
        "STATE_POLICY": "signed",
        "STATE_KEYS": f"k1:{'A' * 43}",
        "PROVIDER_CLIENT_ID": "dynamics-365",
        "PROVIDER_AUTHORIZATION_ENDPOINT": "https://provider.example/authorize",
        "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
        "PROVIDER_ISSUER": "",
        "DYNAMICS_BODY": '{"code": "{code}", "state": "{state_hash}"}',
    }
    with World({**QUICK, **flow_settings}) as world, world.client() as browser:
        [connection] = settings_reader.read(world.settings).connections.by_name.values()
        assert isinstance(connection, Connection)
        ticket = state.mint_ticket(connection, "j" * 22, datetime.now(UTC), timedelta(minutes=5))
        start = f"{world.relay_server.url}/authorize/default"
        started = browser.get(start, params={"ticket": ticket})
        [token] = parse_qs(urlsplit(started.headers["location"]).query)["state"]
        sent = {"code": CODE, "state": token}
        with monkeypatch.context() as breaking:
            breaking.setattr(state, "parse_cookies", broken)
            answer = browser.get(world.redirect_uri, params=sent)
        assert (answer.status_code, answer.json()["outcome"]) == (500, "rejected")
        assert world.dynamics.posts == world.entra.token_requests == 0
        assert everything(world, OUTBOX) == []
        assert browser.get(world.redirect_uri, params=sent).json()["outcome"] == "delivered"


def test_a_page_that_breaks_takes_no_code_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    monkeypatch.setattr(pages, "_reply_to", lambda *_, html: broken() if html else KEPT)
    answer = hit(world, "text/html")
    assert answer.status_code == 202
    assert len(everything(world, OUTBOX)) == 1


KEPT = pages.Reply(202, {}, b"{}")


def test_an_error_record_that_always_breaks_is_a_dead_letter_after_ten_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target.DynamicsClient, "deliver", broken)
    at_once = {**QUICK, VISIBILITY_TIMEOUT: "00:00:00", "DYNAMICS_BODY": WITH_ERROR}
    with World(at_once) as world:
        answer = hit(world, error="access_denied", state="canary-state")
        assert answer.json()["outcome"] == "declined"
        eventually(lambda: everything(world, DEAD))
        [letter] = [json.loads(text) for text in everything(world, DEAD)]
        assert (letter["reason"], letter["attempts"]) == ("unforeseen", 10)
        eventually(lambda: everything(world, OUTBOX) == [])
        assert everything(world, POISON) == []


# -- the time of an invocation -------------------------------------------------------------------


def test_a_callback_ends_before_the_platform_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow Entra, a 401, a lost connection and a Dynamics that hangs: held, with its code."""
    monkeypatch.setattr(flow, "DEADLINE", 2.0)
    with World({**QUICK, "DYNAMICS_TIMEOUT": "60", "DYNAMICS_BODY": WITH_ERROR}) as world:
        hit(world, code="first", state="a connection that is kept")
        world.entra.delay = 0.3
        world.dynamics.faults.extend(
            [dynamics.Fault.RESET, dynamics.Fault.UNAUTHORIZED, dynamics.Fault.HANG]
        )
        answer = hit(world)
        assert (answer.status_code, answer.json()["outcome"]) == (202, "held")
        assert len(everything(world, OUTBOX)) == 1
        eventually(lambda: len(world.dynamics.rows) == 2)


def test_the_deadline_leaves_time_for_the_outbox_and_for_the_answer() -> None:
    """The host tries for 26 s to write the outbox before it answers 500."""
    timeout = json.loads((ROOT / "host.json").read_text("utf-8"))["functionTimeout"]
    hours, minutes, seconds = map(int, timeout.split(":"))
    assert hours * 3600 + minutes * 60 + seconds > flow.DEADLINE + 26
