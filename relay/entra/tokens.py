"""A cache of access tokens for Dynamics, one request at a time for each client.

MSAL sends one request per concurrent caller, and raises when a refresh fails although the cached
token is still valid. Here callers share one request, the last token is used while it is renewed or
Entra is unavailable, and failures are followed by a pause. `client.py` requests each token.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from itertools import islice
from threading import Lock, Thread

from relay import log
from relay.connections import ClientCredentials
from relay.entra.client import DEADLINE, Client, load
from relay.errors import CredentialRefused, RelayError, Unavailable
from relay.ports import AccessToken

AHEAD = 3
"""Tokens that are fetched at start; those of further clients are fetched on demand."""
LAST_GOOD = 30.0
"""Seconds of remaining lifetime that a token needs to be used while its renewal runs or fails."""
PAUSE_UNAVAILABLE = 1.0
PAUSE_REFUSED = 5.0
"""Seconds without a request after a failure without Retry-After."""
RENEWAL_INTERVAL = 30.0
"""Seconds between two renewals after a 401 of Dynamics."""
STUCK = 1.0
"""Seconds after its deadline at which a request counts as hung."""


type _Request = Future[AccessToken | RelayError]
"""A failure is a result and not an exception: a raised one keeps its frames, and a code in them."""


class TokenCache:
    """Tokens by client credentials: connections with equal ones share one token and one request.

    In: the trust for TLS; the `clock` for the tokens' times; `deadline`, in seconds, for a request;
    `say` writes a line about each refusal, from the thread of the request.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
        say: log.Say = log.at_once,
    ) -> None:
        self._context = context
        self._clock = clock
        self._deadline = deadline
        self._say = say
        self._sources: dict[ClientCredentials, _Source] = {}

    async def get(self, credentials: ClientCredentials, *, within: float = DEADLINE) -> AccessToken:
        """Return a valid token, usually from the cache.

        Waits for at most `within` seconds; the request continues for other callers. Raises
        `Unavailable` when Entra cannot be reached and no valid token is cached, and
        `CredentialRefused` when Entra refuses.
        """
        return await self._source(credentials).get(within)

    async def renew(
        self, credentials: ClientCredentials, refused: AccessToken, *, within: float = DEADLINE
    ) -> AccessToken:
        """Return another token than the one that Dynamics refused. Waits and raises like `get`."""
        return await self._source(credentials).renew(refused, within)

    def fetch_ahead(self, wanted: Iterable[ClientCredentials]) -> None:
        """Start to fetch tokens while the host is starting.

        Returns at once and raises nothing; a failure is followed by a pause as usual.
        """
        first = [*islice(dict.fromkeys(wanted), AHEAD)]
        if first:
            # Imported here and not in the threads, which then only wait for Entra while the rest of
            # the app is imported. Imports in parallel would delay both.
            load()
        for credentials in first:
            self._source(credentials).fetch_ahead()

    def retain(self, wanted: Iterable[ClientCredentials]) -> None:
        """Forget the tokens of all other credentials, and what is being requested for them."""
        # One by one: a callback may add its own at the same time, from another thread.
        for each in set(self._sources).difference(wanted):
            del self._sources[each]

    def _source(self, credentials: ClientCredentials) -> "_Source":
        source = self._sources.get(credentials)
        if source is None:
            make = partial(
                Client,
                credentials,
                self._context,
                self._clock,
                deadline=self._deadline,
                say=self._say,
            )
            source = _Source(make, self._clock, self._deadline)
            self._sources[credentials] = source
        return source


class _Source:
    """The cached token of one client, and at most one request for the next.

    Requests run in threads and store their result there, under the lock: the first request starts
    before there is an event loop, and a renewal may have no caller that waits for it.
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
        self._retry_at = 0.0
        self._renewed_at = float("-inf")

    def fetch_ahead(self) -> None:
        with self._lock:
            if self._token is None:
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
                # A cancelled caller does not cancel the request: a running `Future` cannot be.
                outcome = await asyncio.wrap_future(request)
        except TimeoutError:
            raise Unavailable("entra_timeout", "Entra did not answer in time.") from None
        if isinstance(outcome, RelayError):
            raise _copy(outcome)
        return outcome

    async def renew(self, refused: AccessToken, within: float) -> AccessToken:
        with self._lock:
            now = self._clock()
            if self._token is refused and now - self._renewed_at >= RENEWAL_INTERVAL:
                self._renewed_at = now
                self._token = None
        return await self.get(within)

    def _last_request(self) -> _Request:
        """Return the running request, or the failed one while its pause lasts, or start one."""
        request, now = self._request, self._clock()
        if request is not None:
            if not request.done():
                if now < self._began + self._deadline + STUCK:
                    return request
                # The hung thread may still use the old client.
                self._client = self._make()
            elif now < self._retry_at:
                return request
        request = Future()
        request.set_running_or_notify_cancel()
        # A thread because MSAL blocks, in its constructor too. Not the loop's executor: if Entra
        # does not answer, sealing and the end of the process would wait for it.
        arguments = (request, self._client)
        Thread(target=self._acquire, args=arguments, name="token", daemon=True).start()
        self._request, self._began = request, now
        return request

    def _acquire(self, request: _Request, client: Client) -> None:
        outcome: AccessToken | RelayError
        try:
            outcome = client.acquire()
        except RelayError as error:
            outcome = _copy(error)
        except BaseException as error:  # noqa: BLE001 - raised in the waiting callers
            self._store(request, None)
            request.set_exception(error)
            return
        self._store(request, outcome)
        request.set_result(outcome)

    def _store(self, request: _Request, outcome: AccessToken | RelayError | None) -> None:
        """Store a request's result. Call it before the future is set: no second one starts then."""
        with self._lock:
            if request is not self._request:
                return  # it hung and was replaced
            match outcome:
                case AccessToken():
                    self._token = outcome
                case RelayError():
                    self._retry_at = self._clock() + _pause(outcome)
                case None:
                    self._request = None


def _copy(error: RelayError) -> RelayError:
    """Return a copy: a stored error must not be raised itself, it would keep its frames."""
    if isinstance(error, Unavailable):
        return Unavailable(error.reason, str(error), retry_after=error.retry_after)
    return CredentialRefused(error.reason, str(error))


def _pause(error: RelayError) -> float:
    if isinstance(error, Unavailable):
        return error.retry_after or PAUSE_UNAVAILABLE
    return PAUSE_REFUSED
