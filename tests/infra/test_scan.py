"""A security scanner looks at what is deployed, and each of its objections has an answer.

checkov reads resources; most of ours are made by verified modules, of which it sees nothing, and
its Bicep parser is older than the language. So it gets an ARM template of what the modules make:
tests/infra/scan.py. Both kinds of deployment are scanned.
"""

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.infra.scan import template

FOLDER = ROOT / ".venv-infra" / ("Scripts" if os.name == "nt" else "bin")
# Not the script `checkov`, whose first line takes no path with blanks.
PYTHON = shutil.which("python", path=FOLDER)
CHECKOV = [PYTHON, "-m", "checkov.main"] if PYTHON else [*filter(None, [os.environ.get("CHECKOV")])]

pytestmark = pytest.mark.skipif(
    not CHECKOV, reason="needs checkov: requirements-infra.txt, installed into .venv-infra"
)

ALWAYS = {
    "CKV_AZURE_17": "client certificates: a browser that is sent here has none",
    "CKV_AZURE_78": "FTP: Flex Consumption has none, refuses the property, and passwords are off",
    "CKV_AZURE_206": "geo-replication: three zones by default, more with STORAGE_SKU",
    "CKV_AZURE_212": "two instances at least: a cost, chosen with ALWAYS_READY_HTTP",
    "CKV_AZURE_213": "a health check path: Flex Consumption replaces instances by itself",
    "CKV_AZURE_222": "no public network access: the redirect URI is public by nature",
    "CKV_AZURE_225": "zone redundancy: Flex Consumption wants always ready instances for it",
}
"""What the scanner objects to in any deployment, and why it stays."""

OPEN = {
    "CKV_AZURE_35": "a network rule: without a virtual network the app has no address of its own",
    "CKV_AZURE_59": "storage's public endpoint, where only Entra tokens count: PRIVATE_NETWORK",
    "CKV_AZURE_109": "a network rule of the vault: as for storage",
    "CKV_AZURE_189": "the vault's public endpoint: as for storage",
}
"""What it objects to without PRIVATE_NETWORK."""

PRIVATE = {
    "CKV_AZURE_36": "trusted Microsoft services: none needs to get in",
}
"""What it objects to with PRIVATE_NETWORK."""


def left_open() -> dict[str, Any]:
    """Return a deployment with two mistakes, so that the scanner has something to find."""
    content = template(private=True)
    properties = {one["type"]: one["properties"] for one in content["resources"]}
    properties["Microsoft.Web/sites"]["httpsOnly"] = False
    properties["Microsoft.KeyVault/vaults"]["enablePurgeProtection"] = False
    return content


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Return the checks that passed and that failed, for each deployment; one start for all."""
    folder = tmp_path_factory.mktemp("scan")
    contents = {"open": template(private=False), "private": template(private=True)}
    contents["mistaken"] = left_open()
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    options = ["--framework", "arm", "--output", "json", "--skip-download", "--soft-fail"]
    done = subprocess.run(
        [*CHECKOV, "--directory", str(folder), *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    results = json.loads(done.stdout)["results"]
    assert results["parsing_errors"] == []
    return {
        name: {
            how: {
                check["check_id"]
                for check in results[f"{how}_checks"]
                if check["file_path"] == f"/{name}.json"
            }
            for how in ("passed", "failed")
        }
        for name in contents
    }


def test_every_objection_to_the_open_deployment_is_answered(
    scan: dict[str, dict[str, set[str]]],
) -> None:
    assert scan["open"]["failed"] == set(ALWAYS) | set(OPEN)
    assert len(scan["open"]["passed"]) >= 18


def test_a_private_network_answers_the_objections_to_public_endpoints(
    scan: dict[str, dict[str, set[str]]],
) -> None:
    assert scan["private"]["failed"] == set(ALWAYS) | set(PRIVATE)
    assert scan["private"]["passed"] >= set(OPEN)


def test_the_scanner_sees_what_is_left_open(scan: dict[str, dict[str, set[str]]]) -> None:
    more = scan["mistaken"]["failed"] - scan["private"]["failed"]
    assert more >= {"CKV_AZURE_14", "CKV_AZURE_110"}
