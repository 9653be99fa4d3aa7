"""Every command of docs/deploy.md, and of azd on the target pages, runs against stand-ins of `az`
and `azd` that check arguments.

What they do in Azure is not tried: the page says so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, SHEBANG

PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)
TARGETS = {
    name: (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for name in ("finance-operations", "custom-service", "business-central", "dataverse")
}
[BY_HAND] = {
    block
    for page in TARGETS.values()
    for block in re.findall(r"```powershell\n(az .+?)```", page, re.DOTALL)
}
OF_TARGETS = [re.findall(r"```sh\n(azd .+?)```", page, re.DOTALL)[0] for page in TARGETS.values()]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are POSIX scripts")

AZD = r"""{shebang}
import json, pathlib, re, sys
arguments = sys.argv[1:]
known = [
    ["auth", "login"], ["up"], ["provision"], ["deploy"], ["down"],
    ["env", "get-values", "--output", "json"],
    ["env", "new", "prod"],
]
if arguments[:2] == ["env", "set"]:
    variables = json.loads({variables!r})
    if arguments[2] == "--file":
        lines = pathlib.Path(arguments[3]).read_text().splitlines()
        given = dict(re.fullmatch(r"([A-Z_]+)='([^']*)'", line).groups() for line in lines)
    else:
        name, value = arguments[2:]
        given = {{name: value}}
        assert "'" not in value and '"' not in value, "quotes do not survive every shell"
    assert set(given) <= set(variables), given
elif arguments[:2] == ["env", "get-values"]:
    print("{{}}")
else:
    assert arguments in known, arguments
"""

AZ = r"""{shebang}
import sys
def command(words, *required):
    return words, required
SHAPES = [
    command(["login"]),
    command(["keyvault", "list-deleted"], "--resource-type", "--query", "--output"),
    command(["keyvault", "recover"], "--name", "--resource-group"),
    command(["group", "create"], "--name", "--location"),
    command(
        ["functionapp", "config", "appsettings", "set"], "--resource-group", "--name", "--settings"
    ),
    command(["rest"], "--method", "--url", "--output"),
]
arguments = [one for one in sys.argv[1:] if one != "--only-show-errors"]
for words, required in SHAPES:
    if arguments[: len(words)] == words:
        options = arguments[len(words) :]
        assert set(required) <= set(options), arguments
        assert set(options[0::2]) <= {{*required, "--body"}}, arguments
        break
else:
    sys.exit(f"unknown: {{arguments}}")
if arguments[0] == "rest":
    sys.stdin.read() if "--body" in arguments else None
    print('{{"value": []}}')
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of what the commands need, with the stand-ins on a path of their own."""
    for name in ("infra", "relay"):  # the second is the clone's, which the first block enters
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "infra" / "scripts", tmp_path / "infra" / "scripts")
    (tmp_path / "relay.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    (block,) = re.findall(r"```ini\n(.+?)```", PAGE, re.DOTALL)
    (tmp_path / "relay.env").write_text(block)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    text = (ROOT / "infra" / "main.parameters.json").read_text()
    variables = str(re.findall(r"\$\{(\w+)\}", text)).replace("'", '"')
    for name, code in (("azd", AZD), ("az", AZ)):
        program = binaries / name
        program.write_text(code.format(shebang=SHEBANG, variables=variables))
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    "block",
    [*BLOCKS, *OF_TARGETS, BY_HAND],
    ids=[*(block.splitlines()[-1][:40] for block in BLOCKS), *TARGETS, "by hand"],
)
def test_a_block_runs_as_it_stands(folder: Path, block: str) -> None:
    lines = [line for line in block.splitlines() if not line.startswith("git clone ")]
    # A placeholder is for the reader to fill in.
    script = re.sub(r"<[^<>\n]+>", "x", "\n".join(lines))
    settings = (
        "ENTRA_CLIENT_SECRET,ENTRA_CLIENT_CERTIFICATE,"
        "CONNECTIONS__XERO__STATE_KEYS,ENVIRONMENTS__UAT__STATE_KEYS"
    )
    done = subprocess.run(
        [shutil.which("sh") or "sh", "-e", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        input="a secret\n",
        cwd=folder,
        env={
            "PATH": os.pathsep.join(
                [f"{folder / 'bin'}", f"{Path(sys.executable).parent}", "/bin"]
            ),
            "RELAY_VAULT_ID": "/subscriptions/s/vaults/v",
            "RELAY_APP_ID": "/subscriptions/s/sites/a",
            "RELAY_VAULT_SETTINGS": settings,
        },
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TARGETS)
def test_azd_and_by_hand_lead_to_the_same_settings(name: str) -> None:
    """The deployment knows the body of a target by the end of its URL."""
    page = TARGETS[name]
    shown = [json.loads(text) for text in re.findall(r"```json\n(.+?)```", page, re.DOTALL)]
    body, by_hand = shown[0], {one["name"]: one["value"] for one in shown[1]}
    (block,) = (one for one in OF_TARGETS if one in page)
    by_azd = dict(re.findall(r"azd env set (\w+) \"?([^\"\n]+)", block))
    assert by_azd.keys() >= {"DYNAMICS_URL", "STATE_POLICY", "CODE_TTL"}
    assert by_azd == {setting: by_hand[setting] for setting in by_azd}
    assert ("DYNAMICS_SCOPE" in by_hand) == ("DYNAMICS_SCOPE" in by_azd)
    bodies = json.loads((ROOT / "infra" / "bodies.json").read_text())
    given = [each for end, each in bodies.items() if by_azd["DYNAMICS_URL"].lower().endswith(end)]
    assert given == [body] == [json.loads(by_hand["DYNAMICS_BODY"])]


@pytest.mark.parametrize("page", TARGETS.values(), ids=TARGETS)
def test_a_page_begins_with_what_it_needs_and_ends_with_a_callback(page: str) -> None:
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles[:2] == ["What you need", "1. Entra"]
    tests = page.partition("## 5. Test each step")[2].partition("\n## ")[0]
    assert "/callback/<connection>?code=test&state=<it>" in tests.rpartition("|\n")[2]


def test_the_page_has_its_commands_in_blocks() -> None:
    assert len(BLOCKS) >= 8
    inline = re.findall(r"`((?:azd|az) [^`]+)`", PAGE)
    assert "azd env set PRIVATE_NETWORK true" in inline
    # PowerShell before 7 does not know `&&`, and takes the quotes of JSON away.
    for line in [*inline, *(line for block in BLOCKS for line in block.splitlines())]:
        assert "&&" not in line, line
        assert not re.search(r"""'[\[{]""", line), line


def test_what_was_not_tried_stands_on_the_page() -> None:
    listed = PAGE.partition("Not tried in Azure yet:")[2]
    for name in ("azd up", "VAULT_CREATE_MODE", "HOST_KEYS_IN_FILES", "PRIVATE_NETWORK"):
        assert f"`{name}" in listed, name
