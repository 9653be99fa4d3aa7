"""Requests to Azure through the az command line, for the other scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qsl


def arm(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request to Azure Resource Manager and return its answer.

    `path` begins with /subscriptions; az adds the address of the signed-in cloud. The body is given
    on standard input, because arguments are visible in the process list. So is a query with `&`:
    on Windows az is a batch file, and cmd.exe would end the command there. Ends the script when az
    fails; az has printed why.
    """
    given = None
    url, _, query = path.partition("?")
    if body is not None:
        further, given = ["--url", path, "--body", "@-"], json.dumps(body)
    elif "&" in query:
        further, given = (
            ["--url", url, "--url-parameters", "@-"],
            json.dumps(dict(parse_qsl(query))),
        )
    else:
        further = ["--url", path]
    text = az("rest", "--method", method, *further, "--output", "json", given=given)
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


def command(script: str, *arguments: str) -> str:
    """Return the line that runs one of these scripts from the project's folder."""
    python = "py -3" if os.name == "nt" else "python3"
    return " ".join([python, f"infra/scripts/{script}", *arguments])


def deployed(*names: str, optional: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the outputs of the deployment with these names; `optional` ones may be empty.

    azd sets them as environment variables for its hooks; otherwise `azd env get-values` has them.
    """
    values = dict(os.environ)
    azd = shutil.which("azd")
    if azd is not None and not all(values.get(name) for name in names):
        asked = [azd, "env", "get-values", "--output", "json"]
        done = subprocess.run(asked, check=False, stdout=subprocess.PIPE, encoding="utf-8")
        values |= json.loads(done.stdout) if done.returncode == 0 else {}
    missing = ", ".join(name for name in names if not values.get(name))
    if missing and not any(values.get(name) for name in names):
        sys.exit(f"{missing}: not known. Run this in the project's folder, after azd up.")
    if missing:
        sys.exit(f"{missing}: an older deployment, without it. Run: azd provision")
    return {name: values.get(name, "") for name in (*names, *optional)}
