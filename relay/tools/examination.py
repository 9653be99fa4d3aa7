"""The doctor in Azure: it examines the app with the app's own identity, network and trust.

A message in the queue `<OUTBOX_QUEUE>-doctor` asks for it; the report goes to the queue
`<OUTBOX_QUEUE>-doctor-report`, and a line for each finding into the log. It reads only.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from logging import INFO
from pathlib import Path

from relay import log, settings_reader
from relay.tools import doctor
from relay.tools.doctor.finding import Finding, skip

LIMIT = 90.0
"""Seconds after which an examination ends with what it has; `functionTimeout` is longer."""
OLDEST = timedelta(minutes=10)
"""An older request is dropped: nobody waits for its report any more."""
PART = 40 * 1024
"""Bytes of one part of a report; in base64 it fits a queue message of 64 KiB."""
APP = Path(__file__).parents[2]
"""The folder of the app, with host.json."""

_LATE = skip(
    "doctor",
    f"the rest was not examined: the time of {LIMIT:.0f} seconds was over",
    "Run it again with --connection NAME, which examines one connection only.",
)
_BUSY = skip(
    "doctor",
    f"nothing was examined: another examination took {LIMIT:.0f} seconds",
    "Run it again in a minute; one runs at a time.",
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a report. `connection`: examine this one only."""

    request_id: str
    connection: str | None = None

    @classmethod
    def read(cls, body: bytes) -> "Request":
        """Read a message. Raises `ValueError` for anything that is no request."""
        try:
            document = json.loads(body)
        except RecursionError:
            raise ValueError("nesting") from None
        if not isinstance(document, dict) or document.keys() - {"id", "connection"}:
            raise ValueError("members")
        request_id, connection = document.get("id"), document.get("connection")
        if not isinstance(request_id, str) or not re.fullmatch(r"[0-9a-f]{16}", request_id):
            raise ValueError("id")
        if connection is not None and not isinstance(connection, str):
            raise ValueError("connection")
        return cls(request_id, connection)

    def to_json(self) -> str:
        """Return the message."""
        named = {} if self.connection is None else {"connection": self.connection}
        return json.dumps({"id": self.request_id, **named})


async def run(
    body: bytes,
    environ: Mapping[str, str],
    one: asyncio.Lock,
    *,
    dequeued: int | None,
    inserted: datetime | None,
    limit: float = LIMIT,
) -> list[str]:
    """Examine the app with these app settings; return the parts of the report, one to a message.

    `body` is the request. `one` keeps examinations from running side by side. What is no request,
    was received before or is too old is dropped: there are no parts then. Never raises.
    """
    age = datetime.now(UTC) - (inserted or datetime.now(UTC)).astimezone(UTC)
    if (dequeued or 1) > 1 or age > OLDEST:
        log.at_once(INFO, "doctor dropped a request that is repeated or old")
        return []
    try:
        request = Request.read(body)
        if request.connection is not None:
            # In a thread: there may be hundreds of connections.
            known = await asyncio.to_thread(settings_reader.read, environ)
            known.connections.by_name[request.connection]
    except (ValueError, LookupError):
        log.at_once(INFO, "doctor dropped a message that is no request")
        return []
    ending = time.monotonic() + limit
    found: list[Finding] = []
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + limit):
            await one.acquire()
    except TimeoutError:
        found.append(_BUSY)
    else:
        await _examine(request, environ, one, found, ending)
    for each in (told := list(found)):
        log.at_once(
            INFO,
            "doctor %s check=%s connection=%s %s",
            each.verdict,
            each.check,
            each.connection or "-",
            each.message,
        )
    return list(parts(request.request_id, told))


async def _examine(
    request: Request,
    environ: Mapping[str, str],
    one: asyncio.Lock,
    found: list[Finding],
    ending: float,
) -> None:
    """Append the findings to `found`, until `ending`. Frees the lock when the thread has ended."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            found.extend(_findings(request, environ, ending))
        except Exception as error:  # noqa: BLE001 - nothing of an examination becomes poison
            found.append(_broken(error))
        finally:
            loop.call_soon_threadsafe(over)

    def over() -> None:
        one.release()
        done.set()

    # A thread of its own: those of the loop's pool fetch the tokens of callbacks.
    threading.Thread(target=work, name="doctor", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), max(0.0, ending - time.monotonic()))
    except TimeoutError:
        found.append(_LATE)


def _findings(request: Request, environ: Mapping[str, str], ending: float) -> Iterator[Finding]:
    # A little earlier, so that a check whose request is cut off can still report that.
    deadline = ending - min(5.0, (ending - time.monotonic()) / 4)
    for finding in doctor.examine(environ, only=request.connection, folder=APP, deadline=deadline):
        yield finding
        if time.monotonic() > deadline:
            yield _LATE
            return


def _broken(error: Exception) -> Finding:
    return skip(
        "doctor",
        f"the rest was not examined: the doctor failed ({type(error).__name__})",
        "Report it, with the relay's version.",
    )


def parts(request_id: str, findings: Iterable[Finding]) -> Iterator[str]:
    """Return a report as messages: JSON of `id`, `part`, `parts` and `findings`."""
    groups: list[list[str]] = [[]]
    size = 0
    for text in (json.dumps(asdict(finding)) for finding in findings):  # in ASCII
        size += len(text) + 2
        if size > PART - 100 and groups[-1]:
            groups.append([])
            size = len(text) + 2
        groups[-1].append(text)
    for number, group in enumerate(groups, 1):
        head = f'"id": "{request_id}", "part": {number}, "parts": {len(groups)}'
        yield f'{{{head}, "findings": [{", ".join(group)}]}}'
