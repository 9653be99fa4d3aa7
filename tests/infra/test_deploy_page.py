"""The blocks of commands for Azure run, on every page that has some, against the stand-ins.

What they do in Azure is not tried: docs/deploy.md says so. docs/tests.md names the commands that
run nowhere.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.infra import stand_ins

PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
TARGETS = {
    name: (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for name in ("finance-operations", "custom-service", "business-central", "dataverse")
}
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "infra/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)
FENCED = r"^( *)```(\w*)\n(.*?)^\1```$"
OF_AZURE = re.compile(r"^(?:azd? |python3 infra/scripts/)", re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Return what a page has for a shell, in lists too; of a `console` block what is typed."""
    found = re.findall(FENCED, page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    texts = []
    for indent, language, text in found:
        plain = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        if language == "console":
            plain = plain.partition("\n")[0].removeprefix("$ ")
        # What has no language is no command, or it is missed here.
        assert language or not OF_AZURE.search(plain), plain
        if language in ("sh", "powershell", "console"):
            texts.append(plain)
    return texts


RUN = {
    f"{page.relative_to(ROOT).as_posix()}-{number}": block
    for page in PAGES
    for number, block in enumerate(blocks(page), 1)
    if OF_AZURE.search(block)
}
BLOCKS = [block for name, block in RUN.items() if name.startswith("docs/deploy.md-")]
OF_TARGETS = [re.findall(r"```sh\n(azd .+?)```", page, re.DOTALL)[0] for page in TARGETS.values()]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are POSIX scripts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of what the commands need, with the stand-ins on a path of their own."""
    for name in ("infra", "relay"):  # the second is the clone's, which the first block enters
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "infra" / "scripts", tmp_path / "infra" / "scripts")
    (tmp_path / "relay.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    (block,) = re.findall(r"```ini\n(.+?)```", PAGE, re.DOTALL)
    (tmp_path / "relay.env").write_text(block)
    stand_ins.install(tmp_path / "bin")
    return tmp_path


@pytest.mark.parametrize("block", RUN.values(), ids=RUN)
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
    called = stand_ins.calls(folder / "bin")
    assert called
    assert [reason for call in called if (reason := stand_ins.refusal(call, folder))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_block_runs_here_or_its_commands_stand_on_the_page(page: Path) -> None:
    """docs/tests.md has a table of what runs elsewhere, and one of what does not run."""
    text = (ROOT / "docs" / "tests.md").read_text("utf-8").partition("## The commands on the")[2]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    named = [span.rstrip(" …") for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    for block in blocks(page):
        for line in block.splitlines() if block not in RUN.values() else []:
            assert not line.strip() or any(name in line for name in named), line


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


@pytest.mark.parametrize(
    ("page", "told"),
    [
        pytest.param(
            "deploy", r"a part of what would change: it sees no", id="the preview is partial"
        ),
        pytest.param("business-central", r"\*\*LOGIN\*\*", id="what opens a session"),
        pytest.param("dataverse", r"system job keeps the values", id="where a code may stay"),
        pytest.param(
            "finance-operations", r"Key Vault parameters\*, \*\*in the company", id="the company"
        ),
        pytest.param("providers/entra", r'_RESPONSE_MODE": "form_post"', id="no code in a URL"),
        pytest.param("providers/id-porten", r'_RESPONSE_MODE": "form_post"', id="nor here"),
        pytest.param("providers/visma", r'_RESPONSE_MODE": "form_post"', id="nor here either"),
    ],
)
def test_what_no_code_can_change_is_told(page: str, told: str) -> None:
    assert re.search(told, (ROOT / "docs" / f"{page}.md").read_text("utf-8"))


def test_what_was_not_tried_stands_on_the_page() -> None:
    """Each switch that no test of another project's code has seen, and each thing to be built."""
    listed = PAGE.partition("## Not tried in Azure yet")[2].partition("| what was not tried")[2]
    for name in (
        *("`azd up`", "`VAULT_CREATE_MODE", "`HOST_KEYS_IN_FILES`", "`OPERATORS_GROUP_ID`"),
        *("`PRIVATE_NETWORK`", "`FRONT_DOOR`", "the Bicep files", "package's own storage account"),
        *("alerts", "workbook", "availability test", "rolling updates", "GitHub", "Windows"),
        *("API Management", "Finance & Operations", "Business Central", "Dataverse"),
    ):
        assert name in listed, name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("az keyvault recover --nam v", "no option --nam"),
        ("az keyvault recover --resource-group g", "--name is missing"),
        ("az group create --name g --location", "--location has no value"),
        ("az keyvault revive --name v", "no such command"),
        ("az group create --name g h --location l", "1 operands"),
        ("azd env set CODE_TLL 60", "CODE_TLL is read by nothing"),
        ("azd env set CODE_TTL", "a name and a value"),
        ("azd provison", "no such command"),
        ("pac solution import --paht x.zip", "no option --paht"),
    ],
)
def test_what_is_misspelt_is_seen(line: str, said: str) -> None:
    assert said in (stand_ins.refusal(line.split()) or "")
