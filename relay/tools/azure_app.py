"""A deployed app, seen from an operator's desk: found and read with the operator's `az` sign-in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import AzureCliCredential, CredentialUnavailableError

from relay import outgoing

MANAGEMENT = "https://management.azure.com"
"""Azure Resource Manager of the public cloud."""
_GRAPH = "/providers/Microsoft.ResourceGraph/resources?api-version=2022-10-01"
_SITES = "2024-04-01"


class AppUnreadable(Exception):
    """The app cannot be found or read. The message says why, `fix` the next step."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class App:
    """A Function App. `settings`: its app settings, with Key Vault references as they stand."""

    name: str
    resource_group: str
    is_running: bool
    settings: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Desk:
    """Who asks, and whom: the operator's credential and the address of Resource Manager."""

    credential: TokenCredential = field(default_factory=AzureCliCredential)
    management: str = MANAGEMENT

    def find(self, name: str, resource_group: str | None, http: httpx.Client) -> App:
        """Find a Function App by its name, and read its settings. Raises `AppUnreadable`."""
        if not re.fullmatch(r"[A-Za-z0-9-]{2,60}", name):
            raise AppUnreadable("this is no name of a Function App", "Give it as the portal does.")
        where = f"type =~ 'microsoft.web/sites' and name =~ '{name}'"
        columns = "id, resourceGroup, state = tostring(properties.state)"
        asked = {"query": f"resources | where {where} | project {columns}"}
        rows = _list(self._ask(http, _GRAPH, asked).get("data"))
        group = (resource_group or "").lower()
        rows = [row for row in rows if group in ("", str(row.get("resourceGroup", "")).lower())]
        if not rows:
            raise AppUnreadable(
                f"no Function App {name} is in what your sign-in may read",
                "Check the name and --resource-group; az account show tells which tenant you are "
                "signed in to.",
            )
        if len(rows) > 1:
            groups = ", ".join(sorted(str(row.get("resourceGroup", "")) for row in rows))
            raise AppUnreadable(
                f"several Function Apps are called {name}",
                f"Say which with --resource-group: {groups}.",
            )
        path = f"{rows[0].get('id')}/config/appsettings/list?api-version={_SITES}"
        given = self._ask(http, path, {}).get("properties")
        settings = given if isinstance(given, dict) else {}
        state = str(rows[0].get("state", "Running"))
        return App(
            name,
            str(rows[0].get("resourceGroup", "")),
            state.lower() == "running",
            {key: str(value) for key, value in settings.items()},
        )

    def _ask(self, http: httpx.Client, path: str, body: Mapping[str, str]) -> dict[str, Any]:
        try:
            token = self.credential.get_token(f"{MANAGEMENT}/.default").token
        except (ClientAuthenticationError, CredentialUnavailableError):
            raise AppUnreadable(
                "there is no sign-in of the Azure CLI here",
                "Install the Azure CLI, and run az login.",
            ) from None
        headers = {"Authorization": f"Bearer {token}"}
        try:
            response = http.post(f"{self.management}{path}", json=body, headers=headers)
        except httpx.HTTPError:
            raise AppUnreadable(
                "Azure Resource Manager cannot be reached", "Check proxies and firewalls."
            ) from None
        if response.status_code in (401, 403):
            raise AppUnreadable(
                "your sign-in may not read the settings of this app",
                "Ask for a role with Microsoft.Web/sites/config/list/action on it, such as Website "
                "Contributor; az account show tells who you are signed in as.",
            )
        document = outgoing.json_object(response.content)
        if not response.is_success or document is None:
            raise AppUnreadable(
                f"Azure Resource Manager answers HTTP {response.status_code}",
                "Wait a minute and run it again.",
            )
        return document


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
