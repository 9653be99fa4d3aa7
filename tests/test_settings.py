"""App settings become connections, and wrong ones are named without their values."""

import tracemalloc
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from relay import settings
from relay.connections import (
    ClientCertificate,
    ClientSecret,
    Connection,
    ManagedIdentity,
    StatePolicy,
)
from relay.errors import Misconfigured, UnknownConnection

type Change = Callable[[str], str]

PLAIN = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "secret",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
}
"""The least that makes the connection `default`."""

ARTICLE = {
    "ActiveDirectoryTenant": "https://login.microsoftonline.com/contoso.com",
    "ActiveDirectoryClientAppId": "client",
    "ActiveDirectoryClientAppSecret": "secret",
    "ActiveDirectoryResource": "https://contoso.operations.dynamics.com",
    "URIString": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
}
"""The same in the names of the original article."""


def without(name: str, given: Mapping[str, str] = PLAIN) -> dict[str, str]:
    return {key: value for key, value in given.items() if key != name}


def read(given: Mapping[str, str], name: str = "default") -> Connection:
    """Return a connection from settings in which nothing is wrong."""
    connections = settings.read(given).connections
    assert connections.problems == ()
    return connections.get(name)


def problems(given: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong, of which there is something."""
    found = settings.read(given).connections.problems
    assert found
    return found


# -- what is read --------------------------------------------------------------------------------


def test_four_settings_are_enough() -> None:
    connection = read(PLAIN)
    assert connection.name == "default"
    assert connection.credentials.authority == "https://login.microsoftonline.com/contoso.com"
    assert connection.credentials.client_id == "client"
    assert connection.credentials.credential == ClientSecret("secret")
    assert connection.credentials.scope == "https://contoso.operations.dynamics.com/.default"
    assert connection.target.url == PLAIN["DYNAMICS_URL"]


def test_the_defaults_are_those_of_the_contract() -> None:
    connection = read(PLAIN)
    body = connection.target.body.render({"code": "c", "state": "s"})
    assert body == b'{"code":"c","state":"s"}'
    assert connection.target.timeout == 20
    assert connection.code_ttl == timedelta(seconds=300)
    assert connection.state_policy is StatePolicy.OPAQUE
    assert connection.provider.issuer is None
    assert not connection.provider.iss_required
    assert connection.provider.code_parameter == "code"


def test_every_setting_is_read() -> None:
    connection = read(
        {
            "ENTRA_AUTHORITY": "https://adfs.example.com/adfs",
            "ENTRA_CLIENT_ID": "id",
            "ENTRA_CLIENT_SECRET": "key",
            "DYNAMICS_URL": "https://ax.example.com/namespaces/AXSF/data/OAuthCallbacks",
            "DYNAMICS_SCOPE": "https://ax.example.com/.default",
            "DYNAMICS_BODY": '{"Code": "{code}"}',
            "DYNAMICS_TIMEOUT": "7.5",
            "CODE_TTL": "60",
            "STATE_POLICY": "pattern",
            "STATE_PATTERN": "^cb-[0-9]+$",
            "PROVIDER_ISSUER": "https://as.example/tenant/",
            "PROVIDER_ISS_REQUIRED": "true",
            "PROVIDER_CODE_PARAMETER": "spapi_oauth_code",
        }
    )
    assert connection.credentials.authority == "https://adfs.example.com/adfs"
    assert connection.credentials.client_id == "id"
    assert connection.credentials.credential == ClientSecret("key")
    assert connection.credentials.scope == "https://ax.example.com/.default"
    assert connection.target.url == "https://ax.example.com/namespaces/AXSF/data/OAuthCallbacks"
    assert connection.target.body.render({"code": "c"}) == b'{"Code":"c"}'
    assert connection.target.timeout == 7.5
    assert connection.code_ttl == timedelta(seconds=60)
    assert connection.state_policy is StatePolicy.PATTERN
    assert connection.state_pattern is not None
    assert connection.state_pattern.fullmatch("cb-42")
    assert connection.provider.issuer == "https://as.example/tenant/"
    assert connection.provider.iss_required
    assert connection.provider.code_parameter == "spapi_oauth_code"


def test_the_settings_of_the_article_are_enough_too() -> None:
    assert read(ARTICLE).credentials == read(PLAIN).credentials
    assert read(ARTICLE).target.url == read(PLAIN).target.url


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title, str.swapcase])
@pytest.mark.parametrize("given", [PLAIN, ARTICLE], ids=["ours", "article"])
def test_names_are_read_in_any_case(given: Mapping[str, str], change: Change) -> None:
    read({change(name): value for name, value in given.items()})


def test_names_of_a_connection_are_read_in_any_case() -> None:
    given = {**PLAIN, "connections__Bank_One__Dynamics_Timeout": "3"}
    assert read(given, "bank-one").target.timeout == 3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ENTRA_AUTHORITY", "ActiveDirectoryTenant"),
        ("ENTRA_CLIENT_ID", "ActiveDirectoryClientAppId"),
        ("ENTRA_CLIENT_SECRET", "ActiveDirectoryClientAppSecret"),
        ("DYNAMICS_SCOPE", "ActiveDirectoryResource"),
        ("DYNAMICS_URL", "URIString"),
    ],
)
def test_our_name_counts_before_the_articles(ours: str, theirs: str) -> None:
    new = {
        "ENTRA_AUTHORITY": "https://new.example/tenant",
        "ENTRA_CLIENT_ID": "new-client",
        "ENTRA_CLIENT_SECRET": "new-secret",
        "DYNAMICS_SCOPE": "https://new.example/.default",
        "DYNAMICS_URL": "https://new.example/data/X",
    }[ours]
    assert theirs in ARTICLE
    for given in ({**ARTICLE, ours: new}, {ours: new, **ARTICLE}):
        connection = read(given)
        credentials, target = connection.credentials, connection.target
        assert isinstance(credentials.credential, ClientSecret)
        assert new in (
            credentials.authority,
            credentials.client_id,
            credentials.credential.value,
            credentials.scope,
            target.url,
        )


def test_our_tenant_counts_before_the_articles_authority() -> None:
    connection = read({**ARTICLE, "ENTRA_TENANT_ID": "fabrikam.com"})
    assert connection.credentials.authority == "https://login.microsoftonline.com/fabrikam.com"


@pytest.mark.parametrize("empty", ["", " ", "\t\n"], ids=["empty", "space", "blank"])
def test_an_empty_value_counts_as_not_given(empty: str) -> None:
    given = {**ARTICLE, "DYNAMICS_URL": empty, "CODE_TTL": empty, "CONNECTIONS__X__CODE_TTL": empty}
    assert read(given).target.url == ARTICLE["URIString"]
    assert list(settings.read(given).connections.by_name) == ["default"]


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    connection = read({name: f" {value}\n" for name, value in PLAIN.items()})
    assert connection.target.url == PLAIN["DYNAMICS_URL"]
    assert connection.credentials.credential == ClientSecret("secret")


@pytest.mark.parametrize(
    ("given", "authority"),
    [
        pytest.param(
            {"ENTRA_TENANT_ID": "72f988bf-86f1-41af-91ab-2d7cd011db47"},
            "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47",
            id="tenant-id",
        ),
        pytest.param(
            {"ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com/"},
            "https://login.microsoftonline.us/contoso.com",
            id="another-cloud-with-a-slash",
        ),
        pytest.param(
            {"ENTRA_AUTHORITY": "https://adfs.example.com/adfs"},
            "https://adfs.example.com/adfs",
            id="ad-fs",
        ),
        pytest.param(
            {"ENTRA_AUTHORITY": "https://login.microsoftonline.us/a", "ENTRA_TENANT_ID": "b"},
            "https://login.microsoftonline.us/a",
            id="an-authority-says-more-than-a-tenant",
        ),
        pytest.param(
            {"ActiveDirectoryTenant": "contoso.onmicrosoft.com"},
            "https://login.microsoftonline.com/contoso.onmicrosoft.com",
            id="the-articles-setting-with-a-tenant",
        ),
        pytest.param(
            {"ActiveDirectoryTenant": "https://login.windows.net/contoso.com/oauth2/token"},
            "https://login.windows.net/contoso.com",
            id="the-articles-setting-with-an-endpoint",
        ),
        pytest.param(
            {"ENTRA_AUTHORITY": "https://login.microsoftonline.com/x.com/oauth2/v2.0/authorize"},
            "https://login.microsoftonline.com/x.com",
            id="a-pasted-endpoint",
        ),
    ],
)
def test_the_authority_is_found_in_what_people_have(given: dict[str, str], authority: str) -> None:
    connection = read({**without("ENTRA_TENANT_ID"), **given})
    assert connection.credentials.authority == authority


@pytest.mark.parametrize(
    ("given", "scope"),
    [
        pytest.param(
            {"DYNAMICS_URL": "https://Contoso.Operations.Dynamics.COM/data/X?cross-company=true"},
            "https://contoso.operations.dynamics.com/.default",
            id="origin-of-the-url-in-lower-case",
        ),
        pytest.param(
            {"DYNAMICS_URL": "https://localhost:8443/data/X"},
            "https://localhost:8443/.default",
            id="origin-with-its-port",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "api://00000015-0000/.default"},
            "api://00000015-0000/.default",
            id="a-scope-as-it-is",
        ),
        pytest.param(
            {"ActiveDirectoryResource": "https://ax.example.com"},
            "https://ax.example.com/.default",
            id="the-articles-resource",
        ),
        pytest.param(
            {"ActiveDirectoryResource": "https://ax.example.com/"},
            "https://ax.example.com/.default",
            id="the-articles-resource-with-a-slash",
        ),
    ],
)
def test_the_scope_names_the_resource_without_a_double_slash(
    given: dict[str, str], scope: str
) -> None:
    assert read({**PLAIN, **given}).credentials.scope == scope


# -- connections ---------------------------------------------------------------------------------


def test_without_a_plain_url_there_is_no_default_connection() -> None:
    given = {**without("DYNAMICS_URL"), "CONNECTIONS__XERO__DYNAMICS_URL": PLAIN["DYNAMICS_URL"]}
    assert read(given, "xero").name == "xero"
    with pytest.raises(UnknownConnection):
        settings.read(given).connections.get("default")


@pytest.mark.parametrize("name", ["URIString", "DYNAMICS_URL"])
def test_a_plain_url_makes_the_default_connection_beside_others(name: str) -> None:
    given = {
        **without("DYNAMICS_URL"),
        name: PLAIN["DYNAMICS_URL"],
        "CONNECTIONS__XERO__CODE_TTL": "60",
    }
    assert sorted(settings.read(given).connections.by_name) == ["default", "xero"]
    assert read(given).code_ttl == timedelta(seconds=300)


@pytest.mark.parametrize(
    ("label", "name"),
    [("XERO", "xero"), ("BANK_ONE", "bank-one"), ("A1", "a1"), ("DEFAULT", "default")],
)
def test_any_setting_of_a_connection_creates_it(label: str, name: str) -> None:
    given = {**PLAIN, f"CONNECTIONS__{label}__CODE_TTL": "60"}
    assert read(given, name).code_ttl == timedelta(seconds=60)


PEM = "\n".join(
    f"-----BEGIN {what}-----\nMIIB\n-----END {what}-----" for what in ("PRIVATE KEY", "CERTIFICATE")
)
"""What has the shape of a key and its certificate."""
IDENTITY = "11111111-2222-3333-4444-555555555555"

OWN = {
    "ENTRA_AUTHORITY": "https://own.example/tenant",
    "ENTRA_TENANT_ID": "own.example",
    "ENTRA_CLIENT_ID": "own-client",
    "ENTRA_CLIENT_SECRET": "own-secret",
    "ENTRA_CLIENT_CERTIFICATE": PEM + "own",
    "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "own-password",
    "ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY,
    "DYNAMICS_URL": "https://own.example/data/X",
    "DYNAMICS_SCOPE": "https://own.example/.default",
    "DYNAMICS_BODY": '{"own": "{code}"}',
    "DYNAMICS_TIMEOUT": "11",
    "CODE_TTL": "61",
    "STATE_POLICY": "opaque",
    "STATE_PATTERN": "^own$",
    "STATE_KEYS": "own:" + "A" * 43,
    "PROVIDER_ISSUER": "https://own.example",
    "PROVIDER_ISS_REQUIRED": "true",
    "PROVIDER_CLIENT_ID": "own-client",
    "PROVIDER_AUTHORIZATION_ENDPOINT": "https://own.example/authorize",
    "PROVIDER_SCOPE": "own offline_access",
    "PROVIDER_RESPONSE_MODE": "form_post",
    "PROVIDER_REDIRECT_URI": "https://own.example/callback",
    "PROVIDER_EXTRA": "prompt=consent&own=",
    "PROVIDER_JWKS_URI": "https://own.example/keys",
    "PROVIDER_CODE_PARAMETER": "own_code",
}
"""Another right value for each setting of a connection."""


def facts(connection: Connection) -> dict[str, object]:
    """Return what each setting has become."""
    credentials, provider = connection.credentials, connection.provider
    return {
        "ENTRA_AUTHORITY": credentials.authority,
        "ENTRA_TENANT_ID": credentials.authority,
        "ENTRA_CLIENT_ID": credentials.client_id,
        "ENTRA_CLIENT_SECRET": credentials.credential,
        "ENTRA_CLIENT_CERTIFICATE": credentials.credential,
        "ENTRA_CLIENT_CERTIFICATE_PASSWORD": credentials.credential,
        "ENTRA_MANAGED_IDENTITY_CLIENT_ID": credentials.credential,
        "DYNAMICS_URL": connection.target.url,
        "DYNAMICS_SCOPE": credentials.scope,
        "DYNAMICS_BODY": connection.target.body.render({"code": "c"}),
        "DYNAMICS_TIMEOUT": connection.target.timeout,
        "CODE_TTL": connection.code_ttl,
        "STATE_POLICY": connection.state_policy,
        "STATE_PATTERN": connection.state_pattern,
        "STATE_KEYS": connection.state_keys,
        "PROVIDER_ISSUER": provider.issuer,
        "PROVIDER_ISS_REQUIRED": provider.iss_required,
        "PROVIDER_CLIENT_ID": provider.client_id,
        "PROVIDER_AUTHORIZATION_ENDPOINT": provider.authorization_endpoint,
        "PROVIDER_SCOPE": provider.scope,
        "PROVIDER_RESPONSE_MODE": provider.response_mode,
        "PROVIDER_REDIRECT_URI": provider.redirect_uri,
        "PROVIDER_EXTRA": provider.extra,
        "PROVIDER_JWKS_URI": provider.jwks_uri,
        "PROVIDER_CODE_PARAMETER": provider.code_parameter,
    }


FULL = {
    **PLAIN,
    "STATE_POLICY": "signed",
    "STATE_KEYS": "plain:" + "B" * 43,
    "STATE_PATTERN": "^plain$",
    "PROVIDER_ISSUER": "https://as.example",
    "PROVIDER_CLIENT_ID": "client",
    "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
}
"""What settings that need others need."""
OTHER = "CONNECTIONS__OTHER__ENTRA_CLIENT_ID"


def base(setting: str) -> dict[str, str]:
    """Return the least, without a credential if this is another one."""
    return without("ENTRA_CLIENT_SECRET") if setting in settings.CREDENTIALS else PLAIN


def full(setting: str) -> dict[str, str]:
    """Return settings beside which this one may stand, whether it is given or not."""
    if setting == "ENTRA_CLIENT_CERTIFICATE_PASSWORD":
        return {**without("ENTRA_CLIENT_SECRET", FULL), "ENTRA_CLIENT_CERTIFICATE": PEM}
    return FULL


def test_every_setting_of_a_connection_is_tried_here() -> None:
    assert sorted(OWN) == sorted(settings.names(settings.ConnectionSettings))


@pytest.mark.parametrize("setting", OWN)
def test_a_connections_own_setting_counts_for_it_and_for_no_other(setting: str) -> None:
    plain = full(setting)
    given = {**plain, OTHER: "client", f"CONNECTIONS__XERO__{setting}": OWN[setting]}
    before = facts(read(plain))
    assert facts(read(given)) == before
    assert facts(read(given, "other")) == before
    assert facts(read(given, "xero"))[setting] != before[setting]


@pytest.mark.parametrize("setting", OWN)
def test_what_a_connection_does_not_give_it_has_from_the_plain_setting(setting: str) -> None:
    creates_it = "CODE_TTL" if setting == "ENTRA_CLIENT_ID" else "ENTRA_CLIENT_ID"
    plain = full(setting)
    given = {**plain, f"CONNECTIONS__OTHER__{creates_it}": {**FULL, "CODE_TTL": "300"}[creates_it]}
    if setting in settings.CREDENTIALS:
        given.pop("ENTRA_CLIENT_SECRET")
    given[setting] = OWN[setting]
    assert facts(read(given, "other")) == facts(read(given))
    assert facts(read(given, "other"))[setting] != facts(read(plain))[setting]


def test_a_connection_may_inherit_from_the_articles_settings() -> None:
    given = {**ARTICLE, "CONNECTIONS__XERO__CODE_TTL": "60"}
    assert read(given, "xero").credentials == read(ARTICLE).credentials


def test_a_connections_own_tenant_counts_before_an_inherited_authority() -> None:
    given = {
        **without("ENTRA_TENANT_ID"),
        "ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com",
        "CONNECTIONS__XERO__ENTRA_TENANT_ID": "fabrikam.com",
    }
    assert read(given, "xero").credentials.authority == (
        "https://login.microsoftonline.com/fabrikam.com"
    )
    assert read(given).credentials.authority == "https://login.microsoftonline.us/contoso.com"


def test_connections_with_equal_credentials_share_them() -> None:
    given = {**PLAIN, "CONNECTIONS__XERO__CODE_TTL": "60"}
    assert read(given, "xero").credentials == read(given).credentials


def test_fifty_connections_cost_little_memory() -> None:
    given = {
        f"CONNECTIONS__C{number}__{name}": f"{value}{number}" if "ID" in name else value
        for number in range(50)
        for name, value in FULL.items()
    }
    settings.read(given)  # what is made once is no connection's
    tracemalloc.start()
    try:
        found = settings.read(given)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.connections.by_name) == 50
    assert not found.connections.problems
    assert size / 50 < 20 * 1024


# -- credentials ---------------------------------------------------------------------------------

CLIENT = {name: PLAIN[name] for name in ("ENTRA_TENANT_ID", "ENTRA_CLIENT_ID", "DYNAMICS_URL")}
WITH = {
    "secret": {"ENTRA_CLIENT_SECRET": "secret"},
    "certificate": {
        "ENTRA_CLIENT_CERTIFICATE": PEM,
        "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "password",
    },
    "federated": {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY},
}


def test_an_identity_without_a_client_id_is_itself_the_client() -> None:
    given = {"DYNAMICS_URL": PLAIN["DYNAMICS_URL"], "ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY}
    credentials = read(given).credentials
    assert credentials.credential == ManagedIdentity(IDENTITY)
    assert (credentials.client_id, credentials.authority) == (None, None)
    assert credentials.resource == "https://contoso.operations.dynamics.com"
    system = read({**given, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"}).credentials
    assert system.credential == ManagedIdentity(None)


def test_an_identity_beside_a_client_id_is_that_apps_federated_credential() -> None:
    credentials = read({**CLIENT, **WITH["federated"]}).credentials
    assert credentials.client_id == "client"
    assert credentials.authority == "https://login.microsoftonline.com/contoso.com"
    assert credentials.credential == ManagedIdentity(IDENTITY)


@pytest.mark.parametrize("inner", WITH)
@pytest.mark.parametrize("outer", WITH)
def test_a_connections_own_credential_takes_the_place_of_any_inherited(
    outer: str, inner: str
) -> None:
    own = {f"CONNECTIONS__XERO__{name}": value for name, value in WITH[inner].items()}
    given = {**CLIENT, **WITH[outer], **own}
    assert read(given, "xero").credentials == read({**CLIENT, **WITH[inner]}).credentials
    assert read(given).credentials == read({**CLIENT, **WITH[outer]}).credentials


def test_an_inherited_password_is_not_tried_on_a_connections_own_certificate() -> None:
    own = {"CONNECTIONS__XERO__ENTRA_CLIENT_CERTIFICATE": PEM}
    given = {**CLIENT, **WITH["certificate"], **own}
    assert read(given, "xero").credentials.credential == ClientCertificate(PEM, None)


def test_an_app_of_the_article_is_switched_to_an_identity_by_adding_one_setting() -> None:
    given = {**ARTICLE, **WITH["federated"]}
    assert read(given).credentials.credential == ManagedIdentity(IDENTITY)


def test_the_systems_identity_does_not_inherit_a_client_id() -> None:
    own = {"CONNECTIONS__XERO__ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"}
    assert read({**PLAIN, **own}, "xero").credentials.client_id is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param(
            CLIENT,
            "ENTRA_CLIENT_SECRET: missing; expected one of ENTRA_CLIENT_SECRET, "
            "ENTRA_CLIENT_CERTIFICATE, ENTRA_MANAGED_IDENTITY_CLIENT_ID",
            id="none",
        ),
        pytest.param(
            {**CLIENT, **WITH["secret"], "ENTRA_CLIENT_CERTIFICATE": PEM},
            "ENTRA_CLIENT_CERTIFICATE: conflicts with ENTRA_CLIENT_SECRET; expected one of them",
            id="secret-and-certificate",
        ),
        pytest.param(
            {**CLIENT, **WITH["secret"], **WITH["federated"]},
            "ENTRA_MANAGED_IDENTITY_CLIENT_ID: conflicts with ENTRA_CLIENT_SECRET; expected one "
            "of them",
            id="secret-and-identity",
        ),
        pytest.param(
            {**CLIENT, **WITH["certificate"], **WITH["federated"]},
            "ENTRA_MANAGED_IDENTITY_CLIENT_ID: conflicts with ENTRA_CLIENT_CERTIFICATE; expected "
            "one of them",
            id="certificate-and-identity",
        ),
        pytest.param(
            {**CLIENT, **WITH["secret"], "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "canary"},
            "ENTRA_CLIENT_CERTIFICATE_PASSWORD: expected only together with "
            "ENTRA_CLIENT_CERTIFICATE",
            id="password-of-nothing",
        ),
        pytest.param(
            {**without("ENTRA_CLIENT_ID", CLIENT), **WITH["secret"]},
            "ENTRA_CLIENT_ID: missing; expected application (client) id of the app registration",
            id="secret-of-nobody",
        ),
        pytest.param(
            {**CLIENT, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"},
            "ENTRA_MANAGED_IDENTITY_CLIENT_ID: expected a client id: ENTRA_CLIENT_ID trusts "
            "user-assigned identities only",
            id="app-that-trusts-the-system",
        ),
        pytest.param(
            {**without("ENTRA_TENANT_ID", CLIENT), **WITH["federated"]},
            "ENTRA_TENANT_ID: expected, or ENTRA_AUTHORITY",
            id="federated-nowhere",
        ),
    ],
)
def test_credentials_that_contradict_each_other_are_named(
    given: dict[str, str], problem: str
) -> None:
    assert problems(given) == (problem,)


def test_blanks_around_a_value_change_nothing() -> None:
    given = {**CLIENT, **WITH["secret"], "OUTBOX_QUEUE": "held", "CODE_TTL": "60"}
    padded = {name: f" {value}\n" for name, value in given.items()}
    assert settings.read(padded) == settings.read(given)
    system = {**CLIENT, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system "}
    assert problems(system) == problems({**system, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"})


def test_a_key_vault_reference_that_was_not_resolved_is_no_secret() -> None:
    """The platform leaves the reference where the value should be, and Entra would be sent it."""
    given = {**CLIENT, "ENTRA_CLIENT_SECRET": "@Microsoft.KeyVault(SecretUri=https://canary/)"}
    assert problems(given) == ("ENTRA_CLIENT_SECRET: is a Key Vault reference; expected its value",)


@pytest.mark.parametrize("scope", ["DYNAMICS_SCOPE", "ActiveDirectoryResource"])
def test_an_inherited_scope_of_another_environment_is_doubted(scope: str) -> None:
    given = {
        **PLAIN,
        scope: "https://contoso.operations.dynamics.com/.default",
        "CONNECTIONS__XERO__DYNAMICS_URL": "https://fabrikam.operations.dynamics.com/data/X",
    }
    [warning] = settings.read(given).warnings
    assert warning == (
        f"{scope}: is of another environment than CONNECTIONS__XERO__DYNAMICS_URL; expected "
        "CONNECTIONS__XERO__DYNAMICS_SCOPE beside it"
    )
    own = {"CONNECTIONS__XERO__DYNAMICS_SCOPE": "https://fabrikam.operations.dynamics.com/.default"}
    assert settings.read({**given, **own}).warnings == ()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(PEM.replace("PRIVATE KEY", "NO KEY"), id="no-key"),
        pytest.param(PEM.replace("CERTIFICATE", "NO"), id="no-certificate"),
        pytest.param("x" * 5_000, id="too-long-for-a-path"),
        pytest.param("a\0b", id="no-path-at-all"),
    ],
)
def test_a_certificate_that_is_none_is_named(wrong: str) -> None:
    [problem] = problems({**CLIENT, "ENTRA_CLIENT_CERTIFICATE": wrong})
    assert problem.startswith("ENTRA_CLIENT_CERTIFICATE: expected PEM text")


def test_a_certificate_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "client.pfx"
    path.write_bytes(b"whatever it holds is read when it is needed")
    credential = read({**CLIENT, "ENTRA_CLIENT_CERTIFICATE": str(path)}).credentials.credential
    assert credential == ClientCertificate(str(path), None)


PUBLIC, GOV, CHINA = (
    "https://login.microsoftonline.com/x",
    "https://login.microsoftonline.us/x",
    "https://login.partner.microsoftonline.cn/x",
)


@pytest.mark.parametrize(
    ("authority", "host", "expected"),
    [
        (PUBLIC, "contoso.operations.dynamics.us", "login.microsoftonline.us"),
        (PUBLIC, "contoso.crm.microsoftdynamics.us", "login.microsoftonline.us"),
        (PUBLIC, "contoso.operations.dynamics.cn", "login.partner.microsoftonline.cn"),
        (GOV, "contoso.operations.dynamics.com", "login.microsoftonline.com"),
        (CHINA, "contoso.crm4.dynamics.com", "login.microsoftonline.com"),
    ],
)
def test_a_dynamics_of_another_cloud_is_warned_of_and_still_tried(
    authority: str, host: str, expected: str
) -> None:
    url = f"https://{host}/data/X"
    found = settings.read({**PLAIN, "ENTRA_AUTHORITY": authority, "DYNAMICS_URL": url})
    assert found.connections.problems == ()
    assert found.connections.get("default").target.url == url
    [warning] = found.warnings
    assert warning.startswith("ENTRA_AUTHORITY: ")
    assert f"expected https://{expected}/" in warning


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (PUBLIC, "contoso.operations.dynamics.com"),
        (PUBLIC, "contoso.crm9.dynamics.com"),
        (GOV, "contoso.operations.dynamics.us"),
        (CHINA, "contoso.crm.dynamics.cn"),
        ("https://adfs.contoso.com/adfs", "contoso.operations.dynamics.us"),
        (PUBLIC, "ax.contoso.com"),
        (PUBLIC, "notdynamics.us"),
    ],
)
def test_what_belongs_together_or_cannot_be_told_is_not_warned_of(
    authority: str, host: str
) -> None:
    given = {**PLAIN, "ENTRA_AUTHORITY": authority, "DYNAMICS_URL": f"https://{host}/data/X"}
    assert settings.read(given).warnings == ()


# -- what is wrong -------------------------------------------------------------------------------

WRONG = {
    "ENTRA_AUTHORITY": "http://canary.example/tenant",
    "ENTRA_TENANT_ID": "canary tenant",
    "ENTRA_CLIENT_CERTIFICATE": "canary.pem",
    "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "canary",
    "DYNAMICS_URL": "http://canary.example/data/X",
    "DYNAMICS_SCOPE": "https://canary.example",
    "DYNAMICS_BODY": '{"code": "{canary}"}',
    "DYNAMICS_TIMEOUT": "canary",
    "CODE_TTL": "canary",
    "STATE_POLICY": "canary",
    "STATE_PATTERN": "canary",
    "STATE_KEYS": "canary:canary",
    "PROVIDER_ISSUER": "canary",
    "PROVIDER_ISS_REQUIRED": "canary",
    "PROVIDER_CLIENT_ID": "canary é",
    "PROVIDER_AUTHORIZATION_ENDPOINT": "http://canary.example/authorize",
    "PROVIDER_SCOPE": 'canary "scope"',
    "PROVIDER_RESPONSE_MODE": "canary",
    "PROVIDER_REDIRECT_URI": "http://canary.example/callback",
    "PROVIDER_EXTRA": "canary",
    "PROVIDER_JWKS_URI": "http://canary.example/keys",
    "PROVIDER_CODE_PARAMETER": "canary code",
    "CA_BUNDLE": "canary.pem",
    "OUTBOX_KEYS": "canary",
    "OUTBOX_QUEUE": "canary queue",
}
"""A wrong value for each setting that can have one."""
WHOLE_APP = ("CA_BUNDLE", "OUTBOX_KEYS", "OUTBOX_QUEUE")
PER_CONNECTION = [name for name in WRONG if name not in WHOLE_APP]


def test_only_names_and_secrets_can_have_no_wrong_value() -> None:
    every = {*settings.names(settings.ConnectionSettings), *settings.names(settings.AppSettings)}
    assert every - set(WRONG) == {
        "ENTRA_CLIENT_ID",
        "ENTRA_CLIENT_SECRET",
        "ENTRA_CLIENT_CERTIFICATE_PASSWORD",
    }


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_is_named_by_its_setting_and_never_shown(setting: str) -> None:
    given = {**base(setting), setting: WRONG[setting]}
    if setting not in settings.CREDENTIALS:
        given["ENTRA_CLIENT_SECRET"] = "canary-secret"
    if setting == "ENTRA_TENANT_ID":
        given.pop("ENTRA_AUTHORITY", None)
    found = problems(given)
    assert len(found) == 1
    assert found[0].startswith(f"{setting}: expected ")
    assert "canary" not in found[0]
    with pytest.raises(Misconfigured) as refused:
        settings.read(given).connections.get("default")
    assert refused.value.problems == found
    assert "canary" not in repr(refused.value)


@pytest.mark.parametrize("setting", PER_CONNECTION)
def test_a_wrong_value_of_one_connection_is_named_in_full(setting: str) -> None:
    full = f"CONNECTIONS__BANK_ONE__{setting}"
    found = problems({**PLAIN, full: WRONG[setting]})
    assert len(found) == 1
    assert found[0].startswith(f"{full}: expected ")
    assert "canary" not in found[0]


@pytest.mark.parametrize("setting", PER_CONNECTION)
def test_a_wrong_value_that_is_inherited_is_named_once_where_it_stands(setting: str) -> None:
    given = {**base(setting), "CONNECTIONS__A__CODE_TTL": "60", OTHER: "client"}
    given[setting] = WRONG[setting]
    found = problems(given)
    assert len(found) == 1
    assert found[0].startswith(f"{setting}: expected ")


@pytest.mark.parametrize(
    ("theirs", "value"),
    [
        ("ActiveDirectoryTenant", "https://login.microsoftonline.com/common"),
        ("ActiveDirectoryResource", "canary resource"),
        ("URIString", "http://canary.example/data/X"),
    ],
)
def test_a_wrong_value_of_an_old_name_is_named_as_the_setting_that_was_given(
    theirs: str, value: str
) -> None:
    found = problems({**ARTICLE, theirs: value})
    assert len(found) == 1
    assert theirs in found[0]
    assert "canary" not in found[0]


SECRETS = {
    "ENTRA_CLIENT_SECRET": "canary",
    "ENTRA_CLIENT_CERTIFICATE": PEM + "canary",
    "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "canary",
    "STATE_KEYS": f"canary:{'canary_' * 6}A",
    "OUTBOX_KEYS": f"{'canary_' * 6}A=",
}


@pytest.mark.parametrize("setting", SECRETS)
def test_no_secret_is_shown_when_settings_are_printed(setting: str) -> None:
    given = {**full(setting), "CONNECTIONS__A__CODE_TTL": "60"}
    if setting in settings.CREDENTIALS:
        given.pop("ENTRA_CLIENT_SECRET")
    given[setting] = SECRETS[setting]
    if setting not in WHOLE_APP:
        given[f"CONNECTIONS__A__{setting}"] = SECRETS[setting]
    read(given)
    shown = repr(settings.read(given))
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("ENTRA_AUTHORITY", "https://login.microsoftonline.com", id="no-tenant"),
        pytest.param("ENTRA_AUTHORITY", "https://login.microsoftonline.com/common", id="common"),
        pytest.param(
            "ENTRA_AUTHORITY",
            "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
            id="organizations",
        ),
        pytest.param("ENTRA_AUTHORITY", "http://localhost/adfs", id="authority-without-tls"),
        pytest.param("ENTRA_TENANT_ID", "common", id="common-is-no-tenant"),
        pytest.param("ENTRA_TENANT_ID", "organizations", id="organizations-is-no-tenant"),
        pytest.param("ENTRA_TENANT_ID", "https://login.microsoftonline.com/x", id="tenant-url"),
        pytest.param("ENTRA_TENANT_ID", "contoso.com/../x", id="tenant-with-a-path"),
        pytest.param("DYNAMICS_URL", "http://contoso.operations.dynamics.com/x", id="http"),
        pytest.param("DYNAMICS_URL", "http://localhost.evil.example/x", id="looks-like-loopback"),
        pytest.param("DYNAMICS_URL", "http://127.0.0.1.evil.example/x", id="looks-like-127"),
        pytest.param("DYNAMICS_URL", "http://localhost@evil.example/x", id="loopback-as-user"),
        pytest.param("DYNAMICS_URL", "https://user:word@contoso.example/x", id="with-a-password"),
        pytest.param("DYNAMICS_URL", "https://contoso.example/x#y", id="with-a-fragment"),
        pytest.param("DYNAMICS_URL", "https://contoso.example/a b", id="with-a-space"),
        pytest.param("DYNAMICS_URL", "https://contoso.example/é", id="beyond-ascii"),
        pytest.param("DYNAMICS_URL", "https://contoso.example:99999/x", id="no-port"),
        pytest.param("DYNAMICS_URL", "https://[::1/x", id="half-an-address"),
        pytest.param("DYNAMICS_URL", "contoso.operations.dynamics.com/data", id="no-scheme"),
        pytest.param("DYNAMICS_URL", "ftp://contoso.example/x", id="another-scheme"),
        pytest.param("DYNAMICS_URL", "https:///data/X", id="no-host"),
        pytest.param("DYNAMICS_SCOPE", "https://contoso.example/", id="scope-is-a-resource"),
        pytest.param("DYNAMICS_SCOPE", "https://contoso.example//.default", id="double-slash"),
        pytest.param("DYNAMICS_SCOPE", "https://a/.default https://b/.default", id="two-scopes"),
        pytest.param("DYNAMICS_BODY", "canary", id="body-is-no-json"),
        pytest.param("DYNAMICS_BODY", '{"code": "canary"}', id="body-without-a-code"),
        pytest.param("DYNAMICS_BODY", '{"code": "{code}", "x": "{y}"}', id="unknown-placeholder"),
        pytest.param("DYNAMICS_TIMEOUT", "0", id="no-time-at-all"),
        pytest.param("DYNAMICS_TIMEOUT", "-1", id="negative-time"),
        pytest.param("DYNAMICS_TIMEOUT", "61", id="longer-than-a-person-waits"),
        pytest.param("DYNAMICS_TIMEOUT", "nan", id="nan"),
        pytest.param("DYNAMICS_TIMEOUT", "inf", id="infinity"),
        pytest.param("CODE_TTL", "0", id="no-life"),
        pytest.param("CODE_TTL", "1.5", id="half-a-second"),
        pytest.param("CODE_TTL", "9" * 5_000, id="a-number-of-5000-digits"),
        pytest.param("STATE_POLICY", "any", id="no-policy"),
        pytest.param("STATE_PATTERN", "cb-[0-9]+", id="not-anchored"),
        pytest.param("STATE_PATTERN", "^cb-[0-9]+", id="not-anchored-at-its-end"),
        pytest.param("STATE_PATTERN", "cb-[0-9]+$", id="not-anchored-at-its-start"),
        pytest.param("STATE_PATTERN", r"^cost-1\$", id="a-literal-dollar-is-no-anchor"),
        pytest.param("STATE_PATTERN", "^(canary$", id="no-pattern"),
        pytest.param("STATE_PATTERN", "^a{1,99999999999}$", id="a-pattern-out-of-bounds"),
        pytest.param("STATE_KEYS", "A" * 43, id="key-without-an-id"),
        pytest.param("STATE_KEYS", "a:" + "A" * 42, id="key-too-short"),
        pytest.param("STATE_KEYS", "a:" + "A" * 44, id="key-too-long"),
        pytest.param("STATE_KEYS", "a:" + "A" * 42 + "+", id="key-in-another-base64"),
        pytest.param("STATE_KEYS", "a:" + "A" * 43 + ",a:" + "B" * 43, id="one-id-for-two-keys"),
        pytest.param("STATE_KEYS", "a:" + "A" * 43 + ",", id="half-a-list-of-keys"),
        pytest.param("PROVIDER_ISSUER", "http://as.example", id="issuer-http"),
        pytest.param("PROVIDER_ISSUER", "as.example", id="issuer-without-scheme"),
        pytest.param("PROVIDER_ISS_REQUIRED", "perhaps", id="neither-true-nor-false"),
        pytest.param("PROVIDER_CODE_PARAMETER", "a&b", id="no-parameter-name"),
        pytest.param("PROVIDER_EXTRA", "state=x", id="a-parameter-that-the-relay-sets"),
        pytest.param("PROVIDER_EXTRA", "a=%ff", id="a-parameter-that-is-not-utf-8"),
        pytest.param(
            "PROVIDER_AUTHORIZATION_ENDPOINT", "https://as.example/?state=x", id="endpoint-with-it"
        ),
    ],
)
def test_a_value_that_can_not_be_right_is_refused(setting: str, value: str) -> None:
    given = {**FULL, "STATE_POLICY": "pattern", setting: value}
    found = problems(given)
    assert len(found) == 1
    assert found[0].startswith(f"{setting}: expected ")
    assert isinstance(settings.read(given).connections.by_name["default"], Misconfigured)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DYNAMICS_BODY", '{"code": "{code}", "x": ' + "[" * 3_000 + "]" * 3_000 + "}"),
        ("STATE_PATTERN", "^" + "(" * 3_000 + ")" * 3_000 + "$"),
    ],
)
def test_a_value_that_is_too_deep_is_refused(setting: str, value: str) -> None:
    try:
        (found,) = problems({**FULL, setting: value})
    except RecursionError:
        pytest.fail("RecursionError", pytrace=False)  # whose traceback has a thousand lines
    assert found.startswith(f"{setting}: expected ")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:7071/x",
        "http://127.0.0.1:8080/x",
        "http://[::1]:8080/x",
        "http://LOCALHOST/x",
        "https://contoso.example:8443/x?cross-company=true",
    ],
)
def test_a_url_is_https_or_on_loopback(url: str) -> None:
    assert read({**PLAIN, "DYNAMICS_URL": url}).target.url == url
    assert read({**PLAIN, "PROVIDER_ISSUER": url}).provider.issuer == url


@pytest.mark.parametrize("setting", PLAIN)
def test_a_missing_setting_is_named_with_what_is_expected(setting: str) -> None:
    found = problems(without(setting))
    assert len(found) == 1
    assert found[0].startswith(f"{setting}: ")
    assert "expected" in found[0]


def test_nothing_at_all_is_one_problem_and_no_connection() -> None:
    found = problems({})
    assert len(found) == 1
    assert found[0].startswith("DYNAMICS_URL: missing; expected https URL")
    with pytest.raises(Misconfigured):
        settings.read({}).connections.get("default")


def test_a_connection_that_misses_something_is_named() -> None:
    given = {**without("DYNAMICS_URL"), "CONNECTIONS__XRO__CODE_TTL": "60"}
    (found,) = problems(given)
    assert "DYNAMICS_URL" in found
    assert "xro" in found.lower()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"STATE_POLICY": "pattern"}, "STATE_PATTERN", id="policy-without-pattern"),
        pytest.param({"STATE_PATTERN": "^a$"}, "STATE_POLICY", id="pattern-without-policy"),
        pytest.param({"STATE_POLICY": "signed"}, "STATE_KEYS", id="policy-without-keys"),
        pytest.param(
            {"PROVIDER_RESPONSE_MODE": "jwt", "PROVIDER_CLIENT_ID": "x"},
            "PROVIDER_ISSUER",
            id="jarm-without-issuer",
        ),
        pytest.param(
            {"PROVIDER_RESPONSE_MODE": "form_post.jwt", "PROVIDER_ISSUER": "https://as.example"},
            "PROVIDER_CLIENT_ID",
            id="jarm-without-client-id",
        ),
        pytest.param(
            {"PROVIDER_ISS_REQUIRED": "true"}, "PROVIDER_ISSUER", id="required-issuer-unknown"
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, str], named: str) -> None:
    (found,) = problems({**PLAIN, **given})
    assert found.startswith(f"{named}: expected")


def test_a_contradiction_in_one_connection_is_named_as_that_connections() -> None:
    (found,) = problems({**PLAIN, "CONNECTIONS__XERO__STATE_POLICY": "pattern"})
    assert "STATE_PATTERN" in found
    assert "xero" in found.lower()


def test_a_pattern_may_be_there_for_another_connection() -> None:
    given = {**FULL, "STATE_POLICY": "opaque", "CONNECTIONS__XERO__STATE_POLICY": "pattern"}
    assert read(given).state_policy is StatePolicy.OPAQUE
    assert read(given, "xero").state_policy is StatePolicy.PATTERN


def test_all_that_is_wrong_is_named_at_once() -> None:
    given = {**PLAIN, **WRONG}
    conflicts = settings.CREDENTIALS[1:]
    named = sorted(found.partition(":")[0] for found in problems(given))
    assert named == sorted([*WRONG, *conflicts])


def test_a_missing_credential_is_named_beside_other_faults() -> None:
    given = {**without("ENTRA_CLIENT_SECRET"), "CODE_TTL": "canary"}
    assert [found.partition(":")[0] for found in problems(given)] == [
        "CODE_TTL",
        "ENTRA_CLIENT_SECRET",
    ]


BAD_PORT, BAD_HOST = "https://as.example:canary/x", "https://[canary]/x"
URLS = [name for name in PER_CONNECTION if name.endswith(("AUTHORITY", "URL", "URI", "ISSUER"))]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(WRONG, id="wrong"),
        pytest.param(WRONG | dict.fromkeys(URLS, BAD_PORT), id="ports"),
        pytest.param(WRONG | dict.fromkeys(URLS, BAD_HOST), id="hosts"),
    ],
)
@pytest.mark.parametrize("model", [settings.ConnectionSettings, settings.AppSettings])
def test_not_even_the_error_that_is_caught_quotes_a_value(
    model: type[BaseModel], wrong: dict[str, str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(wrong | {"ENTRA_CLIENT_SECRET": "canary"})
    assert "canary" not in str(caught.value)


# -- unknown names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("DYNAMIC_URL", "DYNAMICS_URL"),
        ("CODE_TTLS", "CODE_TTL"),
        ("CLIENT_SECRET", "ENTRA_CLIENT_SECRET"),
        ("PROVIDER__ISSUER", "PROVIDER_ISSUER"),
    ],
)
@pytest.mark.parametrize("known", [{}, {"CONNECTIONS__XERO__CODE_TTL": "60"}], ids=["no", "yes"])
def test_an_unknown_setting_of_a_connection_is_named_with_the_nearest_known(
    setting: str, nearest: str, known: dict[str, str]
) -> None:
    (found,) = problems({**PLAIN, **known, f"CONNECTIONS__XERO__{setting}": "canary"})
    assert found.startswith(f"CONNECTIONS__XERO__{setting}: no such setting")
    assert nearest in found
    assert "canary" not in found


def test_an_unknown_setting_that_is_like_none_is_named_too() -> None:
    (found,) = problems({**PLAIN, "CONNECTIONS__XERO__QQQ": "canary"})
    assert found.startswith("CONNECTIONS__XERO__QQQ: no such setting")


def test_an_unknown_setting_alone_creates_no_connection() -> None:
    found = settings.read({**PLAIN, "CONNECTIONS__XERO__DYNAMIC_URL": "https://x.example"})
    assert list(found.connections.by_name) == ["default"]


@pytest.mark.parametrize(
    "name",
    [
        "CONNECTIONS__XERO",
        "CONNECTIONS__",
        "CONNECTIONS____CODE_TTL",
        "CONNECTIONS__A.B__CODE_TTL",
        "CONNECTIONS___A__CODE_TTL",
        "CONNECTIONS__A/../B__CODE_TTL",
        "CONNECTIONS__Ä__CODE_TTL",
    ],
)
def test_a_name_that_makes_no_connection_is_not_passed_over_in_silence(name: str) -> None:
    given = {**PLAIN, name: "canary"}
    assert all("canary" not in found for found in problems(given))
    assert list(settings.read(given).connections.by_name) == ["default"]


@pytest.mark.parametrize("known", [{}, {"CONNECTIONS__XERO__CODE_TTL": "60"}], ids=["no", "yes"])
@pytest.mark.parametrize("setting", WHOLE_APP)
def test_a_setting_of_the_whole_app_is_none_of_a_connection(
    setting: str, known: dict[str, str]
) -> None:
    (found,) = problems({**PLAIN, **known, f"CONNECTIONS__XERO__{setting}": "canary"})
    assert found.startswith(f"CONNECTIONS__XERO__{setting}: is for the whole app")
    assert "canary" not in found


def test_settings_of_others_are_none_of_ours() -> None:
    read({**PLAIN, "FUNCTIONS_WORKER_RUNTIME": "python", "PATH": "/bin", "DYNAMICS_URLS": "x"})


# -- one bad connection leaves the others working ------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        *(
            pytest.param({f"CONNECTIONS__BAD__{name}": value}, id=name)
            for name, value in WRONG.items()
            if name in PER_CONNECTION
        ),
        pytest.param({"CONNECTIONS__BAD__STATE_POLICY": "pattern"}, id="contradiction"),
        pytest.param(
            {"CONNECTIONS__BAD__CODE_TTL": "60", "CONNECTIONS__BAD__QQQ": "x"}, id="unknown-name"
        ),
    ],
)
def test_a_bad_connection_leaves_the_others_working(bad: dict[str, str]) -> None:
    found = settings.read({**PLAIN, **bad, "CONNECTIONS__GOOD__CODE_TTL": "60"}).connections
    assert found.get("default").name == "default"
    assert found.get("good").code_ttl == timedelta(seconds=60)
    with pytest.raises(Misconfigured):
        found.get("bad")
    with pytest.raises(UnknownConnection):
        found.get("nobody")


def test_a_bad_default_connection_leaves_the_others_working() -> None:
    given = {
        **PLAIN,
        "DYNAMICS_URL": "http://contoso.example/x",
        "CONNECTIONS__GOOD__DYNAMICS_URL": PLAIN["DYNAMICS_URL"],
    }
    found = settings.read(given).connections
    assert found.get("good").name == "good"
    with pytest.raises(Misconfigured):
        found.get("default")


@pytest.mark.parametrize("setting", WHOLE_APP)
def test_what_is_wrong_for_the_whole_app_is_wrong_for_every_connection(setting: str) -> None:
    given = {**PLAIN, "CONNECTIONS__A__CODE_TTL": "60", setting: WRONG[setting]}
    found = settings.read(given).connections
    for name in ("default", "a"):
        with pytest.raises(Misconfigured):
            found.get(name)


def test_a_ca_bundle_that_is_there_is_kept(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    assert settings.read({**PLAIN, "CA_BUNDLE": str(bundle)}).app.ca_bundle == str(bundle)
    assert settings.read(PLAIN).app.ca_bundle is None


# -- the table -----------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_setting_and_names_the_old_one() -> None:
    rows = {row["setting"]: row for row in settings.table()}
    assert set(rows) == {*OWN, *WHOLE_APP}
    assert {row["article"]: name for name, row in rows.items() if row["article"]} == {
        "ActiveDirectoryTenant": "ENTRA_AUTHORITY",
        "ActiveDirectoryClientAppId": "ENTRA_CLIENT_ID",
        "ActiveDirectoryClientAppSecret": "ENTRA_CLIENT_SECRET",
        "ActiveDirectoryResource": "DYNAMICS_SCOPE",
        "URIString": "DYNAMICS_URL",
    }
    assert {name for name, row in rows.items() if row["required"]} == {"DYNAMICS_URL"}
    assert all(row["expected"] for row in rows.values())
