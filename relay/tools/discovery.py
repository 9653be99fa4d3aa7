"""Which authority a Dynamics environment trusts: read from its answer to a request without a token.

An endpoint answers 401 with `WWW-Authenticate: Bearer authorization_uri=…` (Dataverse does, and
others may), or on-premises with a redirect to AD FS. Only known login hosts and AD FS are accepted:
after a typing error in the URL nobody must be told to send a secret to an unknown host.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import httpx

from relay.delivery.targets import TARGETS
from relay.entra import clouds
from relay.errors import RelayError, Unavailable
from relay.outcome import Outcome

_PROBES = ("", *(kind.challenge for kind in TARGETS if kind.challenge is not None))
"""Paths to try after the one that was given."""
_PARAMETER = re.compile(r'(?<![A-Za-z_])([A-Za-z_]{1,40}) {0,8}= {0,8}(?:"([^"]*)"|([^\s,"]+))')


class NothingDiscovered(RelayError):
    """The environment names no authority that can be used. The message says what to do instead."""

    outcome = Outcome.MISCONFIGURED


@dataclass(frozen=True, slots=True)
class Discovery:
    """The answer of an environment.

    `tenant` is `None` for AD FS; `resource` is what its tokens are for, where the answer says so.
    """

    url: str
    authority: str
    tenant: str | None
    resource: str | None

    def settings(self) -> dict[str, str]:
        """Return the app settings to make, by name."""
        found = {"ENTRA_AUTHORITY": self.authority}
        if clouds.of_login(self.authority) is clouds.PUBLIC and self.tenant is not None:
            found = {"ENTRA_TENANT_ID": self.tenant}
        if self.resource is not None and self.resource != _origin(self.url):
            found["DYNAMICS_SCOPE"] = f"{self.resource}/.default"
        return found


def discover(url: str, http: httpx.Client) -> Discovery:
    """Ask the environment at `url`, an address of it or its whole `DYNAMICS_URL`.

    `http` must not follow redirects. Raises `Unavailable` when it does not answer, and
    `NothingDiscovered` when it names no authority, or one that is not accepted.
    """
    answered = False
    origin, path = _origin(url), urlsplit(url).path.rstrip("/")
    for probe in dict.fromkeys(origin + each for each in (path, *_PROBES)):
        try:
            response = http.get(probe, headers={"Accept": "application/json"})
        except httpx.HTTPError as error:
            if not answered:
                reason = f"discover_{type(error).__name__}"
                raise Unavailable(reason, f"Nothing answers at {origin}.") from None
            continue
        answered = True
        authority = _authority(response)
        if authority is not None:
            return Discovery(probe, *_checked(authority), _resource(response))
    raise NothingDiscovered(
        "discover_silent",
        "The environment does not tell its authority. Set ENTRA_TENANT_ID to the tenant that it "
        "belongs to: for Finance & Operations see Settings > About, or the Entra admin centre.",
    )


def parameters(challenge: str) -> dict[str, str]:
    """Read the parameters of a `WWW-Authenticate` header (RFC 9110 §11.6.1), tolerantly.

    Quoted or not, separated by commas or spaces: environments differ. Names are in lower case, and
    of two with the same name the first counts.
    """
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(challenge):
        found.setdefault(name.lower(), quoted or plain)
    return found


def _authority(response: httpx.Response) -> str | None:
    """Return the authority that an answer names, unchecked."""
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        challenge = parameters(", ".join(response.headers.get_list("www-authenticate")))
        return challenge.get("authorization_uri") or challenge.get("authorization")
    if response.is_redirect:
        target = urljoin(str(response.url), response.headers.get("location", ""))
        return target if clouds.is_adfs(target) else None
    return None


def _checked(address: str) -> tuple[str, str | None]:
    """Return the authority and its tenant. Raises `NothingDiscovered` for an unknown host."""
    try:
        parts = urlsplit(address)
        host, port, plain = parts.hostname or "", parts.port, parts.username is None
    except ValueError:
        host, port, plain = "", None, False
    if plain and host and parts.scheme == "https" and clouds.is_adfs(address):
        return f"https://{host}{f':{port}' if port else ''}/adfs", None
    if not plain or parts.scheme != "https" or port or clouds.of_login(address) is None:
        raise NothingDiscovered(
            "discover_untrusted",
            "The environment names a login host that is none of Microsoft's. Do not give it a "
            "secret; check the URL.",
        )
    tenant = parts.path.strip("/").partition("/")[0]
    if not re.fullmatch(r"[A-Za-z0-9.-]+", tenant) or tenant.lower() in clouds.NO_TENANT:
        raise NothingDiscovered(
            "discover_tenant",
            "The environment does not tell its tenant. Set ENTRA_TENANT_ID to the tenant that it "
            f"belongs to; its login host is {host}.",
        )
    return f"https://{host}/{tenant}", tenant


def _resource(response: httpx.Response) -> str | None:
    challenge = parameters(", ".join(response.headers.get_list("www-authenticate")))
    resource = challenge.get("resource_id") or challenge.get("resource")
    if resource is None or not re.fullmatch(r"https://[A-Za-z0-9.:/-]+", resource):
        return None
    return resource.rstrip("/")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"
