"""The provider's public keys, which verify JARM responses: fetched and cached (RFC 7517, RFC 8414).

Every address comes from the settings, or over https from the configured issuer's metadata, never
from a token or request. Concurrent callers share one fetch.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from relay import outgoing
from relay.connections import Provider
from relay.errors import KeysUnavailable
from relay.ports import Jwk

TIMEOUT = 5.0
"""Seconds for everything: metadata and keys."""
MAX_DOCUMENT = 256 * 1024
FRESH = 300.0
"""Seconds until keys are fetched again. A revoked key is accepted for as long."""
LAST_GOOD = 3600.0
"""Seconds for which cached keys are used while the issuer does not answer."""
INTERVAL = 60.0
"""Seconds between two fetches for an unknown key id, which anybody can make up."""
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, INTERVAL)
"""Back-off in seconds after one failure, two in a row and so on. After the first the person may
reload at once."""

_HEADERS = {
    "Accept": "application/json",
    # The size of a compressed body is only known after decompression.
    "Accept-Encoding": "identity",
}


class KeyStore:
    """A cache of all issuers' keys, for the life of the process. `context`: the trust for TLS."""

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._clients: dict[str | None, httpx.AsyncClient] = {}
        self._clock = clock
        self._issuers: dict[tuple[str | None, str | None], _Issuer] = {}

    async def get(self, provider: Provider, kid: str | None) -> tuple[Jwk, ...]:
        """Return the provider's keys; a key with this id may be missing among them.

        Raises `KeysUnavailable` when they cannot be fetched and none are cached.
        """
        name = (provider.issuer, provider.jwks_uri)
        issuer = self._issuers.get(name)
        if issuer is None:
            issuer = self._issuers[name] = _Issuer(provider, self._client, self._clock)
        return await issuer.get(kid)

    async def aclose(self) -> None:
        """Close the connections to the issuers."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, address: str) -> httpx.AsyncClient:
        proxy = outgoing.proxy_of(address)
        client = self._clients.get(proxy)
        if client is None:
            client = outgoing.client(self._context, timeout=TIMEOUT, proxy=proxy)
            self._clients[proxy] = client
        return client


class _Issuer:
    """The cached keys of one issuer. At most one fetch runs at a time."""

    def __init__(
        self,
        provider: Provider,
        client: Callable[[str], httpx.AsyncClient],
        clock: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._client = client
        self._clock = clock
        self._keys: tuple[Jwk, ...] = ()
        self._fetched_at = float("-inf")
        self._failures = 0
        self._retry_at = float("-inf")
        self._download_task: asyncio.Task[tuple[Jwk, ...]] | None = None

    async def get(self, kid: str | None) -> tuple[Jwk, ...]:
        age = self._clock() - self._fetched_at
        known = kid is None or any(key.get("kid") == kid for key in self._keys)
        if age < (FRESH if known else INTERVAL):
            return self._keys
        try:
            return await self._fetch()
        except KeysUnavailable:
            if known and age < LAST_GOOD:
                return self._keys
            raise

    async def _fetch(self) -> tuple[Jwk, ...]:
        if self._download_task is None:
            if self._clock() < self._retry_at:
                raise _unavailable("pause")
            self._download_task = asyncio.create_task(self._download())
        # A caller that is cancelled must not cancel the fetch of the others.
        return await asyncio.shield(self._download_task)

    async def _download(self) -> tuple[Jwk, ...]:
        try:
            async with asyncio.timeout(TIMEOUT):
                self._keys = _keys(await self._document(await self._jwks_address()))
        except KeysUnavailable:
            self._fail()
            raise
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._fail()
            raise _unavailable(type(error).__name__) from None
        else:
            self._failures, self._fetched_at = 0, self._clock()
            return self._keys
        finally:
            self._download_task = None

    def _fail(self) -> None:
        self._retry_at = self._clock() + PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1

    async def _jwks_address(self) -> str:
        """Return the address of the keys: from the settings, or from the issuer's metadata."""
        if self._provider.jwks_uri is not None:
            return self._provider.jwks_uri
        issuer = self._provider.issuer or ""
        first, second = metadata_addresses(issuer)
        try:
            return _jwks_uri(await self._document(first), issuer)
        except KeysUnavailable:
            return _jwks_uri(await self._document(second), issuer)

    async def _document(self, address: str) -> dict[str, Any]:
        document = bytearray()
        http = self._client(address)
        async with http.stream("GET", address, headers=_HEADERS) as response:
            if response.status_code != HTTPStatus.OK:
                raise _unavailable(str(response.status_code))
            async for chunk in response.aiter_raw():
                document += chunk
                if len(document) > MAX_DOCUMENT:
                    raise _unavailable("size")
        read = outgoing.json_object(document)
        if read is None:
            raise _unavailable("json")
        return read


def metadata_addresses(issuer: str) -> Iterator[str]:
    """Return the addresses of an issuer's metadata, in the order in which they are tried."""
    # RFC 8414 §3.1 inserts /.well-known before the issuer's path, OpenID Connect Discovery §4
    # appends it.
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    yield f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
    yield f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def _jwks_uri(metadata: dict[str, Any], issuer: str) -> str:
    address = metadata.get("jwks_uri")
    # RFC 8414 §3.3: metadata of another issuer must not be used. https only: metadata services
    # inside a data centre, such as 169.254.169.254, speak only http (SSRF).
    if metadata.get("issuer") != issuer or not str(address).startswith("https://"):
        raise _unavailable("metadata")
    return str(address)


def _keys(document: dict[str, Any]) -> tuple[Jwk, ...]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise _unavailable("json")
    return tuple(key for key in keys if isinstance(key, dict))


def _unavailable(fault: str) -> KeysUnavailable:
    return KeysUnavailable(f"jwks_{fault}")
