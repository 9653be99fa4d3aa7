"""Reading the settings of environments: whose value counts, and the sentence for what is wrong."""

from collections.abc import Mapping

import pytest

from relay import settings_reader
from relay.connections import (
    ClientCertificate,
    ClientSecret,
    Connection,
    Environment,
    ManagedIdentity,
    StatePolicy,
)
from relay.errors import Misconfigured
from tests.unit.test_settings import PEM

IDENTITY = "11111111-2222-3333-4444-555555555555"


def url(name: str) -> str:
    return f"https://{name}.operations.dynamics.com/data/OAuthCallbacks"


def key(letter: str, kid: str = "k1") -> str:
    return f"{kid}:{letter * 43}"


LEAST = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "canary",
    "ENVIRONMENTS__DEV__DYNAMICS_URL": url("dev"),
    "ENVIRONMENTS__DEV__STATE_KEYS": key("E"),
}
"""The least that makes an environment, of a connection without a target of its own."""
PLAIN = {name: value for name, value in LEAST.items() if name.startswith("ENTRA_")}
BASE = {**LEAST, "DYNAMICS_URL": url("own"), "STATE_KEYS": key("A")}
X = {"CONNECTIONS__X__CODE_TTL": "60"}
"""Another connection, with all environments."""
ITS = "CONNECTIONS__X__ENVIRONMENTS__DEV__"
"""The beginning of its settings of an environment that it inherits."""
PASSWORD = "ENTRA_CLIENT_CERTIFICATE_PASSWORD"
VERIFIER = '{"c": "{code}", "v": "{code_verifier}"}'
NO_VERIFIER = "expected no {code_verifier}, because PROVIDER_PKCE is false"
PATTERN = {"STATE_POLICY": "pattern", "STATE_PATTERN": "^(?P<env>dev|uat)-[0-9]{8}$"}
PATTERN_OF_NONE = {
    "CONNECTIONS__X__STATE_POLICY": "pattern",
    "CONNECTIONS__X__STATE_PATTERN": "^[0-9]{8}$",
}
KINDS = ("ENTRA_CLIENT_SECRET", "ENTRA_CLIENT_CERTIFICATE", "ENTRA_MANAGED_IDENTITY_CLIENT_ID")


def connection(given: Mapping[str, str], name: str = "default") -> Connection:
    """Return a connection from settings in which nothing is wrong."""
    connections = settings_reader.read(given).connections
    assert connections.problems == ()
    return connections.get(name)


def environment(given: Mapping[str, str], name: str = "dev", owner: str = "default") -> Environment:
    """Return an environment from settings in which nothing is wrong."""
    found = connection(given, owner).environments[name]
    assert isinstance(found, Environment)
    return found


def one_of(prefix: str) -> str:
    return ", ".join(prefix + kind for kind in KINDS)


def without(given: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: value for each, value in given.items() if each != name}


# -- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_URL": ""},
            "ENVIRONMENTS__DEV__DYNAMICS_URL: missing; expected https URL to POST to, such as "
            "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
            id="no-url",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": ""},
            "ENVIRONMENTS__DEV__STATE_KEYS: expected its own; those of others are not good for it",
            id="no-keys",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": "", "STATE_POLICY": "signed"},
            "ENVIRONMENTS__DEV__STATE_KEYS: expected its own; those of others are not good for it",
            id="no-keys-and-a-policy",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": "canary"},
            "ENVIRONMENTS__DEV__STATE_KEYS: expected kid:key[,kid:key…], each key 32 random bytes "
            "in base64url; the first mints, all verify",
            id="wrong-keys",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_BODY": "canary"},
            "ENVIRONMENTS__DEV__DYNAMICS_BODY: expected JSON template of the body "
            "(expected one JSON object)",
            id="wrong-body",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_BODY": VERIFIER, "PROVIDER_PKCE": "false"},
            f"ENVIRONMENTS__DEV__DYNAMICS_BODY: {NO_VERIFIER}",
            id="verifier-without-pkce",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_TIMEOUT": "61"},
            "ENVIRONMENTS__DEV__DYNAMICS_TIMEOUT: expected seconds for one attempt, up to 60",
            id="too-long",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET": "@Microsoft.KeyVault(SecretUri=x)"},
            "ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET: is a Key Vault reference; expected its value",
            id="reference",
        ),
        pytest.param(
            {
                "ENVIRONMENTS__DEV__ENTRA_CLIENT_CERTIFICATE": PEM,
                f"ENVIRONMENTS__DEV__{PASSWORD}": "@Microsoft.KeyVault(SecretUri=x)",
            },
            f"ENVIRONMENTS__DEV__{PASSWORD}: is a Key Vault reference; expected its value",
            id="reference-of-a-password",
        ),
        pytest.param(
            {
                "ENVIRONMENTS__DEV__ENTRA_CLIENT_CERTIFICATE": PEM,
                "ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET": "canary",
            },
            "ENVIRONMENTS__DEV__ENTRA_CLIENT_CERTIFICATE: conflicts with ENTRA_CLIENT_SECRET; "
            "expected one of them",
            id="two-credentials",
        ),
        pytest.param(
            {f"ENVIRONMENTS__DEV__{PASSWORD}": "canary"},
            f"ENVIRONMENTS__DEV__{PASSWORD}: expected only together with ENTRA_CLIENT_CERTIFICATE",
            id="password-of-nothing",
        ),
        pytest.param(
            {
                "ENVIRONMENTS__DEV__ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system",
                "ENVIRONMENTS__DEV__ENTRA_CLIENT_ID": "own",
            },
            "ENVIRONMENTS__DEV__ENTRA_MANAGED_IDENTITY_CLIENT_ID: expected a client id: "
            "ENTRA_CLIENT_ID trusts user-assigned identities only",
            id="app-that-trusts-the-system",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__CODE_TTL": "60"},
            "ENVIRONMENTS__DEV__CODE_TTL: is for the whole connection, expected CODE_TTL",
            id="of-the-connection",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__OUTBOX_QUEUE": "canary"},
            "ENVIRONMENTS__DEV__OUTBOX_QUEUE: is for the whole app, expected OUTBOX_QUEUE",
            id="of-the-app",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEY": "canary"},
            "ENVIRONMENTS__DEV__STATE_KEY: no such setting; the nearest is STATE_KEYS",
            id="misspelt",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__PAGE_LOGOS": "canary"},
            "ENVIRONMENTS__DEV__PAGE_LOGOS: no such setting",
            id="nearest-is-none-of-an-environment",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__UAT__DYNAMICS_URL": "canary"},
            "ENVIRONMENTS__DEV__UAT__DYNAMICS_URL: no such setting; the nearest is DYNAMICS_URL",
            id="two-names",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__ENTRA_AUTHORITY": "https://adfs.example.com/adfs"},
            "ENVIRONMENTS__DEV__ENTRA_AUTHORITY: is of another host than the inherited credential; "
            f"expected one of {one_of('ENVIRONMENTS__DEV__')}",
            id="another-login-host",
        ),
        pytest.param(
            {
                "ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com",
                "ENVIRONMENTS__DEV__ENTRA_TENANT_ID": "contoso.com",
            },
            "ENVIRONMENTS__DEV__ENTRA_TENANT_ID: is of another host than the inherited credential; "
            f"expected one of {one_of('ENVIRONMENTS__DEV__')}",
            id="tenant-of-another-login-host",
        ),
        pytest.param(
            {"ActiveDirectoryResource": "https://own.operations.dynamics.com"},
            "ActiveDirectoryResource: is of another host than ENVIRONMENTS__DEV__DYNAMICS_URL; "
            "expected ENVIRONMENTS__DEV__DYNAMICS_SCOPE beside it",
            id="inherited-scope",
        ),
    ],
)
def test_what_is_wrong_with_an_environment_is_said_under_its_name(
    changes: Mapping[str, str], expected: str
) -> None:
    found = settings_reader.read({**BASE, **changes}).connections
    assert found.problems == (expected,)
    default = found.by_name["default"]
    wrong = default.environments["dev"] if isinstance(default, Connection) else default
    assert isinstance(wrong, Misconfigured)
    assert wrong.problems == (expected,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {f"{ITS}DYNAMICS_TIMEOUT": "61"},
            [f"{ITS}DYNAMICS_TIMEOUT: expected seconds for one attempt, up to 60"],
            id="its-own",
        ),
        pytest.param(
            {f"{ITS}CODE_TTL": "61"},
            [f"{ITS}CODE_TTL: is for the whole connection, expected CODE_TTL"],
            id="of-the-connection",
        ),
        pytest.param(
            {
                f"{ITS}DYNAMICS_URL": url("x"),
                "ENVIRONMENTS__DEV__DYNAMICS_SCOPE": "api://x/.default",
            },
            [
                (
                    f"ENVIRONMENTS__DEV__DYNAMICS_SCOPE: is of another host than {ITS}DYNAMICS_URL"
                    f"; expected {ITS}DYNAMICS_SCOPE beside it"
                )
            ],
            id="scope-of-the-same-environment",
        ),
        pytest.param(
            {
                f"{ITS}ENTRA_TENANT_ID": "contoso.com",
                "ENVIRONMENTS__DEV__ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com",
                "ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET": "canary",
            },
            [
                (
                    f"{ITS}ENTRA_TENANT_ID: is of another host than the inherited credential; "
                    f"expected one of {one_of(ITS)}"
                )
            ],
            id="secret-of-the-same-environment",
        ),
        pytest.param(
            {f"{ITS}ENTRA_CLIENT_CERTIFICATE": PEM, f"{ITS}ENTRA_CLIENT_SECRET": "canary"},
            [
                (
                    f"{ITS}ENTRA_CLIENT_CERTIFICATE: conflicts with ENTRA_CLIENT_SECRET; expected "
                    "one of them"
                )
            ],
            id="two-credentials",
        ),
        pytest.param(
            {"CONNECTIONS__X__STATE_KEYS": key("E", "x"), "CONNECTIONS__X__DYNAMICS_URL": url("x")},
            [
                (
                    "ENVIRONMENTS__DEV__STATE_KEYS: expected its own: whoever has one of them can "
                    "mint the states of another environment"
                )
            ],
            id="key-of-the-connection",
        ),
        pytest.param(
            {f"{ITS}DYNAMICS_BODY": VERIFIER, "CONNECTIONS__X__PROVIDER_PKCE": "false"},
            [f"{ITS}DYNAMICS_BODY: {NO_VERIFIER}"],
            id="verifier-without-pkce",
        ),
        pytest.param(
            {"CONNECTIONS__X__ENVIRONMENTS__UAT__STATE_KEYS": key("U")},
            [
                (
                    "CONNECTIONS__X__ENVIRONMENTS__UAT__DYNAMICS_URL: missing; expected https URL "
                    "to POST to, such as https://contoso.operations.dynamics.com/data/OAuthCallbacks"
                )
            ],
            id="no-url",
        ),
        pytest.param(
            {"CONNECTIONS__X__ENVIRONMENTS__DEV": "canary"},
            ["CONNECTIONS__X__ENVIRONMENTS__DEV: no such setting"],
            id="no-setting",
        ),
        pytest.param(
            {"CONNECTIONS__X__ENVIRONMENTS__A.B__DYNAMICS_URL": url("x")},
            ["CONNECTIONS__X__ENVIRONMENTS__A.B__DYNAMICS_URL: no such setting"],
            id="no-name",
        ),
        pytest.param(
            {"CONNECTIONS__X__ENVIRONMENTS__UAT__DYNAMICS_URL": url("x"), **PATTERN_OF_NONE},
            [
                (
                    "CONNECTIONS__X__STATE_PATTERN: expected a group (?P<env>…), because "
                    "ENVIRONMENTS__… is set"
                )
            ],
            id="pattern-that-names-none",
        ),
        pytest.param(
            {
                "CONNECTIONS__X__ENVIRONMENTS__UAT__DYNAMICS_URL": url("x"),
                "CONNECTIONS__X__STATE_POLICY": "opaque",
            },
            ["CONNECTIONS__X__STATE_POLICY: expected signed, because ENVIRONMENTS__… is set"],
            id="opaque-states-name-none",
        ),
    ],
)
def test_what_a_connection_says_of_an_environment_is_named_in_full(
    changes: Mapping[str, str], expected: list[str]
) -> None:
    found = settings_reader.read({**BASE, **X, **changes}).connections
    assert list(found.problems) == expected
    assert isinstance(found.by_name["default"], Connection)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {
                "ENVIRONMENTS__DEV__DYNAMICS_URL": "canary",
                f"ENVIRONMENTS__DEV__{PASSWORD}": "canary",
            },
            [
                (
                    "ENVIRONMENTS__DEV__DYNAMICS_URL: expected https URL to POST to, such as "
                    "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
                ),
                (
                    f"ENVIRONMENTS__DEV__{PASSWORD}: expected only together with "
                    "ENTRA_CLIENT_CERTIFICATE"
                ),
            ],
            id="a-value-and-a-conflict",
        ),
        pytest.param(
            {
                "DYNAMICS_SCOPE": "api://x/.default",
                f"{ITS}DYNAMICS_URL": url("x"),
                "CONNECTIONS__X__DYNAMICS_SCOPE": "api://x/.default",
            },
            [
                (
                    "DYNAMICS_SCOPE: is of another host than ENVIRONMENTS__DEV__DYNAMICS_URL; "
                    "expected ENVIRONMENTS__DEV__DYNAMICS_SCOPE beside it"
                ),
                (
                    f"CONNECTIONS__X__DYNAMICS_SCOPE: is of another host than {ITS}DYNAMICS_URL; "
                    f"expected {ITS}DYNAMICS_SCOPE beside it"
                ),
                (
                    f"CONNECTIONS__X__DYNAMICS_SCOPE: is of another host than {ITS}DYNAMICS_URL; "
                    "expected ENVIRONMENTS__DEV__DYNAMICS_SCOPE beside it"
                ),
            ],
            id="scopes-of-others",
        ),
    ],
)
def test_all_that_is_wrong_with_an_environment_is_named_at_once(
    changes: Mapping[str, str], expected: list[str]
) -> None:
    found = settings_reader.read({**BASE, **X, **changes}).connections
    assert list(found.problems) == expected


def test_one_bad_environment_hides_no_clash_of_the_next() -> None:
    given = {
        **BASE,
        "ENVIRONMENTS__A__DYNAMICS_URL": "canary",
        "ENVIRONMENTS__B__DYNAMICS_URL": url("b"),
        "ENVIRONMENTS__B__STATE_KEYS": key("A", "b"),
        "ENVIRONMENTS__C__DYNAMICS_URL": url("c"),
        "ENVIRONMENTS__C__STATE_KEYS": f"{key('C', 'c')},{key('E', 'd')},{key('E', 'e')}",
        "ENVIRONMENTS__C__DYNAMICS_BODY": VERIFIER,
        "PROVIDER_PKCE": "false",
    }
    its_own = (
        "STATE_KEYS: expected its own: whoever has one of them can mint the states of another "
        "environment"
    )
    assert settings_reader.read(given).connections.problems == (
        (
            "ENVIRONMENTS__A__DYNAMICS_URL: expected https URL to POST to, such as "
            "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
        ),
        f"ENVIRONMENTS__B__{its_own}",
        f"ENVIRONMENTS__C__DYNAMICS_BODY: {NO_VERIFIER}",
        f"ENVIRONMENTS__DEV__{its_own}",
    )


@pytest.mark.parametrize(
    "name",
    [
        "ENVIRONMENTS__",
        "ENVIRONMENTS__DEV",
        "ENVIRONMENTS__DEV__",
        "ENVIRONMENTS____DYNAMICS_URL",
        "ENVIRONMENTS__A.B__DYNAMICS_URL",
        f"ENVIRONMENTS__{'A' * 65}__DYNAMICS_URL",
    ],
)
def test_a_name_that_makes_no_environment_is_named_once(name: str) -> None:
    # First, and so before what would make it one.
    given = {name: "canary", "ENVIRONMENTS__A/B__X": "canary", **BASE}
    assert settings_reader.read(given).connections.problems == (
        (
            "ENVIRONMENTS__…: expected ENVIRONMENTS__<NAME>__<SETTING>, a name of letters, digits "
            "and _"
        ),
    )


# -- whose value counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [("UAT", "uat"), ("uat", "uat"), ("UAT_2", "uat-2"), ("UAT-2", "uat-2"), ("A" * 64, "a" * 64)],
)
def test_an_environment_is_called_as_its_settings_are(label: str, name: str) -> None:
    its = {"DYNAMICS_URL": url("uat"), "STATE_KEYS": key("U")}
    given = {**BASE, **{f"Environments__{label}__{each}": its[each] for each in its}}
    assert list(connection(given).environments) == sorted(["dev", name])
    assert environment(given, name).target.url == url("uat")


CERTIFICATE = {"ENTRA_CLIENT_CERTIFICATE": PEM, PASSWORD: "word"}
OUTER = {
    "secret": ({"ENTRA_CLIENT_SECRET": "outer"}, ClientSecret("outer")),
    "certificate": (CERTIFICATE, ClientCertificate(PEM, "word")),
    "identity": ({"ENTRA_MANAGED_IDENTITY_CLIENT_ID": IDENTITY}, ManagedIdentity(IDENTITY)),
}
INNER = {
    "none": {},
    "secret": {"ENTRA_CLIENT_SECRET": "inner"},
    "certificate": {"ENTRA_CLIENT_CERTIFICATE": PEM + "inner"},
    "identity": {"ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system"},
}


@pytest.mark.parametrize("prefix", ["ENVIRONMENTS__DEV__", ITS])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", OUTER)
def test_an_environments_credential_takes_the_place_of_any_inherited(
    outer: str, inner: str, prefix: str
) -> None:
    settings, inherited = OUTER[outer]
    own = {f"{prefix}{name}": value for name, value in INNER[inner].items()}
    given = {**BASE, **X, "ENTRA_CLIENT_SECRET": "", **settings, **own}
    credential = {
        "none": inherited,
        "secret": ClientSecret("inner"),
        "certificate": ClientCertificate(PEM + "inner", None),
        "identity": ManagedIdentity(None),
    }[inner]
    credentials = environment(given, owner="x").credentials
    assert credentials.credential == credential
    assert credentials.client_id == (None if inner == "identity" else "client")
    assert credentials.scope == "https://dev.operations.dynamics.com/.default"
    assert connection(given).credentials.credential == inherited


PLACES = ("", "CONNECTIONS__X__", "ENVIRONMENTS__DEV__", ITS)
"""Where a setting of X's environment may stand, the last one counts."""
VALUES = {
    "ENTRA_TENANT_ID": ("a.example", "b.example", "c.example", "d.example"),
    "ENTRA_CLIENT_ID": ("a", "b", "c", "d"),
    "ENTRA_CLIENT_SECRET": ("a", "b", "c", "d"),
    "DYNAMICS_BODY": ('{"a": "{code}"}', '{"b": "{code}"}', '{"c": "{code}"}', '{"d": "{code}"}'),
    "DYNAMICS_TIMEOUT": ("1", "2", "3", "4"),
}


def fact(each: Environment, setting: str) -> object:
    """Return what a setting has become."""
    credential = each.credentials.credential
    return {
        "ENTRA_TENANT_ID": each.credentials.authority,
        "ENTRA_CLIENT_ID": each.credentials.client_id,
        "ENTRA_CLIENT_SECRET": credential.value if isinstance(credential, ClientSecret) else None,
        "DYNAMICS_BODY": each.target.body.render({"code": "x"}),
        "DYNAMICS_TIMEOUT": each.target.timeout,
    }[setting]


@pytest.mark.parametrize("setting", VALUES)
def test_the_setting_that_is_nearest_to_an_environment_counts(setting: str) -> None:
    known: Mapping[str, list[object]] = {
        "ENTRA_TENANT_ID": [f"https://login.microsoftonline.com/{each}.example" for each in "abcd"],
        "DYNAMICS_BODY": [f'{{"{each}":"x"}}'.encode() for each in "abcd"],
        "DYNAMICS_TIMEOUT": [1.0, 2.0, 3.0, 4.0],
    }
    expected = known.get(setting, ["a", "b", "c", "d"])
    given = {**BASE, **X}
    for place, value, become in zip(PLACES, VALUES[setting], expected, strict=True):
        given = {f"{place}{setting}": value, **without(given, f"{place}{setting}")}
        assert fact(environment(given, owner="x"), setting) == become


def test_an_environments_tenant_counts_before_an_inherited_authority() -> None:
    given = {
        **BASE,
        "ENTRA_AUTHORITY": "https://login.microsoftonline.us/contoso.com",
        "ENVIRONMENTS__DEV__ENTRA_TENANT_ID": "fabrikam.com",
        "ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET": "own",
    }
    assert environment(given).credentials.authority == (
        "https://login.microsoftonline.com/fabrikam.com"
    )


def test_an_environment_has_its_keys_its_url_and_the_name_of_its_connection() -> None:
    dev = environment({**BASE, **X}, owner="x")
    assert (dev.target.url, dev.target.connection, list(dev.state_keys)) == (
        url("dev"),
        "x",
        ["k1"],
    )
    given = {**BASE, **PATTERN, "ENVIRONMENTS__DEV__STATE_KEYS": ""}
    assert environment(given).state_keys == {}
    found = connection({**BASE, f"{ITS}STATE_KEYS": key("X", "x")}, "x")
    assert list(found.at("dev").state_keys) == ["x"]


def test_one_environment_may_have_a_key_under_two_names() -> None:
    keys = f"{key('E')},{key('E', 'k2')}"
    assert len(environment({**BASE, "ENVIRONMENTS__DEV__STATE_KEYS": keys}).state_keys) == 2


# -- which connections have environments ---------------------------------------------------------


def test_environments_of_one_connection_are_none_of_another() -> None:
    its = {f"CONNECTIONS__X__{name}": value for name, value in LEAST.items()}
    given = {**its, "CONNECTIONS__Y__DYNAMICS_URL": url("y"), **PLAIN, "STATE_KEYS": key("A")}
    found = settings_reader.read(given).connections
    assert sorted(found.by_name) == ["x", "y"]
    assert list(connection(given, "x").environments) == ["dev"]
    assert connection(given, "y").environments == {}


@pytest.mark.parametrize(
    "own",
    [
        {"CONNECTIONS__X__STATE_POLICY": "opaque"},
        PATTERN_OF_NONE,
    ],
    ids=["opaque", "pattern"],
)
def test_a_connection_whose_states_name_none_has_no_environments(own: Mapping[str, str]) -> None:
    found = connection({**BASE, **own}, "x")
    assert (found.environments, found.has_target, found.target.url) == ({}, True, url("own"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"STATE_POLICY": "opaque"},
            "STATE_POLICY: expected signed, because ENVIRONMENTS__… is set",
            id="opaque",
        ),
        pytest.param(
            {"STATE_POLICY": "pattern", "STATE_PATTERN": "^env[0-9]{8}$"},
            "STATE_PATTERN: expected a group (?P<env>…), because ENVIRONMENTS__… is set",
            id="pattern-without-a-group",
        ),
        pytest.param(
            {"STATE_POLICY": "pattern"},
            "STATE_PATTERN: expected, because STATE_POLICY is pattern",
            id="no-pattern",
        ),
    ],
)
def test_states_that_could_not_name_an_environment_are_one_problem(
    changes: Mapping[str, str], expected: str
) -> None:
    found = settings_reader.read({**BASE, **changes}).connections
    default = found.by_name["default"]
    assert isinstance(default, Misconfigured)
    assert found.problems == default.problems == (expected,)


@pytest.mark.parametrize(
    "policy", [{}, {"STATE_POLICY": "signed"}, PATTERN], ids=["no", "signed", "pattern"]
)
def test_states_that_can_name_an_environment_are_taken(policy: Mapping[str, str]) -> None:
    found = connection({**BASE, **policy})
    assert found.state_policy == policy.get("STATE_POLICY", StatePolicy.SIGNED)
    assert list(found.environments) == ["dev"]


# -- no target but environments ------------------------------------------------------------------


def test_a_plain_environment_alone_makes_the_default_connection_without_a_target() -> None:
    default = connection(LEAST)
    assert (default.has_target, default.state_keys) == (False, {})
    assert default.at("dev").credentials.credential == ClientSecret("canary")


def test_what_an_environment_has_beside_its_url_makes_no_connection() -> None:
    given = {name: value for name, value in LEAST.items() if not name.endswith("_URL")}
    found = settings_reader.read(given).connections
    assert found.by_name == {}
    assert found.problems == (
        (
            "DYNAMICS_URL: missing; expected https URL to POST to, such as "
            "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
        ),
    )


def test_a_connection_inherits_no_target_where_there_are_environments() -> None:
    found = connection({**BASE, **X}, "x")
    assert (found.has_target, found.state_keys) == (False, {})
    own = connection({**BASE, "CONNECTIONS__X__DYNAMICS_URL": url("x")}, "x")
    assert (own.has_target, own.target.url, list(own.state_keys)) == (True, url("x"), ["k1"])


@pytest.mark.parametrize(
    "name", ["DYNAMICS_URL", "URIString", "CONNECTIONS__DEFAULT__DYNAMICS_URL"]
)
def test_the_default_connection_has_a_plain_target(name: str) -> None:
    default = connection({**LEAST, "STATE_KEYS": key("A"), name: url("own")})
    assert (default.has_target, default.target.url) == (True, url("own"))


def test_a_key_of_no_target_may_be_that_of_an_environment() -> None:
    default = connection({**LEAST, "STATE_KEYS": key("E")})
    assert (default.has_target, default.state_keys) == (False, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": ""},
            [
                (
                    "ENVIRONMENTS__DEV__STATE_KEYS: expected its own; those of others are not good "
                    "for it"
                )
            ],
            id="no-right-environment",
        ),
        pytest.param(
            {"STATE_KEYS": "canary"},
            [
                (
                    "STATE_KEYS: expected kid:key[,kid:key…], each key 32 random bytes in "
                    "base64url; the first mints, all verify"
                )
            ],
            id="wrong-keys-of-no-target",
        ),
        pytest.param(
            {"CODE_TTL": "canary"},
            ["CODE_TTL: expected seconds an authorization code of this provider lives"],
            id="the-connections-own",
        ),
        pytest.param(
            {"PROVIDER_PKCE": "false", "DYNAMICS_BODY": VERIFIER},
            [f"DYNAMICS_BODY: {NO_VERIFIER}"],
            id="verifier-without-pkce",
        ),
    ],
)
def test_what_is_wrong_without_a_target_is_named_once(
    changes: Mapping[str, str], expected: list[str]
) -> None:
    found = settings_reader.read({**LEAST, **changes}).connections
    default = found.by_name["default"]
    assert isinstance(default, Misconfigured)
    assert list(found.problems) == list(default.problems) == expected


def test_credentials_of_no_target_are_not_checked() -> None:
    given = {**LEAST, PASSWORD: "canary", "ENVIRONMENTS__DEV__ENTRA_CLIENT_SECRET": "own"}
    assert environment(given).credentials.credential == ClientSecret("own")


def test_the_first_right_environment_stands_in_for_a_wrong_one() -> None:
    given = {
        **LEAST,
        "ENVIRONMENTS__A__DYNAMICS_URL": "canary",
        "ENVIRONMENTS__UAT__DYNAMICS_URL": url("uat"),
        "ENVIRONMENTS__UAT__STATE_KEYS": key("U"),
    }
    found = settings_reader.read(given).connections
    default = found.get("default")
    assert [isinstance(each, Environment) for each in default.environments.values()] == [
        False,
        True,
        True,
    ]
    assert default.target.url == url("dev")


# -- warnings ------------------------------------------------------------------------------------

CLOUD = "of the US Government cloud; expected https://login.microsoftonline.us/ and the tenant"
US = "https://x.operations.dynamics.us/data/X"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_URL": US},
            [
                (
                    "ENVIRONMENTS__DEV__ENTRA_AUTHORITY: is of the public cloud, but "
                    f"ENVIRONMENTS__DEV__DYNAMICS_URL {CLOUD}"
                )
            ],
            id="environment",
        ),
        pytest.param(
            {
                "ENTRA_AUTHORITY": "https://login.microsoftonline.com/contoso.com",
                "ENVIRONMENTS__DEV__DYNAMICS_URL": US,
                "DYNAMICS_URL": US,
            },
            [
                f"ENTRA_AUTHORITY: is of the public cloud, but DYNAMICS_URL {CLOUD}",
                (
                    "ENTRA_AUTHORITY: is of the public cloud, but "
                    f"ENVIRONMENTS__DEV__DYNAMICS_URL {CLOUD}"
                ),
            ],
            id="both",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_URL": US, "DYNAMICS_URL": ""},
            [
                (
                    "ENVIRONMENTS__DEV__ENTRA_AUTHORITY: is of the public cloud, but "
                    f"ENVIRONMENTS__DEV__DYNAMICS_URL {CLOUD}"
                )
            ],
            id="no-target",
        ),
        pytest.param(
            {"ENVIRONMENTS__A__DYNAMICS_URL": "canary", "ENVIRONMENTS__DEV__DYNAMICS_URL": US},
            [
                (
                    "ENVIRONMENTS__DEV__ENTRA_AUTHORITY: is of the public cloud, but "
                    f"ENVIRONMENTS__DEV__DYNAMICS_URL {CLOUD}"
                )
            ],
            id="beside-a-wrong-one",
        ),
        pytest.param(
            PATTERN,
            [
                (
                    "STATE_PATTERN: names the environment, so strangers choose it; expected "
                    "STATE_POLICY=signed"
                )
            ],
            id="pattern",
        ),
        pytest.param({**X, "ENVIRONMENT__DEV__DYNAMICS_URL": "canary"}, [], id="another-name"),
    ],
)
def test_what_is_suspicious_of_an_environment_is_warned_of(
    changes: Mapping[str, str], expected: list[str]
) -> None:
    assert list(settings_reader.read({**BASE, **changes}).warnings) == expected


def test_a_pattern_that_names_an_environment_is_no_warning_where_there_is_none() -> None:
    given = {**PLAIN, "DYNAMICS_URL": url("own"), **PATTERN}
    assert settings_reader.read(given).warnings == ()


def test_each_bad_environment_is_named() -> None:
    given = {**BASE, "ENVIRONMENTS__A__CODE_TTL": "1", "ENVIRONMENTS__B__CODE_TTL": "1"}
    named = [each.partition(":")[0] for each in settings_reader.read(given).connections.problems]
    assert {each.rpartition("__")[0] for each in named} == {"ENVIRONMENTS__A", "ENVIRONMENTS__B"}
