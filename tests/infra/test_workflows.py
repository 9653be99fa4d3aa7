"""The workflows: pinned, with few rights, and without a secret."""

import hashlib
import os
import re
import shutil
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
        [zizmor, *options, ROOT / ".github"], check=False, capture_output=True, text=True
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
    needed = {
        "actions/checkout": {"contents": "read"},
        "azure/login": {"id-token": "write"},
        "actions/attest-build-provenance": {"id-token": "write", "attestations": "write"},
    }
    for name, job in read(path)["jobs"].items():
        used = {step.get("uses", "").partition("@")[0] for step in job["steps"]}
        expected = {
            right: level for action in used for right, level in needed.get(action, {}).items()
        }
        assert job["permissions"] == expected, name
        # What runs other people's code can neither sign in nor sign.
        assert not ("id-token" in expected and "contents" in expected), name
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_secret_of_the_repository_is_used(path: Path) -> None:
    assert "secrets." not in path.read_text()


def test_both_run_what_a_developer_runs() -> None:
    for path in WORKFLOWS:
        assert "python3 dev.py test" in [step.get("run") for step in steps(path)]


def job(name: str) -> dict[str, Any]:
    (deploy,) = (path for path in WORKFLOWS if path.name == "deploy.yml")
    found = read(deploy)["jobs"][name]
    assert isinstance(found, dict)
    return found


def step(name: str, action: str) -> dict[str, Any]:
    (found,) = (one for one in job(name)["steps"] if action in one.get("uses", ""))
    assert isinstance(found["with"], dict)
    return found["with"]


def test_the_very_package_that_was_tested_is_deployed() -> None:
    tested = [one.get("run", "") for one in job("test")["steps"]]
    assert tested.index("python3 dev.py test") < tested.index("python3 infra/scripts/package.py")
    assert step("test", "upload-artifact")["path"] == "relay.zip"
    assert job("test")["outputs"] == {"digest": "${{ steps.pack.outputs.digest }}"}
    # The other jobs have no source, and so can build nothing else.
    for name in ("attest", "deploy"):
        assert not [one for one in job(name)["steps"] if "checkout" in one.get("uses", "")]
    uses = [one.get("uses", "").partition("@")[0] or one["run"] for one in job("deploy")["steps"]]
    download, check, login, deploy, _ = uses
    assert (download, login) == ("actions/download-artifact", "azure/login")
    assert check == 'echo "$DIGEST  relay.zip" | sha256sum --check --strict'
    assert deploy == "Azure/functions-action"
    assert step("deploy", "functions-action")["package"] == "relay.zip"
    assert step("deploy", "functions-action")["sku"] == "flexconsumption"
    assert step("deploy", "functions-action")["remote-build"] == "false"


def test_a_package_with_another_digest_is_not_deployed(tmp_path: Path) -> None:
    package = tmp_path / "relay.zip"
    package.write_bytes(b"tested")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    check = job("deploy")["steps"][1]["run"]

    def exit_code() -> int:
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-e", "-o", "pipefail", "-c", check],
            check=False,
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | {"DIGEST": digest},
        )
        return done.returncode

    assert exit_code() == 0
    package.write_bytes(b"another")
    assert exit_code() != 0


def test_the_attestation_is_of_the_same_digest() -> None:
    assert step("attest", "attest-build-provenance")["subject-digest"] == (
        "sha256:${{ needs.test.outputs.digest }}"
    )
    assert job("deploy")["needs"] == ["test", "attest"]
    assert "needs.test.result == 'success'" in job("deploy")["if"]
    assert "needs.attest.result != 'failure'" in job("deploy")["if"]


def test_the_deployed_relay_is_asked_as_a_callback_asks() -> None:
    assert '"$RELAY_URL/health?code=probe"' in job("deploy")["steps"][-1]["run"]


def test_microsofts_compiler_always_runs_and_the_difference_to_main_is_shown() -> None:
    (path,) = (path for path in WORKFLOWS if path.name == "test.yml")
    content = read(path)
    triggers = next(value for name, value in content.items() if str(name) in ("on", "True"))
    # YAML 1.1 reads `on` as true. On every pull request, whatever it changes.
    assert triggers == {"push": {"branches": ["main"]}, "pull_request": None}
    infrastructure = content["jobs"]["infrastructure"]
    steps_ = infrastructure["steps"]
    for skips in ("if", "needs", "continue-on-error", "strategy"):
        assert skips not in infrastructure
        assert not [one for one in steps_ if skips in one]
    runs = [one.get("run", "") for one in steps_]
    assert "python3 infra/scripts/bicep.py check" in runs
    assert "snapshots --out snapshots/now" in runs[2]
    assert "--infra main/infra snapshots --out snapshots/main" in runs[4]
    assert "diff --unified=3 --recursive --new-file snapshots/main snapshots/now" in runs[5]


def test_nothing_is_left_out_on_github_and_what_is_elsewhere_is_named() -> None:
    for path in WORKFLOWS:
        run = " ".join(str(one.get("run")) for one in steps(path))
        assert not re.search(r"dev\.py test[^\n]* --no-", run)
    assert "python3 dev.py test --no-advisories --no-bicep" in (ROOT / ".ci" / "run").read_text()


def test_every_kind_of_pin_is_kept_up_to_date() -> None:
    content = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    updates = {one["package-ecosystem"]: one for one in content["updates"]}
    assert set(updates) == {"pip", "npm", "github-actions"}
    locks = {
        f"/{path.parent.relative_to(ROOT).as_posix()}"
        for path in ROOT.glob("*/**/package-lock.json")
        if not {"node_modules", ".mutants"} & set(path.parts)
    }
    assert set(updates["npm"]["directories"]) == locks
    assert all(one["cooldown"]["default-days"] >= 7 for one in updates.values())


def test_deployments_are_asked_for_and_wait_for_each_other() -> None:
    (deploy,) = (path for path in WORKFLOWS if path.name == "deploy.yml")
    content = read(deploy)
    triggers = next(value for name, value in content.items() if str(name) in ("on", "True"))
    assert list(triggers) == ["workflow_dispatch"]  # YAML 1.1 reads `on` as true
    assert content["concurrency"]["cancel-in-progress"] is False
    assert content["jobs"]["deploy"]["environment"] == "${{ inputs.environment }}"
