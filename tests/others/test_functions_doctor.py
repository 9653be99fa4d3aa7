"""azure-functions-doctor looks at what is deployed, and finds nothing that is not meant so."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from sandbox.world import APP

MEANT = {
    # It looks for decorators on `def` only, and all functions here are `async def`; of the same
    # file without the word `async` it says "found".
    "check_programming_model_v2",
    # MSAL needs cryptography, whose wheels fit: requirements.txt is installed in Azure, for Azure.
    "check_native_dependency_risk",
    # An app setting of the deployment, which no folder has.
    "check_app_insights",
    # The functions' own lines are wanted, the host's only when something is wrong.
    "check_host_json_log_level_conflict",
}
"""Rules that warn, with the reason why that stays."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the doctor says of each rule, for the files that .funcignore lets through."""
    folder = tmp_path_factory.mktemp("deployed") / "app"
    ignored = (APP / ".funcignore").read_text("utf-8").split()
    # Of what is not deployed it gets the infrastructure, which says where the rest goes.
    ignored.remove("infra")
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns(*ignored, "__pycache__"))
    shutil.copy(APP / ".funcignore", folder)
    shutil.copy(APP / ".python-version", folder)
    report = folder.parent / "report.json"
    program = [sys.executable, "-m", "azure_functions_doctor.cli", "doctor"]
    options = {"--path": folder, "--profile": "deploy", "--format": "json", "--output": report}
    words = [str(word) for pair in options.items() for word in pair]
    # Apart from the developer's own settings: they are not deployed either.
    environment = {name: value for name, value in os.environ.items() if "INSIGHTS" not in name}
    said = subprocess.run([*program, *words], check=False, capture_output=True, env=environment)
    assert said.returncode == 0
    answer: dict[str, Any] = json.loads(report.read_text("utf-8"))
    assert answer["metadata"]["programming_model"] == "v2"
    return {item["rule_id"]: item["status"] for part in answer["results"] for item in part["items"]}


def test_the_doctor_fails_nothing_and_warns_of_nothing_that_is_not_meant_so(
    found: dict[str, str],
) -> None:
    assert {rule for rule, status in found.items() if status not in ("pass", "skip")} <= MEANT


def test_the_doctor_has_seen_the_app(found: dict[str, str]) -> None:
    for rule in ("host_json", "requirements_txt", "azure_functions_library", "python_version"):
        assert found[f"check_{rule}"] == "pass"
    for rule in ("unpinned_requirements", "extension_bundle_v4", "funcignore", "unused_files"):
        assert found[f"check_{rule}"] == "pass"
