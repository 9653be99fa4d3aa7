"""Is the state one that Dynamics minted? Only what passes here is believed.

A state is opaque to the OAuth client's provider (RFC 6749 §4.1.1) and here it is Dynamics that
minted it. Under `opaque` the relay knows nothing of it, and Dynamics alone refuses a stranger's;
under `pattern` junk is refused here, but whoever knows the pattern can write a state that passes.
"""

from dataclasses import fields

from relay.authorization import AuthorizationResponse, VerifiedResponse
from relay.connections import Connection, StatePolicy
from relay.errors import InvalidResponse


def verify(response: AuthorizationResponse, connection: Connection) -> VerifiedResponse:
    """Return the response as one to be believed, or raise `InvalidResponse`.

    Not checked here: whether the state was used before. That is Dynamics' unique key.
    """
    if response.state is None:
        raise InvalidResponse("state_missing", "The response has no state.")
    if connection.state_policy is StatePolicy.PATTERN:
        _match(response.state, connection)
    parts = {part.name: getattr(response, part.name) for part in fields(response)}
    return VerifiedResponse(**parts)


def _match(state: str, connection: Connection) -> None:
    pattern = connection.state_pattern
    if pattern is None or not pattern.fullmatch(state):
        raise InvalidResponse(
            "state_mismatch", "The state is not one that Dynamics hands out for this address."
        )
