"""Requests of the doctor to Dynamics, and what every answer is checked for."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import httpx

from relay import outgoing
from relay.connections import Connection, ManagedIdentity
from relay.delivery import targets
from relay.delivery.retry_after import TRANSIENT
from relay.delivery.targets import Meaning, Refusal
from relay.entra import clouds
from relay.ports import AccessToken
from relay.tools.doctor.entra import claims_of, unreachable
from relay.tools.doctor.finding import Finding, fail, ok
from relay.tools.doctor.metadata import MAX_SIZE
from relay.tools.doctor.reasons import HINTS

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of JSON that are read; Dataverse lists some thousand tables."""

HEADERS = {
    "Accept": "application/json",
    "OData-Version": "4.0",
    "OData-MaxVersion": "4.0",
    "User-Agent": "dynamics-oauth-callback-relay doctor",
}
FINANCE = "Finance & Operations"
FORM = "System administration > Setup > Microsoft Entra ID applications"
"""Where Finance & Operations knows applications, in the cloud and on-premises."""
_HTML = (b"<!doctype html", b"<html")


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """An answer of Dynamics. `document`: its JSON object, empty when there is none."""

    status: int
    location: str = ""
    is_html: bool = False
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_success(self) -> bool:
        """Tell whether it has a status of success and is no page."""
        return HTTPStatus(self.status).is_success and not self.is_html

    @property
    def values(self) -> list[Mapping[str, Any]]:
        """The objects of a collection (OData JSON Format 4.0 §12), or of any list in it."""
        return self.listed("value")

    def listed(self, name: str) -> list[Mapping[str, Any]]:
        """Return the objects in a list that is a member."""
        items = self.document.get(name)
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    @property
    def code(self) -> str:
        """The code of an OData error, never shown."""
        error = self.document.get("error")
        return str(error.get("code", "")) if isinstance(error, dict) else ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Sends requests to one connection's Dynamics, with the relay's token if there is one."""

    connection: Connection
    http: httpx.Client
    token: AccessToken | None

    @property
    def claims(self) -> Mapping[str, Any]:
        """The claims of the token; empty if it is not a readable JWT."""
        return claims_of(self.token) if self.token else {}

    @property
    def client_id(self) -> str:
        """The application's id, as it has to be registered in Dynamics."""
        credentials = self.connection.credentials
        named = self.claims.get("appid") or self.claims.get("azp") or credentials.client_id
        return str(named) if named else "of the managed identity"

    @property
    def origin(self) -> str:
        """The environment's own address, as the resource of its tokens is spelled."""
        parts = urlsplit(self.connection.target.url)
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @property
    def is_identity(self) -> bool:
        """Tell whether the client is a managed identity itself, without an app registration."""
        credentials = self.connection.credentials
        return credentials.client_id is None and isinstance(credentials.credential, ManagedIdentity)

    @property
    def by_adfs(self) -> bool:
        """Tell whether the token is of an AD FS."""
        authority = self.connection.credentials.authority
        return authority is not None and clouds.is_adfs(authority)

    def get(
        self, url: str, params: Mapping[str, str] | None = None, into: IO[bytes] | None = None
    ) -> ProbeResponse:
        """GET a URL. The body of a success is written `into` a file, if one is given.

        Raises `httpx.HTTPError`, also when the answer is too large.
        """
        headers = dict(HEADERS)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.value}"
        if into is not None:
            headers["Accept"] = "application/xml"
        with self.http.stream("GET", url, params=params, headers=headers) as response:
            if into is not None and response.is_success:
                head = _copy(response, into.write, MAX_SIZE)
                return ProbeResponse(response.status_code, is_html=_is_html(response, head))
            content = bytearray()
            head = _copy(response, content.extend, MAX_ANSWER)
            location = response.headers.get("location", "")
            return ProbeResponse(
                response.status_code,
                urljoin(str(response.url), location) if response.is_redirect else "",
                _is_html(response, head),
                outgoing.json_object(content) or {},
            )

    def ask(self, url: str) -> ProbeResponse | None:
        """GET something optional; `None` if it cannot be read."""
        try:
            answer = self.get(url)
        except httpx.HTTPError:
            return None
        return answer if answer.is_success else None

    def reach(
        self, name: str, url: str, into: IO[bytes] | None = None
    ) -> Generator[Finding, None, ProbeResponse | None]:
        """GET the first URL, tell whether Dynamics answers, and return the answer if so."""
        try:
            answer = self.get(url, into=into)
        except httpx.HTTPError as error:
            yield broken(error)
            return None
        stranger = self._no_service(name, answer)
        if stranger is not None:
            yield stranger
            return None
        yield ok("target", f"{name} answers")
        return answer

    def _no_service(self, name: str, answer: ProbeResponse) -> Finding | None:
        """Return a finding if something else answers: a proxy, a sign-in page, another address."""
        if answer.location:
            return self._redirected(answer.location)
        if answer.status in TRANSIENT or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _unavailable(name, answer.status)
        if answer.is_html and HTTPStatus(answer.status).is_success:
            return fail(
                "target",
                "a web page answers, not a service",
                "Check DYNAMICS_URL: the address of the entity or service, not of a page for "
                "people. A proxy that asks people to sign in must let the relay pass.",
            )
        known = targets.meaning_of(Refusal(answer.status, answer.document, ()))
        if known is not None and known.meaning is Meaning.PASSES:
            wrong, fix = HINTS[known.reason]
            return fail("target", f"{wrong} (HTTP {answer.status})", fix)
        return None

    def _redirected(self, location: str) -> Finding:
        if not clouds.is_adfs(location):
            return fail(
                "target",
                "it redirects, to a sign-in page or to another address",
                "Check host and path of DYNAMICS_URL; the relay follows no redirect with a token.",
            )
        if not self.by_adfs:
            return fail(
                "target",
                "it redirects to the sign-in page of AD FS: it is on-premises, and the token is "
                "not of its AD FS",
                "Set ENTRA_AUTHORITY to https://<host of AD FS>/adfs; python -m relay discover "
                "with DYNAMICS_URL tells which.",
            )
        return fail(
            "target",
            "it redirects to the sign-in page of AD FS: it does not take the token",
            f"In {FORM}, add the client id {self.client_id} with a user; DYNAMICS_SCOPE must be "
            "the environment's address without /namespaces/AXSF, and /.default.",
        )


def broken(error: httpx.HTTPError) -> Finding:
    """Return why there is no answer, or no complete one."""
    if isinstance(error, httpx.DecodingError):
        return fail(
            "target",
            "its answer is broken or far too large",
            "Check DYNAMICS_URL, and what proxies on the way do to answers.",
        )
    return unreachable("target", "Dynamics", error)


def names_in(items: Iterable[Mapping[str, Any]], member: str) -> list[str]:
    """Return one member of each object, where it is a string."""
    return [item[member] for item in items if isinstance(item.get(member), str)]


def _unavailable(name: str, status: int) -> Finding:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        fix = "Wait some minutes and run the doctor again."
        if name == FINANCE:
            fix += (
                " If it happens often, give the client id a high priority in System administration "
                "> Setup > Throttling priority mapping."
            )
        return fail("target", "it is throttling: there are too many requests (HTTP 429)", fix)
    return fail(
        "target",
        f"it is not available just now (HTTP {status})",
        "Wait some minutes and run the doctor again; look whether the environment is being "
        "serviced or is stopped.",
    )


def _copy(response: httpx.Response, write: Callable[[bytes], object], most: int) -> bytes:
    """Copy a body in pieces, and return its beginning."""
    head, size = b"", 0
    for chunk in response.iter_bytes():
        head = head or chunk[:64]
        size += len(chunk)
        if size > most:
            raise httpx.DecodingError("too large", request=response.request)
        write(chunk)
    return head


def _is_html(response: httpx.Response, head: bytes) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "text/html" or head.lstrip().lower().startswith(_HTML)
