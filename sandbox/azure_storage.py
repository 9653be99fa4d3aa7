"""Queues of an Azurite, through Microsoft's SDK.

A separate module: the SDK takes 30 MiB of memory, which a host with queues in memory does not need.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import override
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.queue import QueueClient, QueueServiceClient
from azure.storage.queue import QueueMessage as SdkMessage

from sandbox.storage import MAX_BATCH, Message, MessageLost, QueueMissing, Queues, StorageError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class AzureQueues(Queues):
    """The queue service of an Azurite on this machine, through Microsoft's SDK.

    Without retries, unlike in Azure: the host's writes fail at once. Raises `ValueError` for an
    invalid connection string, and for one of another machine: the sandbox must not take messages
    from a real queue.
    """

    def __init__(self, connection_string: str) -> None:
        self._service = QueueServiceClient.from_connection_string(
            connection_string,
            api_version="2021-12-02",  # every recent Azurite supports it
            retry_total=0,
            connection_timeout=2,
            read_timeout=4,
        )
        self._clients: dict[str, QueueClient] = {}
        if urlsplit(self._service.url).hostname not in _LOOPBACK:
            self.close()
            raise ValueError("It leads to a storage account that is not on this machine.")

    def answers(self) -> bool:
        """Tell whether the service is there."""
        try:
            self.names()
        except StorageError:
            return False
        return True

    @override
    def names(self) -> list[str]:
        with _translated():
            return sorted(queue.name for queue in self._service.list_queues())

    @override
    def create(self, queue: str) -> None:
        with _translated():
            try:
                self._client(queue).create_queue()
            except ResourceExistsError:
                return

    @override
    def send(self, queue: str, text: str) -> None:
        with _translated():
            self._client(queue).send_message(text)

    @override
    def receive(self, queue: str, number: int, hidden: int) -> list[Message]:
        with _translated():
            pages = self._client(queue).receive_messages(
                messages_per_page=min(number, MAX_BATCH), visibility_timeout=hidden
            )
            return [_message(found) for found in next(pages.by_page(), [])]

    @override
    def hide(self, queue: str, message: Message, seconds: int) -> Message:
        with _translated():
            updated = self._client(queue).update_message(
                message.message_id, message.pop_receipt, visibility_timeout=seconds
            )
            receipt = updated.pop_receipt or ""
            return replace(message, next_visible=updated.next_visible_on, pop_receipt=receipt)

    @override
    def delete(self, queue: str, message: Message) -> None:
        with _translated():
            self._client(queue).delete_message(message.message_id, message.pop_receipt)

    @override
    def peek(self, queue: str) -> list[Message]:
        with _translated():
            return [_message(found) for found in self._client(queue).peek_messages(MAX_BATCH)]

    @override
    def count(self, queue: str) -> int:
        with _translated():
            return self._client(queue).get_queue_properties().approximate_message_count or 0

    @override
    def close(self) -> None:
        self._service.close()

    def _client(self, queue: str) -> QueueClient:
        if queue not in self._clients:
            self._clients[queue] = self._service.get_queue_client(queue)
        return self._clients[queue]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except HttpResponseError as error:
        code = getattr(error, "error_code", None)
        code = str(getattr(code, "value", code) or error.status_code)
        kinds = {
            "QueueNotFound": QueueMissing,
            "MessageNotFound": MessageLost,
            "PopReceiptMismatch": MessageLost,
        }
        raise kinds.get(code, StorageError)(code) from error
    except AzureError as error:
        raise StorageError(f"The storage cannot be reached ({type(error).__name__}).") from error


def _message(found: SdkMessage) -> Message:
    if found.inserted_on is None or found.expires_on is None:
        raise StorageError("The storage gave a message without its times.")
    return Message(
        message_id=found.id,
        text=found.content,
        dequeue_count=found.dequeue_count or 0,
        inserted=found.inserted_on,
        expires=found.expires_on,
        next_visible=found.next_visible_on,
        pop_receipt=found.pop_receipt or "",
    )
