"""Each entry of the relay's tables of refusals is needed: without it a line of the table changes.

An entry without a line fails here, and so does an entry whose line is gone.
"""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pytest_httpx import HTTPXMock

from relay import flow
from relay.connections import Connections
from relay.delivery import dynamics, targets
from relay.delivery.callback import Callback
from relay.delivery.dynamics import DynamicsClient
from relay.delivery.retry_after import TRANSIENT
from relay.delivery.sealing import DeadLetter, Sealer
from relay.delivery.single_flight import SingleFlight
from relay.delivery.targets import TARGETS, Known, Meaning, Refusal, TargetKind
from relay.errors import ApplicationFailed, Rejected, Unauthorized, Unavailable, Undelivered
from relay.flow import STARTING, Relay
from relay.ports import AccessToken, Receipt
from relay.tools.doctor.reasons import HINTS
from tests.fakes import Dynamics, Entra, Keys
from tests.helpers import CANARY, CODE, STATE, TOKEN, connection, verified
from tests.refusals import (
    AUTHORITY,
    CASES,
    CHANGED,
    DEADLOCK,
    DELIVERED,
    EXISTS,
    FRESH_TOKEN,
    GIVEN_UP,
    HELD,
    REFUSED,
    SEQUENCES,
    Answer,
    Ends,
    coded,
)

ANSWERS = {
    name: (case.dynamics[0], case.ends)
    for name, case in CASES.items()
    if len({(each.status, each.content, each.location) for each in case.dynamics}) == 1
    and case.dynamics[0].status
    and not case.entra
    and case.ends is not DELIVERED
}
"""The lines that one answer of Dynamics decides."""
ENDS: dict[type[Undelivered], Ends] = {
    Unauthorized: FRESH_TOKEN,
    ApplicationFailed: GIVEN_UP,
    Unavailable: HELD,
    Rejected: REFUSED,
}


async def read(
    mock: HTTPXMock,
    given: Answer,
    sent: tuple[str, ...] = (CODE, STATE),
    authority: str | None = AUTHORITY,
) -> tuple[Ends, str]:
    """Return how an answer ends a callback, and its reason."""
    headers = {"content-type": given.media_type}
    headers |= {"location": given.location} if given.location else {}
    mock.add_response(status_code=given.status, headers=headers, content=given.content)
    client = DynamicsClient(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    token = AccessToken(TOKEN, fresh_until=1e9, expires_at=1e9, authority=authority)
    target = connection().target
    result: Receipt | Undelivered
    try:
        result = await client.deliver(target, token, b"{}", reference="0" * 16, sent=sent)
    except Undelivered as error:
        result = error
    finally:
        await client.aclose()
    if isinstance(result, Receipt):
        return EXISTS if result.existed else DELIVERED, ""
    assert result.dynamics_status == given.status
    assert CANARY not in repr(vars(result)) + str(result)
    return ENDS[type(result)], result.reason


async def changed(mock: HTTPXMock, *names: str) -> list[str]:
    """Return which of these lines do not end any more as the table says."""
    return [name for name in names if (await read(mock, ANSWERS[name][0]))[0] != ANSWERS[name][1]]


# -- the entries of the targets ------------------------------------------------------------------

FIELDS = ("codes", "phrases", "statuses")


def meanings() -> dict[str, Meaning | None]:
    """Return what the body of each line means."""
    found = {}
    for name, (given, _) in ANSWERS.items():
        known = targets.meaning_of(Refusal.of(given.status, given.content, (CODE, STATE)))
        found[name] = None if known is None else known.meaning
    return found


def entries() -> Iterator[Any]:
    """Return each value of each entry, and what the entry is without it."""
    for kind in TARGETS:
        for known in kind.refusals:
            for field in FIELDS:
                for value in getattr(known, field):
                    left = tuple(each for each in getattr(known, field) if each != value)
                    changes: Any = {field: left}
                    # Without the last value an entry would fit any.
                    without = (known._replace(**changes),) if left else ()
                    name = f"{kind.name}-{known.meaning.name}-{value}"
                    yield pytest.param(kind, known, without, id=name)


def limits() -> Iterator[Any]:
    """Return each limit of each entry that has several, and the entry without it."""
    for kind in TARGETS:
        for known in kind.refusals:
            given = [field for field in FIELDS if getattr(known, field)]
            for field in given if len(given) > 1 else ():
                name = f"{kind.name}-{known.meaning.name}-any-of-{field}-{getattr(known, field)[0]}"
                changes: Any = {field: ()}
                yield pytest.param(kind, known, (known._replace(**changes),), id=name)


@pytest.mark.parametrize(("kind", "known", "instead"), [*entries(), *limits()])
async def test_each_entry_of_a_target_decides_a_line(
    httpx_mock: HTTPXMock,
    kind: TargetKind,
    known: Known,
    instead: tuple[Known, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = meanings()
    place = kind.refusals.index(known)
    refusals = (*kind.refusals[:place], *instead, *kind.refusals[place + 1 :])
    kinds = (replace(each, refusals=refusals) if each is kind else each for each in TARGETS)
    monkeypatch.setattr(targets, "TARGETS", tuple(kinds))
    after = meanings()
    assert await changed(httpx_mock, *(name for name in before if before[name] != after[name]))


async def test_each_line_ends_so_and_its_reason_has_a_hint(httpx_mock: HTTPXMock) -> None:
    for name, (given, ends) in ANSWERS.items():
        found, reason = await read(httpx_mock, given)
        assert (name, found) == (name, ends)
        # A status that is final has no entry; what holds it says more than a number.
        is_number = reason in ("", f"dynamics_{given.status}")
        assert is_number or reason in HINTS, name
        assert not is_number or ends is not HELD or given.status in TRANSIENT, name
    reasons = {known.reason for kind in TARGETS for known in kind.refusals} - {""}
    assert reasons <= HINTS.keys()


@pytest.mark.parametrize("value", [DEADLOCK, CHANGED])
async def test_a_value_does_not_make_a_refusal_that_passes(
    httpx_mock: HTTPXMock, value: str
) -> None:
    given = Answer(400, coded("Application_StringExceededLength", f"Value: {value}"))
    assert (await read(httpx_mock, given, (value, STATE)))[0] is REFUSED


# -- statuses, redirects, pages ------------------------------------------------------------------

SERVER = frozenset(range(500, 600))


@pytest.mark.parametrize(
    "statuses",
    [SERVER, *(frozenset({status}) for status in sorted(TRANSIENT - SERVER))],
    ids=lambda statuses: "5xx" if len(statuses) > 1 else str(*map(int, statuses)),
)
async def test_each_status_that_passes_decides_a_line(
    httpx_mock: HTTPXMock, statuses: frozenset[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamics, "TRANSIENT", TRANSIENT - statuses)
    lines = [name for name, (given, _) in ANSWERS.items() if given.status in statuses]
    assert await changed(httpx_mock, *lines)


async def test_redirects_decide_a_line(
    httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [name for name, (given, _) in ANSWERS.items() if given.status in dynamics.REDIRECTS]
    monkeypatch.setattr(dynamics, "REDIRECTS", frozenset())
    # A page is one with any status.
    assert set(lines) - set(await changed(httpx_mock, *lines)) == {"fo-servicing-307"}


@pytest.mark.parametrize("name", ["fo-on-premises", "fo-on-premises-capitals"])
async def test_where_a_token_is_from_decides_what_a_redirect_means(
    httpx_mock: HTTPXMock, name: str
) -> None:
    given, ends = ANSWERS[name]
    assert ends is FRESH_TOKEN
    for other in (None, "https://login.microsoftonline.com/contoso"):
        assert (await read(httpx_mock, given, authority=other))[0] is HELD
    port = given._replace(location="https://adfs.contoso.example:443/adfs")
    assert (await read(httpx_mock, port))[0] is FRESH_TOKEN


async def test_a_page_decides_whatever_its_status(httpx_mock: HTTPXMock) -> None:
    for name, (given, ends) in ANSWERS.items():
        if given.media_type == "text/html" and given.status not in TRANSIENT | dynamics.REDIRECTS:
            plain, _ = await read(httpx_mock, Answer(given.status, {}))
            assert (plain != ends) is (given.status != 401), name


# -- redeliveries --------------------------------------------------------------------------------


async def redelivery(status: int) -> DeadLetter | None:
    """Return what becomes of a redelivery that is refused with this status."""
    now, where = datetime.now(UTC), connection()
    sealer = Sealer([Fernet.generate_key().decode()])
    refusing = Dynamics([Rejected(f"dynamics_{status}", "No.", dynamics_status=status)])
    connections = Connections({where.name: where})
    relay = Relay(connections, Entra(), refusing, Keys(), SingleFlight(), sealer, lambda: now)
    message = sealer.seal(Callback.received(where, verified(), "0" * 16, now))
    try:
        return await relay.redeliver(message.encode(), 2)
    except Rejected:
        return None


@pytest.mark.parametrize("status", sorted(STARTING))
async def test_each_status_of_a_target_that_starts_decides_a_line(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [case.dynamics[1:] for case in SEQUENCES.values() if case.ends is HELD]
    assert status in {given.status for answers in lines for given in answers}
    assert await redelivery(status) is None
    monkeypatch.setattr(flow, "STARTING", STARTING - {status})
    assert await redelivery(status) is not None
