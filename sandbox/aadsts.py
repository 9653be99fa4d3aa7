"""Entra's refusals: one table from AADSTS codes to status, `error` and sentence.

Codes and meanings are those of
https://learn.microsoft.com/entra/identity-platform/reference-error-codes; wording, status and
`error` follow published responses of Entra. Status and `error` are guesses for 28002, 50001, 50194,
500133, 650056, 700011, 700030, 90023, 90038, 900432 and the transient codes: Entra's documentation
does not list them.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, override
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.issuer import RefusedError, base_of


class Text(NamedTuple):
    """One error of Entra. The fields of its sentence are filled with values of the request."""

    status: int
    error: str
    sentence: str
    suberror: str = ""


_NOT_INSTALLED = (
    "This can happen if the application has not been installed by the administrator of the tenant "
    "or consented to by any user in the tenant."
)
_WRONG_TENANT = "You may have sent your authentication request to the wrong tenant."
_ASSERTIONS = (
    "Review the documentation at https://learn.microsoft.com/entra/identity-platform/"
    "certificate-credentials ."
)
_FEDERATION = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
_PORTAL = (
    "Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured "
    "keys for app Id '{client}'."
)
_FOUND = "Thumbprint of key used by client: '{thumbprint}', Found key '{found}', " + _PORTAL
_AGAIN = "Please try again."

UNREGISTERED = (
    "The certificate with identifier used to sign the client assertion is not registered on "
    "application. [Reason - The key was not found., Thumbprint of key used by client: "
    "'{thumbprint}', " + _PORTAL + "]"
)
EXPIRED = (
    "The certificate with identifier used to sign the client assertion is expired on application. "
    "[Reason - The key used is expired., " + _FOUND + "]"
)
SIGNATURE = (
    "Client assertion contains an invalid signature. [Reason - The key was found, but use of the "
    "key to verify the signature failed., " + _FOUND + "]"
)
"""700027 has three sentences; the table has the first."""

AADSTS: Mapping[int, Text] = {
    28002: Text(
        400,
        "invalid_scope",
        "Provided value for the input parameter scope '{scope}' is not valid when requesting an "
        "access token. Please specify a valid scope.",
    ),
    50000: Text(500, "server_error", "There was an issue with the sign-in service."),
    50001: Text(
        400,
        "invalid_resource",
        "The application named {resource} was not found in the tenant named {tenant}. "
        + _NOT_INSTALLED
        + " "
        + _WRONG_TENANT,
    ),
    50012: Text(
        401,
        "invalid_client",
        "Client assertion contains an invalid signature. [Reason - The key was not found., "
        "Thumbprint of key used by client: '{thumbprint}']",
    ),
    50027: Text(400, "invalid_request", "JWT token is invalid or malformed."),
    50033: Text(503, "temporarily_unavailable", "A transient error has occurred. " + _AGAIN),
    50059: Text(
        400,
        "invalid_request",
        "No tenant-identifying information found in either the request or implied by any provided "
        "credentials.",
    ),
    50194: Text(
        400,
        "invalid_request",
        "Application '{client}' is not configured as a multi-tenant application. Usage of the "
        "/common endpoint is not supported for such apps created after '10/15/2018'. Use a "
        "tenant-specific endpoint or configure the application to be multi-tenant.",
    ),
    50196: Text(
        400,
        "invalid_grant",
        "The server terminated an operation because it encountered a client request loop. Please "
        "contact your app vendor.",
    ),
    53003: Text(
        400,
        "invalid_grant",
        "Access has been blocked by Conditional Access policies. The access policy does not allow "
        "token issuance.",
        "message_only",
    ),
    65001: Text(
        400,
        "invalid_grant",
        "The user or administrator has not consented to use the application with ID '{client}'. "
        "Send an interactive authorization request for this user and resource '{resource}'.",
        "consent_required",
    ),
    70001: Text(400, "unauthorized_client", "Application '{client}' is disabled."),
    70003: Text(
        400, "unsupported_grant_type", "The app requested an unsupported grant type '{grant}'."
    ),
    70011: Text(
        400,
        "invalid_scope",
        "The provided request must include a 'scope' input parameter. The provided value for the "
        "input parameter 'scope' is not valid. The scope {scope} is not valid.",
    ),
    90002: Text(
        400,
        "invalid_tenant",
        "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are "
        "signing into the correct cloud.",
    ),
    90006: Text(
        503, "temporarily_unavailable", "The service is temporarily unavailable. " + _AGAIN
    ),
    90023: Text(400, "invalid_request", "Invalid STS request."),
    90024: Text(
        503, "temporarily_unavailable", "The request budget is exceeded by a transient error."
    ),
    90033: Text(503, "temporarily_unavailable", "A transient error has occurred. " + _AGAIN),
    90038: Text(
        400,
        "invalid_request",
        "Tenant '{tenant}' request is being redirected to the National Cloud 'MicrosoftOnline.US'.",
    ),
    90055: Text(429, "temporarily_unavailable", "There are too many incoming requests."),
    500011: Text(
        400,
        "invalid_resource",
        "The resource principal named {resource} was not found in the tenant named {tenant}. "
        + _NOT_INSTALLED
        + " "
        + _WRONG_TENANT,
    ),
    500133: Text(
        400,
        "invalid_grant",
        "Assertion is not within its valid time range. Ensure that the access token is not expired "
        "before using it for user assertion, or request a new token. Current time: {now}, expiry "
        "time of assertion {end}.",
    ),
    650052: Text(
        400,
        "invalid_client",
        "The app is trying to access a service '{resource}' that your organization '{tenant}' "
        "lacks a service principal for. Contact your IT Admin to review the configuration of your "
        "service subscriptions or consent to the application in order to create the required "
        "service principal.",
    ),
    650056: Text(
        400,
        "invalid_client",
        "Misconfigured application. This could be due to one of the following: the client has not "
        "listed any permissions for '{resource}' in the requested permissions in the client's "
        "application registration. Or, the admin has not consented in the tenant. Or, check the "
        "application identifier in the request to ensure it matches the configured client "
        "application identifier. Client app ID: {client}.",
    ),
    650057: Text(
        400,
        "invalid_resource",
        "Invalid resource. The client has requested access to a resource which is not listed in "
        "the requested permissions in the client's application registration. Client app ID: "
        "{client}. Resource value from request: {resource}.",
    ),
    700011: Text(
        400,
        "unauthorized_client",
        "Application with identifier {client} was not found in the directory {tenant}. "
        + _WRONG_TENANT,
    ),
    700016: Text(
        400,
        "unauthorized_client",
        "Application with identifier '{client}' was not found in the directory '{tenant}'. "
        + _NOT_INSTALLED
        + " "
        + _WRONG_TENANT,
    ),
    700021: Text(
        401,
        "invalid_client",
        "Client assertion application identifier doesn't match 'client_id' parameter. "
        + _ASSERTIONS,
    ),
    700023: Text(
        401,
        "invalid_client",
        "Client assertion audience claim does not match Realm issuer. " + _ASSERTIONS,
    ),
    700024: Text(
        401,
        "invalid_client",
        "Client assertion is not within its valid time range. Current time: {now}, assertion "
        "valid from {start}, expiry time of assertion {end}. " + _ASSERTIONS,
    ),
    700025: Text(
        401,
        "invalid_client",
        "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
    ),
    700027: Text(401, "invalid_client", UNREGISTERED),
    700030: Text(
        401,
        "invalid_client",
        "Invalid certificate - subject name in certificate is not authorized. SubjectNames/"
        "SubjectAlternativeNames (up to 10) in token certificate are: {found}.",
    ),
    700211: Text(
        401,
        "invalid_client",
        "No matching federated identity record found for presented assertion issuer '{issuer}'. "
        "Please check your federated identity credential Subject, Audience and Issuer against the "
        "presented assertion. " + _FEDERATION,
    ),
    700212: Text(
        401,
        "invalid_client",
        "No matching federated identity record found for presented assertion audience "
        "'{audience}'. Please check your federated identity credential Subject, Audience and "
        "Issuer against the presented assertion. " + _FEDERATION,
    ),
    700213: Text(
        401,
        "invalid_client",
        "No matching federated identity record found for presented assertion subject '{subject}'. "
        "Please check your federated identity credential Subject, Audience and Issuer against the "
        "presented assertion. " + _FEDERATION,
    ),
    700226: Text(
        401,
        "invalid_client",
        "Only MSI tokens may be used as Federated Identity Credentials for AAD issuer.",
    ),
    900023: Text(
        400,
        "invalid_request",
        "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external "
        "domain.",
    ),
    900144: Text(
        400,
        "invalid_request",
        "The request body must contain the following parameter: '{parameter}'.",
    ),
    900382: Text(
        400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."
    ),
    900432: Text(
        400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."
    ),
    1002012: Text(
        400,
        "invalid_scope",
        "The provided value for scope {scope} is not valid. Client credential flows must have a "
        "scope value with /.default suffixed to the resource identifier (application ID URI).",
    ),
    5000811: Text(
        401,
        "invalid_client",
        "Unable to verify token signature. The signing key identifier does not match any valid "
        "registered keys.",
    ),
    5002723: Text(
        401,
        "invalid_client",
        "Invalid JWT token. No certificate SHA-1 thumbprint, certificate SHA-256 thumbprint, nor "
        "keyId specified in token header.",
    ),
    5002738: Text(
        401,
        "invalid_client",
        "Invalid JWT token. '{algorithm}' is not a supported signature algorithm. Supported "
        "signing algorithms are: '{algorithms}'",
    ),
    7000215: Text(
        401,
        "invalid_client",
        "Invalid client secret provided. Ensure the secret being sent in the request is the client "
        "secret value, not the client secret ID, for a secret added to app '{client}'.",
    ),
    7000218: Text(
        401,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or "
        "'client_secret'.",
    ),
    7000222: Text(
        401,
        "invalid_client",
        "The provided client secret keys for app '{client}' are expired. Visit the Azure portal to "
        "create new keys for your app: https://aka.ms/NewClientSecret, or consider using "
        "certificate credentials for added security: https://aka.ms/certCreds.",
    ),
}


class AadstsError(RefusedError):
    """An AADSTS code, the values of its sentence, and the sentence if it is not the table's.

    Fields of the sentence that `about` does not have are left empty.
    """

    def __init__(self, code: int, about: Mapping[str, str], sentence: str = "") -> None:
        super().__init__(code)
        self.code = code
        self._text = AADSTS[code]
        self._about = about
        self._sentence = sentence or self._text.sentence

    @override
    def answer(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        """Return Entra's error response, with its ids and its timestamp."""
        trace = str(uuid4())
        correlation = request.headers.get("client-request-id", str(uuid4()))
        timestamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        sentence = self._sentence.format_map(defaultdict(str, self._about))
        body = {
            "error": self._text.error,
            "error_description": f"AADSTS{self.code}: {sentence} Trace ID: {trace} "
            f"Correlation ID: {correlation} Timestamp: {timestamp}",
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{base_of(request)}/error?code={self.code}",
        }
        if self._text.suberror:
            body["suberror"] = self._text.suberror
        return JSONResponse(body, self._text.status, headers)
