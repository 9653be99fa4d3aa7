"""The sandbox's Entra takes every kind of client credential, with the real MSAL on the wire."""

import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import msal
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from joserfc.errors import JoseError
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import assertions
from sandbox.aadsts import AADSTS
from sandbox.assertions import Assertion
from sandbox.entra import EXCHANGE, TENANT, Entra, FederatedCredential
from sandbox.issuer import new_key
from sandbox.serving import Server
from sandbox.tls import Authority, ClientCertificate, client_certificate

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
SECRET = "Xq8~made-up-Secret_value"
RESOURCE = "https://contoso.operations.dynamics.com"
SCOPE = f"{RESOURCE}/.default"
PASSWORD = "made-up~passphrase"
PRINCIPAL = "6d0a0c8e-9f6e-4d1c-8a57-1c7be0b0f4aa"
ASSIGNED = "/subscriptions/1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/relay"
ELSEWHERE = "c2a7c1d4-2b55-4f6e-9d53-0d2f4b7a9e11"

FACTS = {
    7000215: (401, "invalid_client"),
    7000222: (401, "invalid_client"),
    7000218: (401, "invalid_client"),
    900144: (400, "invalid_request"),
    700016: (400, "unauthorized_client"),
    700011: (400, "unauthorized_client"),
    70001: (400, "unauthorized_client"),
    90002: (400, "invalid_tenant"),
    900023: (400, "invalid_request"),
    90038: (400, "invalid_request"),
    900382: (400, "invalid_request"),
    50059: (400, "invalid_request"),
    50194: (400, "invalid_request"),
    500011: (400, "invalid_resource"),
    50001: (400, "invalid_resource"),
    650057: (400, "invalid_resource"),
    65001: (400, "invalid_grant"),
    650052: (400, "invalid_client"),
    650056: (400, "invalid_client"),
    1002012: (400, "invalid_scope"),
    70011: (400, "invalid_scope"),
    28002: (400, "invalid_scope"),
    700027: (401, "invalid_client"),
    50012: (401, "invalid_client"),
    700030: (401, "invalid_client"),
    700024: (401, "invalid_client"),
    500133: (400, "invalid_grant"),
    700211: (401, "invalid_client"),
    700212: (401, "invalid_client"),
    700213: (401, "invalid_client"),
    700025: (401, "invalid_client"),
    53003: (400, "invalid_grant"),
    50196: (400, "invalid_grant"),
    90055: (429, "temporarily_unavailable"),
    90033: (503, "temporarily_unavailable"),
    90006: (503, "temporarily_unavailable"),
    50033: (503, "temporarily_unavailable"),
}
"""What a person who sets up the relay may meet, with the status and the `error` it comes with."""


@dataclass
class Stage:
    entra: Entra
    url: str
    session: requests.Session
    mine: ClientCertificate

    @property
    def endpoint(self) -> str:
        return f"{self.url}/{TENANT}/oauth2/v2.0/token"

    def msal(self, credential: Any, tenant: str = TENANT) -> dict[str, Any]:
        """Ask as the relay does: through MSAL, over its usual transport."""
        app = msal.ConfidentialClientApplication(
            APP,
            client_credential=credential,
            authority=f"{self.url}/{tenant}",
            instance_discovery=False,
            http_client=self.session,
        )
        answer: dict[str, Any] = app.acquire_token_for_client([SCOPE])
        return answer

    def ask(self, tenant: str = TENANT, **changes: str) -> requests.Response:
        """Ask by hand, with what MSAL would never send."""
        form = {"grant_type": "client_credentials", "client_id": APP, "scope": SCOPE, **changes}
        return self.session.post(f"{self.url}/{tenant}/oauth2/v2.0/token", data=form, timeout=30)

    def assert_by(self, assertion: str | bytes, **changes: str) -> requests.Response:
        text = assertion if isinstance(assertion, str) else assertion.decode()
        proof = {"client_assertion_type": assertions.TYPE, "client_assertion": text}
        return self.ask(**(proof | changes))

    def claims(self) -> dict[str, Any]:
        """Return the claims of an assertion that is good."""
        now = int(time.time())
        own = {"iss": APP, "sub": APP, "aud": self.endpoint, "jti": "one-of-a-kind"}
        return own | {"iat": now, "nbf": now, "exp": now + 600}

    def signed(self, *, alg: str = "PS256", header: Any = None, **changes: Any) -> str:
        """Return a good assertion, but for `changes`; `None` leaves a claim out."""
        claims = {k: v for k, v in (self.claims() | changes).items() if v is not None}
        # Times are reckoned now: tests are collected minutes before they run.
        claims = {name: value() if callable(value) else value for name, value in claims.items()}
        named = {"x5t#S256": sha256(self.mine.x509)} if header is None else header
        return jwt.encode(claims, self.mine.key.read_bytes(), alg, headers=named)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def mine(folder: Path) -> ClientCertificate:
    return client_certificate(folder, common_name="mine")


@pytest.fixture(scope="module")
def locked(folder: Path) -> ClientCertificate:
    return client_certificate(folder, common_name="locked", password=PASSWORD)


@pytest.fixture(scope="module")
def foreign(folder: Path) -> ClientCertificate:
    return client_certificate(folder, common_name="foreign")


@pytest.fixture(scope="module")
def ended(folder: Path) -> ClientCertificate:
    return client_certificate(folder, common_name="ended", days=-1)


class Place:
    """An address for the whole module; every test puts an app of its own there."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def place() -> Place:
    return Place()


@pytest.fixture(scope="module")
def server(authority: Authority, place: Place) -> Iterator[Server]:
    with Server(place, tls=authority.server_context()) as server:
        yield server


@pytest.fixture
def stage(
    authority: Authority, place: Place, server: Server, mine: ClientCertificate
) -> Iterator[Stage]:
    entra = Entra(clients={APP: SECRET}, resources=[RESOURCE])
    entra.certificates[APP] = [mine.x509]
    entra.url = server.url
    place.app = entra.app
    with requests.Session() as session:
        session.verify = str(authority.bundle)
        session.trust_env = False
        yield Stage(entra, server.url, session, mine)


def sha256(certificate: x509.Certificate) -> str:
    return assertions.thumbprint(certificate, SHA256())


def refusal(answer: requests.Response) -> tuple[int, str, int]:
    body = answer.json()
    [code] = body["error_codes"]
    return answer.status_code, body["error"], code


# --- what gets a token -------------------------------------------------------------------------


def pem(certificate: ClientCertificate) -> dict[str, str]:
    return {
        "private_key": certificate.key.read_text(),
        "public_certificate": certificate.certificate.read_text(),
    }


def by_thumbprint(certificate: ClientCertificate) -> dict[str, str]:
    digits = certificate.x509.fingerprint(SHA1()).hex()  # noqa: S303 - as MSAL asks
    return {"private_key": certificate.key.read_text(), "thumbprint": digits}


def locked_pem(certificate: ClientCertificate) -> dict[str, str]:
    return pem(certificate) | {"passphrase": PASSWORD}


def pfx(certificate: ClientCertificate) -> dict[str, Any]:
    return {"private_key_pfx_path": str(certificate.pfx), "passphrase": PASSWORD}


def pfx_with_chain(certificate: ClientCertificate) -> dict[str, Any]:
    return pfx(certificate) | {"public_certificate": True}


@pytest.mark.parametrize(
    ("credential", "algorithm"),
    [
        (pem, "PS256"),
        (by_thumbprint, "RS256"),
        (locked_pem, "PS256"),
        (pfx, "PS256"),
        (pfx_with_chain, "PS256"),
    ],
)
def test_msal_gets_a_token_by_a_certificate_in_every_form_it_takes(
    stage: Stage,
    locked: ClientCertificate,
    credential: Callable[[ClientCertificate], Any],
    algorithm: str,
) -> None:
    certificate = stage.mine if credential in (pem, by_thumbprint) else locked
    stage.entra.certificates[APP] = [certificate.x509]
    seen: list[str] = []
    stage.session.hooks["response"].append(lambda answer, **_: seen.append(answer.request.body))
    answer = stage.msal(credential(certificate))
    assert answer["access_token"] == stage.entra.issued[0]
    claims = stage.entra.verify(answer["access_token"], RESOURCE)
    assert (claims["appid"], claims["appidacr"]) == (APP, "2")
    sent = Assertion.read(parse_qs(seen[-1])["client_assertion"][0])
    assert sent.header["alg"] == algorithm


def test_msal_gets_a_token_by_a_secret(stage: Stage) -> None:
    answer = stage.msal(SECRET)
    claims = stage.entra.verify(answer["access_token"], RESOURCE)
    assert (claims["appid"], claims["appidacr"]) == (APP, "1")


def test_msal_gets_a_token_by_an_assertion_that_is_made_when_it_is_needed(stage: Stage) -> None:
    answer = stage.msal({"client_assertion": stage.signed})
    assert answer["access_token"] == stage.entra.issued[0]


def test_msal_tells_who_makes_an_assertion_for_whom_it_is(stage: Stage) -> None:
    def make(context: dict[str, str]) -> str:
        return stage.signed(aud=context["token_endpoint"], iss=context["client_id"])

    assert stage.msal({"client_assertion": make})["access_token"] == stage.entra.issued[0]


@pytest.mark.parametrize("form", ["object", "PEM", "DER"])
def test_a_certificate_is_registered_in_any_form(stage: Stage, form: str) -> None:
    certificate = stage.mine.x509
    forms: dict[str, assertions.Certificate] = {
        "object": certificate,
        "PEM": certificate.public_bytes(Encoding.PEM),
        "DER": certificate.public_bytes(Encoding.DER),
    }
    stage.entra.certificates[APP] = [forms[form]]
    assert stage.assert_by(stage.signed()).ok


def test_one_of_several_registered_certificates_is_enough(
    stage: Stage, foreign: ClientCertificate, ended: ClientCertificate
) -> None:
    stage.entra.certificates[APP] = [foreign.x509, ended.x509, stage.mine.x509]
    assert stage.assert_by(stage.signed()).ok


def test_an_application_needs_no_secret_beside_its_certificate(stage: Stage) -> None:
    del stage.entra.clients[APP]
    assert stage.assert_by(stage.signed()).ok
    assert refusal(stage.ask(client_secret=SECRET)) == (401, "invalid_client", 7000215)


@pytest.mark.parametrize("alg", ["PS256", "RS256"])
@pytest.mark.parametrize("name", ["x5t#S256", "x5t"])
def test_both_algorithms_go_with_both_thumbprints(stage: Stage, alg: str, name: str) -> None:
    certificate = stage.mine.x509
    value = sha256(certificate) if name == "x5t#S256" else assertions.sha1(certificate)
    assert stage.assert_by(stage.signed(alg=alg, header={name: value})).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"nbf": None, "iat": None},
        {"exp": lambda: time.time() - 200},
        {"nbf": lambda: time.time() + 200},
    ],
)
def test_the_clocks_may_differ_a_little(stage: Stage, changes: dict[str, Any]) -> None:
    assert stage.assert_by(stage.signed(**changes)).ok


def test_the_issuer_url_is_as_good_an_audience_as_the_token_endpoint(stage: Stage) -> None:
    assert stage.assert_by(stage.signed(aud=stage.entra.issuer)).ok
    assert stage.entra.issuer == f"{stage.url}/{TENANT}/v2.0"


# --- secrets and certificates that are refused -------------------------------------------------


@pytest.mark.parametrize("secret", ["wrong", "3f2b7f0e-8f57-4f0c-a8c3-5f9a1f0e9d11"])
def test_msal_is_told_that_the_secrets_value_is_wanted_not_its_id(
    stage: Stage, secret: str
) -> None:
    answer = stage.msal(secret)
    assert answer["error_codes"] == [7000215]
    assert "not the client secret ID" in answer["error_description"]
    assert secret not in str(answer)


def test_msal_is_told_that_the_certificate_is_not_registered(
    stage: Stage, foreign: ClientCertificate
) -> None:
    answer = stage.msal(pem(foreign))
    assert (answer["error"], answer["error_codes"]) == ("invalid_client", [700027])
    description = answer["error_description"]
    assert "is not registered on application. [Reason - The key was not found." in description
    digits = foreign.x509.fingerprint(SHA256()).hex().upper()
    assert f"Thumbprint of key used by client: '{digits}'" in description
    assert f"app Id '{APP}'" in description


def test_msal_is_told_that_the_certificate_has_expired(
    stage: Stage, ended: ClientCertificate
) -> None:
    stage.entra.certificates[APP] = [ended.x509]
    answer = stage.msal(pem(ended))
    assert (answer["error"], answer["error_codes"]) == ("invalid_client", [700027])
    end = f"End={ended.x509.not_valid_after_utc:%m/%d/%Y %H:%M:%S}"
    assert re.search(rf"The key used is expired\..+{end}", answer["error_description"])


def test_msal_is_told_that_the_key_is_not_the_certificates(
    stage: Stage, foreign: ClientCertificate
) -> None:
    mixed = pem(stage.mine) | {"private_key": foreign.key.read_text()}
    answer = stage.msal(mixed)
    assert answer["error_codes"] == [700027]
    assert "Client assertion contains an invalid signature." in answer["error_description"]


def test_msal_is_told_that_its_assertion_is_of_yesterday(stage: Stage) -> None:
    answer = stage.msal({"client_assertion": lambda: stage.signed(exp=1_700_000_000)})
    assert (answer["error"], answer["error_codes"]) == ("invalid_client", [700024])
    assert "expiry time of assertion 2023-11-14T22:13:20.0" in answer["error_description"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": lambda: time.time() - 400}, (401, "invalid_client", 700024)),
        ({"nbf": lambda: time.time() + 400}, (401, "invalid_client", 700024)),
        ({"aud": "https://elsewhere.example.com"}, (401, "invalid_client", 700023)),
        ({"aud": None}, (401, "invalid_client", 700023)),
        ({"sub": "another"}, (401, "invalid_client", 700021)),
        ({"iss": "another"}, (401, "invalid_client", 700021)),
        ({"iss": None}, (401, "invalid_client", 700021)),
        ({"sub": "half a \ud800 surrogate"}, (401, "invalid_client", 700021)),
        ({"jti": None}, (400, "invalid_request", 50027)),
        ({"exp": None}, (400, "invalid_request", 50027)),
        ({"exp": 1e300}, (400, "invalid_request", 50027)),
        ({"header": {}}, (401, "invalid_client", 5002723)),
        ({"header": {"x5t": "AAAA"}}, (401, "invalid_client", 700027)),
        ({"alg": "RS384"}, (401, "invalid_client", 5002738)),
    ],
)
def test_an_assertion_is_checked_in_every_point(
    stage: Stage, changes: dict[str, Any], expected: tuple[int, str, int]
) -> None:
    assert refusal(stage.assert_by(stage.signed(**changes))) == expected
    assert stage.entra.issued == []


def test_a_signature_that_anybody_can_make_counts_for_nothing(stage: Stage) -> None:
    named = {"x5t#S256": sha256(stage.mine.x509)}
    unsigned = jwt.encode(stage.claims(), "", "none", headers=named)
    shared = jwt.encode(stage.claims(), "x" * 32, "HS256", headers=named)
    for assertion in (unsigned, shared):
        assert refusal(stage.assert_by(assertion)) == (401, "invalid_client", 5002738)


def test_a_key_of_another_kind_signs_nothing(stage: Stage) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(stage.mine.x509.not_valid_before_utc)
        .not_valid_after(stage.mine.x509.not_valid_after_utc)
        .sign(key, SHA256())
    )
    stage.entra.certificates[APP] = [certificate]
    assertion = stage.signed(header={"x5t#S256": sha256(certificate)})
    assert refusal(stage.assert_by(assertion)) == (401, "invalid_client", 700027)


def test_a_header_of_the_wrong_types_is_refused_like_any_other(stage: Stage) -> None:
    header = {"x5t#S256": sha256(stage.mine.x509), "alg": "PS256", "crit": 1.5}
    parts = stage.signed().split(".")
    parts[0] = urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    assert refusal(stage.assert_by(".".join(parts))) == (401, "invalid_client", 700027)


@pytest.mark.parametrize("assertion", ["no-jwt", "a.b.c", "e30.W10.AA", "b'ey'"])
def test_what_is_no_jwt_is_malformed(stage: Stage, assertion: str) -> None:
    assert refusal(stage.assert_by(assertion)) == (400, "invalid_request", 50027)


@pytest.mark.parametrize(
    ("kind", "code"), [("", 900144), ("urn:ietf:params:oauth:saml2-bearer", 90023)]
)
def test_the_type_of_an_assertion_must_be_named(stage: Stage, kind: str, code: int) -> None:
    answer = stage.assert_by(stage.signed(), client_assertion_type=kind)
    assert refusal(answer) == (400, "invalid_request", code)


def test_a_certificate_of_one_application_does_not_open_another(stage: Stage) -> None:
    other = "9b3c3d38-8a3a-4f0b-8a34-8d6c7a1b2c3d"
    stage.entra.clients[other] = SECRET
    assertion = stage.signed(iss=other, sub=other)
    answer = stage.assert_by(assertion, client_id=other)
    assert refusal(answer) == (401, "invalid_client", 700027)


# --- federated identity credentials ------------------------------------------------------------


def assertion_of_identity(entra: Entra, resource_id: str = ASSIGNED) -> str:
    return entra.sign_for_identity("identity", PRINCIPAL, EXCHANGE[0], resource_id)


def trust(stage: Stage, **changes: str) -> None:
    agreed = {"issuer": stage.entra.issuer, "subject": PRINCIPAL}
    stage.entra.federated[APP] = [FederatedCredential(**(agreed | changes))]


def test_msal_gets_a_token_by_a_token_of_a_managed_identity(stage: Stage) -> None:
    trust(stage)
    answer = stage.msal({"client_assertion": lambda: assertion_of_identity(stage.entra)})
    claims = stage.entra.verify(answer["access_token"], RESOURCE)
    assert (claims["appid"], claims["appidacr"]) == (APP, "2")


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"issuer": "https://login.microsoftonline.com/another/v2.0"}, 700211, "issuer '{issuer}'"),
        ({"audience": EXCHANGE[1]}, 700212, f"audience '{EXCHANGE[0]}'"),
        ({"subject": "identity"}, 700213, f"subject '{PRINCIPAL}'"),
        ({"subject": PRINCIPAL.upper()}, 700213, f"subject '{PRINCIPAL}'"),
    ],
)
def test_msal_is_told_what_the_federated_credential_does_not_match(
    stage: Stage, changes: dict[str, str], code: int, named: str
) -> None:
    trust(stage, **changes)
    answer = stage.msal({"client_assertion": lambda: assertion_of_identity(stage.entra)})
    assert (answer["error"], answer["error_codes"]) == ("invalid_client", [code])
    assert named.format(issuer=stage.entra.issuer) in answer["error_description"]


def test_an_application_that_trusts_nobody_accepts_no_foreign_assertion(stage: Stage) -> None:
    answer = stage.assert_by(assertion_of_identity(stage.entra))
    assert refusal(answer) == (401, "invalid_client", 700211)


def test_issuer_audience_and_subject_must_agree_in_the_same_credential(stage: Stage) -> None:
    issuer = stage.entra.issuer
    stage.entra.federated[APP] = [
        FederatedCredential(issuer, PRINCIPAL, EXCHANGE[1]),
        FederatedCredential(issuer, "another"),
    ]
    answer = stage.assert_by(assertion_of_identity(stage.entra))
    assert refusal(answer) == (401, "invalid_client", 700213)


def test_only_entra_itself_vouches_for_a_managed_identity(stage: Stage) -> None:
    trust(stage)
    impostor = Entra(clients={})
    impostor.sign_with(new_key())
    impostor.url = stage.url
    answer = stage.assert_by(assertion_of_identity(impostor))
    assert refusal(answer) == (401, "invalid_client", 5000811)


def test_the_apps_own_identity_is_no_federated_credential(stage: Stage) -> None:
    trust(stage)
    own = "/subscriptions/1/providers/Microsoft.Web/sites/relay"
    answer = stage.assert_by(assertion_of_identity(stage.entra, own))
    assert refusal(answer) == (401, "invalid_client", 700226)


def test_a_token_of_a_managed_identity_expires_as_an_assertion_too(stage: Stage) -> None:
    trust(stage)
    stage.entra.lifetime = -400
    answer = stage.assert_by(assertion_of_identity(stage.entra))
    assert refusal(answer) == (401, "invalid_client", 700024)


def test_entra_must_be_told_where_it_is_before_it_names_itself() -> None:
    with pytest.raises(RuntimeError, match="`url`"):
        assertion_of_identity(Entra(clients={}))


# --- refusals on demand ------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "known"), FACTS.items())
def test_an_application_can_be_refused_with_any_code(
    stage: Stage, code: int, known: tuple[int, str]
) -> None:
    stage.entra.refuse[APP] = code
    for proof in ({"client_secret": SECRET}, {}):
        answer = stage.ask(**proof)
        assert refusal(answer) == (*known, code)
        assert answer.json()["error_description"].startswith(f"AADSTS{code}: ")
    assert stage.entra.issued == []
    assert stage.entra.token_requests == 2


@pytest.mark.parametrize("code", AADSTS)
def test_every_sentence_names_what_was_sent(stage: Stage, code: int) -> None:
    stage.entra.refuse[APP] = code
    sentence = AADSTS[code].sentence
    description = stage.assert_by(stage.signed()).json()["error_description"]
    assert not re.search(r"[{}]", description)
    for field, value in {
        "{client}": APP,
        "{tenant}": TENANT,
        "{resource}": RESOURCE,
        "{scope}": SCOPE,
        "{issuer}": APP,
        "{subject}": APP,
        "{audience}": stage.endpoint,
    }.items():
        assert field not in sentence or value in description


def test_braces_in_what_was_sent_are_quoted_as_they_are(stage: Stage) -> None:
    answer = stage.ask(client_secret=SECRET, scope="{client}{/.default")
    assert refusal(answer) == (400, "invalid_resource", 500011)
    assert "named {client}{ was" in answer.json()["error_description"]


@pytest.mark.parametrize(
    ("code", "classification"), [(65001, "consent_required"), (53003, "message_only")]
)
def test_msal_reads_what_kind_of_refusal_it_is(
    stage: Stage, code: int, classification: str
) -> None:
    stage.entra.refuse[APP] = code
    answer = stage.msal(SECRET)
    assert (answer["error_codes"], answer["classification"]) == ([code], classification)


def test_only_that_application_is_refused(stage: Stage) -> None:
    stage.entra.refuse["another"] = 53003
    assert stage.ask(client_secret=SECRET).ok


# --- tenants, and what a token says ------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["common", "organizations"])
def test_msal_is_told_that_a_tenant_must_be_named(stage: Stage, tenant: str) -> None:
    with pytest.warns(DeprecationWarning, match="specific tenant"):
        answer = stage.msal(SECRET, tenant)
    assert (answer["error"], answer["error_codes"]) == ("invalid_request", [50059])


def test_what_can_be_no_tenant_is_told_from_one_that_is_not_there(stage: Stage) -> None:
    assert refusal(stage.ask("no_such~name")) == (400, "invalid_request", 900023)
    assert refusal(stage.ask("contoso.example")) == (400, "invalid_tenant", 90002)


def test_an_application_of_another_tenant_is_not_found_in_this_one(stage: Stage) -> None:
    stage.entra.elsewhere[APP] = ELSEWHERE
    answer = stage.msal(SECRET)
    assert (answer["error"], answer["error_codes"]) == ("unauthorized_client", [700016])
    assert f"in the directory '{TENANT}'" in answer["error_description"]


def test_an_application_gets_a_token_of_its_own_tenant_that_this_one_does_not_take(
    stage: Stage,
) -> None:
    stage.entra.elsewhere[APP] = ELSEWHERE
    token = stage.msal(SECRET, ELSEWHERE)["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["tid"] == ELSEWHERE
    assert claims["iss"] == f"https://sts.windows.net/{ELSEWHERE}/"
    with pytest.raises(JoseError):
        stage.entra.verify(token, RESOURCE)
    stage.entra.clients["at-home"] = SECRET
    answer = stage.ask(ELSEWHERE, client_id="at-home", client_secret=SECRET)
    assert refusal(answer) == (400, "unauthorized_client", 700016)


def test_a_token_has_no_oid_where_the_tenant_has_no_service_principal(stage: Stage) -> None:
    stage.entra.without_oid.add(APP)
    token = stage.msal(SECRET)["access_token"]
    assert "oid" not in jwt.decode(token, options={"verify_signature": False})
    with pytest.raises(JoseError):
        stage.entra.verify(token, RESOURCE)


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({}, []),
        ({APP: ["General"]}, ["General"]),
        ({APP: ["General"], (APP, RESOURCE): ["API.ReadWrite.All"]}, ["API.ReadWrite.All"]),
        ({APP: ["General"], (APP, RESOURCE): []}, []),
        ({"another": ["General"]}, []),
    ],
)
def test_a_token_has_the_roles_that_were_consented_to(
    stage: Stage, roles: dict[tuple[str, str] | str, list[str]], expected: list[str]
) -> None:
    stage.entra.roles = roles
    token = stage.ask(client_secret=SECRET, scope=f"{RESOURCE.upper()}//.default").json()
    claims = stage.entra.verify(token["access_token"], f"{RESOURCE.upper()}/")
    assert claims["roles"] == expected


def test_a_token_is_good_for_its_own_audience_only(stage: Stage) -> None:
    token = stage.msal(SECRET)["access_token"]
    assert stage.entra.verify(token, RESOURCE)["tid"] == TENANT
    for audience in (f"{RESOURCE}/", RESOURCE.upper(), "https://other.example.com"):
        with pytest.raises(JoseError):
            stage.entra.verify(token, audience)
    stage.entra.sign_with(new_key())
    with pytest.raises(JoseError):
        stage.entra.verify(token, RESOURCE)


def test_a_token_that_has_expired_is_no_longer_good(stage: Stage) -> None:
    stage.entra.lifetime = -1
    token = stage.ask(client_secret=SECRET).json()["access_token"]
    with pytest.raises(JoseError):
        stage.entra.verify(token, RESOURCE)


def test_the_metadata_names_both_ways_to_prove_who_one_is(stage: Stage) -> None:
    url = f"{stage.url}/{TENANT}/v2.0/.well-known/openid-configuration"
    methods = stage.session.get(url, timeout=30).json()["token_endpoint_auth_methods_supported"]
    assert methods == ["client_secret_post", "private_key_jwt"]


# --- certificates of clients -------------------------------------------------------------------


def test_a_private_key_is_encrypted_when_there_is_a_password(
    mine: ClientCertificate, locked: ClientCertificate
) -> None:
    load_pem_private_key(mine.key.read_bytes(), None)
    load_pem_private_key(locked.key.read_bytes(), PASSWORD.encode())
    with pytest.raises(TypeError):
        load_pem_private_key(locked.key.read_bytes(), None)
