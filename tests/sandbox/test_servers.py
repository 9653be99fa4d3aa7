"""The sandbox's servers answer as promised, over real TLS on loopback."""

import asyncio
import base64
import hashlib
import html
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit
from xml.etree import ElementTree as ET

import httpx
import msal
import pytest
from authlib.oauth2 import rfc8414, rfc9207
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import KeySet
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import dynamics as fno
from sandbox import entra as login
from sandbox import kestrel, loops, serving
from sandbox.consumer import Consumer, ConsumerError
from sandbox.dynamics import Dynamics, Names
from sandbox.entra import Entra
from sandbox.issuer import new_key
from sandbox.provider import Provider, Registration
from sandbox.serving import Hang, Server
from sandbox.tls import Authority

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
SECRET = "Xq8~made-up-Secret_value"
CALLBACK = "https://relay.example.com/callback/bank"
REGISTRATION = Registration("erp", "s3cret/+=", (CALLBACK,), "profile accounts")
STATE = "state-0123456789"
CODE = "4/P7q7W91a+oMsCeLvIaQm6bTrgtp7="
BODY = {"code": CODE, "state": STATE}


class Place:
    """An address for a whole module; every test puts an app of its own there."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def trust(authority: Authority) -> ssl.SSLContext:
    return authority.client_context()


@pytest.fixture(scope="module")
def client(trust: ssl.SSLContext) -> Iterator[httpx.Client]:
    with new_client(trust) as client:
        yield client


@pytest.fixture(scope="module")
def entra_server(authority: Authority) -> Iterator[Server]:
    with Server(Place(), tls=authority.server_context()) as server:
        yield server


@pytest.fixture(scope="module")
def dynamics_server(authority: Authority) -> Iterator[Server]:
    with Server(Place(), tls=authority.server_context()) as server:
        yield server


@pytest.fixture(scope="module")
def provider_server(authority: Authority) -> Iterator[Server]:
    with Server(Place(), tls=authority.server_context()) as server:
        yield server


def new_client(trust: ssl.SSLContext) -> httpx.Client:
    return httpx.Client(verify=trust, trust_env=False, timeout=30)


def put(app: ASGIApp, server: Server) -> None:
    assert isinstance(server._app, Place)
    server._app.app = app


@contextmanager
def waiting(client: httpx.Client, seconds: float) -> Iterator[None]:
    patience, client.timeout = client.timeout, httpx.Timeout(seconds)
    try:
        yield
    finally:
        client.timeout = patience


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- serving and TLS ---------------------------------------------------------------------------


def test_only_who_is_given_the_authority_trusts_its_servers(authority: Authority) -> None:
    with Server(PlainTextResponse("hello"), tls=authority.server_context()) as server:
        assert server.url == f"https://localhost:{server.port}"
        with new_client(authority.client_context()) as insider:
            assert insider.get(server.url).text == "hello"
        with (
            new_client(ssl.create_default_context()) as stranger,
            pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            stranger.get(server.url)


def test_the_authority_vouches_for_all_names_of_loopback(authority: Authority) -> None:
    with (
        Server(PlainTextResponse("hello"), tls=authority.server_context()) as server,
        new_client(authority.client_context()) as client,
    ):
        assert client.get(f"https://127.0.0.1:{server.port}").is_success


def test_its_files_serve_another_process_and_go_when_it_closes() -> None:
    with Authority() as authority:
        chain, key = authority.server_files()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain, key)
        with (
            Server(PlainTextResponse("hello"), tls=context) as server,
            new_client(ssl.create_default_context(cafile=authority.bundle)) as client,
        ):
            assert client.get(server.url).text == "hello"
    assert not any(path.exists() for path in (chain, key, authority.bundle))


def test_a_server_listens_on_127_0_0_1_only() -> None:
    with Server(PlainTextResponse("hello")) as server:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        with pytest.raises(OSError):  # noqa: PT011
            socket.create_connection(("127.0.0.2", server.port), timeout=1)


def test_a_server_counts_tcp_connections_not_requests(authority: Authority) -> None:
    with Server(PlainTextResponse("hello"), tls=authority.server_context()) as server:
        for connections in (1, 2):
            with new_client(authority.client_context()) as client:
                client.get(server.url)
                client.get(server.url)
            assert server.connections == connections


def test_a_server_answers_without_waiting_for_acknowledgements(authority: Authority) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket_of_it = scope["state"]["connection"].transport.get_extra_info("socket")
        no_delay = socket_of_it.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await PlainTextResponse(f"{no_delay}")(scope, receive, send)

    with (
        Server(app, tls=authority.server_context()) as server,
        new_client(authority.client_context()) as client,
    ):
        assert client.get(server.url).text != "0"


def test_a_server_goes_down_and_comes_up_at_the_same_address(authority: Authority) -> None:
    server = Server(PlainTextResponse("hello"), tls=authority.server_context())
    with server, new_client(authority.client_context()) as client:
        url = server.url
        assert client.get(url).is_success
        server.stop()
        with pytest.raises(httpx.TransportError):
            client.get(url)
        server.start()
        assert server.url == url
        assert client.get(url).is_success
        assert server.connections == 2


@pytest.mark.parametrize("new_event_loop", [loops.new_event_loop, asyncio.SelectorEventLoop])
def test_a_server_that_stops_does_not_wait_for_its_clients(
    new_event_loop: Callable[[], asyncio.AbstractEventLoop],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 600)  # `stop()` gives up long before
    tls = authority.server_context()
    with (
        ThreadPoolExecutor() as threads,
        Server(Hang(), tls=tls, new_event_loop=new_event_loop) as server,
        new_client(authority.client_context()) as client,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent,  # no TLS hello
    ):
        request = threads.submit(client.get, server.url)
        until(lambda: server.connections == 2)
        server.stop()
        assert isinstance(request.exception(timeout=30), httpx.TransportError)
        with suppress(ConnectionError):
            assert silent.recv(1) == b""


@pytest.mark.parametrize("http", [None, kestrel.Connection])
def test_who_completes_the_handshake_after_the_stop_is_dropped(
    http: type[asyncio.Protocol] | None, authority: Authority
) -> None:
    answers: list[bytes] = []

    def handshake() -> None:
        with (
            suppress(ConnectionError),
            trust.wrap_socket(early, server_hostname="localhost") as client,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answers.append(client.recv(1))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await PlainTextResponse("hello")(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()  # all connections have been aborted
        await asyncio.to_thread(handshake)
        await send({"type": "lifespan.shutdown.complete"})

    trust = authority.client_context()
    server = Server(app, tls=authority.server_context(), lifespan=True, http=http)
    with server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as early:
        with new_client(trust) as later:
            assert later.get(server.url).is_success  # so the early one has been accepted
        server.stop()
    assert b"".join(answers) == b""


def test_a_stopped_server_leaves_no_thread_behind() -> None:
    with Server(PlainTextResponse("hello")) as server:
        name = f"sandbox:{server.port}"
        assert name in {thread.name for thread in threading.enumerate()}
    assert name not in {thread.name for thread in threading.enumerate()}


def test_a_server_says_at_once_that_its_port_is_taken() -> None:
    with (
        Server(PlainTextResponse("hello")) as server,
        pytest.raises(OSError, match=r"in use|denied|10048|10013"),
        Server(PlainTextResponse("hello"), port=server.port),
    ):
        pass


def test_a_server_refuses_to_start_inside_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSITE_INSTANCE_ID", "0123")
    with pytest.raises(RuntimeError, match="Azure"), Server(PlainTextResponse("hello")):
        pass


# --- Entra -------------------------------------------------------------------------------------


@pytest.fixture
def entra(entra_server: Server, dynamics_server: Server) -> Entra:
    entra = Entra(clients={APP: SECRET}, resources={dynamics_server.url})
    put(entra.app, entra_server)
    return entra


def ask_for_token(client: httpx.Client, server: Server, **changes: str | None) -> httpx.Response:
    tenant = changes.pop("tenant", login.TENANT)
    form = {
        "grant_type": "client_credentials",
        "client_id": APP,
        "client_secret": SECRET,
        "scope": "",
        **changes,
    }
    return client.post(
        f"{server.url}/{tenant}/oauth2/v2.0/token",
        data={name: value for name, value in form.items() if value is not None},
    )


def test_msal_itself_gets_a_token_from_entra(
    client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server
) -> None:
    app = new_msal(client, entra_server, SECRET)
    answer = app.acquire_token_for_client([f"{dynamics_server.url}/.default"])
    assert answer["token_source"] == "identity_provider"
    assert answer["access_token"] == entra.issued[0]
    again = app.acquire_token_for_client([f"{dynamics_server.url}/.default"])
    assert again["token_source"] == "cache"
    assert (entra.metadata_requests, entra.token_requests) == (1, 1)


def test_msal_reads_entras_errors(
    client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server
) -> None:
    app = new_msal(client, entra_server, "wrong")
    answer = app.acquire_token_for_client([f"{dynamics_server.url}/.default"])
    assert answer["error"] == "invalid_client"
    assert answer["error_codes"] == [7000215]
    assert entra.issued == []


def new_msal(client: httpx.Client, server: Server, secret: str) -> Any:
    return msal.ConfidentialClientApplication(
        APP,
        client_credential=secret,
        authority=f"{server.url}/{login.TENANT}",
        instance_discovery=False,
        http_client=client,
    )


def test_entras_metadata_and_keys_are_at_the_host_it_was_asked_at(
    client: httpx.Client, entra: Entra, entra_server: Server
) -> None:
    base = f"{entra_server.url}/{entra.tenant}"
    metadata = client.get(f"{base}/v2.0/.well-known/openid-configuration").json()
    assert metadata["issuer"] == f"{base}/v2.0"
    assert metadata["token_endpoint"] == f"{base}/oauth2/v2.0/token"
    [key] = client.get(metadata["jwks_uri"]).json()["keys"]
    assert key["kty"] == "RSA"
    assert "d" not in key


def test_entras_token_is_a_signed_jwt_for_that_resource(
    client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server
) -> None:
    answer = ask_for_token(client, entra_server, scope=f"{dynamics_server.url}/.default")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["token_type"], body["expires_in"], body["ext_expires_in"]) == (
        "Bearer",
        3599,
        3599,
    )
    keys = client.get(f"{entra_server.url}/{entra.tenant}/discovery/v2.0/keys").json()
    claims = jwt.decode(
        body["access_token"], KeySet.import_key_set(keys), algorithms=["RS256"]
    ).claims
    assert claims["aud"] == dynamics_server.url
    assert claims["iss"] == f"https://sts.windows.net/{entra.tenant}/"
    assert (claims["tid"], claims["appid"], claims["ver"]) == (entra.tenant, APP, "1.0")
    assert claims["exp"] - claims["iat"] == 3599
    assert claims["roles"] == []
    with pytest.raises(BadSignatureError):
        jwt.decode(body["access_token"], new_key())


@pytest.mark.parametrize(
    ("changes", "status", "error", "code"),
    [
        ({"client_id": "8c1e0000-0000-0000-0000-000000000000"}, 400, "unauthorized_client", 700016),
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": None}, 401, "invalid_client", 7000218),
        ({"client_id": None}, 400, "invalid_request", 900144),
        ({"scope": None}, 400, "invalid_request", 900144),
        ({"scope": "https://elsewhere.example.com/.default"}, 400, "invalid_resource", 500011),
        ({"scope": "openid"}, 400, "invalid_scope", 1002012),
        ({"scope": "https://a/.default https://b/.default"}, 400, "invalid_scope", 70011),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"tenant": "contoso.example.com"}, 400, "invalid_tenant", 90002),
    ],
)
def test_entra_refuses_in_its_own_words(
    client: httpx.Client,
    entra: Entra,
    entra_server: Server,
    dynamics_server: Server,
    changes: dict[str, str | None],
    status: int,
    error: str,
    code: int,
) -> None:
    changes = {"scope": f"{dynamics_server.url}/.default", **changes}
    answer = ask_for_token(client, entra_server, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    check_entra_error(answer, code)
    assert entra.issued == []
    assert entra.token_requests == 1


def test_entra_tells_an_expired_secret_from_a_wrong_one(
    client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server
) -> None:
    entra.expired.add(APP)
    answer = ask_for_token(client, entra_server, scope=f"{dynamics_server.url}/.default")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    check_entra_error(answer, 7000222)


def test_entra_knows_no_other_tenant(
    client: httpx.Client, entra: Entra, entra_server: Server
) -> None:
    answer = client.get(f"{entra_server.url}/nowhere/v2.0/.well-known/openid-configuration")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_tenant")
    check_entra_error(answer, 90002)
    assert entra.metadata_requests == 1


def check_entra_error(answer: httpx.Response, code: int) -> None:
    body = answer.json()
    assert body["error_codes"] == [code]
    assert re.fullmatch(
        rf"AADSTS{code}: .+ Trace ID: {body['trace_id']} "
        rf"Correlation ID: {body['correlation_id']} Timestamp: {body['timestamp']}",
        body["error_description"],
    )
    assert body["error_uri"].endswith(f"/error?code={code}")


@pytest.mark.parametrize(
    ("fault", "status", "media_type"),
    [
        (login.Fault.THROTTLED, 429, "application/json"),
        (login.Fault.SERVER_ERROR, 500, "application/json"),
        (login.Fault.UNAVAILABLE, 503, "application/json"),
        (login.Fault.UNAVAILABLE_HTML, 503, "text/html"),
        (login.Fault.NOT_JSON, 200, "text/html"),
        (login.Fault.NOT_JSON_ERROR, 400, "text/html"),
    ],
)
def test_entra_plays_a_fault_once_and_then_works_again(
    client: httpx.Client,
    entra: Entra,
    entra_server: Server,
    dynamics_server: Server,
    fault: login.Fault,
    status: int,
    media_type: str,
) -> None:
    entra.faults.append(fault)
    entra.retry_after = 7
    scope = f"{dynamics_server.url}/.default"
    answer = ask_for_token(client, entra_server, scope=scope)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith(media_type)
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert entra.issued == []
    assert ask_for_token(client, entra_server, scope=scope).status_code == 200


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (login.Fault.HANG, httpx.ReadTimeout),
        (login.Fault.RESET, httpx.ReadError),
        (login.Fault.HALF_BODY, httpx.RemoteProtocolError),
    ],
)
def test_entra_breaks_the_wire_until_the_mode_is_cleared(
    client: httpx.Client,
    entra: Entra,
    entra_server: Server,
    dynamics_server: Server,
    fault: login.Fault,
    error: type[httpx.TransportError],
) -> None:
    entra.mode = fault
    scope = f"{dynamics_server.url}/.default"
    for _ in range(2):
        with pytest.raises(error), waiting(client, 0.3 if error is httpx.ReadTimeout else 5):
            ask_for_token(client, entra_server, scope=scope)
    entra.mode = None
    assert ask_for_token(client, entra_server, scope=scope).status_code == 200


def test_entras_metadata_can_be_down_while_tokens_are_not(
    client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server
) -> None:
    url = f"{entra_server.url}/{entra.tenant}/v2.0/.well-known/openid-configuration"
    entra.mode = login.Fault.METADATA_DOWN
    assert client.get(url).status_code == 503
    scope = f"{dynamics_server.url}/.default"
    assert ask_for_token(client, entra_server, scope=scope).status_code == 200
    entra.mode = login.Fault.METADATA_HANG
    with pytest.raises(httpx.ReadTimeout), waiting(client, 0.3):
        client.get(url)


def test_entra_delays_every_answer(
    client: httpx.Client, entra: Entra, entra_server: Server
) -> None:
    entra.delay = 0.2
    started = time.monotonic()
    assert ask_for_token(client, entra_server).status_code == 400
    assert time.monotonic() - started >= 0.2


# --- Dynamics ----------------------------------------------------------------------------------


@pytest.fixture
def dynamics(entra: Entra, dynamics_server: Server) -> Dynamics:
    dynamics = Dynamics(entra)
    put(dynamics.app, dynamics_server)
    return dynamics


@pytest.fixture
def token(client: httpx.Client, entra: Entra, entra_server: Server, dynamics_server: Server) -> str:
    assert entra.issued == []
    return new_token(client, entra_server, f"{dynamics_server.url}/.default")


def new_token(client: httpx.Client, entra_server: Server, scope: str) -> str:
    token: str = ask_for_token(client, entra_server, scope=scope).json()["access_token"]
    return token


class Poster:
    """Posts one record to Dynamics; every call may differ from a good one in one thing."""

    def __init__(self, client: httpx.Client, url: str, token: str) -> None:
        self.client = client
        self.url = url
        self.token = token

    def __call__(
        self,
        body: object = BODY,
        *,
        entity: str = "OAuthCallbacks",
        token: str | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        authorization = {"Authorization": f"Bearer {token or self.token}"}
        url, headers = f"{self.url}/data/{entity}", {**authorization, **(headers or {})}
        if content is not None:
            return self.client.post(url, content=content, headers=headers)
        return self.client.post(url, json=body, headers=headers)


@pytest.fixture
def post(client: httpx.Client, dynamics: Dynamics, dynamics_server: Server, token: str) -> Poster:
    assert dynamics.rows == {}
    return Poster(client, dynamics_server.url, token)


def test_dynamics_stores_a_record_and_echoes_it(
    dynamics: Dynamics, dynamics_server: Server, post: Poster
) -> None:
    answer = post({**BODY, "dataAreaId": "usmf"})
    assert answer.status_code == 201
    assert answer.headers["Content-Type"].startswith("application/json; odata.metadata=minimal")
    assert answer.headers["OData-Version"] == "4.0"
    entity = f"{dynamics_server.url}/data/OAuthCallbacks('{STATE}')"
    assert answer.headers["Location"] == entity
    assert answer.json().items() >= {**BODY, "dataAreaId": "usmf"}.items()
    assert dynamics.rows == {STATE: {**BODY, "dataAreaId": "usmf"}}


def test_dynamics_answers_204_when_minimal_is_preferred(dynamics: Dynamics, post: Poster) -> None:
    answer = post(headers={"Prefer": "return=minimal"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Preference-Applied"] == "return=minimal"
    assert STATE in dynamics.rows


def test_dynamics_remembers_every_request(dynamics: Dynamics, post: Poster) -> None:
    post(headers={"X-Probe": "1"})
    post(content=b"{", headers={"Content-Type": "application/json"})
    first, second = dynamics.requests
    assert (first.method, first.path) == ("POST", "/data/OAuthCallbacks")
    assert (first.status, second.status) == (201, 400)
    assert first.headers["x-probe"] == "1"
    assert second.body == b"{"
    assert dynamics.posts == 2


@pytest.mark.parametrize("status", [500, 400])
def test_dynamics_repeats_the_state_when_the_record_exists(
    dynamics: Dynamics, post: Poster, status: int
) -> None:
    dynamics.duplicate_status = status
    post()
    answer = post({**BODY, "code": "another"})
    assert answer.status_code == status
    assert answer.json()["error"]["innererror"]["message"] == (
        "Write failed for table row of type 'OAuthCallbackEntity'. Infolog: Info: Cannot create a "
        f"record in OAuth callback (OAuthCallbackInbox). State: {STATE}, .\n"
        "The record already exists.."
    )
    check_write_error(answer)
    assert dynamics.rows[STATE]["code"] == CODE


@pytest.mark.parametrize(
    "body", [{"code": CODE}, {**BODY, "state": ""}, {**BODY, "state": "x" * 256}]
)
def test_dynamics_wants_a_key_that_fits(
    dynamics: Dynamics, post: Poster, body: dict[str, str]
) -> None:
    answer = post(body)
    assert answer.status_code == 400
    check_write_error(answer)
    assert dynamics.rows == {}


def check_write_error(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("", "An error has occurred.")
    assert error["innererror"]["type"] == fno.WRITE_ERROR
    assert error["innererror"]["stacktrace"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({**BODY, "Code": CODE}, "The property 'Code' does not exist on type"),
        ({**BODY, "code": 7}, "Cannot convert the value of 'code' to Edm.String."),
        ([BODY], "An object was expected"),
    ],
)
def test_dynamics_refuses_what_the_entity_does_not_have(
    dynamics: Dynamics, post: Poster, body: object, text: str
) -> None:
    answer = post(body)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]
    assert dynamics.rows == {}


def test_dynamics_accepts_json_only(dynamics: Dynamics, post: Poster) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert post(content=b"code=1&state=2", headers=form).status_code == 415
    utf8 = {"Content-Type": "application/json; charset=utf-8"}
    assert post(content=b'{"state": "1"}', headers=utf8).status_code == 201
    assert list(dynamics.rows) == ["1"]


def test_dynamics_knows_one_entity(post: Poster) -> None:
    answer = post(entity="Callbacks")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Resource not found for the segment 'Callbacks'."


def test_the_entitys_spelling_is_the_customers(
    dynamics: Dynamics, dynamics_server: Server, post: Poster
) -> None:
    dynamics = Dynamics(dynamics.entra, names=Names("Code", "State", "Error", "ErrorDescription"))
    put(dynamics.app, dynamics_server)
    assert post().status_code == 400
    assert post({"Code": CODE, "State": STATE}).status_code == 201
    assert dynamics.rows == {STATE: {"Code": CODE, "State": STATE}}


def test_dynamics_publishes_the_entity_to_who_is_authorized(
    client: httpx.Client, dynamics_server: Server, post: Poster
) -> None:
    url = f"{dynamics_server.url}/data/$metadata"
    assert client.get(url).status_code == 401
    answer = client.get(url, headers={"Authorization": f"Bearer {post.token}"})
    edm = "{http://docs.oasis-open.org/odata/ns/edm}"
    root = ET.fromstring(answer.text)  # noqa: S314
    lengths = {item.get("Name"): item.get("MaxLength") for item in root.iter(f"{edm}Property")}
    assert lengths == {
        "state": "255",
        "code": None,
        "error": None,
        "error_description": None,
        "dataAreaId": None,
    }


def test_dynamics_challenges_who_has_no_token(dynamics: Dynamics, post: Poster) -> None:
    dynamics.challenge = "Bearer authorization_uri=https://login.example.com/tenant"
    answer = post(token="nothing")
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == dynamics.challenge
    assert dynamics.rows == {}


@pytest.mark.parametrize("spoil", ["slash", "capitals", "expired", "tenant", "signature"])
def test_dynamics_believes_only_entras_tokens_for_itself(
    client: httpx.Client,
    entra: Entra,
    entra_server: Server,
    dynamics: Dynamics,
    post: Poster,
    spoil: str,
) -> None:
    scope = f"{post.url}/.default"
    if spoil == "slash":
        token = new_token(client, entra_server, f"{post.url}//.default")
    elif spoil == "capitals":
        token = new_token(client, entra_server, scope.replace("localhost", "LOCALHOST"))
    elif spoil == "expired":
        entra.lifetime = 0
        token = new_token(client, entra_server, scope)
    elif spoil == "tenant":
        token, entra.tenant = post.token, "another"
    else:
        token = post.token
        entra.sign_with(new_key())
    assert post(token=token).status_code == 401
    assert dynamics.rows == {}


def test_dynamics_wants_the_app_registered_and_its_user_permitted(
    dynamics: Dynamics, post: Poster
) -> None:
    dynamics.permitted = False
    assert post().status_code == 403
    dynamics.authorized_apps.clear()
    assert post().status_code == 401
    assert dynamics.rows == {}


@pytest.mark.parametrize(
    ("fault", "status", "media_type"),
    [
        (fno.Fault.UNAUTHORIZED, 401, None),
        (fno.Fault.FORBIDDEN, 403, None),
        (fno.Fault.NOT_FOUND, 404, None),
        (fno.Fault.VALIDATION, 400, "application/json"),
        (fno.Fault.REQUEST_TIMEOUT, 408, None),
        (fno.Fault.TOO_EARLY, 425, None),
        (fno.Fault.THROTTLED, 429, None),
        (fno.Fault.SERVER_ERROR, 500, "application/json"),
        (fno.Fault.SERVER_ERROR_HTML, 500, "text/html"),
        (fno.Fault.BAD_GATEWAY, 502, "text/html"),
        (fno.Fault.UNAVAILABLE, 503, "text/html"),
        (fno.Fault.GATEWAY_TIMEOUT, 504, "text/html"),
        (fno.Fault.SIGN_IN_PAGE, 200, "text/html"),
        (fno.Fault.REDIRECT, 302, None),
        (fno.Fault.TEMPORARY_REDIRECT, 307, None),
        (fno.Fault.PERMANENT_REDIRECT, 308, None),
    ],
)
def test_dynamics_plays_a_fault_once_stores_nothing_and_then_works_again(
    dynamics: Dynamics, post: Poster, fault: fno.Fault, status: int, media_type: str | None
) -> None:
    dynamics.faults.append(fault)
    dynamics.retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"
    answer = post()
    assert answer.status_code == status
    assert answer.headers.get("Content-Type", "").startswith(media_type or "")
    assert (media_type is None) == (answer.content == b"")
    assert ("Retry-After" in answer.headers) == (status in {429, 503})
    assert answer.headers.get("Retry-After", dynamics.retry_after) == dynamics.retry_after
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert dynamics.rows == {}
    assert post().status_code == 201


@pytest.mark.parametrize(
    ("fault", "path", "status"),
    [
        (fno.Fault.REDIRECT, "/adfs/ls/", 200),
        (fno.Fault.TEMPORARY_REDIRECT, "/moved/OAuthCallbacks", 404),
        (fno.Fault.PERMANENT_REDIRECT, "/moved/OAuthCallbacks", 404),
    ],
)
def test_dynamics_tells_whether_a_redirect_was_followed(
    client: httpx.Client, dynamics: Dynamics, post: Poster, fault: fno.Fault, path: str, status: int
) -> None:
    dynamics.faults.append(fault)
    assert post.client is client
    answer = client.post(f"{post.url}/data/OAuthCallbacks", json=BODY, follow_redirects=True)
    assert answer.status_code == status
    assert [seen.path for seen in dynamics.requests] == ["/data/OAuthCallbacks", path]


@pytest.mark.parametrize(
    ("fault", "error", "stored", "seen"),
    [
        (fno.Fault.HANG, httpx.ReadTimeout, False, None),
        (fno.Fault.HANG_AFTER_STORE, httpx.ReadTimeout, True, None),
        (fno.Fault.RESET, httpx.ReadError, False, None),
        (fno.Fault.RESET_AFTER_STORE, httpx.ReadError, True, None),
        (fno.Fault.HALF_BODY, httpx.RemoteProtocolError, True, 201),
    ],
)
def test_dynamics_breaks_the_wire_before_or_after_storing(
    client: httpx.Client,
    dynamics: Dynamics,
    post: Poster,
    fault: fno.Fault,
    error: type[httpx.TransportError],
    stored: bool,
    seen: int | None,
) -> None:
    dynamics.mode = fault
    with pytest.raises(error), waiting(client, 0.3 if error is httpx.ReadTimeout else 5):
        post(headers={"Prefer": "return=minimal"})
    if stored:
        until(lambda: STATE in dynamics.rows)
    assert (STATE in dynamics.rows) == stored
    assert dynamics.requests[0].status == seen
    dynamics.mode = None
    assert post().status_code == (500 if stored else 201)


def test_dynamics_is_slow_after_storing(
    client: httpx.Client, dynamics: Dynamics, post: Poster
) -> None:
    dynamics.faults.append(fno.Fault.SLOW)
    with pytest.raises(httpx.ReadTimeout), waiting(client, 0.3):
        post()
    until(lambda: STATE in dynamics.rows)
    dynamics.faults.append(fno.Fault.SLOW)
    dynamics.slow, dynamics.delay = 0.1, 0.1
    started = time.monotonic()
    assert post({**BODY, "state": "second"}).status_code == 201
    assert time.monotonic() - started >= 0.2


def test_a_reset_reaches_the_wire_as_rst(
    dynamics: Dynamics, dynamics_server: Server, trust: ssl.SSLContext
) -> None:
    dynamics.mode = fno.Fault.RESET
    address = ("127.0.0.1", dynamics_server.port)
    with (
        socket.create_connection(address, timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"POST /data/OAuthCallbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(ConnectionError):
            tls.recv(1)


# --- the provider and its client ---------------------------------------------------------------


@pytest.fixture
def provider(provider_server: Server) -> Provider:
    provider = Provider([REGISTRATION])
    put(provider.app, provider_server)
    return provider


@pytest.fixture
def consumer(
    provider: Provider, provider_server: Server, dynamics: Dynamics, trust: ssl.SSLContext
) -> Consumer:
    assert provider.codes_issued == []
    return Consumer(dynamics, provider_server.url, REGISTRATION, CALLBACK, trust)


def decide(client: httpx.Client, url: str, decision: str = "allow", **form: str) -> httpx.Response:
    """Do what the person does on the consent page."""
    page = client.get(url)
    assert page.status_code == 200
    assert "<form" in page.text
    return client.post(
        url, data={"username": "ada", "password": "engine", "decision": decision, **form}
    )


def parameters_of(answer: httpx.Response) -> dict[str, str]:
    target, _, query = answer.headers["Location"].partition("?")
    assert answer.status_code == 302
    assert target == CALLBACK
    return dict(parse_qsl(query, strict_parsing=True))


def test_a_whole_flow_ends_with_a_call_to_the_api(
    client: httpx.Client,
    provider: Provider,
    provider_server: Server,
    consumer: Consumer,
    post: Poster,
) -> None:
    answer = parameters_of(decide(client, consumer.start()))
    assert answer.keys() == {"code", "state", "iss"}
    assert answer["iss"] == provider_server.url
    assert provider.codes_issued == [answer["code"]]
    assert post({"code": answer["code"], "state": answer["state"]}).status_code == 201

    tokens = consumer.redeem(answer["state"])
    assert provider.codes_redeemed == [answer["code"]]
    assert consumer.call(tokens) == {
        "sub": "ada",
        "scope": "profile accounts",
        "client_id": "erp",
    }
    renewed = consumer.refresh(tokens)
    assert consumer.call(renewed)["sub"] == "ada"
    assert provider.tokens_issued == [
        tokens["access_token"],
        tokens["refresh_token"],
        renewed["access_token"],
        renewed["refresh_token"],
    ]
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        consumer.refresh(tokens)


def test_the_consumer_redeems_only_its_own_states_and_each_once(
    client: httpx.Client, consumer: Consumer, post: Poster
) -> None:
    post()
    with pytest.raises(ConsumerError, match="not issued here"):
        consumer.redeem(STATE)
    answer = parameters_of(decide(client, consumer.start()))
    with pytest.raises(ConsumerError, match="Nothing has arrived"):
        consumer.redeem(answer["state"])
    post({"code": answer["code"], "state": answer["state"]})
    consumer.redeem(answer["state"])
    with pytest.raises(ConsumerError, match="used already"):
        consumer.redeem(answer["state"])


def test_deny_comes_back_as_access_denied(
    client: httpx.Client, provider: Provider, consumer: Consumer, post: Poster
) -> None:
    answer = parameters_of(decide(client, consumer.start(), "deny", username="", password=""))
    assert answer["error"] == "access_denied"
    assert answer["iss"] == provider.issuer
    post({"state": answer["state"], "error": answer["error"]})
    with pytest.raises(ConsumerError, match="access_denied"):
        consumer.redeem(answer["state"])
    assert provider.codes_issued == []


def test_a_wrong_password_shows_the_page_again(
    client: httpx.Client, provider: Provider, consumer: Consumer
) -> None:
    for form in ({"password": "wrong"}, {"username": "<b>eve</b>"}):
        answer = decide(client, consumer.start(), **form)
        assert answer.status_code == 403
        assert "password is wrong" in answer.text
        assert "<b>" not in answer.text
    assert provider.codes_issued == []


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": f"{CALLBACK}/"},
        {"redirect_uri": "https://attacker.example.com/"},
        {"redirect_uri": 'https://attacker.example.com/"'},
        {"client_id": "stranger"},
    ],
)
def test_the_provider_never_redirects_to_what_is_not_registered(
    client: httpx.Client, consumer: Consumer, change: dict[str, str]
) -> None:
    answer = client.get(with_changes(consumer.start(), **change))
    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "pigeon"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
    ],
)
def test_a_request_the_provider_does_not_like_comes_back_as_an_error(
    client: httpx.Client, consumer: Consumer, change: dict[str, str], error: str
) -> None:
    url = consumer.start()
    answer = parameters_of(client.get(with_changes(url, **change)))
    assert answer["error"] == error
    assert answer["state"] == parse_qs(urlsplit(url).query)["state"][0]
    assert answer["iss"] == consumer.provider_url


def with_changes(url: str, **changes: str) -> str:
    return str(httpx.URL(url).copy_merge_params(changes))


def test_a_form_post_carries_the_same_parameters(
    client: httpx.Client, provider: Provider, consumer: Consumer
) -> None:
    page = decide(client, consumer.start(response_mode="form_post"))
    assert page.status_code == 200
    assert f'<form method="post" action="{CALLBACK}">' in page.text
    assert "<button>" in page.text
    inputs = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
    assert html.unescape(inputs["code"]) == provider.codes_issued[0]
    assert inputs.keys() == {"code", "state", "iss"}
    policy = page.headers["Content-Security-Policy"]
    assert "form-action 'self' https://relay.example.com;" in policy
    for kind in ("style", "script"):
        [text] = re.findall(rf"<{kind}>(.*?)</{kind}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_a_fragment_carries_the_same_parameters(
    client: httpx.Client, provider: Provider, consumer: Consumer
) -> None:
    answer = decide(client, consumer.start(response_mode="fragment"))
    target = urlsplit(answer.headers["Location"])
    assert target.query == ""
    assert dict(parse_qsl(target.fragment))["code"] == provider.codes_issued[0]


def redeem_by_hand(consumer: Consumer, answer: dict[str, str], **changes: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "code": answer["code"],
        "redirect_uri": CALLBACK,
        "code_verifier": consumer.pending[answer["state"]],
        "client_id": REGISTRATION.client_id,
        "client_secret": REGISTRATION.client_secret,
        **changes,
    }
    with new_client(consumer.tls) as client:
        return client.post(f"{consumer.provider_url}/token", data=form)


def test_a_code_is_good_once_and_its_second_use_revokes_the_tokens(
    client: httpx.Client, provider: Provider, consumer: Consumer
) -> None:
    answer = parameters_of(decide(client, consumer.start()))
    first = redeem_by_hand(consumer, answer)
    assert first.status_code == 200
    assert consumer.call(first.json())["sub"] == "ada"
    second = redeem_by_hand(consumer, answer)
    assert (second.status_code, second.json()["error"]) == (400, "invalid_grant")
    assert provider.codes_redeemed == [answer["code"]]
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        consumer.call(first.json())


def test_a_code_expires(client: httpx.Client, provider_server: Server, consumer: Consumer) -> None:
    put(Provider([REGISTRATION], code_lifetime=-1).app, provider_server)
    answer = parameters_of(decide(client, consumer.start()))
    refused = redeem_by_hand(consumer, answer)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"code_verifier": "v" * 43}, 400, "invalid_grant"),
        ({"code_verifier": ""}, 400, "invalid_request"),
        ({"redirect_uri": f"{CALLBACK}/"}, 400, "invalid_grant"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"code": "guessed"}, 400, "invalid_grant"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
def test_a_code_is_redeemed_only_by_its_client_with_its_verifier(
    client: httpx.Client,
    provider: Provider,
    consumer: Consumer,
    change: dict[str, str],
    status: int,
    error: str,
) -> None:
    answer = parameters_of(decide(client, consumer.start()))
    refused = redeem_by_hand(consumer, answer, **change)
    assert (refused.status_code, refused.json()["error"]) == (status, error)
    assert provider.tokens_issued == []
    assert redeem_by_hand(consumer, answer).status_code == 200


def test_a_code_does_not_survive_sloppy_url_encoding(
    client: httpx.Client, consumer: Consumer
) -> None:
    answer = parameters_of(decide(client, consumer.start()))
    assert answer["code"].startswith("4/")
    assert answer["code"].endswith("=")
    assert quote(answer["code"], safe="") != answer["code"]


def test_the_api_wants_a_token(
    client: httpx.Client, provider: Provider, provider_server: Server
) -> None:
    url = f"{provider_server.url}/api/me"
    for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Basic YTpi"}):
        assert client.get(url, headers=headers).status_code == 401
    assert provider.tokens_issued == []


def test_the_providers_metadata_is_valid(
    client: httpx.Client, provider: Provider, provider_server: Server
) -> None:
    url = rfc8414.get_well_known_url(provider_server.url, external=True)
    metadata = rfc8414.AuthorizationServerMetadata(client.get(url).json())
    metadata.validate(metadata_classes=[rfc9207.AuthorizationServerMetadata])
    assert metadata["issuer"] == provider_server.url == provider.issuer
    assert metadata["authorization_response_iss_parameter_supported"] is True
