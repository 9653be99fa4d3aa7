"""Each entry of the table of Entra's refusals is needed: without it a line of the table changes.

Over loopback TLS and with the real MSAL. The error or the AADSTS code decides, not the status.
"""

import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay import log, outgoing
from relay.connections import ClientCertificate, ClientCredentials, ClientSecret, ManagedIdentity
from relay.delivery.retry_after import TRANSIENT
from relay.entra import refusals
from relay.entra.client import Client
from relay.entra.refusals import KNOWN, Known, Retry
from relay.entra.tokens import PAUSE_UNAVAILABLE, TokenCache
from relay.errors import CredentialRefused, RelayError, Unavailable
from sandbox.adfs import Adfs
from sandbox.entra import Entra
from sandbox.identity import IdentityEndpoint
from sandbox.serving import Server
from sandbox.tls import Authority, client_certificate
from tests.refusals import DELIVERED, ENTRA_CASES, HELD, REFUSED, Answer, Ends, said

RESOURCE = "https://contoso.operations.dynamics.com"
SECRET = "canary~secret"


class Scripted(Entra):
    """Entra that gives these answers first, and then tokens."""

    said: Sequence[Answer] = ()
    assertions: Sequence[str] = ()
    """The assertions of the clients, as they came."""

    def _grant(self, request: Request, form: dict[str, str]) -> Response:
        self.assertions = [*self.assertions, form.get("client_assertion", "")]
        if self.said:
            given, *self.said = self.said
            return Response(given.content, given.status, media_type=given.media_type)
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


LINES = {
    name: (case.entra, case.ends)
    for name, case in ENTRA_CASES.items()
    if case.entra and isinstance(case.entra[0].body, dict) and not case.dynamics
}
"""The lines that errors in JSON decide."""


def outcome(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Return how a line ends, if whoever issues the token says so as often as it has to."""
    answers, ends = LINES[name]
    credentials = stage.credentials
    if name.startswith("identity"):
        endpoint = IdentityEndpoint(stage.entra, [])
        monkeypatch.setattr(endpoint, "_answer", lambda _: JSONResponse({}, answers[0].status))
        with Server(endpoint.app) as server:
            for variable, value in endpoint.environment(server.url).items():
                monkeypatch.setitem(os.environ, variable, value)
            identity = ManagedIdentity("11111111-2222-3333-4444-555555555555")
            return ending(
                Client(
                    credentials._replace(authority=None, client_id=None, credential=identity),
                    stage.context,
                )
            )
    stage.entra.said = answers
    found = ending(Client(credentials, stage.context))
    assert found is not DELIVERED or ends is DELIVERED
    return found


def ending(client: Client) -> Ends:
    try:
        client.acquire()
    except Unavailable:
        return HELD
    except CredentialRefused:
        return REFUSED
    return DELIVERED


def lines_of(reason: str) -> list[str]:
    """Return the lines that have this reason, and a status that says that they are final."""
    found = []
    for name, (answers, _) in LINES.items():
        body = answers[0].body
        assert isinstance(body, dict)
        reasons = (
            {f"identity_{answers[0].status}"}
            if name.startswith("identity")
            else {f"entra_{body['error']}", body["error_description"].partition(":")[0]}
        )
        if reason in reasons and answers[0].status not in TRANSIENT:
            found.append(name)
    return found


PASSES = [
    (known, name) for known in KNOWN if known.retry is not Retry.NEVER for name in known.names
]


@pytest.mark.parametrize(
    ("known", "name"), PASSES, ids=lambda value: str(value) if not isinstance(value, Known) else ""
)
def test_each_refusal_that_passes_decides_a_line(
    stage: Stage, known: Known, name: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.entra.client.FEDERATED_PAUSE", 0.01)
    reason = f"AADSTS{name}" if isinstance(name, int) else name
    without = known._replace(names=tuple(each for each in known.names if each != name))
    monkeypatch.setattr(
        refusals, "KNOWN", tuple(without if each is known else each for each in KNOWN)
    )
    changed = [
        line for line in lines_of(reason) if outcome(stage, line, monkeypatch) != LINES[line][1]
    ]
    assert changed


@pytest.mark.parametrize(
    "known",
    [each for each in KNOWN if each.retry is Retry.AT_ONCE],
    ids=lambda known: known.reasons[0],
)
def test_each_refusal_that_is_tried_again_at_once_decides_a_line(
    stage: Stage, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = known._replace(retry=Retry.LATER)
    monkeypatch.setattr(
        refusals, "KNOWN", tuple(later if each is known else each for each in KNOWN)
    )
    (name,) = known.names
    line = f"entra-{name}-once"
    assert LINES[line][1] is DELIVERED
    assert outcome(stage, line, monkeypatch) is HELD


SERVER = frozenset(range(500, 600))


@pytest.mark.parametrize(
    "statuses",
    [SERVER, *(frozenset({status}) for status in sorted(TRANSIENT - SERVER))],
    ids=lambda statuses: "5xx" if len(statuses) > 1 else str(*map(int, statuses)),
)
def test_each_status_that_passes_decides_a_line(
    stage: Stage, statuses: frozenset[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.entra.client.TRANSIENT", TRANSIENT - statuses)
    for who in ("entra-by-its-status", "identity"):
        lines = [
            line
            for line, (answers, _) in LINES.items()
            if line.startswith(who) and answers[0].status in statuses
        ]
        assert any(outcome(stage, line, monkeypatch) is REFUSED for line in lines)


@pytest.mark.parametrize(
    "name", ["entra-90033-400", "entra-in-words", "entra-7000215-401-is-final", "adfs-client"]
)
def test_the_reason_is_the_number_or_the_error_and_no_word_more(
    stage: Stage, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers, _ = LINES[name]
    stage.entra.said = answers
    with pytest.raises(RelayError) as raised:
        Client(stage.credentials, stage.context).acquire()
    assert name in lines_of(raised.value.reason)
    assert "canary" not in caplog.text + str(raised.value)


def test_a_federated_credential_is_asked_for_again_only_within_the_deadline(stage: Stage) -> None:
    stage.entra.said = [said(401, "invalid_client", 700213)]
    with pytest.raises(Unavailable):
        Client(stage.credentials, stage.context, deadline=1.5).acquire()
    assert stage.entra.token_requests == 1


async def test_after_a_refusal_that_passes_entra_is_asked_again_in_a_second(stage: Stage) -> None:
    seconds = 1_000.0
    cache = TokenCache(stage.context, clock=lambda: seconds)
    stage.entra.said = [said(400, "temporarily_unavailable", 90033)]
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
    stage.entra.said = [said(401, "invalid_client", 700024)]
    with pytest.raises(Unavailable):
        client.acquire()
    client.acquire()
    first, second = stage.entra.assertions
    assert first != second


async def test_an_older_ad_fs_is_asked_for_another_token_when_dynamics_refuses_one() -> None:
    adfs = Adfs(clients={"relay": SECRET}, resources=[RESOURCE], legacy=True)
    with Authority() as authority, Server(adfs.app, tls=authority.server_context()) as server:
        credentials = ClientCredentials(
            f"{server.url}/adfs", "relay", ClientSecret(SECRET), f"{RESOURCE}/.default"
        )
        cache = TokenCache(outgoing.trust(str(authority.bundle), {}))
        refused = await cache.get(credentials)
        await cache.renew(credentials, refused)
    assert adfs.token_requests == 2
