"""The relay's queues from an operator's desk, through Microsoft's library.

What runs inside of Azure has no such library, and uses `storage_queues`.
"""

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, override

import requests
from azure.core.credentials import AzureNamedKeyCredential, TokenCredential
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.storage.queue import QueueServiceClient
from requests.adapters import HTTPAdapter

from relay.tools.doctor.finding import Finding, Verdict
from relay.tools.storage_queues import VERSION, Account, QueueMissing, StorageRefused, body

PAGE = 32
"""Messages that one request returns at most."""
HIDDEN = 30
"""Seconds for which a dead letter is invisible after `letters` has received it."""
PASSED_OVER = 1
"""Seconds for which another operator's report is invisible."""
LIFE = 600
"""Seconds after which a request that nobody received is gone, and a report is nobody's."""


class StorageUnreachable(Exception):
    """The storage does not answer."""


@dataclass(frozen=True, slots=True)
class Peeked:
    """The messages of a queue: about how many there are, and the bodies of those that were read."""

    count: int = 0
    shown: tuple[bytes, ...] = ()

    @property
    def more(self) -> int:
        """About how many were not read."""
        return max(0, self.count - len(self.shown))


class _Trusting(HTTPAdapter):
    """The library takes the path of a file that replaces its trust; this takes the relay's."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        super().__init__()

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._trust)

    @override
    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        options |= {"ssl_context": self._trust, "proxy_ssl_context": self._trust}
        return super().proxy_manager_for(*args, **options)


def _session(trust: ssl.SSLContext) -> requests.Session:
    session = requests.Session()
    session.mount("https://", _Trusting(trust))
    return session


class Queues:
    """The queues of one account. Blocks; a context manager.

    `trust`: that of TLS. `operator`: the credential where the app itself uses an identity. Every
    method raises `StorageRefused`, or `StorageUnreachable`.
    """

    def __init__(
        self, account: Account, trust: ssl.SSLContext, operator: TokenCredential | None = None
    ) -> None:
        credential: Any = operator
        match account.kind:
            case "key":
                key = base64.b64encode(account.secret).decode()
                credential = AzureNamedKeyCredential(account.name, key)
            case "sas":
                credential = account.secret.decode()
            case _ if operator is None:
                client_id = account.identity.client_id if account.identity else None
                credential = ManagedIdentityCredential(client_id=client_id)
        # Without retries, which begin after 15 seconds: a person can run the command again.
        self._service = QueueServiceClient(
            account.url,
            credential,
            api_version=VERSION,
            retry_total=0,
            transport=RequestsTransport(session=_session(trust), connection_timeout=10),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.close()

    def peek(self, queue: str) -> Peeked:
        """Return the first messages, without receiving them."""
        client = self._service.get_queue_client(queue)
        try:
            with _translated():
                count = client.get_queue_properties().approximate_message_count or 0
                return Peeked(
                    count, tuple(body(str(m.content)) for m in client.peek_messages(PAGE))
                )
        except QueueMissing:  # the host makes it with the first message
            return Peeked()

    def all(self, queue: str) -> Peeked:
        """Return all visible messages; each is then invisible to others for `HIDDEN` seconds."""
        client = self._service.get_queue_client(queue)
        try:
            with _translated():
                count = client.get_queue_properties().approximate_message_count or 0
                found = client.receive_messages(messages_per_page=PAGE, visibility_timeout=HIDDEN)
                return Peeked(count, tuple(body(str(each.content)) for each in found))
        except QueueMissing:
            return Peeked()

    def try_writing(self, queue: str) -> None:
        """Write a message that no function receives, and delete it at once."""
        client = self._service.get_queue_client(queue)
        with _translated():
            with suppress(ResourceExistsError):
                client.create_queue()
            # It expires when it would become visible: if deleting fails, no function receives it.
            text = base64.b64encode(b"doctor").decode()
            message = client.send_message(text, visibility_timeout=LIFE, time_to_live=LIFE + 1)
            client.delete_message(message)

    def ask(self, queue: str, text: str) -> None:
        """Write a request for an examination."""
        client = self._service.get_queue_client(f"{queue}-doctor")
        with _translated():
            client.send_message(base64.b64encode(text.encode()).decode(), time_to_live=LIFE)

    def collect(self, queue: str, request_id: str, report: dict[int, list[Finding]]) -> bool:
        """Take the parts of one's own report out of the queue; tell whether all are there.

        The reports of others become visible again at once, unless nobody can be waiting for them.
        """
        client = self._service.get_queue_client(f"{queue}-doctor-report")
        try:
            with _translated():
                for message in client.receive_messages(
                    messages_per_page=PAGE, visibility_timeout=PASSED_OVER, max_messages=1024
                ):
                    document = _document(body(str(message.content)))
                    own = document.get("id") == request_id
                    if own or _is_old(message.inserted_on):
                        client.delete_message(message)
                    if own:
                        report[int(document["part"])] = list(_findings(document))
                        if len(report) == document["parts"]:
                            return True
        except QueueMissing:  # the host makes it with the first report
            pass
        return False


def _is_old(inserted: datetime | None) -> bool:
    return inserted is not None and (datetime.now(UTC) - inserted).total_seconds() > LIFE


@contextmanager
def _translated() -> Iterator[None]:
    """Raise this package's errors for the library's."""
    try:
        yield
    except CredentialUnavailableError:
        raise StorageRefused(401, "") from None
    except HttpResponseError as error:
        known = getattr(error, "error_code", None)
        code = str(getattr(known, "value", known) or "")
        kind = QueueMissing if code == "QueueNotFound" else StorageRefused
        raise kind(error.status_code or 401, code) from None
    except (ServiceRequestError, ServiceResponseError):
        raise StorageUnreachable from None


def _document(text: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _findings(document: Mapping[str, Any]) -> Iterator[Finding]:
    listed = document.get("findings")
    for each in listed if isinstance(listed, list) else ():
        texts = {name: _plain(each.get(name, "")) for name in ("check", "message", "fix")}
        verdict, name = each.get("verdict"), each.get("connection")
        if verdict in {*Verdict}:
            connection = None if name is None else _plain(name)
            yield Finding(Verdict(verdict), **texts, connection=connection)


def _plain(text: object) -> str:
    # Whoever may write the queue must not send control characters to the terminal.
    return "".join(char if char.isprintable() else "?" for char in str(text))
