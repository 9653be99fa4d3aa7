"""The table of refusals through the Functions host: what a person is told, what Dynamics has."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.fernet import Fernet
from starlette.requests import Request
from starlette.responses import Response

from relay.connections import Connections
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.flow import Relay
from sandbox import custom_service
from sandbox.adfs import Adfs
from sandbox.business_central import BusinessCentral
from sandbox.custom_service import CustomService
from sandbox.dataverse import Dataverse
from sandbox.dynamics import Dynamics as FinanceOperations
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.queues import STORAGE
from sandbox.serving import Reset
from sandbox.target import Fault, Target
from sandbox.world import CLIENT_ID, CLIENT_SECRET, World
from tests.fakes import Dynamics, Entra, Keys
from tests.helpers import STATE, connection, verified
from tests.outbox import QUICK, eventually, everything
from tests.refusals import CASES, DELIVERED, FRESH_TOKEN, LOST, RESET, TOKEN, Answer

OUTBOX = "refusals"
SHARED = ("finance", "service", "bc", "dataverse")
"""Connections for the cases that need no token of their own."""


class Stage:
    """One relay with a connection for each target, and for each case that has its own token."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.world = world
        self.names = {name: f"state-{number}" for number, name in enumerate(CASES)}
        """The state of each case: a number, because messages are searched for words."""
        self.adfs = Adfs(clients={}, resources=[])
        adfs = world.add(self.adfs.app)
        self.authorities = {
            "adfs": f"{adfs.url}/adfs",
            "finance": world.settings["ENTRA_AUTHORITY"],
        }
        self.targets: dict[str, Target] = {
            "finance": world.dynamics,
            "service": CustomService(world.entra),
            "bc": BusinessCentral(world.entra),
            "dataverse": Dataverse(world.entra),
            "adfs": FinanceOperations(self.adfs, on_premises=True),
        }
        self.targets["identity"] = self.targets["finance"]
        paths = {
            "finance": "/data/OAuthCallbacks",
            "service": custom_service.PATH,
            "bc": BusinessCentral(world.entra).path,
            "dataverse": Dataverse(world.entra).path,
            "adfs": "/namespaces/AXSF/data/OAuthCallbacks",
        }
        self.urls = {"finance": world.dynamics_server.url}
        for at in ("service", "bc", "dataverse", "adfs"):
            self.urls[at] = world.add(self.targets[at].app).url
        world.entra.resources |= {*self.urls.values()}
        self.adfs.resources.add(self.urls["adfs"])
        self.urls["identity"] = self.urls["finance"]
        self.urls = {at: url + paths.get(at, paths["finance"]) for at, url in self.urls.items()}
        self.identities = IdentityEndpoint(world.entra, [])
        server = world.add(self.identities.app, tls=False)
        for name, value in self.identities.environment(server.url).items():
            monkeypatch.setitem(os.environ, name, value)

        self.dynamics = {self.names[name]: [*case.dynamics] for name, case in CASES.items()}
        self.entra: dict[str, list[Answer]] = {}
        self.asked: dict[str, int] = {}
        """How many tokens each client asked for."""
        settings = {
            "CA_BUNDLE": world.settings["CA_BUNDLE"],
            "STATE_POLICY": "opaque",
            "OUTBOX_QUEUE": OUTBOX,
            STORAGE: world.settings[STORAGE],
            **QUICK,
        }
        world.entra.clients[CLIENT_ID] = CLIENT_SECRET
        for at in SHARED:
            settings |= self._connection(at, at, CLIENT_ID)
        # The first tokens are fetched while the host starts: those of cases without an answer.
        own = {name: case for name, case in CASES.items() if case.has_own_token}
        for name in sorted(own, key=lambda name: bool(own[name].entra)):
            client = self._client(name)
            settings |= self._connection(name, CASES[name].at, client)
            self.entra[client] = [*CASES[name].entra]
        for target in {*self.targets.values()}:
            target.authorized_apps |= {*self.entra, CLIENT_ID}
            self._script(monkeypatch, target)
        self._script_issuers(monkeypatch)
        self.relay = world.serve(settings)

    def _client(self, name: str) -> str:
        number = int(self.names[name].partition("-")[2])
        return f"00000000-0000-0000-0000-{number:012}"

    def _connection(self, name: str, at: str, client: str) -> dict[str, str]:
        """Return the settings of a connection, and register its client."""
        names = self.targets[at].names
        body: dict[str, object] = {names.code: "{code}", names.state: "{state}"}
        own = {
            "DYNAMICS_URL": self.urls[at],
            "DYNAMICS_BODY": json.dumps({"_contract": body} if at == "service" else body),
        }
        if at == "identity":
            self.identities.identities.append(Identity(client, client))
            own["ENTRA_MANAGED_IDENTITY_CLIENT_ID"] = client
        else:
            own["ENTRA_CLIENT_ID"], own["ENTRA_CLIENT_SECRET"] = client, CLIENT_SECRET
            own["ENTRA_AUTHORITY"] = self.authorities["adfs" if at == "adfs" else "finance"]
            issuer = self.adfs if at == "adfs" else self.world.entra
            issuer.clients[client] = CLIENT_SECRET
        key = name.upper().replace("-", "_")
        return {f"CONNECTIONS__{key}__{setting}": value for setting, value in own.items()}

    def _script(self, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
        attempt = target._attempt

        def answer(request: Request, body: bytes, fault: Fault | None) -> Response:
            found = re.search(rb"state-\d+", body)
            left = self.dynamics[found[0].decode()] if found else []
            if not left:
                return attempt(request, body, fault)
            given = left.pop(0)
            if given == LOST:
                attempt(request, body, fault)
            if given in (RESET, LOST):
                return Reset()
            authority = self.authorities["adfs" if target is self.targets["adfs"] else "finance"]
            return response(given, authority, found[0].decode() if found else "")

        monkeypatch.setattr(target, "_attempt", answer)

    def _script_issuers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def scripted(grant: Callable[..., Response], client_of: Callable[..., str]) -> Any:
            def answer(*asked: Any) -> Response:
                client = client_of(*asked)
                self.asked[client] = self.asked.get(client, 0) + 1
                left = self.entra.get(client, [])
                given = left.pop(0) if left else TOKEN
                return grant(*asked) if given == TOKEN else response(given)

            return answer

        def by_form(_: Request, form: Mapping[str, str]) -> str:
            return form["client_id"]

        def by_query(request: Request) -> str:
            return request.query_params["client_id"]

        for issuer in (self.world.entra, self.adfs):
            monkeypatch.setattr(issuer, "_grant", scripted(issuer._grant, by_form))
        answer = scripted(self.identities._answer, by_query)
        monkeypatch.setattr(self.identities, "_answer", answer)

    def call(self, name: str) -> str:
        """Send the callback of a case; return the outcome that its answer tells."""
        case = CASES[name]
        where = name if case.has_own_token else case.at
        state = self.names[name]
        with self.world.client(headers={"accept": "application/json"}) as client:
            told = client.get(
                f"{self.relay.url}/callback/{where}",
                params={"code": f"code of {state}", "state": state},
            )
        return str(told.json()["outcome"])

    def asked_by(self, name: str) -> int:
        """Return how many tokens the client of a case asked for."""
        return self.asked.get(self._client(name), 0)

    def has(self, name: str) -> str | None:
        """Return the code that Dynamics has of a case."""
        target = self.targets[CASES[name].at]
        row = target.rows.get(self.names[name])
        return None if row is None else str(row[target.names.code])


def response(given: Answer, authority: str = "", state: str = "") -> Response:
    """Return an answer as it is sent: with the real state, and the real place of the sign-in."""
    parts = urlsplit(authority)
    location = given.location.replace("adfs.contoso.example:8443", f"{parts.hostname}:1")
    location = re.sub("adfs.contoso.example", parts.netloc, location, flags=re.IGNORECASE)
    headers = {"location": location} if location else {}
    content = given.content.replace(STATE.encode(), state.encode())
    return Response(content, given.status, headers, given.media_type)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as monkeypatch, World() as world, ExitStack() as stack:
        yield Stage(world, monkeypatch, stack)


def test_every_line_of_the_table_ends_as_it_says(stage: Stage) -> None:
    with ThreadPoolExecutor(8) as people:
        told = dict(zip(CASES, people.map(stage.call, CASES), strict=True))
    assert told == {name: case.ends.outcome for name, case in CASES.items()}
    has_code = {
        name: f"code of {stage.names[name]}"
        for name, case in CASES.items()
        if case.ends.has == "code"
    }
    letters = {stage.names[name]: case.letter for name, case in CASES.items() if case.letter}

    def found() -> tuple[dict[str, str | None], dict[str, str]]:
        rows = {name: stage.has(name) for name in CASES}
        dead = [json.loads(text) for text in everything(stage.world, f"{OUTBOX}-dead")]
        return (
            {name: code for name, code in rows.items() if code is not None},
            {letter["state"]: letter["reason"] for letter in dead},
        )

    eventually(lambda: everything(stage.world, OUTBOX) == [])
    assert found() == (has_code, letters)
    assert everything(stage.world, f"{OUTBOX}-poison") == []
    # A token that Dynamics refuses is not sent again, and a credential is not given up at once.
    again = {
        name
        for name, case in CASES.items()
        if case.ends is FRESH_TOKEN or (case.ends is DELIVERED and (case.entra or case.dynamics))
    }
    assert {name for name in again if stage.asked_by(name) < 2} == set()


async def test_an_error_record_that_the_template_no_longer_names_is_a_dead_letter() -> None:
    now = datetime.now(UTC)
    where, dynamics = connection(), Dynamics()
    sealer = Sealer([Fernet.generate_key().decode()])
    connections = Connections({where.name: where})
    relay = Relay(connections, Entra(), dynamics, Keys(), SingleFlight(), sealer, lambda: now)
    response = verified(code=None, error="access_denied")
    message = sealer.seal(Callback.received(where, response, "0" * 16, now)).encode()
    letter = await relay.redeliver(message, 2)
    assert letter is not None
    assert (letter.reason, dynamics.posted) == ("error_unwanted", [])
