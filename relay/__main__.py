"""The commands: `python -m relay <command>`. They read the app settings as the app does."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from relay import commands, environment, log
from relay.errors import RelayError

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
    # What the relay would log in Azure is said here by the command itself.
    logging.getLogger("relay").addHandler(logging.NullHandler())
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except commands.Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except (RelayError, environment.UnreadableError) as error:
        print(error, file=sys.stderr)
        return 1
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    root = _parser("python -m relay", DESCRIPTION, EPILOG)
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

    doctor = command(
        "doctor",
        commands.doctor,
        "Find out which step of the set-up is missing, and say the next one. Reads only.",
        "doctor",
        "doctor --connection xero",
        "doctor --json",
    )
    doctor.add_argument("--connection", metavar="NAME", help="examine this connection only")
    doctor.add_argument("--json", action="store_true", help="print a JSON array, for machines")
    doctor.add_argument(
        "--write",
        action="store_true",
        help="also send one smoke record to Dynamics, and one message through the queue",
    )

    discover = command(
        "discover",
        commands.discover,
        "Ask a Dynamics environment for its authority. Sends no token and no secret,\n"
        "follows no redirect, and believes known login hosts and AD FS only.",
        "discover https://contoso.crm4.dynamics.com",
        "discover https://ax.contoso.com/namespaces/AXSF",
    )
    discover.add_argument("url", help="address of the environment, or its whole DYNAMICS_URL")

    send = command(
        "send",
        commands.send,
        "Send one smoke record through Entra to Dynamics, and say what became of it.\n"
        "Delete it afterwards: its code is relay-smoke-test.",
        "send",
        "send --connection xero --state a-state-that-dynamics-issued",
    )
    _connection(send)
    send.add_argument(
        "--state", metavar="STATE", help="the record's state (default: one is made up)"
    )

    command(
        "keygen",
        commands.keygen,
        "Make fresh OUTBOX_KEYS and STATE_KEYS. Put them into Key Vault, never into\n"
        "source control.",
        "keygen",
    )
    for name, run, what in (
        ("state", commands.state, "Mint a signed state for trying out. It lives for ten minutes."),
        (
            "ticket",
            commands.ticket,
            "Mint a ticket for /authorize, for trying out. It lives for ten minutes.",
        ),
    ):
        minted = command(name, run, what, name, f"{name} --connection xero")
        _connection(minted)

    letters = command(
        "dead-letters",
        commands.dead_letters,
        "List the callbacks that will never reach Dynamics. Reads only.\n"
        "The oldest come first: the storage deletes each after seven days.",
        "dead-letters",
        "dead-letters --json",
    )
    letters.add_argument(
        "--json", action="store_true", help="print all that is known, for machines; states too"
    )

    command(
        "settings",
        commands.settings_table,
        "Print every setting with its default and its meaning.",
        "settings",
    )
    return root


def _connection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--connection", default="default", metavar="NAME", help="as in /callback/NAME"
    )


def _parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description=description, epilog=epilog, formatter_class=_formatter
    )


def _formatter(prog: str, **_: Any) -> argparse.HelpFormatter:  # noqa: ANN401 - argparse's own
    # The same on every terminal, so that the documentation can show it.
    return argparse.RawDescriptionHelpFormatter(prog, width=80)


if __name__ == "__main__":
    try:
        ended = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ended = 1
    sys.exit(ended)
