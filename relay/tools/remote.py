"""An examination of a deployed app from a desk: the app examines itself, the desk asks and waits.

The desk needs no access to what the app may do: only to its settings and to the doctor's queues.
"""

import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relay import settings_reader
from relay.tools import storage_queues
from relay.tools.azure_app import App, Desk
from relay.tools.azure_queues import Queues, StorageUnreachable
from relay.tools.doctor import host_json, storage
from relay.tools.doctor.finding import Finding, Verdict, fail
from relay.tools.examination import Request
from relay.tools.storage_queues import QueueMissing, StorageRefused, StorageUnusable

PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks for the report: each a little more than the last."""
PATIENCE = 300.0
"""Seconds to wait: a queue function that sleeps wakes within about two minutes, and the examination
takes 90 seconds at most."""

SENDER, PROCESSOR = "Storage Queue Data Message Sender", "Storage Queue Data Message Processor"


@dataclass(frozen=True, slots=True)
class Examination:
    """One request to one app. `desk` is who asks, `trust` that of TLS from there."""

    app: App
    desk: Desk
    trust: ssl.SSLContext
    connection: str | None = None
    patience: float = PATIENCE
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def queue(self) -> str:
        """The name of the app's outbox."""
        return settings_reader.read(self.app.settings).app.outbox_queue

    def findings(self) -> Iterator[Finding]:
        """Ask, wait, and yield what the app has found out; or why it does not answer."""
        if not self.app.is_running:
            yield fail(
                "app",
                "the Function App is stopped: every callback gets 403 from the platform",
                f"Start it: az functionapp start --name {self.app.name} --resource-group "
                f"{self.app.resource_group}",
            )
            return
        try:
            account = storage_queues.account(self.app.settings)
        except StorageUnusable as problem:
            yield fail("storage", str(problem), storage.EXPECTED)
            return
        try:
            with Queues(account, self.trust, self.desk.credential) as queues:
                request = Request(self.request_id, self.connection)
                queues.ask(self.queue, request.to_json())
                report = self._wait(queues)
        except StorageRefused as error:
            yield self._refused(error)
            return
        except StorageUnreachable:
            yield fail(
                "storage",
                "the storage account cannot be reached from here",
                "Run this from a network that its Networking allows, and check the host's name.",
            )
            return
        if report is None:
            yield from self._silent()
        else:
            yield from report

    def _wait(self, queues: Queues) -> list[Finding] | None:
        found: dict[int, list[Finding]] = {}
        end, pause = time.monotonic() + self.patience, PAUSE
        while not queues.collect(self.queue, self.request_id, found):
            if time.monotonic() > end:
                return None
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
        return [finding for number in sorted(found) for finding in found[number]]

    def _refused(self, error: StorageRefused) -> Finding:
        if isinstance(error, QueueMissing):
            return fail(
                "examine",
                f"the queue {self.queue}-doctor is not there: the app is older, or was not set up "
                "by the template of this version",
                "Upgrade it, or create the queue; docs/operate-upgrade.md.",
            )
        if error.code == "AuthorizationFailure":
            return fail(
                "storage",
                "the storage account lets nobody in from this network",
                "Run this from a network that its Networking allows.",
            )
        return fail(
            "examine",
            f"your sign-in may not use the doctor's queues (HTTP {error.status})",
            f"Ask for {SENDER} on {self.queue}-doctor and {PROCESSOR} on "
            f"{self.queue}-doctor-report; a role takes some minutes to count.",
        )

    def _silent(self) -> Iterator[Finding]:
        environ = {**self.app.settings, "WEBSITE_SITE_NAME": self.app.name}
        found = [
            each
            for each in host_json.examine(Path("nowhere"), environ)
            if each.check == "platform" and each.verdict is not Verdict.OK
        ]
        yield fail(
            "examine",
            f"the app gave no report within {self.patience:.0f} seconds",
            "See below."
            if found
            else "In the Function App, Functions: is examine there and does "
            "it run? If not, the host cannot start or cannot read its storage: Diagnose and solve "
            "problems > Functions that are not triggering, and docs/operate-storage.md.",
        )
        yield from found
