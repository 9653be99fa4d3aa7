"""The queue bindings of the Functions host: outputs and triggers.

Source files named here are those of Azure/azure-functions-host, Azure/azure-webjobs-sdk (where
they begin with WebJobs) and Azure/azure-sdk-for-net, sdk/storage.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from azure.functions.meta import Datum

from sandbox.queue_listener import LEASE, MAX_QUEUE_NAME, Listener, Options, Run, send
from sandbox.storage import Queues

STORAGE = "AzureWebJobsStorage"

_QUEUE_NAME = re.compile(rf"(?!.*--)[a-z0-9][a-z0-9-]{{1,{MAX_QUEUE_NAME - 2}}}[a-z0-9]")


class QueueExtension:
    """The host's extension for storage queues, for one app.

    `section` is host.json's `extensions.queues`. Every connection uses the same `queues`, but its
    setting must exist. `lease` is LEASE in Azure; after a crash a message is invisible for that
    long, so tests shorten it. Raises `ValueError` for a wrong section.
    """

    def __init__(
        self,
        queues: Queues,
        section: Mapping[str, Any],
        settings: Mapping[str, str],
        *,
        lease: int = LEASE,
    ) -> None:
        self._queues = queues
        self._options = Options.read(section)
        # In .NET, and in the environment of Windows, the case of a name does not matter.
        self._settings = {name.lower(): value for name, value in settings.items()}
        self._lease = lease
        self._listeners: list[Listener] = []

    def add_trigger(self, binding: Mapping[str, Any], run: Run) -> None:
        """Listen to the queue of a `queueTrigger`, from the next `listen` on.

        Raises `ValueError` where the real host refuses to load the function.
        """
        queue = self._queue_name(binding)
        self._listeners.append(
            Listener(
                self._queues,
                queue,
                run,
                self._options,
                lease=self._lease,
                on_write=self._poll_now,
            )
        )

    async def listen(self) -> None:
        """Run all triggers until cancelled; may be called again afterwards."""
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(listener.listen())

    async def write(self, binding: Mapping[str, Any], datum: Datum) -> None:
        """Write the value of a `queue` output binding.

        One message, or one for each element of a JSON list; after an error the first ones stay
        written. Raises `StorageError`, and `ValueError` for what the real host cannot write: the
        names in an output binding are only resolved now, unlike those of a trigger.
        """
        if binding["type"] != "queue":
            raise ValueError("The sandbox writes queues only.")
        queue = self._queue_name(binding)
        for body in _bodies(datum.value):
            await asyncio.to_thread(send, self._queues, queue, self._options.encode(body))
            self._poll_now(queue)

    def _poll_now(self, queue: str) -> None:
        for listener in self._listeners:
            if listener.queue == queue:
                listener.poll_now()

    def _queue_name(self, binding: Mapping[str, Any]) -> str:
        self._check_connection(self._resolve(binding.get("connection") or STORAGE))
        queue = self._resolve(binding["queueName"]).lower()
        # QueueClientExtensions.cs
        if not _QUEUE_NAME.fullmatch(queue):
            raise ValueError(
                f"'{queue}' is not the name of a queue: 3 to {MAX_QUEUE_NAME} lower-case letters, "
                "digits and single dashes, none at the ends."
            )
        return queue

    def _check_connection(self, name: str) -> None:
        # StorageClientProvider.cs: a connection string, or a section such as NAME__accountName.
        for candidate in (f"AzureWebJobs{name}".lower(), name.lower()):
            if any(
                value and (setting == candidate or setting.startswith(f"{candidate}__"))
                for setting, value in self._settings.items()
            ):
                return
        raise ValueError(
            f"Storage account connection string '{name}' does not exist. "
            "Make sure that it is a defined App Setting."
        )

    def _resolve(self, text: str) -> str:
        """Replace every `%NAME%` by its setting (WebJobs: NameResolverExtensions.cs)."""
        *pairs, rest = text.split("%")
        if len(pairs) % 2:
            raise ValueError(f"A '%' of '{text}' does not have a closing '%'.")
        for number, name in enumerate(pairs):
            if number % 2:
                value = self._settings.get(name.lower())
                if value is None:
                    raise ValueError(f"'%{name}%' does not resolve to a value.")
                pairs[number] = value
        return "".join((*pairs, rest))


def _bodies(value: Any) -> list[bytes]:  # noqa: ANN401 - whatever a Datum holds
    """Return the messages of an output value (ReadAsEnumerable and BindAsyncCollectorAsync).

    FunctionBinding.cs parses a text that looks like JSON: a list becomes several messages, an
    object is serialized again with indentation, and invalid JSON raises `ValueError`.
    """
    if isinstance(value, bytes):
        return [value]
    text = value.strip()
    if (text[:1], text[-1:]) not in {("{", "}"), ("[", "]")}:
        return [value.encode()]
    parsed = json.loads(text)
    elements = parsed if isinstance(parsed, list) else [parsed]
    return [
        (item if isinstance(item, str) else json.dumps(item, indent=2, ensure_ascii=False)).encode()
        for item in elements
    ]
