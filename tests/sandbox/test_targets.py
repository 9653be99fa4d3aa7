"""The sandbox's Dynamics targets answer as the real ones do, over real TLS on loopback.

What all targets promise comes first, then each target's own.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from xml.etree import ElementTree as ET

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import business_central as bc
from sandbox import custom_service as custom
from sandbox import dataverse as dv
from sandbox import dynamics as fno
from sandbox.business_central import BusinessCentral
from sandbox.custom_service import CustomService
from sandbox.dataverse import Dataverse
from sandbox.dynamics import Dynamics, Environment, Names
from sandbox.entra import TENANT, Entra
from sandbox.serving import Server
from sandbox.target import Fault, Target
from sandbox.tls import Authority

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
SECRET = "Xq8~made-up-Secret_value"
CODE = "4/P7q7W91a+oMsCeLvIaQm6bTrgtp7="
STATE = "state-0123456789"
EDM = "{http://docs.oasis-open.org/odata/ns/edm}"
FNO_PATH = f"/data/{fno.COLLECTION}"


class Place:
    """An address for a whole module; every test puts an app of its own there."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Stage:
    """Entra, one target behind TLS, and a client that has a token for it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        authority = self._stack.enter_context(Authority())
        tls = authority.server_context()
        self.entra = Entra(clients={APP: SECRET})
        self.entra_server = self._stack.enter_context(Server(self.entra.app, tls=tls))
        self.place = Place()
        self.server = self._stack.enter_context(Server(self.place, tls=tls))
        self.entra.resources.add(self.server.url)
        self.client = self._stack.enter_context(
            httpx.Client(verify=authority.client_context(), trust_env=False, timeout=30)
        )
        self.token = self.new_token(self.server.url)

    def new_token(self, resource: str) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": APP,
            "client_secret": SECRET,
            "scope": f"{resource}/.default",
        }
        url = f"{self.entra_server.url}/{self.entra.tenant}/oauth2/v2.0/token"
        answer = self.client.post(url, data=form)
        token: str = answer.json()["access_token"]
        return token

    def mint(self, **claims: Any) -> str:
        """Sign a token as Entra does, with these claims changed."""
        good = jwt.decode(self.token, self.entra.public_keys).claims
        changed = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self.entra._key.kid}, changed, self.entra._key)

    def post(
        self, path: str, body: object, *, token: str | None = None, prefer: str = ""
    ) -> httpx.Response:
        headers = self._authorization(token) | ({"Prefer": prefer} if prefer else {})
        return self.client.post(f"{self.server.url}{path}", json=body, headers=headers)

    def get(self, path: str, *, token: str | None = None) -> httpx.Response:
        headers = self._authorization(token)
        return self.client.get(f"{self.server.url}{path}", headers=headers)

    def _authorization(self, token: str | None) -> dict[str, str]:
        """Return the header: `None` for the good token, empty for no header at all."""
        token = self.token if token is None else token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def play[T: Target](self, target: T) -> T:
        self.place.app = target.app
        return target

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


class Kind(NamedTuple):
    """A kind of target: how to make it, and how to tell its answers."""

    new: Callable[[Entra], Target]
    path: str
    wrap: Callable[[dict[str, str]], object]
    status: int
    """Of a record that is stored."""
    exists: tuple[int, str]
    """Status, and what a machine can tell a duplicate by."""
    unknown: int | None
    """Status for a property that is not there; `None`: it is passed over."""
    denied: int
    stranger: int
    """Status for an application that nobody has registered in the target."""
    marker: Callable[[httpx.Response], str]


def error_code(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


KINDS = {
    "fno": Kind(
        Dynamics,
        FNO_PATH,
        lambda row: row,
        201,
        (500, fno.WRITE_ERROR),
        400,
        403,
        401,
        lambda answer: str(answer.json()["error"]["innererror"]["type"]),
    ),
    "custom service": Kind(
        CustomService,
        custom.PATH,
        lambda row: {"_contract": row},
        200,
        (500, "DuplicateKeyException"),
        None,
        403,
        401,
        lambda answer: str(answer.json()["ExceptionType"]),
    ),
    "business central": Kind(
        BusinessCentral,
        BusinessCentral(Entra(clients={})).path,
        lambda row: row,
        201,
        (400, "Internal_EntityWithSameKeyExists"),
        400,
        403,
        401,
        error_code,
    ),
    "dataverse": Kind(
        Dataverse,
        Dataverse.path,
        lambda row: row,
        204,
        (412, "0x80060892"),
        400,
        403,
        403,
        error_code,
    ),
}


class Actor:
    """A target on the stage, and posting to it."""

    def __init__(self, stage: Stage, kind: Kind) -> None:
        self.stage = stage
        self.kind = kind
        self.target = stage.play(kind.new(stage.entra))

    def row(self, code: str = CODE, state: str = STATE) -> dict[str, str]:
        return {self.target.names.code: code, self.target.names.state: state}

    def post(
        self, row: dict[str, str] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        body = self.kind.wrap(self.row() if row is None else row)
        return self.stage.post(self.kind.path, body, token=token)


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def actor(request: pytest.FixtureRequest, stage: Stage) -> Actor:
    return Actor(stage, request.param)


# --- what all targets promise ------------------------------------------------------------------


def test_every_target_stores_a_callback_and_remembers_the_request(actor: Actor) -> None:
    answer = actor.post()
    assert answer.status_code == actor.kind.status
    assert actor.target.rows[STATE].items() >= actor.row().items()
    [seen] = actor.target.requests
    assert (seen.method, seen.path) == ("POST", actor.kind.path)
    assert seen.status == actor.kind.status
    assert CODE in seen.body.decode()
    assert actor.target.posts == 1


def test_every_target_tells_a_duplicate_and_keeps_the_first(actor: Actor) -> None:
    actor.post()
    answer = actor.post(actor.row(code="another"))
    assert (answer.status_code, actor.kind.marker(answer)) == actor.kind.exists
    assert actor.target.rows[STATE][actor.target.names.code] == CODE
    assert actor.post(actor.row(state="another")).status_code == actor.kind.status


def test_every_target_but_dataverse_repeats_the_state_of_a_duplicate(actor: Actor) -> None:
    actor.post()
    assert (STATE in actor.post().text) == (not isinstance(actor.target, Dataverse))


def test_property_names_are_the_targets_own_to_the_letter(actor: Actor) -> None:
    strange = {name.swapcase(): value for name, value in actor.row().items()}
    answer = actor.post({**actor.row(), **strange})
    if actor.kind.unknown is None:
        assert answer.status_code == actor.kind.status
        assert actor.target.rows[STATE].keys() == actor.row().keys()
    else:
        assert answer.status_code == actor.kind.unknown
        assert actor.target.names.code.swapcase() in answer.text
        assert CODE not in answer.text
        assert actor.target.rows == {}


def test_a_value_longer_than_its_field_is_not_stored(actor: Actor) -> None:
    actor.target.lengths[actor.target.names.code] = len(CODE) - 1
    assert actor.post().status_code in {400, 500}
    assert actor.target.rows == {}
    actor.target.lengths[actor.target.names.code] = len(CODE)
    assert actor.post().status_code == actor.kind.status


def test_a_value_that_is_no_string_is_not_stored(actor: Actor) -> None:
    row: dict[str, Any] = {**actor.row(), actor.target.names.code: 7}
    assert actor.post(row).status_code == 400
    assert actor.target.rows == {}


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
def test_a_body_that_is_no_json_object_is_refused(actor: Actor, body: bytes) -> None:
    headers = {
        "Authorization": f"Bearer {actor.stage.token}",
        "Content-Type": "application/json",
    }
    url = f"{actor.stage.server.url}{actor.kind.path}"
    assert actor.stage.client.post(url, content=body, headers=headers).status_code == 400
    headers["Content-Type"] = "text/plain"
    assert actor.stage.client.post(url, content=body, headers=headers).status_code == 415


def test_a_user_without_the_permission_cannot_create(actor: Actor) -> None:
    actor.target.permitted = False
    assert actor.post().status_code == actor.kind.denied
    assert actor.target.rows == {}


def test_an_application_that_is_not_registered_in_the_target_is_refused(actor: Actor) -> None:
    actor.target.authorized_apps.clear()
    assert actor.post().status_code == actor.kind.stranger
    assert actor.target.rows == {}


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://elsewhere.example.com"},
        {"tid": "00000000-0000-0000-0000-000000000001"},
        {"iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/"},
        {"oid": None},
        {"appid": None},
        {"exp": None},
        {"exp": int(time.time()) - 3600},
    ],
    ids=["audience", "tenant", "issuer", "no oid", "no appid", "no exp", "expired"],
)
def test_every_target_refuses_a_token_that_is_not_for_it(
    actor: Actor, claims: dict[str, Any]
) -> None:
    answer = actor.post(token=actor.stage.mint(**claims))
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers
    assert actor.target.rows == {}
    assert actor.post(token=actor.stage.mint()).status_code == actor.kind.status


def test_every_target_refuses_a_token_signed_by_somebody_else(actor: Actor) -> None:
    claims = jwt.decode(actor.stage.token, actor.stage.entra.public_keys).claims
    forged = jwt.encode({"alg": "RS256"}, claims, RSAKey.generate_key(2048))
    for token in (forged, "guessed", ""):
        assert actor.post(token=token).status_code == 401
    assert actor.target.rows == {}


def test_an_audience_with_a_slash_is_good_enough_for_dataverse_only(actor: Actor) -> None:
    answer = actor.post(token=actor.stage.new_token(f"{actor.stage.server.url}/"))
    assert answer.is_success == isinstance(actor.target, Dataverse)


def test_a_target_can_want_another_resource_than_its_own_address(actor: Actor) -> None:
    actor.target.resource = "https://org.example.com"
    assert actor.post().status_code == 401
    token = actor.stage.mint(aud="https://org.example.com")
    assert actor.post(token=token).status_code == actor.kind.status


FAULTS = {
    Fault.UNAUTHORIZED: 401,
    Fault.FORBIDDEN: 403,
    Fault.NOT_FOUND: 404,
    Fault.REQUEST_TIMEOUT: 408,
    Fault.TOO_EARLY: 425,
    Fault.THROTTLED: 429,
    Fault.SERVER_ERROR: 500,
    Fault.SERVER_ERROR_HTML: 500,
    Fault.BAD_GATEWAY: 502,
    Fault.UNAVAILABLE: 503,
    Fault.GATEWAY_TIMEOUT: 504,
    Fault.SIGN_IN_PAGE: 200,
    Fault.REDIRECT: 302,
    Fault.TEMPORARY_REDIRECT: 307,
    Fault.PERMANENT_REDIRECT: 308,
}


def test_every_target_plays_every_fault_once_and_stores_nothing(actor: Actor) -> None:
    for fault, status in FAULTS.items():
        actor.target.faults.append(fault)
        assert actor.post().status_code == status, fault
    assert actor.target.rows == {}
    assert actor.post().status_code == actor.kind.status


def test_the_customers_code_can_refuse_in_every_target(actor: Actor) -> None:
    actor.target.faults.append(Fault.VALIDATION)
    answer = actor.post()
    assert answer.status_code in {400, 500}
    assert actor.kind.marker(answer) != actor.kind.exists[1] or isinstance(actor.target, Dynamics)
    assert "not issued here" in answer.text


def test_503_says_when_to_come_back(actor: Actor) -> None:
    actor.target.mode = Fault.UNAVAILABLE
    actor.target.retry_after = 17
    assert actor.post().headers["Retry-After"] == "17"


def test_only_business_central_says_429_without_a_time(actor: Actor) -> None:
    actor.target.mode = Fault.THROTTLED
    actor.target.retry_after = 17
    answer = actor.post()
    wanted = None if isinstance(actor.target, BusinessCentral) else "17"
    assert answer.headers.get("Retry-After") == wanted


def test_every_target_throttles_who_is_too_fast(actor: Actor) -> None:
    actor.target.rate = 1e-3
    assert actor.post().status_code == 429
    actor.target.rate = 1e6
    assert actor.post().status_code == actor.kind.status


def test_faults_strike_the_api_only(actor: Actor) -> None:
    actor.target.mode = Fault.BAD_GATEWAY
    assert actor.stage.get("/elsewhere").status_code == 404
    assert actor.post().status_code == 502


@pytest.mark.parametrize(
    ("fault", "stored"),
    [(Fault.RESET, False), (Fault.RESET_AFTER_STORE, True)],
)
def test_every_target_breaks_the_wire_before_or_after_storing(
    actor: Actor, fault: Fault, stored: bool
) -> None:
    actor.target.faults.append(fault)
    with pytest.raises(httpx.TransportError):
        actor.post()
    assert (STATE in actor.target.rows) == stored
    assert actor.target.requests[0].status is None


def test_a_query_option_that_makes_no_sense_is_refused(actor: Actor) -> None:
    answer = actor.stage.get(f"{actor.kind.path}?$top=x")
    # A custom service knows no query options.
    assert answer.status_code == (200 if isinstance(actor.target, CustomService) else 400)


# --- F&O, OData --------------------------------------------------------------------------------


def write_failure(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert error["innererror"]["type"] == fno.WRITE_ERROR
    message: str = error["innererror"]["message"]
    return message


def properties(answer: httpx.Response) -> dict[str | None, str | None]:
    assert answer.headers["Content-Type"].startswith("application/xml")
    root = ET.fromstring(answer.text)  # noqa: S314 - our own server's
    return {item.get("Name"): item.get("MaxLength") for item in root.iter(f"{EDM}Property")}


def test_fno_writes_only_into_companies_it_has(stage: Stage) -> None:
    target = stage.play(Dynamics(stage.entra, companies={"frrt"}))
    body = {"code": CODE, "state": STATE}
    answer = stage.post(FNO_PATH, {**body, "dataAreaId": "usmf"})
    assert answer.status_code == 400
    assert "usmf" in write_failure(answer)
    assert target.rows == {}
    assert stage.post(FNO_PATH, {**body, "dataAreaId": "FRRT"}).status_code == 201


def test_fno_has_the_companies_of_the_demonstration_data(stage: Stage) -> None:
    stage.play(Dynamics(stage.entra))
    for company in ("usmf", "dat"):
        body = {"code": CODE, "state": company, "dataAreaId": company}
        assert stage.post(FNO_PATH, body).status_code == 201


def test_fno_publishes_the_lengths_it_holds_to(stage: Stage) -> None:
    target = stage.play(Dynamics(stage.entra, key_length=20, lengths={"code": 10, "error": 60}))
    published = properties(stage.get("/data/$metadata"))
    assert (published["state"], published["code"], published["error"]) == ("20", "10", "60")
    assert published["error_description"] is None
    assert target.key_length == 20
    answer = stage.post(FNO_PATH, {"code": CODE, "state": STATE})
    assert answer.status_code == 400
    assert "'code'" in write_failure(answer)


def test_a_private_entity_is_not_there_for_odata(stage: Stage) -> None:
    stage.play(Dynamics(stage.entra, public=False))
    answer = stage.post(FNO_PATH, {"code": CODE, "state": STATE})
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert message == "Resource not found for the segment 'OAuthCallbacks'."
    metadata = stage.get("/data/$metadata")
    assert metadata.status_code == 200
    assert "OAuthCallback" not in metadata.text
    assert stage.get("/data").json()["value"] == []


@pytest.mark.parametrize("segment", ["oauthcallbacks", "OAuthCallback", "Callbacks"])
def test_a_collection_spelt_wrong_is_not_found(stage: Stage, segment: str) -> None:
    stage.play(Dynamics(stage.entra))
    for answer in (stage.post(f"/data/{segment}", {}), stage.get(f"/data/{segment}?$top=0")):
        assert answer.status_code == 404
        message = answer.json()["error"]["message"]
        assert message == f"Resource not found for the segment '{segment}'."


def test_a_german_service_user_gets_german_texts(stage: Stage) -> None:
    stage.play(Dynamics(stage.entra, language="de"))
    body = {"code": CODE, "state": STATE}
    stage.post(FNO_PATH, body)
    message = write_failure(stage.post(FNO_PATH, body))
    assert "exists" not in message
    assert "Der Datensatz ist bereits vorhanden." in message
    assert STATE in message


def test_fno_lists_what_it_has(stage: Stage) -> None:
    stage.play(Dynamics(stage.entra))
    [entity_set] = stage.get("/data").json()["value"]
    assert entity_set == {"name": "OAuthCallbacks", "kind": "EntitySet", "url": "OAuthCallbacks"}
    assert stage.get("/data", token="").status_code == 401


def test_fno_reads_rows_for_who_may_read(stage: Stage) -> None:
    target = stage.play(Dynamics(stage.entra))
    stage.post(FNO_PATH, {"code": CODE, "state": STATE})
    assert stage.get(f"{FNO_PATH}?$top=0").json()["value"] == []
    assert stage.get(FNO_PATH).json()["value"] == [{"code": CODE, "state": STATE}]
    target.readable = False
    assert stage.get(f"{FNO_PATH}?$top=0").status_code == 403
    assert stage.get("/data/$metadata").status_code == 200
    assert stage.post(FNO_PATH, {"code": CODE, "state": "another"}).status_code == 201


def test_who_may_read_only_cannot_create(stage: Stage) -> None:
    stage.play(Dynamics(stage.entra)).permitted = False
    assert stage.get(f"{FNO_PATH}?$top=0").status_code == 200
    assert stage.post(FNO_PATH, {"code": CODE, "state": STATE}).status_code == 403


# --- F&O on-premises ---------------------------------------------------------------------------


class FakeAdfs:
    """What F&O on-premises knows of its AD FS."""

    issuer = "http://adfs.example.com/adfs/services/trust"

    def __init__(self) -> None:
        self.clients = {APP: SECRET}
        self._key = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
        self.public_keys = KeySet.import_key_set(KeySet([self._key]).as_dict())

    def token(self, resource: str, **claims: Any) -> str:
        now = int(time.time())
        good = {"iss": self.issuer, "aud": resource, "appid": APP, "exp": now + 3600}
        changed = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self._key.kid}, changed, self._key)


@pytest.fixture(scope="module")
def adfs() -> FakeAdfs:
    return FakeAdfs()


@pytest.fixture(params=[Dynamics, CustomService])
def premises(request: pytest.FixtureRequest, stage: Stage, adfs: FakeAdfs) -> Environment:
    target: Environment = request.param(adfs, on_premises=True)
    return stage.play(target)


def premises_request(target: Environment) -> tuple[str, object]:
    row = {target.names.code: CODE, target.names.state: STATE}
    if isinstance(target, CustomService):
        return custom.PATH, {"_contract": row}
    return FNO_PATH, row


def test_on_premises_everything_is_below_the_namespace(
    stage: Stage, premises: Environment, adfs: FakeAdfs
) -> None:
    path, body = premises_request(premises)
    token = adfs.token(stage.server.url)
    assert stage.post(path, body, token=token).status_code == 404
    answer = stage.post(f"/namespaces/AXSF{path}", body, token=token)
    assert answer.is_success
    assert premises.rows[STATE]
    if isinstance(premises, Dynamics):
        where = f"{stage.server.url}/namespaces/AXSF/data/OAuthCallbacks('{STATE}')"
        assert answer.headers["Location"] == where
        assert stage.get("/namespaces/AXSF/data/$metadata", token=token).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [{"aud": "https://elsewhere.example.com"}, {"iss": "https://sts.windows.net/x/"}, {"exp": 1}],
    ids=["audience", "issuer", "expired"],
)
def test_on_premises_a_wrong_token_leads_to_the_sign_in_page(
    stage: Stage, premises: Environment, adfs: FakeAdfs, claims: dict[str, Any]
) -> None:
    path, body = premises_request(premises)
    token = adfs.token(stage.server.url, **claims)
    for bad in (token, "", stage.token):
        answer = stage.post(f"/namespaces/AXSF{path}", body, token=bad)
        assert answer.status_code == 302
        target = urlsplit(answer.headers["Location"])
        assert (target.scheme, target.netloc) == ("https", "adfs.example.com")
        assert target.path == "/adfs/ls/"
        assert parse_qs(target.query)["wa"] == ["wsignin1.0"]
    assert premises.rows == {}


def test_on_premises_an_app_that_is_not_registered_is_sent_to_sign_in_too(
    stage: Stage, premises: Environment, adfs: FakeAdfs
) -> None:
    premises.authorized_apps.clear()
    path, body = premises_request(premises)
    answer = stage.post(f"/namespaces/AXSF{path}", body, token=adfs.token(stage.server.url))
    assert answer.status_code == 302


def test_on_premises_faults_strike_below_the_namespace(
    stage: Stage, premises: Environment, adfs: FakeAdfs
) -> None:
    premises.mode = Fault.BAD_GATEWAY
    path, body = premises_request(premises)
    token = adfs.token(stage.server.url)
    assert stage.post(f"/namespaces/AXSF{path}", body, token=token).status_code == 502


# --- F&O, custom service -----------------------------------------------------------------------


def thrown(answer: httpx.Response) -> str:
    """Check an X++ exception and return its type."""
    assert answer.status_code == 500
    body = answer.json()
    assert body.keys() == {"Message", "ExceptionType", "ActivityId"}
    assert body["Message"].startswith("An exception occured when invoking the operation - ")
    UUID(body["ActivityId"])
    kind: str = body["ExceptionType"]
    return kind


def test_a_custom_service_answers_with_its_own_contract(stage: Stage) -> None:
    stage.play(CustomService(stage.entra))
    answer = stage.post(custom.PATH, {"_contract": {"Code": CODE, "State": STATE}})
    assert answer.status_code == 200
    assert answer.json()["$id"] == "1"


def test_a_custom_service_can_take_its_values_by_parameter(stage: Stage) -> None:
    target = stage.play(CustomService(stage.entra, parameter=None))
    assert stage.post(custom.PATH, {"_code": CODE, "_state": STATE}).status_code == 200
    assert target.rows == {STATE: {"_code": CODE, "_state": STATE}}
    assert thrown(stage.post(custom.PATH, {"_code": CODE, "_state": STATE})) == (
        "DuplicateKeyException"
    )


@pytest.mark.parametrize(
    ("parameter", "body", "missing"),
    [
        ("_contract", {"contract": {"Code": CODE, "State": STATE}}, "_contract"),
        ("_contract", {"Code": CODE, "State": STATE}, "_contract"),
        (None, {"code": CODE, "_state": STATE}, "_code"),
        (None, {"_code": CODE}, "_state"),
    ],
)
def test_a_parameter_spelt_wrong_is_told_by_name(
    stage: Stage, parameter: str | None, body: dict[str, Any], missing: str
) -> None:
    target = stage.play(CustomService(stage.entra, parameter=parameter))
    for status in (400, 500):
        target.misfit_status = status
        answer = stage.post(custom.PATH, body)
        assert answer.status_code == status
        assert answer.json()["ExceptionType"] == custom.DESERIALIZATION
        assert f"Parameter '{missing}' is not found" in answer.json()["Message"]
    assert target.rows == {}


def test_a_member_of_the_contract_spelt_wrong_arrives_empty(stage: Stage) -> None:
    target = stage.play(CustomService(stage.entra))
    answer = stage.post(custom.PATH, {"_contract": {"code": CODE, "state": STATE}})
    assert thrown(answer) == "ErrorException"
    assert "'State'" in answer.json()["Message"]
    assert target.rows == {}


def test_xpp_repeats_the_values_of_a_duplicate_in_any_language(stage: Stage) -> None:
    target = stage.play(CustomService(stage.entra))
    body = {"_contract": {"Code": CODE, "State": STATE}}
    stage.post(custom.PATH, body)
    for language, words in (("en-US", "already exists"), ("de", "bereits vorhanden")):
        target.language = language
        answer = stage.post(custom.PATH, body)
        assert thrown(answer) == "DuplicateKeyException"
        message = answer.json()["Message"]
        assert STATE in message
        assert CODE in message
        assert words in message


@pytest.mark.parametrize("fault", [Fault.VALIDATION, Fault.SERVER_ERROR])
def test_other_exceptions_of_xpp_have_other_types(stage: Stage, fault: Fault) -> None:
    stage.play(CustomService(stage.entra)).mode = fault
    kind = thrown(stage.post(custom.PATH, {}))
    assert kind != "DuplicateKeyException"


@pytest.mark.parametrize(
    "path",
    [
        f"/api/services/Other/{custom.SERVICE}/{custom.OPERATION}",
        f"/api/services/{custom.GROUP}/Other/{custom.OPERATION}",
        f"/api/services/{custom.GROUP}/{custom.SERVICE}/other",
        f"/api/services/{custom.GROUP}/{custom.SERVICE}",
    ],
)
def test_an_operation_that_is_not_there_is_not_found(stage: Stage, path: str) -> None:
    stage.play(CustomService(stage.entra))
    answer = stage.post(path, {"_contract": {"Code": CODE, "State": STATE}})
    assert answer.status_code == 404
    assert answer.json()["Message"].startswith("No HTTP resource was found")


def test_services_describe_themselves_to_get(stage: Stage) -> None:
    stage.play(CustomService(stage.entra))
    services = "/api/services"
    group, service = f"{services}/{custom.GROUP}", f"{services}/{custom.GROUP}/{custom.SERVICE}"
    assert stage.get(services).json() == {"ServiceGroups": [{"Name": custom.GROUP}]}
    assert stage.get(group).json() == {"Services": [{"Name": custom.SERVICE}]}
    assert stage.get(service).json() == {"Operations": [{"Name": custom.OPERATION}]}
    assert stage.get(f"{service}/other").status_code == 404
    assert stage.get(f"{services}/Other").status_code == 404
    assert stage.get(custom.PATH, token="").status_code == 401
    [parameter] = stage.get(custom.PATH).json()["Parameters"]
    assert parameter["Name"] == "_contract"
    stage.play(CustomService(stage.entra, parameter=None))
    described = stage.get(custom.PATH).json()
    names = [parameter["Name"] for parameter in described["Parameters"]]
    assert names[:2] == ["_code", "_state"]
    assert described["Return"]["Name"] == "return"


# --- Business Central --------------------------------------------------------------------------

BC_BODY = {"code": CODE, "state": STATE}


def bc_error(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code; every message ends with a correlation id."""
    error = answer.json()["error"]
    assert re.search(r"  CorrelationId:  [0-9a-f-]{36}\.$", error["message"])
    return answer.status_code, error["code"]


@pytest.fixture
def central(stage: Stage) -> BusinessCentral:
    return stage.play(BusinessCentral(stage.entra))


def test_business_central_answers_with_the_row_and_its_etag(
    stage: Stage, central: BusinessCentral
) -> None:
    for prefer in ("", "return=minimal"):
        central.rows.clear()
        answer = stage.post(central.path, BC_BODY, prefer=prefer)
        assert answer.status_code == 201
        row = answer.json()
        assert row.items() >= BC_BODY.items()
        assert row["@odata.etag"].startswith('W/"')
        assert answer.headers["Location"] == f"{stage.server.url}{central.path}({row['id']})"
        assert row["errorDescription"] == ""


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**BC_BODY, "Code": CODE}, 400, "BadRequest"),
        ({**BC_BODY, "code": 7}, 400, "BadRequest"),
        ([BC_BODY], 400, "BadRequest"),
        ({"code": CODE}, 400, "Application_FieldValidationException"),
    ],
)
def test_business_central_refuses_in_its_own_words(
    stage: Stage, central: BusinessCentral, body: object, status: int, code: str
) -> None:
    assert bc_error(stage.post(central.path, body)) == (status, code)
    assert central.rows == {}


def test_business_central_repeats_a_value_that_is_too_long(
    stage: Stage, central: BusinessCentral
) -> None:
    code = "c" * 2049
    answer = stage.post(central.path, {"code": code, "state": STATE})
    assert bc_error(answer) == (400, "Application_StringExceededLength")
    assert code in answer.json()["error"]["message"]


def test_business_central_says_what_permission_is_missing(
    stage: Stage, central: BusinessCentral
) -> None:
    central.permitted = central.readable = False
    answer = stage.post(central.path, BC_BODY)
    assert bc_error(answer) == (403, "Internal_ServerError")
    assert "TableData" in answer.text
    assert " Insert:" in answer.text
    assert " Read:" in stage.get(f"{central.path}?$top=0").text


def test_a_page_may_not_allow_inserts(stage: Stage, central: BusinessCentral) -> None:
    central.insert_allowed = False
    answer = stage.post(central.path, BC_BODY)
    assert bc_error(answer) == (405, "BadRequest_MethodNotAllowed")
    assert stage.get(f"{central.path}?$top=0").json()["value"] == []


@pytest.mark.parametrize(
    ("old", "new", "status", "code"),
    [
        (bc.COMPANY, "00000000-0000-0000-0000-000000000001", 404, "Internal_CompanyNotFound"),
        ("/contoso/", "/fabrikam/", 404, "BadRequest_NotFound"),
        ("/oAuthCallbacks", "/oauthcallbacks", 404, "BadRequest_ResourceNotFound"),
        ("/Production/", "/Sandbox/", 404, "NoEnvironment"),
        (TENANT, "00000000-0000-0000-0000-000000000001", 404, "NoEnvironment"),
        ("/api/", "/ODataV4/", 404, "BadRequest_NotFound"),
    ],
)
def test_business_central_tells_which_part_of_the_address_is_wrong(
    stage: Stage, central: BusinessCentral, old: str, new: str, status: int, code: str
) -> None:
    assert old in central.path
    answer = stage.post(central.path.replace(old, new), BC_BODY)
    assert bc_error(answer) == (status, code)


def test_business_central_wants_a_role_where_it_is_real(stage: Stage) -> None:
    central = stage.play(BusinessCentral(stage.entra, required_role=bc.ROLE))
    answer = stage.post(central.path, BC_BODY)
    assert bc_error(answer) == (401, "Authentication_InvalidCredentials")
    token = stage.mint(roles=["Automation.ReadWrite.All", bc.ROLE])
    assert stage.post(central.path, BC_BODY, token=token).status_code == 201


def test_business_central_does_not_take_managed_identities(stage: Stage) -> None:
    central = stage.play(BusinessCentral(stage.entra, identities={APP}))
    answer = stage.post(central.path, BC_BODY)
    assert bc_error(answer) == (401, "Authentication_InvalidCredentials")
    central.identities_accepted = True
    assert stage.post(central.path, BC_BODY).status_code == 201


def test_business_centrals_outages_are_json(stage: Stage, central: BusinessCentral) -> None:
    central.faults.extend([Fault.THROTTLED, Fault.UNAVAILABLE, Fault.SERVER_ERROR])
    answers = [bc_error(stage.post(central.path, BC_BODY)) for _ in range(3)]
    assert answers == [
        (429, "Application_TooManyRequests"),
        (503, "Internal_TenantUnavailable"),
        (500, "Internal_ServerError"),
    ]


def test_business_central_lists_its_companies_and_publishes_lengths(
    stage: Stage, central: BusinessCentral
) -> None:
    api = central.path.partition("/companies(")[0]
    for root in (api, f"/v2.0/{TENANT}/Production/api/v2.0"):
        [company] = stage.get(f"{root}/companies").json()["value"]
        assert company["id"] == bc.COMPANY
    assert stage.get(f"{api}/companies", token="").status_code == 401
    assert stage.get(f"{api.replace('contoso', 'fabrikam')}/companies").status_code == 404
    published = properties(stage.get(f"{api}/$metadata"))
    assert (published["code"], published["state"]) == ("2048", "250")
    assert stage.get(f"{api}/$metadata", token="").status_code == 401


def test_business_central_reads_rows_back(stage: Stage, central: BusinessCentral) -> None:
    stage.post(central.path, BC_BODY)
    [row] = stage.get(central.path).json()["value"]
    assert row.items() >= BC_BODY.items()
    assert stage.get(f"{central.path}?$top=0").json()["value"] == []


# --- Dataverse ---------------------------------------------------------------------------------

DV_BODY = {"new_code": CODE, "new_state": STATE}
API = "/api/data/v9.2"
DEFINITION = f"{API}/EntityDefinitions(LogicalName='{dv.TABLE}')"


@pytest.fixture
def dataverse(stage: Stage) -> Dataverse:
    return stage.play(Dataverse(stage.entra))


def dv_error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, error_code(answer)


def test_dataverse_answers_as_the_caller_prefers(stage: Stage, dataverse: Dataverse) -> None:
    for state, prefer in (("1", ""), ("2", "return=minimal"), ("3", "return=representation")):
        answer = stage.post(dataverse.path, {**DV_BODY, "new_state": state}, prefer=prefer)
        entity = f"{stage.server.url}{API}/{dv.COLLECTION}({dataverse.rows[state][dv.ID]})"
        assert answer.headers["OData-EntityId"] == entity
        assert answer.headers.get("Preference-Applied", "") == prefer
        if prefer == "return=representation":
            assert answer.status_code == 201
            assert answer.json().items() >= {**DV_BODY, "new_state": state}.items()
        else:
            assert (answer.status_code, answer.content) == (204, b"")


def test_dataverse_repeats_a_duplicates_value_only_in_annotations(
    stage: Stage, dataverse: Dataverse
) -> None:
    body = {**DV_BODY, "new_state": "<state>"}
    stage.post(dataverse.path, body)
    plain = stage.post(dataverse.path, body)
    assert dv_error(plain) == (412, "0x80060892")
    assert plain.json()["error"].keys() == {"code", "message"}
    annotated = stage.post(dataverse.path, body, prefer='odata.include-annotations="*"')
    xml = annotated.json()["error"][f"{dv.DETAILS}DuplicateAttributes"]
    assert ET.fromstring(xml)[0].text == "<state>"  # noqa: S314 - our own server's


@pytest.mark.parametrize("status", [None, "Pending", "Failed"])
def test_without_an_active_key_dataverse_takes_duplicates(
    stage: Stage, dataverse: Dataverse, status: str | None
) -> None:
    dataverse.key_status = status
    for _ in range(2):
        assert stage.post(dataverse.path, DV_BODY).status_code == 204
    assert [row["new_state"] for row in dataverse.rows.values()] == [STATE, STATE]


def test_a_key_without_a_value_is_no_duplicate_in_dataverse(
    stage: Stage, dataverse: Dataverse
) -> None:
    for _ in range(2):
        assert stage.post(dataverse.path, {"new_code": CODE}).status_code == 204
    assert len(dataverse.rows) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({**DV_BODY, "new_Code": CODE}, "0x80048d19"),
        ({**DV_BODY, "new_code": 7}, "0x80048d19"),
        ([DV_BODY], "0x80048d19"),
        ({**DV_BODY, "new_state": "s" * 451}, "0x80044331"),
    ],
)
def test_dataverse_refuses_in_its_own_words(
    stage: Stage, dataverse: Dataverse, body: object, code: str
) -> None:
    answer = stage.post(dataverse.path, body)
    assert dv_error(answer) == (400, code)
    assert "{" not in answer.json()["error"]["message"]
    assert dataverse.rows == {}


def test_dataverse_says_what_privilege_is_missing(stage: Stage, dataverse: Dataverse) -> None:
    dataverse.permitted = dataverse.readable = False
    create = stage.post(dataverse.path, DV_BODY)
    assert dv_error(create) == (403, "0x80040220")
    assert f"is missing {dv.CREATE} privilege" in create.text
    read = stage.get(f"{dataverse.path}?$top=0")
    assert dv_error(read) == (403, "0x80040220")
    assert f"is missing {dv.READ} privilege" in read.text


def test_dataverse_knows_its_application_users_only(stage: Stage, dataverse: Dataverse) -> None:
    dataverse.authorized_apps.clear()
    for answer in (stage.post(dataverse.path, DV_BODY), stage.get(f"{API}/WhoAmI")):
        assert dv_error(answer) == (403, "0x80072560")


def test_dataverse_challenges_with_its_authority_and_resource(
    stage: Stage, dataverse: Dataverse
) -> None:
    challenge = stage.get(f"{API}/WhoAmI", token="").headers["WWW-Authenticate"]
    assert challenge == (
        f"Bearer authorization_uri=https://login.microsoftonline.com/{TENANT}/oauth2/authorize, "
        f"resource_id={stage.server.url}/"
    )
    dataverse.authority = stage.entra_server.url
    challenge = stage.get(f"{API}/WhoAmI", token="").headers["WWW-Authenticate"]
    assert f"authorization_uri={stage.entra_server.url}/{TENANT}/" in challenge


def test_dataverse_throttles_with_a_code(stage: Stage, dataverse: Dataverse) -> None:
    dataverse.mode = Fault.THROTTLED
    answer = stage.post(dataverse.path, DV_BODY)
    assert dv_error(answer) == (429, "0x80072322")
    assert answer.headers["Retry-After"] == "1"


def test_dataverse_does_not_know_other_addresses(stage: Stage, dataverse: Dataverse) -> None:
    assert dv_error(stage.post(f"{API}/new_OAuthCallbacks", DV_BODY)) == (404, "0x8006088a")
    assert dv_error(stage.post(f"{API}/WhoAmI", {})) == (404, "")
    assert dv_error(stage.post("/api/data/v8.2/x", {})) == (404, "")
    assert dataverse.rows == {}


def test_dataverse_tells_who_calls_and_what_they_may(stage: Stage, dataverse: Dataverse) -> None:
    who = stage.get(f"{API}/WhoAmI").json()
    assert who.keys() == {"@odata.context", "BusinessUnitId", "UserId", "OrganizationId"}

    def held(user: str = who["UserId"]) -> list[str]:
        call = f"{dv.NAMESPACE}.RetrieveUserSetOfPrivilegesByNames(PrivilegeNames=@p)"
        asked = f'["{dv.CREATE}","{dv.READ}","prvCreateOther"]'
        answer = stage.get(f"{API}/systemusers({user})/{call}?@p={asked}")
        assert answer.status_code == 200
        return [item["PrivilegeName"] for item in answer.json()["RolePrivileges"]]

    assert held() == [dv.CREATE, dv.READ]
    dataverse.permitted = False
    assert held() == [dv.READ]
    dataverse.readable = False
    assert held() == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{user}/{function}(PrivilegeNames=@p)", 400),
        ("{user}/{function}(PrivilegeNames=@p)?@p=prvCreate", 400),
        ("{user}/{function}(PrivilegeNames=@p)?@q=[]", 400),
        ("{user}/{function}(PrivilegeNames=@x1)?@x1=[]", 200),
        ("{user}/{function}?@p=[]", 404),
        ("00000000-0000-0000-0000-000000000001/{function}(PrivilegeNames=@p)?@p=[]", 404),
    ],
)
def test_privileges_are_asked_for_through_a_parameter_alias(
    stage: Stage, dataverse: Dataverse, path: str, status: int
) -> None:
    assert dataverse.permitted
    user = stage.get(f"{API}/WhoAmI").json()["UserId"]
    function = f"{dv.NAMESPACE}.RetrieveUserSetOfPrivilegesByNames"
    user_id, _, rest = path.format(user=user, function=function).partition("/")
    assert stage.get(f"{API}/systemusers({user_id})/{rest}").status_code == status


def test_dataverse_describes_its_table(stage: Stage, dataverse: Dataverse) -> None:
    definition = stage.get(DEFINITION).json()
    assert definition["LogicalName"] == dv.TABLE
    assert definition["EntitySetName"] == dv.COLLECTION
    search = f"{API}/EntityDefinitions?$filter=EntitySetName eq"
    [found] = stage.get(f"{search} '{dv.COLLECTION}'").json()["value"]
    assert found["SchemaName"] == dv.SCHEMA_NAME
    assert stage.get(f"{search} 'others'").json()["value"] == []
    names = {item["LogicalName"] for item in stage.get(f"{DEFINITION}/Attributes").json()["value"]}
    assert names == {dv.ID, *dataverse.names}
    texts = stage.get(f"{DEFINITION}/Attributes/{dv.NAMESPACE}.StringAttributeMetadata").json()
    lengths = {item["LogicalName"]: item["MaxLength"] for item in texts["value"]}
    assert (lengths["new_code"], lengths["new_state"]) == (4000, 450)
    missing = stage.get(f"{API}/EntityDefinitions(LogicalName='other')")
    assert dv_error(missing) == (404, "0x80040217")
    assert stage.get(DEFINITION, token="").status_code == 401


def test_dataverse_publishes_its_alternate_key(stage: Stage, dataverse: Dataverse) -> None:
    [key] = stage.get(f"{DEFINITION}/Keys").json()["value"]
    assert (key["KeyAttributes"], key["EntityKeyIndexStatus"]) == (["new_state"], "Active")
    metadata = stage.get(f"{API}/$metadata")
    assert properties(metadata)["new_code"] == "4000"
    root = ET.fromstring(metadata.text)  # noqa: S314 - our own server's
    [annotation] = root.iter(f"{EDM}Annotation")
    assert annotation.get("Term") == "OData.Community.Keys.V1.AlternateKeys"
    paths = [item.get("PropertyPath") for item in annotation.iter(f"{EDM}PropertyValue")]
    assert paths[-1] == "new_state"
    dataverse.key_status = None
    assert stage.get(f"{DEFINITION}/Keys").json()["value"] == []
    assert "Annotation" not in stage.get(f"{API}/$metadata").text


def test_names_are_the_customers_in_every_target(stage: Stage) -> None:
    names = Names("TheCode", "TheState", "TheError", "TheDescription")
    body = {"TheCode": CODE, "TheState": STATE}
    central = stage.play(BusinessCentral(stage.entra, names=names))
    assert stage.post(central.path, body).status_code == 201
    dataverse = stage.play(Dataverse(stage.entra, names=names))
    assert stage.post(dataverse.path, body).status_code == 204
    service = stage.play(CustomService(stage.entra, names=names))
    assert stage.post(custom.PATH, {"_contract": body}).status_code == 200
    assert [list(target.rows) for target in (central, dataverse, service)] == [[STATE]] * 3
