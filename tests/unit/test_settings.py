"""Models of the app settings: each value that cannot be right is refused, and never quoted."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from relay import settings
from relay.settings import AppSettings, ConnectionSettings

URL = "https://contoso.operations.dynamics.com/data/OAuthCallbacks"

PEM = "\n".join(
    f"-----BEGIN {what}-----\nMIIB\n-----END {what}-----" for what in ("PRIVATE KEY", "CERTIFICATE")
)
"""What has the shape of a key and its certificate."""

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
    "PROVIDER_NAME": "canary\tcanary",
    "PAGE_ORGANIZATION": "canary" * 11,
    "PAGE_SUPPORT": "canary\tcanary",
    "PAGE_RETURN_URL": "http://canary.example",
    "PAGE_ACCENT": "canary",
    "PAGE_LOGO": "https://canary.example/logo.png",
    "PROVIDER_STATE_PARAMETER": "canary state",
    "PROVIDER_PKCE": "canary",
    "PROVIDER_RESPONSE_TYPE": "canary",
    "CA_BUNDLE": "canary.pem",
    "OUTBOX_KEYS": "canary",
    "OUTBOX_QUEUE": "canary queue",
}
"""A wrong value for each setting that can have one."""
WHOLE_APP = ("CA_BUNDLE", "OUTBOX_KEYS", "OUTBOX_QUEUE")
PER_CONNECTION = [name for name in WRONG if name not in WHOLE_APP]


def refused(setting: str, value: str) -> list[str]:
    """Return the settings of a connection that are refused when this one has this value."""
    with pytest.raises(ValidationError) as caught:
        ConnectionSettings.model_validate({"DYNAMICS_URL": URL, setting: value})
    return [str(error["loc"][0]) for error in caught.value.errors(include_input=False)]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(PEM.replace("PRIVATE KEY", "NO KEY"), id="no-key"),
        pytest.param(PEM.replace("CERTIFICATE", "NO"), id="no-certificate"),
        pytest.param("x" * 5_000, id="too-long-for-a-path"),
        pytest.param("a\0b", id="no-path-at-all"),
    ],
)
def test_a_certificate_that_is_none_is_refused(wrong: str) -> None:
    assert refused("ENTRA_CLIENT_CERTIFICATE", wrong) == ["ENTRA_CLIENT_CERTIFICATE"]


def test_a_certificate_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "client.pfx"
    path.write_bytes(b"whatever it holds is read when it is needed")
    given = {"DYNAMICS_URL": URL, "ENTRA_CLIENT_CERTIFICATE": str(path)}
    certificate = ConnectionSettings.model_validate(given).entra_client_certificate
    assert certificate is not None
    assert certificate.get_secret_value() == str(path)


def test_only_names_and_secrets_can_have_no_wrong_value() -> None:
    every = {*settings.names(ConnectionSettings), *settings.names(AppSettings)}
    assert every - set(WRONG) == {
        "ENTRA_CLIENT_ID",
        "ENTRA_CLIENT_SECRET",
        "ENTRA_CLIENT_CERTIFICATE_PASSWORD",
    }


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
        pytest.param("PAGE_RETURN_URL", "https://{outcome}.example/x", id="outcome-as-a-host"),
        pytest.param("PAGE_RETURN_URL", "https://contoso.example/{code}", id="another-placeholder"),
        pytest.param("PAGE_RETURN_URL", "https://contoso.example/#é", id="fragment-beyond-ascii"),
        pytest.param("PAGE_RETURN_URL", "javascript:alert(1)", id="a-script-as-the-way-back"),
        pytest.param("PAGE_ACCENT", "#787878", id="too-light-for-white-text"),
        pytest.param("PAGE_ACCENT", "#12345", id="five-digits"),
        pytest.param("PAGE_ACCENT", "red", id="a-colours-name"),
        pytest.param("PAGE_LOGO", f"data:image/svg+xml,<svg>{'x' * 16_384}", id="large-logo"),
        pytest.param("PAGE_LOGO", "data:image/svg+xml,<svg fill='#fff'/>", id="unescaped-hash"),
        pytest.param("PAGE_LOGO", "data:image/svg+xml,<html>", id="no-svg"),
        pytest.param("PAGE_LOGO", "data:image/svg+xml;base64,PHN2Zz4", id="cut-off-base64"),
        pytest.param("PAGE_LOGO", "data:image/png;base64,R0lGODlhAQABAAAAACw=", id="a-gif-as-png"),
        pytest.param("PAGE_LOGO", "data:text/html,<svg>", id="another-media-type"),
        pytest.param("PAGE_ORGANIZATION", "a\u202eb", id="a-right-to-left-override"),
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
        pytest.param("PROVIDER_CODE_PARAMETER", "state", id="code-is-the-state"),
        pytest.param("PROVIDER_CODE_PARAMETER", "response", id="code-is-a-jwt"),
        pytest.param("PROVIDER_STATE_PARAMETER", "code", id="state-is-the-code"),
        pytest.param("PROVIDER_STATE_PARAMETER", "iss", id="state-is-the-issuer"),
        pytest.param("PROVIDER_REDIRECT_URI", "relay.example/callback", id="half-an-address"),
        pytest.param("PROVIDER_REDIRECT_URI", "urn:x", id="another-scheme-of-address"),
        pytest.param("PROVIDER_REDIRECT_URI", "a name", id="a-name-with-a-space"),
        pytest.param("PROVIDER_CODE_PARAMETER", "x" * 65, id="a-parameter-of-65-characters"),
        pytest.param("PROVIDER_CODE_PARAMETER", "id_token", id="code-is-an-id-token"),
        pytest.param("PROVIDER_EXTRA", "state=x", id="a-parameter-that-the-relay-sets"),
        pytest.param("PROVIDER_EXTRA", "a b=x", id="no-name-of-a-parameter"),
        pytest.param("PROVIDER_EXTRA", "a=x&&b=y", id="an-empty-parameter"),
        pytest.param("PROVIDER_EXTRA", "a=%ff", id="a-parameter-that-is-not-utf-8"),
        pytest.param(
            "PROVIDER_AUTHORIZATION_ENDPOINT", "https://as.example/?state=x", id="endpoint-with-it"
        ),
        pytest.param(
            "PROVIDER_AUTHORIZATION_ENDPOINT", "https://as.example/?state", id="endpoint-with-less"
        ),
    ],
)
def test_a_value_that_can_not_be_right_is_refused(setting: str, value: str) -> None:
    assert refused(setting, value) == [setting]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DYNAMICS_BODY", '{"code": "{code}", "x": ' + "[" * 3_000 + "]" * 3_000 + "}"),
        ("STATE_PATTERN", "^" + "(" * 3_000 + ")" * 3_000 + "$"),
    ],
)
def test_a_value_that_is_too_deep_is_refused(setting: str, value: str) -> None:
    try:
        found = refused(setting, value)
    except RecursionError:
        pytest.fail("RecursionError", pytrace=False)  # whose traceback has a thousand lines
    assert found == [setting]


def pattern_problem(pattern: str) -> str | None:
    """Return why a pattern is refused."""
    try:
        ConnectionSettings.model_validate({"DYNAMICS_URL": URL, "STATE_PATTERN": pattern})
    except ValidationError as error:
        [found] = error.errors(include_input=False)
        return found["msg"].removeprefix("Value error, ")
    return None


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "^(a|b)+$",
        "^(a|aa)+$",
        "^(?P<env>[a-z]+)*$",
        "^(?:[a-z]*-?)*$",
        "^(a?){50}$",
        "^(a*)++$",
        "^(a{1,3})+$",
        "^(a{2,})+?$",
        "^((a+))+$",
        "^((a+)b)+$",
        "^(a+(b)c)+$",
        "^(a+(?:b))*$",
        "^(?:(a|b)+c)$",
        "^((a|b)c)+$",
        "^(?:x(a)(?:b|c))+$",
        r"^(a\|+)+$",
        "^.+-.+-.+$",
        "^[a-z-]*x[a-z-]*y[a-z-]*$",
        "^[a-z]+[a-z]{2,}[a-z]{,}x$",
        "^[a-z]+?[a-z]*?[a-z]{2,}?x$",
        "^[a-z]+[a-f]+[e-g]+$",
        "^x[a-z]+[a-f]+[a-z]+$",
        "^[a-m]+[n-z]+[n-z]+[n-z]+$",
        r"^(a)\1+\1+\1+$",
        r"^(?:a+)\.?(?:b.)*.*-.*$",
    ],
)
def test_a_pattern_that_could_take_hours_is_refused(pattern: str) -> None:
    assert pattern_problem(pattern) == (
        "a repeated group holds a quantifier or alternatives, or three open repeats share a "
        "character: a stranger's state could take seconds or hours; bound them, such as {1,64}"
    )


@pytest.mark.parametrize("pattern", ["^$", "^a*$", "^(abc)?$", "^.*$", "^.+$", r"^[\x20-\x7e]+$"])
def test_a_pattern_that_matches_nothing_or_anything_is_refused(pattern: str) -> None:
    assert pattern_problem(pattern) == "it matches the empty state or any state"


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Za-z0-9_-]{43}$",
        r"^(?P<env>dev|uat)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}$",
        r"^cb\(\d+\)[+*(]{1,3}$",
        "^(?:[a-z]++-)+x$",
        "^[a-z]+-[a-z]+-[a-z]+$",
        r"^\w+\.\w+\.\w+$",
        "^(ab)+$",
        "^(ab){2,3}$",
        "^(a+)X$",
        "^(a+)?b$",
        "^(a|b)(c|d)$",
        "^(?:(a)(b))+$",
        "^((a)b)+$",
        "^[a-z]+[a-z]+$",
        "^[a-z]+[a-z]+-[a-z]+[a-z]+$",
        "^[a-z]+[a-z]{1,64}[a-z]{3}[a-z]++[a-z]?x[a-z]+$",
        "^[a-m]+[n-z]+[a-m]+$",
        "^[a-m]+[n-z]+[n-z]+$",
        "^[a-z]+X[a-z]+X[a-z]+$",
        r"^[a-z]+\n[a-z]+\n[a-z]+$",
        "^(?x:a#)\n)b$",
        "^X+Y+Z+$",
    ],
)
def test_usual_patterns_are_taken(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ENTRA_AUTHORITY", "https://login.microsoftonline.com/Contoso-X.com"),
        ("ENTRA_AUTHORITY", "https://adfs.example.com/adfs/X"),
        ("ENTRA_TENANT_ID", "AZ-az.09"),
        ("DYNAMICS_SCOPE", "api://AZ-az_09~/.default"),
        ("DYNAMICS_TIMEOUT", 60),
        ("CODE_TTL", 86_400),
        ("PROVIDER_SCOPE", "AZaz!# ~"),
        ("PROVIDER_CLIENT_ID", "a ~"),
        ("PROVIDER_CODE_PARAMETER", "AZaz09_.~-"),
        ("PROVIDER_CODE_PARAMETER", "x" * 64),
        ("PROVIDER_REDIRECT_URI", "!Contoso-RuName_09~"),
        ("PROVIDER_NAME", "x" * 60),
        ("PAGE_ORGANIZATION", "x" * 60),
        ("PAGE_SUPPORT", "x" * 200),
        ("PAGE_RETURN_URL", "https://x.example/X?{outcome}={reference}#a#{outcome}"),
    ],
)
def test_a_value_at_the_edge_is_taken_as_it_is(setting: str, value: object) -> None:
    read = ConnectionSettings.model_validate({"DYNAMICS_URL": URL, setting: value})
    assert getattr(read, setting.lower()) == value


@pytest.mark.parametrize(
    ("value", "authority"),
    [
        ("contoso.com", "https://login.microsoftonline.com/contoso.com"),
        ("https://x.example/X/", "https://x.example/X"),
        ("https://x.example/X//", "https://x.example/X"),
        ("https://x.example/t/v2.0/", "https://x.example/t"),
        ("https://x.example/t/oauth2/token", "https://x.example/t"),
        ("https://x.example/t/oauth2/authorize/", "https://x.example/t"),
        ("https://x.example/t/oauth2/v2.0/token", "https://x.example/t"),
        ("https://x.example/t/oauth2/v2.0/authorize", "https://x.example/t"),
        (
            "https://x.example/t/oauth2/v2.0/devicecode",
            "https://x.example/t/oauth2/v2.0/devicecode",
        ),
    ],
)
def test_an_authority_ends_where_its_tenant_ends(value: str, authority: str) -> None:
    assert settings.authority(value) == authority


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ("prompt=consent&access_type=offline", (("prompt", "consent"), ("access_type", "offline"))),
        ("A-z.0_9=&x=%C3%A9+y", (("A-z.0_9", ""), ("x", "é y"))),
    ],
)
def test_further_parameters_are_read_from_a_query_string(
    value: str, pairs: tuple[tuple[str, str], ...]
) -> None:
    read = ConnectionSettings.model_validate({"DYNAMICS_URL": URL, "PROVIDER_EXTRA": value})
    assert read.provider_extra == pairs


def test_keys_are_read_with_their_names_and_with_or_without_padding() -> None:
    keys = f"A-z_.0:{'-' * 42}8=, {'b' * 32}:{'A' * 43}"
    read = ConnectionSettings.model_validate({"DYNAMICS_URL": URL, "STATE_KEYS": keys})
    assert read.state_keys == {"A-z_.0": b"\xfb\xef\xbe" * 10 + b"\xfb\xef", "b" * 32: bytes(32)}
    sealing = [f"{'-_aZ9' * 8}AAA=", f"{'B' * 43}="]
    assert AppSettings.model_validate({"OUTBOX_KEYS": " , ".join(sealing)}).outbox_keys == (
        sealing[0],
        sealing[1],
    )


@pytest.mark.parametrize("name", ["abc", "a" * 49, "a-0-b"])
def test_a_queue_has_a_name_that_storage_takes(name: str) -> None:
    assert AppSettings.model_validate({"OUTBOX_QUEUE": name}).outbox_queue == name


@pytest.mark.parametrize("name", ["ab", "a" * 50, "A-b", "-ab", "ab-", "a--b", "a_b"])
def test_a_queue_has_no_name_that_storage_refuses(name: str) -> None:
    with pytest.raises(ValidationError):
        AppSettings.model_validate({"OUTBOX_QUEUE": name})


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
    read = ConnectionSettings.model_validate({"DYNAMICS_URL": url, "PROVIDER_ISSUER": url})
    assert (read.dynamics_url, read.provider_issuer) == (url, url)


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
@pytest.mark.parametrize("model", [ConnectionSettings, AppSettings])
def test_not_even_the_error_that_is_caught_quotes_a_value(
    model: type[BaseModel], wrong: dict[str, str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(wrong | {"ENTRA_CLIENT_SECRET": "canary"})
    assert "canary" not in str(caught.value)


def test_a_ca_bundle_that_is_there_is_kept(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    assert AppSettings.model_validate({"CA_BUNDLE": str(bundle)}).ca_bundle == str(bundle)
    assert AppSettings.model_validate({}).ca_bundle is None


def test_the_table_has_a_row_for_each_setting_and_names_the_old_one() -> None:
    rows = {row["setting"]: row for row in settings.table()}
    assert set(rows) == {*settings.names(ConnectionSettings), *WHOLE_APP}
    assert {row["article"]: name for name, row in rows.items() if row["article"]} == {
        "ActiveDirectoryTenant": "ENTRA_AUTHORITY",
        "ActiveDirectoryClientAppId": "ENTRA_CLIENT_ID",
        "ActiveDirectoryClientAppSecret": "ENTRA_CLIENT_SECRET",
        "ActiveDirectoryResource": "DYNAMICS_SCOPE",
        "URIString": "DYNAMICS_URL",
    }
    assert {name for name, row in rows.items() if row["required"]} == {"DYNAMICS_URL"}
    assert all(row["expected"] for row in rows.values())
    defaults = {"CODE_TTL": 300, "PROVIDER_NAME": None, "OUTBOX_QUEUE": "callback-outbox"}
    assert {name: rows[name]["default"] for name in defaults} == defaults
