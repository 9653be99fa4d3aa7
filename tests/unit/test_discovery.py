"""`discover` reads who an environment trusts out of its refusal, and believes nobody else."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from relay.errors import Unavailable
from relay.tools.discovery import Discovery, NothingDiscovered, discover, parameters
from sandbox.serving import Server
from sandbox.tls import Authority

TENANT = "7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
LOGIN = f"https://login.microsoftonline.com/{TENANT}/oauth2/authorize"

type Environment = Callable[[Request], Response]


class Stage:
    """An environment that refuses as it is told to, and a client that trusts it."""

    def __init__(self, authority: Authority, http: httpx.Client) -> None:
        self.authority = authority
        self.http = http
        self.url = ""
        self.answer: Environment = lambda _: Response(status_code=404)
        self.app = Starlette(routes=[Route("/{path:path}", self._serve)])

    async def _serve(self, request: Request) -> Response:
        assert "authorization" not in request.headers
        return self.answer(request)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with (
        Authority() as authority,
        httpx.Client(verify=authority.client_context(), trust_env=False) as http,
    ):
        made = Stage(authority, http)
        with Server(made.app, tls=authority.server_context()) as server:
            made.url = server.url
            yield made


def challenge(text: str, path: str | None = None) -> Environment:
    """Refuse with this challenge, everywhere or at one path."""

    def answer(request: Request) -> Response:
        if path is not None and request.url.path != path:
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return Response(status_code=401, headers={"WWW-Authenticate": text})

    return answer


def ask(stage: Stage, answer: Environment, path: str = "") -> Discovery:
    stage.answer = answer
    return discover(stage.url + path, stage.http)


@pytest.mark.parametrize(
    "text",
    [
        f'Bearer authorization_uri="{LOGIN}", resource_id="https://c.crm.dynamics.com/"',
        f"Bearer authorization_uri={LOGIN}, resource_id=https://c.crm.dynamics.com/",
        f"Bearer authorization_uri={LOGIN} resource_id=https://c.crm.dynamics.com/",
        f'Bearer authorization_uri="{LOGIN}" resource_id=https://c.crm.dynamics.com',
        f"bearer  Authorization_URI = {LOGIN} ,resource_id = https://c.crm.dynamics.com/",
        f'Bearer error="x y",authorization_uri="{LOGIN}",resource_id="https://c.crm.dynamics.com"',
        f"Negotiate, Bearer resource_id=https://c.crm.dynamics.com/,authorization_uri={LOGIN}",
    ],
)
def test_a_challenge_is_read_however_it_is_written(stage: Stage, text: str) -> None:
    found = ask(stage, challenge(text))
    assert found.authority == f"https://login.microsoftonline.com/{TENANT}"
    assert found.tenant == TENANT
    assert found.resource == "https://c.crm.dynamics.com"
    assert found.settings() == {
        "ENTRA_TENANT_ID": TENANT,
        "DYNAMICS_SCOPE": "https://c.crm.dynamics.com/.default",
    }


@pytest.mark.parametrize("path", ["/api/data/v9.2/WhoAmI", "/data", "/my/own/collection"])
def test_the_places_are_tried_at_which_environments_answer(stage: Stage, path: str) -> None:
    given = path if path.startswith("/my") else ""
    found = ask(stage, challenge(f"Bearer authorization_uri={LOGIN}", path), given)
    assert found.url.endswith(path)
    assert found.resource is None
    assert found.settings() == {"ENTRA_TENANT_ID": TENANT}


def test_its_own_address_as_the_resource_needs_no_setting(stage: Stage) -> None:
    def answer(request: Request) -> Response:
        text = f"Bearer authorization_uri={LOGIN}, resource_id={request.base_url}"
        return Response(status_code=401, headers={"WWW-Authenticate": text})

    assert ask(stage, answer).settings() == {"ENTRA_TENANT_ID": TENANT}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            f"https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/authorize",
            f"https://login.microsoftonline.us/{TENANT}",
        ),
        (
            "https://login.partner.microsoftonline.cn/contoso.cn/oauth2/authorize",
            "https://login.partner.microsoftonline.cn/contoso.cn",
        ),
        ("https://adfs.contoso.com/adfs/oauth2/authorize", "https://adfs.contoso.com/adfs"),
        ("https://adfs.contoso.com:8443/ADFS/ls", "https://adfs.contoso.com:8443/adfs"),
    ],
)
def test_other_clouds_and_ad_fs_are_set_as_the_authority(
    stage: Stage, uri: str, expected: str
) -> None:
    found = ask(stage, challenge(f"Bearer authorization_uri={uri}"))
    assert found.settings() == {"ENTRA_AUTHORITY": expected}


def test_a_redirect_to_ad_fs_is_read_and_not_followed(stage: Stage) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.url.path)
        place = "https://adfs.contoso.com/adfs/ls/?wa=wsignin1.0&wtrealm=spn"
        return Response(status_code=302, headers={"Location": place})

    found = ask(stage, answer, "/namespaces/AXSF")
    assert found.authority == "https://adfs.contoso.com/adfs"
    assert found.tenant is None
    assert asked == ["/namespaces/AXSF"]


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/contoso.com/oauth2/authorize",
        "https://login.microsoftonline.com.evil.example/contoso.com",
        "https://evil.example/login.microsoftonline.com/contoso.com",
        "https://login.microsoftonline.com@evil.example/contoso.com",
        "https://login.microsoftonline.com:8443/contoso.com",
        "http://login.microsoftonline.com/contoso.com",
        "http://adfs.contoso.com/adfs",
        "https://user@adfs.contoso.com/adfs",
        "https://[::1/adfs",
        "javascript:alert(1)",
        "https:///adfs",
        "/adfs",
    ],
)
def test_no_other_host_is_believed_and_none_is_repeated(stage: Stage, uri: str) -> None:
    with pytest.raises(NothingDiscovered) as refused:
        ask(stage, challenge(f'Bearer authorization_uri="{uri}"'))
    assert refused.value.reason == "discover_untrusted"
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize("tenant", ["common", "organizations", "Common", "", "a%20b"])
def test_a_login_host_without_a_tenant_is_told_with_what_is_missing(
    stage: Stage, tenant: str
) -> None:
    uri = f"https://login.microsoftonline.com/{tenant}{'/oauth2/authorize' if tenant else ''}"
    with pytest.raises(NothingDiscovered) as refused:
        ask(stage, challenge(f"Bearer authorization_uri={uri}"))
    assert refused.value.reason == "discover_tenant"
    assert "ENTRA_TENANT_ID" in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: Response(status_code=401), id="no-challenge"),
        pytest.param(challenge("Bearer"), id="a-bare-challenge"),
        pytest.param(challenge('Bearer realm="x'), id="half-a-challenge"),
        pytest.param(lambda _: HTMLResponse("<p>Sign in</p>"), id="a-page"),
        pytest.param(lambda _: Response(status_code=404), id="nothing-there"),
        pytest.param(
            lambda _: Response(status_code=302, headers={"Location": "https://evil.example/x"}),
            id="a-redirect-elsewhere",
        ),
        pytest.param(
            lambda _: Response(
                status_code=200, headers={"WWW-Authenticate": f"Bearer authorization_uri={LOGIN}"}
            ),
            id="a-challenge-with-200",
        ),
    ],
)
def test_an_environment_that_does_not_tell_is_told_what_to_set_by_hand(
    stage: Stage, answer: Environment
) -> None:
    with pytest.raises(NothingDiscovered) as refused:
        ask(stage, answer)
    assert refused.value.reason == "discover_silent"
    assert "ENTRA_TENANT_ID" in str(refused.value)


def test_an_address_where_nobody_answers_is_told(stage: Stage) -> None:
    with Server(stage.app, tls=stage.authority.server_context()) as gone:
        pass
    with pytest.raises(Unavailable, match="Nothing answers at https://"):
        discover(gone.url, stage.http)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("Bearer", {}),
        ('Bearer a="b c", d=e', {"a": "b c", "d": "e"}),
        ("Bearer a=1 a=2", {"a": "1"}),
        ('Bearer a=""', {"a": ""}),
        ("=,=,=", {}),
        ("a" * 10_000, {}),
    ],
)
def test_parameters_of_a_challenge(text: str, found: dict[str, str]) -> None:
    assert parameters(text) == found


def test_a_resource_that_is_no_address_is_not_taken_over(stage: Stage) -> None:
    text = f'Bearer authorization_uri="{LOGIN}", resource_id="x y"'
    assert ask(stage, challenge(text)).resource is None
