"""The token for Dynamics: fetched once for all who want it, kept, renewed in time.

MSAL asks once for each of many callers, and raises when a refresh fails although the old token is
still good. Here one request is under way at most, the last good token is used while it is renewed
or Entra is out, and after a failure Entra is left alone for a moment. `entra.py` gets each token.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from itertools import islice
from threading import Lock, Thread

from relay.connections import ClientCredentials
from relay.entra.client import DEADLINE, Client, load
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.ports import AccessToken

AHEAD = 3
"""How many tokens are fetched ahead; with more clients the rest wait until they are needed."""
LAST_GOOD = 30.0
"""Seconds that a token must still live to be used while its renewal runs or fails."""
PAUSE_UNAVAILABLE = 1.0
PAUSE_REFUSED = 5.0
"""Seconds after a failure without Retry-After in which Entra is not asked again."""
RENEWAL_INTERVAL = 30.0
"""Seconds between two renewals that Dynamics caused by answering 401."""
STUCK = 1.0
"""Seconds after its deadline at which a request counts as one that never ends."""


type _Request = Future[AccessToken | RelayError]
"""A failure is a result: an exception that was raised keeps its frames, and in them a code."""


class TokenCache:
    """Tokens by client credentials: connections with equal ones share one token and one request.

    In: the trust for TLS; `clock`, by which tokens live; `deadline`, the seconds for one request.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        self._context = context
        self._clock = clock
        self._deadline = deadline
        self._sources: dict[ClientCredentials, _Source] = {}

    async def get(self, credentials: ClientCredentials, *, within: float = DEADLINE) -> AccessToken:
        """Return a token that is good for some time, most often without waiting.

        Waits for at most `within` seconds; the request goes on for others. Raises `Unavailable`
        when Entra cannot be reached now and no token is left, and `CredentialRefused` when it does
        not give one.
        """
        return await self._source(credentials).get(within)

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float = DEADLINE
    ) -> AccessToken:
        """Return another token than the one that Dynamics refused. Waits and raises as `get`."""
        return await self._source(credentials).renew(refused, within)

    def fetch_ahead(self, wanted: Iterable[ClientCredentials]) -> None:
        """Begin to fetch tokens before anybody asks, while the host is still starting.

        Returns at once and raises nothing: a failure counts like that of any other request.
        """
        first = [*islice(dict.fromkeys(wanted), AHEAD)]
        if first:
            # Here and not in the threads: these have then nothing to do but wait for Entra, while
            # the rest of the app is imported. Side by side both would be late.
            load()
        for credentials in first:
            self._source(credentials).fetch_ahead()

    def _source(self, credentials: ClientCredentials) -> "_Source":
        source = self._sources.get(credentials)
        if source is None:
            make = partial(Client, credentials, self._context, self._clock, deadline=self._deadline)
            source = _Source(make, self._clock, self._deadline)
            self._sources[credentials] = source
        return source


class _Source:
    """The token of one client: the last good one, and at most one request for the next.

    Requests run in threads and write down what came of them there, under the lock: the first one
    begins before there is an event loop, and a renewal may have nobody who waits for it.
    """

    def __init__(
        self, make: Callable[[], Client], clock: Callable[[], float], deadline: float
    ) -> None:
        self._make = make
        self._client = make()
        self._clock = clock
        self._deadline = deadline
        self._lock = Lock()
        self._token: AccessToken | None = None
        self._request: _Request | None = None
        self._began = 0.0
        self._closed_until = 0.0
        self._renewed_at = float("-inf")

    def fetch_ahead(self) -> None:
        with self._lock:
            self._last_request()

    async def get(self, within: float) -> AccessToken:
        with self._lock:
            token, now = self._token, self._clock()
            if token is not None and now < token.fresh_until:
                return token
            request = self._last_request()
            if token is not None and now < token.expires_at - LAST_GOOD:
                return token
        try:
            async with asyncio.timeout(within):
                # A caller that goes away does not end the request: a `Future` that is set to
                # running cannot be cancelled.
                outcome = await asyncio.wrap_future(request)
        except TimeoutError:
            raise Unavailable("entra_timeout", "Entra did not answer in time.") from None
        if isinstance(outcome, RelayError):
            raise _again(outcome)
        return outcome

    async def renew(self, refused: AccessToken, within: float) -> AccessToken:
        with self._lock:
            now = self._clock()
            if self._token is refused and now - self._renewed_at >= RENEWAL_INTERVAL:
                self._renewed_at = now
                self._token = None
        return await self.get(within)

    def _last_request(self) -> _Request:
        """Return the request under way, or the one that failed a moment ago, or begin one."""
        request, now = self._request, self._clock()
        if request is not None:
            if not request.done():
                if now < self._began + self._deadline + STUCK:
                    return request
                # Its thread may still be in there.
                self._client = self._make()
            elif now < self._closed_until:
                return request
        request = Future()
        request.set_running_or_notify_cancel()
        # Everything in MSAL blocks, its constructor too. Not in the loop's executor: sealing would
        # wait behind an Entra that does not answer, and so would the end of the process.
        arguments = (request, self._client)
        Thread(target=self._acquire, args=arguments, name="token", daemon=True).start()
        self._request, self._began = request, now
        return request

    def _acquire(self, request: _Request, client: Client) -> None:
        outcome: AccessToken | RelayError
        try:
            outcome = client.acquire()
        except RelayError as error:
            outcome = _again(error)
        except BaseException as error:  # noqa: BLE001 - for those who wait for it
            self._note(request, None)
            request.set_exception(error)
            return
        self._note(request, outcome)
        request.set_result(outcome)

    def _note(self, request: _Request, outcome: AccessToken | RelayError | None) -> None:
        """Keep what came of a request. Before it is set, so that nobody begins another one."""
        with self._lock:
            if request is not self._request:
                return  # it was stuck, and another one took its place
            match outcome:
                case AccessToken():
                    self._token = outcome
                case RelayError():
                    self._closed_until = self._clock() + _pause(outcome)
                case None:
                    self._request = None


def _again(error: RelayError) -> RelayError:
    """Return another one to be raised."""
    if isinstance(error, Unavailable):
        return Unavailable(error.reason, str(error), retry_after=error.retry_after)
    return CredentialRefused(error.reason, str(error))


def _pause(error: RelayError) -> float:
    if isinstance(error, Unavailable):
        return error.retry_after or PAUSE_UNAVAILABLE
    return PAUSE_REFUSED
