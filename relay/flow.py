"""The story of one callback. Read `_Reception.walk` from top to bottom, then `_Redelivery.walk`.

`Relay.authorize` starts those flows that begin at the relay.
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
from relay.delivery.single_flight import SingleFlight
from relay.errors import (
    ApplicationFailed,
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
from relay.oauth.authorization import AuthorizationResponse
from relay.oauth.authorize import Started
from relay.oauth.request import Request, guard
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
REFUSALS = 3
"""Refusals in a row, of those that pass by while a target comes up, that end a redelivery."""
STARTING = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Statuses of such refusals."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The wired relay: `bootstrap` makes one for the life of the process."""

    connections: Connections
    tokens: Tokens
    dynamics: Dynamics
    keys: Keys
    deliveries: SingleFlight[Receipt]
    sealer: Sealer | None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    spans: Spans = field(default_factory=Spans)

    async def receive(self, name: str, request: Request) -> Answer:
        """Take one hit on the redirect URI to its end.

        In: the connection's name as the path has it, and the raw request. Out: what to tell the
        sender; whatever happens is an answer, and one line in the log. Raises nothing.
        """
        reception = _Reception(self, log.Line(reference=secrets.token_hex(8)))
        with self.spans("callback") as set_attributes:
            try:
                answer = await reception.walk(name, request)
            except Exception as error:  # noqa: BLE001 - the host would log its message, with values
                answer = reception.refuse(error)
            log.write(reception.line, answer.outcome)
            set_attributes({"outcome": str(answer.outcome), **reception.line.known()})
        return answer

    async def redeliver(self, message: bytes, attempt: int) -> DeadLetter | None:
        """Deliver what was held.

        In: a message of the outbox, and which attempt this is, the one at the callback counted.
        Out: a dead letter if it will never be delivered, `None` if it is. Raises `RelayError` when
        it is to be tried again; the queue does that.
        """
        redelivery = _Redelivery(self, log.Line(reference="-", attempt=attempt))
        with self.spans("redelivery") as set_attributes:
            try:
                return await redelivery.walk(message)
            except Exception as error:  # noqa: BLE001 - the worker would log the message, with values
                failure = redelivery.fail(error)
            finally:
                set_attributes(redelivery.line.known())
            # Without its traceback, which the worker would write into the log at each attempt.
            raise failure.with_traceback(None) from None

    def authorize(self, name: str, request: Request) -> Answer | Started:
        """Start a flow at the relay: where to send the browser, or what to tell it instead.

        In as for `receive`. Whatever happens is an answer, and one line in the log. Raises nothing.
        """
        invocation = _Invocation(self, log.Line(reference=secrets.token_hex(8)))
        try:
            connection = invocation.find(name)
            started = authorize.begin(request, connection, self.now())
        except Exception as error:  # noqa: BLE001 - as above
            answer = invocation.refuse(error)
            log.write(invocation.line, answer.outcome)
            return answer
        log.started(invocation.line)
        return started


@dataclass(slots=True)
class _Invocation:
    """One run of a function. `line` collects what its log line, span and answer will say."""

    relay: Relay
    line: log.Line

    def find(self, name: str) -> Connection:
        """Return the connection of this name. Raises `UnknownConnection` and `Misconfigured`."""
        connection = self.relay.connections.get(name)
        self.line.connection = connection.name
        return connection

    def note(self, error: RelayError) -> None:
        """Let the log line say why."""
        self.line.reason = error.reason
        self.line.dynamics_status = error.dynamics_status

    def answer(self, outcome: Outcome) -> Answer:
        """Return the answer of an outcome that needs no words."""
        return Answer(outcome, self.line.reference, STATUS[outcome])

    def refuse(self, error: Exception) -> Answer:
        """Return the answer to what an error ended."""
        if not isinstance(error, RelayError):
            log.crash(error, self.line.reference)
            self.line.reason = "unforeseen"
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return Answer(Outcome.REJECTED, self.line.reference, status)
        self.note(error)
        return Answer(
            error.outcome,
            self.line.reference,
            error.status,
            detail=str(error),
            page=error.page,
        )

    async def deliver_once(self, callback: Callback) -> Receipt:
        """Deliver, or share the delivery of the same callback that came before or at once.

        Raises `Undelivered` and nothing else.
        """
        try:
            receipt = await self.relay.deliveries.run(
                callback.delivery_id,
                lambda: self._deliver_in_time(callback),
                keep=callback.connection.code_ttl,
            )
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - a code must not be lost by a fault of ours
            log.crash(error, self.line.reference)
            raise Unforeseen from None
        self.line.dynamics_status = receipt.status
        return receipt

    async def _deliver_in_time(self, callback: Callback) -> Receipt:
        try:
            async with asyncio.timeout(DEADLINE - self.line.elapsed):
                return await self._deliver(callback)
        except TimeoutError:
            raise Unavailable("deadline", "The delivery took too long.") from None

    async def _deliver(self, callback: Callback) -> Receipt:
        """Bring one callback to Dynamics: one attempt, one more with a fresh token after a 401."""
        tokens, dynamics, spans = self.relay.tokens, self.relay.dynamics, self.relay.spans
        target, credentials = callback.connection.target, callback.connection.credentials
        if pause := dynamics.pause(target):
            raise Unavailable("dynamics_pause", "Dynamics asked for a pause.", retry_after=pause)
        values = callback.values()
        body = target.body.render(values)
        sent = [value for value in values.values() if value]

        async def post(token: AccessToken) -> Receipt:
            with spans("delivery"):
                return await dynamics.deliver(
                    target, token, body, reference=callback.reference, sent=sent
                )

        began = time.monotonic()
        with spans("token"):
            token = await tokens.get(credentials, within=ENTRA_DEADLINE)
        left = ENTRA_DEADLINE - (time.monotonic() - began)
        try:
            return await post(token)
        except Unauthorized:
            with spans("token"):
                token = await tokens.renew(credentials, token, within=left)
            return await post(token)


class _Reception(_Invocation):
    """One hit on the redirect URI."""

    async def walk(self, name: str, request: Request) -> Answer:
        """Check everything in the contract's order, then deliver or hold."""
        # A person's navigation, by GET or POST, and not the browser's guess of one?
        guard(request)
        # To which redirect URI?
        connection = self.find(name)
        # What does the response say? Nothing of it is believed yet.
        response = await self._read(request, connection)
        # Was its state minted for this connection and this browser?
        cookies = request.headers.get("cookie", "")
        try:
            verified = state.verify(response, connection, cookies, self.relay.now())
        except CookieMissing:
            return self._answer_again(connection, response)
        # Is it from this issuer, and is it a code or an error as the RFCs have it?
        authorization.check(verified, connection)
        clear = authorize.end(verified)

        # From here on it is delivered or held, whatever happens.
        callback = Callback.received(connection, verified, self.line.reference, self.relay.now())
        self.line.delivery_id = callback.delivery_id
        if verified.error is not None:
            answer = await self._decline(callback)
        else:
            answer = await self._accept(callback)
        return replace(answer, clear=clear)

    async def _read(self, request: Request, connection: Connection) -> AuthorizationResponse:
        """Read the response out of the request, or out of the JWT that it is (JARM)."""
        token = authorization.secured(request, connection)
        if token is None:
            return authorization.parse(request, connection)
        secured = jarm.read(token, connection, self.relay.now())
        keys = await self.relay.keys.get(connection.provider, secured.kid)
        return await asyncio.to_thread(jarm.unpack, secured, keys, connection)

    def _answer_again(self, connection: Connection, response: AuthorizationResponse) -> Answer:
        """Answer a second click as the first, which has used up the flow's cookie."""
        delivery = delivery_id(connection.name, response)
        receipt = self.relay.deliveries.remembered(delivery)
        # Of an error that was delivered the person has heard "declined", not "delivered".
        if receipt is None or response.error is not None:
            raise CookieMissing
        self.line.delivery_id, self.line.dynamics_status = delivery, receipt.status
        return self._delivered(receipt)

    async def _accept(self, callback: Callback) -> Answer:
        """Deliver a code, or hold it."""
        try:
            return self._delivered(await self.deliver_once(callback))
        except Unavailable as error:
            if self.relay.sealer is None:
                raise
            self.note(error)
        return replace(self.answer(Outcome.HELD), held=await self._seal(callback))

    async def _decline(self, callback: Callback) -> Answer:
        """Tell the person what the provider said, and Dynamics too if its template asks for it."""
        held = None
        if callback.wants_error:
            try:
                await self.deliver_once(callback)
            except Undelivered as error:
                # The person's answer is the provider's word; Dynamics' trouble is the operator's.
                self.note(error)
                if isinstance(error, Unavailable) and self.relay.sealer is not None:
                    held = await self._seal(callback)
        return replace(
            self.answer(Outcome.DECLINED),
            detail="The provider did not grant the authorization.",
            error=callback.response.error,
            error_description=callback.response.error_description,
            held=held,
        )

    async def _seal(self, callback: Callback) -> str | None:
        """Seal a callback for the outbox; the host writes it before the answer leaves."""
        if self.relay.sealer is None:
            return None
        # In a thread, like all that may have to import `cryptography` first.
        return await asyncio.to_thread(self.relay.sealer.seal, callback)

    def _delivered(self, receipt: Receipt) -> Answer:
        return self.answer(Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED)


class _Redelivery(_Invocation):
    """One message of the outbox."""

    async def walk(self, message: bytes) -> DeadLetter | None:
        """Open it, and deliver it or its error record."""
        if self.relay.sealer is None:
            raise Unopenable("outbox_keys")
        callback = await asyncio.to_thread(self.relay.sealer.open, message, self.relay.connections)
        self.line.reference, self.line.delivery_id = callback.reference, callback.delivery_id
        self.line.connection = callback.connection.name
        if callback.response.code is not None and self.relay.now() >= callback.deliver_by:
            if not callback.wants_error:
                return self._give_up(callback, "expired")
            callback = callback.expired()
        if callback.response.error is not None and not callback.wants_error:
            return self._give_up(callback, "error_unwanted")
        await self._sit_out_pause(callback.connection.target)
        try:
            await self.deliver_once(callback)
        except Undelivered as error:
            if self._is_repeated(callback, error):
                raise
            self.note(error)
            return self._give_up(callback, error.reason)
        # "Exists already" is the success of an earlier attempt whose answer was lost.
        log.write(self.line, Outcome.DELIVERED)
        return None

    def fail(self, error: Exception) -> RelayError:
        """Log a failure; return the error that makes the queue show the message again."""
        if not isinstance(error, RelayError):
            log.crash(error, self.line.reference)
            return Unforeseen()
        self.note(error)
        held = isinstance(error, Undelivered)
        log.write(self.line, Outcome.HELD if held else Outcome.REJECTED)
        return error

    def _is_repeated(self, callback: Callback, error: Undelivered) -> bool:
        """Tell whether a failure goes back to the queue, or ends as a dead letter."""
        failures = self.relay.deliveries.failures(callback.delivery_id)
        match error:
            case Unforeseen():
                # A code ends with its time; an error record would come again for days.
                return callback.response.code is not None or failures < UNFORESEEN
            case ApplicationFailed() | Unauthorized():
                return failures < REFUSALS
            case Rejected():
                return error.dynamics_status in STARTING and failures < REFUSALS
        return True

    def _give_up(self, callback: Callback, reason: str) -> DeadLetter:
        self.line.reason = reason
        log.write(self.line, Outcome.REJECTED)
        return DeadLetter.of(callback, reason, self.line.attempt, self.relay.now())

    async def _sit_out_pause(self, target: Target) -> None:
        """Wait for the end of a short pause, rather than go back to the queue."""
        pause = self.relay.dynamics.pause(target)
        if 0 < pause <= PATIENCE:
            await asyncio.sleep(pause)
