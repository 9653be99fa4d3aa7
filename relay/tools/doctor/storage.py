"""Checks of the outbox: its keys, its storage, and what was given up."""

import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import httpx

from relay.entra.refusals import hint
from relay.errors import Hint, RelayError
from relay.settings import AppSettings
from relay.tools import storage_queues
from relay.tools.doctor.entra import unreachable
from relay.tools.doctor.finding import Finding, fail, ok, skip, warn
from relay.tools.storage_queues import STORAGE, Account, QueueMissing, Queues

OLD = timedelta(minutes=5)
"""A callback that is held longer gets a warning: the host tries each several times a minute."""

EXPECTED = (
    f"Set {STORAGE} to the connection string of the Function App's storage account, or "
    f"{STORAGE}__accountName to its name and let an identity open it; on a developer's machine "
    "UseDevelopmentStorage=true and start Azurite."
)
_VAULT = (
    "In the Function App, Environment variables, see why the reference fails. On a developer's "
    "machine put the value itself, or UseDevelopmentStorage=true, into local.settings.json."
)
_ROLE = (
    "On the storage account, Access control (IAM): give the Function App's identity the role "
    "Storage Queue Data Contributor. It takes some minutes to count."
)
_NETWORK = Hint(
    "the storage account lets nobody in from this network",
    "In the storage account, Networking: allow the network that the Function App goes out "
    "through. From another machine the doctor cannot examine it.",
)
_COPY = f"Copy the connection string from the storage account, Access keys, to {STORAGE} anew"

_REFUSALS: Mapping[tuple[str, str], Hint] = {
    ("key", "AuthenticationFailed"): Hint(
        f"the account key in {STORAGE} is wrong", f"{_COPY}; then check this machine's clock."
    ),
    ("key", "AuthorizationFailure"): _NETWORK,
    ("key", "KeyBasedAuthenticationNotPermitted"): Hint(
        "the storage account takes no account keys",
        f"Remove {STORAGE}, set {STORAGE}__accountName to the account's name, and give the "
        "Function App's identity the role Storage Queue Data Contributor.",
    ),
    ("sas", "AuthenticationFailed"): Hint(
        f"the shared access signature in {STORAGE} is wrong or has expired",
        f"{_COPY}, or use an identity: a signature expires again.",
    ),
    ("sas", "AuthorizationFailure"): _NETWORK,
    ("sas", "AuthorizationPermissionMismatch"): Hint(
        f"the shared access signature in {STORAGE} does not allow enough",
        f"{_COPY}, or make a signature for queues with all permissions.",
    ),
    ("identity", "AuthorizationPermissionMismatch"): Hint(
        "the identity has no role for the queues of this storage account", _ROLE
    ),
    ("identity", "AuthenticationFailed"): Hint(
        "the storage account does not take the identity's token",
        "Check that identity and storage account are in the same tenant.",
    ),
    ("identity", "AuthorizationFailure"): _NETWORK,
}
"""By the kind of the credential, and the error code of the storage
(https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes)."""


def examine(
    app: AppSettings,
    environ: Mapping[str, str],
    http: httpx.Client,
    trust: ssl.SSLContext,
    *,
    write: bool,
    keys: bool = True,
) -> Iterator[Finding]:
    """Examine the outbox and its storage. Reads only, unless `write`, which needs the `trust`.

    Not `keys`: OUTBOX_KEYS has been named as wrong already.
    """
    if keys:
        yield _keys(app)
    try:
        account = storage_queues.account(environ)
    except storage_queues.StorageUnusable as problem:
        fix = _VAULT if "Key Vault" in str(problem) else EXPECTED
        yield fail("storage", str(problem), fix)
        return
    if account.is_emulator and environ.get("WEBSITE_INSTANCE_ID"):
        yield fail("storage", f"{STORAGE} names the emulator, which Azure does not have", EXPECTED)
        return
    service = Queues(account, http)
    try:
        yield from _outbox(service, app.outbox_queue)
        yield _poison(service, app.outbox_queue)
        yield _dead(service, app.outbox_queue)
        if write:
            yield _written(account, trust, app.outbox_queue)
    except (storage_queues.StorageRefused, httpx.HTTPError, RelayError) as error:
        yield trouble(error, account)


def trouble(error: Exception, account: Account) -> Finding:
    """Return why the storage cannot be used, and the next step."""
    if isinstance(error, storage_queues.StorageRefused):
        return _refused(error, account)
    if isinstance(error, httpx.HTTPError):
        if isinstance(error, httpx.TimeoutException) or not account.is_local:
            return unreachable("storage", "the storage account", error)
        return unreached(account)
    reason = error.reason if isinstance(error, RelayError) else ""
    if reason == "identity_missing":
        return skip(
            "storage",
            "an identity opens it, and this machine has none",
            "For an app in Azure run python -m relay doctor --app NAME. On this machine take "
            f"{STORAGE}=UseDevelopmentStorage=true.",
        )
    if reason == "identity_400":
        return fail(
            "storage",
            "the Function App does not have the identity that is to open the storage",
            f"Assign the identity to the Function App, or correct {STORAGE}__clientId.",
        )
    wrong, fix = hint(reason)
    return fail("storage", f"no token for the storage: {wrong}", fix)


def unreached(account: Account) -> Finding:
    """Return that nothing answers at the account's address, and the next step."""
    if account.is_local:
        return fail(
            "storage",
            f"nothing answers where {STORAGE} leads, on this machine",
            "Start Azurite with npx azurite, on Windows with npx.cmd azurite.",
        )
    return unreachable("storage", "the storage account", httpx.ConnectError(""))


def _refused(error: storage_queues.StorageRefused, account: Account) -> Finding:
    found = _REFUSALS.get((account.kind, error.code))
    if found is not None:
        return fail("storage", *found)
    if error.status in (401, 403):
        return fail(
            "storage",
            f"the storage account refuses (HTTP {error.status})",
            f"Check what {STORAGE} says, the account's roles and its Networking.",
        )
    if error.status == 429 or error.status >= 500:  # noqa: PLR2004 - RFC 6585 §4, RFC 9110 §15.6
        return fail(
            "storage",
            f"the storage account is in trouble just now (HTTP {error.status})",
            "Wait a minute and run the doctor again; then look at Azure's status.",
        )
    return fail(
        "storage",
        f"what answers is no queue storage (HTTP {error.status})",
        f"Check the account's name and the address of its queues in {STORAGE}.",
    )


def _keys(app: AppSettings) -> Finding:
    if app.outbox_keys:
        return ok("outbox", "OUTBOX_KEYS are set: what Dynamics cannot take now is held")
    return warn(
        "outbox",
        "OUTBOX_KEYS is not set: when Dynamics or Entra is down, callbacks are lost",
        "Run python -m relay keygen and put its OUTBOX_KEYS into the app settings.",
    )


def _outbox(service: Queues, name: str) -> Iterator[Finding]:
    held = _count(service, name)
    yield ok("storage", "it answers and lets the relay in")
    if held is None:
        yield ok("queue", f"there is no {name} yet: the host makes it when it first holds one")
        return
    waiting = service.peek(name)
    age = datetime.now(UTC) - min((each.inserted for each in waiting), default=datetime.now(UTC))
    if age > OLD:
        yield warn(
            "queue",
            f"a callback has been held for {_spoken(age)}, about {held} wait",
            "See whether Dynamics and Entra pass above, and whether the function redeliver runs "
            "(Function App, Functions).",
        )
    else:
        yield ok("queue", f"{name} holds {held or 'nothing'}")


def _poison(service: Queues, name: str) -> Finding:
    poison = _count(service, f"{name}-poison")
    if not poison:
        return ok("poison", "nothing was given up")
    return warn(
        "poison",
        f"the host gave up {_callbacks(poison)}, still sealed",
        "Dynamics was down for too long, or a key was taken out of OUTBOX_KEYS, or a connection "
        f"out of the settings. Put that right, then move them from {name}-poison to {name} with "
        "Storage Explorer. They are deleted after seven days.",
    )


def _dead(service: Queues, name: str) -> Finding:
    dead = _count(service, f"{name}-dead")
    if not dead:
        return ok("dead", "no dead letters")
    return warn(
        "dead",
        f"{_callbacks(dead)} will never reach Dynamics",
        "Run python -m relay dead-letters, let those people start again, then clear the queue "
        f"{name}-dead.",
    )


def _written(account: Account, trust: ssl.SSLContext, name: str) -> Finding:
    """Write a message that no function receives, and delete it at once."""
    from relay.tools import azure_queues  # noqa: PLC0415 - not deployed

    try:
        with azure_queues.Queues(account, trust) as queues:
            queues.try_writing(name)
    except azure_queues.StorageUnreachable:
        return unreached(account)
    return ok("message", "one could be written and deleted")


def _count(service: Queues, name: str) -> int | None:
    try:
        return service.count(name)
    except QueueMissing:
        return None


def _callbacks(number: int) -> str:
    return "1 callback" if number == 1 else f"{number} callbacks"


def _spoken(age: timedelta) -> str:
    hours, minutes = divmod(int(age.total_seconds() // 60), 60)
    return f"{hours} hours" if hours > 1 else f"{hours * 60 + minutes} minutes"
