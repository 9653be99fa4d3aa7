"""The token for Dynamics: fetched once for all who want it, kept, renewed in time.

MSAL asks once for each of many callers, and raises when a refresh fails although the old token is
still good. Here one request is under way at most, the last good token is used while Entra is out,
and after a failure Entra is left alone for a moment. `entra.py` gets each token.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from threading import Thread

from relay.connections import ClientCredentials
from relay.entra import client
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.ports import AccessToken

AHEAD = 3
"""How many tokens are fetched ahead; with more clients the rest wait until they are needed."""
LAST_GOOD = 30.0
"""Seconds that a token must still live to be used when its renewal fails."""
PAUSE_UNAVAILABLE = 1.0
PAUSE_REFUSED = 5.0
"""Seconds after a failure without Retry-After in which Entra is not asked again."""
RENEWAL_INTERVAL = 30.0
"""Seconds between two renewals that Dynamics caused by answering 401."""


class TokenCache:
    """Tokens by client credentials: connections with equal ones share one token and one request."""

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = client.Transport(context)
        self._clock = clock
        self._sources: dict[ClientCredentials, _Source] = {}

    async def get(self, credentials: ClientCredentials, *, within: float = 10.0) -> AccessToken:
        """Return a token that is good for some minutes, most often without waiting.

        Raises `Unavailable` when Entra cannot be reached now and no token is left, and
        `CredentialRefused` when it does not give one.
        """
        try:
            async with asyncio.timeout(within):
                return await self._source(credentials).get()
        except TimeoutError:
            raise Unavailable("entra_timeout", "Entra did not answer in time.") from None

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float = 10.0
    ) -> AccessToken:
        """Return another token than the one that Dynamics refused. Raises as `get` does."""
        try:
            async with asyncio.timeout(within):
                return await self._source(credentials).renew(refused)
        except TimeoutError:
            raise Unavailable("entra_timeout", "Entra did not answer in time.") from None

    def fetch_ahead(self, wanted: Iterable[ClientCredentials]) -> None:
        """Begin to fetch tokens before anybody asks, while the host is still starting.

        Returns at once and raises nothing: what fails is asked for again when it is needed.
        """
        first = [*islice(dict.fromkeys(wanted), AHEAD)]
        if first:
            # Here and not in the threads: these have then nothing to do but wait for Entra, while
            # the rest of the app is imported. Side by side both would be late.
            client.load()
        for credentials in first:
            self._source(credentials).fetch_ahead()

    def close(self) -> None:
        """Close the connections to Entra."""
        self._transport.close()

    def _source(self, credentials: ClientCredentials) -> "_Source":
        source = self._sources.get(credentials)
        if source is None:
            source = _Source(client.Client(credentials, self._transport, self._clock), self._clock)
            self._sources[credentials] = source
        return source


class _Source:
    """The token of one client: the last good one, and at most one request for the next."""

    def __init__(self, client: client.Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._token: AccessToken | None = None
        self._ahead: Future[AccessToken] | None = None
        self._flight: asyncio.Task[AccessToken] | None = None
        self._failure: RelayError | None = None
        self._closed_until = 0.0
        self._renewed_at = float("-inf")
        self._refused = False

    def fetch_ahead(self) -> None:
        self._ahead = self._begin()

    def _begin(self, *, anew: bool = False) -> Future[AccessToken]:
        """Ask Entra in a thread: everything in MSAL blocks, its constructor too."""
        future: Future[AccessToken] = Future()
        # Whoever waits for it may go away, and does not take it along.
        future.set_running_or_notify_cancel()

        def acquire() -> None:
            try:
                future.set_result(self._client.acquire(anew=anew))
            except BaseException as error:  # noqa: BLE001 - for whoever waits for it
                future.set_exception(error)

        # Not in the loop's executor: sealing would wait behind an Entra that does not answer, and
        # so would the end of the process. And there may be no loop yet.
        Thread(target=acquire, name="token", daemon=True).start()
        return future

    async def get(self) -> AccessToken:
        token = self._token
        if token is not None and self._clock() < token.fresh_until:
            return token
        try:
            return await self._fetch()
        except RelayError:
            # Entra may have kept us waiting: by the clock as it is now.
            if token is not None and self._clock() < token.expires_at - LAST_GOOD:
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
                raise _again(self._failure)
            self._flight = asyncio.create_task(self._land())
        # A caller that goes away must not take the others' token with it.
        return await asyncio.shield(self._flight)

    async def _land(self) -> AccessToken:
        try:
            self._token = await self._arrive()
            self._refused = False
        except RelayError as error:
            self._failure = _again(error)
            self._closed_until = self._clock() + _pause(error)
            raise
        else:
            return self._token
        finally:
            self._flight = None

    async def _arrive(self) -> AccessToken:
        """Return the token that was fetched ahead, if it came and is still good, or a new one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with suppress(RelayError):
                token = await asyncio.wrap_future(ahead)
                if self._clock() < token.fresh_until:
                    return token
        return await asyncio.wrap_future(self._begin(anew=self._refused))


def _again(error: RelayError) -> RelayError:
    """Return a new one each time: one that was raised keeps its frames, and in them a code."""
    if isinstance(error, Unavailable):
        return Unavailable(error.reason, str(error), retry_after=error.retry_after)
    return CredentialRefused(error.reason, str(error))


def _pause(error: RelayError) -> float:
    if isinstance(error, Unavailable):
        return error.retry_after or PAUSE_UNAVAILABLE
    return PAUSE_REFUSED
