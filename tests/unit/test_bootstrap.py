"""What is asked of Entra while an app starts, over TLS; and that it is what the settings say."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay import bootstrap, settings_reader
from relay.connections import ClientCredentials, Connection
from sandbox.entra import Entra
from sandbox.serving import Server
from sandbox.tls import Authority

RESOURCE = "https://contoso.operations.dynamics.com"


@dataclass
class Stage:
    entra: Entra
    settings: dict[str, str]

    def start(self, **further: str) -> bootstrap.App:
        """Start an app, and wait until its requests to Entra have ended."""
        app = bootstrap.app({**self.settings, **further}, ahead=True)
        for thread in threading.enumerate():
            if thread.name == "token":
                thread.join()
        return app


@pytest.fixture
def stage() -> Iterator[Stage]:
    entra = Entra(clients={"relay": "canary~secret"}, resources=[RESOURCE])
    with Authority() as authority, Server(entra.app, tls=authority.server_context()) as server:
        settings = {
            "ENTRA_AUTHORITY": f"{server.url}/{entra.tenant}",
            "ENTRA_CLIENT_ID": "relay",
            "ENTRA_CLIENT_SECRET": "canary~secret",
            "DYNAMICS_URL": f"{RESOURCE}/data/OAuthCallbacks",
            "STATE_POLICY": "opaque",
            "CA_BUNDLE": str(authority.bundle),
        }
        yield Stage(entra, settings)


def credentials(app: bootstrap.App, name: str = "default") -> ClientCredentials:
    connection = app.relay.connections.by_name[name]
    assert isinstance(connection, Connection)
    return connection.credentials


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"DYNAMICS_SCOPE": f"{RESOURCE}/.default"},
        {"DYNAMICS_URL": f" {RESOURCE.replace('contoso', 'CONTOSO')}/data/OAuthCallbacks "},
        {"CONNECTIONS__XERO__DYNAMICS_URL": f"{RESOURCE}/data/XeroCallbacks"},
    ],
    ids=["as they are", "with a scope", "in other letters", "beside a second connection"],
)
async def test_the_token_that_was_requested_first_is_the_one_that_is_used(
    stage: Stage, further: dict[str, str]
) -> None:
    app = stage.start(**further)
    assert stage.entra.token_requests == 1
    token = await app.relay.tokens.get(credentials(app), within=10)
    assert token.value == stage.entra.issued[0]
    assert stage.entra.token_requests == 1


@pytest.mark.parametrize(
    "further",
    [
        {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"},
        {"DYNAMICS_URL": "http://contoso.operations.dynamics.com/data/OAuthCallbacks"},
        {"ENTRA_CLIENT_SECRET": "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/s)"},
        {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"},
        {"ENTRA_CLIENT_SECRET": ""},
        {"ENTRA_CLIENT_ID": ""},
        {"CA_BUNDLE": "no such file"},
    ],
    ids=[
        "Core Tools",
        "Dynamics without TLS",
        "an unresolved reference",
        "two credentials",
        "no credential",
        "no client",
        "no bundle",
    ],
)
def test_settings_that_are_wrong_ask_nothing(stage: Stage, further: dict[str, str]) -> None:
    stage.start(**further)
    assert (stage.entra.metadata_requests, stage.entra.token_requests) == (0, 0)


def test_an_authority_that_validation_refuses_gets_no_secret_before_it(stage: Stage) -> None:
    host = stage.settings["ENTRA_AUTHORITY"].removeprefix("https://")
    stage.start(ENTRA_AUTHORITY=f"https://login.microsoftonline.com@{host}")
    assert (stage.entra.metadata_requests, stage.entra.token_requests) == (0, 0)


async def test_a_token_of_settings_that_turn_out_wrong_is_dropped(stage: Stage) -> None:
    app = stage.start(STATE_POLICY="pattern")
    assert app.relay.connections.problems
    right = bootstrap.app(stage.settings)
    await app.relay.tokens.get(credentials(right), within=10)
    assert stage.entra.token_requests == 2


def test_an_app_of_many_connections_reports_all_of_them_at_its_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bootstrap, "AT_ONCE", 2)
    monkeypatch.setattr(bootstrap, "SETTLE", 0)
    secrets = {"CONNECTIONS__Y__ENTRA_CLIENT_SECRET": "canary~secret"}
    wrong = {"CONNECTIONS__Z__CODE_TTL": "canary"}
    app = stage.start(**secrets, **wrong)
    for name in ("settings", "token"):
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join()
    [problem] = app.relay.connections.problems
    assert not caplog.messages  # no invocation runs
    app.relay.writer.flush()
    assert f"setting {problem}" in caplog.messages
    assert "setting STATE_POLICY: is opaque at y, strangers write rows" in caplog.messages
    assert stage.entra.token_requests == 1  # the default's and y's credentials are the same


def test_a_connection_is_read_when_it_is_asked_for(stage: Stage, tmp_path: Path) -> None:
    certificate = tmp_path / "late.pem"
    late = {"CONNECTIONS__X__ENTRA_CLIENT_CERTIFICATE": str(certificate)}
    connections = settings_reader.read(stage.settings | late).connections
    assert isinstance(connections.by_name["default"], Connection)
    certificate.touch()
    assert isinstance(connections.by_name["x"], Connection)
    assert connections.problems == ()
