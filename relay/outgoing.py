"""HTTP clients of the relay, and what they share: TLS trust, proxies, no cookies, JSON bodies."""

import json
import os
import ssl
import sys
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

for _lazy_import in ("anyio._backends._asyncio", "httpcore._backends.anyio"):
    # HTTPX imports these at its first request, which would block the event loop.
    with suppress(ImportError):
        import_module(_lazy_import)
try:
    import_module("sniffio")
except ImportError:
    # httpcore tries to import it several times for each request, and looks through all folders.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

USER_AGENT = "dynamics-oauth-callback-relay"


def trust(ca_bundle: str | None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return a TLS client context that trusts the system's CAs and further ones.

    `ca_bundle`: the path of a PEM file with further CAs, such as those of an on-premises AD FS. The
    files named by `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE` are added too; in `requests` itself
    they replace what `verify` says (psf/requests#3829). Raises `OSError` (`ssl.SSLError` included)
    when a file cannot be read.
    """
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context(capath=_folder_of_all(paths))
    if os.name != "nt" and not (paths.cafile or paths.capath):
        # The Python of python.org on macOS has no CAs of its own.
        context.load_verify_locations(certifi.where())
    further = [environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    # Each file once: loading a whole trust store takes 20 ms of every cold start.
    known = {paths.cafile and os.path.realpath(paths.cafile)}
    for path in filter(None, (*further, ca_bundle)):
        real = os.path.realpath(path)
        if real not in known:
            directory = path if Path(path).is_dir() else None
            context.load_verify_locations(None if directory else path, directory)
            known.add(real)
    return context


def _folder_of_all(paths: ssl.DefaultVerifyPaths) -> str | None:
    """Return the system's directory of CAs if it holds those of the system's file, else `None`.

    Debian makes both at once, the file in the directory and links by the CAs' hashes beside it.
    OpenSSL then reads the one CA that it needs; reading the file takes 25 ms of every cold start.
    """
    file, folder = paths.cafile, paths.capath
    if not (file and folder) or file != paths.openssl_cafile:  # SSL_CERT_FILE: another
        return None
    resolved = Path(folder).resolve()
    is_inside = Path(file).resolve().parent == resolved
    return folder if is_inside and any(resolved.glob("????????.0")) else None


def client(
    context: ssl.SSLContext,
    *,
    timeout: float | httpx.Timeout,
    proxy: str | None = None,
    limits: httpx.Limits | None = None,
) -> httpx.AsyncClient:
    """Return an HTTP client that follows no redirects and keeps no cookies.

    In: the trust for TLS; `timeout` in seconds for each operation; the address of a proxy, see
    `proxy_of`. Proxies and trust of the environment are not read. Raises `ValueError` when `proxy`
    is no address.
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
    """Return the address of the proxy for a URL, or `None`.

    Read from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    return address if "://" in address else f"http://{address}"


def caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether an error was caused by one of this kind: HTTPX raises `ConnectError` for all."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def json_object(content: str | bytes | bytearray) -> dict[str, Any] | None:
    """Return the body as a JSON object, or `None` if it is anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def no_cookies() -> CookieJar:
    """Return a jar that stores nothing: no cookie of a server is sent with the next callback."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def _proxy(address: str, context: ssl.SSLContext) -> httpx.Proxy:
    try:
        secure = httpx.URL(address).scheme == "https"
        return httpx.Proxy(address, ssl_context=context if secure else None)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("proxy") from None  # HTTPX's message has the address with its password
