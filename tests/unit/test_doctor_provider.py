"""The doctor names where the settings and the provider contradict each other."""

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from relay import log
from relay.tools import doctor
from relay.tools.doctor.finding import Finding, Verdict
from sandbox.provider import Provider, Registration
from sandbox.serving import Server
from sandbox.tls import Authority
from tests.fakes import published
from tests.unit import doctor_sentences

CLIENT_ID = "dynamics-365"
HOST = "relay.azurewebsites.net"
REDIRECT_URI = f"https://{HOST}/callback"
KEY = base64.urlsafe_b64encode(bytes(range(200, 232))).decode().rstrip("=")
KEYCLOAK = "/realms/contoso/protocol/openid-connect/auth"
"""The path of a provider whose codes are known to live for 60 seconds."""
CHECKS = {
    "code_ttl",
    "issuer",
    "iss",
    "mode",
    "endpoint",
    "flow",
    "pkce",
    "scopes",
    "keys",
    "redirect_uri",
    "registration",
    "state",
}
"""Those of this part of the doctor."""

type Settings = dict[str, str]
type Document = dict[str, Any]


class Stage:
    """A provider whose metadata, keys and answers are as each test wants them."""

    def __init__(self, authority: Authority, stack: ExitStack) -> None:
        self.authority = authority
        self._stack = stack
        self.asked: list[list[tuple[str, str]]] = []
        routes = [
            Route("/tenant/.well-known/openid-configuration", self._metadata),
            Route("/.well-known/oauth-authorization-server/as", self._metadata),
            Route("/keys", self._keys),
            Route("/authorize", self._authorize),
            Route(KEYCLOAK, self._authorize),
        ]
        self.url = self.serve(Starlette(routes=routes))
        self.reset()

    def serve(self, app: ASGIApp) -> str:
        return self._stack.enter_context(Server(app, tls=self.authority.server_context())).url

    def reset(self) -> None:
        self.asked.clear()
        self.answer: Callable[[Request], Response] = login_required
        self.keys: object = {"keys": [published(Ed25519PrivateKey.generate(), "k1")]}
        self.metadata: Document = {
            "issuer": f"{self.url}/as",
            "authorization_endpoint": f"{self.url}/authorize",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code", "code id_token"],
            "response_modes_supported": ["query", "form_post", "query.jwt"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "scopes_supported": ["openid", "accounting"],
            "authorization_signing_alg_values_supported": ["RS512", "EdDSA"],
            "authorization_response_iss_parameter_supported": True,
        }

    @property
    def settings(self) -> Settings:
        return {
            # Nobody answers there: this is about the provider.
            "ENTRA_AUTHORITY": "https://localhost:1/tenant",
            "ENTRA_CLIENT_ID": "client",
            "ENTRA_CLIENT_SECRET": "canary",
            "DYNAMICS_URL": "https://localhost:1/data/OAuthCallbacks",
            "DYNAMICS_BODY": '{"code": "{code}", "verifier": "{code_verifier}"}',
            "CA_BUNDLE": str(self.authority.bundle),
            "STATE_POLICY": "signed",
            "STATE_KEYS": f"k1:{KEY}",
            "PROVIDER_ISSUER": f"{self.url}/as",
            "PROVIDER_ISS_REQUIRED": "true",
            "PROVIDER_CLIENT_ID": CLIENT_ID,
            "PROVIDER_AUTHORIZATION_ENDPOINT": f"{self.url}/authorize",
            "PROVIDER_RESPONSE_MODE": "query",
            "PROVIDER_SCOPE": "openid accounting",
            "PROVIDER_REDIRECT_URI": REDIRECT_URI,
            "WEBSITE_HOSTNAME": HOST,
        }

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse(self.metadata)

    async def _keys(self, _: Request) -> Response:
        return JSONResponse(self.keys)

    async def _authorize(self, request: Request) -> Response:
        self.asked.append(request.query_params.multi_items())
        return self.answer(request)


def login_required(request: Request) -> Response:
    """Answer `prompt=none` as OpenID Connect Core 1.0 §3.1.2.6 has it."""
    asked = request.query_params
    back = f"{asked['redirect_uri']}?error=login_required&state={asked['state']}"
    return RedirectResponse(back, 302)


@pytest.fixture(scope="module")
def stages() -> Iterator[Stage]:
    with Authority() as authority, ExitStack() as stack:
        yield Stage(authority, stack)


@pytest.fixture
def stage(stages: Stage) -> Stage:
    log.quiet()
    stages.reset()
    return stages


def examine(settings: Mapping[str, str], connection: str = "default") -> list[Finding]:
    """Return what the doctor finds out about the provider."""
    found = list(doctor.examine(settings, only=connection))
    told = "".join(f"{finding}" for finding in found)
    assert "canary" not in told
    assert KEY not in told
    assert {finding.connection for finding in found} == {connection}
    return [finding for finding in found if finding.check in CHECKS]


def troubles(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.verdict is not Verdict.OK]


def test_a_provider_that_is_what_the_settings_say_is_well(stage: Stage) -> None:
    found = examine(stage.settings)
    assert troubles(found) == []
    assert [one.check for one in found] == [
        "issuer",
        "iss",
        "mode",
        "endpoint",
        "pkce",
        "redirect_uri",
        "registration",
        "state",
    ]


def test_where_the_settings_say_nothing_of_the_provider_only_the_state_is_examined(
    stage: Stage,
) -> None:
    settings = {
        name: value for name, value in stage.settings.items() if not name.startswith("PROVIDER_")
    }
    assert [one.check for one in examine(settings)] == ["state"]
    assert stage.asked == []


def test_metadata_of_openid_connect_discovery_are_found_too(stage: Stage) -> None:
    stage.metadata["issuer"] = f"{stage.url}/tenant"
    settings = stage.settings | {"PROVIDER_ISSUER": f"{stage.url}/tenant"}
    assert troubles(examine(settings)) == []


def test_the_provider_is_asked_for_a_code_as_the_relay_would_but_for_nobody(stage: Stage) -> None:
    endpoint = stage.settings["PROVIDER_AUTHORIZATION_ENDPOINT"]
    settings = stage.settings | {
        "PROVIDER_AUTHORIZATION_ENDPOINT": f"{endpoint}?p=policy",
        "PROVIDER_EXTRA": "prompt=consent&access_type=offline",
    }
    examine(settings)
    examine(settings)
    first, second = map(dict, stage.asked)
    assert [len(asked) for asked in stage.asked] == [len(first), len(second)]
    assert first.pop("state") != second.pop("state")
    assert first.pop("code_challenge") != second.pop("code_challenge")
    assert (
        first
        == second
        == {
            "p": "policy",
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": REDIRECT_URI,
            "scope": "openid accounting",
            "code_challenge_method": "S256",
            "response_mode": "query",
            "access_type": "offline",
            "prompt": "none",
        }
    )


# -- what is broken, and what is said of it --------------------------------------------------------

type Break = Callable[[Stage, Settings], object]


def jarm(stage: Stage, settings: Settings) -> None:
    settings["PROVIDER_RESPONSE_MODE"] = "query.jwt"


def jarm_without_keys(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.keys = {"keys": []}


def jarm_with_a_secret_key(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.keys = {"keys": [{"kty": "oct", "k": "canary"}, "canary"]}


def jarm_with_a_private_key(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.keys = {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "canary", "d": "canary"}]}


def jarm_with_an_encryption_key(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.keys = {"keys": [{"kty": "RSA", "use": "enc", "n": "canary"}]}


def jarm_with_a_key_for_other_operations(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    key = published(Ed25519PrivateKey.generate(), "k1")
    stage.keys = {"keys": [{**key, "key_ops": ["sign"]}]}


def jarm_with_keys_nowhere(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    del stage.metadata["jwks_uri"]


def jarm_with_keys_in_the_open(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.metadata["jwks_uri"] = "http://canary.example/keys"


def jarm_with_keys_out_of_reach(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    settings["PROVIDER_JWKS_URI"] = "https://localhost:1/keys"


def jarm_without_an_algorithm(stage: Stage, settings: Settings) -> None:
    jarm(stage, settings)
    stage.metadata["authorization_signing_alg_values_supported"] = ["RS512", "HS256"]


def another_address(uri: str) -> Break:
    return lambda _, settings: settings.update(PROVIDER_REDIRECT_URI=uri)


def with_metadata(**changes: object) -> Break:
    """Change the metadata; `...` leaves one out."""

    def breaks(stage: Stage, _: Settings) -> None:
        for name, value in changes.items():
            if value is ...:
                del stage.metadata[name]
            else:
                stage.metadata[name] = value

    return breaks


def with_settings(**changes: str) -> Break:
    return lambda _, settings: settings.update(changes)


def answering(make: Callable[[Request], Response]) -> Break:
    def breaks(stage: Stage, _: Settings) -> None:
        stage.answer = make

    return breaks


def issuer_with_a_slash(stage: Stage, _: Settings) -> None:
    stage.metadata["issuer"] += "/"


def issuer_without_its_slash(stage: Stage, settings: Settings) -> None:
    settings["PROVIDER_ISSUER"] += "/"


def issuer_of_another_host(stage: Stage, _: Settings) -> None:
    stage.metadata["issuer"] = "https://login.example.com/as"


def issuer_that_is_no_address(stage: Stage, _: Settings) -> None:
    stage.metadata["issuer"] = "https://login.example.com/{canary}"


def keycloak(stage: Stage, settings: Settings, code_ttl: str = "61") -> None:
    endpoint = f"{stage.url}{KEYCLOAK}"
    stage.metadata["authorization_endpoint"] = endpoint
    settings.update(PROVIDER_AUTHORIZATION_ENDPOINT=endpoint, CODE_TTL=code_ttl)


def sent_back(error: str) -> Break:
    return answering(
        lambda request: RedirectResponse(
            f"{request.query_params['redirect_uri']}?error={error}&error_description=canary"
        )
    )


BROKEN: list[tuple[Break, str, str, str, str]] = [
    (keycloak, "warn", "code_ttl", "codes of this provider live: 60 s", "Set CODE_TTL to 60,"),
    (issuer_with_a_slash, "fail", "issuer", "differs by a slash", "/as/, exactly so"),
    (issuer_without_its_slash, "fail", "issuer", "differs by a slash", "/as, exactly so"),
    (
        issuer_of_another_host,
        "fail",
        "issuer",
        "calls itself",
        "https://login.example.com/as, exactly so. Check first",
    ),
    (issuer_that_is_no_address, "fail", "issuer", "calls itself", "`issuer` of its metadata"),
    (
        lambda it, settings: settings.update(PROVIDER_ISSUER=f"{it.url}/nothing"),
        "warn",
        "issuer",
        "no metadata",
        "letter by letter",
    ),
    (
        with_settings(PROVIDER_ISSUER="https://localhost:1"),
        "warn",
        "issuer",
        "cannot be reached",
        "firewalls",
    ),
    (
        with_metadata(authorization_response_iss_parameter_supported=...),
        "fail",
        "iss",
        "does not promise iss",
        "PROVIDER_ISS_REQUIRED to false",
    ),
    (
        with_metadata(authorization_response_iss_parameter_supported="true"),
        "fail",
        "iss",
        "does not promise iss",
        "PROVIDER_ISS_REQUIRED to false",
    ),
    (
        with_settings(PROVIDER_ISS_REQUIRED="false"),
        "warn",
        "iss",
        "takes one without it",
        "PROVIDER_ISS_REQUIRED to true",
    ),
    (
        with_settings(PROVIDER_RESPONSE_MODE="fragment"),
        "fail",
        "mode",
        "does not have PROVIDER_RESPONSE_MODE",
        "response_modes_supported",
    ),
    (
        lambda it, settings: (
            it.metadata.pop("response_modes_supported"),
            settings.update(PROVIDER_RESPONSE_MODE="form_post"),
        ),
        "warn",
        "mode",
        "does not say",
        "documentation",
    ),
    (
        with_settings(PROVIDER_RESPONSE_MODE="form_post.jwt"),
        "fail",
        "mode",
        "does not have PROVIDER_RESPONSE_MODE",
        "response_modes_supported",
    ),
    (
        with_metadata(authorization_endpoint="https://login.example.com/oauth/authorize"),
        "fail",
        "endpoint",
        "not the one of the provider's metadata",
        "to https://login.example.com/oauth/authorize.",
    ),
    (
        with_metadata(authorization_endpoint="https://login.example.com/?canary"),
        "fail",
        "endpoint",
        "not the one of the provider's metadata",
        "to the authorization_endpoint of its metadata",
    ),
    (
        with_metadata(response_types_supported=["token"]),
        "fail",
        "flow",
        "no authorization codes",
        "authorization code flow",
    ),
    (
        with_metadata(code_challenge_methods_supported=["plain"]),
        "fail",
        "pkce",
        "does not have S256",
        "PROVIDER_AUTHORIZATION_ENDPOINT out",
    ),
    (
        with_metadata(code_challenge_methods_supported=...),
        "warn",
        "pkce",
        "does not promise PKCE",
        "documentation",
    ),
    (
        with_settings(PROVIDER_SCOPE="openid canary"),
        "warn",
        "scopes",
        "does not list",
        "documentation",
    ),
    (
        jarm_without_keys,
        "fail",
        "keys",
        "no key that could prove",
        "RS256, PS256, ES256, EdDSA, Ed25519",
    ),
    (jarm_with_a_secret_key, "fail", "keys", "no key that could prove", "PROVIDER_JWKS_URI"),
    (jarm_with_a_private_key, "fail", "keys", "no key that could prove", "PROVIDER_JWKS_URI"),
    (jarm_with_an_encryption_key, "fail", "keys", "no key that could prove", "PROVIDER_JWKS_URI"),
    (
        jarm_with_a_key_for_other_operations,
        "fail",
        "keys",
        "no key that could prove",
        "PROVIDER_JWKS_URI",
    ),
    (jarm_with_keys_nowhere, "fail", "keys", "nothing says where", "PROVIDER_JWKS_URI"),
    (jarm_with_keys_in_the_open, "fail", "keys", "nothing says where", "PROVIDER_JWKS_URI"),
    (jarm_with_keys_out_of_reach, "fail", "keys", "cannot be reached", "firewalls"),
    (jarm_without_an_algorithm, "fail", "keys", "with no algorithm", "RS256, PS256, ES256"),
    (
        another_address(f"https://{HOST}/callback/xero"),
        "fail",
        "redirect_uri",
        "not the address of this connection",
        "/callback or /callback/default",
    ),
    (
        another_address(f"https://{HOST}/api/callback"),
        "fail",
        "redirect_uri",
        "not the address of this connection",
        "/callback or /callback/default",
    ),
    (
        another_address(f"https://{HOST}/callback/"),
        "fail",
        "redirect_uri",
        "not the address of this connection",
        "/callback or /callback/default",
    ),
    (
        another_address("https://another.azurewebsites.net/api/callback"),
        "fail",
        "redirect_uri",
        "not the address of this connection",
        "/callback or /callback/default",
    ),
    (
        another_address("https://api.contoso.com/oauth/callback"),
        "warn",
        "redirect_uri",
        "something in front",
        "a gateway cuts it off",
    ),
    (
        another_address("https://oauth.contoso.com/callback"),
        "warn",
        "redirect_uri",
        "another host",
        "custom domain",
    ),
    (
        answering(lambda _: HTMLResponse("canary", 400)),
        "fail",
        "registration",
        "does not take PROVIDER_REDIRECT_URI or PROVIDER_CLIENT_ID",
        "Register PROVIDER_REDIRECT_URI",
    ),
    (
        answering(lambda _: RedirectResponse("/oauth/error?canary")),
        "fail",
        "registration",
        "does not take PROVIDER_REDIRECT_URI",
        "Register PROVIDER_REDIRECT_URI",
    ),
    (
        answering(lambda _: RedirectResponse("/signin?authError=canary")),
        "fail",
        "registration",
        "does not take PROVIDER_REDIRECT_URI",
        "Register PROVIDER_REDIRECT_URI",
    ),
    (
        answering(lambda _: HTMLResponse("<p>AADSTS50011: canary")),
        "fail",
        "registration",
        "does not take PROVIDER_REDIRECT_URI",
        "Register PROVIDER_REDIRECT_URI",
    ),
    (
        answering(lambda _: HTMLResponse("canary", 403)),
        "warn",
        "registration",
        "does not answer a program (HTTP 403)",
        "Try it in a browser",
    ),
    (
        answering(lambda _: HTMLResponse("canary", 503)),
        "warn",
        "registration",
        "does not answer a program (HTTP 503)",
        "Try it in a browser",
    ),
    (
        answering(lambda _: HTMLResponse("canary", 302)),  # to nowhere
        "warn",
        "registration",
        "does not answer a program (HTTP 302)",
        "Try it in a browser",
    ),
    (sent_back("invalid_scope"), "fail", "registration", "PROVIDER_SCOPE", "scopes"),
    (sent_back("unauthorized_client"), "fail", "registration", "codes", "code flow"),
    (sent_back("invalid_client"), "fail", "registration", "PROVIDER_CLIENT_ID", "Register"),
    (
        with_settings(STATE_KEYS=f"k1:{KEY},k2:{'A' * 43}"),
        "warn",
        "state",
        "does not look random",
        "python -m relay keygen",
    ),
]


@pytest.mark.parametrize(("breaks", "verdict", "check", "wrong", "fix"), BROKEN)
def test_exactly_the_cause_is_named_with_its_fix(
    stage: Stage, breaks: Break, verdict: str, check: str, wrong: str, fix: str
) -> None:
    settings = stage.settings
    breaks(stage, settings)
    (trouble,) = troubles(examine(settings))
    assert (trouble.verdict, trouble.check) == (Verdict(verdict), check)
    assert wrong in trouble.message
    assert fix in trouble.fix
    doctor_sentences.assert_told(f"provider: {check}, {wrong}, {fix}", trouble)


def test_a_code_ttl_that_is_no_longer_than_the_codes_live_is_well(stage: Stage) -> None:
    settings = stage.settings
    keycloak(stage, settings, "60")
    found = examine(settings)
    assert troubles(found) == []
    assert "code_ttl" in {finding.check for finding in found}


@pytest.mark.parametrize(
    "breaks",
    [
        jarm,
        with_settings(PROVIDER_RESPONSE_MODE="jwt"),
        with_metadata(scopes_supported=...),
        with_metadata(response_modes_supported=...),
        with_metadata(response_types_supported=...),
        with_settings(WEBSITE_HOSTNAME="localhost:7071"),
        with_settings(WEBSITE_HOSTNAME=""),
        another_address(f"https://{HOST}/callback/default"),
        answering(lambda _: RedirectResponse("/login?return=canary")),
        answering(lambda _: RedirectResponse("https://idp.example/login?error=login_required")),
        answering(lambda _: HTMLResponse("<form>canary")),
        sent_back("access_denied"),
        sent_back("canary"),
    ],
)
def test_what_other_providers_do_rightly_is_well(stage: Stage, breaks: Break) -> None:
    settings = stage.settings
    breaks(stage, settings)
    assert troubles(examine(settings)) == []


def test_a_signed_response_needs_no_promise_of_iss(stage: Stage) -> None:
    settings = stage.settings
    jarm(stage, settings)
    del stage.metadata["authorization_response_iss_parameter_supported"]
    found = examine(settings)
    assert troubles(found) == []
    assert "keys" in {one.check for one in found}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # What cannot be found because of the issuer is not named a second time.
        ("https://localhost:1", [(Verdict.FAIL, "issuer")]),
        ("/as/", [(Verdict.FAIL, "issuer")]),
        ("/nothing", [(Verdict.WARN, "issuer"), (Verdict.FAIL, "keys")]),
    ],
)
def test_where_responses_are_proven_the_issuer_has_to_be_found(
    stage: Stage, path: str, expected: list[tuple[Verdict, str]]
) -> None:
    settings = stage.settings
    jarm(stage, settings)
    settings["PROVIDER_ISSUER"] = path if "://" in path else stage.url + path
    assert [(one.verdict, one.check) for one in troubles(examine(settings))] == expected


@pytest.mark.parametrize("address", ["https://[canary", "https://host:canary/", "https://a\nb"])
def test_metadata_whose_address_of_the_keys_is_none_are_told(stage: Stage, address: str) -> None:
    settings = stage.settings
    jarm(stage, settings)
    stage.metadata["jwks_uri"] = address
    (trouble,) = troubles(examine(settings))
    assert (trouble.verdict, trouble.check) == (Verdict.FAIL, "keys")
    assert "where the provider's keys are" in trouble.message


def test_keys_that_the_settings_name_are_examined_without_the_issuers_metadata(
    stage: Stage,
) -> None:
    settings = stage.settings
    jarm(stage, settings)
    settings |= {
        "PROVIDER_ISSUER": "https://localhost:1",
        "PROVIDER_JWKS_URI": f"{stage.url}/keys",
    }
    found = {one.check: one.verdict for one in examine(settings)}
    assert (found["issuer"], found["keys"]) == (Verdict.WARN, Verdict.OK)


def test_each_connection_has_its_own_address(stage: Stage) -> None:
    settings = stage.settings | {
        "CONNECTIONS__BANK_ONE__PROVIDER_REDIRECT_URI": f"https://{HOST}/callback/bank-one",
        "CONNECTIONS__XERO__PROVIDER_REDIRECT_URI": f"https://{HOST}/callback/bank-one",
    }
    assert troubles(examine(settings, "bank-one")) == []
    (trouble,) = troubles(examine(settings, "xero"))
    assert trouble.check == "redirect_uri"
    assert "Its path must be /callback/xero;" in trouble.fix


@pytest.mark.parametrize(
    ("policy", "further", "wrong"),
    [
        ("opaque", {}, "strangers can write rows"),
        ("pattern", {"STATE_PATTERN": "^[0-9a-f]{32}$"}, "whoever knows the pattern"),
    ],
)
def test_a_weaker_state_policy_is_warned_of(
    stage: Stage, policy: str, further: Settings, wrong: str
) -> None:
    settings = stage.settings | {"STATE_POLICY": policy, **further}
    del settings["PROVIDER_AUTHORIZATION_ENDPOINT"]
    (trouble,) = troubles(examine(settings))
    assert (trouble.verdict, trouble.check) == (Verdict.WARN, "state")
    assert wrong in trouble.message
    assert "STATE_POLICY to signed" in trouble.fix


# -- a real authorization server -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registered", "client_id", "verdict"),
    [
        (REDIRECT_URI, CLIENT_ID, None),
        (f"{REDIRECT_URI}/", CLIENT_ID, Verdict.FAIL),
        (REDIRECT_URI, "another-client", Verdict.FAIL),
    ],
)
def test_an_authorization_server_that_does_not_know_the_redirect_uri_is_found_out(
    stage: Stage, registered: str, client_id: str, verdict: Verdict | None
) -> None:
    provider = Provider([Registration(CLIENT_ID, "canary", (registered,))])
    url = stage.serve(provider.app)
    settings = stage.settings | {
        "PROVIDER_ISSUER": url,
        "PROVIDER_AUTHORIZATION_ENDPOINT": f"{url}/authorize",
        "PROVIDER_CLIENT_ID": client_id,
        "PROVIDER_SCOPE": "profile",
    }
    found = troubles(examine(settings))
    assert [one.verdict for one in found] == ([verdict] if verdict else [])
    for trouble in found:
        assert trouble.check == "registration"
        assert "Register PROVIDER_REDIRECT_URI" in trouble.fix
    assert provider.codes_issued == []
