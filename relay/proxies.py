"""The proxies that the environment names, for all that the relay asks."""

import base64
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


def of(url: str) -> str | None:
    """Return the address of the proxy through which a server is reached, or `None`.

    As other programs read them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    return address if "://" in address else f"http://{address}"


def authorization(address: str) -> str | None:
    """Return the `Proxy-Authorization` (RFC 7617) for a proxy whose address has a password.

    Raises `ValueError` for what is no address.
    """
    parts = urlsplit(address)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
