"""Azure Resource Manager, as far as an operator's commands ask it: apps, and their app settings.

Answers as
https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources and
https://learn.microsoft.com/rest/api/appservice/web-apps/list-application-settings do.
"""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from azure.core.credentials import AccessToken
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "sandbox~token.of.the.operator"


@dataclass
class Site:
    """A Function App. `readable`: whether the operator may list its settings."""

    name: str
    settings: dict[str, str]
    resource_group: str = "relay"
    state: str = "Running"
    readable: bool = True

    @property
    def path(self) -> str:
        """Its resource id."""
        group = f"/subscriptions/0/resourceGroups/{self.resource_group}"
        return f"{group}/providers/Microsoft.Web/sites/{self.name}"


@dataclass
class ResourceManager:
    """Serve `app`, over TLS. `sites` may be changed at any time."""

    sites: list[Site] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """The application to serve."""
        graph = "/providers/Microsoft.ResourceGraph/resources"
        return Starlette(
            routes=[
                Route(graph, self._query, methods=["POST"]),
                Route("/{path:path}", self._settings, methods=["POST"]),
            ]
        )

    async def _query(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401)
        document: dict[str, Any] = await request.json()
        named = re.search(r"name =~ '([^']*)'", document["query"])
        rows = [
            {"id": site.path, "resourceGroup": site.resource_group, "state": site.state}
            for site in self.sites
            if named and site.name.lower() == named[1].lower()
        ]
        return JSONResponse({"totalRecords": len(rows), "data": rows})

    async def _settings(self, request: Request) -> Response:
        for site in self.sites:
            if request.url.path == f"{site.path}/config/appsettings/list":
                if not site.readable:
                    return Response(status_code=403)
                return JSONResponse({"properties": site.settings})
        return Response(status_code=404)


class SignedIn:
    """The operator's credential: a sign-in of the Azure CLI."""

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """Return a token for any scope."""
        assert scopes, "a token is for a scope"  # noqa: S101 - as the real one
        return AccessToken(TOKEN, int(time.time()) + 3600)
