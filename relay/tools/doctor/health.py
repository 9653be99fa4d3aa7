"""Checks of the app's own address, from inside of Azure: whether callbacks get past the host.

The host tries each `?code=` as a function key and loads its keys from Blob storage for that, before
any function is asked. /health answers without them.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus

import httpx

from relay.errors import RelayError
from relay.tools import storage_queues
from relay.tools.doctor.finding import Finding, fail, ok, skip
from relay.tools.storage_queues import STORAGE, StorageRefused, StorageUnusable

PATIENCE = httpx.Timeout(40.0, connect=10.0)
"""Seconds: where the storage does not answer, the host says 500 after 21 to 28 seconds."""

_FAILS = "the host cannot load its keys: it answers each callback with a code in its URL itself"
_ROLE = (
    "On the storage account, Access control (IAM): give the Function App's identity the role "
    "Storage Blob Data Owner. It takes some minutes to count."
)
_NETWORK = (
    "In the storage account, Networking: let the Function App reach Blob storage too, as it "
    "reaches the queues; a private endpoint is needed for each of the two."
)
_SETTING = (
    f"Check {STORAGE} or {STORAGE}__accountName: the host needs the Blob storage of that account, "
    "not its queues alone."
)
_KEY = f"Copy the connection string from the storage account, Access keys, to {STORAGE} anew."


def examine(environ: Mapping[str, str], http: httpx.Client) -> Iterator[Finding]:
    """Compare /health with /health?code=probe, at the address that the platform names."""
    host = environ.get("WEBSITE_HOSTNAME")
    if not host:
        return
    url = f"https://{host}/health"
    plain = _status(http, url)
    if plain not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE):
        answer = "does not answer" if plain is None else f"answers HTTP {plain}"
        yield skip("health", f"the app's own address {answer} to the app itself")
    elif _status(http, f"{url}?code=probe") == plain:
        yield ok("health", "callbacks with a code in their URL reach the relay")
    else:
        yield fail("health", _FAILS, _cause(environ, http))


def _status(http: httpx.Client, url: str) -> int | None:
    try:
        return http.get(url, timeout=PATIENCE).status_code
    except httpx.HTTPError:
        return None


def _cause(environ: Mapping[str, str], http: httpx.Client) -> str:
    """Return the next step, by what the Blob storage answers to the app itself."""
    try:
        account = storage_queues.account(environ)
        storage_queues.list_secrets(account, http)
    except StorageRefused as error:
        return _refused(error, is_identity=account.kind == "identity")
    except StorageUnusable:
        return _SETTING
    except httpx.HTTPError:
        return _NETWORK
    except RelayError:
        return f"Assign the identity of {STORAGE}__clientId to the Function App."
    return "Restart the Function App; if it stays so, look at Azure's status of Blob storage."


def _refused(error: StorageRefused, *, is_identity: bool) -> str:
    if error.code == "AuthorizationFailure":
        return _NETWORK
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _ROLE if is_identity else _KEY
    return _SETTING
