"""What many connections and environments cost: the settings, memory, the first callback, tokens.

Each size is measured in processes of its own, in which the relay is set up as at a cold start and
gets callbacks; Entra and Dynamics answer at once, there is no host and no network. The sizes are
read out of a mapping: the larger ones fit into no environment block. Writes the table of
docs/scale.md. Takes three minutes.
"""

import asyncio
import json
import logging
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.lineup import ROOT, TIMES
from benchmarks.report import RESULTS, between
from relay import bootstrap, settings_reader
from relay.connections import ClientCredentials, ClientSecret, Target
from relay.entra.tokens import TokenCache
from relay.flow import Relay
from relay.oauth import state
from relay.oauth.request import Request
from relay.outcome import Outcome
from relay.ports import AccessToken, Receipt
from sandbox.entra import Entra
from sandbox.serving import Server
from sandbox.tls import Authority

SIZES = (
    (1, 0),
    (1, 3),
    (100, 0),
    (100, 3),
    (500, 0),
    (500, 3),
    (2_500, 3),
    (10_000, 0),
    (10_000, 3),
)
"""Connections, and environments of each."""
ROUNDS = 3
"""Processes for each size. The least of each number counts: other work only adds to it."""
CALLBACKS = 200
TOKENS = 200
PAGE, NUMBERS = ROOT / "docs/scale.md", RESULTS / "scale.json"
BEGIN, END = "<!-- scale -->", "<!-- /scale -->"
CLIENT, SECRET = "5f1c7c1e-6f0a-4a53-9a41-0c1f6f2f7a10", "sandbox~secret.of.the.relay"


@dataclass(frozen=True)
class Size:
    """One size: milliseconds of processor time, the least of the rounds; bytes; MiB of memory.

    `settings`: their number. `read_ms`: for reading them. `first_ms`, `next_ms`: for the first
    callback, and for each later one, inside the relay.
    """

    connections: int
    environments: int
    settings: int
    size: int
    read_ms: float
    first_ms: float
    next_ms: float
    memory_mib: float


@dataclass(frozen=True)
class Scale:
    """The whole run. `token_kib`: memory for each token that is kept, with its client."""

    date: str
    sizes: list[Size]
    token_kib: float


def main(arguments: Iterable[str] = ()) -> int:
    """Measure all sizes and write the page. In a process for one of them print its numbers."""
    match list(arguments):
        case [connections, environments]:
            print(json.dumps(asyncio.run(_one(int(connections), int(environments)))))
        case ["tokens", authority, bundle, number]:
            print(json.dumps(asyncio.run(_tokens(authority, bundle, int(number)))))
        case _:
            found = measure()
            print(text(found))
            NUMBERS.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
            PAGE.write_text(fill(PAGE.read_text("utf-8"), found), "utf-8")
            print(f"written: {NUMBERS}\nwritten: {PAGE}")
    return 0


def read() -> Scale:
    """Return the numbers of the last run."""
    found = json.loads(NUMBERS.read_text("utf-8"))
    return Scale(**{**found, "sizes": [Size(**size) for size in found["sizes"]]})


def measure(sizes: Iterable[tuple[int, int]] = SIZES) -> Scale:
    """Measure these sizes, and what a kept token takes."""
    sizes = tuple(sizes)
    # One round after the other, so that a slower minute of the machine falls on all sizes.
    rounds = [{size: _child(*map(str, size)) for size in sizes} for _ in range(ROUNDS)]
    found = [_size(*size, [each[size] for each in rounds]) for size in sizes]
    with Authority() as authority:
        entra = Entra(clients={CLIENT: SECRET})
        entra.resources.update(map(address, range(TOKENS)))
        with Server(entra.app, tls=authority.server_context()) as server:
            entra.url = server.url
            bundle, number = str(authority.bundle), str(TOKENS)
            kept = _child("tokens", f"{server.url}/{entra.tenant}", bundle, number)
    return Scale(f"{datetime.now(UTC):%Y-%m-%d}", found, kept["token_kib"])


def _size(connections: int, environments: int, rounds: Sequence[Mapping[str, float]]) -> Size:
    """Return one size, with the least of each number."""
    given = settings(connections, environments)
    size = sum(len(name) + len(value) + 2 for name, value in given.items())
    least = {name: min(each[name] for each in rounds) for name in rounds[0]}
    return Size(connections, environments, len(given), size, **least)


def _child(*arguments: str) -> dict[str, float]:
    command = (sys.executable, "-m", "benchmarks.scale", *arguments)
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def settings(connections: int, environments: int) -> dict[str, str]:
    """Return app settings: each target has a URL and a key of its own, the credential is one.

    Each connection has its provider's issuer and the lifetime of its codes.
    """
    given = {
        "ENTRA_TENANT_ID": "contoso.com",
        "ENTRA_CLIENT_ID": CLIENT,
        "ENTRA_CLIENT_SECRET": SECRET,
    }
    for connection in range(connections):
        outer = f"CONNECTIONS__C{connection}__"
        given |= _target(outer, f"c{connection}", connection * (environments + 1))
        given[f"{outer}PROVIDER_ISSUER"] = f"https://provider{connection}.example.com"
        given[f"{outer}CODE_TTL"] = "600"
        for environment in range(environments):
            inner = f"{outer}ENVIRONMENTS__E{environment}__"
            number = connection * (environments + 1) + environment + 1
            given |= _target(inner, f"c{connection}-e{environment}", number)
    return given


def _target(prefix: str, name: str, number: int) -> Mapping[str, str]:
    return {
        f"{prefix}DYNAMICS_URL": f"https://{name}.operations.dynamics.com/data/OAuthCallbacks",
        f"{prefix}STATE_KEYS": f"k1:{number:05d}{'0' * 38}",
    }


class _Tokens:
    """Entra, which has one token for everybody, at once."""

    async def get(self, _: ClientCredentials, *, within: float) -> AccessToken:
        """Return the token."""
        del within
        return AccessToken("token", fresh_until=1e9, expires_at=1e9)

    async def renew(
        self, credentials: ClientCredentials, _: AccessToken, *, within: float
    ) -> AccessToken:
        """Return the same one."""
        return await self.get(credentials, within=within)


class _Dynamics:
    """Dynamics, which takes everything at once."""

    def pause(self, _: Target) -> float:
        """Return that there is no pause."""
        return 0.0

    async def deliver(
        self, _: Target, __: AccessToken, body: bytes, *, reference: str, sent: Iterable[str]
    ) -> Receipt:
        """Take it."""
        del body, reference, sent
        return Receipt(existed=False, status=204)


async def _one(connections: int, environments: int) -> dict[str, float]:
    """Set the relay up in this process, send it callbacks, return the numbers."""
    given = settings(connections, environments)
    began = time.process_time()
    settings_reader.read(given)
    seconds = time.process_time() - began
    logging.disable()
    try:
        relay = replace(bootstrap.app(given).relay, tokens=_Tokens(), dynamics=_Dynamics())
        spent = [await _callback(relay, number, connections) for number in range(1 + CALLBACKS)]
    finally:
        logging.disable(logging.NOTSET)
    return {
        "read_ms": 1_000 * seconds,
        "first_ms": 1_000 * spent[0],
        "next_ms": 1_000 * median(spent[1:]),
        "memory_mib": _memory(),
    }


async def _callback(relay: Relay, number: int, connections: int) -> float:
    """Send one callback; return the seconds of processor time of the answer."""
    name = f"c{number * 7 % connections}"
    connection = relay.connections.get(name)
    jti, now = f"{number:016d}", datetime.now(UTC)
    minted = state.mint(connection, jti, now, timedelta(minutes=10))
    request = Request("GET", f"code=code-{jti}&state={minted}", {}, b"")
    began = time.process_time()
    answer = await relay.receive(name, request)
    spent = time.process_time() - began
    if answer.outcome is not Outcome.DELIVERED:
        raise AssertionError(answer.outcome)
    return spent


async def _tokens(authority: str, bundle: str, tokens: int) -> dict[str, float]:
    """Fetch so many tokens from the sandbox's Entra; return what each takes in this process."""
    cache = TokenCache(ssl.create_default_context(cafile=bundle))

    async def fetch(number: int) -> None:
        scope = f"{address(number)}/.default"
        await cache.get(ClientCredentials(authority, CLIENT, ClientSecret(SECRET), scope))

    await fetch(0)
    before = _memory()
    for number in range(1, tokens):
        await fetch(number)
    return {"token_kib": 1_024 * (_memory() - before) / (tokens - 1)}


def address(number: int) -> str:
    """Return the address of a Dynamics, for which a token is asked."""
    return f"https://c{number}.operations.dynamics.com"


def _memory() -> float:
    """Return the resident memory of this process, in MiB; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    # Not `ru_maxrss`, which begins with what the process had that started this one.
    [line] = [each for each in status.read_text().splitlines() if each.startswith("VmRSS:")]
    return int(line.split()[1]) / 1_024


def text(found: Scale) -> str:
    """Return the result in Markdown, for a terminal and for the page."""
    heads = (f"connections {TIMES} environments", "settings", "their size", "read in")
    rows = [
        f"| {' | '.join(heads)} | first callback | next callbacks | memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for size in found.sizes:
        cells = (
            f"{size.connections:,} {TIMES} {size.environments}",
            f"{size.settings:,}",
            f"{size.size / 1_024:,.1f} KiB",
            f"{size.read_ms:,.0f} ms",
            f"{size.first_ms:.1f} ms",
            f"{size.next_ms:.2f} ms",
            f"{size.memory_mib:.0f} MiB",
        )
        rows.append(f"| {' | '.join(cells)} |")
    end = f"{found.date}; each token that is kept takes {found.token_kib:.0f} KiB, with its client."
    return "\n".join([*rows, "", end])


def fill(document: str, found: Scale) -> str:
    """Return the page with the result between its marks. Raises `ValueError` without marks."""
    return between(document, BEGIN, END, f"\n{text(found)}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
