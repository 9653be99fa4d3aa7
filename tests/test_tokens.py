"""tokens.py against an Entra that answers over TLS, with the real MSAL in between."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from relay import log, outgoing
from relay.connections import ClientCredentials, ClientSecret
from relay.entra.client import EARLY
from relay.entra.tokens import AHEAD, LAST_GOOD, RENEWAL_INTERVAL, TokenCache
from relay.errors import CredentialRefused, Unavailable
from relay.ports import AccessToken
from sandbox.entra import Entra, Fault
from sandbox.serving import Server
from sandbox.tls import Authority

RESOURCE = "https://contoso.operations.dynamics.com"
SECRET = "canary~secret"


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Stage:
    entra: Entra
    cache: TokenCache
    credentials: ClientCredentials
    clock: Clock = field(default_factory=Clock)

    async def get(self) -> AccessToken:
        return await self.cache.get(self.credentials)


@pytest.fixture
def stage() -> Iterator[Stage]:
    log.quiet()
    entra = Entra(clients={"relay": SECRET}, resources=[RESOURCE])
    with Authority() as authority, Server(entra.app, tls=authority.server_context()) as server:
        clock = Clock()
        cache = TokenCache(outgoing.trust(str(authority.bundle), {}), clock=clock)
        url = f"{server.url}/{entra.tenant}"
        credentials = ClientCredentials(url, "relay", ClientSecret(SECRET), f"{RESOURCE}/.default")
        yield Stage(entra, cache, credentials, clock)
        cache.close()


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
    await stage.cache.get(replace(stage.credentials))
    assert stage.entra.token_requests == 1
    other = "https://other.operations.dynamics.com"
    stage.entra.resources.add(other)
    await stage.cache.get(replace(stage.credentials, scope=f"{other}/.default"))
    assert stage.entra.token_requests == 2


async def test_a_token_is_renewed_minutes_before_it_ends(stage: Stage) -> None:
    token = await stage.get()
    assert token.expires_at - stage.clock.seconds == stage.entra.lifetime
    stage.clock.seconds = token.expires_at - EARLY - 1
    assert await stage.get() is token
    stage.clock.seconds = token.expires_at - EARLY
    stage.entra.lifetime = 100  # MSAL's own clock does not go along: let it think it is old
    stage.cache._sources[stage.credentials]._client._app.token_cache = _empty_cache()
    assert await stage.get() is not token
    assert stage.entra.token_requests == 2


def _empty_cache() -> object:
    import msal  # noqa: PLC0415

    return msal.TokenCache()


async def test_a_token_that_ended_while_entra_kept_everybody_waiting_is_not_used(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await stage.get()

    def fail(**_: object) -> AccessToken:
        stage.clock.seconds = token.expires_at  # so long it took
        raise Unavailable("entra_timeout", "Entra cannot be reached just now.")

    monkeypatch.setattr(stage.cache._sources[stage.credentials]._client, "acquire", fail)
    stage.clock.seconds = token.expires_at - LAST_GOOD - 1
    with pytest.raises(Unavailable):
        await stage.get()


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.NOT_JSON, Fault.RESET, Fault.THROTTLED])
async def test_the_last_good_token_serves_while_entra_is_down(stage: Stage, fault: Fault) -> None:
    token = await stage.get()
    stage.cache._sources[stage.credentials]._client._app.token_cache = _empty_cache()
    stage.entra.mode = fault
    stage.clock.seconds = token.expires_at - LAST_GOOD - 1
    assert await stage.get() is token
    stage.clock.seconds = token.expires_at - LAST_GOOD
    with pytest.raises(Unavailable):
        await stage.get()


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


async def test_a_failure_that_is_remembered_keeps_nothing_of_the_callbacks_it_met(
    stage: Stage,
) -> None:
    """An exception keeps the frames it went through, and in them a code."""

    class Callback:
        pass

    async def fail(_: Callback) -> None:
        await stage.get()

    stage.entra.retry_after = 40
    stage.entra.faults.append(Fault.THROTTLED)
    for _ in range(2):  # the one that is refused by Entra, and one that is not let through
        callback = Callback()
        kept = weakref.ref(callback)
        with suppress(Unavailable):
            await fail(callback)
        del callback
        await threads_end()  # which takes turns of the loop too: one under way keeps it
        gc.collect()
        assert kept() is None
    assert stage.entra.token_requests == 1


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
    nowhere = replace(stage.credentials, authority="https://localhost:1/tenant")
    with pytest.raises(Unavailable) as refusal:
        await stage.cache.get(nowhere)
    assert refusal.value.reason == "entra_connect"


async def test_an_entra_with_a_certificate_that_is_not_trusted_is_unavailable(stage: Stage) -> None:
    stranger = TokenCache(outgoing.trust(None, {}))
    with pytest.raises(Unavailable):
        await stranger.get(stage.credentials)
    stranger.close()


async def test_no_failure_tells_a_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stage.entra.lifetime = 100
    await stage.get()
    stage.cache._sources[stage.credentials]._client._app.token_cache = _empty_cache()
    for fault in (Fault.NOT_JSON, Fault.NOT_JSON_ERROR, Fault.UNAVAILABLE_HTML, Fault.HALF_BODY):
        stage.entra.mode = fault
        stage.clock.seconds += 1_000
        with pytest.raises((Unavailable, CredentialRefused)) as refusal:
            await stage.get()
        error: BaseException | None = refusal.value
        assert refusal.value.__suppress_context__
        assert SECRET not in f"{error!r}{error}"
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


async def test_what_failed_ahead_is_asked_for_again_when_it_is_needed(stage: Stage) -> None:
    stage.entra.faults.append(Fault.UNAVAILABLE)
    stage.cache.fetch_ahead([stage.credentials])
    assert (await stage.get()).value == stage.entra.issued[0]
    assert stage.entra.token_requests == 2


async def test_a_token_that_grew_old_before_anybody_came_is_not_used(stage: Stage) -> None:
    stage.entra.lifetime = 400
    stage.cache.fetch_ahead([stage.credentials])
    source = stage.cache._sources[stage.credentials]
    assert source._ahead is not None
    early = await asyncio.wrap_future(source._ahead)
    stage.clock.seconds = early.expires_at
    source._client._app.token_cache = _empty_cache()
    assert (await stage.get()).value != early.value


async def test_a_loop_that_ends_before_the_token_is_there_ends_without_a_word(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    stage.entra.delay = 0.3
    stage.cache.fetch_ahead([stage.credentials])
    with suppress(asyncio.CancelledError):
        waiting = asyncio.create_task(stage.get())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        flight = stage.cache._sources[stage.credentials]._flight
        assert flight is not None
        flight.cancel()  # as `asyncio.run` does at its end
        await waiting
    await threads_end()
    assert crashed == []


async def test_only_a_few_clients_are_asked_for_ahead(stage: Stage) -> None:
    many = [replace(stage.credentials, client_id=f"client-{number}") for number in range(50)]
    stage.cache.fetch_ahead(many)
    assert len(stage.cache._sources) == AHEAD
    for source in stage.cache._sources.values():
        assert source._ahead is not None
        with pytest.raises(CredentialRefused):
            await asyncio.wrap_future(source._ahead)
