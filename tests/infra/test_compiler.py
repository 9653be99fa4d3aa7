"""Microsoft's own compiler over the infrastructure, where `bicep` or `az` is on the machine.

`python3 dev.py test --no-bicep` leaves this file out.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import public_trust
from tests.infra.scan import templates
from tests.infra.view import INFRA, UNKNOWN

SCRIPT = INFRA / "scripts" / "bicep.py"

pytestmark = pytest.mark.skipif(
    not (shutil.which("bicep") or shutil.which("az")),
    reason="needs bicep or az: https://aka.ms/bicep-install",
)


def run(*arguments: str) -> None:
    with public_trust():
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments], check=False, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_builds_lints_and_is_formatted() -> None:
    run("check")


def test_what_the_scanner_looks_at_is_what_the_compiler_makes(tmp_path: Path) -> None:
    """Compare every property that the scan is given, where its value is known beforehand."""
    run("snapshots", "--out", str(tmp_path))
    for name, template in templates().items():
        content = json.loads((tmp_path / f"{name}.snapshot.json").read_text("utf-8"))
        made = content["predictedResources"]
        for wanted in template["resources"]:
            same = [one["properties"] for one in made if one["type"] == wanted["type"]]
            assert any(agrees(wanted["properties"], one) for one in same), wanted


def agrees(wanted: Any, made: Any) -> bool:
    """Tell whether all that is wanted is there; what only Azure works out is passed over."""
    if isinstance(wanted, dict):
        return isinstance(made, dict) and all(
            agrees(value, made.get(name)) for name, value in wanted.items()
        )
    if isinstance(wanted, str) and (UNKNOWN in wanted or "${" in wanted):
        return True
    if isinstance(wanted, list):
        pairs = zip(wanted, made or [], strict=False)
        return len(wanted) == len(made or []) and all(agrees(*pair) for pair in pairs)
    return bool(wanted == made)
