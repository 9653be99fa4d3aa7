"""The event loop never waits: what imports, signs, opens files or blocks is done in a thread.

Each test takes a callback in a fresh process, so that what is imported late is imported there. What
is asserted does not depend on how fast the machine is: in which thread something ran, and that the
loop went on turning while servers kept their answers back.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.fernet import Fernet
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import settings_reader
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.oauth import state
from sandbox.dynamics import Dynamics
from sandbox.target import Fault
from sandbox.tls import client_certificate
from sandbox.world import CLIENT_ID, World
from tests.helpers import ROOT, verified
from tests.unit import test_jarm as jarm

TURNS, PATIENCE = 10, 20
"""How many turns of the loop an answer is kept back for, and how many seconds at most. A loop in
which something waits for the answer turns no more: only then is the patience needed."""
KEY = "k1:" + "A" * 43


@dataclass(frozen=True)
class Seen:
    """What a process tells of itself: see one_loop.py."""

    came: list[str]
    imported: list[str]
    opened: list[str]
    ran: list[str]
    elsewhere: list[str]


class Turns:
    """Counts the turns of the loop in the other process, and keeps answers back for some."""

    def __init__(self) -> None:
        self._signs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._signs.bind(("127.0.0.1", 0))
        self._signs.settimeout(0)
        self._lock = threading.Lock()
        self._count = 0
        self.port: int = self._signs.getsockname()[1]
        self.asked = 0
        self.turned = 0

    def close(self) -> None:
        self._signs.close()

    def restart(self) -> None:
        self.asked = self.turned = 0

    def before(self, app: ASGIApp) -> ASGIApp:
        """Wrap a server's application."""

        async def keep_back(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked += 1
            if await self._pass():
                self.turned += 1
            await app(scope, receive, send)

        return keep_back

    async def _pass(self) -> bool:
        end, deadline = self._counted() + TURNS, time.monotonic() + PATIENCE
        while self._counted() < end:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def _counted(self) -> int:
        with self._lock, suppress(BlockingIOError):
            while self._signs.recv(1):
                self._count += 1
        return self._count


class Stage:
    """Servers that keep their answers back, and the settings that lead to them."""

    def __init__(self, world: World, turns: Turns, folder: Path) -> None:
        self.world = world
        self.turns = turns
        files = client_certificate(folder, common_name="relay", password="canary~password")
        world.entra.certificates[CLIENT_ID] = [files.x509]
        self.broken = Dynamics(world.entra)
        keys = Starlette(routes=[Route("/keys", lambda _: JSONResponse({"keys": jarm.keys()}))])
        for app in (world.entra.app, world.dynamics.app, self.broken.app, keys):
            app.add_middleware(turns.before)
        broken_url = world.add(self.broken.app).url
        world.entra.resources.add(broken_url)
        given = {name: value for name, value in world.settings.items() if "SECRET" not in name}
        self.settings = given | {
            "ENTRA_CLIENT_CERTIFICATE": str(files.pfx),
            "ENTRA_CLIENT_CERTIFICATE_PASSWORD": "canary~password",
            "OUTBOX_KEYS": Fernet.generate_key().decode(),
            "STATE_POLICY": "signed",
            "STATE_KEYS": KEY,
            "CONNECTIONS__BANK__STATE_POLICY": "opaque",
            "CONNECTIONS__BANK__PROVIDER_ISSUER": jarm.ISSUER,
            "CONNECTIONS__BANK__PROVIDER_CLIENT_ID": jarm.CLIENT,
            "CONNECTIONS__BANK__PROVIDER_RESPONSE_MODE": "query.jwt",
            "CONNECTIONS__BANK__PROVIDER_JWKS_URI": f"{world.add(keys).url}/keys",
            "CONNECTIONS__BROKEN__DYNAMICS_URL": f"{broken_url}/data/OAuthCallbacks",
            # Nothing is fetched ahead: the first callback does all of it.
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        }
        self.connections = settings_reader.read(self.settings).connections
        assert self.connections.problems == ()

    def signed(self, name: str) -> dict[str, str]:
        """Return a callback whose state Dynamics has signed."""
        connection = self.connections.get(name)
        jti = secrets.token_urlsafe(16)  # Dynamics takes each state once
        minted = state.mint(connection, jti, datetime.now(UTC), timedelta(minutes=5))
        return {"name": name, "query": urlencode({"code": "canary", "state": minted})}

    def secured(self, name: str) -> dict[str, str]:
        """Return a callback that the provider has signed (JARM)."""
        text = jarm.token("RS256", {"exp": int(time.time()) + 300})
        return {"name": name, "query": urlencode({"response": text})}

    def sealed(self, name: str) -> dict[str, str]:
        """Return a message of the outbox that another process has written."""
        connection = self.connections.get(name)
        now = datetime.now(UTC)
        callback = Callback.received(connection, verified(), "0" * 16, now)
        return {"message": Sealer([self.settings["OUTBOX_KEYS"]]).seal(callback)}

    def run(self, *steps: dict[str, str], **further: str) -> Seen:
        """Take these steps in a process of its own."""
        order = {"steps": steps, "turns": self.turns.port}
        self.turns.restart()
        kept = ("PATH", "SYSTEMROOT", "TEMP", "HOME", "LANG")
        base = {name: os.environ[name] for name in kept if name in os.environ}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.walk.one_loop"],
            input=json.dumps(order),
            env=base | self.settings | further,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert self.turns.asked > 0
        assert self.turns.turned == self.turns.asked, "the loop stood still until a server answered"
        told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return Seen(**told)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with World() as world, closing(Turns()) as turns:
        yield Stage(world, turns, tmp_path_factory.mktemp("certificate"))


def assert_the_loop_was_free(seen: Seen) -> None:
    assert seen.ran == []
    assert seen.opened == []
    assert seen.imported == []


def test_a_cold_callback_gets_its_token_by_a_certificate_without_holding_the_loop(
    stage: Stage,
) -> None:
    seen = stage.run(stage.signed("default"))
    assert seen.came == ["delivered"]
    assert {"msal", "cryptography", "urllib3", "jwt"} <= set(seen.elsewhere)
    assert {"entra/certificate.load", "entra/client.acquire"} <= set(seen.elsewhere)
    assert_the_loop_was_free(seen)


def test_a_cold_secured_response_is_proven_without_holding_the_loop(stage: Stage) -> None:
    seen = stage.run(stage.secured("bank"))
    assert seen.came == ["delivered"]
    assert {"jwt", "oauth/jarm.unpack"} <= set(seen.elsewhere)
    assert_the_loop_was_free(seen)


def test_a_cold_callback_is_sealed_without_holding_the_loop(stage: Stage) -> None:
    stage.broken.faults.append(Fault.UNAVAILABLE)
    seen = stage.run(stage.signed("broken"))
    assert seen.came == ["held"]
    assert {"cryptography", "delivery/sealing.seal"} <= set(seen.elsewhere)
    assert_the_loop_was_free(seen)


def test_a_cold_redelivery_is_opened_without_holding_the_loop(stage: Stage) -> None:
    seen = stage.run(stage.sealed("default"))
    assert seen.came == ["delivered"]
    assert {"cryptography", "delivery/sealing.open"} <= set(seen.elsewhere)
    assert_the_loop_was_free(seen)


def test_a_token_that_is_still_on_its_way_is_waited_for_without_holding_the_loop(
    stage: Stage,
) -> None:
    seen = stage.run(stage.signed("default"), AZURE_FUNCTIONS_ENVIRONMENT="Production")
    assert seen.came == ["delivered"]
    assert "entra/client.acquire" in seen.elsewhere
    assert_the_loop_was_free(seen)
