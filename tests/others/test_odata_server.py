"""Deliveries to an OData V4 server that others wrote: SAP's CAP in Dynamics' place."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from sandbox.serving import Server
from sandbox.world import World
from tests.others.software import Program, need_npm_packages

# A code as long as the relay takes.
LONG = "c" * 8_000


class Stage:
    """A world whose relay delivers to CAP. `outbox` serves another one that holds what it can."""

    def __init__(self, world: World, odata: Program) -> None:
        self.world = world
        self.odata = odata
        self.settings = world.settings | {
            "DYNAMICS_URL": odata.facts["url"],
            "DYNAMICS_BODY": '{"code": "{code}", "state": "{state}", "iss": "{iss}"}',
            "PROVIDER_ISSUER": "",
        }
        self.relay = world.serve(self.settings)

    @property
    def rows(self) -> dict[str, Any]:
        return {row["state"]: row for row in self.odata.ask(rows=True)["rows"]}

    def call(self, relay: Server | None = None, **response: str) -> httpx.Response:
        """Bring an authorization response to the relay as a program."""
        with self.world.client(headers={"accept": "application/json"}) as client:
            return client.get(f"{(relay or self.relay).url}/callback", params=response)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    need_npm_packages()
    with World() as world:
        certificate, key = world.authority.server_files()
        entra = f"{world.entra_server.url}/{world.entra.tenant}"
        configuration = {
            "certificate": str(certificate),
            "key": str(key),
            "issuer": f"https://sts.windows.net/{world.entra.tenant}/",
            "keys": f"{entra}/discovery/v2.0/keys",
        }
        with Program("odata.mjs", configuration, trust=world.authority.bundle) as odata:
            world.entra.resources.add(odata.facts["url"].removesuffix("/data/OAuthCallbacks"))
            yield Stage(world, odata)


def test_the_code_is_stored_as_it_came(stage: Stage) -> None:
    code = "4/0A-_~.+/= \"'"
    told = stage.call(code=code, state="created", iss="https://bank.example")
    assert (told.status_code, told.json()["outcome"]) == (200, "delivered")
    assert stage.rows["created"] == {
        "state": "created",
        "code": code,
        "iss": "https://bank.example",
    }


def test_a_code_of_eight_thousand_characters_arrives_whole(stage: Stage) -> None:
    relay = stage.call(code=LONG, state="long")
    assert relay.json()["outcome"] == "delivered"
    assert stage.rows["long"]["code"] == LONG


def test_the_server_believes_only_a_token_that_is_for_it(stage: Stage) -> None:
    stranger = stage.world.settings["DYNAMICS_URL"].rpartition("/data/")[0]
    relay = stage.world.serve(stage.settings | {"DYNAMICS_SCOPE": f"{stranger}/.default"})
    told = stage.call(relay, code="c", state="wrong-audience")
    assert (told.status_code, told.json()["outcome"]) == (502, "rejected")
    assert "wrong-audience" not in stage.rows


@pytest.mark.parametrize(
    ("body", "state"),
    [
        pytest.param(
            '{"iss": "{code}", "state": "{state}"}', "no-code", id="a mandatory property is missing"
        ),
        pytest.param(
            '{"code": "{code}", "state": "{state}", "nope": "{iss}{code}"}',
            "unknown-property",
            id="a property that the entity does not have",
        ),
        pytest.param(
            '{"code": "{code}", "state": "{state}"}', "x" * 256, id="a key that is too long"
        ),
    ],
)
def test_what_the_server_finds_invalid_is_rejected_and_not_stored(
    stage: Stage, body: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    # With an outbox it would be held, were it taken for an outage.
    keys = {"DYNAMICS_BODY": body, "OUTBOX_KEYS": Fernet.generate_key().decode()}
    relay = stage.world.serve(stage.settings | keys)
    told = stage.call(relay, code="the-code-itself", state=state)
    assert (told.status_code, told.json()["outcome"]) == (502, "rejected")
    assert state not in stage.rows
    assert "reason=dynamics_400" in caplog.text
    # The server quotes the value that it refuses; nobody else does.
    assert state not in told.text + caplog.text.replace("connection=default", "")


def test_a_second_code_for_a_state_never_replaces_the_first(stage: Stage) -> None:
    """CAP says "UNIQUE constraint failed" with 500: nothing that Dynamics ever says.

    The relay does not guess: a 500 that it cannot read is an outage like any other, and is told as
    one. The key on state is what keeps the record one, whoever the server is.
    """
    assert stage.call(code="first", state="twice").json()["outcome"] == "delivered"
    told = stage.call(code="second", state="twice")
    assert (told.status_code, told.json()["outcome"]) == (503, "rejected")
    assert stage.rows["twice"]["code"] == "first"


def test_the_same_callback_again_is_delivered_once(stage: Stage) -> None:
    for _ in range(3):
        assert stage.call(code="once", state="again").json()["outcome"] == "delivered"
    assert stage.rows["again"]["code"] == "once"
