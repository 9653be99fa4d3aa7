"""How long the authorization codes of known providers live. `docs/providers` has the sources."""

from collections.abc import Mapping
from urllib.parse import urlsplit

CODE_LIFETIMES: Mapping[str, int] = {
    "account.docusign.com": 120,
    "account-d.docusign.com": 120,
    "*.adobesign.com": 300,
    "apps.fortnox.se": 600,
    "auth.ebay.com": 299,
    "auth.sandbox.ebay.com": 299,
    "login.microsoftonline.com": 600,
    "login.salesforce.com": 900,
    "test.salesforce.com": 900,
    "*.my.salesforce.com": 900,
    "login.xero.com": 300,
    "*.okta.com": 300,
    "www.sageone.com": 60,
    "www.tax.service.gov.uk": 600,
    "test-www.tax.service.gov.uk": 600,
    **{f"accounts.zoho.{end}": 120 for end in ("com", "eu", "in", "com.au", "jp", "com.cn")},
    **{f"start.exactonline.{end}": 180 for end in ("nl", "be", "de", "fr", "es", "co.uk", "com")},
}
"""Seconds by the host of the authorization endpoint; `*.` stands for any name below a domain."""
_KEYCLOAK = "/protocol/openid-connect/auth"
_KEYCLOAK_LIFETIME = 60
"""Seconds. Keycloak's default; its hosts are the customers' own, so its path tells it."""


def code_lifetime(authorization_endpoint: str) -> int | None:
    """Return how many seconds a code of this provider lives, or `None` where that is not known."""
    parts = urlsplit(authorization_endpoint)
    host = parts.hostname or ""
    labels = host.split(".")
    for name in (host, *(f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels)))):
        if name in CODE_LIFETIMES:
            return CODE_LIFETIMES[name]
    return _KEYCLOAK_LIFETIME if parts.path.endswith(_KEYCLOAK) else None
