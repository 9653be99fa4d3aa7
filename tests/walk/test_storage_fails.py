"""What a callback gets when the storage of the Functions host fails, through the host."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from sandbox import dynamics
from sandbox.queues import STORAGE
from sandbox.storage import MemoryQueues
from sandbox.world import World

JSON = {"accept": "application/json"}
KEYS = {"OUTBOX_KEYS": Fernet.generate_key().decode()}
CALLBACK = {"code": "a-code", "state": "a-state"}
EMPTY_500 = (500, b"")


def ask(
    world: World, path: str = "/callback", *, method: str = "GET", **options: Any
) -> httpx.Response:
    with world.client(base_url=world.relay_server.url, headers=JSON) as client:
        return client.request(method, path, **options)


def brief(answer: httpx.Response) -> tuple[int, bytes]:
    return answer.status_code, answer.content


# --- the outbox cannot be written -----------------------------------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    with World(KEYS) as world:
        world.dynamics.retry_after = 0
        yield world


def break_outbox(world: World) -> set[str]:
    assert isinstance(world.queues, MemoryQueues)
    world.queues.failing.add("send")
    return world.queues.failing


def test_while_dynamics_is_up_a_broken_outbox_is_not_noticed(world: World) -> None:
    break_outbox(world)
    assert ask(world, params=CALLBACK).json()["outcome"] == "delivered"
    assert world.dynamics.rows == {"a-state": CALLBACK}


def test_what_cannot_be_held_is_an_empty_500_after_the_attempt_and_a_reload_works(
    world: World,
) -> None:
    failing = break_outbox(world)
    world.dynamics.mode = dynamics.Fault.UNAVAILABLE
    assert brief(ask(world, params=CALLBACK)) == EMPTY_500
    assert (world.dynamics.posts, world.queues.names()) == (1, [])
    failing.clear()
    world.dynamics.mode = None
    assert ask(world, params=CALLBACK).json()["outcome"] == "delivered"
    assert world.dynamics.rows == {"a-state": CALLBACK}


# --- there is no storage --------------------------------------------------------------------------


def test_without_storage_callbacks_are_delivered_and_an_empty_500_when_they_had_to_be_held() -> (
    None
):
    with World({**KEYS, STORAGE: ""}) as world:
        assert list(world.relay_host.errors) == ["redeliver", "examine"]
        assert ask(world, params=CALLBACK).json()["outcome"] == "delivered"
        world.dynamics.mode = dynamics.Fault.UNAVAILABLE
        assert brief(ask(world, params={"code": "b", "state": "b"})) == EMPTY_500
        assert world.queues.names() == []
        assert world.dynamics.rows == {"a-state": CALLBACK}
        assert ask(world, "/health").json()["status"] == "ok"


def test_without_storage_and_without_outbox_keys_an_outage_is_told() -> None:
    with World({STORAGE: ""}) as world:
        assert ask(world, params=CALLBACK).json()["outcome"] == "delivered"
        world.dynamics.mode = dynamics.Fault.UNAVAILABLE
        answer = ask(world, params={"code": "b", "state": "b"})
        assert (answer.status_code, answer.json()["outcome"]) == (503, "rejected")


# --- the host cannot load its keys ----------------------------------------------------------------


@pytest.fixture
def keyless(world: World) -> World:
    world.relay_host.keys_fail = True
    return world


@pytest.mark.parametrize("name", ["code", "Code"])
def test_without_its_keys_the_host_answers_each_code_in_a_query_itself(
    name: str, keyless: World
) -> None:
    assert brief(ask(keyless, params={name: "a-code", "state": "a-state"})) == EMPTY_500
    assert (keyless.dynamics.posts, keyless.queues.names()) == (0, [])


def test_without_its_keys_the_host_passes_on_what_has_no_code_in_its_query(keyless: World) -> None:
    refused = ask(keyless, params={"error": "access_denied", "state": "a-state"})
    assert (refused.status_code, refused.json()["outcome"]) == (400, "declined")
    assert ask(keyless, params={"code": "", "state": ""}).json()["outcome"] == "invalid"
    posted = ask(keyless, method="POST", data=CALLBACK)
    assert posted.json()["outcome"] == "delivered"
    assert keyless.dynamics.rows == {"a-state": CALLBACK}


def test_only_health_with_a_code_tells_that_callbacks_do_not_come_through(keyless: World) -> None:
    assert ask(keyless, "/health").json()["status"] == "ok"
    assert brief(ask(keyless, "/health?code=probe")) == EMPTY_500
    keyless.relay_host.keys_fail = False
    assert ask(keyless, "/health?code=probe").json()["status"] == "ok"
    assert ask(keyless, params=CALLBACK).json()["outcome"] == "delivered"
