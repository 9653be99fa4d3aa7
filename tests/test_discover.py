"""`discover` reads who an environment trusts out of its refusal, and believes nobody else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from relay.discover import Discovery, NothingDiscovered, discover, parameters
from relay.errors import Unavailable
from sandbox.serving import Server
from sandbox.tls import Authority

TENANT = "7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
LOGIN = f"https://login.microsoftonline.com/{TENANT}/oauth2/authorize"

type Environment = Callable[[Request], Response]


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with Authority() as made:
        yield made


@contextmanager
def environment(authority: Authority, answer: Environment) -> Iterator[tuple[str, httpx.Client]]:
    """Serve an environment, and give its address and a client that trusts it."""

    async def endpoint(request: Request) -> Response:
        assert "authorization" not in request.headers
        return answer(request)

    app = Starlette(routes=[Route("/{path:path}", endpoint)])
    trusting = authority.client_context()
    with (
        Server(app, tls=authority.server_context()) as server,
        httpx.Client(verify=trusting, follow_redirects=False, trust_env=False) as http,
    ):
        yield server.url, http


def challenge(text: str, path: str | None = None) -> Environment:
    """Refuse with this challenge, everywhere or at one path."""

    def answer(request: Request) -> Response:
        if path is not None and request.url.path != path:
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return Response(status_code=401, headers={"WWW-Authenticate": text})

    return answer


def ask(authority: Authority, answer: Environment, path: str = "") -> Discovery:
    with environment(authority, answer) as (url, http):
        return discover(url + path, http)


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
def test_a_challenge_is_read_however_it_is_written(authority: Authority, text: str) -> None:
    found = ask(authority, challenge(text))
    assert found.authority == f"https://login.microsoftonline.com/{TENANT}"
    assert found.tenant == TENANT
    assert found.resource == "https://c.crm.dynamics.com"
    assert found.settings() == {
        "ENTRA_TENANT_ID": TENANT,
        "DYNAMICS_SCOPE": "https://c.crm.dynamics.com/.default",
    }


@pytest.mark.parametrize("path", ["/api/data/v9.2/WhoAmI", "/data", "/my/own/collection"])
def test_the_places_are_tried_at_which_environments_answer(authority: Authority, path: str) -> None:
    given = path if path.startswith("/my") else ""
    found = ask(authority, challenge(f"Bearer authorization_uri={LOGIN}", path), given)
    assert found.url.endswith(path)
    assert found.resource is None
    assert found.settings() == {"ENTRA_TENANT_ID": TENANT}


def test_its_own_address_as_the_resource_needs_no_setting(authority: Authority) -> None:
    def answer(request: Request) -> Response:
        text = f"Bearer authorization_uri={LOGIN}, resource_id={request.base_url}"
        return Response(status_code=401, headers={"WWW-Authenticate": text})

    assert ask(authority, answer).settings() == {"ENTRA_TENANT_ID": TENANT}


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
    authority: Authority, uri: str, expected: str
) -> None:
    found = ask(authority, challenge(f"Bearer authorization_uri={uri}"))
    assert found.settings() == {"ENTRA_AUTHORITY": expected}


def test_a_redirect_to_ad_fs_is_read_and_not_followed(authority: Authority) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.url.path)
        place = "https://adfs.contoso.com/adfs/ls/?wa=wsignin1.0&wtrealm=spn"
        return Response(status_code=302, headers={"Location": place})

    found = ask(authority, answer, "/namespaces/AXSF")
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
def test_no_other_host_is_believed_and_none_is_repeated(authority: Authority, uri: str) -> None:
    with pytest.raises(NothingDiscovered) as refused:
        ask(authority, challenge(f'Bearer authorization_uri="{uri}"'))
    assert refused.value.reason == "discover_untrusted"
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize("tenant", ["common", "organizations", "Common", "", "a%20b"])
def test_a_login_host_without_a_tenant_is_told_with_what_is_missing(
    authority: Authority, tenant: str
) -> None:
    uri = f"https://login.microsoftonline.com/{tenant}{'/oauth2/authorize' if tenant else ''}"
    with pytest.raises(NothingDiscovered) as refused:
        ask(authority, challenge(f"Bearer authorization_uri={uri}"))
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
    authority: Authority, answer: Environment
) -> None:
    with pytest.raises(NothingDiscovered) as refused:
        ask(authority, answer)
    assert refused.value.reason == "discover_silent"
    assert "ENTRA_TENANT_ID" in str(refused.value)


def test_an_address_where_nobody_answers_is_told(authority: Authority) -> None:
    with environment(authority, challenge("Bearer")) as (url, http):
        pass
    with (
        httpx.Client(verify=authority.client_context(), trust_env=False) as http,
        pytest.raises(Unavailable, match="Nothing answers at https://"),
    ):
        discover(url, http)


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


def test_a_resource_that_is_no_address_is_not_taken_over(authority: Authority) -> None:
    text = f'Bearer authorization_uri="{LOGIN}", resource_id="x y"'
    assert ask(authority, challenge(text)).resource is None
