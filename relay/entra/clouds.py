"""Microsoft's clouds: which login hosts, which Dynamics hosts and which audience belong together.

Sources: https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud and
https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity
"""

from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit


class Cloud(NamedTuple):
    """One national cloud.

    `logins` are its login hosts, `dynamics` the suffixes of its Dynamics hosts. `exchange` is the
    audience of a managed identity's token when it serves as an app's federated credential.
    """

    name: str
    logins: tuple[str, ...]
    dynamics: tuple[str, ...]
    exchange: str

    @property
    def login(self) -> str:
        """The login host to put into ENTRA_AUTHORITY."""
        return self.logins[0]


PUBLIC = Cloud(
    "the public cloud",
    ("login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"),
    (".dynamics.com",),
    "api://AzureADTokenExchange",
)
CLOUDS = (
    PUBLIC,
    Cloud(
        "the US Government cloud",
        ("login.microsoftonline.us", "login-us.microsoftonline.com"),
        (".dynamics.us", ".microsoftdynamics.us", ".appsplatform.us"),
        "api://AzureADTokenExchangeUSGov",
    ),
    Cloud(
        "the cloud in China",
        ("login.partner.microsoftonline.cn", "login.chinacloudapi.cn"),
        (".dynamics.cn",),
        "api://AzureADTokenExchangeChina",
    ),
)

NO_TENANT = ("", "common", "organizations", "consumers")
"""Values in the tenant's place that name no tenant: an app-only token needs one."""


@cache
def of_login(authority: str) -> Cloud | None:
    """Return the cloud whose login host an authority URL names, if any."""
    host = _host(authority)
    return next((cloud for cloud in CLOUDS if host in cloud.logins), None)


def of_dynamics(url: str) -> Cloud | None:
    """Return the cloud of a Dynamics host, if its name has a known suffix."""
    host = _host(url)
    return next((cloud for cloud in CLOUDS if host.endswith(cloud.dynamics)), None)


def is_adfs(authority: str) -> bool:
    """Tell whether an authority is AD FS: its path begins with `adfs` instead of a tenant."""
    return urlsplit(authority).path.strip("/").partition("/")[0].lower() == "adfs"


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")
