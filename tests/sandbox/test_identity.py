"""The sandbox's managed identity endpoint, as the real MSAL finds and asks it on Functions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msal
import pytest
import requests

from sandbox.dynamics import Dynamics
from sandbox.entra import EXCHANGE, TENANT, Entra, FederatedCredential
from sandbox.identity import Fault, Identity, IdentityEndpoint
from sandbox.serving import Server
from sandbox.tls import Authority

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
RESOURCE = "https://contoso.operations.dynamics.com"
ASSIGNED = Identity("b5b2b3c5-3f0f-49e8-8d3b-1f3f4e4c9d21", "6d0a0c8e-9f6e-4d1c-8a57-1c7be0b0f4aa")
SYSTEM = Identity(
    "1e0f6f57-27d1-4a0e-b2d7-9b6c1d7c2f02", "d2c1a0f9-7f1e-4f0b-9a8f-3c6f0a9b5e13", system=True
)
NOBODY = "00000000-0000-0000-0000-00000000beef"


@dataclass
class Stage:
    entra: Entra
    endpoint: IdentityEndpoint
    url: str
    session: requests.Session

    def msal(self, identity: Any, resource: str = RESOURCE) -> dict[str, Any]:
        client = msal.ManagedIdentityClient(identity, http_client=self.session)
        answer: dict[str, Any] = client.acquire_token_for_client(resource=resource)
        return answer

    def ask(self, header: str | None = None, **changes: str | None) -> requests.Response:
        """Ask by hand for a token of the app's own identity; `None` leaves a parameter out."""
        query = {"api-version": "2019-08-01", "resource": RESOURCE, **changes}
        headers = {"X-IDENTITY-HEADER": self.endpoint.header if header is None else header}
        return self.session.get(f"{self.url}/msi/token", params=query, headers=headers, timeout=30)


@pytest.fixture
def stage(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    entra = Entra(clients={}, resources=[RESOURCE])
    endpoint = IdentityEndpoint(entra, identities=[ASSIGNED, SYSTEM])
    with Server(endpoint.app) as server, requests.Session() as session:
        session.verify = str(authority.bundle)
        session.trust_env = False
        monkeypatch.delenv("IDENTITY_SERVER_THUMBPRINT", raising=False)
        for name, value in endpoint.environment(server.url).items():
            monkeypatch.setenv(name, value)
        yield Stage(entra, endpoint, server.url, session)


def assigned(client_id: str = ASSIGNED.client_id) -> Any:
    return msal.UserAssignedManagedIdentity(client_id=client_id)


@pytest.mark.parametrize(
    ("asked", "identity"),
    [
        (assigned(), ASSIGNED),
        (assigned(ASSIGNED.client_id.upper()), ASSIGNED),
        (msal.UserAssignedManagedIdentity(object_id=ASSIGNED.principal_id), ASSIGNED),
        (msal.UserAssignedManagedIdentity(resource_id=ASSIGNED.resource_id), ASSIGNED),
        (msal.SystemAssignedManagedIdentity(), SYSTEM),
    ],
)
def test_msal_gets_a_token_of_the_identity_it_asks_for(
    stage: Stage, asked: Any, identity: Identity
) -> None:
    answer = stage.msal(asked)
    assert answer["access_token"] == stage.entra.issued[0]
    assert 3590 <= answer["expires_in"] <= 3599
    claims = stage.entra.verify(answer["access_token"], RESOURCE)
    assert (claims["appid"], claims["oid"]) == (identity.client_id, identity.principal_id)
    assert (claims["idtyp"], claims["tid"]) == ("app", TENANT)


def test_msal_asks_once_and_then_has_the_token_at_hand(stage: Stage) -> None:
    client = msal.ManagedIdentityClient(assigned(), http_client=stage.session)
    first = client.acquire_token_for_client(resource=RESOURCE)
    again = client.acquire_token_for_client(resource=RESOURCE)
    assert again["access_token"] == first["access_token"]
    assert (again["token_source"], stage.endpoint.requests) == ("cache", 1)


def test_the_answer_is_app_services(stage: Stage) -> None:
    answer = stage.ask(client_id=ASSIGNED.client_id)
    body = answer.json()
    end = stage.entra.verify(body["access_token"], RESOURCE)["exp"]
    del body["access_token"]
    assert body == {
        "expires_on": str(end),
        "resource": RESOURCE,
        "token_type": "Bearer",
        "client_id": ASSIGNED.client_id,
    }


def test_dynamics_takes_the_token_of_an_identity_that_it_knows(
    stage: Stage, authority: Authority
) -> None:
    dynamics = Dynamics(stage.entra, authorized_apps=[ASSIGNED.client_id])
    with Server(dynamics.app, tls=authority.server_context()) as server:
        stage.entra.resources.add(server.url)
        statuses = []
        for identity in (assigned(), msal.SystemAssignedManagedIdentity()):
            token = stage.msal(identity, server.url)["access_token"]
            answer = stage.session.post(
                f"{server.url}/data/OAuthCallbacks",
                json={"code": "code", "state": "state"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            )
            statuses.append(answer.status_code)
    assert statuses == [201, 401]


@pytest.mark.parametrize("audience", EXCHANGE)
def test_msal_exchanges_an_identitys_token_for_the_applications(
    stage: Stage, authority: Authority, audience: str
) -> None:
    with Server(stage.entra.app, tls=authority.server_context()) as server:
        stage.entra.url = server.url
        issuer = f"{server.url}/{TENANT}/v2.0"
        stage.entra.federated[APP] = [FederatedCredential(issuer, ASSIGNED.principal_id, audience)]
        answers = [exchange(stage, who, audience) for who in (assigned(), system())]
    token = stage.entra.verify(answers[0]["access_token"], RESOURCE)
    assert token["appid"] == APP
    assert answers[1]["error_codes"] == [700213]


def test_the_apps_own_identity_cannot_be_exchanged(stage: Stage, authority: Authority) -> None:
    with Server(stage.entra.app, tls=authority.server_context()) as server:
        stage.entra.url = server.url
        trusted = FederatedCredential(stage.entra.issuer, SYSTEM.principal_id)
        stage.entra.federated[APP] = [trusted]
        assert exchange(stage, system(), EXCHANGE[0])["error_codes"] == [700226]


def system() -> Any:
    return msal.SystemAssignedManagedIdentity()


def exchange(stage: Stage, identity: Any, audience: str) -> dict[str, Any]:
    app = msal.ConfidentialClientApplication(
        APP,
        client_credential={
            "client_assertion": lambda: stage.msal(identity, audience)["access_token"]
        },
        authority=f"{stage.entra.url}/{TENANT}",
        instance_discovery=False,
        http_client=stage.session,
    )
    answer: dict[str, Any] = app.acquire_token_for_client([f"{RESOURCE}/.default"])
    return answer


# --- refusals ----------------------------------------------------------------------------------


def test_msal_is_told_that_an_identity_is_not_assigned(stage: Stage) -> None:
    for stranger in (
        assigned(NOBODY),
        assigned(SYSTEM.client_id),
        msal.UserAssignedManagedIdentity(object_id=ASSIGNED.client_id),
    ):
        answer = stage.msal(stranger)
        assert answer["error_description"].startswith("400, No User Assigned or Delegated ")
    assert stage.entra.issued == []


def test_msal_is_told_that_the_app_has_no_identity_of_its_own(stage: Stage) -> None:
    stage.endpoint.identities = [ASSIGNED]
    answer = stage.msal(msal.SystemAssignedManagedIdentity())
    assert answer["error_description"].startswith("400, No Managed Identity found ")


def test_msal_is_told_little_about_a_resource_that_entra_does_not_know(stage: Stage) -> None:
    answer = stage.msal(assigned(), "https://elsewhere.example.com")
    assert answer["error_description"].startswith("500, An unexpected error")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"header": "wrong"}, 401),
        ({"header": ""}, 401),
        ({"api-version": "2017-09-01"}, 400),
        ({"api-version": None}, 400),
        ({"resource": None}, 400),
        ({"client_id": NOBODY}, 400),
        ({"client_id": ""}, 400),
        ({"principal_id": NOBODY}, 400),
        ({"resource": "https://elsewhere.example.com"}, 500),
    ],
)
def test_a_refusal_is_worded_as_app_service_does(
    stage: Stage, changes: dict[str, Any], status: int
) -> None:
    answer = stage.ask(**changes)
    body = answer.json()
    assert (answer.status_code, body["statusCode"]) == (status, status)
    assert set(body) == {"statusCode", "message", "correlationId"}
    assert stage.entra.issued == []
    assert stage.endpoint.requests == 1


def test_the_environment_says_where_it_is_and_what_it_wants_to_see(stage: Stage) -> None:
    environment = IdentityEndpoint(stage.entra, [], header="else").environment("http://localhost:1")
    assert environment == {
        "IDENTITY_ENDPOINT": "http://localhost:1/msi/token",
        "IDENTITY_HEADER": "else",
    }


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.THROTTLED, 429),
        (Fault.SERVER_ERROR, 500),
        (Fault.UNAVAILABLE, 503),
        (Fault.UNAVAILABLE_HTML, 503),
        (Fault.NOT_JSON, 200),
        (Fault.NOT_JSON_ERROR, 400),
    ],
)
def test_it_plays_a_fault_once_and_then_works_again(
    stage: Stage, fault: Fault, status: int
) -> None:
    stage.endpoint.faults.append(fault)
    stage.endpoint.retry_after = 7
    answer = stage.ask()
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert stage.entra.issued == []
    assert stage.ask().ok


def test_msal_stumbles_over_a_page_that_is_no_json(stage: Stage) -> None:
    stage.endpoint.mode = Fault.NOT_JSON
    with pytest.raises(json.JSONDecodeError):
        stage.msal(assigned())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.RESET, requests.ConnectionError),
        (Fault.HALF_BODY, requests.exceptions.ChunkedEncodingError),
        (Fault.HANG, requests.ReadTimeout),
    ],
)
def test_it_breaks_the_wire_until_the_mode_is_cleared(
    stage: Stage, fault: Fault, error: type[Exception]
) -> None:
    stage.endpoint.mode = fault
    environment = stage.endpoint.environment(stage.url)
    with pytest.raises(error):
        stage.session.get(
            environment["IDENTITY_ENDPOINT"],
            params={"api-version": "2019-08-01", "resource": RESOURCE},
            headers={"X-IDENTITY-HEADER": environment["IDENTITY_HEADER"]},
            timeout=0.3 if fault is Fault.HANG else 30,
        )
    stage.endpoint.mode = None
    assert stage.ask().ok
