"""Entra and AD FS through MSAL: one token by the client credentials grant (RFC 6749 §4.4).

MSAL blocks, replays failures for up to an hour, waits for ever without a time-out, and tells
errors as dictionaries or as exceptions that quote whole responses. None of that leaves this file:
`Client.acquire` returns an `AccessToken`, or raises `Unavailable` or `CredentialRefused`, before
its deadline.
"""

import asyncio
import json
import logging
import os
import re
import ssl
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlencode

import httpx

from relay import outgoing
from relay.connections import (
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Credential,
    ManagedIdentity,
)
from relay.delivery.retry_after import TRANSIENT, seconds
from relay.entra import clouds
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.ports import AccessToken

DEADLINE = 10.0
"""Seconds for all that one token asks: metadata, the token itself, the identity endpoint."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer, as it comes and unpacked; a longer one is no answer."""
LIFETIME = 600
"""Seconds for which a token is good that does not tell (RFC 6749 §5.1); MSAL takes it so too."""
EARLY = 300.0
"""Seconds before its end from which a token is renewed."""

FEDERATED_PAUSE = 1.0
"""Seconds before a refused federated credential is asked for a second time."""

TRANSIENT_ERRORS = frozenset({"temporarily_unavailable", "server_error"})
"""Values of `error` (RFC 6749 §4.1.2.1) that may change on the next attempt."""
FEDERATED = frozenset({70021, 700211, 700212, 700213})
"""AADSTS codes of a federated credential that is unknown: also of a right one, because a replica is
behind. https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations"""
STALE_ASSERTION = 700024
"""The AADSTS code of an assertion that is outside of its time; MSAL keeps one for minutes."""
TRANSIENT_CODES = FEDERATED | {
    *(90006, 90012, 90024, 90033, 90055, 90090, 90091),
    *(40010, 50033, 50087, 50196, 51005, 70012, 80005, STALE_ASSERTION),
}
"""AADSTS codes that may change on the next attempt, whatever the status.
https://learn.microsoft.com/entra/identity-platform/reference-error-codes"""
IDENTITY_TRANSIENT = TRANSIENT | {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
"""The same for statuses of the identity endpoint: 404 and 410 while it starts or is updated."""

logger = logging.getLogger(__name__)

type Parameters = Mapping[str, str | bytes]
type Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, with the names that MSAL asks for."""

    status_code: int
    headers: Headers = field(repr=False)
    text: str = field(repr=False)

    def raise_for_status(self) -> None:
        """Raise for an error, without what it says."""
        if self.status_code >= HTTPStatus.BAD_REQUEST:
            raise ValueError("status")


def load() -> None:
    """Import MSAL and all that it brings, which otherwise happens with the first token."""
    import msal  # noqa: F401, PLC0415


class UnreachableError(Exception):
    """There is no answer. `word` says why; the cause is not kept, it quotes names and bytes."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Session:
    """The HTTP of one `acquire`: an event loop of its thread, and one deadline for all requests.

    MSAL blocks, and a blocking client bounds only each wait for the next byte: an answer that drips
    never ends. No cookies, no redirects, no retries; proxies are those of the environment.
    """

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        self._context = context
        # uvloop's `close` waits for a name server that does not answer.
        self._loop = asyncio.SelectorEventLoop()
        self._ends = self._loop.time() + seconds
        self._clients: dict[str | None, httpx.AsyncClient] = {}

    def request(
        self, method: str, url: str, headers: Headers, body: bytes | None, *, direct: bool
    ) -> Response:
        """Ask, through no proxy if `direct`, and wait. Raises `UnreachableError`."""
        try:
            return self._run(self._ask(method, url, headers, body, direct=direct))
        except (TimeoutError, httpx.TimeoutException):
            raise UnreachableError("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            raise UnreachableError(
                "tls" if outgoing.caused_by(error, ssl.SSLError) else "connect"
            ) from None

    def wait(self, pause: float) -> bool:
        """Wait, if as much time is left afterwards; tell whether it was."""
        if self._loop.time() + 2 * pause > self._ends:
            return False
        self._run(asyncio.sleep(pause))
        return True

    def close(self) -> None:
        """Close the connections and the loop."""
        self._run(self._disconnect())
        self._loop.close()

    def _run[T](self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            task.cancel()  # Ctrl+C at a command leaves it unfinished

    async def _ask(
        self, method: str, url: str, headers: Headers, body: bytes | None, *, direct: bool
    ) -> Response:
        async with asyncio.timeout_at(self._ends):
            client = self._client(None if direct else outgoing.proxy_of(url))
            # A compressed body has no bounded size.
            plain = {**headers, "Accept-Encoding": "identity"}
            async with client.stream(method, url, headers=plain, content=body) as response:
                content = bytearray()
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > MAX_ANSWER:
                        raise UnreachableError("size")
        unpacked = _unpacked(bytes(content), response.headers.get("content-encoding", ""))
        text = unpacked.decode("utf-8", "replace")
        return Response(response.status_code, dict(response.headers), text)

    def _client(self, proxy: str | None) -> httpx.AsyncClient:
        client = self._clients.get(proxy)
        if client is None:
            client = outgoing.client(self._context, timeout=httpx.Timeout(None), proxy=proxy)
            self._clients[proxy] = client
        return client

    async def _disconnect(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await self._loop.shutdown_asyncgens()  # of an answer that was not read to its end
        await asyncio.sleep(0)  # the turn of the loop in which the sockets close


def _unpacked(content: bytes, encoding: str) -> bytes:
    """Undo a content coding (RFC 9110 §8.4.1) that nobody asked for, up to `MAX_ANSWER` bytes."""
    match encoding.strip().lower():
        case "" | "identity":
            return content
        case "gzip" | "x-gzip":
            windows = [zlib.MAX_WBITS | 16]
        case "deflate":
            # Some servers leave out the zlib header that the RFC wants.
            windows = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
        case _:
            raise UnreachableError("encoding")
    for window in windows:
        stream = zlib.decompressobj(window)
        with suppress(zlib.error):
            unpacked = stream.decompress(content, MAX_ANSWER + 1)
            if len(unpacked) > MAX_ANSWER:
                raise UnreachableError("size")
            if stream.eof:
                return unpacked
    raise UnreachableError("encoding")


class Client:
    """One client of Entra, in whatever way it proves who it is. Not to be used by two at once.

    In: the trust for TLS; `clock`, by which tokens live; `deadline`, in seconds, for `acquire`.
    """

    def __init__(
        self,
        credentials: ClientCredentials,
        context: ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._credentials = credentials
        self._http = _Http(context, deadline)
        self._clock = clock
        self._http_cache: dict[str, object] = {}
        self._app: Any = None
        self._stamp: object = None

    def acquire(self) -> AccessToken:
        """Return a new token. It blocks, at most until the deadline: call it in a thread.

        Raises `Unavailable` when Entra cannot be reached now, and `CredentialRefused` when it does
        not give one.
        """
        started = self._clock()
        try:
            with self._http.session():
                result = self._ask()
                if _code(result) in FEDERATED and self._http.wait(FEDERATED_PAUSE):
                    self._http_cache.clear()
                    result = self._ask()
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - the door at which MSAL's many errors end
            # What is no JSON did not come from Entra but from something on the way to it.
            # `from None`: these errors quote responses in full.
            foreign = isinstance(error, json.JSONDecodeError)
            word = error.word if isinstance(error, UnreachableError) else type(error).__name__
            raise self._refusal({}, word, passing=foreign) from None
        finally:
            self._http_cache.clear()  # or MSAL replays a failure for up to an hour
        if "access_token" not in result:
            raise self._refusal(result, "no_token")
        lifetime = float(result.get("expires_in", LIFETIME))
        expires_at = started + lifetime
        return AccessToken(
            value=result["access_token"],
            fresh_until=expires_at - min(EARLY, lifetime / 2),
            expires_at=expires_at,
            authority=self._credentials.authority,
        )

    def _ask(self) -> Mapping[str, Any]:
        credentials = self._credentials
        if credentials.authority is None or credentials.client_id is None:
            return self._identity(credentials.resource)
        app = self._application(credentials.authority, credentials.client_id)
        # Tokens are kept in tokens.py: one that MSAL finds may be the one that Dynamics refused.
        # `remove_tokens_for_client` does not find those of AD FS.
        app.token_cache.deserialize(None)
        # AD FS before 2019 does not know `scope`; later ones take both.
        adfs = clouds.is_adfs(credentials.authority)
        further = {"data": {"resource": credentials.resource}} if adfs else {}
        answer: Mapping[str, Any] = app.acquire_token_for_client([credentials.scope], **further)
        return answer

    def _application(self, authority: str, client_id: str) -> Any:  # noqa: ANN401 - MSAL has no types
        """Return MSAL's client, made anew when the file of its certificate is another one."""
        stamp = _stamp(self._credentials.credential)
        if self._app is not None and stamp == self._stamp:
            return self._app
        import msal  # noqa: PLC0415 - 100 ms that a process which only answers /health never pays

        try:
            credential = self._credential(authority)
        except CredentialRefused:
            if self._app is None:
                raise
            # A file that is just being written. The client that works goes on until it can be read.
            return self._app
        self._app = msal.ConfidentialClientApplication(
            client_id,
            authority=authority,
            client_credential=credential,
            # The authority comes from the settings, where it was checked. Asking a public cloud
            # about a private one would only add a request to every failure.
            instance_discovery=False,
            token_cache=msal.SerializableTokenCache(),
            http_client=self._http,
            http_cache=self._http_cache,
        )
        self._stamp = stamp
        return self._app

    def _credential(self, authority: str) -> str | dict[str, object]:
        match self._credentials.credential:
            case ClientSecret(value):
                return value
            case ClientCertificate() as certificate:
                from relay.entra import certificate as certificates  # noqa: PLC0415 - 30 ms, only here

                key, chain = certificates.load(certificate)
                return {"private_key": key, "public_certificate": chain}
            case ManagedIdentity():
                cloud = clouds.of_login(authority) or clouds.PUBLIC
                return {"client_assertion": lambda: self._assertion(cloud.exchange)}
            case _:
                assert_never(self._credentials.credential)

    def _assertion(self, audience: str) -> str:
        """Return the identity's token, by which Entra knows the app registration that trusts it."""
        token: str = self._identity(audience)["access_token"]
        return token

    def _identity(self, resource: str) -> Mapping[str, Any]:
        """Ask the platform for a token of its managed identity."""
        import msal  # noqa: PLC0415 - as above

        if "IDENTITY_ENDPOINT" not in os.environ:
            # MSAL would take this for a virtual machine and wait for an address without an answer.
            raise CredentialRefused(
                "identity_missing", "No managed identity is assigned to the relay."
            )
        credential = self._credentials.credential
        identity: Any = msal.SystemAssignedManagedIdentity()
        if isinstance(credential, ManagedIdentity) and credential.client_id is not None:
            identity = msal.UserAssignedManagedIdentity(client_id=credential.client_id)
        # A new client each time: the platform keeps the tokens, and MSAL would keep refused ones.
        self._http.asked = "identity"
        client = msal.ManagedIdentityClient(identity, http_client=self._http, http_cache={})
        answer: Mapping[str, Any] = client.acquire_token_for_client(resource=resource)
        if "access_token" not in answer:
            raise self._refusal(answer, "no_token")
        self._http.asked = "entra"
        return answer

    def _refusal(
        self, result: Mapping[str, Any], otherwise: str, *, passing: bool = False
    ) -> RelayError:
        http = self._http
        status, said = http.status, result or http.answer
        passing = passing or status is None or status < HTTPStatus.BAD_REQUEST
        reason = _reason(http.asked, status, result or http.answer, otherwise)
        if _code(said) == STALE_ASSERTION:
            self._app = None
        if passing or _is_transient(http.asked, status, said):
            error: RelayError = Unavailable(
                reason, "Entra cannot be reached just now.", retry_after=http.retry_after
            )
        else:
            error = CredentialRefused(reason, "Entra does not give the relay a token.")
        logger.warning("no token from Entra: reason=%s entra_status=%s", reason, self._http.status)
        return error


class _Http:
    """The HTTP client that MSAL is given. It keeps what MSAL leaves out of its answers."""

    def __init__(self, context: ssl.SSLContext, deadline: float) -> None:
        self._context = context
        self._deadline = deadline
        self._session: _Session | None = None
        self.asked = "entra"
        """Who was asked last, `entra` or `identity`: MSAL tells both failures alike."""
        self.status: int | None = None
        self.retry_after: float | None = None
        self.answer: Mapping[str, Any] = {}
        """The last error as Entra words it: of a wrong tenant MSAL only says "ValueError"."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """Let requests be made, until the deadline that begins now."""
        self.asked = "entra"
        self.forget()
        self._session = _Session(self._context, self._deadline)
        try:
            yield
        finally:
            self._session.close()
            self._session = None

    def wait(self, pause: float) -> bool:
        """Wait, if as much time is left for another request after it; tell whether it was."""
        return self._session is not None and self._session.wait(pause)

    def forget(self) -> None:
        self.status = self.retry_after = None
        self.answer = {}

    def get(
        self, url: str, *, params: Parameters | None = None, headers: Headers | None = None
    ) -> Response:
        return self._keep("GET", url, params, headers)

    def post(
        self,
        url: str,
        *,
        params: Parameters | None = None,
        data: Parameters | None = None,
        headers: Headers | None = None,
    ) -> Response:
        # `urlencode` takes bytes as they are: MSAL hands over a certificate's assertion as such.
        body = urlencode(data or {}).encode("ascii")
        form = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return self._keep("POST", url, params, form, body)

    def close(self) -> None:
        """Leave the connections open: they end with the session, not with MSAL's client."""

    def _keep(
        self,
        method: str,
        url: str,
        params: Parameters | None,
        headers: Headers | None,
        body: bytes | None = None,
    ) -> Response:
        self.forget()
        known = _known_metadata(url)
        if known is not None:
            return known
        url = f"{url}?{urlencode(params)}" if params else url
        # The platform's endpoint is on this machine: a proxy would only learn its secret.
        direct = self.asked == "identity"
        if self._session is None:
            raise RuntimeError("no session")
        response = self._session.request(method, url, headers or {}, body, direct=direct)
        self.status = response.status_code
        self.retry_after = seconds(response.headers.get("retry-after"))
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            self.answer = outgoing.json_object(response.text) or {}
        return response


_METADATA = "/v2.0/.well-known/openid-configuration"


def _known_metadata(url: str) -> Response | None:
    """Return the metadata of a tenant in a known cloud without asking, as far as MSAL uses them.

    Endpoints are documented, and the same for every tenant; asking would cost each cold start a
    round trip (https://learn.microsoft.com/entra/identity-platform/v2-protocols#endpoints). A
    tenant that does not exist is then refused by the token endpoint.
    """
    authority = url.removesuffix(_METADATA)
    if authority == url or clouds.of_login(authority) is None:
        return None
    endpoints = {
        "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
        "token_endpoint": f"{authority}/oauth2/v2.0/token",
        "issuer": f"{authority}/v2.0",
    }
    return Response(HTTPStatus.OK, {}, json.dumps(endpoints))


def _stamp(credential: Credential) -> object:
    """Return what changes when the platform puts another certificate into the file."""
    if not isinstance(credential, ClientCertificate) or credential.path is None:
        return None
    try:
        status = Path(credential.path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


_WORD = re.compile(r"[a-z_]{1,40}")


def _is_transient(asked: str, status: int | None, said: Mapping[str, Any]) -> bool:
    """Tell whether a refusal may change on the next attempt: by its code and error, or status."""
    if asked == "identity":
        # MSAL words these refusals itself.
        return status in IDENTITY_TRANSIENT
    error = said.get("error")
    return status in TRANSIENT or _code(said) in TRANSIENT_CODES or error in TRANSIENT_ERRORS


_AADSTS = re.compile(r"AADSTS(\d{4,8})\b")


def _code(said: Mapping[str, Any]) -> int | None:
    """Return the AADSTS code of an error response, if it has one."""
    match said:
        case {"error_codes": [int(code), *_]}:
            return code
        case {"error_description": str(description)}:
            found = _AADSTS.match(description)
            return int(found[1]) if found else None
    return None


def _reason(asked: str, status: int | None, result: Mapping[str, Any], otherwise: str) -> str:
    """Return one word for the log: AADSTS and its number, or OAuth's `error`, or what is known.

    Only numbers and plain words pass: the descriptions quote what was sent. For the identity
    endpoint it is the status, because MSAL calls all its errors `invalid_scope`.
    """
    if asked == "identity" and status is not None:
        return f"identity_{status}"
    code = _code(result)
    if code is not None:
        return f"AADSTS{code}"
    error = result.get("error")
    if isinstance(error, str) and _WORD.fullmatch(error):
        return f"{asked}_{error}"
    return f"{asked}_{otherwise}"
