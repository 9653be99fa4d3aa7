"""Shared by all HTTP clients of the relay: TLS trust, proxies, no cookies, JSON answers."""

import json
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import httpx

for _late in ("anyio._backends._asyncio", "httpcore._backends.anyio"):
    # HTTPX imports these with its first request: in the event loop, unless they are there already.
    with suppress(ImportError):
        import_module(_late)

USER_AGENT = "dynamics-oauth-callback-relay"


def trust(ca_bundle: str | None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return a client context of the system's trust and further CAs.

    `ca_bundle`: the path of a PEM file with further CAs, such as an on-premises AD FS has. The
    environment variables that `requests` reads are added too, never instead: with `requests` alone
    they silently replace whatever `verify` says (psf/requests#3829). Raises `OSError`, of which
    `ssl.SSLError` is one, when a file cannot be read.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if os.name != "nt" and not (paths.cafile or paths.capath):
        # A Python that was not built for this system (python.org on macOS) knows no CAs at all.
        context.load_verify_locations(certifi.where())
    further = [environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    # Each file once: reading a whole trust store costs every cold start 20 ms.
    known = {paths.cafile and os.path.realpath(paths.cafile)}
    for path in filter(None, (*further, ca_bundle)):
        real = os.path.realpath(path)
        if real not in known:
            directory = path if Path(path).is_dir() else None
            context.load_verify_locations(None if directory else path, directory)
            known.add(real)
    return context


def client(
    context: ssl.SSLContext,
    *,
    timeout: float | httpx.Timeout,
    proxy: str | None = None,
    limits: httpx.Limits | None = None,
) -> httpx.AsyncClient:
    """Return an HTTP client that follows no redirects and keeps no cookies.

    In: the trust for TLS; `timeout` in seconds for each operation; the address of a proxy, see
    `proxy_of`. The environment is not read: `context` and `proxy` say all of it. Raises
    `ValueError` when `proxy` is no address.
    """
    transport = httpx.AsyncHTTPTransport(
        verify=context,
        # HTTPX verifies a proxy's certificate with certifi's CAs unless it is told otherwise.
        proxy=None if proxy is None else _proxy(proxy, context),
        limits=limits or httpx.Limits(),
        trust_env=False,
    )
    return httpx.AsyncClient(
        transport=transport,
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
        cookies=no_cookies(),
        headers={"User-Agent": USER_AGENT},
    )


def blocking_client(context: ssl.SSLContext, *, timeout: float | httpx.Timeout) -> httpx.Client:
    """Return an HTTP client for the commands: no redirects, no cookies.

    In: the trust for TLS; `timeout` in seconds for each operation. Proxies are those of the
    environment.
    """
    return httpx.Client(
        verify=context, timeout=timeout, follow_redirects=False, cookies=no_cookies()
    )


def proxy_of(url: str) -> str | None:
    """Return the address of the proxy through which a server is reached, or `None`.

    As other programs read them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    return address if "://" in address else f"http://{address}"


def caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether this kind is behind an error: HTTPX has one `ConnectError` for everything."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def json_object(content: str | bytes | bytearray) -> dict[str, Any] | None:
    """Return the JSON object that an answer consists of, or `None` if it is anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def no_cookies() -> CookieJar:
    """Return a jar that takes nothing: a server's cookie is not carried to the next callback."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def _proxy(address: str, context: ssl.SSLContext) -> httpx.Proxy:
    try:
        secure = httpx.URL(address).scheme == "https"
        return httpx.Proxy(address, ssl_context=context if secure else None)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("proxy") from None  # the text holds the address, and that a password
