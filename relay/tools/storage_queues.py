"""Azure Queue Storage over REST, without an SDK: what runs inside of Azure counts and peeks.

In the app the host reads and writes the queues. The storage is found as it does, by a connection
string or by an identity; `azure_queues` is for an operator's desk.
(https://learn.microsoft.com/azure/azure-functions/functions-reference#connections).
"""

import base64
import binascii
import hmac
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import cache, partial
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree as ET  # nosec B405

import httpx

from relay.connections import ClientCredentials, ManagedIdentity
from relay.entra.client import Client
from relay.ports import AccessToken

STORAGE = "AzureWebJobsStorage"
"""The setting that names the host's storage, where the outbox is."""
VERSION = "2021-12-02"
"""`x-ms-version`: messages that never expire need 2017-07-29, bearer tokens 2017-11-09."""
PEEK = 32
"""Messages that one request returns at most; there is no paging."""
EMULATOR = "devstoreaccount1"
# The emulator's key is public, and opens nothing else.
EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
SCOPE = "https://storage.azure.com//.default"
"""The resource is https://storage.azure.com/, with its slash, in every cloud."""


class StorageUnusable(Exception):
    """The settings name no storage. The message says what is expected, without values."""


class StorageRefused(Exception):
    """The storage refused a request. `code` is its error code (`AuthenticationFailed`) or empty.

    Its message is not kept; the commands have their own.
    """

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the storage answers HTTP {status}")
        self.status = status
        self.code = code


class QueueMissing(StorageRefused):
    """There is no such queue."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where the queues are, and the credential: `kind` is `key`, `sas` or `identity`."""

    url: str
    kind: str
    name: str = ""
    secret: bytes = field(default=b"", repr=False)
    identity: ManagedIdentity | None = None
    blobs: str = ""
    """Where the account's Blob storage is: the host keeps its keys there."""

    @property
    def is_emulator(self) -> bool:
        """Tell whether it is Azurite, which only a developer's machine has."""
        return self.name == EMULATOR

    @property
    def is_local(self) -> bool:
        """Tell whether its host is this machine."""
        return urlsplit(self.url).hostname in _LOOPBACK


@dataclass(frozen=True, slots=True)
class Message:
    """A message in a queue."""

    message_id: str
    text: str = field(repr=False)
    inserted: datetime
    expires: datetime

    @property
    def body(self) -> bytes:
        """What a function wrote."""
        return body(self.text)


def body(text: str) -> bytes:
    """Return what a function wrote: in base64, unless host.json says otherwise."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def account(environ: Mapping[str, str]) -> Account:
    """Return the storage account of the app settings. Raises `StorageUnusable`.

    As in .NET the case of a setting's name does not matter, and `AzureWebJobsStorage` itself counts
    before `AzureWebJobsStorage__…`.
    """
    given = {name.lower(): value.strip() for name, value in environ.items() if value.strip()}
    text = given.get(STORAGE.lower())
    if text is not None:
        return _of_connection_string(text)
    prefix = f"{STORAGE.lower()}__"
    section = {
        name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)
    }
    if not section:
        raise StorageUnusable(f"{STORAGE} is not set")
    return _of_identity(section, given)


def _of_connection_string(text: str) -> Account:
    if text.startswith("@Microsoft.KeyVault("):
        raise StorageUnusable(f"{STORAGE} is a Key Vault reference that was not resolved")
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    parts = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        proxy = parts.get("developmentstorageproxyuri", "http://127.0.0.1").rstrip("/")
        parts = {
            "accountname": EMULATOR,
            "accountkey": EMULATOR_KEY,
            "queueendpoint": f"{proxy}:10001/{EMULATOR}",
            "blobendpoint": f"{proxy}:10000/{EMULATOR}",
        }
    name, key = parts.get("accountname", ""), parts.get("accountkey")
    host = f"{name}.queue.{parts.get('endpointsuffix', 'core.windows.net')}" if name else ""
    url = parts.get("queueendpoint") or f"{parts.get('defaultendpointsprotocol', 'https')}://{host}"
    url = _address(url.rstrip("/"), f"{STORAGE} is no connection string")
    blobs = parts.get("blobendpoint", "").rstrip("/") or url.replace(".queue.", ".blob.", 1)
    if key and name:
        return Account(url, "key", name, _key(key), blobs=blobs)
    if signature := parts.get("sharedaccesssignature"):
        _secure(url, f"{STORAGE} would send its signature in the open")
        return Account(url, "sas", name, signature.lstrip("?").encode(), blobs=blobs)
    raise StorageUnusable(f"{STORAGE} is no connection string")


def _of_identity(section: Mapping[str, str], given: Mapping[str, str]) -> Account:
    url = section.get("queueserviceuri", "").rstrip("/")
    if not url and (name := section.get("accountname")):
        if not re.fullmatch(r"[a-z0-9]{3,24}", name):
            raise StorageUnusable(f"{STORAGE}__accountName is no name of a storage account")
        url = f"https://{name}.queue.core.windows.net"
    if not url:
        raise StorageUnusable(f"{STORAGE}__accountName or {STORAGE}__queueServiceUri is not set")
    _secure(url, f"{STORAGE}__queueServiceUri is no https URL")
    if {"clientsecret", "managedidentityresourceid"} & section.keys():
        raise StorageUnusable(f"{STORAGE}__… names an identity that only the host can use")
    client_id = section.get("clientid") or given.get("azure_client_id")
    blobs = section.get("blobserviceuri", "").rstrip("/") or url.replace(".queue.", ".blob.", 1)
    return Account(url, "identity", identity=ManagedIdentity(client_id), blobs=blobs)


def _key(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise StorageUnusable(f"the account key in {STORAGE} is not whole") from None


def _address(url: str, otherwise: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname
        _ = parts.port
    except ValueError:  # it quotes the value
        usable = None
    if not usable or not url.isascii() or not url.isprintable():
        raise StorageUnusable(otherwise)
    return url


def _secure(url: str, otherwise: str) -> None:
    """Refuse http for signatures and tokens, except on this machine. A key is never sent."""
    parts = urlsplit(_address(url, otherwise))
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise StorageUnusable(otherwise)


class Queues:
    """The queues of one account. Blocks; `http` must not follow redirects.

    Every method raises `StorageRefused`, of which `QueueMissing` is one; `httpx.HTTPError` when the
    storage cannot be reached; and, with an identity, what `relay.entra.Client` raises.
    """

    def __init__(self, account: Account, http: httpx.Client) -> None:
        self._url = account.url
        self._http = http
        self._authorize = _authorize(account)

    def count(self, queue: str) -> int:
        """Return about how many messages there are, invisible ones included (Get Metadata)."""
        response = self._ask(queue, {"comp": "metadata"})
        counted = response.headers.get("x-ms-approximate-messages-count", "")
        if not counted.isdecimal():
            raise StorageRefused(response.status_code, "")  # not a queue service
        return int(counted)

    def peek(self, queue: str) -> list[Message]:
        """Return the first visible messages, at most `PEEK`, without receiving them."""
        asked = {"peekonly": "true", "numofmessages": str(PEEK)}
        return _messages(self._ask(f"{queue}/messages", asked))

    def _ask(self, path: str, query: Mapping[str, str]) -> httpx.Response:
        headers, url = {"x-ms-version": VERSION}, f"{self._url}/{path}"
        return _checked(self._http.get(url, params=query, headers=headers, auth=self._authorize))


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    code = response.headers.get("x-ms-error-code", "")
    code = code if re.fullmatch(r"[A-Za-z]{1,64}", code) else ""
    if code == "QueueNotFound":
        raise QueueMissing(response.status_code, code)
    raise StorageRefused(response.status_code, code)


def list_secrets(account: Account, http: httpx.Client) -> None:
    """Ask the Blob storage for the host's keys, and read none. Raises as `Queues` does."""
    url = f"{account.blobs}/azure-webjobs-secrets"
    asked = {"restype": "container", "comp": "list", "maxresults": "1"}
    headers, auth = {"x-ms-version": VERSION}, _authorize(account)
    response = http.get(url, params=asked, headers=headers, auth=auth)
    if response.headers.get("x-ms-error-code") != "ContainerNotFound":
        _checked(response)


def _authorize(account: Account) -> Callable[[httpx.Request], httpx.Request]:
    """Return what adds the credential to a request."""
    match account.kind:
        case "key":
            return partial(_sign, account)
        case "sas":
            return partial(_add_signature, account.secret.decode())
    # The platform's identity endpoint is on this machine, without TLS.
    context = ssl.create_default_context()
    identity = account.identity or ManagedIdentity(None)
    client = Client(ClientCredentials(None, None, identity, SCOPE), context)
    return partial(_add_token, cache(client.acquire))


def _sign(account: Account, request: httpx.Request) -> httpx.Request:
    """Sign a request with the account's key.

    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """
    headers, date = request.headers, format_datetime(datetime.now(UTC), usegmt=True)
    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    parameters = sorted(parse_qsl(query, keep_blank_values=True))
    # The empty lines stand for standard headers that no request here has.
    text = (
        f"{request.method}\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n/{account.name}{path}"
    ) + "".join(f"\n{name}:{value}" for name, value in parameters)
    signature = base64.b64encode(hmac.digest(account.secret, text.encode(), "sha256")).decode()
    headers["x-ms-date"] = date
    headers["Authorization"] = f"SharedKey {account.name}:{signature}"
    return request


def _add_signature(signature: str, request: httpx.Request) -> httpx.Request:
    """Add a shared access signature to the URL."""
    # Not decoded: encoded again, `sig` could be spelled differently.
    path = request.url.raw_path.decode("ascii")
    raw = f"{path}{'&' if '?' in path else '?'}{signature}"
    request.url = request.url.copy_with(raw_path=raw.encode("ascii", "replace"))
    return request


def _add_token(acquire: Callable[[], AccessToken], request: httpx.Request) -> httpx.Request:
    """Add a token of the managed identity."""
    request.headers["Authorization"] = f"Bearer {acquire().value}"
    return request


def _messages(response: httpx.Response) -> list[Message]:
    try:
        return [
            Message(
                message_id=found["MessageId"],
                text=found.get("MessageText", ""),
                inserted=parsedate_to_datetime(found["InsertionTime"]),
                expires=parsedate_to_datetime(found["ExpirationTime"]),
            )
            for found in _elements(response.content)
        ]
    except (ET.ParseError, LookupError, ValueError):  # the errors quote the document
        raise StorageRefused(response.status_code, "") from None


def _elements(document: bytes) -> list[dict[str, str]]:
    root = ET.fromstring(document, ET.XMLParser(target=_Builder()))  # noqa: S314 # nosec B314
    return [{part.tag: part.text or "" for part in message} for message in root]


class _Builder(ET.TreeBuilder):
    """Refuses a document type, in any encoding: without one no entity is declared or expands."""

    def doctype(self, *_: object) -> None:
        raise ValueError("DOCTYPE")
