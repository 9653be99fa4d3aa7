"""The managed identity endpoint of App Service and Functions.

A worker finds it by `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`, and speaks plain HTTP to it on
its own machine:
https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference.

Error bodies follow published responses: 400 for an identity that is not assigned, 500 for a
resource that Entra does not know. Assumptions, because no source says it: 401 for a wrong
`X-IDENTITY-HEADER`, 400 for another `api-version` or a missing `resource`, and their texts.
"""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import override
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.assertions import Assertion
from sandbox.entra import EXCHANGE, Entra
from sandbox.issuer import Fault, Faulty, RefusedError

__all__ = ["HEADER", "PATH", "Fault", "Identity", "IdentityEndpoint"]

HEADER = "sandbox~identity.header"
PATH = "/msi/token"
API_VERSION = "2019-08-01"
GROUP = "/subscriptions/5b1e2a64-0d0c-4f0e-8a39-9f8d7c6b5a41/resourceGroups/sandbox/providers"

NOT_ASSIGNED = (
    "No User Assigned or Delegated Managed Identity found for specified "
    "ClientId/ResourceId/PrincipalId."
)
NO_SYSTEM = "No Managed Identity found for specified ClientId/ResourceId/PrincipalId."
NO_TOKEN = "An unexpected error occured while fetching the AAD Token."  # spelled as in Azure


@dataclass(frozen=True)
class Identity:
    """A managed identity: the app's own (`system`), or one that is assigned to it."""

    client_id: str
    principal_id: str
    """Object id of its service principal: `oid` of its tokens, subject of its assertions."""
    system: bool = False

    @property
    def resource_id(self) -> str:
        """Its Azure resource; for the app's own, that is the app."""
        if self.system:
            return f"{GROUP}/Microsoft.Web/sites/{self.client_id}"
        return f"{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/{self.client_id}"


class IdentityEndpoint(Faulty):
    """Issues tokens for `identities`, signed by `entra`; serve `app` without TLS.

    `header` is the secret that protects it against server-side request forgery. The faults of
    metadata have no effect.
    """

    def __init__(self, entra: Entra, identities: Iterable[Identity], header: str = HEADER) -> None:
        super().__init__()
        self.entra = entra
        self.identities = list(identities)
        self.header = header
        self.requests = 0
        self.app = Starlette(routes=[Route(PATH, self._token)])

    def environment(self, url: str) -> dict[str, str]:
        """Return a worker's environment variables for an `app` that is served at `url`."""
        return {"IDENTITY_ENDPOINT": f"{url}{PATH}", "IDENTITY_HEADER": self.header}

    async def _token(self, request: Request) -> Response:
        self.requests += 1
        return await self._serve(request, lambda: self._answer(request))

    def _answer(self, request: Request) -> Response:
        sent = request.headers.get("X-IDENTITY-HEADER", "")
        if not hmac.compare_digest(sent.encode(), self.header.encode()):
            raise _MsiError(401, "The X-IDENTITY-HEADER of the request is missing or wrong.")
        query = request.query_params
        if query.get("api-version") != API_VERSION:
            raise _MsiError(400, "The api-version of the request is not supported.")
        if not query.get("resource"):
            raise _MsiError(400, "The request must contain the parameter 'resource'.")
        return self._issue(self._find(query), query["resource"])

    def _find(self, query: Mapping[str, str]) -> Identity:
        """Return the requested identity: an assigned one by its id, else the app's own."""
        for name, member in _MEMBERS.items():
            if name in query:
                asked = query[name].lower()
                for identity in self.identities:
                    if not identity.system and getattr(identity, member).lower() == asked:
                        return identity
                raise _MsiError(400, NOT_ASSIGNED)
        for identity in self.identities:
            if identity.system:
                return identity
        raise _MsiError(400, NO_SYSTEM)

    def _issue(self, identity: Identity, resource: str) -> Response:
        if resource not in EXCHANGE and not self.entra.is_known(resource):
            raise _MsiError(500, NO_TOKEN)
        token = self.entra.sign_for_identity(
            identity.client_id, identity.principal_id, resource, identity.resource_id
        )
        answer = {
            "access_token": token,
            "expires_on": str(int(Assertion.read(token).end)),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": identity.client_id,
        }
        return JSONResponse(answer)

    @override
    def _outage(self, fault: Fault) -> RefusedError:
        status, text = _OUTAGE_TEXTS[fault]
        return _MsiError(status, text)


class _MsiError(RefusedError):
    """An error as App Service words it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status)
        self._status = status
        self._message = message

    @override
    def answer(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        body = {
            "statusCode": self._status,
            "message": self._message,
            "correlationId": str(uuid4()),
        }
        return JSONResponse(body, self._status, headers)


_MEMBERS = {
    "client_id": "client_id",
    "principal_id": "principal_id",
    "object_id": "principal_id",
    "mi_res_id": "resource_id",
}
_OUTAGE_TEXTS = {
    Fault.THROTTLED: (429, "Too many requests."),
    Fault.SERVER_ERROR: (500, NO_TOKEN),
    Fault.UNAVAILABLE: (503, "The service is unavailable."),
}
