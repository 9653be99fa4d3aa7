"""Checks of the authority, the credential and the token."""

import base64
import re
import ssl
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

import httpx

from relay import outgoing
from relay.connections import ClientCertificate, ClientCredentials, ClientSecret, ManagedIdentity
from relay.entra import certificate, clouds
from relay.entra.client import Client
from relay.entra.refusals import hint
from relay.errors import CredentialRefused, Unavailable
from relay.ports import AccessToken
from relay.tools.doctor.finding import Finding, fail, ok, skip, warn

SOON = timedelta(days=30)
"""A certificate that expires within this time gets a warning."""

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_INSTANCES = {"microsoftonline.com": 0, "microsoftonline.us": 1, "partner.microsoftonline.cn": 2}
"""`cloud_instance_name` of Entra's metadata, and the index of its cloud in `CLOUDS`."""

type Claims = Mapping[str, Any]


def examine(
    credentials: ClientCredentials, http: httpx.Client, context: ssl.SSLContext
) -> Generator[Finding, None, AccessToken | None]:
    """Examine authority, credential and token, and return the token if there is one.

    The client is new: MSAL replays a failure for a minute after its cause was corrected.
    """
    metadata: Claims = {}
    if credentials.authority is not None:
        found = yield from _authority(credentials.authority, http)
        if found is None:
            return None
        metadata = found
    if isinstance(credentials.credential, ClientCertificate):
        yield from _certificate(credentials.credential)
    token = yield from _credential(credentials, context)
    if token is not None:
        yield _token(token, credentials, metadata)
    return token


def unreachable(check: str, name: str, error: httpx.HTTPError) -> Finding:
    """Return why a server cannot be reached: its name, its certificate, or a time-out."""
    if isinstance(error, httpx.TimeoutException):
        return fail(check, f"{name} does not answer in time", "Check networks and firewalls.")
    if outgoing.caused_by(error, ssl.SSLCertVerificationError):
        return fail(
            check,
            f"the certificate of {name} is not trusted",
            "Put the private CA that signed it into a PEM file and name it in CA_BUNDLE.",
        )
    return fail(
        check,
        f"{name} cannot be reached",
        "Check the host's name, DNS and firewalls from where the relay runs.",
    )


def _authority(authority: str, http: httpx.Client) -> Generator[Finding, None, Claims | None]:
    """Read the authority's metadata (OpenID Connect Discovery 1.0 §4)."""
    version = "" if clouds.is_adfs(authority) else "/v2.0"
    name = "AD FS" if clouds.is_adfs(authority) else "Entra"
    try:
        response = http.get(f"{authority}{version}/.well-known/openid-configuration")
    except httpx.HTTPError as error:
        yield unreachable("authority", name, error)
        return None
    document = outgoing.json_object(response.content) or {}
    codes = document.get("error_codes")
    if isinstance(codes, list) and codes:
        yield fail("authority", *hint(f"AADSTS{codes[0]}"))
        return None
    if not response.is_success or "token_endpoint" not in document:
        yield fail(
            "authority",
            f"what ENTRA_AUTHORITY names is no authority (HTTP {response.status_code})",
            "Expected https://login.microsoftonline.com/<tenant>, or https://<host>/adfs.",
        )
        return None
    place = _INSTANCES.get(str(document.get("cloud_instance_name")))
    cloud = clouds.of_login(authority) or clouds.PUBLIC
    if place is not None and clouds.CLOUDS[place] is not cloud:
        right = clouds.CLOUDS[place]
        yield fail(
            "authority",
            f"the tenant is in {right.name}",
            f"Set ENTRA_AUTHORITY to https://{right.login}/<tenant>.",
        )
        return None
    yield ok("authority", f"{name} knows the tenant" if version else f"{name} answers")
    return document


def _certificate(credential: ClientCertificate) -> Iterator[Finding]:
    try:
        end = certificate.expiry(credential)
    except CredentialRefused:
        return  # the next check names it
    left = end - datetime.now(UTC)
    if left <= timedelta(0):
        yield fail(
            "certificate",
            f"it expired on {end:%Y-%m-%d}",
            "Make a new one, upload its public part to the app registration, and set "
            "ENTRA_CLIENT_CERTIFICATE.",
        )
    elif left <= SOON:
        yield warn(
            "certificate",
            f"it expires on {end:%Y-%m-%d}",
            "Upload a new one to the app registration now: both may be there at once.",
        )
    else:
        yield ok("certificate", f"it is good until {end:%Y-%m-%d}")


def _credential(
    credentials: ClientCredentials, context: ssl.SSLContext
) -> Generator[Finding, None, AccessToken | None]:
    try:
        token = Client(credentials, context).acquire()
    except CredentialRefused as error:
        wrong, fix = hint(error.reason)
        secret = credentials.credential
        is_id = isinstance(secret, ClientSecret) and _GUID.fullmatch(secret.value)
        if error.reason == "AADSTS7000215" and is_id:
            wrong = f"ENTRA_CLIENT_SECRET holds the secret's id ({error.reason})"
        yield fail("credential", wrong, fix)
        return None
    except Unavailable as error:
        wrong, fix = hint(error.reason)
        yield fail("credential", f"no token just now: {wrong}", fix)
        return None
    yield ok("credential", f"Entra gives a token for the {_kind(credentials)}")
    return token


def _kind(credentials: ClientCredentials) -> str:
    match credentials.credential:
        case ClientSecret():
            return "client secret"
        case ClientCertificate():
            return "certificate"
        case ManagedIdentity() if credentials.client_id is not None:
            return "federated credential"
        case ManagedIdentity():
            return "managed identity"
        case _:
            assert_never(credentials.credential)


def _token(token: AccessToken, credentials: ClientCredentials, metadata: Claims) -> Finding:
    """Compare the claims of the token with what Dynamics requires. Prints nothing of it."""
    claims = claims_of(token)
    if not claims:
        return skip("token", "it cannot be read here", "Nothing to do: only Dynamics must read it.")
    if "aud" in claims and not _is_for(claims["aud"], credentials.resource):
        return fail(
            "token",
            "its audience is another one than DYNAMICS_SCOPE names",
            "Set DYNAMICS_SCOPE to the environment's own address in lower case, without a slash at "
            "its end, and /.default.",
        )
    if credentials.authority is not None and clouds.is_adfs(credentials.authority):
        return ok("token", "its audience is right")
    tenant = _tenant(metadata)
    if tenant is not None and claims.get("tid") != tenant:
        return fail(
            "token",
            "it is of another tenant than the authority's",
            "Set ENTRA_TENANT_ID to the tenant of the Dynamics environment.",
        )
    if not claims.get("oid"):
        return fail(
            "token",
            "it names no service principal (oid)",
            "The application is of another tenant: grant admin consent in the tenant of Dynamics, "
            "which makes its enterprise application.",
        )
    return ok("token", "audience, tenant and service principal are right")


def claims_of(token: AccessToken) -> Claims:
    """Return the claims of a token, unverified: it came over TLS, and Dynamics verifies it."""
    parts = token.value.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return {}
    try:
        return outgoing.json_object(base64.urlsafe_b64decode(parts[1] + "==")) or {}
    except ValueError:
        return {}


def _is_for(audience: object, resource: str) -> bool:
    # The audience of Dataverse's tokens ends in a slash. Finance & Operations takes no such token,
    # and gets one only if the scope has the slash. Some audiences are application ids.
    named = isinstance(audience, str) and _GUID.fullmatch(audience)
    return bool(named) or audience in (resource, f"{resource}/")


def _tenant(metadata: Claims) -> str | None:
    """Return the tenant's id from the issuer: the authority may name a domain instead."""
    found = _GUID.search(str(metadata.get("issuer", "")))
    return found[0] if found else None
