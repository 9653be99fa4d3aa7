"""One app, every Dynamics with every credential: each delivers, and each fails clearly.

Forty connections of one relay, over loopback TLS, through Microsoft's worker code and the real
MSAL: four targets by five credentials, right and wrong.
"""

import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest

from sandbox import business_central, custom_service
from sandbox.business_central import BusinessCentral
from sandbox.custom_service import CustomService
from sandbox.dataverse import Dataverse
from sandbox.entra import FederatedCredential
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.target import Fault, Target
from sandbox.tls import client_certificate
from sandbox.world import CLIENT_ID, CLIENT_SECRET, World

TARGETS = ("odata", "service", "bc", "dataverse")
CREDENTIALS = ("secret", "pem", "pfx", "identity", "federated")
IDENTITY = Identity("11111111-2222-3333-4444-555555555555", "aaaaaaaa-0000-0000-0000-000000000001")
OTHER = Identity("22222222-2222-3333-4444-555555555555", "aaaaaaaa-0000-0000-0000-000000000002")
UNASSIGNED = "33333333-2222-3333-4444-555555555555"
PASSWORD = "canary~password"
JSON = {"Accept": "application/json"}

REASON = {
    "secret": "AADSTS7000215",
    "pem": "AADSTS700027",
    "pfx": "certificate_unreadable",
    "identity": "identity_400",
    "federated": "AADSTS700213",
}
"""Why the wrong credential of each kind is refused, as the log has it."""


def credentials(world: World, folder: Path) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Return, for each kind, settings of a credential that Entra takes, and of a wrong one."""
    app = {"ENTRA_CLIENT_ID": CLIENT_ID}
    known, unknown = (
        client_certificate(folder, common_name=name, password=PASSWORD)
        for name in ("known", "unknown")
    )
    world.entra.certificates[CLIENT_ID] = [known.x509]
    both = {
        files: "".join(path.read_text() for path in (files.key, files.certificate))
        for files in (known, unknown)
    }

    def certificate(source: str, password: str = PASSWORD) -> dict[str, str]:
        return app | {
            "ENTRA_CLIENT_CERTIFICATE": source,
            "ENTRA_CLIENT_CERTIFICATE_PASSWORD": password,
        }

    def secret(value: str) -> dict[str, str]:
        return app | {"ENTRA_CLIENT_SECRET": value}

    def identity(client_id: str) -> dict[str, str]:
        return {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": client_id}

    return {
        "secret": (secret(CLIENT_SECRET), secret("canary~wrong")),
        "pem": (certificate(both[known]), certificate(both[unknown])),
        "pfx": (certificate(str(known.pfx)), certificate(str(known.pfx), "canary~wrong")),
        "identity": (identity(IDENTITY.client_id), identity(UNASSIGNED)),
        "federated": (app | identity(IDENTITY.client_id), app | identity(OTHER.client_id)),
    }


class Stage:
    """The world with all four targets, and a relay with a connection for each combination."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        entra = world.entra
        bc = BusinessCentral(
            entra,
            required_role=business_central.ROLE,
            identities=[IDENTITY.client_id],
            # Business Central online refuses them; here the relay's side is what is tried.
            identities_accepted=True,
        )
        self.targets: dict[str, Target] = {
            "odata": world.dynamics,
            "service": CustomService(entra),
            "bc": bc,
            "dataverse": Dataverse(entra),
        }
        servers = {
            name: world.dynamics_server if name == "odata" else world.add(target.app)
            for name, target in self.targets.items()
        }
        paths = {
            "odata": "/data/OAuthCallbacks",
            "service": custom_service.PATH,
            "bc": bc.path,
            "dataverse": Dataverse(entra).path,
        }
        for name, target in self.targets.items():
            entra.resources.add(servers[name].url)
            target.authorized_apps |= {CLIENT_ID, IDENTITY.client_id}
        for client in (CLIENT_ID, IDENTITY.client_id):
            entra.roles[client] = [business_central.ROLE]
        entra.federated[CLIENT_ID] = [FederatedCredential(entra.issuer, IDENTITY.principal_id)]

        settings = {
            "ENTRA_AUTHORITY": world.settings["ENTRA_AUTHORITY"],
            "CA_BUNDLE": world.settings["CA_BUNDLE"],
            "STATE_POLICY": "opaque",
        }
        given = credentials(world, folder)
        for place, kind in product(TARGETS, CREDENTIALS):
            names = self.targets[place].names
            body: dict[str, object] = {names.code: "{code}", names.state: "{state}"}
            own = {
                "DYNAMICS_URL": servers[place].url + paths[place],
                "DYNAMICS_BODY": json.dumps({"_contract": body} if place == "service" else body),
            }
            for suffix, credential in zip(("", "_WRONG"), given[kind], strict=True):
                prefix = f"CONNECTIONS__{place}_{kind}{suffix}__".upper()
                settings |= {prefix + name: value for name, value in (own | credential).items()}
        self.relay = world.serve(settings)

    def call(self, connection: str, code: str, state: str) -> httpx.Response:
        with self.world.client(headers=JSON) as program:
            parameters = {"code": code, "state": state}
            return program.get(f"{self.relay.url}/callback/{connection}", params=parameters)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with World() as world:
        endpoint = IdentityEndpoint(world.entra, [IDENTITY, OTHER])
        server = world.add(endpoint.app, tls=False)
        before = dict(os.environ)
        os.environ.update(endpoint.environment(server.url))
        try:
            yield Stage(world, tmp_path_factory.mktemp("certificates"))
        finally:
            os.environ.clear()
            os.environ.update(before)


def rows(stage: Stage, target: str) -> dict[str, dict[str, object]]:
    return stage.targets[target].rows


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_reached_with_every_credential(
    stage: Stage, target: str, kind: str
) -> None:
    code, state = f'code"{kind}\\', f"state-{kind}"
    told = stage.call(f"{target}-{kind}", code, state)
    assert (told.status_code, told.json()["outcome"]) == (200, "delivered")
    assert rows(stage, target)[state][stage.targets[target].names.code] == code


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_wrong_credential_fails_clearly(
    stage: Stage, target: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    posts = stage.targets[target].posts
    told = stage.call(f"{target}-{kind}-wrong", "canary-code", "canary-state")
    # A federated credential that was right is refused now and then in the same words.
    status = 503 if kind == "federated" else 502
    assert (told.status_code, told.json()["outcome"]) == (status, "rejected")
    assert told.headers["content-type"] == "application/problem+json"
    [line] = [each for each in caplog.messages if each.startswith("callback ")]
    assert line.startswith(f"callback rejected connection={target}-{kind}-wrong ")
    assert line.endswith(f" reason={REASON[kind]}")
    assert stage.targets[target].posts == posts
    assert "canary" not in told.text + "".join(each for each in caplog.messages)


@pytest.mark.parametrize("target", TARGETS)
def test_a_record_that_exists_is_a_duplicate_in_every_target(stage: Stage, target: str) -> None:
    stage.call(f"{target}-secret", "first", "once")
    told = stage.call(f"{target}-secret", "second", "once")
    assert (told.status_code, told.json()["outcome"]) == (200, "duplicate")
    assert rows(stage, target)["once"][stage.targets[target].names.code] == "first"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.FORBIDDEN, "dynamics_403"),
        (Fault.NOT_FOUND, "dynamics_404"),
        (Fault.REDIRECT, "dynamics_redirect"),
        (Fault.SIGN_IN_PAGE, "dynamics_html"),
        (Fault.UNAVAILABLE, "dynamics_503"),
        (Fault.SERVER_ERROR, "dynamics_500"),
        (Fault.BAD_GATEWAY, "dynamics_502"),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_every_targets_own_failures_are_told_by_the_same_words(
    stage: Stage, target: str, fault: Fault, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.targets[target].retry_after = 0
    stage.targets[target].faults.append(fault)
    told = stage.call(f"{target}-secret", "a", f"state-{fault}")
    assert told.json()["outcome"] == "rejected"
    assert told.status_code == (502 if reason.endswith(("403", "404")) else 503)
    assert caplog.messages[-1].endswith(f" reason={reason}")


def test_connections_that_share_a_client_and_a_scope_share_one_token(stage: Stage) -> None:
    settings = {
        "ENTRA_AUTHORITY": stage.world.settings["ENTRA_AUTHORITY"],
        "ENTRA_CLIENT_ID": CLIENT_ID,
        "ENTRA_CLIENT_SECRET": CLIENT_SECRET,
        "CA_BUNDLE": stage.world.settings["CA_BUNDLE"],
        "STATE_POLICY": "opaque",
    }
    url = stage.world.settings["DYNAMICS_URL"]
    settings |= {f"CONNECTIONS__C{number}__DYNAMICS_URL": url for number in range(3)}
    relay = stage.world.serve(settings)
    before = stage.world.entra.token_requests
    with stage.world.client(headers=JSON) as program:
        for number in range(3):
            told = program.get(f"{relay.url}/callback/c{number}?code=c&state=shared-{number}")
            assert told.json()["outcome"] == "delivered"
    assert stage.world.entra.token_requests == before + 1


def test_one_connections_outage_leaves_the_others_untouched(stage: Stage) -> None:
    stage.targets["bc"].mode = Fault.UNAVAILABLE
    stage.targets["bc"].retry_after = 60
    try:
        assert stage.call("bc-secret", "a", "in-the-outage").status_code == 503
        for target in ("odata", "service", "dataverse"):
            told = stage.call(f"{target}-secret", "a", "in-the-others-outage")
            assert told.json()["outcome"] == "delivered"
    finally:
        stage.targets["bc"].mode = None


def test_a_business_central_that_takes_no_identities_says_403_or_401(stage: Stage) -> None:
    bc = stage.targets["bc"]
    assert isinstance(bc, BusinessCentral)
    bc.identities_accepted = False
    try:
        told = stage.call("bc-identity", "a", "by-an-identity")
    finally:
        bc.identities_accepted = True
    assert told.json()["outcome"] == "rejected"
