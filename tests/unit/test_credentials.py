"""Each kind of credential over real HTTP, with the real MSAL: right, wrong and replaced."""

import gzip
import json
import logging
import os
import socket
import socketserver
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from joserfc import jwt

from relay import log, outgoing
from relay.connections import ClientCertificate, ClientCredentials, ClientSecret, ManagedIdentity
from relay.entra.client import DEADLINE, MAX_ANSWER, Client, Response, UnreachableError, _Http
from relay.errors import CredentialRefused, Unavailable
from sandbox.adfs import Adfs
from sandbox.entra import EXCHANGE, Entra, Fault, FederatedCredential
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.serving import Server
from sandbox.tls import Authority, client_certificate
from sandbox.tls import ClientCertificate as Files

RESOURCE = "https://contoso.operations.dynamics.com"
APP = "5f1c7c1e-6f0a-4a53-9a41-0c1f6f2f7a10"
SECRET = "canary~secret"
PASSWORD = "canary~password"
USER = Identity("11111111-2222-3333-4444-555555555555", "aaaaaaaa-0000-0000-0000-000000000001")
SYSTEM = Identity(
    "66666666-7777-8888-9999-000000000000", "aaaaaaaa-0000-0000-0000-000000000002", system=True
)


@dataclass
class Stage:
    """Entra, AD FS and the platform's identity endpoint, and clients of them."""

    entra: Entra
    adfs: Adfs
    endpoint: IdentityEndpoint
    authority: str
    adfs_authority: str
    trust: Path
    folder: Path

    def client(
        self,
        credential: ClientSecret | ClientCertificate | ManagedIdentity,
        *,
        client_id: str | None = APP,
        authority: str | None = None,
        deadline: float = DEADLINE,
    ) -> Client:
        credentials = ClientCredentials(
            (authority or self.authority) if client_id else None,
            client_id,
            credential,
            f"{RESOURCE}/.default",
        )
        return Client(credentials, outgoing.trust(str(self.trust), {}), deadline=deadline)

    def files(self, name: str = "relay", **options: int) -> Files:
        return client_certificate(self.folder, common_name=name, password=PASSWORD, **options)

    def claims(self, token: str) -> dict[str, object]:
        return dict(jwt.decode(token, self.entra.public_keys, algorithms=["RS256"]).claims)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, dict[str, str]]]:
    """Start everything once: keys take longer to make than tests to run."""
    entra = Entra(clients={APP: SECRET}, resources=[RESOURCE])
    adfs = Adfs(clients={APP: SECRET}, resources=[RESOURCE])
    endpoint = IdentityEndpoint(entra, [USER, SYSTEM])
    with Authority() as authority, ExitStack() as stack:
        context = authority.server_context()
        server = stack.enter_context(Server(entra.app, tls=context))
        adfs_server = stack.enter_context(Server(adfs.app, tls=context))
        platform = stack.enter_context(Server(endpoint.app))
        entra.url = server.url
        stage = Stage(
            entra,
            adfs,
            endpoint,
            f"{server.url}/{entra.tenant}",
            f"{adfs_server.url}/adfs",
            authority.bundle,
            tmp_path_factory.mktemp("certificates"),
        )
        yield stage, endpoint.environment(platform.url)


@pytest.fixture
def stage(
    servers: tuple[Stage, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    log.quiet()
    made, environment = servers
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made.folder = tmp_path
    for issuer in (made.entra, made.adfs):
        issuer.clients[APP] = SECRET
        issuer.resources = {RESOURCE}
        issuer.certificates.clear()
        issuer.mode, issuer.token_requests = None, 0
    made.entra.federated.clear()
    made.adfs.legacy = False
    made.endpoint.mode, made.endpoint.requests = None, 0
    return made


def refused(client: Client) -> str:
    """Return why a client gets no token, after a look for what must not be told."""
    with pytest.raises(CredentialRefused) as error:
        client.acquire()
    assert "canary" not in f"{error.value!r}{error.value}{error.value.reason}"
    return error.value.reason


# -- certificates --------------------------------------------------------------------------------


def test_a_pfx_file_proves_who_the_relay_is(stage: Stage) -> None:
    files = stage.files()
    stage.entra.certificates[APP] = [files.x509]
    token = stage.client(ClientCertificate(str(files.pfx), PASSWORD)).acquire()
    assert stage.claims(token.value)["appidacr"] == "2"


def test_a_pem_file_and_its_very_text_do_too(stage: Stage) -> None:
    files = stage.files()
    stage.entra.certificates[APP] = [files.x509]
    text = files.key.read_text() + files.certificate.read_text()
    both = stage.folder / "both.pem"
    both.write_text(text)
    for source in (str(both), text, text.replace("\n", "\\n")):
        stage.client(ClientCertificate(source, PASSWORD)).acquire()


def test_a_certificate_that_entra_does_not_have_is_refused_by_its_code(stage: Stage) -> None:
    stage.entra.certificates[APP] = [stage.files("another").x509]
    client = stage.client(ClientCertificate(str(stage.files().pfx), PASSWORD))
    assert refused(client) == "AADSTS700027"


def test_a_certificate_that_cannot_be_opened_asks_nobody(stage: Stage) -> None:
    client = stage.client(ClientCertificate(str(stage.files().pfx), "canary~wrong"))
    assert refused(client) == "certificate_unreadable"
    assert stage.entra.token_requests == 0


def test_a_certificate_is_replaced_by_replacing_its_file(stage: Stage) -> None:
    old, new = stage.files("old"), stage.files("new")
    path = stage.folder / "current.pfx"
    path.write_bytes(old.pfx.read_bytes())
    stage.entra.certificates[APP] = [old.x509]
    client = stage.client(ClientCertificate(str(path), PASSWORD))
    client.acquire()

    stage.entra.certificates[APP] = [new.x509]
    new.pfx.rename(path)
    client.acquire()
    assert stage.entra.token_requests == 2


def test_a_file_that_is_being_written_does_not_stop_the_one_that_works(stage: Stage) -> None:
    files = stage.files()
    stage.entra.certificates[APP] = [files.x509]
    path = stage.folder / "current.pfx"
    content = files.pfx.read_bytes()
    path.write_bytes(content)
    client = stage.client(ClientCertificate(str(path), PASSWORD))
    client.acquire()
    for half in (content[: len(content) // 2], b""):
        path.write_bytes(half)
        client.acquire()
    path.unlink()
    client.acquire()
    assert stage.entra.token_requests == 4


def test_a_renewal_reads_an_unchanged_file_no_second_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = stage.files()
    stage.entra.certificates[APP] = [files.x509]
    client = stage.client(ClientCertificate(str(files.pfx), PASSWORD))
    client.acquire()
    monkeypatch.setattr("relay.entra.certificate.load", lambda _: pytest.fail("read again"))
    client.acquire()


# -- managed identities --------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [USER, SYSTEM], ids=["user-assigned", "system-assigned"])
def test_an_identity_of_the_platform_is_a_client_by_itself(
    stage: Stage, identity: Identity
) -> None:
    named = None if identity.system else identity.client_id
    token = stage.client(ManagedIdentity(named), client_id=None).acquire()
    claims = stage.claims(token.value)
    assert (claims["aud"], claims["appid"]) == (RESOURCE, identity.client_id)
    assert stage.entra.token_requests == 0


def test_no_proxy_hears_the_secret_of_the_platforms_endpoint(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The endpoint is on this machine, and its secret (X-IDENTITY-HEADER) goes nowhere else.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    stage.client(ManagedIdentity(None), client_id=None).acquire()
    assert stage.endpoint.requests == 1


def test_an_identity_that_is_not_assigned_is_refused_by_the_platforms_status(stage: Stage) -> None:
    stranger = ManagedIdentity("99999999-2222-3333-4444-555555555555")
    assert refused(stage.client(stranger, client_id=None)) == "identity_400"
    assert refused(stage.client(stranger)) == "identity_400"


def test_without_an_identity_nobody_is_asked_and_nothing_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IDENTITY_ENDPOINT")
    assert refused(stage.client(ManagedIdentity(None), client_id=None)) == "identity_missing"
    assert refused(stage.client(ManagedIdentity(USER.client_id))) == "identity_missing"
    assert stage.endpoint.requests == 0


def trust_identity(stage: Stage, **wrong: str) -> Client:
    right = {"issuer": stage.entra.issuer, "subject": USER.principal_id, "audience": EXCHANGE[0]}
    stage.entra.federated[APP] = [FederatedCredential(**right | wrong)]
    return stage.client(ManagedIdentity(USER.client_id))


def test_an_app_that_trusts_an_identity_needs_no_secret(stage: Stage) -> None:
    stage.entra.clients[APP] = ""
    token = trust_identity(stage).acquire()
    claims = stage.claims(token.value)
    assert (claims["appid"], claims["aud"]) == (APP, RESOURCE)
    assert stage.endpoint.requests == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"issuer": "https://login.microsoftonline.com/x/v2.0"}, "AADSTS700211"),
        ({"audience": EXCHANGE[1]}, "AADSTS700212"),
        ({"subject": USER.client_id}, "AADSTS700213"),
    ],
    ids=["issuer", "audience", "subject"],
)
def test_an_app_that_trusts_another_identity_says_which_half_is_wrong(
    stage: Stage, wrong: dict[str, str], reason: str
) -> None:
    # It is asked twice, and held: a right credential is refused so now and then.
    with pytest.raises(Unavailable) as error:
        trust_identity(stage, **wrong).acquire()
    assert error.value.reason == reason
    assert stage.entra.token_requests == 2


def test_a_renewed_token_rests_on_a_new_assertion(stage: Stage) -> None:
    client = trust_identity(stage)
    client.acquire()
    client.acquire()
    assert (stage.endpoint.requests, stage.entra.token_requests) == (2, 2)


@pytest.mark.parametrize("client_id", [None, APP], ids=["itself", "federated"])
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.NOT_JSON, Fault.RESET, Fault.THROTTLED])
def test_an_outage_of_the_platforms_endpoint_is_one_to_wait_for(
    stage: Stage, fault: Fault, client_id: str | None
) -> None:
    stage.endpoint.mode = fault
    with pytest.raises(Unavailable) as error:
        stage.client(ManagedIdentity(USER.client_id), client_id=client_id).acquire()
    assert error.value.reason.startswith("identity_")


def test_an_outage_of_entra_behind_the_platform_is_told_as_entras(stage: Stage) -> None:
    client = trust_identity(stage)
    stage.entra.mode = Fault.UNAVAILABLE
    with pytest.raises(Unavailable) as error:
        client.acquire()
    assert error.value.reason == "AADSTS90033"


# -- AD FS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True], ids=["2019", "2016"])
def test_ad_fs_is_told_the_resource_in_its_own_way(stage: Stage, legacy: bool) -> None:
    stage.adfs.legacy = legacy
    token = stage.client(ClientSecret(SECRET), authority=stage.adfs_authority).acquire()
    stage.adfs.verify(token.value, RESOURCE)


def test_ad_fs_takes_a_certificate_in_its_older_form(stage: Stage) -> None:
    files = stage.files()
    stage.adfs.certificates[APP] = [files.x509]
    certificate = ClientCertificate(str(files.pfx), PASSWORD)
    stage.client(certificate, authority=stage.adfs_authority).acquire()


def test_a_resource_that_ad_fs_does_not_have_is_refused_by_its_word(stage: Stage) -> None:
    stage.adfs.resources.clear()
    client = stage.client(ClientSecret(SECRET), authority=stage.adfs_authority)
    assert refused(client).startswith("entra_invalid_")


# -- what is told --------------------------------------------------------------------------------


def test_a_tenant_that_does_not_exist_is_named_by_entras_code(stage: Stage) -> None:
    elsewhere = stage.authority.replace(stage.entra.tenant, "nobody.example")
    assert refused(stage.client(ClientSecret(SECRET), authority=elsewhere)) == "AADSTS90002"


def test_a_token_without_a_word_about_its_life_is_used_for_some_minutes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6749 §5.1: `expires_in` is recommended, and not required."""
    client = stage.client(ClientSecret(SECRET))
    monkeypatch.setattr(client, "_ask", lambda **_: {"access_token": "canary"})
    token = client.acquire()
    assert 300 < token.expires_at - time.monotonic() <= 600


def test_no_answer_of_entra_prints_its_token() -> None:
    answer = Response(200, {"x-canary": "canary"}, '{"access_token": "canary"}')
    assert "canary" not in f"{answer}{answer!r}"


def test_no_credential_reaches_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    files = stage.files()
    stage.entra.certificates[APP] = [files.x509]
    stage.client(ClientCertificate(str(files.pfx), PASSWORD)).acquire()
    trust_identity(stage).acquire()
    refused(stage.client(ClientSecret("canary~wrong")))
    refused(stage.client(ClientCertificate(str(files.pfx), "canary~wrong")))
    stage.endpoint.mode = Fault.NOT_JSON
    with pytest.raises(Unavailable):
        stage.client(ManagedIdentity(None), client_id=None).acquire()
    for told in ("canary", "eyJ", "PRIVATE KEY", os.environ["IDENTITY_HEADER"], str(stage.folder)):
        assert told not in caplog.text
    assert "no token from Entra: reason=AADSTS7000215 entra_status=401" in caplog.text


# -- the HTTP under MSAL -------------------------------------------------------------------------


def test_the_endpoints_of_a_known_cloud_are_known_without_asking() -> None:
    door = _Http(outgoing.trust(None, {}), DEADLINE)  # nothing answers to it here
    for host in ("login.microsoftonline.com", "login.microsoftonline.us"):
        told = door.get(f"https://{host}/contoso.com/v2.0/.well-known/openid-configuration")
        endpoints = json.loads(told.text)
        assert endpoints["token_endpoint"] == f"https://{host}/contoso.com/oauth2/v2.0/token"


def test_the_endpoints_of_any_other_authority_are_asked_for(stage: Stage) -> None:
    stage.entra.metadata_requests = 0
    stage.client(ClientSecret(SECRET)).acquire()
    assert stage.entra.metadata_requests == 1


def test_a_certificate_that_is_not_trusted_is_told_as_such(stage: Stage) -> None:
    credentials = ClientCredentials(stage.authority, APP, ClientSecret(SECRET), "x/.default")
    with pytest.raises(Unavailable) as refused_by:
        Client(credentials, outgoing.trust(None, {})).acquire()
    assert refused_by.value.reason == "entra_tls"


@pytest.mark.parametrize(
    "fault",
    [Fault.HANG, Fault.HANG_IN_HEAD, Fault.HANG_IN_BODY, Fault.METADATA_HANG],
    ids=lambda fault: fault.name.lower(),
)
def test_an_entra_that_hangs_or_drips_is_left_at_the_deadline(stage: Stage, fault: Fault) -> None:
    stage.entra.mode = fault
    with pytest.raises(Unavailable) as error:
        stage.client(ClientSecret(SECRET), deadline=0.5).acquire()
    assert error.value.reason == "entra_timeout"


@pytest.mark.parametrize("client_id", [None, APP], ids=["itself", "federated"])
def test_the_platforms_endpoint_has_no_time_of_its_own(stage: Stage, client_id: str | None) -> None:
    stage.endpoint.mode = Fault.HANG_IN_BODY
    with pytest.raises(Unavailable) as error:
        stage.client(
            ManagedIdentity(USER.client_id),
            client_id=client_id,
            authority="https://login.microsoftonline.com/contoso.com",  # it is not asked before
            deadline=0.5,
        ).acquire()
    assert error.value.reason == "identity_timeout"


def test_the_deadline_is_for_all_requests_together(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata and token take 0.3 s each: neither alone is late, both together are."""
    monkeypatch.setattr(stage.entra, "delay", 0.3)
    with pytest.raises(Unavailable) as error:
        stage.client(ClientSecret(SECRET), deadline=0.55).acquire()
    assert error.value.reason == "entra_timeout"


def test_a_name_server_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, ended = threading.Event(), threading.Event()

    def lookup(*_: object, **__: object) -> list[object]:
        answers.wait(30)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    door = _Http(outgoing.trust(None, {}), 0.2)
    with pytest.raises(UnreachableError) as error, door.session():
        door.get("https://adfs.example/")
    assert error.value.word == "timeout"
    assert not ended.is_set()
    answers.set()


def answering(head: str, body: bytes) -> socketserver.ThreadingTCPServer:
    """Return a server that gives this answer to everybody, and keeps the heads of requests."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.server.heads.append(b"".join(iter(self.rfile.readline, b"\r\n")))  # type: ignore[attr-defined]
            with suppress(OSError):  # who has heard enough goes away
                self.wfile.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.heads = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def ask(head: str, body: bytes) -> tuple[Response, bytes]:
    """Return what MSAL would get of this answer, and the head of the request."""
    with answering(head, body) as server:
        door = _Http(outgoing.trust(None, {}), DEADLINE)
        try:
            with door.session():
                return door.get(f"http://127.0.0.1:{server.server_address[1]}/"), server.heads[0]  # type: ignore[attr-defined]
        finally:
            server.shutdown()


TEXT = b'{"some": "json"}'
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
RAW_DEFLATE = RAW.compress(TEXT) + RAW.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("X-GZip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", RAW_DEFLATE),
    ],
    ids=["identity", "gzip", "x-gzip", "deflate", "raw deflate"],
)
def test_an_answer_is_asked_for_plain_and_read_also_when_it_is_not(
    encoding: str, body: bytes
) -> None:
    answer, head = ask(f"Content-Encoding: {encoding}\r\n", body)
    assert answer.text == TEXT.decode()
    assert b"\r\naccept-encoding: identity\r\n" in head.lower()


@pytest.mark.parametrize(
    ("encoding", "body", "word"),
    [
        ("identity", b" " * (MAX_ANSWER + 1), "size"),
        ("gzip", gzip.compress(b" " * (MAX_ANSWER + 1)), "size"),
        ("deflate", zlib.compress(b" " * (MAX_ANSWER + 1)), "size"),
        ("br", TEXT, "encoding"),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT)), "encoding"),
        ("gzip", gzip.compress(TEXT)[:-9], "encoding"),
        ("gzip", TEXT, "encoding"),
    ],
    ids=["long", "long gzip", "long deflate", "brotli", "twice", "half", "none"],
)
def test_an_answer_that_is_too_long_or_packed_otherwise_is_none(
    encoding: str, body: bytes, word: str
) -> None:
    with pytest.raises(UnreachableError) as error:
        ask(f"Content-Encoding: {encoding}\r\n", body)
    assert error.value.word == word


def test_the_longest_answer_is_read_whole() -> None:
    answer, _ = ask("Content-Encoding: gzip\r\n", gzip.compress(b" " * MAX_ANSWER))
    assert len(answer.text) == MAX_ANSWER


def test_a_gzip_bomb_does_not_fill_the_memory(stage: Stage) -> None:
    client = stage.client(ClientSecret(SECRET))
    client.acquire()  # imports what it needs
    stage.entra.mode = Fault.GZIP_BOMB
    tracemalloc.start()
    with pytest.raises(Unavailable) as error:
        client.acquire()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.reason == "entra_size"
    assert peak < 8 * 1024 * 1024  # the server and its bomb, 64 KB, are in this process too


def test_a_proxy_of_the_environment_is_asked_to_connect(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unavailable) as refused_by:
        stage.client(ClientSecret(SECRET)).acquire()
    assert refused_by.value.reason == "entra_connect"


def test_a_proxy_that_wants_a_password_gets_the_one_of_its_address(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    class Refusing(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            heads.append(b"".join(iter(self.rfile.readline, b"\r\n")))
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"relay:pass%20word@127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{at}")
        with pytest.raises(Unavailable):
            stage.client(ClientSecret(SECRET)).acquire()
        server.shutdown()
    # RFC 7617 §2: base64 of "relay:pass word".
    assert b"Proxy-Authorization: Basic cmVsYXk6cGFzcyB3b3Jk\r\n" in heads[0]
