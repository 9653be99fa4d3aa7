"""The workflows: pinned, with few rights, and without a secret."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_is_one_to_test_and_one_to_deploy() -> None:
    assert [path.name for path in WORKFLOWS] == ["deploy.yml", "test.yml"]


def test_the_auditor_finds_nothing_in_its_strictest_mood() -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    options = ["--offline", "--persona", "auditor", "--no-progress", "--color", "never"]
    done = subprocess.run(
        [zizmor, *options, *WORKFLOWS], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit_and_names_its_version(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_has_the_rights_that_it_needs_and_no_others(path: Path) -> None:
    assert read(path)["permissions"] == {}
    for name, job in read(path)["jobs"].items():
        signs_in = any("azure/login" in step.get("uses", "") for step in job["steps"])
        expected = {"contents": "read", **({"id-token": "write"} if signs_in else {})}
        assert job["permissions"] == expected, name
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_secret_of_the_repository_is_used(path: Path) -> None:
    assert "secrets." not in path.read_text()


def test_both_run_what_a_developer_runs() -> None:
    for path in WORKFLOWS:
        assert "python3 dev.py test" in [step.get("run") for step in steps(path)]


def test_only_what_was_tested_is_deployed_and_it_is_built_here() -> None:
    (deploy,) = (path for path in WORKFLOWS if path.name == "deploy.yml")
    assert read(deploy)["jobs"]["deploy"]["needs"] == "test"
    runs = [step.get("run") for step in steps(deploy)]
    assert "python3 infra/scripts/package.py" in runs
    (action,) = (one for one in steps(deploy) if "functions-action" in one.get("uses", ""))
    assert action["with"]["package"] == "dist"
    assert action["with"]["sku"] == "flexconsumption"
    assert action["with"]["remote-build"] == "false"


def test_deployments_are_asked_for_and_wait_for_each_other() -> None:
    (deploy,) = (path for path in WORKFLOWS if path.name == "deploy.yml")
    content = read(deploy)
    triggers = next(value for name, value in content.items() if str(name) in ("on", "True"))
    assert list(triggers) == ["workflow_dispatch"]  # YAML 1.1 reads `on` as true
    assert content["concurrency"]["cancel-in-progress"] is False
    assert content["jobs"]["deploy"]["environment"] == "${{ inputs.environment }}"
