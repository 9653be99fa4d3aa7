"""Entra: a bearer token for Dynamics by the client credentials grant (RFC 6749 §4.4), through MSAL.

MSAL is wrapped completely, because it blocks, asks once for each of many callers, replays failures
for up to an hour, waits for ever without a time-out, answers errors as dictionaries, and raises
when a refresh fails although the old token is still good. None of that leaves this file: a caller
gets an `AccessToken`, or `Unavailable`, or `CredentialRefused`.
"""

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import httpx

from relay import cookies
from relay.callback import AccessToken
from relay.connections import ClientCredentials
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.retry_after import TRANSIENT, seconds

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
"""Seconds for one request to Entra; a first token takes two, metadata and token."""
EARLY = 300.0
"""Seconds before its end at which a token is renewed; MSAL counts it as expired then too."""
LAST_GOOD = 30.0
"""Seconds that a token must still live to be used when its renewal fails."""
PAUSE_UNAVAILABLE = 1.0
PAUSE_REFUSED = 5.0
"""Seconds after a failure without Retry-After in which Entra is not asked again."""
RENEWAL_INTERVAL = 30.0
"""Seconds between two renewals that Dynamics caused by answering 401."""

logger = logging.getLogger(__name__)


class TokenCache:
    """Tokens by client credentials: connections with equal ones share one token and one request."""

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._http = httpx.Client(
            verify=context, timeout=TIMEOUT, follow_redirects=False, cookies=cookies.none()
        )
        self._clock = clock
        self._sources: dict[ClientCredentials, _Source] = {}

    async def get(self, credentials: ClientCredentials) -> AccessToken:
        """Return a token that is good for some minutes, most often without waiting.

        Raises `Unavailable` when Entra cannot be reached now and no token is left, and
        `CredentialRefused` when it does not give one.
        """
        return await self._source(credentials).get()

    async def renew(self, credentials: ClientCredentials, refused: AccessToken) -> AccessToken:
        """Return another token than the one that Dynamics refused. Raises as `get` does."""
        return await self._source(credentials).renew(refused)

    def close(self) -> None:
        """Close the connections to Entra."""
        self._http.close()

    def _source(self, credentials: ClientCredentials) -> "_Source":
        source = self._sources.get(credentials)
        if source is None:
            source = _Source(credentials, _EntraHttp(self._http), self._clock)
            self._sources[credentials] = source
        return source


class _Source:
    """The token of one client: the last good one, and at most one request for the next."""

    def __init__(
        self, credentials: ClientCredentials, http: "_EntraHttp", clock: Callable[[], float]
    ) -> None:
        self._credentials = credentials
        self._http = http
        self._clock = clock
        self._app: Any = None
        self._http_cache: dict[str, object] = {}
        self._token: AccessToken | None = None
        self._flight: asyncio.Task[AccessToken] | None = None
        self._failure: RelayError | None = None
        self._closed_until = 0.0
        self._renewed_at = float("-inf")
        self._refused = False

    async def get(self) -> AccessToken:
        token, now = self._token, self._clock()
        if token is not None and now < token.fresh_until:
            return token
        try:
            return await self._fetch()
        except Unavailable:
            if token is not None and now < token.expires_at - LAST_GOOD:
                return token
            raise

    async def renew(self, refused: AccessToken) -> AccessToken:
        if self._token is refused and self._clock() - self._renewed_at >= RENEWAL_INTERVAL:
            self._renewed_at = self._clock()
            self._token = None
            self._refused = True
        return await self.get()

    async def _fetch(self) -> AccessToken:
        if self._flight is None:
            if self._clock() < self._closed_until and self._failure is not None:
                raise self._failure.with_traceback(None)
            self._flight = asyncio.create_task(self._land())
        # A caller that goes away must not take the others' token with it.
        return await asyncio.shield(self._flight)

    async def _land(self) -> AccessToken:
        try:
            self._token = await asyncio.to_thread(self._acquire)
        except RelayError as error:
            self._failure = error
            self._closed_until = self._clock() + _pause(error)
            raise
        else:
            return self._token
        finally:
            self._flight = None

    def _acquire(self) -> AccessToken:
        # Runs in a thread: everything in MSAL blocks, its constructor too.
        started = self._clock()
        self._http.forget()
        try:
            if self._app is None:
                self._app = self._build()
            if self._refused:
                self._app.remove_tokens_for_client()  # or MSAL hands out the very same one
                self._refused = False
            result = self._app.acquire_token_for_client([self._credentials.scope])
        except Exception as error:  # noqa: BLE001 - the door at which MSAL's many errors end
            # What is no JSON did not come from Entra but from something on the way to it.
            # `from None`: these errors quote responses in full.
            foreign = isinstance(error, json.JSONDecodeError)
            raise self._refusal({}, type(error).__name__, passing=foreign) from None
        finally:
            self._http_cache.clear()  # or MSAL replays a failure for up to an hour
        if "access_token" not in result:
            raise self._refusal(result, "no_token")
        lifetime = float(result["expires_in"])
        expires_at = started + lifetime
        return AccessToken(
            value=result["access_token"],
            fresh_until=expires_at - min(EARLY, lifetime / 2),
            expires_at=expires_at,
        )

    def _build(self) -> Any:  # noqa: ANN401 - MSAL has no types
        import msal  # noqa: PLC0415 - 100 ms that a process which only answers /health never pays

        return msal.ConfidentialClientApplication(
            self._credentials.client_id,
            authority=self._credentials.authority,
            client_credential=self._credentials.client_secret,
            # The authority comes from the settings, where it was checked. Asking a public cloud
            # about a private one would only add a request to every failure.
            instance_discovery=False,
            http_client=self._http,
            http_cache=self._http_cache,
        )

    def _refusal(
        self, result: Mapping[str, Any], otherwise: str, *, passing: bool = False
    ) -> RelayError:
        reason = _reason(result, otherwise)
        status = self._http.status
        passing = passing or status is None or status < HTTPStatus.BAD_REQUEST
        if passing or status in TRANSIENT:
            error: RelayError = Unavailable(
                reason, "Entra cannot be reached just now.", retry_after=self._http.retry_after
            )
        else:
            error = CredentialRefused(reason, "Entra does not give the relay a token.")
        logger.warning("no token from Entra: reason=%s entra_status=%s", reason, status)
        return error


class _EntraHttp:
    """The HTTP client that MSAL is given. It keeps what MSAL leaves out of its answers."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.status: int | None = None
        self.retry_after: float | None = None

    def forget(self) -> None:
        self.status = self.retry_after = None

    def get(
        self,
        url: str,
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self._keep(lambda: self._client.get(url, params=params or None, headers=headers))

    def post(
        self,
        url: str,
        *,
        params: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self._keep(
            lambda: self._client.post(url, params=params or None, data=data, headers=headers)
        )

    def close(self) -> None:
        """Leave the client open: it is the cache's, and MSAL has no business with its end."""

    def _keep(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        self.forget()
        response = send()
        self.status = response.status_code
        self.retry_after = seconds(response.headers.get("retry-after"))
        return response


def _pause(error: RelayError) -> float:
    if isinstance(error, Unavailable):
        return error.retry_after or PAUSE_UNAVAILABLE
    return PAUSE_REFUSED


_WORD = re.compile(r"[a-z_]{1,40}")


def _reason(result: Mapping[str, Any], otherwise: str) -> str:
    """Return one word for the log: AADSTS and its number, or OAuth's `error`, or what is known.

    Only numbers and plain words pass: the descriptions quote what was sent.
    """
    codes = result.get("error_codes")
    if isinstance(codes, list) and codes and isinstance(codes[0], int):
        return f"AADSTS{codes[0]}"
    error = result.get("error")
    if isinstance(error, str) and _WORD.fullmatch(error):
        return f"entra_{error}"
    return f"entra_{otherwise}"
