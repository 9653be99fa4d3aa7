"""The commands: `python -m relay <command>`. They read the app settings as the app does.

Each takes the parsed options and returns an exit code.
"""

import argparse
import base64
import io
import json
import logging
import os
import secrets
import ssl
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from relay import log, outgoing, settings, settings_reader
from relay.connections import Connection
from relay.delivery.sealing import DeadLetter
from relay.entra import clouds
from relay.errors import InvalidResponse, Misconfigured, RelayError, Undelivered, UnknownConnection
from relay.oauth import state as states
from relay.outcome import Outcome
from relay.tools import discovery, local_settings, storage_queues

TRIAL = timedelta(minutes=10)
"""Lifetime of a state or ticket that is minted for a trial."""

TIMEOUT = 20.0
"""Seconds for one operation of a request."""


class Stop(Exception):
    """A command cannot go on. The message says why, `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def doctor(options: argparse.Namespace) -> int:
    """Run the checks, and print each finding at once."""
    from relay.tools import doctor as doctors  # noqa: PLC0415 - no other command needs it

    given = local_settings.read()
    if options.connection is not None:
        known = settings_reader.read(given).connections.by_name
        if options.connection not in known:
            raise Stop(f"No connection has this name. There are: {', '.join(known) or 'none'}")
    findings = []
    heading: str | None = ""
    for finding in doctors.examine(given, only=options.connection, write=options.write):
        findings.append(finding)
        if not options.json:
            if finding.connection != heading:
                heading = finding.connection
                print(f"{heading or 'the whole app'}", flush=True)
            print(doctors.shown(finding, colour=sys.stdout.isatty()), flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return int(any(finding.verdict is doctors.Verdict.FAIL for finding in findings))


def discover(options: argparse.Namespace) -> int:
    """Print which authority an environment trusts, and what to put into which setting."""
    try:
        url = settings.secure_url(options.url)
    except ValueError:
        raise Stop("expected an https URL, such as https://contoso.crm4.dynamics.com", 2) from None
    context = trust(local_settings.read())
    with outgoing.blocking_client(context, timeout=TIMEOUT) as http:
        found = discovery.discover(url, http)
    print(f"{found.url} says:\n")
    print(f"  authority  {found.authority}")
    print(f"  resource   {found.resource or '(not told)'}")
    print("\nPut into the app settings:\n")
    for name, value in found.settings().items():
        print(f"  {name}={value}")
    if found.resource is None:
        print("\nDYNAMICS_SCOPE is the origin of DYNAMICS_URL unless you say otherwise.")
    if clouds.is_adfs(found.authority):
        print("\nCheck that this AD FS is yours before you give it a secret.")
    return 0


def send(options: argparse.Namespace) -> int:
    """Send one smoke record, and print its outcome and the next step."""
    from relay.entra.client import Client  # noqa: PLC0415 - imports MSAL
    from relay.tools import smoke_record  # noqa: PLC0415 - likewise
    from relay.tools.doctor import aadsts, writing  # noqa: PLC0415 - for their messages

    given = local_settings.read()
    found, context = connection(options.connection, given), trust(given)
    try:
        record = smoke_record.callback(found, datetime.now(UTC), options.state)
    except InvalidResponse as error:
        fix = "Give a state that this connection takes, with --state."
        return _sent(error.outcome, reason=error.reason, wrong=str(error), fix=fix)
    try:
        token = Client(found.credentials, context).acquire()
        receipt = smoke_record.send(record, token, context)
    except Undelivered as error:
        # By the reason: without an answer of Dynamics there is no status to go by.
        from_dynamics = error.reason.startswith("dynamics_")
        hint = writing.meaning(error) if from_dynamics else aadsts.hint(error.reason)
        known = {"status": error.dynamics_status, "reason": error.reason}
        return _sent(error.outcome, **known, reference=record.reference, **hint._asdict())
    outcome = Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED
    fix = f"Delete the record in Dynamics: its code is {smoke_record.CODE}."
    _sent(outcome, status=receipt.status, reference=record.reference, fix=fix)
    return 0


def _sent(outcome: Outcome, **about: str | int | None) -> int:
    """Print an outcome and what is known about it. Return the exit code of a failure."""
    labels = {"status": "dynamics", "wrong": "that is", "fix": "next"}
    print(f"outcome    {outcome}")
    for name, value in about.items():
        if value is not None:
            text = f"HTTP {value}" if name == "status" else str(value)
            label = f"{labels.get(name, name):<10} "
            lines = textwrap.wrap(text, 69, break_on_hyphens=False)
            print(label + f"\n{' ' * 11}".join(lines))
    return 1


def keygen(_: argparse.Namespace) -> int:
    """Print fresh keys, as the settings take them."""
    kid = f"k{datetime.now(UTC):%Y%m%d}"
    print(f"OUTBOX_KEYS={base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}")
    print(f"STATE_KEYS={kid}:{secrets.token_urlsafe(32)}")
    return 0


def _mint(mint: Callable[[Connection, str, datetime, timedelta], str], name: str) -> int:
    """Print what is minted for a connection, for a trial."""
    found = connection(name, local_settings.read())
    if not found.state_keys:
        raise Stop("STATE_KEYS: expected, to mint with; python -m relay keygen makes one")
    print(mint(found, secrets.token_urlsafe(16), datetime.now(UTC), TRIAL))
    return 0


def state(options: argparse.Namespace) -> int:
    """Print a signed state."""
    return _mint(states.mint, options.connection)


def ticket(options: argparse.Namespace) -> int:
    """Print a ticket for /authorize."""
    return _mint(states.mint_ticket, options.connection)


def dead_letters(options: argparse.Namespace) -> int:
    """List the callbacks that were given up, the oldest first: those expire next."""
    given = local_settings.read()
    queue = settings_reader.read(given).app.outbox_queue
    dead, poison = _lost(given, queue)
    letters = [letter for letter in map(_letter, dead.shown) if letter is not None]
    unreadable = len(dead.shown) - len(letters)
    if options.json:
        found = {"dead_letters": [asdict(letter) for letter in letters], "unreadable": unreadable}
        print(json.dumps({**found, "more": dead.more, "poison": poison.count}, indent=2))
        return 0
    _print_letters(letters)
    if unreadable:
        print(f"\n{unreadable} in {queue}-dead cannot be read: the relay did not write them.")
    if dead.more:
        print(f"\nAbout {dead.more} more: a queue shows its first {storage_queues.PEEK} only.")
    if poison.count:
        print(f"\n{queue}-poison holds about {poison.count}, sealed. The doctor says what to do.")
    return 0


@dataclass(frozen=True, slots=True)
class _Peeked:
    """The messages of a queue: about how many there are, and the bodies of the first ones."""

    count: int = 0
    shown: tuple[bytes, ...] = ()

    @property
    def more(self) -> int:
        return max(0, self.count - len(self.shown))


def _lost(given: Mapping[str, str], queue: str) -> tuple[_Peeked, _Peeked]:
    """Return the dead letters and the poison messages of an outbox, or raise `Stop`."""
    from relay.tools.doctor import storage  # noqa: PLC0415 - for its messages

    try:
        account = storage_queues.account(given)
    except storage_queues.StorageUnusable as problem:
        raise Stop(_lines(str(problem), storage.EXPECTED)) from None
    try:
        with outgoing.blocking_client(trust(given), timeout=TIMEOUT) as http:
            service = storage_queues.Queues(account, http)
            return _peek(service, f"{queue}-dead"), _peek(service, f"{queue}-poison")
    except (storage_queues.StorageRefused, httpx.HTTPError, RelayError) as error:
        finding = storage.trouble(error, account)
        raise Stop(_lines(finding.message, finding.fix)) from None


def _lines(problem: str, fix: str) -> str:
    return "\n".join(textwrap.fill(text, 80) for text in (f"{problem}.", fix))


def _peek(service: storage_queues.Queues, queue: str) -> _Peeked:
    try:
        return _Peeked(service.count(queue), tuple(each.body for each in service.peek(queue)))
    except storage_queues.QueueMissing:  # the host makes it with the first message
        return _Peeked()


def _letter(body: bytes) -> DeadLetter | None:
    """Return a dead letter as the relay wrote it, or `None` for anything else."""
    try:
        letter = DeadLetter(**json.loads(body))
    except (TypeError, ValueError, RecursionError):
        return None
    fitting = all(
        isinstance(value, int if name == "attempts" else str)
        for name, value in asdict(letter).items()
    )
    return letter if fitting else None


def _print_letters(letters: Sequence[DeadLetter]) -> None:
    if not letters:
        print("none")
        return
    print(f"{'given up (UTC)':<16} {'connection':<14} {'reference':<16} {'tries':>5}  reason")
    for letter in letters:
        row = (
            f"{letter.last.replace('T', ' ')[:16]:<16} {_cut(letter.connection, 14):<14} "
            f"{_cut(letter.reference, 16):<16} {_cut(str(letter.attempts), 5):>5}  "
            f"{_cut(letter.reason, 23)}"
        )
        # The queue's writers must not send control characters to the terminal.
        print("".join(char if char.isprintable() else "?" for char in row))
    print("\n--json also has each state, by which Dynamics knows the person.")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def settings_table(_: argparse.Namespace) -> int:
    """Print the table of the settings."""
    for row in settings.table():
        print(row["setting"])
        default = row["default"] if isinstance(row["default"], str | int | float) else ""
        about = {"expected": row["expected"], "default": str(default), "also": row["article"]}
        for label, value in about.items():
            if value:
                first = f"    {label:<9} "
                print(textwrap.fill(value, 80, initial_indent=first, subsequent_indent=" " * 14))
    print(
        "\nEach may be given for one connection as CONNECTIONS__<NAME>__<SETTING>, but\n"
        f"for {', '.join(settings.names(settings.AppSettings))}."
    )
    return 0


def trust(given: Mapping[str, str]) -> ssl.SSLContext:
    """Return the app's own trust, or raise `Stop`."""
    try:
        return outgoing.trust(settings_reader.normalize(given).get("CA_BUNDLE"), given)
    except OSError:
        raise Stop("CA_BUNDLE: expected a PEM file, or REQUESTS_CA_BUNDLE names none") from None


def connection(name: str, given: Mapping[str, str]) -> Connection:
    """Return a connection whose settings validate, or raise `Stop`."""
    connections = settings_reader.read(given).connections
    try:
        return connections.get(name)
    except Misconfigured as error:
        raise Stop("\n".join(error.problems)) from None
    except UnknownConnection:
        known = ", ".join(connections.by_name)
        raise Stop(f"No connection has this name. There are: {known}") from None


# -- the command line ----------------------------------------------------------------------------

DESCRIPTION = """\
Set up and look after the OAuth callback relay for Dynamics 365.

The commands read the environment and, where there is one, local.settings.json
in this folder. Nothing they print holds a secret, but for keygen, state and
ticket, whose purpose it is."""

EPILOG = """\
exit codes: 0 all well, 1 something is wrong, 2 wrong usage

examples:
  python -m relay doctor
  python -m relay discover https://contoso.crm4.dynamics.com
  python -m relay keygen"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 all well, 1 something is wrong, 2 usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without our characters
    log.quiet()
    # The command prints what the app would log.
    logging.getLogger("relay").addHandler(logging.NullHandler())
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except (RelayError, local_settings.UnreadableError) as error:
        print(error, file=sys.stderr)
        return 1
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    root = argparse.ArgumentParser(
        "python -m relay", description=DESCRIPTION, epilog=EPILOG, formatter_class=_formatter
    )
    subparsers = root.add_subparsers(required=True, metavar="command", title="commands")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], what: str, *examples: str
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=what[0].lower() + what[1:].partition(".")[0],
            description=what,
            epilog="\n".join(["examples:", *(f"  python -m relay {each}" for each in examples)]),
            formatter_class=_formatter,
        )
        added.set_defaults(run=run)
        return added

    examine = command(
        "doctor",
        doctor,
        "Find out which step of the set-up is missing, and say the next one. Reads only.",
        "doctor",
        "doctor --connection xero",
        "doctor --json",
    )
    examine.add_argument("--connection", metavar="NAME", help="examine this connection only")
    examine.add_argument("--json", action="store_true", help="print a JSON array, for machines")
    examine.add_argument(
        "--write",
        action="store_true",
        help="also send one smoke record to Dynamics, and one message through the queue",
    )

    ask = command(
        "discover",
        discover,
        "Ask a Dynamics environment for its authority. Sends no token and no secret,\n"
        "follows no redirect, and believes known login hosts and AD FS only.",
        "discover https://contoso.crm4.dynamics.com",
        "discover https://ax.contoso.com/namespaces/AXSF",
    )
    ask.add_argument("url", help="address of the environment, or its whole DYNAMICS_URL")

    smoke = command(
        "send",
        send,
        "Send one smoke record through Entra to Dynamics, and say what became of it.\n"
        "Delete it afterwards: its code is relay-smoke-test.",
        "send",
        "send --connection xero --state a-state-that-dynamics-issued",
    )
    _add_connection(smoke)
    smoke.add_argument(
        "--state", metavar="STATE", help="the record's state (default: one is made up)"
    )

    command(
        "keygen",
        keygen,
        "Make fresh OUTBOX_KEYS and STATE_KEYS. Put them into Key Vault, never into\n"
        "source control.",
        "keygen",
    )
    what = "Mint a signed state for trying out. It lives for ten minutes."
    _add_connection(command("state", state, what, "state", "state --connection xero"))
    what = "Mint a ticket for /authorize, for trying out. It lives for ten minutes."
    _add_connection(command("ticket", ticket, what, "ticket", "ticket --connection xero"))

    letters = command(
        "dead-letters",
        dead_letters,
        "List the callbacks that will never reach Dynamics. Reads only.\n"
        "The oldest come first: the storage deletes each after seven days.",
        "dead-letters",
        "dead-letters --json",
    )
    letters.add_argument(
        "--json", action="store_true", help="print all that is known, for machines; states too"
    )

    what = "Print every setting with its default and its meaning."
    command("settings", settings_table, what, "settings")
    return root


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--connection", default="default", metavar="NAME", help="as in /callback/NAME"
    )


def _formatter(prog: str, **_: Any) -> argparse.HelpFormatter:  # noqa: ANN401 - argparse's own
    # The same on every terminal, so that the documentation can show it.
    return argparse.RawDescriptionHelpFormatter(prog, width=80)


def run() -> int:
    """Run the command of this process; return its exit code."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
