"""tokens.py against an Entra that answers over TLS, with the real MSAL in between."""

import asyncio
import gc
import logging
import ssl
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from relay import log, outgoing
from relay.connections import ClientCredentials, ClientSecret
from relay.entra.client import DEADLINE, EARLY, Client
from relay.entra.tokens import (
    AHEAD,
    LAST_GOOD,
    RENEWAL_INTERVAL,
    STUCK,
    TokenCache,
)
from relay.errors import CredentialRefused, Unavailable
from relay.ports import AccessToken
from sandbox.entra import Entra, Fault
from sandbox.serving import Server
from sandbox.tls import Authority
from tests.fakes import Clock

RESOURCE = "https://contoso.operations.dynamics.com"
SECRET = "canary~secret"


@dataclass
class Stage:
    entra: Entra
    server: Server
    cache: TokenCache
    credentials: ClientCredentials
    context: ssl.SSLContext
    clock: Clock = field(default_factory=Clock)

    async def get(self) -> AccessToken:
        return await self.cache.get(self.credentials)


@pytest.fixture
def stage() -> Iterator[Stage]:
    log.quiet()
    entra = Entra(clients={"relay": SECRET}, resources=[RESOURCE])
    with Authority() as authority, Server(entra.app, tls=authority.server_context()) as server:
        clock = Clock()
        context = outgoing.trust(str(authority.bundle), {})
        cache = TokenCache(context, clock=clock)
        url = f"{server.url}/{entra.tenant}"
        credentials = ClientCredentials(url, "relay", ClientSecret(SECRET), f"{RESOURCE}/.default")
        yield Stage(entra, server, cache, credentials, context, clock)


async def threads_end() -> None:
    """Wait for the threads that ask Entra."""
    for thread in threading.enumerate():
        if thread.name == "token":
            await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)


async def test_a_token_is_fetched_once_and_then_at_hand(stage: Stage) -> None:
    first, second = await stage.get(), await stage.get()
    assert first is second
    assert first.value == stage.entra.issued[0]
    assert (stage.entra.metadata_requests, stage.entra.token_requests) == (1, 1)
    assert stage.server.connections == 1


async def test_many_who_ask_at_once_share_one_request(stage: Stage) -> None:
    stage.entra.delay = 0.1
    tokens = await asyncio.gather(*(stage.get() for _ in range(50)))
    assert len({token.value for token in tokens}) == 1
    assert stage.entra.token_requests == 1


async def test_one_who_goes_away_does_not_take_the_others_token_along(stage: Stage) -> None:
    stage.entra.delay = 0.1
    first, second = asyncio.create_task(stage.get()), asyncio.create_task(stage.get())
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).value == stage.entra.issued[0]


async def test_equal_credentials_share_a_token_others_do_not(stage: Stage) -> None:
    await stage.get()
    await stage.cache.get(stage.credentials._replace())
    assert stage.entra.token_requests == 1
    other = "https://other.operations.dynamics.com"
    stage.entra.resources.add(other)
    await stage.cache.get(stage.credentials._replace(scope=f"{other}/.default"))
    assert stage.entra.token_requests == 2


async def test_a_token_is_renewed_in_the_background_minutes_before_it_ends(stage: Stage) -> None:
    token = await stage.get()
    assert token.expires_at - stage.clock.seconds == stage.entra.lifetime
    stage.clock.seconds = token.expires_at - EARLY - 1
    assert await stage.get() is token
    await threads_end()
    assert stage.entra.token_requests == 1
    stage.clock.seconds += 1
    first, *_ = [await stage.get() for _ in range(20)]
    assert first is token
    await threads_end()
    assert (await stage.get()).value == stage.entra.issued[1]
    assert stage.entra.token_requests == 2


async def test_nobody_waits_for_an_entra_that_hangs_while_a_token_is_good(stage: Stage) -> None:
    token = await stage.get()
    stage.entra.mode = Fault.HANG
    stage.clock.seconds = token.expires_at - LAST_GOOD - 1
    assert await stage.cache.get(stage.credentials, within=0) is token


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.NOT_JSON, Fault.RESET, Fault.THROTTLED])
async def test_the_last_good_token_serves_while_entra_is_down(stage: Stage, fault: Fault) -> None:
    token = await stage.get()
    stage.entra.mode, stage.entra.retry_after = fault, 0
    stage.clock.seconds = token.expires_at - LAST_GOOD - 2
    assert await stage.get() is token
    await threads_end()
    stage.clock.seconds = token.expires_at - LAST_GOOD
    with pytest.raises(Unavailable):
        await stage.get()


async def test_a_renewal_in_the_background_that_fails_is_silent_and_pauses(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    token = await stage.get()
    stage.entra.mode, stage.entra.retry_after = Fault.THROTTLED, 40
    stage.clock.seconds = token.fresh_until
    for _ in range(3):
        assert await stage.get() is token
        await threads_end()
    gc.collect()
    assert stage.entra.token_requests == 2
    assert {record.name for record in caplog.records} == {"relay"}
    stage.clock.seconds += 40
    assert await stage.get() is token
    await threads_end()
    assert stage.entra.token_requests == 3


async def test_a_bug_in_a_renewal_pauses_nothing_and_is_told_once_a_token_is_needed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await stage.get()

    def bug(_client: Client) -> AccessToken:
        raise TypeError("bug")

    monkeypatch.setattr(Client, "acquire", bug)
    stage.clock.seconds = token.fresh_until
    assert await stage.get() is token
    await threads_end()
    stage.clock.seconds = token.expires_at
    with pytest.raises(TypeError):
        await stage.get()
    monkeypatch.undo()
    assert await stage.get() is not token


# -- time --------------------------------------------------------------------------------------


async def test_who_has_waited_long_enough_goes_and_the_request_goes_on_for_others(
    stage: Stage,
) -> None:
    stage.entra.delay = 0.3
    others = asyncio.create_task(stage.get())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await stage.cache.get(stage.credentials, within=0)
    assert refused.value.reason == "entra_timeout"
    assert (await others).value == stage.entra.issued[0]
    assert stage.entra.token_requests == 1


async def test_a_renewal_is_waited_for_no_longer_either(stage: Stage) -> None:
    refused = await stage.get()
    stage.entra.mode = Fault.HANG
    with pytest.raises(Unavailable) as error:
        await stage.cache.renew(stage.credentials, refused, within=0)
    assert error.value.reason == "entra_timeout"


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_IN_HEAD, Fault.HANG_IN_BODY])
async def test_a_request_ends_by_its_own_deadline(stage: Stage, fault: Fault) -> None:
    stage.entra.mode = fault
    cache = TokenCache(stage.context, clock=stage.clock, deadline=0.3)
    with pytest.raises(Unavailable) as error:
        await cache.get(stage.credentials, within=60)
    assert error.value.reason == "entra_timeout"
    await threads_end()


async def test_a_request_that_never_ends_blocks_no_later_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate on a share that hangs: no deadline of a socket ends that."""
    released = threading.Event()

    acquire = Client.acquire
    hung: list[Client] = []

    def hang(client: Client) -> AccessToken:
        if hung and client is not hung[0]:
            return acquire(client)
        hung.append(client)
        released.wait()
        return AccessToken("late", fresh_until=1e9, expires_at=1e9)

    monkeypatch.setattr(Client, "acquire", hang)
    for seconds in (0, DEADLINE):
        stage.clock.seconds += seconds
        with pytest.raises(Unavailable):
            await stage.cache.get(stage.credentials, within=0)
    stage.clock.seconds += STUCK
    token = await stage.get()
    released.set()
    await threads_end()
    assert await stage.get() is token


async def test_a_renewal_takes_another_token_and_asks_once_for_all(stage: Stage) -> None:
    refused = await stage.get()
    renewed = await asyncio.gather(
        *(stage.cache.renew(stage.credentials, refused) for _ in range(10))
    )
    assert {token.value for token in renewed} == {stage.entra.issued[1]}
    assert stage.entra.token_requests == 2


async def test_renewals_do_not_hammer_entra(stage: Stage) -> None:
    token = await stage.cache.renew(stage.credentials, await stage.get())
    assert await stage.cache.renew(stage.credentials, token) is token
    stage.clock.seconds += RENEWAL_INTERVAL
    assert await stage.cache.renew(stage.credentials, token) is not token
    assert stage.entra.token_requests == 3


async def test_a_failure_is_not_replayed_after_its_pause(stage: Stage) -> None:
    stage.entra.retry_after = 40
    stage.entra.faults.append(Fault.THROTTLED)
    with pytest.raises(Unavailable) as first:
        await stage.get()
    assert first.value.retry_after == 40
    with pytest.raises(Unavailable):
        await stage.get()
    assert stage.entra.token_requests == 1
    stage.clock.seconds += 40
    assert (await stage.get()).value == stage.entra.issued[0]


async def keeps_nothing(stage: Stage) -> bool:
    """Let a callback fail for want of a token, and tell whether nothing of it is left in memory."""

    class Callback:
        pass

    async def fail(_: Callback) -> None:
        await stage.get()

    callback = Callback()
    kept = weakref.ref(callback)
    with suppress(Unavailable, TypeError):
        await fail(callback)
    del callback
    await threads_end()  # which takes turns of the loop too: one under way keeps it
    gc.collect()
    return kept() is None


async def test_a_failure_that_is_remembered_keeps_nothing_of_the_callbacks_it_met(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception keeps the frames it went through, and in them a code."""
    stage.entra.retry_after = 40
    stage.entra.faults.append(Fault.THROTTLED)
    assert await keeps_nothing(stage)  # refused by Entra
    assert await keeps_nothing(stage)  # not let through
    assert stage.entra.token_requests == 1

    def bug(_client: Client) -> AccessToken:
        raise TypeError("bug")

    stage.clock.seconds += 40
    monkeypatch.setattr(Client, "acquire", bug)
    assert await keeps_nothing(stage)


async def test_a_wrong_secret_is_refused_for_good_and_asked_about_again_later(
    stage: Stage,
) -> None:
    stage.entra.clients["relay"] = "another"
    with pytest.raises(CredentialRefused) as refusal:
        await stage.get()
    assert refusal.value.reason == "AADSTS7000215"
    stage.entra.clients["relay"] = SECRET
    stage.clock.seconds += 60
    await stage.get()


async def test_metadata_that_is_down_does_not_spoil_the_next_attempt(stage: Stage) -> None:
    stage.entra.mode = Fault.METADATA_DOWN
    with pytest.raises(Unavailable):
        await stage.get()
    stage.entra.mode = None
    stage.clock.seconds += 60
    await stage.get()


async def test_an_entra_that_nobody_reaches_is_unavailable(stage: Stage) -> None:
    nowhere = stage.credentials._replace(authority="https://localhost:1/tenant")
    with pytest.raises(Unavailable) as refusal:
        await stage.cache.get(nowhere)
    assert refusal.value.reason == "entra_connect"


async def test_an_entra_with_a_certificate_that_is_not_trusted_is_unavailable(stage: Stage) -> None:
    stranger = TokenCache(outgoing.trust(None, {}))
    with pytest.raises(Unavailable):
        await stranger.get(stage.credentials)


async def test_no_failure_tells_a_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stage.entra.lifetime = 100
    await stage.get()
    for fault in (Fault.NOT_JSON, Fault.NOT_JSON_ERROR, Fault.UNAVAILABLE_HTML, Fault.HALF_BODY):
        stage.entra.mode = fault
        stage.clock.seconds += 1_000
        with pytest.raises((Unavailable, CredentialRefused)) as refusal:
            await stage.get()
        assert refusal.value.__context__ is None
        assert SECRET not in f"{refusal.value!r}{refusal.value}"
    assert SECRET not in caplog.text
    assert stage.entra.issued[0] not in caplog.text
    assert SECRET not in repr(stage.credentials)


async def test_an_entra_that_takes_its_time_keeps_no_other_work_waiting(stage: Stage) -> None:
    """Sealing, and asking for Dynamics' address, are done in the loop's own threads."""
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        stage.entra.delay = 0.5
        waiting = asyncio.create_task(stage.get())
        for _ in range(5):  # until Entra is asked
            await asyncio.sleep(0)
        await asyncio.to_thread(int)
        assert not waiting.done()
        await waiting


# -- fetched ahead -------------------------------------------------------------------------------


async def test_a_token_that_was_fetched_ahead_is_there_when_it_is_needed(stage: Stage) -> None:
    stage.cache.fetch_ahead([stage.credentials, stage.credentials])
    tokens = await asyncio.gather(*(stage.get() for _ in range(20)))
    assert len(set(map(id, tokens))) == 1
    assert stage.entra.token_requests == 1


async def test_a_token_that_is_there_is_not_fetched_ahead_again(stage: Stage) -> None:
    stage.cache.fetch_ahead([stage.credentials])
    await threads_end()
    stage.cache.fetch_ahead([stage.credentials])
    await threads_end()
    assert stage.entra.token_requests == 1


async def test_what_failed_ahead_is_not_asked_for_again_at_once(stage: Stage) -> None:
    stage.entra.retry_after = 40
    stage.entra.faults.append(Fault.THROTTLED)
    stage.cache.fetch_ahead([stage.credentials])
    await threads_end()
    stage.clock.seconds += 39
    with pytest.raises(Unavailable) as refused:
        await stage.get()
    assert refused.value.reason == "AADSTS90055"
    assert stage.entra.token_requests == 1
    stage.clock.seconds += 1
    assert (await stage.get()).value == stage.entra.issued[0]


async def test_an_entra_that_hangs_is_waited_for_once_and_not_twice(stage: Stage) -> None:
    cache = TokenCache(stage.context, clock=stage.clock, deadline=0.3)
    stage.entra.mode = Fault.HANG
    cache.fetch_ahead([stage.credentials])
    with pytest.raises(Unavailable):
        await cache.get(stage.credentials, within=60)
    assert stage.entra.token_requests <= 1


async def test_a_token_that_grew_old_before_anybody_came_is_not_used(stage: Stage) -> None:
    stage.cache.fetch_ahead([stage.credentials])
    await threads_end()
    stage.clock.seconds += stage.entra.lifetime
    assert (await stage.get()).value == stage.entra.issued[1]


def test_a_loop_that_ends_before_the_token_is_there_ends_without_a_word(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crashed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    stage.entra.delay = 0.3
    stage.cache.fetch_ahead([stage.credentials])

    async def give_up() -> None:
        waiting = asyncio.create_task(stage.get())
        await asyncio.sleep(0)
        assert not waiting.done()

    asyncio.run(give_up())  # which cancels the one that waits
    assert stage.entra.issued == []
    # In another loop, as commands have one each.
    assert asyncio.run(stage.get()).value == stage.entra.issued[0]
    assert stage.entra.token_requests == 1
    assert (crashed, caplog.records) == ([], [])


async def test_only_a_few_clients_are_asked_for_ahead(stage: Stage) -> None:
    many = [stage.credentials._replace(client_id=f"client-{number}") for number in range(50)]
    stage.cache.fetch_ahead(many)
    await threads_end()
    assert stage.entra.token_requests == AHEAD
