"""The story of one callback. Read `Relay._walk` from top to bottom."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from relay import authorization, log, state
from relay.authorization import Request
from relay.callback import AccessToken, Callback, Receipt
from relay.connections import ClientCredentials, Connections, Target
from relay.errors import RelayError, Unauthorized, Undelivered
from relay.once import Once
from relay.outcome import STATUS, Answer, Outcome


class Tokens(Protocol):
    """Entra, as far as the story needs it. Raises `Unavailable` and `CredentialRefused`."""

    async def get(self, credentials: ClientCredentials) -> AccessToken:
        """Return a token that is good for some minutes."""

    async def renew(self, credentials: ClientCredentials, refused: AccessToken) -> AccessToken:
        """Return another token than the one that Dynamics refused."""


class Dynamics(Protocol):
    """Dynamics, as far as the story needs it. Raises `Unavailable`, `Unauthorized`, `Rejected`."""

    def check_open(self, target: Target) -> None:
        """Raise `Unavailable` while the target wants to be left alone."""

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        """POST one body once."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The wired relay: `bootstrap` makes one for the life of the process."""

    connections: Connections
    tokens: Tokens
    dynamics: Dynamics
    deliveries: Once[Receipt]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def receive(self, name: str, request: Request) -> Answer:
        """Take one hit on the redirect URI to its end.

        In: the connection's name as the path has it, and the raw request. Out: what to tell the
        sender; whatever happens is an answer, and one line in the log. Raises nothing.
        """
        line = log.Line(reference=secrets.token_hex(8))
        try:
            answer = await self._walk(name, request, line)
        except RelayError as error:
            answer = _refusal(error, line)
        except Exception as error:  # noqa: BLE001 - the host would log the message, with its values
            log.crash(error, line.reference)
            line.reason = "unforeseen"
            answer = _answer(Outcome.REJECTED, line)
        log.write(line, answer.outcome)
        return answer

    async def _walk(self, name: str, request: Request, line: log.Line) -> Answer:
        # The order is the contract's. Nothing reaches Entra or Dynamics before all of it holds.
        authorization.guard(request)
        connection = self.connections.get(name)
        line.connection = connection.name
        response = authorization.parse(request, connection)
        verified = state.verify(response, connection)
        authorization.check(verified, connection)

        callback = Callback(connection, verified, line.reference, self.now())
        line.delivery_id = callback.delivery_id
        if verified.error is not None:
            return await self._decline(callback, line)
        receipt = await self._deliver_once(callback, line)
        return _answer(Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED, line)

    async def _decline(self, callback: Callback, line: log.Line) -> Answer:
        """Tell the person what the provider said, and Dynamics too if its template asks for it."""
        response = callback.response
        if "error" in callback.connection.target.body.names:
            try:
                await self._deliver_once(callback, line)
            except Undelivered as error:
                # The person's answer is the provider's word; Dynamics' trouble is the operator's.
                line.reason = error.reason
                line.dynamics_status = error.dynamics_status
        return Answer(
            Outcome.DECLINED,
            line.reference,
            STATUS[Outcome.DECLINED],
            detail="The provider did not grant the authorization.",
            in_place=True,
            error=response.error,
            error_description=response.error_description,
        )

    async def _deliver_once(self, callback: Callback, line: log.Line) -> Receipt:
        """Deliver, or share the delivery of the same callback that came before or at once."""
        receipt = await self.deliveries.run(
            callback.delivery_id,
            lambda: self._deliver(callback),
            keep=callback.connection.code_ttl,
        )
        line.dynamics_status = receipt.status
        return receipt

    async def _deliver(self, callback: Callback) -> Receipt:
        """Bring one callback to Dynamics: one attempt, one more with a fresh token after a 401."""
        target, credentials = callback.connection.target, callback.connection.credentials
        self.dynamics.check_open(target)
        values = callback.values()
        body = target.body.render(values)
        sent = [value for value in values.values() if value]

        async def post(token: AccessToken) -> Receipt:
            return await self.dynamics.deliver(
                target, token, body, reference=callback.reference, sent=sent
            )

        token = await self.tokens.get(credentials)
        try:
            return await post(token)
        except Unauthorized:
            return await post(await self.tokens.renew(credentials, token))


def _answer(outcome: Outcome, line: log.Line) -> Answer:
    return Answer(outcome, line.reference, STATUS[outcome])


def _refusal(error: RelayError, line: log.Line) -> Answer:
    line.reason = error.reason
    line.dynamics_status = error.dynamics_status
    return Answer(
        error.outcome,
        line.reference,
        error.status,
        detail=str(error),
        in_place=error.in_place,
        bare=error.bare,
    )
