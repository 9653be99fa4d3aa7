"""What happens to one callback: read `_Reception.walk` from top to bottom, then `_Redelivery.walk`.

`Relay.authorize` starts the flows that begin at the relay.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus

from relay import log
from relay.connections import Connection, Connections, canonical
from relay.delivery.callback import Callback, delivery_id
from relay.delivery.hold_limit import HoldLimit
from relay.delivery.sealing import DeadLetter, Sealer
from relay.delivery.single_flight import SingleFlight
from relay.delivery.slots import Slots
from relay.delivery.used_states import UsedStates
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
from relay.oauth import authorization, authorize, error_codes, jarm, state
from relay.oauth.authorize import Started
from relay.oauth.request import Request, guard, response_parameters
from relay.outcome import STATUS, Answer, Outcome
from relay.ports import AccessToken, Dynamics, Keys, Receipt, Tokens
from relay.tracing import Spans

PATIENCE = 10.0
"""Seconds of Retry-After that a redelivery waits in its slot; the queue's own delay is as long."""
TICK = 0.002
"""Seconds by which that wait is longer: uvloop counts whole milliseconds, and may end it early."""
SHORT = 1.0
"""Seconds of Retry-After that every slot may wait at once; for a longer one the places are few."""
DEADLINE = 90.0
"""Seconds after which an invocation stops trying. At `functionTimeout` of host.json the platform
would kill it, with nothing delivered or held. The host's write to the outbox may add 26 s."""
ENTRA_DEADLINE = 10.0
"""Seconds for all requests of one callback to Entra."""
MAX_UNFORESEEN = 10
"""Attempts at an error record that may end in an unexpected exception. A code's attempts end when
it expires."""
MAX_REFUSALS = 3
"""Refusals in a row that end a redelivery, of those that a starting target gives too."""
STARTING = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Statuses of such refusals, beside that of the token."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The relay with its dependencies: `bootstrap` makes one for the life of the process."""

    connections: Connections
    tokens: Tokens
    dynamics: Dynamics
    keys: Keys
    deliveries: SingleFlight[Receipt]
    sealer: Sealer | None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    spans: Spans = field(default_factory=Spans)
    used_states: UsedStates = field(default_factory=UsedStates)
    hold_limit: HoldLimit = field(default_factory=HoldLimit)
    slots: Slots = field(default_factory=Slots)
    writer: log.Writer = field(default_factory=log.Writer)

    async def receive(self, name: str, request: Request) -> Answer:
        """Handle one request to the redirect URI.

        In: the connection's name as in the path, and the raw request. Out: what to answer; errors
        are answers too. Writes one log line. Raises nothing.
        """
        reception = _Reception(self, log.Line(reference=secrets.token_hex(8)))
        with self.spans("callback") as set_attributes:
            try:
                answer = await reception.walk(name, request)
            except Exception as error:  # noqa: BLE001 - the host would log its message, with values
                answer = reception.refuse(error)
            self.writer.write(reception.line, answer.outcome)
            set_attributes({"outcome": str(answer.outcome), **reception.line.known()})
        return answer

    async def redeliver(self, message: bytes, attempt: int) -> DeadLetter | None:
        """Deliver a held callback.

        In: a message of the outbox, and the number of this attempt; the callback itself was the
        first. Out: `None` if it was delivered, a dead letter if it never will be. Raises
        `RelayError` when the queue is to try again.
        """
        redelivery = _Redelivery(self, log.Line(reference="-", attempt=attempt))
        with self.spans("redelivery") as set_attributes:
            try:
                return await redelivery.walk(message)
            except Exception as error:  # noqa: BLE001 - the worker would log the message, with values
                failure = redelivery.fail(error)
            finally:
                set_attributes(redelivery.line.known())
            # Without its traceback: the worker would log it at each attempt.
            raise failure.with_traceback(None) from None

    def authorize(self, name: str, request: Request) -> Answer | Started:
        """Start a flow at the relay: return where to redirect the browser, or an answer instead.

        In as for `receive`. Errors are answers too. Writes one log line. Raises nothing.
        """
        invocation = _Invocation(self, log.Line(reference=secrets.token_hex(8)))
        try:
            connection = invocation.find(name)
            started = authorize.begin(request, connection, self.now())
        except Exception as error:  # noqa: BLE001 - as above
            answer = invocation.refuse(error)
            self.writer.write(invocation.line, answer.outcome)
            if answer.outcome is Outcome.INVALID and answer.page is None:
                return replace(answer, page="ticket")
            return answer
        invocation.line.environment = started.environment
        log.started(invocation.line)
        return started


class _Invocation:
    """One run of a function. `line` collects the values of its log line, span and answer."""

    def __init__(self, relay: Relay, line: log.Line) -> None:
        self.relay = relay
        self.line = line

    def find(self, name: str) -> Connection:
        """Return the connection of this name. Raises `UnknownConnection` and `Misconfigured`."""
        configured = canonical(name)
        if configured in self.relay.connections.by_name:
            # Also where its settings are wrong.
            self.line.connection = configured
        connection = self.relay.connections.get(name)
        self.line.unsigned = not connection.signed
        return connection

    def note(self, error: RelayError) -> None:
        """Put the reason into the log line."""
        self.line.reason = error.reason
        self.line.dynamics_status = error.dynamics_status
        self.line.authenticated |= error.authenticated

    def answer(self, outcome: Outcome) -> Answer:
        """Return the answer for an outcome without details."""
        return Answer(
            outcome, self.line.reference, STATUS[outcome], connection=self.line.connection
        )

    def refuse(self, error: Exception) -> Answer:
        """Return the answer for an error."""
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
            connection=self.line.connection,
        )

    async def deliver_once(self, callback: Callback) -> Receipt:
        """Deliver, or share the result of an earlier or concurrent delivery of the same callback.

        Raises `Undelivered` and nothing else.
        """
        try:
            receipt = await self.relay.deliveries.run(
                callback.delivery_id,
                lambda: self._deliver_in_time(callback),
                keep=callback.kept,
            )
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of the relay must not lose a code
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
        """POST one callback to Dynamics, once more with a fresh token after a 401."""
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
    """One request to the redirect URI."""

    async def walk(self, name: str, request: Request) -> Answer:
        """Check everything, in the order that the contract names, then deliver or hold."""
        # Is it a GET or POST, and no prefetch?
        guard(request)
        # Which connection's redirect URI is it?
        connection = self.find(name)
        # What does the response say? It is not verified yet.
        sent = response_parameters(request)
        token = authorization.secured(sent, connection)
        if token is None:
            response = authorization.parse(sent, connection)
        else:
            secured = jarm.read(token, connection, self.relay.now())
            keys = await self.relay.keys.get(connection.provider, secured.kid)
            response = await asyncio.to_thread(jarm.unpack, secured, keys, connection)
        # Was its state minted for this connection and this browser?
        cookies = request.headers.get("cookie", "")
        try:
            verified = state.verify(response, connection, cookies, self.relay.now())
        except CookieMissing:
            # For a delivered error record the first answer was "declined", not "delivered".
            if response.error is not None:
                raise
            return self._answer_again(delivery_id(connection.name, response))
        self.line.authenticated = connection.signed
        # Which of the connection's environments does the state name?
        connection = connection.at(verified.environment)
        self.line.environment = connection.environment
        # Is it from this issuer, and is it a code or an error as RFC 6749 defines them?
        verified = authorization.check(verified, connection)
        clear = authorize.end(verified)

        # From here on the callback is delivered or held.
        callback = Callback.received(connection, verified, self.line.reference, self.relay.now())
        self.line.delivery_id = callback.delivery_id
        if verified.error is not None:
            answer = await self._decline(callback)
        else:
            answer = await self._accept(callback)
        return answer if clear is None else replace(answer, clear=clear)

    def _answer_again(self, delivery: str) -> Answer:
        """Repeat the first answer after a second click: the first one has deleted the cookie."""
        receipt = self.relay.deliveries.remembered(delivery)
        if receipt is None:
            raise CookieMissing
        self.line.delivery_id, self.line.dynamics_status = delivery, receipt.status
        return self._delivered(receipt)

    async def _accept(self, callback: Callback) -> Answer:
        """Deliver a callback, or hold it. Raises `Undelivered` if it can be neither."""
        try:
            answer = self._delivered(await self.deliver_once(callback))
        except Unavailable as error:
            self.note(error)
            answer = replace(self.answer(Outcome.HELD), held=await self._hold(callback, error))
        if self.relay.used_states.has_another_code(callback):
            self.line.reason = "state_used_with_another_code"
        return answer

    async def _decline(self, callback: Callback) -> Answer:
        """Answer with the provider's error; deliver it to Dynamics if its template asks for it."""
        held = None
        error_code = callback.response.error or ""
        self.line.reason = error_codes.known(error_code)
        if callback.wants_error:
            try:
                held = (await self._accept(callback)).held
            except Undelivered as error:
                # The answer still shows the provider's error; this one is for the operator's log.
                self.note(error)
        decided = error_codes.is_decision(error_code, callback.response.error_description)
        shown, description = authorization.shown(callback.response, callback.connection)
        return replace(
            self.answer(Outcome.DECLINED),
            detail="The provider did not grant the authorization.",
            page=None if decided else "fault",
            error=shown,
            error_description=description,
            held=held,
        )

    async def _hold(self, callback: Callback, error: Unavailable) -> str:
        """Seal a callback for the outbox; the host writes it before it sends the answer.

        Raises the error of its delivery where there is no outbox, or `Unavailable` at the limit.
        """
        if self.relay.sealer is None:
            raise error
        if not self.relay.hold_limit.admit(callback):
            raise Unavailable("outbox_limit", "Too many callbacks wait for Dynamics already.")
        # In a thread: this may import `cryptography`, which would block the event loop.
        return await asyncio.to_thread(self.relay.sealer.seal, callback)

    def _delivered(self, receipt: Receipt) -> Answer:
        return self.answer(Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED)


class _Redelivery(_Invocation):
    """One message of the outbox."""

    async def walk(self, message: bytes) -> DeadLetter | None:
        """Decrypt the message; deliver its callback, or an error record if the code has expired."""
        if self.relay.sealer is None:
            raise Unopenable("outbox_keys")
        sealed = await asyncio.to_thread(self.relay.sealer.open, message)
        # Also where it has no way to Dynamics any more.
        self.line.connection, self.line.environment = sealed.connection, sealed.environment
        self.line.reference, self.line.delivery_id = sealed.reference, sealed.delivery_id
        callback = sealed.callback(self.relay.connections)
        connection = callback.connection
        self.line.unsigned = not connection.signed
        if self._is_late(callback):
            if not callback.wants_error:
                return self._give_up(callback, "expired")
            callback = callback.expired()
        if callback.response.error is not None and not callback.wants_error:
            return self._give_up(callback, "error_unwanted")
        try:
            receipt = await self._deliver_in_slot(callback)
        except Undelivered as error:
            if self._is_repeated(callback, error):
                raise
            self.note(error)
            return self._give_up(callback, error.reason)
        # "Exists" means that an earlier attempt succeeded and its answer was lost, unless several
        # flows share the key.
        of_another = receipt.existed and not connection.target.has_own_key
        self.relay.writer.write(self.line, Outcome.DUPLICATE if of_another else Outcome.DELIVERED)
        return None

    def fail(self, error: Exception) -> RelayError:
        """Log a failure; return the error that makes the queue show the message again."""
        if not isinstance(error, RelayError):
            log.crash(error, self.line.reference)
            error = Unforeseen()
        self.note(error)
        held = isinstance(error, Undelivered)
        self.relay.writer.write(self.line, Outcome.HELD if held else Outcome.REJECTED)
        return error

    def _is_late(self, callback: Callback) -> bool:
        """Tell whether it is a code that Dynamics can no longer redeem."""
        return callback.response.code is not None and self.relay.now() >= callback.deliver_by

    def _is_repeated(self, callback: Callback, error: Undelivered) -> bool:
        """Tell whether a failure goes back to the queue, or ends as a dead letter."""
        failures = self.relay.deliveries.failures(callback.delivery_id)
        match error:
            case Unforeseen():
                # A code ends with its time; an error record would come again for days.
                return callback.response.code is not None or failures < MAX_UNFORESEEN
            case ApplicationFailed() | Unauthorized():
                return failures < MAX_REFUSALS
            case Rejected():
                return error.dynamics_status in STARTING and failures < MAX_REFUSALS
        return True

    def _give_up(self, callback: Callback, reason: str) -> DeadLetter:
        self.line.reason = reason
        self.relay.writer.write(self.line, Outcome.REJECTED)
        return DeadLetter.of(callback, reason, self.line.attempt, self.relay.now())

    async def _deliver_in_slot(self, callback: Callback) -> Receipt:
        """Deliver, after a Retry-After that ends soon; leave most slots of the host to others.

        Raises `Undelivered`: the queue shows the message again after `visibilityTimeout`.
        """
        connection, connections = callback.connection, self.relay.connections
        pause = self.relay.dynamics.pause(connection.target)
        waits = 0 < pause <= PATIENCE
        with ExitStack() as places:
            # Anybody can fill the outbox of a connection without signed states.
            floods = connections.has_signed and not connection.signed
            sits = pause > SHORT and waits and connections.has_several_targets
            if floods or sits:
                places.enter_context(self.relay.slots.place())
            if waits:
                await asyncio.sleep(pause + TICK)
                if self._is_late(callback):
                    # The next attempt ends it, or delivers an error in its place.
                    raise Unavailable("dynamics_pause", "The code expired in a pause of Dynamics.")
            return await self.deliver_once(callback)
