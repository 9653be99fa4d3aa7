"""Requests to Azure through the az command line, for the other scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any


def arm(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request to Azure Resource Manager and return its answer.

    `path` begins with /subscriptions; az adds the address of the signed-in cloud. The body is given
    on standard input, because arguments are visible in the process list. Ends the script when az
    fails; az has printed why.
    """
    arguments = ["rest", "--method", method, "--url", path, "--output", "json"]
    if body is not None:
        arguments += ["--body", "@-"]
    text = az(*arguments, given=None if body is None else json.dumps(body))
    return json.loads(text) if text.strip() else {}


def az(*arguments: str, given: str | None = None) -> str:
    """Run az and return what it prints; `given` is its standard input."""
    program = shutil.which("az")
    if program is None:
        sys.exit(
            "The az command is needed: https://learn.microsoft.com/cli/azure/install-azure-cli"
        )
    done = subprocess.run(
        [program, *arguments, "--only-show-errors"],
        check=False,
        stdout=subprocess.PIPE,
        input=given,
        encoding="utf-8",
    )
    if done.returncode != 0:
        sys.exit(f"az {arguments[0]} failed; its message is above. Signed in? Try: az login")
    return done.stdout


def deployed(*names: str, optional: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the outputs of the deployment with these names; `optional` ones may be empty.

    azd sets them as environment variables for its hooks; otherwise `azd env get-values` has them.
    """
    values = dict(os.environ)
    azd = shutil.which("azd")
    if azd is not None and not all(values.get(name) for name in names):
        command = [azd, "env", "get-values", "--output", "json"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, encoding="utf-8")
        values |= json.loads(done.stdout) if done.returncode == 0 else {}
    missing = [name for name in names if not values.get(name)]
    if missing:
        sys.exit(f"{', '.join(missing)}: not known. Run this in the project's folder after azd up.")
    return {name: values.get(name, "") for name in (*names, *optional)}
