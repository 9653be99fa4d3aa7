"""The sandbox's AD FS answers the real MSAL as one on premises does, before 2019 and since."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import msal
import pytest
import requests
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt as foreign_jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from sandbox import assertions
from sandbox.adfs import USERINFO, Adfs, Fault
from sandbox.entra import Entra
from sandbox.issuer import new_key
from sandbox.serving import Server
from sandbox.tls import Authority, ClientCertificate, client_certificate

APP = "relay-on-premises"
SECRET = "Yw3~made-up-Secret_value"
RESOURCE = "https://ax.contoso.example"
SCOPE = f"{RESOURCE}/.default"
PASSWORD = "made-up~passphrase"


@dataclass
class Stage:
    adfs: Adfs
    url: str
    session: requests.Session
    mine: ClientCertificate

    def msal(self, credential: Any, **data: str) -> dict[str, Any]:
        app = msal.ConfidentialClientApplication(
            APP,
            client_credential=credential,
            authority=f"{self.url}/adfs",
            instance_discovery=False,
            http_client=self.session,
        )
        answer: dict[str, Any] = app.acquire_token_for_client([SCOPE], data=data)
        return answer

    def ask(self, **changes: str) -> requests.Response:
        form = {"grant_type": "client_credentials", "client_id": APP, "scope": SCOPE, **changes}
        return self.session.post(f"{self.url}/adfs/oauth2/token", data=form, timeout=30)

    def signed(self, *, alg: str = "RS256", header: Any = None, **changes: Any) -> str:
        """Return a good assertion, but for `changes`; `None` leaves a claim out."""
        now = int(time.time())
        good = {"iss": APP, "sub": APP, "aud": f"{self.url}/adfs/oauth2/token", "jti": "once"}
        claims = good | {"nbf": now, "exp": now + 600} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        # Times are reckoned now: tests are collected minutes before they run.
        claims = {name: value() if callable(value) else value for name, value in claims.items()}
        named = {"x5t": assertions.sha1(self.mine.x509)} if header is None else header
        return jwt.encode(claims, self.mine.key.read_bytes(), alg, headers=named)

    def assert_by(self, **changes: Any) -> requests.Response:
        assertion = self.signed(**changes)
        return self.ask(client_assertion_type=assertions.TYPE, client_assertion=assertion)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    folder = tmp_path_factory.mktemp("certificates")
    return client_certificate(folder, common_name="mine", password=PASSWORD)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    return client_certificate(tmp_path_factory.mktemp("certificates"), common_name="plain")


@pytest.fixture
def stage(authority: Authority, plain: ClientCertificate) -> Iterator[Stage]:
    adfs = Adfs(clients={APP: SECRET}, resources=[RESOURCE])
    adfs.certificates[APP] = [plain.x509]
    with Server(adfs.app, tls=authority.server_context()) as server, requests.Session() as session:
        session.verify = str(authority.bundle)
        session.trust_env = False
        yield Stage(adfs, server.url, session, plain)


def refusal(answer: requests.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert set(body) == {"error", "error_description"}
    return answer.status_code, body["error"], body["error_description"].partition(":")[0]


# --- what gets a token -------------------------------------------------------------------------


def secret(_: ClientCertificate) -> Any:
    return SECRET


def pem(certificate: ClientCertificate) -> Any:
    return {
        "private_key": certificate.key.read_text(),
        "public_certificate": certificate.certificate.read_text(),
        "passphrase": PASSWORD,
    }


def pfx(certificate: ClientCertificate) -> Any:
    return {"private_key_pfx_path": str(certificate.pfx), "passphrase": PASSWORD}


@pytest.mark.parametrize("credential", [secret, pem, pfx])
def test_msal_gets_a_token_by_every_kind_of_credential(
    stage: Stage, mine: ClientCertificate, credential: Callable[[ClientCertificate], Any]
) -> None:
    stage.adfs.certificates[APP] = [mine.x509]
    answer = stage.msal(credential(mine))
    assert answer["access_token"] == stage.adfs.issued[0]
    assert answer["expires_in"] == 3600
    assert stage.adfs.verify(answer["access_token"], RESOURCE)["appid"] == APP
    assert (stage.adfs.metadata_requests, stage.adfs.token_requests) == (1, 1)


def test_its_token_is_signed_by_its_published_key_and_names_no_tenant(stage: Stage) -> None:
    token = stage.ask(client_secret=SECRET).json()["access_token"]
    metadata_url = f"{stage.url}/adfs/.well-known/openid-configuration"
    metadata = stage.session.get(metadata_url, timeout=30).json()
    keys = stage.session.get(metadata["jwks_uri"], timeout=30).json()
    claims = foreign_jwt.decode(token, KeySet.import_key_set(keys), algorithms=["RS256"]).claims
    assert claims.pop("exp") - claims.pop("iat") == 3600
    del claims["nbf"]
    assert claims == {
        "aud": RESOURCE,
        "iss": "http://localhost/adfs/services/trust",
        "apptype": "Confidential",
        "appid": APP,
        "ver": "1.0",
    }
    assert metadata["access_token_issuer"] == claims["iss"]
    assert metadata["issuer"] == f"{stage.url}/adfs"


def test_the_federation_service_has_a_name_of_its_own() -> None:
    adfs = Adfs(clients={}, name="sts.contoso.example")
    assert adfs.issuer == "http://sts.contoso.example/adfs/services/trust"


def test_an_identifier_that_is_no_uri_gets_a_prefix_in_the_token(stage: Stage) -> None:
    stage.adfs.resources.add("00000015-0000-0000-c000-000000000000")
    answer = stage.msal(SECRET, resource="00000015-0000-0000-c000-000000000000")
    audience = "microsoft:identityserver:00000015-0000-0000-c000-000000000000"
    assert stage.adfs.verify(answer["access_token"], audience)


def test_the_resource_parameter_counts_more_than_the_scope(stage: Stage) -> None:
    stage.adfs.resources.add("https://other.contoso.example")
    answer = stage.msal(SECRET, resource="https://other.contoso.example")
    assert stage.adfs.verify(answer["access_token"], "https://other.contoso.example")


@pytest.mark.parametrize("scope", ["", "openid"])
def test_who_names_no_resource_gets_a_token_that_dynamics_does_not_take(
    stage: Stage, scope: str
) -> None:
    answer = stage.ask(client_secret=SECRET, scope=scope)
    token = answer.json()["access_token"]
    assert stage.adfs.verify(token, USERINFO)
    with pytest.raises(JoseError):
        stage.adfs.verify(token, RESOURCE)


def test_a_client_needs_no_secret_beside_its_certificate(stage: Stage) -> None:
    del stage.adfs.clients[APP]
    assert stage.assert_by().ok
    assert refusal(stage.ask(client_secret=SECRET)) == (400, "invalid_client", "MSIS9622")


# --- before 2019 -------------------------------------------------------------------------------


def test_the_older_ad_fs_does_not_look_at_the_scope(stage: Stage) -> None:
    stage.adfs.legacy = True
    answer = stage.msal(SECRET)
    assert answer["error"] == "invalid_resource"
    assert answer["error_description"].startswith("MSIS9602: ")
    assert stage.adfs.issued == []


def test_msal_gets_a_token_of_the_older_ad_fs_by_naming_the_resource(stage: Stage) -> None:
    stage.adfs.legacy = True
    answer = stage.msal(SECRET, resource=RESOURCE)
    assert stage.adfs.verify(answer["access_token"], RESOURCE)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type", "MSIS9611"),
        ({"client_id": "another"}, "invalid_client", "MSIS9607"),
        ({"client_id": ""}, "invalid_client", "MSIS9607"),
        ({"client_secret": "wrong"}, "invalid_client", "MSIS9622"),
        ({"client_secret": ""}, "invalid_client", "MSIS9622"),
        ({"resource": "https://elsewhere.example"}, "invalid_resource", "MSIS9602"),
        ({"resource": f"{RESOURCE}/"}, "invalid_resource", "MSIS9602"),
        ({"scope": "https://elsewhere.example/.default"}, "invalid_resource", "MSIS9602"),
    ],
)
def test_it_refuses_in_its_own_words(
    stage: Stage, changes: dict[str, str], error: str, code: str
) -> None:
    answer = stage.ask(**({"client_secret": SECRET} | changes))
    assert refusal(answer) == (400, error, code)
    assert stage.adfs.issued == []


def test_a_client_must_be_permitted_to_access_the_web_api(stage: Stage) -> None:
    stage.adfs.without_permission.add(APP)
    answer = stage.msal(SECRET)
    assert (answer["error"], answer["error_description"][:8]) == ("access_denied", "MSIS9605")


def test_msal_is_told_that_its_certificate_does_not_do(
    stage: Stage, mine: ClientCertificate
) -> None:
    answer = stage.msal(pem(mine))
    assert (answer["error"], answer["error_description"][:8]) == ("invalid_client", "MSIS9622")


def test_it_has_no_other_tenants_and_no_v2_paths(stage: Stage) -> None:
    for path in ("/adfs/v2.0/.well-known/openid-configuration", "/common/oauth2/v2.0/token"):
        assert stage.session.get(f"{stage.url}{path}", timeout=30).status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "another"},
        {"sub": "another"},
        {"aud": "https://elsewhere.example"},
        {"jti": None},
        {"exp": lambda: time.time() - 400},
        {"nbf": lambda: time.time() + 400},
        {"header": {}},
        {"header": {"x5t": "AAAA"}},
        {"alg": "PS256"},
    ],
)
def test_an_assertion_is_checked_in_every_point(stage: Stage, changes: dict[str, Any]) -> None:
    assert stage.assert_by().ok
    assert refusal(stage.assert_by(**changes)) == (400, "invalid_client", "MSIS9622")


def test_what_entra_prefers_to_name_a_certificate_is_unknown_to_ad_fs(stage: Stage) -> None:
    sha256 = assertions.thumbprint(stage.mine.x509, SHA256())
    answer = stage.assert_by(header={"x5t#S256": sha256})
    assert refusal(answer) == (400, "invalid_client", "MSIS9622")


@pytest.mark.parametrize("assertion", ["no-jwt", "e30.e30."])
def test_a_secret_does_not_help_an_assertion_that_is_wrong(stage: Stage, assertion: str) -> None:
    proof = {"client_assertion_type": assertions.TYPE, "client_assertion": assertion}
    answer = stage.ask(**proof, client_secret=SECRET)
    assert refusal(answer) == (400, "invalid_client", "MSIS9622")


def test_the_type_of_an_assertion_must_be_named(stage: Stage) -> None:
    good = stage.signed()
    assert stage.ask(client_assertion_type=assertions.TYPE, client_assertion=good).ok
    answer = stage.ask(client_assertion=good)
    assert refusal(answer) == (400, "invalid_client", "MSIS9622")


def test_an_expired_certificate_does_not_do(stage: Stage, tmp_path: Path) -> None:
    stage.mine = client_certificate(tmp_path, common_name="ended", days=-1)
    stage.adfs.certificates[APP] = [stage.mine.x509]
    assert refusal(stage.assert_by()) == (400, "invalid_client", "MSIS9622")


def test_it_believes_no_tokens_but_its_own(stage: Stage) -> None:
    token = stage.ask(client_secret=SECRET).json()["access_token"]
    for other in (Adfs(clients={}), Entra(clients={})):
        other.sign_with(new_key())
        with pytest.raises(JoseError):
            other.verify(token, RESOURCE)


def test_a_token_of_another_federation_service_is_not_believed(stage: Stage) -> None:
    token = stage.ask(client_secret=SECRET).json()["access_token"]
    stage.adfs.issuer = "http://sts.contoso.example/adfs/services/trust"
    with pytest.raises(JoseError):
        stage.adfs.verify(token, RESOURCE)


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "media_type"),
    [
        (Fault.THROTTLED, 429, "application/json"),
        (Fault.SERVER_ERROR, 500, "application/json"),
        (Fault.UNAVAILABLE, 503, "application/json"),
        (Fault.UNAVAILABLE_HTML, 503, "text/html"),
        (Fault.NOT_JSON, 200, "text/html"),
        (Fault.NOT_JSON_ERROR, 400, "text/html"),
    ],
)
def test_it_plays_a_fault_once_and_then_works_again(
    stage: Stage, fault: Fault, status: int, media_type: str
) -> None:
    stage.adfs.faults.append(fault)
    stage.adfs.retry_after = 7
    answer = stage.ask(client_secret=SECRET)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith(media_type)
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert stage.adfs.issued == []
    assert stage.ask(client_secret=SECRET).ok


def test_its_metadata_can_be_down_while_tokens_are_not(stage: Stage) -> None:
    stage.adfs.mode = Fault.METADATA_DOWN
    url = f"{stage.url}/adfs/.well-known/openid-configuration"
    assert stage.session.get(url, timeout=30).status_code == 503
    assert stage.ask(client_secret=SECRET).ok
