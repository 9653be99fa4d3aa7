"""The doctor names the one thing that is wrong with a target, and all before it is well.

Each row is a set-up of Dynamics with one mistake in it, played by the sandbox over real TLS; the
doctor is asked as a person asks it, and examines everything from the settings on.
"""

import json
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import log
from relay.tools import doctor, smoke_record
from relay.tools.doctor import Finding, Verdict, metadata, probe
from relay.tools.terminal import shown
from sandbox import business_central as bc
from sandbox import custom_service as custom
from sandbox import dataverse as dv
from sandbox.adfs import Adfs
from sandbox.business_central import BusinessCentral
from sandbox.custom_service import CustomService
from sandbox.dataverse import Dataverse
from sandbox.dynamics import NAMESPACE, Dynamics, Names
from sandbox.entra import Entra
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.serving import Server
from sandbox.target import Fault, Property, Target, csdl
from sandbox.tls import Authority
from tests.refusals import CASES, Case
from tests.unit import doctor_sentences

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
SECRET = "canary~secret"
KEYS = "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"
IDENTITY = Identity(
    "66666666-7777-8888-9999-000000000000", "aaaaaaaa-0000-0000-0000-000000000002", system=True
)
BODIES: dict[str, dict[str, object]] = {
    "finance": {"code": "{code}", "state": "{state}", "dataAreaId": "usmf"},
    "service": {"_contract": {"Code": "{code}", "State": "{state}"}},
    "bc": {"code": "{code}", "state": "{state}"},
    "dataverse": {"new_code": "{code}", "new_state": "{state}"},
}
PATHS = {
    "finance": "/data/OAuthCallbacks",
    "service": custom.PATH,
    "bc": "",
    "dataverse": Dataverse.path,
}
ALWAYS = ["settings", "authority", "credential", "token", "target"]
ORDER = {
    "finance": ["scope", "access", "entity", "properties", "length", "key", "company"],
    "service": ["scope", "access", "entity", "properties", "key"],
    "bc": ["role", "access", "environment", "company", "entity", "properties", "length", "key"],
    "dataverse": ["access", "entity", "properties", "length", "key", "permission"],
}
"""What the doctor looks at after `ALWAYS`, in this order."""
WELL = {Verdict.OK, Verdict.SKIP}
"""Verdicts of which a healthy set-up may have both."""


class Place:
    """An address for a whole module; every test puts an app of its own there."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Stage:
    """Entra, AD FS, an identity, and an address at which each test puts its target."""

    def __init__(self, folder: Path) -> None:
        self.stack = ExitStack()
        self.authority = self.stack.enter_context(Authority())
        self.tls = self.authority.server_context()
        self.entra = Entra(clients={APP: SECRET})
        self.adfs = Adfs(clients={APP: SECRET})
        self.endpoint = IdentityEndpoint(self.entra, [IDENTITY])
        self.place = Place()
        self.entra_server = self.serve(self.entra.app)
        self.adfs_server = self.serve(self.adfs.app)
        self.server = self.serve(self.place)
        self.platform = self.stack.enter_context(Server(self.endpoint.app))
        self.entra.url = self.entra_server.url
        self.folder = folder

    def serve(self, app: ASGIApp, authority: Authority | None = None) -> Server:
        tls = authority.server_context() if authority else self.tls
        return self.stack.enter_context(Server(app, tls=tls))

    def reset(self) -> None:
        self.entra.resources = {self.server.url}
        self.entra.clients = {APP: SECRET}
        self.entra.roles = {APP: [bc.ROLE]}
        self.adfs.resources = {self.server.url}

    def play(self, kind: str, target: Target | None = None, **settings: str) -> dict[str, str]:
        """Put a target there, healthy unless one is given, and return the relay's settings.

        An empty setting takes one away.
        """
        target = target or HEALTHY[kind](self)
        self.place.app = target.app
        path = target.path if isinstance(target, BusinessCentral) else PATHS[kind]
        made = {
            "ENTRA_AUTHORITY": f"{self.entra_server.url}/{self.entra.tenant}",
            "ENTRA_CLIENT_ID": APP,
            "ENTRA_CLIENT_SECRET": SECRET,
            "DYNAMICS_URL": f"{self.server.url}{path}",
            "STATE_POLICY": "opaque",
            "DYNAMICS_BODY": json.dumps(BODIES[kind]),
            "CA_BUNDLE": str(self.authority.bundle),
        } | settings
        return {name: value for name, value in made.items() if value}


class FinanceWithCompanies(Dynamics):
    """An environment whose companies the service user may read."""

    def _serve_path(self, request: Request, path: list[str], body: bytes) -> Response | None:
        if (request.method, path) == ("GET", ["data", "Companies"]):
            self._check_token(request)
            # OData 4.01 URL conventions, section 4.3.1: a quote within a literal is doubled.
            asked = re.fullmatch(
                r"DataArea eq '((?:[^']|'')*)'", request.query_params.get("$filter", "")
            )
            if asked is None:
                return Response(status_code=400)
            found = [{"DataArea": asked[1]}] if asked[1] in self.companies else []
            return JSONResponse({"value": found})
        return super()._serve_path(request, path, body)


class Related(FinanceWithCompanies):
    """Has a key of three fields, and leads to another entity."""

    def _metadata(self) -> Response:
        text = bytes(super()._metadata().body).decode()
        more = '<PropertyRef Name="dataAreaId"/><PropertyRef Name="Realm"/></Key>'
        text = text.replace("</Key>", more)
        leads = '<NavigationProperty Name="Owner" Type="N.Owner"/></EntityType>'
        return Response(text.replace("</EntityType>", leads), media_type="application/xml")


class ReadOnlyPage(BusinessCentral):
    """Says in its metadata that nothing can be inserted."""

    def _metadata(self) -> Response:
        text = bytes(super()._metadata().body).decode()
        annotation = (
            '<Annotation Term="Org.OData.Capabilities.V1.InsertRestrictions"><Record>'
            '<PropertyValue Property="Insertable" Bool="false"/></Record></Annotation>'
        )
        return Response(
            re.sub(r"(<EntitySet [^>]*?)/>", rf"\1>{annotation}</EntitySet>", text),
            media_type="application/xml",
        )


HEALTHY: dict[str, Callable[[Stage], Target]] = {
    "finance": lambda stage: FinanceWithCompanies(stage.entra),
    "service": lambda stage: CustomService(stage.entra),
    "bc": lambda stage: BusinessCentral(stage.entra, required_role=bc.ROLE),
    "dataverse": lambda stage: Dataverse(stage.entra),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.stack.close()


@pytest.fixture
def stage(servers: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    log.quiet()
    # The provider is no part of these stages, and nobody shall look for it outside.
    monkeypatch.setattr("relay.tools.doctor.provider.examine", lambda *_: iter(()))
    for name, value in servers.endpoint.environment(servers.platform.url).items():
        monkeypatch.setenv(name, value)
    servers.reset()
    return servers


def examine(stage: Stage, settings: Mapping[str, str], *, write: bool = False) -> list[Finding]:
    """Ask the doctor, and look for what it must never tell."""
    findings = list(doctor.examine(settings, only="default", write=write))
    told = repr(findings)
    for secret in ("canary", "eyJ", "QUFB", *stage.entra.issued, *stage.adfs.issued):
        assert secret not in told
    for words in ("Infolog", "CorrelationId", "Principal user", "No HTTP resource"):
        assert words not in told
    for finding in findings:
        assert bool(finding.fix) is (finding.verdict not in WELL)
        # A URL that is too long is not broken.
        lines = [line for line in shown(finding).plain.splitlines() if len(line.split()) > 1]
        assert [line for line in lines if len(line) > 80] == []
    return findings


def checks(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings]


# -- healthy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDER)
def test_a_healthy_target_is_told_to_be_well_in_everything(stage: Stage, kind: str) -> None:
    findings = examine(stage, stage.play(kind))
    assert [finding for finding in findings if finding.verdict not in WELL] == []
    further = [] if kind == "dataverse" else ["permission"]
    assert checks(findings) == [*ALWAYS, *ORDER[kind], *further]


@pytest.mark.parametrize("kind", ORDER)
def test_reading_writes_nothing_and_posts_nothing(stage: Stage, kind: str) -> None:
    target = HEALTHY[kind](stage)
    examine(stage, stage.play(kind, target))
    assert (target.posts, target.rows) == (0, {})
    assert {seen.method for seen in target.requests} == {"GET"}


def test_on_premises_is_healthy_too(stage: Stage) -> None:
    target = FinanceWithCompanies(stage.adfs, on_premises=True)
    settings = stage.play(
        "finance",
        target,
        ENTRA_AUTHORITY=f"{stage.adfs_server.url}/adfs",
        DYNAMICS_URL=f"{stage.server.url}{NAMESPACE}/data/OAuthCallbacks",
    )
    findings = examine(stage, settings)
    assert {finding.verdict for finding in findings} <= WELL
    assert "company" in checks(findings)


def test_an_identity_by_itself_is_taken_where_it_is_registered(stage: Stage) -> None:
    settings = stage.play("dataverse", Dataverse(stage.entra, authorized_apps=[IDENTITY.client_id]))
    settings |= {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"}
    for name in ("ENTRA_AUTHORITY", "ENTRA_CLIENT_ID", "ENTRA_CLIENT_SECRET"):
        del settings[name]
    findings = examine(stage, settings)
    assert {finding.verdict for finding in findings} <= WELL
    assert checks(findings)[-1] == "permission"


# -- one mistake each ----------------------------------------------------------------------------


type Make = Callable[[Stage], dict[str, str]]


class Row(NamedTuple):
    """One mistake: how it is made, and what the doctor says of it."""

    kind: str
    make: Make
    verdict: Verdict
    check: str
    message: tuple[str, ...]
    fix: tuple[str, ...]


def body(**members: object) -> str:
    return json.dumps(members)


def with_fault(kind: str, fault: Fault) -> Make:
    def make(stage: Stage) -> dict[str, str]:
        target = HEALTHY[kind](stage)
        target.mode = fault
        return stage.play(kind, target)

    return make


def elsewhere(kind: str, old: str, new: str) -> Make:
    """Return what makes a healthy set-up whose URL has something else in one place."""

    def make(stage: Stage) -> dict[str, str]:
        settings = stage.play(kind)
        assert old in settings["DYNAMICS_URL"]
        return settings | {"DYNAMICS_URL": settings["DYNAMICS_URL"].replace(old, new)}

    return make


def changed(kind: str, **attributes: Any) -> Make:
    """Return what makes a healthy set-up, but for some attributes of the target."""

    def make(stage: Stage) -> dict[str, str]:
        target = HEALTHY[kind](stage)
        for name, value in attributes.items():
            assert hasattr(target, name)
            setattr(target, name, value)
        return stage.play(kind, target)

    return make


def answering(kind: str, case: Case) -> Make:
    """Return what makes a target that refuses everything as this line of the table says."""
    given = case.dynamics[0]
    return changed(kind, _attempt=lambda *_: Response(given.content, given.status))


def with_body(kind: str, text: str) -> Make:
    return lambda stage: stage.play(kind, DYNAMICS_BODY=text)


def signed(kind: str, target: Callable[[Stage], Target] | None = None) -> Make:
    policy = {"STATE_POLICY": "signed", "STATE_KEYS": KEYS}
    return lambda stage: stage.play(kind, target(stage) if target else None, **policy)


def begun_here(key_length: int = 255) -> Make:
    """Return what makes an F&O whose flows begin at the relay, with a key of that length."""

    def make(stage: Stage) -> dict[str, str]:
        target = FinanceWithCompanies(
            stage.entra, key_length=key_length, further=("dataAreaId", "codeVerifier")
        )
        return signed("finance", lambda _: target)(stage) | PROVIDER

    return make


def finance(**options: Any) -> Make:
    return lambda stage: stage.play("finance", FinanceWithCompanies(stage.entra, **options))


def without_role(stage: Stage) -> dict[str, str]:
    stage.entra.roles = {APP: ["Automation.ReadWrite.All"]}
    return stage.play("bc")


def as_identity(kind: str, target: Callable[[Stage], Target]) -> Make:
    def make(stage: Stage) -> dict[str, str]:
        settings = stage.play(
            kind,
            target(stage),
            ENTRA_AUTHORITY="",
            ENTRA_CLIENT_ID="",
            ENTRA_CLIENT_SECRET="",
            ENTRA_MANAGED_IDENTITY_CLIENT_ID="system",
        )
        stage.entra.roles = {IDENTITY.client_id: [bc.ROLE]}
        return settings

    return make


def capitals(stage: Stage) -> dict[str, str]:
    scope = stage.server.url.replace("localhost", "LocalHost")
    return stage.play("finance", DYNAMICS_SCOPE=f"{scope}/.default")


def other_scope(kind: str) -> Make:
    def make(stage: Stage) -> dict[str, str]:
        stage.entra.resources.add("https://contoso.operations.dynamics.com")
        return stage.play(kind, DYNAMICS_SCOPE="https://contoso.operations.dynamics.com/.default")

    return make


class Instead(BaseHTTPMiddleware):
    """Answers some addresses in place of the target."""

    def __init__(self, app: ASGIApp, pattern: str, status: int, text: str) -> None:
        super().__init__(app)
        self.pattern, self.status, self.text = pattern, status, text

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if re.search(self.pattern, request.url.path):
            return Response(self.text, self.status)
        return await call_next(request)


def instead(kind: str, pattern: str, status: int = 403, text: str = "") -> Make:
    """Return what makes a healthy set-up, but for some addresses."""

    def make(stage: Stage) -> dict[str, str]:
        settings = stage.play(kind)
        stage.place.app = Instead(stage.place.app, pattern, status, text)
        return settings

    return make


class Memos(Dataverse):
    """Holds the code in a text of several lines, as long codes need."""

    length = 2048

    def _definitions(self, request: Request, segment: str, rest: list[str]) -> Response:
        if rest == ["Attributes", "Microsoft.Dynamics.CRM.MemoAttributeMetadata"]:
            memo = {"LogicalName": self.names.code, "MaxLength": self.length}
            return JSONResponse({"value": [memo]})
        answer = super()._definitions(request, segment, rest)
        document = json.loads(bytes(answer.body))
        for attribute in document.get("value", []):
            if attribute.get("LogicalName") == self.names.code:
                attribute["AttributeType"] = "Memo"
                attribute.pop("MaxLength", None)
        return JSONResponse(document)


def with_memo(length: int) -> Make:
    def make(stage: Stage) -> dict[str, str]:
        target = Memos(stage.entra)
        target.length = length
        return stage.play("dataverse", target)

    return make


def on_premises(stage: Stage, target: Dynamics | None = None, **settings: str) -> dict[str, str]:
    return stage.play(
        "finance",
        target or FinanceWithCompanies(stage.adfs, on_premises=True),
        DYNAMICS_URL=f"{stage.server.url}{NAMESPACE}/data/OAuthCallbacks",
        **settings,
    )


def on_premises_unmapped(stage: Stage) -> dict[str, str]:
    target = FinanceWithCompanies(stage.adfs, on_premises=True, authorized_apps=[])
    return on_premises(stage, target, ENTRA_AUTHORITY=f"{stage.adfs_server.url}/adfs")


def private_ca(stage: Stage) -> dict[str, str]:
    target = FinanceWithCompanies(stage.entra)
    server = stage.serve(target.app, stage.stack.enter_context(Authority()))
    stage.entra.resources.add(server.url)
    return stage.play("finance", DYNAMICS_URL=f"{server.url}/data/OAuthCallbacks")


def unreachable(stage: Stage) -> dict[str, str]:
    with Server(stage.place, tls=stage.tls) as gone:
        url = gone.url
    stage.entra.resources.add(url)
    return stage.play("finance", DYNAMICS_URL=f"{url}/data/OAuthCallbacks")


STATE_AND_ID = Names("code", "Id")
FORM = "Microsoft Entra ID applications"
PROVIDER = {
    "PROVIDER_AUTHORIZATION_ENDPOINT": "https://provider.example/authorize",
    "PROVIDER_CLIENT_ID": "dynamics",
    "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
    "DYNAMICS_BODY": json.dumps(BODIES["finance"] | {"codeVerifier": "{code_verifier}"}),
}
FAIL, WARN = Verdict.FAIL, Verdict.WARN

ROWS = {
    # what is on the way
    "the host is not there": Row(
        "finance", unreachable, FAIL, "target", ("cannot be reached",), ("DNS",)
    ),
    "its certificate is of a private CA": Row(
        "finance", private_ca, FAIL, "target", ("not trusted",), ("CA_BUNDLE",)
    ),
    "a sign-in page answers 200": Row(
        "finance", with_fault("finance", Fault.SIGN_IN_PAGE), FAIL, "target",
        ("web page",), ("DYNAMICS_URL",),
    ),
    "Dataverse is behind a sign-in page": Row(
        "dataverse", with_fault("dataverse", Fault.SIGN_IN_PAGE), FAIL, "target",
        ("web page",), ("DYNAMICS_URL",),
    ),
    "it redirects elsewhere": Row(
        "bc", with_fault("bc", Fault.PERMANENT_REDIRECT), FAIL, "target",
        ("redirects",), ("host and path",),
    ),
    "Finance & Operations throttles": Row(
        "finance", with_fault("finance", Fault.THROTTLED), FAIL, "target",
        ("throttling", "429"), ("Wait", "Throttling priority mapping"),
    ),
    "Business Central throttles": Row(
        "bc", with_fault("bc", Fault.THROTTLED), FAIL, "target", ("429",), ("Wait",)
    ),
    "Dataverse throttles": Row(
        "dataverse", with_fault("dataverse", Fault.THROTTLED), FAIL, "target",
        ("429",), ("Wait",),
    ),
    "Dataverse is in administration mode": Row(
        "dataverse", answering("dataverse", CASES["dv-administration-mode"]), FAIL, "target",
        ("administration mode", "403"), ("Power Platform admin center",),
    ),
    "Business Central is starting": Row(
        "bc", answering("bc", CASES["bc-starting"]), FAIL, "target",
        ("starting", "404"), ("Wait",),
    ),
    "a service is being serviced": Row(
        "service", with_fault("service", Fault.UNAVAILABLE), FAIL, "target",
        ("not available", "503"), ("Wait",),
    ),
    "on-premises, and the authority is Entra": Row(
        "finance", on_premises, FAIL, "target",
        ("sign-in page of AD FS", "on-premises"), ("ENTRA_AUTHORITY", "/adfs", "discover"),
    ),
    "on-premises, and not registered": Row(
        "finance", on_premises_unmapped, FAIL, "target",
        ("sign-in page of AD FS", "does not take the token"), (FORM, APP, "/namespaces/AXSF"),
    ),
    # who calls
    "the scope has capitals": Row(
        "finance", capitals, FAIL, "scope", ("DYNAMICS_SCOPE", "capitals"),
        ("https://localhost:", "/.default"),
    ),
    "the scope is another environment's": Row(
        "finance", other_scope("finance"), FAIL, "scope",
        ("not the environment's own",), ("DYNAMICS_SCOPE",),
    ),
    "Finance & Operations does not map the application": Row(
        "finance", finance(authorized_apps=[]), FAIL, "access",
        ("does not know the application",), (FORM, APP),
    ),
    "the application is not mapped for services": Row(
        "service", changed("service", authorized_apps=set()), FAIL, "access",
        ("does not know the application",), (FORM, APP),
    ),
    "Finance & Operations does not know the identity": Row(
        "finance",
        as_identity("finance", lambda stage: FinanceWithCompanies(stage.entra)),
        FAIL, "access", ("does not know the application",),
        (FORM, IDENTITY.client_id, "federated credential"),
    ),
    "the service user is disabled": Row(
        "finance", with_fault("finance", Fault.FORBIDDEN), FAIL, "access",
        ("user may do nothing",), ("role", APP),
    ),
    "Business Central has no card": Row(
        "bc", changed("bc", authorized_apps=set()), FAIL, "access",
        ("does not know the application",),
        ("Microsoft Entra Applications", "State to Enabled", APP),
    ),
    "the role of Business Central is missing": Row(
        "bc", without_role, FAIL, "role", ("API.ReadWrite.All",), ("admin consent",)
    ),
    "Business Central takes no identities": Row(
        "bc",
        as_identity("bc", lambda stage: BusinessCentral(
            stage.entra,
            authorized_apps=[IDENTITY.client_id], identities=[IDENTITY.client_id],
        )),
        FAIL, "access", ("managed identities",), ("federated credential", "ENTRA_CLIENT_ID"),
    ),
    "the scope is not Business Central's": Row(
        "bc", other_scope("bc"), FAIL, "access", ("DYNAMICS_SCOPE",), ("https://localhost:",)
    ),
    "Business Central shows no companies": Row(
        "bc", instead("bc", "/companies$"), WARN, "access",
        ("may not read companies",), ("permission sets",),
    ),
    "Dataverse refuses the token, by its scope": Row(
        "dataverse", other_scope("dataverse"), FAIL, "access",
        ("does not take the token",), ("DYNAMICS_SCOPE",),
    ),
    "the application user is disabled": Row(
        "dataverse", with_fault("dataverse", Fault.FORBIDDEN), FAIL, "access",
        ("may not use this environment",), ("activate", APP),
    ),
    "the version of the Web API is wrong": Row(
        "dataverse", elsewhere("dataverse", "/v9.2/", "/v7.0/"), FAIL, "access",
        ("HTTP 404",), ("/api/data/v9.2/",),
    ),
    "Dataverse has no application user": Row(
        "dataverse", changed("dataverse", authorized_apps=set()), FAIL, "access",
        ("no user of this environment",), ("Application users", APP, "security role"),
    ),
    "Dataverse refuses the token": Row(
        "dataverse", with_fault("dataverse", Fault.UNAUTHORIZED), FAIL, "access",
        ("does not take the token",), ("DYNAMICS_SCOPE", "discover"),
    ),
    "the security role has no Create": Row(
        "dataverse", changed("dataverse", permitted=False), FAIL, "permission",
        ("may not create",), (dv.CREATE, "security role"),
    ),
    # what is there
    "the entity is private": Row(
        "finance", finance(public=False), FAIL, "entity",
        ("no public OAuthCallbacks",), ("IsPublic = Yes", "synchronize"),
    ),
    "the collection is misspelt": Row(
        "finance", elsewhere("finance", "OAuthCallbacks", "OauthCalbacks"), FAIL, "entity",
        ("nearest is OAuthCallbacks",), ("Put OAuthCallbacks", "DYNAMICS_URL"),
    ),
    "the collection has another case": Row(
        "finance", elsewhere("finance", "OAuthCallbacks", "oauthcallbacks"), FAIL, "entity",
        ("it is OAuthCallbacks", "case"), ("Put OAuthCallbacks",),
    ),
    "the entity's name stands for its collection": Row(
        "finance", elsewhere("finance", "OAuthCallbacks", "OAuthCallback"), FAIL, "entity",
        ("name of one entity", "collection is OAuthCallbacks"), ("Put OAuthCallbacks",),
    ),
    "the API page's name stands for its set": Row(
        "bc", elsewhere("bc", "oAuthCallbacks", "oAuthCallback"), FAIL, "entity",
        ("name of one entity", "collection is oAuthCallbacks"), ("Put oAuthCallbacks",),
    ),
    "the logical name stands for the entity set's": Row(
        "dataverse", elsewhere("dataverse", dv.COLLECTION, dv.TABLE), FAIL, "entity",
        ("name of one entity", dv.COLLECTION), (f"Put {dv.COLLECTION}",),
    ),
    "the table is misspelt": Row(
        "dataverse", elsewhere("dataverse", dv.COLLECTION, "new_oauthcalbacks"), FAIL, "entity",
        (f"nearest is {dv.COLLECTION}",), (f"Put {dv.COLLECTION}", "publish"),
    ),
    "the table is another": Row(
        "dataverse", elsewhere("dataverse", dv.COLLECTION, "accounts"), FAIL, "entity",
        ("no public accounts",), ("solution",),
    ),
    "the page allows no insert": Row(
        "bc",
        lambda stage: stage.play("bc", ReadOnlyPage(stage.entra, required_role=bc.ROLE)),
        FAIL, "entity", ("takes no new records",), ("InsertAllowed",),
    ),
    "the environment is misspelt": Row(
        "bc", elsewhere("bc", "/Production/", "/Produktion/"), FAIL, "environment",
        ("no such environment",), ("<environment>",),
    ),
    "the API is misspelt": Row(
        "bc", elsewhere("bc", "/oauth/v1.0/", "/oauth/v2.0/"), FAIL, "environment",
        ("no such API",), ("publisher, group and version",),
    ),
    "the company of Business Central is unknown": Row(
        "bc", elsewhere("bc", bc.COMPANY, "00000000-5d4a-4f6b-9c8d-0a1b2c3d4e5f"), FAIL,
        "company", ("no company",), ("companies(",),
    ),
    "there is no OData at all": Row(
        "finance", instead("finance", "metadata", 404), FAIL, "entity",
        ("no OData service", "404"), ("/namespaces/AXSF",),
    ),
    "the metadata are cut": Row(
        "finance", instead("finance", "metadata", 200, "<edmx:Edmx"), FAIL, "entity",
        ("cannot be read",), ("proxy",),
    ),
    "the metadata of the API page break": Row(
        "bc", instead("bc", "metadata", 500), FAIL, "entity",
        ("cannot be read", "500"), ("publish",),
    ),
    "services cannot be listed": Row(
        "service", instead("service", "/api/services$", 404), WARN, "entity",
        ("cannot be read", "404"), ("--write",),
    ),
    "the tables cannot be listed": Row(
        "dataverse", instead("dataverse", "EntityDefinitions$"), WARN, "entity",
        ("may not read",), ("role",),
    ),
    "the columns cannot be listed": Row(
        "dataverse", instead("dataverse", "Attributes$"), WARN, "properties",
        ("may not read", "columns"), ("role",),
    ),
    "the keys cannot be listed": Row(
        "dataverse", instead("dataverse", "Keys$"), WARN, "key",
        ("may not read", "keys"), ("role",),
    ),
    "the privileges cannot be listed": Row(
        "dataverse", instead("dataverse", "RetrieveUserSet"), WARN, "permission",
        ("may not read", "privileges"), ("--write",),
    ),
    "the service group is misspelt": Row(
        "service", elsewhere("service", custom.GROUP, "OAuthCallbackService_"), FAIL, "entity",
        ("no service group", f"nearest is {custom.GROUP}"), (f"Put {custom.GROUP}",),
    ),
    "the service is misspelt": Row(
        "service", elsewhere("service", f"/{custom.SERVICE}/", "/OAuthCalbackService/"), FAIL,
        "entity", ("no service OAuthCalbackService", f"nearest is {custom.SERVICE}"),
        (f"Put {custom.SERVICE}",),
    ),
    "the operation is misspelt": Row(
        "service", elsewhere("service", "/receive", "/recieve"), FAIL, "entity",
        ("no operation recieve", "nearest is receive"), ("Put receive",),
    ),
    "the operation is another": Row(
        "service", elsewhere("service", "/receive", "/store"), FAIL, "entity",
        ("no operation store",), ("deploy",),
    ),
    # what is sent
    "a property is misspelt": Row(
        "finance", with_body("finance", body(cod="{code}", state="{state}", dataAreaId="usmf")),
        FAIL, "properties", ("no property cod", "nearest is code"), ("Put code", "DYNAMICS_BODY"),
    ),
    "a property has another case": Row(
        "finance", with_body("finance", body(Code="{code}", state="{state}", dataAreaId="usmf")),
        FAIL, "properties", ("no property Code", "it is code", "case"), ("Put code",),
    ),
    "a constant's property has another case": Row(
        "finance", with_body("finance", body(code="{code}", state="{state}", dataareaid="usmf")),
        FAIL, "properties", ("no property dataareaid", "it is dataAreaId"), ("Put dataAreaId",),
    ),
    "a field of the API page has another case": Row(
        "bc", with_body("bc", body(Code="{code}", state="{state}")), FAIL, "properties",
        ("no field Code", "it is code"), ("Put code",),
    ),
    "a column has no prefix": Row(
        "dataverse", with_body("dataverse", body(new_code="{code}", state="{state}")), FAIL,
        "properties", ("no column state",), ("DYNAMICS_BODY",),
    ),
    "a field is of another type": Row(
        "bc", with_body("bc", body(code="{code}", state="{state}", id="{delivery_id}")), FAIL,
        "properties", ("id is no text", "Edm.Guid"), ("string",),
    ),
    "a constant is no text": Row(
        "finance", with_body("finance", body(code="{code}", state="{state}", dataAreaId=7)), FAIL,
        "properties", ("dataAreaId is a text",), ("quotation marks",),
    ),
    "the contract's parameter is misspelt": Row(
        "service", with_body("service", body(_contrat={"Code": "{code}", "State": "{state}"})),
        FAIL, "properties", ("no _contract", "_contrat is probably meant"), ("_contract",),
    ),
    "the operation takes no such parameter": Row(
        "service", with_body("service", body(_contract={"Code": "{code}"}, company="usmf")),
        WARN, "properties", ("takes no company",), ("company",),
    ),
    "the field for the code is short": Row(
        "finance", finance(lengths={"code": 255}), FAIL, "length",
        ("{code}", "255", "512"), ("2048",),
    ),
    "the field for the code may be too short": Row(
        "finance", finance(lengths={"code": 1000}), WARN, "length",
        ("{code}", "1000", "may be"), ("2048",),
    ),
    "the column for the code is as Power Apps makes it": Row(
        "dataverse", changed("dataverse", lengths={"new_code": 100, "new_state": 450}), FAIL,
        "length", ("new_code", "100", "512"), ("2048",),
    ),
    "the text of several lines for the code is short": Row(
        "dataverse", with_memo(500), FAIL, "length", ("new_code", "500"), ("2048",)
    ),
    "a signed state is longer than the key": Row(
        "bc", signed("bc"), FAIL, "length", ("{state}", "250", "at least"), ("{state_hash}",)
    ),
    "a state bound to a browser is longer than the key": Row(
        "finance", begun_here(), FAIL, "length",
        ("{state}", "255"), ("{state_hash}",),
    ),
    "a state of Dynamics has no room for 128 bits": Row(
        "finance", finance(key_length=16), WARN, "length", ("{state}", "16"), ("22",)
    ),
    "the hash of the state is longer than the key": Row(
        "finance",
        lambda stage: stage.play(
            "finance",
            FinanceWithCompanies(stage.entra, key_length=40),
            DYNAMICS_BODY=body(code="{code}", state="{state_hash}", dataAreaId="usmf"),
        ),
        FAIL, "length", ("{state_hash}", "40", "64"), ("64",),
    ),
    "a constant is longer than its field": Row(
        "finance", finance(lengths={"dataAreaId": 3}), FAIL, "length", ("dataAreaId", "3"), ("4",)
    ),
    "the state is no key": Row(
        "finance",
        lambda stage: stage.play(
            "finance",
            FinanceWithCompanies(stage.entra, names=STATE_AND_ID, further=("State", "dataAreaId")),
            DYNAMICS_BODY=body(
                Id="{delivery_id}", State="{state}", code="{code}", dataAreaId="usmf"
            ),
        ),
        WARN, "key", ("state is no key", "used twice"), ("unique index", "{state}"),
    ),
    "the key is new each time": Row(
        "finance",
        lambda stage: stage.play(
            "finance",
            FinanceWithCompanies(stage.entra, names=STATE_AND_ID, further=("State", "dataAreaId")),
            DYNAMICS_BODY=body(Id="{reference}", State="{state}", code="{code}", dataAreaId="usmf"),
        ),
        WARN, "key", ("{reference}", "stored twice"), ("unique index",),
    ),
    "a part of the key is not sent": Row(
        "finance",
        lambda stage: stage.play("finance", Related(stage.entra, further=("dataAreaId", "Realm"))),
        FAIL, "key", ("Realm is part of the key",), ("Add Realm",),
    ),
    "there is no alternate key": Row(
        "dataverse", changed("dataverse", key_status=None), WARN, "key",
        ("state is no key", "stored twice"), ("Tables > Keys",),
    ),
    "the alternate key is of another column": Row(
        "dataverse",
        lambda stage: stage.play(
            "dataverse",
            Dataverse(stage.entra, names=Names("new_code", "new_id"), further=("new_state",)),
            DYNAMICS_BODY=body(new_code="{code}", new_state="{state}"),
        ),
        WARN, "key", ("state is no key",), ("Tables > Keys",),
    ),
    "the alternate key is being built": Row(
        "dataverse", changed("dataverse", key_status="Pending"), WARN, "key",
        ("being built",), ("Active",),
    ),
    "the alternate key could not be built": Row(
        "dataverse", changed("dataverse", key_status="Failed"), WARN, "key",
        ("not active", "stored twice"), ("reactivate",),
    ),
    "the company is missing": Row(
        "finance", with_body("finance", body(code="{code}", state="{state}")), WARN, "company",
        ("default company",), ("dataAreaId", "usmf"),
    ),
    "the company comes from the provider": Row(
        "finance",
        with_body("finance", body(code="{code}", state="{state}", dataAreaId="{param:company}")),
        WARN, "company", ("no constant",), ("usmf",),
    ),
    "the company has a quote in it": Row(
        "finance",
        with_body("finance", body(code="{code}", state="{state}", dataAreaId="x' or 1 eq 1")),
        FAIL, "company", ("no company",), ("Legal entities",),
    ),
    "the company is unknown": Row(
        "finance", with_body("finance", body(code="{code}", state="{state}", dataAreaId="usrt")),
        FAIL, "company", ("no company",), ("Legal entities",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "row"), ROWS.items(), ids=ROWS)
def test_the_one_mistake_is_named_and_all_before_it_is_well(
    stage: Stage, name: str, row: Row
) -> None:
    findings = examine(stage, row.make(stage))
    wrong = [finding for finding in findings if finding.verdict not in WELL]
    assert [(finding.verdict, finding.check) for finding in wrong] == [(row.verdict, row.check)]
    for word in row.message:
        assert word in wrong[0].message
    for word in row.fix:
        assert word in wrong[0].fix
    doctor_sentences.assert_told(f"target: {name}", wrong[0])

    order = [*ALWAYS, *ORDER[row.kind]]
    if "ENTRA_AUTHORITY" not in row.make(stage):  # an identity by itself has none, nor a role
        order = [check for check in order if check not in ("authority", "role")]
    before = checks(findings)[: findings.index(wrong[0])]
    assert before == order[: order.index(row.check)]


def test_what_does_not_answer_in_time_is_told_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT", httpx.Timeout(1.0))
    findings = examine(stage, with_fault("finance", Fault.HANG)(stage))
    assert (findings[-1].verdict, findings[-1].check) == (FAIL, "target")
    assert "in time" in findings[-1].message


def test_without_a_token_only_the_way_to_dynamics_is_examined(stage: Stage) -> None:
    for make, verdict in ((finance(), Verdict.OK), (unreachable, FAIL)):
        findings = examine(stage, make(stage) | {"ENTRA_CLIENT_SECRET": "canary~wrong"})
        assert [(each.verdict, each.check) for each in findings[2:]] == [
            (FAIL, "credential"),
            (verdict, "target"),
        ]


def test_a_target_of_another_kind_is_examined_as_far_as_all_are_alike(stage: Stage) -> None:
    settings = stage.play("finance", DYNAMICS_URL=f"{stage.server.url}/data")
    findings = examine(stage, settings)
    assert [(each.verdict, each.check) for each in findings[4:]] == [
        (Verdict.OK, "target"),
        (WARN, "entity"),
        (Verdict.SKIP, "permission"),
    ]
    assert "/data/<collection>" in findings[5].fix


def test_an_operation_that_is_listed_but_not_described_is_there(stage: Stage) -> None:
    findings = examine(stage, instead("service", "/receive$", 500)(stage))
    assert {finding.verdict for finding in findings} <= WELL
    assert "properties" not in checks(findings)


def test_a_text_of_several_lines_is_long_enough_for_a_code(stage: Stage) -> None:
    findings = examine(stage, with_memo(2048)(stage))
    assert {finding.verdict for finding in findings} <= WELL


def test_companies_that_cannot_be_read_are_no_warning(stage: Stage) -> None:
    findings = examine(stage, stage.play("finance", Dynamics(stage.entra)))
    assert {finding.verdict for finding in findings} <= WELL
    company = next(finding for finding in findings if finding.check == "company")
    assert "may not read" in company.message


def test_an_entity_for_all_companies_needs_none(stage: Stage) -> None:
    target = FinanceWithCompanies(stage.entra, further=())
    text = body(code="{code}", state="{state}")
    findings = examine(stage, stage.play("finance", target, DYNAMICS_BODY=text))
    assert {finding.verdict for finding in findings} <= WELL
    assert "company" not in checks(findings)


def test_what_leads_to_other_entities_and_what_tells_a_type_are_no_properties(
    stage: Stage,
) -> None:
    members = {
        "@odata.type": "#N.OAuthCallback",
        "Owner@odata.bind": "Owners('1')",
        "code": "{code}",
        "state": "{state}",
        "Realm": "{param:realm}",
        "dataAreaId": "usmf",
    }
    target = Related(stage.entra, further=("dataAreaId", "Realm"))
    settings = stage.play("finance", target, DYNAMICS_BODY=json.dumps(members))
    findings = examine(stage, settings)
    assert {finding.verdict for finding in findings} <= WELL


def test_several_mistakes_of_the_body_are_all_named(stage: Stage) -> None:
    text = body(Code="{code}", State="{state}", dataAreaId="usmf")
    findings = examine(stage, stage.play("finance", DYNAMICS_BODY=text))
    wrong = [finding.message for finding in findings if finding.check == "properties"]
    assert [message.split(":")[0].split()[-1] for message in wrong] == ["Code", "State"]


@pytest.mark.parametrize("kind", ORDER)
def test_a_hash_of_a_signed_state_needs_no_longer_key(stage: Stage, kind: str) -> None:
    text = json.dumps(BODIES[kind]).replace("{state}", "{state_hash}")
    findings = examine(stage, signed(kind)(stage) | {"DYNAMICS_BODY": text})
    assert {finding.verdict for finding in findings} <= WELL


def test_the_length_asked_for_is_that_of_the_longest_state_the_relay_makes(stage: Stage) -> None:
    """At one character less it is refused, at that length all is well."""
    findings = examine(stage, begun_here()(stage))
    told = next(finding for finding in findings if finding.verdict is FAIL)
    needed = int(re.findall(r"\d+", told.message)[-1])
    for length, verdict in ((needed - 1, FAIL), (needed, Verdict.OK)):
        findings = examine(stage, begun_here(length)(stage))
        found = next(finding for finding in findings if finding.check == "length")
        assert found.verdict is verdict


# -- with --write --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDER)
def test_a_smoke_record_is_stored_once_and_recognised_the_second_time(
    stage: Stage, kind: str
) -> None:
    target = HEALTHY[kind](stage)
    findings = examine(stage, stage.play(kind, target), write=True)
    assert {finding.verdict for finding in findings} <= WELL
    assert checks(findings)[-2:] == ["write", "duplicates"]
    assert smoke_record.CODE in findings[-2].message
    (row,) = target.rows.values()
    assert row[target.names.code] == smoke_record.CODE


class Written(NamedTuple):
    """One mistake that only writing shows."""

    make: Make
    verdict: Verdict
    check: str
    message: str
    fix: str


WRITTEN = {
    "the service user may not create": Written(
        changed("finance", permitted=False), FAIL, "write", "may not create", "privilege"
    ),
    "the permission set has no insert": Written(
        changed("bc", permitted=False), FAIL, "write", "may not create", "permission set"
    ),
    "the page allows no insert": Written(
        changed("bc", insert_allowed=False), FAIL, "write", "HTTP 405", "InsertAllowed"
    ),
    "X++ refuses a state that it did not issue": Written(
        lambda stage: later(stage, "finance", Fault.VALIDATION), FAIL, "write", "HTTP 400",
        "send --state",
    ),
    "it breaks": Written(
        lambda stage: later(stage, "service", Fault.SERVER_ERROR), FAIL, "write", "HTTP 500",
        "exception",
    ),
    "the service user speaks German": Written(
        changed("finance", language="de"), WARN, "duplicates", "not recognised", "English"
    ),
    "it throttles the second time": Written(
        lambda stage: later(stage, "bc", Fault.THROTTLED, after=1), WARN, "duplicates", "busy",
        "Wait",
    ),
    "no key keeps it unique": Written(
        lambda stage: stage.play(
            "dataverse",
            Dataverse(stage.entra, names=Names("new_code", "new_id"), further=("new_state",)),
            DYNAMICS_BODY=body(new_code="{code}", new_state="{state}"),
        ),
        WARN, "duplicates", "stored twice", "unique",
    ),
    "only Dynamics knows the pattern": Written(
        lambda stage: stage.play("finance", STATE_POLICY="pattern", STATE_PATTERN="^[A-Z]{30}$"),
        WARN, "write", "STATE_PATTERN", "send --state",
    ),
}  # fmt: skip


class OnlyPosts(BaseHTTPMiddleware):
    """Lets a fault strike posts only, after some: the target reads well, and does not write."""

    def __init__(self, app: ASGIApp, target: Target, fault: Fault, after: int) -> None:
        super().__init__(app)
        self.target, self.fault, self.after = target, fault, after

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        strikes = request.method == "POST" and self.target.posts >= self.after
        self.target.mode = self.fault if strikes else None
        return await call_next(request)


def later(stage: Stage, kind: str, fault: Fault, after: int = 0) -> dict[str, str]:
    """Play a target whose posts meet a fault, and whose reads do not."""
    target = HEALTHY[kind](stage)
    settings = stage.play(kind, target)
    stage.place.app = OnlyPosts(target.app, target, fault, after)
    return settings


@pytest.mark.parametrize(("name", "row"), WRITTEN.items(), ids=WRITTEN)
def test_writing_shows_what_reading_cannot(stage: Stage, name: str, row: Written) -> None:
    findings = examine(stage, row.make(stage), write=True)
    wrong = findings[-1]
    assert (wrong.verdict, wrong.check) == (row.verdict, row.check)
    assert row.message in wrong.message
    assert row.fix in wrong.fix
    doctor_sentences.assert_told(f"write: {name}", wrong)


def test_nothing_is_written_where_reading_found_a_failure(stage: Stage) -> None:
    target = FinanceWithCompanies(stage.entra, lengths={"code": 100})
    examine(stage, stage.play("finance", target), write=True)
    assert target.posts == 0


def test_a_signed_state_is_minted_for_the_smoke_record(stage: Stage) -> None:
    target = FinanceWithCompanies(
        stage.entra, key_length=1024, further=("dataAreaId", "codeVerifier")
    )
    settings = signed("finance", lambda _: target)(stage) | PROVIDER
    findings = examine(stage, settings, write=True)
    assert {finding.verdict for finding in findings} <= WELL
    (state,) = target.rows
    assert state.count(".") == 2
    assert state not in repr(findings)


# -- metadata ------------------------------------------------------------------------------------


def read(text: str, name: str) -> metadata.Collection | metadata.Missing:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        return metadata.read(file, name)


def csdl_text() -> str:
    return bytes(
        csdl("N.S", "Row", [Property("k", length=20)], key="k", collection="Rows").body
    ).decode()


def test_a_type_is_read_with_what_it_inherits_and_by_its_schemas_alias() -> None:
    text = (
        '<e:Edmx xmlns:e="http://docs.oasis-open.org/odata/ns/edmx"><e:DataServices>'
        '<Schema Namespace="Some.Long.Space" Alias="s" '
        'xmlns="http://docs.oasis-open.org/odata/ns/edm">'
        '<EntityContainer Name="c"><EntitySet Name="Rows" EntityType="s.Row"/></EntityContainer>'
        '<EntityType Name="Row" BaseType="s.Base"><Property Name="own" Type="Edm.String" '
        'MaxLength="max"/><NavigationProperty Name="other" Type="s.Row"/></EntityType>'
        '<EntityType Name="Base"><Key><PropertyRef Name="id"/></Key>'
        '<Property Name="id" Type="Edm.String" MaxLength="20"/></EntityType>'
        '</Schema><Schema Namespace="Other"><EntityType Name="Row"><Property Name="stranger" '
        'Type="Edm.String"/></EntityType></Schema></e:DataServices></e:Edmx>'
    )
    found = read(text, "Rows")
    assert isinstance(found, metadata.Collection)
    assert found.type.properties == {
        "own": metadata.Property("Edm.String"),
        "id": metadata.Property("Edm.String", 20),
    }
    assert (found.type.navigation, found.type.key) == ({"other"}, ["id"])


def test_insert_restrictions_count_wherever_they_stand_and_for_their_own_collection_only() -> None:
    annotation = (
        '<Annotations Target="N.S.Resources/{}"><Annotation '
        'Term="Org.OData.Capabilities.V1.InsertRestrictions"><Record><PropertyValue '
        'Property="Insertable" Bool="false"/></Record></Annotation></Annotations></Schema>'
    )
    for name, insertable in (("Rows", False), ("Others", True)):
        text = csdl_text().replace("</Schema>", annotation.format(name))
        found = read(text, "Rows")
        assert isinstance(found, metadata.Collection)
        assert found.insertable is insertable


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>',
        '<!DOCTYPE x SYSTEM "https://attacker.example/x.dtd"><x/>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        "<x>",
        "{}",
        "",
    ],
    ids=["laughs", "external-dtd", "external-entity", "half", "json", "nothing"],
)
def test_a_document_type_and_what_is_no_xml_end_the_reading(text: str) -> None:
    with pytest.raises(metadata.UnreadableError) as caught:
        read(text, "Rows")
    assert str(caught.value) == ""


class HugeMetadata(FinanceWithCompanies):
    """Describes as many entities as Finance & Operations has."""

    types = 300
    """Real ones have some 4,000."""
    size = 0

    def _metadata(self) -> Response:
        before, after = bytes(super()._metadata().body).decode().split("<EntityContainer ", 1)
        return StreamingResponse(self._pieces(before, after), media_type="application/xml")

    def _pieces(self, before: str, after: str) -> Iterator[str]:
        fields = "".join(
            f'<Property Name="Field{number}" Type="Edm.String" MaxLength="60"/>'
            for number in range(200)
        )
        yield before
        for number in range(self.types):
            piece = f'<EntityType Name="Type{number}">{fields}</EntityType>'
            self.size += len(piece)
            yield piece
        container, sets = after.split(">", 1)
        yield f"<EntityContainer {container}>"
        for number in range(self.types):
            yield f'<EntitySet Name="Type{number}s" EntityType="N.Type{number}"/>'
        yield sets


def test_metadata_of_megabytes_is_read_in_little_memory(stage: Stage) -> None:
    target = HugeMetadata(stage.entra)
    settings = stage.play("finance", target)
    examine(stage, stage.play("finance"))  # what is imported once does not count
    stage.play("finance", target)
    tracemalloc.start()
    try:
        findings = examine(stage, settings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {finding.verdict for finding in findings} <= WELL
    assert target.size > 3_000_000
    assert peak < 2_000_000


def test_metadata_without_an_end_is_not_read_to_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_SIZE", 100_000)
    target = HugeMetadata(stage.entra)
    findings = examine(stage, stage.play("finance", target))
    assert (findings[-1].verdict, findings[-1].check) == (FAIL, "target")
    assert "too large" in findings[-1].message
