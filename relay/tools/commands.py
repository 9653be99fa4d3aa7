"""The commands: `python -m relay <command>`. They read the app settings as the app does."""

import base64
import io
import json
import logging
import os
import secrets
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from typer.core import TyperGroup

import relay
from relay import log, outgoing, settings, settings_reader
from relay.connections import Connection, StatePolicy, canonical
from relay.delivery import targets
from relay.delivery.sealing import DeadLetter
from relay.entra import clouds
from relay.errors import (
    CookieMissing,
    InvalidResponse,
    Misconfigured,
    RelayError,
    Undelivered,
    UnknownConnection,
    UnknownEnvironment,
)
from relay.oauth import state as states
from relay.oauth.authorization import AuthorizationResponse
from relay.outcome import Outcome
from relay.tools import discovery, local_settings, storage_queues, terminal

if TYPE_CHECKING:  # Azure's libraries take half a second, and few commands need them
    from relay.tools.azure_app import App, Desk
    from relay.tools.azure_queues import Peeked

TRIAL = timedelta(minutes=10)
"""Lifetime of a state or ticket that is minted for a trial."""

TIMEOUT = 20.0
"""Seconds for one operation of a request."""

PROGRAM = "python -m relay"


class Stop(Exception):
    """A command cannot go on. The message says why, `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """What holds for every command of one call of the program.

    `patience`: seconds to wait for a report of `--app`. `file`: what `--settings` names.
    """

    given: "Desk | None"
    patience: float
    file: Path | None = None

    @property
    def desk(self) -> "Desk":
        """Whom `--app` asks, and as whom; by default Azure."""
        from relay.tools.azure_app import Desk  # noqa: PLC0415

        return self.given or Desk()

    def settings(self) -> dict[str, str]:
        """Return the app settings. Raises `local_settings.UnreadableError`."""
        return local_settings.read(self.file)

    @property
    def source(self) -> str:
        """Where the app settings come from."""
        file = self.file or Path(local_settings.FILE)
        return f"the environment and {file}" if file.is_file() else "the environment"


HELP = """\
Set up and look after the OAuth callback relay for Dynamics 365.

The commands read the environment and, where there is one, local.settings.json in this folder, or
the file that --settings names. The environment counts first. Nothing they print holds a secret,
but for keygen, state and ticket, whose purpose it is.
"""


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "examples:", *(f"  {PROGRAM} {line}".rstrip() for line in lines)])


_EXIT_CODES = "exit codes: 0 all well, 1 something is wrong, 2 wrong usage\n\n"

app = typer.Typer(
    help=HELP,
    epilog=_EXIT_CODES
    + _examples("doctor", "discover https://contoso.crm4.dynamics.com", "keygen"),
    rich_markup_mode=None,  # the same on every terminal, so that the documentation can show it
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": 80,
        "max_content_width": 80,
    },
)

Name = Annotated[str, typer.Option("--connection", metavar="NAME", help="as in /callback/NAME")]
Environment = Annotated[
    str | None,
    typer.Option(metavar="ENV", help="as in ENVIRONMENTS__ENV; else the connection's own"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for machines")]
AppName = Annotated[
    str | None,
    typer.Option("--app", metavar="NAME", help="a deployed app, with your sign-in of the az CLI"),
]
Group = Annotated[str | None, typer.Option(metavar="RG", help="where several apps have that name")]


def _version(asked: bool) -> None:
    if asked:
        print(relay.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="read this file in place of local.settings.json",
        ),
    ] = None,
) -> None:
    """Print the help on a bare call."""
    context.obj = replace(context.obj, file=settings_file)
    if context.invoked_subcommand is None:
        print(context.get_help())


# -- doctor --------------------------------------------------------------------------------------

_ALL_WELL = "Nothing. For one real authorization: docs/setup.md, step 10."


@app.command(
    short_help="Find out which step of the set-up is missing.",
    epilog=_examples(
        "doctor", "doctor --connection xero", "doctor --app contoso-relay", "doctor --json"
    ),
)
def doctor(
    context: typer.Context,
    connection: Annotated[
        str | None, typer.Option(metavar="NAME", help="examine this connection only")
    ] = None,
    app: AppName = None,
    resource_group: Group = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="also send one smoke record to Dynamics, and one message through the queue",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find out which step of the set-up is missing, and say the next one. Reads only."""
    from relay.tools import doctor as doctors  # noqa: PLC0415 - no other command needs it

    if app is not None:
        if write:
            raise Stop("--write and --app exclude each other: the app itself only reads", 2)
        code = _examine_app(context.obj, app, resource_group, connection, as_json=as_json)
        raise typer.Exit(code)
    call: Call = context.obj
    given = call.settings()
    known = settings_reader.read(given).connections.by_name
    if connection is not None and connection not in known:
        raise Stop(f"No connection has this name. There are: {', '.join(known) or 'none'}")
    findings = doctors.examine(given, only=connection, write=write)
    about = [f"looks at  {call.source}", *_targets(known, connection)]
    raise typer.Exit(terminal.report(findings, about, _ALL_WELL, as_json=as_json))


def _targets(known: Mapping[str, Connection | Misconfigured], only: str | None) -> Iterator[str]:
    """Say for each connection which hosts and which tenant it leads to."""
    for name, found in known.items():
        if only not in (None, name):
            continue
        if isinstance(found, Misconfigured):
            yield f"          {name}: its settings do not validate"
            continue
        authority = found.credentials.authority
        parts = urlsplit(authority or "")
        tenant = parts.path.strip("/")
        by = f"{parts.netloc}, tenant {tenant}" if authority else "a managed identity"
        yield f"          {name}: {urlsplit(found.target.url).netloc}, by {by}"


def _examine_app(
    call: Call, name: str, group: str | None, connection: str | None, *, as_json: bool
) -> int:
    from relay.tools.remote import Examination  # noqa: PLC0415 - imports the doctor

    app = _find(call, name, group)
    known = settings_reader.read(app.settings).connections.by_name
    if connection is not None and connection not in known:
        raise Stop(f"No connection has this name. There are: {', '.join(known) or 'none'}")
    asked = Examination(app, call.desk, trust(call.settings()), connection, call.patience)
    patience = f"{call.patience / 60:.0f} minutes at most"
    about = [
        f"looks at  {app.name} in {app.resource_group}, from inside of Azure",
        f"waits     {patience}: a function that sleeps wakes within about two",
    ]
    return terminal.report(asked.findings(), about, _ALL_WELL, as_json=as_json)


def _find(call: Call, name: str, group: str | None) -> "App":
    from relay.tools.azure_app import AppUnreadable  # noqa: PLC0415

    with outgoing.blocking_client(trust(call.settings()), timeout=TIMEOUT) as http:
        try:
            return call.desk.find(name, group, http)
        except AppUnreadable as error:
            raise Stop(_lines(str(error), error.fix)) from None


# -- discover and send ---------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        "discover https://contoso.crm4.dynamics.com",
        "discover https://ax.contoso.com/namespaces/AXSF",
    )
)
def discover(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="of the environment, or its whole DYNAMICS_URL")],
    as_json: Json = False,
) -> None:
    """Ask a Dynamics environment for its authority.

    Sends no token and no secret, follows no redirect, and believes known login hosts and AD FS
    only.
    """
    try:
        url = settings.secure_url(url)
    except ValueError:
        raise Stop("expected an https URL, such as https://contoso.crm4.dynamics.com", 2) from None
    call: Call = context.obj
    trusted = trust(call.settings())
    with outgoing.blocking_client(trusted, timeout=TIMEOUT) as http, terminal.waiting("asking …"):
        found = discovery.discover(url, http)
    if as_json:
        told = {"url": found.url, "authority": found.authority, "resource": found.resource}
        print(json.dumps({**told, "settings": found.settings()}, indent=2))
        return
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


@app.command(
    short_help="Send one smoke record through Entra to Dynamics.",
    epilog=_examples(
        "send",
        "send --environment uat",
        "send --connection xero --state a-state-that-dynamics-issued",
    ),
)
def send(
    context: typer.Context,
    connection: Name = "default",
    environment: Environment = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="the record's state; else one is made up")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send one smoke record through Entra to Dynamics, and say what became of it.

    Delete it afterwards: its code is relay-smoke-test.
    """
    from relay.entra import refusals  # noqa: PLC0415 - for its messages
    from relay.entra.client import Client  # noqa: PLC0415 - imports MSAL
    from relay.tools import smoke_record  # noqa: PLC0415 - likewise
    from relay.tools.doctor import writing  # noqa: PLC0415 - for its messages

    call: Call = context.obj
    given = call.settings()
    found, trusted = find_target(connection, environment, given), trust(given)
    try:
        record = smoke_record.callback(found, datetime.now(UTC), state)
    except InvalidResponse as error:
        fix = "Give a state that this connection takes, with --state."
        if isinstance(error, UnknownEnvironment):
            fix = "The state is for another environment: name that with --environment."
        _sent(error.outcome, as_json, reason=error.reason, wrong=str(error), fix=fix)
        raise typer.Exit(1) from None
    try:
        with terminal.waiting("sending …"):
            token = Client(found.credentials, trusted).acquire()
            receipt = smoke_record.send(record, token, trusted)
    except Undelivered as error:
        # By the reason: without an answer of Dynamics there is no status to go by.
        from_dynamics = error.reason.startswith("dynamics_")
        hint = writing.meaning(error) if from_dynamics else refusals.hint(error.reason)
        known = {"status": error.dynamics_status, "reason": error.reason}
        _sent(error.outcome, as_json, **known, reference=record.reference, **hint._asdict())
        raise typer.Exit(1) from None
    outcome = Outcome.DUPLICATE if receipt.existed else Outcome.DELIVERED
    fix = f"Delete the record in Dynamics: its code is {smoke_record.CODE}."
    _sent(outcome, as_json, status=receipt.status, reference=record.reference, fix=fix)


def _sent(outcome: Outcome, as_json: bool, **about: str | int | None) -> None:
    """Print an outcome and what is known about it."""
    known = {name: value for name, value in about.items() if value is not None}
    if as_json:
        print(json.dumps({"outcome": outcome, **known}, indent=2))
        return
    labels = {"status": "dynamics", "wrong": "that is", "fix": "next"}
    print(f"outcome    {outcome}")
    for name, value in known.items():
        text = f"HTTP {value}" if name == "status" else str(value)
        label = f"{labels.get(name, name):<10} "
        print(label + f"\n{' ' * 11}".join(terminal.wrapped(text, 69)))


# -- keys, states, tickets -----------------------------------------------------------------------


@app.command(epilog=_examples("keygen"))
def keygen() -> None:
    """Make fresh OUTBOX_KEYS and STATE_KEYS.

    Put them into Key Vault, never into source control.
    """
    kid = f"k{datetime.now(UTC):%Y%m%d}"
    print(f"OUTBOX_KEYS={base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}")
    print(f"STATE_KEYS={kid}:{secrets.token_urlsafe(32)}")


def _mint(
    mint: Callable[[Connection, str, datetime, timedelta], str],
    name: str,
    environment: str | None,
    call: Call,
) -> None:
    """Print what is minted for a connection or one of its environments, for a trial."""
    found = find_target(name, environment, call.settings())
    if not found.state_keys:
        raise Stop("STATE_KEYS: expected, to mint with; python -m relay keygen makes one")
    print(mint(found, secrets.token_urlsafe(16), datetime.now(UTC), TRIAL))


@app.command(epilog=_examples("state", "state --connection xero", "state --environment uat"))
def state(
    context: typer.Context,
    connection: Name = "default",
    environment: Environment = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="JWT", help="mint none: say, offline, who takes this one"),
    ] = None,
) -> None:
    """Mint a signed state for trying out. It lives for ten minutes."""
    call: Call = context.obj
    if check is None:
        _mint(states.mint, connection, environment, call)
        return
    if environment is not None:
        raise Stop("--environment and --check exclude each other: the state names its own", 2)
    given = call.settings()
    find_connection(connection, given)
    refused = False
    for name, found in settings_reader.read(given).connections.by_name.items():
        if isinstance(found, Connection):
            reason = _reason(check, found)
            refused |= name == connection and reason is not None
            is_any = found.state_policy is StatePolicy.OPAQUE
            taken = "takes any: STATE_POLICY is opaque" if is_any else "takes it"
            print(f"{name:<14} {reason or taken}")
    print("\ndocs/operate.md says what each word means.")
    raise typer.Exit(int(refused))


def _reason(text: str, connection: Connection) -> str | None:
    """Return why a connection refuses a state, if it does."""
    response = AuthorizationResponse("check", text, iss=connection.provider.issuer)
    try:
        states.verify(response, connection)
    except CookieMissing:
        return None  # only the browser that began has its cookie
    except InvalidResponse as error:
        return error.reason
    return None


@app.command(epilog=_examples("ticket", "ticket --connection xero", "ticket --environment uat"))
def ticket(
    context: typer.Context, connection: Name = "default", environment: Environment = None
) -> None:
    """Mint a ticket for /authorize, for trying out. It lives for ten minutes."""
    _mint(states.mint_ticket, connection, environment, context.obj)


# -- dead letters --------------------------------------------------------------------------------


@app.command(
    "dead-letters",
    epilog=_examples("dead-letters", "dead-letters --app contoso-relay", "dead-letters --json"),
)
def dead_letters(
    context: typer.Context,
    app: AppName = None,
    resource_group: Group = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="all, not the first 32; hides each from others for 30 s"),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="all that is known, for machines; states too")
    ] = False,
) -> None:
    """List the callbacks that will never reach Dynamics. Reads only.

    The oldest come first: the storage deletes each after seven days.
    """
    call: Call = context.obj
    given: Mapping[str, str] = call.settings()
    if app is not None:
        given = _find(call, app, resource_group).settings
    queue = settings_reader.read(given).app.outbox_queue
    desk = call.desk if app is not None else None
    dead, poison = _lost(given, queue, desk, trust(call.settings()), every=every)
    letters = [letter for letter in map(_letter, dead.shown) if letter is not None]
    unreadable = len(dead.shown) - len(letters)
    if as_json:
        found = {"dead_letters": [asdict(letter) for letter in letters], "unreadable": unreadable}
        print(json.dumps({**found, "more": dead.more, "poison": poison.count}, indent=2))
        return
    _print_letters(letters)
    if unreadable:
        print(f"\n{unreadable} in {queue}-dead cannot be read: the relay did not write them.")
    if dead.more:
        print(f"\nAbout {dead.more} more: a queue shows its first 32 only; --all receives them.")
    if poison.count:
        print(f"\n{queue}-poison holds about {poison.count}, sealed. The doctor says what to do.")


def _lost(
    given: Mapping[str, str],
    queue: str,
    desk: "Desk | None",
    trusted: ssl.SSLContext,
    *,
    every: bool,
) -> "tuple[Peeked, Peeked]":
    """Return the dead letters and the poison messages of an outbox, or raise `Stop`."""
    from relay.tools.azure_queues import Queues, StorageUnreachable  # noqa: PLC0415
    from relay.tools.doctor import storage  # noqa: PLC0415 - for its messages

    try:
        account = storage_queues.account(given)
    except storage_queues.StorageUnusable as problem:
        raise Stop(_lines(str(problem), storage.EXPECTED)) from None
    if desk is None and account.kind == "identity" and not os.environ.get("IDENTITY_ENDPOINT"):
        fix = "For an app in Azure run python -m relay dead-letters --app NAME."
        raise Stop(_lines("an identity opens the storage, and this machine has none", fix))
    try:
        with (
            Queues(account, trusted, desk.credential if desk else None) as service,
            terminal.waiting("reading …"),
        ):
            read = service.all if every else service.peek
            return read(f"{queue}-dead"), service.peek(f"{queue}-poison")
    except storage_queues.StorageRefused as error:
        finding = storage.trouble(error, account)
    except StorageUnreachable:
        finding = storage.unreached(account)
    raise Stop(_lines(finding.message, finding.fix))


def _lines(problem: str, fix: str) -> str:
    return "\n".join(map(terminal.filled, (f"{problem}.", fix)))


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
    from relay.tools.doctor import reasons  # noqa: PLC0415 - for its messages

    if not letters:
        print("none")
        return
    print(f"{'given up (UTC)':<16} {'connection':<14} {'reference':<16} {'tries':>5}  reason")
    for letter in letters:
        where = "/".join(filter(None, (letter.connection, letter.environment)))
        row = (
            f"{letter.last.replace('T', ' ')[:16]:<16} {_cut(where, 14):<14} "
            f"{_cut(letter.reference, 16):<16} {_cut(str(letter.attempts), 5):>5}  "
            f"{_cut(letter.reason, 23)}"
        )
        # The queue's writers must not send control characters to the terminal.
        print("".join(char if char.isprintable() else "?" for char in row))
    print("\n--json also has each state, by which Dynamics knows the person.\n")
    for word in dict.fromkeys(letter.reason for letter in letters):
        if found := reasons.hint(word):
            print(terminal.filled(f"{word}: {found.wrong}. Next: {found.fix}"))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


# -- settings and completion ---------------------------------------------------------------------


class TargetName(StrEnum):
    """Kinds of Dynamics, named as their pages in docs/."""

    FINANCE_OPERATIONS = targets.FINANCE_OPERATIONS.name
    CUSTOM_SERVICE = targets.CUSTOM_SERVICE.name
    BUSINESS_CENTRAL = targets.BUSINESS_CENTRAL.name
    DATAVERSE = targets.DATAVERSE.name


@app.command(
    "settings", epilog=_examples("settings", "settings --for business-central", "settings --json")
)
def settings_table(
    target: Annotated[
        TargetName | None,
        typer.Option("--for", help="print the settings for this repository's objects, to paste"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print every setting with its default and its meaning."""
    if target is not None:
        kind = next(each for each in targets.TARGETS if each.name == target)
        block = {"DYNAMICS_URL": kind.url, "DYNAMICS_BODY": json.dumps(kind.body)}
        print(json.dumps(block | {"STATE_POLICY": "signed"}, indent=2))
        return
    if as_json:
        print(json.dumps([_plain(row) for row in settings.table()], indent=2))
        return
    for row in settings.table():
        print(row["setting"])
        default = row["default"] if isinstance(row["default"], str | int | float) else ""
        about = {"expected": row["expected"], "default": str(default), "also": row["article"]}
        for label, value in about.items():
            if value:
                print(f"    {label:<9} " + f"\n{' ' * 14}".join(terminal.wrapped(value, 66)))
    print(
        "\nEach may be given for one connection as CONNECTIONS__<NAME>__<SETTING>, but\n"
        f"for {', '.join(settings.names(settings.AppSettings))}.\n\n"
        "Another Dynamics environment behind the same redirect URI is\n"
        "ENVIRONMENTS__<ENV>__<SETTING>, for one connection behind CONNECTIONS__<NAME>__:\n"
        + terminal.filled(f"{', '.join(settings.names(settings.EnvironmentSettings))}.")
    )


def _plain(row: Mapping[str, object]) -> dict[str, object]:
    default = row["default"]
    return {**row, "default": default if isinstance(default, str | int | float) else None}


class Shell(StrEnum):
    """Shells that complete the commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


_COMPLETION = {
    Shell.BASH: """\
relay() { python -m relay "$@"; }
_relay_words() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        _RELAY_COMPLETE=complete_bash python -m relay))
}
complete -o default -F _relay_words relay""",
    Shell.ZSH: """\
relay() { python -m relay "$@" }
_relay_words() {
    eval $(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" \\
        _RELAY_COMPLETE=complete_zsh python -m relay)
}
compdef _relay_words relay""",
    Shell.FISH: """\
function relay; python -m relay $argv; end
function _relay_words
    set -lx _RELAY_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    python -m relay
end
complete --command relay --no-files --arguments '(_relay_words)'""",
    Shell.POWERSHELL: """\
function relay { python -m relay @args }
Register-ArgumentCompleter -CommandName relay -Native -ScriptBlock {
    param($word, $command)
    $Env:_RELAY_COMPLETE = 'complete_powershell'
    $Env:_TYPER_COMPLETE_ARGS = $command.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $word
    python -m relay | ForEach-Object { ($_ -split ':::')[0] }
    $Env:_RELAY_COMPLETE = $Env:_TYPER_COMPLETE_ARGS = $null
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $null
}""",
}


@app.command(
    short_help="Print what a shell needs to complete the commands.",
    epilog=_examples("completion bash", "completion powershell"),
)
def completion(shell: Annotated[Shell, typer.Argument(help="which shell")]) -> None:
    """Print what a shell needs to complete the commands: a short name, relay, and its words.

    In bash and zsh: eval "$(python -m relay completion bash)"; in fish pipe it to source, in
    PowerShell to Out-String and Invoke-Expression.
    """
    print(_COMPLETION[shell])


# -- what several commands need ------------------------------------------------------------------


def trust(given: Mapping[str, str]) -> ssl.SSLContext:
    """Return the app's own trust, or raise `Stop`."""
    try:
        return outgoing.trust(settings_reader.normalize(given).get("CA_BUNDLE"), given)
    except OSError:
        raise Stop("CA_BUNDLE: expected a PEM file, or REQUESTS_CA_BUNDLE names none") from None


def find_connection(name: str, given: Mapping[str, str]) -> Connection:
    """Return a connection whose settings validate, or raise `Stop`."""
    connections = settings_reader.read(given).connections
    try:
        return connections.get(name)
    except Misconfigured as error:
        raise Stop("\n".join(error.problems)) from None
    except UnknownConnection:
        known = ", ".join(connections.by_name)
        raise Stop(f"No connection has this name. There are: {known}") from None


def find_target(name: str, environment: str | None, given: Mapping[str, str]) -> Connection:
    """Return a connection as it delivers to an environment, `None` for its own target.

    Raises `Stop`.
    """
    connection = find_connection(name, given)
    known = ", ".join(connection.environments)
    try:
        return connection.at(None if environment is None else canonical(environment))
    except Misconfigured as error:
        raise Stop("\n".join(error.problems)) from None
    except UnknownEnvironment:
        if environment is None:
            problem = f"The connection has no target of its own. Give --environment: {known}"
        elif known:
            problem = f"No environment of the connection has this name. There are: {known}"
        else:
            problem = "The connection has no environments: leave out --environment"
        raise Stop(problem) from None


def command_line() -> TyperGroup:
    """Return the commands, as the command line has them."""
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("group")
    # Typer's own options for completion need an installed program, and this is a module.
    options = ("install_completion", "show_completion")
    group.params = [each for each in group.params if each.name not in options]
    return group


def main(
    arguments: Sequence[str] | None = None, *, desk: "Desk | None" = None, patience: float = 300.0
) -> int:
    """Run one command and return its exit code: 0 all well, 1 something is wrong, 2 usage.

    `desk` is what `--app` asks, by default Azure with the operator's `az` sign-in; `patience` for
    how many seconds.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without our characters
    log.quiet()
    # The command prints what the app would log.
    logging.getLogger("relay").addHandler(logging.NullHandler())
    given = None if arguments is None else list(arguments)
    call = Call(desk, patience)
    try:
        command_line().main(given, PROGRAM, complete_var="_RELAY_COMPLETE", obj=call)
    except SystemExit as end:  # Typer ends every command so
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except (RelayError, local_settings.UnreadableError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run() -> int:
    """Run the command of this process; return its exit code."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
