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
        pytest.param("PROVIDER_EXTRA", "state=x", id="a-parameter-that-the-relay-sets"),
        pytest.param("PROVIDER_EXTRA", "a=%ff", id="a-parameter-that-is-not-utf-8"),
        pytest.param(
            "PROVIDER_AUTHORIZATION_ENDPOINT", "https://as.example/?state=x", id="endpoint-with-it"
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
