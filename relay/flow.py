"""The story of one callback. Read `Relay._walk` from top to bottom, then `redeliver`.

`authorize` is the prologue of those flows that begin at the relay.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus

from relay import log
from relay.connections import Connection, Connections, Target
from relay.delivery.callback import Callback, delivery_id
from relay.delivery.sealing import DeadLetter, Sealer
from relay.delivery.single_flight import Once
from relay.errors import (
    CookieMissing,
    Rejected,
    RelayError,
    Unauthorized,
    Unavailable,
    Undelivered,
    Unforeseen,
    Unopenable,
)
from relay.oauth import authorization, authorize, jarm, state
from relay.oauth.authorization import AuthorizationResponse, Request
from relay.oauth.authorize import Started
from relay.outcome import STATUS, Answer, Outcome
from relay.ports import AccessToken, Dynamics, Keys, Receipt, Tokens
from relay.tracing import Spans

PATIENCE = 10.0
"""Seconds that a redelivery waits for the end of a pause; the queue's own delay is as long."""
DEADLINE = 90.0
"""Seconds after which an invocation stops trying. Past `functionTimeout` of host.json the platform
would end it: nothing delivered, nothing held. The host's write to the outbox may take 26 s more."""
ENTRA_DEADLINE = 10.0
"""Seconds for all that one callback asks of Entra."""
UNFORESEEN = 10
"""Attempts at an error record that end in an exception nobody foresaw; a code has its own end."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The wired relay: `bootstrap` makes one for the life of the process."""

    connections: Connections
    tokens: Tokens
    dynamics: Dynamics
    keys: Keys
    deliveries: Once[Receipt]
    sealer: Sealer | None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    spans: Spans = field(default_factory=Spans)

    async def receive(self, name: str, request: Request) -> Answer:
        """Take one hit on the redirect URI to its end.

        In: the connection's name as the path has it, and the raw request. Out: what to tell the
        sender; whatever happens is an answer, and one line in the log. Raises nothing.
        """
        line = log.Line(reference=secrets.token_hex(8))
        with self.spans("callback") as tell:
            try:
                answer = await self._walk(name, request, line)
            except Exception as error:  # noqa: BLE001 - the host would log its message, with values
                answer = _refusal(error, line)
            log.write(line, answer.outcome)
            tell({"outcome": str(answer.outcome), **line.known()})
        return answer

    def authorize(self, name: str, request: Request) -> Answer | Started:
        """Start a flow at the relay: where to send the browser, or what to tell it instead.

        In as for `receive`. Whatever happens is an answer, and one line in the log. Raises nothing.
        """
        line = log.Line(reference=secrets.token_hex(8))
        try:
            connection = self.connections.get(name)
            line.connection = connection.name
            started = authorize.begin(request, connection, self.now())
        except Exception as error:  # noqa: BLE001 - as above
            answer = _refusal(error, line)
            log.write(line, answer.outcome)
            return answer
        log.started(line)
        return started

    async def _walk(self, name: str, request: Request, line: log.Line) -> Answer:
        # The order is the contract's. Nothing reaches Entra or Dynamics before all of it holds.
        authorization.guard(request)
        connection = self.connections.get(name)
        line.connection = connection.name
        response = await self._read(request, connection)
        cookies = request.headers.get("cookie", "")
        try:
            verified = state.verify(response, connection, cookies, self.now())
        except CookieMissing:
            return self._answer_again(connection, response, line)
        authorization.check(verified, connection)

        callback = Callback.received(connection, verified, line.reference, self.now())
        line.delivery_id = callback.delivery_id
        clear = authorize.end(verified)

        # From here on the callback is delivered or held, whatever happens.
        if verified.error is not None:
            answer = await self._decline(callback, line)
        else:
            answer = await self._accept(callback, line)
        return replace(answer, clear=clear)

    def _answer_again(
        self, connection: Connection, response: AuthorizationResponse, line: log.Line
    ) -> Answer:
        """Tell the second click what the first one heard, which has used up the flow's cookie."""
        receipt = self.deliveries.remembered(delivery_id(connection.name, response))
        # Of an error that was delivered the person has heard "declined", not "delivered".
        if receipt is None or response.error is not None:
            raise CookieMissing
        line.delivery_id = delivery_id(connection.name, response)
        line.dynamics_status = receipt.status
        return _delivered(receipt, line)

    async def _read(self, request: Request, connection: Connection) -> AuthorizationResponse:
        """Read the response out of the request, or out of the JWT that it is (JARM)."""
        token = authorization.secured(request, connection)
        if token is None:
            return authorization.parse(request, connection)
        secured = jarm.read(token, connection, self.now())
        keys = await self.keys.get(connection.provider, secured.kid)
        return await asyncio.to_thread(jarm.unpack, secured, keys, connection)

    async def _accept(self, callback: Callback, line: log.Line) -> Answer:
        """Deliver a code, or hold it."""
        try:
            return _delivered(await self._deliver_once(callback, line), line)
        except Unavailable as error:
            return await self._hold(callback, error, line)

    async def _hold(self, callback: Callback, error: Unavailable, line: log.Line) -> Answer:
        """Seal the callback for the outbox; the host writes it before the answer leaves."""
        if self.sealer is None:
            raise error
        _note(error, line)
        # In a thread, like all that may have to import `cryptography` first.
        held = await asyncio.to_thread(self.sealer.seal, callback)
        return replace(_answer(Outcome.HELD, line), held=held)

    async def _decline(self, callback: Callback, line: log.Line) -> Answer:
        """Tell the person what the provider said, and Dynamics too if its template asks for it."""
        held = None
        if callback.wants_error:
            try:
                await self._deliver_once(callback, line)
            except Undelivered as error:
                # The person's answer is the provider's word; Dynamics' trouble is the operator's.
                _note(error, line)
                if isinstance(error, Unavailable) and self.sealer is not None:
                    held = await asyncio.to_thread(self.sealer.seal, callback)
        return Answer(
            Outcome.DECLINED,
            line.reference,
            STATUS[Outcome.DECLINED],
            detail="The provider did not grant the authorization.",
            error=callback.response.error,
            error_description=callback.response.error_description,
            held=held,
        )

    async def redeliver(self, message: bytes, attempt: int) -> DeadLetter | None:
        """Deliver what was held.

        In: a message of the outbox, and which attempt this is, the one at the callback counted.
        Out: a dead letter if it will never be delivered, `None` if it is. Raises `RelayError` when
        it is to be tried again; the queue does that.
        """
        line = log.Line(reference="-", attempt=attempt)
        with self.spans("redelivery") as tell:
            try:
                return await self._redeliver(message, line)
            finally:
                tell(line.known())

    async def _redeliver(self, message: bytes, line: log.Line) -> DeadLetter | None:
        try:
            return await self._try_again(message, line)
        except RelayError as error:
            _note(error, line)
            log.write(line, Outcome.HELD if isinstance(error, Unavailable) else Outcome.REJECTED)
            # Without its traceback, which the worker would write into the log at each attempt.
            raise error.with_traceback(None) from None
        except Exception as error:  # noqa: BLE001 - the worker would log the message, with its values
            log.crash(error, line.reference)
            raise Unforeseen from None

    async def _try_again(self, message: bytes, line: log.Line) -> DeadLetter | None:
        if self.sealer is None:
            raise Unopenable("outbox_keys")
        callback = await asyncio.to_thread(self.sealer.open, message, self.connections)
        line.reference, line.delivery_id = callback.reference, callback.delivery_id
        line.connection = callback.connection.name
        if callback.response.code is not None and self.now() >= callback.deliver_by:
            if not callback.wants_error:
                return self._bury(callback, "expired", line)
            callback = callback.expired()
        await self._wait_for(callback.connection.target)
        try:
            await self._deliver_once(callback, line)
        except Rejected as error:
            _note(error, line)
            return self._bury(callback, error.reason, line)
        except Unforeseen as error:
            # A code ends with its time; an error record would come again for days.
            failures = self.deliveries.failures(callback.delivery_id)
            if callback.response.code is not None or failures < UNFORESEEN:
                raise
            return self._bury(callback, error.reason, line)
        # "Exists already" is the success of an earlier attempt whose answer was lost.
        log.write(line, Outcome.DELIVERED)
        return None

    def _bury(self, callback: Callback, reason: str, line: log.Line) -> DeadLetter:
        line.reason = reason
        log.write(line, Outcome.REJECTED)
        return DeadLetter.of(callback, reason, line.attempt, self.now())

    async def _wait_for(self, target: Target) -> None:
        """Sit out a short pause that the target asked for, rather than go back to the queue."""
        pause = self.dynamics.pause(target)
        if 0 < pause <= PATIENCE:
            await asyncio.sleep(pause)

    async def _deliver_once(self, callback: Callback, line: log.Line) -> Receipt:
        """Deliver, or share the delivery of the same callback that came before or at once.

        Raises `Undelivered` and nothing else.
        """
        try:
            receipt = await self.deliveries.run(
                callback.delivery_id,
                lambda: self._deliver_in_time(callback, DEADLINE - line.elapsed),
                keep=callback.connection.code_ttl,
            )
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - a code must not be lost by a fault of ours
            log.crash(error, line.reference)
            raise Unforeseen from None
        line.dynamics_status = receipt.status
        return receipt

    async def _deliver_in_time(self, callback: Callback, seconds: float) -> Receipt:
        try:
            async with asyncio.timeout(seconds):
                return await self._deliver(callback)
        except TimeoutError:
            raise Unavailable("deadline", "The delivery took too long.") from None

    async def _deliver(self, callback: Callback) -> Receipt:
        """Bring one callback to Dynamics: one attempt, one more with a fresh token after a 401."""
        target, credentials = callback.connection.target, callback.connection.credentials
        if pause := self.dynamics.pause(target):
            raise Unavailable("dynamics_pause", "Dynamics asked for a pause.", retry_after=pause)
        values = callback.values()
        body = target.body.render(values)
        sent = [value for value in values.values() if value]

        async def post(token: AccessToken) -> Receipt:
            with self.spans("delivery"):
                return await self.dynamics.deliver(
                    target, token, body, reference=callback.reference, sent=sent
                )

        began = time.monotonic()
        with self.spans("token"):
            token = await self.tokens.get(credentials, within=ENTRA_DEADLINE)
        left = ENTRA_DEADLINE - (time.monotonic() - began)
        try:
            return await post(token)
        except Unauthorized:
            with self.spans("token"):
                token = await self.tokens.renew(credentials, token, within=left)
            return await post(token)


def _answer(outcome: Outcome, line: log.Line) -> Answer:
    return Answer(outcome, line.reference, STATUS[outcome])


def _delivered(receipt: Receipt, line: log.Line) -> Answer:
    return _answer(Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED, line)


def _note(error: RelayError, line: log.Line) -> None:
    line.reason = error.reason
    line.dynamics_status = error.dynamics_status


def _refusal(error: Exception, line: log.Line) -> Answer:
    if not isinstance(error, RelayError):
        log.crash(error, line.reference)
        line.reason = "unforeseen"
        return Answer(Outcome.REJECTED, line.reference, HTTPStatus.INTERNAL_SERVER_ERROR)
    _note(error, line)
    return Answer(
        error.outcome,
        line.reference,
        error.status,
        detail=str(error),
        page=error.page,
    )
