"""Two Dynamics behind one redirect URI, over the wire, through the Functions host."""

import re

import pytest

from relay import settings_reader
from relay.tools import doctor
from sandbox.demo import main
from sandbox.environments import Environments
from sandbox.world import World


def test_the_demonstration_shows_each_code_where_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--environments"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"the code is in +(\w+)", shown) == ["dev", "prod"]
    assert re.findall(r"the relay said +(\w+)", shown) == ["delivered", "delivered", "invalid"]


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
