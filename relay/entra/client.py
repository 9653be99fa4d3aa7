"""Get a token from Entra or AD FS through MSAL, by the client credentials grant (RFC 6749 §4.4).

MSAL blocks, replays failures for up to an hour, has no time-out of its own, and reports errors as
dictionaries or as exceptions that quote whole responses. This module hides that: `Client.acquire`
returns an `AccessToken`, or raises `Unavailable` or `CredentialRefused`, before its deadline.
"""

import asyncio
import json
import os
import re
import ssl
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from logging import WARNING
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlencode

import httpx

from relay import log, outgoing
from relay.connections import (
    ClientCertificate,
    ClientCredentials,
    ClientSecret,
    Credential,
    ManagedIdentity,
)
from relay.delivery.retry_after import TRANSIENT, seconds
from relay.entra import clouds, refusals
from relay.entra.refusals import Retry
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.ports import AccessToken

DEADLINE = 10.0
"""Seconds for all requests of one token: metadata, token endpoint, identity endpoint."""
MAX_ANSWER = 1024 * 1024
"""Bytes of a response body, compressed or not; a longer one counts as no response."""
LIFETIME = 600
"""Lifetime in seconds of a token without `expires_in` (RFC 6749 §5.1); MSAL assumes the same."""
EARLY = 300.0
"""Seconds before its expiry from which a token is renewed."""

FEDERATED_PAUSE = 1.0
"""Seconds before a refused federated credential is asked for a second time."""


type Parameters = Mapping[str, str | bytes]
type Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A response, with the attributes that MSAL reads."""

    status_code: int
    headers: Headers = field(repr=False)
    text: str = field(repr=False)

    def raise_for_status(self) -> None:
        """Raise `ValueError` for an error status, without the body in its message."""
        if self.status_code >= HTTPStatus.BAD_REQUEST:
            raise ValueError("status")


def load() -> None:
    """Import MSAL and its dependencies, which otherwise happens with the first token."""
    import msal  # noqa: F401, PLC0415


class UnreachableError(Exception):
    """No response came. `word` is the reason; the cause is dropped, as it quotes host and body."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Session:
    """The HTTP requests of one `acquire`: an event loop in its thread, one deadline for all.

    A blocking client has time-outs for single reads only, so a slow response could last for ever.
    No cookies, no redirects, no retries; proxies are those of the environment.
    """

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        self._context = context
        # Not uvloop, whose `close` waits for a DNS server that does not answer.
        self._loop = asyncio.SelectorEventLoop()
        self._ends = self._loop.time() + seconds
        self._clients: dict[str | None, httpx.AsyncClient] = {}

    def request(
        self, method: str, url: str, headers: Headers, body: bytes | None, *, direct: bool
    ) -> Response:
        """Send a request, without a proxy if `direct`, and block. Raises `UnreachableError`."""
        try:
            return self._run(self._exchange(method, url, headers, body, direct=direct))
        except (TimeoutError, httpx.TimeoutException):
            raise UnreachableError("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            is_tls = outgoing.caused_by(error, ssl.SSLError)
            raise UnreachableError("tls" if is_tls else "connect") from None

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
            task.cancel()  # it is unfinished after Ctrl+C

    async def _exchange(
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
        decoded = _decoded(bytes(content), response.headers.get("content-encoding", ""))
        text = decoded.decode("utf-8", "replace")
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
        await self._loop.shutdown_asyncgens()  # of responses that were not read completely
        await asyncio.sleep(0)  # sockets close in the next iteration of the loop


def _decoded(content: bytes, encoding: str) -> bytes:
    """Decode an unrequested content coding (RFC 9110 §8.4.1), up to `MAX_ANSWER` bytes."""
    match encoding.strip().lower():
        case "" | "identity":
            return content
        case "gzip" | "x-gzip":
            windows = [zlib.MAX_WBITS | 16]
        case "deflate":
            # Some servers omit the zlib header, which RFC 9110 §8.4.1.2 requires.
            windows = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
        case _:
            raise UnreachableError("encoding")
    for window in windows:
        stream = zlib.decompressobj(window)
        with suppress(zlib.error):
            decoded = stream.decompress(content, MAX_ANSWER + 1)
            if len(decoded) > MAX_ANSWER:
                raise UnreachableError("size")
            if stream.eof:
                return decoded
    raise UnreachableError("encoding")


class Client:
    """One confidential client of Entra or AD FS, with any credential. Not thread-safe.

    In: the trust for TLS; the `clock` for the tokens' times; `deadline`, in seconds, for `acquire`;
    `say` writes a line about each refusal.
    """

    def __init__(
        self,
        credentials: ClientCredentials,
        context: ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
        *,
        deadline: float = DEADLINE,
        say: log.Say = log.at_once,
    ) -> None:
        self._credentials = credentials
        self._say = say
        self._http = _Http(context, deadline)
        self._clock = clock
        self._http_cache: dict[str, object] = {}
        self._app: Any = None
        self._file_version: object = None

    def acquire(self) -> AccessToken:
        """Return a new token. Blocks, at most until the deadline: call it in a thread.

        Raises `Unavailable` when Entra cannot be reached now, and `CredentialRefused` when it
        refuses.
        """
        started = self._clock()
        try:
            with self._http.session():
                result = self._ask()
                reasons = _reasons("entra", None, result, "")
                again = refusals.retry(*reasons) is Retry.AT_ONCE
                if again and self._http.wait(FEDERATED_PAUSE):
                    self._http_cache.clear()
                    result = self._ask()
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - MSAL raises many types
            # A body that is not JSON comes from a proxy or firewall, not from Entra.
            # `from None`: these errors quote responses in full.
            foreign = isinstance(error, json.JSONDecodeError)
            word = error.word if isinstance(error, UnreachableError) else type(error).__name__
            raise self._refusal({}, word, transient=foreign) from None
        finally:
            self._http_cache.clear()  # MSAL would replay a failure for up to an hour
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
        # tokens.py is the cache: MSAL's could return the token that Dynamics has refused.
        # `remove_tokens_for_client` does not find those of AD FS.
        app.token_cache.deserialize(None)
        # AD FS before 2019 does not know `scope`; later versions accept both.
        adfs = clouds.is_adfs(credentials.authority)
        further = {"data": {"resource": credentials.resource}} if adfs else {}
        answer: Mapping[str, Any] = app.acquire_token_for_client([credentials.scope], **further)
        return answer

    def _application(self, authority: str, client_id: str) -> Any:  # noqa: ANN401 - MSAL has no types
        """Return MSAL's client; a new one when the certificate's file has changed."""
        version = _file_version(self._credentials.credential)
        if self._app is not None and version == self._file_version:
            return self._app
        import msal  # noqa: PLC0415 - 100 ms, which /health does not need

        try:
            credential = self._credential(authority)
        except CredentialRefused:
            if self._app is None:
                raise
            # The file is being written: use the old client until it can be read.
            return self._app
        self._app = msal.ConfidentialClientApplication(
            client_id,
            authority=authority,
            client_credential=credential,
            # The authority was validated with the settings. Instance discovery would only add a
            # request to the public cloud.
            instance_discovery=False,
            token_cache=msal.SerializableTokenCache(),
            http_client=self._http,
            http_cache=self._http_cache,
        )
        self._file_version = version
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
                # Entra knows the app registration by the token of the identity that it trusts.
                return {"client_assertion": lambda: self._identity(cloud.exchange)["access_token"]}
            case _:
                assert_never(self._credentials.credential)

    def _identity(self, resource: str) -> Mapping[str, Any]:
        """Request a token of the managed identity from the platform."""
        import msal  # noqa: PLC0415 - as above

        if "IDENTITY_ENDPOINT" not in os.environ:
            # MSAL would assume a virtual machine and wait for its unreachable metadata address.
            missing = "No managed identity is assigned to the relay."
            raise CredentialRefused("identity_missing", missing)
        credential = self._credentials.credential
        identity: Any = msal.SystemAssignedManagedIdentity()
        if isinstance(credential, ManagedIdentity) and credential.client_id is not None:
            identity = msal.UserAssignedManagedIdentity(client_id=credential.client_id)
        # A new client each time: MSAL would cache refused tokens; the platform has a cache itself.
        self._http.asked = "identity"
        client = msal.ManagedIdentityClient(identity, http_client=self._http, http_cache={})
        answer: Mapping[str, Any] = client.acquire_token_for_client(resource=resource)
        if "access_token" not in answer:
            raise self._refusal(answer, "no_token")
        self._http.asked = "entra"
        return answer

    def _refusal(
        self, result: Mapping[str, Any], otherwise: str, *, transient: bool = False
    ) -> RelayError:
        http = self._http
        status, said = http.status, result or http.answer
        transient = transient or status is None or status < HTTPStatus.BAD_REQUEST
        reasons = [*_reasons(http.asked, status, said, otherwise)]
        reason = reasons[0]
        retry = refusals.retry(*reasons)
        self._say(WARNING, "no token from Entra: reason=%s entra_status=%s", reason, status)
        if retry is Retry.ANEW:
            self._app = None
        if transient or status in TRANSIENT or retry is not Retry.NEVER:
            message = "Entra cannot be reached just now."
            return Unavailable(reason, message, retry_after=http.retry_after)
        return CredentialRefused(reason, "Entra does not give the relay a token.")


class _Http:
    """The HTTP client that is passed to MSAL. It records what MSAL leaves out of its results."""

    def __init__(self, context: ssl.SSLContext, deadline: float) -> None:
        self._context = context
        self._deadline = deadline
        self._session: _Session | None = None
        self.asked = "entra"
        """The last endpoint, `entra` or `identity`: MSAL reports failures of both alike."""
        self.status: int | None = None
        self.retry_after: float | None = None
        self.answer: Mapping[str, Any] = {}
        """The JSON of Entra's last error: MSAL reduces a wrong tenant to a `ValueError`."""

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
        return self._send("GET", url, params, headers)

    def post(
        self,
        url: str,
        *,
        params: Parameters | None = None,
        data: Parameters | None = None,
        headers: Headers | None = None,
    ) -> Response:
        # `urlencode` accepts bytes, which MSAL passes as a certificate's assertion.
        body = urlencode(data or {}).encode("ascii")
        form = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return self._send("POST", url, params, form, body)

    def close(self) -> None:
        """Do nothing: connections are closed with the session, not with MSAL's client."""

    def _send(
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
        # The identity endpoint is local, and its requests carry a secret: no proxy.
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
    """Return the metadata of a tenant in a known cloud, as far as MSAL uses them, or `None`.

    The endpoints are documented and follow one pattern for all tenants, so a cold start saves a
    request (https://learn.microsoft.com/entra/identity-platform/v2-protocols#endpoints). A tenant
    that does not exist is then refused by the token endpoint.
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


def _file_version(credential: Credential) -> object:
    """Return values that change when the certificate's file is replaced."""
    if not isinstance(credential, ClientCertificate) or credential.path is None:
        return None
    try:
        status = Path(credential.path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


_WORD = re.compile(r"[a-z_]{1,40}")


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


def _reasons(
    asked: str, status: int | None, said: Mapping[str, Any], otherwise: str
) -> Iterator[str]:
    """Yield what a refusal is called: its AADSTS number, OAuth's `error`, and `otherwise`.

    The first one is for the log. Descriptions are not logged, because they quote the request. For
    the identity endpoint it is the status, because MSAL calls all its errors `invalid_scope`.
    """
    if asked == "identity" and status is not None:
        yield f"identity_{status}"
        return
    code = _code(said)
    if code is not None:
        yield f"AADSTS{code}"
    error = said.get("error")
    if isinstance(error, str) and _WORD.fullmatch(error):
        yield f"{asked}_{error}"
    yield f"{asked}_{otherwise}"
