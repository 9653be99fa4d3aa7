"""A flood of junk at a connection whose states nobody signs must not hurt its signed neighbour."""

import secrets
import time

from cryptography.fernet import Fernet

from sandbox.dynamics import Fault
from sandbox.world import World
from tests.fakes import b64, compact, hs256
from tests.outbox import QUICK, eventually

KEY = bytes(range(32))
SETTINGS = {
    **QUICK,
    "OUTBOX_KEYS": Fernet.generate_key().decode(),
    "STATE_POLICY": "opaque",
    "CONNECTIONS__BANK__STATE_POLICY": "signed",
    "CONNECTIONS__BANK__STATE_KEYS": f"k1:{b64(KEY)}",
    "CONNECTIONS__BANK__CODE_TTL": "60",
}


def signed() -> str:
    claims = {"aud": "callback:bank", "exp": int(time.time()) + 600, "jti": secrets.token_hex(16)}
    return compact({"alg": "HS256", "typ": "JWT", "kid": "k1"}, claims, hs256(KEY))


def test_a_flood_of_junk_at_an_unsigned_neighbour_costs_a_signed_code_nothing() -> None:
    """CWE-770: resources of all connections that one of them can use up."""
    settings = SETTINGS | {"CONNECTIONS__BANK__DYNAMICS_URL": ""}
    with World(settings) as world, world.client(headers={"accept": "application/json"}) as program:
        said, bank = [], f"{world.redirect_uri}/bank"
        world.dynamics.retry_after = 60
        world.dynamics.faults.append(Fault.THROTTLED)
        for number in range(72):
            junk = program.get(world.redirect_uri, params={"code": "j", "state": f"junk-{number}"})
            said.append(junk.json()["outcome"])
        assert set(said) == {"held"}
        assert world.dynamics.posts == 1

        # At once, and from the outbox, which is full of junk.
        first, second = signed(), signed()
        assert program.get(bank, params={"code": "c", "state": first}).json()["outcome"] == (
            "delivered"
        )
        world.dynamics.retry_after = 0
        world.dynamics.faults.append(Fault.UNAVAILABLE)
        assert program.get(bank, params={"code": "c", "state": second}).json()["outcome"] == "held"
        eventually(lambda: second in world.dynamics.rows, 40)
        assert set(world.dynamics.rows) == {first, second}
