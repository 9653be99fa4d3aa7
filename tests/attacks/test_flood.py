"""A flood of junk must neither hurt a signed connection nor blind whoever reads the log."""

import asyncio
import logging
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.fernet import Fernet

from relay import log
from relay.connections import Connections, Provider, StatePolicy
from relay.delivery.single_flight import SingleFlight
from relay.errors import Misconfigured, Rejected
from relay.flow import Relay
from relay.oauth.request import Request
from relay.ports import Receipt
from sandbox.dynamics import Fault
from sandbox.world import World
from tests.fakes import Clock, Dynamics, Entra, Keys, b64, compact, hs256
from tests.helpers import connection, get
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


def signed(**claims: object) -> str:
    claims |= {"aud": "callback:bank", "exp": int(time.time()) + 600, "jti": secrets.token_hex(16)}
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


class Site:
    """A relay with a signed and an unsigned connection; Dynamics refuses whatever it gets."""

    def __init__(self) -> None:
        self.clock = Clock()
        issuer = Provider(issuer="https://as.example")
        bank = replace(
            connection(name="bank", provider=issuer),
            state_policy=StatePolicy.SIGNED,
            state_keys={"k1": KEY},
        )
        self.relay = Relay(
            Connections(
                {
                    "bank": bank,
                    "broken": Misconfigured(("X",)),
                    "default": connection(provider=issuer),
                }
            ),
            Entra(),
            Dynamics([Rejected("dynamics_403", "No.", dynamics_status=403)]),
            Keys(),
            SingleFlight[Receipt](clock=self.clock),
            None,
            lambda: datetime.now(UTC),
            writer=log.Writer(self.clock),
        )

    def receive(self, name: str, request: Request) -> None:
        asyncio.run(self.relay.receive(name, request))


def test_a_flood_of_refusals_neither_fills_the_log_nor_hides_what_is_real(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """CWE-779: logging of excessive data, which reaches the log's daily limit and ends alerts."""
    site, each = Site(), 300
    caplog.set_level(logging.INFO, "relay")
    junk = {
        "state_malformed": ("bank", {"code": "c", "state": "canary"}),
        "state_signature": ("bank", {"code": "c", "state": signed()[:-43] + "A" * 43}),
        "iss_mismatch": ("default", {"code": "c", "state": "canary", "iss": "https://evil"}),
        "connection": ("canary", {"code": "c", "state": "s"}),
    }
    for _ in range(each):
        for name, query in junk.values():
            site.receive(name, get(query))
        site.receive("broken", get({"code": "c", "state": "s"}))
    # 20 and 4 times 2 lines for 1,200 requests of a minute, 20 and 2 for 300 at wrong settings, and
    # no text of the stranger's.
    assert len(caplog.records) == 28 + 22
    assert "canary" not in caplog.text

    # Meanwhile what bears a signature of Dynamics, or says that something is broken, is all there.
    caplog.clear()
    for number in range(30):
        real = {"code": f"c{number}", "iss": "https://as.example"}
        site.receive("bank", get(real | {"state": signed(cookie="A" * 43)}))
        site.receive("bank", get(real | {"state": signed(), "iss": "https://other.example"}))
        site.receive("bank", get(real | {"state": signed()}))
    written = [vars(record)["reason"] for record in caplog.records]
    assert written == ["state_cookie_missing", "iss_mismatch", "dynamics_403"] * 30

    # The next line of a later minute tells the rest: nothing is uncounted.
    caplog.clear()
    site.clock.seconds += 60
    site.receive("bank", get({"code": "c", "state": "canary"}))
    *counts, _ = caplog.records
    left = {vars(record)["reason"]: vars(record)["times"] for record in counts}
    assert left == {**dict.fromkeys(junk, each - 5 - 200), "settings": each - 20 - 200}
