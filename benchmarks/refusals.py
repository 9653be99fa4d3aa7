"""The processor time of refusals at the limits of size: what one request of a stranger costs.

In this process, without the host. One that takes more than 3 ms, and more than 15 times the whole
answer of a bare function with HTTPX (`cpu_ms` of the last full run), fails.
"""

import asyncio
import base64
import json
import logging
import secrets
import time
from collections.abc import Iterator
from statistics import median

from benchmarks import report
from benchmarks.lineup import HTTPX
from relay import bootstrap
from relay.flow import Relay
from relay.oauth.request import FORM, JSON, MAX_BODY, MAX_QUERY, Request
from relay.outcome import Outcome

ROUNDS = 50
MOST_MS, MOST_TIMES = 3.0, 15
SETTINGS = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "secret",
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/Rows",
    "STATE_KEYS": f"k1:{'0' * 43}",
    "CONNECTIONS__SHAPED__STATE_POLICY": "pattern",
    "CONNECTIONS__SHAPED__STATE_PATTERN": "^[a-z0-9-]+_[a-z-]+$",
    "CONNECTIONS__JARM__PROVIDER_RESPONSE_MODE": "query.jwt",
    "CONNECTIONS__JARM__PROVIDER_ISSUER": "https://provider.example.com",
    "CONNECTIONS__JARM__PROVIDER_CLIENT_ID": "dynamics",
}


def requests() -> Iterator[tuple[str, str, Request]]:
    """Yield what is asked: its name, the connection, the request."""

    def get(query: str, **headers: str) -> Request:
        return Request("GET", query, headers, b"")

    def post(body: bytes, media_type: str) -> Request:
        head = {"content-type": media_type, "content-length": str(len(body))}
        return Request("POST", "", head, body)

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    token = (
        f"{part({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{part({'x': 'y' * 600})}.{'A' * 43}"
    )
    jarm = f"{part({'alg': 'RS256', 'kid': 'k1'})}.{part({'x': 'y' * 5_000})}.{'A' * 342}"
    yield "a query of separators", "default", get("a&" * (MAX_QUERY // 2))
    yield "a query of percents", "default", get("code=" + "%41" * (MAX_QUERY // 3 - 2))
    yield "a query that is too long", "default", get("a" * (MAX_QUERY + 1))
    yield "a form of separators", "default", post(b"a&" * (MAX_BODY // 2), FORM)
    yield "a form of one value", "default", post(b"state=" + b"%2B" * (MAX_BODY // 3 - 2), FORM)
    yield "JSON of many members", "default", post(_members(), JSON)
    yield "JSON that nests", "default", post(b"[" * MAX_BODY, JSON)
    yield "a state with a wrong signature", "default", get(f"code=c&state={token}")
    yield "a state that is too long", "default", get(f"code=c&state={'a' * 4_096}")
    yield "a state of a pattern", "shaped", get(f"code=c&state={'a-' * 512}")
    yield "a JARM response", "jarm", get(f"response={jarm}")
    yield "a header of cookies", "default", get(f"code=c&state={token}", cookie="a=b; " * 3_000)


def _members() -> bytes:
    members = {f"m{number}": "v" for number in range(MAX_BODY // 14)}
    return json.dumps(members).encode()[: MAX_BODY - 1]


async def milliseconds(relay: Relay, name: str, request: Request) -> float:
    """Return the processor time of one refusal, a median."""
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        answer = await relay.receive(name, request)
        spent.append(time.process_time_ns() - began)
        if answer.outcome not in (Outcome.INVALID, Outcome.REJECTED):
            raise AssertionError(f"{answer.outcome} is no refusal")
    return median(spent) / 1_000_000


async def _measure() -> dict[str, float]:
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    logger = logging.getLogger("relay")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        relay = bootstrap.app(SETTINGS | {"OUTBOX_KEYS": key}).relay
        return {what: await milliseconds(relay, name, asked) for what, name, asked in requests()}
    finally:
        logger.setLevel(level)


def main() -> int:
    """Print the table; return 1 if a refusal is too dear."""
    latest = json.loads((report.RESULTS / "latest.json").read_text("utf-8"))
    bare = latest["contestants"][HTTPX]["medians"]["cpu_ms"] or 0.0
    print(f"a bare function's whole answer: {bare:.2f} ms of processor time (last full run)")
    dear = False
    for what, spent in asyncio.run(_measure()).items():
        too_dear = spent > MOST_MS and spent > MOST_TIMES * bare
        dear |= too_dear
        print(f"{spent:8.3f} ms  {what}{'   too dear' if too_dear else ''}")
    return 1 if dear else 0
