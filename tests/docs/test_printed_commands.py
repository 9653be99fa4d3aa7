"""Commands that README, docs and programs print can be pasted where they say: into PowerShell 5.1
or 7, or, in a block marked `sh`, into a POSIX shell. Their options are those that they have.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.helpers import ROOT
from tests.infra.stand_ins import KNOWN, refusal

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "infra/**/*.md")
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md" and "node_modules" not in page.parts
)
PROGRAMS = sorted(
    program
    for pattern in ("dev.py", "infra/scripts/*.py", "relay/tools/**/*.py", "sandbox/up.py")
    for program in ROOT.glob(pattern)
)
COMMAND = re.compile(
    r"(?:az|azd|azure-functions-doctor|cp|copy|curl(?:\.exe)?|dotnet|export|func|gh|git|npx(?:\.cmd)?|npm|pac|pip|py|"
    r"python3?|pwsh|set(?=\s\w+=)|source(?=\s\S+/)|uv|\.venv\S*|infra/scripts/\S+|keys\.py)\s"
)


@dataclass(frozen=True, slots=True)
class Printed:
    """A command: where it stands, and the kind of its block (`sh`, `powershell` or none)."""

    where: str
    kind: str
    text: str
    around: str = ""
    """Its line and the ones beside it, in prose."""


def in_pages() -> Iterator[Printed]:
    for page in PAGES:
        name, kind = page.relative_to(ROOT).as_posix(), None
        lines = page.read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            where = f"{name}:{number}"
            if line.strip().startswith("```"):
                kind = line.strip().removeprefix("```") if kind is None else None
            elif kind is None:
                around = " ".join(lines[number - 2 : number + 1])
                for span in re.findall(r"`([^`]+)`", line):
                    yield Printed(where, "", span, around)
            elif kind in ("", "sh", "powershell", "console"):
                yield Printed(where, kind, line.strip().removeprefix("$ ").removeprefix("PS> "))


def in_programs() -> Iterator[Printed]:
    for program in PROGRAMS:
        name = program.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(program.read_text("utf-8"))):
            for line in said(node).splitlines():
                for text in re.split(r": |(?<!hooks) run ", line):
                    yield Printed(f"{name}:{getattr(node, 'lineno', 0)}", "", text.strip())


def said(node: ast.AST) -> str:
    """Return the text of a literal; what is worked out in it is one word."""
    match node:
        case ast.JoinedStr(values=parts):
            return "".join(said(part) or "x" for part in parts)
        case ast.Constant(value=str(value)):
            return value
    return ""


COMMANDS = [each for each in (*in_pages(), *in_programs()) if COMMAND.match(each.text)]


def unquoted(text: str) -> str:
    """Return the command without what stands in quotes."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)


EVERYWHERE = {
    r"(?:^|[\s=])@[\w<.]": "@ without quotes is splatting in PowerShell",
    r"^keys\.py": "keys.py alone is no command",
}
IN_POWERSHELL = {
    r"&&|\|\|": "PowerShell 5.1 has no && and ||",
    r"\\$": "PowerShell continues a line with `, not \\",
    r"^curl ": "curl is another program in PowerShell 5.1: curl.exe",
    r"^infra/scripts/": "a script is run by its interpreter",
    r"https?://\S*&": "& needs quotes",
}
UNLESS_LINUX_IS_NAMED = {
    r"^npx ": "npx is a script that PowerShell 5.1 refuses: npx.cmd",
    r"^(set|export|source) ": "it does nothing there, or does not exist",
}


def faults(command: Printed) -> list[str]:
    """Name what a shell of its kind would not take, or take differently."""
    rules = dict(EVERYWHERE)
    if command.kind != "sh":
        rules |= IN_POWERSHELL
        if "Linux" not in command.around:
            rules |= UNLESS_LINUX_IS_NAMED
    bare = unquoted(command.text)
    found = [fault for pattern, fault in rules.items() if re.search(pattern, bare)]
    if re.search(r"'[^']*[{\[]\s*\"[^']*'", command.text):
        found.append("JSON as an argument loses its quotes before PowerShell 7.3: use a file")
    return found


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 60
    assert {"az", "azd", "func"} <= {each.text.split()[0] for each in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=[each.where for each in COMMANDS])
def test_a_printed_command_can_be_pasted(command: Printed) -> None:
    assert faults(command) == [], command.text


PROGRAM = {command.split()[0] for command in KNOWN}
OF_OTHERS = [
    each
    for each in COMMANDS
    # A half of a text that is put together, or of a sentence, is none.
    if each.text.split()[0] in PROGRAM and not re.search(r"[`;]|--[\w-]+$", each.text)
]


@pytest.mark.parametrize("command", OF_OTHERS, ids=[each.where for each in OF_OTHERS])
def test_a_printed_command_has_options_that_exist(command: Printed) -> None:
    text = re.sub(r"<[^<>]+>|…", "x", command.text).removesuffix("\\").rstrip(".")
    arguments = shlex.split(text, comments=True)
    if arguments[1:2] == ["env"] and "--file" in arguments:
        return  # The file is the block's before it: tests/infra/test_deploy_page.py.
    # A sentence may name a command without what it needs.
    assert (command.kind == "" and " ".join(arguments) in KNOWN) or refusal(arguments) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("", "az webapp config appsettings set --settings @settings.json"),
        ("sh", "az ad app federated-credential create --parameters @credential.json"),
        ("", """azd env set DYNAMICS_BODY '{"Code": "{code}"}'"""),
        ("sh", """azd env set VAULT_SETTINGS '["STATE_KEYS"]'"""),
        ("", "git clone x && cd x"),
        ("powershell", "az deployment group create \\"),
        ("", "curl -i http://localhost:7071/health"),
        ("powershell", "npx azurite"),
        ("", "set HTTPS_PROXY=http://proxy.example"),
        ("", "keys.py put STATE_KEYS"),
        ("powershell", "curl.exe -i http://localhost:7071/callback?code=a&state=b"),
    ],
)
def test_each_kind_of_fault_is_seen(kind: str, text: str) -> None:
    assert faults(Printed("", kind, text))
