"""Refusals of Entra, one line each: status, error, code, and whether a callback is held for them.

Over loopback TLS and with the real MSAL. The error or the AADSTS code decides, not the status.
"""

import json
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.requests import Request
from starlette.responses import Response

from relay import log, outgoing
from relay.connections import ClientCertificate, ClientCredentials, ClientSecret
from relay.delivery.retry_after import TRANSIENT
from relay.entra.client import TRANSIENT_CODES, TRANSIENT_ERRORS, Client
from relay.entra.tokens import PAUSE_UNAVAILABLE, TokenCache
from relay.errors import CredentialRefused, Unavailable, Undelivered
from sandbox.adfs import Adfs
from sandbox.entra import Entra
from sandbox.serving import Server
from sandbox.tls import Authority, client_certificate

RESOURCE = "https://contoso.operations.dynamics.com"
SECRET = "canary~secret"
HELD, REFUSED = Unavailable, CredentialRefused


class Said(NamedTuple):
    """An error response of the token endpoint; `code` 0: without an AADSTS number."""

    outcome: type[Undelivered]
    status: int
    error: str
    code: int = 0
    in_words: bool = False

    def response(self) -> Response:
        body: dict[str, object] = {"error": self.error, "error_description": "canary"}
        if self.code:
            body["error_description"] = f"AADSTS{self.code}: canary"
        if self.code and not self.in_words:
            body["error_codes"] = [self.code]
        return Response(json.dumps(body), self.status, media_type="application/json")


CASES = [
    Said(HELD, 400, "temporarily_unavailable", 90033),
    Said(HELD, 401, "temporarily_unavailable", 90024),
    Said(HELD, 400, "temporarily_unavailable"),
    Said(HELD, 400, "server_error"),
    Said(HELD, 403, "server_error", 50000),
    Said(HELD, 503, "temporarily_unavailable", 90033),
    Said(HELD, 429, "temporarily_unavailable", 90055),
    *(
        Said(HELD, 400, "invalid_request", code)
        for code in (90006, 90012, 90024, 90033, 90055, 90090, 90091)
    ),
    *(
        Said(HELD, 401, "invalid_grant", code)
        for code in (40010, 50033, 50087, 50196, 51005, 70012, 80005)
    ),
    Said(HELD, 401, "invalid_client", 700024),
    Said(HELD, 400, "invalid_request", 90033, in_words=True),
    Said(HELD, 400, "invalid_request", 70021),
    Said(HELD, 401, "invalid_client", 70021),
    Said(HELD, 401, "invalid_client", 700211),
    Said(HELD, 401, "invalid_client", 700212),
    Said(HELD, 401, "invalid_client", 700213),
    Said(REFUSED, 401, "invalid_client", 7002138),
    Said(REFUSED, 401, "invalid_client", 7000215),
    Said(REFUSED, 401, "invalid_client", 7000222),
    Said(REFUSED, 401, "invalid_client", 700027),
    Said(REFUSED, 400, "unauthorized_client", 700016),
    Said(REFUSED, 400, "invalid_grant", 65001),
    Said(REFUSED, 400, "invalid_resource", 500011),
    Said(REFUSED, 400, "invalid_tenant", 90002),
    Said(REFUSED, 400, "invalid_grant", 501051),
    Said(REFUSED, 400, "invalid_request", 90036),
    Said(REFUSED, 401, "invalid_client"),
    Said(REFUSED, 403, "access_denied"),
]


class Scripted(Entra):
    """Entra that gives these answers first, and then tokens."""

    said: Sequence[Said] = ()
    assertions: Sequence[str] = ()
    """The assertions of the clients, as they came."""

    def _grant(self, request: Request, form: dict[str, str]) -> Response:
        self.assertions = [*self.assertions, form.get("client_assertion", "")]
        if self.said:
            said, *self.said = self.said
            return said.response()
        return super()._grant(request, form)


class Stage(NamedTuple):
    entra: Scripted
    credentials: ClientCredentials
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def servers() -> Iterator[Stage]:
    entra = Scripted(clients={"relay": SECRET}, resources=[RESOURCE])
    with Authority() as authority, Server(entra.app, tls=authority.server_context()) as server:
        url = f"{server.url}/{entra.tenant}"
        credentials = ClientCredentials(url, "relay", ClientSecret(SECRET), f"{RESOURCE}/.default")
        yield Stage(entra, credentials, outgoing.trust(str(authority.bundle), {}))


@pytest.fixture
def stage(servers: Stage) -> Stage:
    log.quiet()
    servers.entra.said, servers.entra.assertions, servers.entra.token_requests = (), (), 0
    return servers


@pytest.mark.parametrize("said", CASES, ids=lambda said: f"{said.code or said.error}-{said.status}")
def test_the_error_or_the_code_decides_and_not_the_status(
    stage: Stage, said: Said, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("relay.entra.client.FEDERATED_PAUSE", 0.01)
    stage.entra.said = [said, said]
    with pytest.raises(said.outcome) as raised:
        Client(stage.credentials, stage.context).acquire()
    assert type(raised.value) is said.outcome
    assert raised.value.reason == (f"AADSTS{said.code}" if said.code else f"entra_{said.error}")
    assert "canary" not in caplog.text + str(raised.value)


@pytest.mark.parametrize("code", [70021, 700211, 700212, 700213])
def test_a_federated_credential_that_is_refused_once_gives_a_token(stage: Stage, code: int) -> None:
    stage.entra.said = [Said(HELD, 401, "invalid_client", code)]
    assert Client(stage.credentials, stage.context).acquire().value == stage.entra.issued[-1]
    assert stage.entra.token_requests == 2


def test_a_federated_credential_is_asked_for_again_only_within_the_deadline(stage: Stage) -> None:
    stage.entra.said = [Said(HELD, 401, "invalid_client", 700213)]
    with pytest.raises(Unavailable):
        Client(stage.credentials, stage.context, deadline=1.5).acquire()
    assert stage.entra.token_requests == 1


async def test_after_a_refusal_that_passes_entra_is_asked_again_in_a_second(stage: Stage) -> None:
    seconds = 1_000.0
    cache = TokenCache(stage.context, clock=lambda: seconds)
    stage.entra.said = [Said(HELD, 400, "temporarily_unavailable", 90033)]
    with pytest.raises(Unavailable):
        await cache.get(stage.credentials)
    seconds += PAUSE_UNAVAILABLE
    assert (await cache.get(stage.credentials)).value == stage.entra.issued[-1]


def test_an_assertion_that_is_out_of_its_time_is_made_anew(stage: Stage, tmp_path: Path) -> None:
    files = client_certificate(tmp_path, common_name="relay")
    stage.entra.certificates["relay"] = [files.x509]
    text = files.key.read_text() + files.certificate.read_text()
    credentials = stage.credentials._replace(credential=ClientCertificate(text))
    client = Client(credentials, stage.context)
    stage.entra.said = [Said(HELD, 401, "invalid_client", 700024)]
    with pytest.raises(Unavailable):
        client.acquire()
    client.acquire()
    first, second = stage.entra.assertions
    assert first != second


@pytest.mark.parametrize("legacy", [False, True], ids=["2019", "older"])
async def test_ad_fs_is_asked_for_another_token_when_dynamics_refuses_one(legacy: bool) -> None:
    adfs = Adfs(clients={"relay": SECRET}, resources=[RESOURCE], legacy=legacy)
    with Authority() as authority, Server(adfs.app, tls=authority.server_context()) as server:
        credentials = ClientCredentials(
            f"{server.url}/adfs", "relay", ClientSecret(SECRET), f"{RESOURCE}/.default"
        )
        cache = TokenCache(outgoing.trust(str(authority.bundle), {}))
        refused = await cache.get(credentials)
        await cache.renew(credentials, refused)
    assert adfs.token_requests == 2


def test_each_code_that_passes_has_a_case_that_nothing_else_holds() -> None:
    alone = {
        said.code
        for said in CASES
        if said.outcome is HELD
        and said.status not in TRANSIENT
        and said.error not in TRANSIENT_ERRORS
    }
    assert alone == TRANSIENT_CODES
    errors = {said.error for said in CASES if said.outcome is HELD and not said.code}
    assert errors == TRANSIENT_ERRORS
