"""Microsoft Entra ID: the client credentials grant with every credential, and RS256 tokens.

One tenant, in which applications authenticate with a secret, with a certificate (a signed
assertion) or with a token of a managed identity (a federated identity credential). Responses follow
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow,
https://learn.microsoft.com/entra/identity-platform/certificate-credentials,
https://learn.microsoft.com/entra/workload-id/workload-identity-federation and `aadsts.py`.

Assumptions, because no source says it: the order in which Entra checks an assertion; 700226 for the
token of a system-assigned identity (documented is only that it cannot be a federated credential);
5000811 for a token that Entra did not sign.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, override
from uuid import NAMESPACE_URL, uuid4, uuid5

from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import assertions
from sandbox.aadsts import EXPIRED, SIGNATURE, AadstsError
from sandbox.assertions import Assertion, MalformedError
from sandbox.issuer import HTML, Fault, Issuer, RefusedError, base_of

__all__ = ["EXCHANGE", "HTML", "TENANT", "Entra", "Fault", "FederatedCredential"]

TENANT = "7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
EXCHANGE = (
    "api://AzureADTokenExchange",
    "api://AzureADTokenExchangeUSGov",
    "api://AzureADTokenExchangeChina",
)
"""The audiences of a managed identity's token that serves as an assertion, one for each cloud."""
SHARED = ("common", "organizations")
"""Paths that name no tenant."""
BY_SECRET, BY_ASSERTION = "1", "2"
"""The claim `appidacr`."""


class FederatedCredential(NamedTuple):
    """The tokens that an application accepts as its own credential, by exact comparison.

    For a managed identity the issuer is `Entra.issuer`, the subject its principal (object) id.
    """

    issuer: str
    subject: str
    audience: str = EXCHANGE[0]


class Entra(Issuer):
    """One tenant of login.microsoftonline.com; serve `app`.

    `clients` maps application ids to their secrets, `resources` are the application id URIs that
    tokens are issued for (both may be extended later), `lifetime` is that of a token in seconds. An
    application without a secret needs `certificates` or `federated`.
    """

    ALGORITHMS = ("RS256", "PS256")

    def __init__(
        self,
        *,
        clients: Mapping[str, str],
        resources: Iterable[str] = (),
        tenant: str = TENANT,
        lifetime: int = 3599,
    ) -> None:
        super().__init__(clients, resources, lifetime)
        self.tenant = tenant
        self.url = ""
        """Where `app` is served, without a slash at the end; the issuer of assertions needs it."""
        self.cloud = "microsoftonline.com"
        """`cloud_instance_name` of the metadata: which cloud the tenant is in."""
        self.federated: dict[str, list[FederatedCredential]] = {}
        """Federated identity credentials by application id."""
        self.expired: set[str] = set()
        """Application ids whose secret is right but expired."""
        self.refuse: dict[str, int] = {}
        """AADSTS codes by application id: each of its token requests is refused with it."""
        self.elsewhere: dict[str, str] = {}
        """Other tenants by application id, for applications that are not registered in this one."""
        self.without_oid: set[str] = set()
        """Application ids without a service principal: their tokens have no `oid`."""
        self.roles: dict[tuple[str, str] | str, list[str]] = {}
        """The claim `roles`, by application id, or by id and `_normalized` resource."""

        self.app = Starlette(
            routes=[
                Route("/{tenant}/v2.0/.well-known/openid-configuration", self._metadata),
                Route("/{tenant}/discovery/v2.0/keys", self._keys),
                Route("/{tenant}/oauth2/v2.0/token", self._token, methods=["POST"]),
            ]
        )

    @property
    def issuer(self) -> str:
        """`iss` of its v2.0 tokens. Raises `RuntimeError` while `url` is not set."""
        if not self.url:
            raise RuntimeError("Entra's `url` must be set first.")
        return f"{self.url}/{self.tenant}/v2.0"

    def is_known(self, resource: str) -> bool:
        """Tell whether tokens are issued for it. Entra ignores case and a slash at its end."""
        return _normalized(resource) in {_normalized(known) for known in self.resources}

    @override
    def verify(self, token: str, audience: str) -> dict[str, Any]:
        """Return the claims of a v1.0 access token, checked as Dynamics does in this tenant."""
        iss = f"https://sts.windows.net/{self.tenant}/"
        return self._claims(token, iss=iss, aud=audience, tid=self.tenant, appid=None, oid=None)

    def sign_for_identity(
        self, client: str, principal: str, resource: str, resource_id: str
    ) -> str:
        """Return a token for a managed identity, as the identity endpoint issues it.

        For a resource such as Dynamics it is a v1.0 access token with the principal id as `oid`.
        For `EXCHANGE` it is a v2.0 token that serves as an assertion. `resource_id` is the
        identity's own Azure resource. The audience of real v2.0 tokens is a GUID; here it is the
        requested one, as in a federated credential.
        """
        common = {"sub": principal, "oid": principal, "xms_mirid": resource_id}
        if resource in EXCHANGE:
            mine = {"iss": self.issuer, "azp": client, "azpacr": BY_ASSERTION, "ver": "2.0"}
            return self._sign(self._app_claims(self.tenant, resource) | common | mine)
        mine = {"appid": client, "appidacr": BY_ASSERTION}
        return self._sign(self._v1_claims(client, self.tenant, resource) | common | mine)

    @override
    def _document(self, request: Request) -> dict[str, Any]:
        """Return the members that Entra publishes."""
        tenant = self._tenant(request)
        base = base_of(request)
        path = f"{base}/{tenant}"
        named = "{tenantid}" if tenant in SHARED else tenant
        return {
            "token_endpoint": f"{path}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "jwks_uri": f"{path}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": f"{base}/{named}/v2.0",
            "request_uri_parameter_supported": False,
            "authorization_endpoint": f"{path}/oauth2/v2.0/authorize",
            "tenant_region_scope": "EU",
            "cloud_instance_name": self.cloud,
        }

    @override
    def _grant(self, request: Request, form: dict[str, str]) -> Response:
        """RFC 6749, section 4.4, as Entra v2.0 does it."""
        token_request = _TokenRequest(form, self._tenant(request), base_of(request))
        if form.get("client_id") in self.refuse:
            raise token_request.refused(self.refuse[form["client_id"]])
        if token_request.tenant in SHARED:
            raise token_request.refused(50059)
        client = self._check_client(token_request)
        means = self._check_credential(token_request, client)
        resource = self._check_scope(token_request)
        claims = self._v1_claims(client, token_request.tenant, resource)
        token = self._sign(claims | {"appid": client, "appidacr": means})
        answer = {
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "ext_expires_in": self.lifetime,
            "access_token": token,
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store, no-cache"})

    @override
    def _outage(self, fault: Fault) -> RefusedError:
        codes = {Fault.THROTTLED: 90055, Fault.SERVER_ERROR: 50000, Fault.UNAVAILABLE: 90033}
        return AadstsError(codes[fault], {})

    def _tenant(self, request: Request) -> str:
        """Return the tenant that the path names, in its own spelling."""
        name = request.path_params["tenant"]
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            raise AadstsError(900023, {"tenant": name})
        for tenant in (self.tenant, *self.elsewhere.values(), *SHARED):
            if name.lower() == tenant.lower():
                return tenant
        raise AadstsError(90002, {"tenant": name})

    def _check_client(self, token_request: "_TokenRequest") -> str:
        grant, client = token_request.required("grant_type"), token_request.required("client_id")
        if grant != "client_credentials":
            raise token_request.refused(70003)
        home = self.elsewhere.get(client, self.tenant)
        known = {*self.clients, *self.certificates, *self.federated}
        if client not in known or token_request.tenant != home:
            raise token_request.refused(700016)
        return client

    def _check_credential(self, token_request: "_TokenRequest", client: str) -> str:
        """Authenticate the client; return the kind of its credential."""
        if "client_assertion" in token_request.form:
            self._check_assertion(token_request, client)
            return BY_ASSERTION
        if "client_secret" not in token_request.form:
            raise token_request.refused(7000218)
        sent, secret = token_request.form["client_secret"], self.clients.get(client)
        if secret is None or not hmac.compare_digest(sent.encode(), secret.encode()):
            raise token_request.refused(7000215)
        if client in self.expired:
            raise token_request.refused(7000222)
        return BY_SECRET

    def _check_assertion(self, token_request: "_TokenRequest", client: str) -> None:
        """RFC 7523, section 3. An issuer other than the client makes it a federated credential."""
        if token_request.required("client_assertion_type") != assertions.TYPE:
            raise token_request.refused(90023)
        assertion = token_request.assertion
        if assertion is None:
            raise token_request.refused(50027)
        if assertion.algorithm not in self.ALGORITHMS:
            raise token_request.refused(5002738, algorithms=",".join(self.ALGORITHMS))
        if "://" in assertion.text("iss"):
            self._check_federation(token_request, client, assertion)
        else:
            self._check_certificate(token_request, client, assertion)

    def _check_certificate(
        self, token_request: "_TokenRequest", client: str, assertion: Assertion
    ) -> None:
        """Check an assertion that the client signed itself."""
        if not assertion.thumbprint:
            raise token_request.refused(5002723)
        if assertion.text("iss") != client or assertion.text("sub") != client:
            raise token_request.refused(700021)
        certificate = assertion.certificate(self.certificates.get(client, ()))
        if certificate is None:
            raise token_request.refused(700027)
        found = _validity(certificate)
        if not assertions.is_current(certificate):
            raise token_request.refused(700027, EXPIRED, found=found)
        if not assertion.is_signed_by(certificate, self.ALGORITHMS):
            raise token_request.refused(700027, SIGNATURE, found=found)
        own = f"{token_request.base}/{token_request.tenant}"
        if assertion.text("aud") not in (f"{own}/oauth2/v2.0/token", f"{own}/v2.0"):
            raise token_request.refused(700023)
        if not assertion.is_timely:
            raise token_request.refused(700024)
        if not assertion.text("jti"):
            raise token_request.refused(50027)

    def _check_federation(
        self, token_request: "_TokenRequest", client: str, assertion: Assertion
    ) -> None:
        """Check an assertion of another issuer: here, Entra's token of a managed identity.

        Issuer, audience and subject must match one credential. It is not known which one Entra
        names if several do not match; here it is the first of the three.
        """
        left = self.federated.get(client, [])
        for code, claim, member in (
            (700211, "iss", "issuer"),
            (700212, "aud", "audience"),
            (700213, "sub", "subject"),
        ):
            left = [known for known in left if getattr(known, member) == assertion.text(claim)]
            if not left:
                raise token_request.refused(code)
        if not assertion.is_signed_among(self.public_keys, ["RS256"]):
            raise token_request.refused(5000811)
        if "/microsoft.managedidentity/" not in assertion.text("xms_mirid").lower():
            raise token_request.refused(700226)
        if not assertion.is_timely:
            raise token_request.refused(700024)

    def _check_scope(self, token_request: "_TokenRequest") -> str:
        """Return the resource as spelled in the request, which becomes the audience.

        Entra keeps the slash and the capitals of the request in `aud`; Dynamics then refuses them.
        """
        scope = token_request.required("scope")
        if len(scope.split()) != 1:
            raise token_request.refused(70011)
        if not scope.endswith("/.default"):
            raise token_request.refused(1002012)
        if not self.is_known(token_request.resource):
            raise token_request.refused(500011)
        return token_request.resource

    def _app_claims(self, tenant: str, resource: str) -> dict[str, Any]:
        """Return the claims that tokens of applications have in both versions."""
        return {"aud": resource, "idtyp": "app", "tid": tenant, "uti": uuid4().hex[:22]}

    def _v1_claims(self, client: str, tenant: str, resource: str) -> dict[str, Any]:
        """Return the claims of a v1.0 token, the version that Dynamics' registration requests."""
        principal = str(uuid5(NAMESPACE_URL, f"{tenant}/{client}"))
        by_resource = self.roles.get((client, _normalized(resource)))
        claims = self._app_claims(tenant, resource) | {
            "iss": f"https://sts.windows.net/{tenant}/",
            "idp": f"https://sts.windows.net/{tenant}/",
            "oid": principal,
            "roles": self.roles.get(client, []) if by_resource is None else by_resource,
            "sub": principal,
            "ver": "1.0",
        }
        if client in self.without_oid:
            del claims["oid"]
        return claims


@dataclass(frozen=True)
class _TokenRequest:
    """A token request: its form, the tenant in its path, and the base of its URL."""

    form: Mapping[str, str]
    tenant: str
    base: str

    @property
    def resource(self) -> str:
        return self.form.get("scope", "").removesuffix("/.default")

    @property
    def assertion(self) -> Assertion | None:
        """The assertion, or `None` if it is missing or malformed."""
        try:
            return Assertion.read(self.form["client_assertion"])
        except (KeyError, MalformedError):
            return None

    def required(self, name: str) -> str:
        if not self.form.get(name):
            raise self.refused(900144, parameter=name)
        return self.form[name]

    def refused(self, code: int, sentence: str = "", **more: str) -> AadstsError:
        """Return the error with this code, with the values of the request."""
        about = {
            "client": self.form.get("client_id", ""),
            "grant": self.form.get("grant_type", ""),
            "scope": self.form.get("scope", ""),
            "resource": self.resource,
            "tenant": self.tenant,
            "parameter": "client_assertion",
            "now": _timestamp(datetime.now(UTC)),
        }
        return AadstsError(code, about | _about(self.assertion) | more, sentence)


def _about(assertion: Assertion | None) -> dict[str, str]:
    """Return the values of an assertion that the sentences quote. None is a secret."""
    if assertion is None:
        return {}
    return {
        "algorithm": assertion.algorithm,
        "audience": assertion.text("aud"),
        "issuer": assertion.text("iss"),
        "subject": assertion.text("sub"),
        "thumbprint": assertion.thumbprint,
        "start": _timestamp(datetime.fromtimestamp(assertion.start, UTC)),
        "end": _timestamp(datetime.fromtimestamp(assertion.end, UTC)),
    }


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def _validity(certificate: x509.Certificate) -> str:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"Start={start:%m/%d/%Y %H:%M:%S}, End={end:%m/%d/%Y %H:%M:%S}"


def _normalized(resource: str) -> str:
    """Return a resource in lower case, without a slash at its end."""
    return resource.lower().removesuffix("/")
