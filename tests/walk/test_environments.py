"""Two Dynamics behind one redirect URI, over the wire, through the Functions host."""

import base64
import json
import re

import pytest

from relay import settings_reader
from relay.tools import doctor
from sandbox.demo import main
from sandbox.dynamics import Fault
from sandbox.environments import QUEUE, Environments
from sandbox.world import World
from tests.outbox import QUICK, VISIBILITY_TIMEOUT, eventually, everything

MAX_DEQUEUE_COUNT = "AzureFunctionsJobHost__extensions__queues__maxDequeueCount"


def test_the_demonstration_shows_each_code_where_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--environments"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"the code is in +(\w+)", shown) == ["dev", "prod"]
    assert re.findall(r"the relay said +(\w+)", shown) == ["delivered", "delivered", "invalid"]


@pytest.mark.parametrize(
    ("resource", "tokens"),
    [("https://api.dynamics.example", 1), (None, 2)],
    ids=["one-resource", "each-its-own"],
)
def test_environments_with_equal_credentials_share_one_token_request(
    resource: str | None, tokens: int
) -> None:
    with World() as world:
        both = Environments(world, resource)
        for name, dynamics in both.dynamics.items():
            for _ in range(2):
                assert both.authorize(name, both.minted(name)) == "delivered"
            assert len(dynamics.rows) == 2
        others = [
            token for token in world.entra.issued if audience(token) != world.dynamics_server.url
        ]
    assert len(others) == tokens


def test_what_is_held_for_an_environment_that_is_removed_becomes_poison_with_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with World({**QUICK, VISIBILITY_TIMEOUT: "00:00:02"}, lease=2) as world:
        both = Environments(world)
        both.dynamics["dev"].mode = Fault.UNAVAILABLE
        assert both.authorize("dev", both.minted("dev")) == "held"
        both.relay.stop()
        both.dynamics["dev"].mode = None
        kept = {name: each for name, each in both.settings.items() if "__DEV__" not in name}
        world.serve({**kept, VISIBILITY_TIMEOUT: "00:00:00", MAX_DEQUEUE_COUNT: "4"})
        eventually(lambda: everything(world, f"{QUEUE}-poison"))
        assert everything(world, f"{QUEUE}-dead") == []
        for dynamics in both.dynamics.values():
            assert dynamics.rows == {}
    refused = [line for line in caplog.messages if line.startswith("callback rejected ")]
    assert [line.rpartition(" reason=")[2] for line in refused] == ["outbox_environment"] * len(
        refused
    )
    assert refused


def audience(token: str) -> str:
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["aud"])


def test_the_doctor_examines_each_environment() -> None:
    with World() as world:
        both = Environments(world)
        found = list(doctor.examine(both.settings, only="default"))
        assert {each.connection for each in found if each.check == "target"} == {
            "default/dev",
            "default/prod",
        }
        broken = {**both.settings, "ENVIRONMENTS__PROD__DYNAMICS_URL": "ftp://x"}
        assert settings_reader.read(broken).connections.problems
        [fault] = [
            each
            for each in doctor.examine(broken, only="default")
            if each.message == "ENVIRONMENTS__PROD__DYNAMICS_URL"
        ]
        assert (fault.verdict, fault.connection) == ("fail", "default/prod")
