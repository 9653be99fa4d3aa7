"""The commands of other programs that the pages print, with the options that they have; and
stand-ins of `az` and `azd`, which write down how they are called.
"""

import re
from itertools import takewhile
from pathlib import Path

from tests.helpers import ROOT

KNOWN = {
    "az login": "--tenant",
    "az ad app federated-credential create": "--id! --parameters!",
    "az ad app permission add": "--api! --api-permissions! --id!",
    "az ad app permission admin-consent": "--id!",
    "az ad sp show": "--id!",
    "az apim update": "--enable-managed-identity --name! --resource-group!",
    "az deployment group create": "--parameters --resource-group! --template-file",
    "az functionapp config appsettings set": "--name! --resource-group! --settings",
    "az functionapp list-flexconsumption-locations": "--runtime",
    "az functionapp start": "--name! --resource-group!",
    "az group create": "--location! --name!",
    "az keyvault list-deleted": "--resource-type",
    "az keyvault recover": "--location --name! --resource-group",
    "az keyvault secret list": "--vault-name!",
    "az keyvault secret set": "--file --name! --vault-name!",
    "az keyvault secret show": "--name! --vault-name!",
    "az provider register": "--namespace! --wait?",
    "az rest": "--body --method --url! --url-parameters",
    "az storage message clear": "--account-name --auth-mode --queue-name!",
    "azd auth login": "--tenant-id",
    "azd deploy": "1 --all?",
    "azd down": "--force? --purge?",
    "azd env get-values": "--output",
    "azd env new": "1! --location --subscription",
    "azd env select": "1!",
    "azd env set": "2 --file",
    "azd hooks run": "1!",
    "azd provision": "--preview?",
    "azd up": "",
    "dotnet build": "1 --configuration",
    "func settings decrypt": "",
    "func start": "--port",
    "gh attestation verify": "1! --repo",
    "pac solution import": "--path --publish-changes?",
    "pac solution pack": "--folder --zipfile!",
    "pac tool prt": "",
}
"""For each command how many operands it takes, and its options: `!` what it has to have, `?` what
takes no value. Sources: the help of the Azure CLI 2.91, the usage texts in azd's repository, the
references of the Power Platform CLI, of Core Tools, of GitHub's CLI and of .NET's."""

EVERYWHERE = {"az": "--only-show-errors? --output --query", "func": "--version?"}
"""Options of every command of a program."""
SHORT = {
    "-f": "--template-file",
    "-g": "--resource-group",
    "-n": "--name",
    "-o": "--output",
    "-p": "--parameters",
}
"""Short names, of the Azure CLI."""
MANY = {"--parameters", "--settings"}
"""Options that take more than one value."""


def refusal(arguments: list[str], folder: Path = ROOT) -> str | None:
    """Return why a program, named first, would not take these arguments in a folder."""
    program, *given = arguments
    words = list(takewhile(lambda word: re.fullmatch(r"[a-z][a-z-]*", word), given))
    for length in range(len(words), -1, -1):
        command = " ".join([program, *words[:length]])
        if command in KNOWN:
            return wrong(command, given[length:], folder)
    return f"{' '.join([program, *words])}: no such command"


def wrong(command: str, given: list[str], folder: Path) -> str | None:
    """Return what is wrong with the operands and options of a command."""
    program = command.partition(" ")[0]
    known = {word.rstrip("!?"): word for word in KNOWN[command].split()}
    known |= {word.rstrip("!?"): word for word in EVERYWHERE.get(program, "").split()}
    options = {name: word for name, word in known.items() if name.startswith("-")}
    operands = next((word for word in known.values() if word[0].isdigit()), "0")
    found: dict[str, list[str]] = {"": []}
    last = ""
    for word in given:
        if word.startswith("-"):
            last = SHORT.get(word, word) if program == "az" else word
            if last not in options:
                return f"{command}: no option {word}"
            found[last] = []
        elif last and not options[last].endswith("?") and (not found[last] or last in MANY):
            found[last].append(word)
        else:
            found[""].append(word)
    for name, word in options.items():
        if word.endswith("!") and name not in found:
            return f"{command}: {name} is missing"
        if name in found and not word.endswith("?") and not found[name]:
            return f"{command}: {name} has no value"
    most = int(operands.rstrip("!"))
    if len(found[""]) > most or (operands.endswith("!") and len(found[""]) < most):
        return f"{command}: {len(found[''])} operands"
    return variable(found, folder) if command == "azd env set" else None


def variable(found: dict[str, list[str]], folder: Path) -> str | None:
    """Return why azd would not take a variable: one that no parameter reads, or quotes."""
    read = set(re.findall(r"\$\{(\w+)\}", (ROOT / "infra" / "main.parameters.json").read_text()))
    if "--file" in found:
        lines = (folder / found["--file"][0]).read_text("utf-8").splitlines()
        matches = [re.fullmatch(r"([A-Z_]+)='[^']*'", line) for line in lines]
        if None in matches:
            return "azd env set: a line of the file is not NAME='value'"
        names = {match[1] for match in matches if match}
    elif len(found[""]) == 2:
        name, value = found[""]
        if re.search("['\"]", value):
            return "azd env set: quotes do not survive every shell"
        names = {name}
    else:
        return "azd env set: a name and a value, or a file"
    return f"azd env set: {', '.join(names - read)} is read by nothing" if names - read else None


CALLS = "calls"
"""The file in a stand-in's folder that has the calls of all of them."""
PROGRAM = """\
#!/bin/sh
printf '%s\\037' "${0##*/}" "$@" >> "${0%/*}/calls"
printf '\\036' >> "${0%/*}/calls"
case "$*" in *@-*) cat > /dev/null ;; esac
case "${0##*/} $*" in
"az rest "*) echo '{"value": []}' ;;
"az keyvault secret show "*) echo k1:key ;;
"azd env get-values "*) echo '{}' ;;
esac
"""
"""A stand-in: it writes down how it was called, and answers what the scripts read."""


def install(folder: Path) -> None:
    """Put the stand-ins into a folder, which is made. They write down their calls, `calls`."""
    folder.mkdir()
    for name in ("az", "azd"):
        program = folder / name
        program.write_text(PROGRAM)
        program.chmod(0o755)


def calls(folder: Path) -> list[list[str]]:
    """Return how the stand-ins of a folder were called, their names first."""
    written = (folder / CALLS).read_text("utf-8").split("\036")
    return [call.split("\037")[:-1] for call in written[:-1]]
