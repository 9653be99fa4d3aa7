"""Reading the environment: inheritance, the article's names, and what problems say."""

import tracemalloc
from collections.abc import Callable, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from relay import settings, settings_reader
from relay.body import PLACEHOLDERS
from relay.connections import (
    ClientCertificate,
    ClientSecret,
    Connection,
    ManagedIdentity,
    StatePolicy,
)
from relay.errors import Misconfigured, UnknownConnection
from tests.unit.test_settings import PEM, PER_CONNECTION, WHOLE_APP, WRONG

type Change = Callable[[str], str]

PLAIN = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "secret",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    "STATE_POLICY": "opaque",
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
    connections = settings_reader.read(given).connections
    assert connections.problems == ()
    return connections.get(name)


def problems(given: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong, of which there is something."""
    found = settings_reader.read(given).connections.problems
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
    assert connection.target.connection == "default"


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
    policy = {"STATE_POLICY": "opaque"}
    for given in ({**ARTICLE, ours: new, **policy}, {ours: new, **ARTICLE, **policy}):
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
    assert list(settings_reader.read(given).connections.by_name) == ["default"]


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
        pytest.param(
            {"ENTRA_AUTHORITY": "https://login.microsoftonline.com/x.com/v2.0"},
            "https://login.microsoftonline.com/x.com",
            id="a-pasted-issuer",
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
        pytest.param(
            {"ActiveDirectoryResource": "https://ax.example.com/X/.default"},
            "https://ax.example.com/X/.default",
            id="the-articles-resource-that-is-a-scope",
        ),
        pytest.param(
            {"ActiveDirectoryResource": "api://X//"},
            "api://X/.default",
            id="the-articles-resource-with-slashes",
        ),
    ],
)
def test_the_scope_names_the_resource_without_a_double_slash(
    given: dict[str, str], scope: str
) -> None:
    assert read({**PLAIN, **given}).credentials.scope == scope


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, StatePolicy.OPAQUE),
        ({"STATE_KEYS": "a:" + "A" * 43}, StatePolicy.SIGNED),
        ({"STATE_POLICY": "signed", "STATE_KEYS": "a:" + "A" * 43}, StatePolicy.SIGNED),
        ({"STATE_POLICY": "pattern", "STATE_PATTERN": "^[0-9]{8}$"}, StatePolicy.PATTERN),
    ],
)
def test_the_articles_states_are_opaque_unless_a_setting_speaks_of_states(
    changes: Mapping[str, str], policy: StatePolicy
) -> None:
    assert read({**ARTICLE, **changes}).state_policy is policy


NO_KEYS = "STATE_KEYS: expected, because STATE_POLICY is signed"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"STATE_POLICY": "signed"}, NO_KEYS),
        (
            {"STATE_PATTERN": "^[0-9]{8}$"},
            "STATE_POLICY: expected pattern, because STATE_PATTERN is set",
        ),
        ({"DYNAMICS_URL": "https://x.operations.dynamics.com/x"}, f"{NO_KEYS} where it is not set"),
        ({"STATE_POLICY": "canary"}, "STATE_POLICY: expected opaque, pattern or signed"),
    ],
)
def test_strangers_are_not_let_in_by_what_is_lost_of_the_articles_settings(
    changes: Mapping[str, str], problem: str
) -> None:
    assert problems({**ARTICLE, **changes}) == (problem,)


def test_a_connection_with_its_own_target_does_not_have_the_articles_states() -> None:
    given = {**ARTICLE, "CONNECTIONS__X__DYNAMICS_URL": ARTICLE["URIString"]}
    assert problems(given) == (f"CONNECTIONS__X__{NO_KEYS} where it is not set",)


def test_settings_of_the_whole_app_are_read() -> None:
    keys = ["A" * 43 + "=", "B" * 43 + "="]
    given = {**PLAIN, "OUTBOX_KEYS": ",".join(keys), "OUTBOX_QUEUE": "held"}
    app = settings_reader.read(given).app
    assert (app.ca_bundle, app.outbox_keys, app.outbox_queue) == (None, tuple(keys), "held")
    # Wrong ones leave the defaults: /health still answers.
    app = settings_reader.read({**given, "OUTBOX_QUEUE": "canary queue"}).app
    assert (app.ca_bundle, app.outbox_keys, app.outbox_queue) == (None, (), "callback-outbox")


# -- connections ---------------------------------------------------------------------------------


def test_without_a_plain_url_there_is_no_default_connection() -> None:
    given = {**without("DYNAMICS_URL"), "CONNECTIONS__XERO__DYNAMICS_URL": PLAIN["DYNAMICS_URL"]}
    assert read(given, "xero").name == "xero"
    with pytest.raises(UnknownConnection):
        settings_reader.read(given).connections.get("default")


@pytest.mark.parametrize("name", ["URIString", "DYNAMICS_URL"])
def test_a_plain_url_makes_the_default_connection_beside_others(name: str) -> None:
    given = {
        **without("DYNAMICS_URL"),
        name: PLAIN["DYNAMICS_URL"],
        "CONNECTIONS__XERO__CODE_TTL": "60",
    }
    assert sorted(settings_reader.read(given).connections.by_name) == ["default", "xero"]
    assert read(given).code_ttl == timedelta(seconds=300)


@pytest.mark.parametrize(
    ("label", "name"),
    [("XERO", "xero"), ("BANK_ONE", "bank-one"), ("A1", "a1"), ("DEFAULT", "default")],
)
def test_any_setting_of_a_connection_creates_it(label: str, name: str) -> None:
    given = {**PLAIN, f"CONNECTIONS__{label}__CODE_TTL": "60"}
    assert read(given, name).code_ttl == timedelta(seconds=60)


IDENTITY = "11111111-2222-3333-4444-555555555555"

OWN = {
    "ENTRA_AUTHORITY": "https://login.microsoftonline.com/own.example",
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
    "PROVIDER_NAME": "Own Bank",
    "PAGE_ORGANIZATION": "Own & Co",
    "PAGE_SUPPORT": "help@own.example",
    "PAGE_RETURN_URL": "https://own.example/?outcome={outcome}#{reference}",
    "PAGE_ACCENT": "#05a",
    "PAGE_LOGO": "data:image/svg+xml;utf8,<svg/>",
    "PROVIDER_STATE_PARAMETER": "own_state",
    "PROVIDER_PKCE": "false",
    "PROVIDER_RESPONSE_TYPE": "code id_token",
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
        "PROVIDER_NAME": provider.name,
        "PAGE_ORGANIZATION": connection.branding.organization,
        "PAGE_SUPPORT": connection.branding.support,
        "PAGE_RETURN_URL": connection.branding.return_url,
        "PAGE_ACCENT": connection.branding.accent,
        "PAGE_LOGO": connection.branding.logo,
        "PROVIDER_STATE_PARAMETER": provider.state_parameter,
        "PROVIDER_PKCE": provider.pkce,
        "PROVIDER_RESPONSE_TYPE": provider.response_type,
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
    return without("ENTRA_CLIENT_SECRET") if setting in settings_reader.CREDENTIALS else PLAIN


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
    if setting in settings_reader.CREDENTIALS:
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
        "CONNECTIONS__XERO__ENTRA_CLIENT_SECRET": "own-secret",
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
    settings_reader.read(given)  # what is made once is no connection's
    tracemalloc.start()
    try:
        found = settings_reader.read(given)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.connections.by_name) == 50
    assert not found.connections.problems
    assert size / 50 < 20 * 1024


# -- credentials ---------------------------------------------------------------------------------

CLIENT = without("ENTRA_CLIENT_SECRET")
WITH = {
    "secret": {"ENTRA_CLIENT_SECRET": "secret"},
    "certificate": {
        "ENTRA_CLIENT_CERTIFICATE": PEM,
        "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "password",
    },
    "federated": {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY},
}


def test_an_identity_without_a_client_id_is_itself_the_client() -> None:
    least = {name: PLAIN[name] for name in ("DYNAMICS_URL", "STATE_POLICY")}
    given = {**least, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY}
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
    one, other = settings_reader.read(padded), settings_reader.read(given)
    assert (dict(one.connections.by_name), one.app) == (dict(other.connections.by_name), other.app)
    system = {**CLIENT, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system "}
    assert problems(system) == problems({**system, "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"})


def test_a_key_vault_reference_that_was_not_resolved_is_no_secret() -> None:
    """The platform leaves the reference where the value should be, and Entra would be sent it."""
    given = {**CLIENT, "ENTRA_CLIENT_SECRET": "@Microsoft.KeyVault(SecretUri=https://canary/)"}
    assert problems(given) == ("ENTRA_CLIENT_SECRET: is a Key Vault reference; expected its value",)


@pytest.mark.parametrize("scope", ["DYNAMICS_SCOPE", "ActiveDirectoryResource"])
def test_an_inherited_scope_of_another_environment_is_an_error(scope: str) -> None:
    given = {
        **PLAIN,
        scope: "https://contoso.operations.dynamics.com/.default",
        "CONNECTIONS__XERO__DYNAMICS_URL": "https://fabrikam.operations.dynamics.com/data/X",
    }
    (found,) = problems(given)
    assert found == (
        f"{scope}: is of another host than CONNECTIONS__XERO__DYNAMICS_URL; expected "
        "CONNECTIONS__XERO__DYNAMICS_SCOPE beside it"
    )
    own = {"CONNECTIONS__XERO__DYNAMICS_SCOPE": "https://fabrikam.operations.dynamics.com/.default"}
    assert (
        read({**given, **own}, "xero").credentials.scope == own["CONNECTIONS__XERO__DYNAMICS_SCOPE"]
    )


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
    found = settings_reader.read({**PLAIN, "ENTRA_AUTHORITY": authority, "DYNAMICS_URL": url})
    assert found.connections.problems == ()
    assert found.connections.get("default").target.url == url
    clouds = {
        "login.microsoftonline.com": "the public cloud",
        "login.microsoftonline.us": "the US Government cloud",
        "login.partner.microsoftonline.cn": "the cloud in China",
    }
    assert found.warnings == (
        (
            f"ENTRA_AUTHORITY: is of {clouds[urlsplit(authority).netloc]}, but DYNAMICS_URL of "
            f"{clouds[expected]}; expected https://{expected}/ and the tenant"
        ),
    )


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
    assert settings_reader.read(given).warnings == ()


# -- what is wrong -------------------------------------------------------------------------------


EXPECTED = {row["setting"]: row["expected"] for row in settings.table()}


def wrong(setting: str) -> str:
    """Return the sentence for its wrong value: what is expected, in the words of the README."""
    known = " ".join(f"{{{name}}}" for name in (*PLACEHOLDERS, "param:NAME"))
    detail = f" (unknown placeholder; known are {known})" if setting == "DYNAMICS_BODY" else ""
    return f"expected {EXPECTED[setting]}{detail}"


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_is_named_by_its_setting_and_never_shown(setting: str) -> None:
    given = {**base(setting), setting: WRONG[setting]}
    if setting not in settings_reader.CREDENTIALS:
        given["ENTRA_CLIENT_SECRET"] = "canary-secret"
    if setting == "ENTRA_TENANT_ID":
        given.pop("ENTRA_AUTHORITY", None)
    found = problems(given)
    assert found == (f"{setting}: {wrong(setting)}",)
    with pytest.raises(Misconfigured) as refused:
        settings_reader.read(given).connections.get("default")
    assert refused.value.problems == found
    assert "canary" not in repr(refused.value)


@pytest.mark.parametrize("setting", PER_CONNECTION)
def test_a_wrong_value_of_one_connection_is_named_in_full(setting: str) -> None:
    full = f"CONNECTIONS__BANK_ONE__{setting}"
    assert problems({**PLAIN, full: WRONG[setting]}) == (f"{full}: {wrong(setting)}",)


@pytest.mark.parametrize("setting", PER_CONNECTION)
def test_a_wrong_value_that_is_inherited_is_named_once_where_it_stands(setting: str) -> None:
    given = {**base(setting), "CONNECTIONS__A__CODE_TTL": "60", OTHER: "client"}
    given[setting] = WRONG[setting]
    assert problems(given) == (f"{setting}: {wrong(setting)}",)


@pytest.mark.parametrize(
    ("pattern", "detail"),
    [("^(a+)+$", settings.BACKTRACKS), ("^.*$", settings.MATCHES_ALL), ("^a", None), ("^($", None)],
)
def test_a_pattern_is_refused_with_what_is_wrong_with_it(pattern: str, detail: str | None) -> None:
    given = {**PLAIN, "STATE_POLICY": "pattern", "STATE_PATTERN": pattern}
    assert problems(given) == (
        (
            "STATE_PATTERN: expected regular expression from ^ to $, for STATE_POLICY=pattern"
            f"{f' ({detail})' if detail else ''}"
        ),
    )


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
    ours = settings.ARTICLE[theirs]
    assert problems({**ARTICLE, theirs: value}) == (f"{theirs}: {wrong(ours)}",)


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
    if setting in settings_reader.CREDENTIALS:
        given.pop("ENTRA_CLIENT_SECRET")
    given[setting] = SECRETS[setting]
    if setting not in WHOLE_APP:
        given[f"CONNECTIONS__A__{setting}"] = SECRETS[setting]
    read(given)
    shown = repr(settings_reader.read(given))
    assert "canary" not in shown


NO_URL = (
    "DYNAMICS_URL: missing; expected https URL to POST to, such as "
    "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("ENTRA_TENANT_ID", "ENTRA_TENANT_ID: expected, or ENTRA_AUTHORITY"),
        (
            "ENTRA_CLIENT_ID",
            "ENTRA_CLIENT_ID: missing; expected application (client) id of the app registration",
        ),
        ("DYNAMICS_URL", NO_URL),
    ],
)
def test_a_missing_setting_is_named_with_what_is_expected(setting: str, problem: str) -> None:
    assert problems(without(setting)) == (problem,)


def test_nothing_at_all_is_one_problem_and_no_connection() -> None:
    assert problems({}) == (NO_URL,)
    with pytest.raises(Misconfigured):
        settings_reader.read({}).connections.get("default")


def test_a_connection_that_misses_something_is_named() -> None:
    given = {**without("DYNAMICS_URL"), "CONNECTIONS__XRO__CODE_TTL": "60"}
    assert problems(given) == (f"CONNECTIONS__XRO__{NO_URL}",)


FLOW = {
    "STATE_POLICY": "signed",
    "STATE_KEYS": "a:" + "A" * 43,
    "PROVIDER_AUTHORIZATION_ENDPOINT": "https://as.example/authorize",
    "PROVIDER_CLIENT_ID": "dynamics",
    "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
    "DYNAMICS_BODY": '{"c": "{code}", "v": "{code_verifier}"}',
}
JARM = {
    "STATE_POLICY": "opaque",
    "PROVIDER_RESPONSE_MODE": "jwt",
    "PROVIDER_ISSUER": "https://as.example",
    "PROVIDER_CLIENT_ID": "dynamics",
}
BECAUSE = "expected, because PROVIDER_AUTHORIZATION_ENDPOINT is set"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param(
            {"STATE_POLICY": "pattern"},
            "STATE_PATTERN: expected, because STATE_POLICY is pattern",
            id="policy-without-pattern",
        ),
        pytest.param(
            {"STATE_PATTERN": "^a$"},
            "STATE_POLICY: expected pattern, because STATE_PATTERN is set",
            id="pattern-without-policy",
        ),
        pytest.param({"STATE_POLICY": "signed"}, NO_KEYS, id="policy-without-keys"),
        pytest.param({}, f"{NO_KEYS} where it is not set", id="no-policy"),
        pytest.param(
            {**JARM, "PROVIDER_ISSUER": ""},
            "PROVIDER_ISSUER: expected, because PROVIDER_RESPONSE_MODE is jwt",
            id="jarm-without-issuer",
        ),
        pytest.param(
            {**JARM, "PROVIDER_RESPONSE_MODE": "form_post.jwt", "PROVIDER_CLIENT_ID": ""},
            "PROVIDER_CLIENT_ID: expected, because PROVIDER_RESPONSE_MODE is form_post.jwt",
            id="jarm-without-client-id",
        ),
        pytest.param(
            {"PROVIDER_ISS_REQUIRED": "true", "STATE_POLICY": "opaque"},
            "PROVIDER_ISSUER: expected, because PROVIDER_ISS_REQUIRED is true",
            id="required-issuer-unknown",
        ),
        pytest.param(
            {**FLOW, "PROVIDER_PKCE": "false"},
            "DYNAMICS_BODY: expected no {code_verifier}, because PROVIDER_PKCE is false",
            id="verifier-without-pkce",
        ),
        pytest.param(
            {
                "PROVIDER_CODE_PARAMETER": "x",
                "PROVIDER_STATE_PARAMETER": "x",
                "STATE_POLICY": "opaque",
            },
            "PROVIDER_STATE_PARAMETER: expected another name than PROVIDER_CODE_PARAMETER",
            id="one-name-for-two",
        ),
        pytest.param(
            {**FLOW, "PROVIDER_CLIENT_ID": ""},
            f"PROVIDER_CLIENT_ID: {BECAUSE}",
            id="flow-without-client-id",
        ),
        pytest.param(
            {**FLOW, "PROVIDER_REDIRECT_URI": ""},
            f"PROVIDER_REDIRECT_URI: {BECAUSE}",
            id="flow-without-redirect-uri",
        ),
        pytest.param(
            {**FLOW, "STATE_POLICY": "opaque"},
            "STATE_POLICY: expected signed, because PROVIDER_AUTHORIZATION_ENDPOINT is set",
            id="flow-with-opaque-states",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, str], named: str) -> None:
    assert problems({**without("STATE_POLICY"), **given}) == (named,)


def test_a_contradiction_in_one_connection_is_named_as_that_connections() -> None:
    assert problems({**PLAIN, "CONNECTIONS__BANK_ONE__STATE_POLICY": "pattern"}) == (
        "CONNECTIONS__BANK_ONE__STATE_PATTERN: expected, because STATE_POLICY is pattern",
    )


def test_a_pattern_may_be_there_for_another_connection() -> None:
    given = {**FULL, "STATE_POLICY": "opaque", "CONNECTIONS__XERO__STATE_POLICY": "pattern"}
    assert read(given).state_policy is StatePolicy.OPAQUE
    assert read(given, "xero").state_policy is StatePolicy.PATTERN


def test_all_that_is_wrong_is_named_at_once() -> None:
    given = {**PLAIN, **WRONG}
    conflicts = settings_reader.CREDENTIALS[1:]
    named = sorted(found.partition(":")[0] for found in problems(given))
    assert named == sorted([*WRONG, *conflicts])


def test_a_missing_credential_is_named_beside_other_faults() -> None:
    given = {**without("ENTRA_CLIENT_SECRET"), "CODE_TTL": "canary"}
    assert [found.partition(":")[0] for found in problems(given)] == [
        "CODE_TTL",
        "ENTRA_CLIENT_SECRET",
    ]


# -- unknown names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("DYNAMIC_URL", "DYNAMICS_URL"),
        ("CODE_TTLS", "CODE_TTL"),
        ("CLIENT_SECRET", "ENTRA_CLIENT_SECRET"),
        ("PROVIDER__ISSUER", "PROVIDER_ISSUER"),
        ("QQQ", None),
        ("ENVIRONMENTS__A.B__X", None),
    ],
)
@pytest.mark.parametrize("known", [{}, {"CONNECTIONS__XERO__CODE_TTL": "60"}], ids=["no", "yes"])
def test_an_unknown_setting_of_a_connection_is_named_with_the_nearest_known(
    setting: str, nearest: str | None, known: dict[str, str]
) -> None:
    hint = f"; the nearest is {nearest}" if nearest else ""
    assert problems({**PLAIN, **known, f"CONNECTIONS__XERO__{setting}": "canary"}) == (
        f"CONNECTIONS__XERO__{setting}: no such setting{hint}",
    )


def test_an_unknown_setting_alone_creates_no_connection() -> None:
    found = settings_reader.read({**PLAIN, "CONNECTIONS__XERO__DYNAMIC_URL": "https://x.example"})
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
    given = {name: "canary", "CONNECTIONS__A/B__X": "canary", **PLAIN}
    assert problems(given) == (
        "CONNECTIONS__…: expected CONNECTIONS__<NAME>__<SETTING>, a name of letters, digits and _",
    )
    assert list(settings_reader.read(given).connections.by_name) == ["default"]


@pytest.mark.parametrize("known", [{}, {"CONNECTIONS__XERO__CODE_TTL": "60"}], ids=["no", "yes"])
@pytest.mark.parametrize("setting", WHOLE_APP)
def test_a_setting_of_the_whole_app_is_none_of_a_connection(
    setting: str, known: dict[str, str]
) -> None:
    assert problems({**PLAIN, **known, f"CONNECTIONS__XERO__{setting}": "canary"}) == (
        f"CONNECTIONS__XERO__{setting}: is for the whole app, expected {setting}",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CODE_TT", "CODE_TTL"),
        ("CODE_T", "CODE_TTL"),
        ("CODE_", None),
        ("CODE_TTLXY", "CODE_TTL"),
        ("CODE_TTLXYZ", None),
        ("XYCODE_TTL", "CODE_TTL"),
        ("XYZCODE_TTL", None),
        ("CODEX_YTTL", "CODE_TTL"),
        ("DE_TTL", "CODE_TTL"),
        ("XYDE_TTL", "CODE_TTL"),
        ("XYZE_TTL", None),
        ("CODE_TXY", "CODE_TTL"),
        ("CODE_XYZ", None),
        ("XODE_TTY", "CODE_TTL"),
        ("XODE_TTYZ", None),
        ("XODE_TT", "CODE_TTL"),
        ("OCDE_TTL", "CODE_TTL"),
        ("OCDE_TLT", None),
        ("EDOC_LTT", None),
        ("LTT_EDOC", None),
        ("CODE__TTL", "CODE_TTL"),
        ("STATE_KEY", "STATE_KEYS"),
        ("PROVIDER_CLIENTS_ID", "PROVIDER_CLIENT_ID"),
        ("OUTBOX_QUEU", "OUTBOX_QUEUE"),
        ("URISTRINGS", "URIString"),
        ("ACTIVEDIRECTORYTENNANT", "ActiveDirectoryTenant"),
        ("CONNECTIONS_X_CODE_TTL", None),
        ("FUNCTIONS_WORKER_RUNTIME", None),
        ("PATH", None),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_warned_of(name: str, meant: str | None) -> None:
    given = {**PLAIN, "PATH": "x", name: "canary", "HOME": "x"}
    expected = (f"{name}: no such setting; expected {meant}",) if meant else ()
    assert settings_reader.read(given).warnings == expected


def test_every_misspelt_name_is_warned_of_once() -> None:
    given = {**PLAIN, "CODE_TTLS": "x", "PATH": "x", "PAGE_LOG": "x", "PROVIDER_NAM": "x"}
    assert settings_reader.read(given).warnings == (
        "CODE_TTLS: no such setting; expected CODE_TTL",
        "PAGE_LOG: no such setting; expected PAGE_LOGO",
        "PROVIDER_NAM: no such setting; expected PROVIDER_NAME",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"PROVIDER_PKCE": "false", "DYNAMICS_BODY": '{"c": "{code}"}'},
            [
                (
                    "PROVIDER_PKCE: is false, nothing ties a code to its flow; expected true where "
                    "the provider takes a code challenge"
                )
            ],
            id="no-pkce",
        ),
        pytest.param(
            {"PROVIDER_RESPONSE_TYPE": "code id_token"},
            [
                (
                    "PROVIDER_RESPONSE_TYPE: has an id_token, so /authorize starts no flow; "
                    "expected code, or no PROVIDER_AUTHORIZATION_ENDPOINT"
                )
            ],
            id="id-token",
        ),
        pytest.param(
            {"DYNAMICS_BODY": '{"c": "{code}"}'},
            [
                (
                    "DYNAMICS_BODY: has no {code_verifier}, without which Dynamics cannot redeem "
                    "the codes of /authorize; expected it beside {code}"
                )
            ],
            id="no-verifier",
        ),
        pytest.param(
            {"PROVIDER_AUTHORIZATION_ENDPOINT": "", "PROVIDER_RESPONSE_TYPE": "code id_token"},
            [],
            id="no-flow",
        ),
    ],
)
def test_what_is_valid_and_suspicious_is_warned_of(
    changes: Mapping[str, str], expected: list[str]
) -> None:
    assert list(settings_reader.read({**PLAIN, **FLOW, **changes}).warnings) == expected
    own = {f"CONNECTIONS__X__{name}": value for name, value in {**FLOW, **changes}.items()}
    found = settings_reader.read({**PLAIN, **own, "PAGE_LOG": "x"})
    assert list(found.warnings) == [
        "PAGE_LOG: no such setting; expected PAGE_LOGO",
        *(f"CONNECTIONS__X__{each}" for each in expected),
    ]


def test_each_connection_is_warned_of() -> None:
    given = {**PLAIN, "PROVIDER_PKCE": "false", "CONNECTIONS__X__CODE_TTL": "60"}
    given["CONNECTIONS__Y__PROVIDER_PKCE"] = "false"
    assert [each.partition(":")[0] for each in settings_reader.read(given).warnings] == [
        "PROVIDER_PKCE",  # of X too, which inherits it
        "CONNECTIONS__Y__PROVIDER_PKCE",
    ]


# -- hosts that a token or a credential would reach ----------------------------------------------

US = "https://login.microsoftonline.us/contoso.com"
COM = "https://login.microsoftonline.com/contoso.com"
ANOTHER = (
    "is of another host than the inherited credential; expected one of "
    "CONNECTIONS__X__ENTRA_CLIENT_SECRET, CONNECTIONS__X__ENTRA_CLIENT_CERTIFICATE, "
    "CONNECTIONS__X__ENTRA_MANAGED_IDENTITY_CLIENT_ID"
)


@pytest.mark.parametrize(
    ("plain", "own", "expected"),
    [
        pytest.param({}, {"ENTRA_AUTHORITY": US}, [f"ENTRA_AUTHORITY: {ANOTHER}"], id="authority"),
        pytest.param({}, {"ENTRA_AUTHORITY": COM}, [], id="the-tenants-own-host"),
        pytest.param({}, {"ENTRA_AUTHORITY": "https://LOGIN.microsoftonline.com/x"}, [], id="case"),
        pytest.param(
            {"ENTRA_AUTHORITY": US},
            {"ENTRA_TENANT_ID": "contoso.com"},
            [f"ENTRA_TENANT_ID: {ANOTHER}"],
            id="tenant",
        ),
        pytest.param({"ENTRA_AUTHORITY": COM}, {"ENTRA_TENANT_ID": "x"}, [], id="same-tenant-host"),
        pytest.param(
            {},
            {"ENTRA_AUTHORITY": US, "ENTRA_TENANT_ID": "contoso.com"},
            [f"ENTRA_AUTHORITY: {ANOTHER}"],
            id="both",
        ),
        pytest.param(
            {}, {"ENTRA_AUTHORITY": US, "ENTRA_CLIENT_SECRET": "own"}, [], id="its-secret"
        ),
        pytest.param(
            {},
            {
                "ENTRA_AUTHORITY": US,
                "ENTRA_MANAGED_IDENTITY_CLIENT_ID": "11111111-2222-3333-4444-555555555555",
            },
            [],
            id="its-identity",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "https://CONTOSO.operations.dynamics.com/.default"},
            {"DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/Y"},
            [],
            id="scope-of-the-same-host",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "https://contoso.operations.dynamics.com/.default"},
            {"DYNAMICS_URL": "https://contoso.operations.dynamics.com:8443/data/Y"},
            [
                (
                    "DYNAMICS_SCOPE: is of another host than CONNECTIONS__X__DYNAMICS_URL; "
                    "expected CONNECTIONS__X__DYNAMICS_SCOPE beside it"
                )
            ],
            id="scope-of-another-port",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "https://contoso.operations.dynamics.com/.default"},
            {"CODE_TTL": "60"},
            [],
            id="scope-beside-the-inherited-url",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "api://x/.default"}, {"CODE_TTL": "60"}, [], id="inherited"
        ),
    ],
)
def test_what_is_inherited_reaches_no_host_that_it_was_not_meant_for(
    plain: Mapping[str, str], own: Mapping[str, str], expected: list[str]
) -> None:
    its = {f"CONNECTIONS__X__{name}": value for name, value in own.items()}
    found = settings_reader.read({**PLAIN, **plain, **its}).connections.problems
    prefix = "" if expected and expected[0].startswith("DYNAMICS") else "CONNECTIONS__X__"
    assert list(found) == [f"{prefix}{each}" for each in expected]


def test_a_credential_that_was_of_no_host_is_not_inherited_from_another() -> None:
    plain = without("ENTRA_TENANT_ID", without("DYNAMICS_URL"))
    its = {"ENTRA_AUTHORITY": US, "DYNAMICS_URL": PLAIN["DYNAMICS_URL"]}
    given = {**plain, **{f"CONNECTIONS__X__{name}": value for name, value in its.items()}}
    assert read(given, "x").credentials.authority == US


# -- names of what is missing --------------------------------------------------------------------


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
    found = settings_reader.read({**PLAIN, **bad, "CONNECTIONS__GOOD__CODE_TTL": "60"}).connections
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
    found = settings_reader.read(given).connections
    assert found.get("good").name == "good"
    with pytest.raises(Misconfigured):
        found.get("default")


@pytest.mark.parametrize("setting", WHOLE_APP)
def test_what_is_wrong_for_the_whole_app_is_wrong_for_every_connection(setting: str) -> None:
    given = {**PLAIN, "CONNECTIONS__A__CODE_TTL": "60", setting: WRONG[setting]}
    found = settings_reader.read(given).connections
    assert sorted(found.by_name) == ["a", "default"]
    for name in ("default", "a"):
        with pytest.raises(Misconfigured):
            found.get(name)
