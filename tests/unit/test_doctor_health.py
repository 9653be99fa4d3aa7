"""The app asks its own address as a callback would, and names what keeps the host from its keys."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import outgoing
from relay.tools.doctor import health
from relay.tools.doctor.finding import Finding, Verdict
from sandbox.entra import Entra
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.serving import Server
from sandbox.tls import Authority

IDENTITY = Identity("11111111-2222-3333-4444-555555555555", "principal")
CLOSED = "https://127.0.0.1:1"
KEY = "AccountName=contoso;AccountKey=Y2FuYXJ5LWtleQ==;QueueEndpoint=https://q.example"


@dataclass
class Azure:
    """The app's own address, and the Blob storage, on one server."""

    plain: int = 200
    probe: int = 500
    blobs: tuple[int, str] = (200, "")
    url: str = field(default="", init=False)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/health", self.health), Route("/azure-webjobs-secrets", self.secrets)]
        )

    async def health(self, request: Request) -> Response:
        return Response(status_code=self.probe if "code" in request.query_params else self.plain)

    async def secrets(self, _: Request) -> Response:
        status, code = self.blobs
        return Response(status_code=status, headers={"x-ms-error-code": code} if code else {})

    def examine(self, http: httpx.Client, **settings: str) -> list[Finding]:
        """Examine an app that an identity gives its storage, unless the settings say otherwise."""
        given = {"WEBSITE_HOSTNAME": httpx.URL(self.url).netloc.decode()} | settings
        if "AzureWebJobsStorage" not in given:
            given |= {
                "AzureWebJobsStorage__queueServiceUri": CLOSED,
                "AzureWebJobsStorage__blobServiceUri": self.url,
                "AzureWebJobsStorage__credential": "managedidentity",
                "AzureWebJobsStorage__clientId": IDENTITY.client_id,
            } | settings
        return list(health.examine(given, http))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Azure, httpx.Client]]:
    azure, entra = Azure(), Entra(clients={}, resources=["https://storage.azure.com/"])
    endpoint = IdentityEndpoint(entra, [IDENTITY])
    with (
        pytest.MonkeyPatch.context() as environment,
        Authority() as authority,
        Server(entra.app, tls=authority.server_context()),
        Server(endpoint.app) as platform,
        Server(azure.app, tls=authority.server_context()) as server,
        outgoing.blocking_client(authority.client_context(), timeout=30) as http,
    ):
        for name, value in endpoint.environment(platform.url).items():
            environment.setenv(name, value)
        azure.url = server.url
        yield azure, http


@pytest.fixture
def azure(served: tuple[Azure, httpx.Client]) -> Azure:
    served[0].plain, served[0].probe, served[0].blobs = 200, 500, (200, "")
    return served[0]


@pytest.fixture
def http(served: tuple[Azure, httpx.Client]) -> httpx.Client:
    return served[1]


@pytest.mark.parametrize("status", [200, 503])
def test_an_app_whose_host_finds_its_keys_is_well(
    azure: Azure, http: httpx.Client, status: int
) -> None:
    azure.plain = azure.probe = status  # 503: the settings are wrong, which others name
    (only,) = azure.examine(http)
    assert (only.verdict, only.check) == (Verdict.OK, "health")


ROLE, NETWORK, KEYS = "Storage Blob Data Owner", "Networking: let the Function App", "Access keys"
SETTING, RESTART = "the host needs the Blob storage", "Restart the Function App"


@pytest.mark.parametrize(
    ("status", "code", "by_identity", "by_key"),
    [
        (403, "AuthorizationPermissionMismatch", ROLE, KEYS),
        (403, "AuthenticationFailed", ROLE, KEYS),
        (403, "", ROLE, KEYS),
        (401, "NoAuthenticationInformation", ROLE, KEYS),
        (403, "AuthorizationFailure", NETWORK, NETWORK),
        (404, "ResourceNotFound", SETTING, SETTING),
        (400, "", SETTING, SETTING),
        (404, "ContainerNotFound", RESTART, RESTART),
        (200, "", RESTART, RESTART),
    ],
)
def test_what_the_blob_storage_answers_decides_the_next_step(
    azure: Azure, http: httpx.Client, status: int, code: str, by_identity: str, by_key: str
) -> None:
    azure.blobs = status, code
    key = f"{KEY};BlobEndpoint={azure.url}"
    for given, fix in ({}, by_identity), ({"AzureWebJobsStorage": key}, by_key):
        (only,) = azure.examine(http, **given)
        assert (only.verdict, only.check) == (Verdict.FAIL, "health")
        assert "cannot load its keys" in only.message
        assert fix in only.fix
        assert "Y2FuYXJ5" not in only.fix + only.message


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("AzureWebJobsStorage", "canary", SETTING),
        ("AzureWebJobsStorage__blobServiceUri", CLOSED, NETWORK),
        ("AzureWebJobsStorage__clientId", "22222222-2222-3333-4444-555555555555", "Assign"),
    ],
)
def test_a_storage_that_cannot_be_asked_has_its_next_step(
    azure: Azure, http: httpx.Client, setting: str, value: str, fix: str
) -> None:
    (only,) = azure.examine(http, **{setting: value})
    assert only.verdict is Verdict.FAIL
    assert fix in only.fix


@pytest.mark.parametrize(
    ("hostname", "status", "said"),
    [("", 404, "answers HTTP 404"), ("localhost:1", 200, "does not answer")],
)
def test_an_address_that_is_not_the_relays_is_skipped(
    azure: Azure, http: httpx.Client, hostname: str, status: int, said: str
) -> None:
    azure.plain = status
    (only,) = azure.examine(http, **({"WEBSITE_HOSTNAME": hostname} if hostname else {}))
    assert (only.verdict, only.check) == (Verdict.SKIP, "health")
    assert said in only.message


def test_outside_of_azure_no_address_is_asked(http: httpx.Client) -> None:
    assert list(health.examine({}, http)) == []
